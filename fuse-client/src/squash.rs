//! Callers who count as an anonymous user on a mount.
//!
//! The kernel checks permissions with the identities of this machine, as on any mount; what is decided here comes on top of
//! that and takes away only.

use crate::engine::SetAttr;
use crate::engine::SetTime;
use crate::engine::attr::{DIRECTORY, FileAttr, TYPE_MASK};

/// May be read (a directory: listed).
pub(crate) const READ: u32 = 4;
/// May be written (a directory: its names changed).
pub(crate) const WRITE: u32 = 2;
/// May be executed (a directory: entered).
pub(crate) const EXECUTE: u32 = 1;
/// A directory from which only owners take names away.
const STICKY: u32 = 0o1000;
/// The user and group "nobody" of most systems.
const NOBODY: u32 = 65_534;

/// Which callers count as the anonymous user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Squashed {
    /// None.
    #[default]
    None,
    /// Root.
    Root,
    /// Everybody.
    All,
}

/// Who counts as whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Squash {
    /// Which callers.
    pub who: Squashed,
    /// The anonymous user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Default for Squash {
    fn default() -> Self {
        Self { who: Squashed::None, uid: NOBODY, gid: NOBODY }
    }
}

impl Squash {
    /// Whether a user is not who it says.
    pub(crate) fn concerns(&self, uid: u32) -> bool {
        match self.who {
            Squashed::None => false,
            Squashed::Root => uid == 0,
            Squashed::All => true,
        }
    }

    /// Who a caller is on this mount. The group of root is nobody's privilege either, whoever is in it.
    pub(crate) fn identity(&self, uid: u32, gid: u32) -> (u32, u32) {
        let group = self.concerns(uid) || (self.who == Squashed::Root && gid == 0);
        (if self.concerns(uid) { self.uid } else { uid }, if group { self.gid } else { gid })
    }

    fn owns(&self, attr: &FileAttr) -> bool {
        self.uid == 0 || attr.uid == self.uid
    }

    /// Whether the anonymous user may do this with an inode, by its mode.
    pub(crate) fn permits(&self, attr: &FileAttr, want: u32) -> bool {
        let class = match attr {
            _ if attr.uid == self.uid => 6,
            _ if attr.gid == self.gid => 3,
            _ => 0,
        };
        self.uid == 0 || (attr.mode >> class) & want == want
    }

    /// Whether it may take away a name of `victim` in `directory`, which it may change: an errno if not.
    pub(crate) fn may_remove(&self, directory: &FileAttr, victim: &FileAttr) -> Result<(), i32> {
        let bound = directory.mode & (TYPE_MASK | STICKY) == DIRECTORY | STICKY;
        if bound && !self.owns(directory) && !self.owns(victim) { Err(libc::EPERM) } else { Ok(()) }
    }

    /// Whether it may change attributes: an errno if not.
    pub(crate) fn may_set(&self, attr: &FileAttr, change: &SetAttr) -> Result<(), i32> {
        if self.uid == 0 {
            return Ok(());
        }
        let owner = self.owns(attr);
        let given_away = change.uid.is_some_and(|uid| uid != attr.uid)
            || change.gid.is_some_and(|gid| gid != attr.gid && gid != self.gid);
        let set = |time| matches!(time, Some(SetTime::To(_)));
        let of_owners = change.mode.is_some() || change.uid.is_some() || change.gid.is_some();
        if given_away || (!owner && (of_owners || set(change.atime) || set(change.mtime))) {
            return Err(libc::EPERM);
        }
        let of_writers = change.size.is_some() || change.atime.is_some() || change.mtime.is_some();
        if of_writers && !owner && !self.permits(attr, WRITE) { Err(libc::EACCES) } else { Ok(()) }
    }

