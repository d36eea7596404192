//! A disk's chunks: read and changed a block at a time.

use super::chunk_file::{ChunkFile, FileState, path};
use super::error::DiskError;
use super::journal::Journal;
use super::storage::{Storage, StorageFile};
use crate::core::layout::{ChunkMeta, ENTRY, Geometry};
use crate::core::recent::WriteId;
use crate::core::record::{Body, IMAGE_BLOCKS, Record};
use crate::core::table::{Entry, Table};
use bytes::Bytes;
use cairn_proto::block::{BLOCK, PIECE, crc32c, pieces, zero_block_crc};
use cairn_proto::data::Buffer;
use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeSet, HashMap};
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

/// A disk with its journal and its chunk files.
pub struct Disk {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) settings: DiskSettings,
    pub(super) journal: Journal,
    pub(super) dirty: Mutex<HashMap<u64, Arc<ChunkFile>>>,
    pub(super) checkpointing: Mutex<()>,
    /// Files of deleted replicas, to be removed a few at a time.
    doomed: Mutex<BTreeSet<u64>>,
    files: Mutex<LruCache<u64, Arc<dyn StorageFile>>>,
    free: AtomicU64,
    total: AtomicU64,
    failed: AtomicBool,
    /// Bytes of loaded tables, roughly.
    pub(super) table_bytes: AtomicU64,
}

/// What a change puts into a chunk.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Bytes, with one CRC32C for each piece (cut at block boundaries), which have been checked.
    Data(Bytes, Vec<u32>),
    /// So many zeros.
    Zeros(u64),
}

/// A write to be applied.
#[derive(Clone, Debug)]
pub struct Change {
    /// The write's id.
    pub id: WriteId,
    /// Where in the chunk, bytes.
    pub offset: u64,
    /// What.
    pub payload: Payload,
}

/// Blocks as they are read.
pub struct Blocks {
    /// Their content.
    pub data: Bytes,
    /// One CRC32C a block.
    pub crcs: Vec<u32>,
    /// What other replicas are told of each: (checksum, version).
    pub told: Vec<(u32, u64)>,
}

impl Payload {
    fn len(&self) -> u64 {
        match self {
            Self::Data(d, _) => d.len() as u64,
            Self::Zeros(n) => *n,
        }
    }
}

impl Change {
    /// The blocks that it touches: (first, behind the last).
    pub fn blocks(&self) -> (u32, u32) {
        let end = self.offset.saturating_add(self.payload.len()).div_ceil(BLOCK as u64);
        ((self.offset / BLOCK as u64) as u32, end as u32)
    }
}

