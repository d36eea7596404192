//! The subcommands.

pub mod chunkserver;
pub mod down;
pub mod drill;
pub mod file;
pub mod fsck;
pub mod limits;
pub mod locks;
pub mod master;
pub mod mount;
pub mod node;
pub mod scrub;
pub mod status;
pub mod umount;
pub mod up;
pub mod watch;
pub mod which;

use std::path::{Path, PathBuf};

use crate::error::Failure;

/// Where `up` keeps a cluster unless told otherwise: `/var/lib/cairn` for root, else in the XDG state directory.
pub fn default_data() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/cairn".into();
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".local/state");
    state.unwrap_or_else(home).join("cairn")
}

/// `path` from the root on, so that it holds after the process went elsewhere.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))
}
