//! fjall, as the store uses it: one keyspace of sorted tables, which the store writes whole, and a mark of how much of the log they
//! hold. Its own log and its tables in memory are not used: they would be a second log to write, and to read at the start.

use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};

use super::StoreError;
use crate::core::scratch::Batch;
use crate::core::view::{View, ViewError, Visit};

/// Blocks kept in memory, in bytes.
const CACHE: u64 = 64 << 20;
/// Under this key the engine has the number of the last log record that it holds.
const APPLIED: &[u8] = b"mapplied";

/// fjall, with one keyspace.
pub(super) struct Engine {
    open: Option<(Database, Keyspace)>,
}

impl Engine {
    /// Opens it, or makes a new one.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let database = Database::builder(dir.join("db"))
            .cache_size(CACHE)
            .manual_journal_persist(true)
            .worker_threads(1)
            .open()
            .map_err(failed)?;
        let options = || KeyspaceCreateOptions::default().manual_journal_persist(true);
        let records = database.keyspace("records", options).map_err(failed)?;
        Ok(Self { open: Some((database, records)) })
    }

    /// In place of one that is opened anew: two must not hold one directory.
    pub(super) fn closed() -> Self {
        Self { open: None }
    }

    fn parts(&self) -> Result<&(Database, Keyspace), StoreError> {
        self.open.as_ref().ok_or_else(|| StoreError::Engine("it is closed".into()))
    }

    /// The number of the last log record that it holds; 0: none.
    pub(super) fn applied(&self) -> Result<u64, StoreError> {
        let value = self.get(APPLIED).map_err(|e| StoreError::Engine(e.to_string()))?;
        let Some(value) = value else { return Ok(0) };
        let number = value.as_ref().try_into().map_err(|_| StoreError::Engine("its mark is bad".into()))?;
        Ok(u64::from_be_bytes(number))
    }

    /// Makes the changes of all the log's records up to `number`, durably, all or none.
    pub(super) fn write(&self, number: u64, changes: &Batch) -> Result<(), StoreError> {
        let mut tables = self.parts()?.1.start_ingestion().map_err(failed)?;
        let mark = (APPLIED.to_vec(), Some(Bytes::copy_from_slice(&number.to_be_bytes())));
        let mark = [(&mark.0, &mark.1)];
        let before = changes.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(APPLIED)));
        let behind = changes.range::<[u8], _>((Bound::Excluded(APPLIED), Bound::Unbounded));
        for (key, value) in before.chain(mark).chain(behind) {
            match value {
                Some(value) => tables.write(key.as_slice(), value.as_ref()),
                None => tables.write_tombstone(key.as_slice()),
            }
            .map_err(failed)?;
        }
        tables.finish().map_err(failed)
    }
}

impl View for Engine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let value = self.parts().map_err(unread)?.1.get(key).map_err(unread)?;
        Ok(value.map(|v| Bytes::copy_from_slice(&v)))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError> {
        let start = Bound::Included(from.max(prefix).to_vec());
        for guard in self.parts().map_err(unread)?.1.range::<Vec<u8>, _>((start, after(prefix))) {
            let (key, value) = guard.into_inner().map_err(unread)?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }
}

fn failed(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => StoreError::NoSpace,
        other => StoreError::Engine(other.to_string()),
    }
}

fn unread(error: impl std::fmt::Display) -> ViewError {
    ViewError(error.to_string())
}

/// The first key after all those that start with `prefix`.
fn after(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}
