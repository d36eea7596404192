//! Where chunks are: an LRU of the master's answers.

use super::ChunkService;
use crate::engine::error::FsError;
use cairn_proto::InodeId;
use cairn_proto::rpc::{ChunkInfo, Failure};
use cairn_proto::{ChunkId, Epoch, ServerId};
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// A chunk's place in the name space of files.
pub(super) type Place = (InodeId, u64);
/// A chunk, or a hole.
pub(super) type Location = Option<Arc<ChunkInfo>>;

/// Locations asked for at once.
const AHEAD: u32 = 8;
/// Askers of one place wait for each other, so that a burst asks once.
const GATES: usize = 64;
/// Changed epochs remembered.
const TOLD: usize = 4096;

pub(super) struct Locations {
    cache: Mutex<Cache>,
    service: Arc<dyn ChunkService>,
    /// False: others may change files behind our back, so nothing is remembered.
    exclusive: AtomicBool,
    gates: Vec<tokio::sync::Mutex<()>>,
    changes: watch::Sender<u64>,
}

struct Cache {
    known: LruCache<Place, Location>,
    /// Goes up when something is forgotten: answers that were asked for before are not remembered.
    forgotten: u64,
    /// Epochs that we were told of, by chunk id.
    told: LruCache<u64, u64>,
}

