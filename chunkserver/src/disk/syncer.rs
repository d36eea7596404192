//! A thread for each disk that makes writes stable: all who wait share one sync of the journal, and are
//! answered from this thread, which saves waking another one.

use super::ChunkFile;
use super::error::DiskError;
use super::storage::StorageFile;
use super::store::Disk;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Files that are synced at once.
const SYNC_THREADS: usize = 4;

type Done = Box<dyn FnOnce(Result<(), DiskError>) + Send>;

struct Request {
    chunk: Arc<ChunkFile>,
    done: Done,
}

/// Asks for syncs of one disk.
pub struct Syncer {
    shared: Arc<Shared>,
    disk: Arc<Disk>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    stopped: bool,
}

impl Syncer {
    /// Starts the thread, which ends when this is dropped.
    pub fn start(disk: Arc<Disk>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (s, d) = (shared.clone(), disk.clone());
        std::thread::Builder::new().name("disk-sync".into()).spawn(move || run(&s, &d))?;
        Ok(Self { shared, disk })
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Calls `done`, in the thread, once everything written to `chunk` before now is on stable storage.
    pub fn sync(&self, chunk: Arc<ChunkFile>, done: impl FnOnce(Result<(), DiskError>) + Send + 'static) {
        self.shared.queue.lock().requests.push(Request { chunk, done: Box::new(done) });
        self.shared.more.notify_one();
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.queue.lock().stopped = true;
        self.shared.more.notify_one();
    }
}

fn run(shared: &Shared, disk: &Disk) {
    loop {
        let batch = {
            let mut q = shared.queue.lock();
            while q.requests.is_empty() && !q.stopped {
                shared.more.wait(&mut q);
            }
            if q.requests.is_empty() {
                return;
            }
            std::mem::take(&mut q.requests)
        };
        let ok = disk.sync_chunks(batch.iter().map(|r| &r.chunk)).is_ok();
        for r in batch {
            (r.done)(if ok { Ok(()) } else { Err(DiskError::Failed) });
        }
    }
}

impl Disk {
    /// Everything written to these chunks before the call is on stable storage when this returns.
    /// Calls must not overlap.
    pub fn sync_chunks<'a>(&self, chunks: impl Iterator<Item = &'a Arc<ChunkFile>>) -> Result<(), DiskError> {
        if self.has_failed() {
            return Err(DiskError::Failed);
        }
        let mut files = Vec::new();
        let mut dirs = BTreeSet::new();
        for c in chunks {
            let mut state = c.state.lock();
            if !state.deleted && std::mem::take(&mut state.unsynced) {
                files.push(self.file(c, &mut state)?);
                if std::mem::take(&mut state.fresh) {
                    dirs.insert(c.dir());
                }
            }
        }
        self.stable(sync_files(&files))?;
        for dir in dirs {
            self.stable(self.storage.sync_dir(&dir))?;
        }
        self.stable(self.journal.sync())
    }

    /// After a failed sync nobody knows what is stable, and asking again would not tell: the disk is done for.
    pub(super) fn stable(&self, r: std::io::Result<()>) -> Result<(), DiskError> {
        r.map_err(|e| {
            self.fail(&e);
            DiskError::Io(e)
        })
    }
}

/// A disk does better with several requests at hand than with one after the other.
fn sync_files(files: &[Arc<dyn StorageFile>]) -> std::io::Result<()> {
    let some = |files: &[Arc<dyn StorageFile>]| files.iter().try_for_each(|f| f.sync());
    if files.len() < 2 {
        return some(files);
    }
    std::thread::scope(|scope| {
        let parts = files.chunks(files.len().div_ceil(SYNC_THREADS));
        let threads: Vec<_> = parts.map(|part| scope.spawn(move || some(part))).collect();
        let died = |_| Err(std::io::Error::other("a syncing thread died"));
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(died))
    })
}
