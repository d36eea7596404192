//! Scrubbing one disk: which replica is verified next, and when.
//!
//! A *pass* goes through all replicas in the order of their ids and begins where the last one was left, so
//! that the one verified longest ago is next. It is slowed down to a rate; a new one begins a while after the last began.

use super::Millis;

/// How fast and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes per second; 0: no passes of its own accord.
    pub rate: u64,
    /// From the beginning of a pass to that of the next, milliseconds.
    pub every: Millis,
}

/// A replica without content counts as so much, bytes: its file is looked for.
const LEAST: u64 = 4096;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A pass begins: say which replicas there are ([`Scrub::begin`]).
    List,
    /// Verify a part of this chunk from this block on ([`Scrub::verified`]).
    Verify(u64, u32),
    /// Nothing for so long, unless a command comes.
    Wait(Millis),
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// A pass is under way.
    pub running: bool,
    /// Replicas verified in this pass, or the last one.
    pub done: u64,
    /// Replicas in it.
    pub total: u64,
    /// Passes completed.
    pub passes: u64,
    /// Bytes read and verified.
    pub bytes: u64,
    /// The last command taken up; 0: none.
    pub command: u64,
    /// Its pass is complete.
    pub command_done: bool,
}

/// The scrubbing of one disk.
#[derive(Debug)]
pub struct Scrub {
    pace: Pace,
    /// Replicas still to be verified in this pass, the last one first.
    queue: Vec<u64>,
    /// Where in the next one.
    block: u32,
    /// Up to this chunk all have been verified in this pass.
    cursor: u64,
    /// When the last pass began; `None`: never.
    began: Option<Millis>,
    /// The rate that a command has set for this pass.
    commanded: Option<u64>,
    /// Bytes read that have not been waited for yet, times 1000; as of when.
    debt: u64,
    at: Millis,
    progress: Progress,
}

