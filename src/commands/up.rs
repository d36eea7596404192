//! `cairn up`: a whole cluster on this machine, mounted and looked after.

use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::commands::{self, mount};
use crate::error::Failure;
use crate::supervisor::layout::{Cluster, Layout};
use crate::supervisor::{self, Plan};
use crate::{daemon, mounts, process};

/// How long it may take until the mount answers; the processes' own limits are shorter.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// Flags of `cairn up`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to mount; made if it is not there
    pub dir: PathBuf,
    /// Directory of the cluster's data; made if it is not there
    #[arg(long, value_name = "DIR", env = "CAIRN_DATA", hide_env_values = true,
          default_value_os_t = commands::default_data())]
    pub data: PathBuf,
    /// Chunkservers [default: 3, or as many as the cluster has]
    #[arg(long, value_name = "N", env = "CAIRN_CHUNKSERVERS", hide_env_values = true,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub chunkservers: Option<u16>,
    /// Copies of each new chunk [default: 3, or as the cluster has it; never more than there are chunkservers]
    #[arg(long, value_name = "N", env = "CAIRN_REPLICAS", hide_env_values = true,
          value_parser = clap::value_parser!(u16).range(1..=15))]
    pub replicas: Option<u16>,
    /// Keep the data in a directory of its own that is deleted at the end
    #[arg(long, env = "CAIRN_EPHEMERAL", hide_env_values = true, conflicts_with = "data")]
    pub ephemeral: bool,
    /// Run in the background; returns once the mount answers
    #[arg(short = 'd', long, env = "CAIRN_DETACH", hide_env_values = true)]
    pub detach: bool,
    /// The directory for --ephemeral, already made
    #[arg(long, hide = true)]
    pub ephemeral_dir: Option<PathBuf>,
    /// What the mount is like
    #[command(flatten)]
    pub tuning: mount::Tuning,
}

/// Runs the cluster until a signal ends it, or starts it in the background.
pub fn run(args: Args, config: Option<&Path>, in_background: bool) -> Result<(), Failure> {
    mount::options(&args.tuning.options)?;
    let dir = commands::absolute(&args.dir)?;
    let temporary = match (&args.ephemeral_dir, args.ephemeral) {
        (Some(made), _) => Some(Temporary(made.clone())),
        (None, true) => Some(Temporary::make()?),
        (None, false) => None,
    };
    let data = commands::absolute(temporary.as_ref().map_or(&args.data, |t| &t.0))?;
    let (layout, cluster) = prepare(&args, &data, &dir)?;
    if args.detach && !in_background {
        return in_the_background(&layout, &dir, temporary);
    }
    let plan = Plan {
        dir,
        mount_flags: mount_flags(&args.tuning),
        config: config.map(commands::absolute).transpose()?,
        show: !in_background,
    };
    process::small_runtime()?.block_on(supervisor::run(&layout, cluster, plan))
}

fn in_the_background(layout: &Layout, dir: &Path, temporary: Option<Temporary>) -> Result<(), Failure> {
    let extra = match &temporary {
        Some(Temporary(data)) => vec![OsString::from("--ephemeral-dir"), data.into()],
        None => Vec::new(),
    };
    let log = layout.log("up");
    let launched = daemon::launch(&extra, Some(&log), READY_LIMIT);
    let pid = process::small_runtime()?.block_on(launched)?;
    // From now on it belongs to the process in the background.
    std::mem::forget(temporary);
    let data = layout.root().display();
    println!(
        "CairnFS is mounted on {} (process {pid}, data in {data}); `cairn down --data {data}` stops it",
        dir.display()
    );
    Ok(())
}

/// Refuses what cannot work before anything is started, and makes the directories.
fn prepare(args: &Args, data: &Path, dir: &Path) -> Result<(Layout, Cluster), Failure> {
    let layout = Layout::new(data);
    if let Some(pid) = layout.supervisor()? {
        let cluster = layout.load()?;
        return Err(Failure::System(format!(
            "the cluster in {} is already running (process {pid}), mounted on {}; `cairn down` stops it",
            data.display(),
            cluster.mount.display()
        )));
    }
    if data.starts_with(dir) || dir.starts_with(data) {
        return Err(Failure::Usage(format!(
            "the data directory {} and the mountpoint {} must not lie in each other",
            data.display(),
            dir.display()
        )));
    }
    // Before the mountpoint, which a leftover of this cluster may still hold.
    if layout.exists() {
        supervisor::stop::leftovers(&layout, &layout.load()?)?;
    }
    check_mountpoint(dir)?;
    let cluster = layout.prepare(args.chunkservers, args.replicas, dir)?;
    Ok((layout, cluster))
}

fn check_mountpoint(dir: &Path) -> Result<(), Failure> {
    let wrong = |what: String| Err(Failure::Mount(format!("{}: {what}", dir.display())));
    if !Path::new("/dev/fuse").exists() {
        return Err(Failure::Mount("/dev/fuse is not there; load the kernel's fuse module".to_owned()));
    }
    mounts::clear_dead(dir);
    if mounts::is_on(dir) {
        return wrong("CairnFS is already mounted there; `cairn umount` ends it".to_owned());
    }
    match std::fs::read_dir(dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => wrong("the mountpoint is not empty".to_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match std::fs::create_dir(dir) {
            Ok(()) => Ok(()),
            Err(e) => wrong(format!("cannot make the mountpoint: {e}")),
        },
        Err(e) => wrong(e.to_string()),
    }
}

/// A directory that is deleted with everything in it.
struct Temporary(PathBuf);

impl Temporary {
    fn make() -> Result<Self, Failure> {
        let dir = std::env::temp_dir().join(format!("cairn-{:016x}", rand::random::<u64>()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|e| Failure::system(dir.display(), &e))?;
        Ok(Self(dir))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), error = %e, "cannot delete the ephemeral data");
        }
    }
}

/// The flags to hand on to `cairn mount`.
fn mount_flags(tuning: &mount::Tuning) -> Vec<OsString> {
    let mut flags = vec![
        format!("--on-outage={}", mount::outage_text(tuning.on_outage)).into(),
        format!("--memory={}", tuning.memory).into(),
        format!("--threads={}", tuning.threads).into(),
    ];
    if !tuning.options.is_empty() {
        flags.push(format!("--options={}", tuning.options.join(",")).into());
    }
    flags
}
