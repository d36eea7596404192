//! Chunk files that were damaged behind the disk's back: nothing of it is served, and everything bad is found.

use super::crashing::CrashingStorage;
use super::storage::Storage;
use super::{Change, ChunkFile, Disk, DiskError, DiskSettings, Payload, Source, chunk_file};
use crate::core::layout::{ChunkMeta, Geometry};
use crate::core::recent::WriteId;
use cairn_proto::block::{BLOCK, piece_crcs};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CHUNK: u64 = 4 << 20;
const ID: u64 = 7;

fn settings() -> DiskSettings {
    let geometry = Geometry { chunk_size: CHUNK };
    DiskSettings { geometry, segment_bytes: 8 << 20, reserve: 0, open_files: 4 }
}

fn open(storage: &CrashingStorage) -> (Disk, Option<Arc<ChunkFile>>) {
    let (disk, found) = Disk::open(Arc::new(storage.clone()), settings()).unwrap();
    (disk, found.into_iter().next().map(|r| r.file))
}

fn write(disk: &Disk, file: &Arc<ChunkFile>, block: u32, blocks: usize, seq: u64) {
    let data: Vec<u8> =
        (0..blocks * BLOCK).map(|i| if i % 2 == 0 { seq as u8 } else { (i / BLOCK) as u8 }).collect();
    let offset = u64::from(block) * BLOCK as u64;
    let crcs = piece_crcs(offset, &data);
    let change = Change { id: WriteId::default(), offset, payload: Payload::Data(data.into(), crcs) };
    disk.apply(file, &change, seq).unwrap();
}

/// A chunk of 500 blocks, a hole, and 300 more, everything in its file; opened anew, or not.
fn stored(anew: bool) -> (CrashingStorage, Disk, Arc<ChunkFile>) {
    let storage = CrashingStorage::default();
    let (disk, _) = open(&storage);
    let meta = ChunkMeta { epoch: 1, in_sync: vec![1, 2], wanted: 2, ..ChunkMeta::default() };
    let file = disk.create(ID, meta, 1).unwrap();
    write(&disk, &file, 0, 500, 1);
    write(&disk, &file, 600, 300, 2);
    disk.checkpoint().unwrap();
    if !anew {
        return (storage, disk, file);
    }
    let storage = storage.after_kill();
    let (disk, file) = open(&storage);
    (storage, disk, file.unwrap())
}

fn flip(storage: &CrashingStorage, at: u64) {
    let raw = storage.open(&chunk_file::path(ID), false).unwrap();
    let mut byte = [0];
    raw.read_at(&mut byte, at).unwrap();
    raw.write_at(&[&[byte[0] ^ 0x10]], at).unwrap();
}

fn bad_now(disk: &Disk) -> u64 {
    disk.findings.bad_blocks.load(Ordering::Relaxed) - disk.findings.healed_blocks.load(Ordering::Relaxed)
}

/// A replica whose process ends; what of it is found.
fn restarted(storage: &CrashingStorage) -> (CrashingStorage, Disk, Arc<ChunkFile>) {
    let storage = storage.after_kill();
    let (disk, file) = open(&storage);
    (storage, disk, file.unwrap())
}

#[test]
fn a_doubt_outlives_checkpoints_and_restarts_until_the_replica_has_been_compared() {
    let (storage, disk, file) = stored(true);
    assert!(!file.meta().suspect, "it was at rest");
    disk.doubt(&file).unwrap();
    assert!(!file.in_doubt(), "its blocks are what they are said to be");
    disk.checkpoint().unwrap();
    let (storage, disk, file) = restarted(&storage);
    assert!(file.meta().suspect);
    disk.checkpoint().unwrap();
    let (storage, disk, file) = restarted(&storage);
    assert!(file.meta().suspect);
    disk.settle(&file, 9).unwrap();
    disk.checkpoint().unwrap();
    let (_, _, file) = restarted(&storage);
    assert_eq!((file.meta().suspect, file.meta().seq), (false, 9));
}

