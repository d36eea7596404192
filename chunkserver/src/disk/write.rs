//! Changes of a chunk's blocks: journal, file, table.

use super::change::{Change, Payload, ends};
use super::chunk_file::ChunkFile;
use super::error::DiskError;
use super::store::{Disk, State, table};
use crate::core::recent::WriteId;
use crate::core::record::{Body, IMAGE_BLOCKS, Record};
use crate::core::table::Entry;
use bytes::Bytes;
use cairn_proto::block::{BLOCK, crc32c, pieces, zero_block_crc};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a record says beside its body.
pub(super) struct Edit {
    pub first: u32,
    pub seq: u64,
    pub id: WriteId,
    pub more: bool,
}

impl Disk {
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
            self.check(self.file(chunk, state)?.punch(at, len))?;
            state.unsynced = true;
        }
        self.count_healed((first..end).filter(|b| table(state).get(*b).is_unclean()).count());
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
    pub(super) fn put(
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
        if !small && state.is_imaged(first..end) {
            // The journal's images do not count any more once this is recorded, but it may itself be lost.
            self.stable(self.file(chunk, state)?.sync())?;
            state.imaged.clear();
            state.imaged_before.clear();
        }
        let body = if small { Body::Image(crcs.to_vec()) } else { Body::Large(crcs.to_vec()) };
        self.append(chunk, state, body, edit, if small { parts } else { &[] }, overwrites)?;
        let at = self.settings.geometry.data() + u64::from(first) * BLOCK as u64;
        let written = self.file(chunk, state).and_then(|f| self.check(f.write_at(parts, at)));
        self.count_healed((first..end).filter(|b| table(state).get(*b).is_unclean()).count());
        for (b, crc) in (first..end).zip(crcs) {
            let entry = Entry::data(*crc, edit.seq);
            table(state).set(b, if written.is_ok() { entry } else { entry.unclean() });
        }
        if small {
            state.imaged.extend(first..end);
        } else {
            state.unsynced = true;
        }
        written?;
        let grown = crcs.len() as u64 * BLOCK as u64;
        if !overwrites {
            let less = |f: u64| Some(f.saturating_sub(grown));
            let _ = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        Ok(())
    }

    pub(super) fn record(
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

    /// Gives bad blocks the checksum of what they hold: the last resort, when no replica has them whole
    /// after a crash in the middle of writes that nobody had asked to be made stable.
    pub fn adopt(&self, chunk: &Arc<ChunkFile>, block: u32, version: u64) -> Result<(), DiskError> {
        let mut state = self.begin(chunk)?;
        let mut content = vec![0; BLOCK];
        let at = self.settings.geometry.data() + u64::from(block) * BLOCK as u64;
        self.check(self.file(chunk, &mut state)?.read_at(&mut content, at))?;
        let crc = crc32c(&content);
        let edit = Edit { first: block, seq: version, id: WriteId::default(), more: true };
        self.put(chunk, &mut state, &edit, &[&content], &[crc])
    }
}
