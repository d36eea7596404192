//! docs/semantics.md, "Attributes": times, modes, owners, extended attributes, ACLs, on a real mount.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{Cluster, errno, sh};
use rustix::fs::{
    CWD, Timespec, Timestamps, XattrFlags, getxattr, listxattr, removexattr, setxattr, utimensat,
};

fn set_times(path: &Path, access: (i64, i64), change: (i64, i64)) {
    let time = |(tv_sec, tv_nsec): (i64, i64)| Timespec { tv_sec, tv_nsec: tv_nsec as _ };
    let times = Timestamps { last_access: time(access), last_modification: time(change) };
    utimensat(CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn times_have_nanoseconds_and_may_be_left_alone() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("times").join("f");
    File::create(&path).unwrap();
    set_times(&path, (1_000_000_000, 123_456_789), (-5, 987_654_321));
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.atime(), meta.atime_nsec()), (1_000_000_000, 123_456_789));
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (-5, 987_654_321));
    set_times(&path, (0, libc::UTIME_OMIT), (7, 8));
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.atime(), meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 7, 8));
    set_times(&path, (0, libc::UTIME_NOW), (0, libc::UTIME_OMIT));
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.mtime(), 7);
    assert!(meta.accessed().unwrap().elapsed().unwrap() < Duration::from_secs(60));
}

#[test]
fn a_change_is_seen_in_the_times() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("changes");
    let path = dir.join("f");
    let mut file = File::create(&path).unwrap();
    set_times(&path, (1, 0), (1, 0));
    set_times(&dir, (1, 0), (1, 0));
    file.write_all(b"x").unwrap();
    let recent = |t: SystemTime| t.elapsed().unwrap_or_default() < Duration::from_secs(60);
    assert!(recent(fs::metadata(&path).unwrap().modified().unwrap()), "a write changes mtime");
    fs::hard_link(&path, dir.join("g")).unwrap();
    assert!(
        recent(fs::metadata(&dir).unwrap().modified().unwrap()),
        "a new entry changes the directory's mtime"
    );
    set_times(&path, (1, 0), (1, 0));
    file.set_len(0).unwrap();
    assert!(recent(fs::metadata(&path).unwrap().modified().unwrap()), "a new size changes mtime");
    let before = fs::metadata(&path).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let after = fs::metadata(&path).unwrap();
    let ctime = |m: &fs::Metadata| (m.ctime(), m.ctime_nsec());
    assert!(ctime(&after) > ctime(&before), "a new mode changes ctime");
    assert_eq!(after.mtime_nsec(), before.mtime_nsec());
}

#[test]
fn a_write_by_others_and_a_chown_clear_suid() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("suid");
    let path = dir.join("f");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
    assert_eq!(mode(&path), 0o6777);
    sh(&format!("setpriv --reuid=1234 --regid=1234 --clear-groups sh -c 'echo y > {}'", path.display()));
    assert_eq!(mode(&path), 0o777, "after a write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
    chown(&path, Some(1234), Some(1234)).unwrap();
    assert_eq!(mode(&path), 0o777, "after a chown");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (1234, 1234));
}

#[test]
fn permissions_are_checked() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("permissions");
    fs::write(dir.join("f"), "secret").unwrap();
    fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o600)).unwrap();
    let other = |script: &str| {
        sh(&format!("setpriv --reuid=1234 --regid=1234 --clear-groups sh -c '{script}' 2>&1 || true",))
    };
    assert!(other(&format!("cat {}/f", dir.display())).contains("Permission denied"));
    assert!(other(&format!("touch {}/g", dir.display())).contains("Permission denied"));
    fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o604)).unwrap();
    assert_eq!(other(&format!("cat {}/f", dir.display())), "secret");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).unwrap();
    assert!(other(&format!("rm -f {}/f", dir.display())).contains("not permitted"), "the sticky bit");
}

