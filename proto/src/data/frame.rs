//! The frame header: its layout and its bounds.
//!
//! ```text
//!  0 kind u8 | 1 flags u8 | 2 meta length u16 | 4 data length u32
//!  8 request id u32       | 12 CRC32C u32 of this header (with 0 here) and the meta part
//! 16 chunk u64
//! 24 epoch u32            | 28 offset in the chunk u32 (in replies: status)
//! ```
//! All little-endian. The data has checksums of its own, in the meta part.

use crate::block::crc32c;

/// Bytes in a header.
pub const HEADER: usize = 32;
/// The longest metadata part, bytes.
pub const MAX_META: usize = u16::MAX as usize;
/// The longest data part, bytes.
pub const MAX_DATA: usize = 4 << 20;

/// Flag bits of a header.
pub mod flags {
    /// This is the reply to a request of the same kind and request id.
    pub const REPLY: u8 = 1;
    /// Write, Forward: answer only when the chunk is on stable storage, as after Sync.
    pub const SYNC: u8 = 2;
}

/// What a frame asks for (or, with [`flags::REPLY`], answers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Client → primary: `WriteMeta`, data (or `zero_len`). Reply: `WriteReply`.
    Write = 1,
    /// Primary → replica, and on along the chain: the same with a sequence number.
    Forward = 2,
    /// Whole blocks at `offset`: `ReadMeta`. Reply: `ReadReply`, data. Blocks behind the end are zeros.
    Read = 3,
    /// Client → primary → replicas: everything acknowledged so far goes to stable storage. `SyncMeta`. Reply: `WriteReply`.
    Sync = 4,
    /// Where there is data. Reply: `MapReply`.
    Map = 5,
    /// What is known of the chunk. Reply: `StateReply`.
    State = 6,
    /// The block table. Reply: `TableReply`.
    Table = 7,
    /// Primary → replica: `InstallMeta`, data. Reply: `WriteReply`.
    Install = 8,
    /// Replica → primary, after a restart: `ReconcileMeta`. Reply: `StateReply`, when done.
    Reconcile = 9,
    /// Nothing; answered at once.
    Ping = 10,
    /// What there is of the chunk, checked: `VerifyMeta`. Reply: `VerifyReply`.
    Verify = 11,
    /// Which replicas there are, from the header's chunk on. Reply: `ListReply`.
    List = 12,
}

impl Kind {
    fn from_u8(v: u8) -> Option<Self> {
        use Kind::*;
        [Write, Forward, Read, Sync, Map, State, Table, Install, Reconcile, Ping, Verify, List]
            .into_iter()
            .find(|k| *k as u8 == v)
    }
}

/// How a request ended. Anything but `Ok` may carry a text for people as its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The receiver holds a higher epoch (it is in the reply's header): ask the master.
    StaleEpoch = 1,
    /// The receiver holds a lower epoch or has no such chunk: it will hear of it, try again soon, or elsewhere.
    Behind = 2,
    /// No such chunk here, and it may not be made.
    NoChunk = 3,
    /// The receiver is not this chunk's primary.
    NotPrimary = 4,
    /// The receiver has no valid lease from the master.
    NotServing = 5,
    /// The replicas are being compared; try again soon.
    Busy = 6,
    /// The disk is full.
    NoSpace = 7,
    /// The disk failed.
    DiskError = 8,
    /// What is stored does not match its checksum (read elsewhere; healing is under way).
    Corrupt = 9,
    /// What arrived does not match its checksum: send it again.
    Garbled = 10,
    /// So many replicas failed that no majority is left.
    MemberFailed = 11,
    /// The request makes no sense: a bug, or another version.
    BadRequest = 12,
    /// The sender's session has been fenced.
    Fenced = 13,
}

impl Status {
    /// The status with this number.
    pub fn from_u32(v: u32) -> Option<Self> {
        use Status::*;
        [
            Ok,
            StaleEpoch,
            Behind,
            NoChunk,
            NotPrimary,
            NotServing,
            Busy,
            NoSpace,
            DiskError,
            Corrupt,
            Garbled,
            MemberFailed,
            BadRequest,
            Fenced,
        ]
        .into_iter()
        .find(|s| *s as u32 == v)
    }
}

/// A frame's header, without the lengths and the checksum, which belong to encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What is asked for.
    pub kind: Kind,
    /// See [`flags`].
    pub flags: u8,
    /// Ties a reply to its request.
    pub request: u32,
    /// The chunk; 0 where none is meant.
    pub chunk: u64,
    /// The epoch under which the sender acts; in a reply: the receiver's.
    pub epoch: u32,
    /// Requests: offset in the chunk, bytes. Replies: a [`Status`].
    pub offset: u32,
}

