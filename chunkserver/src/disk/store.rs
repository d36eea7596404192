//! A disk: what is kept of it in memory, and the life of its replicas.

use super::chunk_file::{ChunkFile, FileState, dir, path};
use super::error::DiskError;
use super::journal::Journal;
use super::spares::Spares;
use super::storage::{Storage, StorageFile};
use crate::core::layout::{ChunkMeta, ENTRY, Geometry};
use crate::core::record::Body;
use crate::core::table::{PAGE, Table};
use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How a disk is run.
#[derive(Clone, Copy, Debug)]
pub struct DiskSettings {
    /// Bytes in a chunk.
    pub geometry: Geometry,
    /// Bytes in a journal segment.
    pub segment_bytes: u64,
    /// Writes that need room are refused when less than this is free, bytes.
    pub reserve: u64,
    /// Files kept open.
    pub open_files: usize,
}

/// Percent of a disk.
const FILLING: u64 = 85;

/// A disk with its journal and its chunk files.
pub struct Disk {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) settings: DiskSettings,
    pub(super) journal: Journal,
    pub(super) dirty: Mutex<HashMap<u64, Arc<ChunkFile>>>,
    pub(super) checkpointing: Mutex<()>,
    /// Files of deleted replicas, to be removed or kept for new ones a few at a time; the blocks that they have room for.
    doomed: Mutex<BTreeMap<u64, u32>>,
    /// Files that will be kept once it is durable that they are nobody's.
    pub(super) blanked: Mutex<HashMap<u64, Blanked>>,
    spares: Mutex<Spares>,
    turn: AtomicU64,
    files: Mutex<LruCache<u64, Arc<dyn StorageFile>>>,
    pub(super) free: AtomicU64,
    total: AtomicU64,
    failed: AtomicBool,
    /// Bytes of loaded tables, roughly.
    pub(super) table_bytes: AtomicU64,
    /// Replicas that were deleted before the disk was opened, as far as its journal still knows, and their epochs.
    pub deleted_before: Vec<(u64, u64)>,
    /// What was found wrong with replicas.
    pub findings: Findings,
}

/// What was found wrong with replicas on a disk since it was opened, by scrubbing or otherwise.
#[derive(Debug, Default)]
pub struct Findings {
    /// Blocks that are not what their checksums say.
    pub bad_blocks: AtomicU64,
    /// Of those, blocks that are good again, or gone with their replica.
    pub healed_blocks: AtomicU64,
    /// Chunk files that were not there.
    pub lost_files: AtomicU64,
}

/// A file without header and table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Blanked {
    /// Blocks that it has room for.
    room: u32,
    /// Another one each time that the file is blanked.
    turn: u64,
}

pub(super) type State<'a> = MutexGuard<'a, FileState>;

impl Disk {
    pub(super) fn new(storage: Arc<dyn Storage>, settings: DiskSettings, journal: Journal) -> Self {
        let open = NonZeroUsize::new(settings.open_files).unwrap_or(NonZeroUsize::MIN);
        let disk = Self {
            storage,
            settings,
            journal,
            dirty: Mutex::default(),
            checkpointing: Mutex::default(),
            doomed: Mutex::default(),
            blanked: Mutex::default(),
            spares: Mutex::default(),
            turn: AtomicU64::new(0),
            files: Mutex::new(LruCache::new(open)),
            free: AtomicU64::new(u64::MAX),
            total: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            table_bytes: AtomicU64::new(0),
            deleted_before: Vec::new(),
            findings: Findings::default(),
        };
        disk.measure();
        disk
    }

    /// Sees whether the disk is there, and asks the file system for its free space; call it once a second.
    pub fn measure(&self) {
        if let Err(e) = self.storage.present() {
            return self.fail(&format_args!("it is gone: {e}"));
        }
        match self.storage.space() {
            Ok((total, free)) => {
                self.total.store(total, Ordering::Relaxed);
                self.free.store(free, Ordering::Relaxed);
            }
            Err(e) => self.fail(&e),
        }
    }

    /// Bytes in all, and free for data (the reserve is not).
    pub fn space(&self) -> (u64, u64) {
        let free = self.free.load(Ordering::Relaxed);
        (self.total.load(Ordering::Relaxed), free.saturating_sub(self.settings.reserve))
    }

