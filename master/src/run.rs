//! Brings the parts together: opens the store, starts the owner, serves.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::owner::{Message, Owner, OwnerHandle, Stopped};
use crate::shell::admin::AdminService;
use crate::shell::attach::AttachService;
use crate::shell::fsck::FsckService;
use crate::shell::monitor;
use crate::shell::node_hook;
use crate::shell::session::SessionService;
use crate::store::{DataDir, DiskStore};
use crate::{Config, Error};

/// Flow-control windows, in bytes: a page of a directory must not wait for them.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// A peer that does not answer a ping is gone.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections have so long to end when the master stops.
const LINGER: Duration = Duration::from_secs(2);

/// Between ticks of the cores.
const TICK: Duration = Duration::from_millis(100);

/// Runs a master until `shutdown` is done. `ready` is called once it serves, with the address it has.
///
/// # Errors
/// When the data directory or the address cannot be used, or the store fails while it runs.
pub async fn run(
    config: Config,
    ready: impl FnOnce(SocketAddr) + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    check(&config)?;
    let listen = config.listen;
    let failed = move |source| Error::Listen { addr: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    let config = Config { listen: addr, ..config };
    let hook = config.on_node_change.clone();
    let monitored = config.monitor.clone();
    monitored.starting("it is reading its store");

    let (ended, mut end) = oneshot::channel::<Stopped>();
    let owner = tokio::task::spawn_blocking(move || {
        let store = DiskStore::open(DataDir::open(&config.data)?)?;
        Owner::restore(Box::new(store), config, ended)
    });
    let owner = owner.await.map_err(|_| Error::Owner)??;
    tracing::info!(%addr, chunk_size = owner.identity().chunk_size, "the master serves");
    let handle = OwnerHandle::new(owner);
    if let Some(command) = hook {
        let (to, changes) = mpsc::channel(node_hook::WAITING);
        handle.tell(Message::Watch(to));
        tokio::spawn(node_hook::run_on_changes(command, changes));
    }
    let asked = handle.clone();
    monitored.answered_by(move || monitor::report(asked.clone()));
    let ticks = tokio::spawn(tick(handle.clone()));

    let (stop, stopped) = oneshot::channel::<()>();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .add_service(SessionService::server(handle.clone()))
        .add_service(AdminService::server(handle.clone()))
        .add_service(AttachService::server(handle.clone()))
        .add_service(FsckService::server(handle.clone()))
        .serve_with_incoming_shutdown(incoming, async {
            let _ = stopped.await;
        });
    let server = tokio::spawn(server);
    ready(addr);
    let early = tokio::select! {
        () = shutdown => None,
        ended = &mut end => Some(ended),
    };
    // The owner ends first: with it go all senders, and so all streams, which the server waits for.
    handle.tell(Message::Stop);
    ticks.abort();
    let outcome = match early {
        Some(ended) => ended,
        None => end.await,
    };
    let _ = stop.send(());
    if let Ok(served) = tokio::time::timeout(LINGER, server).await {
        served.map_err(|_| Error::Owner)??;
    }
    outcome.map_err(|_| Error::Owner)?.map_err(Error::from)
}

async fn tick(owner: OwnerHandle) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        owner.tell(Message::Tick);
    }
}

fn check(config: &Config) -> Result<(), Error> {
    if !config.chunk_size.is_power_of_two() || !(1 << 16..=1 << 30).contains(&config.chunk_size) {
        return Err(Error::Config("the chunk size must be a power of two from 64 KiB to 1 GiB"));
    }
    if !(1..=15).contains(&config.copies) {
        return Err(Error::Config("the number of copies must be from 1 to 15"));
    }
    Ok(())
}
