//! A store on disk: a log of our own, which is what is synced, and fjall behind it.
//!
//! What is in the log's current file is also in memory. When the file is full, a thread writes all of it into the
//! engine as one sorted table, while the other file goes on. So nothing is written that must be read again at the start but the log.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use bytes::Bytes;

use super::engine::Engine;
use super::log::{Full, Log, Records};
use super::{DataDir, Room, Store, StoreError};
use crate::core::layer::Layer;
use crate::core::scratch::Batch;
use crate::core::view::{View, ViewError, Visit};

/// Where less is free, nothing is taken that makes the store larger: the engine, which writes its tables
/// later than its log, should not be the one to find the disk full. On a small disk a quarter of it.
const RESERVE: u64 = 96 << 20;

/// Records on disk.
pub struct DiskStore {
    engine: Arc<Engine>,
    log: Log,
    /// All that is in the log's current file.
    recent: Batch,
    /// All that is in its other file, as long as the engine does not have it.
    sealed: Option<Sealed>,
    dir: DataDir,
}

/// On its way into the engine.
struct Sealed {
    changes: Arc<Batch>,
    /// Of the last record.
    number: u64,
    /// How the writing ended. `None`: it has failed, and waits to be tried again.
    outcome: Option<Receiver<Result<(), StoreError>>>,
}

impl DiskStore {
    /// Opens the store in a data directory, or makes a new one.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(dir: DataDir) -> Result<Self, StoreError> {
        let engine = Arc::new(Engine::open(dir.path())?);
        let (log, lacking) = Log::open(dir.path(), engine.applied()?)?;
        let mut store = Self { engine, log, recent: all_of(lacking.recent), sealed: None, dir };
        if let Some((number, _)) = lacking.sealed.last() {
            store.write(*number, Arc::new(all_of(lacking.sealed)));
        }
        Ok(store)
    }

    /// Writes to the engine, in a thread of its own.
    fn write(&mut self, number: u64, changes: Arc<Batch>) {
        let (ended, outcome) = sync_channel(1);
        let (engine, written) = (Arc::clone(&self.engine), Arc::clone(&changes));
        let work = move || {
            let result = engine.write(number, &written);
            // Before the end is told: whoever hears of it may close the engine.
            drop(engine);
            // Nobody listens when the store is closed.
            let _ = ended.send(result);
        };
        let started = std::thread::Builder::new().name("store".into()).spawn(work);
        if let Err(e) = &started {
            tracing::error!("no thread can be had that writes the store's engine: {e}");
        }
        self.sealed = Some(Sealed { changes, number, outcome: started.is_ok().then_some(outcome) });
    }

    /// Looks whether the engine has what was sealed; waits for it at most so long.
    fn settle(&mut self, patience: Duration) {
        let Some(sealed) = &mut self.sealed else { return };
        let Some(outcome) = &sealed.outcome else { return };
        match outcome.recv_timeout(patience) {
            Ok(Ok(())) => self.sealed = None,
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Err(e)) => {
                tracing::error!("the store's engine has failed, changes wait in its log: {e}");
                sealed.outcome = None;
            }
            Err(RecvTimeoutError::Disconnected) => {
                tracing::error!("the thread that writes the store's engine is gone, changes wait in its log");
                sealed.outcome = None;
            }
        }
    }

    /// The log's current file is to be written into the engine, and the other one's turn comes.
    fn seal(&mut self) -> Result<(), StoreError> {
        self.settle(Duration::MAX);
        if self.sealed.is_some() {
            return Err(StoreError::NoSpace);
        }
        let changes = Arc::new(std::mem::take(&mut self.recent));
        self.write(self.log.last(), changes);
        self.log.turn();
        Ok(())
    }

    /// A batch that is too large for the log: everything goes into the engine, it too.
    fn commit_past_the_log(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.seal()?;
        self.settle(Duration::MAX);
        if self.sealed.is_some() {
            return Err(StoreError::NoSpace);
        }
        let number = self.log.skip();
        self.engine.write(number, batch)
    }

    fn has_failed(&self) -> bool {
        self.sealed.as_ref().is_some_and(|s| s.outcome.is_none())
    }

    /// What is read: the changes that the engine does not have, over it.
    fn layered<T>(&self, read: impl FnOnce(&dyn View) -> T) -> T {
        let engine: &dyn View = self.engine.as_ref();
        match &self.sealed {
            None => read(&Layer { base: engine, changes: &self.recent }),
            Some(sealed) => {
                let base = &Layer { base: engine, changes: &sealed.changes };
                read(&Layer { base, changes: &self.recent })
            }
        }
    }

    /// Bytes free, and those kept in reserve; `None` when the disk does not say.
    fn free(&self) -> Option<(u64, u64)> {
        let fs = rustix::fs::statvfs(self.dir.path()).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
        Some((bytes(fs.f_bavail), RESERVE.min(bytes(fs.f_blocks) / 4)))
    }
}

