//! The session against a master that breaks connections, keeps silent and forgets.

#![allow(clippy::unwrap_used)] // A helper that fails fails the test.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_fuse_client::engine::FsError;
use cairn_fuse_client::engine::meta::{Session, SessionConfig, SessionEvent};
use cairn_proto::rpc::client_message::Msg as Up;
use cairn_proto::rpc::master_message::Msg as Down;
use cairn_proto::rpc::meta_server::{Meta, MetaServer};
use cairn_proto::rpc::op::Op;
use cairn_proto::rpc::{self, ClientMessage, Hello, MasterMessage, Reply, Welcome};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

/// One connection of the mount, as the test plays the master on it.
struct Line {
    hello: Hello,
    up: Streaming<ClientMessage>,
    down: mpsc::UnboundedSender<Result<MasterMessage, Status>>,
}

impl Line {
    fn say(&self, msg: Down) {
        self.down.send(Ok(MasterMessage { msg: Some(msg) })).unwrap();
    }

    fn welcome(&self, session: u64, renewed: bool) {
        self.say(Down::Welcome(Welcome { session, renewed, exclusive: true, ..Welcome::default() }));
    }

    fn answer(&self, id: u64, errno: i32) {
        self.say(Down::Reply(Reply { id, errno, ..Reply::default() }));
    }

    async fn operation(&mut self) -> rpc::Op {
        loop {
            if let Some(Up::Op(op)) = self.up.message().await.unwrap().unwrap().msg {
                return op;
            }
        }
    }
}

struct Fake(mpsc::UnboundedSender<Line>);

#[tonic::async_trait]
impl Meta for Fake {
    type SessionStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<MasterMessage, Status>> + Send + 'static>>;

