use std::sync::Arc;

use super::cache::*;
use crate::engine::DirItem;
use crate::engine::attr::{DIRECTORY, FileAttr, REGULAR};

fn file(inode: u64, version: u64) -> FileAttr {
    FileAttr { inode, mode: REGULAR | 0o644, nlink: 1, version, ..Default::default() }
}

fn directory(inode: u64, version: u64) -> FileAttr {
    FileAttr { mode: DIRECTORY | 0o755, nlink: 2, ..file(inode, version) }
}

fn shared() -> MetaCache {
    MetaCache::new(Limits::default(), false)
}

/// The master's answer to a lookup, with leases on these.
fn looked_up(c: &mut MetaCache, asked: Asked, name: &[u8], attr: Option<&FileAttr>, leased: &[u64]) {
    c.granted(asked, leased);
    c.learn_entry(asked, 1, name, attr);
}

#[test]
fn what_there_is_a_lease_on_is_kept_until_it_is_recalled() {
    let mut c = shared();
    let asked = c.asking();
    looked_up(&mut c, asked, b"a", Some(&file(7, 1)), &[1, 7]);
    looked_up(&mut c, asked, b"none", None, &[1]);
    looked_up(&mut c, asked, b"b", Some(&file(8, 1)), &[1]);
    assert_eq!(c.lookup(1, b"a"), Found::Inode(file(7, 1)));
    assert_eq!(c.lookup(1, b"none"), Found::Nothing);
    assert_eq!(c.lookup(1, b"b"), Found::Unknown, "no lease on its inode");
    assert_eq!(c.attr(8), None);
    c.revoke(&[7]);
    assert_eq!((c.lookup(1, b"a"), c.attr(7)), (Found::Unknown, None));
    assert_eq!(c.inode_of(1, b"a"), Some(7), "the name is still so");
    c.revoke(&[1]);
    assert_eq!(c.inode_of(1, b"a"), None);
    // A new lease does not make true again what was stored under the old one.
    let asked = c.asking();
    c.granted(asked, &[1, 7]);
    assert_eq!((c.lookup(1, b"a"), c.lookup(1, b"none"), c.attr(7)), (Found::Unknown, Found::Unknown, None));
}

#[test]
fn an_answer_from_before_a_recall_is_not_kept() {
    let mut c = shared();
    let asked = c.asking();
    c.revoke(&[1]);
    looked_up(&mut c, asked, b"a", Some(&file(7, 1)), &[1, 7]);
    assert_eq!(c.inode_of(1, b"a"), None);
    assert_eq!(c.attr(7), Some(file(7, 1)), "that one was not recalled");
    let asked = c.asking();
    assert_eq!(c.lose_leases(), [7]);
    looked_up(&mut c, asked, b"a", Some(&file(7, 1)), &[1, 7]);
    assert_eq!((c.inode_of(1, b"a"), c.attr(7)), (None, None));
}

#[test]
fn what_a_change_touches_is_asked_for_until_its_answer_is_here() {
    let mut c = shared();
    let asked = c.asking();
    looked_up(&mut c, asked, b"a", Some(&file(7, 1)), &[1, 7]);
    c.learn_attr(asked, &directory(1, 4));
    c.change_began(&[1, 7]);
    let sent = c.asking();
    assert_eq!((c.lookup(1, b"a"), c.attr(7), c.attr(1)), (Found::Unknown, None, None));
    // The answer to a question in between is of no use: it may be from before or after the change.
    let asked = c.asking();
    looked_up(&mut c, asked, b"a", Some(&file(7, 1)), &[1, 7]);
    assert_eq!(c.lookup(1, b"a"), Found::Unknown);
    c.change_ended(sent, &[1, 7], &[1, 7], &[1, 7]);
    c.removed(1, b"a", Some(&file(7, 2)), Some(&directory(1, 5)));
    assert_eq!((c.lookup(1, b"a"), c.attr(7)), (Found::Nothing, Some(file(7, 2))));
    assert_eq!(c.attr(1), Some(directory(1, 5)));
    c.learn_attr(asked, &file(7, 1));
    assert_eq!(c.attr(7), Some(file(7, 2)));
}

