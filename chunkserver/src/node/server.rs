//! Accepts data connections and reads frames from them.

use super::answer::Conn;
use super::dispatch::{Asker, dispatch};
use super::state::Node;
use cairn_proto::data::{FrameReader, Greeting, Preamble, PreambleError, ReadError, Role, Stream, prepare};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

/// A connection must have said who it is within this time.
const PREAMBLE_LIMIT: Duration = Duration::from_secs(5);
/// After a failed accept (no file descriptors left): the next try.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Where connections come in.
pub struct Listeners {
    /// From other machines.
    pub tcp: TcpListener,
    /// From this one.
    pub unix: Option<UnixListener>,
}

/// Serves connections for ever.
pub async fn serve(node: Arc<Node>, listeners: Listeners) {
    let Listeners { tcp, unix } = listeners;
    // Dropped with this future: then all connections end.
    let connections = Mutex::new(JoinSet::new());
    let local = async {
        match unix {
            Some(unix) => loop {
                accepted(&node, &connections, unix.accept().await.map(|(s, _)| Stream::Unix(s))).await;
            },
            None => std::future::pending().await,
        }
    };
    let remote = async {
        loop {
            let stream = tcp.accept().await.and_then(|(s, _)| {
                prepare(&s)?;
                Ok(Stream::Tcp(s))
            });
            accepted(&node, &connections, stream).await;
        }
    };
    tokio::join!(local, remote);
}

async fn accepted(node: &Arc<Node>, set: &Mutex<JoinSet<()>>, stream: std::io::Result<Stream>) {
    match stream {
        Ok(stream) => {
            let mut set = set.lock();
            while set.try_join_next().is_some() {}
            set.spawn(connection(node.clone(), stream));
        }
        Err(e) => {
            tracing::warn!("cannot accept a connection: {e}");
            tokio::time::sleep(ACCEPT_AGAIN).await;
        }
    }
}

async fn connection(node: Arc<Node>, mut stream: Stream) {
    let met = tokio::time::timeout(PREAMBLE_LIMIT, meet(&node, &mut stream)).await;
    let asker = match met {
        Ok(Ok(Some(asker))) => asker,
        Ok(Ok(None)) => return tracing::debug!("connection for another cluster closed"),
        Ok(Err(PreambleError::Io(_))) | Err(_) => return,
        Ok(Err(e)) => return garbage(&node, &e),
    };
    let (mut frames, out) = stream.into_frames();
    let conn = Conn::new(out);
    let conn = Arc::new(match asker.role {
        Role::Server => conn,
        _ => conn.timed(node.traffic.latency.clone()),
    });
    match requests(&node, asker, &mut frames, &conn).await {
        Ok(()) | Err(ReadError::Io(_)) => {}
        Err(e) => garbage(&node, &e),
    }
    conn.out.close();
}

/// Bytes that are no frames: counted, and told of rarely enough not to fill a log.
fn garbage(node: &Node, e: &dyn std::fmt::Display) {
    let n = node.traffic.garbage.fetch_add(1, Ordering::Relaxed);
    if n < 10 || n.is_multiple_of(1000) {
        tracing::debug!(total = n + 1, "connection closed: {e}");
    }
}

async fn meet(node: &Node, stream: &mut Stream) -> Result<Option<Asker>, PreambleError> {
    let mine = Greeting { cluster: node.config.cluster, server: node.config.id };
    let theirs = match stream {
        Stream::Tcp(s) => Preamble::receive(s).await?,
        Stream::Unix(s) => Preamble::receive(s).await?,
    };
    // Also to a stranger: so it can say whom it reached.
    match stream {
        Stream::Tcp(s) => mine.send(s).await?,
        Stream::Unix(s) => mine.send(s).await?,
    }
    let known = theirs.cluster == node.config.cluster;
    let id = if theirs.role == Role::Server { theirs.id & 0xffff_ffff } else { theirs.id };
    Ok(known.then_some(Asker { role: theirs.role, id }))
}

async fn requests(
    node: &Arc<Node>,
    asker: Asker,
    frames: &mut FrameReader,
    conn: &Arc<Conn>,
) -> Result<(), ReadError> {
    let mut corked = false;
    while let Some(frame) = frames.next().await? {
        // Replies wait for each other as long as further requests have arrived already.
        let more = frames.has_frame();
        if more && !corked {
            conn.out.cork();
            corked = true;
        }
        let answer = conn.expect(frame.header, frame.data.len());
        dispatch(node, asker, frame, answer)?;
        if corked && (!more || !conn.has_room()) {
            conn.out.uncork();
            corked = false;
        }
        while !conn.has_room() {
            conn.wait_for_room().await;
        }
    }
    Ok(())
}