/// Why bytes are no frame. The connection is closed: after one of these nothing on it can be trusted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The first byte is none of [`Kind`].
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// More data than [`MAX_DATA`].
    #[error("frame of {0} bytes of data (most: {MAX_DATA})")]
    TooLong(usize),
    /// The checksum of header and metadata is wrong.
    #[error("frame header checksum mismatch")]
    Checksum,
    /// The metadata is not the message it should be.
    #[error("frame metadata: {0}")]
    Meta(#[from] prost::DecodeError),
}

fn put(b: &mut [u8; HEADER], at: usize, bytes: &[u8]) {
    b[at..at + bytes.len()].copy_from_slice(bytes);
}

fn le32(b: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

impl Header {
    /// A request.
    pub fn request(kind: Kind, chunk: u64, epoch: u32, offset: u32) -> Self {
        Self { kind, flags: 0, request: 0, chunk, epoch, offset }
    }

    /// The reply to this request.
    pub fn reply(&self, status: Status, epoch: u32) -> Self {
        Self { flags: flags::REPLY, offset: status as u32, epoch, ..*self }
    }

    /// In a reply: how it ended. An unknown number counts as [`Status::BadRequest`].
    pub fn status(&self) -> Status {
        Status::from_u32(self.offset).unwrap_or(Status::BadRequest)
    }

    /// Encodes the header in front of `meta` (at most [`MAX_META`] bytes) and `data` bytes (at most [`MAX_DATA`]).
    pub fn encode(&self, meta: &[u8], data: usize) -> [u8; HEADER] {
        assert!(meta.len() <= MAX_META && data <= MAX_DATA, "frame too long: {} + {data}", meta.len());
        let mut b = [0; HEADER];
        b[0] = self.kind as u8;
        b[1] = self.flags;
        put(&mut b, 2, &(meta.len() as u16).to_le_bytes());
        put(&mut b, 4, &(data as u32).to_le_bytes());
        put(&mut b, 8, &self.request.to_le_bytes());
        put(&mut b, 16, &self.chunk.to_le_bytes());
        put(&mut b, 24, &self.epoch.to_le_bytes());
        put(&mut b, 28, &self.offset.to_le_bytes());
        let crc = header_crc(&b, meta);
        put(&mut b, 12, &crc.to_le_bytes());
        b
    }

    /// The lengths (metadata, data) in an encoded header, checked against the bounds: how much to read on.
    pub fn lengths(b: &[u8; HEADER]) -> Result<(usize, usize), FrameError> {
        Kind::from_u8(b[0]).ok_or(FrameError::Kind(b[0]))?;
        let data = le32(b, 4) as usize;
        if data > MAX_DATA {
            return Err(FrameError::TooLong(data));
        }
        Ok((u16::from_le_bytes([b[2], b[3]]) as usize, data))
    }

    /// Decodes a header and checks it and `meta` against the checksum.
    pub fn decode(b: &[u8; HEADER], meta: &[u8]) -> Result<Self, FrameError> {
        let kind = Kind::from_u8(b[0]).ok_or(FrameError::Kind(b[0]))?;
        if header_crc(b, meta) != le32(b, 12) {
            return Err(FrameError::Checksum);
        }
        Ok(Self {
            kind,
            flags: b[1],
            request: le32(b, 8),
            chunk: u64::from(le32(b, 16)) | u64::from(le32(b, 20)) << 32,
            epoch: le32(b, 24),
            offset: le32(b, 28),
        })
    }
}

/// CRC32C of the header (its checksum field as 0), XORed with that of the metadata turned by one bit
/// (so that swapping the two is seen).
fn header_crc(b: &[u8; HEADER], meta: &[u8]) -> u32 {
    let mut h = *b;
    h[12..16].fill(0);
    crc32c(&h) ^ crc32c(meta).rotate_left(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { kind: Kind::Forward, flags: 2, request: 77, chunk: 0x1234_5678_9abc, epoch: 9, offset: 4096 }
    }

    #[test]
    fn a_header_survives_the_wire() {
        let b = header().encode(b"meta", 100);
        assert_eq!(Header::lengths(&b), Ok((4, 100)));
        assert_eq!(Header::decode(&b, b"meta"), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let good = header().encode(b"meta", 100);
        for bit in 0..HEADER * 8 {
            let mut b = good;
            b[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&b, b"meta").is_err(), "bit {bit}");
        }
        assert_eq!(Header::decode(&good, b"mete"), Err(FrameError::Checksum));
    }

    #[test]
    fn an_oversized_frame_is_refused_before_it_is_read() {
        let mut b = header().encode(b"", 0);
        b[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Header::lengths(&b), Err(FrameError::TooLong(u32::MAX as usize)));
    }
}
