//! `cairn fsck` on real clusters: silent when all is well, and each kind of damage is found by name.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_chunkserver::core::layout;
use cairn_chunkserver::core::table::Entry;
use cairn_master::core::keys;
use cairn_master::core::records::{ChunkValue, Inode, decode};
use cairn_master::core::view::View;
use cairn_master::store::{DataDir, DiskStore, Store};
use cairn_proto::block::{BLOCK, crc32c};
use cairn_proto::{ChunkId, InodeId};
use common::{Cluster, cairn, eventually, pattern, text};
use serde_json::Value;

fn fsck(cluster: &Cluster, flags: &[&str]) -> Output {
    cairn().arg("fsck").args(flags).arg("--data").arg(cluster.data()).output().unwrap()
}

/// The findings as JSON; also checks that the exit code says the same.
fn findings(cluster: &Cluster, flags: &[&str]) -> Vec<Value> {
    let output = fsck(cluster, &[&["--json"], flags].concat());
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    let code = if report["clean"] == true { 0 } else { 4 };
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    report["findings"].as_array().unwrap().clone()
}

fn write(cluster: &Cluster, name: &str, seed: u64, len: usize) -> PathBuf {
    let path = cluster.mount().join(name);
    fs::write(&path, pattern(seed, len)).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    path
}

fn chunk_of(cluster: &Cluster, path: &Path) -> u64 {
    let output =
        cairn().args(["file", "--json", "--master", &cluster.master_address()]).arg(path).output().unwrap();
    let file: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    file["chunks"][0]["chunk"].as_u64().unwrap()
}

fn replica(cluster: &Cluster, server: usize, chunk: u64) -> PathBuf {
    cluster.data().join(format!("cs{server}/chunks/{:02x}/{chunk}", chunk & 0xff))
}

/// The id that the server in the directory `cs…` was given.
fn server_id(cluster: &Cluster, number: usize) -> u64 {
    let text = fs::read_to_string(cluster.data().join(format!("cs{number}/cairn.json"))).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["server"].as_u64().unwrap()
}

