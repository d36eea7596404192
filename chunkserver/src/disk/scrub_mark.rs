//! `scrub`: how far the verification of the disk had come, so that a restart does not begin it anew.
//!
//! Nothing depends on it: it is not synced, and what cannot be read counts as none.

use std::fs;
use std::io;
use std::path::Path;

const NAME: &str = "scrub";

/// Where a pass was left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubMark {
    /// Up to this chunk all had been verified; 0: the pass was complete.
    pub cursor: u64,
    /// When the pass began, seconds since the Unix epoch; 0: there was none.
    pub began: u64,
}

impl ScrubMark {
    /// Reads the mark in a disk's directory.
    pub fn read(dir: &Path) -> Self {
        let text = fs::read_to_string(dir.join(NAME)).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(cursor)), Some(Ok(began)), None) => Self { cursor, began },
            _ => Self::default(),
        }
    }

    /// Writes it.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let new = dir.join("scrub.new");
        fs::write(&new, format!("{} {}\n", self.cursor, self.began))?;
        fs::rename(&new, dir.join(NAME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_and_nonsense_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ScrubMark::read(dir.path()), ScrubMark::default());
        let mark = ScrubMark { cursor: 7, began: 1_700_000_000 };
        mark.write(dir.path()).unwrap();
        assert_eq!(ScrubMark::read(dir.path()), mark);
        fs::write(dir.path().join(NAME), "7 x").unwrap();
        assert_eq!(ScrubMark::read(dir.path()), ScrubMark::default());
    }
}
