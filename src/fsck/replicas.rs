//! Asks chunkservers what they have.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::data::{CallError, Client, Endpoint, Header, Kind, Preamble, Reply, Status};
use cairn_proto::rpc::{ListReply, ListedReplica, ServerInfo, VerifyMeta, VerifyReply};
use prost::Message;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::judge::Answer;

/// To connect, and for what is answered from memory.
const SHORT: Duration = Duration::from_secs(5);
/// To read a whole chunk from a slow disk.
const LONG: Duration = Duration::from_secs(120);

/// A chunkserver. One question at a time, so that a check is not felt.
struct Server {
    info: ServerInfo,
    link: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    client: Option<Client>,
    /// Why it could not be reached, and when that was.
    failed: Option<(Instant, String)>,
    /// Nothing is read before.
    next_read: Option<Instant>,
}

/// All chunkservers.
pub struct Replicas {
    servers: BTreeMap<u32, Server>,
    me: Preamble,
    /// Bytes a second that are read from one server.
    rate: u64,
}

impl Replicas {
    /// The servers that the master knows.
    pub fn new(cluster: [u8; 16], servers: Vec<ServerInfo>, rate: u64) -> Self {
        let server = |info: ServerInfo| (info.id, Server { info, link: Mutex::default() });
        Self { servers: servers.into_iter().map(server).collect(), me: Preamble::client(cluster, 0), rate }
    }

    /// Their ids.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.servers.keys().copied()
    }

    /// What a server has of a chunk; with `content` it reads all of it.
    pub async fn verify(&self, server: u32, chunk: u64, content: bool) -> Answer {
        let Some(server) = self.servers.get(&server) else {
            return Answer::Unreachable("the master does not know it".into());
        };
        let mut link = server.link.lock().await;
        if content && let Some(at) = link.next_read {
            tokio::time::sleep_until(at).await;
        }
        let header = Header::request(Kind::Verify, chunk, 0, 0);
        let limit = if content { LONG } else { SHORT };
        let began = Instant::now();
        let reply =
            self.call(server, &mut link, header, &VerifyMeta { content }.encode_to_vec(), limit).await;
        let reply = match reply {
            Ok(reply) => reply,
            Err(why) => return Answer::Unreachable(why),
        };
        match (reply.status(), reply.meta::<VerifyReply>()) {
            (Status::Ok, Ok(said)) => {
                let due = Duration::from_secs_f64(said.bytes_read as f64 / self.rate.max(1) as f64);
                link.next_read = Some(began + due);
                Answer::Said(said)
            }
            (status, _) => Answer::Unreadable(format!("{status:?} {}", reply.text())),
        }
    }

    /// Replicas that a server has, from a chunk on; and whether that was all.
    pub async fn list(&self, server: u32, from: u64) -> Result<(Vec<ListedReplica>, bool), String> {
        let server = self.servers.get(&server).ok_or("the master does not know it")?;
        let mut link = server.link.lock().await;
        let reply = self.call(server, &mut link, Header::request(Kind::List, from, 0, 0), &[], SHORT).await?;
        match (reply.status(), reply.meta::<ListReply>()) {
            (Status::Ok, Ok(list)) => Ok((list.replicas, list.end)),
            (status, _) => Err(format!("{status:?} {}", reply.text())),
        }
    }

    async fn call(
        &self,
        server: &Server,
        link: &mut Link,
        header: Header,
        meta: &[u8],
        limit: Duration,
    ) -> Result<Reply, String> {
        // Not once for each of its chunks.
        if let Some((at, why)) = &link.failed
            && at.elapsed() < SHORT
        {
            return Err(why.clone());
        }
        let outcome = async {
            if link.client.as_ref().is_none_or(Client::is_lost) {
                let to = Endpoint::Tcp(server.info.addr.clone());
                link.client = Some(Client::connect(&to, self.me, server.info.id, SHORT).await?);
            }
            match &link.client {
                Some(client) => client.call(header, meta, Bytes::new(), limit).await,
                None => Err(CallError::Lost),
            }
        }
        .await;
        match outcome {
            Ok(reply) => {
                link.failed = None;
                Ok(reply)
            }
            Err(e) => {
                let why = format!("{}: {}", server.info.addr, crate::error::chain(&e));
                link.client = None;
                link.failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }
}
