//! Blocks and their table: writing, installing, reading, verifying. Mirrors `disk/{write,read,verify}.rs`.

use super::super::image::Image;
use super::journal::Edit;
use super::{BLOCKS, Disk, DiskError, Done, IMAGE_BLOCKS, checksum};
use crate::message::{Change, Content, Payload, Told};
use cairn_chunkserver::core::recent::WriteId;
use cairn_chunkserver::core::record::Body;
use cairn_chunkserver::core::table::Entry;
use cairn_proto::block::zero_block_crc;

/// Marks what a block silently became.
const DIVERGED: Content = 1 << 61;

impl Disk {
    /// Whether it may not be, or is known not to be, what it should, as of now.
    pub fn is_unclean(&self, chunk: u64) -> bool {
        self.chunks.get(&chunk).is_some_and(|s| s.unverified || s.meta.suspect || s.table.any_unclean())
    }

    pub fn may_apply(&mut self, chunk: Option<u64>, change: &Change) -> Done<()> {
        let full = self.full;
        let Some(chunk) = chunk else { return if full { Err(DiskError::Full) } else { Ok(()) } };
        let (first, end) = change.blocks();
        let state = self.state(chunk)?;
        let grows = (first..end).any(|b| state.table.get(b).is_hole());
        let is_data = matches!(change.payload, Payload::Data(_));
        if full && is_data && grows { Err(DiskError::Full) } else { Ok(()) }
    }

    pub fn apply(&mut self, chunk: u64, change: &Change, seq: u64) -> Done<()> {
        self.state(chunk)?;
        let (first, end) = change.blocks();
        match &change.payload {
            Payload::Data(data) => {
                let crcs: Vec<u32> = data.iter().map(|d| checksum(*d)).collect();
                self.put(chunk, &Edit { first, seq, id: change.id, more: false }, data, &crcs)?;
            }
            Payload::Zeros(_) => {
                let used = self.state(chunk)?.table.len();
                self.punch(chunk, first, end.min(used), seq)?;
                self.append(
                    chunk,
                    Body::Level,
                    &Edit { first: 0, seq, id: change.id, more: false },
                    &[],
                    false,
                );
            }
        }
        let state = self.state(chunk)?;
        state.meta.seq = state.meta.seq.max(seq);
        Ok(())
    }

    /// Turns whole blocks into holes with version `seq` (0: as if never written).
    fn punch(&mut self, chunk: u64, first: u32, end: u32, seq: u64) -> Done<()> {
        let state = self.state(chunk)?;
        let end = end.min(state.table.len());
        if first >= end {
            return Ok(());
        }
        let overwrites = (first..end).any(|b| !state.table.get(b).is_hole());
        let edit = Edit { first, seq, id: WriteId::default(), more: true };
        self.append(chunk, Body::Zero(end - first), &edit, &[], overwrites);
        if overwrites {
            (first..end).for_each(|b| self.write_block(chunk, b, 0));
            self.state(chunk)?.unsynced = true;
        }
        let state = self.state(chunk)?;
        for b in first..end {
            let was = state.table.get(b);
            let entry = if seq == 0 || was.version == 0 { Entry::default() } else { Entry::zeroed(seq) };
            state.table.set(b, entry);
        }
        Ok(())
    }

    /// Puts whole blocks as another replica has them.
    pub fn install(&mut self, chunk: u64, first: u32, data: &[Content], told: &[Told]) -> Done<()> {
        let mut at = 0;
        let hole = |t: &Told| t.1 == 0 || t.0 == zero_block_crc();
        while at < told.len() {
            let (version, is_hole) = (told[at].1, hole(&told[at]));
            let n = told[at..].iter().take_while(|t| t.1 == version && hole(t) == is_hole).count();
            let block = first + at as u32;
            if is_hole {
                let end = block + n as u32;
                self.punch(chunk, block, end, version)?;
                let state = self.state(chunk)?;
                for b in block..end {
                    if version > 0 && state.table.get(b).version != version {
                        state.table.set(b, Entry::zeroed(version));
                    }
                }
            } else {
                let crcs: Vec<u32> = told[at..at + n].iter().map(|t| t.0).collect();
                let edit = Edit { first: block, seq: version, id: WriteId::default(), more: true };
                self.put(chunk, &edit, &data[at..at + n], &crcs)?;
            }
            at += n;
        }
        Ok(())
    }

    pub(super) fn put(&mut self, chunk: u64, edit: &Edit, data: &[Content], crcs: &[u32]) -> Done<()> {
        let end = edit.first + crcs.len() as u32;
        let small = crcs.len() <= IMAGE_BLOCKS;
        let state = self.state(chunk)?;
        let overwrites = (edit.first..end).any(|b| !state.table.get(b).is_hole());
        if !small && (edit.first..end).any(|b| state.imaged.contains(&b)) {
            // Only the journal may have them on stable storage.
            state.imaged.clear();
            if let Some(file) = self.files.get_mut(&chunk) {
                file.sync();
            }
        }
        let body = if small { Body::Image(crcs.to_vec()) } else { Body::Large(crcs.to_vec()) };
        self.append(chunk, body, edit, if small { data } else { &[] }, overwrites);
        for (b, content) in (edit.first..end).zip(data) {
            self.write_block(chunk, b, *content);
        }
        let state = self.state(chunk)?;
        for (b, crc) in (edit.first..end).zip(crcs) {
            state.table.set(b, Entry::data(*crc, edit.seq));
        }
        state.unsynced |= !small;
        if small {
            state.imaged.extend(edit.first..end);
        }
        Ok(())
    }

    pub(super) fn write_block(&mut self, chunk: u64, block: u32, content: Content) {
        let file = self.files.entry(chunk).or_default();
        if file.blocks.is_empty() {
            file.blocks = vec![Image::default(); BLOCKS as usize];
        }
        file.blocks[block as usize].write(content);
    }

