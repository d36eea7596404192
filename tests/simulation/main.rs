//! A simulation of the pure cores: master, chunkservers and clients in one thread, under one seed.
//!
//! `docs/simulation.md` says what is modelled and how to replay a run.

#![allow(clippy::unwrap_used)]

#[macro_use]
mod trace;
mod branches;
mod calm;
mod chunkserver;
mod client;
mod coverage;
mod executor;
mod faults;
mod heat;
mod history;
mod invariants;
mod master;
mod message;
mod net;
#[path = "../common/planted.rs"]
mod planted;
mod rng;
mod run;
mod sessions;
mod workload;
mod world;

use cairn_master::core::cluster::node_states::{Happening, TABLE};
use run::{Outcome, run};
use std::collections::BTreeMap;
use trace::Trace;

const SEEDS: u64 = 1_000;
const THREADS: u64 = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs the seeds from `first` on, on all threads; the failures, and what has occurred.
fn run_all(first: u64, count: u64) -> (Vec<(u64, String)>, BTreeMap<&'static str, u64>) {
    let worker = |thread: u64| {
        let mut failures = Vec::new();
        let mut coverage = BTreeMap::new();
        for seed in (first + thread..first + count).step_by(THREADS as usize) {
            let Outcome { failure, coverage: hit, .. } = run(seed, Trace::Off);
            failures.extend(failure.map(|f| (seed, f)));
            for (name, n) in hit {
                *coverage.entry(name).or_insert(0) += n;
            }
        }
        (failures, coverage)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|t| scope.spawn(move || worker(t))).collect();
        let mut all = (Vec::new(), BTreeMap::new());
        for w in workers {
            let (failures, coverage) = w.join().unwrap();
            all.0.extend(failures);
            for (name, n) in coverage {
                *all.1.entry(name).or_insert(0) += n;
            }
        }
        all.0.sort();
        all
    })
}

/// With `CAIRN_SIM_SEED`: that run alone (its trace with `CAIRN_SIM_TRACE=1`). Else `CAIRN_SIM_SEEDS` of them.
#[test]
fn promises_are_kept_and_every_event_and_effect_occurs() {
    if let Some(seed) = number("CAIRN_SIM_SEED") {
        let trace = if number("CAIRN_SIM_TRACE") == Some(1) { Trace::Print } else { Trace::Off };
        let outcome = run(seed, trace);
        assert_eq!(outcome.failure, None, "seed {seed}");
        return;
    }
    let count = number("CAIRN_SIM_SEEDS").unwrap_or(SEEDS);
    let first = number("CAIRN_SIM_FIRST").unwrap_or(1);
    let (failures, coverage) = run_all(first, count);
    for (seed, failure) in &failures {
        println!("seed {seed}: {failure}");
        println!(
            "  replay: CAIRN_SIM_SEED={seed} CAIRN_SIM_TRACE=1 cargo test --test simulation promises -- --nocapture"
        );
    }
    assert!(failures.is_empty(), "{} of {count} seeds failed", failures.len());
    if number("CAIRN_SIM_COVERAGE") == Some(1) {
        coverage.iter().for_each(|(name, n)| println!("{n:>10} {name}"));
    }
    if count >= SEEDS {
        use coverage::{BRANCHES, CLUSTER_EFFECTS, CLUSTER_EVENTS, EFFECTS, EVENTS};
        let all = [EVENTS, EFFECTS, CLUSTER_EVENTS, CLUSTER_EFFECTS, BRANCHES];
        // What happened to chunkservers. These two find the state as it is to be already.
        let happened = TABLE.map(|(happening, _)| happening).into_iter();
        let silent = [Happening::UnreachableHere, Happening::HeartbeatMaintenance];
        let unseen: Vec<_> =
            happened.filter(|h| !silent.contains(h) && !coverage.contains_key(h.text())).collect();
        assert!(unseen.is_empty(), "never changed a server's state: {unseen:?}");
        let missing: Vec<_> = all.iter().copied().flatten().filter(|n| !coverage.contains_key(**n)).collect();
        assert!(missing.is_empty(), "never occurred: {missing:?}");
    }
}

/// Each bug that is put back by hand (`planted/find`) has a patch; it must fit what there is.
#[test]
fn the_patches_that_put_bugs_back_still_fit() {
    planted::all_fit("tests/simulation/planted", 3);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=6 {
        let trace = || run(seed, Trace::Keep(std::cell::RefCell::default())).trace;
        let (one, two) = (trace(), trace());
        assert!(one.len() > 10_000, "seed {seed}: {} bytes", one.len());
        assert!(one == two, "seed {seed} gave two traces");
    }
}
