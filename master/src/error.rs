//! Why a master cannot run.

use std::net::SocketAddr;

use crate::core::view::ViewError;
use crate::store::StoreError;

/// Why a master cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be opened or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The address cannot be served on.
    #[error("cannot listen on {addr}: {source}{}", mend(.source))]
    Listen {
        /// Which.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Config(&'static str),
    /// The server failed.
    #[error("serving failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The owner's state was lost in the middle of a turn: a bug.
    #[error("the master has failed inside; what it last wrote to its log says where")]
    Owner,
}

fn mend(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            "; another process serves there: stop it, or choose another address with --listen"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "; this machine has no such address: choose one of its own with --listen"
        }
        _ => "",
    }
}
