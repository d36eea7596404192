//! Serving a mount from its beginning to its end.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_proto::InodeId;
use cairn_proto::monitor::Monitor;
use tokio::sync::mpsc;

use crate::engine::{Engine, EngineConfig};
use crate::fuse::{Adapter, KernelCaches, clone_device, handshake, report, serve};
use crate::mountpoint::{MountError, check, detach, mount, set_read_ahead, unmount};
use crate::options::MountOptions;
use crate::squash::Squash;

/// Operations fail after so long where outages are not to be waited for: a moment is allowed, as one dead server is no
/// outage and others take over within it.
const NO_WAIT: Duration = Duration::from_secs(2);
/// How far the kernel reads files ahead, KiB.
const READ_AHEAD: u32 = 1024;
/// How long the end of the device's threads is waited for; a lazy unmount with files open has no end in sight.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// What operations do while the servers that they need do not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOutage {
    /// Wait, and fail after this time.
    Wait(Duration),
    /// Fail.
    Error,
}

impl OnOutage {
    fn patience(self) -> Duration {
        match self {
            // A program's call may consist of several requests, which wait but briefly once the first has waited
            // in vain: all of them together are to end within the time.
            Self::Wait(time) => time - time / 20,
            Self::Error => NO_WAIT,
        }
    }
}

/// Settings of a mount.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// "host:port" of each master.
    pub masters: Vec<String>,
    /// The directory of the cluster that becomes the mount's root: "/", or "/" and names with "/" between them.
    pub root: String,
    /// An empty directory.
    pub dir: PathBuf,
    /// How it is mounted.
    pub options: MountOptions,
    /// Which callers count as the anonymous user.
    pub squash: Squash,
    /// Bytes of memory for data on its way, at most.
    pub memory: usize,
    /// What operations do while servers do not answer.
    pub on_outage: OnOutage,
    /// Threads that read the kernel's requests.
    pub threads: usize,
    /// Is told how this mount can be asked how it is.
    pub monitor: Monitor,
}

/// Mounts and serves. Returns when the file system has been unmounted, or unmounts it itself when `shutdown` completes
/// (lazily, if it is in use); in both cases after everything has been written back. `ready` is called once the mount
/// answers. To be run in a multi-threaded runtime.
///
/// # Errors
/// What stood in the way of mounting; at the end, that something could not be written back.
pub async fn run(
    config: MountConfig,
    ready: impl FnOnce() + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), MountError> {
    if config.masters.is_empty() || config.threads == 0 {
        return Err(MountError::Usage("at least one master and one thread are needed".into()));
    }
    let dir = config.dir.clone();
    in_thread(move || check(&dir)).await??;
    config.monitor.starting("no master has welcomed this mount yet");
    let engine = Engine::start(engine_config(&config)).await?;
    let root = match directory(&engine, &config.root).await {
        Ok(root) => root,
        Err(e) => {
            let _ = engine.stop().await;
            return Err(e);
        }
    };
    let source = source(&config);
    let (dir, options) = (config.dir.clone(), config.options.clone());
    let device = in_thread(move || {
        let device = mount(&dir, &source, &options)?;
        match handshake(&device) {
            Ok(()) => Ok(device),
            Err(source) => {
                let _ = detach(&dir);
                Err(MountError::Mount { dir, source })
            }
        }
    })
    .await??;
    let mut ended = match start_threads(device, &engine, root, &config) {
        Ok(ended) => ended,
        Err(e) => {
            let _ = detach(&config.dir);
            return Err(e);
        }
    };
    let dir = config.dir.clone();
    in_thread(move || set_read_ahead(&dir, READ_AHEAD)).await?;
    tracing::info!(dir = %config.dir.display(), exclusive = engine.exclusive(), "mounted");
    ready();
    tokio::select! {
        _ = ended.recv() => {}
        () = shutdown => leave(&config.dir, &mut ended).await?,
    }
    engine.stop().await?;
    tracing::info!(dir = %config.dir.display(), "unmounted");
    Ok(())
}

async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, MountError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| MountError::System(io::Error::other(e)))
}

/// What the mount table shows.
fn source(config: &MountConfig) -> String {
    let masters = config.masters.join(",");
    if config.root == "/" { format!("cairn:{masters}") } else { format!("cairn:{masters}:{}", config.root) }
}

/// The inode of a directory of the cluster, from its path.
async fn directory(engine: &Engine, path: &str) -> Result<u64, MountError> {
    let mut inode = InodeId::ROOT.0;
    let mut so_far = String::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        so_far = format!("{so_far}/{name}");
        let failed = |source| MountError::Root { path: path.to_owned(), source };
        match engine.lookup(inode, name.as_bytes()).await.map_err(failed)? {
            Some(attr) if attr.is_directory() => inode = attr.inode,
            Some(_) => return Err(MountError::RootNotADirectory(so_far)),
            None => return Err(MountError::RootMissing(so_far)),
        }
    }
    Ok(inode)
}

fn engine_config(config: &MountConfig) -> EngineConfig {
    let first_line = |path| std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default();
    EngineConfig {
        masters: config.masters.clone(),
        mount_dir: config.dir.display().to_string(),
        host: first_line("/proc/sys/kernel/hostname"),
        boot_id: first_line("/proc/sys/kernel/random/boot_id"),
        memory: config.memory,
        outage: config.on_outage.patience(),
        read_only: config.options.read_only,
        http: config.monitor.address().to_owned(),
    }
}

/// Starts the threads that read from the device. The channel ends when the last of them has.
fn start_threads(
    device: OwnedFd,
    engine: &Arc<Engine>,
    root: u64,
    config: &MountConfig,
) -> Result<mpsc::Receiver<()>, MountError> {
    let runtime = tokio::runtime::Handle::current();
    let adapter = Adapter::new(engine.clone(), root, config.squash, runtime.clone());
    let device = Arc::new(device);
    let kernel = Arc::new(KernelCaches { device: device.clone(), root, adapter: Arc::downgrade(&adapter) });
    adapter.set_kernel(kernel.clone());
    engine.set_upper_caches(kernel);
    let (alive, ended) = mpsc::channel(1);
    let asked = Arc::downgrade(&adapter);
    config.monitor.answered_by(move || std::future::ready(report(&asked)));
    for n in 0..config.threads {
        let device =
            if n == 0 { device.clone() } else { Arc::new(clone_device(&device).map_err(io::Error::from)?) };
        let (adapter, runtime, alive) = (adapter.clone(), runtime.clone(), alive.clone());
        std::thread::Builder::new().name(format!("fuse-{n}")).spawn(move || {
            let _runtime = runtime.enter();
            serve(&device, &adapter);
            drop(alive);
        })?;
    }
    Ok(ended)
}

/// Unmounts; lazily, if somebody is inside.
async fn leave(dir: &Path, ended: &mut mpsc::Receiver<()>) -> Result<(), MountError> {
    let dir = dir.to_owned();
    in_thread(move || match unmount(&dir) {
        Ok(()) => Ok(()),
        Err(e) => {
            tracing::info!(error = %e, "unmounting lazily");
            detach(&dir)
        }
    })
    .await??;
    if tokio::time::timeout(LAST_REQUESTS, ended.recv()).await.is_err() {
        tracing::warn!(
            "the file system was in use when it was unmounted: what is open on it fails from now on"
        );
    }
    Ok(())
}
