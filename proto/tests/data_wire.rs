//! The data wire over real sockets: many requests in flight, bulk data, lost connections, garbage.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use cairn_proto::data::{
    CallError, Client, Endpoint, Greeting, Header, Kind, Outbox, Preamble, Role, Status, Stream,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

const CLUSTER: [u8; 16] = [7; 16];
const LIMIT: Duration = Duration::from_secs(5);

/// A server that answers each request with its own data; odd request ids after the even ones that came with them.
async fn echo_server() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket));
        }
    });
    Endpoint::Tcp(addr)
}

async fn serve(mut socket: TcpStream) {
    let Ok(hello) = Preamble::receive(&mut socket).await else { return };
    assert_eq!(hello.role, Role::Client);
    Greeting { cluster: CLUSTER, server: 3 }.send(&mut socket).await.unwrap();
    let (mut frames, out) = Stream::Tcp(socket).into_frames();
    let mut held: Vec<(Header, Bytes, Bytes)> = Vec::new();
    while let Ok(Some(f)) = frames.next().await {
        if f.header.kind == Kind::Ping {
            return; // hangs up
        }
        let reply = (f.header.reply(Status::Ok, 9), f.meta, f.data);
        if f.header.request % 2 == 1 && frames.has_frame() {
            held.push(reply);
            continue;
        }
        send(&out, reply);
        held.drain(..).for_each(|r| send(&out, r));
    }
}

fn send(out: &Arc<Outbox>, (header, meta, data): (Header, Bytes, Bytes)) {
    assert!(out.send(&header, &meta, data));
}

async fn connect(to: &Endpoint) -> Client {
    Client::connect(to, Preamble::client(CLUSTER, 1), 3, LIMIT).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_gets_its_own_answer() {
    let client = Arc::new(connect(&echo_server().await).await);
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..500u32 {
        let client = client.clone();
        calls.spawn(async move {
            let data = Bytes::from(vec![i as u8; (i as usize * 977) % 300_000]);
            let header = Header::request(Kind::Write, i.into(), 1, i);
            let reply = client.call(header, &i.to_le_bytes(), data.clone(), LIMIT).await.unwrap();
            assert_eq!(reply.header.chunk, u64::from(i));
            assert_eq!(&reply.meta[..], i.to_le_bytes());
            assert!(reply.data == data, "request {i} got other data back");
            assert_eq!((reply.status(), reply.header.epoch), (Status::Ok, 9));
        });
    }
    assert_eq!(calls.join_all().await.len(), 500);
}

#[tokio::test]
async fn a_lost_connection_ends_what_was_in_flight_and_later_calls() {
    let client = connect(&echo_server().await).await;
    let lost = client.call(Header::request(Kind::Ping, 0, 0, 0), &[], Bytes::new(), LIMIT).await;
    assert!(matches!(lost, Err(CallError::Lost)), "{lost:?}");
    assert!(client.is_lost());
    let later = client.call(Header::request(Kind::Write, 0, 0, 0), &[], Bytes::new(), LIMIT).await;
    assert!(matches!(later, Err(CallError::Lost)), "{later:?}");
}

#[tokio::test]
async fn another_server_or_cluster_is_refused() {
    let to = echo_server().await;
    let wrong = Client::connect(&to, Preamble::client(CLUSTER, 1), 4, LIMIT).await;
    assert!(matches!(wrong, Err(CallError::WrongServer { expected: 4, got: 3 })));
    let wrong = Client::connect(&to, Preamble::client([8; 16], 1), 3, LIMIT).await;
    assert!(matches!(wrong, Err(CallError::WrongServer { .. })));
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
    let limit = Duration::from_millis(50);
    let silent = Client::connect(&to, Preamble::client(CLUSTER, 1), 3, limit).await;
    assert!(matches!(silent, Err(CallError::TimedOut)));
}

#[tokio::test]
async fn garbage_ends_a_reader_with_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let (mut frames, _out) = Stream::Tcp(socket).into_frames();
    sender.write_all(&[0xAB; 4096]).await.unwrap();
    assert!(frames.next().await.is_err());
}
