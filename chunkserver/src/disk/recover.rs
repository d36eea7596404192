//! Opening a disk: what the journal holds is brought into the chunk files.

use super::chunk_file::{ChunkFile, FileState, path};
use super::error::DiskError;
use super::journal::{self, Journal, Scan};
use super::storage::Storage;
use super::store::{Disk, DiskSettings};
use crate::core::layout::{ChunkMeta, ENTRY, HEADER, HeaderError, decode_header, encode_header};
use crate::core::recent::Recent;
use crate::core::record::{Body, Record};
use crate::core::table::{Entry, Table};
use cairn_proto::block::BLOCK;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

/// A replica found on a disk.
pub struct Recovered {
    /// Its file.
    pub file: Arc<ChunkFile>,
    /// Writes that the journal still knew.
    pub recent: Recent,
}

/// What the journal says of a chunk.
#[derive(Default)]
struct Replay {
    meta: ChunkMeta,
    stored: u32,
    /// No header was found: the chunk exists only if the journal says so.
    blank: bool,
    touched: bool,
    deleted: bool,
    /// The last word on each block: of several images only the last is written, since a later large
    /// write went over it without leaving its content in the journal.
    blocks: BTreeMap<u32, Last>,
    recent: Recent,
}

#[derive(Clone, Copy)]
struct Last {
    entry: Entry,
    /// Where the content is: (index of the segment's file, offset).
    content: Option<(usize, u64)>,
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
            let chunk = chunks.entry(found.record.chunk).or_insert_with(|| Replay {
                blank: true,
                meta: ChunkMeta { epoch: found.record.epoch, ..ChunkMeta::default() },
                ..Replay::default()
            });
            chunk.add(&found.record, (found.file, found.content));
        }
        let mut recovered = Vec::new();
        for (id, replay) in chunks {
            if replay.deleted || (replay.blank && !replay.touched) {
                match storage.remove(&path(id)) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
                    _ => continue,
                }
            }
            if replay.touched {
                replay.write(id, &*storage, &settings, &scan)?;
            }
            recovered.push(replay.finish(id));
        }
        if records > 0 {
            storage.sync_all()?;
        }
        let journal = Journal::start(storage.clone(), settings.segment_bytes, scan)?;
        let suspect = recovered.iter().filter(|r| r.file.state.lock().meta.suspect).count();
        tracing::info!(chunks = recovered.len(), records, suspect, "disk opened");
        Ok((Self::new(storage, settings, journal), recovered))
    }
}

/// The chunks that have a file, with what its header says.
fn headers(storage: &dyn Storage) -> Result<HashMap<u64, Replay>, DiskError> {
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
                    chunks.insert(id, Replay { meta, stored, ..Replay::default() });
                }
                Err(HeaderError::Blank) => {
                    chunks.insert(id, Replay { blank: true, ..Replay::default() });
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

impl Replay {
    fn add(&mut self, r: &Record, content: (usize, u64)) {
        self.touched = true;
        let mut set = |block: u32, entry: Entry, content| {
            self.blocks.insert(block, Last { entry, content });
        };
        match &r.body {
            Body::Image(crcs) => {
                for (i, crc) in crcs.iter().enumerate() {
                    let at = content.1 + (i * BLOCK) as u64;
                    set(r.first + i as u32, Entry::data(*crc, r.seq), Some((content.0, at)));
                }
            }
            Body::Large(crcs) => {
                for (i, crc) in crcs.iter().enumerate() {
                    set(r.first + i as u32, Entry::data(*crc, r.seq), None);
                }
            }
            Body::Zero(count) => {
                let entry = if r.seq == 0 { Entry::default() } else { Entry::zeroed(r.seq) };
                for block in r.first..r.first.saturating_add(*count) {
                    set(block, entry, None);
                }
            }
            Body::Epoch { wanted, in_sync } => {
                if r.epoch >= self.meta.epoch {
                    self.meta.epoch = r.epoch;
                    self.meta.wanted = *wanted;
                    self.meta.in_sync = in_sync.clone();
                }
            }
            Body::Delete => self.deleted = true,
            Body::Level | Body::Dirty => {}
        }
        if !r.more {
            self.meta.seq = self.meta.seq.max(r.seq);
            self.recent.add(r.id, r.seq);
        }
    }

    /// Brings the chunk file up to what the journal says.
    fn write(
        &self,
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
        for (block, last) in self.blocks.range(..geometry.blocks()) {
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
        let meta = ChunkMeta { suspect: true, ..self.meta.clone() };
        file.write_at(&[&encode_header(id, &meta, table.len())], 0)?;
        Ok(())
    }

    fn finish(self, id: u64) -> Recovered {
        let highest = self.blocks.keys().next_back().map_or(0, |b| b + 1);
        let mut meta = self.meta;
        meta.suspect |= self.touched;
        let state = FileState {
            stored: self.stored.max(highest),
            unverified: meta.suspect,
            fresh: self.touched,
            meta,
            ..FileState::default()
        };
        Recovered { file: Arc::new(ChunkFile::new(id, state)), recent: self.recent }
    }
}
