//! What a member does: applies what its primary forwards, in order; and what any replica does when
//! something is wrong with it.

use super::{Effect, Effects, Fault, Replica};
use crate::core::Millis;
use crate::core::layout::ChunkMeta;
use crate::core::recent::WriteId;
use cairn_proto::data::Status;

impl<W: Clone, A> Replica<W, A> {
    pub(super) fn start(&mut self, out: &mut Effects<W, A>) {
        if self.is_primary() {
            if !self.level {
                self.compare(out);
            }
        } else if self.is_member() && !self.trusted {
            out.push(Effect::AskPrimary);
        }
    }

    /// Whether a frame from this primary, under this epoch, counts. A higher epoch is taken over. A lower one is
    /// good as long as the primary has been the same since: it may have been under way when the epoch changed.
    pub(super) fn accept(
        &mut self,
        from: u32,
        meta: &ChunkMeta,
        out: &mut Effects<W, A>,
    ) -> Result<(), Status> {
        if meta.epoch > self.epoch {
            if meta.in_sync.first() != Some(&from) || from == self.me {
                return Err(Status::BadRequest);
            }
            self.new_epoch(meta.clone(), out);
        }
        if meta.epoch < self.primary_since {
            return Err(Status::StaleEpoch);
        }
        if self.in_sync.first() != Some(&from) {
            return Err(if meta.epoch < self.epoch { Status::StaleEpoch } else { Status::NotPrimary });
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn forwarded(
        &mut self,
        from: u32,
        meta: ChunkMeta,
        id: WriteId,
        sync: bool,
        write: W,
        answer: A,
        out: &mut Effects<W, A>,
    ) {
        let status = match self.accept(from, &meta, out) {
            Err(status) => status,
            Ok(()) if !self.is_member() => Status::StaleEpoch,
            Ok(()) if !self.trusted => Status::Busy,
            Ok(()) if self.renumbered => Status::Behind,
            Ok(()) if meta.seq == self.seq && self.recent.seq_of(id) == Some(meta.seq) => {
                return out.push(Effect::Store { seq: meta.seq, id, sync, write: None, answer });
            }
            Ok(()) if meta.seq <= self.seq => {
                self.renumbered = true;
                Status::Behind
            }
            Ok(()) if meta.seq != self.seq + 1 => Status::Behind,
            Ok(()) => {
                self.seq = meta.seq;
                self.confirmed = true;
                self.recent.add(id, meta.seq);
                return out.push(Effect::Store { seq: meta.seq, id, sync, write: Some(write), answer });
            }
        };
        out.push(Effect::Answer { to: answer, status, seq: self.seq });
    }

    pub(super) fn local_fault(
        &mut self,
        now: Millis,
        seq: Option<u64>,
        fault: Option<Fault>,
        out: &mut Effects<W, A>,
    ) {
        if seq == Some(self.seq) {
            self.seq -= 1;
        }
        self.trusted = false;
        self.noted = false;
        if let Some(seq) = seq {
            // Sent again, it must not pass for applied; here or, if nobody else has it, anywhere.
            self.recent.forget(seq);
        }
        if let Some(seq) = seq.filter(|_| self.in_sync.len() == 1) {
            // Nobody else has it, so nothing will bring it back.
            let failed: Vec<_> = self.ops.iter().filter(|(_, op)| op.seq == seq).map(|(id, _)| *id).collect();
            failed.into_iter().for_each(|op| self.end_op(op, Status::Corrupt, out));
        }
        match fault {
            Some(fault) if self.is_primary() => {
                self.level = false;
                // It was sent what is here, which is not what was written.
                self.drop_joining(out);
                self.failed.insert(self.me);
                self.fault = Some(fault);
                self.reported_at = now;
                out.push(Effect::Report { failed: vec![self.me], fault });
            }
            _ => self.doubt(out),
        }
    }

    /// Something may be missing somewhere: as the primary, compare; as a member, have the primary do it.
    pub(super) fn doubt(&mut self, out: &mut Effects<W, A>) {
        if self.is_primary() {
            self.level = false;
            self.doubted = self.comparing;
            // The comparison under way may just be removing it.
            self.noted &= !self.comparing;
            self.compare(out);
        } else if self.is_member() {
            out.push(Effect::AskPrimary);
        }
    }

    /// Whether this primary may install blocks here, under an epoch that is not higher than the replica's.
    pub fn may_install(&mut self, from: u32, meta: &ChunkMeta) -> Result<(), Status> {
        if meta.epoch > self.epoch {
            return Err(Status::BadRequest);
        }
        self.accept(from, meta, &mut Vec::new())
    }
}
