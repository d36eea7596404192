//! Verifying a replica: every block that has content is read and checked.

use super::chunk_file::ChunkFile;
use super::error::DiskError;
use super::storage::StorageFile;
use super::store::{Disk, State, table};
use super::write::Edit;
use crate::core::recent::WriteId;
use crate::core::table::Entry;
use cairn_proto::block::{BLOCK, crc32c};
use std::sync::Arc;

/// Blocks that are read at once.
const STEP: u32 = 256;

/// Where blocks are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From memory, where they are there.
    Cached,
    /// From the disk itself.
    Disk,
}

/// What one step of a verification has found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Where the next step begins; `None`: the chunk has been read to its end.
    pub next: Option<u32>,
    /// Bytes read.
    pub bytes: u64,
    /// Blocks that are not what their checksums say; they are marked, and not served.
    pub bad: Vec<u32>,
}

impl Disk {
    /// Verifies one replica to its end. Returns the bad blocks.
    pub fn verify(&self, chunk: &Arc<ChunkFile>) -> Result<Vec<u32>, DiskError> {
        let all = self.read_all(chunk)?;
        self.verified(chunk);
        Ok(all.bad)
    }

    /// The same, as one step from the first block to the last; what is bad is still in doubt.
    pub fn read_all(&self, chunk: &Arc<ChunkFile>) -> Result<Verified, DiskError> {
        let mut all = Verified { next: Some(0), ..Verified::default() };
        while let Some(from) = all.next {
            let step = self.verify_step(chunk, from, Source::Cached)?;
            all.bad.extend(step.bad);
            all.bytes += step.bytes;
            all.next = step.next;
        }
        Ok(all)
    }

    /// All of it has been read: what is bad is known.
    pub fn verified(&self, chunk: &ChunkFile) {
        chunk.state.lock().unverified = false;
    }

    /// Verifies at most a megabyte at or behind block `from`. The chunk is not locked while the disk is read.
    pub fn verify_step(
        &self,
        chunk: &Arc<ChunkFile>,
        from: u32,
        source: Source,
    ) -> Result<Verified, DiskError> {
        let (first, entries, file) = {
            let mut state = self.begin(chunk)?;
            if from == 0 && source == Source::Disk {
                // It may have been removed, or another may have been put in its place.
                self.look_again(chunk);
            }
            let Some(file) = self.source(chunk, &mut state, source)? else { return Ok(Verified::default()) };
            let Some((first, count)) = table(&mut state).run(from, STEP) else {
                return Ok(Verified::default());
            };
            let t = table(&mut state);
            (first, (first..first + count).map(|b| t.get(b)).collect::<Vec<_>>(), file)
        };
        let end = first + entries.len() as u32;
        let mut buffer = Aligned::new(entries.len() * BLOCK);
        let content = buffer.as_mut_slice();
        let at = self.settings.geometry.data() + u64::from(first) * BLOCK as u64;
        let n = self.check(file.read_at(content, at))?;
        content[n..].fill(0);
        let mut bad = Vec::new();
        for ((block, entry), content) in (first..).zip(&entries).zip(content.chunks_exact(BLOCK)) {
            let differs = entry.is_unclean() || crc32c(content) != entry.crc;
            if differs && self.is_bad(chunk, block, &*file)? {
                bad.push(block);
            }
        }
        Ok(Verified { next: Some(end), bytes: n as u64, bad })
    }

    /// The file as `source` says; `None`: the chunk has none yet.
    fn source(
        &self,
        chunk: &ChunkFile,
        state: &mut State<'_>,
        source: Source,
    ) -> Result<Option<Arc<dyn StorageFile>>, DiskError> {
        if !state.has_file {
            return Ok(None);
        }
        let file = self.file(chunk, state)?;
        match source {
            Source::Cached => Ok(Some(file)),
            Source::Disk => self.check(self.storage.open_uncached(&chunk.path())).map(Some),
        }
    }

    /// Looks at a block again while nothing can change it. What is bad on the disk only, and good in memory, is written again.
    fn is_bad(&self, chunk: &Arc<ChunkFile>, block: u32, file: &dyn StorageFile) -> Result<bool, DiskError> {
        let mut state = self.begin(chunk)?;
        let entry: Entry = table(&mut state).get(block);
        let good = match self.block(chunk, &mut state, block) {
            Ok(content) => content,
            Err(DiskError::Corrupt { .. }) => return Ok(true),
            Err(e) => return Err(e),
        };
        let mut buffer = Aligned::new(BLOCK);
        let at = self.settings.geometry.data() + u64::from(block) * BLOCK as u64;
        let n = self.check(file.read_at(buffer.as_mut_slice(), at))?;
        if !entry.is_hole() && (n < BLOCK || crc32c(buffer.as_mut_slice()) != entry.crc) {
            tracing::error!(chunk = chunk.id, block, "a block is bad on the disk; it is written again");
            let edit = Edit { first: block, seq: entry.version, id: WriteId::default(), more: true };
            self.put(chunk, &mut state, &edit, &[&good], &[entry.crc])?;
            self.count_bad(1);
            self.count_healed(1);
        }
        Ok(false)
    }
}

/// Memory that direct reads can go to.
pub(super) struct Aligned {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    pub(super) fn new(len: usize) -> Self {
        let bytes = vec![0; len + BLOCK];
        let from = bytes.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { bytes, from, len }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..self.from + self.len]
    }
}
