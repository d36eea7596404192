//! POSIX access control lists, kept as the extended attributes that the kernel knows them by.
//!
//! The format is the kernel's (`posix_acl_xattr.h`): a little-endian version, then entries of tag,
//! permissions, id. The rules follow acl(5): the owner, mask and other entries of an access ACL and the
//! permission bits of the mode are one thing.

use bytes::Bytes;
use cairn_proto::InodeId;

use super::Fail;
use crate::core::errno;
use crate::core::keys;
use crate::core::records::{Inode, S_IFLNK};
use crate::core::scratch::Scratch;
use crate::core::view::View;

/// The attribute of the ACL that governs access.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of the ACL that a directory hands down.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid ACL: its entries in the order of their tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// From the attribute's value; `None` for one without entries, which means: remove it.
    pub(super) fn parse(value: &[u8]) -> Result<Option<Self>, Fail> {
        if value.is_empty() {
            return Ok(None);
        }
        let (version, rest) = value.split_first_chunk::<4>().ok_or(errno::EINVAL)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(errno::EOPNOTSUPP.into());
        }
        let (entries, odd) = rest.as_chunks::<8>();
        if !odd.is_empty() {
            return Err(errno::EINVAL.into());
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let entries = entries.iter().map(|[t0, t1, p0, p1, i0, i1, i2, i3]| Entry {
            tag: u16::from_le_bytes([*t0, *t1]),
            perm: u16::from_le_bytes([*p0, *p1]),
            id: u32::from_le_bytes([*i0, *i1, *i2, *i3]),
        });
        let acl = Self(entries.collect());
        if acl.is_valid() { Ok(Some(acl)) } else { Err(errno::EINVAL.into()) }
    }

    /// Owner, users, group, groups, mask, others, in this order; the mask is there if any user or group is.
    fn is_valid(&self) -> bool {
        let mut last = 0;
        let (mut named, mut mask, mut owner, mut group) = (false, false, false, false);
        for e in &self.0 {
            let repeats = matches!(e.tag, USER | GROUP);
            if e.perm & !7 != 0 || e.tag < last || (e.tag == last && !repeats) {
                return false;
            }
            match e.tag {
                USER_OBJ => owner = true,
                GROUP_OBJ => group = true,
                USER | GROUP => named = true,
                MASK => mask = true,
                OTHER => {}
                _ => return false,
            }
            last = e.tag;
        }
        owner && group && last == OTHER && (mask || !named)
    }

    /// As the attribute's value.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(4 + self.0.len() * 8);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for e in &self.0 {
            out.extend_from_slice(&e.tag.to_le_bytes());
            out.extend_from_slice(&e.perm.to_le_bytes());
            out.extend_from_slice(&e.id.to_le_bytes());
        }
        out.into()
    }

    /// Whether the mode says all of it.
    pub(super) fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The entry that the group bits of the mode stand for: the mask, or else the owning group.
    fn group_class(&self) -> u16 {
        if self.0.iter().any(|e| e.tag == MASK) { MASK } else { GROUP_OBJ }
    }

    /// The permission bits of the mode that goes with it.
    pub(super) fn permissions(&self) -> u32 {
        let class = self.group_class();
        self.0.iter().fold(0, |mode, e| match e.tag {
            USER_OBJ => mode | u32::from(e.perm) << 6,
            OTHER => mode | u32::from(e.perm),
            tag if tag == class => mode | u32::from(e.perm) << 3,
            _ => mode,
        })
    }

    /// Changes the entries that the mode stands for: to `with(what they are, what the mode has)`.
    fn combine(&mut self, mode: u32, with: impl Fn(u16, u16) -> u16) {
        let class = self.group_class();
        for e in &mut self.0 {
            let shift = match e.tag {
                USER_OBJ => 6,
                OTHER => 0,
                tag if tag == class => 3,
                _ => continue,
            };
            e.perm = with(e.perm, (mode >> shift & 7) as u16);
        }
    }
}

/// What a new inode gets from its parent.
#[derive(Default)]
pub(super) struct Inherited {
    /// The parent's default ACL.
    pub(super) default: Option<Acl>,
}