/// Where the content of a chunk begins in its file: behind the header's page and the table.
fn content_at(file: &File) -> u64 {
    let geometry = layout::Geometry { chunk_size: 64 << 20 };
    assert!(file.metadata().unwrap().len() >= geometry.data());
    geometry.data()
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_cluster_in_use_is_clean() {
    let cluster = Cluster::start();
    for i in 0..5 {
        write(&cluster, &format!("f{i}"), i, 100_000 * i as usize);
    }
    std::os::unix::fs::symlink("f1", cluster.mount().join("link")).unwrap();
    fs::hard_link(cluster.mount().join("f1"), cluster.mount().join("hard")).unwrap();
    assert_eq!(findings(&cluster, &[]), Vec::<Value>::new());
    let busy = File::create(cluster.mount().join("busy")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when an assertion fails: the scope waits for the writer.
        let _at_the_end = StopAtEnd(&stop);
        scope.spawn(|| {
            for i in 0u64.. {
                busy.write_all_at(&pattern(i, 50_000), i % 100 * 50_000).unwrap();
                busy.sync_data().unwrap();
                let passing = cluster.mount().join("passing");
                fs::write(&passing, pattern(i, 10_000)).unwrap();
                fs::remove_file(&passing).unwrap();
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        for flags in [&[][..], &["--quick"], &["--rate", "1GiB"]] {
            let found = findings(&cluster, flags);
            assert!(found.iter().all(|f| f["damage"] == false), "{found:#?}");
        }
    });
    let output = fsck(&cluster, &[]);
    assert!(output.status.success() && text(&output).contains("clean"), "{}", text(&output));
}

/// One finding of each of these kinds, by kind.
fn by_kind(found: &[Value]) -> BTreeMap<String, Vec<Value>> {
    let mut kinds: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for f in found {
        kinds.entry(f["kind"].as_str().unwrap().to_owned()).or_default().push(f.clone());
    }
    kinds
}

#[test]
fn damage_among_the_records_is_found_by_name() {
    let cluster = Cluster::start();
    fs::create_dir(cluster.mount().join("dir")).unwrap();
    let names = ["dir/lost", "dir/unkeyed", "dir/gone", "dir/strange", "dir/garbage"];
    let files: Vec<PathBuf> = names.iter().zip(1..).map(|(n, i)| write(&cluster, n, i, 10_000)).collect();
    let chunks: Vec<u64> = files.iter().map(|f| chunk_of(&cluster, f)).collect();
    let inodes: Vec<InodeId> = files.iter().map(|f| InodeId(fs::metadata(f).unwrap().ino())).collect();
    assert!(cluster.down().status.success());

    {
        let data = DataDir::open(&cluster.data().join("master")).unwrap();
        let mut store = DiskStore::open(data).unwrap();
        let record = store.get(&keys::chunk(ChunkId(chunks[3]))).unwrap().unwrap();
        let mut strange = decode::<ChunkValue>("a chunk", &record).unwrap();
        strange.in_sync[2] = 99;
        let nameless = Inode { mode: 0o100_644, nlink: 0, ..Inode::default() };
        let batch = [
            (keys::chunk(ChunkId(chunks[0])), None),
            (keys::file_chunk(inodes[1], 0), None),
            (keys::inode(inodes[2]), None),
            (keys::chunk(ChunkId(chunks[3])), Some(strange.encode())),
            (keys::inode(InodeId(7_000_000)), Some(nameless.encode())),
            (keys::xattr(InodeId(7_000_001), b"user.x"), Some(bytes::Bytes::from_static(b"y"))),
        ];
        store.commit(batch.into()).unwrap();
    }
    cluster.up();

    let found = findings(&cluster, &["--quick"]);
    let kinds = by_kind(&found);
    let one = |kind: &str| kinds.get(kind).unwrap_or_else(|| panic!("no {kind} in {found:#?}"))[0].clone();
    assert_eq!(one("key-without-chunk")["paths"][0], "/dir/lost");
    assert_eq!(one("key-without-chunk")["chunk"], chunks[0]);
    assert_eq!(one("chunk-without-key")["paths"][0], "/dir/unkeyed");
    assert_eq!(one("chunk-without-inode")["chunk"], chunks[2]);
    assert!(one("name-without-inode")["detail"].as_str().unwrap().contains("gone"));
    assert_eq!(one("name-without-inode")["paths"][0], "/dir");
    assert_eq!(one("impossible-set")["paths"][0], "/dir/strange");
    assert_eq!(one("inode-without-name")["inode"], 7_000_000);
    assert_eq!(one("xattr-without-inode")["inode"], 7_000_001);
    let shown = text(&fsck(&cluster, &["--quick"]));
    assert!(shown.contains("/dir/lost, chunk") && shown.contains("mend:"), "{shown}");
}

#[test]
fn damage_on_the_disks_is_found_by_name() {
    let cluster = Cluster::start();
    let flipped = write(&cluster, "flipped", 1, 200_000);
    let differing = write(&cluster, "differing", 2, 200_000);
    let truncated = write(&cluster, "truncated", 3, 200_000);
    let [flip, differ, cut] = [&flipped, &differing, &truncated].map(|f| chunk_of(&cluster, f));
    let unknown = 0x7777;
    assert!(cluster.down().status.success());

    // A block that is another than at the other copies, with the checksum to it: nothing but a comparison finds that.
    let file = open(&replica(&cluster, 2, differ));
    file.write_all_at(&[7; BLOCK], content_at(&file) + BLOCK as u64).unwrap();
    let geometry = layout::Geometry { chunk_size: 64 << 20 };
    let at = geometry.table() + layout::ENTRY as u64;
    let mut entry = [0; layout::ENTRY];
    file.read_exact_at(&mut entry, at).unwrap();
    let forged = Entry::data(crc32c(&[7; BLOCK]), Entry::decode(&entry).version);
    file.write_all_at(&forged.encode(), at).unwrap();
    // A replica under an id that was never given out.
    let stranger = replica(&cluster, 1, unknown);
    fs::create_dir_all(stranger.parent().unwrap()).unwrap();
    fs::copy(replica(&cluster, 1, flip), &stranger).unwrap();
    let file = open(&stranger);
    let mut header = [0; layout::HEADER];
    file.read_exact_at(&mut header, 0).unwrap();
    let (meta, blocks) = layout::decode_header(flip, &header).unwrap();
    file.write_all_at(&layout::encode_header(unknown, &meta, blocks), 0).unwrap();
    cluster.up();
    // And while it runs.
    let file = open(&replica(&cluster, 3, flip));
    let at = content_at(&file) + 5 * BLOCK as u64 + 17;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
    let file = open(&replica(&cluster, 1, cut));
    file.set_len(content_at(&file) + 20_000).unwrap();

    let found = findings(&cluster, &[]);
    let kinds = by_kind(&found);
    let about = |kind: &str, chunk: u64| {
        let all = kinds.get(kind).cloned().unwrap_or_default();
        all.into_iter()
            .find(|f| f["chunk"] == chunk)
            .unwrap_or_else(|| panic!("no {kind} of {chunk}: {found:#?}"))
    };
    let bad = about("bad-blocks", flip);
    assert_eq!((&bad["server"], &bad["paths"][0]), (&server_id(&cluster, 3).into(), &"/flipped".into()));
    assert_eq!(bad["detail"], "block(s) 5");
    assert_eq!(about("bad-blocks", cut)["paths"][0], "/truncated");
    assert_eq!(about("replicas-differ", differ)["paths"][0], "/differing");
    assert_eq!(about("unknown-replica", unknown)["server"], server_id(&cluster, 1));
    // What was found is healed by having been found.
    eventually(Duration::from_secs(20), "bad blocks are healed", || {
        !by_kind(&findings(&cluster, &[])).contains_key("bad-blocks")
    });
    assert!(fs::read(&flipped).unwrap() == pattern(1, 200_000));
    assert!(fs::read(&truncated).unwrap() == pattern(3, 200_000));
}

#[test]
fn missing_copies_are_found_until_they_are_back() {
    let cluster = Cluster::start();
    let path = write(&cluster, "f", 1, 100_000);
    let chunk = chunk_of(&cluster, &path);
    cluster.signal("cs2", libc::SIGSTOP);
    let found = findings(&cluster, &[]);
    let kinds = by_kind(&found);
    assert!(kinds.contains_key("server-unreachable") || kinds.contains_key("few-copies"), "{found:#?}");
    eventually(Duration::from_secs(30), "it is dropped from the set", || {
        by_kind(&findings(&cluster, &[])).get("few-copies").is_some_and(|all| all[0]["chunk"] == chunk)
    });
    let shown = text(&fsck(&cluster, &[]));
    assert!(shown.contains("/f, chunk") && shown.contains("2 of 3"), "{shown}");
    cluster.signal("cs2", libc::SIGCONT);
    cluster.wait_whole();
    eventually(Duration::from_secs(20), "all is well again", || findings(&cluster, &[]).is_empty());
}

#[test]
fn without_a_cluster_it_says_so() {
    let dir = common::scratch();
    let output = cairn().arg("fsck").arg("--data").arg(dir.path()).output().unwrap();
    assert!(!output.status.success() && output.status.code() != Some(4), "{}", text(&output));
    let output = cairn().args(["fsck", "--master", "127.0.0.1:9"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}
