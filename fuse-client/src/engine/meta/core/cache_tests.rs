use super::cache::*;
use super::directory::ReadAhead;
use crate::engine::attr::{DIRECTORY, FileAttr, REGULAR};

fn file(inode: u64, version: u64) -> FileAttr {
    FileAttr { inode, mode: REGULAR | 0o644, nlink: 1, version, ..Default::default() }
}

fn cache() -> MetaCache {
    MetaCache::new(Limits::default(), true)
}

fn entry(name: &str, inode: u64) -> PageEntry {
    PageEntry { name: name.to_owned().into(), attr: file(inode, 1) }
}

#[test]
fn an_answer_older_than_an_own_change_is_not_stored() {
    let mut c = cache();
    let asked = c.asking();
    c.made(1, b"a", &file(7, 1), None);
    c.learn_entry(asked, 1, b"a", None);
    assert_eq!(c.lookup(1, b"a"), Found::Inode(file(7, 1)));
    let asked = c.asking();
    c.removed(1, b"a", Some(&FileAttr { nlink: 0, ..file(7, 2) }), None);
    c.learn_entry(asked, 1, b"a", Some(&file(7, 1)));
    assert_eq!(c.lookup(1, b"a"), Found::Nothing);
    assert_eq!(c.attr(7), None);
}

#[test]
fn an_own_change_makes_the_parents_attributes_unknown() {
    let mut c = cache();
    let parent = FileAttr { inode: 1, mode: DIRECTORY | 0o755, nlink: 2, ..Default::default() };
    c.learn_attr(c.asking(), &parent);
    let asked = c.asking();
    c.made(1, b"a", &file(7, 1), None);
    assert_eq!(c.attr(1), None);
    c.learn_attr(asked, &parent);
    assert_eq!(c.attr(1), None, "the answer is from before the change");
    c.learn_attr(c.asking(), &parent);
    assert_eq!(c.attr(1), Some(parent));
}

#[test]
fn the_parents_attributes_follow_an_own_change_whose_answer_has_them() {
    let mut c = cache();
    let parent =
        |version| FileAttr { inode: 1, mode: DIRECTORY | 0o755, nlink: 2, version, ..Default::default() };
    c.learn_attr(c.asking(), &parent(1));
    let asked = c.asking();
    // The answers of two changes arrive in the other order.
    c.made(1, b"b", &file(8, 1), Some(&parent(3)));
    c.made(1, b"a", &file(7, 1), Some(&parent(2)));
    assert_eq!(c.attr(1), Some(parent(3)));
    c.learn_attr(asked, &parent(4));
    assert_eq!(c.attr(1), Some(parent(3)), "the answer may be from before the change");
}

#[test]
fn the_newer_version_wins_whatever_the_order() {
    let mut c = cache();
    let asked = c.asking();
    c.learn_attr(asked, &file(7, 5));
    c.learn_attr(asked, &file(7, 4));
    assert_eq!(c.attr(7).map(|a| a.version), Some(5));
}

/// A file is written, closed and renamed: its size is told while the answer to the rename is on its way.
#[test]
fn of_two_own_changes_the_one_that_was_made_first_does_not_stay() {
    let grown = FileAttr { size: 100, ..file(7, 3) };
    let mut c = cache();
    c.learn_attr(c.asking(), &file(7, 1));
    let asked = c.asking();
    c.renamed((1, b"a"), (1, b"b"), &file(7, 2), None, false);
    c.settle_attr(asked, &grown);
    assert_eq!(c.attr(7), None, "the master is asked");
    // The other way round the later one is known.
    c.learn_attr(c.asking(), &file(7, 1));
    c.settle_attr(c.asking(), &grown);
    c.renamed((1, b"b"), (1, b"c"), &file(7, 2), None, false);
    assert_eq!(c.attr(7), Some(grown));
}

