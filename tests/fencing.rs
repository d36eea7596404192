//! docs/semantics.md, "Several mounts": what a mount whose session is over had not written back is lost, and nothing else is.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use common::locker::Locker;
use common::{Cluster, eventually};

/// A mount that does not answer loses its session after 10 s, and no chunkserver needs more than 4 s to shut it out.
const BOUND: Duration = Duration::from_secs(40);

fn write_synced(path: &Path) {
    let file = File::create(path).unwrap();
    (&file).write_all(b"x").unwrap();
    file.sync_all().unwrap();
}

fn mount_log(cluster: &Cluster) -> String {
    fs::read_to_string(cluster.data().join("run/mount.log")).unwrap()
}

#[test]
fn what_a_mount_wrote_that_was_away_for_too_long_changes_nothing_and_is_an_error_once() {
    let cluster = Cluster::start();
    fs::create_dir(cluster.mount().join("d")).unwrap();
    let path = cluster.mount().join("d/late");
    fs::write(&path, "first").unwrap();
    // By processes of their own: whoever has something open on a mount that is stopped can start no other program.
    let clean = cluster.mount().join("d/clean");
    fs::write(&clean, "").unwrap();
    let (mut late, mut clean) = (Locker::open(&path), Locker::open(&clean));
    for process in [&mut late, &mut clean] {
        assert_eq!(process.does("write first"), "ok");
        assert_eq!(process.does("sync"), "ok");
    }
    // Taken by the mount, which is stopped before it can send it.
    assert_eq!(late.does("write late!"), "ok");
    cluster.signal("mount", libc::SIGSTOP);
    let begun = Instant::now();
    let second = cluster.second_mount("second", &[]);
    assert!(begun.elapsed() > Duration::from_secs(5), "the first may have come back until then");
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    let there = second.dir().join("d/late");
    assert_eq!(fs::read(&there).unwrap(), b"first");
    fs::write(&there, "other").unwrap();

    cluster.signal("mount", libc::SIGCONT);
    assert_eq!(late.does("sync"), "EIO");
    assert_eq!(late.does("sync"), "ok", "once");
    assert_eq!(clean.does("sync"), "ok");
    assert_eq!(fs::read(&path).unwrap(), b"other");
    assert_eq!(fs::read(&there).unwrap(), b"other");
    let log = mount_log(&cluster);
    let told: Vec<_> = log.lines().filter(|l| l.contains("written data is lost")).collect();
    assert!(told.len() == 1 && told[0].contains("/d/late"), "{told:?}");

    // It goes on as any other mount.
    assert_eq!(late.does("write again"), "ok");
    assert_eq!(late.does("sync"), "ok");
    assert_eq!(fs::read(&there).unwrap(), b"again");
}

#[test]
fn a_killed_mount_is_followed_by_the_next_at_once() {
    let cluster = Cluster::start();
    write_synced(&cluster.mount().join("f"));
    for _ in 0..3 {
        let begun = Instant::now();
        cluster.kill("mount");
        eventually(BOUND, "it is mounted again", || {
            fs::read(cluster.mount().join("f")).is_ok_and(|r| r == b"x")
        });
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_chunkserver_that_hangs_holds_up_a_newcomer_no_longer_than_its_lease() {
    let cluster = Cluster::start();
    write_synced(&cluster.mount().join("f"));
    cluster.signal("mount", libc::SIGSTOP);
    cluster.signal("cs2", libc::SIGSTOP);
    let begun = Instant::now();
    let second = cluster.second_mount("second", &[]);
    let waited = begun.elapsed();
    cluster.signal("cs2", libc::SIGCONT);
    cluster.signal("mount", libc::SIGCONT);
    assert!(waited < BOUND, "{waited:?}");
    assert_eq!(fs::read(second.dir().join("f")).unwrap(), b"x");
}
