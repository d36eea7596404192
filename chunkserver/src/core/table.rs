//! The block table: for each block its checksum and the write that last touched it.

use super::layout::{ENTRY, le32, le64};
use cairn_proto::block::zero_block_crc;

/// Bytes of the table that are written together.
pub const PAGE: usize = 4096;
const PER_PAGE: u32 = (PAGE / ENTRY) as u32;

const ZEROED: u32 = 1;
const UNCLEAN: u32 = 2;

/// One block's entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// CRC32C of the content.
    pub crc: u32,
    flags: u32,
    /// Sequence number of the write that last touched it; 0: never written.
    pub version: u64,
}

impl Entry {
    /// A block with content in the file.
    pub fn data(crc: u32, version: u64) -> Self {
        Self { crc, flags: 0, version }
    }

    /// A block that a write has turned into zeros; nothing is stored.
    pub fn zeroed(version: u64) -> Self {
        Self { crc: zero_block_crc(), flags: ZEROED, version }
    }

    /// The same block, whose content is not what the checksum says.
    pub fn unclean(self) -> Self {
        Self { flags: UNCLEAN, ..self }
    }

    /// Whether the content is zeros and not stored.
    pub fn is_hole(&self) -> bool {
        self.version == 0 || self.flags & ZEROED != 0
    }

    /// Whether the content is known to be bad.
    pub fn is_unclean(&self) -> bool {
        self.flags & UNCLEAN != 0
    }

    /// The checksum of what a read returns.
    pub fn read_crc(&self) -> u32 {
        if self.is_hole() { zero_block_crc() } else { self.crc }
    }

    /// What other replicas are told (checksum, version): a bad block has version 0, below every
    /// good one, but a checksum that tells it from a hole.
    pub fn told(&self) -> (u32, u64) {
        match self {
            e if e.is_unclean() => (1, 0),
            e if e.version == 0 => (0, 0),
            e => (e.read_crc(), e.version),
        }
    }
}

/// A chunk's entries, as far as blocks have been used.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    /// One bit a page: changed since it was last written to the file.
    dirty: u64,
}

impl Table {
    /// From its bytes in a file.
    pub fn decode(bytes: &[u8]) -> Self {
        let entries = bytes
            .chunks_exact(ENTRY)
            .map(|b| Entry { crc: le32(b, 0), flags: le32(b, 4), version: le64(b, 8) })
            .collect();
        Self { entries, dirty: 0 }
    }

    /// The entry of a block.
    pub fn get(&self, block: u32) -> Entry {
        self.entries.get(block as usize).copied().unwrap_or_default()
    }

    /// Changes the entry of a block.
    pub fn set(&mut self, block: u32, entry: Entry) {
        let at = block as usize;
        if at >= self.entries.len() {
            if entry == Entry::default() {
                return;
            }
            // The pages in between may hold anything in the file.
            for page in self.len() / PER_PAGE..block / PER_PAGE {
                self.dirty |= 1 << page.min(63);
            }
            self.entries.resize(at + 1, Entry::default());
        }
        self.entries[at] = entry;
        self.dirty |= 1 << (block / PER_PAGE).min(63);
    }

    /// Blocks up to the highest one that was ever used.
    pub fn len(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether any block is known to be bad.
    pub fn any_unclean(&self) -> bool {
        self.entries.iter().any(Entry::is_unclean)
    }

    /// Whether any page is to be written.
    pub fn is_dirty(&self) -> bool {
        self.dirty != 0
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    /// The runs of blocks with content: (first, behind the last).
    pub fn extents(&self, from: u32) -> Vec<(u32, u32)> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for b in from..self.len() {
            match runs.last_mut() {
                _ if self.get(b).is_hole() => {}
                Some(run) if run.1 == b => run.1 = b + 1,
                _ => runs.push((b, b + 1)),
            }
        }
        runs
    }

    /// The changed pages as (offset in the table, bytes); they count as written from here on.
    pub fn take_dirty_pages(&mut self) -> Vec<(u64, Vec<u8>)> {
        let last = self.len().div_ceil(PER_PAGE);
        let mut pages = Vec::new();
        for page in 0..last {
            if self.dirty & 1 << page.min(63) == 0 {
                continue;
            }
            let from = (page * PER_PAGE) as usize;
            let to = self.entries.len().min(from + PER_PAGE as usize);
            let mut bytes = Vec::with_capacity(PAGE);
            for e in &self.entries[from..to] {
                bytes.extend_from_slice(&e.crc.to_le_bytes());
                bytes.extend_from_slice(&e.flags.to_le_bytes());
                bytes.extend_from_slice(&e.version.to_le_bytes());
            }
            pages.push((u64::from(page) * PAGE as u64, bytes));
        }
        self.dirty = 0;
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_pages_and_only_those_are_written() {
        let mut t = Table::default();
        t.set(300, Entry::data(5, 1));
        t.set(2, Entry::zeroed(2));
        let pages = t.take_dirty_pages();
        assert_eq!(pages.iter().map(|p| p.0).collect::<Vec<_>>(), [0, 4096]);
        let mut bytes = vec![0; t.len() as usize * ENTRY];
        for (at, b) in pages {
            bytes[at as usize..at as usize + b.len()].copy_from_slice(&b);
        }
        let back = Table::decode(&bytes);
        assert_eq!((back.get(300), back.get(2)), (t.get(300), t.get(2)));
        assert!(!t.is_dirty());
        t.set(299, Entry::data(6, 3));
        assert_eq!(t.take_dirty_pages().len(), 1);
    }

    #[test]
    fn extents_leave_out_holes_and_zeroed_blocks() {
        let mut t = Table::default();
        for b in [0, 1, 5, 6] {
            t.set(b, Entry::data(9, 1));
        }
        t.set(1, Entry::zeroed(2));
        assert_eq!(t.extents(0), [(0, 1), (5, 7)]);
        assert_eq!(t.extents(6), [(6, 7)]);
    }

    #[test]
    fn a_bad_block_is_told_as_older_than_any_good_one() {
        assert_eq!(Entry::data(9, 4).unclean().told(), (1, 0));
        assert_eq!(Entry::default().told(), (0, 0));
        assert_eq!(Entry::zeroed(3).told(), (zero_block_crc(), 3));
    }
}
