//! Makes a fault happen, and ends it.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::journal::Journal;
use crate::rng::Rng;
use crate::schedule::{Fault, Kind};

/// Sleeps, but not on when something has failed already.
fn wait(journal: &Journal, time: Duration) {
    let until = journal.elapsed() + time;
    while journal.elapsed() < until && !journal.has_failed() {
        std::thread::sleep(Duration::from_millis(20).min(time));
    }
}

/// How long all copies may take to be there again after a fault is over.
pub const WHOLE_WITHIN: Duration = Duration::from_secs(60);

/// From the quiet before it until the cluster has healed.
pub fn inject(cluster: &mut Cluster, journal: &Journal, fault: Fault) {
    wait(journal, fault.pause);
    let Fault { kind, victim, lasts, detail, .. } = fault;
    journal.note(format!("{kind:?} of server {victim} for {lasts:?}"));
    if kind == Kind::Flip {
        journal.note(cluster.flip_bits(victim, &mut Rng::new(detail)));
    }
    begin(cluster, kind, victim);
    wait(journal, lasts);
    end(cluster, kind, victim);
    journal.note("over".to_owned());
    if journal.has_failed() {
        return;
    }
    journal.note(format!("whole after {:?}", cluster.wait_whole(WHOLE_WITHIN)));
    if kind == Kind::Flip {
        journal.note(format!("sound after {:?}", cluster.wait_sound(WHOLE_WITHIN)));
    }
}

pub fn begin(cluster: &mut Cluster, kind: Kind, victim: usize) {
    match kind {
        Kind::Kill => cluster.kill(victim),
        Kind::Stop => cluster.signal(victim, libc::SIGSTOP),
        Kind::Cut(cut) => cluster.network().cut(victim, cut),
        Kind::Full => cluster.disks(victim).fill(),
        Kind::Gone => cluster.disks(victim).take_away(),
        // A moment's work, and healed by itself.
        Kind::Flip => {}
    }
}

pub fn end(cluster: &mut Cluster, kind: Kind, victim: usize) {
    match kind {
        Kind::Kill => cluster.start_server(victim),
        Kind::Stop => cluster.signal(victim, libc::SIGCONT),
        Kind::Cut(cut) => cluster.network().mend(victim, cut),
        Kind::Full => cluster.disks(victim).free(),
        Kind::Gone => {
            // What has failed is used again by another process only.
            cluster.disks(victim).bring_back();
            cluster.kill(victim);
            cluster.start_server(victim);
        }
        Kind::Flip => {}
    }
}
