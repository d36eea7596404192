//! Records of the journal and the header of its segments: their bytes.
//!
//! ```text
//!  0 magic u32 | 4 kind u8, more u8, 2 reserved | 8 body length u32 | 12 CRC32C u32 of head (this as 0) and body
//! 16 lsn u64   | 24 chunk u64 | 32 epoch u64 | 40 seq u64 | 48 session u64 | 56 write u64
//! 64 first block u32 | 68 blocks u32
//! 72 body: Image, Large: a CRC32C u32 a block; Epoch: wanted u32, members u32 each
//!    Image: then the blocks' content, which those checksums cover
//! ```

use super::layout::{FORMAT, MAX_SET, le32, le64};
use super::recent::WriteId;
use cairn_proto::block::{BLOCK, crc32c};

/// Bytes before the body.
pub const HEAD: usize = 72;
/// Bytes of a segment before its first record.
pub const SEGMENT_HEAD: u64 = 4096;
/// The largest write whose content goes into the journal, blocks.
pub const IMAGE_BLOCKS: u32 = 16;
const MAGIC: u32 = 0x434a_5231;
const SEGMENT_MAGIC: &[u8; 8] = b"CAIRNJNL";
/// Blocks in the largest record: 4 MiB of data, and the pieces at its ends.
const MAX_BLOCKS: u32 = 1026;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Blocks and their content (which follows the record's head and body).
    Image(Vec<u32>),
    /// Blocks whose content went straight to the chunk file.
    Large(Vec<u32>),
    /// Blocks that became zeros.
    Zero(u32),
    /// The chunk has this epoch and set from here on.
    Epoch {
        /// Copies wanted.
        wanted: u32,
        /// The set.
        in_sync: Vec<u32>,
    },
    /// The chunk's seq went up without a block (it was made level with another replica).
    Level,
    /// Blocks of the chunk are about to be overwritten in place, or the replica is in doubt.
    Dirty,
    /// The chunk is gone.
    Delete,
}

/// A record, but for the content of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number: one more than that of the record before.
    pub lsn: u64,
    /// The chunk.
    pub chunk: u64,
    /// The epoch at that time.
    pub epoch: u64,
    /// The version of the blocks (and the chunk's seq, unless that is higher).
    pub seq: u64,
    /// The write's id.
    pub id: WriteId,
    /// A part of a change whose last part is yet to come: it does not raise the chunk's seq.
    pub more: bool,
    /// The first of the blocks.
    pub first: u32,
    /// What it says.
    pub body: Body,
}

impl Record {
    /// Bytes of content that follow head and body.
    pub fn content_len(&self) -> usize {
        if let Body::Image(crcs) = &self.body { crcs.len() * BLOCK } else { 0 }
    }