#[test]
fn a_change_whose_lease_was_recalled_meanwhile_teaches_nothing() {
    let mut c = shared();
    let asked = c.asking();
    looked_up(&mut c, asked, b"a", None, &[1]);
    c.change_began(&[1]);
    let sent = c.asking();
    c.revoke(&[1]);
    // Given again by the answer to a later question: what the change's answer says may be older than that.
    let later = c.asking();
    c.granted(later, &[1]);
    c.change_ended(sent, &[1], &[1, 7], &[1, 7]);
    c.made(1, b"a", &file(7, 1), Some(&directory(1, 5)));
    assert_eq!((c.inode_of(1, b"a"), c.attr(1)), (None, None));
    assert_eq!(c.attr(7), Some(file(7, 1)), "nobody else has touched that one");
}

#[test]
fn two_changes_at_once_make_each_other_unknown() {
    let mut c = shared();
    let asked = c.asking();
    c.granted(asked, &[1]);
    c.change_began(&[1]);
    let first = c.asking();
    c.change_began(&[1]);
    let second = c.asking();
    c.change_ended(second, &[1], &[1], &[1]);
    c.replace_attr(&directory(1, 6));
    assert_eq!(c.attr(1), None, "the other is still under way");
    c.change_ended(first, &[1], &[1], &[1]);
    c.replace_attr(&directory(1, 5));
    assert_eq!(c.attr(1), None, "which of the two came last is not known");
}

#[test]
fn a_listing_is_kept_under_the_lease_on_its_directory() {
    let mut c = shared();
    let item =
        |name: &'static str| Arc::new(DirItem { name: name.into(), inode: 9, mode: REGULAR, attr: None });
    let asked = c.asking();
    c.learn_listing(asked, 1, &[item("x")]);
    assert!(c.listing(1).is_none(), "no lease");
    c.granted(asked, &[1]);
    c.learn_listing(asked, 1, &[item("x"), item("y")]);
    assert_eq!(c.listing(1).map(|l| l.len()), Some(2));
    let asked = c.asking();
    c.change_began(&[1]);
    let sent = c.asking();
    assert!(c.listing(1).is_none());
    c.change_ended(sent, &[1], &[1], &[1]);
    assert!(c.listing(1).is_none(), "it has changed");
    c.learn_listing(asked, 1, &[item("x")]);
    assert!(c.listing(1).is_none(), "asked for before it changed");
    let asked = c.asking();
    c.learn_listing(asked, 1, &[item("z")]);
    c.revoke(&[1]);
    assert!(c.listing(1).is_none());
}

#[test]
fn those_used_longest_ago_are_given_back_and_those_dropped_unheard() {
    let mut c = shared();
    let asked = c.asking();
    for inode in 10..20 {
        c.granted(asked, &[inode]);
        c.learn_attr(asked, &file(inode, 1));
    }
    assert!(c.attr(10).is_some() && c.attr(11).is_some());
    let mut given = c.give_back(4);
    given.sort_unstable();
    assert_eq!(given, [12, 13, 14, 15, 16, 17]);
    assert_eq!((c.attr(12), c.attr(10).is_some(), c.attr(19).is_some()), (None, true, true));
    // When leases run out here, the master still counts them.
    c.leases_ran_out();
    assert_eq!(c.attr(10), None);
    let asked = c.asking();
    c.granted(asked, &[11, 30]);
    let mut given = c.give_back(4);
    given.sort_unstable();
    assert_eq!(given, [10, 18, 19]);
    c.reset(true);
    c.reset(false);
    assert_eq!(c.give_back(0), [] as [u64; 0], "whoever was alone had none");
}
