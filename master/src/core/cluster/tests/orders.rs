//! What administrators order: drain, maintenance, resume.

use std::collections::BTreeSet;

use cairn_proto::{ServerId, rpc};

use super::super::*;
use super::world::{LEASE_MS, World};

fn world_with_chunks(servers: usize, chunks: usize) -> World {
    let mut w = World::new(1, servers);
    for _ in 0..chunks {
        w.allocate(true).unwrap();
    }
    w.run(3_000);
    w
}

fn order(w: &mut World, n: usize, order: Order) {
    let server = w.server(n);
    w.deliver(Event::Ordered { server, order });
    w.settle();
}

fn progress(w: &World, n: usize) -> rpc::NodeReply {
    w.cluster.node(w.now, w.server(n)).unwrap()
}

fn state(w: &World, n: usize) -> rpc::NodeState {
    progress(w, n).info.unwrap().state()
}

fn whole_without(w: &World, server: ServerId) -> bool {
    w.store.chunks.values().all(|r| r.is_whole() && !r.has(server))
}

#[test]
fn a_drained_server_can_be_switched_off_with_no_chunk_under_its_copies() {
    let mut w = world_with_chunks(4, 60);
    let server = w.server(0);
    let had = w.store.chunks.values().filter(|r| r.has(server)).count();
    assert!(had > 20, "{had}");
    order(&mut w, 0, Order::Drain);
    assert!(progress(&w, 0).counting);
    for _ in 0..60 {
        w.run(100);
        assert!(
            w.store.chunks.values().all(ChunkRecord::is_whole),
            "no copy is given up before another is there"
        );
        assert_eq!(w.cluster.counts().under_replicated, 0);
    }
    let done = progress(&w, 0);
    assert_eq!((done.chunks_left, done.counting, state(&w, 0)), (0, false, rpc::NodeState::Draining));
    assert!(whole_without(&w, server));
    let epochs: Vec<_> = w.store.chunks.values().map(|r| r.epoch).collect();
    w.kill(0, true);
    w.run(5_000);
    assert!(w.store.chunks.values().map(|r| r.epoch).eq(epochs), "nobody misses it");
}

#[test]
fn a_server_that_is_drained_gets_nothing_new_until_it_is_resumed() {
    let mut w = world_with_chunks(4, 10);
    let server = w.server(0);
    order(&mut w, 0, Order::Drain);
    w.run(3_000);
    for _ in 0..50 {
        w.allocate(true).unwrap();
    }
    w.run(3_000);
    assert!(whole_without(&w, server));
    assert!(w.fakes[0].replicas.is_empty(), "its old copies are deleted");
    // Neither a restart of the server nor one of the master forgets it.
    w.kill(0, true);
    w.start(0);
    w.restart_master();
    w.run(3_000);
    assert_eq!(state(&w, 0), rpc::NodeState::Draining);
    order(&mut w, 0, Order::Resume);
    assert_eq!(state(&w, 0), rpc::NodeState::Alive);
    for _ in 0..50 {
        w.allocate(true).unwrap();
    }
    assert!(w.store.chunks.values().any(|r| r.has(server)));
}

#[test]
fn a_drain_without_another_server_says_that_it_is_blocked_and_takes_nothing_away() {
    let mut w = world_with_chunks(3, 20);
    order(&mut w, 1, Order::Drain);
    w.run(5_000);
    let blocked = progress(&w, 1);
    assert_eq!((blocked.chunks_left, blocked.chunks_blocked), (20, 20));
    assert_eq!(w.cluster.counts(), Counts { total: 20, under_replicated: 0, missing: 0 });
    assert!(w.store.chunks.values().all(|r| r.in_sync.len() == 3));
    // A fourth server unblocks it.
    w.fakes.push(super::fake::FakeServer::default());
    w.start(3);
    w.run(5_000);
    assert!(whole_without(&w, w.server(1)));
    assert_eq!(progress(&w, 1).chunks_left, 0);
}

#[test]
fn two_can_be_drained_at_once_and_sets_never_grow() {
    let mut w = world_with_chunks(5, 60);
    order(&mut w, 0, Order::Drain);
    order(&mut w, 1, Order::Drain);
    for _ in 0..80 {
        w.run(100);
        assert!(w.store.chunks.values().all(|r| r.in_sync.len() == 3));
    }
    assert!(whole_without(&w, w.server(0)) && whole_without(&w, w.server(1)));
}

#[test]
fn a_server_that_dies_while_it_is_drained_is_replaced() {
    let mut w = world_with_chunks(4, 40);
    order(&mut w, 0, Order::Drain);
    w.kill(0, true);
    assert_eq!(state(&w, 0), rpc::NodeState::Dead);
    w.run(5_000);
    assert!(whole_without(&w, w.server(0)));
    w.start(0);
    w.run(2_000);
    assert_eq!(state(&w, 0), rpc::NodeState::Draining, "the order is still there");
}

