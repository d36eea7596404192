//! Threads on several mounts, each doing one operation after the other, until the time is over.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::appends::{Announced, Appends};
use crate::exclusion::Locked;
use crate::files::Files;
use crate::history::{Clock, Event, Recorder};
use crate::locks::{self, Locks};
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

/// What was done in a run.
#[derive(Default)]
pub struct History {
    pub events: Vec<Event>,
    pub locked: Locked,
}

impl Run<'_> {
    /// Runs `meanwhile` beside the threads until the time is over; the whole history.
    pub fn run(&self, mut meanwhile: impl FnMut()) -> History {
        crate::files::make(&self.mounts[0]);
        Names::make(&self.mounts[0]);
        let (clock, announced, failed) = (Clock::new(), Announced::default(), AtomicBool::new(false));
        let until = Instant::now() + self.length;
        let history = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for mount in 0..self.mounts.len() {
                for thread in 0..THREADS {
                    let record = Recorder::new(clock.clone(), (mount, thread));
                    let (announced, failed) = (&announced, &failed);
                    threads.push(scope.spawn(move || self.thread(record, announced, until, failed)));
                }
            }
            while Instant::now() < until && !failed.load(Ordering::Relaxed) {
                meanwhile();
            }
            let mut history = History::default();
            for mut record in threads.into_iter().map(|t| t.join().unwrap()) {
                history.events.append(&mut record.events);
                history.locked.holds.append(&mut record.locked.holds);
                history.locked.refusals.append(&mut record.locked.refusals);
            }
            history
        });
        // Not seen from the first one, which may have just been killed.
        locks::all_are_free(&self.mounts[self.mounts.len() - 1]);
        history
    }

    fn thread(
        &self,
        mut record: Recorder,
        announced: &Announced,
        until: Instant,
        failed: &AtomicBool,
    ) -> Recorder {
        let (mount, thread) = record.by;
        let dir = &self.mounts[mount];
        let mut rng = Rng::new(self.seed ^ ((mount * THREADS + thread + 1) as u64) << 32);
        let killed = self.errors == Errors::Of(mount);
        let mut open = Open::new(dir, announced, killed).unwrap();
        while Instant::now() < until && !failed.load(Ordering::Relaxed) {
            let Err(error) = open.operate(&mut rng, &mut record) else { continue };
            if killed {
                open.locks.lose(&mut record);
                open = open_again(dir, announced);
            } else {
                // The others stop, and end where they are joined.
                failed.store(true, Ordering::Relaxed);
                panic!("mount {mount}, thread {thread}: {error}");
            }
        }
        if let Err(error) = open.locks.end(&mut record) {
            assert!(killed, "mount {mount}, thread {thread}, at the end: {error}");
        }
        record
    }
}

/// What one thread has open.
struct Open {
    files: Files,
    names: Names,
    appends: Appends,
    locks: Locks,
}

impl Open {
    /// `killed`: the mount's process may be, at any time.
    fn new(dir: &Path, announced: &Announced, killed: bool) -> std::io::Result<Self> {
        Ok(Self {
            files: Files::open(dir, !killed)?,
            names: Names::new(dir),
            appends: Appends::new(dir, announced.clone()),
            locks: Locks::new(dir, !killed),
        })
    }

    /// One operation drawn at random.
    fn operate(&mut self, rng: &mut Rng, record: &mut Recorder) -> std::io::Result<()> {
        match rng.below(10) {
            0..=3 => self.files.operate(rng, record),
            4..=6 => self.names.operate(rng, record),
            7 => self.appends.operate(rng, record),
            _ => self.locks.operate(rng, record),
        }
    }
}

/// The process of that mount was killed: its handles are of no use any more.
fn open_again(dir: &Path, announced: &Announced) -> Open {
    let began = Instant::now();
    loop {
        match Open::new(dir, announced, true) {
            Ok(open) => return open,
            Err(error) => assert!(began.elapsed() < BACK, "not within {BACK:?}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
