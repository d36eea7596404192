//! An inode's attributes as the engine keeps them.

use cairn_proto::rpc;

/// Time since the Unix epoch; `nanos` is below 1e9, `secs` may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds.
    pub secs: i64,
    /// Nanoseconds on top of them.
    pub nanos: u32,
}

impl From<rpc::Time> for Timestamp {
    fn from(t: rpc::Time) -> Self {
        Self { secs: t.secs, nanos: t.nanos.min(999_999_999) }
    }
}

impl From<Timestamp> for rpc::Time {
    fn from(t: Timestamp) -> Self {
        Self { secs: t.secs, nanos: t.nanos }
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(t: std::time::SystemTime) -> Self {
        match t.duration_since(std::time::UNIX_EPOCH) {
            Ok(d) => Self { secs: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), nanos: d.subsec_nanos() },
            // Before 1970: the seconds are rounded down, the nanoseconds count up from there.
            Err(e) => {
                let d = e.duration();
                let secs = -i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
                match d.subsec_nanos() {
                    0 => Self { secs, nanos: 0 },
                    n => Self { secs: secs - 1, nanos: 1_000_000_000 - n },
                }
            }
        }
    }
}

/// The type of an inode: the `S_IFMT` bits of its mode.
pub const TYPE_MASK: u32 = 0o170_000;
/// `S_IFREG`.
pub const REGULAR: u32 = 0o100_000;
/// `S_IFDIR`.
pub const DIRECTORY: u32 = 0o040_000;

/// An inode's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileAttr {
    /// The inode.
    pub inode: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of devices.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Last access, as far as it is kept (see docs/semantics.md).
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
    /// Goes up with every change at the master.
    pub version: u64,
    /// Whether there is any extended attribute.
    pub has_xattrs: bool,
}

impl FileAttr {
    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.mode & TYPE_MASK == DIRECTORY
    }

    /// Whether this is a regular file.
    pub fn is_regular(&self) -> bool {
        self.mode & TYPE_MASK == REGULAR
    }

    /// Whether a write by somebody without `CAP_FSETID` takes mode bits away: suid, or sgid where the
    /// group may execute (without that bit, sgid once meant mandatory locking and stays).
    pub fn loses_bits_on_write(&self) -> bool {
        self.without_suidgid() != self.mode
    }

    /// The mode without suid, and without sgid where the group may execute.
    pub fn without_suidgid(&self) -> u32 {
        let mode = self.mode & !0o4000;
        if mode & 0o0010 == 0 { mode } else { mode & !0o2000 }
    }
}

impl From<rpc::Attr> for FileAttr {
    fn from(a: rpc::Attr) -> Self {
        let time = |t: Option<rpc::Time>| t.map(Timestamp::from).unwrap_or_default();
        Self {
            inode: a.inode,
            mode: a.mode,
            nlink: a.nlink,
            uid: a.uid,
            gid: a.gid,
            rdev: a.rdev,
            size: a.size,
            atime: time(a.atime),
            mtime: time(a.mtime),
            ctime: time(a.ctime),
            version: a.version,
            has_xattrs: a.has_xattrs,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times_before_the_epoch_round_down() {
        let t = Timestamp::from(UNIX_EPOCH - Duration::from_millis(1500));
        assert_eq!(t, Timestamp { secs: -2, nanos: 500_000_000 });
        let t = Timestamp::from(UNIX_EPOCH - Duration::from_secs(3));
        assert_eq!(t, Timestamp { secs: -3, nanos: 0 });
    }

    #[test]
    fn sgid_without_group_execute_survives_a_write() {
        let loses = |mode| FileAttr { mode, ..Default::default() }.loses_bits_on_write();
        assert!(loses(0o104_644));
        assert!(loses(0o102_755));
        assert!(!loses(0o102_644));
        assert!(!loses(0o100_777));
    }
}
