//! The log in front of the engine: one file, preallocated and filled with zeros, so that a sync has no
//! block to allocate and no size to record. An overwrite is synced in half the time that a growing file
//! takes, and does not wait for what others write to the same file system.
//!
//! A batch is in the log before it is in the engine, which is not synced for it. When the log is full the
//! engine is synced, and the log starts again at its beginning.

mod record;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::StoreError;
use crate::core::scratch::Batch;

const NAME: &str = "log";
/// Bytes.
const SIZE: usize = 8 << 20;

/// The log, open for appending.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    /// Where the next record goes, and its number.
    offset: u64,
    number: u64,
    buffer: Vec<u8>,
}

/// A record does not fit behind the last one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// It will when the log starts again.
    Now,
    /// It never will.
    Always,
}

impl Log {
    /// Opens the log of a data directory, or makes one. Gives back the records with numbers above
    /// `applied`, in order, with which to bring the engine up to date.
    pub(super) fn open(dir: &Path, applied: u64) -> Result<(Self, Vec<(u64, Batch)>), StoreError> {
        let path = dir.join(NAME);
        let at = |source| StoreError::Io { path: path.clone(), source };
        if !path.try_exists().map_err(at)? {
            make(dir, &path).map_err(at)?;
        }
        let content = fs::read(&path).map_err(at)?;
        let file = OpenOptions::new().write(true).open(&path).map_err(at)?;
        let mut records = Vec::new();
        let (mut offset, mut last) = (0, None);
        while let Some((number, batch, len)) = record::decode(&content[offset..]) {
            if last.is_some_and(|last| number != last + 1) {
                break;
            }
            last = Some(number);
            offset += len;
            if number > applied {
                records.push((number, batch));
            }
        }
        if let Some((first, _)) = records.first()
            && *first != applied + 1
        {
            return Err(StoreError::Gap { applied, logged: *first });
        }
        // An engine that is ahead of the log needs nothing of it.
        if last.is_none_or(|last| last < applied) {
            offset = 0;
        }
        let number = last.unwrap_or(0).max(applied) + 1;
        let (size, offset) = (content.len() as u64, offset as u64);
        Ok((Self { path, file, size, offset, number, buffer: Vec::new() }, records))
    }

    /// Makes a batch durable. Gives back the number that it has now; when it does not fit, nothing has
    /// been done.
    pub(super) fn append(&mut self, batch: &Batch) -> Result<Result<u64, Full>, StoreError> {
        if !record::encode(&mut self.buffer, self.number, batch) || self.buffer.len() as u64 > self.size {
            return Ok(Err(Full::Always));
        }
        let end = self.offset + self.buffer.len() as u64;
        if end > self.size {
            return Ok(Err(Full::Now));
        }
        self.file.write_all_at(&self.buffer, self.offset).map_err(|e| self.failed(e))?;
        self.file.sync_data().map_err(|e| self.failed(e))?;
        self.offset = end;
        let number = self.number;
        self.number += 1;
        Ok(Ok(number))
    }

    /// Starts again at the beginning. All that is in the log must be durable in the engine.
    pub(super) fn restart(&mut self) {
        self.offset = 0;
    }

    /// Takes a number for a batch that goes past the log. The engine must have it durably before the
    /// next record is appended.
    pub(super) fn skip(&mut self) -> u64 {
        self.restart();
        let number = self.number;
        self.number += 1;
        number
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

    fn numbers(dir: &Path, applied: u64) -> Vec<u64> {
        Log::open(dir, applied).unwrap().1.into_iter().map(|(n, _)| n).collect()
    }

    #[test]
    fn gives_back_what_the_engine_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, records) = Log::open(dir.path(), 0).unwrap();
        assert!(records.is_empty());
        for i in 1..=5 {
            assert_eq!(log.append(&batch(i)).unwrap(), Ok(i));
        }
        assert_eq!(numbers(dir.path(), 0), [1, 2, 3, 4, 5]);
        assert_eq!(numbers(dir.path(), 3), [4, 5]);
        assert_eq!(Log::open(dir.path(), 3).unwrap().1[0].1, batch(4));
    }

    #[test]
    fn does_not_take_an_earlier_round_for_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path(), 0).unwrap();
        for i in 1..=9 {
            log.append(&batch(i)).unwrap().unwrap();
        }
        log.restart();
        log.append(&batch(10)).unwrap().unwrap();
        assert_eq!(numbers(dir.path(), 9), [10]);
        assert_eq!(log.skip(), 11);
        assert_eq!(numbers(dir.path(), 11), [0_u64; 0]);
        let (mut log, _) = Log::open(dir.path(), 11).unwrap();
        assert_eq!(log.append(&batch(12)).unwrap(), Ok(12));
        assert_eq!(numbers(dir.path(), 11), [12]);
    }

    #[test]
    fn says_when_it_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path(), 0).unwrap();
        let large = Batch::from([(b"k".to_vec(), Some(Bytes::from(vec![0; SIZE / 2])))]);
        assert_eq!(log.append(&large).unwrap(), Ok(1));
        assert_eq!(log.append(&large).unwrap(), Err(Full::Now));
        log.restart();
        assert_eq!(log.append(&large).unwrap(), Ok(2));
        let huge = Batch::from([(b"k".to_vec(), Some(Bytes::from(vec![0; SIZE])))]);
        assert_eq!(log.append(&huge).unwrap(), Err(Full::Always));
    }

    #[test]
    fn a_record_cut_at_any_byte_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(dir.path(), 0).unwrap();
        for i in 1..=3 {
            log.append(&batch(i)).unwrap().unwrap();
        }
        let whole = fs::read(dir.path().join(NAME)).unwrap();
        let len = log.offset as usize;
        for cut in (0..len).step_by(97) {
            let mut torn = whole.clone();
            torn[cut..].fill(0);
            fs::write(dir.path().join(NAME), &torn).unwrap();
            let left = numbers(dir.path(), 0).len();
            assert_eq!(left, cut * 3 / len, "cut at {cut}");
        }
    }
}
