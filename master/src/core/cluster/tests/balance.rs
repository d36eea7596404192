//! Chunks move off servers that are too full, and no chunk is ever under its wanted copies because of that.

use super::super::*;
use super::fake::FakeServer;
use super::world::World;

const CHUNK: u64 = 64 << 20;
const DISK: u64 = 100 * CHUNK;

/// Servers with disks for 100 chunks each, on these racks; `chunks` of them are allocated.
fn world(racks: &[&'static str], chunks: usize) -> World {
    let mut w = World::new(1, 0);
    w.store.chunk_bytes = CHUNK;
    for rack in racks {
        w.fakes.push(FakeServer { rack, disk: (DISK, 0), ..FakeServer::default() });
        w.start(w.fakes.len() - 1);
    }
    w.run(300);
    for _ in 0..chunks {
        w.allocate(true).unwrap();
    }
    w.run(3_000);
    w
}

/// Somebody else fills the server's disk up to so many hundredths.
fn fill(w: &mut World, n: usize, percent: u64) {
    let used = w.fakes[n].replicas.len() as u64;
    w.fakes[n].disk.1 = (percent - used) * CHUNK;
}

fn percent(w: &World, n: usize) -> u64 {
    w.fakes[n].disk.1 / CHUNK + w.fakes[n].replicas.len() as u64
}

fn all_at_rest(w: &World) {
    let migration = w.cluster.migration();
    assert_eq!((migration.disk, w.cluster.balance.plans().len()), (0, 0));
    assert!(w.store.chunks.values().all(|r| r.in_sync.len() == 3));
}

#[test]
fn chunks_move_off_a_full_server_until_it_is_below_the_lower_limit() {
    let mut w = world(&[""; 5], 40);
    fill(&mut w, 0, 90);
    let before = w.told.len();
    w.run(60_000);
    assert!((78..=80).contains(&percent(&w, 0)), "{}", percent(&w, 0));
    let moved = w.cluster.migration().disk_moved;
    assert!((10..=12).contains(&moved), "{moved}");
    assert!(w.told[before..].iter().all(|info| info.in_sync.len() == 3), "never fewer than wanted");
    all_at_rest(&w);
    // And no more after that.
    w.run(60_000);
    assert_eq!(w.cluster.migration().disk_moved, moved);
}

#[test]
fn they_move_only_where_they_do_not_make_another_one_full() {
    let mut w = world(&[""; 5], 40);
    fill(&mut w, 0, 95);
    fill(&mut w, 1, 84);
    fill(&mut w, 2, 77);
    fill(&mut w, 3, 78);
    fill(&mut w, 4, 79);
    w.run(120_000);
    let (first, taken) = (percent(&w, 0), [1, 2, 3, 4].map(|n| percent(&w, n)));
    assert!(taken[0] == 84 && taken[1..].iter().all(|p| *p <= 79), "{taken:?}");
    assert!((90..95).contains(&first), "{first}: 79 hundredths are all that they take");
    all_at_rest(&w);
}

#[test]
fn a_full_server_gets_no_new_chunks_while_there_are_others() {
    let mut w = world(&[""; 4], 0);
    fill(&mut w, 0, 86);
    w.run(1_500);
    let full = w.server(0);
    for _ in 0..30 {
        let chunk = w.allocate(true).unwrap();
        assert!(!w.store.chunks[&chunk].has(full));
    }
    // With no other one it does.
    w.kill(1, true);
    w.run(1_000);
    let chunk = w.allocate(true).unwrap();
    assert!(w.store.chunks[&chunk].has(full));
}

#[test]
fn copies_that_are_missing_come_before_chunks_that_are_only_moved() {
    let mut w = world(&[""; 6], 100);
    fill(&mut w, 0, 95);
    w.kill(1, true);
    w.run(2_000);
    let short = |w: &World| w.store.chunks.values().filter(|r| !r.is_whole()).count();
    assert!(short(&w) > 20 && w.cluster.migration().disk > 0);
    while short(&w) > 0 {
        w.run(500);
        let moved = w.cluster.migration().disk_moved;
        assert!(moved <= 1 || short(&w) == 0, "{moved} moved, {} short", short(&w));
        assert!(w.now < Millis(300_000));
    }
    w.run(60_000);
    assert!(percent(&w, 0) <= 80, "{}", percent(&w, 0));
    all_at_rest(&w);
}

#[test]
fn a_move_leaves_copies_on_as_many_racks_as_before() {
    let mut w = world(&["a", "a", "b", "b", "c"], 30);
    // The only one of its rack: what is on it can go nowhere.
    fill(&mut w, 4, 90);
    w.run(20_000);
    assert_eq!((percent(&w, 4), w.cluster.migration().disk_moved), (90, 0));
    fill(&mut w, 0, 90);
    w.run(60_000);
    assert!(percent(&w, 0) <= 80, "{}", percent(&w, 0));
    for record in w.store.chunks.values() {
        let mut on: Vec<_> = record.in_sync.iter().map(|s| w.fakes[w.by_id(s.0)].rack).collect();
        on.sort_unstable();
        assert_eq!(on, ["a", "b", "c"], "{record:?}");
    }
}

#[test]
fn a_server_that_dies_while_chunks_move_costs_nothing() {
    for victim in 0..5 {
        let mut w = world(&[""; 5], 40);
        w.cluster.settings.repair_rate = 16 << 20;
        fill(&mut w, 0, 90);
        w.run(2_500);
        assert!(w.cluster.migration().disk > 0);
        w.kill(victim, victim % 2 == 0);
        w.run(15_000);
        w.start(victim);
        w.run(90_000);
        assert!(percent(&w, 0) <= 80, "{victim}: {}", percent(&w, 0));
        all_at_rest(&w);
    }
}

#[test]
fn chunks_that_are_deleted_while_they_move_are_forgotten() {
    let mut w = world(&[""; 5], 40);
    fill(&mut w, 0, 90);
    w.run(2_000);
    let all: Vec<_> = w.store.chunks.keys().copied().collect();
    assert!(w.cluster.migration().disk > 0);
    all.iter().for_each(|c| w.delete(*c));
    w.run(30_000);
    all_at_rest(&w);
    assert!(w.fakes.iter().all(|f| f.replicas.is_empty()) && w.store.garbage.is_empty());
}

#[test]
fn the_limits_can_be_set_while_it_runs() {
    let mut w = world(&[""; 5], 40);
    assert_eq!(w.cluster.limits(), Limits::default());
    w.cluster.set_limits(Limits { full_permille: 700, low_permille: 600, ..Limits::default() });
    fill(&mut w, 0, 75);
    w.run(60_000);
    assert!(percent(&w, 0) <= 60, "{}", percent(&w, 0));
    w.cluster.set_limits(Limits { full_permille: 1_000, low_permille: 1_000, ..Limits::default() });
    fill(&mut w, 0, 99);
    w.run(20_000);
    assert_eq!(percent(&w, 0), 99, "never");
}

#[test]
fn after_a_restart_of_the_master_it_goes_on() {
    let mut w = world(&[""; 5], 40);
    fill(&mut w, 0, 90);
    w.run(3_000);
    w.restart_master_gently();
    w.run(90_000);
    assert!(percent(&w, 0) <= 80, "{}", percent(&w, 0));
    all_at_rest(&w);
}
