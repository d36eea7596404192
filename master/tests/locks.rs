//! File locks at a real master: between sessions, over restarts, and when requests are sent again.

mod common;

use cairn_proto::rpc::{
    self, client_message::Msg, event::Event, op::Op as Body, reply::Result as ReplyResult,
};
use common::{Master, Mount, attr, create};

const ROOT: u64 = 1;
const EAGAIN: i32 = 11;
const EDEADLK: i32 = 35;

fn exclusive(inode: u64, owner: u64) -> rpc::FileLock {
    rpc::FileLock { inode, owner, first: 0, last: 9, exclusive: true, pid: 7, ..rpc::FileLock::default() }
}

fn lock(lock: rpc::FileLock, wait: u64) -> Body {
    Body::Lock(rpc::Lock { lock: Some(lock), wait })
}

fn unlock(lock: rpc::FileLock) -> Body {
    Body::Unlock(rpc::Unlock { lock: Some(lock) })
}

/// Whether the lock was granted; panics on an error.
fn granted(reply: &rpc::Reply) -> bool {
    match (&reply.result, reply.errno) {
        (Some(ReplyResult::Lock(reply)), 0) => reply.granted,
        other => panic!("{other:?}"),
    }
}

/// Two mounts and a file.
async fn two(master: &Master) -> (Mount, Mount, u64) {
    let mut first = master.mount().await;
    let mut second = Mount::dial(master.addr, 0).await;
    let recall = first.event().await;
    first.say(Msg::EventAck(rpc::EventAck { id: recall.id, ..rpc::EventAck::default() })).await;
    second.welcome = Some(second.welcomed().await);
    let file = attr(&first.op(create(ROOT, "f")).await).inode;
    (first, second, file)
}

async fn is_granted(mount: &mut Mount, number: u64) {
    let event = mount.event().await;
    assert_eq!(event.event, Some(Event::LockGranted(rpc::LockGranted { wait: number })));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_told_when_the_other_lets_go_or_ends() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let (mut first, mut second, file) = two(&master).await;
    assert!(granted(&first.op(lock(exclusive(file, 1), 0)).await));
    assert_eq!(
        second.op(lock(exclusive(file, 1), 0)).await.errno,
        EAGAIN,
        "the owner's number is the session's own"
    );
    assert!(!granted(&second.op(lock(exclusive(file, 1), 5)).await));
    assert!(!granted(&second.op(lock(exclusive(file, 1), 5)).await), "asked again");
    assert_eq!(first.op(unlock(exclusive(file, 1))).await.errno, 0);
    is_granted(&mut second, 5).await;
    let cancel = Body::CancelLock(rpc::CancelLock { lock: Some(exclusive(file, 1)), wait: 5 });
    assert!(granted(&second.op(cancel).await), "it was granted before");
    assert!(!granted(&first.op(lock(exclusive(file, 2), 1)).await));
    second.say(Msg::Goodbye(rpc::Goodbye {})).await;
    assert!(matches!(first.event().await.event, Some(Event::LockGranted(_))));
    assert_eq!(first.op(lock(exclusive(file + 99, 2), 0)).await.errno, 116, "no such file");
    let none = rpc::FileLock { first: 5, last: 4, ..exclusive(file, 2) };
    assert_eq!(first.op(lock(none, 0)).await.errno, 22);
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_there_after_a_restart_and_go_with_a_session_that_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let (mut first, mut second, file) = two(&master).await;
    assert!(granted(&first.op(lock(exclusive(file, 1), 0)).await));
    let flock = rpc::FileLock { kind: rpc::LockKind::Flock.into(), ..exclusive(file, 2) };
    assert!(granted(&second.op(lock(flock, 0)).await));
    let (one, two) = (first.session(), second.session());
    drop((first, second));
    master.stop().await;

    let master = Master::start(dir.path()).await;
    let mut second = master.resume(two).await;
    second.next = 100;
    assert_eq!(second.op(lock(exclusive(file, 1), 0)).await.errno, EAGAIN);
    let mut first = master.resume(one).await;
    first.next = 100;
    assert_eq!(first.op(lock(flock, 0)).await.errno, EAGAIN);
    assert!(granted(&first.op(lock(exclusive(file, 1), 0)).await), "the same once more");
    assert!(!granted(&second.op(lock(exclusive(file, 1), 9)).await));
    // The first does not come back: its session ends, and so do its locks, for good.
    drop(first);
    let alive = async {
        loop {
            second.say(Msg::KeepAlive(rpc::KeepAlive::default())).await;
            if tokio::time::timeout(std::time::Duration::from_millis(200), is_granted(&mut second, 9))
                .await
                .is_ok()
            {
                return;
            }
        }
    };
    tokio::time::timeout(common::SOON, alive).await.expect("the lock is not let go");
    drop(second);
    master.stop().await;
    let master = Master::start(dir.path()).await;
    let mut second = master.resume(two).await;
    second.next = 200;
    assert!(granted(&second.op(lock(exclusive(file, 1), 0)).await));
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_waits_over_two_sessions_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let (mut first, mut second, file) = two(&master).await;
    let other = attr(&first.op(create(ROOT, "g")).await).inode;
    assert!(granted(&first.op(lock(exclusive(file, 1), 0)).await));
    assert!(granted(&second.op(lock(exclusive(other, 1), 0)).await));
    assert!(!granted(&first.op(lock(exclusive(other, 1), 1)).await));
    assert_eq!(second.op(lock(exclusive(file, 1), 1)).await.errno, EDEADLK);
    assert_eq!(second.op(unlock(exclusive(other, 1))).await.errno, 0);
    is_granted(&mut first, 1).await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_hands_its_locks_over_and_takes_them_back() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(dir.path()).await;
    let (mut first, mut second, file) = two(&master).await;
    assert!(granted(&first.op(lock(exclusive(file, 7), 0)).await));
    let held = vec![exclusive(file, 1), rpc::FileLock { first: 20, last: u64::MAX, ..exclusive(file, 2) }];
    let hold = Body::HoldLocks(rpc::HoldLocks { locks: held.clone() });
    for _ in 0..2 {
        assert_eq!(first.op(hold.clone()).await.errno, 0, "in place of what it held before");
    }
    assert_eq!(second.op(lock(exclusive(file, 1), 0)).await.errno, EAGAIN);
    let conflicting = Body::HoldLocks(rpc::HoldLocks { locks: vec![exclusive(file, 1)] });
    assert_eq!(second.op(conflicting).await.errno, EAGAIN);
    for _ in 0..2 {
        match first.op(Body::TakeLocks(rpc::TakeLocks {})).await.result {
            Some(ReplyResult::HeldLocks(told)) => assert_eq!(told.locks, held),
            other => panic!("{other:?}"),
        }
    }
    master.stop().await;
}
