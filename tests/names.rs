//! docs/semantics.md, "Names": directories, links, renames, removed files, on a real mount.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use common::{Cluster, errno};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn every_type_of_file_is_made_and_told_apart() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("types");
    File::create(dir.join("file")).unwrap();
    fs::create_dir(dir.join("dir")).unwrap();
    symlink("file", dir.join("link")).unwrap();
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, dir.join("char"), FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3)).unwrap();
    mknodat(CWD, dir.join("block"), FileType::BlockDevice, mode, rustix::fs::makedev(7, 99)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
    let kind = |name: &str| fs::symlink_metadata(dir.join(name)).unwrap().file_type();
    assert!(kind("file").is_file() && kind("dir").is_dir() && kind("link").is_symlink());
    assert!(kind("fifo").is_fifo() && kind("char").is_char_device());
    assert!(kind("block").is_block_device() && kind("socket").is_socket());
    assert_eq!(fs::metadata(dir.join("char")).unwrap().rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(names(&dir).len(), 7);
}

#[test]
fn a_name_may_have_255_bytes_and_no_more() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("long");
    let longest = "n".repeat(255);
    File::create(dir.join(&longest)).unwrap();
    assert_eq!(names(&dir), set(&[&longest]));
    assert_eq!(errno(File::create(dir.join("n".repeat(256)))), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::create_dir(dir.join(&longest))), libc::EEXIST);
}

#[test]
fn a_directory_is_removed_only_when_empty_and_counts_its_subdirectories() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("rmdir");
    let links = || fs::metadata(&dir).unwrap().nlink();
    assert_eq!(links(), 2);
    fs::create_dir_all(dir.join("a/b")).unwrap();
    assert_eq!(links(), 3);
    assert_eq!(errno(fs::remove_dir(dir.join("a"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(dir.join("a"))), libc::EISDIR);
    fs::remove_dir(dir.join("a/b")).unwrap();
    fs::remove_dir(dir.join("a")).unwrap();
    assert_eq!(links(), 2);
    assert_eq!(errno(fs::remove_dir(dir.join("a"))), libc::ENOENT);
}

#[test]
fn a_hard_link_is_the_same_file() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("hard");
    fs::write(dir.join("a"), "one").unwrap();
    fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
    fs::write(dir.join("b"), "two!").unwrap();
    assert_eq!(fs::read(dir.join("a")).unwrap(), b"two!");
    let (a, b) = (fs::metadata(dir.join("a")).unwrap(), fs::metadata(dir.join("b")).unwrap());
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    fs::remove_file(dir.join("a")).unwrap();
    assert_eq!(fs::metadata(dir.join("b")).unwrap().nlink(), 1);
    assert_eq!(errno(fs::hard_link(&dir, dir.join("c"))), libc::EPERM);
}

#[test]
fn a_symbolic_link_holds_any_text() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("sym");
    let longest = "x/".repeat(2047);
    symlink(&longest, dir.join("l")).unwrap();
    assert_eq!(fs::read_link(dir.join("l")).unwrap(), Path::new(&longest));
    assert_eq!(fs::symlink_metadata(dir.join("l")).unwrap().size(), longest.len() as u64);
    symlink("loop", dir.join("loop")).unwrap();
    assert_eq!(errno(File::open(dir.join("loop"))), libc::ELOOP);
}

