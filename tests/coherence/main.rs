//! docs/semantics.md, "Several mounts" and "Locks": threads on several real mounts do everything to the same few objects at once. Each
//! read is compared with the history of all writes, each lock with all others.
//!
//! ```text
//! cargo test --test coherence -- --nocapture                               # 60 s both, a new seed each time
//! CAIRN_COHERENCE_SECONDS=600 cargo test --test coherence -- --nocapture
//! CAIRN_COHERENCE_SEED=7 cargo test --test coherence -- --nocapture        # the same operations in each thread
//! tests/coherence/planted/find                                             # faults put in by hand are found
//! ```

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../chaos/rng.rs"]
mod rng;

mod appends;
mod calls;
mod check;
mod exclusion;
mod files;
mod history;
mod judge;
mod locks;
mod map;
mod names;
mod run;

use std::time::Duration;

use common::{Cluster, number};
use judge::judge;
use run::{Errors, Run};

/// How long each run is unless `CAIRN_COHERENCE_SECONDS` says otherwise, seconds.
const SECONDS: u64 = 60;
/// The second and third mount.
const FURTHER: [&str; 2] = ["second", "third"];

fn length_and_seed() -> (Duration, u64) {
    let length = Duration::from_secs(number("CAIRN_COHERENCE_SECONDS").unwrap_or(SECONDS));
    let seed = number("CAIRN_COHERENCE_SEED").unwrap_or_else(|| rand::random::<u64>() >> 32);
    println!("CAIRN_COHERENCE_SEED={seed}, {} s", length.as_secs());
    (length, seed)
}

#[test]
fn several_mounts_see_one_truth() {
    let (length, seed) = length_and_seed();
    let cluster = Cluster::for_a_run_of(length);
    let further = FURTHER.map(|name| cluster.second_mount(name, &[]));
    let mounts = [cluster.mount(), further[0].dir().to_owned(), further[1].dir().to_owned()];
    let run = Run { mounts: &mounts, length, seed, errors: Errors::None };
    judge(run.run(|| std::thread::sleep(Duration::from_millis(100))));
}

#[test]
fn they_see_one_truth_while_chunkservers_and_a_mount_are_killed() {
    let (length, seed) = length_and_seed();
    let cluster = Cluster::for_a_run_of(length);
    let further = FURTHER.map(|name| cluster.second_mount(name, &[]));
    let mounts = [cluster.mount(), further[0].dir().to_owned(), further[1].dir().to_owned()];
    let mut rng = rng::Rng::new(seed);
    let run = Run { mounts: &mounts, length, seed, errors: Errors::Of(0) };
    judge(run.run(|| {
        std::thread::sleep(Duration::from_millis(rng.between(500, 3000)));
        // The next only when all copies are there again: one dead server is what the promise covers.
        cluster.wait_whole();
        match rng.below(3) {
            0 => cluster.kill("mount"),
            _ => cluster.kill(["cs1", "cs2", "cs3"][rng.below(3) as usize]),
        }
    }));
}

/// Each fault that is put in by hand (`planted/find`) has a patch; it must fit what there is.
#[test]
fn the_patches_that_put_faults_in_still_fit() {
    common::planted::all_fit("tests/coherence/planted", 2);
}
