//! Mounts the cluster a second time, looks around, and goes again. While it is there nobody may cache: it sees what the
//! writer did through the other mount the moment that it is done.

use std::time::Duration;

use crate::cluster::Mounter;
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::reader::read_some;
use crate::rng::Rng;

pub fn run(journal: &Journal, mounter: &Mounter, ledger: &Ledger, seed: u64) {
    let mut rng = Rng::new(seed ^ 3);
    while journal.goes_on() {
        std::thread::sleep(Duration::from_millis(rng.between(500, 4_000)));
        let Some(mount) = journal.run("mount", "visit", || mounter.mount()) else { return };
        for _ in 0..rng.between(1, 10) {
            if read_some(journal, mounter.dir(), ledger, &mut rng).is_none() {
                return;
            }
        }
        if journal.run("unmount", "visit", || mounter.unmount(mount)).is_none() {
            return;
        }
    }
}
