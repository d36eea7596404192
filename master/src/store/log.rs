//! The log in front of the engine: two files, preallocated and filled with zeros, so that a sync has no
//! block to allocate and no size to record. An overwrite is synced in half the time that a growing file
//! takes, and does not wait for what others write to the same file system.
//!
//! One file is written; when it is full the other one's turn comes, whose records must all be in the engine by then.

mod record;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::StoreError;
use crate::core::scratch::Batch;

const NAMES: [&str; 2] = ["log", "log.1"];
/// Bytes of each.
const SIZE: usize = 8 << 20;

/// One of the files.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: File,
    size: u64,
    /// Where the next record goes.
    offset: u64,
}

/// The log, open for appending.
#[derive(Debug)]
pub(super) struct Log {
    /// The first is the one that is written.
    segments: [Segment; 2],
    /// Of the next record.
    number: u64,
    buffer: Vec<u8>,
}

/// A record does not fit behind the last one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// It will in the other file.
    Now,
    /// It never will.
    Always,
}

/// Records in order, each with its number.
pub(super) type Records = Vec<(u64, Batch)>;

/// What the engine lacks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lacking {
    /// In the file that waits for the engine.
    pub(super) sealed: Records,
    /// In the file that is written.
    pub(super) recent: Records,
}

impl Log {
    /// Opens the log of a data directory, or makes one. Gives back the records with numbers above
    /// `applied`, with which the engine is brought up to date.
    pub(super) fn open(dir: &Path, applied: u64) -> Result<(Self, Lacking), StoreError> {
        let (mut newer, mut recent) = Segment::open(dir, NAMES[0])?;
        let (mut older, mut sealed) = Segment::open(dir, NAMES[1])?;
        let last = |records: &Records| records.last().map_or(0, |(number, _)| *number);
        if last(&sealed) > last(&recent) {
            std::mem::swap(&mut newer, &mut older);
            std::mem::swap(&mut recent, &mut sealed);
        }
        let number = last(&recent).max(applied) + 1;
        // An engine that is ahead of the log needs nothing of it.
        if last(&recent) < applied {
            newer.offset = 0;
        }
        for records in [&mut sealed, &mut recent] {
            records.retain(|(number, _)| *number > applied);
        }
        let mut expected = applied;
        for (logged, _) in sealed.iter().chain(&recent) {
            expected += 1;
            if *logged != expected {
                return Err(StoreError::Gap { applied: expected - 1, logged: *logged });
            }
        }
        Ok((Self { segments: [newer, older], number, buffer: Vec::new() }, Lacking { sealed, recent }))
    }

    /// Makes a batch durable; when it does not fit, nothing has been done.
    pub(super) fn append(&mut self, batch: &Batch) -> Result<Result<(), Full>, StoreError> {
        let [segment, _] = &mut self.segments;
        if !record::encode(&mut self.buffer, self.number, batch) || self.buffer.len() as u64 > segment.size {
            return Ok(Err(Full::Always));
        }
        let end = segment.offset + self.buffer.len() as u64;
        if end > segment.size {
            return Ok(Err(Full::Now));
        }
        let written = segment.file.write_all_at(&self.buffer, segment.offset);
        written.and_then(|()| segment.file.sync_data()).map_err(|e| segment.failed(e))?;
        segment.offset = end;
        self.number += 1;
        Ok(Ok(()))
    }

    /// The number of the last record.
    pub(super) fn last(&self) -> u64 {
        self.number - 1
    }

    /// The other file's turn: all that is in that one must be durable in the engine.
    pub(super) fn turn(&mut self) {
        self.segments.swap(0, 1);
        self.segments[0].offset = 0;
    }

    /// Takes a number for a batch that goes past the log. All that is in the log must be durable in the engine, and the
    /// batch must be before the next record is appended.
    pub(super) fn skip(&mut self) -> u64 {
        self.turn();
        self.number += 1;
        self.last()
    }
}

impl Segment {
    /// Opens the file, or makes it, and reads its records: those of the last round, as their numbers follow each other.
    fn open(dir: &Path, name: &str) -> Result<(Self, Records), StoreError> {
        let path = dir.join(name);
        let at = |source| StoreError::Io { path: path.clone(), source };
        if !path.try_exists().map_err(at)? {
            make(dir, &path).map_err(at)?;
        }
        let content = fs::read(&path).map_err(at)?;
        let file = OpenOptions::new().write(true).open(&path).map_err(at)?;
        let (mut records, mut offset) = (Records::new(), 0);
        while let Some((number, batch, len)) = record::decode(&content[offset..]) {
            if records.last().is_some_and(|(last, _)| number != last + 1) {
                break;
            }
            records.push((number, batch));
            offset += len;
        }
        let (size, offset) = (content.len() as u64, offset as u64);
        Ok((Self { path, file, size, offset }, records))
    }

