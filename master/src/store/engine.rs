//! fjall, as the store uses it: one keyspace, and a mark of how much of the log it holds.

use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::StoreError;
use crate::core::scratch::Batch;
use crate::core::view::{View, ViewError, Visit};

/// Blocks kept in memory, in bytes.
const CACHE: u64 = 64 << 20;
/// Bytes in the engine's memory before it writes a table.
const MEMTABLE: u64 = 16 << 20;
/// Bytes in the engine's own log, which it reads when it starts.
const ENGINE_LOG: u64 = 64 << 20;
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
            .max_journaling_size(ENGINE_LOG)
            .worker_threads(1)
            .open()
            .map_err(failed)?;
        let options =
            || KeyspaceCreateOptions::default().manual_journal_persist(true).max_memtable_size(MEMTABLE);
        let records = database.keyspace("records", options).map_err(failed)?;
        Ok(Self { open: Some((database, records)) })
    }

    /// Before it is opened anew: two must not hold one directory.
    pub(super) fn close(&mut self) {
        self.open = None;
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

    /// Makes the changes of the log's record `number`; they are durable after [`Self::persist`].
    pub(super) fn apply(&self, number: u64, changes: &Batch) -> Result<(), StoreError> {
        self.write(number, changes, None)
    }

    /// The same, durable at once.
    pub(super) fn apply_durably(&self, number: u64, changes: &Batch) -> Result<(), StoreError> {
        self.write(number, changes, Some(PersistMode::SyncAll))
    }

    fn write(&self, number: u64, changes: &Batch, sync: Option<PersistMode>) -> Result<(), StoreError> {
        let (database, records) = self.parts()?;
        let mut batch = database.batch().durability(sync);
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(records, key.as_slice(), value.as_ref()),
                None => batch.remove(records, key.as_slice()),
            }
        }
        batch.insert(records, APPLIED, number.to_be_bytes());
        batch.commit().map_err(failed)
    }

    /// Makes all that was applied durable.
    pub(super) fn persist(&self) -> Result<(), StoreError> {
        self.parts()?.0.persist(PersistMode::SyncAll).map_err(failed)
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
