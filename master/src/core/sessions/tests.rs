use super::*;

const TTL: u64 = 10_000;

struct World {
    sessions: Sessions,
    next: u64,
    now: Millis,
}

impl World {
    fn new() -> Self {
        Self { sessions: Sessions::new(Millis(0), TTL, 7, Vec::new()), next: 1, now: Millis(0) }
    }
    fn hello(&mut self, connection: u64, session: u64) -> Vec<Effect> {
        let hello = rpc::Hello { session, ..rpc::Hello::default() };
        self.sessions.hello(self.now, ConnectionId(connection), &hello, &mut self.next)
    }
    fn ack(&mut self, session: u64, event: u64) -> Vec<Effect> {
        self.sessions.acknowledged(self.now, SessionId(session), event, &mut self.next)
    }
    fn fenced(&mut self, session: u64) -> Vec<Effect> {
        self.sessions.fenced(self.now, SessionId(session), &mut self.next)
    }
    fn pass(&mut self, ms: u64) -> Vec<Effect> {
        let end = self.now.plus(ms);
        let mut effects = Vec::new();
        while self.now < end {
            self.now = self.now.plus(100).min(end);
            effects.extend(self.sessions.tick(self.now, &mut self.next));
        }
        effects
    }
}

fn record(exclusive: bool) -> Record {
    Record { exclusive, ..Record::default() }
}
/// What is done with a session that ends without a goodbye.
fn fence(session: u64, exclusive: bool) -> [Effect; 2] {
    let over = Record { over: true, ..record(exclusive) };
    [Effect::Put(SessionId(session), over), Effect::Fence(SessionId(session))]
}
fn welcome(to: u64, session: u64, exclusive: bool, renewed: bool) -> Effect {
    Effect::Welcome { to: ConnectionId(to), session: SessionId(session), exclusive, renewed }
}
fn recall(to: u64, event: u64) -> Effect {
    Effect::Recall { to: ConnectionId(to), event }
}

#[test]
fn the_first_is_exclusive_and_the_second_waits_for_the_recall() {
    let mut w = World::new();
    assert_eq!(w.hello(1, 0), [Effect::Put(SessionId(1), record(true)), welcome(1, 1, true, false)]);
    assert_eq!(w.hello(2, 0), [recall(1, 7)]);
    assert_eq!(w.hello(3, 0), [], "one recall is enough");
    assert_eq!(w.ack(1, 6), [], "not this event");
    assert_eq!(
        w.ack(1, 7),
        [
            Effect::Put(SessionId(1), record(false)),
            Effect::Put(SessionId(2), record(false)),
            welcome(2, 2, false, false),
            Effect::Put(SessionId(3), record(false)),
            welcome(3, 3, false, false),
        ]
    );
    assert_eq!(w.hello(4, 0)[1], welcome(4, 4, false, false), "shared: nobody to ask");
}

#[test]
fn the_last_one_left_is_exclusive_again() {
    let mut w = World::new();
    w.hello(1, 0);
    w.hello(2, 0);
    w.ack(1, 7);
    let effects = w.sessions.goodbye(w.now, SessionId(1), &mut w.next);
    assert_eq!(
        effects,
        [
            Effect::End(SessionId(1)),
            Effect::Close { connection: ConnectionId(1), reason: Closed::Goodbye },
            Effect::Put(SessionId(2), record(true)),
            Effect::Grant { to: ConnectionId(2) },
        ]
    );
}

#[test]
fn a_holder_that_is_silent_loses_its_session_to_the_newcomer() {
    let mut w = World::new();
    w.hello(1, 0);
    w.sessions.disconnected(ConnectionId(1));
    assert_eq!(w.hello(2, 0), [], "nobody to send the recall to");
    assert_eq!(w.pass(TTL), []);
    assert_eq!(w.pass(1), fence(1, true), "what it has written may still arrive");
    assert_eq!(w.hello(3, 1), [], "it is over, whatever comes");
    assert_eq!(w.pass(TTL), []);
    assert_eq!(
        w.fenced(1),
        [
            Effect::End(SessionId(1)),
            Effect::Put(SessionId(2), record(false)),
            welcome(2, 2, false, false),
            Effect::Put(SessionId(3), record(false)),
            welcome(3, 3, false, true),
        ]
    );
    assert_eq!(w.fenced(1), [], "once");
}

#[test]
fn who_is_left_has_everything_alone_when_the_others_writes_cannot_come_any_more() {
    let mut w = World::new();
    w.hello(1, 0);
    w.hello(2, 0);
    w.ack(1, 7);
    w.sessions.disconnected(ConnectionId(2));
    for _ in 0..4 {
        let now = w.now;
        w.sessions.heard(now, SessionId(1));
        w.pass(TTL / 4);
    }
    assert_eq!(w.pass(1), fence(2, false));
    assert_eq!(w.hello(3, 0)[1], welcome(3, 3, false, false), "in company nobody waits");
    let effects = w.sessions.goodbye(w.now, SessionId(3), &mut w.next);
    assert_eq!(effects[0], Effect::End(SessionId(3)));
    assert_eq!(effects.len(), 2, "{effects:?}");
    assert_eq!(w.fenced(2).last(), Some(&Effect::Grant { to: ConnectionId(1) }));
}

