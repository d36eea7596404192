//! A store on disk: fjall, whose log is synced once a batch.

use std::ops::Bound;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{DataDir, Room, Store, StoreError};
use crate::core::scratch::Batch;
use crate::core::view::{View, ViewError, Visit};

/// Blocks kept in memory, in bytes.
const CACHE: u64 = 64 << 20;
/// Where less is free, nothing is taken that makes the store larger: the engine, which writes its tables
/// later than its log, must never be the one to find the disk full.
const RESERVE: u64 = 96 << 20;
/// Where less is free, nothing is taken at all.
const LAST_RESERVE: u64 = 48 << 20;

/// Records on disk.
pub struct DiskStore {
    database: Database,
    records: Keyspace,
    dir: DataDir,
}

impl DiskStore {
    /// Opens the store in a data directory, or makes a new one.
    ///
    /// # Errors
    /// When the engine cannot read or write it.
    pub fn open(dir: DataDir) -> Result<Self, StoreError> {
        let database = Database::builder(dir.path().join("db"))
            .cache_size(CACHE)
            .manual_journal_persist(true)
            .open()
            .map_err(engine)?;
        let records = database
            .keyspace("records", || KeyspaceCreateOptions::default().manual_journal_persist(true))
            .map_err(engine)?;
        Ok(Self { database, records, dir })
    }
}

fn engine(error: fjall::Error) -> StoreError {
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

impl View for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        let value = self.records.get(key).map_err(unread)?;
        Ok(value.map(|v| Bytes::copy_from_slice(&v)))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError> {
        let start = Bound::Included(from.max(prefix).to_vec());
        for guard in self.records.range::<Vec<u8>, _>((start, after(prefix))) {
            let (key, value) = guard.into_inner().map_err(unread)?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }
}

impl Store for DiskStore {
    fn commit(&mut self, changes: Batch) -> Result<(), StoreError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.records, key, value.as_ref()),
                None => batch.remove(&self.records, key),
            }
        }
        batch.commit().map_err(engine)
    }

    fn room(&self) -> (Room, u64) {
        let Ok(fs) = rustix::fs::statvfs(self.dir.path()) else { return (Room::Ample, 0) };
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        let room = match free {
            f if f >= RESERVE => Room::Ample,
            f if f >= LAST_RESERVE => Room::Scarce,
            _ => Room::None,
        };
        (room, free.saturating_sub(RESERVE))
    }
}
