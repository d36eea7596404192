//! A disk as far as the replicas can tell: chunk files and a journal, each as the page cache has it
//! and as it is on stable storage.
//!
//! Mirrors `chunkserver/src/disk/{store,syncer,checkpoint}.rs`. Blocks hold one word, chunks few blocks, segments few
//! records. Tables, headers' contents, records and their replay are the real ones from `core`.

use super::image::Image;
use crate::message::{Change, Content, Payload, Told};
use crate::rng::SplitMix64;
use cairn_chunkserver::core::layout::ChunkMeta;
use cairn_chunkserver::core::recent::{Recent, WriteId};
use cairn_chunkserver::core::record::{Body, Record};
use cairn_chunkserver::core::replay::Replay;
use cairn_chunkserver::core::table::{Entry, Table};
use cairn_proto::block::zero_block_crc;
use cairn_proto::data::Status;
use std::collections::{BTreeMap, BTreeSet};

/// Blocks in a chunk.
pub const BLOCKS: u32 = 8;
/// The largest write whose content goes into the journal, blocks.
const IMAGE_BLOCKS: usize = 2;
/// Records in a segment of the journal.
const SEGMENT: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    Full,
    Deleted,
    Corrupt(u32),
}

impl DiskError {
    pub fn status(self) -> Status {
        match self {
            Self::Full => Status::NoSpace,
            Self::Deleted => Status::NoChunk,
            Self::Corrupt(_) => Status::Corrupt,
        }
    }
}

/// Marks what was written in part.
const TORN: Content = 1 << 63;

pub fn is_torn(content: Content) -> bool {
    content & TORN != 0
}

/// A block's checksum.
pub fn checksum(content: Content) -> u32 {
    if content == 0 { zero_block_crc() } else { (SplitMix64::new(content).next() >> 32) as u32 }
}

/// A chunk's file.
#[derive(Clone, Default)]
struct File {
    header: Image<Option<ChunkMeta>>,
    table: Image<Table>,
    blocks: Vec<Image<Content>>,
}

/// What is in memory of a chunk.
#[derive(Default)]
struct State {
    meta: ChunkMeta,
    table: Table,
    registered: bool,
    marked_in: u64,
    unsynced: bool,
    imaged: BTreeSet<u32>,
    unverified: bool,
    bad: bool,
}

struct Segment {
    number: u64,
    records: Vec<(Record, Vec<Content>)>,
    /// So many of them are on stable storage.
    synced: usize,
}

/// What a checkpoint has collected.
pub struct Checkpoint {
    upto: u64,
    chunks: Vec<(u64, ChunkMeta, Table)>,
}

/// What a write to the journal says beside its body.
struct Edit {
    first: u32,
    seq: u64,
    id: WriteId,
    more: bool,
}

pub struct Disk {
    files: BTreeMap<u64, File>,
    journal: Vec<Segment>,
    lsn: u64,
    chunks: BTreeMap<u64, State>,
    dirty: BTreeSet<u64>,
    /// Files of deleted replicas.
    doomed: BTreeSet<u64>,
    pub full: bool,
    /// How often the machine has started.
    boots: u64,
    /// The last start after which everything on the disk was known to be whole.
    recorded_boot: u64,
}

type Done<T> = Result<T, DiskError>;

impl Disk {
    pub fn new() -> Self {
        let first = Segment { number: 1, records: Vec::new(), synced: 0 };
        Self {
            files: BTreeMap::new(),
            journal: vec![first],
            lsn: 1,
            chunks: BTreeMap::new(),
            dirty: BTreeSet::new(),
            doomed: BTreeSet::new(),
            full: false,
            boots: 0,
            recorded_boot: 0,
        }
    }

    /// Whether what was not on stable storage may be lost since everything was last known to be whole.
    pub fn is_behind(&self) -> bool {
        self.boots != self.recorded_boot
    }

    pub fn record_boot(&mut self) {
        self.recorded_boot = self.boots;
    }

    fn state(&mut self, chunk: u64) -> Done<&mut State> {
        self.chunks.get_mut(&chunk).ok_or(DiskError::Deleted)
    }

    pub fn meta(&self, chunk: u64) -> ChunkMeta {
        self.chunks.get(&chunk).map(|s| s.meta.clone()).unwrap_or_default()
    }

    pub fn in_doubt(&self, chunk: u64) -> bool {
        self.chunks.get(&chunk).is_some_and(|s| s.unverified || s.meta.suspect || s.bad)
    }

