//! Bringing dirty pieces to the replicas.

use super::core::dirty::Job;
use super::file::{FileData, State};
use super::primary::{Body, ChunkWrite};
use crate::engine::error::FsError;
use bytes::Bytes;
use futures::stream::StreamExt;
use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

/// Bytes of one file being sent at once, at most (plus one piece).
const FLYING_BYTES: usize = 8 << 20;
/// Separate writes of one file being sent at once, at most (plus those of one piece, of which as many go at once).
/// Replicas remember the ids of the last 256 writes of a chunk.
const FLYING_EXTENTS: usize = 64;
/// A piece with at most so many bytes to be sent goes out in the caller's own thread.
const SMALL: usize = 64 << 10;

/// A piece about to be sent.
pub(super) struct Launch {
    job: Job,
    /// Under which it was written.
    session: u64,
    /// The chunk's.
    index: u64,
    /// To be made stable at once, together with what was acknowledged before under that number.
    sync: Option<Option<u64>>,
}

impl FileData {
    /// Takes as many of the wanted writes as may be in flight; they are to be launched. `sync`: chunks in which a write
    /// is to be made stable at once.
    pub(super) fn take(&self, s: &mut State, sync: &HashSet<u64>) -> Vec<Launch> {
        let mut taken = Vec::new();
        loop {
            let flying = s.dirty.flying();
            if flying.bytes >= FLYING_BYTES || flying.extents >= FLYING_EXTENTS {
                return taken;
            }
            let Some(job) = s.dirty.take() else { return taken };
            let index = job.piece * self.path.piece() / self.path.chunk_size();
            let sync = sync.contains(&index).then(|| s.unsynced.get(&index).copied());
            taken.push(Launch { job, session: s.session, index, sync });
        }
    }

    /// Starts as many of the wanted writes as may be in flight, in tasks of their own.
    pub(super) fn start(self: &Arc<Self>, s: &mut State) {
        for launch in self.take(s, &HashSet::new()) {
            self.path.runtime.spawn(self.clone().send(launch));
        }
    }

    /// Starts what was taken, for a caller that waits for it and holds no lock: small requests are on their way when
    /// this returns, which saves the hop to another thread.
    pub(super) fn start_here(self: &Arc<Self>, taken: Vec<Launch>) {
        for launch in taken {
            let small = launch.job.extents.iter().map(|(_, b)| b.len()).sum::<usize>() <= SMALL;
            let mut send: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(self.clone().send(launch));
            // A task polls it again, so no wake-up is lost; and the caller may give up waiting.
            if !small || send.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                self.path.runtime.spawn(send);
            }
        }
    }

    async fn send(self: Arc<Self>, launch: Launch) {
        let Launch { job, session, index, sync } = launch;
        let (arrived, result) = self.send_extents(job.extents, (session, index), sync.is_some()).await;
        let mut lost = None;
        let mut s = self.state.lock();
        match (&result, sync) {
            (Ok(()), Some(before)) => s.made_stable(index, before),
            (Ok(()), None) => s.acknowledged(index),
            (Err(_), _) if s.forgotten => {}
            (Err(e), _) => {
                lost = s.fail(e).then(|| e.clone());
                // Where nothing arrived there may be no replica, and a sync would wait for one.
                if arrived {
                    s.acknowledged(index);
                }
            }
        }
        let before = s.dirty.memory();
        let range = s.dirty.done(job.piece);
        self.path.memory.change(before, s.dirty.memory());
        s.ahead.invalidate(range);
        self.start(&mut s);
        let clean = self.settle(&mut s);
        drop(s);
        self.progress.notify_waiters();
        if let Some(e) = lost {
            self.path.lost(self.inode, &e);
        }
        if clean {
            self.path.written_back(self.inode);
        }
    }

    /// Whether any of the writes was acknowledged, and the first error. All of them are waited for, so that none lands after what
    /// is written later.
    async fn send_extents(
        &self,
        extents: Vec<(u64, Bytes)>,
        (session, index): (u64, u64),
        sync: bool,
    ) -> (bool, Result<(), FsError>) {
        let (base, new) = (index * self.path.chunk_size(), self.is_new(index));
        let write = |(at, data): (u64, Bytes)| {
            let (offset, body) = ((at - base) as u32, Body::Data(data));
            let write = ChunkWrite { session, offset, body, new, sync };
            self.path.replicas.write((self.inode, index), write)
        };
        if let [_] = &extents[..] {
            let mut extents = extents;
            let result = match extents.pop() {
                Some(only) => write(only).await,
                None => Ok(()),
            };
            return (result.is_ok(), result);
        }
        let results: Vec<_> = futures::stream::iter(extents.into_iter().map(write))
            .buffer_unordered(FLYING_EXTENTS)
            .collect()
            .await;
        (results.iter().any(Result::is_ok), results.into_iter().collect())
    }
}
