//! Relieves what is used too much: a server that has far more to do than others gives a chunk away, and a chunk that is
//! read very much gets more copies for as long.

use std::collections::BTreeMap;

use cairn_proto::{ChunkId, ServerId};
use tracing::info;

use super::balance::Move;
use super::hot::{Terms, Used};
use super::migrate::LEAST_BYTES;
use super::node_states::State;
use super::repairs::Why;
use super::server::Server;
use super::transitions::{self, Aim};
use super::work::Work;
use super::{ChunkRecord, Cluster};
use crate::core::Millis;

/// Fewer servers than this cannot tell which of them is out of line.
const FEWEST: usize = 3;

impl Cluster {
    /// Plans one move off each server that has had too much to do for long enough: of the chunks used most there the one with which most
    /// goes to where it can be borne. Then it is watched for as long again.
    pub(super) fn relieve_servers(&mut self, work: &mut Work<'_>) {
        self.watch_loads(work.now);
        let sustained = self.balance.limits.sustained_ms.into();
        for id in self.balance.overloaded(work.now, sustained) {
            let Some(server) = self.servers.get(&id) else { continue };
            let mut used: Vec<_> = server.used_most().collect();
            used.sort_unstable_by_key(|(chunk, rate)| (std::cmp::Reverse(*rate), *chunk));
            let chosen = used.into_iter().find_map(|(chunk, rate)| {
                let record = work.chunk(chunk).ok().flatten()?;
                let bytes = work.view().bytes_of(&record).max(LEAST_BYTES);
                let planned = Move::proposed(id, Why::Load, bytes);
                self.may_move(&record, planned).then_some((record, planned, rate))
            });
            if let Some((record, planned, rate)) = chosen {
                let server_rate = server.use_rate;
                info!(server = %id, server_rate, chunk = %record.chunk, rate, "a chunk is to move off a server that is used too much");
                self.balance.plan(record.chunk, planned, work.now);
                self.balance.relieved(id, work.now);
                self.note_copies(&record, work.now);
            }
        }
    }

    /// Notes which servers have far more to do than the others.
    fn watch_loads(&mut self, now: Millis) {
        let there = |s: &&Server| s.state == State::Alive && s.is_settled();
        let rates: Vec<_> = self.servers.values().filter(there).map(|s| (s.record.id, s.use_rate)).collect();
        let margin = self.balance.limits.over_rate;
        let is_over = |(id, rate): &(ServerId, u64)| {
            let others: Vec<_> = rates.iter().filter(|(o, _)| o != id).map(|(_, r)| *r).collect();
            margin > 0 && rates.len() >= FEWEST && *rate > bearable(&others, margin)
        };
        let over = rates.iter().filter(|r| is_over(r)).map(|(id, _)| *id).collect();
        self.balance.note_overloaded(over, now);
    }

    /// Whether it helps if the chunk moves: where it goes has less to do afterwards than where it came from has then.
    pub(super) fn is_relief(&self, chunk: ChunkId, from: ServerId, to: &Server) -> bool {
        let Some(from) = self.servers.get(&from) else { return false };
        let Some((_, rate)) = from.used_most().find(|(c, _)| *c == chunk) else { return false };
        to.use_rate.saturating_add(rate) <= from.use_rate.saturating_sub(rate)
    }

