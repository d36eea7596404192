//! A cluster's data directory under `cairn up`: where everything is, and what is remembered between runs.
//!
//! ```text
//! cluster.json           addresses, copies, the last mountpoint
//! master/  cs1/ cs2/ …   the servers' own data
//! cs1.sock …             the chunkservers' Unix sockets
//! run/lock               held by the supervisor; holds its pid
//! run/NAME.{pid,log}     each process: its pid and start time, its output
//! ```

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::{Path, PathBuf};

use rand::Rng;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// The format of `cluster.json`. History: 1, the first.
const FORMAT: u32 = 1;

/// The longest path of a Unix socket (`sun_path`), bytes.
const LONGEST_SOCKET_PATH: usize = 107;

/// Ports are chosen below the range from which Linux gives ports to outgoing connections, so that
/// none of those holds one of ours when the cluster starts again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What is remembered between runs.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Cluster {
    format: u32,
    /// Copies of each new chunk.
    pub replicas: u16,
    /// The master's address.
    pub master: SocketAddr,
    /// The chunkservers' addresses, in the order of their directories.
    pub chunkservers: Vec<SocketAddr>,
    /// Where it was mounted last.
    pub mount: PathBuf,
}

impl Cluster {
    /// The master's address as clients take it.
    pub fn master_address(&self) -> String {
        self.master.to_string()
    }
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of the data directory `root` (absolute).
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The master's own directory.
    pub fn master(&self) -> PathBuf {
        self.root.join("master")
    }

    /// The own directory of a chunkserver, counted from 1.
    pub fn chunkserver(&self, number: usize) -> PathBuf {
        self.root.join(format!("cs{number}"))
    }

    /// A chunkserver's Unix socket; none where the data directory's path is too long for one.
    pub fn socket(&self, number: usize) -> Option<PathBuf> {
        let path = self.root.join(format!("cs{number}.sock"));
        (path.as_os_str().len() <= LONGEST_SOCKET_PATH).then_some(path)
    }