    async fn session(
        &self,
        request: Request<Streaming<ClientMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut up = request.into_inner();
        let Some(Up::Hello(hello)) = up.message().await?.and_then(|m| m.msg) else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (down, receiver) = mpsc::unbounded_channel();
        self.0.send(Line { hello, up, down }).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}

/// A master that the test plays, and where it listens.
async fn master() -> (Arc<Mutex<mpsc::UnboundedReceiver<Line>>>, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (lines, receiver) = mpsc::unbounded_channel();
    let server = tonic::transport::Server::builder().add_service(MetaServer::new(Fake(lines)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (Arc::new(Mutex::new(receiver)), addr)
}

type Opened = (Arc<Session>, mpsc::UnboundedReceiver<SessionEvent>, Line);

async fn open(lines: &Mutex<mpsc::UnboundedReceiver<Line>>, addr: &str, outage: Duration) -> Opened {
    let config = SessionConfig {
        masters: vec![addr.into()],
        mount_dir: "/m".into(),
        host: "h".into(),
        boot_id: String::new(),
        outage,
        http: String::new(),
    };
    let welcoming = async {
        let line = lines.lock().await.recv().await.unwrap();
        line.welcome(7, false);
        line
    };
    let (opened, line) = tokio::join!(Session::open(config), welcoming);
    let (session, welcome, events) = opened.unwrap();
    assert_eq!((line.hello.session, welcome.session), (0, 7));
    (session, events, line)
}

fn statfs() -> Op {
    Op::Statfs(rpc::Statfs {})
}

fn unlink() -> Op {
    Op::Unlink(rpc::Unlink { parent: 1, name: "a".into(), keep_open: false })
}

const PATIENT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn what_was_unanswered_is_sent_again_under_its_id() {
    let (lines, addr) = master().await;
    let (session, mut events, mut line) = open(&lines, &addr, PATIENT).await;
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.call(unlink()).await.map(|r| r.id) })
        })
        .collect();
    let ids = [line.operation().await.id, line.operation().await.id, line.operation().await.id];
    assert_eq!(ids, [1, 2, 3]);
    line.answer(2, 0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(line);

    let mut line = lines.lock().await.recv().await.unwrap();
    assert_eq!(line.hello.session, 7, "the session is resumed");
    line.welcome(7, false);
    for id in [1, 3] {
        let op = line.operation().await;
        assert_eq!((op.id, op.op), (id, Some(unlink())));
        line.answer(id, 0);
        line.answer(id, libc::EIO); // A second answer means nothing.
    }
    let mut answered: Vec<_> =
        futures::future::join_all(calls).await.into_iter().map(|r| r.unwrap().unwrap()).collect();
    answered.sort_unstable();
    assert_eq!(answered, [1, 2, 3]);
    assert!(matches!(events.recv().await, Some(SessionEvent::Resumed(w)) if !w.renewed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_keeps_its_errno() {
    let (lines, addr) = master().await;
    let (session, _events, mut line) = open(&lines, &addr, PATIENT).await;
    let (result, ()) = tokio::join!(session.call(unlink()), async {
        let op = line.operation().await;
        line.answer(op.id, libc::ENOENT);
    });
    assert_eq!(result.unwrap_err().errno(), libc::ENOENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_for_once_and_a_late_change_is_reported() {
    let (lines, addr) = master().await;
    let outage = Duration::from_millis(600);
    let (session, mut events, mut line) = open(&lines, &addr, outage).await;
    let start = Instant::now();
    assert!(matches!(session.call(unlink()).await, Err(FsError::TimedOut(_))));
    let first = start.elapsed();
    assert!(first >= outage, "{first:?}");
    assert!(matches!(session.call(statfs()).await, Err(FsError::TimedOut(_))));
    let second = start.elapsed() - first;
    assert!(second < outage, "{second:?}");

    let op = line.operation().await;
    line.answer(op.id, 0);
    assert!(matches!(events.recv().await, Some(SessionEvent::LateChange)));
    let op = line.operation().await;
    line.answer(op.id, 0);
    let (result, ()) = tokio::join!(session.call(statfs()), async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let op = line.operation().await;
        line.answer(op.id, 0);
    });
    result.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_lost_does_not_do_what_nobody_waits_for() {
    let (lines, addr) = master().await;
    let (session, _events, mut line) = open(&lines, &addr, Duration::from_millis(500)).await;
    assert!(session.call(unlink()).await.is_err());
    line.operation().await;
    drop(line);
    let mut line = lines.lock().await.recv().await.unwrap();
    line.welcome(8, true);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (result, op) = tokio::join!(session.call(statfs()), async {
        let op = line.operation().await;
        line.answer(op.id, 0);
        op
    });
    result.unwrap();
    assert_eq!(op.op, Some(statfs()), "the unlink of the old session is not among them");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_window_is_unanswered() {
    let (lines, addr) = master().await;
    let (session, _events, mut line) = open(&lines, &addr, PATIENT).await;
    let calls: Vec<_> = (0..300)
        .map(|_| {
            let session = session.clone();
            tokio::spawn(async move { session.call(statfs()).await })
        })
        .collect();
    for _ in 0..256 {
        line.operation().await;
    }
    let more = tokio::time::timeout(Duration::from_millis(200), line.operation()).await;
    assert!(more.is_err(), "the 257th operation waits");
    line.answer(2, 0);
    assert_eq!(line.operation().await.id, 258, "the slot of the first is still taken");
    (1..=258).filter(|id| ![2, 257].contains(id)).for_each(|id| line.answer(id, 0));
    for _ in 257..300 {
        let op = line.operation().await;
        line.answer(op.id, 0);
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn goodbye_arrives_before_the_connection_ends() {
    let (lines, addr) = master().await;
    let (session, _events, mut line) = open(&lines, &addr, PATIENT).await;
    let ((), goodbye) = tokio::join!(session.close(), async {
        loop {
            match line.up.message().await.unwrap() {
                Some(ClientMessage { msg: Some(Up::Goodbye(_)) }) => break true,
                Some(_) => {}
                None => break false,
            }
        }
    });
    assert!(goodbye);
    assert!(matches!(session.call(statfs()).await, Err(FsError::Unreachable(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none_is_refused_at_once() {
    let config = SessionConfig {
        masters: vec!["not an address".into()],
        mount_dir: String::new(),
        host: String::new(),
        boot_id: String::new(),
        outage: PATIENT,
        http: String::new(),
    };
    let start = Instant::now();
    assert!(Session::open(config).await.is_err());
    assert!(start.elapsed() < PATIENT / 2);
}
