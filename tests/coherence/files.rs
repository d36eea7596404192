//! Operations on files: their bytes by every way there is, their sizes and attributes.

use std::fs::{File, Metadata};
use std::io::{Error, Result};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};

use crate::history::{Object, Recorder, Value};
use crate::map::Map;
use crate::rng::Rng;

/// Bytes of a cell. It divides a block of checksums, so that no write of a cell is in two of them.
pub const CELL: usize = 512;
pub const CELLS: usize = 48;
/// Cells of a page.
const PAGE: usize = 4096 / CELL;
/// Files whose cells are written, and which keep their size: they may be mapped.
const FIXED: usize = 2;
/// Files whose cells are written, and which are cut and grow.
const CUT: usize = 2;
/// Files for attributes and sizes.
const PLAIN: usize = 3;
/// Files that are locked, one of each kind whose bytes are written.
pub const LOCKED: [usize; 2] = [0, FIXED];
const XATTR: &str = "user.coherence";
/// Where the numbers that become times begin, seconds since 1970.
const EPOCH: u64 = 1_000_000_000;

fn path(dir: &Path, file: usize) -> PathBuf {
    dir.join(format!("file{file}"))
}

/// Makes all files; before the history begins.
pub fn make(dir: &Path) {
    for file in 0..FIXED + CUT + PLAIN {
        let made = File::create_new(path(dir, file)).unwrap();
        if file < FIXED {
            made.set_len((CELLS * CELL) as u64).unwrap();
        }
        made.set_permissions(PermissionsExt::from_mode(0o600)).unwrap();
    }
}

/// One thread's handles on them.
pub struct Files {
    dir: PathBuf,
    handles: Vec<File>,
    /// Whether they may be mapped: who touches a map of a mount that was killed gets a SIGBUS.
    mapped: bool,
}

pub fn open(dir: &Path, file: usize) -> Result<File> {
    File::options().read(true).write(true).open(path(dir, file))
}

impl Files {
    pub fn open(dir: &Path, mapped: bool) -> Result<Self> {
        let handles = (0..FIXED + CUT + PLAIN).map(|file| open(dir, file)).collect::<Result<_>>()?;
        Ok(Self { dir: dir.to_owned(), handles, mapped })
    }

    /// One operation drawn at random.
    pub fn operate(&self, rng: &mut Rng, record: &mut Recorder) -> Result<()> {
        let cells = rng.below((FIXED + CUT) as u64) as usize;
        let fixed = rng.below(FIXED as u64) as usize;
        let cut = FIXED + rng.below(CUT as u64) as usize;
        let plain = FIXED + CUT + rng.below(PLAIN as u64) as usize;
        let (what, result) = match rng.below(21) {
            0..=5 => ("read", self.read(rng, record, cells)),
            6..=10 => ("write", self.write(rng, record, cells)),
            11 if self.mapped => ("read of a map", self.read_map(rng, record, fixed)),
            12 if self.mapped => ("write to a map", self.write_map(rng, record, fixed)),
            13 => ("truncation", self.truncate(rng, record, cut)),
            14 => ("truncation of a plain file", self.resize(record, plain)),
            15 => ("utimens", self.set_time(record, plain)),
            16 => ("chmod", self.set_mode(rng, record, plain)),
            17 => ("setxattr", self.set_attribute(record, plain)),
            18 => ("fstat", self.measure(rng, record, cut)),
            _ => ("look at attributes", self.look(rng, record, plain)),
        };
        result.map_err(|error| Error::new(error.kind(), format!("{what}: {error}")))
    }

    /// Sometimes through a handle that has just been opened, as programs do.
    fn with<T>(&self, fresh: bool, file: usize, operate: impl FnOnce(&File) -> Result<T>) -> Result<T> {
        if fresh { operate(&open(&self.dir, file)?) } else { operate(&self.handles[file]) }
    }