    /// Chunks that are read very much get more copies, those that have cooled lose them.
    pub(super) fn follow_heat(&mut self, work: &mut Work<'_>) {
        let mut used = BTreeMap::<ChunkId, Used>::new();
        for u in self.servers.values().filter(|s| s.is_alive()).flat_map(|s| &s.hot) {
            let sum = used.entry(ChunkId(u.chunk)).or_default();
            sum.read = sum.read.saturating_add(u.read);
            sum.written = sum.written.max(u.written);
        }
        let spare = |s: &&Server| s.takes_new() && self.has_space(s) && !self.is_filling(s);
        let servers = self.servers.values().filter(spare).count();
        let limits = self.balance.limits;
        let terms = Terms {
            rate: limits.hot_rate,
            sustained_ms: limits.sustained_ms.into(),
            spare_servers: servers.saturating_sub(self.settings.copies as usize),
        };
        for chunk in self.balance.hot.observe(work.now, &used, terms) {
            match work.chunk(chunk) {
                Ok(Some(record)) => {
                    let rate = used.get(&chunk).map_or(0, |u| u.read);
                    info!(%chunk, read_rate = rate, copies = self.copies_wanted(&record), "a hot chunk is to have so many copies");
                    let (record, _) = self.spare(work, record);
                    self.note_copies(&record, work.now);
                }
                Ok(None) => self.balance.hot.forget(chunk),
                // The next audit sees to it.
                Err(_) => self.audit.request(),
            }
        }
    }

    /// Lets copies go that are more than wanted. Returns the record, and how many went.
    pub(super) fn spare(&mut self, work: &mut Work<'_>, mut record: ChunkRecord) -> (ChunkRecord, usize) {
        let before = record.in_sync.len();
        while let Some(next) = self.without_one(&record) {
            info!(chunk = %record.chunk, epoch = %next.epoch, before = ?record.in_sync, "a copy more than wanted goes");
            record = self.adopt(work, &record, next, None);
        }
        let gone = before - record.in_sync.len();
        if gone > 0 {
            self.delete_superfluous(&record);
        }
        (record, gone)
    }

    /// Without the copy that can best be spared: one that is to go anyway, one that is not there, one on a full server, one on a rack
    /// with another, the one whose server has most to do; the primary last.
    fn without_one(&self, record: &ChunkRecord) -> Option<ChunkRecord> {
        let copies = self.copies_wanted(record);
        if record.in_sync.len() <= copies {
            return None;
        }
        let alive = |s: ServerId| self.servers.get(&s).is_some_and(Server::is_alive);
        let rack = |s: ServerId| self.servers.get(&s).map(|s| s.record.rack.as_str());
        let key = |s: &ServerId| {
            let server = self.servers.get(s);
            let shares_rack = record.in_sync.iter().any(|o| o != s && rack(*o) == rack(*s));
            let full = server.is_some_and(|s| self.is_filling(s));
            let primary = record.primary() == Some(*s);
            (
                self.leaves(record.chunk, *s),
                !alive(*s),
                full,
                !primary,
                shares_rack,
                server.map(|s| s.use_rate),
            )
        };
        let mut members = record.in_sync.clone();
        members.sort_by_key(|s| std::cmp::Reverse(key(s)));
        let leaving = |s| self.leaves(record.chunk, s);
        let without =
            |s: &ServerId| transitions::surplus(record, *s, alive, Aim { copies, leaving: &leaving }).ok();
        members.iter().find_map(without)
    }
}

/// What one server may be used by (bytes a second) where the others are used by so much: their mean and twice the standard
/// deviation, and never less above the mean than half of it, nor than `margin`.
fn bearable(others: &[u64], margin: u64) -> u64 {
    let n = others.len().max(1) as u128;
    let mean = others.iter().map(|r| u128::from(*r)).sum::<u128>() / n;
    let square = |r: &u64| u128::from(*r).abs_diff(mean).saturating_pow(2) / n;
    let deviation = others.iter().map(square).fold(0, u128::saturating_add).isqrt();
    let above = deviation.saturating_mul(2).max(mean / 2).max(margin.into());
    u64::try_from(mean.saturating_add(above)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::bearable;

    #[test]
    fn what_can_be_borne_follows_from_the_others() {
        assert_eq!(bearable(&[100, 100, 100], 10), 150, "half the mean");
        assert_eq!(bearable(&[100, 100, 100], 80), 180, "the margin");
        assert_eq!(bearable(&[50, 150], 10), 200, "twice the deviation");
        assert_eq!(bearable(&[], 10), 10);
        assert_eq!(bearable(&[u64::MAX, 0, u64::MAX], 1), u64::MAX);
    }
}
