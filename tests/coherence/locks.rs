//! Operations on locks: whole files by `flock`, ranges by `fcntl`, each through an open file description of its own, since the threads of
//! a process would share its locks.

use std::fs::File;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::calls::{self, Answer, Way};
use crate::exclusion::{Hold, Lock, Place, Refusal};
use crate::files::{self, LOCKED};
use crate::history::Recorder;
use crate::rng::Rng;

/// Cells of a file that ranges are locked of; few, so that they meet.
const RANGE: u64 = 8;
/// Locks that a thread holds at once, at most.
const MOST: usize = 2;
/// The longest that is waited for a lock, milliseconds.
const LONGEST: u64 = 300;
/// Within this all of it is free: what a closed description held, which the kernel tells of without waiting, and what
/// was held on a mount that was killed (its session ends after 10 s, or when another one begins there).
const LET_GO: Duration = Duration::from_secs(15);

/// What one thread holds.
pub struct Locks {
    dir: PathBuf,
    held: Vec<(File, Hold)>,
    /// The mount is not killed: what is held there stays so until it is given back.
    sure: bool,
}

impl Locks {
    pub fn new(dir: &Path, sure: bool) -> Self {
        Self { dir: dir.to_owned(), held: Vec::new(), sure }
    }

    /// One operation drawn at random.
    pub fn operate(&mut self, rng: &mut Rng, record: &mut Recorder) -> Result<()> {
        let (what, result) = match rng.below(8) {
            0 => ("test", self.test(rng, record)),
            1 if !self.held.is_empty() => ("conversion", self.convert(rng, record)),
            2..=4 if self.held.len() < MOST => ("request", self.take(rng, record)),
            _ if self.held.is_empty() => ("request", self.take(rng, record)),
            _ => ("release", self.release(rng, record)),
        };
        result.map_err(|error| Error::new(error.kind(), format!("{what} of a lock: {error}")))
    }

    /// The handles are of no use any more; what was held through them is not for certain.
    pub fn lose(&mut self, record: &mut Recorder) {
        self.held.drain(..).for_each(|(handle, hold)| lost(record, handle, hold));
    }

    /// Gives everything back, as far as that is possible; an error, if there was any.
    pub fn end(mut self, record: &mut Recorder) -> Result<()> {
        let mut result = Ok(());
        for (handle, hold) in self.held.drain(..) {
            result = give_back(record, handle, hold).and(result);
        }
        result
    }

    fn take(&mut self, rng: &mut Rng, record: &mut Recorder) -> Result<()> {
        let lock = draw(rng, record.clock.unique());
        let way = draw_way(rng);
        let handle = files::open(&self.dir, lock.place.file())?;
        let start = record.clock.now();
        let answer = calls::ask(&handle, &lock, way);
        let end = record.clock.now();
        let hold = Hold { lock, asked: start, granted: end, let_go: Hold::NEVER, gone: end, by: record.by };
        match answer {
            Answer::Granted => self.held.push((handle, hold)),
            Answer::Refused => refused(record, "request", &hold.lock, start),
            Answer::Interrupted => maybe(record, hold, way.is_late(start, end)),
            Answer::Failed(error) => {
                maybe(record, hold, true);
                return Err(error);
            }
        }
        Ok(())
    }

    /// From shared to exclusive or back. A range is held all the time; a `flock` is given up first, and is lost if the new one is refused.
    fn convert(&mut self, rng: &mut Rng, record: &mut Recorder) -> Result<()> {
        let way = draw_way(rng);
        let (handle, mut old) = self.held.swap_remove(rng.below(self.held.len() as u64) as usize);
        let lock = Lock { exclusive: !old.lock.exclusive, ..old.lock.clone() };
        let ranges = matches!(lock.place, Place::Ranges { .. });
        let start = record.clock.now();
        let answer = calls::ask(&handle, &lock, way);
        let end = record.clock.now();
        let mut new =
            Hold { lock, asked: start, granted: end, let_go: Hold::NEVER, gone: end, by: record.by };
        match answer {
            Answer::Granted => {
                (old.let_go, old.gone) = (start, end);
                match (ranges, new.lock.exclusive) {
                    (true, true) => old.let_go = end,
                    (true, false) => new.granted = start,
                    (false, _) => {}
                }
                record.locked.holds.push(old);
                self.held.push((handle, new));
                return Ok(());
            }
            Answer::Refused => refused(record, "conversion", &new.lock, start),
            Answer::Interrupted => maybe(record, new, way.is_late(start, end)),
            Answer::Failed(error) => {
                maybe(record, new, true);
                lost(record, handle, old);
                return Err(error);
            }
        }
        if ranges {
            self.held.push((handle, old));
            return Ok(());
        }
        old.let_go = start;
        give_back_after(record, handle, old)
    }

