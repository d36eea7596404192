//! Settings of the data path.

use std::time::Duration;

/// Settings of the data path, fixed for the life of a mount.
#[derive(Clone, Debug)]
pub struct DataConfig {
    /// Bytes of dirty data and read-ahead together, at most (softly: plus a piece for each writer).
    pub memory: usize,
    /// How long an operation tries before it fails.
    pub outage: Duration,
    /// Bytes in a chunk, a power of two, at least one block.
    pub chunk_size: u64,
    /// This mount's session with the master.
    pub session: u64,
    /// The cluster's id; servers of another one are refused.
    pub cluster: [u8; 16],
    /// Chunk locations cached at most.
    pub locations: usize,
    /// This machine's boot id: servers with the same one are reached by their Unix sockets. Empty: never.
    pub boot_id: String,
    /// How long dirty data that fills no piece waits for more.
    pub flush_delay: Duration,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            outage: Duration::from_secs(30),
            chunk_size: cairn_proto::block::CHUNK,
            session: 0,
            cluster: [0; 16],
            locations: 65_536,
            boot_id: String::new(),
            flush_delay: Duration::from_secs(1),
        }
    }
}