    fn failed(&self, source: io::Error) -> StoreError {
        StoreError::Io { path: self.path.clone(), source }
    }
}

/// Makes the file: whole or not at all.
fn make(dir: &Path, path: &Path) -> io::Result<()> {
    let new = dir.join("log.new");
    let mut file = File::create(&new)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..SIZE / zeros.len() {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn batch(i: u64) -> Batch {
        Batch::from([(i.to_be_bytes().to_vec(), Some(Bytes::from(vec![7; 1000])))])
    }

    fn numbers(dir: &Path, applied: u64) -> [Vec<u64>; 2] {
        let lacking = Log::open(dir, applied).unwrap().1;
        [lacking.sealed, lacking.recent].map(|records| records.into_iter().map(|(n, _)| n).collect())
    }

    fn append(log: &mut Log, numbers: std::ops::RangeInclusive<u64>) {
        for i in numbers {
            log.append(&batch(i)).unwrap().unwrap();
            assert_eq!(log.last(), i);
        }
    }

    #[test]
    fn gives_back_what_the_engine_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, lacking) = Log::open(dir.path(), 0).unwrap();
        assert_eq!(lacking, Lacking::default());
        append(&mut log, 1..=5);
        assert_eq!(numbers(dir.path(), 0), [vec![], vec![1, 2, 3, 4, 5]]);
        assert_eq!(numbers(dir.path(), 3), [vec![], vec![4, 5]]);
        assert_eq!(Log::open(dir.path(), 3).unwrap().1.recent[0].1, batch(4));
    }

    #[test]
    fn the_files_take_turns_and_earlier_rounds_are_not_taken_for_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path(), 0).unwrap();
        append(&mut log, 1..=9);
        log.turn();
        assert_eq!(numbers(dir.path(), 0), [vec![], vec![1, 2, 3, 4, 5, 6, 7, 8, 9]]);
        append(&mut log, 10..=11);
        assert_eq!(numbers(dir.path(), 8), [vec![9], vec![10, 11]]);
        log.turn();
        append(&mut log, 12..=12);
        assert_eq!(numbers(dir.path(), 9), [vec![10, 11], vec![12]]);
        assert_eq!(numbers(dir.path(), 11), [vec![], vec![12]]);
        assert!(matches!(Log::open(dir.path(), 7), Err(StoreError::Gap { applied: 7, logged: 10 })));
        let (mut log, _) = Log::open(dir.path(), 11).unwrap();
        append(&mut log, 13..=13);
        assert_eq!(log.skip(), 14);
        append(&mut log, 15..=15);
        assert_eq!(numbers(dir.path(), 14), [vec![], vec![15]]);
    }

    #[test]
    fn an_engine_that_is_ahead_needs_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path(), 0).unwrap();
        append(&mut log, 1..=3);
        let (mut log, lacking) = Log::open(dir.path(), 20).unwrap();
        assert_eq!(lacking, Lacking::default());
        append(&mut log, 21..=21);
        assert_eq!(numbers(dir.path(), 20), [vec![], vec![21]]);
    }

    #[test]
    fn says_when_it_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path(), 0).unwrap();
        let large = Batch::from([(b"k".to_vec(), Some(Bytes::from(vec![0; SIZE / 2])))]);
        assert_eq!(log.append(&large).unwrap(), Ok(()));
        assert_eq!(log.append(&large).unwrap(), Err(Full::Now));
        log.turn();
        assert_eq!(log.append(&large).unwrap(), Ok(()));
        let huge = Batch::from([(b"k".to_vec(), Some(Bytes::from(vec![0; SIZE])))]);
        assert_eq!(log.append(&huge).unwrap(), Err(Full::Always));
    }

    #[test]
    fn a_record_cut_at_any_byte_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path(), 0).unwrap();
        append(&mut log, 1..=3);
        let whole = fs::read(dir.path().join(NAMES[0])).unwrap();
        let len = log.segments[0].offset as usize;
        for cut in (0..len).step_by(97) {
            let mut torn = whole.clone();
            torn[cut..].fill(0);
            fs::write(dir.path().join(NAMES[0]), &torn).unwrap();
            let [_, left] = numbers(dir.path(), 0);
            assert_eq!(left.len(), cut * 3 / len, "cut at {cut}");
        }
    }
}
