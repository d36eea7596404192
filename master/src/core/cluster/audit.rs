//! The audit: a walk through the whole chunk table, side by side with what the servers hold.
//!
//! It runs in bounded steps, and only after something happened that can have put the two at odds: the master
//! started, a server came, died, or listed what it holds. Everything that is not asked for by
//! somebody who waits is decided here: sets shrink by dead servers, servers hear of epochs they missed, superfluous
//! replicas are deleted, chunks that want a copy are found.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{ChunkId, Epoch, ServerId};
use tracing::{error, info};

use super::transitions;
use super::verdicts::{self, Verdict};
use super::work::Work;
use super::{ChunkRecord, Cluster};
use crate::core::Millis;

/// Replicas of unknown chunks that are remembered, at most; the others are found again by a later audit.
const STRANGERS: usize = 65_536;
/// Between looks through those, milliseconds.
const LOOK_THROUGH_MS: u64 = 1_000;

#[derive(Debug, Default)]
pub(super) struct Audit {
    /// The id that the walk has come to.
    cursor: Option<ChunkId>,
    /// Another walk is wanted after this one.
    again: bool,
    /// The walk found chunks about which nothing could be decided before servers confirm what they hold.
    undecided: bool,
    /// The first walk is complete: `total` counts all chunks.
    counted: bool,
    pub(super) total: u64,
    /// Found by the last complete walk.
    pub(super) missing: u64,
    missing_so_far: u64,
    /// What this walk has decided about replicas that are not as they should be, and how often.
    verdicts: BTreeMap<&'static str, u64>,
    /// Since when replicas of unknown chunks are known.
    strangers: BTreeMap<(ServerId, ChunkId), Millis>,
    /// When they were last looked through.
    looked_through: Millis,
}

impl Audit {
    /// Whether a walk is under way or still to come.
    pub(super) fn is_wanted(&self) -> bool {
        self.again || self.cursor.is_some()
    }

    /// Something may be at odds.
    pub(super) fn request(&mut self) {
        self.again = true;
    }

    /// A member may be without its replica; whether it is cannot be told yet.
    pub(super) fn doubt(&mut self) {
        self.undecided = true;
    }

    /// A server has confirmed what it holds.
    pub(super) fn confirmed(&mut self) {
        self.again |= self.undecided;
    }

    pub(super) fn allocated(&mut self, chunk: ChunkId) {
        if self.has_counted(chunk) {
            self.total += 1;
        }
    }

    pub(super) fn deleted(&mut self, chunk: ChunkId) {
        if self.has_counted(chunk) {
            self.total = self.total.saturating_sub(1);
        }
        if self.missing > 0 {
            self.again = true;
        }
    }

    fn has_counted(&self, chunk: ChunkId) -> bool {
        self.counted || self.cursor.is_some_and(|cursor| chunk < cursor)
    }

    fn begin(&mut self) -> Option<ChunkId> {
        if self.cursor.is_none() && std::mem::take(&mut self.again) {
            self.cursor = Some(ChunkId(0));
            self.missing_so_far = 0;
            self.undecided = false;
        }
        self.cursor
    }

    fn finish(&mut self) {
        self.cursor = None;
        self.counted = true;
        self.missing = self.missing_so_far;
        let verdicts = std::mem::take(&mut self.verdicts);
        if !verdicts.is_empty() {
            info!(?verdicts, "replicas compared with the chunks' records: how many led to what");
        }
    }
}

type Holders = BTreeMap<ChunkId, Vec<(ServerId, Epoch)>>;

impl Cluster {
    /// One step, if an audit is wanted or under way.
    pub(super) fn audit_step(&mut self, work: &mut Work<'_>) {
        let Some(from) = self.audit.begin() else { return };
        let limit = self.settings.audit_records.max(1);
        // Else the same step again at the next tick.
        let Ok(records) = work.chunks_from(from, limit) else { return };
        let end = match records.last() {
            Some(last) if records.len() >= limit => last.chunk,
            _ => ChunkId(u64::MAX),
        };
        let (mut holders, end) = self.holders(from, end, limit);
        let mut changes = 0;
        for record in records {
            if record.chunk > end {
                break;
            }
            if changes >= self.settings.audit_changes {
                self.audit.cursor = Some(record.chunk);
                return;
            }
            self.audit.total += u64::from(!self.audit.counted);
            let held = holders.remove(&record.chunk).unwrap_or_default();
            changes += self.audit_chunk(work, record, &held);
        }
        for (chunk, held) in holders {
            self.audit_unknown(work.now, chunk, &held);
        }
        match end.0.checked_add(1) {
            Some(next) => self.audit.cursor = Some(ChunkId(next)),
            None => self.audit.finish(),
        }
    }

    /// Who holds the chunks from `from` on, up to `end` or to where `limit` replicas of one server lie between.
    fn holders(&self, from: ChunkId, mut end: ChunkId, limit: usize) -> (Holders, ChunkId) {
        let mut holders = Holders::new();
        for (id, server) in self.servers.iter().filter(|(_, s)| s.is_settled()) {
            for (n, (chunk, epoch)) in server.replicas.range(from, end).enumerate() {
                holders.entry(chunk).or_default().push((*id, epoch));
                if n + 1 == limit {
                    end = chunk;
                    break;
                }
            }
        }
        if let Some(behind) = end.0.checked_add(1) {
            holders.split_off(&ChunkId(behind));
        }
        (holders, end)
    }

