//! The block table: for each block its checksum and the write that last touched it.

use super::layout::{ENTRY, le32, le64};
use cairn_proto::block::{crc32c, zero_block_crc};
use cairn_proto::digest::block_hash;

/// Bytes of the table that are written together.
pub const PAGE: usize = 4096;
const PER_PAGE: u32 = (PAGE / ENTRY) as u32;

const ZEROED: u32 = 1;
const UNCLEAN: u32 = 2;
/// In a file the upper half of the flags holds the entry's own check; 0: none (entries of the first versions, and holes).
const FLAGS: u32 = 0xffff;

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

    /// A block of which nothing is known but that there may have been one.
    pub fn lost() -> Self {
        Self { crc: 0, flags: UNCLEAN, version: 1 }
    }

    /// Its bytes in a file. A hole is all zeros, as where the file has one.
    pub fn encode(&self) -> [u8; ENTRY] {
        let mut b = [0; ENTRY];
        b[..4].copy_from_slice(&self.crc.to_le_bytes());
        b[4..8].copy_from_slice(&self.flags.to_le_bytes());
        b[8..].copy_from_slice(&self.version.to_le_bytes());
        if *self != Self::default() {
            let check = check(&b);
            b[6..8].copy_from_slice(&check.to_le_bytes());
        }
        b
    }

    /// From its bytes in a file (`b` holds [`ENTRY`] of them). An entry that is not what was written is that of a bad block.
    pub fn decode(b: &[u8]) -> Self {
        let (crc, flags, version) = (le32(b, 0), le32(b, 4), le64(b, 8));
        let mut unchecked = [0; ENTRY];
        unchecked.copy_from_slice(&b[..ENTRY]);
        unchecked[6..8].fill(0);
        let told = (flags >> 16) as u16;
        if told != 0 && told != check(&unchecked) {
            return Self::lost();
        }
        Self { crc, flags: flags & FLAGS, version }
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

/// An entry's check over its bytes, those of the check as 0. Never 0, so that a check that is missing is told from one.
fn check(b: &[u8; ENTRY]) -> u16 {
    let crc = crc32c(b);
    ((crc ^ crc >> 16) as u16).max(1)
}

/// A chunk's entries, as far as blocks have been used.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    /// One bit a page: changed since it was last written to the file.
    dirty: u64,
    /// The sum of the hashes of what other replicas are told of each block.
    digest: u64,
}

fn digest(entries: &[Entry]) -> u64 {
    entries.iter().enumerate().fold(0, |sum, (block, e)| sum.wrapping_add(hash(block, *e)))
}

fn hash(block: usize, entry: Entry) -> u64 {
    let (crc, version) = entry.told();
    block_hash(block as u32, crc, version)
}

impl Table {
    /// From its bytes in a file.
    pub fn decode(bytes: &[u8]) -> Self {
        let entries: Vec<Entry> = bytes.chunks_exact(ENTRY).map(Entry::decode).collect();
        Self { digest: digest(&entries), entries, dirty: 0 }
    }

    /// The digest of what other replicas are told: theirs is the same where they hold the same.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The entries from `first` up to `end` are not in the file, where they should be.
    pub fn lose_entries(&mut self, first: u32, end: u32) {
        (first..end).for_each(|block| self.set(block, Entry::lost()));
    }

    /// The file is gone: what it held is bad, and all of the table is to be written again.
    pub fn lose_content(&mut self) {
        for e in self.entries.iter_mut().filter(|e| !e.is_hole()) {
            *e = e.unclean();
        }
        self.digest = digest(&self.entries);
        self.dirty = u64::MAX;
    }

    /// The first run of blocks with content at or behind `from`: (first, count), at most `most`.
    pub fn run(&self, from: u32, most: u32) -> Option<(u32, u32)> {
        let used = |b: &u32| !self.get(*b).is_hole();
        let first = (from..self.len()).find(used)?;
        Some((first, (first..self.len().min(first + most)).take_while(used).count() as u32))
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
        let before = std::mem::replace(&mut self.entries[at], entry);
        self.digest = self.digest.wrapping_sub(hash(at, before)).wrapping_add(hash(at, entry));
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

    /// How many blocks are known to be bad.
    pub fn unclean(&self) -> usize {
        self.entries.iter().filter(|e| e.is_unclean()).count()
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
                bytes.extend_from_slice(&e.encode());
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
    fn a_flipped_bit_in_an_entry_never_makes_a_block_a_hole_or_another_one() {
        for e in [Entry::data(0x1234_5678, 1), Entry::zeroed(8), Entry::data(0, 1 << 40).unclean()] {
            let good = e.encode();
            assert_eq!(Entry::decode(&good), e);
            for bit in 0..ENTRY * 8 {
                let mut b = good;
                b[bit / 8] ^= 1 << (bit % 8);
                let read = Entry::decode(&b);
                assert!(read == e || (read.is_unclean() && !read.is_hole()), "bit {bit} of {e:?}: {read:?}");
            }
        }
        assert_eq!(Entry::default().encode(), [0; ENTRY]);
    }

    #[test]
    fn entries_of_the_first_versions_have_no_check() {
        let mut b = Entry::data(77, 5).encode();
        b[6..8].fill(0);
        assert_eq!(Entry::decode(&b), Entry::data(77, 5));
    }

    #[test]
    fn what_a_lost_file_held_is_bad_and_written_again() {
        let mut t = Table::default();
        t.set(0, Entry::data(5, 1));
        t.set(300, Entry::data(6, 2));
        t.take_dirty_pages();
        t.lose_content();
        assert_eq!((t.get(0).told(), t.get(1).told(), t.get(300).told()), ((1, 0), (0, 0), (1, 0)));
        assert_eq!(t.take_dirty_pages().len(), 2);
        t.lose_entries(300, 302);
        assert!(t.get(301).is_unclean() && !t.get(301).is_hole());
    }

    #[test]
    fn the_digest_is_that_of_what_is_held_however_it_came_about() {
        let (mut a, mut b) = (Table::default(), Table::default());
        for (block, version) in [(3, 1), (9, 2), (3, 3)] {
            a.set(block, Entry::data(5, version));
        }
        b.set(9, Entry::data(5, 2));
        b.set(12, Entry::zeroed(4));
        assert_ne!(a.digest(), b.digest());
        b.set(3, Entry::data(5, 3));
        b.set(12, Entry::default());
        assert_eq!(a.digest(), b.digest());
        let bytes: Vec<u8> = (0..b.len()).flat_map(|block| b.get(block).encode()).collect();
        assert_eq!(Table::decode(&bytes).digest(), a.digest());
        b.lose_content();
        assert_ne!(a.digest(), b.digest());
        assert_eq!(Table::default().digest(), 0);
    }

    #[test]
    fn runs_are_bounded_and_begin_behind_holes() {
        let mut t = Table::default();
        (3..9).for_each(|b| t.set(b, Entry::data(5, 1)));
        assert_eq!((t.run(0, 4), t.run(7, 4), t.run(9, 4)), (Some((3, 4)), Some((7, 2)), None));
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
