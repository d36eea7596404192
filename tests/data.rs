//! docs/semantics.md, "Data": reads, writes, holes, sizes, memory maps, on a real mount.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use common::{Cluster, errno, pattern};
use rustix::fs::{FallocateFlags, SeekFrom as Seeking, fallocate, seek};

const MIB: u64 = 1 << 20;

fn open(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn with_flags(path: &Path, flags: i32) -> File {
    OpenOptions::new().read(true).write(true).create(true).custom_flags(flags).open(path).unwrap()
}

#[test]
fn what_is_written_is_read_across_pieces_and_chunks() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("across").join("f");
    let file = open(&path);
    // Around the borders of blocks (4 KiB), pieces (1 MiB) and chunks (64 MiB).
    let places = [0, 4095, 65_537, MIB - 7, 3 * MIB + 1, 64 * MIB - 100_000, 128 * MIB - 1];
    for (seed, place) in (1..).zip(places) {
        file.write_all_at(&pattern(seed, 200_000), place).unwrap();
    }
    let mut model = vec![0u8; (128 * MIB + 199_999) as usize];
    for (seed, place) in (1..).zip(places) {
        model[place as usize..place as usize + 200_000].copy_from_slice(&pattern(seed, 200_000));
    }
    assert_eq!(file.metadata().unwrap().len(), model.len() as u64);
    assert!(fs::read(&path).unwrap() == model, "before a sync");
    file.sync_all().unwrap();
    assert!(fs::read(&path).unwrap() == model, "after a sync");
}

#[test]
fn appends_of_several_handles_do_not_overwrite_each_other() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("append").join("f");
    std::thread::scope(|scope| {
        for writer in 0..4u8 {
            let path = &path;
            scope.spawn(move || {
                let mut file = File::options().append(true).create(true).open(path).unwrap();
                for _ in 0..250 {
                    file.write_all(&[b'a' + writer; 100]).unwrap();
                }
            });
        }
    });
    let all = fs::read(&path).unwrap();
    assert_eq!(all.len(), 4 * 250 * 100);
    for record in all.chunks(100) {
        assert!(record.iter().all(|b| *b == record[0]), "a record was torn");
    }
    for writer in 0..4u8 {
        assert_eq!(all.iter().filter(|b| **b == b'a' + writer).count(), 25_000);
    }
}

#[test]
fn a_hole_reads_as_zeros_and_is_told_from_data() {
    let cluster = Cluster::shared();
    let file = open(&cluster.subdir("holes").join("f"));
    file.write_all_at(&[1; 4096], 8 * MIB).unwrap();
    file.set_len(100 * MIB).unwrap();
    file.sync_all().unwrap();
    let mut buffer = vec![9; 4096];
    file.read_exact_at(&mut buffer, 70 * MIB).unwrap();
    assert!(buffer.iter().all(|b| *b == 0));
    assert_eq!(seek(&file, Seeking::Data(0)).unwrap(), 8 * MIB);
    assert_eq!(seek(&file, Seeking::Hole(8 * MIB)).unwrap(), 8 * MIB + 4096);
    assert_eq!(seek(&file, Seeking::Data(9 * MIB)), Err(rustix::io::Errno::NXIO));
    assert_eq!(seek(&file, Seeking::Hole(0)).unwrap(), 0);
}

#[test]
fn a_file_may_be_as_long_as_an_offset() {
    let cluster = Cluster::shared();
    let file = open(&cluster.subdir("huge").join("f"));
    file.set_len(i64::MAX as u64).unwrap();
    assert_eq!(file.metadata().unwrap().len(), i64::MAX as u64);
    let far = (1u64 << 62) + 12_345;
    file.write_all_at(b"far away", far).unwrap();
    file.sync_all().unwrap();
    let mut buffer = [0; 8];
    file.read_exact_at(&mut buffer, far).unwrap();
    assert_eq!(&buffer, b"far away");
    file.set_len(0).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
}

#[test]
fn a_cut_file_that_grows_again_has_zeros_there() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("cut").join("f");
    let file = open(&path);
    file.write_all_at(&[7; 300_000], 0).unwrap();
    for sync in [false, true] {
        file.write_all_at(&[7; 300_000], 0).unwrap();
        if sync {
            file.sync_all().unwrap();
        }
        file.set_len(100_001).unwrap();
        file.set_len(300_000).unwrap();
        let all = fs::read(&path).unwrap();
        assert!(all[..100_001].iter().all(|b| *b == 7) && all[100_001..].iter().all(|b| *b == 0), "{sync}");
    }
}

#[test]
fn fallocate_reserves_punches_and_zeroes() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("fallocate").join("f");
    let file = open(&path);
    file.write_all_at(&[5; 1_000_000], 0).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 100_000, 300_000).unwrap();
    fallocate(&file, FallocateFlags::ZERO_RANGE, 900_000, 200_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1_100_000);
    fallocate(&file, FallocateFlags::empty(), 0, 1_200_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1_200_000);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 5_000_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1_200_000);
    let all = fs::read(&path).unwrap();
    let five = |range: std::ops::Range<usize>| all[range].iter().all(|b| *b == 5);
    let zero = |range: std::ops::Range<usize>| all[range].iter().all(|b| *b == 0);
    assert!(five(0..100_000) && zero(100_000..400_000) && five(400_000..900_000) && zero(900_000..1_200_000));
    let collapse = fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(rustix::io::Errno::OPNOTSUPP));
}

