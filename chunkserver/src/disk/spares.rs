//! Files of deleted replicas that are kept for new ones: making and removing a file, and giving its blocks back, costs a
//! file system far more than renaming it.

use cairn_proto::block::BLOCK;
use std::collections::{BTreeSet, HashMap};

/// The longest chunk whose file is kept, blocks.
pub const LONGEST: u32 = 16;
/// A file may have room for so many blocks more than its new chunk needs: they stay taken for as long as that lives.
const SLACK: u32 = 4;
/// Files kept, at most.
const FILES: usize = 16_384;
/// Blocks that they take together, at most (a table and a header are two).
const BLOCKS: u64 = 64 << 10;
const OVERHEAD: u64 = 2;

/// Which files there are: by the chunk whose name they still have, and how many blocks they have room for.
#[derive(Debug, Default)]
pub struct Spares {
    by_room: BTreeSet<(u32, u64)>,
    rooms: HashMap<u64, u32>,
    blocks: u64,
}

impl Spares {
    /// Whether a file with room for so many blocks is wanted when so many others will be added before.
    pub fn wants(&self, room: u32, coming: usize) -> bool {
        room <= LONGEST && self.rooms.len() + coming < FILES
    }

    /// Keeps a file with room for so many blocks. False: it is not wanted.
    pub fn add(&mut self, id: u64, room: u32) -> bool {
        let blocks = u64::from(room) + OVERHEAD;
        if !self.wants(room, 0) || self.blocks + blocks > BLOCKS {
            return false;
        }
        if self.rooms.insert(id, room).is_none() {
            self.by_room.insert((room, id));
            self.blocks += blocks;
        }
        true
    }

    /// Takes the file that fits best a chunk that needs room for so many blocks, with its room.
    pub fn take(&mut self, blocks: u32) -> Option<(u64, u32)> {
        let (room, id) =
            self.by_room.range(..=(blocks.saturating_add(SLACK), u64::MAX)).next_back().copied()?;
        self.remove(id)?;
        Some((id, room))
    }

    /// Takes the file with this name.
    pub fn remove(&mut self, id: u64) -> Option<u32> {
        let room = self.rooms.remove(&id)?;
        self.by_room.remove(&(room, id));
        self.blocks -= u64::from(room) + OVERHEAD;
        Some(room)
    }

    /// The space that they take, bytes.
    pub fn bytes(&self) -> u64 {
        self.blocks * BLOCK as u64
    }

    /// Some file, as none should be kept while space is short.
    pub fn any(&self) -> Option<u64> {
        self.by_room.last().map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_that_wastes_little_is_taken() {
        let mut s = Spares::default();
        for (id, room) in [(1, 1), (2, 5), (3, 16), (4, 5)] {
            assert!(s.add(id, room));
        }
        assert!(!s.add(5, LONGEST + 1));
        assert_eq!(s.take(1), Some((4, 5)));
        assert_eq!(s.take(1), Some((2, 5)));
        assert_eq!(s.take(1), Some((1, 1)));
        assert_eq!(s.take(1), None, "sixteen are too many for one");
        assert_eq!(s.take(100), Some((3, 16)));
        assert_eq!((s.any(), s.blocks), (None, 0));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut s = Spares::default();
        let kept = (0..100_000).filter(|id| s.add(*id, LONGEST)).count();
        assert!(kept as u64 * (u64::from(LONGEST) + OVERHEAD) <= BLOCKS);
        let mut s = Spares::default();
        assert_eq!((0..100_000).filter(|id| s.add(*id, 0)).count(), FILES);
        assert_eq!(s.remove(7), Some(0));
        assert!(s.remove(7).is_none() && s.add(7, 1));
    }
}
