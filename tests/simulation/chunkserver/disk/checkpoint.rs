//! Checkpoints, loss of power, and what is found afterwards. Mirrors `disk/{checkpoint,recover}.rs`.

use super::journal::Segment;
use super::{Disk, File, State, TORN};
use crate::message::Content;
use crate::rng::SplitMix64;
use cairn_chunkserver::core::layout::ChunkMeta;
use cairn_chunkserver::core::recent::Recent;
use cairn_chunkserver::core::replay::Replay;
use cairn_chunkserver::core::table::Table;
use std::collections::BTreeMap;

/// What a checkpoint has collected.
pub struct Checkpoint {
    upto: u64,
    chunks: Vec<(u64, ChunkMeta, Table)>,
}

impl Disk {
    pub fn wants_checkpoint(&self) -> bool {
        self.journal.len() > 1
    }

    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// A checkpoint's first step; the others follow in this order, with time in between.
    pub fn checkpoint_collect(&mut self) -> Checkpoint {
        if self.journal.last().is_some_and(|s| !s.records.is_empty()) {
            self.next_segment();
        }
        let upto = self.journal.last().map_or(0, |s| s.number) - 1;
        let mut chunks = Vec::new();
        for chunk in std::mem::take(&mut self.dirty) {
            if let Some(state) = self.chunks.get_mut(&chunk) {
                state.registered = false;
                let suspect = state.meta.suspect || state.doubted;
                chunks.push((chunk, ChunkMeta { suspect, ..state.meta.clone() }, state.table.clone()));
            }
        }
        Checkpoint { upto, chunks }
    }

    pub fn checkpoint_write(&mut self, checkpoint: &Checkpoint) {
        for (chunk, meta, table) in &checkpoint.chunks {
            let file = self.files.entry(*chunk).or_default();
            file.table.write(table.clone());
            file.header.write(Some(meta.clone()));
        }
    }

    pub fn checkpoint_sync(&mut self, checkpoint: &Checkpoint) {
        for (chunk, ..) in &checkpoint.chunks {
            if let Some(file) = self.files.get_mut(chunk) {
                file.sync();
            }
        }
    }

    pub fn checkpoint_release(&mut self, checkpoint: &Checkpoint) {
        self.journal.retain(|s| s.number > checkpoint.upto);
    }

    /// The power fails: of what was not synced, some is there, some is not, some is torn.
    pub fn lose_power(&mut self, rng: &mut SplitMix64) {
        self.boots += 1;
        let unsynced: usize = self.journal.iter().map(|s| s.records.len() - s.synced).sum();
        let mut kept = rng.below(unsynced as u64 + 1) as usize;
        for segment in &mut self.journal {
            let more = kept.min(segment.records.len() - segment.synced);
            kept -= more;
            segment.records.truncate(segment.synced + more);
        }
        for file in self.files.values_mut() {
            file.header.lose_power(rng, |v, _| v.clone());
            file.table.lose_power(rng, |v, _| v.clone());
            let torn = |_: &Content, rng: &mut SplitMix64| rng.next() | TORN;
            file.blocks.iter_mut().for_each(|b| b.lose_power(rng, torn));
        }
    }

    /// Opens the disk after the process has ended: the replicas that are on it, with the writes that
    /// the journal still knows. Mirrors `disk/recover.rs`; the replay itself is the real one.
    pub fn open(&mut self) -> Vec<(u64, ChunkMeta, Recent)> {
        self.chunks.clear();
        self.dirty.clear();
        self.doomed.clear();
        self.deleted_before.clear();
        let mut found: BTreeMap<u64, Replay<Content>> = BTreeMap::new();
        for (id, file) in &self.files {
            found.insert(*id, Replay::new(file.header.get().clone()));
        }
        let records: Vec<_> = self.journal.iter().flat_map(|s| &s.records).cloned().collect();
        for (record, content) in &records {
            let replay = found.entry(record.chunk).or_insert_with(|| Replay::new(None));
            replay.add(record, |i| content[i as usize]);
        }
        let mut out = Vec::new();
        for (id, replay) in found {
            if !replay.exists() {
                self.deleted_before.extend(replay.deleted().map(|epoch| (id, epoch)));
                self.files.remove(&id);
                continue;
            }
            out.push(self.replay(id, replay));
        }
        self.files.values_mut().for_each(File::sync);
        let number = self.journal.last().map_or(0, |s| s.number) + 1;
        self.journal = vec![Segment { number, records: Vec::new(), synced: 0 }];
        out
    }

    pub(super) fn replay(&mut self, id: u64, replay: Replay<Content>) -> (u64, ChunkMeta, Recent) {
        if replay.starts_anew() {
            self.files.remove(&id);
        }
        let mut table = self.files.get(&id).map(|f| f.table.get().clone()).unwrap_or_default();
        for (block, last) in replay.blocks() {
            if let Some(content) = last.content {
                self.write_block(id, *block, content);
            }
            table.set(*block, last.entry);
        }
        let touched = replay.is_touched();
        let (meta, recent) = replay.finish();
        let file = self.files.entry(id).or_default();
        if touched {
            file.table.write(table.clone());
            file.header.write(Some(meta.clone()));
        }
        let state = State { meta: meta.clone(), table, unverified: meta.suspect, ..State::default() };
        self.chunks.insert(id, state);
        (id, meta, recent)
    }
}
