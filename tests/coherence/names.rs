//! Operations on the names of one directory.

use std::fs::{self, File};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::history::{Object, Recorder, Value};
use crate::rng::Rng;

const NAMES: usize = 8;

/// One thread's view of the directory.
pub struct Names {
    dir: PathBuf,
}

impl Names {
    /// The directory, made before the history begins.
    pub fn make(dir: &Path) {
        fs::create_dir(dir.join("names")).unwrap();
    }

    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.join("names") }
    }

    fn path(&self, name: usize) -> PathBuf {
        self.dir.join(format!("n{name}"))
    }

    /// One operation drawn at random.
    pub fn operate(&self, rng: &mut Rng, record: &mut Recorder) -> Result<()> {
        let name = rng.below(NAMES as u64) as usize;
        let other = (name + 1 + rng.below(NAMES as u64 - 1) as usize) % NAMES;
        let (what, result) = match rng.below(10) {
            0..=1 => ("create", self.create(record, name)),
            2 => ("unlink", self.remove(record, name)),
            3 => ("rename", self.rename(record, name, other)),
            4 => ("link", self.link(record, name)),
            5 => ("readdir", self.list(record)),
            _ => ("lstat", self.look(record, name)),
        };
        result.map_err(|error| Error::new(error.kind(), format!("{what} of n{name}: {error}")))
    }

    fn create(&self, record: &mut Recorder, name: usize) -> Result<()> {
        let start = record.clock.now();
        let made = File::create_new(self.path(name)).and_then(|f| f.metadata());
        let inode = made.as_ref().map_or(Value::Something, |m| Value::Number(m.ino()));
        changed(record, "create", Value::Nothing, &[Change { name, to: inode }], made.map(drop), start)
    }

    fn remove(&self, record: &mut Recorder, name: usize) -> Result<()> {
        let start = record.clock.now();
        let result = fs::remove_file(self.path(name));
        changed(record, "unlink", Value::Something, &[Change { name, to: Value::Nothing }], result, start)
    }

    /// No two of the names ever lead to the same inode: then a rename would do nothing (POSIX).
    fn rename(&self, record: &mut Recorder, from: usize, to: usize) -> Result<()> {
        let start = record.clock.now();
        let result = fs::rename(self.path(from), self.path(to));
        let left = Change { name: from, to: Value::Nothing };
        let arrived = Change { name: to, to: Value::Something };
        changed(record, "rename", Value::Something, &[left, arrived], result, start)
    }

    /// A further name of a file that is made for it, and has lost its first name before anybody renames it.
    fn link(&self, record: &mut Recorder, name: usize) -> Result<()> {
        let source = self.dir.join(format!("s{}", record.clock.unique()));
        let inode = File::create_new(&source)?.metadata()?.ino();
        let start = record.clock.now();
        let result = fs::hard_link(&source, self.path(name));
        let linked = Change { name, to: Value::Number(inode) };
        changed(record, "link", Value::Nothing, &[linked], result, start)?;
        fs::remove_file(source)
    }

    fn look(&self, record: &mut Recorder, name: usize) -> Result<()> {
        let start = record.clock.now();
        let value = match fs::symlink_metadata(self.path(name)) {
            Ok(metadata) => Value::Number(metadata.ino()),
            Err(error) if error.kind() == ErrorKind::NotFound => Value::Nothing,
            Err(error) => return Err(error),
        };
        record.read("lstat", Object::Name(name), value, start);
        Ok(())
    }

    /// What it lists was there at some time while it was read, what it does not list was missing at some time.
    fn list(&self, record: &mut Recorder) -> Result<()> {
        let start = record.clock.now();
        let mut values = [Value::Nothing; NAMES];
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            if let Some(number) = name.strip_prefix('n').and_then(|n| n.parse::<usize>().ok()) {
                *values.get_mut(number).ok_or_else(|| Error::other(format!("listed: {name}")))? =
                    Value::Number(entry.ino());
            }
        }
        for (name, value) in values.into_iter().enumerate() {
            record.read("readdir", Object::Name(name), value, start);
        }
        Ok(())
    }
}

/// What an operation that goes well leaves at a name.
struct Change {
    name: usize,
    to: Value,
}

/// Records an operation that found `found` at the name of its first change if it went well. If the name was not so it is refused, and has only
/// looked; of any other failure the outcome is not known.
fn changed(
    record: &mut Recorder,
    what: &'static str,
    found: Value,
    changes: &[Change],
    result: Result<()>,
    start: u64,
) -> Result<()> {
    let (refusal, otherwise) = match found {
        Value::Nothing => (ErrorKind::AlreadyExists, Value::Something),
        Value::Something | Value::Number(_) => (ErrorKind::NotFound, Value::Nothing),
    };
    let name = Object::Name(changes[0].name);
    match result {
        Ok(()) => {
            record.read(what, name, found, start);
            changes.iter().for_each(|c| record.wrote(what, Object::Name(c.name), c.to, start));
            Ok(())
        }
        Err(error) if error.kind() == refusal => {
            record.read(what, name, otherwise, start);
            Ok(())
        }
        Err(error) => {
            changes.iter().for_each(|c| record.may_have_written(what, Object::Name(c.name), c.to, start));
            Err(error)
        }
    }
}
