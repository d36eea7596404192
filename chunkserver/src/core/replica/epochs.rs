//! What a change of epoch does to a replica.

use super::{Effect, Effects, Replica};
use crate::core::layout::ChunkMeta;
use cairn_proto::data::Status;

impl<W: Clone, A> Replica<W, A> {
    pub(super) fn new_epoch(&mut self, meta: ChunkMeta, out: &mut Effects<W, A>) {
        if meta.epoch <= self.epoch || meta.in_sync.is_empty() {
            return;
        }
        let before = std::mem::replace(&mut self.in_sync, meta.in_sync);
        self.epoch = meta.epoch;
        self.wanted = meta.wanted;
        if before.first() != self.in_sync.first() {
            self.primary_since = meta.epoch;
            self.renumbered = false;
        }
        self.failed.clear();
        self.fault = None;
        self.crowded = false;
        out.push(Effect::Record);
        self.end_hand_over(Status::StaleEpoch, out);
        if !self.is_primary() {
            self.level = false;
            // First: what only the joining server still owed is not this server's to acknowledge any more.
            self.end_all(Status::StaleEpoch, out);
            self.drop_joining(out);
            if !self.is_member() && before.contains(&self.me) {
                // What is written from here on is missed.
                self.trusted = false;
            }
            if self.is_member() && !before.contains(&self.me) {
                self.confirmed = false;
            }
            if self.is_member() && !self.is_trusted() {
                out.push(Effect::AskPrimary);
            }
            return;
        }
        let joined = self.joining.take_if(|j| self.in_sync.contains(&j.target)).filter(|j| j.ready);
        let target = joined.map(|j| j.target);
        let known = |s: &u32| before.contains(s) || Some(*s) == target;
        if before.first() != Some(&self.me) || !self.in_sync.iter().all(known) {
            // A new primary does not know what the members hold.
            self.level = false;
            self.drop_joining(out);
        }
        let (set, joining) = (self.in_sync.clone(), self.joining());
        self.forgive(|s| !set.contains(&s) && joining != Some(s));
        self.finish_ops(out);
        if !self.level {
            self.compare(out);
        }
    }

    pub(super) fn drop_joining(&mut self, out: &mut Effects<W, A>) {
        if let Some(target) = self.joining() {
            self.abort_join(target, out);
        }
    }
}
