//! A chunk file: a header page, the block table, the data.
//!
//! ```text
//! 0                header: one page, of which the first 128 bytes are used (so within one sector)
//! 4096             table: 16 bytes a block
//! 4096 + table     data: block i at + i * 4096
//! ```

use cairn_proto::block::{BLOCK, crc32c};

const MAGIC: &[u8; 8] = b"CAIRNCHK";
/// Version of the format. History: 1, the first.
pub const FORMAT: u32 = 1;
/// Bytes of a header that are in use.
pub const HEADER: usize = 128;
/// Bytes of a table entry on disk.
pub const ENTRY: usize = 16;
/// Most members an in-sync set can have on disk.
pub const MAX_SET: usize = 15;

/// What a replica keeps beside blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkMeta {
    /// The epoch of the in-sync set.
    pub epoch: u64,
    /// Servers that hold every acknowledged byte; the first is the primary.
    pub in_sync: Vec<u32>,
    /// Copies wanted.
    pub wanted: u32,
    /// Of the last write applied.
    pub seq: u64,
    /// A crash came while it was being changed: it is not served before it has been compared with the others.
    pub suspect: bool,
}

/// Where things lie in the files of chunks of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in a chunk.
    pub chunk_size: u64,
}

impl Geometry {
    /// Blocks in a chunk.
    pub fn blocks(&self) -> u32 {
        (self.chunk_size / BLOCK as u64) as u32
    }

    /// Where the table begins.
    pub fn table(&self) -> u64 {
        BLOCK as u64
    }

    /// Where block 0 begins.
    pub fn data(&self) -> u64 {
        let table = u64::from(self.blocks()) * ENTRY as u64;
        BLOCK as u64 + table.next_multiple_of(BLOCK as u64)
    }
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// All zeros: the file was made, but a crash came before its header was written.
    #[error("no header was written")]
    Blank,
    /// Another chunk's: the file was given to this one, or was to be given to that one, when a crash came.
    #[error("the header of chunk {0}")]
    Another(u64),
    /// Not a chunk's, or damaged.
    #[error("damaged header")]
    Damaged,
    /// Written by a newer version.
    #[error("format {0}, newer than {FORMAT}")]
    Newer(u32),
}

/// Encodes the header of `chunk`, whose table has `blocks` entries in use.
pub fn encode_header(chunk: u64, meta: &ChunkMeta, blocks: u32) -> [u8; HEADER] {
    let mut b = Vec::with_capacity(HEADER);
    b.extend_from_slice(MAGIC);
    b.extend_from_slice(&FORMAT.to_le_bytes());
    b.extend_from_slice(&blocks.to_le_bytes());
    b.extend_from_slice(&chunk.to_le_bytes());
    b.extend_from_slice(&meta.epoch.to_le_bytes());
    b.extend_from_slice(&meta.seq.to_le_bytes());
    b.extend_from_slice(&meta.wanted.to_le_bytes());
    let members = meta.in_sync.len().min(MAX_SET);
    b.extend_from_slice(&(members as u32 | u32::from(meta.suspect) << 16).to_le_bytes());
    for id in &meta.in_sync[..members] {
        b.extend_from_slice(&id.to_le_bytes());
    }
    b.resize(HEADER - 4, 0);
    b.extend_from_slice(&crc32c(&b).to_le_bytes());
    let mut out = [0; HEADER];
    out.copy_from_slice(&b);
    out
}

/// Decodes the header of `chunk`: what it says, and how many table entries are in use.
pub fn decode_header(chunk: u64, b: &[u8; HEADER]) -> Result<(ChunkMeta, u32), HeaderError> {
    if b.iter().all(|x| *x == 0) {
        return Err(HeaderError::Blank);
    }
    let (body, crc) = b.split_at(HEADER - 4);
    if &b[..8] != MAGIC || crc32c(body).to_le_bytes() != crc {
        return Err(HeaderError::Damaged);
    }
    if le32(b, 8) > FORMAT {
        return Err(HeaderError::Newer(le32(b, 8)));
    }
    let (members, suspect) = ((le32(b, 44) & 0xffff) as usize, le32(b, 44) >> 16 != 0);
    if members > MAX_SET {
        return Err(HeaderError::Damaged);
    }
    if le64(b, 16) != chunk {
        return Err(HeaderError::Another(le64(b, 16)));
    }
    let in_sync = (0..members).map(|i| le32(b, 48 + 4 * i)).collect();
    let meta = ChunkMeta { epoch: le64(b, 24), seq: le64(b, 32), wanted: le32(b, 40), in_sync, suspect };
    Ok((meta, le32(b, 12)))
}

/// The little-endian u32 at `at`, which must lie within `b`.
pub(crate) fn le32(b: &[u8], at: usize) -> u32 {
    let mut v = [0; 4];
    v.copy_from_slice(&b[at..at + 4]);
    u32::from_le_bytes(v)
}

/// The little-endian u64 at `at`, which must lie within `b`.
pub(crate) fn le64(b: &[u8], at: usize) -> u64 {
    let mut v = [0; 8];
    v.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_and_damage_is_seen() {
        let meta = ChunkMeta { epoch: 7, in_sync: vec![3, 1, 2], wanted: 3, seq: 99, suspect: true };
        let good = encode_header(5, &meta, 40);
        assert_eq!(decode_header(5, &good), Ok((meta, 40)));
        assert_eq!(decode_header(6, &good), Err(HeaderError::Another(5)));
        assert_eq!(decode_header(5, &[0; HEADER]), Err(HeaderError::Blank));
        for bit in 0..HEADER * 8 {
            let mut b = good;
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_header(5, &b).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn data_begins_behind_the_whole_table() {
        let g = Geometry { chunk_size: 64 << 20 };
        assert_eq!((g.blocks(), g.data()), (16_384, 4096 + (256 << 10)));
        assert_eq!(Geometry { chunk_size: 1 << 20 }.data(), 8192);
    }
}
