//! Questions to a master.

use std::time::Duration;

use cairn_proto::rpc::admin_client::AdminClient;
use cairn_proto::rpc::{
    FileReply, FileRequest, NodeChange, NodeReply, NodeRequest, ScrubReply, ScrubRequest, StatusReply,
    StatusRequest, WatchRequest, Weights, WeightsRequest,
};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::error::Failure;

/// How long one master may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

async fn connect(master: &str) -> Result<AdminClient<Channel>, Failure> {
    channel(master).await.map(AdminClient::new)
}

/// A connection to the first of the masters that can be reached.
pub async fn first_channel(masters: &[String]) -> Result<Channel, Failure> {
    let mut last = Failure::Usage("no master is known; name one with --master".to_owned());
    for master in masters {
        match channel(master).await {
            Ok(channel) => return Ok(channel),
            Err(e) => last = e,
        }
    }
    Err(last)
}

async fn channel(master: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{master}"))
        .map_err(|e| Failure::Usage(format!("{master}: {e}")))?
        .connect_timeout(LIMIT)
        .timeout(LIMIT);
    endpoint.connect().await.map_err(|e| Failure::system(format!("master {master}"), &e))
}

/// The cluster as the first of the masters that answers sees it.
pub async fn status(masters: &[String]) -> Result<StatusReply, Failure> {
    let mut last = Failure::Usage("no master is known; name one with --master".to_owned());
    for master in masters {
        match status_of(master).await {
            Ok(reply) => return Ok(reply),
            Err(e) => last = e,
        }
    }
    Err(last)
}

async fn status_of(master: &str) -> Result<StatusReply, Failure> {
    let reply = connect(master).await?.status(StatusRequest {}).await;
    reply.map(tonic::Response::into_inner).map_err(|e| refused(master, &e))
}

/// Has chunkservers (none named: all) verify their disks, by the first of the masters that answers.
pub async fn scrub(masters: &[String], request: &ScrubRequest) -> Result<ScrubReply, Failure> {
    let mut last = Failure::Usage("no master is known; name one with --master".to_owned());
    for master in masters {
        let mut client = match connect(master).await {
            Ok(client) => client,
            Err(e) => {
                last = e;
                continue;
            }
        };
        match client.scrub(request.clone()).await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(e) => last = refused(master, &e),
        }
    }
    Err(last)
}

/// An inode's chunks, from the first of the masters that answers.
pub async fn file(masters: &[String], inode: u64) -> Result<FileReply, Failure> {
    let mut last = Failure::Usage("no master is known; name one with --master".to_owned());
    for master in masters {
        let mut client = match connect(master).await {
            Ok(client) => client,
            Err(e) => {
                last = e;
                continue;
            }
        };
        match client.file(FileRequest { inode }).await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(e) => last = refused(master, &e),
        }
    }
    Err(last)
}

/// Sets what counts how much where a new copy's server is chosen, if given, at the first of the masters that answers; what it is then.
pub async fn weights(masters: &[String], set: Option<Weights>) -> Result<Weights, Failure> {
    let mut last = Failure::Usage("no master is known; name one with --master".to_owned());
    for master in masters {
        let mut client = match connect(master).await {
            Ok(client) => client,
            Err(e) => {
                last = e;
                continue;
            }
        };
        match client.weights(WeightsRequest { set }).await {
            Ok(reply) => return Ok(reply.into_inner().weights.unwrap_or_default()),
            Err(e) => last = refused(master, &e),
        }
    }
    Err(last)
}

/// Changes of chunkservers' states, from the first of the masters that answers.
pub async fn watch(masters: &[String]) -> Result<Streaming<NodeChange>, Failure> {
    let mut last = Failure::Usage("no master is known; name one with --master".to_owned());
    for master in masters {
        let endpoint = Endpoint::from_shared(format!("http://{master}"))
            .map_err(|e| Failure::Usage(format!("{master}: {e}")))?
            .connect_timeout(LIMIT)
            .http2_keep_alive_interval(LIMIT)
            .keep_alive_timeout(LIMIT);
        let watched = async {
            let channel =
                endpoint.connect().await.map_err(|e| Failure::system(format!("master {master}"), &e))?;
            AdminClient::new(channel).watch(WatchRequest {}).await.map_err(|e| refused(master, &e))
        };
        match watched.await {
            Ok(changes) => return Ok(changes.into_inner()),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Steers a chunkserver at the first of the masters that answers, or asks how far it is.
pub async fn node(masters: &[String], request: NodeRequest) -> Result<NodeReply, Failure> {
    let mut last = Failure::Usage("no master is known; name one with --master".to_owned());
    for master in masters {
        let mut client = match connect(master).await {
            Ok(client) => client,
            Err(e) => {
                last = e;
                continue;
            }
        };
        match client.node(request).await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(e) => last = refused(master, &e),
        }
    }
    Err(last)
}

fn refused(master: &str, status: &tonic::Status) -> Failure {
    Failure::System(format!("master {master}: {} ({:?})", status.message(), status.code()))
}
