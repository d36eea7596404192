//! A store on disk: fjall behind a log of our own, which is what is synced.

use std::path::Path;

use bytes::Bytes;

use super::engine::Engine;
use super::log::{Full, Log};
use super::{DataDir, Room, Store, StoreError};
use crate::core::records::Counters;
use crate::core::scratch::{Batch, Scratch};
use crate::core::view::{View, ViewError, Visit};

/// Where less is free, nothing is taken that makes the store larger: the engine, which writes its tables
/// later than its log, should not be the one to find the disk full. On a small disk a quarter of it.
const RESERVE: u64 = 96 << 20;
/// Records on disk.
pub struct DiskStore {
    engine: Engine,
    log: Log,
    /// The log holds it and the engine does not, since that has failed; reads see it.
    unapplied: Batch,
    failed: bool,
    dir: DataDir,
}

impl DiskStore {
    /// Opens the store in a data directory, or makes a new one.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(dir: DataDir) -> Result<Self, StoreError> {
        let (engine, log) = open(dir.path())?;
        Ok(Self { engine, log, unapplied: Batch::new(), failed: false, dir })
    }

    /// Puts what is in the log into the engine. The log keeps it until the engine has it durably, so
    /// an engine that fails does no harm: it is opened anew later.
    fn apply(&mut self, number: u64, batch: Batch) {
        if !self.failed {
            match self.engine.apply(number, &batch) {
                Ok(()) => return,
                Err(e) => {
                    tracing::error!("the store's engine has failed, changes wait in its log: {e}");
                    self.failed = true;
                }
            }
        }
        self.unapplied.extend(batch);
    }

    /// Makes place in the log.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::NoSpace);
        }
        self.engine.persist()?;
        self.log.restart();
        Ok(())
    }

    /// Bytes free, and those kept in reserve; `None` when the disk does not say.
    fn free(&self) -> Option<(u64, u64)> {
        let fs = rustix::fs::statvfs(self.dir.path()).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
        Some((bytes(fs.f_bavail), RESERVE.min(bytes(fs.f_blocks) / 4)))
    }
}

/// Opens the engine and brings it up to date from the log.
fn open(dir: &Path) -> Result<(Engine, Log), StoreError> {
    let engine = Engine::open(dir)?;
    let (log, records) = Log::open(dir, engine.applied()?)?;
    for (number, batch) in records {
        engine.apply(number, &batch)?;
    }
    Ok((engine, log))
}

impl View for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        match self.unapplied.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.engine.get(key),
        }
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError> {
        if self.unapplied.is_empty() {
            return self.engine.scan(prefix, from, visit);
        }
        let mut merged = Scratch::new(&self.engine, Counters::default());
        for (key, value) in &self.unapplied {
            match value {
                Some(value) => merged.put(key.clone(), value.clone()),
                None => merged.delete(key.clone()),
            }
        }
        merged.scan(prefix, from, visit)
    }
}

impl Store for DiskStore {
    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut appended = self.log.append(&batch)?;
        if appended == Err(Full::Now) {
            self.checkpoint()?;
            appended = self.log.append(&batch)?;
        }
        match appended {
            Ok(number) => {
                self.apply(number, batch);
                Ok(())
            }
            // Too large for the log: the engine has to be durable by itself.
            Err(_) => {
                self.checkpoint()?;
                let number = self.log.skip();
                self.engine.apply_durably(number, &batch)
            }
        }
    }

    fn room(&self) -> (Room, u64) {
        let Some((free, reserve)) = self.free() else { return (Room::Ample, 0) };
        let room = match free {
            _ if self.failed => Room::None,
            f if f >= reserve => Room::Ample,
            f if f >= reserve / 2 => Room::Scarce,
            _ => Room::None,
        };
        (room, free.saturating_sub(reserve))
    }

    fn tend(&mut self) -> Result<(), StoreError> {
        if !self.failed || self.free().is_some_and(|(free, reserve)| free < reserve) {
            return Ok(());
        }
        self.engine.close();
        (self.engine, self.log) = open(self.dir.path())?;
        self.unapplied.clear();
        self.failed = false;
        tracing::info!("the store's engine works again");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Batch {
        Batch::from([(key.into(), Some(Bytes::from(value.to_owned())))])
    }

    fn open_at(path: &Path) -> DiskStore {
        DiskStore::open(DataDir::open(path).unwrap()).unwrap()
    }

    fn all(store: &DiskStore) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        store
            .scan(b"k", b"k", &mut |key, value| {
                all.push((text(key), text(value)));
                true
            })
            .unwrap();
        all
    }

    #[test]
    fn what_is_only_in_the_log_is_there_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open_at(dir.path());
        store.commit(put("k1", "a")).unwrap();
        store.commit(put("k2", "b")).unwrap();
        // As a crash leaves it: the log as it is, the engine as it was before.
        let crashed = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join("log"), crashed.path().join("log")).unwrap();
        std::fs::copy(dir.path().join("FORMAT"), crashed.path().join("FORMAT")).unwrap();
        let store = open_at(crashed.path());
        assert_eq!(all(&store), [("k1".into(), "a".into()), ("k2".into(), "b".into())]);
    }

    #[test]
    fn an_engine_that_has_failed_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open_at(dir.path());
        store.commit(put("k1", "a")).unwrap();
        store.failed = true;
        store.commit(put("k2", "b")).unwrap();
        store.commit(Batch::from([(b"k1".to_vec(), None)])).unwrap();
        assert_eq!((all(&store), store.room().0), (vec![("k2".into(), "b".into())], Room::None));
        store.tend().unwrap();
        assert_eq!((all(&store), store.room().0), (vec![("k2".into(), "b".into())], Room::Ample));
    }

    #[test]
    fn the_log_goes_round_and_large_batches_go_past_it() {
        let dir = tempfile::tempdir().unwrap();
        let value = "x".repeat(3 << 20);
        let mut store = open_at(dir.path());
        for i in 0..12 {
            store.commit(put(&format!("k{i:02}"), &value)).unwrap();
        }
        store.commit(put("khuge", &value.repeat(6))).unwrap();
        store.commit(put("klast", "z")).unwrap();
        let before = all(&store);
        assert_eq!(before.len(), 14);
        drop(store);
        assert!(all(&open_at(dir.path())) == before);
    }
}