#[test]
fn copy_file_range_copies_within_the_mount() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("copy");
    let from = open(&dir.join("from"));
    let to = open(&dir.join("to"));
    let bytes = pattern(3, 3_000_000);
    from.write_all_at(&bytes, 0).unwrap();
    let (mut at, mut target) = (1000, 500);
    while at < 3_000_000 {
        let left = 3_000_000 - at as usize;
        let n = rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut target), left).unwrap();
        assert!(n > 0);
    }
    let copy = fs::read(dir.join("to")).unwrap();
    assert!(copy[..500].iter().all(|b| *b == 0) && copy[500..] == bytes[1000..]);
}

#[test]
fn direct_and_synchronous_files_hold_what_is_written() {
    let cluster = Cluster::shared();
    let dir = cluster.subdir("direct");
    // O_DIRECT wants aligned memory on some file systems; here any will do.
    for (name, flags) in [("direct", libc::O_DIRECT), ("sync", libc::O_SYNC), ("dsync", libc::O_DSYNC)] {
        let path = dir.join(name);
        let file = with_flags(&path, flags);
        let bytes = pattern(flags as u64, 2 * MIB as usize);
        for (index, piece) in bytes.chunks(128 << 10).enumerate() {
            file.write_all_at(piece, index as u64 * (128 << 10)).unwrap();
        }
        assert!(fs::read(&path).unwrap() == bytes, "{name}: read through the page cache");
        let mut back = vec![0; bytes.len()];
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(back == bytes, "{name}: read through the same handle");
    }
}

/// A memory map of a file, for as long as the value lives.
struct Map {
    at: *mut u8,
    len: usize,
}

impl Map {
    fn new(file: &File, len: usize, flags: libc::c_int) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new map at an address that the kernel chooses.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self { at: at.cast(), len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the map is that long, writable, and lives as long as the value.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }

    fn sync(&self) {
        // SAFETY: this is the whole map.
        assert_eq!(unsafe { libc::msync(self.at.cast(), self.len, libc::MS_SYNC) }, 0);
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nothing refers to it any more.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

#[test]
fn a_shared_map_writes_the_file_and_a_private_one_does_not() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("mmap").join("f");
    let file = open(&path);
    let len = 300_000;
    file.write_all_at(&vec![b'.'; len], 0).unwrap();
    let mut shared = Map::new(&file, len, libc::MAP_SHARED);
    shared.bytes()[10..15].copy_from_slice(b"hello");
    shared.bytes()[len - 5..].copy_from_slice(b"world");
    shared.sync();
    let all = fs::read(&path).unwrap();
    assert_eq!((&all[10..15], &all[len - 5..]), (&b"hello"[..], &b"world"[..]));
    file.write_all_at(b"HELLO", 10).unwrap();
    assert_eq!(&shared.bytes()[10..15], b"HELLO");
    let mut private = Map::new(&file, len, libc::MAP_PRIVATE);
    private.bytes()[0] = b'X';
    drop(private);
    drop(shared);
    assert_eq!(fs::read(&path).unwrap()[0], b'.');
}

#[test]
fn reading_and_writing_ask_for_the_right_handle() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("handles").join("f");
    fs::write(&path, "x").unwrap();
    assert_eq!(errno(File::open(&path).unwrap().write(b"y")), libc::EBADF);
    let mut write_only = File::options().write(true).open(&path).unwrap();
    assert_eq!(errno(write_only.read(&mut [0; 1])), libc::EBADF);
    assert_eq!(write_only.seek(SeekFrom::End(0)).unwrap(), 1);
    let made = File::options().write(true).create_new(true).open(&path);
    assert_eq!(errno(made), libc::EEXIST);
    assert_eq!(errno(fs::read(path.join("below"))), libc::ENOTDIR);
}

#[test]
fn a_running_program_is_not_written() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("program").join("sleep");
    fs::copy("/bin/sleep", &path).unwrap();
    let mut child = std::process::Command::new(&path).arg("60").spawn().unwrap();
    assert_eq!(errno(File::options().write(true).open(&path)), libc::ETXTBSY);
    let truncate = OpenOptions::new().read(true).custom_flags(libc::O_TRUNC).open(&path);
    assert_eq!(errno(truncate), libc::ETXTBSY);
    assert_eq!(fs::read(&path).unwrap(), fs::read("/bin/sleep").unwrap());
    assert!(child.try_wait().unwrap().is_none(), "it runs on");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn space_used_by_a_file_is_not_the_size_of_its_holes() {
    let cluster = Cluster::shared();
    let file = open(&cluster.subdir("blocks").join("f"));
    file.set_len(1 << 40).unwrap();
    file.write_all_at(&[1; 4096], 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 40);
    assert_eq!(file.metadata().unwrap().blksize() % 4096, 0);
}

#[test]
fn random_operations_agree_with_a_file_on_the_local_disk() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("random").join("f");
    let model = tempfile::tempfile().unwrap();
    let file = open(&path);
    let mut state = 42u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    const END: u64 = 600_000;
    for step in 0..1500u64 {
        let (offset, len) = (random(END), 1 + random(50_000));
        match random(10) {
            0..=4 => {
                let bytes = pattern(step + 1, len as usize);
                file.write_all_at(&bytes, offset).unwrap();
                model.write_all_at(&bytes, offset).unwrap();
            }
            5..=7 => {
                let (mut a, mut b) = (vec![0; len as usize], vec![0; len as usize]);
                let (n, m) = (file.read_at(&mut a, offset).unwrap(), model.read_at(&mut b, offset).unwrap());
                assert!(n == m && a == b, "step {step}: {len} bytes at {offset}");
            }
            8 => {
                file.set_len(offset).unwrap();
                model.set_len(offset).unwrap();
            }
            _ => file.sync_all().unwrap(),
        }
        assert_eq!(file.metadata().unwrap().len(), model.metadata().unwrap().len(), "step {step}");
    }
}
