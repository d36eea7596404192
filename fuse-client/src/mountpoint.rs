//! The mountpoint: whether it will do, mount(2), unmounting.

use std::ffi::CString;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::engine::meta::ConnectError;
use crate::options::MountOptions;

mod helper;

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A setting makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The mountpoint is not there.
    #[error("{0} does not exist; create it with: mkdir -p {0}")]
    Missing(PathBuf),
    /// It is something else than a directory.
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    /// There is something in it that would be hidden.
    #[error("{0} is not empty; mount on an empty directory")]
    NotEmpty(PathBuf),
    /// There is a CairnFS there already.
    #[error("a CairnFS is mounted on {0} already; unmount it with: cairn umount {0}")]
    AlreadyMounted(PathBuf),
    /// A mount whose process has died.
    #[error("{0} is a mount whose process has died; take it away with: cairn umount {0}")]
    Dead(PathBuf),
    /// There is no FUSE.
    #[error(
        "/dev/fuse cannot be opened ({0}); load the kernel's module with: modprobe fuse (in a container, pass the device in)"
    )]
    NoFuse(io::Error),
    /// mount(2) is refused.
    #[error("mounting is not permitted ({0}); run as root, or install fusermount3 (package fuse3)")]
    NotPermitted(String),
    /// mount(2) or the kernel's side of FUSE failed.
    #[error("cannot mount on {dir}: {source}")]
    Mount {
        /// The mountpoint.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is in use, or nothing is mounted there.
    #[error("cannot unmount {dir}: {reason}")]
    Unmount {
        /// The mountpoint.
        dir: PathBuf,
        /// Why, and what helps.
        reason: String,
    },
    /// No master could be reached, or it refused.
    #[error("the cluster cannot be reached: {0}; check the address, and that the master runs")]
    Cluster(#[from] ConnectError),
    /// The directory of the cluster to be mounted is not there.
    #[error("the cluster has no directory {0}; mount its root and make it there")]
    RootMissing(String),
    /// It is something else.
    #[error("{0} in the cluster is not a directory; only directories can be mounted")]
    RootNotADirectory(String),
    /// It could not be looked up.
    #[error("the directory {path} cannot be looked up in the cluster: {source}")]
    Root {
        /// The directory.
        path: String,
        /// Why.
        source: crate::engine::FsError,
    },
    /// Data could not be written back at the end.
    #[error("not everything could be written back: {0}")]
    WriteBack(#[from] crate::engine::FsError),
    /// The operating system refused something else.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl MountError {
    /// The exit code for it: 1 wrong call, 2 system, 32 mount failure (as of mount(8)).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Cluster(ConnectError::Address(_)) => 1,
            Self::WriteBack(_) | Self::System(_) => 2,
            Self::Missing(_)
            | Self::NotADirectory(_)
            | Self::NotEmpty(_)
            | Self::AlreadyMounted(_)
            | Self::Dead(_)
            | Self::NoFuse(_)
            | Self::NotPermitted(_)
            | Self::Mount { .. }
            | Self::Unmount { .. }
            | Self::RootMissing(_)
            | Self::RootNotADirectory(_)
            | Self::Root { .. }
            | Self::Cluster(_) => 32,
        }
    }
}

