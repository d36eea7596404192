//! How long leases hold: as long as the master hears of this mount, and says so.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::Mutex;

/// Signs of life that may be unanswered: what is older is not waited for.
const UNANSWERED: usize = 16;

/// Who has what is kept under leases.
pub trait LeaseHolder: Send + Sync + 'static {
    /// The connection to the master has ended: forgets all that is kept under leases, here and in the kernel. The inodes that are
    /// open here without the master's knowledge, which learns of them now.
    fn drop_leases(&self) -> BoxFuture<'_, Vec<u64>>;
}

#[derive(Default)]
struct Signs {
    next: u64,
    unanswered: VecDeque<(u64, Instant)>,
    term: Duration,
    until: Option<Instant>,
}

/// The term of this mount's leases.
#[derive(Default)]
pub(super) struct LeaseTerm {
    signs: Mutex<Signs>,
    pub(super) holder: OnceLock<Box<dyn LeaseHolder>>,
}

impl LeaseTerm {
    /// Welcomed: hello was said at `asked`.
    pub(super) fn begins(&self, asked: Instant, session_ttl_ms: u32) {
        let mut signs = self.signs.lock();
        // The rest of the time is for clocks that do not go at the same rate.
        signs.term = Duration::from_millis(u64::from(session_ttl_ms)) / 8 * 7;
        signs.until = Some(asked + signs.term);
    }

    /// The connection has ended. The inodes that are open here without the master's knowledge.
    pub(super) async fn ends(&self) -> Vec<u64> {
        {
            let mut signs = self.signs.lock();
            signs.until = None;
            signs.unanswered.clear();
        }
        match self.holder.get() {
            Some(holder) => holder.drop_leases().await,
            None => Vec::new(),
        }
    }

    /// A sign of life is sent: its number.
    pub(super) fn asking(&self) -> u64 {
        let mut signs = self.signs.lock();
        signs.next += 1;
        let sign = (signs.next, Instant::now());
        signs.unanswered.push_back(sign);
        if signs.unanswered.len() > UNANSWERED {
            signs.unanswered.pop_front();
        }
        sign.0
    }

    /// The sign of life with this number was answered.
    pub(super) fn renewed(&self, number: u64) {
        let mut signs = self.signs.lock();
        let Some(place) = signs.unanswered.iter().position(|(n, _)| *n == number) else { return };
        let sent = signs.unanswered[place].1;
        signs.unanswered.drain(..=place);
        let until = sent + signs.term;
        if let Some(before) = signs.until.as_mut() {
            *before = until.max(*before);
        }
    }

    /// How long leases may be used from now on; zero: not at all.
    pub(super) fn left(&self) -> Duration {
        let until = self.signs.lock().until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_term_counts_from_the_sending_of_what_was_answered() {
        let term = LeaseTerm::default();
        assert_eq!(term.left(), Duration::ZERO);
        let start = Instant::now();
        term.begins(start, 80_000);
        let left = || term.left() + start.elapsed();
        assert!(term.left() <= Duration::from_secs(70) && left() >= Duration::from_secs(70));
        let (first, second) = (term.asking(), term.asking());
        let sent = start.elapsed();
        std::thread::sleep(Duration::from_millis(20));
        term.renewed(second);
        assert!(term.left() + start.elapsed() <= Duration::from_secs(70) + sent + Duration::from_millis(15));
        let until = Instant::now() + term.left();
        term.renewed(first);
        term.renewed(99);
        assert!(Instant::now() + term.left() <= until + Duration::from_millis(1), "of no use any more");
    }
}
