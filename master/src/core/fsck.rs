//! Checks the store's records against each other, some at a time, changing nothing.

use std::collections::BTreeSet;

use cairn_proto::rpc::{FsckDamage, FsckFinding, FsckPageReply};
use cairn_proto::{ChunkId, InodeId, ServerId};

use super::cluster::ChunkRecord;
use super::records::{ChunkValue, Entry, Inode, decode};
use super::view::{View, ViewError};
use super::{keys, namespace};

/// The kinds of records that are gone through, in this order.
const KINDS: [u8; 5] = [keys::CHUNK, keys::ENTRY, keys::FILE_CHUNK, keys::INODE, keys::XATTR];
/// Records looked at in one page: a few milliseconds of the owner's time.
const PAGE: usize = 512;
/// Directories above an inode that are named in its path.
const DEPTH: usize = 64;

/// What a page is checked against beside the store.
pub struct Surroundings<'a> {
    /// Bytes in a chunk.
    pub chunk_size: u64,
    /// Whether there is such a chunkserver.
    pub knows_server: &'a dyn Fn(ServerId) -> bool,
}

/// Records as a scan meets them.
type Record = (Vec<u8>, Vec<u8>);

/// Up to `limit` records from `from` (empty: from the beginning), and where to go on; an empty key is the end.
fn records(
    view: &dyn View,
    kinds: &[u8],
    from: &[u8],
    limit: usize,
) -> Result<(Vec<Record>, Vec<u8>), ViewError> {
    let mut found = Vec::new();
    let mut start = from.to_vec();
    let first = from.first().and_then(|kind| kinds.iter().position(|k| k == kind)).unwrap_or(0);
    for kind in &kinds[first..] {
        let mut next = None;
        view.scan(&[*kind], &start, &mut |key, value| {
            if found.len() == limit {
                next = Some(key.to_vec());
                return false;
            }
            found.push((key.to_vec(), value.to_vec()));
            true
        })?;
        if let Some(next) = next {
            return Ok((found, next));
        }
        start.clear();
    }
    Ok((found, Vec::new()))
}

/// Checks the records from `from` on.
///
/// # Errors
/// When the store cannot be read.
pub fn page(view: &dyn View, around: &Surroundings<'_>, from: &[u8]) -> Result<FsckPageReply, ViewError> {
    let (found, next) = records(view, &KINDS, from, PAGE)?;
    let mut out =
        FsckPageReply { next: next.into(), records: found.len() as u64, ..FsckPageReply::default() };
    let mut check = Check { view, around, out: &mut out };
    if from.is_empty() && view.get(&keys::inode(InodeId::ROOT))?.is_none() {
        check.found(FsckDamage::FsckNoRoot, FsckFinding { inode: InodeId::ROOT.0, ..FsckFinding::default() });
    }
    for (key, value) in &found {
        match key.first() {
            Some(&keys::CHUNK) => check.chunk(key, value)?,
            Some(&keys::ENTRY) => check.entry(key, value)?,
            Some(&keys::FILE_CHUNK) => check.file_chunk(key, value)?,
            Some(&keys::INODE) => check.inode(key, value)?,
            _ => check.xattr(key)?,
        }
    }
    Ok(out)
}

struct Check<'a> {
    view: &'a dyn View,
    around: &'a Surroundings<'a>,
    out: &'a mut FsckPageReply,
}

