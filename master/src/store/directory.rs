//! A master's data directory: locked by one process, and marked with the version of its format.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::StoreError;

/// What the file `FORMAT` says.
///
/// History: 1, the first.
pub const FORMAT: &str = "cairnfs-master 1";
const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "lock";

/// The directory, held by this process as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Opens the directory, or makes a new one.
    ///
    /// # Errors
    /// When it is held by another process, has another format, holds something else, or cannot be used.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |source| StoreError::Io { path, source }
        };
        fs::create_dir_all(path).map_err(at(path))?;
        let format_file = path.join(FORMAT_FILE);
        let format = match fs::read_to_string(&format_file) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(at(&format_file)(e)),
        };
        if format.is_none() && !is_fresh(path).map_err(at(path))? {
            return Err(StoreError::Foreign(path.to_path_buf()));
        }
        let lock_file = path.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_file)
            .map_err(at(&lock_file))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::Locked(path.to_path_buf())),
            Err(e) => return Err(at(&lock_file)(e.into())),
        }
        match format {
            Some(found) if found.trim_end() == FORMAT => {}
            Some(found) => {
                return Err(StoreError::Format {
                    path: path.to_path_buf(),
                    found: found.trim_end().chars().take(64).collect(),
                    known: FORMAT.into(),
                });
            }
            None => mark(path).map_err(at(&format_file))?,
        }
        Ok(Self { path: path.to_path_buf(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Nothing in it, but what a file system or an interrupted first start puts there.
fn is_fresh(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != "lost+found" && name != LOCK_FILE && name != "FORMAT.new" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes the format file: whole or not at all.
fn mark(path: &Path) -> io::Result<()> {
    let new = path.join("FORMAT.new");
    let mut file = File::create(&new)?;
    writeln!(file, "{FORMAT}")?;
    file.sync_all()?;
    fs::rename(&new, path.join(FORMAT_FILE))?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_held_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(StoreError::Locked(_))));
        drop(held);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letter.txt"), "dear").unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(StoreError::Foreign(_))));

        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FORMAT_FILE), "cairnfs-master 99\n").unwrap();
        let refused = DataDir::open(dir.path()).unwrap_err();
        assert!(refused.to_string().contains("cairnfs-master 99"), "{refused}");
    }
}
