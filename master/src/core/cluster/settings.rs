//! What can be set about a cluster.

/// All times in milliseconds, all sizes in bytes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Every chunkserver belongs to this cluster.
    pub cluster_id: [u8; 16],
    /// In every command: which master sent it.
    pub term: u64,
    /// Copies of a chunk, where nothing else is said.
    pub copies: u32,
    /// Bytes in a chunk.
    pub chunk_size: u64,
    /// Between heartbeats of a chunkserver.
    pub heartbeat_ms: u64,
    /// A chunkserver serves for so long after the sending of its last acknowledged heartbeat.
    pub lease_ms: u64,
    /// The master waits so much longer, from the heartbeat's arrival: for clocks that run at different speeds.
    pub lease_margin_ms: u64,
    /// A chunkserver that only its peers reach is called dead after so long.
    pub unreachable_ms: u64,
    /// A replica of an unknown chunk is deleted after so long.
    pub stranger_grace_ms: u64,
    /// An unconfirmed change at a chunkserver is not doubted for so long: reports that were made before it may still arrive.
    pub doubt_ms: u64,
    /// A repair that gave no result for so long is started again.
    pub repair_timeout_ms: u64,
    /// The first and the longest pause between attempts to repair a chunk.
    pub repair_backoff_ms: (u64, u64),
    /// Chunks that a chunkserver may be sending, and may be receiving, for repair at a time.
    pub repairs_per_server: usize,
    /// Chunks that may be copied at a time.
    pub repairs_at_once: usize,
    /// Bytes that copies may have a second, for each chunkserver that is alive; less while the foreground suffers.
    pub repair_rate: u64,
    /// Replicas that a chunkserver is told to delete, a second.
    pub deletes_per_second: u64,
    /// Chunk records looked at, at most, a tick.
    pub audit_records: usize,
    /// Chunk records changed, at most, a tick (beyond those that somebody waits for).
    pub audit_changes: usize,
    /// A chunkserver that is fuller than this takes no new replicas; in thousandths.
    pub full_permille: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cluster_id: [0; 16],
            term: 1,
            copies: 3,
            chunk_size: cairn_proto::block::CHUNK,
            heartbeat_ms: 1_000,
            lease_ms: 3_000,
            lease_margin_ms: 150,
            unreachable_ms: 30_000,
            stranger_grace_ms: 60_000,
            doubt_ms: 10_000,
            repair_timeout_ms: 60_000,
            repair_backoff_ms: (500, 30_000),
            repairs_per_server: 8,
            repairs_at_once: 1_024,
            repair_rate: 64 << 20,
            deletes_per_second: 2_000,
            audit_records: 4_096,
            audit_changes: 512,
            full_permille: 950,
        }
    }
}
