//! `cairn mount`: mounts a cluster and serves the mount.

use std::path::PathBuf;
use std::time::Duration;

use cairn_fuse_client::{MountConfig, MountError, MountOptions, OnOutage, Squashed};

use crate::error::{Failure, chain};
use crate::{commands, daemon, http, mounts, notify, process, values};

/// How long a mount in the background may take until it answers.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Flags of `cairn mount`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The masters, and the directory of the cluster to be mounted [default: its root]
    #[arg(value_name = "ADDR,…[:/DIR]", value_parser = values::target)]
    pub target: values::Target,
    /// An empty directory
    pub dir: PathBuf,
    /// Run in the background; returns once the mount answers
    #[arg(short = 'd', long, env = "CAIRN_DETACH", hide_env_values = true)]
    pub detach: bool,
    /// Refuse all changes, as does `-o ro`
    #[arg(long, env = "CAIRN_READ_ONLY", hide_env_values = true)]
    pub read_only: bool,
    /// Who is somebody else
    #[command(flatten)]
    pub squash: Squash,
    /// Questions over HTTP
    #[command(flatten)]
    pub http: http::Args,
    /// What the mount is like
    #[command(flatten)]
    pub tuning: Tuning,
}

/// Flags for callers who count as somebody else.
#[derive(Debug, clap::Args)]
pub struct Squash {
    /// Whose requests count as those of an anonymous user on this mount
    #[arg(long, value_name = "WHOSE", env = "CAIRN_SQUASH", hide_env_values = true, default_value = "none")]
    pub squash: Whose,
    /// The anonymous user's id
    #[arg(
        long,
        value_name = "UID",
        env = "CAIRN_ANON_UID",
        hide_env_values = true,
        default_value_t = 65_534
    )]
    pub anon_uid: u32,
    /// The id of its group
    #[arg(
        long,
        value_name = "GID",
        env = "CAIRN_ANON_GID",
        hide_env_values = true,
        default_value_t = 65_534
    )]
    pub anon_gid: u32,
}

/// Whose requests.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Whose {
    /// Nobody's
    None,
    /// Root's
    Root,
    /// Everybody's
    All,
}

impl From<Squash> for cairn_fuse_client::Squash {
    fn from(flags: Squash) -> Self {
        let who = match flags.squash {
            Whose::None => Squashed::None,
            Whose::Root => Squashed::Root,
            Whose::All => Squashed::All,
        };
        Self { who, uid: flags.anon_uid, gid: flags.anon_gid }
    }
}

/// Flags that `cairn mount` and `cairn up` share.
#[derive(Debug, clap::Args)]
pub struct Tuning {
    /// Mount options, as of mount(8): ro, allow_other, suid, nosuid, dev, nodev, exec, noexec, noatime…
    /// [default: none]
    #[arg(
        short = 'o',
        long,
        value_name = "OPT,…",
        env = "CAIRN_OPTIONS",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub options: Vec<String>,
    /// What an operation does while the servers it needs are away: `wait:TIME` waits so long before it fails,
    /// `error` fails at once
    #[arg(long, value_name = "WHAT", env = "CAIRN_ON_OUTAGE", hide_env_values = true,
          default_value = "wait:30s", value_parser = on_outage)]
    pub on_outage: OnOutage,
    /// Memory for data on its way to and from the chunkservers, and for what was read while other mounts are there
    #[arg(long, value_name = "SIZE", env = "CAIRN_MEMORY", hide_env_values = true,
          default_value = "256MiB", value_parser = values::size)]
    pub memory: u64,
    /// Threads that take requests from the kernel
    #[arg(long, value_name = "N", env = "CAIRN_THREADS", hide_env_values = true, default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
}

fn on_outage(text: &str) -> Result<OnOutage, String> {
    match text.split_once(':') {
        None if text == "error" => Ok(OnOutage::Error),
        Some(("wait", time)) => values::duration(time).map(OnOutage::Wait),
        _ => Err("write wait:TIME (as in wait:30s) or error".to_owned()),
    }
}

/// As `--on-outage` takes it.
pub fn outage_text(what: OnOutage) -> String {
    match what {
        OnOutage::Error => "error".to_owned(),
        OnOutage::Wait(time) => format!("wait:{}ms", time.as_millis()),
    }
}

/// Serves the mount until it is unmounted or a signal ends it.
pub fn run(args: Args, in_background: bool) -> Result<(), Failure> {
    let dir = commands::absolute(&args.dir)?;
    if args.detach && !in_background {
        let launched = daemon::launch(&[], None, READY_LIMIT);
        let pid = process::small_runtime()?.block_on(launched)?;
        tracing::info!(pid, dir = %dir.display(), "mounted");
        return Ok(());
    }
    mounts::clear_dead(&dir);
    let mut options = options(&args.tuning.options)?;
    options.read_only |= args.read_only;
    let config = MountConfig {
        masters: args.target.masters.split(',').map(str::to_owned).collect(),
        root: args.target.directory,
        dir,
        options,
        squash: args.squash.into(),
        memory: usize::try_from(args.tuning.memory).unwrap_or(usize::MAX),
        on_outage: args.tuning.on_outage,
        threads: args.tuning.threads as usize,
        monitor: http::serve(&args.http, "mount")?,
    };
    process::runtime()?.block_on(async {
        let stop = process::terminated()?;
        cairn_fuse_client::run(config, notify::ready, stop).await.map_err(|e| failure(&e))
    })
}

/// The options of `-o`. Errors: one that there is not.
pub fn options(list: &[String]) -> Result<MountOptions, Failure> {
    list.join(",").parse().map_err(|e| Failure::Usage(chain(&e)))
}

/// Tells a wrong call, a failing system and a failed mount from each other.
pub fn failure(error: &MountError) -> Failure {
    Failure::from_code(error.exit_code(), chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_in_an_outage() {
        assert_eq!(on_outage("error"), Ok(OnOutage::Error));
        assert_eq!(on_outage("wait:3s"), Ok(OnOutage::Wait(Duration::from_secs(3))));
        for bad in ["", "wait", "wait:", "error:3s", "panic"] {
            assert!(on_outage(bad).is_err(), "{bad}");
        }
        for what in [OnOutage::Error, OnOutage::Wait(Duration::from_millis(2500))] {
            assert_eq!(on_outage(&outage_text(what)), Ok(what));
        }
    }
}
