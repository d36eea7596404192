//! Starts a chunkserver, and stops it cleanly.

use crate::config::{Config, Error};
use crate::core::layout::Geometry;
use crate::core::replica::Times;
use crate::disk::fs::FsStorage;
use crate::disk::identity::{DiskDir, Identity};
use crate::disk::{BootMark, Disk, DiskError, DiskSettings, Recovered, Syncer};
use crate::node::{
    DiskScrub, DiskUnit, Listeners, Node, NodeConfig, Registration, housekeep, is_whole, keep_attached,
    recover_chunks, register, report, serve,
};
use cairn_proto::PROTOCOL;
use cairn_proto::block::BLOCK;
use cairn_proto::data::Preamble;
use cairn_proto::rpc::{Register, ServerInfo};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio::net::{TcpListener, UnixListener};

/// The largest chunk that a cluster may have, bytes: offsets in it are 32 bits wide.
const CHUNK_MOST: u64 = 1 << 30;

/// Runs a chunkserver until `shutdown` ends. `ready` is called with its address once it is registered with
/// the master, which is waited for however long it takes.
pub async fn run(
    config: Config,
    ready: impl FnOnce(SocketAddr) + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    tokio::pin!(shutdown);
    let mut dirs = open_dirs(&config)?;
    let (listeners, addr) = listen(&config).await?;
    config.monitor.starting("no master has taken this chunkserver in yet");
    let mut hello = hello(&config, addr, dirs[0].identity);
    let registration = tokio::select! {
        r = register(&config.masters, &hello) => r.map_err(|e| Error::Refused(e.message().into()))?,
        () = &mut shutdown => return Ok(()),
    };
    let identity = claim(&config, &mut dirs, &registration)?;
    hello.id = identity.server;
    hello.cluster_id = identity.cluster.to_vec().into();
    if let Some(info) = &mut hello.info {
        info.id = identity.server;
    }
    let node = open_node(&config, &dirs, identity, &hello).await?;
    let asked = Arc::downgrade(&node);
    config.monitor.answered_by(move || std::future::ready(report(&asked)));
    ready(addr);
    tokio::select! {
        () = serve(node.clone(), listeners) => {}
        () = housekeep(node.clone()) => {}
        () = keep_attached(node.clone(), config.masters.clone(), hello, registration) => {}
        () = &mut shutdown => {}
    }
    if let Some(path) = &config.unix_socket {
        // Gone already: nothing is lost.
        let _ = std::fs::remove_file(path);
    }
    stop(&node).await;
    Ok(())
}

/// What the journals hold goes into the chunk files, so that the next start has nothing to doubt.
async fn stop(node: &Arc<Node>) {
    for unit in &node.disks {
        let u = unit.clone();
        let whole = !unit.behind || is_whole(node, unit);
        let done = tokio::task::spawn_blocking(move || {
            u.disk.checkpoint()?;
            if whole { Ok(u.mark.record_clean()?) } else { Ok::<_, DiskError>(()) }
        })
        .await;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!(disk = %unit.path.display(), "last checkpoint: {e}"),
            Err(e) => tracing::error!("last checkpoint: {e}"),
        }
    }
}

fn open_dirs(config: &Config) -> Result<Vec<DiskDir>, Error> {
    let dirs = config.data.iter().map(|p| DiskDir::open(p)).collect::<Result<Vec<_>, _>>()?;
    if dirs.is_empty() {
        return Err(Error::NoData);
    }
    let whose = |d: &DiskDir| d.identity.map(|i| (i.cluster, i.server, i.chunk_size));
    let mut dirs = dirs;
    // A known one first: it says who this server is.
    dirs.sort_by_key(|d| d.identity.is_none());
    for d in &dirs[1..] {
        if d.identity.is_some() && whose(d) != whose(&dirs[0]) {
            return Err(Error::Mixed(d.path().into(), dirs[0].path().into()));
        }
    }
    Ok(dirs)
}

async fn listen(config: &Config) -> Result<(Listeners, SocketAddr), Error> {
    let tcp_error = |error| Error::Listen { at: config.listen.to_string(), error };
    let tcp = TcpListener::bind(config.listen).await.map_err(tcp_error)?;
    let addr = tcp.local_addr().map_err(tcp_error)?;
    let unix = match &config.unix_socket {
        None => None,
        Some(path) => {
            // Left behind by a process that was killed: the locked data directory says that it is gone.
            let _ = std::fs::remove_file(path);
            let unix_error = |error| Error::Listen { at: path.display().to_string(), error };
            Some(UnixListener::bind(path).map_err(unix_error)?)
        }
    };
    Ok((Listeners { tcp, unix }, addr))
}

fn hello(config: &Config, addr: SocketAddr, identity: Option<Identity>) -> Register {
    let id = identity.map_or(0, |i| i.server);
    let unix_path = config.unix_socket.as_ref().map_or(String::new(), |p| absolute(p));
    let info = ServerInfo {
        id,
        addr: advertised(addr, &config.masters).to_string(),
        unix_path,
        boot_id: boot_id(),
        ..ServerInfo::default()
    };
    Register {
        id,
        cluster_id: identity.map_or(Vec::new(), |i| i.cluster.to_vec()).into(),
        info: Some(info),
        incarnation: rand::random(),
        rack: config.rack.clone(),
        pid: std::process::id(),
        protocol: PROTOCOL,
        http: config.monitor.address().to_owned(),
    }
}

