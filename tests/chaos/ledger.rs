//! What each record of each file must hold.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::common::pattern;

/// Files, written by one writer and read by all.
pub const FILES: usize = 5;
/// Bytes of a record: no multiple of anything, so that neighbours share blocks and some lie across chunks.
pub const RECORD: usize = 38_977;
/// Records in a file: about 20 MB, several chunks.
pub const RECORDS: usize = 520;

pub struct Ledger {
    seed: u64,
    /// The version of each record that was written last; 0: none.
    versions: Vec<Vec<Mutex<u64>>>,
}

impl Ledger {
    pub fn new(seed: u64) -> Self {
        let file = || (0..RECORDS).map(|_| Mutex::new(0)).collect();
        Self { seed, versions: (0..FILES).map(|_| file()).collect() }
    }

    pub fn path(dir: &Path, file: usize) -> PathBuf {
        dir.join(format!("records-{file}"))
    }

    pub fn offset(record: usize) -> u64 {
        (record * RECORD) as u64
    }

    /// Keeps others from the record: who holds it reads or writes it.
    pub fn lock(&self, file: usize, record: usize) -> MutexGuard<'_, u64> {
        self.versions[file][record].lock().unwrap()
    }

    pub fn content(&self, file: usize, record: usize, version: u64) -> Vec<u8> {
        if version == 0 {
            return vec![0; RECORD];
        }
        pattern(self.seed ^ (version << 32) ^ ((file as u64) << 24) ^ record as u64, RECORD)
    }

    /// What is wrong with a record that was read, if anything is.
    pub fn complaint(&self, file: usize, record: usize, version: u64, read: &[u8]) -> Option<String> {
        let expected = self.content(file, record, version);
        // A record that was never written may lie behind the end of the file.
        if read == expected || (version == 0 && read.iter().all(|b| *b == 0)) {
            return None;
        }
        let wrong = expected.iter().zip(read).filter(|(a, b)| a != b).count();
        let first = expected.iter().zip(read).position(|(a, b)| a != b);
        let older = (0..version).rev().find(|v| self.content(file, record, *v) == read);
        Some(format!(
            "file {file} record {record} (offset {}) version {version}: {} bytes read, {wrong} wrong, the first at {first:?}; \
             it equals version {older:?}",
            Self::offset(record),
            read.len()
        ))
    }

    /// Reads everything. Panics at a wrong byte.
    pub fn check_all(&self, dir: &Path) {
        for file in 0..FILES {
            let open = File::open(Self::path(dir, file)).unwrap();
            for record in 0..RECORDS {
                let version = *self.lock(file, record);
                let mut read = vec![0; RECORD];
                let mut at = 0;
                while at < RECORD {
                    match open.read_at(&mut read[at..], Self::offset(record) + at as u64).unwrap() {
                        0 => break,
                        n => at += n,
                    }
                }
                read.truncate(at);
                if let Some(wrong) = self.complaint(file, record, version, &read) {
                    panic!("{wrong}");
                }
            }
        }
    }
}