    /// Whether it may not be, or is known not to be, what it should, as of now.
    pub fn is_unclean(&self, chunk: u64) -> bool {
        self.chunks.get(&chunk).is_some_and(|s| s.unverified || s.meta.suspect || s.table.any_unclean())
    }

    pub fn is_unverified(&self, chunk: u64) -> bool {
        self.chunks.get(&chunk).is_some_and(|s| s.unverified)
    }

    pub fn create(&mut self, chunk: u64, meta: ChunkMeta) -> Done<()> {
        if self.doomed.remove(&chunk) {
            self.sync_journal();
            self.files.remove(&chunk);
        }
        self.chunks.insert(chunk, State::default());
        self.set_meta(chunk, meta)
    }

    pub fn set_meta(&mut self, chunk: u64, meta: ChunkMeta) -> Done<()> {
        let state = self.state(chunk)?;
        let body = Body::Epoch { wanted: meta.wanted, in_sync: meta.in_sync.clone() };
        let ChunkMeta { seq, suspect, .. } = state.meta;
        state.meta = ChunkMeta { seq, suspect, ..meta };
        self.record(chunk, body, 0);
        Ok(())
    }

    pub fn settle(&mut self, chunk: u64, seq: u64) -> Done<()> {
        let seq = self.state(chunk)?.meta.seq.max(seq);
        self.level(chunk, seq)
    }

    /// The replica is what its primary has at `seq`.
    pub fn level(&mut self, chunk: u64, seq: u64) -> Done<()> {
        let state = self.state(chunk)?;
        if state.unverified || state.bad {
            state.unverified = false;
            state.bad = state.table.any_unclean();
        }
        if state.meta.suspect || seq != state.meta.seq {
            state.meta.suspect = false;
            state.meta.seq = seq;
            self.record(chunk, Body::Level, seq);
        }
        Ok(())
    }

    /// Removes a replica; its file goes when [`Self::unlink`] is called.
    pub fn delete(&mut self, chunk: u64) {
        if self.chunks.contains_key(&chunk) {
            self.record(chunk, Body::Delete, 0);
            self.chunks.remove(&chunk);
            self.dirty.remove(&chunk);
            self.doomed.insert(chunk);
        }
    }

    /// Removes the files of deleted replicas.
    pub fn unlink(&mut self) {
        if !self.doomed.is_empty() {
            self.sync_journal();
        }
        for chunk in std::mem::take(&mut self.doomed) {
            self.files.remove(&chunk);
        }
    }

    pub fn may_apply(&mut self, chunk: Option<u64>, change: &Change) -> Done<()> {
        let full = self.full;
        let Some(chunk) = chunk else { return if full { Err(DiskError::Full) } else { Ok(()) } };
        let (first, end) = change.blocks();
        let state = self.state(chunk)?;
        let grows = (first..end).any(|b| state.table.get(b).is_hole());
        let is_data = matches!(change.payload, Payload::Data(_));
        if full && is_data && grows { Err(DiskError::Full) } else { Ok(()) }
    }

    pub fn apply(&mut self, chunk: u64, change: &Change, seq: u64) -> Done<()> {
        self.state(chunk)?;
        let (first, end) = change.blocks();
        match &change.payload {
            Payload::Data(data) => {
                let crcs: Vec<u32> = data.iter().map(|d| checksum(*d)).collect();
                self.put(chunk, &Edit { first, seq, id: change.id, more: false }, data, &crcs)?;
            }
            Payload::Zeros(_) => {
                let used = self.state(chunk)?.table.len();
                self.punch(chunk, first, end.min(used), seq)?;
                self.append(
                    chunk,
                    Body::Level,
                    &Edit { first: 0, seq, id: change.id, more: false },
                    &[],
                    false,
                );
            }
        }
        let state = self.state(chunk)?;
        state.meta.seq = state.meta.seq.max(seq);
        Ok(())
    }

    /// Turns whole blocks into holes with version `seq` (0: as if never written).
    fn punch(&mut self, chunk: u64, first: u32, end: u32, seq: u64) -> Done<()> {
        let state = self.state(chunk)?;
        let end = end.min(state.table.len());
        if first >= end {
            return Ok(());
        }
        let overwrites = (first..end).any(|b| !state.table.get(b).is_hole());
        let edit = Edit { first, seq, id: WriteId::default(), more: true };
        self.append(chunk, Body::Zero(end - first), &edit, &[], overwrites);
        if overwrites {
            (first..end).for_each(|b| self.write_block(chunk, b, 0));
            self.state(chunk)?.unsynced = true;
        }
        let state = self.state(chunk)?;
        for b in first..end {
            let was = state.table.get(b);
            let entry = if seq == 0 || was.version == 0 { Entry::default() } else { Entry::zeroed(seq) };
            state.table.set(b, entry);
        }
        Ok(())
    }

