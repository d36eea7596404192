//! One replica on a disk: what of it is in memory.

use crate::core::layout::ChunkMeta;
use crate::core::table::Table;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ops::Range;

/// A replica.
pub struct ChunkFile {
    /// The chunk.
    pub id: u64,
    pub(super) state: Mutex<FileState>,
}

#[derive(Default)]
pub(super) struct FileState {
    pub meta: ChunkMeta,
    /// Loaded at first use, dropped again when it is clean and memory is short.
    pub table: Option<Table>,
    /// Entries in the file's table.
    pub stored: u32,
    /// The header in the file is not `meta`.
    pub header_dirty: bool,
    /// Registered for the next checkpoint.
    pub registered: bool,
    /// The number of the journal segment with the last dirty mark.
    pub marked_in: u64,
    /// Content was written that neither the journal nor a sync has made durable.
    pub unsynced: bool,
    /// Blocks whose content may be on stable storage in the journal only: since the last checkpoint, and those that
    /// the checkpoint under way takes along.
    pub imaged: BTreeSet<u32>,
    pub imaged_before: BTreeSet<u32>,
    /// There is a file: made by this process, or found. If it cannot be opened, it has been lost.
    pub has_file: bool,
    /// The file's name may not be durable yet.
    pub fresh: bool,
    /// Blocks that its file has room for since it was another replica's.
    pub room: u32,
    /// After a crash: blocks may not be what their checksums say.
    pub unverified: bool,
    pub deleted: bool,
    /// A bad block was found since the replica was last settled.
    pub bad: bool,
    /// The replica is in doubt, though its blocks are not: the header says so, for the next start.
    pub doubted: bool,
    /// Used since tables were last dropped.
    pub used: bool,
}

impl ChunkFile {
    pub(super) fn new(id: u64, state: FileState) -> Self {
        Self { id, state: Mutex::new(state) }
    }

    /// Epoch, set and seq.
    pub fn meta(&self) -> ChunkMeta {
        self.state.lock().meta.clone()
    }

    /// Whether a crash left its blocks in doubt, or a bad one was found.
    pub fn in_doubt(&self) -> bool {
        let s = self.state.lock();
        s.unverified || s.meta.suspect || s.bad
    }

    /// Whether its blocks have not been verified since a crash.
    pub fn is_unverified(&self) -> bool {
        self.state.lock().unverified
    }

    /// Whether its table is in memory, so that nothing has to be read before its blocks can be looked for.
    pub(super) fn is_loaded(&self) -> bool {
        self.state.lock().table.is_some()
    }

    /// Where its file lies on the disk.
    pub(super) fn path(&self) -> String {
        path(self.id)
    }

    pub(super) fn dir(&self) -> String {
        dir(self.id)
    }
}

impl FileState {
    /// What the header is to say.
    pub fn header(&self) -> ChunkMeta {
        ChunkMeta { suspect: self.meta.suspect || self.doubted, ..self.meta.clone() }
    }

    /// Whether the content of any of these blocks may be on stable storage in the journal only.
    pub fn is_imaged(&self, blocks: Range<u32>) -> bool {
        [&self.imaged, &self.imaged_before].iter().any(|set| set.range(blocks.clone()).next().is_some())
    }
}

pub(super) fn dir(id: u64) -> String {
    format!("chunks/{:02x}", id & 0xff)
}

pub(super) fn path(id: u64) -> String {
    format!("{}/{id}", dir(id))
}
