//! A disk as far as the replicas can tell: chunk files and a journal, each as the page cache has it
//! and as it is on stable storage.
//!
//! Mirrors `chunkserver/src/disk`, here `store.rs`. Blocks hold one word, chunks few blocks, segments few
//! records. Tables, headers' contents, records and their replay are the real ones from `core`.

mod checkpoint;
mod journal;
mod tables;

use super::image::Image;
use super::lost_disk::lies_on;
use crate::message::Content;
use crate::rng::SplitMix64;
use cairn_chunkserver::core::layout::ChunkMeta;
use cairn_chunkserver::core::record::Body;
use cairn_chunkserver::core::table::Table;
use cairn_proto::block::zero_block_crc;
use cairn_proto::data::Status;
use journal::Segment;
use std::collections::{BTreeMap, BTreeSet};

/// Blocks in a chunk.
pub const BLOCKS: u32 = 8;
/// The largest write whose content goes into the journal, blocks.
const IMAGE_BLOCKS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    Full,
    Deleted,
    Stale,
    Corrupt(u32),
}

impl DiskError {
    pub fn status(self) -> Status {
        match self {
            Self::Full => Status::NoSpace,
            Self::Deleted => Status::NoChunk,
            Self::Stale => Status::StaleEpoch,
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
    doubted: bool,
}

pub struct Disk {
    files: BTreeMap<u64, File>,
    journal: Vec<Segment>,
    lsn: u64,
    chunks: BTreeMap<u64, State>,
    dirty: BTreeSet<u64>,
    /// Files of deleted replicas.
    doomed: BTreeSet<u64>,
    /// Replicas that were deleted before, as far as the journal still knew, and their epochs.
    pub deleted_before: Vec<(u64, u64)>,
    pub full: bool,
    /// How far scrubbing is.
    pub scrub_place: (u64, Option<u64>),
    /// One of the server's disks will not be there at its next start.
    lost: bool,
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
            deleted_before: Vec::new(),
            full: false,
            scrub_place: (0, None),
            lost: false,
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

    pub fn doubt(&mut self, chunk: u64) -> Done<()> {
        let state = self.state(chunk)?;
        if !state.meta.suspect && !std::mem::replace(&mut state.doubted, true) {
            self.record(chunk, Body::Dirty, 0);
        }
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
        if state.meta.suspect || state.doubted || seq != state.meta.seq {
            (state.meta.suspect, state.doubted) = (false, false);
            state.meta.seq = seq;
            self.record(chunk, Body::Level, seq);
        }
        Ok(())
    }

    /// What lies on one of the two disks is gone.
    pub fn lose(&mut self, disk: u64) {
        let stays = |chunk: &u64| !lies_on(*chunk, disk);
        self.files.retain(|c, _| stays(c));
        self.chunks.retain(|c, _| stays(c));
        self.dirty.retain(stays);
        self.doomed.retain(stays);
        for segment in &mut self.journal {
            let synced = segment.records[..segment.synced].iter().filter(|(r, _)| stays(&r.chunk)).count();
            segment.records.retain(|(r, _)| stays(&r.chunk));
            segment.synced = synced;
        }
        self.lost = true;
    }

    /// Whether a disk is lost, and another has not been put in its place.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Another disk is put in the place of the one that was lost; whether one was.
    pub fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
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
}

impl File {
    fn sync(&mut self) {
        self.header.sync();
        self.table.sync();
        self.blocks.iter_mut().for_each(Image::sync);
    }
}
