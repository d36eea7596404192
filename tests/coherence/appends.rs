//! Records that all threads append to one file after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::files::{CELL, read_full};
use crate::history::{Object, Recorder, Value};
use crate::rng::Rng;

/// Records of a file; then the next one begins.
const RECORDS: usize = 64;
/// What is found instead of a number of times where a record is not whole.
const TORN: u64 = u64::MAX;

/// The numbers of all records, in the order in which they were about to be appended.
#[derive(Clone, Default)]
pub struct Announced(Arc<Mutex<Vec<u64>>>);

impl Announced {
    /// Into which file it goes.
    fn add(&self, number: u64) -> u64 {
        let mut all = self.0.lock();
        all.push(number);
        ((all.len() - 1) / RECORDS) as u64
    }

    fn last_file(&self) -> u64 {
        (self.0.lock().len().saturating_sub(1) / RECORDS) as u64
    }

    fn of(&self, file: u64) -> Vec<u64> {
        self.0.lock().iter().skip(file as usize * RECORDS).take(RECORDS).copied().collect()
    }
}

/// One thread's view of them.
pub struct Appends {
    dir: PathBuf,
    announced: Announced,
    open: Option<(u64, File)>,
}

impl Appends {
    pub fn new(dir: &Path, announced: Announced) -> Self {
        Self { dir: dir.to_owned(), announced, open: None }
    }

    /// One operation drawn at random.
    pub fn operate(&mut self, rng: &mut Rng, record: &mut Recorder) -> Result<()> {
        let (what, result) = match rng.below(3) {
            0 => ("read", self.read(rng, record)),
            _ => ("append", self.append(rng, record)),
        };
        result.map_err(|error| Error::new(error.kind(), format!("{what} of records: {error}")))
    }

    fn path(&self, file: u64) -> PathBuf {
        self.dir.join(format!("records{file}"))
    }

    /// Sometimes through a handle that has just been opened.
    fn append(&mut self, rng: &mut Rng, record: &mut Recorder) -> Result<()> {
        let number = record.clock.unique();
        let file = self.announced.add(number);
        let start = record.clock.now();
        let result = self.append_to(file, number, rng.below(4) == 0);
        let (object, once) = (Object::Record { file, number }, Value::Number(1));
        match result {
            Ok(()) => record.wrote("append", object, once, start),
            Err(_) => record.may_have_written("append", object, once, start),
        }
        result
    }

    fn append_to(&mut self, file: u64, number: u64, fresh: bool) -> Result<()> {
        if fresh || self.open.as_ref().is_none_or(|(open, _)| *open != file) {
            self.open = Some((file, File::options().append(true).create(true).open(self.path(file))?));
        }
        let Some((_, handle)) = &mut self.open else { return Ok(()) };
        match handle.write(&number.to_le_bytes().repeat(CELL / 8))? {
            CELL => Ok(()),
            length => Err(Error::other(format!("only {length} bytes were appended"))),
        }
    }

    /// The whole of the last file, or of the one before.
    fn read(&self, rng: &mut Rng, record: &mut Recorder) -> Result<()> {
        let file = self.announced.last_file().saturating_sub(rng.below(2));
        let mut times: BTreeMap<u64, u64> = self.announced.of(file).into_iter().map(|n| (n, 0)).collect();
        let start = record.clock.now();
        // In whole cells: what one read has begun with zeros the next must not end with a record.
        let mut bytes = vec![0; 2 * RECORDS * CELL];
        let length = match File::open(self.path(file)) {
            Ok(handle) => read_full(&handle, &mut bytes, 0)?,
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        for cell in bytes[..length].chunks(CELL) {
            let words = cell.chunks(8).map(|w| u64::from_le_bytes(w.try_into().unwrap_or_default()));
            let numbers: BTreeSet<u64> = words.collect();
            let whole = numbers.len() == 1 && cell.len() == CELL;
            // Where something is still to be written, or will never be as its mount has died, there are zeros.
            for number in numbers.into_iter().filter(|n| *n != 0) {
                let times = times.entry(number).or_default();
                *times = if whole { times.saturating_add(1) } else { TORN };
            }
        }
        for (number, times) in times {
            let value = if times == 0 { Value::Nothing } else { Value::Number(times) };
            record.read("read of records", Object::Record { file, number }, value, start);
        }
        Ok(())
    }
}
