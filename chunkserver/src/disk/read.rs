//! Reading a chunk's blocks and its table.

use super::chunk_file::ChunkFile;
use super::error::DiskError;
use super::storage::StorageFile;
use super::store::{Disk, State, table};
use crate::core::table::Entry;
use bytes::Bytes;
use cairn_proto::block::{BLOCK, PIECE, crc32c};
use cairn_proto::data::Buffer;
use std::sync::Arc;

/// Blocks as they are read.
pub struct Blocks {
    /// Their content.
    pub data: Bytes,
    /// One CRC32C a block.
    pub crcs: Vec<u32>,
    /// What other replicas are told of each: (checksum, version).
    pub told: Vec<(u32, u64)>,
}

/// A static megabyte of zeros: holes are read without touching fresh memory.
static ZEROS: [u8; PIECE] = [0; PIECE];

/// A way to read from a file; `None`: the disk would have to be waited for.
type ReadFile = dyn Fn(&dyn StorageFile, &mut [u8], u64) -> std::io::Result<Option<usize>>;

impl Disk {
    /// One block's content, checked.
    pub(super) fn block(
        &self,
        chunk: &Arc<ChunkFile>,
        state: &mut State<'_>,
        block: u32,
    ) -> Result<Vec<u8>, DiskError> {
        let entry = table(state).get(block);
        let mut content = vec![0; BLOCK];
        if entry.is_hole() {
            return Ok(content);
        }
        let at = self.settings.geometry.data() + u64::from(block) * BLOCK as u64;
        self.check(self.file(chunk, state)?.read_at(&mut content, at))?;
        if entry.is_unclean() || crc32c(&content) != entry.crc {
            self.mark_bad(chunk, state, block);
            return Err(DiskError::Corrupt { block });
        }
        Ok(content)
    }

    pub(super) fn mark_bad(&self, chunk: &ChunkFile, state: &mut State<'_>, block: u32) {
        let entry = table(state).get(block);
        if !entry.is_unclean() {
            self.count_bad(1);
            if state.meta.suspect {
                tracing::debug!(chunk = chunk.id, block, "unclean block");
            } else {
                if !state.bad {
                    tracing::error!(chunk = chunk.id, block, "a block does not match its checksum");
                }
                // It may not be the only one: all are read before the replicas are compared.
                state.unverified = true;
            }
            table(state).set(block, entry.unclean());
            state.bad = true;
        }
    }

    /// Reads whole blocks, checked against their checksums. Behind the end are zeros.
    pub fn read(&self, chunk: &Arc<ChunkFile>, first: u32, count: u32) -> Result<Blocks, DiskError> {
        let blocks = self.read_with(chunk, first, count, &|f, into, at| f.read_at(into, at).map(Some))?;
        blocks.ok_or(DiskError::Failed)
    }

    /// The same, but `None` if the disk would have to be waited for.
    pub fn read_cached(
        &self,
        chunk: &Arc<ChunkFile>,
        first: u32,
        count: u32,
    ) -> Result<Option<Blocks>, DiskError> {
        if !chunk.is_loaded() {
            return Ok(None);
        }
        self.read_with(chunk, first, count, &|f, into, at| f.read_cached(into, at))
    }

    fn read_with(
        &self,
        chunk: &Arc<ChunkFile>,
        first: u32,
        count: u32,
        read: &ReadFile,
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
        let file = self.file(chunk, &mut state)?;
        let Some(n) = self.check(read(&*file, &mut bytes[..used], at))? else { return Ok(None) };
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

    /// The runs of content at or behind a block: (first, behind the last).
    pub fn extents(&self, chunk: &Arc<ChunkFile>, from: u32) -> Result<Vec<(u32, u32)>, DiskError> {
        let mut state = self.begin(chunk)?;
        Ok(table(&mut state).extents(from))
    }

    /// The digest of the table as other replicas are told it.
    pub fn digest(&self, chunk: &Arc<ChunkFile>) -> Result<u64, DiskError> {
        let mut state = self.begin(chunk)?;
        Ok(table(&mut state).digest())
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
}
