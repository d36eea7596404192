//! Something on a disk: as the page cache has it, and as it may be after the power has failed.

use crate::rng::SplitMix64;

/// What was written since the last sync, oldest first, over what is on stable storage.
#[derive(Clone, Default)]
pub struct Image<T> {
    stable: T,
    written: Vec<T>,
}

impl<T: Clone> Image<T> {
    pub fn get(&self) -> &T {
        self.written.last().unwrap_or(&self.stable)
    }

    pub fn write(&mut self, value: T) {
        self.written.push(value);
    }

    pub fn sync(&mut self) {
        if let Some(last) = self.written.pop() {
            self.stable = last;
            self.written.clear();
        }
    }

    /// Any of the values may be what is left, or one that was written in part.
    pub fn lose_power(&mut self, rng: &mut SplitMix64, torn: impl FnOnce(&T, &mut SplitMix64) -> T) {
        let n = self.written.len() as u64;
        if n == 0 {
            return;
        }
        match rng.below(n + 2) {
            0 => {}
            i if i <= n => self.stable = self.written[i as usize - 1].clone(),
            _ => self.stable = torn(self.get(), rng),
        }
        self.written.clear();
    }
}
