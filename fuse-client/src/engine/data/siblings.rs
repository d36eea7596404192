//! Small files read in advance, before they are opened.

use super::core::Millis;
use super::core::rows::{Ask, Rows};
use super::memory::Lease;
use super::path::DataPath;
use super::prefetched::Content;
use crate::engine::error::FsError;
use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::block::BLOCK;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The largest file that is small, bytes.
const SMALL: u64 = 64 << 10;

/// Small files read in advance. Whoever opens one takes it over: from then on it is the file's own read-ahead, which
/// whatever changes the file invalidates. A file in use is not read here.
#[derive(Default)]
pub(super) struct Siblings {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rows: Rows,
    files: HashMap<InodeId, Sibling>,
    next: u64,
    /// Goes up when everything is forgotten: what was asked for before does not count.
    forgotten: u64,
}

/// A small file's content.
pub(super) struct Sibling {
    pub size: u64,
    pub content: Content,
    pub memory: Lease,
    id: u64,
    since: Millis,
}

/// A fetch to be made.
struct Fetch {
    inode: InodeId,
    size: u64,
    id: u64,
    done: watch::Sender<Option<Bytes>>,
}

impl Siblings {
    /// Takes a file's content out. The caller makes the file known as one in use before others can ask for it.
    pub fn take(&self, inode: InodeId) -> Option<Sibling> {
        let mut s = self.state.lock();
        if s.files.is_empty() {
            return None;
        }
        let mut sibling = s.files.remove(&inode)?;
        if let Content::Coming(coming) = &sibling.content {
            let here = coming.borrow().clone();
            if let Some(data) = here {
                sibling.content = Content::Here(data);
            }
        }
        Some(sibling)
    }

    /// Forgets everything.
    pub fn clear(&self) {
        let mut s = self.state.lock();
        s.forgotten += 1;
        s.files.clear();
        s.rows.clear();
    }

    /// Forgets what was read before `then`.
    pub fn expire(&self, then: Millis) {
        self.state.lock().files.retain(|_, f| f.since >= then);
    }
}

impl DataPath {
    /// A file of this size is read from its beginning: those that follow it may be wanted next.
    pub(super) fn read_from_start(self: &Arc<Self>, inode: InodeId, size: u64) {
        if size > SMALL || !self.is_exclusive() {
            return;
        }
        let (ask, forgotten) = {
            let mut s = self.siblings.state.lock();
            (s.rows.read(inode.0), s.forgotten)
        };
        if let Some(ask) = ask {
            let path = self.clone();
            self.runtime.spawn(async move { path.look_ahead(ask, forgotten).await });
        }
    }

    async fn look_ahead(self: &Arc<Self>, ask: Ask, forgotten: u64) {
        let found = self.replicas.locations.neighbours(InodeId(ask.after), ask.count as u32).await;
        let found = found.unwrap_or_else(|e| {
            tracing::debug!("reading files in advance: {e}");
            Vec::new()
        });
        let last = found.last().map(|(inode, _)| inode.0);
        let fetches: Vec<Fetch> = found
            .into_iter()
            .filter_map(|(inode, size)| self.begin_sibling(inode, size, forgotten))
            .collect();
        {
            let mut s = self.siblings.state.lock();
            if s.forgotten != forgotten {
                return;
            }
            s.rows.found(ask.row, last, fetches.iter().map(|f| f.inode.0));
        }
        for fetch in fetches {
            self.runtime.spawn(self.clone().fetch_sibling(fetch));
        }
    }

    /// Enters a file that is to be read in advance; `None`: it need not or may not be.
    fn begin_sibling(&self, inode: InodeId, size: u64, forgotten: u64) -> Option<Fetch> {
        if size == 0 || size > SMALL || size > self.chunk_size() {
            return None;
        }
        let memory = self.read_memory.lease(size as usize)?;
        self.unless_in_use(inode, || {
            let mut s = self.siblings.state.lock();
            if s.forgotten != forgotten || s.files.contains_key(&inode) {
                return None;
            }
            s.next += 1;
            let id = s.next;
            let (done, coming) = watch::channel(None);
            let content = Content::Coming(coming);
            s.files.insert(inode, Sibling { size, content, memory, id, since: self.now() });
            Some(Fetch { inode, size, id, done })
        })
    }

    async fn fetch_sibling(self: Arc<Self>, fetch: Fetch) {
        let Fetch { inode, size, id, done } = fetch;
        let len = size.next_multiple_of(BLOCK as u64) as u32;
        let read: Result<Option<Bytes>, FsError> = self.replicas.read((inode, 0), 0, len).await;
        let data = match read {
            Ok(Some(data)) => Some(data.slice(..size as usize)),
            // A hole: whoever asks gets its zeros without the network.
            Ok(None) => None,
            Err(e) => {
                // Whoever needs it asks again and gets the error.
                tracing::debug!(inode = inode.0, "reading in advance: {e}");
                None
            }
        };
        let mut s = self.siblings.state.lock();
        let ours = s.files.get(&inode).is_some_and(|f| f.id == id);
        match &data {
            Some(data) if ours => {
                if let Some(file) = s.files.get_mut(&inode) {
                    file.content = Content::Here(data.clone());
                }
            }
            None if ours => drop(s.files.remove(&inode)),
            _ => {}
        }
        drop(s);
        if data.is_some() {
            // Nobody may be waiting.
            let _ = done.send(data);
        }
    }
}
