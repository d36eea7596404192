//! docs/semantics.md, "Full disks": an error, no loss, and all is well again when there is space.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use common::{Cluster, errno, eventually, pattern};

const PIECE: usize = 4 << 20;

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[test]
fn full_disks_lose_nothing() {
    // Journals of three servers, and something to fill.
    let cluster = Cluster::on_small_disk(1200);
    let dir = cluster.subdir("d");
    let file = |i: u64| dir.join(i.to_string());
    let mut kept = 0;
    let error = loop {
        match write_synced(&file(kept), &pattern(kept + 1, PIECE)) {
            Ok(()) => kept += 1,
            Err(e) => break e,
        }
        assert!(kept < 1000, "the disk does not become full");
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "after {kept} files: {error}");
    assert!(kept > 10, "{kept}");
    let all_there = |from: u64| (from..kept).all(|i| fs::read(file(i)).unwrap() == pattern(i + 1, PIECE));
    assert!(all_there(0));

    // Removing files makes space, without anybody's doing.
    for i in 0..kept / 2 {
        fs::remove_file(file(i)).unwrap();
    }
    let again = dir.join("again");
    eventually(Duration::from_secs(30), "there is space again", || {
        write_synced(&again, &pattern(99, PIECE)).is_ok()
    });
    assert!(all_there(kept / 2) && fs::read(&again).unwrap() == pattern(99, PIECE));

    // The master's disk: somebody else takes all that is left.
    let filler = cluster.data().join("filler");
    let _ = io::copy(&mut io::repeat(0), &mut File::create(&filler).unwrap());
    let mut made = 0;
    let full = loop {
        match fs::create_dir(dir.join(format!("dir{made}"))) {
            Ok(()) => made += 1,
            Err(e) => break Err::<(), _>(e),
        }
        if made == 20_000 {
            break Ok(()); // It had set space aside.
        }
    };
    if full.is_err() {
        assert_eq!(errno(full), libc::ENOSPC);
    }
    assert!(all_there(kept / 2));
    fs::remove_file(&filler).unwrap();
    eventually(Duration::from_secs(30), "names can be made again", || {
        fs::create_dir(dir.join("last")).is_ok()
    });
    assert_eq!((0..made).filter(|i| dir.join(format!("dir{i}")).is_dir()).count(), made);
    cluster.kill("master");
    assert!(dir.join("last").is_dir());
    assert_eq!((0..made).filter(|i| dir.join(format!("dir{i}")).is_dir()).count(), made);
}