    /// Mostly on purpose, now and then by closing the description.
    fn release(&mut self, rng: &mut Rng, record: &mut Recorder) -> Result<()> {
        let (handle, mut hold) = self.held.swap_remove(rng.below(self.held.len() as u64) as usize);
        if rng.below(100) > 0 {
            return give_back(record, handle, hold);
        }
        // A close does not tell whether the mount was still the one that had granted it.
        hold.let_go = if self.sure { record.clock.now() } else { hold.asked };
        drop(handle);
        hold.gone = after(record.clock.now());
        record.locked.holds.push(hold);
        Ok(())
    }

    /// Whether a range is free, without taking it.
    fn test(&self, rng: &mut Rng, record: &mut Recorder) -> Result<()> {
        let place = Place::Ranges { file: draw_file(rng) };
        let exclusive = rng.below(2) == 0;
        let lock = Lock { place, range: draw_range(rng), exclusive, owner: record.clock.unique() };
        let handle = files::open(&self.dir, place.file())?;
        let start = record.clock.now();
        if calls::is_free(&handle, &lock)? {
            // As if it had been held for a moment, in which it was in nobody's way.
            let end = record.clock.now();
            let hold = Hold { lock, asked: start, granted: end, let_go: start, gone: 0, by: record.by };
            record.locked.holds.push(hold);
        } else {
            refused(record, "test", &lock, start);
        }
        Ok(())
    }
}

/// Waits until nothing is locked any more, which must not take long after everything was let go.
pub fn all_are_free(dir: &Path) {
    let places = LOCKED.into_iter().flat_map(|file| [Place::Whole { file }, Place::Ranges { file }]);
    let until = Instant::now() + LET_GO;
    for place in places {
        let lock = Lock { place, range: 0..RANGE, exclusive: true, owner: 0 };
        let handle = files::open(dir, lock.place.file()).unwrap();
        while !matches!(calls::ask(&handle, &lock, Way::Try), Answer::Granted) {
            assert!(
                Instant::now() < until,
                "everything was let go {LET_GO:?} ago, and yet is locked: {place:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn after(time: u64) -> u64 {
    time + LET_GO.as_nanos() as u64
}

fn refused(record: &mut Recorder, what: &'static str, lock: &Lock, start: u64) {
    let refusal = Refusal { lock: lock.clone(), start, end: record.clock.now(), by: record.by, what };
    record.locked.refusals.push(refusal);
}

/// It is not known that it was held. Whether it may have been after the answer, too: `late`.
fn maybe(record: &mut Recorder, mut hold: Hold, late: bool) {
    if late {
        hold.gone = after(record.clock.now());
    }
    record.locked.holds.push(hold);
}

/// It was held at some time; how long is not known.
fn lost(record: &mut Recorder, handle: File, mut hold: Hold) {
    drop(handle);
    hold.let_go = hold.asked;
    hold.gone = after(record.clock.now());
    record.locked.holds.push(hold);
}

fn give_back(record: &mut Recorder, handle: File, mut hold: Hold) -> Result<()> {
    hold.let_go = record.clock.now();
    give_back_after(record, handle, hold)
}

/// It is held for certain until `hold.let_go`, if it can be given back.
fn give_back_after(record: &mut Recorder, handle: File, mut hold: Hold) -> Result<()> {
    if let Err(error) = calls::unlock(&handle, &hold.lock) {
        lost(record, handle, hold);
        return Err(error);
    }
    hold.gone = record.clock.now();
    record.locked.holds.push(hold);
    Ok(())
}

fn draw(rng: &mut Rng, owner: u64) -> Lock {
    let (file, exclusive) = (draw_file(rng), rng.below(2) == 0);
    if rng.below(2) == 0 {
        return Lock { place: Place::Whole { file }, range: 0..RANGE, exclusive, owner };
    }
    Lock { place: Place::Ranges { file }, range: draw_range(rng), exclusive, owner }
}

fn draw_file(rng: &mut Rng) -> usize {
    LOCKED[rng.below(LOCKED.len() as u64) as usize]
}

fn draw_range(rng: &mut Rng) -> std::ops::Range<u64> {
    let first = rng.below(RANGE);
    first..rng.between(first + 1, RANGE)
}

fn draw_way(rng: &mut Rng) -> Way {
    if rng.below(2) == 0 { Way::Try } else { Way::Wait(Duration::from_millis(rng.between(1, LONGEST))) }
}
