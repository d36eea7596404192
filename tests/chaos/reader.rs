//! Reads records at random and checks every byte.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use crate::journal::Journal;
use crate::ledger::{FILES, Ledger, RECORD, RECORDS};
use crate::rng::Rng;

/// What O_DIRECT wants offsets, lengths and memory to be multiples of.
const ALIGNED: usize = 4096;

pub fn run(journal: &Journal, dir: &Path, ledger: &Ledger) {
    let mut rng = Rng::new(2);
    while journal.goes_on() && read_some(journal, dir, ledger, &mut rng).is_some() {}
}

/// Opens a file, one time in two past the page cache, and reads some records of it. `None`: something was wrong.
pub fn read_some(journal: &Journal, dir: &Path, ledger: &Ledger, rng: &mut Rng) -> Option<()> {
    let file = rng.below(FILES as u64) as usize;
    let flags = if rng.below(2) == 0 { libc::O_DIRECT } else { 0 };
    let path = Ledger::path(dir, file);
    if !path.exists() {
        std::thread::sleep(Duration::from_millis(10));
        return Some(());
    }
    let open = || File::options().read(true).custom_flags(flags).open(&path);
    let open = journal.run("open", "records", open)?;
    for _ in 0..20 {
        let record = rng.below(RECORDS as u64) as usize;
        let version = ledger.lock(file, record);
        let read = journal.run("read", &format!("{file}/{record}"), || read_record(&open, record))?;
        if let Some(wrong) = ledger.complaint(file, record, *version, &read) {
            journal.fail(format!("O_DIRECT {}: {wrong}", flags != 0));
            return None;
        }
        drop(version);
        std::thread::sleep(Duration::from_millis(2));
    }
    Some(())
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
