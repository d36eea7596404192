//! What a run has shown.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};

use crate::check::{self, Violation};
use crate::exclusion::{self, Fault, Hold, Lock, Refusal};
use crate::history::{Event, Kind};
use crate::run::History;

/// What has to be among what was done, as it is called in the history.
const DONE: [&str; 17] = [
    "read",
    "write",
    "append",
    "read of records",
    "truncate",
    "read through a map",
    "write through a map",
    "create",
    "link",
    "rename",
    "unlink",
    "readdir",
    "lstat",
    "stat",
    "fstat",
    "chmod",
    "setxattr",
];
/// Faults that are printed.
const SHOWN: usize = 10;

/// Says what was done, and panics when a promise was broken.
pub fn judge(history: History) {
    let History { events, locked } = history;
    let reads = events.iter().filter(|e| e.kind == Kind::Read).count();
    println!("{reads} values read, {} written", events.len() - reads);
    println!("{} locks held, {} requests refused", locked.holds.len(), locked.refusals.len());
    assert!(reads > 1000 && events.len() - reads > 100, "hardly anything was done");
    assert!(locked.holds.len() > 100 && locked.refusals.len() > 10, "hardly anything was locked");
    let mut done: BTreeMap<&str, u64> = BTreeMap::new();
    events.iter().for_each(|e| *done.entry(e.what).or_default() += 1);
    let missing: Vec<_> = DONE.iter().filter(|what| !done.contains_key(**what)).collect();
    assert!(missing.is_empty(), "never done: {missing:?}");
    let (violations, faults) = (check::check(&events), exclusion::check(locked));
    violations.iter().take(SHOWN).for_each(|violation| println!("{violation}"));
    faults.iter().take(SHOWN).for_each(|fault| println!("{fault}"));
    let first = violations.iter().map(|v| v.read.end).chain(faults.iter().map(Fault::time)).min();
    let first = first.map_or(String::new(), |first| format!("; the first after {:.3} s", first as f64 / 1e9));
    assert!(
        violations.is_empty() && faults.is_empty(),
        "broken promises: {} reads were not of the last finished write, {} locks were not as they should be{first}",
        violations.len(),
        faults.len()
    );
}

/// From one moment to another; the last is not always known.
fn times(start: u64, end: u64) -> String {
    let end = if end == u64::MAX { "?".to_owned() } else { format!("{:.3}", end as f64 / 1e6) };
    format!("{:.3} to {end} ms", start as f64 / 1e6)
}

impl Display for Violation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let line = |f: &mut Formatter<'_>, said: &str, e: &Event| {
            let ((mount, thread), times) = (e.by, times(e.start, e.end));
            writeln!(f, "  {said} {:?} by {} on mount {mount}.{thread}, {times}", e.value, e.what)
        };
        writeln!(f, "{:?}", self.read.object)?;
        line(f, "read", &self.read)?;
        self.allowed.iter().try_for_each(|e| line(f, "allowed", e))?;
        self.returned.iter().try_for_each(|e| line(f, "written", e))
    }
}

fn mode(lock: &Lock) -> &'static str {
    if lock.exclusive { "exclusive" } else { "shared" }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let held = |f: &mut Formatter<'_>, Hold { lock, asked, granted, let_go, gone, by }: &Hold| {
            let (surely, perhaps) = (times(*granted, *let_go), times(*asked, *gone));
            let (what, (mount, thread)) = (mode(lock), by);
            writeln!(
                f,
                "  {what} on {:?} on mount {mount}.{thread}, {surely} (perhaps {perhaps})",
                lock.range
            )
        };
        match self {
            Self::Both(one, other) => {
                writeln!(f, "{:?}: both were held at once", one.lock.place)?;
                held(f, one)?;
                held(f, other)
            }
            Self::Refused(Refusal { lock, start, end, by: (mount, thread), what }) => {
                writeln!(f, "{:?}: refused, although nobody can have been in the way", lock.place)?;
                let (kind, times) = (mode(lock), times(*start, *end));
                writeln!(f, "  {kind} {what} on {:?} on mount {mount}.{thread}, {times}", lock.range)
            }
        }
    }
}
