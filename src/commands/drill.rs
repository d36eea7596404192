//! `cairn drill`: lets chunkservers fail on purpose, and tells how long that made programs wait.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairn_proto::rpc::{NodeState, StatusReply};

use crate::drill::fault::{Fault, Faulty};
use crate::drill::load::Load;
use crate::drill::report::{self, Run};
use crate::error::Failure;
use crate::{admin, mounts, process};

/// All copies have to be back by then.
const WHOLE: Duration = Duration::from_secs(180);
/// The load runs so long between two faults.
const CALM: Duration = Duration::from_secs(1);
/// A call that takes longer than this counts as hanging.
const HANGS: Duration = Duration::from_secs(60);

/// Flags of `cairn drill`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A mount of a cluster whose chunkservers run on this machine and are started again when they die
    pub mount: PathBuf,
    /// Faults of each kind
    #[arg(long, value_name = "N", env = "CAIRN_RUNS", hide_env_values = true, default_value_t = 20,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Kinds of faults
    #[arg(long, value_name = "FAULT,…", env = "CAIRN_FAULTS", hide_env_values = true, value_delimiter = ',',
          default_values_t = Fault::ALL.map(|f| f.name().to_owned()), value_parser = Fault::ALL.map(Fault::name))]
    pub faults: Vec<String>,
    /// As JSON, with each run
    #[arg(long, env = "CAIRN_JSON", hide_env_values = true)]
    pub json: bool,
}

struct Drill {
    runtime: tokio::runtime::Runtime,
    masters: Vec<String>,
    /// The written file's inode.
    inode: u64,
}

/// Writes and reads on the mount while one chunkserver after the other is killed or stopped. Errors: the cluster is
/// not whole to begin with or does not become whole again, a call of the load failed.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mount = &args.mount;
    let cannot = |e: std::io::Error| Failure::System(format!("{}: {e}", mount.display()));
    let held = mounts::holding(&mount.canonicalize().map_err(cannot)?).map_err(cannot)?;
    let masters = match held {
        Some(held) => held.masters,
        None => return Err(Failure::Usage(format!("{} is no CairnFS mount", mount.display()))),
    };
    let dir = Scratch::make(mount).map_err(cannot)?;
    let load = Load::start(&dir.0).map_err(cannot)?;
    let inode = std::fs::metadata(dir.0.join("written")).map_err(cannot)?.ino();
    let drill = Drill { runtime: process::small_runtime()?, masters, inode };
    let kinds = Fault::ALL.into_iter().filter(|f| args.faults.iter().any(|a| a == f.name()));
    let plan = kinds.flat_map(|fault| (0..args.runs).map(move |n| (fault, n % 2 == 0)));
    let mut runs = Vec::new();
    for (fault, primary) in plan {
        let run = drill.once(&load, fault, primary)?;
        if !args.json {
            print!(".");
            // Only for people to see that it goes on.
            let _ = std::io::stdout().flush();
        }
        runs.push(run);
    }
    drop(load);
    match args.json {
        true => println!("{:#}", report::as_json(&runs)),
        false => print!("\n{}", report::as_text(&runs)),
    }
    match runs.iter().map(|r| r.writes.errors + r.reads.errors).sum::<u64>() {
        0 => Ok(()),
        n => Err(Failure::System(format!("{n} calls failed"))),
    }
}

impl Drill {
    fn once(&self, load: &Load, fault: Fault, primary: bool) -> Result<Run, Failure> {
        let status = self.until_whole()?;
        std::thread::sleep(CALM);
        let pid = self.victim(&status, primary)?;
        load.look();
        let start = Instant::now();
        let faulty = Faulty::make(fault, pid)?;
        std::thread::sleep(fault.lasts());
        if !load.goes_on(HANGS) {
            return Err(Failure::System(format!("a call takes more than {HANGS:?}")));
        }
        drop(faulty);
        self.until_whole()?;
        let whole = start.elapsed();
        let (writes, reads) = load.look();
        Ok(Run { fault, primary, writes, reads, whole })
    }

    /// Waits until all servers are alive and all copies are there.
    fn until_whole(&self) -> Result<StatusReply, Failure> {
        let start = Instant::now();
        loop {
            let status = self.runtime.block_on(admin::status(&self.masters))?;
            let alive = status
                .chunkservers
                .iter()
                .all(|s| s.info.as_ref().is_some_and(|i| i.state() == NodeState::Alive));
            if alive && status.chunks_under_replicated == 0 && status.chunks_missing == 0 {
                return Ok(status);
            }
            if start.elapsed() > WHOLE {
                return Err(Failure::System(format!(
                    "after {WHOLE:?} not all chunkservers are alive or {} chunks lack copies: see `cairn status`",
                    status.chunks_under_replicated + status.chunks_missing
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The process of the written chunk's primary, or of another server that has it.
    fn victim(&self, status: &StatusReply, primary: bool) -> Result<u32, Failure> {
        let file = self.runtime.block_on(admin::file(&self.masters, self.inode))?;
        let set = file.chunks.first().map(|c| c.in_sync.clone()).unwrap_or_default();
        let server = if primary { set.first() } else { set.last() };
        let of = |id: &u32| status.chunkservers.iter().find(|s| s.info.as_ref().is_some_and(|i| i.id == *id));
        match server.and_then(of) {
            Some(found) => Ok(found.pid),
            None => Err(Failure::System("no server has the written chunk".to_owned())),
        }
    }
}

/// The drill's files; they go with it.
struct Scratch(PathBuf);

impl Scratch {
    fn make(mount: &Path) -> std::io::Result<Self> {
        let dir = mount.join(format!(".cairn-drill-{}", std::process::id()));
        std::fs::create_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::error!("{} is left: {e}", self.0.display());
        }
    }
}
