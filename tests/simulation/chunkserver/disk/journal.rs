//! The journal: records in segments, and what of them is on stable storage.

use super::Disk;
use crate::message::Content;
use cairn_chunkserver::core::recent::WriteId;
use cairn_chunkserver::core::record::{Body, Record};

/// Records in a segment.
const SEGMENT: usize = 24;

pub(super) struct Segment {
    pub number: u64,
    pub records: Vec<(Record, Vec<Content>)>,
    /// So many of them are on stable storage.
    pub synced: usize,
}

/// What a write to the journal says beside its body.
pub(super) struct Edit {
    pub first: u32,
    pub seq: u64,
    pub id: WriteId,
    pub more: bool,
}

impl Disk {
    pub(super) fn record(&mut self, chunk: u64, body: Body, seq: u64) {
        self.append(chunk, body, &Edit { first: 0, seq, id: WriteId::default(), more: false }, &[], false);
    }

    pub(super) fn append(
        &mut self,
        chunk: u64,
        body: Body,
        edit: &Edit,
        content: &[Content],
        overwrites: bool,
    ) {
        if self.journal.last().is_some_and(|s| s.records.len() >= SEGMENT) {
            self.next_segment();
        }
        let current = self.journal.last().map_or(0, |s| s.number);
        let Some(state) = self.chunks.get_mut(&chunk) else { return };
        let epoch = state.meta.epoch;
        let mark = overwrites && state.marked_in != current;
        if mark {
            state.marked_in = current;
        }
        if !std::mem::replace(&mut state.registered, true) {
            self.dirty.insert(chunk);
        }
        let Edit { first, seq, id, more } = *edit;
        let record = Record { lsn: 0, chunk, epoch, seq, id, more, first, body };
        if mark {
            self.push(Record { body: Body::Dirty, more: true, ..record.clone() }, Vec::new());
            self.sync_journal();
        }
        self.push(record, content.to_vec());
    }

    pub(super) fn push(&mut self, mut record: Record, content: Vec<Content>) {
        record.lsn = self.lsn;
        self.lsn += 1;
        if let Some(segment) = self.journal.last_mut() {
            segment.records.push((record, content));
        }
    }

    pub(super) fn next_segment(&mut self) {
        let number = self.journal.last().map_or(0, |s| s.number) + 1;
        self.journal.push(Segment { number, records: Vec::new(), synced: 0 });
    }

    pub fn sync_journal(&mut self) {
        self.journal.iter_mut().for_each(|s| s.synced = s.records.len());
    }

    /// Everything written to the chunk so far is on stable storage when this returns.
    pub fn sync(&mut self, chunk: u64) {
        if let Some(state) = self.chunks.get_mut(&chunk)
            && std::mem::take(&mut state.unsynced)
            && let Some(file) = self.files.get_mut(&chunk)
        {
            file.sync();
        }
        self.sync_journal();
    }
}
