//! Makes a fault happen, and ends it.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::journal::Journal;
use crate::schedule::{Fault, Kind};

/// Sleeps, but not on when something has failed already.
fn wait(journal: &Journal, time: Duration) {
    let until = journal.elapsed() + time;
    while journal.elapsed() < until && !journal.has_failed() {
        std::thread::sleep(Duration::from_millis(20).min(time));
    }
}

/// From the quiet before it to its end; the cluster has not healed yet.
pub fn inject(cluster: &mut Cluster, journal: &Journal, fault: Fault) {
    wait(journal, fault.pause);
    let Fault { kind, victim, lasts, .. } = fault;
    journal.note(format!("{kind:?} of server {victim} for {lasts:?}"));
    match kind {
        Kind::Kill => cluster.kill(victim),
        Kind::Stop => cluster.signal(victim, libc::SIGSTOP),
        Kind::Cut(cut) => cluster.network().cut(victim, cut),
    }
    wait(journal, lasts);
    match kind {
        Kind::Kill => cluster.start_server(victim),
        Kind::Stop => cluster.signal(victim, libc::SIGCONT),
        Kind::Cut(cut) => cluster.network().mend(victim, cut),
    }
    journal.note("over".to_owned());
}