impl Inherited {
    /// The permission bits of a new inode, and its access ACL if the bits do not say it all.
    pub(super) fn apply(&self, permissions: u32, umask: u32, kind: u32) -> (u32, Option<Acl>) {
        match &self.default {
            _ if kind == S_IFLNK => (0o777, None),
            None => (permissions & !(umask & 0o777), None),
            Some(default) => {
                let mut access = default.clone();
                access.combine(permissions, |acl, mode| acl & mode);
                let permissions = (permissions & !0o777) | access.permissions();
                (permissions, (!access.is_minimal()).then_some(access))
            }
        }
    }
}

/// What is made in this directory inherits this.
pub(super) fn inherit(s: &Scratch<'_>, parent: InodeId, dir: &Inode) -> Result<Inherited, Fail> {
    if dir.xattrs == 0 {
        return Ok(Inherited::default());
    }
    let default = match s.get(&keys::xattr(parent, DEFAULT))? {
        Some(value) => Acl::parse(&value)?,
        None => None,
    };
    Ok(Inherited { default })
}

/// After a chmod to `record.mode`: the access ACL follows.
pub(super) fn follow_chmod(s: &mut Scratch<'_>, inode: InodeId, record: &Inode) -> Result<(), Fail> {
    if record.xattrs == 0 {
        return Ok(());
    }
    let Some(value) = s.get(&keys::xattr(inode, ACCESS))? else { return Ok(()) };
    if let Some(mut acl) = Acl::parse(&value)? {
        acl.combine(record.mode, |_, mode| mode);
        put(s, inode, ACCESS, &acl);
    }
    Ok(())
}

/// Puts an ACL.
pub(super) fn put(s: &mut Scratch<'_>, inode: InodeId, name: &[u8], acl: &Acl) {
    s.put(keys::xattr(inode, name), acl.encode());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect())
    }

    fn full() -> Acl {
        acl(&[
            (USER_OBJ, 7, 0),
            (USER, 6, 1000),
            (GROUP_OBJ, 5, 0),
            (GROUP, 7, 100),
            (MASK, 6, 0),
            (OTHER, 4, 0),
        ])
    }

    #[test]
    fn survives_its_encoding() {
        assert_eq!(Acl::parse(&full().encode()).unwrap(), Some(full()));
        assert_eq!(Acl::parse(&VERSION.to_le_bytes()).unwrap(), None);
        assert_eq!(Acl::parse(&[]).unwrap(), None);
    }

    #[test]
    fn refuses_what_the_kernel_would() {
        let bad = [
            acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 5, 0)]),
            acl(&[(USER_OBJ, 8, 0), (GROUP_OBJ, 5, 0), (OTHER, 0, 0)]),
            acl(&[(USER_OBJ, 7, 0), (USER, 7, 5), (GROUP_OBJ, 5, 0), (OTHER, 0, 0)]),
            acl(&[(GROUP_OBJ, 7, 0), (USER_OBJ, 7, 5), (OTHER, 0, 0)]),
            acl(&[(USER_OBJ, 7, 0), (USER_OBJ, 7, 5), (GROUP_OBJ, 7, 0), (OTHER, 0, 0)]),
        ];
        for acl in bad {
            assert!(matches!(Acl::parse(&acl.encode()), Err(Fail::Errno(errno::EINVAL))), "{acl:?}");
        }
        assert!(Acl::parse(&full().encode()[..11]).is_err());
        assert!(matches!(Acl::parse(&[1, 0, 0, 0]), Err(Fail::Errno(errno::EOPNOTSUPP))));
    }

    #[test]
    fn the_mask_stands_for_the_group_bits() {
        assert_eq!(full().permissions(), 0o764);
        let mut changed = full();
        changed.combine(0o640, |_, mode| mode);
        assert_eq!(changed.permissions(), 0o640);
        assert_eq!(changed.0[2].perm, 5, "the owning group keeps its own");
    }

    #[test]
    fn a_default_acl_replaces_the_umask() {
        let inherited = Inherited { default: Some(full()) };
        let (mode, access) = inherited.apply(0o666, 0o077, crate::core::records::S_IFREG);
        assert_eq!(mode, 0o664);
        assert_eq!(access.unwrap().permissions(), 0o664);
        assert_eq!(Inherited::default().apply(0o666, 0o022, 0).0, 0o644);
    }
}
