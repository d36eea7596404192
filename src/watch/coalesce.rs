//! Many changes of one file in short time are told as one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::tree::Line;

/// What is written all the time is told so often.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Told {
    at: Instant,
    /// What has happened since, and when (seconds since 1970).
    since: Option<(i64, Line)>,
}

/// The files of whose changes was told lately; of each, writes apart from changes of attributes.
#[derive(Debug, Default)]
pub struct Coalescer(HashMap<(u64, bool), Told>);

impl Coalescer {
    /// A file's content or attributes have changed: what is to be told at once.
    pub fn changed(&mut self, now: Instant, inode: u64, at: i64, line: Line) -> Option<(i64, Line)> {
        let key = (inode, matches!(line, Line::Written(..)));
        if let Some(told) = self.0.get_mut(&key) {
            told.since = Some((at, line));
            return None;
        }
        self.0.insert(key, Told { at: now, since: None });
        Some((at, line))
    }

    /// A file's name changes: what had happened before has to be told first.
    pub fn take(&mut self, inode: u64) -> Vec<(i64, Line)> {
        let both = [false, true].into_iter().filter_map(|write| self.0.remove(&(inode, write)));
        both.filter_map(|told| told.since).collect()
    }

    /// Everything that has not been told.
    pub fn take_all(&mut self) -> Vec<(i64, Line)> {
        let mut lines: Vec<_> = self.0.drain().filter_map(|(_, told)| told.since).collect();
        lines.sort_by_key(|(at, _)| *at);
        lines
    }

    /// Time has passed: what is to be told now.
    pub fn due(&mut self, now: Instant) -> Vec<(i64, Line)> {
        let mut lines = Vec::new();
        self.0.retain(|_, told| {
            if now.saturating_duration_since(told.at) < INTERVAL {
                return true;
            }
            told.at = now;
            let since = told.since.take();
            let goes_on = since.is_some();
            lines.extend(since);
            goes_on
        });
        lines.sort_by_key(|(at, _)| *at);
        lines
    }

    /// Whether there is anything to be told later, or to be forgotten.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_is_told_at_once_and_the_last_one_later() {
        let (start, mut files) = (Instant::now(), Coalescer::default());
        let write = |size| Line::Written(b"f".to_vec(), size);
        assert_eq!(files.changed(start, 1, 7, write(1)), Some((7, write(1))));
        assert_eq!(files.changed(start, 1, 8, write(2)), None);
        assert_eq!(files.changed(start, 1, 9, write(3)), None);
        let mode = Line::Attributes(b"f".to_vec());
        assert_eq!(files.changed(start, 1, 9, mode.clone()), Some((9, mode)));
        assert_eq!(files.due(start), []);
        assert_eq!(files.due(start + INTERVAL), [(9, write(3))]);
        assert!(!files.is_empty(), "what goes on is told once in each interval");
        assert_eq!(files.due(start + 2 * INTERVAL), []);
        assert!(files.is_empty());
        files.changed(start, 1, 7, write(1));
        files.changed(start, 1, 8, write(2));
        assert_eq!(files.take(1), [(8, write(2))]);
        assert!(files.is_empty());
    }
}
