//! Sessions that are over are shut out by every chunkserver that may serve.

use std::collections::BTreeSet;

use cairn_proto::SessionId;

use super::super::*;
use super::world::{LEASE_MS, World};

/// The session is over; those before `below` that are not are `alive`.
fn over(w: &mut World, session: u64, below: u64, alive: &[u64]) {
    let alive = alive.iter().map(|id| SessionId(*id)).collect();
    let sessions = Sessions { below, alive };
    w.deliver(Event::SessionOver { session: SessionId(session), sessions });
}

fn admit(w: &World, n: usize) -> Vec<u64> {
    let (below, alive) = w.fakes[n].sessions.clone();
    (1..=below).filter(|s| *s == below || alive.contains(s)).collect()
}

#[test]
fn a_session_is_done_with_when_all_servers_have_said_that_they_shut_it_out() {
    let mut w = World::new(1, 3);
    w.fakes[2].hung = true;
    over(&mut w, 2, 5, &[1, 4]);
    assert_eq!(w.fenced, []);
    w.settle();
    assert_eq!((admit(&w, 0), admit(&w, 1), admit(&w, 2)), (vec![1, 4, 5], vec![1, 4, 5], vec![0; 0]));
    assert_eq!(w.fenced, [], "the third may still take its writes");
    w.fakes[2].hung = false;
    w.settle();
    assert_eq!((w.fenced.clone(), admit(&w, 2)), (vec![SessionId(2)], vec![1, 4, 5]));
}

#[test]
fn a_server_without_a_lease_is_not_waited_for_and_hears_of_it_before_it_has_one_again() {
    let mut w = World::new(1, 3);
    w.fakes[2].cut = true;
    over(&mut w, 2, 5, &[1]);
    w.run(LEASE_MS - 200);
    assert_eq!(w.fenced, [], "its lease still runs");
    w.run(500);
    assert_eq!(w.fenced, [SessionId(2)]);
    w.kill(2, false);
    w.start(2);
    w.settle();
    assert!(w.fakes[2].acked);
    assert_eq!(admit(&w, 2), [1, 5]);
}

#[test]
fn a_server_that_is_known_to_be_gone_is_not_waited_for() {
    let mut w = World::new(1, 3);
    w.kill(2, true);
    over(&mut w, 2, 5, &[]);
    w.settle();
    assert_eq!(w.fenced, [SessionId(2)]);
    let mut w = World::new(1, 0);
    over(&mut w, 2, 5, &[]);
    assert_eq!(w.fenced, [SessionId(2)], "there is nobody to take writes");
}

#[test]
fn several_at_once_and_one_connection_that_breaks() {
    let mut w = World::new(1, 3);
    over(&mut w, 2, 5, &[1, 3, 4]);
    over(&mut w, 3, 5, &[1, 4]);
    // Told again when it registers anew.
    w.disconnect(1);
    w.connect(1);
    w.settle();
    assert_eq!(w.fenced.iter().collect::<BTreeSet<_>>(), BTreeSet::from([&SessionId(2), &SessionId(3)]));
    assert!((0..3).all(|n| admit(&w, n) == [1, 4, 5]));
}

#[test]
fn a_new_master_goes_on_with_it() {
    let mut w = World::new(1, 3);
    w.fakes[0].hung = true;
    w.sessions = (Sessions { below: 9, alive: [SessionId(8)].into() }, vec![SessionId(7)]);
    w.restart_master();
    w.run(500);
    assert_eq!(w.fenced, [], "what the former master told nobody knows");
    w.run(LEASE_MS);
    assert_eq!((w.fenced.clone(), admit(&w, 1)), (vec![SessionId(7)], vec![8, 9]));
}