    /// A process's output.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.log"))
    }

    /// A process's pid file.
    pub fn pid(&self, name: &str) -> PathBuf {
        self.root.join("run").join(format!("{name}.pid"))
    }

    fn file(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    fn lock_file(&self) -> PathBuf {
        self.root.join("run/lock")
    }

    fn failed(&self, what: &str, why: &(dyn std::error::Error + 'static)) -> Failure {
        Failure::system(format!("{}: {what}", self.root.display()), why)
    }

    /// Whether there is a cluster.
    pub fn exists(&self) -> bool {
        self.file().exists()
    }

    /// What is remembered. Errors: there is no cluster, or one that this version does not know.
    pub fn load(&self) -> Result<Cluster, Failure> {
        let text = match std::fs::read_to_string(self.file()) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::System(format!(
                    "{}: there is no cluster; `cairn up` makes one",
                    self.root.display()
                )));
            }
            Err(e) => return Err(self.failed("cannot read cluster.json", &e)),
        };
        let damaged = |e: serde_json::Error| self.failed("cluster.json is damaged", &e);
        let value: serde_json::Value = serde_json::from_str(&text).map_err(damaged)?;
        let format = value["format"].as_u64().unwrap_or(0);
        if format > u64::from(FORMAT) {
            return Err(Failure::System(format!(
                "{}: format {format} is newer than this program, which knows {FORMAT}",
                self.root.display()
            )));
        }
        serde_json::from_value(value).map_err(damaged)
    }

    fn save(&self, cluster: &Cluster) -> Result<(), Failure> {
        let cannot = |e: std::io::Error| self.failed("cannot write cluster.json", &e);
        let text = serde_json::to_string_pretty(cluster).map_err(|e| cannot(e.into()))?;
        let new = self.root.join("cluster.json.new");
        let mut file = File::create(&new).map_err(cannot)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot)?;
        std::fs::rename(&new, self.file()).map_err(cannot)
    }

    /// Makes the directories, or takes what is there and fits it to what is wanted.
    pub fn prepare(
        &self,
        chunkservers: Option<u16>,
        replicas: Option<u16>,
        mount: &Path,
    ) -> Result<Cluster, Failure> {
        let old = match self.exists() {
            true => Some(self.load()?),
            false => None,
        };
        if old.is_none() && self.is_foreign()? {
            return Err(Failure::System(format!(
                "{} is not empty and holds no cluster; name another --data directory",
                self.root.display()
            )));
        }
        std::fs::create_dir_all(self.root.join("run")).map_err(|e| self.failed("cannot make it", &e))?;
        let cluster = fit(old, chunkservers, replicas, mount, free_port)?;
        self.save(&cluster)?;
        Ok(cluster)
    }

    fn is_foreign(&self) -> Result<bool, Failure> {
        match std::fs::read_dir(&self.root) {
            Ok(entries) => {
                Ok(entries.flatten().any(|e| e.file_name() != "run" && e.file_name() != "lost+found"))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.failed("cannot read it", &e)),
        }
    }

    /// The process that looks after this cluster now, if one does.
    pub fn supervisor(&self) -> Result<Option<u32>, Failure> {
        let mut file = match File::open(self.lock_file()) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.failed("cannot read its lock", &e)),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(|e| self.failed("cannot read its lock", &e))?;
                Ok(Some(text.trim().parse().unwrap_or(0)))
            }
            Err(e) => Err(self.failed("cannot test its lock", &e)),
        }
    }

    /// Makes this process the supervisor for as long as the file is open.
    pub fn lock(&self) -> Result<File, Failure> {
        let cannot = |e: std::io::Error| self.failed("cannot take its lock", &e);
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(self.lock_file())
            .map_err(cannot)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Failure::System(format!("{}: already running", self.root.display())));
            }
            Err(e) => return Err(cannot(e.into())),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(cannot)?;
        Ok(file)
    }

    /// Gives every server a port that is free now; those that were taken by somebody else are replaced. They are this
    /// cluster's for as long as what is returned is kept: others that start at the same time choose others.
    pub fn settle_ports(&self, cluster: &mut Cluster) -> Result<Vec<UnixListener>, Failure> {
        let (mut claims, mut changed) = (Vec::new(), false);
        for address in std::iter::once(&mut cluster.master).chain(&mut cluster.chunkservers) {
            let claim = claim(address.port()).filter(|_| TcpListener::bind(*address).is_ok());
            claims.push(match claim {
                Some(claim) => claim,
                None => {
                    let (port, claim) = claimed_port()?;
                    tracing::warn!(%address, port, "the port is taken by another program; taking another one");
                    address.set_port(port);
                    changed = true;
                    claim
                }
            });
        }
        if changed {
            self.save(cluster)?;
        }
        Ok(claims)
    }
}

/// A name that one process at a time can have, in this network name space. None: another cluster has the port, or this one.
fn claim(port: u16) -> Option<UnixListener> {
    let name = UnixAddr::from_abstract_name(format!("cairn-port-{port}")).ok()?;
    UnixListener::bind_addr(&name).ok()
}

fn claimed_port() -> Result<(u16, UnixListener), Failure> {
    for _ in 0..1000 {
        let port = free_port()?;
        if let Some(claim) = claim(port) {
            return Ok((port, claim));
        }
    }
    Err(Failure::System("no free port on 127.0.0.1".to_owned()))
}

