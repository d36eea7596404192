//! Real processes, each chunkserver in a network namespace of its own, while a seeded schedule of faults goes on: applications
//! see no error and not one wrong byte, and afterwards everything is whole again by itself.
//!
//! ```text
//! cargo test --test chaos -- --nocapture                            # a minute, a new seed each time
//! CAIRN_CHAOS_SECONDS=600 cargo test --test chaos -- --nocapture
//! CAIRN_CHAOS_FAULTS=kill,flip cargo test --test chaos -- --nocapture  # these kinds alone
//! CAIRN_CHAOS_SEED=7 cargo test --test chaos -- --nocapture         # the schedule of that seed again
//! ```

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod churner;
mod cluster;
mod disks;
mod drill;
mod faults;
mod journal;
mod ledger;
mod network;
mod reader;
mod rng;
mod schedule;
mod visitor;
mod writer;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cluster::Cluster;
use common::number;
use faults::WHOLE_WITHIN;
use journal::Journal;
use ledger::Ledger;
use schedule::Schedule;

/// How long it may take until nothing is left of what nobody knows of, which is deleted after a minute of grace.
const CLEAN_WITHIN: Duration = Duration::from_secs(150);
/// The longest that one operation may take, seconds, unless `CAIRN_CHAOS_STALL` says otherwise: well below the 30 s that a
/// mount waits before it fails.
const STALL: u64 = 20;

/// One cluster at a time: what one does would make the other wait.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn applications_notice_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let length = Duration::from_secs(number("CAIRN_CHAOS_SECONDS").unwrap_or(60));
    let seed = number("CAIRN_CHAOS_SEED").unwrap_or_else(|| rand::random::<u64>() >> 32);
    let kinds =
        std::env::var("CAIRN_CHAOS_FAULTS").map_or_else(|_| schedule::all_kinds(), |n| schedule::kinds(&n));
    println!("CAIRN_CHAOS_SEED={seed}, {} s of {kinds:?}", length.as_secs());
    // Small chunks: many of them, and many epochs.
    let mut cluster = Cluster::start(length, "4MiB");
    let stall = Duration::from_secs(number("CAIRN_CHAOS_STALL").unwrap_or(STALL));
    let journal = Arc::new(Journal::new(stall));
    let ledger = Arc::new(Ledger::new(seed));
    let mut schedule = Schedule::new(seed, length, kinds);
    let workers = vec![
        journal.worker("writer", {
            let (dir, ledger) = (cluster.mount_dir(), ledger.clone());
            move |j| writer::run(j, &dir, &ledger)
        }),
        journal.worker("reader", {
            let (dir, ledger) = (cluster.mount_dir(), ledger.clone());
            move |j| reader::run(j, &dir, &ledger)
        }),
        journal.worker("visitor", {
            let (mounter, ledger) = (cluster.mounter("visit"), ledger.clone());
            move |j| visitor::run(j, &mounter, &ledger, seed)
        }),
        journal.worker("churner", {
            let dir = cluster.mount_dir();
            move |j| churner::run(j, &dir, seed)
        }),
    ];
    while journal.elapsed() < length && !journal.has_failed() {
        faults::inject(&mut cluster, &journal, schedule.draw());
    }
    journal.stop();
    journal.join(workers, &cluster);
    println!("{}", journal.summary());
    journal.assert_well();

    // What the kernel or the mount may still remember proves nothing: read through a new mount.
    let began = Instant::now();
    cluster.remount();
    ledger.check_all(&cluster.mount_dir());
    println!("every byte is as written, read again in {:?}", began.elapsed());
    println!("whole after {:?}", cluster.wait_whole(WHOLE_WITHIN));
    println!("clean after {:?}", cluster.wait_clean(CLEAN_WITHIN));
}
