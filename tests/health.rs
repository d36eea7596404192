//! `/health` and `/metrics` of running processes.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Cluster, Running, cairn, eventually};
use serde_json::Value;

/// No answer takes longer, whatever state the process is in (it promises 2 s).
const BOUND: Duration = Duration::from_secs(20);

/// A request as it is, and what comes back: the status, the body. `None`: no answer.
fn exchange(address: &str, request: &[u8]) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.set_write_timeout(Some(BOUND)).unwrap();
    stream.write_all(request).ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    let text = String::from_utf8(text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn get(address: &str, path: &str) -> Option<(u16, String)> {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: cairn\r\n\r\n").as_bytes())
}

fn health(address: &str) -> (u16, Value) {
    let began = Instant::now();
    let (status, body) = get(address, "/health").expect("an answer");
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    (status, serde_json::from_str(&body).unwrap())
}

/// What a figure is; its labels are part of the name.
fn figure(address: &str, name: &str) -> Option<f64> {
    let (status, text) = get(address, "/metrics")?;
    assert_eq!(status, 200);
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Where the processes of a cluster answer: master, chunkservers, mount.
fn addresses(cluster: &Cluster) -> Vec<String> {
    let status = cluster.status();
    let of = |group: &str| {
        let told = status[group].as_array().unwrap().iter();
        told.map(|p| p["http"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    [of("masters"), of("chunkservers"), of("mounts")].concat()
}

#[test]
fn every_process_says_that_it_serves_and_shows_its_figures() {
    let cluster = Cluster::start();
    let path = cluster.mount().join("f");
    fs::write(&path, common::pattern(1, 300_000)).unwrap();
    fs::File::open(&path).unwrap().sync_all().unwrap();
    let addresses = addresses(&cluster);
    assert_eq!(addresses.len(), 5);
    for (address, process) in
        addresses.iter().zip(["master", "chunkserver", "chunkserver", "chunkserver", "mount"])
    {
        let (status, told) = health(address);
        assert_eq!(
            (status, &told["status"], &told["process"]),
            (200, &"ok".into(), &process.into()),
            "{told}"
        );
        assert_eq!(figure(address, &format!("cairn_healthy{{process=\"{process}\"}}")), Some(1.0));
    }
    let (master, server, mount) = (&addresses[0], &addresses[1], &addresses[4]);
    eventually(Duration::from_secs(30), "the master counts what is alive", || {
        figure(master, "cairn_chunkservers{state=\"alive\"}") == Some(3.0)
            && figure(master, "cairn_chunks") == Some(1.0)
    });
    assert_eq!(figure(master, "cairn_repairs_running"), Some(0.0));
    assert!(figure(master, "cairn_repair_rate_bytes").unwrap() > 0.0);
    assert_eq!(figure(server, "cairn_lease"), Some(1.0));
    assert_eq!(figure(server, "cairn_replicas"), Some(1.0));
    let written: f64 = addresses[1..4].iter().map(|a| figure(a, "cairn_written_bytes_total").unwrap()).sum();
    assert!(written >= 300_000.0, "{written}");
    assert!(figure(mount, "cairn_written_bytes_total").unwrap() >= 300_000.0);
    assert!(figure(mount, "cairn_requests_total{operation=\"write\"}").unwrap() >= 1.0);
    assert!(figure(mount, "cairn_request_seconds_count{kind=\"sync\"}").unwrap() >= 1.0);
}

#[test]
fn what_is_away_is_told_and_nobody_is_kept_waiting() {
    let cluster = Cluster::start();
    let addresses = addresses(&cluster);
    let (master, mount) = (&addresses[0], &addresses[4]);
    for name in ["cs1", "cs2", "cs3"] {
        cluster.signal(name, libc::SIGSTOP);
    }
    let away = || health(master).1["remarks"].to_string();
    eventually(Duration::from_secs(40), "the master says who is away", || {
        away().contains("3 of 3 chunkservers are not alive")
    });
    assert_eq!(health(master).0, 200, "the master itself serves");
    assert_eq!(figure(master, "cairn_chunkservers{state=\"alive\"}"), Some(0.0));
    assert_eq!(health(mount).0, 200, "and so does the mount's session");
    for name in ["cs1", "cs2", "cs3"] {
        cluster.signal(name, libc::SIGCONT);
    }
    cluster.wait_whole();
    assert_eq!(away(), "[]");

    cluster.signal("master", libc::SIGSTOP);
    let leases = || addresses[1..4].iter().map(|a| health(a)).collect::<Vec<_>>();
    eventually(Duration::from_secs(40), "the chunkservers have no lease any more", || {
        leases()
            .iter()
            .all(|(status, told)| *status == 503 && told["reason"].to_string().contains("no lease"))
    });
    eventually(Duration::from_secs(60), "the mount says that its master is away", || {
        let (status, told) = health(mount);
        status == 503 && told["reason"].to_string().contains("master")
    });
    cluster.signal("master", libc::SIGCONT);
    eventually(Duration::from_secs(60), "all are well again", || {
        addresses.iter().all(|a| health(a).0 == 200)
    });
}

#[test]
fn a_chunkserver_without_a_master_is_not_healthy() {
    let dir = common::scratch();
    let log = dir.path().join("log");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = cairn();
    server.args(["chunkserver", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    server.args(["--master", &nobody.local_addr().unwrap().to_string()]);
    server
        .arg("--data")
        .arg(dir.path().join("s"))
        .stderr(fs::File::create(&log).unwrap())
        .stdin(Stdio::null());
    let _server = Running(server.spawn().unwrap());
    let address = || {
        let text = fs::read_to_string(&log).unwrap();
        let line = text.lines().find(|l| l.contains("/health and /metrics"))?.to_owned();
        Some(line.split("address=").nth(1)?.split_whitespace().next()?.to_owned())
    };
    eventually(Duration::from_secs(30), "it says where it can be asked", || address().is_some());
    let address = address().unwrap();
    // (At first it is starting.)
    eventually(Duration::from_secs(30), "it says what it lacks", || {
        let (status, told) = health(&address);
        assert_eq!((status, &told["status"]), (503, &"unwell".into()));
        told["reason"].to_string().contains("no master")
    });
    assert_eq!(figure(&address, "cairn_healthy{process=\"chunkserver\"}"), Some(0.0));
}

#[test]
fn nonsense_and_floods_do_no_harm() {
    let cluster = Cluster::shared();
    let all = addresses(&cluster);
    for address in &all {
        assert_eq!(get(address, "/").map(|a| a.0), Some(404));
        assert_eq!(get(address, "/health/../etc/passwd").map(|a| a.0), Some(404));
        let posted = exchange(address, b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(posted.map(|a| a.0), Some(405));
        // Whatever the answer to these is, if there is one: it ends, and the next is answered.
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
        let headers = format!("GET /health HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000));
        let random = common::pattern(7, 100_000);
        for request in [long.as_bytes(), headers.as_bytes(), &random, b"\r\n\r\n", b"GET /health"] {
            let Ok(mut stream) = TcpStream::connect(address) else {
                panic!("{address} is not there any more")
            };
            stream.set_read_timeout(Some(BOUND)).unwrap();
            let _ = stream.write_all(request);
            let _ = stream.shutdown(Shutdown::Write);
            // How many bytes of an answer there are is not what this is about.
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let refused = exchange(address, headers.as_bytes());
        assert!(refused.as_ref().is_none_or(|a| (400..500).contains(&a.0)), "{refused:?}");
        assert_eq!(health(address).0, 200);
    }
    // More than are let in, all of them silent: they are closed, and their places are free again.
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(&all[0]).unwrap()).collect();
    eventually(Duration::from_secs(60), "those who only wait are let go", || {
        get(&all[0], "/health").is_some_and(|a| a.0 == 200)
    });
    drop(silent);
}
