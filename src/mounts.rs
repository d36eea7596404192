//! What the kernel knows of CairnFS mounts.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::Failure;

/// A mount of this file system.
#[derive(Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub dir: PathBuf,
    /// The masters, as they stand in the mount's source.
    pub masters: Vec<String>,
}

/// All mounts of this file system, in the order in which they were made.
pub fn all() -> std::io::Result<Vec<Mounted>> {
    Ok(std::fs::read("/proc/self/mountinfo")?.split(|b| *b == b'\n').filter_map(parse).collect())
}

/// One line of proc_pid_mountinfo(5), where it is a mount of this file system.
fn parse(line: &[u8]) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let separator = fields.iter().position(|f| *f == b"-")?;
    if !matches!(*fields.get(separator + 1)?, b"fuse.cairn") {
        return None;
    }
    let source = String::from_utf8_lossy(fields.get(separator + 2)?).into_owned();
    let masters = source.trim_start_matches("cairn:");
    // The directory that is mounted may stand behind them.
    let masters = masters.split_once(":/").map_or(masters, |(masters, _)| masters);
    let masters = masters.split(',').filter(|m| m.contains(':'));
    Some(Mounted { dir: unescape(fields.get(4)?), masters: masters.map(str::to_owned).collect() })
}

/// Space, tab, newline and backslash stand there as `\ooo`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

/// The mount that `path` (absolute, without symbolic links) lies on.
pub fn holding(path: &Path) -> std::io::Result<Option<Mounted>> {
    let fits = |m: &Mounted| path.starts_with(&m.dir);
    Ok(all()?.into_iter().filter(fits).max_by_key(|m| m.dir.as_os_str().as_bytes().len()))
}

/// Whether this file system is mounted on `dir`, alive or dead.
pub fn is_on(dir: &Path) -> bool {
    all().is_ok_and(|mounts| mounts.iter().any(|m| m.dir == dir))
}

/// Takes away what a mount that died left on `dir`. Processes that are still in it see ENOTCONN until they leave.
pub fn clear_dead(dir: &Path) {
    for _ in 0..16 {
        // Not stat(2), which the kernel may still answer from its cache.
        let dead = matches!(rustix::fs::statvfs(dir), Err(rustix::io::Errno::NOTCONN));
        if !dead || !detach(dir) {
            return;
        }
        tracing::info!(dir = %dir.display(), "took a dead mount away");
    }
}

/// Unmounts lazily: nothing new gets in, what is inside stays until it leaves.
pub fn detach(dir: &Path) -> bool {
    let helper = |name: &str| {
        let run =
            std::process::Command::new(name).arg("-uz").arg(dir).stderr(std::process::Stdio::null()).status();
        run.is_ok_and(|s| s.success())
    };
    let done = match rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH) {
        Ok(()) => true,
        Err(rustix::io::Errno::PERM) => helper("fusermount3") || helper("fusermount"),
        Err(_) => false,
    };
    if !done {
        tracing::warn!(dir = %dir.display(), "cannot unmount");
    }
    done
}

/// Waits until the file system on `dir` answers. A mount that hangs costs a thread, not this process.
pub async fn answers(dir: &Path, limit: Duration) -> Result<(), Failure> {
    let start = Instant::now();
    let path = dir.to_owned();
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let outcome = rustix::fs::statvfs(&path).map_err(std::io::Error::from);
        let outcome = outcome.and_then(|_| std::fs::read_dir(&path)?.next().transpose());
        let _ = tell.send(outcome.map(drop));
    });
    match tokio::time::timeout(limit, told).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(e))) => Err(Failure::Mount(format!("{}: {e}", dir.display()))),
        Ok(Err(_)) | Err(_) => {
            Err(Failure::Mount(format!("{} does not answer after {:?}", dir.display(), start.elapsed())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo() {
        let line = b"40 30 0:50 / /mnt/a\\040b rw,relatime shared:9 - fuse.cairn cairn:10.0.0.1:1,[::1]:2 rw,user_id=0";
        let want =
            Mounted { dir: "/mnt/a b".into(), masters: vec!["10.0.0.1:1".to_owned(), "[::1]:2".to_owned()] };
        assert_eq!(parse(line), Some(want));
        let line = b"40 30 0:50 / /m rw - fuse.cairn cairn:h:1,i:2:/a,b:/c rw";
        let want = Mounted { dir: "/m".into(), masters: vec!["h:1".to_owned(), "i:2".to_owned()] };
        assert_eq!(parse(line), Some(want));
        assert_eq!(parse(b"22 1 8:1 / / rw - ext4 /dev/root rw"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn escapes_are_octal() {
        assert_eq!(unescape(b"a\\134b\\012"), PathBuf::from("a\\b\n"));
        assert_eq!(unescape(b"tail\\04"), PathBuf::from("tail\\04"));
    }
}