    /// Whether it may change this extended attribute: an errno if not.
    pub(crate) fn may_set_xattr(&self, attr: &FileAttr, name: &[u8]) -> Result<(), i32> {
        let permitted = match name {
            _ if self.uid == 0 => true,
            _ if name.starts_with(b"user.") => {
                return if self.permits(attr, WRITE) { Ok(()) } else { Err(libc::EACCES) };
            }
            // ACLs.
            _ if name.starts_with(b"system.") => self.owns(attr),
            _ => false,
        };
        if permitted { Ok(()) } else { Err(libc::EPERM) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squash(who: Squashed) -> Squash {
        Squash { who, ..Squash::default() }
    }

    fn inode(uid: u32, gid: u32, mode: u32) -> FileAttr {
        FileAttr { uid, gid, mode, ..FileAttr::default() }
    }

    #[test]
    fn who_is_squashed_is_somebody_else() {
        assert_eq!(squash(Squashed::None).identity(0, 0), (0, 0));
        let root = squash(Squashed::Root);
        assert_eq!(root.identity(0, 0), (NOBODY, NOBODY));
        assert_eq!(root.identity(0, 7), (NOBODY, NOBODY));
        assert_eq!(root.identity(7, 0), (7, NOBODY));
        assert_eq!(root.identity(7, 8), (7, 8));
        let all = Squash { who: Squashed::All, uid: 3, gid: 4 };
        assert_eq!(all.identity(7, 8), (3, 4));
    }

    #[test]
    fn the_mode_says_what_the_anonymous_user_may_do() {
        let root = squash(Squashed::Root);
        assert!(root.permits(&inode(0, 0, 0o604), READ) && !root.permits(&inode(0, 0, 0o660), READ));
        assert!(
            root.permits(&inode(0, NOBODY, 0o620), WRITE) && !root.permits(&inode(0, NOBODY, 0o602), WRITE)
        );
        assert!(root.permits(&inode(NOBODY, 0, 0o700), READ | WRITE | EXECUTE));
        assert!(!root.permits(&inode(NOBODY, 0, 0o077), READ));
        // Somebody for whom root counts as root.
        let to_root = Squash { who: Squashed::All, uid: 0, gid: 0 };
        assert!(to_root.permits(&inode(5, 5, 0), WRITE));
    }

    #[test]
    fn only_owners_change_what_is_theirs() {
        let root = squash(Squashed::Root);
        let (own, other) = (inode(NOBODY, NOBODY, 0o600), inode(0, 0, 0o666));
        let mode = SetAttr { mode: Some(0o777), ..SetAttr::default() };
        assert_eq!((root.may_set(&own, &mode), root.may_set(&other, &mode)), (Ok(()), Err(libc::EPERM)));
        let give = SetAttr { uid: Some(0), ..SetAttr::default() };
        assert_eq!(root.may_set(&own, &give), Err(libc::EPERM));
        let group = SetAttr { gid: Some(0), ..SetAttr::default() };
        assert_eq!(root.may_set(&own, &group), Err(libc::EPERM));
        let cut = SetAttr { size: Some(0), ..SetAttr::default() };
        assert_eq!(root.may_set(&other, &cut), Ok(()));
        assert_eq!(root.may_set(&inode(0, 0, 0o644), &cut), Err(libc::EACCES));
        let touch = SetAttr { mtime: Some(SetTime::Now), ..SetAttr::default() };
        assert_eq!(root.may_set(&other, &touch), Ok(()));
        let past = SetAttr { mtime: Some(SetTime::To(Default::default())), ..SetAttr::default() };
        assert_eq!(root.may_set(&other, &past), Err(libc::EPERM));
        assert_eq!(root.may_set_xattr(&other, b"user.a"), Ok(()));
        assert_eq!(root.may_set_xattr(&own, b"trusted.a"), Err(libc::EPERM));
        assert_eq!(root.may_set_xattr(&other, b"system.posix_acl_access"), Err(libc::EPERM));
    }

    #[test]
    fn names_in_a_sticky_directory_are_their_owners() {
        let root = squash(Squashed::Root);
        let (sticky, open) = (inode(0, 0, DIRECTORY | 0o1777), inode(0, 0, DIRECTORY | 0o777));
        assert_eq!(root.may_remove(&sticky, &inode(0, 0, 0)), Err(libc::EPERM));
        assert_eq!(root.may_remove(&sticky, &inode(NOBODY, 0, 0)), Ok(()));
        assert_eq!(root.may_remove(&open, &inode(0, 0, 0)), Ok(()));
    }
}
