//! Which replicas were deleted here, and at which epoch: nothing that was long under way may make one anew.
//!
//! A client's write under epoch 1, or a frame of a primary that has not heard of a new set, would else make an empty replica
//! that passes for the chunk's, and be acknowledged by others that were made anew in the same way.

use super::Millis;
use super::layout::ChunkMeta;
use std::collections::{HashMap, VecDeque};

/// Deletions that are remembered, at most: the oldest are forgotten first.
pub const KEPT: usize = 65_536;
/// For so long (milliseconds) they are.
pub const KEPT_MS: Millis = 600_000;

/// The replicas that were deleted lately.
#[derive(Debug, Default)]
pub struct Deleted {
    epochs: HashMap<u64, (u64, Millis)>,
    order: VecDeque<(u64, Millis)>,
}

impl Deleted {
    /// A replica that knew this epoch is deleted.
    pub fn add(&mut self, now: Millis, chunk: u64, epoch: u64) {
        while let Some((oldest, at)) = self.order.front().copied()
            && (self.order.len() >= KEPT || now.saturating_sub(at) >= KEPT_MS)
        {
            self.order.pop_front();
            // It may have been deleted again since.
            if self.epochs.get(&oldest).is_some_and(|(_, last)| *last == at) {
                self.epochs.remove(&oldest);
            }
        }
        let known = self.epochs.get(&chunk).map_or(0, |(e, _)| *e);
        self.epochs.insert(chunk, (epoch.max(known), now));
        self.order.push_back((chunk, now));
    }

    /// The master, which knows best, wants a replica here.
    pub fn forget(&mut self, chunk: u64) {
        self.epochs.remove(&chunk);
    }

    /// The epoch at which the chunk's replica was deleted.
    pub fn epoch(&self, now: Millis, chunk: u64) -> Option<u64> {
        let lately = |(_, at): &&(u64, Millis)| now.saturating_sub(*at) < KEPT_MS;
        self.epochs.get(&chunk).filter(lately).map(|(epoch, _)| *epoch)
    }

    /// Whether `me` may make the replica that somebody speaks of. Who is in the set that was deleted from is in another only
    /// under a higher epoch. Who is to be brought up to date is not in the set yet, whose epoch has not changed: and what is
    /// not in the set is not read, so nothing is lost where it was made for nothing.
    pub fn may_make(&self, now: Millis, me: u32, chunk: u64, said: &ChunkMeta) -> bool {
        let member = said.in_sync.contains(&me);
        self.epoch(now, chunk).is_none_or(|gone| said.epoch > gone || (!member && said.epoch == gone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(epoch: u64, in_sync: &[u32]) -> ChunkMeta {
        ChunkMeta { epoch, in_sync: in_sync.to_vec(), ..ChunkMeta::default() }
    }

    #[test]
    fn what_was_deleted_is_not_made_anew_by_what_was_long_under_way() {
        let mut d = Deleted::default();
        assert!(d.may_make(0, 4, 7, &said(1, &[4, 3])));
        d.add(0, 7, 2);
        assert!(!d.may_make(1, 4, 7, &said(1, &[4, 3])), "a client's write");
        assert!(!d.may_make(1, 4, 7, &said(2, &[3, 4])), "a primary that does not know the new set");
        assert!(d.may_make(1, 4, 8, &said(1, &[4, 3])), "another chunk");
        assert_eq!((d.epoch(1, 7), d.epoch(1, 8)), (Some(2), None));
    }

    #[test]
    fn it_can_be_brought_up_to_date_again() {
        let mut d = Deleted::default();
        d.add(0, 7, 2);
        assert!(d.may_make(1, 4, 7, &said(2, &[3, 5])), "it is not in the set yet");
        assert!(!d.may_make(1, 4, 7, &said(1, &[3, 5])), "a former primary");
        assert!(d.may_make(1, 4, 7, &said(3, &[3, 5, 4])));
        d.forget(7);
        assert!(d.may_make(1, 4, 7, &said(2, &[3, 4])));
    }

    #[test]
    fn an_earlier_deletion_does_not_end_a_later_one() {
        let mut d = Deleted::default();
        d.add(0, 7, 5);
        d.add(KEPT_MS - 1, 7, 2);
        d.add(KEPT_MS, 8, 1);
        assert_eq!(d.epoch(KEPT_MS, 7), Some(5));
        assert_eq!(d.epoch(2 * KEPT_MS, 7), None);
        d.add(2 * KEPT_MS, 9, 1);
        assert_eq!((d.epochs.len(), d.order.len()), (1, 1));
    }

    #[test]
    fn so_many_are_remembered_and_no_more() {
        let mut d = Deleted::default();
        (0..KEPT as u64 + 5).for_each(|chunk| d.add(0, chunk, 1));
        assert_eq!((d.epochs.len(), d.order.len()), (KEPT, KEPT));
        assert_eq!((d.epoch(0, 4), d.epoch(0, 5)), (None, Some(1)));
    }
}
