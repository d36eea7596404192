//! One chunkserver's two disks: directories of a small file system in memory, which can be filled, taken away and damaged.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::common::sh;
use crate::rng::Rng;

/// Of the file system: room for all chunks of the test and for the reserve that is kept free.
const MIB: u32 = 1024;
const NAMES: [&str; 2] = ["one", "two"];
/// Where block 0 of a chunk of 4 MiB begins in its file: behind a header of 4 KiB and a table of 16 bytes a block.
const DATA: u64 = 4096 + (CHUNK / BLOCK) * 16;
const CHUNK: u64 = 4 << 20;
const BLOCK: u64 = 4096;

/// Unmounted when dropped.
pub struct Disks {
    root: PathBuf,
}

impl Disks {
    pub fn new(root: PathBuf) -> Self {
        fs::create_dir(&root).unwrap();
        sh(&format!("mount -t tmpfs -o size={MIB}m cairn-chaos {}", root.display()));
        Self { root }
    }

    /// As `--data` takes them.
    pub fn directories(&self) -> String {
        NAMES.map(|n| self.root.join(n).display().to_string()).join(",")
    }

    fn filler(&self) -> PathBuf {
        self.root.join("filler")
    }

    /// Takes all the room that there is.
    pub fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        let mut piece = 64 << 20;
        let zeros = vec![0; piece];
        // What has no room is written in part, or not at all.
        while piece > 0 {
            match filler.write(&zeros[..piece]) {
                Ok(n) if n == piece => {}
                _ => piece /= 2,
            }
        }
    }

    pub fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    pub fn take_away(&self) {
        fs::rename(self.root.join(NAMES[1]), self.root.join("away")).unwrap();
    }

    pub fn bring_back(&self) {
        fs::rename(self.root.join("away"), self.root.join(NAMES[1])).unwrap();
    }

    /// The server's id at the master.
    pub fn server(&self) -> u64 {
        let text = fs::read(self.root.join(NAMES[0]).join("cairn.json")).unwrap();
        let identity: Value = serde_json::from_slice(&text).unwrap();
        identity["server"].as_u64().unwrap()
    }

    /// Flips a bit of a block that has content, in one of the chunks (as `cairn file` shows them) that have all copies, one of
    /// them here. `None`: there is no such block.
    pub fn flip_bit(&self, chunks: &[Value], rng: &mut Rng) -> Option<String> {
        let me = self.server();
        let here = |c: &&Value| {
            let set = c["in_sync"].as_array().unwrap();
            set.len() == 3 && set.iter().any(|s| s.as_u64() == Some(me))
        };
        let chunks: Vec<_> = chunks.iter().filter(here).filter_map(|c| c["chunk"].as_u64()).collect();
        if chunks.is_empty() {
            return None;
        }
        let chunk = chunks[rng.below(chunks.len() as u64) as usize];
        let path = |disk: &str| self.root.join(disk).join(format!("chunks/{:02x}/{chunk}", chunk & 0xff));
        let found = NAMES.map(path).into_iter().find(|p| p.exists())?;
        let file = File::options().read(true).write(true).open(found).unwrap();
        let (first, within) = (rng.below(CHUNK / BLOCK), rng.below(BLOCK));
        let mut block = [0; BLOCK as usize];
        let blocks = CHUNK / BLOCK;
        for number in (first..blocks).chain(0..first) {
            let at = DATA + number * BLOCK;
            if file.read_exact_at(&mut block, at).is_ok() && block.iter().any(|b| *b != 0) {
                let byte = block[within as usize] ^ (1 << rng.below(8));
                file.write_all_at(&[byte], at + within).unwrap();
                return Some(format!("chunk {chunk} block {number}"));
            }
        }
        None
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.root).output();
    }
}
