//! A batch as a record of the log: pure bytes.
//!
//! A record is its length, its CRC32C and its number (each little-endian, 4, 4 and 8 bytes), then the
//! changes: key length, value length ([`DELETED`] for a deletion), key, value. Numbers go up by one from record
//! to record: what an earlier round left behind a record has a number that does not follow, and so is not taken
//! for more of the log.

use bytes::Bytes;
use cairn_proto::block::crc32c;

use crate::core::scratch::Batch;

/// Bytes of a record before its changes.
pub(super) const HEADER: usize = 16;
const DELETED: u32 = u32::MAX;

/// Puts the record of `batch` into `out`, replacing what was there. False: it is too large for any record.
pub(super) fn encode(out: &mut Vec<u8>, number: u64, batch: &Batch) -> bool {
    out.clear();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&number.to_le_bytes());
    for (key, value) in batch {
        let value_len = value.as_ref().map_or(Some(DELETED), |v| u32::try_from(v.len()).ok());
        let (Ok(key_len), Some(value_len)) = (u32::try_from(key.len()), value_len) else { return false };
        out.extend_from_slice(&key_len.to_le_bytes());
        out.extend_from_slice(&value_len.to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    let Ok(len) = u32::try_from(out.len()) else { return false };
    let crc = crc32c(&out[8..]);
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    true
}

/// The record at the start of `log`: its number, its changes, its length. `None`: there is no whole one.
pub(super) fn decode(log: &[u8]) -> Option<(u64, Batch, usize)> {
    let len = u32::from_le_bytes(*log.first_chunk()?) as usize;
    let crc = u32::from_le_bytes(*log.get(4..)?.first_chunk()?);
    let content = log.get(8..len)?;
    if len < HEADER || crc32c(content) != crc {
        return None;
    }
    let (number, mut rest) = content.split_first_chunk::<8>()?;
    let mut batch = Batch::new();
    while !rest.is_empty() {
        let (key_len, after) = rest.split_first_chunk::<4>()?;
        let (value_len, after) = after.split_first_chunk::<4>()?;
        let (key, after) = after.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
        let value_len = u32::from_le_bytes(*value_len);
        let present = if value_len == DELETED { 0 } else { value_len as usize };
        let (value, after) = after.split_at_checked(present)?;
        batch.insert(key.to_vec(), (value_len != DELETED).then(|| Bytes::copy_from_slice(value)));
        rest = after;
    }
    Some((u64::from_le_bytes(*number), batch, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_and_is_whole_or_nothing() {
        let batch = Batch::from([
            (b"k1".to_vec(), Some(Bytes::from_static(b"value"))),
            (b"k2".to_vec(), None),
            (b"k3".to_vec(), Some(Bytes::new())),
        ]);
        let mut record = Vec::new();
        assert!(encode(&mut record, 42, &batch));
        assert_eq!(decode(&record), Some((42, batch, record.len())));
        for cut in 0..record.len() {
            assert_eq!(decode(&record[..cut]), None, "cut at {cut}");
        }
        for at in 4..record.len() {
            let mut flipped = record.clone();
            flipped[at] ^= 1;
            assert_eq!(decode(&flipped), None, "flipped at {at}");
        }
        assert_eq!(decode(&[0; 64]), None);
        assert_eq!(decode(&[0xff; 64]), None);
    }
}
