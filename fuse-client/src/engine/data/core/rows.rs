//! Small files read one after the other in the order of their inode numbers, as when a tree is copied or packed: which
//! are worth reading in advance.

use std::collections::VecDeque;

/// The first window, files.
const FIRST: usize = 8;
/// The widest window, files.
const WIDEST: usize = 64;
/// A step to a number so much higher is one to a next file: not all numbers are files'.
const STEP: u64 = 4;
/// Steps of this kind after which files are read in advance.
const STEPS: u32 = 2;
/// A file whose number is so near to where a row stands belongs to it.
const NEAR: u64 = 256;
/// Rows followed at once.
const ROWS: usize = 4;

/// The rows seen.
#[derive(Debug, Default)]
pub struct Rows {
    rows: Vec<Row>,
    turn: u64,
    next: u64,
}

#[derive(Debug)]
struct Row {
    id: u64,
    /// The last file read.
    at: u64,
    steps: u32,
    /// Files read in advance and not yet wanted, in order.
    ahead: VecDeque<u64>,
    /// No file up to this one is to be looked for any more.
    known: u64,
    window: usize,
    /// Since the window was last looked at: files that were wanted, and files that were passed over.
    hits: usize,
    passed: usize,
    /// An answer is awaited.
    asking: bool,
    used: u64,
}

/// A question to the master: which files follow `after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The row's.
    pub row: u64,
    /// An inode number.
    pub after: u64,
    /// At most so many.
    pub count: usize,
}

impl Rows {
    /// A small file is read from its beginning.
    pub fn read(&mut self, inode: u64) -> Option<Ask> {
        self.turn += 1;
        let near = |r: &Row| inode.abs_diff(r.at) <= NEAR || (r.at < inode && inode <= r.known);
        let Some(row) = self.rows.iter_mut().find(|r| near(r)) else {
            self.begin(inode);
            return None;
        };
        row.used = self.turn;
        if inode <= row.at {
            return None;
        }
        let next = inode - row.at <= STEP;
        row.steps = if next { row.steps + 1 } else { 0 };
        row.at = inode;
        row.pass(inode);
        if row.window == 0 {
            if row.steps < STEPS {
                return None;
            }
            row.window = FIRST;
            row.known = inode;
        }
        row.look_ahead()
    }

    /// The answer: the last file found (`None`: there are no more, or it failed) and those that are now read in advance.
    pub fn found(&mut self, row: u64, last: Option<u64>, fetched: impl Iterator<Item = u64>) {
        let Some(row) = self.rows.iter_mut().find(|r| r.id == row) else { return };
        row.asking = false;
        match last {
            Some(last) => row.known = row.known.max(last),
            None => row.stop(),
        }
        let at = row.at;
        row.ahead.extend(fetched.filter(|inode| *inode > at));
    }

    /// Nothing was read in advance.
    pub fn clear(&mut self) {
        self.rows.clear();
    }

    fn begin(&mut self, inode: u64) {
        if self.rows.len() == ROWS {
            let oldest = self.rows.iter().enumerate().min_by_key(|(_, r)| r.used).map(|(i, _)| i);
            self.rows.swap_remove(oldest.unwrap_or(0));
        }
        self.next += 1;
        self.rows.push(Row {
            id: self.next,
            at: inode,
            steps: 0,
            ahead: VecDeque::new(),
            known: inode,
            window: 0,
            hits: 0,
            passed: 0,
            asking: false,
            used: self.turn,
        });
    }
}

impl Row {
    /// The reader has come to this file.
    fn pass(&mut self, inode: u64) {
        while let Some(first) = self.ahead.front().copied().filter(|first| *first <= inode) {
            self.ahead.pop_front();
            if first == inode {
                self.hits += 1;
            } else {
                self.passed += 1;
            }
        }
        self.known = self.known.max(inode);
    }

    /// Asks again when half of the window is used up, so that questions are few.
    fn look_ahead(&mut self) -> Option<Ask> {
        if self.asking || self.ahead.len() > self.window / 2 {
            return None;
        }
        if self.passed > self.hits {
            self.window /= 2;
            if self.window < FIRST {
                self.stop();
                return None;
            }
        } else if self.hits > 0 {
            self.window = (self.window * 2).min(WIDEST);
        }
        (self.hits, self.passed) = (0, 0);
        self.asking = true;
        Some(Ask { row: self.id, after: self.known, count: self.window - self.ahead.len() })
    }

    /// Begins to watch anew.
    fn stop(&mut self) {
        (self.window, self.steps, self.hits, self.passed) = (0, 0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Reads these files where the files are all multiples of `apart`; how many of them had been read in advance, and how
    /// many were read in advance.
    fn run(apart: u64, reads: impl Iterator<Item = u64>, files: u64) -> (usize, usize) {
        let (mut rows, mut fetched, mut hits) = (Rows::default(), HashSet::<u64>::new(), 0);
        for inode in reads {
            hits += usize::from(fetched.contains(&inode));
            if let Some(ask) = rows.read(inode) {
                let first = ask.after / apart + 1;
                let found: Vec<u64> =
                    (first..files.min(first + ask.count as u64)).map(|i| i * apart).collect();
                fetched.extend(&found);
                rows.found(ask.row, found.last().copied(), found.into_iter());
            }
        }
        (hits, fetched.len())
    }

    #[test]
    fn a_row_of_files_is_read_in_advance_but_for_its_first() {
        for apart in [1, 2] {
            let (hits, fetched) = run(apart, (10..1000).map(|i| i * apart), 1000);
            assert!(hits > 980, "{hits}");
            assert_eq!(fetched, hits, "none twice, none too many");
        }
    }

    #[test]
    fn a_few_files_among_many_are_not_worth_it() {
        let (_, fetched) = run(1, (0..1000).map(|i| i * 10), 10_000);
        assert_eq!(fetched, 0);
        // Begins like a row.
        let (_, fetched) = run(1, (0..20).chain((2..900).map(|i| i * 10)), 10_000);
        assert!(fetched < 150, "{fetched}");
    }

    #[test]
    fn files_in_any_order_are_not_read_in_advance() {
        let (_, fetched) = run(1, (1..1000).map(|i| i * 7919 % 10_007), 10_007);
        assert_eq!(fetched, 0);
    }

    #[test]
    fn two_rows_at_once_are_followed() {
        let (hits, _) = run(1, (0..500).flat_map(|i| [i, 100_000 + i]), 200_000);
        assert!(hits > 980, "{hits}");
    }

    #[test]
    fn at_the_end_nothing_more_is_asked() {
        let mut rows = Rows::default();
        let mut asked = 0;
        for inode in 0..100 {
            if let Some(ask) = rows.read(inode) {
                asked += 1;
                rows.found(ask.row, None, std::iter::empty());
            }
        }
        assert!(asked <= 100 / STEPS as usize, "{asked}");
    }
}
