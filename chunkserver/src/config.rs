//! How a chunkserver is run, and why it may not start.

use crate::disk::DiskError;
use crate::disk::identity::IdentityError;
use cairn_proto::monitor::Monitor;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a chunkserver.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its directories, one a disk.
    pub data: Vec<PathBuf>,
    /// Where it listens for data connections.
    pub listen: SocketAddr,
    /// Where it listens for those on the same machine.
    pub unix_socket: Option<PathBuf>,
    /// "host:port" of each master.
    pub masters: Vec<String>,
    /// Copies are spread over racks.
    pub rack: String,
    /// A member that is silent for so long while it owes an answer is dropped from the set.
    pub member_timeout: Duration,
    /// Bytes in a journal segment (of a new disk).
    pub journal_segment_bytes: u64,
    /// Free bytes on each disk that are left to others and to the journal: below, writes get ENOSPC.
    pub reserve_bytes: u64,
    /// Chunk files kept open on each disk.
    pub open_files: usize,
    /// Bytes a second that are read on each disk to verify what is stored; 0: only on command.
    pub scrub_rate: u64,
    /// Is told how this server can be asked how it is.
    pub monitor: Monitor,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: Vec::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            unix_socket: None,
            masters: Vec::new(),
            rack: String::new(),
            member_timeout: Duration::from_millis(500),
            journal_segment_bytes: 32 << 20,
            reserve_bytes: 192 << 20,
            open_files: 512,
            scrub_rate: 10 << 20,
            monitor: Monitor::default(),
        }
    }
}

/// Why a chunkserver does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No data directory was named.
    #[error("no data directory was named")]
    NoData,
    /// A data directory cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Two data directories belong to different servers or clusters.
    #[error("{0} belongs to another cluster or chunkserver than {1}")]
    Mixed(PathBuf, PathBuf),
    /// A disk cannot be opened.
    #[error("{path}: {error}")]
    Disk {
        /// Its directory.
        path: PathBuf,
        /// What is the matter.
        error: DiskError,
    },
    /// The address is taken or not this machine's.
    #[error("cannot listen on {at}: {error}")]
    Listen {
        /// The address.
        at: String,
        /// What is the matter.
        error: std::io::Error,
    },
    /// The master will not have this server: another cluster, or another version.
    #[error("the master refuses this chunkserver: {0}")]
    Refused(String),
    /// The master's answer makes no sense.
    #[error("the master's answer to the registration makes no sense: {0}")]
    Nonsense(&'static str),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}
