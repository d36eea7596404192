//! docs/semantics.md, "Ways to mount": read-only, and one directory of a cluster.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use common::{Cluster, cairn, errno, eventually, scratch, text};

/// Everything that changes something, each refused.
fn all_is_refused(dir: &Path) {
    let (file, there) = (dir.join("file"), dir.join("dir"));
    let new = dir.join("new");
    let open = |how: &mut fs::OpenOptions| errno(how.open(&file));
    let refused = [
        ("open for writing", open(File::options().write(true))),
        ("open for both", open(File::options().read(true).write(true))),
        ("open for appending", open(File::options().append(true))),
        ("open and cut", open(File::options().write(true).truncate(true))),
        ("create", errno(File::create(&new))),
        ("mkdir", errno(fs::create_dir(&new))),
        ("symlink", errno(symlink("x", &new))),
        ("link", errno(fs::hard_link(&file, &new))),
        ("unlink", errno(fs::remove_file(&file))),
        ("rmdir", errno(fs::remove_dir(&there))),
        ("rename", errno(fs::rename(&file, &new))),
        ("chmod", errno(fs::set_permissions(&file, fs::Permissions::from_mode(0o600)))),
        ("chown", errno(std::os::unix::fs::chown(&file, Some(7), None))),
        ("truncate", errno(truncate(&file))),
        ("times", errno(times(&file))),
        (
            "setxattr",
            errno(
                rustix::fs::setxattr(&file, "user.x", b"y", rustix::fs::XattrFlags::empty())
                    .map_err(Into::into),
            ),
        ),
        ("removexattr", errno(rustix::fs::removexattr(&file, "user.a").map_err(Into::into))),
    ];
    for (what, errno) in refused {
        assert_eq!(errno, libc::EROFS, "{what}");
    }
}

fn truncate(path: &Path) -> std::io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: the path ends with a NUL and is valid for the call.
    match unsafe { libc::truncate(path.as_ptr(), 3) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn times(path: &Path) -> std::io::Result<()> {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).map_err(Into::into)
}

