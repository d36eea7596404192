//! Recalls of leases against everything else at once, on two mounts: nothing waits for ever, and nobody is left with what is no longer so.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::Cluster;

const LENGTH: Duration = Duration::from_secs(20);
/// A single call may take so long, when everything else on the machine is slow too.
const LONGEST: Duration = Duration::from_secs(25);
const NAMES: u64 = 12;

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Maps the file's first page, reads it, and with `write` changes it. Not of a file that others cut: that ends whoever has it mapped.
fn map(path: &Path, write: bool) -> std::io::Result<()> {
    let file = File::options().read(true).write(write).open(path)?;
    let protection = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
    // SAFETY: a new map at an address that the kernel chooses, used within its length and taken away before this returns.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, file.as_raw_fd(), 0);
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        let first = at.cast::<u8>();
        let before = first.read_volatile();
        if write {
            first.write_volatile(before.wrapping_add(1));
            assert_eq!(libc::msync(at, 4096, libc::MS_SYNC), 0);
        }
        libc::munmap(at, 4096);
    }
    Ok(())
}

/// One random step in `dir`. Errors are those of a race with the others.
fn step(dir: &Path, state: &mut u64) -> std::io::Result<()> {
    let name = |n: u64| dir.join(format!("n{}", n % NAMES));
    let (path, other) = (name(next(state)), name(next(state)));
    let sub = dir.join(format!("sub{}", next(state) % 2));
    match next(state) % 16 {
        0 => drop(fs::read_dir(dir)?.map(|e| e?.metadata()).count()),
        1 => fs::write(&path, format!("{:0>1$}", *state, 100))?,
        2 => fs::rename(&path, &other)?,
        3 => fs::rename(&path, sub.join("moved"))?,
        4 => fs::rename(sub.join("moved"), &path)?,
        5 => fs::remove_file(&path)?,
        6 => fs::hard_link(&path, &other)?,
        7 => fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + (*state % 64) as u32))?,
        8 => File::options().append(true).open(&path)?.set_len(*state % 9000)?,
        9 => drop(fs::read(&path)?),
        10 => {
            let file = File::options().read(true).write(true).open(&path)?;
            file.write_all_at(b"here", *state % 5000)?;
            let mut buffer = [0; 4];
            file.read_at(&mut buffer, *state % 5000)?;
            file.sync_all()?;
        }
        11 => map(&dir.join("mapped"), false)?,
        12 => map(&dir.join("mapped"), true)?,
        13 => drop(fs::create_dir(dir.join("made")).and_then(|()| fs::remove_dir(dir.join("made")))),
        14 => drop(sub.join("none").exists()),
        _ => drop(fs::metadata(&path)?.len()),
    }
    Ok(())
}

/// All that two mounts must agree on.
fn all(dir: &Path, found: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let m = fs::symlink_metadata(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        let content = if m.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.push(format!(
            "{name} {} {:o} {} {} {times:?} {}",
            m.ino(),
            m.mode(),
            m.nlink(),
            m.len(),
            crc(&content)
        ));
        if m.is_dir() {
            all(&path, found);
        }
    }
}

fn crc(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum: u64, b| sum.wrapping_mul(0x100_0000_01b3) ^ u64::from(*b))
}

#[test]
fn recalls_against_io_maps_and_renames_on_both_sides() {
    let cluster = Cluster::start();
    let second = cluster.second_mount("second", &[]);
    let dirs: Vec<PathBuf> = vec![cluster.mount().join("s"), second.dir().join("s")];
    for sub in ["", "sub0", "sub1"] {
        fs::create_dir(dirs[0].join(sub)).unwrap();
    }
    fs::write(dirs[0].join("mapped"), vec![1; 8192]).unwrap();
    let (stop, steps) = (AtomicBool::new(false), AtomicU64::new(0));
    let slowest = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..6u64)
            .map(|n| {
                let (dir, stop, steps) = (&dirs[(n % 2) as usize], &stop, &steps);
                scope.spawn(move || {
                    let mut state = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let mut slowest = Duration::ZERO;
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        let result = step(dir, &mut state);
                        slowest = slowest.max(begun.elapsed());
                        steps.fetch_add(1, Ordering::Relaxed);
                        let errno = result.err().and_then(|e| e.raw_os_error());
                        let raced = [None, Some(libc::ENOENT), Some(libc::EEXIST), Some(libc::ESTALE)];
                        assert!(raced.contains(&errno), "errno {errno:?}");
                    }
                    slowest
                })
            })
            .collect();
        std::thread::sleep(LENGTH);
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|w| w.join().unwrap()).max().unwrap()
    });
    let steps = steps.into_inner();
    println!("{steps} steps in {LENGTH:?}, the slowest took {slowest:?}");
    assert!(slowest < LONGEST, "a call took {slowest:?}");
    assert!(steps > 200, "{steps} steps");
    let [mut here, mut there] = [Vec::new(), Vec::new()];
    all(&dirs[0], &mut here);
    all(&dirs[1], &mut there);
    assert_eq!(here, there);
}