    pub(super) fn block(&self, chunk: u64, block: u32) -> Content {
        self.files.get(&chunk).and_then(|f| f.blocks.get(block as usize)).map_or(0, |b| *b.get())
    }

    /// Reads whole blocks, checked: content, checksums, and what others are told.
    pub fn read(&mut self, chunk: u64, first: u32, count: u32) -> Done<(Vec<Content>, Vec<u32>, Vec<Told>)> {
        self.state(chunk)?;
        let mut out = (Vec::new(), Vec::new(), Vec::new());
        for b in first..(first + count).min(BLOCKS) {
            let entry = self.state(chunk)?.table.get(b);
            let content = if entry.is_hole() { 0 } else { self.block(chunk, b) };
            if !entry.is_hole() && (entry.is_unclean() || checksum(content) != entry.crc) {
                self.mark_bad(chunk, b);
                return Err(DiskError::Corrupt(b));
            }
            out.0.push(content);
            out.1.push(entry.read_crc());
            out.2.push(entry.told());
        }
        Ok(out)
    }

    fn mark_bad(&mut self, chunk: u64, block: u32) {
        if let Some(state) = self.chunks.get_mut(&chunk) {
            let entry = state.table.get(block);
            if !entry.is_unclean() {
                state.table.set(block, entry.unclean());
                state.bad = true;
                state.unverified |= !state.meta.suspect;
            }
        }
    }

    /// Gives a bad block the checksum of what it holds.
    pub fn adopt(&mut self, chunk: u64, block: u32, version: u64) -> Done<()> {
        let content = self.block(chunk, block);
        let edit = Edit { first: block, seq: version, id: WriteId::default(), more: true };
        self.put(chunk, &edit, &[content], &[checksum(content)])
    }

    pub fn digest(&self, chunk: u64) -> u64 {
        self.chunks.get(&chunk).map_or(0, |s| s.table.digest())
    }

    pub fn told(&mut self, chunk: u64) -> Done<Vec<Told>> {
        let table = &self.state(chunk)?.table;
        Ok((0..table.len()).map(|b| table.get(b).told()).collect())
    }

    /// Marks what is bad after a crash.
    pub fn verify(&mut self, chunk: u64) -> Done<()> {
        for (from, to) in self.state(chunk)?.table.extents(0) {
            // What it says is in the table now.
            (from..to).for_each(|b| drop(self.read(chunk, b, 1)));
        }
        self.state(chunk)?.unverified = false;
        Ok(())
    }

    /// Verifies some blocks from this one on: where the next ones begin, bytes read, how many are bad.
    pub fn verify_step(&mut self, chunk: u64, from: u32) -> (Option<u32>, u64, usize) {
        const STEP: u32 = 3;
        let Some((first, count)) = self.chunks.get(&chunk).and_then(|s| s.table.run(from, STEP)) else {
            return (None, 0, 0);
        };
        let is_bad = |b: &u32| self.read(chunk, *b, 1).is_err();
        let bad = (first..first + count).filter(is_bad).count();
        (Some(first + count), u64::from(count) * 4096, bad)
    }

    /// All of a chunk has been read: what is bad is known.
    pub fn verified(&mut self, chunk: u64) {
        if let Some(state) = self.chunks.get_mut(&chunk) {
            state.unverified = false;
        }
    }

    /// A block silently becomes another one, with a checksum that fits. Returns what it was; `None`: it has no content.
    pub fn diverge(&mut self, chunk: u64, block: u32) -> Option<Content> {
        let entry = self.chunks.get(&chunk)?.table.get(block);
        if entry.is_hole() || entry.is_unclean() {
            return None;
        }
        let was = self.block(chunk, block);
        self.write_block(chunk, block, was | DIVERGED);
        self.chunks.get_mut(&chunk)?.table.set(block, Entry::data(checksum(was | DIVERGED), entry.version));
        Some(was)
    }

    /// Whether a block that has silently become another one is anywhere.
    pub fn has_diverged(&self, chunk: u64) -> bool {
        self.contents(chunk).iter().any(|c| *c & DIVERGED != 0 && *c & (1 << 63) == 0)
    }

    /// Whether a block is what its checksum says.
    pub fn is_good(&self, chunk: u64, block: u32) -> bool {
        self.chunks.get(&chunk).is_none_or(|s| {
            let entry = s.table.get(block);
            entry.is_hole() || (!entry.is_unclean() && checksum(self.block(chunk, block)) == entry.crc)
        })
    }

    /// Whether all blocks of a chunk are.
    pub fn is_good_everywhere(&self, chunk: u64) -> bool {
        (0..BLOCKS).all(|b| self.is_good(chunk, b))
    }

    /// A block turns into something else. False: it has no content.
    pub fn rot(&mut self, chunk: u64, block: u32) -> bool {
        let has = self.chunks.get(&chunk).is_some_and(|s| !s.table.get(block).is_hole());
        if has {
            let content = self.block(chunk, block) ^ 1 << 62;
            self.write_block(chunk, block, content);
        }
        has
    }

    /// The table, for those who compare from outside.
    pub fn table(&self, chunk: u64) -> Vec<Told> {
        let Some(s) = self.chunks.get(&chunk) else { return Vec::new() };
        (0..BLOCKS).map(|b| s.table.get(b).told()).collect()
    }

    /// The contents, for those who compare from outside.
    pub fn contents(&self, chunk: u64) -> Vec<Content> {
        let Some(s) = self.chunks.get(&chunk) else { return Vec::new() };
        (0..BLOCKS).map(|b| if s.table.get(b).is_hole() { 0 } else { self.block(chunk, b) }).collect()
    }
}
