//! Requests about open files.

use super::abi::{OPEN_KILL_SUIDGID, WRITE_CACHE, WRITE_KILL_SUIDGID, fopen};
use super::adapter::Adapter;
use super::answer::Answer;
use super::operation::{Header, Operation};
use crate::engine::{Fallocate, FileHandle, FsError, NewNode, OpenOptions, WriteOptions};

/// As the kernel passes them: generic Linux flags.
fn has(flags: u32, flag: i32) -> bool {
    flags & flag.cast_unsigned() == flag.cast_unsigned()
}

fn reads_only(flags: u32) -> bool {
    flags & libc::O_ACCMODE.cast_unsigned() == libc::O_RDONLY.cast_unsigned()
}

fn options(flags: u32, kill: u32) -> OpenOptions {
    OpenOptions {
        write: !reads_only(flags),
        direct: has(flags, libc::O_DIRECT),
        // O_SYNC contains O_DSYNC.
        sync: has(flags, libc::O_DSYNC),
        truncate: has(flags, libc::O_TRUNC),
        kill_suidgid: kill & OPEN_KILL_SUIDGID != 0,
        exclusive: has(flags, libc::O_EXCL),
    }
}

/// Whether the caller's changes take suid and sgid away, where the kernel does not say so: root may keep them.
fn may_not_keep_suid(h: &Header) -> bool {
    h.uid != 0
}

fn fallocate(mode: u32) -> Result<Fallocate, FsError> {
    match mode.cast_signed() {
        0 => Ok(Fallocate::Allocate),
        libc::FALLOC_FL_KEEP_SIZE => Ok(Fallocate::KeepSize),
        libc::FALLOC_FL_ZERO_RANGE => Ok(Fallocate::ZeroRange),
        m if m == libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE => Ok(Fallocate::PunchHole),
        m if m == libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE => Ok(Fallocate::ZeroRangeKeepSize),
        _ => Err(FsError::NotSupported("this mode of fallocate")),
    }
}

impl Adapter {
    /// How the kernel is to treat an open file.
    fn open_flags(&self, inode: u64, flags: u32) -> u32 {
        let direct = fopen::DIRECT_IO | fopen::PARALLEL_DIRECT_WRITES;
        if !self.engine.exclusive() {
            // Others write too: every read has to come here.
            return direct;
        }
        let caching = if has(flags, libc::O_DIRECT) { direct } else { fopen::KEEP_CACHE };
        let flush = !reads_only(flags) || self.engine.closes_matter(inode);
        caching | if flush { 0 } else { fopen::NOFLUSH }
    }

    /// A file that was opened while this was the only mount goes through the kernel's page cache for as long as
    /// it is open. What is read while there are others must not stay there.
    fn read_in_company(&self, file: &FileHandle) {
        if let Some(kernel) = self.kernel() {
            let inode = file.inode();
            // Waits for the page that this read fills: not in this thread, which answers it.
            self.runtime.spawn_blocking(move || kernel.inode(inode));
        }
    }

    pub(super) async fn on_file(&self, h: &Header, operation: Operation<'_>) -> Result<Answer, Answer> {
        let engine = &self.engine;
        Ok(match operation {
            Operation::Open { flags, kill } => {
                let file = engine.open(h.node, options(flags, kill)).await?;
                Answer::Open { handle: self.files.add(file), flags: self.open_flags(h.node, flags) }
            }
            Operation::Create { name, flags, mode, umask, kill } => {
                let node = NewNode { mode, umask, uid: h.uid, gid: h.gid, ..NewNode::default() };
                let (attr, file) = engine.create(h.node, name, node, options(flags, kill)).await?;
                let open_flags = self.open_flags(attr.inode, flags);
                Answer::Create { attr, handle: self.files.add(file), flags: open_flags }
            }
            Operation::Read { handle, offset, size, into_cache } => {
                let file = self.files.get(handle)?;
                let data = engine.read(&file, offset, size as usize).await?;
                if into_cache && !engine.exclusive() {
                    self.read_in_company(&file);
                }
                Answer::Data(data)
            }
            Operation::Write { handle, offset, data, write_flags, flags } => {
                let file = self.files.get(handle)?;
                let options = WriteOptions {
                    // Pages written back have their place already.
                    append: has(flags, libc::O_APPEND) && write_flags & WRITE_CACHE == 0,
                    kill_suidgid: write_flags & WRITE_KILL_SUIDGID != 0,
                };
                engine.write(&file, offset, data, options).await?;
                Answer::Written(u32::try_from(data.len()).unwrap_or(u32::MAX))
            }
            Operation::Flush { handle, lock_owner } => {
                let file = self.files.get(handle)?;
                let flushed = engine.flush(&file).await;
                engine.process_closed(&file, lock_owner).await;
                flushed?;
                Answer::Done
            }
            Operation::Release { handle, flock } => {
                if let Some(file) = self.files.remove(handle) {
                    engine.locks_of_handle_go(&file, flock.then_some(handle)).await;
                }
                Answer::Done
            }
            Operation::Fsync { handle, only_data } => {
                engine.fsync(&*self.files.get(handle)?, only_data).await?;
                Answer::Done
            }
            Operation::Fallocate { handle, offset, len, mode } => {
                let file = self.files.get(handle)?;
                engine.fallocate(&file, offset, len, fallocate(mode)?, may_not_keep_suid(h)).await?;
                Answer::Done
            }
            Operation::Seek { handle, offset, whence } => {
                let file = self.files.get(handle)?;
                Answer::Offset(match whence.cast_signed() {
                    libc::SEEK_DATA => engine.seek_data(&file, offset).await?,
                    libc::SEEK_HOLE => engine.seek_hole(&file, offset).await?,
                    _ => return Err(Answer::Error(libc::EINVAL)),
                })
            }
            Operation::CopyRange { from, to, len } => {
                let (source, target) = (self.files.get(from.0)?, self.files.get(to.0)?);
                let kill = may_not_keep_suid(h);
                let done = engine.copy_range((&source, from.1), (&target, to.1), len, kill).await?;
                Answer::Written(u32::try_from(done).unwrap_or(u32::MAX))
            }
            _ => return Err(Answer::Error(libc::ENOSYS)),
        })
    }
}