    /// Whether so much of it is used, the reserve included, that new replicas had better go elsewhere.
    pub fn is_filling(&self) -> bool {
        let (total, free) = (self.total.load(Ordering::Relaxed), self.free.load(Ordering::Relaxed));
        total > 0 && free < total / 100 * (100 - FILLING)
    }

    /// Bytes of memory that tables take, roughly.
    pub fn loaded_tables(&self) -> u64 {
        self.table_bytes.load(Ordering::Relaxed)
    }

    /// Whether the disk has failed: nothing on it is served.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn fail(&self, e: &dyn std::fmt::Display) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            tracing::error!("disk failure, nothing on it is served from here on: {e}");
        }
    }

    /// An error that leaves what is on the disk uncertain ends its service.
    pub(super) fn check<T>(&self, r: Result<T, std::io::Error>) -> Result<T, DiskError> {
        r.map_err(|e| {
            let e = DiskError::from(e);
            if matches!(e, DiskError::Io(_)) {
                self.fail(&e);
            }
            e
        })
    }

    /// A new replica without content, which will soon have this many blocks.
    pub fn create(&self, id: u64, meta: ChunkMeta, blocks: u32) -> Result<Arc<ChunkFile>, DiskError> {
        self.working()?;
        self.make_way(id)?;
        let room = self.reuse(id, blocks)?;
        let state = FileState { table: Some(Table::default()), fresh: true, room, ..FileState::default() };
        let chunk = Arc::new(ChunkFile::new(id, state));
        self.set_meta(&chunk, meta)?;
        Ok(chunk)
    }

    /// Records an epoch and its set (seq is left as it is).
    pub fn set_meta(&self, chunk: &Arc<ChunkFile>, meta: ChunkMeta) -> Result<(), DiskError> {
        let mut state = self.begin(chunk)?;
        let body = Body::Epoch { wanted: meta.wanted, in_sync: meta.in_sync.clone() };
        let ChunkMeta { seq, suspect, .. } = state.meta;
        state.meta = ChunkMeta { seq, suspect, ..meta };
        self.record(chunk, &mut state, body, 0, false).map(drop)
    }

    /// The replica is to be compared with the others before it is used, even if the process restarts before that.
    pub fn doubt(&self, chunk: &Arc<ChunkFile>) -> Result<(), DiskError> {
        let mut state = self.begin(chunk)?;
        if state.meta.suspect || std::mem::replace(&mut state.doubted, true) {
            return Ok(());
        }
        self.record(chunk, &mut state, Body::Dirty, 0, false).map(drop)
    }

    /// The replica is whole again after a crash, up to `seq`.
    pub fn settle(&self, chunk: &Arc<ChunkFile>, seq: u64) -> Result<(), DiskError> {
        let mut state = self.begin(chunk)?;
        let seq = seq.max(state.meta.seq);
        self.level_to(chunk, &mut state, seq)
    }

    /// The replica is what its primary has at `seq`, which may be below what it had itself.
    pub fn level(&self, chunk: &Arc<ChunkFile>, seq: u64) -> Result<(), DiskError> {
        let mut state = self.begin(chunk)?;
        self.level_to(chunk, &mut state, seq)
    }

    fn level_to(&self, chunk: &Arc<ChunkFile>, state: &mut State<'_>, seq: u64) -> Result<(), DiskError> {
        if state.unverified || state.bad {
            state.unverified = false;
            // What nobody has whole stays bad.
            state.bad = table(state).any_unclean();
        }
        if state.meta.suspect || state.doubted || seq != state.meta.seq {
            (state.meta.suspect, state.doubted) = (false, false);
            state.meta.seq = seq;
            self.record(chunk, state, Body::Level, seq, false)?;
        }
        Ok(())
    }

    /// Removes a replica. Its file goes when [`Self::unlink_some`] is called.
    pub fn delete(&self, chunk: &Arc<ChunkFile>) -> Result<(), DiskError> {
        let mut state = self.begin(chunk)?;
        state.deleted = true;
        self.count_healed(table(&mut state).unclean());
        let room = table(&mut state).len().max(state.stored).max(state.room);
        let r = self.record(chunk, &mut state, Body::Delete, 0, false).map(drop);
        drop(state);
        self.files.lock().pop(&chunk.id);
        let mut doomed = self.doomed.lock();
        let mut dirty = self.dirty.lock();
        if dirty.get(&chunk.id).is_some_and(|c| Arc::ptr_eq(c, chunk)) {
            dirty.remove(&chunk.id);
        }
        doomed.insert(chunk.id, room);
        r
    }

    /// The file of a replica of this chunk that was here before, if there is one, goes now and durably: with records that
    /// are not its own it must not come back.
    fn make_way(&self, id: u64) -> Result<(), DiskError> {
        let mut doomed = self.doomed.lock();
        let is_doomed = doomed.remove(&id).is_some();
        let mut blanked = self.blanked.lock();
        if blanked.remove(&id).is_none() && !is_doomed {
            return Ok(());
        }
        self.check(self.journal.sync())?;
        self.unlink(id)?;
        match self.storage.sync_dir(&dir(id)) {
            // It never had a file.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => self.stable(other),
        }
    }

    /// Gives a new replica the file of a deleted one: the blocks that it has room for (0: there is none, it will be made).
    fn reuse(&self, id: u64, blocks: u32) -> Result<u32, DiskError> {
        let mut spares = self.spares.lock();
        if let Some(room) = spares.remove(id) {
            return Ok(room);
        }
        let Some((old, room)) = spares.take(blocks) else { return Ok(0) };
        match self.storage.rename(&path(old), &path(id)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
            other => self.check(other).map(|()| room),
        }
    }

    /// Removes the files of at most so many deleted replicas. Small ones are kept for new replicas instead.
    pub fn unlink_some(&self, most: usize) -> Result<(), DiskError> {
        self.drop_spares(most)?;
        let ids: Vec<u64> = self.doomed.lock().keys().take(most).copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        // First the records: a file must not be gone while its chunk might come back without it.
        self.check(self.journal.sync())?;
        for id in ids {
            let mut doomed = self.doomed.lock();
            match doomed.remove(&id) {
                Some(room) if self.is_wanted(room) => self.blank(id, room)?,
                Some(_) => self.unlink(id)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Makes a deleted replica's file nobody's: neither its header nor its table (one page, as it is small) says anything.
    fn blank(&self, id: u64, room: u32) -> Result<(), DiskError> {
        let file = match self.storage.open(&path(id), false) {
            // It never had one.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => self.check(other)?,
        };
        let nothing = vec![0; self.settings.geometry.table() as usize + PAGE];
        self.check(file.write_at(&[&nothing], 0))?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.blanked.lock().insert(id, Blanked { room, turn });
        Ok(())
    }

    /// Files that are to be removed, not kept.
    pub(super) fn doom(&self, files: Vec<u64>) {
        self.doomed.lock().extend(files.into_iter().map(|id| (id, u32::MAX)));
    }

    /// Whether a file with room for so many blocks should be kept.
    fn is_wanted(&self, room: u32) -> bool {
        let coming = self.blanked.lock().len();
        self.spares.lock().wants(room, coming)
    }

    /// It is durable that these files are blank.
    pub(super) fn keep(&self, durable: &HashMap<u64, Blanked>) -> Result<(), DiskError> {
        // Held all the time, so that a file is always known to be here or there.
        let mut blanked = self.blanked.lock();
        for (id, b) in durable {
            if blanked.get(id) == Some(b) {
                blanked.remove(id);
                if !self.spares.lock().add(*id, b.room) {
                    self.unlink(*id)?;
                }
            }
        }
        Ok(())
    }

    /// Files that are kept must not be why there is no room.
    fn drop_spares(&self, most: usize) -> Result<(), DiskError> {
        for _ in 0..most {
            let mut spares = self.spares.lock();
            if self.space().1 / 4 >= spares.bytes() {
                break;
            }
            let Some(id) = spares.any() else { break };
            spares.remove(id);
            self.unlink(id)?;
        }
        Ok(())
    }

    fn unlink(&self, id: u64) -> Result<(), DiskError> {
        match self.storage.remove(&path(id)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => self.check(Err(e)),
            _ => Ok(()),
        }
    }

    /// Locks the chunk's state with its table loaded.
    pub(super) fn begin<'a>(&self, chunk: &'a Arc<ChunkFile>) -> Result<State<'a>, DiskError> {
        self.working()?;
        let mut state = chunk.state.lock();
        if state.deleted {
            return Err(DiskError::Deleted);
        }
        state.used = true;
        if state.table.is_none() {
            self.load_table(chunk, &mut state)?;
        }
        Ok(state)
    }

    fn load_table(&self, chunk: &ChunkFile, state: &mut State<'_>) -> Result<(), DiskError> {
        let blocks = state.stored.min(self.settings.geometry.blocks());
        let mut bytes = vec![0; blocks as usize * ENTRY];
        let mut n = 0;
        if blocks > 0 {
            let at = self.settings.geometry.table();
            n = self.check(self.file(chunk, state)?.read_at(&mut bytes, at))?;
        }
        // If the file was lost it has been made, and its table, anew.
        if state.table.is_none() {
            let mut table = Table::decode(&bytes[..n]);
            let there = table.len();
            table.lose_entries(there, blocks);
            if table.any_unclean() {
                let of = table.len();
                tracing::error!(
                    chunk = chunk.id,
                    entries = there,
                    of,
                    "blocks are bad, or their entries in the table"
                );
                if !std::mem::replace(&mut state.bad, true) {
                    self.count_bad(table.unclean());
                }
            }
            state.table = Some(table);
        }
        let memory = state.table.as_ref().map_or(0, Table::memory);
        self.table_bytes.fetch_add(memory as u64, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn working(&self) -> Result<(), DiskError> {
        if self.has_failed() { Err(DiskError::Failed) } else { Ok(()) }
    }

    /// The chunk's file, made at first use. One that should be there and is not is made again, and
    /// what was in it is known to be bad from then on.
    pub(super) fn file(
        &self,
        chunk: &ChunkFile,
        state: &mut State<'_>,
    ) -> Result<Arc<dyn StorageFile>, DiskError> {
        if let Some(f) = self.files.lock().get(&chunk.id) {
            return Ok(f.clone());
        }
        let file = match self.storage.open(&chunk.path(), !state.has_file) {
            Err(e) if state.has_file && e.kind() == std::io::ErrorKind::NotFound => {
                self.check(self.storage.present())?;
                tracing::error!(chunk = chunk.id, "the chunk file is missing; it is made again");
                let file = self.check(self.storage.open(&chunk.path(), true))?;
                self.lose_content(state);
                file
            }
            opened => self.check(opened)?,
        };
        state.has_file = true;
        self.files.lock().put(chunk.id, file.clone());
        Ok(file)
    }

    fn lose_content(&self, state: &mut State<'_>) {
        let stored = state.stored.min(self.settings.geometry.blocks());
        let table = state.table.get_or_insert_with(|| {
            let mut table = Table::default();
            table.lose_entries(0, stored);
            table
        });
        let known = table.unclean();
        table.lose_content();
        self.count_bad(table.unclean() - if state.bad { known } else { 0 });
        state.bad = true;
        state.fresh = true;
        state.header_dirty = true;
        self.findings.lost_files.fetch_add(1, Ordering::Relaxed);
    }

    /// Blocks turned out to be bad.
    pub(super) fn count_bad(&self, blocks: usize) {
        self.findings.bad_blocks.fetch_add(blocks as u64, Ordering::Relaxed);
    }

    /// Bad blocks were replaced by good ones, or are gone.
    pub(super) fn count_healed(&self, blocks: usize) {
        self.findings.healed_blocks.fetch_add(blocks as u64, Ordering::Relaxed);
    }

    /// Whatever file has the chunk's name now is used from here on.
    pub(super) fn look_again(&self, chunk: &ChunkFile) {
        self.files.lock().pop(&chunk.id);
    }
}

/// The table, which [`Disk::begin`] has loaded.
pub(super) fn table<'a>(state: &'a mut State<'_>) -> &'a mut Table {
    state.table.get_or_insert_default()
}