fn absolute(p: &Path) -> String {
    std::path::absolute(p).unwrap_or_else(|_| p.into()).display().to_string()
}

/// The kernel's random id of this start of the machine; empty where it cannot be had.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Others cannot connect to "any address": they are told the one that faces the master.
fn advertised(addr: SocketAddr, masters: &[String]) -> SocketAddr {
    if !addr.ip().is_unspecified() {
        return addr;
    }
    let facing = |master: &String| -> std::io::Result<IpAddr> {
        let any: SocketAddr = if addr.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = std::net::UdpSocket::bind(any)?;
        socket.connect(master.as_str())?;
        Ok(socket.local_addr()?.ip())
    };
    let ip = masters.iter().find_map(|m| facing(m).ok());
    SocketAddr::new(ip.unwrap_or(addr.ip()), addr.port())
}

/// New disks become this server's.
fn claim(config: &Config, dirs: &mut [DiskDir], r: &Registration) -> Result<Identity, Error> {
    let reg = &r.registered;
    let cluster = <[u8; 16]>::try_from(&reg.cluster_id[..]).map_err(|_| Error::Nonsense("cluster id"))?;
    let chunk_size = reg.chunk_size;
    if chunk_size == 0 || !chunk_size.is_multiple_of(BLOCK as u64) || chunk_size > CHUNK_MOST {
        return Err(Error::Nonsense("chunk size"));
    }
    let segment_bytes = config.journal_segment_bytes.max(1 << 20).next_multiple_of(BLOCK as u64);
    let mine = Identity { cluster, server: reg.id, chunk_size, segment_bytes };
    for d in dirs {
        match d.identity {
            None => d.claim(mine)?,
            Some(i) if (i.cluster, i.server, i.chunk_size) != (cluster, reg.id, chunk_size) => {
                return Err(Error::Refused(format!(
                    "{} belongs to another cluster or chunkserver",
                    d.path().display()
                )));
            }
            Some(_) => {}
        }
    }
    Ok(mine)
}

async fn open_node(
    config: &Config,
    dirs: &[DiskDir],
    identity: Identity,
    hello: &Register,
) -> Result<Arc<Node>, Error> {
    let geometry = Geometry { chunk_size: identity.chunk_size };
    let boot = hello.info.as_ref().map_or(String::new(), |i| i.boot_id.clone());
    let mut units = Vec::new();
    let mut found = Vec::new();
    let (mut lost, mut first_error) = (Vec::new(), None);
    for dir in dirs {
        let settings = DiskSettings {
            geometry,
            segment_bytes: dir.identity.map_or(identity.segment_bytes, |i| i.segment_bytes),
            reserve: config.reserve_bytes,
            open_files: config.open_files,
        };
        let path = dir.path().to_owned();
        let opened = tokio::task::spawn_blocking(move || open_disk(&path, settings)).await;
        let opened = opened.unwrap_or(Err(DiskError::Failed));
        let error = |error| Error::Disk { path: dir.path().into(), error };
        let (disk, recovered) = match opened {
            // The others may do; if none does, the first one's error is told.
            Err(e @ DiskError::Io(_)) if dirs.len() > 1 => {
                tracing::error!(disk = %dir.path().display(), "a disk cannot be opened, and is left out: {e}");
                lost.push(dir.path().to_owned());
                first_error.get_or_insert(error(e));
                continue;
            }
            opened => opened.map_err(error)?,
        };
        let mark = BootMark::read(dir.path(), &boot).map_err(|e| error(e.into()))?;
        let behind = mark.is_behind(!recovered.is_empty());
        if behind {
            tracing::info!(disk = %dir.path().display(), "the machine has started anew: replicas are compared");
        } else {
            mark.record().map_err(|e| error(e.into()))?;
        }
        let disk = Arc::new(disk);
        let syncer = Syncer::start(disk.clone()).map_err(Error::Thread)?;
        let path: std::path::PathBuf = dir.path().into();
        let scrub = DiskScrub::new(&path, config.scrub_rate);
        units.push(Arc::new(DiskUnit { path, disk, syncer, mark, behind, scrub }));
        found.push(recovered);
    }
    if let Some(e) = first_error.filter(|_| units.is_empty()) {
        return Err(e);
    }
    let member = config.member_timeout.as_millis() as u64;
    let times = Times { member, slow_write: member * 4, slow_sync: member * 20, report_again: 1000 };
    let me = Preamble::server(identity.cluster, identity.server);
    let peers = Arc::new(crate::node::Peers::new(me, boot, config.member_timeout));
    let node_config = NodeConfig { id: identity.server, cluster: identity.cluster, geometry, times };
    let node = Arc::new(Node::new(node_config, units, lost, peers));
    for (unit, found) in node.disks.iter().zip(found) {
        recover_chunks(&node, unit, found);
    }
    Ok(node)
}

fn open_disk(path: &Path, settings: DiskSettings) -> Result<(Disk, Vec<Recovered>), DiskError> {
    Disk::open(Arc::new(FsStorage::open(path)?), settings)
}