/// Scrubs; the bad blocks.
fn scrub(disk: &Disk, file: &Arc<ChunkFile>) -> Vec<u32> {
    let (mut bad, mut from) = (Vec::new(), Some(0));
    while let Some(at) = from {
        let step = disk.verify_step(file, at, Source::Disk).unwrap();
        bad.extend(step.bad);
        from = step.next;
    }
    bad
}

/// No block of these may be read as anything but an error; all others can.
fn assert_only_bad(disk: &Disk, file: &Arc<ChunkFile>, bad: impl Fn(u32) -> bool) {
    for block in 0..1000 {
        let read = disk.read(file, block, 1);
        assert_eq!(matches!(read, Err(DiskError::Corrupt { .. })), bad(block), "block {block}");
    }
}

#[test]
fn a_whole_replica_is_found_whole_and_read_once() {
    let (_, disk, file) = stored(true);
    assert_eq!(scrub(&disk, &file), [0; 0]);
    assert_eq!((bad_now(&disk), file.in_doubt()), (0, false));
    let step = disk.verify_step(&file, 0, Source::Disk).unwrap();
    assert_eq!((step.next, step.bytes), (Some(256), 1 << 20));
    let step = disk.verify_step(&file, 500, Source::Cached).unwrap();
    assert_eq!((step.next, step.bytes), (Some(856), 1 << 20));
    assert_eq!(disk.verify_step(&file, 900, Source::Disk).unwrap().next, None);
}

#[test]
fn a_flipped_bit_is_found_and_gone_when_the_block_is_installed_again() {
    let (storage, disk, file) = stored(true);
    let good = disk.read(&file, 300, 1).unwrap();
    flip(&storage, settings().geometry.data() + 300 * BLOCK as u64 + 99);
    assert_eq!(scrub(&disk, &file), [300]);
    assert_only_bad(&disk, &file, |b| b == 300);
    assert_eq!((bad_now(&disk), disk.told(&file, 300, 1).unwrap().0), (1, vec![(1, 0)]));
    disk.verified(&file);
    disk.install(&file, 300, &good.data, &good.told).unwrap();
    disk.settle(&file, 2).unwrap();
    assert_eq!((scrub(&disk, &file), bad_now(&disk), file.in_doubt()), (vec![], 0, false));
}

#[test]
fn one_bad_block_has_all_others_found_before_the_replicas_are_compared() {
    let (storage, disk, file) = stored(true);
    flip(&storage, settings().geometry.data() + 3);
    flip(&storage, settings().geometry.data() + 700 * BLOCK as u64);
    assert!(disk.read(&file, 0, 1).is_err());
    assert!(file.is_unverified());
    assert_eq!(disk.verify(&file).unwrap(), [0, 700]);
    assert!(!file.is_unverified() && file.in_doubt());
}

#[test]
fn a_truncated_file_is_never_served() {
    for (len, from) in [(settings().geometry.data() + 400 * BLOCK as u64 + 5, 400), (4096 + 320, 20), (0, 0)]
    {
        for anew in [true, false] {
            let (storage, disk, file) = stored(anew);
            storage.truncate(&chunk_file::path(ID), len as usize);
            let used = |b: u32| b < 500 || (600..900).contains(&b);
            // Where the table itself is cut off nobody knows what was a hole.
            let cut_table = anew && len < settings().geometry.data();
            // Without any data, all of it is bad.
            let first = if len < settings().geometry.data() && !cut_table { 0 } else { from };
            let data_cut = if cut_table { 0 } else { first };
            let bad = |b: u32| (used(b) && b >= data_cut) || (cut_table && (from..900).contains(&b));
            let found = scrub(&disk, &file);
            assert_eq!(found, (0..1000).filter(|b| bad(*b)).collect::<Vec<_>>(), "cut at {len}, anew {anew}");
            assert_only_bad(&disk, &file, bad);
            assert!(file.in_doubt());
        }
    }
}

