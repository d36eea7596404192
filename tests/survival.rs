//! docs/semantics.md, "What survives": processes are killed, and what was promised is still there.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Cluster, eventually, pattern};

/// A tree of files of many sizes.
fn make_tree(dir: &Path) {
    for d in 0..10u64 {
        let sub = dir.join(format!("d{d}"));
        fs::create_dir(&sub).unwrap();
        for f in 0..20 {
            fs::write(sub.join(format!("f{f}")), pattern(d * 100 + f, (f * f * 997) as usize)).unwrap();
        }
    }
    fs::write(dir.join("large"), pattern(9999, 80 << 20)).unwrap();
    std::os::unix::fs::symlink("d0/f1", dir.join("link")).unwrap();
    common::sh(&format!("find {} -type f -print0 | xargs -0 sync", dir.display()));
}

/// Each file's content, in short, by path.
fn checksums(dir: &Path) -> BTreeMap<String, String> {
    let listed = common::sh(&format!("cd {} && find . -type f -print0 | xargs -0 sha256sum", dir.display()));
    listed.lines().map(|l| l.split_once("  ").unwrap()).map(|(sum, name)| (name.into(), sum.into())).collect()
}

/// Runs `act` while a thread writes records with an fsync every so often; every record must be there at the end.
fn while_writing(dir: &Path, act: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let path = dir.join("records");
    let longest = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let file = File::create(&path).unwrap();
            let (mut written, mut longest) = (0u64, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                file.write_all_at(&pattern(written + 1, 10_000), written * 10_000).unwrap();
                if written.is_multiple_of(8) {
                    file.sync_data().unwrap();
                }
                longest = longest.max(start.elapsed());
                written += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            file.sync_all().unwrap();
            (written, longest)
        });
        act();
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    let (written, longest) = longest;
    let all = fs::read(&path).unwrap();
    assert_eq!(all.len() as u64, written * 10_000);
    for (index, record) in (1..).zip(all.chunks(10_000)) {
        assert!(record == pattern(index, 10_000), "record {index} of {written}");
    }
    println!("{written} records, the longest wait {longest:?}");
}

#[test]
fn a_killed_chunkserver_is_not_noticed() {
    let cluster = Cluster::start();
    make_tree(&cluster.mount());
    let before = checksums(&cluster.mount());
    let dir = cluster.subdir("writer");
    while_writing(&dir, || {
        for name in ["cs1", "cs2", "cs3"] {
            cluster.wait_whole();
            cluster.kill(name);
            let now: BTreeMap<_, _> = checksums_without(&cluster.mount(), "writer");
            assert!(now == before, "{name} was killed");
        }
        cluster.wait_whole();
    });
    assert_eq!(checksums_without(&cluster.mount(), "writer"), before);
}

fn checksums_without(dir: &Path, but: &str) -> BTreeMap<String, String> {
    let script = format!(
        "cd {} && find . -path ./{but} -prune -o -type f -print0 | xargs -0 sha256sum",
        dir.display()
    );
    let listed = common::sh(&script);
    listed.lines().map(|l| l.split_once("  ").unwrap()).map(|(sum, name)| (name.into(), sum.into())).collect()
}

#[test]
fn a_chunkserver_that_stays_away_is_not_noticed_either() {
    let cluster = Cluster::start();
    let path = cluster.mount().join("f");
    fs::write(&path, pattern(1, 3 << 20)).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    // A stopped process is there and says nothing: the worst kind of away.
    cluster.signal("cs2", libc::SIGSTOP);
    let file = File::options().write(true).open(&path).unwrap();
    for i in 0..20 {
        file.write_all_at(&pattern(i + 2, 100_000), i * 100_000).unwrap();
        file.sync_data().unwrap();
    }
    let all = fs::read(&path).unwrap();
    for i in 0..20u64 {
        assert!(all[i as usize * 100_000..][..100_000] == pattern(i + 2, 100_000), "piece {i}");
    }
    cluster.signal("cs2", libc::SIGCONT);
    cluster.wait_whole();
}

#[test]
fn a_killed_master_loses_nothing_answered() {
    let cluster = Cluster::start();
    let dir = cluster.subdir("names");
    let stop = AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        let maker = scope.spawn(|| {
            let mut made = 0;
            while !stop.load(Ordering::Relaxed) {
                fs::create_dir(dir.join(made.to_string())).unwrap();
                made += 1;
            }
            made
        });
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            cluster.kill("master");
        }
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        maker.join().unwrap()
    });
    assert!(made > 0);
    let there: Vec<_> = (0..made).filter(|i| dir.join(i.to_string()).is_dir()).collect();
    assert_eq!(there.len(), made);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), made);
}

#[test]
fn everything_killed_at_once_comes_back_as_it_was() {
    let cluster = Cluster::start();
    make_tree(&cluster.mount());
    let before = checksums(&cluster.mount());
    cluster.kill_everything();
    cluster.up();
    assert_eq!(checksums(&cluster.mount()), before);
    // And after an orderly end.
    assert!(cluster.down().status.success());
    assert!(fs::read_dir(cluster.mount()).unwrap().next().is_none(), "it is unmounted");
    cluster.up();
    assert_eq!(checksums(&cluster.mount()), before);
    cluster.wait_whole();
}

#[test]
fn what_was_synced_survives_the_mount() {
    let cluster = Cluster::start();
    let path = cluster.mount().join("log");
    let file = File::create(&path).unwrap();
    let mut synced = 0;
    for i in 0..200u64 {
        file.write_all_at(&pattern(i + 1, 5000), i * 5000).unwrap();
        if i % 10 == 9 {
            file.sync_all().unwrap();
            synced = i + 1;
        }
    }
    // Written and not synced: may be lost.
    file.write_all_at(&[1; 100], 200 * 5000).unwrap();
    cluster.kill("mount");
    drop(file);
    eventually(Duration::from_secs(40), "it is mounted again", || fs::metadata(&path).is_ok());
    let all = fs::read(&path).unwrap();
    assert!(all.len() as u64 >= synced * 5000, "{} bytes", all.len());
    for i in 0..synced {
        assert!(all[i as usize * 5000..][..5000] == pattern(i + 1, 5000), "record {i}");
    }
}

#[test]
fn an_orderly_end_keeps_what_was_not_synced() {
    let cluster = Cluster::start();
    let path = cluster.mount().join("f");
    let bytes = pattern(5, 20_000_000);
    fs::write(&path, &bytes).unwrap();
    assert!(cluster.down().status.success());
    cluster.up();
    assert!(fs::read(&path).unwrap() == bytes);
}