impl Locations {
    pub fn new(service: Arc<dyn ChunkService>, entries: usize) -> Self {
        let bounded = |n| LruCache::new(NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN));
        let told = LruCache::new(NonZeroUsize::new(TOLD).unwrap_or(NonZeroUsize::MIN));
        Self {
            cache: Mutex::new(Cache { known: bounded(entries), forgotten: 0, told }),
            service,
            exclusive: AtomicBool::new(true),
            gates: (0..GATES).map(|_| tokio::sync::Mutex::default()).collect(),
            changes: watch::channel(0).0,
        }
    }

    pub fn set_exclusive(&self, exclusive: bool) {
        self.exclusive.store(exclusive, Ordering::SeqCst);
        self.clear();
    }

    pub fn is_exclusive(&self) -> bool {
        self.exclusive.load(Ordering::Relaxed)
    }

    /// Where a chunk is, from memory or from the master.
    pub async fn get(&self, place: Place) -> Result<Location, FsError> {
        if let Some(location) = self.cached(place) {
            return Ok(location);
        }
        let _one = self.gate(place).lock().await;
        if let Some(location) = self.cached(place) {
            return Ok(location);
        }
        self.ask(place, if self.is_exclusive() { AHEAD } else { 1 }).await
    }

    /// Where a chunk is, which is made if there is none.
    pub async fn alloc(&self, place: Place) -> Result<Arc<ChunkInfo>, FsError> {
        if let Some(Some(chunk)) = self.cached(place) {
            return Ok(chunk);
        }
        let _one = self.gate(place).lock().await;
        if let Some(Some(chunk)) = self.cached(place) {
            return Ok(chunk);
        }
        let before = self.cache.lock().forgotten;
        let chunks = self.service.alloc_chunks(place.0, place.1, 1).await?;
        let chunk = chunks.into_iter().find(|c| c.index == place.1);
        let chunk = Arc::new(chunk.ok_or_else(|| FsError::Io("the master allocated no chunk".into()))?);
        self.remember(place, Some(chunk.clone()), before);
        Ok(chunk)
    }

    /// Where a chunk is, from the master.
    pub async fn refresh(&self, place: Place) -> Result<Location, FsError> {
        self.cache.lock().known.pop(&place);
        self.ask(place, 1).await
    }

    /// The chunks that exist among `count` from index `from` on, from the master.
    pub async fn list(&self, inode: InodeId, from: u64, count: u32) -> Result<Vec<ChunkInfo>, FsError> {
        self.service.get_chunks(inode, from, count).await
    }

    /// Files that follow `after` by their numbers, and their sizes; their first chunks' locations are remembered.
    pub async fn neighbours(&self, after: InodeId, count: u32) -> Result<Vec<(InodeId, u64)>, FsError> {
        let before = self.cache.lock().forgotten;
        let mut found = Vec::new();
        for neighbour in self.service.neighbours(after, count).await? {
            let Some(chunk) = neighbour.chunk else { continue };
            let inode = InodeId(chunk.inode);
            self.remember((inode, chunk.index), Some(Arc::new(chunk)), before);
            found.push((inode, neighbour.size));
        }
        Ok(found)
    }

    /// Reports replicas that could not be used; where the chunk is after that.
    pub async fn report(
        &self,
        chunk: &ChunkInfo,
        server: u32,
        failure: Failure,
    ) -> Result<Arc<ChunkInfo>, FsError> {
        let before = self.cache.lock().forgotten;
        let servers = vec![ServerId(server)];
        let now =
            self.service.replica_failed(ChunkId(chunk.chunk), Epoch(chunk.epoch), servers, failure).await?;
        let now = Arc::new(now);
        self.remember((InodeId(chunk.inode), chunk.index), Some(now.clone()), before);
        Ok(now)
    }

    /// The master told us of a change.
    pub fn changed(&self, chunk: ChunkInfo) {
        let place = (InodeId(chunk.inode), chunk.index);
        {
            let mut cache = self.cache.lock();
            cache.told.put(chunk.chunk, chunk.epoch);
            if let Some(Some(known)) = cache.known.peek_mut(&place)
                && known.chunk == chunk.chunk
                && known.epoch < chunk.epoch
            {
                *known = Arc::new(chunk);
            }
        }
        self.changes.send_modify(|n| *n += 1);
    }

    /// An answer came from under a later epoch than `chunk`'s: its set has changed, and who has left it may not know. Nothing
    /// is read by this location any more.
    pub fn outgrown(&self, chunk: &ChunkInfo, epoch: u64) {
        let place = (InodeId(chunk.inode), chunk.index);
        {
            let mut cache = self.cache.lock();
            cache.told.put(chunk.chunk, epoch);
            let old =
                |known: &Location| known.as_ref().is_some_and(|k| k.chunk == chunk.chunk && k.epoch < epoch);
            if cache.known.peek(&place).is_some_and(old) {
                cache.known.pop(&place);
            }
        }
        self.changes.send_modify(|n| *n += 1);
    }

    /// Ends when a later epoch than this one is known.
    pub async fn outdated(&self, chunk: &ChunkInfo) {
        let mut changes = self.changes.subscribe();
        while !self.is_outdated(chunk) {
            if changes.changed().await.is_err() {
                // Not while `self` is there.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether a later epoch than this one is known.
    pub fn is_outdated(&self, chunk: &ChunkInfo) -> bool {
        self.cache.lock().told.peek(&chunk.chunk).is_some_and(|epoch| *epoch > chunk.epoch)
    }

    pub fn forget(&self, inode: InodeId, indexes: Range<u64>) {
        let mut cache = self.cache.lock();
        cache.forgotten += 1;
        let few = indexes.end.saturating_sub(indexes.start) <= cache.known.len() as u64;
        if few {
            for index in indexes {
                cache.known.pop(&(inode, index));
            }
        } else {
            let gone: Vec<Place> = cache
                .known
                .iter()
                .map(|(place, _)| *place)
                .filter(|(i, index)| *i == inode && indexes.contains(index))
                .collect();
            for place in gone {
                cache.known.pop(&place);
            }
        }
    }

    pub fn clear(&self) {
        let mut cache = self.cache.lock();
        cache.forgotten += 1;
        cache.known.clear();
    }

    fn cached(&self, place: Place) -> Option<Location> {
        self.cache.lock().known.get(&place).cloned()
    }

    async fn ask(&self, place: Place, count: u32) -> Result<Location, FsError> {
        let before = self.cache.lock().forgotten;
        let mut chunks = self.service.get_chunks(place.0, place.1, count).await?;
        chunks.sort_unstable_by_key(|c| c.index);
        let mut chunks = chunks.into_iter().peekable();
        let mut answer = None;
        for index in place.1..place.1.saturating_add(count.into()) {
            let here = chunks.next_if(|c| c.index == index).map(Arc::new);
            if index == place.1 {
                answer = here.clone();
            }
            self.remember((place.0, index), here, before);
        }
        Ok(answer)
    }

    fn remember(&self, place: Place, location: Location, forgotten_before: u64) {
        let mut cache = self.cache.lock();
        if !self.is_exclusive() || cache.forgotten != forgotten_before {
            // This answer may be out of date; what was known before it (a hole, say) certainly may be.
            cache.known.pop(&place);
            return;
        }
        if location
            .as_ref()
            .is_some_and(|new| cache.told.peek(&new.chunk).is_some_and(|epoch| *epoch > new.epoch))
        {
            return;
        }
        match (cache.known.peek(&place), &location) {
            // Answers may overtake each other: what was just allocated is no hole, and epochs only go up.
            (Some(Some(_)), None) => {}
            (Some(Some(old)), Some(new)) if old.chunk == new.chunk && old.epoch > new.epoch => {}
            _ => {
                cache.known.put(place, location);
            }
        }
    }

    fn gate(&self, place: Place) -> &tokio::sync::Mutex<()> {
        let hash = (place.0.0 ^ place.1.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.gates[(hash >> 32) as usize % GATES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::rpc::Neighbour;
    use futures::FutureExt;
    use futures::future::BoxFuture;

    /// Always answers with the same chunk.
    struct Master(Mutex<ChunkInfo>);

    impl ChunkService for Master {
        fn get_chunks(&self, _: InodeId, _: u64, _: u32) -> BoxFuture<'_, Result<Vec<ChunkInfo>, FsError>> {
            async { Ok(vec![self.0.lock().clone()]) }.boxed()
        }
        fn neighbours(&self, _: InodeId, _: u32) -> BoxFuture<'_, Result<Vec<Neighbour>, FsError>> {
            async { Ok(Vec::new()) }.boxed()
        }
        fn alloc_chunks(
            &self,
            i: InodeId,
            from: u64,
            n: u32,
        ) -> BoxFuture<'_, Result<Vec<ChunkInfo>, FsError>> {
            self.get_chunks(i, from, n)
        }
        fn replica_failed(
            &self,
            _: ChunkId,
            _: Epoch,
            _: Vec<ServerId>,
            _: Failure,
        ) -> BoxFuture<'_, Result<ChunkInfo, FsError>> {
            async { Ok(self.0.lock().clone()) }.boxed()
        }
    }

    #[tokio::test]
    async fn a_location_is_not_used_once_an_answer_came_from_a_later_epoch() {
        let at = |epoch| ChunkInfo { chunk: 9, epoch, in_sync: vec![1, 2], inode: 5, ..ChunkInfo::default() };
        let master = Arc::new(Master(Mutex::new(at(1))));
        let locations = Locations::new(master.clone(), 16);
        let place = (InodeId(5), 0);
        let first = locations.get(place).await.unwrap().unwrap();
        locations.outgrown(&first, 2);
        assert!(locations.is_outdated(&first));
        // The master's answer, asked for before the change: not remembered.
        locations.get(place).await.unwrap();
        *master.0.lock() = at(2);
        assert_eq!(locations.get(place).await.unwrap().unwrap().epoch, 2);
        *master.0.lock() = at(3);
        assert_eq!(locations.get(place).await.unwrap().unwrap().epoch, 2, "remembered");
    }
}
