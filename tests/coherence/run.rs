//! Threads on several mounts, each doing one operation after the other, until the time is over.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::check::{Violation, check};
use crate::files::Files;
use crate::history::{Clock, Event, Kind, Recorder};
use crate::names::Names;
use crate::rng::Rng;

/// Threads on each mount.
const THREADS: usize = 2;
/// How long a mount that was killed may take to answer again.
const BACK: Duration = Duration::from_secs(60);

/// What may go wrong while it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Errors {
    /// No operation may fail.
    None,
    /// Those on this mount may, whose process is killed now and then.
    Of(usize),
}

/// One run: where, for how long, from which numbers.
pub struct Run<'a> {
    pub mounts: &'a [PathBuf],
    pub length: Duration,
    pub seed: u64,
    pub errors: Errors,
}

impl Run<'_> {
    /// Runs `meanwhile` beside the threads until the time is over; the whole history.
    pub fn run(&self, mut meanwhile: impl FnMut()) -> Vec<Event> {
        crate::files::make(&self.mounts[0]);
        Names::make(&self.mounts[0]);
        let (clock, failed) = (Clock::new(), AtomicBool::new(false));
        let until = Instant::now() + self.length;
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for mount in 0..self.mounts.len() {
                for thread in 0..THREADS {
                    let record = Recorder::new(clock.clone(), (mount, thread));
                    let failed = &failed;
                    threads.push(scope.spawn(move || self.thread(record, until, failed)));
                }
            }
            while Instant::now() < until && !failed.load(Ordering::Relaxed) {
                meanwhile();
            }
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
        })
    }

    fn thread(&self, mut record: Recorder, until: Instant, failed: &AtomicBool) -> Vec<Event> {
        let (mount, thread) = record.by;
        let dir = &self.mounts[mount];
        let mut rng = Rng::new(self.seed ^ ((mount * THREADS + thread + 1) as u64) << 32);
        let killed = self.errors == Errors::Of(mount);
        let mut files = Files::open(dir, !killed).unwrap();
        let names = Names::new(dir);
        while Instant::now() < until && !failed.load(Ordering::Relaxed) {
            let result = if rng.below(2) == 0 {
                files.operate(&mut rng, &mut record)
            } else {
                names.operate(&mut rng, &mut record)
            };
            let Err(error) = result else { continue };
            if killed {
                files = open_again(dir);
            } else {
                // The others stop, and end where they are joined.
                failed.store(true, Ordering::Relaxed);
                panic!("mount {mount}, thread {thread}: {error}");
            }
        }
        record.events
    }
}

/// The process of that mount was killed: its handles are of no use any more.
fn open_again(dir: &Path) -> Files {
    let began = Instant::now();
    loop {
        match Files::open(dir, false) {
            Ok(files) => return files,
            Err(error) => assert!(began.elapsed() < BACK, "not within {BACK:?}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Says what was done, and panics when a promise was broken.
pub fn judge(events: &[Event]) {
    let reads = events.iter().filter(|e| e.kind == Kind::Read).count();
    println!("{reads} values read, {} written", events.len() - reads);
    assert!(reads > 1000 && events.len() - reads > 100, "hardly anything was done");
    let violations = check(events);
    for violation in violations.iter().take(10) {
        println!("{}", Shown(violation));
    }
    assert!(violations.is_empty(), "{} reads were not of the last finished write", violations.len());
}

struct Shown<'a>(&'a Violation);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = |f: &mut std::fmt::Formatter<'_>, said: &str, e: &Event| {
            let (mount, thread) = e.by;
            let end = if e.end == u64::MAX { "?".to_owned() } else { format!("{:.3}", e.end as f64 / 1e6) };
            let start = e.start as f64 / 1e6;
            writeln!(
                f,
                "  {said} {:?} by {} on mount {mount}.{thread}, {start:.3} to {end} ms",
                e.value, e.what
            )
        };
        writeln!(f, "{:?}", self.0.read.object)?;
        line(f, "read", &self.0.read)?;
        self.0.allowed.iter().try_for_each(|e| line(f, "allowed", e))?;
        self.0.returned.iter().try_for_each(|e| line(f, "written", e))
    }
}
