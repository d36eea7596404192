//! Writes records, in order and at random, with an fsync every so often.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::journal::Journal;
use crate::ledger::{FILES, Ledger, RECORDS};
use crate::rng::Rng;

/// Between two writes, so that the machine has time for the faults: at most 13 MB a second.
const PAUSE: Duration = Duration::from_millis(3);

pub fn run(journal: &Journal, dir: &Path, ledger: &Ledger) {
    let open = |file| {
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        journal.run("open", "records", || options.open(Ledger::path(dir, file)))
    };
    let Some(files) = (0..FILES).map(open).collect::<Option<Vec<File>>>() else { return };
    let mut rng = Rng::new(1);
    let mut next = 0;
    while journal.goes_on() {
        // Half of it goes through the files in order, as a log does.
        let (file, record) = match rng.below(2) {
            0 => (next / RECORDS % FILES, next % RECORDS),
            _ => (rng.below(FILES as u64) as usize, rng.below(RECORDS as u64) as usize),
        };
        next += 1;
        {
            let mut version = ledger.lock(file, record);
            let content = ledger.content(file, record, *version + 1);
            let write = || files[file].write_all_at(&content, Ledger::offset(record));
            if journal.run("write", &format!("{file}/{record}"), write).is_none() {
                return;
            }
            *version += 1;
        }
        if rng.below(8) == 0 && journal.run("fsync", "records", || files[file].sync_data()).is_none() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    for file in &files {
        journal.run("fsync", "records", || file.sync_all());
    }
}
