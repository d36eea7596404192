//! When to read ahead, and how far.

use std::ops::Range;

/// The first window, bytes.
const FIRST: u64 = 256 << 10;
/// The widest window, bytes.
const WIDEST: u64 = 8 << 20;
/// A read within so many of its own lengths of where a stream stands belongs to it (the kernel's own read-ahead
/// may come out of order), up to `NEAR` bytes.
const NEAR_LENGTHS: u64 = 4;
const NEAR: u64 = 1 << 20;
/// Streams followed in one file.
const STREAMS: usize = 4;

/// The sequential streams seen in one file.
#[derive(Debug, Default)]
pub struct ReadAhead {
    streams: Vec<Stream>,
    turn: u64,
}

#[derive(Debug)]
struct Stream {
    /// Behind the last byte read.
    at: u64,
    /// Behind the last byte asked for in advance.
    ahead: u64,
    window: u64,
    used: u64,
}

/// What to do for a read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Fetch this in advance; may be empty.
    pub fetch: Range<u64>,
    /// What lies before this was read by the stream and will not be again; may be empty.
    pub passed: Range<u64>,
}

impl ReadAhead {
    /// A read of `range` in a file of `size` bytes.
    pub fn read(&mut self, range: Range<u64>, size: u64) -> Plan {
        self.turn += 1;
        let slack = ((range.end - range.start) * NEAR_LENGTHS).min(NEAR);
        let near = |s: &Stream| range.start + slack >= s.at && range.start <= s.at + slack;
        let Some(s) = self.streams.iter_mut().find(|s| near(s)) else {
            self.begin(range.end);
            return Plan::default();
        };
        s.used = self.turn;
        if range.end <= s.at {
            return Plan::default();
        }
        let was = s.at;
        s.at = range.end;
        s.ahead = s.ahead.max(s.at);
        if s.window == 0 {
            s.window = FIRST;
        }
        let passed = was.saturating_sub(2 * NEAR + WIDEST)..was.saturating_sub(NEAR);
        // Ask again when half of the window is used up, so that requests stay large.
        if s.ahead >= size || s.ahead - s.at > s.window / 2 {
            return Plan { fetch: 0..0, passed };
        }
        let fetch = s.ahead..(s.at + s.window).min(size);
        s.ahead = fetch.end.max(s.ahead);
        s.window = (s.window * 2).min(WIDEST);
        Plan { fetch, passed }
    }

    fn begin(&mut self, at: u64) {
        if self.streams.len() == STREAMS {
            let oldest = self.streams.iter().enumerate().min_by_key(|(_, s)| s.used).map(|(i, _)| i);
            self.streams.swap_remove(oldest.unwrap_or(0));
        }
        self.streams.push(Stream { at, ahead: at, window: 0, used: self.turn });
    }

    /// What was fetched in advance is gone (overwritten, or memory was short): streams start again.
    pub fn reset(&mut self) {
        self.streams.clear();
    }
}

/// Cuts a range at multiples of `piece`.
pub fn cut(range: Range<u64>, piece: u64) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let end = ((at / piece + 1) * piece).min(range.end);
        let r = at..end;
        at = end;
        Some(r)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 1 << 10;
    const M: u64 = 1 << 20;

    #[test]
    fn a_stream_is_fetched_once_and_the_window_grows() {
        let mut r = ReadAhead::default();
        let size = 64 * M;
        let mut ahead = 256 * K;
        let mut widest = 0;
        for i in 0..512 {
            let at = i * 128 * K;
            let plan = r.read(at..at + 128 * K, size);
            if !plan.fetch.is_empty() {
                assert_eq!(plan.fetch.start.max(at), ahead.max(at), "no gap, nothing twice");
                ahead = plan.fetch.end;
                widest = widest.max(ahead - at);
            }
        }
        assert_eq!(ahead, size);
        assert!(widest > 7 * M, "{widest}");
    }

    #[test]
    fn random_reads_fetch_nothing() {
        let mut r = ReadAhead::default();
        for i in 0..1000u64 {
            let at = (i * 7919 % 1000) * 3 * M;
            assert_eq!(r.read(at..at + 4 * K, 3000 * M), Plan::default());
        }
    }

    #[test]
    fn two_streams_and_reads_out_of_order() {
        let mut r = ReadAhead::default();
        let mut fetched = 0;
        for i in [1, 0, 3, 2, 5, 4, 7, 6] {
            for base in [0, 500 * M] {
                let at = base + i * 128 * K;
                fetched += u64::from(!r.read(at..at + 128 * K, 1000 * M).fetch.is_empty());
            }
        }
        assert!(fetched >= 4, "{fetched}");
    }

    #[test]
    fn cuts_are_aligned() {
        assert_eq!(cut(10..25, 10).collect::<Vec<_>>(), [10..20, 20..25]);
        assert_eq!(cut(5..5, 10).count(), 0);
    }
}
