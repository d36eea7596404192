//! Locks as mounts and the master tell each other of them. The message names no session: it is that of the connection.

use cairn_proto::rpc;

use crate::{Key, Kind, Lock, Mode, Owner, Range};

/// A lock as it is told.
pub fn to_wire(lock: &Lock) -> rpc::FileLock {
    let kind = match lock.key.kind {
        Kind::Range => rpc::LockKind::Range,
        Kind::Flock => rpc::LockKind::Flock,
    };
    rpc::FileLock {
        inode: lock.key.inode,
        kind: kind.into(),
        owner: lock.key.owner.id,
        first: lock.range.first,
        last: lock.range.last,
        exclusive: lock.mode == Mode::Exclusive,
        pid: lock.pid,
    }
}

/// What is told of a lock of this session. `None`: it is none (no such kind, or the last byte before the first).
pub fn from_wire(session: u64, lock: &rpc::FileLock) -> Option<Lock> {
    let kind = match rpc::LockKind::try_from(lock.kind).ok()? {
        rpc::LockKind::Range => Kind::Range,
        rpc::LockKind::Flock => Kind::Flock,
    };
    let owner = Owner { session, id: lock.owner };
    Some(Lock {
        key: Key { inode: lock.inode, kind, owner },
        range: Range::new(lock.first, lock.last)?,
        mode: Mode::exclusive(lock.exclusive),
        pid: lock.pid,
    })
}
