//! What must happen in cases that have names.

use cairn_proto::{ChunkId, Epoch, rpc};
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

fn record(w: &World, chunk: u64) -> ChunkRecord {
    w.store.chunks[&ChunkId(chunk)].clone()
}

fn client_report(w: &mut World, chunk: u64, server: ServerId) -> rpc::ChunkInfo {
    let epoch = record(w, chunk).epoch;
    let failure = rpc::Failure::Unreachable;
    w.deliver(Event::ClientReport {
        token: Token(9),
        chunk: ChunkId(chunk),
        epoch,
        servers: vec![server],
        failure,
    });
    w.answers.pop().unwrap().1.unwrap()
}

#[test]
fn ids_are_given_in_turn_and_kept() {
    let w = World::new(1, 3);
    assert_eq!(w.fakes.iter().map(|f| f.id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(w.store.servers.len(), 3);
    assert!(w.cluster.servers().iter().all(|s| s.state() == rpc::NodeState::Alive));
}

#[test]
fn a_server_of_another_cluster_is_refused() {
    let mut w = World::new(1, 1);
    let register = rpc::Register {
        id: 1,
        cluster_id: vec![9; 16].into(),
        info: Some(rpc::ServerInfo { addr: "a:1".to_owned(), ..Default::default() }),
        protocol: cairn_proto::PROTOCOL,
        ..Default::default()
    };
    w.deliver(Event::Registered { link: LinkId(77), register: register.clone() });
    let (link, reason) = w.closed.pop().unwrap();
    assert_eq!(link, LinkId(77));
    assert!(reason.to_string().contains("another cluster: 0909"), "{reason}");

    let register = rpc::Register { protocol: 99, ..register };
    w.deliver(Event::Registered { link: LinkId(78), register });
    assert_eq!(w.closed.pop(), Some((LinkId(78), Refusal::Protocol(99))));
}

#[test]
fn a_second_process_with_the_same_id_is_refused_while_the_first_may_serve() {
    let mut w = World::new(1, 1);
    let twin = |incarnation| rpc::Register {
        id: 1,
        cluster_id: vec![0; 16].into(),
        info: Some(rpc::ServerInfo { addr: "b:1".to_owned(), ..Default::default() }),
        incarnation,
        protocol: cairn_proto::PROTOCOL,
        ..Default::default()
    };
    w.deliver(Event::Registered { link: LinkId(77), register: twin(5) });
    assert!(matches!(w.closed.pop(), Some((LinkId(77), Refusal::Twice(1, _)))));
    // The same process on a new connection replaces the old one.
    let (old, incarnation) = (w.fakes[0].link.unwrap(), w.fakes[0].incarnation);
    w.deliver(Event::Registered { link: LinkId(78), register: twin(incarnation) });
    assert_eq!(w.closed.pop(), Some((old, Refusal::Replaced)));
    // When the first has been silent for longer than its lease, the second may have its place.
    w.run(LEASE_MS + 1_000);
    w.deliver(Event::Registered { link: LinkId(79), register: twin(5) });
    assert_eq!(w.closed.pop(), Some((LinkId(78), Refusal::Replaced)));
}

#[test]
fn a_killed_server_leaves_the_sets_and_comes_back_into_them() {
    let mut w = world_with_chunks(3, 100);
    w.kill(2, true);
    w.run(200);
    let dead = w.server(2);
    assert!(w.store.chunks.values().all(|r| r.in_sync.len() == 2 && !r.has(dead) && r.epoch == Epoch(2)));
    assert_eq!(w.cluster.counts(), Counts { total: 100, under_replicated: 100, missing: 0 });
    let told = w.told.len();
    assert_eq!(told, 100);
    w.start(2);
    w.run(5_000);
    assert!(w.store.chunks.values().all(|r| r.in_sync.len() == 3 && r.in_sync[2] == dead));
    assert_eq!(w.cluster.counts(), Counts { total: 100, under_replicated: 0, missing: 0 });
}

#[test]
fn without_evidence_the_lease_is_waited_for() {
    let mut w = world_with_chunks(3, 10);
    w.fakes[0].hung = true;
    let primary = w.server(0);
    let of_it: Vec<_> = w.store.chunks.values().filter(|r| r.primary() == Some(primary)).cloned().collect();
    let chunk = of_it[0].chunk.0;
    assert_eq!(client_report(&mut w, chunk, primary).epoch, 1, "its lease is running");
    w.run(LEASE_MS - 500);
    assert_eq!(client_report(&mut w, chunk, primary).epoch, 1);
    w.run(1_000);
    assert_eq!(record(&w, chunk).epoch, Epoch(2), "dropped when the lease has run out");
    assert_ne!(record(&w, chunk).primary(), Some(primary));
}

#[test]
fn a_client_need_not_wait_for_the_audit() {
    let mut w = world_with_chunks(3, 1);
    let primary = record(&w, 1).primary().unwrap();
    let n = w.by_id(primary.0);
    w.kill(n, true);
    let answer = client_report(&mut w, 1, primary);
    assert_eq!(answer.epoch, 2);
    assert!(!answer.in_sync.contains(&primary.0));
}

#[test]
fn two_dead_of_three_change_nothing_more() {
    let mut w = world_with_chunks(3, 20);
    w.kill(0, true);
    w.run(200);
    w.kill(1, true);
    w.run(10_000);
    assert!(w.store.chunks.values().all(|r| r.in_sync.len() == 2));
    assert_eq!(w.cluster.counts().missing, 0);
    w.kill(2, true);
    w.run(1_000);
    assert_eq!(w.cluster.counts(), Counts { total: 20, under_replicated: 20, missing: 20 });
    (0..3).for_each(|n| w.start(n));
    w.run(10_000);
    assert_eq!(w.cluster.counts(), Counts { total: 20, under_replicated: 0, missing: 0 });
}

#[test]
fn most_servers_gone_together_start_no_repair_but_clients_are_served() {
    let mut w = world_with_chunks(5, 30);
    (0..3).for_each(|n| w.kill(n, true));
    w.run(5_000);
    assert!(w.store.chunks.values().all(|r| r.epoch == Epoch(1)), "nothing is done unasked");
    let gone: Vec<_> = (0..3).map(|n| w.server(n)).collect();
    let two_alive =
        w.store.chunks.values().find(|r| r.in_sync.iter().filter(|s| gone.contains(s)).count() == 1).unwrap();
    let failed = *two_alive.in_sync.iter().find(|s| gone.contains(s)).unwrap();
    let chunk = two_alive.chunk.0;
    assert_eq!(client_report(&mut w, chunk, failed).epoch, 2);
}

#[test]
fn servers_that_hung_one_after_the_other_are_not_gone_together() {
    let mut w = world_with_chunks(3, 10);
    for n in 0..3 {
        w.fakes[n].hung = true;
        w.run(LEASE_MS + 1_500);
        let hung = w.server(n);
        assert!(w.store.chunks.values().all(|r| !r.has(hung)), "server {n} has left all sets");
        w.fakes[n].hung = false;
        w.run(10_000);
        assert_eq!(w.cluster.counts().under_replicated, 0, "server {n} is back in all of them");
    }
}

#[test]
fn a_fourth_server_takes_over_and_the_late_copy_is_deleted() {
    let mut w = world_with_chunks(4, 40);
    w.kill(0, true);
    w.run(5_000);
    let dead = w.server(0);
    assert!(w.store.chunks.values().all(|r| r.is_whole() && !r.has(dead)));
    assert!(!w.fakes[0].replicas.is_empty());
    w.start(0);
    w.run(5_000);
    assert!(w.fakes[0].replicas.is_empty());
}

#[test]
fn a_returning_server_hears_what_it_missed_before_its_lease() {
    let mut w = world_with_chunks(3, 10);
    w.fakes[1].hung = true;
    w.run(LEASE_MS + 1_000);
    assert!(w.store.chunks.values().all(|r| r.in_sync.len() == 2));
    w.fakes[1].hung = false;
    w.fakes[1].inbox.clear();
    w.beat(1);
    let kinds: Vec<_> = w.fakes[1].inbox.iter().filter_map(|c| c.cmd.as_ref()).collect();
    let ack = kinds.iter().position(|c| matches!(c, Cmd::Ack(_))).unwrap();
    let epochs = kinds.iter().filter(|c| matches!(c, Cmd::SetEpoch(_))).count();
    assert_eq!(epochs, 10);
    assert!(kinds[..ack].iter().filter(|c| matches!(c, Cmd::SetEpoch(_))).count() == epochs);
}

#[test]
fn deleted_chunks_go_from_every_server_even_one_that_was_away() {
    let mut w = world_with_chunks(3, 50);
    w.kill(0, true);
    for chunk in 1..=50 {
        w.delete(ChunkId(chunk));
    }
    w.run(1_000);
    assert!(w.fakes[1].replicas.is_empty() && w.fakes[2].replicas.is_empty());
    assert_eq!(w.store.garbage.len(), 50, "one has not confirmed yet");
    w.restart_master();
    w.start(0);
    w.run(3_000);
    assert!(w.fakes[0].replicas.is_empty());
    assert!(w.store.garbage.is_empty());
    assert_eq!(w.cluster.counts().total, 0);
}

#[test]
fn an_unknown_chunk_is_left_alone_for_its_grace() {
    let mut w = world_with_chunks(3, 1);
    w.fakes[0].replicas.insert(999, super::fake::Replica { epoch: 1, in_sync: vec![1] });
    w.run(50_000);
    assert!(w.fakes[0].replicas.contains_key(&999));
    w.run(20_000);
    assert!(!w.fakes[0].replicas.contains_key(&999));
}

#[test]
fn lists_are_asked_for_once_and_then_only_when_something_differs() {
    let mut w = world_with_chunks(3, 50);
    let reports = |w: &World| w.fakes.iter().map(|f| f.reports).sum::<usize>();
    let before = reports(&w);
    w.allocate(true);
    w.run(20_000);
    assert_eq!(reports(&w), before, "what the master told them it need not ask");
    w.restart_master();
    w.run(20_000);
    assert_eq!(reports(&w), before + 3);
}

#[test]
fn a_repeated_question_gets_the_answer_of_the_first() {
    let mut w = world_with_chunks(3, 1);
    let r = record(&w, 1);
    let link = w.fakes[w.by_id(r.in_sync[0].0)].link.unwrap();
    let problem = rpc::ReplicaProblem {
        req: 3,
        chunk: 1,
        epoch: 1,
        failed: vec![r.in_sync[2].0],
        ..Default::default()
    };
    w.deliver(Event::Problem { link, problem: problem.clone() });
    w.deliver(Event::Problem { link, problem });
    w.settle();
    let answered: Vec<_> =
        w.replies.iter().filter(|r| r.req == 3).map(|r| r.chunk.clone().unwrap().epoch).collect();
    assert_eq!(answered, [2, 2]);
}

#[test]
fn space_is_that_of_the_live_servers_divided_by_the_copies() {
    let mut w = World::new(1, 3);
    assert_eq!(w.cluster.totals(), Totals { total_bytes: 1 << 40, free_bytes: 1 << 39 });
    w.kill(0, true);
    assert_eq!(w.cluster.totals().total_bytes, 2 * (1 << 40) / 3);
}

#[test]
fn a_server_that_slept_through_a_master_is_fenced_by_its_own_list() {
    let mut w = world_with_chunks(3, 10);
    w.kill(1, true);
    w.run(1_000);
    w.restart_master();
    w.fakes[1].lease_until = crate::core::Millis(0);
    w.start(1);
    // It lists what it holds before its first heartbeat, as real ones do.
    w.send_report(1);
    let epochs = w.fakes[1].inbox.iter().filter(|c| matches!(c.cmd, Some(Cmd::SetEpoch(_)))).count();
    assert_eq!(epochs, 10);
}

#[test]
fn what_cannot_be_read_is_not_deleted() {
    let mut w = world_with_chunks(3, 10);
    w.store.unreadable = true;
    w.restart_master();
    w.run(200_000);
    assert!(w.fakes.iter().all(|f| f.replicas.len() == 10));
    let link = w.fakes[0].link.unwrap();
    let problem = rpc::ReplicaProblem { req: 3, chunk: 1, epoch: 1, failed: vec![2], ..Default::default() };
    w.deliver(Event::Problem { link, problem });
    w.settle();
    assert_eq!(w.replies.pop().unwrap().chunk.unwrap().chunk, 1, "and nobody is told that it was");
}
