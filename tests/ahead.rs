//! docs/semantics.md, "Answered ahead of the master": what a mount that is alone answers at once is what the master makes of it.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::{Cluster, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// All that `lstat` tells, by path; for directories and files alike.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<i64>> {
    let mut all = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        if m.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let numbers = [m.ino(), m.mode().into(), m.nlink(), m.uid().into(), m.gid().into(), m.size()];
        let mut row: Vec<i64> = numbers.map(|n| n as i64).to_vec();
        row.extend([m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()]);
        all.insert(path, row);
    }
    all
}

/// One random change in one of a few directories; that it may fail is part of it.
fn change(rng: &mut StdRng, dirs: &[PathBuf]) {
    let mut place = || dirs[rng.random_range(0..dirs.len())].join(format!("n{}", rng.random_range(0..40)));
    let (a, b) = (place(), place());
    let id = rng.random_range(0..5u32);
    let time = SystemTime::UNIX_EPOCH + Duration::new(rng.random_range(0..2_000_000_000), 123_456_789);
    let _ = match rng.random_range(0..14) {
        0..3 => File::create_new(&a).map(drop),
        3 => fs::create_dir(&a),
        4 => symlink("somewhere", &a),
        5 | 6 => fs::remove_file(&a),
        7 => fs::rename(&a, &b),
        8 => fs::hard_link(&a, &b),
        9 => fs::set_permissions(&a, Permissions::from_mode(rng.random_range(0..0o10_000))),
        10 => lchown(&a, Some(id), Some(id + 1)),
        11 => File::open(&a).and_then(|f| f.set_modified(time)),
        12 => fs::write(&a, vec![b'x'; rng.random_range(0..10_000)]),
        _ => fs::remove_dir(&a),
    };
}

#[test]
fn what_was_answered_at_once_is_what_the_master_has() {
    let cluster = Cluster::start();
    let dir = cluster.subdir("d");
    let dirs = ["one", "two", "three"].map(|name| dir.join(name));
    dirs.iter().for_each(|d| fs::create_dir(d).unwrap());
    chown(&dirs[1], None, Some(77)).unwrap();
    fs::set_permissions(&dirs[1], Permissions::from_mode(0o2775)).unwrap();
    for seed in 0..4 {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..1000).for_each(|_| change(&mut rng, &dirs));
        let seen = snapshot(&dir);
        assert!(seen.len() > 20, "only {} inodes", seen.len());
        File::open(&dir).unwrap().sync_all().unwrap();
        // Size and time of what was written follow by themselves.
        std::thread::sleep(Duration::from_secs(3));
        cluster.kill("mount");
        eventually(Duration::from_secs(20), "it is mounted again", || fs::symlink_metadata(&dirs[0]).is_ok());
        let found = snapshot(&dir);
        for (path, row) in &seen {
            assert_eq!(found.get(path), Some(row), "seed {seed}: {}", path.display());
        }
        assert_eq!(found.len(), seen.len(), "seed {seed}: there is more than was seen");
    }
}

#[test]
fn nothing_answered_is_lost_or_done_twice_when_the_master_is_killed() {
    let cluster = Cluster::start();
    let dir = cluster.subdir("d");
    fs::create_dir(dir.join("sub")).unwrap();
    std::thread::scope(|scope| {
        let maker = scope.spawn(|| {
            for n in 0..4000 {
                let name = dir.join(format!("{n}"));
                File::create_new(&name).unwrap();
                match n % 4 {
                    0 => fs::rename(&name, dir.join(format!("sub/{n}"))).unwrap(),
                    1 => fs::remove_file(&name).unwrap(),
                    2 => fs::set_permissions(&name, Permissions::from_mode(0o600)).unwrap(),
                    _ => fs::hard_link(&name, dir.join(format!("sub/{n}"))).unwrap(),
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(600));
            cluster.kill("master");
        }
        maker.join().unwrap();
    });
    File::open(&dir).unwrap().sync_all().unwrap();
    cluster.kill("mount");
    eventually(Duration::from_secs(20), "it is mounted again", || fs::symlink_metadata(&dir).is_ok());
    for n in 0..4000 {
        let here = fs::symlink_metadata(dir.join(format!("{n}")));
        let there = fs::symlink_metadata(dir.join(format!("sub/{n}")));
        match n % 4 {
            0 => assert!(here.is_err() && there.is_ok(), "{n} was moved"),
            1 => assert!(here.is_err() && there.is_err(), "{n} was removed"),
            2 => assert_eq!(here.unwrap().mode() & 0o7777, 0o600, "{n}"),
            _ => assert_eq!((here.unwrap().nlink(), there.unwrap().nlink()), (2, 2), "{n}"),
        }
    }
}

#[test]
fn what_a_directory_sync_covers_survives_the_mount() {
    let cluster = Cluster::start();
    let dir = cluster.subdir("d");
    for n in 0..1500 {
        File::create_new(dir.join(format!("{n}"))).unwrap();
    }
    File::open(&dir).unwrap().sync_all().unwrap();
    cluster.kill("mount");
    eventually(Duration::from_secs(20), "it is mounted again", || fs::symlink_metadata(&dir).is_ok());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1500);
}
