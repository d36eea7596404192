//! A block as a register: which values a read may return, given all writes of the history.

use crate::chunkserver::disk::is_torn;
use crate::executor::Micros;
use crate::history::{History, Kind};
use crate::message::Content;

/// A write of one block.
#[derive(Clone, Debug)]
pub struct Write {
    pub value: Content,
    pub start: Micros,
    /// `None`: it may take effect at any time, or never.
    pub end: Option<Micros>,
    /// When it is acknowledged, it is stable.
    pub sync: bool,
    /// From when on it is known to be on stable storage.
    pub synced: Option<Micros>,
}

#[derive(Clone, Debug)]
pub struct Read {
    pub value: Content,
    pub start: Micros,
    pub end: Micros,
}

/// One block's writes and reads, and the moments at which unsynced writes may have been lost.
#[derive(Debug)]
pub struct Register {
    pub name: String,
    pub writes: Vec<Write>,
    pub reads: Vec<Read>,
    pub blackouts: Vec<Micros>,
}

impl Register {
    pub fn of(history: &History, place: u64, block: u32) -> Self {
        let here = || history.ops.iter().filter(move |op| op.place == place);
        // As it is before anything was written.
        let mut writes = vec![Write { value: 0, start: 0, end: Some(0), sync: true, synced: Some(0) }];
        let mut reads = Vec::new();
        for op in here() {
            let index = block.checked_sub(op.first).map(|i| i as usize);
            let Some(value) = index.and_then(|i| op.contents.get(i)).copied() else { continue };
            match (op.kind, op.end) {
                (Kind::Write, end) => {
                    let after = |end: Micros| {
                        let syncs = here().filter(|s| s.kind == Kind::Sync && s.start >= end);
                        syncs.filter_map(|s| s.end).min()
                    };
                    let synced = if op.sync { end } else { end.and_then(after) };
                    writes.push(Write { value, start: op.start, end, sync: op.sync, synced });
                }
                (Kind::Read, Some(end)) => reads.push(Read { value, start: op.start, end }),
                _ => {}
            }
        }
        Self {
            name: format!("place {place} block {block}"),
            writes,
            reads,
            blackouts: history.blackouts.clone(),
        }
    }

    /// Whether nobody may count on a write any more at `when`: it was not synced when the power failed. (That it was
    /// acknowledged may have been heard a little later.)
    pub fn may_be_lost(&self, write: &Write, when: Micros) -> bool {
        let unsynced = |t: &Micros| match write.sync {
            true => write.end.is_none(),
            false => write.synced.is_none_or(|s| s > *t),
        };
        self.blackouts.iter().any(|t| write.start < *t && *t <= when && unsynced(t))
    }

    /// A write that a read must have seen in the place of all that could have given its value.
    pub fn overlooked(&self, read: &Read) -> Option<&Write> {
        let mut overlooked = None;
        for source in self.writes.iter().filter(|w| w.value == read.value && w.start < read.end) {
            let hides = |w: &&Write| {
                w.value != read.value
                    && source.end.is_some_and(|e| e < w.start)
                    && w.end.is_some_and(|e| e < read.start)
            };
            overlooked = Some(self.writes.iter().filter(hides).find(|w| !self.may_be_lost(w, read.end))?);
        }
        overlooked
    }

    /// The write of a value other than 0.
    pub fn source(&self, value: Content) -> Option<&Write> {
        self.writes.iter().find(|w| w.value == value)
    }

    /// Whether a value comes from nowhere. A block that was being written when the power failed everywhere may be torn,
    /// as on any disk.
    pub fn is_foreign(&self, read: &Read) -> bool {
        let open = |t: &Micros| self.writes.iter().any(|w| w.start < *t && w.synced.is_none_or(|s| s > *t));
        let torn = is_torn(read.value) && self.blackouts.iter().any(|t| *t < read.end && open(t));
        !torn && !self.writes.iter().any(|w| w.value == read.value && w.start < read.end)
    }
}