    /// Puts whole blocks as another replica has them.
    pub fn install(&mut self, chunk: u64, first: u32, data: &[Content], told: &[Told]) -> Done<()> {
        let mut at = 0;
        let hole = |t: &Told| t.1 == 0 || t.0 == zero_block_crc();
        while at < told.len() {
            let (version, is_hole) = (told[at].1, hole(&told[at]));
            let n = told[at..].iter().take_while(|t| t.1 == version && hole(t) == is_hole).count();
            let block = first + at as u32;
            if is_hole {
                let end = block + n as u32;
                self.punch(chunk, block, end, version)?;
                let state = self.state(chunk)?;
                for b in block..end {
                    if version > 0 && state.table.get(b).version != version {
                        state.table.set(b, Entry::zeroed(version));
                    }
                }
            } else {
                let crcs: Vec<u32> = told[at..at + n].iter().map(|t| t.0).collect();
                let edit = Edit { first: block, seq: version, id: WriteId::default(), more: true };
                self.put(chunk, &edit, &data[at..at + n], &crcs)?;
            }
            at += n;
        }
        Ok(())
    }

    fn put(&mut self, chunk: u64, edit: &Edit, data: &[Content], crcs: &[u32]) -> Done<()> {
        let end = edit.first + crcs.len() as u32;
        let small = crcs.len() <= IMAGE_BLOCKS;
        let state = self.state(chunk)?;
        let overwrites = (edit.first..end).any(|b| !state.table.get(b).is_hole());
        if !small && (edit.first..end).any(|b| state.imaged.contains(&b)) {
            // Only the journal may have them on stable storage.
            state.imaged.clear();
            if let Some(file) = self.files.get_mut(&chunk) {
                file.sync();
            }
        }
        let body = if small { Body::Image(crcs.to_vec()) } else { Body::Large(crcs.to_vec()) };
        self.append(chunk, body, edit, if small { data } else { &[] }, overwrites);
        for (b, content) in (edit.first..end).zip(data) {
            self.write_block(chunk, b, *content);
        }
        let state = self.state(chunk)?;
        for (b, crc) in (edit.first..end).zip(crcs) {
            state.table.set(b, Entry::data(*crc, edit.seq));
        }
        state.unsynced |= !small;
        if small {
            state.imaged.extend(edit.first..end);
        }
        Ok(())
    }

    fn write_block(&mut self, chunk: u64, block: u32, content: Content) {
        let file = self.files.entry(chunk).or_default();
        if file.blocks.is_empty() {
            file.blocks = vec![Image::default(); BLOCKS as usize];
        }
        file.blocks[block as usize].write(content);
    }

    fn block(&self, chunk: u64, block: u32) -> Content {
        self.files.get(&chunk).and_then(|f| f.blocks.get(block as usize)).map_or(0, |b| *b.get())
    }

    fn record(&mut self, chunk: u64, body: Body, seq: u64) {
        self.append(chunk, body, &Edit { first: 0, seq, id: WriteId::default(), more: false }, &[], false);
    }

    fn append(&mut self, chunk: u64, body: Body, edit: &Edit, content: &[Content], overwrites: bool) {
        if self.journal.last().is_some_and(|s| s.records.len() >= SEGMENT) {
            self.next_segment();
        }
        let current = self.journal.last().map_or(0, |s| s.number);
        let Some(state) = self.chunks.get_mut(&chunk) else { return };
        let epoch = state.meta.epoch;
        let mark = overwrites && state.marked_in != current;
        if mark {
            state.marked_in = current;
        }
        if !std::mem::replace(&mut state.registered, true) {
            self.dirty.insert(chunk);
        }
        let Edit { first, seq, id, more } = *edit;
        let record = Record { lsn: 0, chunk, epoch, seq, id, more, first, body };
        if mark {
            self.push(Record { body: Body::Dirty, more: true, ..record.clone() }, Vec::new());
            self.sync_journal();
        }
        self.push(record, content.to_vec());
    }

