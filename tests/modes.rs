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

/// Runs a command as another user than root, whose group may be root's.
fn as_user(uid: u32, gid: u32, script: &str) -> std::process::ExitStatus {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new("bash");
    command.args(["-c", script]).uid(uid).gid(gid).stderr(std::process::Stdio::null());
    command.status().unwrap()
}

fn owner(path: &Path) -> (u32, u32) {
    let m = fs::symlink_metadata(path).unwrap();
    (m.uid(), m.gid())
}

#[test]
fn root_counts_as_nobody_where_it_is_squashed() {
    let cluster = Cluster::start();
    let whole = cluster.mount();
    for (dir, mode) in [("open", 0o777), ("closed", 0o755), ("sticky", 0o1777), ("secret", 0o700)] {
        fs::create_dir(whole.join(dir)).unwrap();
        fs::set_permissions(whole.join(dir), fs::Permissions::from_mode(mode)).unwrap();
        fs::write(whole.join(dir).join("of root"), "text").unwrap();
    }
    fs::write(whole.join("open/private"), "text").unwrap();
    fs::set_permissions(whole.join("open/private"), fs::Permissions::from_mode(0o600)).unwrap();
    let second = cluster.second_mount("squashed", &["--squash", "root", "-o", "allow_other"]);
    let dir = second.dir();
    // What it makes is nobody's, and nobody may do with it what owners may.
    let own = dir.join("open/own");
    fs::write(&own, "mine").unwrap();
    fs::create_dir(dir.join("open/dir")).unwrap();
    symlink("x", dir.join("open/link")).unwrap();
    for name in ["own", "dir", "link"] {
        assert_eq!(owner(&whole.join("open").join(name)), (65_534, 65_534), "{name}");
    }
    fs::set_permissions(&own, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(errno(std::os::unix::fs::chown(&own, Some(0), None)), libc::EPERM);
    // What is root's is not.
    assert_eq!(fs::read_to_string(dir.join("closed/of root")).unwrap(), "text");
    let refused = [
        ("read", errno(fs::read(dir.join("open/private"))), libc::EACCES),
        ("write", errno(File::options().append(true).open(dir.join("closed/of root"))), libc::EACCES),
        ("create", errno(fs::write(dir.join("closed/new"), "")), libc::EACCES),
        ("remove", errno(fs::remove_file(dir.join("closed/of root"))), libc::EACCES),
        ("rename", errno(fs::rename(dir.join("sticky/of root"), dir.join("open/x"))), libc::EPERM),
        ("remove sticky", errno(fs::remove_file(dir.join("sticky/of root"))), libc::EPERM),
        ("look into", errno(fs::metadata(dir.join("secret/of root"))), libc::EACCES),
        ("list", errno(fs::read_dir(dir.join("secret"))), libc::EACCES),
        (
            "chmod",
            errno(fs::set_permissions(dir.join("open"), fs::Permissions::from_mode(0o700))),
            libc::EPERM,
        ),
        ("truncate", errno(truncate(&dir.join("closed/of root"))), libc::EACCES),
    ];
    for (what, errno, want) in refused {
        assert_eq!(errno, want, "{what}");
    }
    fs::remove_file(dir.join("open/of root")).unwrap();
    fs::rename(&own, dir.join("open/renamed")).unwrap();
    // Others are who they are, but for the group of root.
    assert!(as_user(1000, 1001, &format!("true > '{}'", dir.join("open/users").display())).success());
    assert!(as_user(1000, 0, &format!("true > '{}'", dir.join("open/group").display())).success());
    assert_eq!(owner(&whole.join("open/users")), (1000, 1001));
    assert_eq!(owner(&whole.join("open/group")), (1000, 65_534));
}

#[test]
fn everybody_counts_as_one_user_where_all_are_squashed() {
    let cluster = Cluster::start();
    let whole = cluster.mount();
    fs::set_permissions(&whole, fs::Permissions::from_mode(0o777)).unwrap();
    let flags = ["--squash", "all", "--anon-uid", "4321", "--anon-gid", "8765"];
    let second = cluster.second_mount("squashed", &flags);
    fs::write(second.dir().join("of root"), "").unwrap();
    assert!(as_user(1000, 1000, &format!("true > '{}'", second.dir().join("users").display())).success());
    for name in ["of root", "users"] {
        assert_eq!(owner(&whole.join(name)), (4321, 8765), "{name}");
    }
    let wrong = cairn().args(["mount", "127.0.0.1:1", "/mnt/x", "--squash", "some"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong).contains("some") && text(&wrong).contains("root"), "{}", text(&wrong));
}
