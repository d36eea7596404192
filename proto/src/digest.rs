//! Digests: of a set of replicas, by which the master notices that its picture of a chunkserver is wrong, and of a
//! replica's content, by which replicas are compared.
//!
//! They are wrapping sums, the former of [`replica_hash`] over all replicas: the same in whatever order they
//! are added, and a replica is taken out by a subtraction.

/// The hash of one replica. Part of the protocol: both ends must compute the same.
///
/// Two rounds of the finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
/// number generators", 2014), the second over chunk and epoch, so that sums over many replicas do not cancel.
pub const fn replica_hash(chunk: u64, epoch: u64) -> u64 {
    mix(mix(chunk).wrapping_add(epoch))
}

/// The hash of one block of a replica: its number, checksum and version. The digest of a replica's content is the
/// wrapping sum over its blocks; those that are as if never written (checksum and version 0) count nothing.
pub const fn block_hash(block: u32, crc: u32, version: u64) -> u64 {
    if crc == 0 && version == 0 {
        return 0;
    }
    mix(mix((block as u64) << 32 | crc as u64).wrapping_add(version))
}

const fn mix(v: u64) -> u64 {
    let z = v.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_as_published() {
        // The first output of SplitMix64 seeded with 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn content_is_told_by_block_checksum_and_version() {
        let hashes = [block_hash(1, 2, 3), block_hash(2, 1, 3), block_hash(1, 3, 2), block_hash(3, 2, 1)];
        for (i, a) in hashes.iter().enumerate() {
            assert!(!hashes[i + 1..].contains(a) && *a != 0);
        }
        assert_eq!(block_hash(7, 0, 0), 0);
    }

    #[test]
    fn chunk_and_epoch_are_not_interchangeable() {
        assert_ne!(replica_hash(1, 2), replica_hash(2, 1));
        assert_ne!(
            replica_hash(1, 2).wrapping_add(replica_hash(2, 1)),
            replica_hash(1, 1).wrapping_add(replica_hash(2, 2))
        );
    }
}
