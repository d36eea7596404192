//! Questions to a master.

use std::time::Duration;

use cairn_proto::rpc::admin_client::AdminClient;
use cairn_proto::rpc::{
    FileChange, FileReply, FileRequest, Limits, LimitsRequest, LocksReply, LocksRequest, NodeChange,
    NodeReply, NodeRequest, ScrubReply, ScrubRequest, StatusReply, StatusRequest, WatchFilesRequest,
    WatchRequest, Weights, WeightsRequest,
};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::error::Failure;

/// How long one master may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// What the first of the masters says that can be asked.
async fn first<T, F>(masters: &[String], ask: impl Fn(String) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut last = Failure::Usage("no master is known; name one with --master".to_owned());
    for master in masters {
        match ask(master.clone()).await {
            Ok(answer) => return Ok(answer),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// The answer of the first of the masters that answers.
async fn first_answer<T, F>(masters: &[String], ask: impl Fn(AdminClient<Channel>) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let ask = &ask;
    let asked = |master: String| async move {
        let answer = ask(AdminClient::new(channel(&master).await?)).await;
        answer.map(tonic::Response::into_inner).map_err(|e| refused(&master, &e))
    };
    first(masters, asked).await
}

/// A connection to the first of the masters that can be reached.
pub async fn first_channel(masters: &[String]) -> Result<Channel, Failure> {
    first(masters, |master| async move { channel(&master).await }).await
}

async fn channel(master: &str) -> Result<Channel, Failure> {
    dial(master, |endpoint| endpoint.timeout(LIMIT)).await
}

async fn dial(master: &str, set: impl FnOnce(Endpoint) -> Endpoint) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{master}"))
        .map_err(|e| Failure::Usage(format!("{master}: {e}")))?;
    let connected = set(endpoint.connect_timeout(LIMIT)).connect().await;
    connected.map_err(|e| Failure::system(format!("master {master}"), &e))
}

/// The cluster as the first of the masters that answers sees it.
pub async fn status(masters: &[String]) -> Result<StatusReply, Failure> {
    first_answer(masters, |mut client| async move { client.status(StatusRequest {}).await }).await
}

/// Has chunkservers (none named: all) verify their disks, by the first of the masters that answers.
pub async fn scrub(masters: &[String], request: &ScrubRequest) -> Result<ScrubReply, Failure> {
    first_answer(masters, |mut client| async move { client.scrub(request.clone()).await }).await
}

/// An inode's chunks, from the first of the masters that answers.
pub async fn file(masters: &[String], inode: u64) -> Result<FileReply, Failure> {
    first_answer(masters, |mut client| async move { client.file(FileRequest { inode }).await }).await
}

/// All file locks, from the first of the masters that answers.
pub async fn locks(masters: &[String]) -> Result<LocksReply, Failure> {
    first_answer(masters, |mut client| async move { client.locks(LocksRequest {}).await }).await
}

/// Sets what counts how much where a new copy's server is chosen, if given, at the first of the masters that answers; what it is then.
pub async fn weights(masters: &[String], set: Option<Weights>) -> Result<Weights, Failure> {
    let reply =
        first_answer(masters, |mut client| async move { client.weights(WeightsRequest { set }).await })
            .await?;
    Ok(reply.weights.unwrap_or_default())
}

/// Sets what counts as too much on one chunkserver, if given, at the first of the masters that answers; what it is then.
pub async fn limits(masters: &[String], set: Option<Limits>) -> Result<Limits, Failure> {
    let reply =
        first_answer(masters, |mut client| async move { client.limits(LimitsRequest { set }).await }).await?;
    Ok(reply.limits.unwrap_or_default())
}

/// Steers a chunkserver at the first of the masters that answers, or asks how far it is.
pub async fn node(masters: &[String], request: NodeRequest) -> Result<NodeReply, Failure> {
    first_answer(masters, |mut client| async move { client.node(request).await }).await
}

/// Changes of chunkservers' states, from the first of the masters that answers.
pub async fn watch(masters: &[String]) -> Result<Streaming<NodeChange>, Failure> {
    stream(masters, |mut client| async move { client.watch(WatchRequest {}).await }).await
}

/// Changes of names and files, from the first of the masters that answers.
pub async fn watch_files(masters: &[String]) -> Result<Streaming<FileChange>, Failure> {
    stream(masters, |mut client| async move { client.watch_files(WatchFilesRequest {}).await }).await
}

/// What the first of the masters that answers says from now on.
async fn stream<T, F>(
    masters: &[String],
    ask: impl Fn(AdminClient<Channel>) -> F,
) -> Result<Streaming<T>, Failure>
where
    F: Future<Output = Result<tonic::Response<Streaming<T>>, tonic::Status>>,
{
    let ask = &ask;
    let asked = |master: String| async move {
        // No limit for the call: it has no end.
        let alive = |e: Endpoint| e.http2_keep_alive_interval(LIMIT).keep_alive_timeout(LIMIT);
        let channel = dial(&master, alive).await?;
        let answer = ask(AdminClient::new(channel)).await;
        answer.map(tonic::Response::into_inner).map_err(|e| refused(&master, &e))
    };
    first(masters, asked).await
}

fn refused(master: &str, status: &tonic::Status) -> Failure {
    Failure::System(format!("master {master}: {} ({:?})", status.message(), status.code()))
}
