//! What can be set about a master.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cairn_proto::monitor::Monitor;

/// A master's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of its store; made if it is not there.
    pub data: PathBuf,
    /// Where it serves.
    pub listen: SocketAddr,
    /// Copies of each new chunk.
    pub copies: u32,
    /// Bytes in a chunk, a power of two. Fixed when the cluster is made.
    pub chunk_size: u64,
    /// A session not heard of for so long ends.
    pub session_ttl: Duration,
    /// Between heartbeats of a chunkserver.
    pub heartbeat: Duration,
    /// Bytes that copies may have a second, for each chunkserver that is alive.
    pub repair_rate: u64,
    /// Run in a shell when a chunkserver's state changes.
    pub on_node_change: Option<String>,
    /// Is told how this master can be asked how it is.
    pub monitor: Monitor,
    /// A chunkserver serves for so long after the sending of its last acknowledged heartbeat.
    pub lease: Duration,
    /// Whose the root directory of a new cluster is: user and group.
    pub owner: (u32, u32),
}

impl Default for Config {
    /// Three copies, chunks of 64 MiB, port 7460 of this machine; `data` is to be set.
    fn default() -> Self {
        Self {
            data: PathBuf::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7460)),
            copies: 3,
            chunk_size: cairn_proto::block::CHUNK,
            session_ttl: Duration::from_secs(10),
            heartbeat: Duration::from_secs(1),
            lease: Duration::from_secs(3),
            repair_rate: 64 << 20,
            on_node_change: None,
            monitor: Monitor::default(),
            owner: (0, 0),
        }
    }
}