fn fit(
    old: Option<Cluster>,
    chunkservers: Option<u16>,
    replicas: Option<u16>,
    mount: &Path,
    mut port: impl FnMut() -> Result<u16, Failure>,
) -> Result<Cluster, Failure> {
    let has = old.as_ref().map_or(0, |c| c.chunkservers.len());
    let wants = chunkservers.map_or(if has > 0 { has } else { 3 }, usize::from);
    if wants < has {
        return Err(Failure::Usage(format!(
            "this cluster has {has} chunkservers; it cannot run with {wants}"
        )));
    }
    let most = u16::try_from(wants).unwrap_or(u16::MAX);
    let copies = match (replicas, &old) {
        (Some(n), _) if n > most => {
            return Err(Failure::Usage(format!("{n} replicas need as many chunkservers, not {wants}")));
        }
        (Some(n), _) => n,
        (None, Some(old)) => old.replicas,
        (None, None) => most.min(3),
    };
    let mut local = || port().map(|p| SocketAddr::from((Ipv4Addr::LOCALHOST, p)));
    let mut cluster = match old {
        Some(old) => old,
        None => Cluster {
            format: FORMAT,
            replicas: copies,
            master: local()?,
            chunkservers: Vec::new(),
            mount: PathBuf::new(),
        },
    };
    while cluster.chunkservers.len() < wants {
        cluster.chunkservers.push(local()?);
    }
    cluster.replicas = copies;
    cluster.mount = mount.to_owned();
    Ok(cluster)
}

fn free_port() -> Result<u16, Failure> {
    let mut random = rand::rng();
    (0..1000)
        .map(|_| random.random_range(PORTS))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| Failure::System("no free port on 127.0.0.1".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_one_clusters_at_a_time() {
        let (port, first) = claimed_port().unwrap();
        assert!(claim(port).is_none());
        drop(first);
        assert!(claim(port).is_some());
    }

    fn ports() -> impl FnMut() -> Result<u16, Failure> {
        let mut next = 20_000;
        move || {
            next += 1;
            Ok(next)
        }
    }

    #[test]
    fn a_new_cluster_has_three_servers_and_copies() {
        let c = fit(None, None, None, Path::new("/mnt"), ports()).unwrap();
        assert_eq!((c.chunkservers.len(), c.replicas), (3, 3));
        let one = fit(None, Some(1), None, Path::new("/mnt"), ports()).unwrap();
        assert_eq!((one.chunkservers.len(), one.replicas), (1, 1));
    }

    #[test]
    fn addresses_stay_and_servers_are_only_added() {
        let old = fit(None, None, None, Path::new("/mnt"), ports()).unwrap();
        let new = fit(Some(old.clone()), Some(5), None, Path::new("/srv"), ports()).unwrap();
        assert_eq!(new.chunkservers[..3], old.chunkservers[..]);
        assert_eq!((new.chunkservers.len(), new.replicas), (5, 3));
        assert!(matches!(fit(Some(new), Some(2), None, Path::new("/"), ports()), Err(Failure::Usage(_))));
        assert!(matches!(fit(None, Some(2), Some(3), Path::new("/"), ports()), Err(Failure::Usage(_))));
    }

    #[test]
    fn what_is_remembered_is_read_again_and_a_newer_format_refused() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert!(matches!(layout.load(), Err(Failure::System(t)) if t.contains("no cluster")));
        let cluster = layout.prepare(None, Some(2), Path::new("/mnt")).unwrap();
        assert_eq!(layout.load().unwrap(), cluster);
        let text = std::fs::read_to_string(layout.file()).unwrap();
        std::fs::write(layout.file(), text.replace("\"format\": 1", "\"format\": 9")).unwrap();
        assert!(matches!(layout.load(), Err(Failure::System(t)) if t.contains("newer")));
        std::fs::write(layout.file(), "{").unwrap();
        assert!(matches!(layout.load(), Err(Failure::System(t)) if t.contains("damaged")));
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let layout = Layout::new(dir.path());
        assert!(matches!(layout.prepare(None, None, Path::new("/mnt")), Err(Failure::System(_))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_supervisor_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        layout.prepare(None, None, Path::new("/mnt")).unwrap();
        assert_eq!(layout.supervisor().unwrap(), None);
        let held = layout.lock().unwrap();
        assert_eq!(layout.supervisor().unwrap(), Some(std::process::id()));
        assert!(layout.lock().is_err());
        drop(held);
        assert_eq!(layout.supervisor().unwrap(), None);
    }
}
