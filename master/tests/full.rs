//! A master whose disk gets full: on a small file system of its own, so that it needs root.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use cairn_proto::rpc::{self, op::Op as Body};
use common::{Master, Mount, attr, create, lookup};

const ROOT: u64 = 1;
const ENOSPC: i32 = 28;

/// A file system in memory, unmounted at the end.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status();
        mounted.is_ok_and(|s| s.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn large(name: &str) -> Body {
    let target = "t".repeat(4_000).into();
    let name = name.to_owned().into();
    Body::Make(rpc::Make { parent: ROOT, name, mode: 0o120_777, target, ..rpc::Make::default() })
}

async fn fill(mount: &mut Mount) -> usize {
    for i in 0..100_000 {
        match mount.op(large(&format!("l{i}"))).await.errno {
            0 => {}
            ENOSPC => return i,
            other => panic!("errno {other}"),
        }
    }
    panic!("the disk does not get full");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Small::mount(dir.path(), "96m") else {
        eprintln!("not run: a file system cannot be mounted here");
        return;
    };
    let master = Master::start(&disk.0.join("master")).await;
    let mut mount = master.mount().await;
    attr(&mount.op(create(ROOT, "first")).await);
    let made = fill(&mut mount).await;
    assert!(made > 1_000, "full after {made}");
    // What makes room is still done, and what is there can be read.
    let unlink = rpc::Unlink { parent: ROOT, name: "l0".into(), keep_open: false };
    assert_eq!(mount.op(Body::Unlink(unlink)).await.errno, 0);
    // Another program takes the rest.
    let filler = disk.0.join("filler");
    let _ = std::fs::write(&filler, vec![1; 96 << 20]);
    assert_eq!(mount.op(create(ROOT, "none")).await.errno, ENOSPC);
    assert_eq!(mount.lookup(ROOT, "l1").await.errno, 0);
    let session = mount.session();
    let next = mount.next;
    std::fs::remove_file(&filler).unwrap();
    master.stop().await;
    // On a larger disk all is there, and work goes on.
    let larger = Command::new("mount").args(["-o", "remount,size=256m"]).arg(&disk.0).status().unwrap();
    assert!(larger.success());
    let master = Master::start(&disk.0.join("master")).await;
    let mut mount = master.resume(session).await;
    mount.next = next;
    for name in ["first".to_owned(), "l1".into(), format!("l{}", made - 1)] {
        assert_eq!(mount.op(lookup(ROOT, &name)).await.errno, 0, "{name} is lost");
    }
    assert_eq!(mount.op(lookup(ROOT, "l0")).await.errno, 2);
    assert_eq!(mount.op(create(ROOT, "again")).await.errno, 0);
    master.stop().await;
}
