use bytes::Bytes;
use cairn_proto::{Epoch, rpc};

use super::*;
use crate::core::cluster::ChunkRecord;
use crate::core::records::{GarbageValue, S_IFDIR, S_IFREG};
use crate::store::{MemoryStore, Store};

const CHUNK: u64 = 1 << 20;

fn inode(mode: u32, nlink: u32, size: u64, parent: u64) -> Bytes {
    Inode { mode, nlink, size, parent, ..Inode::default() }.encode()
}

fn entry(inode: u64, kind: u32) -> Bytes {
    Entry { inode: InodeId(inode), kind }.encode()
}

fn record(chunk: u64, inode: u64, index: u64, in_sync: &[u32]) -> ChunkRecord {
    ChunkRecord {
        chunk: ChunkId(chunk),
        epoch: Epoch(1),
        in_sync: in_sync.iter().map(|s| ServerId(*s)).collect(),
        wanted: 3,
        inode: InodeId(inode),
        index,
    }
}

fn id(chunk: u64) -> Bytes {
    Bytes::copy_from_slice(&chunk.to_be_bytes())
}

fn put_chunk(store: &mut MemoryStore, record: &ChunkRecord) {
    put(store, keys::chunk(record.chunk), ChunkValue::from_record(record).encode());
}

fn put(store: &mut MemoryStore, key: Vec<u8>, value: Bytes) {
    store.commit([(key, Some(value))].into()).unwrap();
}

fn delete(store: &mut MemoryStore, key: Vec<u8>) {
    store.commit([(key, None)].into()).unwrap();
}

/// A root with `/d/f` of two chunks, 100 and 101.
fn sound() -> MemoryStore {
    let mut s = MemoryStore::default();
    put(&mut s, keys::inode(InodeId(1)), inode(S_IFDIR, 3, 0, 1));
    put(&mut s, keys::inode(InodeId(2)), inode(S_IFDIR, 2, 0, 1));
    put(&mut s, keys::inode(InodeId(3)), inode(S_IFREG, 1, CHUNK + 5, 0));
    put(&mut s, keys::entry(InodeId(1), b"d"), entry(2, S_IFDIR));
    put(&mut s, keys::entry(InodeId(2), b"f"), entry(3, S_IFREG));
    for index in 0..2 {
        put_chunk(&mut s, &record(100 + index, 3, index, &[1, 2, 3]));
        put(&mut s, keys::file_chunk(InodeId(3), index), id(100 + index));
    }
    s
}

fn check(store: &MemoryStore) -> (Vec<FsckFinding>, Vec<rpc::ChunkInfo>, u64) {
    let around = Surroundings { chunk_size: CHUNK, knows_server: &|s| s.0 <= 4 };
    let (mut findings, mut chunks, mut records, mut from) = (Vec::new(), Vec::new(), 0, Vec::new());
    loop {
        let page = page(store, &around, &from).unwrap();
        findings.extend(page.findings);
        chunks.extend(page.chunks);
        records += page.records;
        if page.next.is_empty() {
            return (findings, chunks, records);
        }
        from = page.next.to_vec();
    }
}

#[test]
fn what_is_sound_has_no_findings_and_all_its_chunks_are_named() {
    let (findings, chunks, records) = check(&sound());
    assert_eq!(findings, []);
    assert_eq!(chunks.iter().map(|c| c.chunk).collect::<Vec<_>>(), [100, 101]);
    assert_eq!(records, 9);
}

#[test]
fn pages_together_are_everything() {
    let mut s = sound();
    for n in 0..2_000u64 {
        put(&mut s, keys::inode(InodeId(1000 + n)), inode(S_IFREG, 1, 0, 0));
        put(&mut s, keys::entry(InodeId(2), format!("n{n}").as_bytes()), entry(1000 + n, S_IFREG));
    }
    let (findings, _, records) = check(&s);
    assert_eq!((findings, records), (vec![], 4_009));
}