#[test]
fn a_directory_read_to_its_end_answers_for_names_that_are_not_there() {
    let mut c = cache();
    assert_eq!(c.missed(1), None);
    assert_eq!(c.missed(1), None);
    assert_eq!(c.missed(1), Some(ReadAhead { after: "".into(), pages: 3 }));
    assert_eq!(c.missed(1), None, "one reader at a time");
    assert!(c.learn_page(c.asking(), 1, &[entry("a", 7), entry("b", 8)], false));
    assert_eq!(c.lookup(1, b"c"), Found::Unknown);
    c.made(1, b"aa", &file(9, 1), None);
    assert!(!c.learn_page(c.asking(), 1, &[entry("c", 10)], true), "nothing more to read");
    assert_eq!(c.lookup(1, b"d"), Found::Nothing);
    assert_eq!(c.lookup(1, b"aa"), Found::Inode(file(9, 1)));
    assert_eq!(c.lookup(1, b"c"), Found::Inode(file(10, 1)));
}

#[test]
fn a_page_read_while_the_directory_changed_is_read_again() {
    let mut c = cache();
    for _ in 0..3 {
        c.missed(1);
    }
    let asked = c.asking();
    c.removed(1, b"a", None, None);
    assert!(c.learn_page(asked, 1, &[entry("a", 7)], true));
    assert_eq!(c.lookup(1, b"a"), Found::Nothing);
    assert_eq!(c.lookup(1, b"z"), Found::Unknown);
    assert!(!c.learn_page(c.asking(), 1, &[], true));
    assert_eq!(c.lookup(1, b"z"), Found::Nothing);
}

#[test]
fn a_directory_that_lost_names_for_want_of_room_is_not_complete() {
    let mut c = MetaCache::new(Limits { attrs: 10, entries: 2, directories: 10 }, true);
    let d = FileAttr { inode: 5, mode: DIRECTORY | 0o755, nlink: 2, ..Default::default() };
    c.made(1, b"d", &d, None);
    assert_eq!(c.lookup(5, b"x"), Found::Nothing, "a new directory is empty");
    for n in 0..3 {
        c.made(5, format!("f{n}").as_bytes(), &file(10 + n, 1), None);
    }
    assert_eq!(c.lookup(5, b"x"), Found::Unknown);
    // The kernel was told of "x" as well: that it does not exist.
    let evicted: Vec<_> = c.take_evicted();
    let names: Vec<(u64, &[u8])> = evicted.iter().map(|(parent, name)| (*parent, &**name)).collect();
    assert_eq!(names, [(1, b"d".as_slice()), (5, b"x"), (5, b"f0")]);
}

#[test]
fn rename_and_exchange_follow_the_names() {
    let mut c = cache();
    c.made(1, b"a", &file(7, 1), None);
    c.made(2, b"b", &file(8, 1), None);
    c.renamed((1, b"a"), (2, b"b"), &file(7, 2), Some(&file(8, 2)), true);
    assert_eq!((c.inode_of(1, b"a"), c.inode_of(2, b"b")), (Some(8), Some(7)));
    let gone = FileAttr { nlink: 0, ..file(7, 3) };
    c.renamed((1, b"a"), (2, b"b"), &file(8, 3), Some(&gone), false);
    assert_eq!(c.lookup(1, b"a"), Found::Nothing);
    assert_eq!(c.inode_of(2, b"b"), Some(8));
    assert_eq!(c.attr(7), None);
}

#[test]
fn nothing_is_kept_in_shared_mode() {
    let mut c = cache();
    c.made(1, b"a", &file(7, 1), None);
    let asked = c.asking();
    c.reset(false);
    c.learn_entry(c.asking(), 1, b"a", Some(&file(7, 1)));
    c.made(1, b"b", &file(8, 1), None);
    assert_eq!(c.lookup(1, b"a"), Found::Unknown);
    assert_eq!(c.lookup(1, b"b"), Found::Unknown);
    c.reset(true);
    c.learn_entry(asked, 1, b"a", Some(&file(7, 1)));
    assert_eq!(c.lookup(1, b"a"), Found::Unknown, "asked before the cache was reset");
}
