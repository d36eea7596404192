//! What a journal says of one chunk: its records, brought together in their order.

use super::layout::ChunkMeta;
use super::recent::Recent;
use super::record::{Body, Record};
use super::table::Entry;
use std::collections::BTreeMap;

/// The last word on a block. `P`: where an image's content is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last<P> {
    /// Its entry in the table.
    pub entry: Entry,
    /// Its content; `None`: it is in the chunk file, or there is none.
    pub content: Option<P>,
}

/// A chunk as its header and the records so far describe it.
#[derive(Debug)]
pub struct Replay<P> {
    meta: ChunkMeta,
    /// It has a header, or a record since it was last deleted.
    exists: bool,
    /// What its file holds belongs to a replica that was deleted since.
    anew: bool,
    /// The epoch at which one was last deleted.
    deleted: Option<u64>,
    touched: bool,
    /// The last word on each block: of several images only the last is written, since a later large
    /// write went over it without leaving its content in the journal.
    blocks: BTreeMap<u32, Last<P>>,
    recent: Recent,
}

impl<P> Replay<P> {
    /// A chunk with this header; `None`: no header was written.
    pub fn new(header: Option<ChunkMeta>) -> Self {
        Self {
            exists: header.is_some(),
            meta: header.unwrap_or_default(),
            anew: false,
            deleted: None,
            touched: false,
            blocks: BTreeMap::new(),
            recent: Recent::default(),
        }
    }

    /// The next record. `content` says where that of its nth block is.
    pub fn add(&mut self, r: &Record, content: impl Fn(u32) -> P) {
        if r.body == Body::Delete {
            *self = Self { anew: true, deleted: Some(r.epoch), ..Self::new(None) };
            return;
        }
        if !self.exists {
            // A replica's first record says what it is. Without it, or a header, the file is lost, and with it the replica.
            if !matches!(r.body, Body::Epoch { .. }) {
                return;
            }
            self.exists = true;
            self.meta.epoch = r.epoch;
        }
        self.touched = true;
        match &r.body {
            Body::Image(crcs) => {
                for (i, crc) in (0..).zip(crcs) {
                    let last = Last { entry: Entry::data(*crc, r.seq), content: Some(content(i)) };
                    self.blocks.insert(r.first.saturating_add(i), last);
                }
            }
            Body::Large(crcs) => {
                for (i, crc) in (0..).zip(crcs) {
                    let last = Last { entry: Entry::data(*crc, r.seq), content: None };
                    self.blocks.insert(r.first.saturating_add(i), last);
                }
            }
            Body::Zero(count) => {
                let entry = if r.seq == 0 { Entry::default() } else { Entry::zeroed(r.seq) };
                for block in r.first..r.first.saturating_add(*count) {
                    self.blocks.insert(block, Last { entry, content: None });
                }
            }
            Body::Epoch { wanted, in_sync } => {
                if r.epoch >= self.meta.epoch {
                    self.meta.epoch = r.epoch;
                    self.meta.wanted = *wanted;
                    self.meta.in_sync = in_sync.clone();
                }
            }
            // It may have been set back, to what its primary had.
            Body::Level => {
                self.meta.seq = r.seq;
                self.recent.forget_after(r.seq);
            }
            Body::Delete | Body::Dirty => {}
        }
        if !r.more {
            self.meta.seq = self.meta.seq.max(r.seq);
            // Of a large write the content may be lost where the record is not: sent again, it is to be applied again.
            if !matches!(r.body, Body::Large(_)) {
                self.recent.add(r.id, r.seq);
            }
        }
    }

    /// Whether there is such a replica at all.
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// The epoch at which a replica was deleted, if there has been none since.
    pub fn deleted(&self) -> Option<u64> {
        self.deleted.filter(|_| !self.exists)
    }

    /// Whether the file's blocks and table are those of an earlier replica, and do not count.
    pub fn starts_anew(&self) -> bool {
        self.anew
    }

