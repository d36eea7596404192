//! Reading and writing for a copy of a whole chunk: without holding up those who use it, or filling memory that they could use.

use super::chunk_file::ChunkFile;
use super::error::DiskError;
use super::read::Blocks;
use super::store::{Disk, table};
use super::verify::Aligned;
use crate::core::table::Entry;
use bytes::Bytes;
use cairn_proto::block::{BLOCK, crc32c};
use std::sync::Arc;

impl Disk {
    /// Whole blocks as they are, read without the chunk's lock, from the disk what is not in memory. `None`: some do not match
    /// their checksums, as they are bad or were just being written. Blocks.
    pub fn read_for_copy(
        &self,
        chunk: &Arc<ChunkFile>,
        first: u32,
        count: u32,
    ) -> Result<Option<Blocks>, DiskError> {
        if first.saturating_add(count) > self.settings.geometry.blocks() {
            return Err(DiskError::Range);
        }
        let (entries, file) = {
            let mut state = self.begin(chunk)?;
            let file = self.file(chunk, &mut state)?;
            let t = table(&mut state);
            ((first..first + count).map(|b| t.get(b)).collect::<Vec<_>>(), file)
        };
        let used = entries.iter().rposition(|e| !e.is_hole()).map_or(0, |i| i + 1) * BLOCK;
        let mut buffer = Aligned::new(count as usize * BLOCK);
        let content = buffer.as_mut_slice();
        if used > 0 {
            let at = self.settings.geometry.data() + u64::from(first) * BLOCK as u64;
            let wanted = &mut content[..used];
            let n = match self.check(file.read_cached(wanted, at))? {
                Some(n) => n,
                None => {
                    self.check(self.storage.open_uncached(&chunk.path()).and_then(|f| f.read_at(wanted, at)))?
                }
            };
            wanted[n..].fill(0);
        }
        for (entry, content) in entries.iter().zip(content.chunks_exact_mut(BLOCK)) {
            if entry.is_hole() {
                content.fill(0);
            } else if entry.is_unclean() || crc32c(content) != entry.crc {
                return Ok(None);
            }
        }
        Ok(Some(Blocks {
            data: Bytes::copy_from_slice(content),
            crcs: entries.iter().map(Entry::read_crc).collect(),
            told: entries.iter().map(Entry::told).collect(),
        }))
    }

    /// Whether blocks are still what they were when they were read.
    pub fn are_still(&self, chunk: &Arc<ChunkFile>, first: u32, blocks: &Blocks) -> Result<bool, DiskError> {
        let (told, _) = self.told(chunk, first, blocks.told.len() as u32)?;
        let (known, behind) = blocks.told.split_at(told.len().min(blocks.told.len()));
        Ok(told == known && behind.iter().all(|t| *t == (0, 0)))
    }

    /// What was written to some blocks is on its way to the disk when this returns: a later sync has little left to do, and
    /// those who wait for it do not wait for a whole copy. Blocks.
    pub fn write_out(&self, chunk: &Arc<ChunkFile>, first: u32, count: u32) -> Result<(), DiskError> {
        let file = {
            let mut state = self.begin(chunk)?;
            self.file(chunk, &mut state)?
        };
        let at = self.settings.geometry.data() + u64::from(first) * BLOCK as u64;
        file.write_out(at, u64::from(count) * BLOCK as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::layout::{ChunkMeta, Geometry};
    use crate::core::recent::WriteId;
    use crate::disk::fs::FsStorage;
    use crate::disk::{Change, DiskSettings, Payload};
    use cairn_proto::block::piece_crcs;

    fn write(disk: &Disk, file: &Arc<ChunkFile>, block: u32, blocks: usize, seq: u64) {
        let data = vec![seq as u8; blocks * BLOCK];
        let offset = u64::from(block) * BLOCK as u64;
        let crcs = piece_crcs(offset, &data);
        let change = Change { id: WriteId::default(), offset, payload: Payload::Data(data.into(), crcs) };
        disk.apply(file, &change, seq).unwrap();
    }

    #[test]
    fn what_is_read_for_a_copy_is_known_to_be_of_today_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let geometry = Geometry { chunk_size: 4 << 20 };
        let settings = DiskSettings { geometry, segment_bytes: 8 << 20, reserve: 0, open_files: 4 };
        let (disk, _) = Disk::open(Arc::new(FsStorage::open(dir.path()).unwrap()), settings).unwrap();
        let meta = ChunkMeta { epoch: 1, in_sync: vec![1, 2], wanted: 2, ..ChunkMeta::default() };
        let file = disk.create(7, meta, 1).unwrap();
        write(&disk, &file, 0, 40, 1);
        write(&disk, &file, 50, 4, 2);
        disk.write_out(&file, 0, 64).unwrap();
        // Content, a hole, content, and beyond the end.
        let read = disk.read_for_copy(&file, 30, 64).unwrap().unwrap();
        let locked = disk.read(&file, 30, 64).unwrap();
        assert!(read.data == locked.data && read.crcs == locked.crcs && read.told == locked.told);
        assert!(disk.are_still(&file, 30, &read).unwrap());
        write(&disk, &file, 95, 1, 3);
        assert!(disk.are_still(&file, 30, &read).unwrap(), "another block");
        write(&disk, &file, 60, 1, 4);
        assert!(!disk.are_still(&file, 30, &read).unwrap(), "a hole no more");
        let read = disk.read_for_copy(&file, 30, 64).unwrap().unwrap();
        write(&disk, &file, 39, 1, 5);
        assert!(!disk.are_still(&file, 30, &read).unwrap(), "written over");
        assert!(matches!(disk.read_for_copy(&file, 1000, 64), Err(DiskError::Range)));
    }
}
