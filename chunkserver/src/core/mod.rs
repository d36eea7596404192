//! Pure logic: formats, the block table and the replication state machine. No files, sockets,
//! clocks or random sources: time comes in as an argument, effects go out as values.

pub mod agreement;
pub mod deleted;
pub mod differences;
pub mod fence;
pub mod heat;
pub mod layout;
pub mod pacer;
pub mod placement;
pub mod recent;
pub mod record;
pub mod replay;
pub mod replica;
pub mod scrub;
pub mod table;

/// Milliseconds of a monotonic clock that also runs while the machine sleeps.
pub type Millis = u64;