/// Allows changes again as far as the kernel is concerned.
fn remount_for_writing(dir: &Path) {
    let dir = std::ffi::CString::new(dir.as_os_str().as_encoded_bytes()).unwrap();
    let none = std::ptr::null();
    // SAFETY: the path ends with a NUL and is valid for the call; the other pointers may be null for a remount.
    let done = unsafe { libc::mount(none, dir.as_ptr(), none, libc::MS_REMOUNT, none.cast()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_read_only_mount_refuses_all_changes() {
    let cluster = Cluster::start();
    fs::write(cluster.mount().join("file"), "text").unwrap();
    fs::create_dir(cluster.mount().join("dir")).unwrap();
    let path = cluster.mount().join("file");
    rustix::fs::setxattr(&path, "user.a", b"b", rustix::fs::XattrFlags::empty()).unwrap();
    for (name, flags) in [("option", ["-o", "ro"].as_slice()), ("flag", &["--read-only"])] {
        let second = cluster.second_mount(name, flags);
        assert_eq!(fs::read_to_string(second.dir().join("file")).unwrap(), "text");
        all_is_refused(second.dir());
        // The mount's own refusal, should somebody take the kernel's away.
        remount_for_writing(second.dir());
        all_is_refused(second.dir());
        fs::write(&path, "more text").unwrap();
        assert_eq!(fs::read_to_string(second.dir().join("file")).unwrap(), "more text");
        fs::write(&path, "text").unwrap();
    }
}

/// A mount of a directory of the cluster; `Err`: what was said.
fn mount_directory(cluster: &Cluster, directory: &str, dir: &Path) -> Result<(), String> {
    fs::create_dir(dir).unwrap();
    let target = format!("{}:{directory}", cluster.master_address());
    let output = cairn().args(["mount", "-d", &target]).arg(dir).output().unwrap();
    match output.status.code() {
        Some(0) => Ok(()),
        code => {
            assert_eq!(code, Some(32), "{}", text(&output));
            Err(text(&output))
        }
    }
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = cairn().args(["umount", "-l"]).arg(self.0).output();
    }
}

#[test]
fn a_directory_of_the_cluster_can_be_mounted() {
    let cluster = Cluster::start();
    let whole = cluster.mount();
    fs::create_dir_all(whole.join("a,b/sub dir/in")).unwrap();
    fs::write(whole.join("a,b/sub dir/file"), "text").unwrap();
    let (place, holder) = (whole.join("a,b/sub dir"), scratch());
    let dir = holder.path().join("part");
    mount_directory(&cluster, "/a,b//sub dir/", &dir).unwrap();
    let _mounted = Mounted(&dir);
    // The same files, both ways.
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "text");
    fs::write(dir.join("in/new"), "from here").unwrap();
    assert_eq!(fs::read_to_string(place.join("in/new")).unwrap(), "from here");
    fs::rename(dir.join("in/new"), dir.join("moved")).unwrap();
    assert!(place.join("moved").exists() && !dir.join("in/new").exists());
    fs::rename(dir.join("moved"), dir.join("in/back")).unwrap();
    fs::remove_file(dir.join("in/back")).unwrap();
    assert_eq!(fs::metadata(&dir).unwrap().ino(), fs::metadata(&place).unwrap().ino());
    // A change of the directory itself is seen.
    fs::set_permissions(&place, fs::Permissions::from_mode(0o751)).unwrap();
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o751);
    assert!(!dir.join("later").exists());
    fs::write(place.join("later"), "x").unwrap();
    assert!(dir.join("later").exists());
    // Nothing above it is shown: what stands as ".." is the directory itself.
    let listed = rustix::fs::Dir::read_from(File::open(&dir).unwrap()).unwrap();
    let listed: Vec<_> = listed.map(|e| e.unwrap()).collect();
    for name in [c".", c".."] {
        let entry = listed.iter().find(|e| e.file_name() == name).unwrap();
        assert_eq!(entry.ino(), fs::metadata(&place).unwrap().ino(), "{name:?}");
    }
    // Commands find the cluster by what the mount table says.
    let file = cairn().arg("file").arg(dir.join("file")).output().unwrap();
    assert!(file.status.success(), "{}", text(&file));
    // It goes on under another name, and elsewhere.
    fs::rename(&place, whole.join("elsewhere")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "text");
    fs::write(dir.join("after"), "y").unwrap();
    assert_eq!(fs::read_to_string(whole.join("elsewhere/after")).unwrap(), "y");
    // When it is removed, nothing is there any more.
    fs::remove_dir_all(whole.join("elsewhere")).unwrap();
    eventually(std::time::Duration::from_secs(20), "the root is stale", || {
        fs::metadata(&dir).is_err_and(|e| e.raw_os_error() == Some(libc::ESTALE))
    });
    assert_eq!(errno(fs::metadata(dir.join("file"))), libc::ESTALE);
    assert_eq!(errno(fs::write(dir.join("new"), "")), libc::ESTALE);
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let cluster = Cluster::shared();
    fs::create_dir(cluster.mount().join("there")).unwrap();
    fs::write(cluster.mount().join("there/file"), "").unwrap();
    symlink("there", cluster.mount().join("link")).unwrap();
    let holder = scratch();
    let wrong = [
        ("/there/nothing/more", "no directory /there/nothing"),
        ("/there/file", "/there/file in the cluster is not a directory"),
        ("/link", "/link in the cluster is not a directory"),
    ];
    for (n, (directory, said)) in wrong.into_iter().enumerate() {
        let output = mount_directory(&cluster, directory, &holder.path().join(n.to_string())).unwrap_err();
        assert!(output.contains(said), "{directory}: {output}");
    }
    let up = format!("{}:/there/../there", cluster.master_address());
    let output = cairn().args(["mount", &up]).arg(holder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains(".."), "{}", text(&output));
}