    fn read(&self, rng: &mut Rng, record: &mut Recorder, file: usize) -> Result<()> {
        let (first, count, fresh) = range(rng);
        let mut bytes = vec![0; count * CELL];
        let start = record.clock.now();
        let length = self.with(fresh, file, |f| read_full(f, &mut bytes, (first * CELL) as u64))?;
        bytes[length..].fill(0);
        found(record, "read", file, first, &bytes, start);
        Ok(())
    }

    fn write(&self, rng: &mut Rng, record: &mut Recorder, file: usize) -> Result<()> {
        let (first, count, fresh) = range_to_write(rng, file);
        let number = record.clock.unique();
        let bytes = number.to_le_bytes().repeat(count * CELL / 8);
        let start = record.clock.now();
        let result = self.with(fresh, file, |f| f.write_all_at(&bytes, (first * CELL) as u64));
        if file >= FIXED {
            let (end, known) = (((first + count) * CELL) as u64, result.is_ok());
            record.extended("write", Object::Length(file), end, start, known);
        }
        wrote(record, "write", file, first..first + count, Value::Number(number), start, result)
    }

    fn read_map(&self, rng: &mut Rng, record: &mut Recorder, file: usize) -> Result<()> {
        let (first, count, _) = range(rng);
        let start = record.clock.now();
        let map = Map::new(&self.handles[file])?;
        let bytes = map.read(first * CELL, count * CELL);
        found(record, "read through a map", file, first, &bytes, start);
        Ok(())
    }

    fn write_map(&self, rng: &mut Rng, record: &mut Recorder, file: usize) -> Result<()> {
        let (first, count, _) = range_to_write(rng, file);
        let number = record.clock.unique();
        let bytes = number.to_le_bytes().repeat(count * CELL / 8);
        let start = record.clock.now();
        let map = Map::new(&self.handles[file])?;
        map.write(first * CELL, &bytes);
        let result = map.sync();
        wrote(record, "write through a map", file, first..first + count, Value::Number(number), start, result)
    }

    /// To a multiple of a cell; what lies beyond is zeros from now on.
    fn truncate(&self, rng: &mut Rng, record: &mut Recorder, file: usize) -> Result<()> {
        let cells = rng.below(CELLS as u64) as usize;
        let start = record.clock.now();
        let result = change(record, "truncate", Object::Length(file), (cells * CELL) as u64, || {
            self.handles[file].set_len((cells * CELL) as u64)
        });
        wrote(record, "truncate", file, cells..CELLS, Value::Nothing, start, result)
    }

    fn measure(&self, rng: &mut Rng, record: &mut Recorder, file: usize) -> Result<()> {
        let start = record.clock.now();
        let size = self.with(rng.below(4) == 0, file, |f| Ok(f.metadata()?.size()))?;
        record.read("fstat", Object::Length(file), number_or_nothing(size, 0), start);
        Ok(())
    }

    fn resize(&self, record: &mut Recorder, file: usize) -> Result<()> {
        let number = record.clock.unique();
        change(record, "truncate", Object::Size(file), number, || self.handles[file].set_len(number))
    }

    fn set_time(&self, record: &mut Recorder, file: usize) -> Result<()> {
        let number = record.clock.unique();
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(EPOCH, number as u32);
        change(record, "utimens", Object::Time(file), number, || self.handles[file].set_modified(time))
    }

    fn set_mode(&self, rng: &mut Rng, record: &mut Recorder, file: usize) -> Result<()> {
        let number = 0o600 | rng.between(1, 63);
        let mode = PermissionsExt::from_mode(number as u32);
        change(record, "chmod", Object::Mode(file), number, || self.handles[file].set_permissions(mode))
    }

    fn set_attribute(&self, record: &mut Recorder, file: usize) -> Result<()> {
        let number = record.clock.unique();
        let (handle, value) = (self.handles[file].as_fd(), number.to_string());
        change(record, "setxattr", Object::Attribute(file), number, || {
            Ok(fsetxattr(handle, XATTR, value.as_bytes(), XattrFlags::empty())?)
        })
    }

