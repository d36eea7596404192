//! A writer and a reader on a mount, and the longest that one of their calls took.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;

/// The written file, bytes: one chunk, gone round in.
const WRITTEN: u64 = 64 << 20;
/// A write, bytes; each is followed by an fdatasync.
const WRITE: usize = 1 << 20;
/// Between the beginnings of two writes: 50 MiB/s.
const WRITE_EVERY: Duration = Duration::from_millis(20);
/// A read, bytes, past the kernel's cache.
const READ: usize = 4096;
const READ_EVERY: Duration = Duration::from_millis(2);
/// O_DIRECT: reads have to come from the servers.
const DIRECT: i32 = libc::O_DIRECT;

/// What was seen of one kind of call since the last look, by the calls that ended since then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The longest.
    pub longest: Duration,
    /// How many.
    pub calls: u64,
    /// That failed.
    pub errors: u64,
}

#[derive(Default)]
struct Side {
    seen: Mutex<Seen>,
    /// Counts the questions whether it goes on.
    asked: AtomicU64,
    /// The last question before the beginning of a call that has ended.
    ended: AtomicU64,
}

/// The load. It ends when this is dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    writes: Arc<Side>,
    reads: Arc<Side>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Makes its files in `dir` and begins.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn start(dir: &Path) -> io::Result<Self> {
        let written = OpenOptions::new().write(true).create(true).truncate(true).open(dir.join("written"))?;
        let source = OpenOptions::new().write(true).create(true).truncate(true).open(dir.join("read"))?;
        let block = vec![0x5a; WRITE];
        for at in (0..WRITTEN).step_by(WRITE) {
            written.write_all_at(&block, at)?;
            source.write_all_at(&block, at)?;
        }
        written.sync_all()?;
        source.sync_all()?;
        let read = OpenOptions::new().read(true).custom_flags(DIRECT).open(dir.join("read"))?;
        let (stop, writes, reads) = <(Arc<AtomicBool>, Arc<Side>, Arc<Side>)>::default();
        let threads = vec![
            repeat(&stop, &writes, WRITE_EVERY, writer(written, block)),
            repeat(&stop, &reads, READ_EVERY, reader(read)),
        ];
        Ok(Self { stop, writes, reads, threads })
    }

    /// What was seen since the last call, of writes and of reads.
    pub fn look(&self) -> (Seen, Seen) {
        let take = |side: &Side| std::mem::take(&mut *side.seen.lock());
        (take(&self.writes), take(&self.reads))
    }

    /// Whether calls of both kinds that begin now come to an end, and with them those before; false after `limit`.
    pub fn goes_on(&self, limit: Duration) -> bool {
        let start = Instant::now();
        [&self.writes, &self.reads].iter().all(|side| {
            let question = side.asked.fetch_add(1, Ordering::SeqCst) + 1;
            while side.ended.load(Ordering::SeqCst) < question {
                if start.elapsed() > limit {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            true
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the load has panicked");
            }
        }
    }
}

fn writer(file: File, block: Vec<u8>) -> impl FnMut() -> io::Result<()> + Send + 'static {
    let mut at = 0;
    move || {
        file.write_all_at(&block, at)?;
        at = (at + WRITE as u64) % WRITTEN;
        file.sync_data()
    }
}

fn reader(file: File) -> impl FnMut() -> io::Result<()> + Send + 'static {
    // Direct reads want an aligned buffer.
    let mut buffer = vec![0; 2 * READ];
    move || {
        let aligned = buffer.as_ptr().align_offset(READ);
        let block = rand::rng().random_range(0..WRITTEN / READ as u64);
        let into = &mut buffer[aligned..aligned + READ];
        file.read_exact_at(into, block * READ as u64)?;
        match into.iter().all(|b| *b == 0x5a) {
            true => Ok(()),
            false => Err(io::Error::other("wrong bytes")),
        }
    }
}

fn repeat(
    stop: &Arc<AtomicBool>,
    side: &Arc<Side>,
    every: Duration,
    mut call: impl FnMut() -> io::Result<()> + Send + 'static,
) -> JoinHandle<()> {
    let (stop, side) = (stop.clone(), side.clone());
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let asked = side.asked.load(Ordering::SeqCst);
            let result = call();
            let took = start.elapsed();
            {
                let mut seen = side.seen.lock();
                seen.longest = seen.longest.max(took);
                seen.calls += 1;
                if let Err(e) = result {
                    tracing::error!("a call of the load failed: {e}");
                    seen.errors += 1;
                }
            }
            side.ended.store(asked, Ordering::SeqCst);
            std::thread::sleep(every.saturating_sub(took));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_the_longest_of_them_are_seen_since_the_last_look() {
        let dir = tempfile::tempdir().unwrap();
        let load = Load::start(dir.path()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let (writes, reads) = load.look();
        assert!(writes.calls > 1 && reads.calls > writes.calls, "{writes:?} {reads:?}");
        assert!(writes.longest > Duration::ZERO && writes.errors == 0 && reads.errors == 0);
        assert!(load.goes_on(Duration::from_secs(10)));
    }
}
