//! Who is suspected, who is called dead, and when.

use cairn_proto::rpc::{self, NodeState};
use rpc::master_command::Cmd;

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

fn state(w: &World, n: usize) -> NodeState {
    w.cluster.servers()[n].state()
}

fn health(w: &World, n: usize) -> u32 {
    w.cluster.status()[n].health_permille
}

/// How long until the server is in that state, milliseconds.
fn until(w: &mut World, n: usize, wanted: NodeState) -> u64 {
    let begun = w.now;
    while state(w, n) != wanted {
        assert!(w.now.since(begun) < 60_000, "never {wanted:?}");
        w.run(100);
    }
    w.now.since(begun)
}

#[test]
fn a_hung_server_is_suspected_soon_and_dead_when_its_lease_has_run_out() {
    let mut w = world_with_chunks(4, 20);
    assert_eq!(health(&w, 0), 1_000);
    w.fakes[0].hung = true;
    assert!(until(&mut w, 0, NodeState::Suspected) <= 1_400);
    assert!(health(&w, 0) <= 500);
    assert!(until(&mut w, 0, NodeState::Dead) <= LEASE_MS);
    assert_eq!(health(&w, 0), 0);
    w.run(5_000);
    assert!(w.store.chunks.values().all(|r| r.is_whole() && !r.has(w.server(0))));
}

#[test]
fn a_server_that_its_peers_reach_is_not_replaced_at_once() {
    let mut w = world_with_chunks(4, 20);
    let before: Vec<_> = w.store.chunks.values().cloned().collect();
    w.fakes[0].cut = true;
    w.run(20_000);
    assert_eq!(state(&w, 0), NodeState::Suspected);
    assert!(w.store.chunks.values().eq(&before), "nothing is copied");
    // But whoever has to write is not held up: its lease has run out.
    let record = before.iter().find(|r| r.primary() == Some(w.server(0))).unwrap();
    let servers = vec![w.server(0)];
    let (chunk, epoch, failure) = (record.chunk, record.epoch, rpc::Failure::Unreachable);
    w.deliver(Event::ClientReport { token: Token(1), chunk, epoch, servers, failure });
    assert!(!w.store.chunks[&chunk].has(w.server(0)));
    w.run(5_000);
    assert!(!w.store.chunks[&chunk].is_whole(), "it waits for the old copy");
    w.fakes[0].cut = false;
    w.fakes[0].inbox.clear();
    w.disconnect(0);
    w.connect(0);
    w.run(5_000);
    assert_eq!(state(&w, 0), NodeState::Alive);
    assert!(w.store.chunks[&chunk].has(w.server(0)));
    assert!(w.changes.iter().all(|c| c.to != node_states::State::Dead));
}

#[test]
fn but_not_for_ever() {
    let mut w = world_with_chunks(4, 20);
    w.fakes[0].cut = true;
    w.run(28_000);
    assert_eq!(state(&w, 0), NodeState::Suspected);
    w.run(12_000);
    assert_eq!(state(&w, 0), NodeState::Dead);
    assert!(w.store.chunks.values().all(|r| r.is_whole() && !r.has(w.server(0))));
}

#[test]
fn a_server_that_stops_while_its_peers_reached_it_is_replaced() {
    let mut w = world_with_chunks(4, 20);
    w.fakes[0].cut = true;
    w.run(10_000);
    assert_eq!(state(&w, 0), NodeState::Suspected);
    w.fakes[0].running = false;
    assert!(until(&mut w, 0, NodeState::Dead) <= 4_000);
}

#[test]
fn a_killed_server_is_dead_at_once_whatever_its_peers_would_say() {
    let mut w = world_with_chunks(4, 20);
    w.kill(0, true);
    assert_eq!(state(&w, 0), NodeState::Dead);
    let why: Vec<_> = w.changes.iter().rev().take(2).map(|c| c.why).collect();
    assert_eq!(why, ["its process is gone", "its connection ended"]);
}

#[test]
fn when_most_are_gone_at_once_nothing_is_copied_until_some_are_back() {
    let mut w = world_with_chunks(5, 40);
    let before: Vec<_> = w.store.chunks.values().cloned().collect();
    (0..3).for_each(|n| w.fakes[n].hung = true);
    w.run(20_000);
    assert!((0..3).all(|n| state(&w, n) == NodeState::Dead));
    assert!(w.store.chunks.values().eq(&before));
    for n in 0..3 {
        w.fakes[n].hung = false;
        w.fakes[n].inbox.clear();
        w.disconnect(n);
        w.connect(n);
    }
    w.run(5_000);
    assert!(w.store.chunks.values().eq(&before), "they had missed nothing");
}

#[test]
fn after_a_suspicion_heartbeats_are_wanted_more_often() {
    let mut w = world_with_chunks(3, 1);
    w.fakes[0].hung = true;
    until(&mut w, 0, NodeState::Suspected);
    w.fakes[0].hung = false;
    w.fakes[0].inbox.clear();
    w.beat(0);
    let next = w.fakes[0].inbox.iter().find_map(|c| match &c.cmd {
        Some(Cmd::Ack(ack)) => Some(ack.next_ms),
        _ => None,
    });
    assert_eq!((next, state(&w, 0)), (Some(250), NodeState::Alive));
}

#[test]
fn a_master_that_had_stopped_judges_nobody_before_it_has_read_what_came() {
    let mut w = world_with_chunks(3, 10);
    w.now = w.now.plus(10_000);
    w.deliver(Event::Tick);
    (0..3).for_each(|n| w.beat(n));
    w.run(2_000);
    assert!((0..3).all(|n| state(&w, n) == NodeState::Alive));
    assert_eq!(w.changes.iter().filter(|c| c.to != node_states::State::Alive).count(), 0, "{:?}", w.changes);
}

#[test]
fn each_change_is_told() {
    let mut w = world_with_chunks(3, 1);
    let seen = w.changes.len();
    w.kill(1, false);
    w.run(LEASE_MS + 1_000);
    w.start(1);
    w.run(1_000);
    let told: Vec<_> = w.changes[seen..].iter().map(|c| (c.server.id, c.from.name(), c.to.name())).collect();
    let id = w.server(1).0;
    let wanted = [("alive", "suspected"), ("suspected", "dead"), ("dead", "joining"), ("joining", "alive")];
    assert_eq!(told, wanted.map(|(from, to)| (id, from, to)));
}