#[test]
fn what_was_being_fenced_still_is_after_a_restart() {
    let over = Record { over: true, ..record(true) };
    let mut w = World::new();
    w.sessions = Sessions::new(Millis(0), TTL, 9, vec![(SessionId(3), over)]);
    w.next = 4;
    assert_eq!(w.sessions.fencing().collect::<Vec<_>>(), [SessionId(3)]);
    assert!(w.sessions.alive().is_empty());
    assert_eq!(w.hello(1, 3), [], "it cannot be resumed");
    assert_eq!(w.fenced(3)[2], welcome(1, 4, true, true));
}

#[test]
fn a_holder_that_comes_back_is_recalled() {
    let mut w = World::new();
    w.hello(1, 0);
    w.sessions.disconnected(ConnectionId(1));
    w.hello(2, 0);
    assert_eq!(w.hello(3, 1), [welcome(3, 1, true, false), recall(3, 7)]);
    w.sessions.disconnected(ConnectionId(2));
    assert_eq!(
        w.ack(1, 7),
        [
            Effect::Put(SessionId(1), record(false)),
            Effect::Put(SessionId(1), record(true)),
            Effect::Grant { to: ConnectionId(3) },
        ],
        "the newcomer has gone away meanwhile"
    );
}

#[test]
fn a_resumed_session_moves_to_its_new_connection() {
    let mut w = World::new();
    w.hello(1, 0);
    assert_eq!(
        w.hello(2, 1),
        [Effect::Close { connection: ConnectionId(1), reason: Closed::Replaced }, welcome(2, 1, true, false),]
    );
    w.sessions.disconnected(ConnectionId(1));
    assert_eq!(w.sessions.session_of(ConnectionId(2)), Some(SessionId(1)));
}

#[test]
fn an_unknown_session_is_renewed_and_ids_are_not_used_twice() {
    let mut w = World::new();
    assert_eq!(w.hello(1, 99)[1], welcome(1, 1, true, true));
    w.pass(TTL + 1);
    w.fenced(1);
    assert_eq!(w.hello(2, 1)[1], welcome(2, 2, true, true));
}

#[test]
fn what_is_heard_keeps_a_session_alive() {
    let mut w = World::new();
    w.hello(1, 0);
    for _ in 0..5 {
        assert_eq!(w.pass(TTL / 2), []);
        let now = w.now;
        w.sessions.heard(now, SessionId(1));
    }
}

#[test]
fn a_restart_keeps_the_mode() {
    let stored = vec![(SessionId(3), record(true))];
    let mut w = World::new();
    w.sessions = Sessions::new(Millis(0), TTL, 9, stored);
    w.next = 4;
    assert_eq!(w.hello(1, 3), [welcome(1, 3, true, false)]);
    let stored = vec![(SessionId(3), record(false)), (SessionId(4), record(false))];
    w.sessions = Sessions::new(Millis(0), TTL, 9, stored);
    w.now = Millis(0);
    assert_eq!(w.hello(2, 4), [welcome(2, 4, false, false)]);
    w.pass(TTL / 2);
    let now = w.now;
    w.sessions.heard(now, SessionId(4));
    assert_eq!(w.pass(TTL / 2 + 1), fence(3, false));
    assert_eq!(w.fenced(3).last(), Some(&Effect::Grant { to: ConnectionId(2) }));
}

#[test]
fn the_masters_own_absence_is_nobodys_silence() {
    let mut w = World::new();
    w.hello(1, 0);
    w.now = w.now.plus(10 * TTL);
    assert_eq!(w.sessions.tick(w.now, &mut w.next), []);
    assert_eq!(w.pass(TTL / 2), []);
    assert!(!w.pass(TTL).is_empty());
}

#[test]
fn a_mount_that_was_killed_is_followed_at_once_by_the_next_on_its_directory() {
    let mut w = World::new();
    let from = |boot_id: &str, dir: &str| rpc::Hello {
        boot_id: boot_id.into(),
        mount_dir: dir.into(),
        ..rpc::Hello::default()
    };
    let say = |w: &mut World, connection: u64, hello: rpc::Hello| {
        w.sessions.hello(w.now, ConnectionId(connection), &hello, &mut w.next)
    };
    say(&mut w, 1, from("b", "/m"));
    assert_eq!(
        say(&mut w, 2, from("b", "/m")),
        [recall(1, 7)],
        "still connected: another mount like any other"
    );
    w.sessions.disconnected(ConnectionId(2));
    w.sessions.disconnected(ConnectionId(1));
    assert_eq!(say(&mut w, 3, from("b", "/other")), [], "another directory says nothing about the first");
    assert_eq!(say(&mut w, 4, from("c", "/m")), [], "nor does another machine");
    w.sessions.disconnected(ConnectionId(3));
    w.sessions.disconnected(ConnectionId(4));
    let effects = say(&mut w, 5, from("b", "/m"));
    assert_eq!(effects[1], Effect::Fence(SessionId(1)));
    assert_eq!(effects.len(), 2, "{effects:?}");
    assert_eq!(w.fenced(1)[2], welcome(5, 2, true, false));
}
