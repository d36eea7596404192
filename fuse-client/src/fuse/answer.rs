//! Answers, and how they are put for the kernel.

use std::io::IoSlice;
use std::os::fd::AsFd;

use bytes::Bytes;
use cairn_locks::{Lock, Mode};

use super::abi::{Body, Keep, OUT_HEADER};
use crate::engine::attr::FileAttr;
use crate::engine::{FsError, SpaceReport};

/// What `statfs` counts in, bytes.
const SPACE_UNIT: u32 = 4096;
const LONGEST_NAME: u32 = 255;

/// A directory listing, ready to be sent except for how long the kernel may keep its attributes.
pub(super) struct Listing {
    pub(super) items: Vec<ListingItem>,
}

/// An entry of a listing.
pub(super) struct ListingItem {
    pub(super) name: Bytes,
    pub(super) inode: u64,
    pub(super) mode: u32,
    /// Place of the next entry.
    pub(super) next: u64,
    pub(super) attr: Option<FileAttr>,
}

/// The answer to a request.
pub(super) enum Answer {
    /// A Linux errno.
    Error(i32),
    Done,
    Attr(FileAttr),
    Entry(Option<FileAttr>),
    Open {
        handle: u64,
        flags: u32,
    },
    OpenDir {
        handle: u64,
    },
    Create {
        attr: FileAttr,
        handle: u64,
        flags: u32,
    },
    Data(Bytes),
    Written(u32),
    Space(SpaceReport),
    /// The size of an extended attribute or of the list of them.
    XattrSize(u32),
    Offset(u64),
    /// A lock that is in the way, if there is one.
    Lock(Option<Lock>),
    Listing(Listing),
    ListingPlus(Listing),
    /// The kernel waits for none.
    Nothing,
}

impl From<FsError> for Answer {
    fn from(e: FsError) -> Self {
        Self::Error(e.errno())
    }
}

impl Answer {
    /// Whether the kernel keeps what is said for a time.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Self::Attr(_) | Self::Entry(_) | Self::Create { .. } | Self::ListingPlus(_))
    }

    /// The inodes that the kernel comes to know by it, each as often as it will count it.
    pub(super) fn inodes(&self) -> impl Iterator<Item = u64> + '_ {
        let one = match self {
            Self::Entry(Some(attr)) | Self::Create { attr, .. } => Some(attr.inode),
            _ => None,
        };
        let listed: &[ListingItem] = if let Self::ListingPlus(l) = self { &l.items } else { &[] };
        one.into_iter().chain(listed.iter().filter_map(|i| Some(i.attr?.inode)))
    }

    /// The fixed part. `keep`: for how long the kernel may keep it; of an inode, or that there is no such name.
    fn body(&self, keep: &dyn Fn(Option<&FileAttr>) -> Keep) -> Body {
        let mut b = Body(Vec::with_capacity(160));
        match self {
            Self::Error(_) | Self::Done | Self::Data(_) | Self::Nothing => &mut b,
            Self::Attr(attr) => b.attr_out(attr, keep(Some(attr))),
            Self::Entry(Some(attr)) => b.entry_out(attr, keep(Some(attr))),
            Self::Entry(None) => b.no_entry(keep(None)),
            Self::Open { handle, flags } => b.open_out(*handle, *flags),
            Self::OpenDir { handle } => b.open_out(*handle, 0),
            Self::Create { attr, handle, flags } => {
                b.entry_out(attr, keep(Some(attr))).open_out(*handle, *flags)
            }
            Self::Written(size) | Self::XattrSize(size) => b.u32(*size).u32(0),
            Self::Offset(offset) => b.u64(*offset),
            Self::Lock(None) => b.lk_out(0, 0, libc::F_UNLCK, 0),
            Self::Lock(Some(lock)) => {
                let kind = if lock.mode == Mode::Exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
                b.lk_out(lock.range.first, lock.range.last, kind, lock.pid)
            }
            Self::Space(s) => space(&mut b, s),
            Self::Listing(l) => {
                l.items.iter().fold(&mut b, |b, i| b.dirent(i.inode, i.next, i.mode, &i.name))
            }
            Self::ListingPlus(l) => l.items.iter().fold(&mut b, |b, i| {
                match &i.attr {
                    Some(attr) => b.entry_out(attr, keep(Some(attr))),
                    // Inode 0 in this place: only a name, to be looked up when it is needed.
                    None => b.no_entry(Keep::default()),
                };
                b.dirent(i.inode, i.next, i.mode, &i.name)
            }),
        };
        b
    }

    /// Writes it to the device.
    ///
    /// # Errors
    /// The kernel's: ENOENT when nobody waits for the answer any more.
    pub(super) fn send(
        &self,
        device: impl AsFd,
        unique: u64,
        keep: &dyn Fn(Option<&FileAttr>) -> Keep,
    ) -> rustix::io::Result<()> {
        if matches!(self, Self::Nothing) {
            return Ok(());
        }
        let error = if let Self::Error(errno) = self { -errno } else { 0 };
        let body = self.body(keep);
        let data: &[u8] = if let Self::Data(data) = self { data } else { &[] };
        let len = OUT_HEADER + body.0.len() + data.len();
        let mut header = [0; OUT_HEADER];
        header[..4].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
        header[4..8].copy_from_slice(&error.to_ne_bytes());
        header[8..].copy_from_slice(&unique.to_ne_bytes());
        let parts = [IoSlice::new(&header), IoSlice::new(&body.0), IoSlice::new(data)];
        rustix::io::writev(device, &parts).map(drop)
    }
}

/// A `fuse_statfs_out`.
fn space<'a>(b: &'a mut Body, s: &SpaceReport) -> &'a mut Body {
    let unit = u64::from(SPACE_UNIT);
    let (total, free) = (s.total_bytes / unit, s.free_bytes / unit);
    b.u64(total).u64(free).u64(free);
    b.u64(s.files.saturating_add(s.free_files)).u64(s.free_files);
    b.u32(SPACE_UNIT).u32(LONGEST_NAME).u32(SPACE_UNIT);
    b.0.resize(b.0.len() + 28, 0);
    b
}
