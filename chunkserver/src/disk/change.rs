//! Writes as a disk applies them.

use crate::core::recent::WriteId;
use bytes::Bytes;
use cairn_proto::block::BLOCK;

/// What a change puts into a chunk.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Bytes, with one CRC32C for each piece (cut at block boundaries), which have been checked.
    Data(Bytes, Vec<u32>),
    /// So many zeros.
    Zeros(u64),
}

/// A write to be applied.
#[derive(Clone, Debug)]
pub struct Change {
    /// The write's id.
    pub id: WriteId,
    /// Where in the chunk, bytes.
    pub offset: u64,
    /// What.
    pub payload: Payload,
}

impl Payload {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Data(d, _) => d.len() as u64,
            Self::Zeros(n) => *n,
        }
    }
}

impl Change {
    /// The blocks that it touches: (first, behind the last).
    pub fn blocks(&self) -> (u32, u32) {
        let end = self.offset.saturating_add(self.payload.len()).div_ceil(BLOCK as u64);
        ((self.offset / BLOCK as u64) as u32, end as u32)
    }
}

/// The blocks that a range covers in part: (block, offset within it, bytes).
pub(super) fn ends(offset: u64, len: u64) -> impl Iterator<Item = (u32, usize, usize)> {
    let end = offset + len;
    let block = BLOCK as u64;
    let (first, last) = (offset / block, end.saturating_sub(1) / block);
    let piece = move |b: u64| {
        let from = offset.max(b * block);
        let to = end.min((b + 1) * block);
        (b as u32, (from - b * block) as usize, (to - from) as usize)
    };
    let both = if first == last { vec![first] } else { vec![first, last] };
    both.into_iter().map(piece).filter(|(_, _, n)| *n != BLOCK)
}