    /// Whether the journal says anything about it: then a crash may have come while it was changed.
    pub fn is_touched(&self) -> bool {
        self.touched
    }

    /// The blocks that the journal speaks of.
    pub fn blocks(&self) -> &BTreeMap<u32, Last<P>> {
        &self.blocks
    }

    /// Epoch, set and seq.
    pub fn meta(&self) -> ChunkMeta {
        ChunkMeta { suspect: self.meta.suspect | self.touched, ..self.meta.clone() }
    }

    /// The same, and the writes that the journal still knows.
    pub fn finish(self) -> (ChunkMeta, Recent) {
        (self.meta(), self.recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::recent::WriteId;

    fn record(seq: u64, first: u32, body: Body) -> Record {
        let id = WriteId { session: 1, write: seq };
        Record { lsn: 0, chunk: 7, epoch: 1, seq, id, more: false, first, body }
    }

    #[test]
    fn the_last_word_on_a_block_counts() {
        let mut r = Replay::new(Some(ChunkMeta { epoch: 1, seq: 3, ..ChunkMeta::default() }));
        r.add(&record(4, 0, Body::Image(vec![11, 12])), |i| i);
        r.add(&record(5, 1, Body::Large(vec![22])), |i| i);
        r.add(&record(6, 5, Body::Zero(1)), |i| i);
        let of = |b| r.blocks().get(&b).copied();
        assert_eq!(of(0), Some(Last { entry: Entry::data(11, 4), content: Some(0) }));
        assert_eq!(of(1), Some(Last { entry: Entry::data(22, 5), content: None }));
        assert_eq!(of(5), Some(Last { entry: Entry::zeroed(6), content: None }));
        let (meta, recent) = r.finish();
        assert_eq!((meta.seq, meta.suspect), (6, true));
        let seq_of = |write| recent.seq_of(WriteId { session: 1, write });
        assert_eq!((seq_of(4), seq_of(5), seq_of(6)), (Some(4), None, Some(6)));
    }

    #[test]
    fn a_replica_that_was_deleted_and_made_again_is_the_new_one() {
        let mut r = Replay::new(Some(ChunkMeta { epoch: 3, seq: 9, ..ChunkMeta::default() }));
        r.add(&record(10, 0, Body::Image(vec![11])), |i| i);
        r.add(&record(0, 0, Body::Delete), |i| i);
        assert_eq!((r.exists(), r.deleted()), (false, Some(1)));
        let again = Record { epoch: 5, ..record(0, 0, Body::Epoch { wanted: 3, in_sync: vec![1, 2] }) };
        r.add(&again, |i| i);
        assert!(r.exists() && r.starts_anew() && r.blocks().is_empty() && r.deleted().is_none());
        let (meta, _) = r.finish();
        assert_eq!((meta.epoch, meta.seq, meta.in_sync), (5, 0, vec![1, 2]));
    }

    #[test]
    fn the_seq_may_be_set_back_to_what_the_primary_had() {
        let mut r = Replay::new(Some(ChunkMeta { epoch: 1, seq: 9, ..ChunkMeta::default() }));
        r.add(&record(10, 0, Body::Zero(1)), |i| i);
        let level = Record { id: WriteId::default(), ..record(6, 0, Body::Level) };
        r.add(&level, |i| i);
        r.add(&record(0, 0, Body::Epoch { wanted: 3, in_sync: vec![1] }), |i| i);
        let (meta, recent) = r.finish();
        assert_eq!(meta.seq, 6);
        assert_eq!(
            recent.seq_of(WriteId { session: 1, write: 10 }),
            None,
            "sent again, it is to be applied again"
        );
    }

    #[test]
    fn a_file_without_header_and_first_record_is_no_replica() {
        let mut r = Replay::new(None);
        assert!(!r.exists());
        r.add(&record(4, 0, Body::Image(vec![11])), |i| i);
        assert!(!r.exists());
    }
}