    /// At one file's attributes, of one kind each time.
    fn look(&self, rng: &mut Rng, record: &mut Recorder, file: usize) -> Result<()> {
        let start = record.clock.now();
        if rng.below(4) == 0 {
            let mut value = [0; 32];
            let value = match fgetxattr(&self.handles[file], XATTR, &mut value[..]) {
                Ok(length) => {
                    let text = std::str::from_utf8(&value[..length]).map_err(Error::other)?;
                    Value::Number(text.parse().map_err(Error::other)?)
                }
                Err(rustix::io::Errno::NODATA) => Value::Nothing,
                Err(error) => return Err(error.into()),
            };
            record.read("getxattr", Object::Attribute(file), value, start);
            return Ok(());
        }
        let (what, metadata) = if rng.below(2) == 0 {
            ("fstat", self.handles[file].metadata()?)
        } else {
            ("stat", std::fs::metadata(path(&self.dir, file))?)
        };
        seen(record, what, file, &metadata, start);
        Ok(())
    }
}

fn number_or_nothing(number: u64, nothing: u64) -> Value {
    if number == nothing { Value::Nothing } else { Value::Number(number) }
}

fn seen(record: &mut Recorder, what: &'static str, file: usize, metadata: &Metadata, start: u64) {
    record.read(what, Object::Size(file), number_or_nothing(metadata.size(), 0), start);
    record.read(
        what,
        Object::Mode(file),
        number_or_nothing(u64::from(metadata.mode()) & 0o7777, 0o600),
        start,
    );
    // A truncation sets the time, too; only times that were set on purpose tell something.
    if metadata.mtime() == EPOCH as i64 {
        record.read(what, Object::Time(file), Value::Number(metadata.mtime_nsec() as u64), start);
    }
}

/// First cell, number of cells, whether through a new handle.
fn range(rng: &mut Rng) -> (usize, usize, bool) {
    let count = rng.between(1, 6) as usize;
    (rng.below((CELLS - count + 1) as u64) as usize, count, rng.below(4) == 0)
}

/// The same for a write. A page that is mapped is written back as a whole, with what others may have changed in it meanwhile; so
/// files that are mapped are written in whole pages.
fn range_to_write(rng: &mut Rng, file: usize) -> (usize, usize, bool) {
    let (first, count, fresh) = range(rng);
    if file < FIXED { (first / PAGE * PAGE, PAGE, fresh) } else { (first, count, fresh) }
}

pub fn read_full(file: &File, bytes: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

/// Every number that a cell holds counts as one read of it: two threads of one mount may meet in the middle of a page.
fn found(record: &mut Recorder, what: &'static str, file: usize, first: usize, bytes: &[u8], start: u64) {
    for (i, cell) in bytes.chunks(CELL).enumerate() {
        let mut numbers: Vec<u64> =
            cell.chunks(8).map(|w| u64::from_le_bytes(w.try_into().unwrap())).collect();
        numbers.dedup();
        for number in numbers {
            let value = if number == 0 { Value::Nothing } else { Value::Number(number) };
            record.read(what, Object::Cell { file, index: first + i }, value, start);
        }
    }
}

fn wrote(
    record: &mut Recorder,
    what: &'static str,
    file: usize,
    cells: std::ops::Range<usize>,
    value: Value,
    start: u64,
    result: Result<()>,
) -> Result<()> {
    for index in cells {
        let object = Object::Cell { file, index };
        match result {
            Ok(()) => record.wrote(what, object, value, start),
            Err(_) => record.may_have_written(what, object, value, start),
        }
    }
    result
}

fn change(
    record: &mut Recorder,
    what: &'static str,
    object: Object,
    number: u64,
    operate: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let value = number_or_nothing(number, 0);
    let start = record.clock.now();
    let result = operate();
    match result {
        Ok(()) => record.wrote(what, object, value, start),
        Err(_) => record.may_have_written(what, object, value, start),
    }
    result
}
