//! What happened: faults, the longest time of each kind of operation, and what went wrong.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;

#[derive(Default)]
struct Timing {
    count: u64,
    longest: Duration,
    /// When that one began.
    at: Duration,
}

pub struct Journal {
    began: Instant,
    /// The longest that one operation may take.
    patience: Duration,
    stopping: AtomicBool,
    failed: AtomicBool,
    failures: Mutex<Vec<String>>,
    notes: Mutex<Vec<(Duration, String)>>,
    timings: Mutex<BTreeMap<&'static str, Timing>>,
}

impl Journal {
    pub fn new(patience: Duration) -> Self {
        Self {
            began: Instant::now(),
            patience,
            stopping: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failures: Mutex::default(),
            notes: Mutex::default(),
            timings: Mutex::default(),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The workers come to an end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether to go on.
    pub fn goes_on(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed) && !self.has_failed()
    }

    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub fn fail(&self, what: String) {
        let at = self.elapsed();
        println!("{:8.3} FAILED: {what}", at.as_secs_f64());
        self.failures.lock().unwrap().push(format!("at {:.3} s: {what}", at.as_secs_f64()));
        self.failed.store(true, Ordering::Relaxed);
    }

    pub fn note(&self, what: String) {
        let at = self.elapsed();
        println!("{:8.3} {what}", at.as_secs_f64());
        self.notes.lock().unwrap().push((at, what));
    }

    /// Runs one operation of an application. An error is a failure of the test; then `None`.
    pub fn run<T>(
        &self,
        kind: &'static str,
        name: &str,
        operation: impl FnOnce() -> std::io::Result<T>,
    ) -> Option<T> {
        let at = self.elapsed();
        let result = operation();
        let took = self.elapsed() - at;
        let mut timings = self.timings.lock().unwrap();
        let timing = timings.entry(kind).or_default();
        timing.count += 1;
        if took > timing.longest {
            (timing.longest, timing.at) = (took, at);
        }
        drop(timings);
        if took > self.patience {
            self.fail(format!("{kind} {name} took {took:?}"));
        }
        result.map_err(|e| self.fail(format!("{kind} {name} after {took:?}: {e}"))).ok()
    }

    /// A thread that works until the journal says that it is over.
    pub fn worker(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce(&Journal) + Send + 'static,
    ) -> (String, JoinHandle<()>) {
        let journal = self.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&journal)).unwrap();
        (name.to_owned(), thread)
    }

    /// Waits for the workers; one that hangs is a failure, and is freed by ending its mount.
    pub fn join(&self, workers: Vec<(String, JoinHandle<()>)>, cluster: &Cluster) {
        let limit = Instant::now() + Duration::from_secs(60);
        while Instant::now() < limit && !workers.iter().all(|(_, w)| w.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        for (name, _) in workers.iter().filter(|(_, w)| !w.is_finished()) {
            self.fail(format!("the {name} hangs"));
            cluster.kill_mount();
        }
        for (name, worker) in workers {
            if worker.join().is_err() {
                self.fail(format!("the {name} panicked"));
            }
        }
    }

    /// The longest operation of each kind, and what had happened before it.
    pub fn summary(&self) -> String {
        let notes = self.notes.lock().unwrap();
        let mut out = String::from("operation        count    longest   began at   during\n");
        for (kind, t) in self.timings.lock().unwrap().iter() {
            let during = notes.iter().rev().find(|(at, _)| *at <= t.at + t.longest).map_or("", |(_, n)| n);
            let _ = writeln!(
                out,
                "{kind:<12} {:>9} {:>8.3} s {:>8.3} s   {during}",
                t.count,
                t.longest.as_secs_f64(),
                t.at.as_secs_f64()
            );
        }
        out
    }

    /// Panics when an operation failed, was wrong, or took too long.
    pub fn assert_well(&self) {
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}