/// A static megabyte of zeros: holes are read without touching fresh memory.
static ZEROS: [u8; PIECE] = [0; PIECE];

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
            files: Mutex::new(LruCache::new(open)),
            free: AtomicU64::new(u64::MAX),
            total: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            table_bytes: AtomicU64::new(0),
        };
        disk.measure();
        disk
    }

    /// Asks the file system for its free space; call it once a second.
    pub fn measure(&self) {
        match self.storage.space() {
            Ok((total, free)) => {
                self.total.store(total, Ordering::Relaxed);
                self.free.store(free, Ordering::Relaxed);
            }
            Err(e) => tracing::warn!("cannot ask for free space: {e}"),
        }
    }

    /// Bytes in all, and free for data (the reserve is not).
    pub fn space(&self) -> (u64, u64) {
        let free = self.free.load(Ordering::Relaxed);
        (self.total.load(Ordering::Relaxed), free.saturating_sub(self.settings.reserve))
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

    /// A new replica without content.
    pub fn create(&self, id: u64, meta: ChunkMeta) -> Result<Arc<ChunkFile>, DiskError> {
        self.working()?;
        {
            let mut doomed = self.doomed.lock();
            if doomed.contains(&id) {
                // The file of the replica that was here before.
                self.check(self.journal.sync())?;
                self.unlink(id)?;
                doomed.remove(&id);
            }
        }
        let state = FileState { table: Some(Table::default()), fresh: true, ..FileState::default() };
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

    /// The replica is whole again after a crash, up to `seq`.
    pub fn settle(&self, chunk: &Arc<ChunkFile>, seq: u64) -> Result<(), DiskError> {
        let mut state = self.begin(chunk)?;
        state.unverified = false;
        state.bad = false;
        if state.meta.suspect || seq > state.meta.seq {
            state.meta.suspect = false;
            state.meta.seq = state.meta.seq.max(seq);
            let seq = state.meta.seq;
            self.record(chunk, &mut state, Body::Level, seq, false)?;
        }
        Ok(())
    }

    /// Removes a replica. Its file goes when [`Self::unlink_some`] is called.
    pub fn delete(&self, chunk: &Arc<ChunkFile>) -> Result<(), DiskError> {
        let mut state = self.begin(chunk)?;
        state.deleted = true;
        let r = self.record(chunk, &mut state, Body::Delete, 0, false).map(drop);
        drop(state);
        self.files.lock().pop(&chunk.id);
        let mut doomed = self.doomed.lock();
        let mut dirty = self.dirty.lock();
        if dirty.get(&chunk.id).is_some_and(|c| Arc::ptr_eq(c, chunk)) {
            dirty.remove(&chunk.id);
        }
        doomed.insert(chunk.id);
        r
    }

    /// Removes the files of at most so many deleted replicas.
    pub fn unlink_some(&self, most: usize) -> Result<(), DiskError> {
        let ids: Vec<u64> = self.doomed.lock().iter().take(most).copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        // First the records: a file must not be gone while its chunk might come back without it.
        self.check(self.journal.sync())?;
        for id in ids {
            let mut doomed = self.doomed.lock();
            if doomed.remove(&id) {
                self.unlink(id)?;
            }
        }
        Ok(())
    }

    fn unlink(&self, id: u64) -> Result<(), DiskError> {
        match self.storage.remove(&path(id)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => self.check(Err(e)),
            _ => Ok(()),
        }
    }

    /// Whether a change may be made: there is room for it, and the blocks that it changes in part are good.
    pub fn may_apply(&self, chunk: Option<&Arc<ChunkFile>>, change: &Change) -> Result<(), DiskError> {
        self.working()?;
        let end = change.offset.checked_add(change.payload.len()).ok_or(DiskError::Range)?;
        if change.payload.len() == 0 || end > self.settings.geometry.chunk_size {
            return Err(DiskError::Range);
        }
        let Payload::Data(data, _) = &change.payload else { return Ok(()) };
        let free = self.free.load(Ordering::Relaxed);
        let full = free < self.settings.reserve.saturating_add(data.len() as u64);
        let Some(chunk) = chunk else { return if full { Err(DiskError::NoSpace) } else { Ok(()) } };
        let mut state = self.begin(chunk)?;
        let (first, end) = change.blocks();
        if full && (first..end).any(|b| table(&mut state).get(b).is_hole()) {
            return Err(DiskError::NoSpace);
        }
        for (block, within, range) in pieces(change.offset, data.len()) {
            if within != 0 || range.len() != BLOCK {
                self.block(chunk, &mut state, block as u32)?;
            }
        }
        Ok(())
    }

    /// Applies a write: its blocks get version `seq`, and so does the chunk.
    pub fn apply(&self, chunk: &Arc<ChunkFile>, change: &Change, seq: u64) -> Result<(), DiskError> {
        let mut state = self.begin(chunk)?;
        match &change.payload {
            Payload::Data(data, crcs) => {
                self.write(chunk, &mut state, change, data, crcs, seq)?;
            }
            Payload::Zeros(len) => self.zero(chunk, &mut state, change, *len, seq)?,
        }
        state.meta.seq = state.meta.seq.max(seq);
        state.header_dirty = true;
        Ok(())
    }

    fn write(
        &self,
        chunk: &Arc<ChunkFile>,
        state: &mut State<'_>,
        change: &Change,
        data: &Bytes,
        crcs: &[u32],
        seq: u64,
    ) -> Result<(), DiskError> {
        let (first, end) = change.blocks();
        if crcs.len() != (end - first) as usize || end > self.settings.geometry.blocks() {
            return Err(DiskError::Range);
        }
        let mut crcs = crcs.to_vec();
        let (mut head, mut tail, mut middle) = (None, None, 0..data.len());
        for (i, (block, within, range)) in pieces(change.offset, data.len()).enumerate() {
            if within == 0 && range.len() == BLOCK {
                continue;
            }
            let mut whole = self.block(chunk, state, block as u32)?;
            whole[within..within + range.len()].copy_from_slice(&data[range.clone()]);
            crcs[i] = crc32c(&whole);
            if i == 0 {
                middle.start = range.end;
                head = Some(whole);
            } else {
                middle.end = range.start;
                tail = Some(whole);
            }
        }
        let parts: Vec<&[u8]> =
            [head.as_deref(), Some(&data[middle]), tail.as_deref()].into_iter().flatten().collect();
        let record = Edit { first, seq, id: change.id, more: false };
        self.put(chunk, state, &record, &parts, &crcs)
    }

    fn zero(
        &self,
        chunk: &Arc<ChunkFile>,
        state: &mut State<'_>,
        change: &Change,
        len: u64,
        seq: u64,
    ) -> Result<(), DiskError> {
        let used = table(state).len();
        for (block, within, range) in ends(change.offset, len) {
            if block >= used || table(state).get(block).is_hole() {
                continue;
            }
            let mut whole = self.block(chunk, state, block)?;
            whole[within..within + range].fill(0);
            let record = Edit { first: block, seq, id: WriteId::default(), more: true };
            let crc = crc32c(&whole);
            self.put(chunk, state, &record, &[&whole], &[crc])?;
        }
        let whole_first = change.offset.div_ceil(BLOCK as u64) as u32;
        let whole_end = ((change.offset + len) / BLOCK as u64) as u32;
        self.punch(chunk, state, whole_first, whole_end.min(used), seq, true)?;
        let id = change.id;
        self.append(chunk, state, Body::Level, &Edit { first: 0, seq, id, more: false }, &[], false).map(drop)
    }

    /// Turns whole blocks into holes with version `seq` (0: as if never written).
    fn punch(
        &self,
        chunk: &Arc<ChunkFile>,
        state: &mut State<'_>,
        first: u32,
        end: u32,
        seq: u64,
        more: bool,
    ) -> Result<(), DiskError> {
        let end = end.min(table(state).len());
        if first >= end {
            return Ok(());
        }
        let overwrites = (first..end).any(|b| !table(state).get(b).is_hole());
        let edit = Edit { first, seq, id: WriteId::default(), more };
        self.append(chunk, state, Body::Zero(end - first), &edit, &[], overwrites)?;
        if overwrites {
            let at = self.settings.geometry.data() + u64::from(first) * BLOCK as u64;
            let len = u64::from(end - first) * BLOCK as u64;
            self.check(self.file(chunk)?.punch(at, len))?;
            state.unsynced = true;
        }
        for b in first..end {
            let was = table(state).get(b);
            let entry = if seq == 0 || was.version == 0 { Entry::default() } else { Entry::zeroed(seq) };
            table(state).set(b, entry);
        }
        Ok(())
    }

    /// Puts whole blocks as another replica has them. `told` are their (checksum, version); blocks without
    /// content have version 0 and no data.
    pub fn install(
        &self,
        chunk: &Arc<ChunkFile>,
        first: u32,
        data: &Bytes,
        told: &[(u32, u64)],
    ) -> Result<(), DiskError> {
        let mut state = self.begin(chunk)?;
        let count = told.len() as u32;
        if first.saturating_add(count) > self.settings.geometry.blocks()
            || (!data.is_empty() && data.len() != told.len() * BLOCK)
        {
            return Err(DiskError::Range);
        }
        let mut at = 0;
        while at < told.len() {
            let version = told[at].1;
            let hole = |t: &(u32, u64)| t.1 == 0 || t.0 == zero_block_crc();
            let is_hole = hole(&told[at]);
            let same = |t: &&(u32, u64)| t.1 == version && hole(t) == is_hole;
            let n = told[at..].iter().take_while(same).count();
            let block = first + at as u32;
            if is_hole {
                // A zeroed block needs an entry even where there was none before.
                let end = block + n as u32;
                self.punch(chunk, &mut state, block, end, version, true)?;
                for b in block..end {
                    if version > 0 && table(&mut state).get(b).version != version {
                        table(&mut state).set(b, Entry::zeroed(version));
                    }
                }
            } else if data.is_empty() {
                return Err(DiskError::Range);
            } else {
                let crcs: Vec<u32> = told[at..at + n].iter().map(|t| t.0).collect();
                let edit = Edit { first: block, seq: version, id: WriteId::default(), more: true };
                self.put(chunk, &mut state, &edit, &[&data[at * BLOCK..(at + n) * BLOCK]], &crcs)?;
            }
            at += n;
        }
        Ok(())
    }

    /// Journals and writes whole blocks and enters them into the table.
    fn put(
        &self,
        chunk: &Arc<ChunkFile>,
        state: &mut State<'_>,
        edit: &Edit,
        parts: &[&[u8]],
        crcs: &[u32],
    ) -> Result<(), DiskError> {
        let first = edit.first;
        let end = first + crcs.len() as u32;
        let small = crcs.len() as u32 <= IMAGE_BLOCKS + 1;
        let overwrites = (first..end).any(|b| !table(state).get(b).is_hole());
        let body = if small { Body::Image(crcs.to_vec()) } else { Body::Large(crcs.to_vec()) };
        self.append(chunk, state, body, edit, if small { parts } else { &[] }, overwrites)?;
        let at = self.settings.geometry.data() + u64::from(first) * BLOCK as u64;
        let written = self.file(chunk).and_then(|f| self.check(f.write_at(parts, at)));
        for (b, crc) in (first..end).zip(crcs) {
            let entry = Entry::data(*crc, edit.seq);
            table(state).set(b, if written.is_ok() { entry } else { entry.unclean() });
        }
        state.unsynced |= !small;
        written?;
        let grown = crcs.len() as u64 * BLOCK as u64;
        if !overwrites {
            let less = |f: u64| Some(f.saturating_sub(grown));
            let _ = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        Ok(())
    }

    fn record(
        &self,
        chunk: &Arc<ChunkFile>,
        state: &mut State<'_>,
        body: Body,
        seq: u64,
        overwrites: bool,
    ) -> Result<u64, DiskError> {
        let edit = Edit { first: 0, seq, id: WriteId::default(), more: false };
        self.append(chunk, state, body, &edit, &[], overwrites)
    }

    /// Appends a record. Blocks that had content are overwritten in place only under a dirty mark in the
    /// same segment, so that after a crash a torn block is known for what it is.
    fn append(
        &self,
        chunk: &Arc<ChunkFile>,
        state: &mut State<'_>,
        body: Body,
        edit: &Edit,
        content: &[&[u8]],
        overwrites: bool,
    ) -> Result<u64, DiskError> {
        if !state.registered && !state.deleted {
            state.registered = true;
            self.dirty.lock().insert(chunk.id, chunk.clone());
        }
        state.header_dirty = true;
        let record = Record {
            lsn: 0,
            chunk: chunk.id,
            epoch: state.meta.epoch,
            seq: edit.seq,
            id: edit.id,
            more: edit.more,
            first: edit.first,
            body,
        };
        loop {
            if overwrites && state.marked_in != self.journal.current() {
                let mark = Record { body: Body::Dirty, more: true, ..record.clone() };
                let segment = self.check(self.journal.append(mark, &[], None))?;
                self.check(self.journal.sync())?;
                state.marked_in = segment.unwrap_or(0);
            }
            let required = overwrites.then_some(state.marked_in);
            if let Some(segment) = self.check(self.journal.append(record.clone(), content, required))? {
                return Ok(segment);
            }
        }
    }

    /// One block's content, checked.
    fn block(&self, chunk: &Arc<ChunkFile>, state: &mut State<'_>, block: u32) -> Result<Vec<u8>, DiskError> {
        let entry = table(state).get(block);
        let mut content = vec![0; BLOCK];
        if entry.is_hole() {
            return Ok(content);
        }
        let at = self.settings.geometry.data() + u64::from(block) * BLOCK as u64;
        self.check(self.file(chunk)?.read_at(&mut content, at))?;
        if entry.is_unclean() || crc32c(&content) != entry.crc {
            self.mark_bad(chunk, state, block);
            return Err(DiskError::Corrupt { block });
        }
        Ok(content)
    }

    pub(super) fn mark_bad(&self, chunk: &ChunkFile, state: &mut State<'_>, block: u32) {
        let entry = table(state).get(block);
        if !entry.is_unclean() {
            if state.unverified {
                tracing::info!(chunk = chunk.id, block, "unclean block");
            } else {
                tracing::error!(chunk = chunk.id, block, "a block does not match its checksum");
            }
            table(state).set(block, entry.unclean());
            state.bad = true;
        }
    }

    /// Reads whole blocks, checked against their checksums. Behind the end are zeros.
    pub fn read(&self, chunk: &Arc<ChunkFile>, first: u32, count: u32) -> Result<Blocks, DiskError> {
        let blocks = self.read_with(chunk, first, count, &mut |f, into, at| f.read_at(into, at).map(Some))?;
        blocks.ok_or(DiskError::Failed)
    }

    /// The same, but `None` if the disk would have to be waited for.
    pub fn read_cached(
        &self,
        chunk: &Arc<ChunkFile>,
        first: u32,
        count: u32,
    ) -> Result<Option<Blocks>, DiskError> {
        self.read_with(chunk, first, count, &mut |f, into, at| f.read_cached(into, at))
    }

    fn read_with(
        &self,
        chunk: &Arc<ChunkFile>,
        first: u32,
        count: u32,
        read: &mut dyn FnMut(&dyn StorageFile, &mut [u8], u64) -> std::io::Result<Option<usize>>,
    ) -> Result<Option<Blocks>, DiskError> {
        if first.saturating_add(count) > self.settings.geometry.blocks() {
            return Err(DiskError::Range);
        }
        let mut state = self.begin(chunk)?;
        let t = table(&mut state);
        let entries: Vec<Entry> = (first..first + count).map(|b| t.get(b)).collect();
        let crcs: Vec<u32> = entries.iter().map(Entry::read_crc).collect();
        let told = entries.iter().map(Entry::told).collect();
        let len = count as usize * BLOCK;
        if len <= ZEROS.len() && entries.iter().all(Entry::is_hole) {
            return Ok(Some(Blocks { data: Bytes::from_static(&ZEROS[..len]), crcs, told }));
        }
        // What lies behind the last block with content is not asked for: the file may end there.
        let used = entries.iter().rposition(|e| !e.is_hole()).map_or(0, |i| i + 1) * BLOCK;
        let mut buffer = Buffer::new(len);
        let bytes = buffer.as_mut_slice();
        let at = self.settings.geometry.data() + u64::from(first) * BLOCK as u64;
        let Some(n) = self.check(read(&*self.file(chunk)?, &mut bytes[..used], at))? else { return Ok(None) };
        drop(state);
        bytes[n..].fill(0);
        for (i, e) in entries.iter().enumerate() {
            let content = &mut bytes[i * BLOCK..(i + 1) * BLOCK];
            if e.is_hole() {
                content.fill(0);
            } else if e.is_unclean() || crc32c(content) != e.crc {
                let block = first + i as u32;
                let mut state = self.begin(chunk)?;
                if table(&mut state).get(block) == *e {
                    self.mark_bad(chunk, &mut state, block);
                }
                return Err(DiskError::Corrupt { block });
            }
        }
        Ok(Some(Blocks { data: buffer.freeze(), crcs, told }))
    }

    /// Gives bad blocks the checksum of what they hold: the last resort, when no replica has them whole
    /// after a crash in the middle of writes that nobody had asked to be made stable.
    pub fn adopt(&self, chunk: &Arc<ChunkFile>, block: u32, version: u64) -> Result<(), DiskError> {
        let mut state = self.begin(chunk)?;
        let mut content = vec![0; BLOCK];
        let at = self.settings.geometry.data() + u64::from(block) * BLOCK as u64;
        self.check(self.file(chunk)?.read_at(&mut content, at))?;
        let crc = crc32c(&content);
        let edit = Edit { first: block, seq: version, id: WriteId::default(), more: true };
        self.put(chunk, &mut state, &edit, &[&content], &[crc])
    }

    /// The runs of content at or behind a block: (first, behind the last).
    pub fn extents(&self, chunk: &Arc<ChunkFile>, from: u32) -> Result<Vec<(u32, u32)>, DiskError> {
        let mut state = self.begin(chunk)?;
        Ok(table(&mut state).extents(from))
    }

    /// At most `count` entries of the table as other replicas are told them, and whether that was all.
    pub fn told(
        &self,
        chunk: &Arc<ChunkFile>,
        from: u32,
        count: u32,
    ) -> Result<(Vec<(u32, u64)>, bool), DiskError> {
        let mut state = self.begin(chunk)?;
        let t = table(&mut state);
        let end = t.len().min(from.saturating_add(count));
        Ok(((from..end).map(|b| t.get(b).told()).collect(), end >= t.len()))
    }

    /// Reads every block that has content and marks those that are bad: after a crash, before the
    /// replica is compared with others. Returns how many there are.
    pub fn verify(&self, chunk: &Arc<ChunkFile>) -> Result<u32, DiskError> {
        let runs = self.extents(chunk, 0)?;
        let mut bad = 0;
        for (from, to) in runs {
            let mut at = from;
            while at < to {
                let n = (to - at).min(64);
                match self.read(chunk, at, n) {
                    Ok(_) => at += n,
                    Err(DiskError::Corrupt { block }) => {
                        // A read stops at the first bad one: go on behind it.
                        bad += 1;
                        at = block + 1;
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        chunk.state.lock().unverified = false;
        Ok(bad)
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
            let blocks = state.stored.min(self.settings.geometry.blocks());
            let mut bytes = vec![0; blocks as usize * ENTRY];
            if blocks > 0 {
                let at = self.settings.geometry.table();
                self.check(self.file(chunk)?.read_at(&mut bytes, at))?;
            }
            let table = Table::decode(&bytes);
            self.table_bytes.fetch_add(table.memory() as u64, Ordering::Relaxed);
            state.table = Some(table);
        }
        Ok(state)
    }

    fn working(&self) -> Result<(), DiskError> {
        if self.has_failed() { Err(DiskError::Failed) } else { Ok(()) }
    }

    pub(super) fn file(&self, chunk: &ChunkFile) -> Result<Arc<dyn StorageFile>, DiskError> {
        if let Some(f) = self.files.lock().get(&chunk.id) {
            return Ok(f.clone());
        }
        let file = self.check(self.storage.open(&chunk.path(), true))?;
        self.files.lock().put(chunk.id, file.clone());
        Ok(file)
    }
}

/// What a record says beside its body.
struct Edit {
    first: u32,
    seq: u64,
    id: WriteId,
    more: bool,
}

/// The table, which [`Disk::begin`] has loaded.
pub(super) fn table<'a>(state: &'a mut State<'_>) -> &'a mut Table {
    state.table.get_or_insert_default()
}

/// The blocks that a range covers in part: (block, offset within it, bytes).
fn ends(offset: u64, len: u64) -> impl Iterator<Item = (u32, usize, usize)> {
    let end = offset + len;
    let block = BLOCK as u64;
    let (first, last) = (offset / block, end.saturating_sub(1) / block);
    let piece = move |b: u64| {
        let from = offset.max(b * block);
        let to = end.min((b + 1) * block);
        (b as u32, (from - b * block) as usize, (to - from) as usize)
    };
    let both = if first == last { vec![first] } else { vec![first, last] };
    both.into_iter().map(piece).filter(|(_, _, n)| *n != BLOCK)
}