impl Scrub {
    /// `cursor`: where the last pass was left (0: it was complete), `began` when it began.
    pub fn new(pace: Pace, cursor: u64, began: Option<Millis>) -> Self {
        Self {
            pace,
            queue: Vec::new(),
            block: 0,
            cursor,
            began,
            commanded: None,
            debt: 0,
            at: 0,
            progress: Progress::default(),
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Up to which chunk the pass has come (0: there is none), and when it began.
    pub fn place(&self) -> (u64, Option<Millis>) {
        (self.cursor, self.began)
    }

    /// Verify everything now, from the beginning; `rate`: bytes per second, 0: no bound.
    pub fn command(&mut self, command: u64, rate: u64) {
        self.commanded = Some(rate);
        self.cursor = 0;
        self.debt = 0;
        self.progress = Progress { running: false, command, command_done: false, ..self.progress };
    }

    fn rate(&self) -> u64 {
        self.commanded.unwrap_or(self.pace.rate)
    }

    /// What is to be done now.
    pub fn next(&mut self, now: Millis) -> Step {
        if !self.progress.running {
            return self.wait_for_pass(now);
        }
        if self.rate() > 0 {
            let paid = now.saturating_sub(self.at).saturating_mul(self.rate());
            self.debt = self.debt.saturating_sub(paid);
            self.at = now;
            if self.debt > 0 {
                return Step::Wait(self.debt.div_ceil(self.rate()));
            }
        } else if self.commanded.is_none() {
            return Step::Wait(self.pace.every);
        }
        match self.queue.last() {
            Some(chunk) => Step::Verify(*chunk, self.block),
            None => self.complete(now),
        }
    }

    fn wait_for_pass(&mut self, now: Millis) -> Step {
        if self.commanded.is_some() {
            return Step::List;
        }
        let due = match self.began {
            _ if self.pace.rate == 0 => return Step::Wait(self.pace.every),
            // One that was left in the middle goes on.
            Some(began) if self.cursor == 0 => began.saturating_add(self.pace.every),
            _ => 0,
        };
        if now >= due { Step::List } else { Step::Wait(due - now) }
    }

    /// These are the replicas on the disk.
    pub fn begin(&mut self, now: Millis, mut chunks: Vec<u64>) {
        chunks.sort_unstable_by(|a, b| b.cmp(a));
        let total = chunks.len() as u64;
        chunks.retain(|c| *c > self.cursor);
        if self.cursor == 0 || self.began.is_none() {
            self.began = Some(now);
        }
        self.progress.done = total - chunks.len() as u64;
        self.progress.total = total;
        self.progress.running = true;
        self.queue = chunks;
        self.block = 0;
        self.at = now;
    }

    fn complete(&mut self, now: Millis) -> Step {
        self.cursor = 0;
        self.progress.running = false;
        self.progress.passes += 1;
        self.progress.command_done |= self.commanded.take().is_some();
        self.wait_for_pass(now)
    }

    /// A part of `chunk` has been verified. `next`: where to go on in it; `None`: it is done (or not there any more).
    pub fn verified(&mut self, chunk: u64, next: Option<u32>, bytes: u64) {
        // A command may have come in between.
        if self.queue.last() != Some(&chunk) || !self.progress.running {
            return;
        }
        self.progress.bytes += bytes;
        let counted = if next.is_none() { bytes.max(LEAST) } else { bytes };
        self.debt = self.debt.saturating_add(counted.saturating_mul(1000));
        match next {
            Some(block) => self.block = block,
            None => {
                self.queue.pop();
                self.block = 0;
                self.cursor = chunk;
                self.progress.done += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Millis = 86_400_000;

    fn scrub(rate: u64) -> Scrub {
        Scrub::new(Pace { rate, every: DAY }, 0, None)
    }

    /// Runs until it waits for longer than a second; what was verified, and how long that took.
    fn pass(s: &mut Scrub, now: &mut Millis, chunks: &[u64], bytes: u64) -> (Vec<u64>, Millis) {
        let (start, mut seen) = (*now, Vec::new());
        loop {
            match s.next(*now) {
                Step::List => s.begin(*now, chunks.to_vec()),
                Step::Verify(chunk, 0) => {
                    seen.push(chunk);
                    s.verified(chunk, Some(7), bytes);
                }
                Step::Verify(chunk, from) => {
                    assert_eq!(from, 7);
                    s.verified(chunk, None, 0);
                }
                Step::Wait(ms) if ms > 1000 => return (seen, *now - start),
                Step::Wait(ms) => *now += ms,
            }
        }
    }

    #[test]
    fn a_pass_keeps_to_its_rate_and_the_next_comes_a_day_later() {
        let mut s = scrub(10 << 20);
        let mut now = 5;
        let (seen, took) = pass(&mut s, &mut now, &[9, 3, 5], 1 << 20);
        assert_eq!(seen, [3, 5, 9]);
        assert!((290..330).contains(&took), "{took}");
        assert_eq!((s.progress().passes, s.progress().done, s.progress().total), (1, 3, 3));
        assert_eq!(s.progress().bytes, 3 << 20);
        assert!(matches!(s.next(now), Step::Wait(ms) if ms + took == DAY));
        now += DAY;
        assert_eq!(pass(&mut s, &mut now, &[3, 4], 0).0, [3, 4]);
    }

    #[test]
    fn what_was_left_in_the_middle_goes_on_with_the_oldest() {
        let mut s = Scrub::new(Pace { rate: 1 << 20, every: DAY }, 4, Some(0));
        let mut now = 10;
        assert_eq!(pass(&mut s, &mut now, &[2, 4, 6, 8], 0).0, [6, 8]);
        assert_eq!((s.progress().done, s.place()), (4, (0, Some(0))));
    }

    #[test]
    fn a_command_begins_anew_at_its_own_rate_even_where_scrubbing_is_off() {
        let mut s = scrub(0);
        let mut now = 0;
        assert_eq!(pass(&mut s, &mut now, &[1], 1 << 30).0, []);
        s.command(77, 0);
        assert!(!s.progress().command_done);
        assert_eq!(pass(&mut s, &mut now, &[1, 2], 1 << 30), (vec![1, 2], 0));
        assert!(s.progress().command_done && s.progress().command == 77);
        // In the middle of a pass, and what was under way counts no more.
        s.command(78, 0);
        s.begin(now, vec![1, 2]);
        s.command(79, 1 << 20);
        s.verified(1, None, 5);
        assert_eq!(pass(&mut s, &mut now, &[1, 2], 1 << 20).0, [1, 2]);
        assert_eq!((s.progress().command, s.progress().command_done), (79, true));
    }

    #[test]
    fn empty_replicas_are_paced_too() {
        let mut s = scrub(LEAST * 10);
        let mut now = 0;
        let all: Vec<u64> = (1..=20).collect();
        let (seen, took) = pass(&mut s, &mut now, &all, 0);
        assert_eq!(seen.len(), 20);
        assert!((1900..2100).contains(&took), "{took}");
    }
}
