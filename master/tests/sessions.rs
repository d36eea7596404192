//! Sessions against a real master: over gRPC, with restarts and abrupt ends.

mod common;

use tokio_stream::StreamExt;

use cairn_proto::rpc::{self, client_message::Msg, event::Event, op::Op as Body};
use common::{Master, Mount, attr, config, create};

const ROOT: u64 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let mut mount = master.mount().await;
    assert!(mount.welcome.as_ref().unwrap().exclusive);
    let made = attr(&mount.mkdir(ROOT, "a").await);
    assert_eq!((made.mode, made.nlink), (0o040_755, 2));
    let session = mount.session();
    master.stop().await;

    let master = Master::start(dir.path()).await;
    let mut mount = master.resume(session).await;
    let welcome = mount.welcome.clone().unwrap();
    assert_eq!((welcome.session, welcome.renewed, welcome.exclusive), (session, false, true));
    mount.next = 100;
    assert_eq!(attr(&mount.lookup(ROOT, "a").await), made);
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_is_sent_again_is_done_once() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let mut mount = master.mount().await;
    let session = mount.session();
    let first = mount.mkdir(ROOT, "once").await;
    assert_eq!(first.errno, 0);
    drop(mount);
    // Over a new connection, then after a restart: the same answer, not EEXIST.
    let mut mount = master.resume(session).await;
    assert_eq!(mount.mkdir(ROOT, "once").await, first);
    master.stop().await;
    let master = Master::start(dir.path()).await;
    let mut mount = master.resume(session).await;
    assert_eq!(mount.mkdir(ROOT, "once").await, first);
    // A new operation is not taken for the old one.
    assert_eq!(mount.mkdir(ROOT, "once").await.errno, 17);
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_mount_waits_until_the_first_has_written_back() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let mut first = master.mount().await;
    let mut second = Mount::dial(master.addr, 0).await;
    let recall = first.event().await;
    assert!(matches!(recall.event, Some(Event::Recall(_))));
    // The holder still works, and writes back what it has.
    assert_eq!(first.mkdir(ROOT, "late").await.errno, 0);
    first.say(Msg::EventAck(rpc::EventAck { id: recall.id, ..Default::default() })).await;
    let welcome = second.welcomed().await;
    assert!(!welcome.exclusive);
    assert_eq!(second.lookup(ROOT, "late").await.errno, 0);
    first.say(Msg::Goodbye(rpc::Goodbye {})).await;
    assert!(matches!(second.event().await.event, Some(Event::Exclusive(_))));
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_vanishes_is_let_go_with_what_it_held_open() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let mut first = master.mount().await;
    let file = attr(&first.op(create(ROOT, "f")).await);
    let unlink = rpc::Unlink { parent: ROOT, name: "f".into(), keep_open: true };
    assert_eq!(first.op(Body::Unlink(unlink)).await.errno, 0);
    let get = Body::GetAttr(rpc::GetAttr { inode: file.inode });
    assert_eq!(attr(&first.op(get.clone()).await).nlink, 0);
    drop(first);
    // Welcomed only when the first one's session has ended; then the file without a name is gone.
    let mut second = master.mount().await;
    assert!(second.welcome.as_ref().unwrap().exclusive);
    assert_eq!(second.op(get).await.errno, 116);
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_operations_in_flight_are_answered_each() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let mut mount = master.mount().await;
    for i in 0..200 {
        mount.send(create(ROOT, &format!("f{i}"))).await;
    }
    let mut seen: Vec<_> = Vec::new();
    for _ in 0..200 {
        let reply = mount.reply().await;
        assert_eq!(reply.errno, 0);
        seen.push(reply.id);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 200);
    let page = mount
        .op(Body::ReadDir(rpc::ReadDir { inode: ROOT, limit: 1_000, plus: true, ..Default::default() }))
        .await;
    let Some(rpc::reply::Result::Dir(page)) = page.result else { panic!("{page:?}") };
    assert!(page.end && page.entries.len() == 200 && page.entries.iter().all(|e| e.attr.is_some()));
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_hello_and_what_is_no_cluster_of_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let mut client = rpc::meta_client::MetaClient::connect(format!("http://{}", master.addr)).await.unwrap();
    let refusal = |first: Msg| {
        let mut client = client.clone();
        async move {
            let up =
                tokio_stream::once(rpc::ClientMessage { msg: Some(first) }).chain(tokio_stream::pending());
            let mut down = client.session(up).await.unwrap().into_inner();
            down.message().await.unwrap_err()
        }
    };
    let status = refusal(Msg::KeepAlive(rpc::KeepAlive::default())).await;
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let other = rpc::Hello { cluster_id: vec![9; 16].into(), protocol: 1, ..Default::default() };
    assert_eq!(refusal(Msg::Hello(other)).await.code(), tonic::Code::FailedPrecondition);
    let old = rpc::Hello { protocol: 99, ..Default::default() };
    assert_eq!(refusal(Msg::Hello(old)).await.code(), tonic::Code::FailedPrecondition);
    // Garbage on the port harms nobody.
    let mut garbage = tokio::net::TcpStream::connect(master.addr).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut garbage, &[0xff; 4096]).await.unwrap();
    let status = rpc::admin_client::AdminClient::connect(format!("http://{}", master.addr))
        .await
        .unwrap()
        .status(rpc::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((status.inodes, status.copies, status.masters.len()), (1, 3, 1));
    drop(client.session(tokio_stream::empty()).await);
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_or_a_directory_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let taken = cairn_master::Config { listen: master.addr, ..config(dir.path()) };
    let error = cairn_master::run(taken, |_| {}, std::future::pending()).await.unwrap_err().to_string();
    assert!(error.contains(&master.addr.to_string()) && error.contains("--listen"), "{error}");
    let error =
        cairn_master::run(config(dir.path()), |_| {}, std::future::pending()).await.unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    master.stop().await;
}
