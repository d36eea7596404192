//! How long programs wait when the link to a chunkserver is cut: what `cairn drill` measures, with faults that need a network
//! of their own. The figures are in docs/failover.md.
//!
//! ```text
//! CAIRN_DRILL_RUNS=20 CAIRN_DRILL_FAULTS=cut,stop cargo test --release --test chaos cut_off -- --nocapture
//! ```

#[path = "../../src/drill/load.rs"]
mod load;

use std::time::Duration;

use crate::cluster::Cluster;
use crate::common::number;
use crate::faults::{self, WHOLE_WITHIN};
use crate::schedule::{Kind, kinds};
use load::{Load, Seen};

/// Longer than a lease, so that the worst case is seen.
const LASTS: Duration = Duration::from_secs(6);
/// The load runs so long between two faults.
const CALM: Duration = Duration::from_secs(1);
/// A call that takes longer than this counts as hanging: a mount's own deadline is 30 s.
const HANGS: Duration = Duration::from_secs(60);
/// No call may take so long, also where other work goes on: more than twice what docs/failover.md promises.
const LONGEST: Duration = Duration::from_secs(10);

struct Run {
    writes: Seen,
    reads: Seen,
}

fn once(cluster: &mut Cluster, load: &Load, kind: Kind, primary: bool) -> Run {
    cluster.wait_whole(WHOLE_WITHIN);
    std::thread::sleep(CALM);
    let victim = cluster.holder("drill/written", primary);
    load.look();
    faults::begin(cluster, kind, victim);
    std::thread::sleep(LASTS);
    let goes_on = load.goes_on(HANGS);
    faults::end(cluster, kind, victim);
    if !goes_on {
        cluster.kill_mount();
        panic!("a call takes more than {HANGS:?}");
    }
    cluster.wait_whole(WHOLE_WITHIN);
    let (writes, reads) = load.look();
    Run { writes, reads }
}

/// p50, p90 and the longest, seconds.
fn summary(runs: &[Run], of: impl Fn(&Run) -> Duration) -> String {
    let mut values: Vec<_> = runs.iter().map(of).collect();
    values.sort_unstable();
    let at = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1].as_secs_f64();
    format!("{:.3} {:.3} {:.3}", at(50), at(90), at(100))
}

#[test]
fn a_server_that_is_cut_off_keeps_nobody_waiting_for_long() {
    let _alone = crate::ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let runs = number("CAIRN_DRILL_RUNS").unwrap_or(2).max(1);
    let faults = std::env::var("CAIRN_DRILL_FAULTS").unwrap_or_else(|_| "cut".to_owned());
    // One chunk is written, whose servers are known.
    let length = (LASTS + CALM) * 2 * runs as u32 * 2;
    let mut cluster = Cluster::start(length, "64MiB");
    let dir = cluster.mount_dir().join("drill");
    std::fs::create_dir(&dir).unwrap();
    let load = Load::start(&dir).unwrap();
    for kind in kinds(&faults) {
        for primary in [true, false] {
            let seen: Vec<_> = (0..runs).map(|_| once(&mut cluster, &load, kind, primary)).collect();
            println!(
                "{kind:?} of a {}: {runs} runs, longest writes p50 p90 max {} s, reads {} s",
                if primary { "primary" } else { "member" },
                summary(&seen, |r| r.writes.longest),
                summary(&seen, |r| r.reads.longest)
            );
            for Run { writes, reads } in seen {
                assert!(writes.calls > 0 && reads.calls > 0);
                assert_eq!((writes.errors, reads.errors), (0, 0));
                assert!(writes.longest < LONGEST && reads.longest < LONGEST, "{writes:?} {reads:?}");
            }
        }
    }
}