    /// Sets one chunk right, as far as nothing but the master is needed for it. Returns how many
    /// changes that took.
    fn audit_chunk(
        &mut self,
        work: &mut Work<'_>,
        mut record: ChunkRecord,
        held: &[(ServerId, Epoch)],
    ) -> usize {
        let mut changes = 0;
        if !self.holding_still(work.now)
            && let Ok(next) = transitions::servers_dead(&record, |s| self.is_dead(s))
        {
            record = self.adopt(work, &record, next, None);
            changes += 1;
        }
        if let Some(lost) = self.member_without_replica(&record, held) {
            error!(chunk = %record.chunk, server = %lost, "an in-sync replica is not there any more");
            match transitions::replica_lost(&record, lost) {
                Ok(next) => record = self.adopt(work, &record, next, None),
                // Too few would be left: it makes an empty replica, and takes over what the others have.
                Err(_) => self.tell_epoch(work, lost, &record),
            }
            changes += 1;
        }
        let (record, gone) = self.spare(work, record);
        changes += gone;
        for (server, epoch) in held {
            changes += self.audit_replica(work, &record, *server, *epoch);
        }
        self.note_copies(&record, work.now);
        let live = |s: &ServerId| self.servers.get(s).is_some_and(|s| s.may_serve());
        self.audit.missing_so_far += u64::from(!record.in_sync.iter().any(live));
        changes
    }

    fn audit_replica(
        &mut self,
        work: &mut Work<'_>,
        record: &ChunkRecord,
        server: ServerId,
        epoch: Epoch,
    ) -> usize {
        // What was told in this very step is what counts.
        let Some(s) = self.servers.get(&server) else { return 0 };
        let epoch = s.replicas.epoch(record.chunk).unwrap_or(epoch);
        let sure = s.replicas.is_sure(record.chunk);
        let verdict = verdicts::judge(record, server, epoch, self.wants_copy(record));
        if verdict != Verdict::InStep {
            *self.audit.verdicts.entry(verdict.text()).or_default() += 1;
        }
        match verdict {
            Verdict::TellEpoch if sure => {
                self.tell_epoch(work, server, record);
                1
            }
            Verdict::Delete => {
                if epoch > record.epoch {
                    error!(chunk = %record.chunk, %server, held = %epoch, given = %record.epoch,
                        "a stale replica has an epoch that was never given; it is deleted");
                }
                if self.repairs.flight(record.chunk).is_none_or(|f| f.target != server) {
                    self.deletes.add(server, record.chunk);
                }
                0
            }
            Verdict::Ahead => {
                error!(chunk = %record.chunk, %server, held = %epoch, given = %record.epoch,
                    "an in-sync replica has an epoch that was never given: was the master's data set back?");
                0
            }
            // `note_copies` puts it among the repairs.
            Verdict::BringUp | Verdict::InStep | Verdict::TellEpoch => 0,
        }
    }

    /// A live member that certainly does not hold the chunk, while another one certainly does. (When none
    /// does, nothing has ever been written to it.)
    fn member_without_replica(
        &mut self,
        record: &ChunkRecord,
        held: &[(ServerId, Epoch)],
    ) -> Option<ServerId> {
        let settled = |s: ServerId| self.servers.get(&s).filter(|s| s.is_settled());
        let sure = |s: ServerId| settled(s).is_some_and(|s| s.replicas.is_sure(record.chunk));
        let (with, without): (Vec<_>, Vec<_>) =
            record.in_sync.iter().copied().partition(|s| held.iter().any(|(h, _)| h == s));
        if with.iter().any(|s| sure(*s))
            && let Some(lost) = without.iter().find(|s| sure(**s))
        {
            return Some(*lost);
        }
        if !with.is_empty() && without.iter().any(|s| settled(*s).is_some()) {
            self.audit.doubt();
        }
        None
    }

    fn audit_unknown(&mut self, now: Millis, chunk: ChunkId, held: &[(ServerId, Epoch)]) {
        if self.deletes.is_garbage(chunk) {
            self.deletes.add_garbage(chunk, held.iter().map(|(s, _)| *s));
            return;
        }
        for (server, _) in held {
            if self.audit.strangers.len() < STRANGERS {
                self.audit.strangers.entry((*server, chunk)).or_insert(now);
            }
        }
    }

    /// Replicas of chunks that have been unknown for long enough are deleted.
    pub(super) fn expel_strangers(&mut self, work: &Work<'_>) {
        if work.now.since(self.audit.looked_through) < LOOK_THROUGH_MS {
            return;
        }
        self.audit.looked_through = work.now;
        let grace = self.settings.stranger_grace_ms;
        let due: BTreeSet<_> = self
            .audit
            .strangers
            .iter()
            .filter(|(_, since)| work.now.since(**since) >= grace)
            .map(|(k, _)| *k)
            .collect();
        if due.is_empty() {
            return;
        }
        // Others may not have found a place.
        if self.audit.strangers.len() >= STRANGERS {
            self.audit.request();
        }
        for (server, chunk) in due {
            self.audit.strangers.remove(&(server, chunk));
            let held = self.servers.get(&server).is_some_and(|s| s.replicas.epoch(chunk).is_some());
            if held && work.chunk(chunk) == Ok(None) {
                self.deletes.add(server, chunk);
            }
        }
    }
}
