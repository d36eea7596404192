//! docs/semantics.md, "Load": a chunk that is read very much gets more copies, which then serve; a chunkserver that has far more to
//! do than the others gives chunks away. By themselves, while programs read.

#![allow(clippy::unwrap_used)]

mod common;

use std::alloc::{Layout, alloc_zeroed};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{Cluster, cairn, eventually, pattern, text};
use serde_json::Value;

const MIB: usize = 1 << 20;
/// So much is read in one call.
const CALL: usize = 256 << 10;

/// Programs that read files past all caches, again and again, and compare what they read, until dropped.
struct Readers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    /// Several for each file, so that servers are asked at the same time; `pause` between two calls of each.
    fn of(files: &[(PathBuf, Vec<u8>)], pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads =
            files.iter().flat_map(|file| std::iter::repeat_n(file.clone(), 3)).map(|(path, content)| {
                let stop = stop.clone();
                std::thread::spawn(move || read_again_and_again(&path, &content, pause, &stop))
            });
        Self { threads: threads.collect(), stop }
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn read_again_and_again(path: &Path, content: &[u8], pause: Duration, stop: &AtomicBool) {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    let layout = Layout::from_size_align(CALL, 4_096).unwrap();
    // SAFETY: the layout is not empty; the memory is zeroed, aligned as O_DIRECT wants it, and never freed.
    let buffer = unsafe { std::slice::from_raw_parts_mut(alloc_zeroed(layout), CALL) };
    for part in content.chunks(CALL).enumerate().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
        let (n, expected) = part;
        file.read_exact_at(buffer, (n * CALL) as u64).unwrap();
        assert!(buffer == expected, "{} differs", path.display());
        std::thread::sleep(pause);
    }
}

fn limits(cluster: &Cluster, flags: &[&str]) -> String {
    let output =
        cairn().args(["node", "limits", "--master", &cluster.master_address()]).args(flags).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

/// Ids of the servers of a file's only chunk.
fn copies(path: &Path) -> Vec<u64> {
    let output = cairn().arg("file").arg(path).arg("--json").output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let servers = told["chunks"][0]["replicas"].as_array().unwrap();
    servers.iter().map(|s| s["server"].as_u64().unwrap()).collect()
}

fn is_clean(cluster: &Cluster) -> bool {
    cairn().args(["fsck", "--master", &cluster.master_address()]).output().unwrap().status.success()
}

/// What each server has sent to clients, by its id.
fn bytes_out(cluster: &Cluster, server: u64) -> u64 {
    let status = cluster.status();
    let all = status["chunkservers"].as_array().unwrap();
    all.iter().find(|s| s["id"] == server).unwrap()["bytes_out"].as_u64().unwrap()
}

fn written(path: PathBuf, seed: u64, len: usize) -> (PathBuf, Vec<u8>) {
    let content = pattern(seed, len);
    fs::write(&path, &content).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    (path, content)
}

#[test]
fn a_hot_chunk_is_read_from_more_servers_for_as_long() {
    let cluster = Cluster::with(&["--chunkservers", "5"]);
    let file = written(cluster.mount().join("hot"), 1, 4 * MIB);
    let at_first = copies(&file.0);
    assert_eq!(at_first.len(), 3);
    let shown = limits(&cluster, &["--hot", "2M", "--sustained", "1s"]);
    assert!(shown.contains("hot 2.0 MiB") && shown.contains("sustained 1s"), "{shown}");
    let readers = Readers::of(std::slice::from_ref(&file), Duration::from_millis(2));
    eventually(Duration::from_secs(60), "it has two more copies", || copies(&file.0).len() == 5);
    assert_eq!(cluster.status()["balance"]["hot"], 1);
    assert_eq!(cluster.status()["chunks"]["under_replicated"], 0);
    for server in copies(&file.0).into_iter().filter(|s| !at_first.contains(s)) {
        let before = bytes_out(&cluster, server);
        eventually(Duration::from_secs(30), "a new copy is read from, too", || {
            bytes_out(&cluster, server) > before + MIB as u64
        });
    }
    // What is written now is on all five, and read from all five.
    readers.end();
    let file = written(file.0, 2, 4 * MIB);
    let readers = Readers::of(std::slice::from_ref(&file), Duration::from_millis(2));
    assert!(is_clean(&cluster));
    // (By itself it would cool in a minute or two.)
    limits(&cluster, &["--hot", "0"]);
    eventually(Duration::from_secs(30), "it has three again", || copies(&file.0).len() == 3);
    let all_chunks = || -> u64 {
        let status = cluster.status();
        status["chunkservers"].as_array().unwrap().iter().map(|s| s["chunks"].as_u64().unwrap()).sum()
    };
    eventually(Duration::from_secs(60), "the other replicas are gone", || all_chunks() == 3);
    readers.end();
    assert!(is_clean(&cluster));
}

#[test]
fn a_server_that_has_far_more_to_do_than_others_gives_chunks_away() {
    let cluster = Cluster::with(&["--chunkservers", "4", "--replicas", "1"]);
    let files: Vec<_> = (0..16).map(|n| written(cluster.mount().join(n.to_string()), n, 2 * MIB)).collect();
    let on = |server: u64| files.iter().filter(|f| copies(&f.0) == [server]).cloned().collect::<Vec<_>>();
    let (server, busy) = (1..=4).map(|s| (s, on(s))).max_by_key(|(_, files)| files.len()).unwrap();
    assert!(busy.len() >= 4, "{busy:?}");
    let busy = &busy[..4];
    let readers = Readers::of(busy, Duration::from_millis(5));
    limits(&cluster, &["--hot", "0", "--over", "2M", "--sustained", "2s"]);
    eventually(Duration::from_secs(90), "a chunk has moved", || {
        cluster.status()["balance"]["moved"]["load"].as_u64().is_some_and(|n| n > 0)
    });
    let moved = busy.iter().filter(|f| copies(&f.0) != [server]).count();
    assert!((1..4).contains(&moved), "{moved}");
    // Readers compare all the while what they read.
    readers.end();
    assert!(is_clean(&cluster));
}
