//! What the disk layer asks of a file system; tests supply one that crashes.

use std::io;
use std::sync::Arc;

/// An open file. All methods may be called from several threads at once.
pub trait StorageFile: Send + Sync {
    /// Reads at `offset`, as far as the file goes: the number of bytes.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As `read_at`, but only what is in memory: `None`, if the disk would have to be waited for.
    fn read_cached(&self, into: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(into, offset).map(Some)
    }
    /// Writes all of the parts, one behind the other, at `offset`.
    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()>;
    /// What was written is on stable storage when this returns.
    fn sync(&self) -> io::Result<()>;
    /// What was written in a range is on its way to the disk, so that little is left for a sync to do. No promise.
    fn write_out(&self, _offset: u64, _len: u64) {}
    /// Turns a range into a hole of zeros; the file keeps its length.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// A disk: files by their path relative to its directory.
pub trait Storage: Send + Sync {
    /// Opens a file; with `create` it is made if there is none (and its directory, too).
    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens a file to read what the disk itself holds, past what is in memory where that can be done. Offsets, lengths
    /// and the memory read into must then be aligned to blocks.
    fn open_uncached(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.open(path, false)
    }
    /// Gives a file another name; a file that had it is gone.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// The names in a directory; none where there is no such directory.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// The names in a directory ("" is the root) are on stable storage when this returns.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Everything is on stable storage when this returns.
    fn sync_all(&self) -> io::Result<()>;
    /// An error if the disk is not where it was any more.
    fn present(&self) -> io::Result<()> {
        Ok(())
    }
    /// Bytes in all, and free.
    fn space(&self) -> io::Result<(u64, u64)>;
}
