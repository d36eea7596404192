//! Servers that have too much to do are relieved, and chunks that are read very much get more copies for as long.

use super::super::*;
use super::fake::FakeServer;
use super::world::World;

const CHUNK: u64 = 64 << 20;
const MB: u64 = 1 << 20;

/// Servers on these racks with `chunks` chunks.
fn world(racks: &[&'static str], chunks: usize) -> World {
    let mut w = World::new(1, 0);
    w.store.chunk_bytes = CHUNK;
    for rack in racks {
        w.fakes.push(FakeServer { rack, disk: (1_000 * CHUNK, 0), ..FakeServer::default() });
        w.start(w.fakes.len() - 1);
    }
    w.run(300);
    for _ in 0..chunks {
        w.allocate(true).unwrap();
    }
    w.run(3_000);
    w
}

/// What each server is used by, in MiB a second.
fn rates(w: &World) -> Vec<u64> {
    let of = |id: u32| w.cluster.servers[&ServerId(id)].use_rate / MB;
    w.fakes.iter().map(|f| of(f.id)).collect()
}

/// Each chunk on a server (the first) is read by so much from there.
fn read_all_of_the_first(w: &mut World, per_copy: u64) -> usize {
    let first = w.server(0);
    let on: Vec<_> = w.store.chunks.values().filter(|r| r.has(first)).map(|r| r.chunk).collect();
    w.store.reads = on.iter().map(|c| (*c, per_copy * 3)).collect();
    on.len()
}

fn copies(w: &World, chunk: ChunkId) -> usize {
    w.store.chunks[&chunk].in_sync.len()
}

fn replicas(w: &World, chunk: ChunkId) -> usize {
    w.fakes.iter().filter(|f| f.replicas.contains_key(&chunk.0)).count()
}

#[test]
fn a_server_that_has_too_much_to_do_is_relieved_until_it_has_not() {
    let mut w = world(&[""; 8], 30);
    let on = read_all_of_the_first(&mut w, 10 * MB);
    assert!(on >= 8, "{on}");
    w.cluster.settings.repair_rate = 1 << 40;
    let before = w.told.len();
    w.run(29_000);
    assert_eq!(w.cluster.migration().load_moved, 0, "not before it has been so for 30 s");
    let at_first = rates(&w);
    w.run(600_000);
    let moved = w.cluster.migration().load_moved;
    let rates = rates(&w);
    assert!(rates[0] < at_first[0], "{at_first:?} → {rates:?}, {moved} moved");
    assert!(!w.cluster.balance.is_overloaded(w.server(0)), "{at_first:?} → {rates:?}, {moved} moved");
    assert!((1..on as u64).contains(&moved), "{moved} of {on}");
    assert!(w.told[before..].iter().all(|info| info.in_sync.len() == 3), "never fewer than wanted");
    // And then there is peace.
    w.run(600_000);
    assert_eq!((w.cluster.migration().load_moved, w.cluster.migration().load), (moved, 0));
    assert!(w.store.chunks.values().all(|r| r.in_sync.len() == 3 && replicas(&w, r.chunk) == 3));
}

#[test]
fn a_single_hot_chunk_is_not_sent_round() {
    // Wherever it is, there is as much to do.
    let mut w = world(&[""; 5], 20);
    let chunk = *w.store.chunks.keys().next().unwrap();
    w.store.reads.insert(chunk, 90 * MB);
    w.cluster.set_limits(Limits { hot_rate: 0, ..Limits::default() });
    let at = w.store.chunks[&chunk].clone();
    w.run(300_000);
    assert_eq!((w.cluster.migration().load_moved, &w.store.chunks[&chunk]), (0, &at));
}

#[test]
fn relief_can_be_switched_off_and_waits_for_what_is_missing() {
    let mut w = world(&[""; 8], 30);
    read_all_of_the_first(&mut w, 10 * MB);
    w.cluster.set_limits(Limits { over_rate: 0, hot_rate: 0, ..Limits::default() });
    w.run(120_000);
    assert_eq!(w.cluster.migration().load_moved, 0);
    w.cluster.set_limits(Limits {
        over_rate: 16 * MB,
        hot_rate: 0,
        sustained_ms: 2_000,
        ..Limits::default()
    });
    w.cluster.settings.repair_rate = 16 * MB;
    w.kill(7, true);
    w.run(3_000);
    while w.store.chunks.values().any(|r| !r.is_whole()) {
        assert_eq!(w.cluster.migration().load_moved, 0);
        w.run(500);
        assert!(w.now < Millis(600_000));
    }
    w.run(120_000);
    assert!(w.cluster.migration().load_moved > 0);
}

#[test]
fn a_hot_chunk_gets_more_copies_and_loses_them_when_it_has_cooled() {
    let mut w = world(&[""; 6], 20);
    let chunk = *w.store.chunks.keys().next().unwrap();
    w.store.reads.insert(chunk, 40 * MB);
    w.run(25_000);
    assert_eq!(copies(&w, chunk), 3);
    w.run(20_000);
    assert_eq!((copies(&w, chunk), w.cluster.migration().hot), (4, 1));
    w.store.reads.insert(chunk, 70 * MB);
    w.run(40_000);
    assert_eq!((copies(&w, chunk), replicas(&w, chunk)), (5, 5));
    assert_eq!(w.cluster.counts().under_replicated, 0);
    w.store.reads.insert(chunk, 20 * MB);
    w.run(40_000);
    assert_eq!(copies(&w, chunk), 5, "it is still warm");
    w.store.reads.clear();
    w.run(5_000);
    assert_eq!((copies(&w, chunk), replicas(&w, chunk), w.cluster.migration().hot), (3, 3, 0));
    assert!(w.store.chunks.values().all(|r| r.in_sync.len() == 3));
}

#[test]
fn a_hot_chunk_without_a_server_for_it_waits_for_nothing() {
    let mut w = world(&[""; 3], 10);
    let chunk = *w.store.chunks.keys().next().unwrap();
    w.store.reads.insert(chunk, 500 * MB);
    w.run(60_000);
    let status = w.cluster.repair_status();
    assert_eq!((copies(&w, chunk), status.waiting, status.blocked), (3, 0, 0));
}

#[test]
fn more_copies_end_with_the_master_and_come_again() {
    let mut w = world(&[""; 5], 10);
    let chunk = *w.store.chunks.keys().next().unwrap();
    w.store.reads.insert(chunk, 70 * MB);
    w.run(60_000);
    assert_eq!(copies(&w, chunk), 5);
    w.restart_master_gently();
    w.run(20_000);
    assert_eq!((copies(&w, chunk), replicas(&w, chunk)), (3, 3));
    w.run(60_000);
    assert_eq!(copies(&w, chunk), 5);
}

#[test]
fn a_server_that_dies_takes_a_spare_copy_along_and_nothing_is_missing() {
    for victim in 0..6 {
        let mut w = world(&[""; 6], 10);
        let chunk = *w.store.chunks.keys().next().unwrap();
        w.store.reads.insert(chunk, 70 * MB);
        w.run(60_000);
        assert_eq!(copies(&w, chunk), 5);
        w.kill(victim, true);
        w.run(30_000);
        assert_eq!(copies(&w, chunk), 5, "{victim}");
        w.store.reads.clear();
        w.start(victim);
        w.run(30_000);
        assert_eq!((copies(&w, chunk), replicas(&w, chunk)), (3, 3), "{victim}");
    }
}

#[test]
fn a_drained_server_loses_its_copies_though_they_are_spare() {
    let mut w = world(&[""; 5], 10);
    let chunk = *w.store.chunks.keys().next().unwrap();
    w.store.reads.insert(chunk, 70 * MB);
    w.run(60_000);
    assert_eq!(copies(&w, chunk), 5);
    let server = w.server(2);
    w.deliver(Event::Ordered { server, order: Order::Drain });
    w.run(30_000);
    assert!(w.store.chunks.values().all(|r| !r.has(server)));
    assert_eq!(w.cluster.node(w.now, server).unwrap().chunks_left, 0);
}

#[test]
fn racks_are_kept_when_copies_go() {
    let mut w = world(&["a", "a", "a", "b", "c"], 10);
    let chunk = *w.store.chunks.keys().next().unwrap();
    w.store.reads.insert(chunk, 70 * MB);
    w.run(60_000);
    assert_eq!(copies(&w, chunk), 5);
    w.store.reads.clear();
    w.run(10_000);
    let mut on: Vec<_> = w.store.chunks[&chunk].in_sync.iter().map(|s| w.fakes[w.by_id(s.0)].rack).collect();
    on.sort_unstable();
    assert_eq!(on, ["a", "b", "c"]);
}