#[test]
fn a_missing_file_is_never_served_and_is_made_again() {
    for anew in [true, false] {
        let (storage, disk, file) = stored(anew);
        storage.remove(&chunk_file::path(ID)).unwrap();
        let found = scrub(&disk, &file);
        assert_eq!(disk.findings.lost_files.load(Ordering::Relaxed), 1);
        assert_eq!(found.len() as u64, bad_now(&disk));
        assert!((0..500).chain(600..900).all(|b| found.contains(&b)), "anew {anew}");
        assert_eq!(found.contains(&550), anew, "of a hole, too, nothing is known where the table is gone");
        assert!((0..900).all(|b| disk.read(&file, b, 1).is_err() == found.contains(&b)));
        // What is installed and written from now on survives a restart.
        let holes = vec![(0, 0); 900];
        disk.install(&file, 0, &bytes::Bytes::new(), &holes).unwrap();
        write(&disk, &file, 10, 20, 3);
        disk.settle(&file, 3).unwrap();
        assert_eq!((bad_now(&disk), file.in_doubt()), (0, false));
        disk.checkpoint().unwrap();
        let (disk, file) = open(&storage.after_kill());
        let file = file.unwrap();
        assert_eq!((scrub(&disk, &file), file.meta().seq), (vec![], 3));
        assert_eq!(disk.extents(&file, 0).unwrap(), [(10, 30)]);
    }
}

#[test]
fn a_file_that_another_was_put_in_place_of_is_never_served() {
    let (storage, disk, file) = stored(false);
    storage.remove(&chunk_file::path(ID)).unwrap();
    storage.open(&chunk_file::path(ID), true).unwrap().write_at(&[&[7; 9000]], 0).unwrap();
    assert_eq!(scrub(&disk, &file).len(), 800);
}

#[test]
fn a_flipped_bit_in_the_table_is_never_served() {
    // In each byte of an entry.
    for byte in 0..16 {
        let (storage, disk, file) = stored(true);
        flip(&storage, settings().geometry.table() + 33 * 16 + byte);
        let found = scrub(&disk, &file);
        assert!(found.is_empty() || found == [33], "byte {byte}: {found:?}");
        match disk.read(&file, 33, 1) {
            Ok(blocks) => assert_eq!(blocks.data[..2], [1, 33], "byte {byte}"),
            Err(_) => assert_eq!(found, [33], "byte {byte}"),
        }
    }
}

#[test]
fn an_io_error_or_a_directory_that_is_gone_ends_the_disk_and_nothing_else() {
    let break_it: [fn(&CrashingStorage); 2] = [CrashingStorage::fail, CrashingStorage::take_away];
    for (i, break_it) in break_it.into_iter().enumerate() {
        let (storage, disk, file) = stored(true);
        break_it(&storage);
        assert!(matches!(disk.read(&file, 3, 1), Err(DiskError::Io(_))), "case {i}");
        assert!(disk.has_failed());
        assert!(matches!(disk.read(&file, 3, 1), Err(DiskError::Failed)));
        assert!(matches!(disk.create(9, ChunkMeta::default(), 1), Err(DiskError::Failed)));
        assert!(matches!(disk.checkpoint(), Err(DiskError::Failed)));
    }
    let (storage, disk, _) = stored(true);
    storage.take_away();
    disk.measure();
    assert!(disk.has_failed(), "also where nobody reads or writes");
}

#[test]
fn a_replica_whose_file_and_first_record_are_gone_is_gone() {
    let (storage, disk, file) = stored(true);
    write(&disk, &file, 0, 1, 3);
    let storage = { storage.after_kill() };
    storage.remove(&chunk_file::path(ID)).unwrap();
    assert!(open(&storage).1.is_none());
}
