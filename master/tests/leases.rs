//! Leases against a real master, over gRPC.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use cairn_proto::rpc::{self, client_message::Msg, event::Event, op::Op as Body};
use common::{Master, Mount, attr, create, lookup};

const ROOT: u64 = 1;

async fn ask(mount: &mut Mount, body: Body) -> rpc::Reply {
    let id = mount.next;
    mount.next += 1;
    mount.say(Msg::Op(rpc::Op { id, lease: true, op: Some(body), ..rpc::Op::default() })).await;
    mount.reply().await
}

/// The next reply to a mount that gives signs of life meanwhile.
async fn reply_in_life(mount: &mut Mount) -> rpc::Reply {
    for _ in 0..100 {
        mount.say(Msg::KeepAlive(rpc::KeepAlive::default())).await;
        if let Ok(reply) = tokio::time::timeout(Duration::from_millis(300), mount.reply()).await {
            return reply;
        }
    }
    panic!("no reply");
}

fn chmod(inode: u64, mode: u32) -> Body {
    Body::SetAttr(rpc::SetAttr { inode, mode: Some(mode), ..rpc::SetAttr::default() })
}

/// Two mounts, neither of them alone.
async fn two(master: &Master) -> (Mount, Mount) {
    let mut first = master.mount().await;
    let mut second = Mount::dial(master.addr, 0).await;
    let recall = first.event().await;
    first.say(Msg::EventAck(rpc::EventAck { id: recall.id, ..Default::default() })).await;
    second.welcome = Some(second.welcomed().await);
    (first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_answered_when_the_lease_has_been_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let (mut reader, mut writer) = two(&master).await;
    let file = attr(&writer.op(create(ROOT, "f")).await);
    let found = ask(&mut reader, lookup(ROOT, "f")).await;
    assert_eq!(found.leased, [ROOT, file.inode]);
    assert_eq!(
        ask(&mut reader, lookup(ROOT, "g")).await.leased,
        [ROOT],
        "that there is none is something, too"
    );
    // Both wait, and nothing else does.
    let waiting = writer.send(chmod(file.inode, 0o600)).await;
    let Some(Event::LeaseRecall(recall)) = reader.event().await.event else { panic!("no recall") };
    assert_eq!(recall.inodes, [file.inode]);
    let made = writer.send(create(ROOT, "g")).await;
    let event = reader.event().await;
    assert!(matches!(&event.event, Some(Event::LeaseRecall(r)) if r.inodes == [ROOT]));
    assert_eq!(attr(&writer.lookup(ROOT, "f").await).mode & 0o777, 0o644, "not changed yet");
    reader.say(Msg::EventAck(rpc::EventAck { id: event.id, ..Default::default() })).await;
    assert_eq!(writer.reply().await.id, made);
    // The other one's session ends without a word: the change waits for that, and no longer.
    drop(reader);
    let changed = reply_in_life(&mut writer).await;
    assert_eq!((changed.id, attr(&changed).mode & 0o777), (waiting, 0o600));
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_recalls_the_leases_on_its_inode_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let (mut reader, mut writer) = two(&master).await;
    let file = attr(&writer.op(create(ROOT, "f")).await);
    let announcement = Body::Grow(rpc::Grow { inode: file.inode, ..rpc::Grow::default() });
    assert_eq!(attr(&writer.op(announcement.clone()).await), file, "nobody has a lease");
    assert_eq!(ask(&mut reader, lookup(ROOT, "f")).await.leased, [ROOT, file.inode]);
    let waiting = writer.send(announcement).await;
    let event = reader.event().await;
    assert!(matches!(&event.event, Some(Event::LeaseRecall(r)) if r.inodes == [file.inode]));
    reader.say(Msg::EventAck(rpc::EventAck { id: event.id, ..Default::default() })).await;
    let reply = writer.reply().await;
    assert_eq!((reply.id, attr(&reply)), (waiting, file));
    assert_eq!(attr(&writer.lookup(ROOT, "f").await), file);
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_is_told_with_the_acknowledgement_and_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let (mut reader, mut writer) = two(&master).await;
    let file = attr(&writer.op(create(ROOT, "f")).await);
    ask(&mut reader, lookup(ROOT, "f")).await;
    let unlink = rpc::Unlink { parent: ROOT, name: "f".into(), keep_open: false };
    let waiting = writer.send(Body::Unlink(unlink)).await;
    let recall = reader.event().await;
    reader
        .say(Msg::EventAck(rpc::EventAck { id: recall.id, open: vec![file.inode], given_back: vec![] }))
        .await;
    let gone = writer.reply().await;
    assert_eq!((gone.id, attr(&gone).nlink), (waiting, 0));
    let get = Body::GetAttr(rpc::GetAttr { inode: file.inode });
    assert_eq!(reader.op(get).await.errno, 0, "it is open");
    reader.op(Body::Closed(rpc::Closed { inodes: vec![file.inode] })).await;
    until_gone(&mut reader, Some(&writer), file.inode).await;
    master.stop().await;
}

/// Asks for an inode's attributes until they are refused as those of one that is gone; the other mount gives signs of life.
async fn until_gone(mount: &mut Mount, other: Option<&Mount>, inode: u64) {
    for _ in 0..200 {
        if let Some(other) = other {
            other.say(Msg::KeepAlive(rpc::KeepAlive::default())).await;
        }
        let reply = mount.op(Body::GetAttr(rpc::GetAttr { inode })).await;
        if reply.errno == 116 {
            return;
        }
        assert_eq!(attr(&reply).nlink, 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it is there for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_looked_up_and_is_unlinked_elsewhere_stays_for_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let (mut reader, mut writer) = two(&master).await;
    let [first, second] =
        [attr(&writer.op(create(ROOT, "f")).await).inode, attr(&writer.op(create(ROOT, "g")).await).inode];
    let unlink = |name: &str| rpc::Unlink { parent: ROOT, name: name.to_owned().into(), keep_open: false };
    writer.op(Body::Unlink(unlink("f"))).await;
    until_gone(&mut reader, Some(&writer), first).await;
    // A master that starts anew does not forget to let it go.
    writer.op(Body::Unlink(unlink("g"))).await;
    let session = reader.session();
    drop((reader, writer));
    master.stop().await;
    let master = Master::start(dir.path()).await;
    until_gone(&mut master.resume(session).await, None, second).await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_hello_again_holds_no_lease_and_a_change_sent_again_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let (mut reader, mut writer) = two(&master).await;
    let file = attr(&writer.op(create(ROOT, "f")).await);
    ask(&mut reader, lookup(ROOT, "f")).await;
    let (id, session) = (writer.send(create(ROOT, "g")).await, writer.session());
    reader.event().await;
    // The change waits while its mount comes back and sends it again.
    drop(writer);
    let mut writer = master.resume(session).await;
    writer.next = id;
    writer.send(create(ROOT, "g")).await;
    let reading = reader.session();
    drop(reader);
    let _reader = master.resume(reading).await;
    assert_eq!(writer.reply().await.errno, 0);
    // After a restart, the other one may hold a lease until it has said hello.
    master.stop().await;
    let master = Master::start(dir.path()).await;
    let mut writer = master.resume(session).await;
    writer.next = 200;
    let waiting = writer.send(chmod(file.inode, 0o600)).await;
    let found = writer.lookup(ROOT, "f").await;
    assert_eq!((found.id, attr(&found).mode & 0o777), (waiting + 1, 0o644));
    let _reader = master.resume(reading).await;
    assert_eq!(writer.reply().await.id, waiting);
    master.stop().await;
}