#[test]
fn extended_attributes_of_every_kind() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("xattr").join("f");
    File::create(&path).unwrap();
    let set =
        |name: &str, value: &[u8], flags| setxattr(&path, name, value, flags).map_err(std::io::Error::from);
    let get = |name: &str| {
        let mut buffer = vec![0; 70_000];
        let n = getxattr(&path, name, buffer.as_mut_slice()).map_err(std::io::Error::from)?;
        Ok::<_, std::io::Error>(buffer[..n].to_vec())
    };
    for name in ["user.a", "trusted.b", "security.c"] {
        set(name, name.as_bytes(), XattrFlags::empty()).unwrap();
        assert_eq!(get(name).unwrap(), name.as_bytes());
    }
    assert_eq!(errno(set("user.a", b"", XattrFlags::CREATE)), libc::EEXIST);
    assert_eq!(errno(set("user.new", b"", XattrFlags::REPLACE)), libc::ENODATA);
    set("user.a", b"", XattrFlags::REPLACE).unwrap();
    assert_eq!(get("user.a").unwrap(), b"");
    let large = vec![b'v'; 60_000];
    set("user.large", &large, XattrFlags::empty()).unwrap();
    assert!(get("user.large").unwrap() == large);
    assert_eq!(errno(set("user.huge", &vec![0; 65_537], XattrFlags::empty())), libc::E2BIG);
    assert_eq!(errno(set(&format!("user.{}", "n".repeat(251)), b"", XattrFlags::empty())), libc::ERANGE);
    let mut buffer = vec![0u8; 4096];
    let n = listxattr(&path, buffer.as_mut_slice()).unwrap();
    let listed: Vec<_> = buffer[..n].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    for name in ["user.a", "trusted.b", "security.c", "user.large"] {
        assert!(listed.contains(&name.as_bytes()), "{name}");
    }
    removexattr(&path, "user.a").unwrap();
    assert_eq!(errno(get("user.a")), libc::ENODATA);
    assert_eq!(errno(removexattr(&path, "user.a").map_err(std::io::Error::from)), libc::ENODATA);
}

#[test]
fn acls_are_enforced_and_inherited() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("acl");
    let d = dir.display();
    sh(&format!("echo secret > {d}/f && chmod 640 {d}/f && setfacl -m u:1234:r {d}/f"));
    assert_eq!(sh(&format!("setpriv --reuid=1234 --regid=1234 --clear-groups cat {d}/f")), "secret\n");
    assert!(sh(&format!("getfacl -cp {d}/f")).contains("user:1234:r--"));
    sh(&format!("chmod 600 {d}/f"));
    let denied = sh(&format!("setpriv --reuid=1234 --regid=1234 --clear-groups cat {d}/f 2>&1 || true"));
    assert!(denied.contains("Permission denied"), "chmod sets the mask: {denied}");
    sh(&format!(
        "mkdir {d}/d && setfacl -d -m u:1234:rwx,g::rx,o::- {d}/d && umask 077 && mkdir {d}/d/sub && echo x > {d}/d/file"
    ));
    let inherited = sh(&format!("getfacl -cp {d}/d/sub"));
    assert!(
        inherited.contains("user:1234:rwx") && inherited.contains("default:user:1234:rwx"),
        "{inherited}"
    );
    assert!(sh(&format!("getfacl -cp {d}/d/file")).contains("user:1234:rwx"));
    assert_eq!(mode(&dir.join("d/file")) & 0o7, 0, "the default ACL, not the umask, decides");
    sh(&format!("setfacl -b {d}/f"));
    assert!(!sh(&format!("getfacl -cp {d}/f")).contains("1234"));
}

#[test]
fn statfs_tells_the_space_there_is() {
    let cluster = Cluster::shared();
    let fs_stat = rustix::fs::statvfs(cluster.mount()).unwrap();
    let local = rustix::fs::statvfs(cluster.data()).unwrap();
    let total = fs_stat.f_blocks * fs_stat.f_frsize;
    // Without root's share, as df counts.
    let local_total = (local.f_blocks - local.f_bfree + local.f_bavail) * local.f_frsize;
    // Three chunkservers on one disk, three copies: as much as one disk holds.
    assert!(total > local_total / 2 && total < local_total * 2, "{total} of {local_total}");
    assert!(fs_stat.f_bavail > 0 && fs_stat.f_bavail <= fs_stat.f_blocks);
    assert_eq!(fs_stat.f_namemax, 255);
}

#[test]
fn a_size_is_right_while_data_is_still_on_its_way() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("size").join("f");
    let file = File::create(&path).unwrap();
    for i in 0..50u64 {
        file.write_all_at(&[1; 1000], i * 1000).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), (i + 1) * 1000);
    }
}
