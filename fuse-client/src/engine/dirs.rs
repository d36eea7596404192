//! Open directories, and reading directories ahead.

use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::rpc::reply::Result as ReplyResult;
use cairn_proto::rpc::{self, op::Op};
use tokio::sync::Mutex as AsyncMutex;

use super::attr::{DIRECTORY, FileAttr};
use super::meta::core::cache::{Asked, PageEntry};
use super::meta::core::directory::{PAGE, ReadAhead};
use super::{Engine, FsError};

/// An entry of an open directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirItem {
    /// The name.
    pub name: Bytes,
    /// Its inode.
    pub inode: u64,
    /// Type bits.
    pub mode: u32,
    /// Attributes as of when the directory was read; not for "." and "..".
    pub attr: Option<FileAttr>,
}

/// What has been read so far, in the order of names behind "." and "..". An entry's place never changes.
#[derive(Default)]
struct Snapshot {
    items: Vec<Arc<DirItem>>,
    end: bool,
    /// Before the first of it was asked for.
    asked: Asked,
}

/// An open directory.
pub struct DirHandle {
    inode: u64,
    snapshot: AsyncMutex<Snapshot>,
}

/// What the cache may learn from a page. `None`: some entries have no attributes. With those left out it would pass for all
/// names that there are.
fn with_attributes(entries: &[rpc::DirEntry]) -> Option<Vec<PageEntry>> {
    entries.iter().map(|e| Some(PageEntry { name: e.name.clone(), attr: e.attr?.into() })).collect()
}

impl DirHandle {
    /// Whose handle.
    pub fn inode(&self) -> u64 {
        self.inode
    }
}

impl Engine {
    /// Opens a directory.
    ///
    /// # Errors
    /// None yet; reading it tells.
    pub async fn opendir(&self, inode: u64) -> Result<DirHandle, FsError> {
        Ok(DirHandle { inode, snapshot: AsyncMutex::default() })
    }

    /// Entries from place `offset` on (0: anew, as it is now), at most `most`; an empty list is the end. Each handle
    /// sees every entry that was there throughout once, whatever comes and goes meanwhile.
    ///
    /// # Errors
    /// Those of the master; outages.
    pub async fn readdir(
        &self,
        handle: &DirHandle,
        offset: usize,
        most: usize,
    ) -> Result<Vec<Arc<DirItem>>, FsError> {
        let mut snapshot = match handle.snapshot.try_lock() {
            Ok(guard) => guard,
            Err(_) => handle.snapshot.lock().await,
        };
        if offset == 0 {
            *snapshot = self.begin_listing(handle.inode);
        }
        while snapshot.items.len() <= offset && !snapshot.end {
            self.read_more(handle.inode, &mut snapshot).await?;
            if snapshot.end {
                self.cache.lock().learn_listing(snapshot.asked, handle.inode, &snapshot.items);
            }
        }
        let from = offset.min(snapshot.items.len());
        let to = from.saturating_add(most).min(snapshot.items.len());
        Ok(snapshot.items[from..to].to_vec())
    }

    fn begin_listing(&self, inode: u64) -> Snapshot {
        let mut cache = self.known();
        let items = cache.listing(inode);
        let (end, asked) = (items.is_some(), cache.asking());
        Snapshot { items: items.map(|i| i.to_vec()).unwrap_or_default(), end, asked }
    }

    async fn read_more(&self, inode: u64, snapshot: &mut Snapshot) -> Result<(), FsError> {
        let after = match snapshot.items.get(2..).and_then(|entries| entries.last()) {
            Some(last) => last.name.clone(),
            None => Bytes::new(),
        };
        let (asked, page) = self.read_page(inode, after.clone()).await?;
        if snapshot.items.is_empty() {
            let dot = |name: &'static [u8], inode| {
                Arc::new(DirItem { name: Bytes::from_static(name), inode, mode: DIRECTORY, attr: None })
            };
            let parent = if page.parent == 0 { inode } else { page.parent };
            snapshot.items.extend([dot(b".", inode), dot(b"..", parent)]);
        }
        // A page that is empty and not the last would be asked for for ever.
        snapshot.end = page.end || page.entries.is_empty();
        if let Some(entries) = with_attributes(&page.entries) {
            self.cache.lock().learn_listed(asked, inode, &after, &entries, snapshot.end);
        }
        snapshot.items.extend(page.entries.into_iter().map(|e| {
            let attr = e.attr.map(FileAttr::from);
            Arc::new(DirItem { name: e.name, inode: e.inode, mode: e.mode, attr })
        }));
        Ok(())
    }

    async fn read_page(&self, inode: u64, after: Bytes) -> Result<(Asked, rpc::DirPage), FsError> {
        let asked = self.cache.lock().asking();
        let read = rpc::ReadDir { inode, after, limit: PAGE, plus: true };
        let reply = self.session.call(Op::ReadDir(read)).await?;
        self.cache.lock().granted(asked, &reply.leased);
        match reply.result {
            Some(ReplyResult::Dir(page)) => Ok((asked, page)),
            _ => Err(FsError::Io("the master's answer has no directory page".into())),
        }
    }

    /// The attributes of a listed entry as they are now, if they are known without asking.
    pub fn listed_attr(&self, item: &DirItem) -> Option<FileAttr> {
        let attr = self.known().attr(item.inode)?;
        Some(self.seen(attr))
    }

    /// Lookups in the directory keep missing the cache: fetches it in pages.
    pub(super) fn read_directory_ahead(&self, directory: u64, ahead: ReadAhead) {
        let me = self.me.clone();
        self.runtime.spawn(async move {
            let Some(engine) = me.upgrade() else { return };
            let mut after = ahead.after;
            for _ in 0..ahead.pages {
                let Ok((asked, page)) = engine.read_page(directory, after.clone()).await else { break };
                let end = page.end || page.entries.is_empty();
                let Some(entries) = with_attributes(&page.entries) else { break };
                let last = entries.last().map(|e| e.name.clone());
                let mut cache = engine.cache.lock();
                if !cache.learn_page(asked, directory, &entries, end) {
                    break;
                }
                // The cursor stays where it was if the page was discarded.
                after = cache.cursor(directory).or(last).unwrap_or_default();
            }
            engine.cache.lock().read_ahead_ended(directory);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_attributes_teaches_nothing() {
        let entry = |name: &'static str, attr| rpc::DirEntry { name: name.into(), inode: 7, mode: 0, attr };
        let whole = [entry("a", Some(rpc::Attr::default())), entry("b", Some(rpc::Attr::default()))];
        assert_eq!(with_attributes(&whole).map(|e| e.len()), Some(2));
        assert!(with_attributes(&[whole[0].clone(), entry("b", None)]).is_none());
        assert!(with_attributes(&[]).is_some_and(|e| e.is_empty()), "an empty directory is known");
    }
}