impl Check<'_> {
    fn found(&mut self, damage: FsckDamage, finding: FsckFinding) {
        self.out.findings.push(FsckFinding { damage: damage.into(), ..finding });
    }

    fn malformed(&mut self, key: &[u8], e: &ViewError) {
        let id = keys::head_id(key).unwrap_or(0);
        let chunk = if key.first() == Some(&keys::CHUNK) { id } else { 0 };
        let inode = if chunk == 0 { id } else { 0 };
        let kind = char::from(key.first().copied().unwrap_or(0));
        let detail = format!("record {kind}: {}", e.0);
        self.found(FsckDamage::FsckMalformed, FsckFinding { inode, chunk, detail, ..FsckFinding::default() });
    }

    /// The inode; a malformed one counts as being there, which is told when its own record is looked at.
    fn inode_of(&self, inode: u64) -> Result<Option<Inode>, ViewError> {
        let value = self.view.get(&keys::inode(InodeId(inode)))?;
        Ok(value.map(|value| decode("an inode", &value).unwrap_or_default()))
    }

    fn chunk(&mut self, key: &[u8], value: &[u8]) -> Result<(), ViewError> {
        let Some(id) = keys::head_id(key).map(ChunkId) else { return Ok(()) };
        let record = match decode::<ChunkValue>("a chunk", value) {
            Ok(value) => value.into_record(id),
            Err(e) => {
                self.malformed(key, &e);
                return Ok(());
            }
        };
        let about =
            FsckFinding { chunk: id.0, inode: record.inode.0, index: record.index, ..FsckFinding::default() };
        if let Some(detail) = self.impossible(&record) {
            self.found(FsckDamage::FsckSetImpossible, FsckFinding { detail, ..about.clone() });
        }
        let place = self.view.get(&keys::file_chunk(record.inode, record.index))?;
        if self.view.get(&keys::inode(record.inode))?.is_none() {
            self.found(FsckDamage::FsckChunkWithoutInode, about.clone());
        } else if place.as_deref() != Some(&id.0.to_be_bytes()[..]) {
            self.found(FsckDamage::FsckChunkWithoutKey, about.clone());
        }
        if self.view.get(&keys::garbage(id))?.is_some() {
            self.found(FsckDamage::FsckChunkIsGarbage, about);
        }
        self.out.chunks.push(record.info());
        Ok(())
    }

    fn impossible(&self, record: &ChunkRecord) -> Option<String> {
        let set = &record.in_sync;
        if record.epoch.0 == 0 {
            return Some("epoch 0".into());
        }
        if set.len() < record.majority() {
            return Some(format!("{} in sync of {} wanted is no majority", set.len(), record.wanted));
        }
        if set.iter().collect::<BTreeSet<_>>().len() < set.len() {
            return Some("a server twice in the in-sync set".into());
        }
        let stranger = set.iter().find(|s| !(self.around.knows_server)(**s))?;
        Some(format!("in-sync server {stranger} does not exist"))
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), ViewError> {
        let entry = match Entry::decode(value) {
            Ok(entry) => entry,
            Err(e) => {
                self.malformed(key, &e);
                return Ok(());
            }
        };
        let parent = keys::head_id(key).unwrap_or(0);
        let name = keys::tail(key).to_vec().into();
        let about = FsckFinding { inode: parent, name, ..FsckFinding::default() };
        match self.inode_of(entry.inode.0)? {
            None => {
                let detail = format!("inode {} does not exist", entry.inode);
                self.found(FsckDamage::FsckNameWithoutInode, FsckFinding { detail, ..about.clone() });
            }
            Some(inode) if inode.mode != 0 && inode.kind() != entry.kind => {
                let detail =
                    format!("{:o} in the directory, {:o} at inode {}", entry.kind, inode.kind(), entry.inode);
                self.found(FsckDamage::FsckNameOfAnotherType, FsckFinding { detail, ..about.clone() });
            }
            Some(_) => {}
        }
        if !self.inode_of(parent)?.is_some_and(|p| p.mode == 0 || p.is_dir()) {
            self.found(FsckDamage::FsckNameInNoDirectory, about);
        }
        Ok(())
    }

    fn file_chunk(&mut self, key: &[u8], value: &[u8]) -> Result<(), ViewError> {
        let ids = (keys::head_id(key), keys::tail_id(key), value.try_into().map(u64::from_be_bytes));
        let (Some(inode), Some(index), Ok(chunk)) = ids else {
            self.malformed(key, &ViewError("a file's chunk is malformed".into()));
            return Ok(());
        };
        let about = FsckFinding { inode, index, chunk, ..FsckFinding::default() };
        match self.inode_of(inode)? {
            None => self.found(FsckDamage::FsckKeyWithoutInode, about.clone()),
            // One that is open may be about to grow.
            Some(file) if index >= file.size.div_ceil(self.around.chunk_size) && !self.is_open(inode)? => {
                self.found(FsckDamage::FsckChunkBehindEnd, about.clone());
            }
            Some(_) => {}
        }
        let value = self.view.get(&keys::chunk(ChunkId(chunk)))?;
        match value.map(|v| decode::<ChunkValue>("a chunk", &v)) {
            None => self.found(FsckDamage::FsckKeyWithoutChunk, about),
            Some(Ok(record)) if (record.inode, record.index) != (inode, index) => {
                let detail = format!("its record says inode {} index {}", record.inode, record.index);
                self.found(FsckDamage::FsckChunkInTwoPlaces, FsckFinding { detail, ..about });
            }
            // A malformed one is told of at its own place.
            Some(_) => {}
        }
        Ok(())
    }

    fn is_open(&self, inode: u64) -> Result<bool, ViewError> {
        namespace::has_opener(self.view, InodeId(inode))
    }

    fn inode(&mut self, key: &[u8], value: &[u8]) -> Result<(), ViewError> {
        let Some(id) = keys::head_id(key) else { return Ok(()) };
        match decode::<Inode>("an inode", value) {
            Err(e) => self.malformed(key, &e),
            Ok(inode) if inode.nlink == 0 && !self.is_open(id)? => {
                self.found(
                    FsckDamage::FsckInodeWithoutName,
                    FsckFinding { inode: id, ..FsckFinding::default() },
                );
            }
            Ok(_) => {}
        }
        Ok(())
    }

    fn xattr(&mut self, key: &[u8]) -> Result<(), ViewError> {
        let inode = keys::head_id(key).unwrap_or(0);
        if self.view.get(&keys::inode(InodeId(inode)))?.is_none() {
            let name = keys::tail(key).to_vec().into();
            self.found(
                FsckDamage::FsckXattrWithoutInode,
                FsckFinding { inode, name, ..FsckFinding::default() },
            );
        }
        Ok(())
    }
}

