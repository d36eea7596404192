//! Reads records at random and checks every byte.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::journal::Journal;
use crate::ledger::{FILES, Ledger, RECORD, RECORDS};
use crate::rng::Rng;

/// What O_DIRECT wants offsets, lengths and memory to be multiples of.
const ALIGNED: usize = 4096;

/// Through the first directory, and from `then` on through the second.
pub fn run(journal: &Journal, dirs: &[PathBuf; 2], ledger: &Ledger, then: Duration) {
    let mut rng = Rng::new(2);
    while journal.goes_on() {
        // The second one is mounted some time after `then`.
        let second = journal.elapsed() >= then && dirs[1].join("records-0").exists();
        let file = rng.below(FILES as u64) as usize;
        if !read_some(journal, &dirs[usize::from(second)], ledger, file, &mut rng) {
            return;
        }
    }
}

/// Opens a file, one time in two past the page cache, and reads some records of it.
fn read_some(journal: &Journal, dir: &Path, ledger: &Ledger, file: usize, rng: &mut Rng) -> bool {
    let flags = if rng.below(2) == 0 { libc::O_DIRECT } else { 0 };
    let path = Ledger::path(dir, file);
    if !path.exists() {
        std::thread::sleep(Duration::from_millis(10));
        return true;
    }
    let open = || File::options().read(true).custom_flags(flags).open(&path);
    let Some(open) = journal.run("open", "records", open) else { return false };
    for _ in 0..20 {
        let record = rng.below(RECORDS as u64) as usize;
        let version = ledger.lock(file, record);
        let Some(read) = journal.run("read", &format!("{file}/{record}"), || read_record(&open, record))
        else {
            return false;
        };
        if let Some(wrong) = ledger.complaint(file, record, *version, &read) {
            journal.fail(format!("O_DIRECT {}: {wrong}", flags != 0));
            return false;
        }
        drop(version);
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// The record, and of its surroundings what whole blocks need.
fn read_record(file: &File, record: usize) -> std::io::Result<Vec<u8>> {
    let from = Ledger::offset(record) as usize;
    let start = from / ALIGNED * ALIGNED;
    let len = (from + RECORD - start).next_multiple_of(ALIGNED);
    let mut memory = vec![0; len + ALIGNED];
    let skip = memory.as_ptr().align_offset(ALIGNED);
    let window = &mut memory[skip..skip + len];
    let mut got = 0;
    while got < len {
        let n = file.read_at(&mut window[got..], (start + got) as u64)?;
        got += n;
        // Only the end of the file is no whole block.
        if n % ALIGNED != 0 || n == 0 {
            break;
        }
    }
    Ok(window[(from - start).min(got)..(from - start + RECORD).min(got)].to_vec())
}