/// Whether the directory can be mounted on.
pub(crate) fn check(dir: &Path) -> Result<(), MountError> {
    let there = || dir.to_owned();
    match std::fs::metadata(dir) {
        Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => return Err(MountError::Dead(there())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(MountError::Missing(there())),
        Err(source) => return Err(MountError::Mount { dir: there(), source }),
        Ok(m) if !m.is_dir() => return Err(MountError::NotADirectory(there())),
        Ok(_) => {}
    }
    if is_mounted(dir) {
        return Err(MountError::AlreadyMounted(there()));
    }
    let mut entries = std::fs::read_dir(dir).map_err(|source| MountError::Mount { dir: there(), source })?;
    if entries.next().is_some() {
        return Err(MountError::NotEmpty(there()));
    }
    Ok(())
}

/// Whether a CairnFS is mounted exactly there.
fn is_mounted(dir: &Path) -> bool {
    let Ok(dir) = dir.canonicalize() else { return false };
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
    let mut wanted = String::new();
    for byte in dir.as_os_str().as_bytes() {
        // As the kernel writes it.
        let _ = match byte {
            b' ' | b'\t' | b'\n' | b'\\' => write!(wanted, "\\{byte:03o}"),
            b => write!(wanted, "{}", char::from(*b)),
        };
    }
    mounts.lines().any(|line| {
        let mut fields = line.split(' ');
        fields.nth(4) == Some(&wanted) && line.contains(" - fuse.cairn ")
    })
}

/// Mounts, and returns the device on which the kernel will send its requests. `source` is what the mount table shows.
pub(crate) fn mount(dir: &Path, source: &str, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let root = rustix::process::geteuid().is_root();
    if !root {
        return helper::mount(dir, source, options);
    }
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/fuse", flags, rustix::fs::Mode::empty())
        .map_err(|e| MountError::NoFuse(e.into()))?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id=0,group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::getegid().as_raw()
    );
    if options.allow_other.unwrap_or(true) {
        data.push_str(",allow_other");
    }
    let data = CString::new(data).map_err(io::Error::other)?;
    match rustix::mount::mount(source, dir, "fuse.cairn", mount_flags(options), data.as_c_str()) {
        Ok(()) => Ok(device),
        Err(e @ (Errno::PERM | Errno::ACCESS)) => Err(MountError::NotPermitted(e.to_string())),
        Err(Errno::NODEV) => Err(MountError::NoFuse(Errno::NODEV.into())),
        Err(e) => Err(MountError::Mount { dir: dir.to_owned(), source: e.into() }),
    }
}

fn mount_flags(options: &MountOptions) -> MountFlags {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOSUID, !options.suid);
    flags.set(MountFlags::NODEV, !options.dev);
    flags.set(MountFlags::NOEXEC, !options.exec);
    flags.set(MountFlags::SYNCHRONOUS, options.sync);
    flags
}

/// Unmounts. A busy file system stays, with an error that says so.
///
/// # Errors
/// [`MountError::Unmount`].
pub fn unmount(dir: &Path) -> Result<(), MountError> {
    let failed = |reason: &str| MountError::Unmount { dir: dir.to_owned(), reason: reason.to_owned() };
    // NOFOLLOW: a dead mount cannot be looked into.
    match rustix::mount::unmount(dir, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(failed(
            "it is in use; close what is open on it (lsof +f -- DIR shows it), or unmount lazily with -l",
        )),
        Err(Errno::INVAL) => Err(failed("nothing is mounted there")),
        Err(Errno::NOENT) => Err(failed("it does not exist")),
        Err(Errno::PERM) => helper::unmount(dir, false).map_err(|e| failed(&e)),
        Err(e) => Err(failed(&e.to_string())),
    }
}

/// Unmounts even if it is in use: nothing new gets in, what is inside stays until it leaves.
pub(crate) fn detach(dir: &Path) -> Result<(), MountError> {
    let failed = |reason: &str| MountError::Unmount { dir: dir.to_owned(), reason: reason.to_owned() };
    match rustix::mount::unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => helper::unmount(dir, true).map_err(|e| failed(&e)),
        Err(e) => Err(failed(&e.to_string())),
    }
}

/// Lets the kernel read files on the mount ahead by `kib`. Best effort: it needs root.
pub(crate) fn set_read_ahead(dir: &Path, kib: u32) {
    let Ok(stat) = rustix::fs::stat(dir) else { return };
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(e) = std::fs::write(&path, kib.to_string()) {
        tracing::debug!(path, error = %e, "the kernel's read-ahead stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_that_will_not_do_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check(dir.path()).is_ok());
        assert!(matches!(check(&dir.path().join("no")), Err(MountError::Missing(_))));
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(check(&dir.path().join("file")), Err(MountError::NotADirectory(_))));
        let full = check(dir.path()).unwrap_err();
        assert!(matches!(full, MountError::NotEmpty(_)));
        assert_eq!(full.exit_code(), 32);
    }

    #[test]
    fn unmounting_what_is_not_mounted_says_so() {
        let dir = tempfile::tempdir().unwrap();
        if rustix::process::geteuid().is_root() {
            let e = unmount(dir.path()).unwrap_err().to_string();
            assert!(e.contains("nothing is mounted there"), "{e}");
        }
    }
}