/// Names of inodes: (inode, path); and where to go on.
pub type Named = (Vec<(u64, Vec<u8>)>, Vec<u8>);

/// Among the directory entries from `from` on, those of these inodes.
///
/// # Errors
/// When the store cannot be read.
pub fn paths(view: &dyn View, inodes: &BTreeSet<u64>, from: &[u8]) -> Result<Named, ViewError> {
    /// Entries are only looked at, not checked.
    const ENTRIES: usize = 4_096;
    let (found, next) = records(view, &[keys::ENTRY], from, ENTRIES)?;
    let mut named = Vec::new();
    for (key, value) in found {
        let Ok(entry) = Entry::decode(&value) else { continue };
        if inodes.contains(&entry.inode.0) {
            named.push((entry.inode.0, path(view, keys::head_id(&key).unwrap_or(0), keys::tail(&key))?));
        }
    }
    if from.is_empty() && inodes.contains(&InodeId::ROOT.0) {
        named.push((InodeId::ROOT.0, b"/".to_vec()));
    }
    Ok((named, next))
}

/// The path of a name in a directory, as seen from the root. Where that is not reached it begins with "…".
fn path(view: &dyn View, mut parent: u64, name: &[u8]) -> Result<Vec<u8>, ViewError> {
    let mut parts = vec![name.to_vec()];
    while parent != InodeId::ROOT.0 {
        let above = match view.get(&keys::inode(InodeId(parent)))? {
            Some(value) => decode::<Inode>("an inode", &value).map_or(0, |i| i.parent),
            None => 0,
        };
        let name = if parts.len() < DEPTH && above != 0 { name_in(view, above, parent)? } else { None };
        let Some(name) = name else {
            parts.push("…".into());
            break;
        };
        parts.push(name);
        parent = above;
    }
    let mut path = Vec::new();
    for part in parts.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    Ok(path)
}

/// The name of a directory in the one above it; not searched for in very large ones.
fn name_in(view: &dyn View, parent: u64, inode: u64) -> Result<Option<Vec<u8>>, ViewError> {
    const SEARCHED: usize = 10_000;
    let prefix = keys::entries(InodeId(parent));
    let (mut found, mut left) = (None, SEARCHED);
    view.scan(&prefix, &prefix, &mut |key, value| {
        left -= 1;
        if Entry::decode(value).is_ok_and(|e| e.inode.0 == inode) {
            found = Some(keys::tail(key).to_vec());
        }
        found.is_none() && left > 0
    })?;
    Ok(found)
}

/// Chunks as they are now: the record, and whether it is to be deleted.
///
/// # Errors
/// When the store cannot be read.
pub fn chunks(view: &dyn View, ids: &[u64]) -> Result<Vec<(Option<ChunkRecord>, bool)>, ViewError> {
    ids.iter()
        .map(|id| {
            let garbage = view.get(&keys::garbage(ChunkId(*id)))?.is_some();
            // A malformed record is told of by its page.
            Ok((namespace::chunk_record(view, ChunkId(*id)).unwrap_or_default(), garbage))
        })
        .collect()
}

#[cfg(test)]
#[path = "fsck_tests.rs"]
mod tests;
