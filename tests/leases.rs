//! docs/semantics.md, "Several mounts": what one mount keeps under leases is answered without the master, and never out of date.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Cluster, sh};
use serde_json::Value;

/// How long a change may wait for a mount that does not answer: 12 s by design, and what a loaded machine adds.
const BOUND: Duration = Duration::from_secs(40);

/// What the master says of the mount in that directory.
fn mount_status(cluster: &Cluster, dir: &Path) -> Value {
    let status = cluster.status();
    let mounts = status["mounts"].as_array().unwrap();
    mounts.iter().find(|m| m["dir"] == dir.to_str().unwrap()).unwrap().clone()
}

fn operations(cluster: &Cluster, dir: &Path) -> u64 {
    mount_status(cluster, dir)["operations"].as_u64().unwrap()
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_warm_is_answered_without_the_master() {
    const FILES: usize = 300;
    let cluster = Cluster::start();
    let second = cluster.second_mount("second", &[]);
    let dir = cluster.mount().join("d");
    fs::create_dir(&dir).unwrap();
    (0..FILES).for_each(|n| fs::write(dir.join(format!("f{n}")), "x").unwrap());
    let dir = second.dir().join("d");
    let look = || {
        assert_eq!(names(&dir).len(), FILES);
        for n in 0..FILES {
            assert_eq!(fs::metadata(dir.join(format!("f{n}"))).unwrap().len(), 1);
            drop(File::open(dir.join(format!("f{n}"))).unwrap());
            assert!(!dir.join(format!("no{n}")).exists());
        }
    };
    let asked = || {
        let before = operations(&cluster, second.dir());
        look();
        operations(&cluster, second.dir()) - before
    };
    let cold = asked();
    assert!(cold > 0);
    // A machine under load may be too late with a sign of life once, and then everything is asked for again.
    let warm = (0..5).map(|_| asked()).min().unwrap();
    assert!(warm <= 3, "{warm} operations for {FILES} files, cold {cold}");
    assert!(mount_status(&cluster, second.dir())["leases"].as_u64().unwrap() >= FILES as u64);
}

/// A change, and what is to be seen after it.
type Step = (&'static str, fn(&Path), fn(&Path) -> bool);

const STEPS: &[Step] = &[
    ("a file is made", |d| fs::write(d.join("a"), "one").unwrap(), |d| size(d, "a") == Some(3)),
    ("it grows", |d| append(d, "a", "two"), |d| size(d, "a") == Some(6)),
    ("its middle is written", |d| write_at(d, "a", 1, "X"), |d| fs::read(d.join("a")).unwrap() == b"oXetwo"),
    ("it is cut", |d| truncate(d, "a", 2), |d| size(d, "a") == Some(2)),
    ("it is extended", |d| truncate(d, "a", 5000), |d| size(d, "a") == Some(5000)),
    ("it is opened with O_TRUNC", |d| fs::write(d.join("a"), "").unwrap(), |d| size(d, "a") == Some(0)),
    ("its mode changes", |d| chmod(d, "a", 0o601), |d| meta(d, "a").mode() & 0o777 == 0o601),
    (
        "its owner changes",
        |d| std::os::unix::fs::chown(d.join("a"), Some(12), None).unwrap(),
        |d| meta(d, "a").uid() == 12,
    ),
    ("its times are set", |d| run("touch -d @1000", d, "a"), |d| meta(d, "a").mtime() == 1000),
    (
        "it gets an attribute",
        |d| run("setfattr -n user.x -v y", d, "a"),
        |d| sh(&format!("getfattr --absolute-names -n user.x {}", d.join("a").display())).contains("y"),
    ),
    ("it gets a name", |d| fs::hard_link(d.join("a"), d.join("b")).unwrap(), |d| meta(d, "a").nlink() == 2),
    (
        "it loses one",
        |d| fs::remove_file(d.join("a")).unwrap(),
        |d| size(d, "a").is_none() && meta(d, "b").nlink() == 1,
    ),
    ("it is renamed", |d| fs::rename(d.join("b"), d.join("c")).unwrap(), |d| names(d) == ["c"]),
    ("a name is taken over", |d| replace(d, "c"), |d| fs::read(d.join("c")).unwrap() == b"new"),
    ("a directory is made", |d| fs::create_dir(d.join("d")).unwrap(), |d| meta(d, "d").is_dir()),
    (
        "a file is moved into it",
        |d| fs::rename(d.join("c"), d.join("d/c")).unwrap(),
        |d| names(d) == ["d"] && names(&d.join("d")) == ["c"],
    ),
    (
        "the directory is renamed",
        |d| fs::rename(d.join("d"), d.join("e")).unwrap(),
        |d| !d.join("d").exists() && fs::read(d.join("e/c")).unwrap() == b"new",
    ),
    (
        "a link is put in its place",
        |d| link_instead(d),
        |d| fs::read_link(d.join("e")).unwrap() == Path::new("x"),
    ),
    ("everything is removed", |d| fs::remove_file(d.join("e")).unwrap(), |d| names(d).is_empty()),
];

fn meta(d: &Path, name: &str) -> fs::Metadata {
    fs::symlink_metadata(d.join(name)).unwrap()
}
fn size(d: &Path, name: &str) -> Option<u64> {
    fs::symlink_metadata(d.join(name)).ok().map(|m| m.len())
}
fn append(d: &Path, name: &str, text: &str) {
    use std::io::Write;
    File::options().append(true).open(d.join(name)).unwrap().write_all(text.as_bytes()).unwrap();
}
fn write_at(d: &Path, name: &str, offset: u64, text: &str) {
    let file = File::options().write(true).open(d.join(name)).unwrap();
    file.write_all_at(text.as_bytes(), offset).unwrap();
}
fn truncate(d: &Path, name: &str, size: u64) {
    File::options().write(true).open(d.join(name)).unwrap().set_len(size).unwrap();
}
fn chmod(d: &Path, name: &str, mode: u32) {
    fs::set_permissions(d.join(name), fs::Permissions::from_mode(mode)).unwrap();
}
fn run(command: &str, d: &Path, name: &str) {
    sh(&format!("{command} {}", d.join(name).display()));
}
fn replace(d: &Path, name: &str) {
    fs::write(d.join("tmp"), "new").unwrap();
    fs::rename(d.join("tmp"), d.join(name)).unwrap();
}
fn link_instead(d: &Path) {
    fs::remove_dir_all(d.join("e")).unwrap();
    symlink("x", d.join("e")).unwrap();
}

/// Has a mount learn all that can be kept, twice: the kernel keeps attributes of what it knew before.
fn warm(d: &Path) {
    for _ in 0..2 {
        for name in names(d) {
            let path = d.join(&name);
            let m = fs::symlink_metadata(&path).unwrap();
            if m.is_file() {
                assert!(File::open(&path).unwrap().metadata().unwrap().is_file());
            } else if m.is_dir() {
                names(&path);
            }
        }
        for name in ["a", "b", "c", "d", "e", "tmp"] {
            size(d, name);
        }
    }
}

#[test]
fn a_change_is_seen_at_once_by_a_mount_that_knew_what_was_there() {
    let cluster = Cluster::start();
    let second = cluster.second_mount("second", &[]);
    let dirs = [cluster.mount().join("s"), second.dir().join("s")];
    fs::create_dir(&dirs[0]).unwrap();
    for round in 0..2 {
        let (here, there) = (&dirs[round % 2], &dirs[(round + 1) % 2]);
        for (what, change, seen) in STEPS {
            // Longer than none is given on what others have just changed.
            std::thread::sleep(Duration::from_millis(300));
            dirs.iter().for_each(|d| warm(d));
            change(here);
            assert!(seen(there), "{what}: not seen on the other mount, round {round}");
            assert!(seen(here), "{what}: not seen on the mount itself, round {round}");
        }
    }
}

#[test]
fn an_open_file_that_others_remove_lives_on_until_it_is_closed() {
    let cluster = Cluster::start();
    let second = cluster.second_mount("second", &[]);
    let (here, there) = (cluster.mount(), second.dir());
    for round in 0..20 {
        fs::write(here.join("f"), format!("still here {round}")).unwrap();
        // The second time it is known already, and opened without a word to the master.
        fs::read(there.join("f")).unwrap();
        let open = File::open(there.join("f")).unwrap();
        if round % 2 == 0 {
            fs::remove_file(here.join("f")).unwrap();
        } else {
            fs::write(here.join("g"), "other").unwrap();
            fs::rename(here.join("g"), here.join("f")).unwrap();
        }
        let mut buffer = vec![0; 10];
        open.read_exact_at(&mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"still here", "round {round}");
        assert_eq!(open.metadata().unwrap().nlink(), 0, "round {round}");
    }
}

/// Runs a command that may wait for a mount that is gone; false: it failed.
fn bounded(command: &str) -> bool {
    Command::new("timeout").args(["-k", "1", "60", "sh", "-c", command]).status().unwrap().success()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn second_with_a_warm_file(cluster: &Cluster) -> (common::SecondMount, u32, PathBuf, PathBuf) {
    let second = cluster.second_mount("second", &[]);
    let (here, there) = (cluster.mount().join("f"), second.dir().join("f"));
    fs::write(&here, "x").unwrap();
    chmod(&cluster.mount(), "f", 0o644);
    common::eventually(Duration::from_secs(10), "there is a lease", || {
        assert_eq!(mode(&there), 0o644);
        mount_status(cluster, second.dir())["leases"].as_u64().unwrap() >= 2
    });
    let pid = mount_status(cluster, second.dir())["pid"].as_u64().unwrap() as u32;
    (second, pid, here, there)
}

#[test]
fn a_stopped_mount_holds_up_a_change_no_longer_than_its_leases_last() {
    let cluster = Cluster::start();
    let (_second, pid, here, there) = second_with_a_warm_file(&cluster);
    common::signal_pid(pid, libc::SIGSTOP);
    let begun = Instant::now();
    fs::set_permissions(&here, fs::Permissions::from_mode(0o600)).unwrap();
    let waited = begun.elapsed();
    assert_eq!(mode(&here), 0o600);
    common::signal_pid(pid, libc::SIGCONT);
    assert!(waited < BOUND, "the change waited for {waited:?}");
    // When it goes on, it does not answer from what it knew.
    assert!(bounded(&format!("test $(stat -c %a {}) = 600", there.display())));
}

#[test]
fn a_killed_mount_holds_up_a_change_no_longer_than_its_leases_last() {
    let cluster = Cluster::start();
    let (second, pid, here, _) = second_with_a_warm_file(&cluster);
    common::signal_pid(pid, libc::SIGKILL);
    let begun = Instant::now();
    fs::set_permissions(&here, fs::Permissions::from_mode(0o600)).unwrap();
    let waited = begun.elapsed();
    assert!(waited < BOUND, "the change waited for {waited:?}");
    assert!(bounded(&format!("umount -l {}", second.dir().display())));
}

#[test]
fn leases_from_before_the_masters_death_are_honoured() {
    let cluster = Cluster::start();
    let (_second, _, here, there) = second_with_a_warm_file(&cluster);
    for round in 0..4 {
        let wanted = 0o600 + round;
        assert_eq!(mode(&here), mode(&there));
        cluster.kill("master");
        fs::set_permissions(&here, fs::Permissions::from_mode(wanted)).unwrap();
        assert_eq!(mode(&there), wanted, "round {round}");
    }
}
