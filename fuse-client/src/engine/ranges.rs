//! Ranges of files: allocate, punch, zero, search, copy.

use cairn_proto::rpc::{self, op::Op};

use super::attrs::LARGEST;
use super::{Engine, FileHandle, FsError, WriteOptions};

/// Copied at a time.
const COPY_PIECE: usize = 1 << 20;
/// Copied in one call, at most: the caller can be interrupted in between.
const COPY_MOST: u64 = 16 << 20;

/// What `fallocate` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// Nothing but to see to it that the file is at least so long (chunks take space when they are written).
    Allocate,
    /// Nothing at all: space behind the end needs no reservation.
    KeepSize,
    /// Make the range a hole; the size stays.
    PunchHole,
    /// Make the range zeros, extending the file where it ends behind.
    ZeroRange,
    /// Make the range zeros; the size stays.
    ZeroRangeKeepSize,
}

impl Engine {
    /// See [`Fallocate`]. `kill_suidgid`: the caller may not keep suid and sgid.
    ///
    /// # Errors
    /// EFBIG; outages.
    pub async fn fallocate(
        &self,
        handle: &FileHandle,
        offset: u64,
        len: u64,
        what: Fallocate,
        kill_suidgid: bool,
    ) -> Result<(), FsError> {
        self.changeable()?;
        let file = handle.file();
        if kill_suidgid {
            self.kill_suidgid(file.inode).await?;
        }
        let end = offset.checked_add(len).filter(|e| *e <= LARGEST).ok_or(FsError::TooLarge)?;
        let _alone = file.order.write().await;
        let _change = self.kept.change(file.inode, offset..end);
        if !self.exclusive() {
            self.refresh_size(file).await?;
        }
        if matches!(what, Fallocate::PunchHole | Fallocate::ZeroRange | Fallocate::ZeroRangeKeepSize) {
            let punched = file.data.punch(offset, len).await;
            let whole = self.or_announce(file, punched)?;
            if !whole.is_empty() {
                let drop = rpc::DropChunks { inode: file.inode, from: whole.start, to: whole.end };
                self.change(Op::DropChunks(drop), &[file.inode]).await?;
                file.data.forget_locations(whole);
            }
        }
        if matches!(what, Fallocate::Allocate | Fallocate::ZeroRange) {
            file.data.extend(end);
        }
        if what != Fallocate::KeepSize {
            self.touched(file);
        }
        if !self.exclusive() {
            self.tell(file).await?;
        }
        Ok(())
    }

    /// The first data at or behind `offset`.
    ///
    /// # Errors
    /// ENXIO where there is none; outages.
    pub async fn seek_data(&self, handle: &FileHandle, offset: u64) -> Result<u64, FsError> {
        if !self.exclusive() {
            self.refresh_size(handle.file()).await?;
        }
        handle.file().data.seek_data(offset).await
    }

    /// The first hole at or behind `offset`; the end of the file is one.
    ///
    /// # Errors
    /// ENXIO behind the end; outages.
    pub async fn seek_hole(&self, handle: &FileHandle, offset: u64) -> Result<u64, FsError> {
        if !self.exclusive() {
            self.refresh_size(handle.file()).await?;
        }
        handle.file().data.seek_hole(offset).await
    }

    /// Copies at most `len` bytes and returns how many; fewer at the end of `from`, or to let the caller breathe.
    ///
    /// # Errors
    /// As reading and writing.
    pub async fn copy_range(
        &self,
        from: (&FileHandle, u64),
        to: (&FileHandle, u64),
        len: u64,
        kill_suidgid: bool,
    ) -> Result<u64, FsError> {
        let len = len.min(COPY_MOST);
        let mut done = 0;
        while done < len {
            let piece = usize::try_from(len - done).unwrap_or(COPY_PIECE).min(COPY_PIECE);
            let data = self.read(from.0, from.1 + done, piece).await?;
            if data.is_empty() {
                break;
            }
            let options = WriteOptions { kill_suidgid: kill_suidgid && done == 0, append: false };
            match self.write(to.0, to.1 + done, &data, options).await {
                Ok(()) => done += data.len() as u64,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}
