//! Why an operation of the engine failed, and the errno that says so.

/// The engine's one error type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// The master carried the operation out and refused it.
    #[error("refused by the master: errno {errno} {detail}")]
    Refused {
        /// A Linux errno.
        errno: i32,
        /// For people; may be empty.
        detail: String,
    },
    /// The operation's deadline passed while servers did not answer.
    #[error("no answer within the deadline: {0}")]
    TimedOut(String),
    /// Nobody who could answer can be reached.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No room on the chunkservers.
    #[error("no space left on the chunkservers")]
    NoSpace,
    /// No replica has intact data.
    #[error("chunk {chunk} is damaged at every replica")]
    Corrupt {
        /// The chunk.
        chunk: u64,
    },
    /// The session was ended by the cluster: what it had not written back is lost.
    #[error("this mount's session has been ended by the cluster")]
    Fenced,
    /// The inode is gone, or the handle is of an earlier session.
    #[error("stale inode or handle")]
    Stale,
    /// Another lock is in the way.
    #[error("another lock is in the way")]
    Locked,
    /// Whoever holds the lock waits for the caller.
    #[error("waiting for the lock would have no end")]
    Deadlock,
    /// This mount has too many locks.
    #[error("too many locks")]
    TooManyLocks,
    /// The caller was interrupted.
    #[error("interrupted")]
    Interrupted,
    /// The request makes no sense.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// Not offered by this file system.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// The mount is read-only.
    #[error("read-only file system")]
    ReadOnly,
    /// Beyond the largest file.
    #[error("file too large")]
    TooLarge,
    /// A search for data or a hole from behind the last one (`lseek`).
    #[error("no data or hole behind the offset")]
    NoSuchOffset,
    /// A server answered against the protocol, or failed for good.
    #[error("input/output error: {0}")]
    Io(String),
}

impl FsError {
    /// The Linux errno for it.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Refused { errno, .. } => *errno,
            // Both are outages that lasted past `on_outage`; ETIMEDOUT lets a script tell them from a failed disk.
            Self::TimedOut(_) => libc::ETIMEDOUT,
            // The answer of a disk that has gone away; programs know how to handle it.
            Self::Unreachable(_) | Self::Corrupt { .. } | Self::Fenced | Self::Io(_) => libc::EIO,
            Self::NoSpace => libc::ENOSPC,
            Self::Stale => libc::ESTALE,
            Self::Locked => libc::EAGAIN,
            Self::Deadlock => libc::EDEADLK,
            Self::TooManyLocks => libc::ENOLCK,
            Self::Interrupted => libc::EINTR,
            Self::Invalid(_) => libc::EINVAL,
            Self::NotSupported(_) => libc::EOPNOTSUPP,
            Self::ReadOnly => libc::EROFS,
            Self::TooLarge => libc::EFBIG,
            Self::NoSuchOffset => libc::ENXIO,
        }
    }
}
