//! Telling the kernel to forget what it was told.

use std::collections::HashSet;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use super::abi::{Body, OUT_HEADER, ROOT_NODE, notification};
use super::adapter::Adapter;
use crate::engine::UpperCaches;

/// The kernel's caches of this mount.
pub(crate) struct KernelCaches {
    pub(crate) device: Arc<OwnedFd>,
    /// The inode of the mount's root.
    pub(crate) root: u64,
    pub(crate) adapter: Weak<Adapter>,
}

impl KernelCaches {
    /// As the kernel knows an inode.
    fn node(&self, inode: u64) -> u64 {
        if inode == self.root { ROOT_NODE } else { inode }
    }

    /// Returns false when the kernel does not know this kind of notification.
    fn notify(&self, code: i32, body: &[u8]) -> bool {
        let mut header = [0; OUT_HEADER];
        let len = u32::try_from(OUT_HEADER + body.len()).unwrap_or(u32::MAX);
        header[..4].copy_from_slice(&len.to_ne_bytes());
        header[4..8].copy_from_slice(&code.to_ne_bytes());
        match rustix::io::writev(&self.device, &[IoSlice::new(&header), IoSlice::new(body)]) {
            // ENOENT: the kernel does not know the inode or the name, which is just as well.
            Ok(_) | Err(rustix::io::Errno::NOENT) => true,
            Err(rustix::io::Errno::INVAL) => false,
            Err(e) => {
                tracing::debug!(error = %e, "the kernel did not take a notification");
                true
            }
        }
    }

    /// Forget an inode's attributes and pages. Waits for pages that are being read.
    pub(super) fn inode(&self, inode: u64) {
        let mut b = Body::default();
        // From offset 0 to the end: attributes, and all pages.
        b.u64(self.node(inode)).u64(0).u64(0);
        self.notify(notification::INVAL_INODE, &b.0);
    }

    fn name(&self, parent: u64, name: &[u8]) {
        let mut b = Body::default();
        b.u64(self.node(parent)).u32(u32::try_from(name.len()).unwrap_or(0)).u32(0);
        b.0.extend_from_slice(name);
        b.0.push(0);
        self.notify(notification::INVAL_ENTRY, &b.0);
    }
}

impl UpperCaches for KernelCaches {
    fn drop_all(&self, names: Vec<(u64, Box<[u8]>)>) {
        let Some(adapter) = self.adapter.upgrade() else { return };
        // An answer that is being written may still allow the kernel to keep something.
        adapter.wait_for_answers();
        let epochs = self.notify(notification::INC_EPOCH, &[]);
        let mut inodes = adapter.known_inodes();
        if !epochs {
            names.iter().for_each(|(parent, name)| self.name(*parent, name));
            inodes.extend(names.iter().map(|(parent, _)| *parent));
        }
        for inode in inodes.into_iter().collect::<HashSet<_>>() {
            self.inode(inode);
        }
    }

    fn drop_attr(&self, inode: u64) {
        let mut b = Body::default();
        // A negative offset: no pages.
        b.u64(self.node(inode)).u64((-1i64).cast_unsigned()).u64(0);
        self.notify(notification::INVAL_INODE, &b.0);
    }

    fn drop_attrs(&self, inodes: &[u64]) {
        let Some(adapter) = self.adapter.upgrade() else { return };
        adapter.wait_for_answers();
        inodes.iter().for_each(|inode| self.drop_attr(*inode));
    }

    fn drop_names(&self, names: Vec<(u64, Box<[u8]>)>) {
        names.iter().for_each(|(parent, name)| self.name(*parent, name));
    }
}
