//! What the master decides, without doing any of it: no runtime, no sockets, no files, no clock, no
//! random source. Time and randomness come in as arguments, effects go out as values.

pub mod changes;
pub mod cluster;
pub mod errno;
pub mod fsck;
pub mod keys;
pub mod layer;
pub mod leases;
pub mod locks;
pub mod namespace;
pub mod records;
pub mod scratch;
pub mod sessions;
pub mod view;

/// Ticks further apart than this, in milliseconds, mean that the master itself was away: stopped, or waiting
/// for its disk. What the mounts said meanwhile may still wait to be read, so it does not count as silence.
pub(crate) const ABSENCE_MS: u64 = 1_000;

/// Milliseconds on a monotonic clock, from an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// This point and `ms` milliseconds more.
    #[must_use]
    pub const fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// How many milliseconds lie between `earlier` and this point; 0 if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
