//! Opening a disk: what the journal holds is brought into the chunk files.

use super::chunk_file::{ChunkFile, FileState, path};
use super::error::DiskError;
use super::journal::{self, Journal, Scan};
use super::storage::Storage;
use super::store::{Disk, DiskSettings};
use crate::core::layout::{ENTRY, HEADER, HeaderError, decode_header, encode_header};
use crate::core::recent::Recent;
use crate::core::replay::Replay;
use crate::core::table::Table;
use cairn_proto::block::BLOCK;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

/// A replica found on a disk.
pub struct Recovered {
    /// Its file.
    pub file: Arc<ChunkFile>,
    /// Writes that the journal still knew.
    pub recent: Recent,
}

/// A chunk as its file and the journal describe it.
struct Chunk {
    replay: Replay<(usize, u64)>,
    /// Entries in the file's table.
    stored: u32,
    /// There is a file, but it has no header of its own: it will not be taken for the chunk's at the next start either.
    nobodys: bool,
}

impl Disk {
    /// Opens a disk and replays its journal.
    pub fn open(
        storage: Arc<dyn Storage>,
        settings: DiskSettings,
    ) -> Result<(Self, Vec<Recovered>), DiskError> {
        let mut chunks = headers(&*storage)?;
        let scan = journal::scan(&storage, settings.segment_bytes)?;
        let records = scan.records.len();
        for found in &scan.records {
            let new = || Chunk { replay: Replay::new(None), stored: 0, nobodys: false };
            let chunk = chunks.entry(found.record.chunk).or_insert_with(new);
            let content = |i: u32| (found.file, found.content + u64::from(i) * BLOCK as u64);
            chunk.replay.add(&found.record, content);
        }
        let (mut recovered, mut nobodys, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
        for (id, mut chunk) in chunks {
            if !chunk.replay.exists() {
                deleted.extend(chunk.replay.deleted().map(|epoch| (id, epoch)));
                if chunk.nobodys {
                    // There may be many. That can wait.
                    nobodys.push(id);
                    continue;
                }
                match storage.remove(&path(id)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
                    _ => continue,
                }
            }
            if chunk.replay.starts_anew() {
                // The table is the old replica's. Blocks of the new one may be in the file already.
                chunk.stored = 0;
            }
            if chunk.replay.is_touched() {
                chunk.write(id, &*storage, &settings, &scan)?;
            }
            recovered.push(chunk.finish(id));
        }
        if records > 0 {
            storage.sync_all()?;
        }
        let journal = Journal::start(storage.clone(), settings.segment_bytes, scan)?;
        let suspect = recovered.iter().filter(|r| r.file.state.lock().meta.suspect).count();
        tracing::info!(chunks = recovered.len(), records, suspect, "disk opened");
        let mut disk = Self::new(storage, settings, journal);
        disk.deleted_before = deleted;
        disk.doom(nobodys);
        Ok((disk, recovered))
    }
}

/// The chunks that have a file, with what its header says.
fn headers(storage: &dyn Storage) -> Result<HashMap<u64, Chunk>, DiskError> {
    let mut chunks = HashMap::new();
    for dir in storage.list("chunks")? {
        for name in storage.list(&format!("chunks/{dir}"))? {
            let Ok(id) = name.parse::<u64>() else { continue };
            if path(id) != format!("chunks/{dir}/{name}") {
                continue;
            }
            let mut b = [0; HEADER];
            storage.open(&path(id), false)?.read_at(&mut b, 0)?;
            match decode_header(id, &b) {
                Ok((meta, stored)) => {
                    chunks.insert(id, Chunk { replay: Replay::new(Some(meta)), stored, nobodys: false });
                }
                Err(HeaderError::Blank | HeaderError::Another(_)) => {
                    chunks.insert(id, Chunk { replay: Replay::new(None), stored: 0, nobodys: true });
                }
                Err(e @ HeaderError::Newer(_)) => {
                    return Err(DiskError::Io(io::Error::new(io::ErrorKind::Unsupported, e)));
                }
                Err(e) => tracing::error!(chunk = id, "chunk file left aside: {e}"),
            }
        }
    }
    Ok(chunks)
}

impl Chunk {
    /// Brings the chunk file up to what the journal says.
    fn write(
        &mut self,
        id: u64,
        storage: &dyn Storage,
        settings: &DiskSettings,
        scan: &Scan,
    ) -> Result<(), DiskError> {
        let geometry = settings.geometry;
        let file = storage.open(&path(id), true)?;
        let mut bytes = vec![0; self.stored.min(geometry.blocks()) as usize * ENTRY];
        file.read_at(&mut bytes, geometry.table())?;
        let mut table = Table::decode(&bytes);
        let mut content = [0; BLOCK];
        for (block, last) in self.replay.blocks().range(..geometry.blocks()) {
            if let Some((segment, at)) = last.content {
                scan.files[segment].read_at(&mut content, at)?;
                let to = geometry.data() + u64::from(*block) * BLOCK as u64;
                file.write_at(&[&content], to)?;
            }
            table.set(*block, last.entry);
        }
        for (at, page) in table.take_dirty_pages() {
            file.write_at(&[&page], geometry.table() + at)?;
        }
        let meta = self.replay.meta();
        file.write_at(&[&encode_header(id, &meta, table.len())], 0)?;
        self.stored = table.len();
        Ok(())
    }

    fn finish(self, id: u64) -> Recovered {
        let fresh = self.replay.is_touched();
        let (meta, recent) = self.replay.finish();
        let unverified = meta.suspect;
        let state = FileState {
            stored: self.stored,
            unverified,
            fresh,
            meta,
            has_file: true,
            ..FileState::default()
        };
        Recovered { file: Arc::new(ChunkFile::new(id, state)), recent }
    }
}
