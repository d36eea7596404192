//! Waiting a moment for an answer, awake.
//!
//! A request that comes alone (one program, one call after another) has its answer after a few hops between processes, each of
//! which wakes an idle processor: that takes longer than all the work. While this thread stays awake there is one idle processor
//! less, the hops happen beside each other, and the answer needs no hand-over to another thread. Where it does not pay
//! (the answer takes long, other requests are under way) this is not done, and tried again ever more rarely.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// So long at most. A small write that three servers acknowledge takes about half of it.
const MOST: Duration = Duration::from_micros(250);
/// After n vain waits in a row, 2^n requests are not waited for; n at most:
const MOST_VAIN: u32 = 10;

/// Whether lingering pays at present.
#[derive(Default)]
pub(super) struct Linger {
    /// Requests that wait for an answer.
    waiting: AtomicU32,
    vain: AtomicU32,
    skip: AtomicU32,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Linger {
    /// A request begins to wait.
    pub(super) fn enter(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// It has been answered.
    pub(super) fn leave(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Waits a moment for the work to end, if that is likely to help. `None`: it has not.
    pub(super) fn wait<T>(&self, work: &mut Pin<Box<dyn Future<Output = T> + Send>>) -> Option<T> {
        if !self.worth_it() {
            return None;
        }
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(flag.clone());
        let start = Instant::now();
        while start.elapsed() < MOST {
            if flag.0.swap(false, Ordering::Acquire)
                && let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(&waker))
            {
                self.vain.store(0, Ordering::Relaxed);
                return Some(done);
            }
            // Whoever else could run on this processor goes first.
            std::thread::yield_now();
        }
        let vain = self.vain.load(Ordering::Relaxed).saturating_add(1).min(MOST_VAIN);
        self.vain.store(vain, Ordering::Relaxed);
        self.skip.store(1 << vain, Ordering::Relaxed);
        None
    }

    fn worth_it(&self) -> bool {
        if self.waiting.load(Ordering::Relaxed) > 1 {
            return false;
        }
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
        }
        skip == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(after: Duration) -> Pin<Box<dyn Future<Output = u8> + Send>> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            std::thread::sleep(after);
            sender.send(7)
        });
        Box::pin(async move { receiver.await.unwrap() })
    }

    #[test]
    fn what_does_not_pay_is_tried_ever_more_rarely() {
        let linger = Linger::default();
        let tried = (0..100)
            .filter(|_| {
                let start = Instant::now();
                assert!(linger.wait(&mut later(Duration::from_secs(1))).is_none());
                start.elapsed() >= MOST
            })
            .count();
        assert!((4..15).contains(&tried), "{tried}");
    }

    #[test]
    fn an_answer_that_comes_soon_is_had_unless_others_wait() {
        let linger = Linger::default();
        let soon = || -> Pin<Box<dyn Future<Output = u8> + Send>> { Box::pin(async { 7 }) };
        linger.enter();
        assert_eq!(linger.wait(&mut soon()), Some(7));
        linger.enter();
        assert_eq!(linger.wait(&mut soon()), None);
        linger.leave();
        assert_eq!(linger.wait(&mut soon()), Some(7));
    }
}
