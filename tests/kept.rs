//! docs/semantics.md, "Several mounts": what one has read it reads again from its memory, until another writes.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Cluster, SecondMount, pattern};

/// No lease is given for 250 ms after one was recalled.
const QUIET: Duration = Duration::from_millis(300);

/// A second mount that can be asked for its figures.
struct Reader {
    mount: SecondMount,
    address: String,
    pid: u32,
}

impl Reader {
    fn new(cluster: &Cluster) -> Self {
        let mount = cluster.second_mount("second", &["--http", "127.0.0.1:0"]);
        let status = cluster.status();
        let mounts = status["mounts"].as_array().unwrap();
        let told = mounts.iter().find(|m| m["dir"] == mount.dir().to_str().unwrap()).unwrap();
        let address = told["http"].as_str().unwrap().to_owned();
        Self { pid: told["pid"].as_u64().unwrap() as u32, mount, address }
    }

    fn dir(&self) -> &Path {
        self.mount.dir()
    }

    /// Bytes that have come from chunkservers.
    fn fetched(&self) -> u64 {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: cairn\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let value = text.lines().find_map(|l| l.strip_prefix("cairn_read_bytes_total "));
        value.map_or(0, |v| v.parse::<f64>().unwrap() as u64)
    }

    /// Reads until nothing comes from chunkservers any more: what was read last.
    fn warm(&self, read: impl Fn() -> Vec<u8>) -> Vec<u8> {
        std::thread::sleep(QUIET);
        let began = Instant::now();
        loop {
            let before = self.fetched();
            let bytes = read();
            if self.fetched() == before {
                return bytes;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "it does not become warm");
        }
    }
}

fn write_at(path: &Path, bytes: &[u8], offset: u64) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[test]
fn what_was_read_is_read_again_from_memory() {
    const FILES: u64 = 200;
    let cluster = Cluster::start();
    let reader = Reader::new(&cluster);
    let (here, there) = (cluster.mount(), reader.dir());
    let large = pattern(1, 20 << 20);
    fs::write(here.join("large"), &large).unwrap();
    (0..FILES).for_each(|n| fs::write(here.join(format!("f{n}")), pattern(n + 2, 3000)).unwrap());
    let all = || {
        assert!(fs::read(there.join("large")).unwrap() == large);
        for n in 0..FILES {
            assert!(fs::read(there.join(format!("f{n}"))).unwrap() == pattern(n + 2, 3000), "file {n}");
        }
        Vec::new()
    };
    reader.warm(all);
    let file = File::open(there.join("large")).unwrap();
    let operations = || {
        let status = cluster.status();
        let mounts = status["mounts"].as_array().unwrap();
        let told = mounts.iter().find(|m| m["dir"] == there.to_str().unwrap()).unwrap();
        told["operations"].as_u64().unwrap()
    };
    let needed = || {
        let (fetched, asked) = (reader.fetched(), operations());
        all();
        // In parts that were not read before, too.
        let mut buffer = [0; 5000];
        for n in 0..100u64 {
            let offset = n * 200_003;
            file.read_exact_at(&mut buffer, offset).unwrap();
            assert!(buffer == large[offset as usize..][..5000]);
        }
        (reader.fetched() - fetched, operations() - asked)
    };
    // A machine under load may be too late with a sign of life once, and then everything is asked for again.
    let (fetched, asked) = (0..5).map(|_| needed()).min().unwrap();
    assert_eq!(fetched, 0, "bytes have come from the chunkservers");
    assert!(asked <= 3, "the master was asked {asked} times");
}

#[test]
fn a_write_by_another_mount_is_read_at_once_however_warm_the_file_was() {
    let cluster = Cluster::start();
    let reader = Reader::new(&cluster);
    let (here, there) = (cluster.mount().join("f"), reader.dir().join("f"));
    let mut wanted = pattern(0, 100_000);
    fs::write(&here, &wanted).unwrap();
    let open = File::open(&there).unwrap();
    let by_handle = |len: usize| {
        let mut bytes = vec![0; len + 1];
        let n = open.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(n);
        bytes
    };
    for round in 1..=12usize {
        assert!(reader.warm(|| fs::read(&there).unwrap()) == wanted, "before round {round}");
        match round % 6 {
            0 => {
                File::options().write(true).open(&here).unwrap().set_len(30_000).unwrap();
                wanted.truncate(30_000);
            }
            1 => {
                File::options().append(true).open(&here).unwrap().write_all(&wanted[..5000]).unwrap();
                wanted.extend_from_within(..5000);
            }
            2 => {
                common::sh(&format!("fallocate -p -o 8192 -l 4096 {}", here.display()));
                wanted[8192..12288].fill(0);
            }
            3 => {
                File::options().write(true).open(&here).unwrap().set_len(120_000).unwrap();
                wanted.resize(120_000, 0);
            }
            _ => {
                let bytes = pattern(round as u64, 9000);
                write_at(&here, &bytes, round as u64 * 1000);
                wanted[round * 1000..][..9000].copy_from_slice(&bytes);
            }
        }
        assert!(by_handle(wanted.len()) == wanted, "by the open handle, round {round}");
        assert!(fs::read(&there).unwrap() == wanted, "opened anew, round {round}");
    }
}

