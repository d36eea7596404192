//! docs/semantics.md, "Wrong calls": what makes no sense on a port ends that connection and nothing else.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::{Cluster, pattern};

/// Sends it, then reads until the other side closes; what it says does not matter.
fn offer(mut stream: impl Read + Write, bytes: &[u8]) {
    // The other side may close before it has taken everything.
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 1024]);
}

#[test]
fn garbage_on_every_port_changes_nothing() {
    let cluster = Cluster::start();
    let file = cluster.mount().join("f");
    let bytes = pattern(1, 2_000_000);
    std::fs::write(&file, &bytes).unwrap();
    let pids: Vec<u32> = ["master", "cs1", "cs2", "cs3"].map(|n| cluster.pid(n)).into();
    let status = cluster.status();
    let servers = status["chunkservers"].as_array().unwrap();
    let mut ports: Vec<String> = servers.iter().map(|s| s["addr"].as_str().unwrap().to_owned()).collect();
    ports.push(cluster.master_address());

    let mut preamble = b"CAIRNDAT".to_vec();
    preamble.extend(1u32.to_le_bytes());
    preamble.resize(48, 0);
    let mut oversized = preamble.clone();
    oversized.extend([1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    oversized.resize(oversized.len() + 24, 0x55);
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let mut http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    http2.extend([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]);
    let offers = [pattern(7, 100_000), preamble, oversized, http, http2, vec![0; 65_536], Vec::new()];
    for port in &ports {
        for bytes in &offers {
            let stream = TcpStream::connect(port).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            offer(stream, bytes);
        }
    }
    for number in 1..=3 {
        let path = cluster.data().join(format!("cs{number}.sock"));
        if let Ok(stream) = UnixStream::connect(path) {
            stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            offer(stream, &pattern(8, 10_000));
        }
    }

    assert_eq!(["master", "cs1", "cs2", "cs3"].map(|n| cluster.pid(n)).to_vec(), pids, "a process died");
    assert!(std::fs::read(&file).unwrap() == bytes);
    std::fs::write(cluster.mount().join("g"), &bytes).unwrap();
    let logs = common::sh(&format!("cat {}/run/*.log", cluster.data().display()));
    assert!(!logs.contains("panicked"), "{logs}");
    cluster.wait_whole();
}
