//! File locks as they go over the wire, and as they are stored: a record for each owner and inode.

use bytes::Bytes;
pub use cairn_locks::wire::to_wire;
use cairn_locks::{Key, Kind, Lock, Mode, Outcome, Owner, Range, wire};
use cairn_proto::{InodeId, SessionId, rpc};
use prost::Message;

use super::errno::{self, Errno};
use super::keys;
use super::records;
use super::view::ViewError;

/// What one owner holds of one inode.
#[derive(Clone, PartialEq, Message)]
struct Held {
    #[prost(uint32, tag = "1")]
    pid: u32,
    #[prost(message, repeated, tag = "2")]
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Piece {
    #[prost(uint64, tag = "1")]
    first: u64,
    #[prost(uint64, tag = "2")]
    last: u64,
    #[prost(bool, tag = "3")]
    exclusive: bool,
}

/// What a mount says of a lock. `None`: it is none (no such kind, or the last byte before the first).
pub fn from_wire(session: SessionId, lock: Option<&rpc::FileLock>) -> Option<Lock> {
    wire::from_wire(session.0, lock?)
}

/// Why a request that was not granted is refused; `None`: it waits, or was granted.
pub fn refusal(outcome: Outcome) -> Option<(Errno, &'static str)> {
    match outcome {
        Outcome::Granted | Outcome::Waiting => None,
        Outcome::Conflict(_) => Some((errno::EAGAIN, "another lock is in the way")),
        Outcome::Deadlock => Some((errno::EDEADLK, "whoever is in the way waits for the caller")),
        Outcome::TooMany => Some((errno::ENOLCK, "the mount has too many locks")),
    }
}

/// The key of a record.
pub fn key(of: Key) -> Vec<u8> {
    let (inode, session) = (InodeId(of.inode), SessionId(of.owner.session));
    keys::lock(inode, session, of.owner.id, of.kind == Kind::Flock)
}

/// The record of what is held at one place; `None`: nothing is.
pub fn encode(held: impl Iterator<Item = Lock>) -> Option<Bytes> {
    let mut record = Held::default();
    for lock in held {
        record.pid = lock.pid;
        let exclusive = lock.mode == Mode::Exclusive;
        record.pieces.push(Piece { first: lock.range.first, last: lock.range.last, exclusive });
    }
    (!record.pieces.is_empty()).then(|| record.encode_to_vec().into())
}

/// The locks of a record.
///
/// # Errors
/// When it is malformed.
pub fn decode(key: &[u8], value: &[u8]) -> Result<Vec<Lock>, ViewError> {
    let malformed = || ViewError("a lock's record is malformed".into());
    let inode = keys::head_id(key).ok_or_else(malformed)?;
    let (session, rest) = keys::tail(key).split_first_chunk().ok_or_else(malformed)?;
    let (id, kind) = rest.split_first_chunk().ok_or_else(malformed)?;
    let kind = match kind {
        [0] => Kind::Range,
        [1] => Kind::Flock,
        _ => return Err(malformed()),
    };
    let owner = Owner { session: u64::from_be_bytes(*session), id: u64::from_be_bytes(*id) };
    let held: Held = records::decode("a lock", value)?;
    let lock = |p: &Piece| {
        let range = Range::new(p.first, p.last).ok_or_else(malformed)?;
        let key = Key { inode, kind, owner };
        Ok(Lock { key, range, mode: Mode::exclusive(p.exclusive), pid: held.pid })
    };
    held.pieces.iter().map(lock).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_what_was_held() {
        for kind in [rpc::LockKind::Range, rpc::LockKind::Flock] {
            let wire = |first, last, exclusive| rpc::FileLock {
                inode: 7,
                kind: kind.into(),
                owner: 1 << 63,
                first,
                last,
                exclusive,
                pid: 12,
            };
            let all = [wire(0, 4, false), wire(5, u64::MAX, true)];
            let locks: Vec<_> = all.iter().map(|l| from_wire(SessionId(3), Some(l)).unwrap()).collect();
            let (key, value) = (key(locks[0].key), encode(locks.iter().copied()).unwrap());
            let restored = decode(&key, &value).unwrap();
            assert_eq!(restored, locks);
            assert_eq!(restored.iter().map(to_wire).collect::<Vec<_>>(), all);
            assert!(decode(&key[..key.len() - 1], &value).is_err());
            assert!(decode(&key, b"nonsense").is_err());
        }
        assert!(encode(std::iter::empty()).is_none());
    }

    #[test]
    fn what_is_no_lock_is_refused() {
        let lock = rpc::FileLock { first: 5, last: 4, ..rpc::FileLock::default() };
        assert!(from_wire(SessionId(1), Some(&lock)).is_none());
        assert!(from_wire(SessionId(1), Some(&rpc::FileLock { kind: 9, ..lock })).is_none());
        assert!(from_wire(SessionId(1), None).is_none());
    }
}
