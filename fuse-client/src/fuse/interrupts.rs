//! Requests that wait, and how a signal to the waiting process ends them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Interrupts that arrived before their request was entered are remembered; so many.
const EARLY: usize = 64;

#[derive(Default)]
struct Table {
    waiting: HashMap<u64, Arc<Notify>>,
    early: VecDeque<u64>,
}

/// The requests that wait, by the kernel's number for them.
#[derive(Default)]
pub(super) struct Interrupts {
    table: Mutex<Table>,
}

impl Interrupts {
    /// A request is going to wait; what is returned is notified when it is interrupted.
    pub(super) fn enter(&self, unique: u64) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        let mut table = self.table.lock();
        if let Some(at) = table.early.iter().position(|u| *u == unique) {
            table.early.remove(at);
            notify.notify_one();
        }
        table.waiting.insert(unique, notify.clone());
        notify
    }

    /// It has been answered.
    pub(super) fn leave(&self, unique: u64) {
        self.table.lock().waiting.remove(&unique);
    }

    /// The kernel says that the process waiting for it has got a signal.
    pub(super) fn interrupt(&self, unique: u64) {
        let mut table = self.table.lock();
        if let Some(notify) = table.waiting.get(&unique) {
            notify.notify_one();
            return;
        }
        // Answered already, or read by another thread that has not come round to entering it.
        if table.early.len() == EARLY {
            table.early.pop_front();
        }
        table.early.push_back(unique);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_notified(n: &Notify) -> bool {
        tokio::time::timeout(Duration::from_millis(20), n.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn an_interrupt_counts_even_if_it_overtakes_its_request() {
        let table = Interrupts::default();
        table.interrupt(5);
        assert!(is_notified(&table.enter(5)).await);
        let six = table.enter(6);
        assert!(!is_notified(&six).await);
        table.interrupt(6);
        assert!(is_notified(&six).await);
        table.leave(6);
        for unique in 100..200 {
            table.interrupt(unique);
        }
        assert!(!is_notified(&table.enter(100)).await, "only the latest are remembered");
    }
}