#[test]
fn what_this_mount_writes_itself_is_read_at_once() {
    let cluster = Cluster::start();
    let reader = Reader::new(&cluster);
    let path = reader.dir().join("f");
    let mut wanted = pattern(0, 50_000);
    fs::write(&path, &wanted).unwrap();
    let (open, writer) = (File::open(&path).unwrap(), File::options().write(true).open(&path).unwrap());
    for round in 1..=400usize {
        if round % 100 == 1 {
            assert!(reader.warm(|| fs::read(&path).unwrap()) == wanted, "before round {round}");
        }
        let (at, bytes) = (round * 97 % 45_000, pattern(round as u64, 700));
        match round % 4 {
            0 => {
                File::options().append(true).open(&path).unwrap().write_all(&bytes).unwrap();
                wanted.extend_from_slice(&bytes);
            }
            1 => {
                let cut = wanted.len() - 300;
                writer.set_len(cut as u64).unwrap();
                wanted.truncate(cut);
            }
            _ => {
                writer.write_all_at(&bytes, at as u64).unwrap();
                wanted[at..at + 700].copy_from_slice(&bytes);
            }
        }
        let mut bytes = vec![0; wanted.len() + 1];
        let n = open.read_at(&mut bytes, 0).unwrap();
        assert!(bytes[..n] == wanted, "round {round}");
    }
}

/// The file is one number, all over; readers on both mounts never see an older one than was there before they began.
#[test]
fn readers_on_both_mounts_never_go_back_while_both_write() {
    const LENGTH: usize = 64 << 10;
    let cluster = Cluster::start();
    let reader = Reader::new(&cluster);
    let paths = [cluster.mount().join("f"), reader.dir().join("f")];
    fs::write(&paths[0], vec![0; LENGTH]).unwrap();
    let (finished, stop, reads) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for n in 0..6 {
            let (path, finished, stop, reads) = (&paths[n % 2], &finished, &stop, &reads);
            scope.spawn(move || {
                let open = File::open(path).unwrap();
                let mut bytes = vec![0; LENGTH];
                while !stop.load(Ordering::SeqCst) {
                    let least = finished.load(Ordering::SeqCst);
                    let at = reads.fetch_add(1, Ordering::SeqCst) as usize * 4096 % LENGTH;
                    let n = if n < 4 {
                        open.read_at(&mut bytes[at..], at as u64)
                    } else {
                        open.read_at(&mut bytes[at..at + 4096], at as u64)
                    };
                    let n = n.unwrap();
                    assert!(n >= 4096, "{n} bytes at {at}");
                    for (place, word) in bytes[at..at + n].chunks_exact(8).enumerate() {
                        let seen = u64::from_le_bytes(word.try_into().unwrap());
                        assert!(seen >= least, "{seen} at {at} + {place}, and {least} was there before");
                    }
                }
            });
        }
        let began = Instant::now();
        for round in 1.. {
            let bytes = u64::to_le_bytes(round).repeat(LENGTH / 8);
            write_at(&paths[(round / 3 % 2) as usize], &bytes, 0);
            finished.store(round, Ordering::SeqCst);
            // Now and then they become warm.
            if round % 5 == 0 {
                std::thread::sleep(QUIET);
            }
            if began.elapsed() > Duration::from_secs(12) {
                break;
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert!(reads.into_inner() > 200);
}

#[test]
fn a_stopped_mount_reads_nothing_from_what_it_had_kept() {
    let cluster = Cluster::start();
    let reader = Reader::new(&cluster);
    let (here, there) = (cluster.mount().join("f"), reader.dir().join("f"));
    fs::write(&here, pattern(1, 10_000)).unwrap();
    let open = File::open(&there).unwrap();
    let read = || {
        let mut bytes = vec![0; 10_000];
        open.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert!(reader.warm(read) == pattern(1, 10_000));
    common::signal_pid(reader.pid, libc::SIGSTOP);
    // Waits until the stopped mount's leases have run out.
    write_at(&here, &pattern(2, 10_000), 0);
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(read);
        std::thread::sleep(Duration::from_millis(500));
        common::signal_pid(reader.pid, libc::SIGCONT);
        late.join().unwrap()
    });
    assert!(late == pattern(2, 10_000), "what was there before the write");
}
