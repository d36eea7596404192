//! Primaries without room for a write.

use cairn_proto::{ChunkId, rpc};

use super::super::*;
use super::world::World;

const TOTAL: u64 = 1 << 40;
/// All of it is used by others.
const FULL: (u64, u64) = (TOTAL, TOTAL);

/// Nothing is moved because a disk is full.
fn quiet_world(servers: usize) -> World {
    let mut w = World::new(1, servers);
    w.cluster.set_limits(Limits { full_permille: 1_000, low_permille: 1_000, ..Limits::default() });
    w
}

/// One chunk on three of so many servers; those of `full` places in its set have no room.
fn world(servers: usize, full: &[usize]) -> World {
    let mut w = quiet_world(servers);
    let chunk = w.allocate(true).unwrap();
    let set = w.store.chunks[&chunk].in_sync.clone();
    for place in full {
        let n = w.by_id(set[*place].0);
        w.fakes[n].disk = FULL;
    }
    w.run(3_000);
    w
}

fn record(w: &World) -> ChunkRecord {
    w.store.chunks[&ChunkId(1)].clone()
}

/// The primary asks to be let go; the master's answer.
fn hands_over(w: &mut World) -> rpc::ChunkReply {
    let record = record(w);
    let primary = record.in_sync[0].0;
    let link = w.fakes[w.by_id(primary)].link.unwrap();
    let (chunk, epoch, failed) = (record.chunk.0, record.epoch.0, vec![primary]);
    let failure = rpc::Failure::NoSpace.into();
    let problem = rpc::ReplicaProblem { req: 7, chunk, epoch, failed, failure, hands_over: true };
    w.deliver(Event::Problem { link, problem });
    w.settle();
    w.replies.pop().unwrap()
}

#[test]
fn the_next_in_order_is_primary_in_its_place() {
    let mut w = world(3, &[0]);
    let set = record(&w).in_sync;
    assert_eq!(hands_over(&mut w).chunk.unwrap().epoch, 2);
    assert_eq!(record(&w).in_sync, set[1..]);
}

#[test]
fn one_after_the_other_leaves_as_copies_are_made_where_there_is_room() {
    let mut w = world(4, &[0, 1]);
    let set = record(&w).in_sync;
    assert_eq!(hands_over(&mut w).chunk.unwrap().epoch, 2);
    let reply = hands_over(&mut w);
    assert!(reply.later && reply.chunk.unwrap().epoch == 2, "two are needed");
    w.run(5_000);
    let now = record(&w).in_sync;
    assert!(now.len() == 3 && now[..2] == set[1..] && !now.contains(&set[0]), "{now:?} of {set:?}");
    assert_eq!(hands_over(&mut w).chunk.unwrap().epoch, 4);
    assert_eq!(record(&w).in_sync, now[1..]);
}

#[test]
fn where_too_few_have_room_nothing_changes_and_nobody_is_told_to_wait() {
    for (servers, full) in [(3, &[0, 1, 2][..]), (3, &[0, 2]), (4, &[0, 1, 2])] {
        let mut w = world(servers, full);
        let reply = hands_over(&mut w);
        assert_eq!((reply.later, reply.chunk.unwrap().epoch), (false, 1), "{servers} servers, {full:?} full");
        assert_eq!(record(&w).in_sync.len(), 3);
    }
}

#[test]
fn when_there_is_room_again_what_lacked_a_copy_gets_it() {
    let mut w = quiet_world(3);
    w.fakes[1].disk = FULL;
    w.run(3_000);
    w.allocate(true).unwrap();
    assert_eq!(record(&w).in_sync.len(), 2);
    w.run(30_000);
    assert_eq!(record(&w).in_sync.len(), 2);
    w.fakes[1].disk = (0, 0);
    w.run(5_000);
    assert_eq!(record(&w).in_sync.len(), 3);
}

#[test]
fn a_full_server_is_brought_up_to_date_only_where_no_other_can_take_a_copy() {
    for servers in [3, 4] {
        let mut w = world(servers, &[0]);
        let full = record(&w).in_sync[0];
        hands_over(&mut w);
        w.run(5_000);
        assert_eq!((record(&w).in_sync.len(), record(&w).has(full)), (3, servers == 3));
    }
}