    fn push(&mut self, mut record: Record, content: Vec<Content>) {
        record.lsn = self.lsn;
        self.lsn += 1;
        if let Some(segment) = self.journal.last_mut() {
            segment.records.push((record, content));
        }
    }

    fn next_segment(&mut self) {
        let number = self.journal.last().map_or(0, |s| s.number) + 1;
        self.journal.push(Segment { number, records: Vec::new(), synced: 0 });
    }

    pub fn sync_journal(&mut self) {
        self.journal.iter_mut().for_each(|s| s.synced = s.records.len());
    }

    /// Everything written to the chunk so far is on stable storage when this returns.
    pub fn sync(&mut self, chunk: u64) {
        if let Some(state) = self.chunks.get_mut(&chunk)
            && std::mem::take(&mut state.unsynced)
            && let Some(file) = self.files.get_mut(&chunk)
        {
            file.sync();
        }
        self.sync_journal();
    }

    /// Reads whole blocks, checked: content, checksums, and what others are told.
    pub fn read(&mut self, chunk: u64, first: u32, count: u32) -> Done<(Vec<Content>, Vec<u32>, Vec<Told>)> {
        self.state(chunk)?;
        let mut out = (Vec::new(), Vec::new(), Vec::new());
        for b in first..(first + count).min(BLOCKS) {
            let entry = self.state(chunk)?.table.get(b);
            let content = if entry.is_hole() { 0 } else { self.block(chunk, b) };
            if !entry.is_hole() && (entry.is_unclean() || checksum(content) != entry.crc) {
                self.mark_bad(chunk, b);
                return Err(DiskError::Corrupt(b));
            }
            out.0.push(content);
            out.1.push(entry.read_crc());
            out.2.push(entry.told());
        }
        Ok(out)
    }

    fn mark_bad(&mut self, chunk: u64, block: u32) {
        if let Some(state) = self.chunks.get_mut(&chunk) {
            let entry = state.table.get(block);
            if !entry.is_unclean() {
                state.table.set(block, entry.unclean());
                state.bad = true;
            }
        }
    }

    /// Gives a bad block the checksum of what it holds.
    pub fn adopt(&mut self, chunk: u64, block: u32, version: u64) -> Done<()> {
        let content = self.block(chunk, block);
        let edit = Edit { first: block, seq: version, id: WriteId::default(), more: true };
        self.put(chunk, &edit, &[content], &[checksum(content)])
    }

    pub fn told(&mut self, chunk: u64) -> Done<Vec<Told>> {
        let table = &self.state(chunk)?.table;
        Ok((0..table.len()).map(|b| table.get(b).told()).collect())
    }

    /// Marks what is bad after a crash.
    pub fn verify(&mut self, chunk: u64) -> Done<()> {
        for (from, to) in self.state(chunk)?.table.extents(0) {
            // What it says is in the table now.
            (from..to).for_each(|b| drop(self.read(chunk, b, 1)));
        }
        Ok(())
    }

    pub fn wants_checkpoint(&self) -> bool {
        self.journal.len() > 1
    }

    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// A checkpoint's first step; the others follow in this order, with time in between.
    pub fn checkpoint_collect(&mut self) -> Checkpoint {
        if self.journal.last().is_some_and(|s| !s.records.is_empty()) {
            self.next_segment();
        }
        let upto = self.journal.last().map_or(0, |s| s.number) - 1;
        let mut chunks = Vec::new();
        for chunk in std::mem::take(&mut self.dirty) {
            if let Some(state) = self.chunks.get_mut(&chunk) {
                state.registered = false;
                chunks.push((chunk, state.meta.clone(), state.table.clone()));
            }
        }
        Checkpoint { upto, chunks }
    }

    pub fn checkpoint_write(&mut self, checkpoint: &Checkpoint) {
        for (chunk, meta, table) in &checkpoint.chunks {
            let file = self.files.entry(*chunk).or_default();
            file.table.write(table.clone());
            file.header.write(Some(meta.clone()));
        }
    }

    pub fn checkpoint_sync(&mut self, checkpoint: &Checkpoint) {
        for (chunk, ..) in &checkpoint.chunks {
            if let Some(file) = self.files.get_mut(chunk) {
                file.sync();
            }
        }
    }

    pub fn checkpoint_release(&mut self, checkpoint: &Checkpoint) {
        self.journal.retain(|s| s.number > checkpoint.upto);
    }

