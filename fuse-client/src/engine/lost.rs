//! Written data that is lost, and whom it concerns.

use cairn_proto::InodeId;

use super::{Engine, FsError};

impl Engine {
    /// The session was resumed or renewed, and is this one. If it is another than before, what had been written under the former one
    /// and not written back, or of which the master does not know how far it went, is lost: others may have written there since.
    pub(super) fn lose_unwritten(&self, session: u64) {
        if session == self.data.session() {
            return;
        }
        let untold: Vec<_> = self.inodes.all().into_iter().filter(|f| f.size_untold()).collect();
        let mut lost = self.data.set_session(session);
        lost.extend(untold.iter().filter(|f| f.data.lose()).map(|f| InodeId(f.inode)));
        for file in untold.into_iter().chain(lost.iter().filter_map(|inode| self.inodes.get(inode.0))) {
            file.lose_writes();
        }
        let inodes: Vec<_> = lost.iter().map(|inode| inode.0).collect();
        if !inodes.is_empty() {
            self.note_lost(&inodes, &FsError::Fenced);
        }
    }

    /// Says in the log whose data is lost: the next fsync or close of each reports it, too, but a program that has ended makes none.
    pub(super) fn note_lost(&self, inodes: &[u64], why: &FsError) {
        if why.errno() == libc::ESTALE {
            // Deleted while it was being written back: nobody misses it, and it has no name to look for.
            tracing::debug!(?inodes, "a deleted file's data is dropped");
            return;
        }
        let paths = self.cache.lock().paths(inodes);
        for (inode, path) in inodes.iter().zip(paths) {
            let path = path.as_deref().unwrap_or("of unknown name");
            tracing::error!(inode, path, "written data is lost: {why}");
        }
    }
}