    /// Head and body.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, blocks, words): (u8, u32, Vec<u32>) = match &self.body {
            Body::Image(crcs) => (1, crcs.len() as u32, crcs.clone()),
            Body::Large(crcs) => (2, crcs.len() as u32, crcs.clone()),
            Body::Zero(n) => (3, *n, Vec::new()),
            Body::Epoch { wanted, in_sync } => {
                let set = in_sync.iter().take(MAX_SET).copied();
                (4, 0, std::iter::once(*wanted).chain(set).collect())
            }
            Body::Level => (5, 0, Vec::new()),
            Body::Dirty => (6, 0, Vec::new()),
            Body::Delete => (7, 0, Vec::new()),
        };
        let mut b = Vec::with_capacity(HEAD + words.len() * 4);
        b.extend_from_slice(&MAGIC.to_le_bytes());
        b.extend_from_slice(&[kind, self.more.into(), 0, 0]);
        b.extend_from_slice(&(words.len() as u32 * 4).to_le_bytes());
        b.extend_from_slice(&[0; 4]);
        for v in [self.lsn, self.chunk, self.epoch, self.seq, self.id.session, self.id.write] {
            b.extend_from_slice(&v.to_le_bytes());
        }
        b.extend_from_slice(&self.first.to_le_bytes());
        b.extend_from_slice(&blocks.to_le_bytes());
        for w in words {
            b.extend_from_slice(&w.to_le_bytes());
        }
        let crc = crc32c(&b);
        b[12..16].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Decodes the record at the start of `b` if it is whole, undamaged and the one with this `lsn`:
    /// with the bytes of its head and body. `None`: the journal ends here.
    pub fn decode(b: &[u8], lsn: u64) -> Option<(Self, usize)> {
        let head = b.get(..HEAD)?;
        let body_len = le32(head, 8) as usize;
        let blocks = le32(head, 68);
        if le32(head, 0) != MAGIC || le64(head, 16) != lsn || !body_len.is_multiple_of(4) {
            return None;
        }
        let body = b.get(HEAD..HEAD.checked_add(body_len)?)?;
        let mut head_without = [0; HEAD];
        head_without.copy_from_slice(head);
        head_without[12..16].fill(0);
        let whole = [&head_without, body].concat();
        if crc32c(&whole) != le32(head, 12) {
            return None;
        }
        let words: Vec<u32> = (0..body_len / 4).map(|i| le32(body, i * 4)).collect();
        let of_blocks = words.len() == blocks as usize;
        let body = match head[4] {
            1 if of_blocks && blocks <= IMAGE_BLOCKS + 1 => Body::Image(words),
            2 if of_blocks && blocks <= MAX_BLOCKS => Body::Large(words),
            4 => {
                let (wanted, in_sync) = words.split_first()?;
                Body::Epoch { wanted: *wanted, in_sync: in_sync.to_vec() }
            }
            _ if !words.is_empty() => return None,
            3 => Body::Zero(blocks),
            5 => Body::Level,
            6 => Body::Dirty,
            7 => Body::Delete,
            _ => return None,
        };
        let record = Self {
            lsn,
            chunk: le64(head, 24),
            epoch: le64(head, 32),
            seq: le64(head, 40),
            id: WriteId { session: le64(head, 48), write: le64(head, 56) },
            more: head[5] != 0,
            first: le32(head, 64),
            body,
        };
        let len = HEAD + body_len;
        (b.len() >= len + record.content_len()).then_some((record, len))
    }
}

/// The first page of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// Its place in the order of segments.
    pub number: u64,
    /// The lsn of its first record.
    pub first_lsn: u64,
}

impl SegmentHead {
    /// Bytes in use.
    pub const LEN: usize = 32;

    /// Its bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut b = [0; Self::LEN];
        b[..8].copy_from_slice(SEGMENT_MAGIC);
        b[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        b[12..20].copy_from_slice(&self.number.to_le_bytes());
        b[20..28].copy_from_slice(&self.first_lsn.to_le_bytes());
        let crc = crc32c(&b[..28]);
        b[28..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// `None`: the segment holds nothing.
    pub fn decode(b: &[u8; Self::LEN]) -> Option<Self> {
        if &b[..8] != SEGMENT_MAGIC || crc32c(&b[..28]) != le32(b, 28) || le32(b, 8) != FORMAT {
            return None;
        }
        Some(Self { number: le64(b, 12), first_lsn: le64(b, 20) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: Body) -> Record {
        let id = WriteId { session: 8, write: 9 };
        Record { lsn: 4, chunk: 5, epoch: 6, seq: 7, id, more: true, first: 3, body }
    }

    #[test]
    fn records_survive() {
        for body in [
            Body::Large(vec![1, 2, 3]),
            Body::Epoch { wanted: 3, in_sync: vec![1, 2] },
            Body::Zero(5000),
            Body::Level,
            Body::Dirty,
            Body::Delete,
        ] {
            let r = record(body);
            let b = r.encode();
            assert_eq!(Record::decode(&b, 4), Some((r, b.len())));
            assert_eq!(Record::decode(&b, 5), None, "another record's place");
        }
    }

    #[test]
    fn damage_and_missing_content_end_the_journal() {
        let r = record(Body::Image(vec![1]));
        let mut b = r.encode();
        let head = b.len();
        assert_eq!(Record::decode(&b, 4), None);
        b.resize(head + BLOCK, 0);
        assert_eq!(Record::decode(&b, 4), Some((r, head)));
        for bit in 0..head * 8 {
            let mut bad = b.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&bad, 4), None, "bit {bit}");
        }
        assert_eq!(Record::decode(&[0; 4096], 0), None);
    }
}