/// Each damage alone gives exactly these findings.
#[test]
fn each_damage_is_named() {
    use FsckDamage::*;
    type Plant = fn(&mut MemoryStore);
    let cases: [(&[FsckDamage], Plant); 17] = [
        (&[FsckNameWithoutInode], |s| put(s, keys::entry(InodeId(2), b"g"), entry(77, S_IFREG))),
        (&[FsckNameOfAnotherType], |s| put(s, keys::entry(InodeId(2), b"f"), entry(3, S_IFDIR))),
        (&[FsckNameInNoDirectory], |s| put(s, keys::entry(InodeId(3), b"g"), entry(3, S_IFREG))),
        (&[FsckInodeWithoutName], |s| put(s, keys::inode(InodeId(9)), inode(S_IFREG, 0, 0, 0))),
        (&[FsckNoRoot, FsckNameInNoDirectory], |s| delete(s, keys::inode(InodeId(1)))),
        (&[FsckXattrWithoutInode], |s| put(s, keys::xattr(InodeId(9), b"user.a"), Bytes::new())),
        (&[FsckKeyWithoutInode, FsckChunkInTwoPlaces], |s| {
            put(s, keys::file_chunk(InodeId(9), 0), id(100));
        }),
        (&[FsckKeyWithoutChunk], |s| delete(s, keys::chunk(ChunkId(100)))),
        (&[FsckChunkInTwoPlaces, FsckChunkWithoutKey], |s| put(s, keys::file_chunk(InodeId(3), 1), id(100))),
        (&[FsckChunkBehindEnd], |s| put(s, keys::inode(InodeId(3)), inode(S_IFREG, 1, CHUNK, 0))),
        (&[FsckChunkWithoutInode], |s| put_chunk(s, &record(200, 9, 0, &[1, 2, 3]))),
        (&[FsckChunkWithoutKey], |s| put_chunk(s, &record(200, 3, 7, &[1, 2, 3]))),
        (&[FsckChunkIsGarbage], |s| put(s, keys::garbage(ChunkId(100)), GarbageValue::default().encode())),
        (&[FsckSetImpossible], |s| put_chunk(s, &record(100, 3, 0, &[1]))),
        (&[FsckSetImpossible], |s| put_chunk(s, &record(100, 3, 0, &[1, 2, 2]))),
        (&[FsckSetImpossible], |s| put_chunk(s, &record(100, 3, 0, &[1, 2, 5]))),
        (&[FsckMalformed], |s| put(s, keys::chunk(ChunkId(100)), Bytes::from_static(&[0xff; 3]))),
    ];
    for (n, (expected, plant)) in cases.into_iter().enumerate() {
        let mut store = sound();
        plant(&mut store);
        let found: BTreeSet<i32> = check(&store).0.iter().map(|f| f.damage).collect();
        let expected: BTreeSet<i32> = expected.iter().map(|d| *d as i32).collect();
        assert_eq!(found, expected, "case {n}");
    }
}

#[test]
fn what_is_open_may_be_behind_the_end_and_without_a_name() {
    let mut s = sound();
    put(&mut s, keys::inode(InodeId(3)), inode(S_IFREG, 0, 5, 0));
    delete(&mut s, keys::entry(InodeId(2), b"f"));
    assert_eq!(check(&s).0.len(), 2);
    put(&mut s, keys::opener(InodeId(3), cairn_proto::SessionId(8)), Bytes::new());
    assert_eq!(check(&s).0, []);
}

#[test]
fn paths_lead_from_the_root() {
    let mut s = sound();
    put(&mut s, keys::entry(InodeId(1), b"link"), entry(3, S_IFREG));
    put(&mut s, keys::entry(InodeId(50), b"lost"), entry(3, S_IFREG));
    let (mut paths, next) = paths(&s, &[1, 3].into(), &[]).unwrap();
    paths.sort();
    let paths: Vec<_> = paths.iter().map(|(i, p)| (*i, String::from_utf8_lossy(p).into_owned())).collect();
    let expected = [(1, "/"), (3, "/d/f"), (3, "/link"), (3, "/…/lost")];
    assert_eq!(paths, expected.map(|(i, p)| (i, p.to_owned())));
    assert_eq!(next, []);
}

#[test]
fn chunks_are_told_as_they_are() {
    let mut s = sound();
    put(&mut s, keys::garbage(ChunkId(7)), GarbageValue::default().encode());
    let told = chunks(&s, &[100, 7, 8]).unwrap();
    assert_eq!(told, [(Some(record(100, 3, 0, &[1, 2, 3])), false), (None, true), (None, false)]);
}