    /// The power fails: of what was not synced, some is there, some is not, some is torn.
    pub fn lose_power(&mut self, rng: &mut SplitMix64) {
        self.boots += 1;
        let unsynced: usize = self.journal.iter().map(|s| s.records.len() - s.synced).sum();
        let mut kept = rng.below(unsynced as u64 + 1) as usize;
        for segment in &mut self.journal {
            let more = kept.min(segment.records.len() - segment.synced);
            kept -= more;
            segment.records.truncate(segment.synced + more);
        }
        for file in self.files.values_mut() {
            file.header.lose_power(rng, |v, _| v.clone());
            file.table.lose_power(rng, |v, _| v.clone());
            let torn = |_: &Content, rng: &mut SplitMix64| rng.next() | TORN;
            file.blocks.iter_mut().for_each(|b| b.lose_power(rng, torn));
        }
    }

    /// Whether a block is what its checksum says.
    pub fn is_good(&self, chunk: u64, block: u32) -> bool {
        self.chunks.get(&chunk).is_none_or(|s| {
            let entry = s.table.get(block);
            entry.is_hole() || (!entry.is_unclean() && checksum(self.block(chunk, block)) == entry.crc)
        })
    }

    /// Whether all blocks of a chunk are.
    pub fn is_good_everywhere(&self, chunk: u64) -> bool {
        (0..BLOCKS).all(|b| self.is_good(chunk, b))
    }

    /// A block turns into something else. False: it has no content.
    pub fn rot(&mut self, chunk: u64, block: u32) -> bool {
        let has = self.chunks.get(&chunk).is_some_and(|s| !s.table.get(block).is_hole());
        if has {
            let content = self.block(chunk, block) ^ 1 << 62;
            self.write_block(chunk, block, content);
        }
        has
    }

    /// The table, for those who compare from outside.
    pub fn table(&self, chunk: u64) -> Vec<Told> {
        let Some(s) = self.chunks.get(&chunk) else { return Vec::new() };
        (0..BLOCKS).map(|b| s.table.get(b).told()).collect()
    }

    /// The contents, for those who compare from outside.
    pub fn contents(&self, chunk: u64) -> Vec<Content> {
        let Some(s) = self.chunks.get(&chunk) else { return Vec::new() };
        (0..BLOCKS).map(|b| if s.table.get(b).is_hole() { 0 } else { self.block(chunk, b) }).collect()
    }

    /// Opens the disk after the process has ended: the replicas that are on it, with the writes that
    /// the journal still knows. Mirrors `disk/recover.rs`; the replay itself is the real one.
    pub fn open(&mut self) -> Vec<(u64, ChunkMeta, Recent)> {
        self.chunks.clear();
        self.dirty.clear();
        self.doomed.clear();
        let mut found: BTreeMap<u64, Replay<Content>> = BTreeMap::new();
        for (id, file) in &self.files {
            found.insert(*id, Replay::new(file.header.get().clone()));
        }
        let records: Vec<_> = self.journal.iter().flat_map(|s| &s.records).cloned().collect();
        for (record, content) in &records {
            let replay = found.entry(record.chunk).or_insert_with(|| Replay::new(None));
            replay.add(record, |i| content[i as usize]);
        }
        let mut out = Vec::new();
        for (id, replay) in found {
            if !replay.exists() {
                self.files.remove(&id);
                continue;
            }
            out.push(self.replay(id, replay));
        }
        self.files.values_mut().for_each(File::sync);
        let number = self.journal.last().map_or(0, |s| s.number) + 1;
        self.journal = vec![Segment { number, records: Vec::new(), synced: 0 }];
        out
    }

    fn replay(&mut self, id: u64, replay: Replay<Content>) -> (u64, ChunkMeta, Recent) {
        if replay.starts_anew() {
            self.files.remove(&id);
        }
        let mut table = self.files.get(&id).map(|f| f.table.get().clone()).unwrap_or_default();
        for (block, last) in replay.blocks() {
            if let Some(content) = last.content {
                self.write_block(id, *block, content);
            }
            table.set(*block, last.entry);
        }
        let touched = replay.is_touched();
        let (meta, recent) = replay.finish();
        let file = self.files.entry(id).or_default();
        if touched {
            file.table.write(table.clone());
            file.header.write(Some(meta.clone()));
        }
        let state = State { meta: meta.clone(), table, unverified: meta.suspect, ..State::default() };
        self.chunks.insert(id, state);
        (id, meta, recent)
    }
}

impl File {
    fn sync(&mut self) {
        self.header.sync();
        self.table.sync();
        self.blocks.iter_mut().for_each(Image::sync);
    }
}