impl Drop for DiskStore {
    /// The directory is not free before the engine has been let go.
    fn drop(&mut self) {
        self.settle(Duration::MAX);
    }
}

/// The records as one batch.
fn all_of(records: Records) -> Batch {
    records.into_iter().flat_map(|(_, batch)| batch).collect()
}

impl View for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.layered(|view| view.get(key))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError> {
        self.layered(|view| view.scan(prefix, from, visit))
    }
}

impl Store for DiskStore {
    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut appended = self.log.append(&batch)?;
        if appended == Err(Full::Now) {
            self.seal()?;
            appended = self.log.append(&batch)?;
        }
        match appended {
            Ok(()) => {
                self.recent.extend(batch);
                Ok(())
            }
            Err(_) => self.commit_past_the_log(&batch),
        }
    }

    fn room(&self) -> (Room, u64) {
        let Some((free, reserve)) = self.free() else { return (Room::Ample, 0) };
        let room = match free {
            _ if self.has_failed() => Room::None,
            f if f >= reserve => Room::Ample,
            f if f >= reserve / 2 => Room::Scarce,
            _ => Room::None,
        };
        (room, free.saturating_sub(reserve))
    }

    fn tend(&mut self) -> Result<(), StoreError> {
        self.settle(Duration::ZERO);
        if !self.has_failed() || self.free().is_some_and(|(free, reserve)| free < reserve) {
            return Ok(());
        }
        let Some(Sealed { changes, number, .. }) = self.sealed.take() else { return Ok(()) };
        // What failed half-way is not used again.
        self.engine = Arc::new(Engine::closed());
        match Engine::open(self.dir.path()) {
            Ok(engine) => self.engine = Arc::new(engine),
            Err(e) => {
                self.sealed = Some(Sealed { changes, number, outcome: None });
                return Err(e);
            }
        }
        tracing::info!("the store's engine is tried again");
        self.write(number, changes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

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
        let works = std::mem::replace(&mut store.engine, Arc::new(Engine::closed()));
        store.seal().unwrap();
        store.settle(Duration::MAX);
        store.engine = works;
        store.commit(put("k2", "b")).unwrap();
        assert_eq!((all(&store).len(), store.room().0), (2, Room::None));
        assert!(matches!(store.seal(), Err(StoreError::NoSpace)), "both files of the log are in use");
        store.commit(Batch::from([(b"k1".to_vec(), None)])).unwrap();
        let left = vec![("k2".to_owned(), "b".to_owned())];
        assert_eq!(all(&store), left);
        store.tend().unwrap();
        store.settle(Duration::MAX);
        assert_eq!((all(&store), store.room().0), (left.clone(), Room::Ample));
        store.seal().unwrap();
        drop(store);
        assert_eq!(all(&open_at(dir.path())), left);
    }

    #[test]
    fn it_agrees_with_a_model_over_many_rounds_and_openings() {
        use rand::rngs::StdRng;
        use rand::{Rng, SeedableRng};
        let dir = tempfile::tempdir().unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let mut model = std::collections::BTreeMap::new();
        let mut store = open_at(dir.path());
        for round in 0..300 {
            let mut batch = Batch::new();
            for _ in 0..rng.random_range(1..6) {
                let key = format!("k{:02}", rng.random_range(0..60));
                let value = rng.random_bool(0.7).then(|| format!("{round} {}", rng.random::<u32>()));
                batch.insert(key.clone().into(), value.clone().map(Bytes::from));
                match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
            }
            store.commit(batch).unwrap();
            match rng.random_range(0..20) {
                0..4 => store.seal().unwrap(),
                4 => {
                    drop(store);
                    store = open_at(dir.path());
                }
                _ => {}
            }
            let all = all(&store);
            assert!(all.iter().map(|(k, v)| (k, v)).eq(&model), "round {round}");
            let key = format!("k{:02}", rng.random_range(0..60));
            let value = store.get(key.as_bytes()).unwrap();
            assert_eq!(value.as_deref(), model.get(&key).map(String::as_bytes), "round {round}: {key}");
        }
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
