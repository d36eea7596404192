//! `cairn umount`: ends a mount.

use std::path::PathBuf;

use crate::commands::{self, mount};
use crate::error::Failure;
use crate::mounts;

/// Flags of `cairn umount`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where it is mounted
    pub dir: PathBuf,
    /// Also when it is in use: nothing new gets in, what is inside stays until it leaves
    #[arg(short = 'l', long, env = "CAIRN_LAZY", hide_env_values = true)]
    pub lazy: bool,
}

/// Unmounts. Errors: nothing is mounted there, it is in use.
pub fn run(args: &Args) -> Result<(), Failure> {
    let dir = commands::absolute(&args.dir)?;
    if !mounts::is_on(&dir) {
        return Err(Failure::Mount(format!("{}: no CairnFS is mounted there", dir.display())));
    }
    if args.lazy {
        return match mounts::detach(&dir) {
            true => Ok(()),
            false => Err(Failure::Mount(format!("{}: cannot be unmounted", dir.display()))),
        };
    }
    cairn_fuse_client::unmount(&dir).map_err(|e| mount::failure(&e))
}
