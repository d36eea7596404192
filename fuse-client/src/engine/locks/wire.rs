//! Locks as the master is told of them. There, the session is that of the connection.

use cairn_locks::{Kind, Lock, Mode, Range};
use cairn_proto::rpc;

use super::key;

pub(super) fn to_wire(lock: &Lock) -> rpc::FileLock {
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

/// `None`: no lock that there can be.
pub(super) fn from_wire(lock: &rpc::FileLock) -> Option<Lock> {
    let kind = match rpc::LockKind::try_from(lock.kind).ok()? {
        rpc::LockKind::Range => Kind::Range,
        rpc::LockKind::Flock => Kind::Flock,
    };
    Some(Lock {
        key: key(lock.inode, kind, lock.owner),
        range: Range::new(lock.first, lock.last)?,
        mode: Mode::exclusive(lock.exclusive),
        pid: lock.pid,
    })
}