#[test]
fn maintenance_leaves_sets_alone_and_nothing_is_copied() {
    let mut w = world_with_chunks(4, 40);
    order(&mut w, 0, Order::Maintain(60_000));
    assert_eq!(state(&w, 0), rpc::NodeState::Maintenance);
    let before: Vec<_> = w.store.chunks.values().cloned().collect();
    w.kill(0, true);
    w.run(30_000);
    assert!(w.store.chunks.values().eq(&before));
    assert_eq!(state(&w, 0), rpc::NodeState::Maintenance);
    for _ in 0..20 {
        let chunk = w.allocate(true).unwrap();
        assert!(!w.store.chunks[&chunk].has(w.server(0)));
    }
    w.start(0);
    w.run(2_000);
    order(&mut w, 0, Order::Resume);
    assert_eq!(state(&w, 0), rpc::NodeState::Alive);
    assert!(before.iter().all(|r| w.store.chunks[&r.chunk] == *r), "it had missed nothing");
}

#[test]
fn what_a_server_in_maintenance_misses_waits_for_it() {
    let mut w = world_with_chunks(4, 40);
    let server = w.server(0);
    order(&mut w, 0, Order::Maintain(60_000));
    w.kill(0, true);
    // Writes go on without it.
    for record in w.store.chunks.values().cloned().collect::<Vec<_>>() {
        if record.has(server) && record.primary() != Some(server) {
            let link = w.fakes[w.by_id(record.in_sync[0].0)].link.unwrap();
            let (chunk, epoch) = (record.chunk.0, record.epoch.0);
            let problem =
                rpc::ReplicaProblem { req: 1, chunk, epoch, failed: vec![server.0], ..Default::default() };
            w.deliver(Event::Problem { link, problem });
        }
    }
    w.run(20_000);
    let short: BTreeSet<_> = w.store.chunks.values().filter(|r| !r.is_whole()).map(|r| r.chunk).collect();
    assert!(short.len() > 10, "{}", short.len());
    assert!(w.store.chunks.values().all(|r| r.is_whole() || !r.has(server)));
    w.start(0);
    w.run(5_000);
    assert!(
        short.iter().all(|c| w.store.chunks[c].has(server)),
        "it is brought up to date, still in maintenance"
    );
    assert_eq!(state(&w, 0), rpc::NodeState::Maintenance);
}

#[test]
fn maintenance_ends_by_itself_and_then_the_server_is_replaced() {
    let mut w = world_with_chunks(4, 40);
    order(&mut w, 0, Order::Maintain(20_000));
    w.kill(0, true);
    w.run(19_000);
    assert_eq!(state(&w, 0), rpc::NodeState::Maintenance);
    assert!(progress(&w, 0).maintenance_left_ms > 0);
    w.run(8_000);
    assert_eq!(state(&w, 0), rpc::NodeState::Dead);
    assert!(whole_without(&w, w.server(0)));
    w.start(0);
    w.run(2_000);
    assert_eq!(state(&w, 0), rpc::NodeState::Alive);
}

#[test]
fn maintenance_outlives_the_master() {
    let mut w = world_with_chunks(4, 10);
    order(&mut w, 0, Order::Maintain(60_000));
    w.kill(0, true);
    let before: Vec<_> = w.store.chunks.values().cloned().collect();
    w.restart_master();
    w.run(LEASE_MS + 2_000);
    assert_eq!(state(&w, 0), rpc::NodeState::Maintenance);
    assert!(w.store.chunks.values().eq(&before));
}

#[test]
fn a_majority_counts_for_more_than_maintenance() {
    let mut w = world_with_chunks(5, 60);
    let (resting, dead) = (w.server(0), w.server(1));
    order(&mut w, 0, Order::Maintain(60_000));
    w.kill(0, true);
    w.kill(1, true);
    w.run(10_000);
    let kept = w.store.chunks.values().filter(|r| r.has(resting)).count();
    assert!(kept > 10, "{kept}");
    for record in w.store.chunks.values() {
        // Of those of which one copy is alive the repair waits only where it is not the primary's.
        let stuck = record.primary() == Some(resting) && record.in_sync.len() == 2;
        assert!(!record.has(dead) && (record.is_whole() || stuck), "{record:?}");
    }
}

#[test]
fn orders_for_a_server_that_nobody_knows_do_nothing() {
    let mut w = world_with_chunks(3, 1);
    w.deliver(Event::Ordered { server: ServerId(99), order: Order::Drain });
    assert_eq!(w.cluster.node(w.now, ServerId(99)), None);
    assert_eq!(w.store.servers.len(), 3);
}
