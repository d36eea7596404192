//! In which order copies are made, where, and how fast; and that deletions come after them.

use std::collections::BTreeSet;

use cairn_proto::rpc;

use super::super::*;
use super::fake::FakeServer;
use super::world::World;

fn world_with_chunks(servers: usize, chunks: usize) -> World {
    let mut w = World::new(1, servers);
    for _ in 0..chunks {
        w.allocate(true).unwrap();
    }
    w.run(3_000);
    w
}

fn short(w: &World) -> usize {
    w.store.chunks.values().filter(|r| !r.is_whole()).count()
}

#[test]
fn copies_keep_to_the_rate() {
    let mut w = world_with_chunks(6, 120);
    w.store.chunk_bytes = 64 << 20;
    w.kill(0, true);
    w.run(1_000);
    let at_first = short(&w);
    assert!(at_first > 50, "{at_first}");
    w.run(2_000);
    let after_two = short(&w);
    assert!((at_first - 6..at_first).contains(&after_two), "they begin slowly: {after_two} of {at_first}");
    w.run(5_000);
    // 64 MiB a second for each of five servers: five chunks a second.
    let before = short(&w);
    w.run(4_000);
    let done = before - short(&w);
    assert!((15..=25).contains(&done), "{done} of {before}");
    let told = w.cluster.repair_status();
    assert!(told.done as usize >= at_first - short(&w), "{told:?}");
    assert_eq!(told.copied_bytes, told.done * (64 << 20));
    assert!(told.allowed_bytes >= told.copied_bytes * 9 / 10, "{told:?}");
    w.run(60_000);
    assert_eq!(short(&w), 0);
}

#[test]
fn a_returning_server_is_not_held_up_by_what_whole_copies_would_take() {
    let mut w = world_with_chunks(3, 100);
    w.store.chunk_bytes = 64 << 20;
    w.kill(0, true);
    w.run(2_000);
    assert_eq!(short(&w), 100);
    w.start(0);
    w.run(4_000);
    assert_eq!(short(&w), 0);
}

#[test]
fn deletions_wait_until_no_copy_is_made_any_more() {
    let mut w = world_with_chunks(6, 120);
    w.store.chunk_bytes = 64 << 20;
    let gone = w.store.chunks.keys().copied().take(20).collect::<Vec<_>>();
    w.kill(0, true);
    w.run(1_000);
    gone.iter().for_each(|c| w.delete(*c));
    w.run(2_000);
    assert!(short(&w) > 0);
    let held = |w: &World| {
        gone.iter().filter(|c| w.fakes[1..].iter().any(|f| f.replicas.contains_key(&c.0))).count()
    };
    assert_eq!(held(&w), gone.len(), "copies first");
    w.run(60_000);
    assert_eq!((short(&w), held(&w)), (0, 0));
}

#[test]
fn the_chunk_that_somebody_asks_for_comes_first() {
    let mut w = world_with_chunks(6, 120);
    w.store.chunk_bytes = 64 << 20;
    let dead = w.server(0);
    let hot = w.store.chunks.values().rev().find(|r| r.has(dead)).unwrap().chunk;
    w.kill(0, true);
    w.run(300);
    let (epoch, failure) = (w.store.chunks[&hot].epoch, rpc::Failure::Unreachable);
    w.deliver(Event::ClientReport { token: Token(1), chunk: hot, epoch, servers: vec![dead], failure });
    w.run(1_500);
    assert!(w.store.chunks[&hot].is_whole());
    assert!(short(&w) > 10, "{}", short(&w));
}

#[test]
fn new_copies_stand_on_other_racks_where_there_are_some() {
    let mut w = World::new(3, 0);
    for rack in ["a", "a", "b", "b", "c", "c"] {
        w.fakes.push(FakeServer { rack, ..FakeServer::default() });
        w.start(w.fakes.len() - 1);
    }
    w.run(300);
    for _ in 0..60 {
        w.allocate(true).unwrap();
    }
    w.run(3_000);
    let spread = |w: &World, racks: usize| {
        for record in w.store.chunks.values() {
            let on: BTreeSet<_> = record.in_sync.iter().map(|s| w.fakes[w.by_id(s.0)].rack).collect();
            assert_eq!(on.len(), racks, "{record:?}");
        }
    };
    spread(&w, 3);
    w.kill(0, true);
    w.run(10_000);
    assert_eq!(short(&w), 0);
    spread(&w, 3);
    let server = w.server(2);
    w.deliver(Event::Ordered { server, order: Order::Drain });
    w.run(10_000);
    spread(&w, 3);
    assert!(w.store.chunks.values().all(|r| !r.has(server)));
}

#[test]
fn the_weights_decide_where_copies_go() {
    let mut w = world_with_chunks(6, 60);
    let load_only = Weights { free: 0, load: 1, rtt: 0, rack: 0 };
    w.cluster.set_weights(load_only);
    assert_eq!(w.cluster.weights(), load_only);
    w.fakes[4].load = 6_000;
    w.run(2_000);
    let loaded = |w: &World| w.store.chunks.keys().filter(|c| w.fakes[4].replicas.contains_key(&c.0)).count();
    let before = loaded(&w);
    w.kill(0, true);
    w.run(10_000);
    // Only what no other could take.
    assert!(short(&w) == 0 && loaded(&w) <= before + 3, "{} and {before}", loaded(&w));
}
