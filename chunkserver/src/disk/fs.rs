//! [`Storage`] over a directory of a local file system.

use super::storage::{Storage, StorageFile};
use rustix::fs::{FallocateFlags, OFlags, fallocate, fdatasync, fsync, statvfs, syncfs};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory.
pub struct FsStorage {
    root: PathBuf,
    directory: File,
}

struct FsFile(File);

impl FsStorage {
    /// Opens the directory, which must exist.
    pub fn open(root: &Path) -> io::Result<Self> {
        Ok(Self { root: root.into(), directory: File::open(root)? })
    }

    /// Makes the directories of a file; never the root, which may have been taken away.
    fn make_parents(&self, relative: &str) -> io::Result<()> {
        for (end, _) in relative.match_indices('/') {
            match fs::create_dir(self.root.join(&relative[..end])) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

impl StorageFile for FsFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.0.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn read_cached(&self, into: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        let wanted = into.len();
        let mut slices = [IoSliceMut::new(into)];
        // Short: the rest is not in memory, or the file ends. Either way the caller asks again.
        match preadv2(&self.0, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(n) if n == wanted => Ok(Some(n)),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        if let [one] = parts {
            return self.0.write_all_at(one, offset);
        }
        let mut slices: Vec<IoSlice<'_>> =
            parts.iter().filter(|p| !p.is_empty()).map(|p| IoSlice::new(p)).collect();
        let mut left = &mut slices[..];
        let mut at = offset;
        while !left.is_empty() {
            match rustix::io::pwritev(&self.0, left, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut left, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(fdatasync(&self.0)?)
    }

    fn write_out(&self, offset: u64, len: u64) {
        use libc::{SYNC_FILE_RANGE_WAIT_AFTER, SYNC_FILE_RANGE_WAIT_BEFORE, SYNC_FILE_RANGE_WRITE};
        let whole = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
        let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
        // SAFETY: no memory is handed over. An error (not every file system can) leaves all the work to the sync.
        unsafe { libc::sync_file_range(self.0.as_raw_fd(), offset, len, whole) };
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(fallocate(&self.0, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)?)
    }
}

impl Storage for FsStorage {
    fn open(&self, relative: &str, create: bool) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.root.join(relative);
        let open = || OpenOptions::new().read(true).write(true).create(create).truncate(false).open(&path);
        let file = match open() {
            Err(e) if create && e.kind() == io::ErrorKind::NotFound => {
                self.make_parents(relative)?;
                open()?
            }
            other => other?,
        };
        Ok(Arc::new(FsFile(file)))
    }

    fn open_uncached(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.root.join(path);
        let direct = OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits() as i32).open(&path);
        match direct {
            // Not every file system can.
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                Ok(Arc::new(FsFile(File::open(&path)?)))
            }
            file => Ok(Arc::new(FsFile(file?))),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let rename = || fs::rename(self.root.join(from), self.root.join(to));
        match rename() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.make_parents(to)?;
                rename()
            }
            other => other,
        }
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(dir)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        Ok(fsync(File::open(self.root.join(dir))?)?)
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(syncfs(&self.directory)?)
    }

    fn present(&self) -> io::Result<()> {
        let (was, is) = (self.directory.metadata()?, fs::metadata(&self.root)?);
        if (was.dev(), was.ino()) == (is.dev(), is.ino()) {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, "another directory is in its place"))
        }
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        let s = statvfs(&self.root)?;
        // What the file system keeps for others (root's share) is neither used nor free: as df counts.
        let usable = s.f_blocks.saturating_sub(s.f_bfree).saturating_add(s.f_bavail);
        Ok((usable.saturating_mul(s.f_frsize), s.f_bavail.saturating_mul(s.f_frsize)))
    }
}