#[test]
fn rename_replaces_and_refuses_as_posix_says() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("rename");
    let p = |name: &str| dir.join(name);
    fs::write(p("a"), "a").unwrap();
    fs::write(p("b"), "b").unwrap();
    fs::rename(p("a"), p("b")).unwrap();
    assert_eq!(fs::read(p("b")).unwrap(), b"a");
    assert_eq!(names(&dir), set(&["b"]));
    fs::create_dir_all(p("d/sub")).unwrap();
    fs::create_dir(p("e")).unwrap();
    assert_eq!(errno(fs::rename(p("b"), p("e"))), libc::EISDIR);
    assert_eq!(errno(fs::rename(p("e"), p("b"))), libc::ENOTDIR);
    assert_eq!(errno(fs::rename(p("e"), p("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::rename(p("d"), p("d/sub/x"))), libc::EINVAL);
    fs::rename(p("d"), p("e")).unwrap();
    assert_eq!(names(&dir), set(&["b", "e"]));
    assert_eq!(names(&p("e")), set(&["sub"]));
}

#[test]
fn rename_with_flags() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("flags");
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::write(&a, "a").unwrap();
    fs::create_dir(&b).unwrap();
    let rename = |flags| renameat_with(CWD, &a, CWD, &b, flags).map_err(std::io::Error::from);
    assert_eq!(errno(rename(RenameFlags::NOREPLACE)), libc::EEXIST);
    rename(RenameFlags::EXCHANGE).unwrap();
    assert!(fs::metadata(&a).unwrap().is_dir());
    assert_eq!(fs::read(&b).unwrap(), b"a");
    let new = dir.join("new");
    let whiteout = renameat_with(CWD, &b, CWD, &new, RenameFlags::WHITEOUT).map_err(std::io::Error::from);
    assert_eq!(errno(whiteout), libc::EINVAL);
    renameat_with(CWD, &b, CWD, &new, RenameFlags::NOREPLACE).unwrap();
    assert_eq!(names(&dir), set(&["a", "new"]));
}

#[test]
fn a_removed_file_lives_until_it_is_closed() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("removed");
    let open =
        || File::options().read(true).write(true).create(true).truncate(true).open(dir.join("f")).unwrap();
    let mut file = open();
    file.write_all(b"before").unwrap();
    fs::remove_file(dir.join("f")).unwrap();
    assert!(names(&dir).is_empty());
    file.write_all(b" and after").unwrap();
    file.sync_all().unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before and after");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.set_len(3).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3);
    // The same when another file takes its name.
    let replaced = open();
    fs::write(dir.join("g"), "new").unwrap();
    fs::rename(dir.join("g"), dir.join("f")).unwrap();
    replaced.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(replaced.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read(dir.join("f")).unwrap(), b"new");
}

#[test]
fn a_listing_is_stable_while_entries_come_and_go() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("stable");
    let stay: BTreeSet<String> = (0..2000).map(|i| format!("stay{i}")).collect();
    stay.iter().for_each(|n| drop(File::create(dir.join(n)).unwrap()));
    for i in 0..500 {
        File::create(dir.join(format!("go{i}"))).unwrap();
    }
    let mut seen = Vec::new();
    for (at, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        seen.push(entry.unwrap().file_name().into_string().unwrap());
        if at < 500 {
            fs::remove_file(dir.join(format!("go{at}"))).unwrap();
            File::create(dir.join(format!("come{at}"))).unwrap();
        }
    }
    let once: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(once.len(), seen.len(), "an entry was listed twice");
    assert!(stay.is_subset(&once), "an entry that was there all the time was not listed");
    assert_eq!(names(&dir).len(), 2500);
}

#[test]
fn dot_and_dot_dot_are_listed_with_their_inodes() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("dots");
    fs::create_dir(dir.join("sub")).unwrap();
    let listed = common::sh(&format!("ls -ia1 {}/sub", dir.display()));
    let sub = fs::metadata(dir.join("sub")).unwrap().ino();
    let inode = |name: &str| {
        let line = listed.lines().find(|l| l.trim().split(' ').nth(1) == Some(name)).unwrap();
        line.trim().split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(inode("."), sub);
    assert_eq!(inode(".."), fs::metadata(&dir).unwrap().ino());
}

#[test]
fn a_directory_inherits_group_and_sgid() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("sgid");
    std::os::unix::fs::chown(&dir, None, Some(4321)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o2775)).unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    File::create(dir.join("file")).unwrap();
    let sub = fs::metadata(dir.join("sub")).unwrap();
    assert_eq!((sub.gid(), sub.mode() & 0o2000), (4321, 0o2000));
    assert_eq!(fs::metadata(dir.join("file")).unwrap().gid(), 4321);
}
