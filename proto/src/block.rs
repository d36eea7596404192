//! Blocks: the unit of checksums on the wire, in memory and on disk.
//!
//! 4 KiB, so that a 4 KiB write needs no read of its surroundings.

/// Bytes in a block.
pub const BLOCK: usize = 4096;
/// Bytes in a chunk, unless the cluster was made with another size.
pub const CHUNK: u64 = 64 << 20;
/// Bytes in the pieces in which streams are cut.
pub const PIECE: usize = 1 << 20;

/// CRC32C (Castagnoli) of `data`.
pub fn crc32c(data: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data) as u32
}

/// CRC32C of a block of zeros.
pub fn zero_block_crc() -> u32 {
    static CRC: std::sync::LazyLock<u32> = std::sync::LazyLock::new(|| crc32c(&[0; BLOCK]));
    *CRC
}

/// Cuts `len` bytes that start at `offset` of a chunk at block boundaries:
/// yields (block number, offset within the block, range within the data).
pub fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= len {
            return None;
        }
        let pos = offset + at as u64;
        let within = (pos % BLOCK as u64) as usize;
        let end = len.min(at + BLOCK - within);
        let piece = (pos / BLOCK as u64, within, at..end);
        at = end;
        Some(piece)
    })
}

/// One CRC32C for each of the [`pieces`] of `data`, in order.
pub fn piece_crcs(offset: u64, data: &[u8]) -> Vec<u32> {
    pieces(offset, data.len()).map(|(_, _, r)| crc32c(&data[r])).collect()
}

/// Whether `crcs` are the [`piece_crcs`] of `data`.
pub fn crcs_match(offset: u64, data: &[u8], crcs: &[u32]) -> bool {
    let mut given = crcs.iter();
    pieces(offset, data.len()).all(|(_, _, r)| given.next() == Some(&crc32c(&data[r])))
        && given.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_castagnoli() {
        // RFC 3720, B.4: 32 bytes of zeros, and of ones.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn pieces_are_cut_at_blocks() {
        let got: Vec<_> = pieces(4000, 5000).collect();
        assert_eq!(got, [(0, 4000, 0..96), (1, 0, 96..4192), (2, 0, 4192..5000)]);
        assert_eq!(pieces(0, 0).count(), 0);
    }

    #[test]
    fn a_changed_byte_or_a_missing_crc_is_seen() {
        let mut data = vec![7u8; 9000];
        let crcs = piece_crcs(100, &data);
        assert!(crcs_match(100, &data, &crcs));
        assert!(!crcs_match(100, &data, &crcs[1..]));
        data[8999] ^= 1;
        assert!(!crcs_match(100, &data, &crcs));
    }
}
