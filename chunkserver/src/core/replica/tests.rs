//! The state machine on its own: `W` is a number, an answer goes to a name.

use super::*;
use crate::core::recent::WriteId;

type R = Replica<u32, &'static str>;
type E = Event<u32, &'static str>;

const TIMES: Times = Times { member: 500, slow_write: 2000, slow_sync: 10_000, report_again: 1000 };

fn meta(epoch: u64, set: &[u32]) -> ChunkMeta {
    ChunkMeta { epoch, in_sync: set.to_vec(), wanted: 3, ..ChunkMeta::default() }
}

fn replica(me: u32, set: &[u32]) -> R {
    Replica::new(me, &meta(1, set), Recent::default(), TIMES)
}

fn id(write: u64) -> WriteId {
    WriteId { session: 1, write }
}

fn write(n: u64, epoch: u64, answer: &'static str) -> E {
    Event::Write { id: id(n), epoch, sync: false, write: n as u32, answer }
}

fn done(op: OpId, server: u32) -> E {
    Event::Answered { op, server, answer: MemberAnswer::Done }
}

fn failed(op: OpId, server: u32, fault: Fault) -> E {
    Event::Answered { op, server, answer: MemberAnswer::Failed(fault) }
}

fn ok(to: &'static str, seq: u64) -> Effect<u32, &'static str> {
    Effect::Answer { to, status: Status::Ok, seq }
}

fn refused(effects: Effects<u32, &'static str>) -> Status {
    match &effects[..] {
        [Effect::Answer { status, .. }] => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_write_is_acknowledged_when_all_have_it() {
    let mut r = replica(1, &[1, 2, 3]);
    let out = r.handle(0, write(7, 1, "a"));
    let forward = Effect::Forward { op: 1, to: vec![2, 3], seq: 1, id: id(7), sync: false, write: 7 };
    assert_eq!(out, [forward, Effect::Apply { op: 1, seq: 1, id: id(7), sync: false, write: 7 }]);
    assert!(r.handle(1, done(1, 2)).is_empty());
    assert!(r.handle(1, Event::LocalDone { op: 1 }).is_empty());
    assert_eq!(r.handle(1, done(1, 3)), [ok("a", 1)]);
    assert!(!r.wants_ticks());
}

#[test]
fn a_primary_that_was_made_anew_acknowledges_nothing_that_its_members_may_have_otherwise() {
    let mut r = replica(1, &[1, 2]);
    r.is_born();
    for n in [7, 8] {
        r.handle(0, write(n, 1, "a"));
        r.handle(0, Event::LocalDone { op: n - 6 });
    }
    let late = Event::Answered { op: 1, server: 2, answer: MemberAnswer::NotLevel };
    assert!(r.handle(1, late).contains(&Effect::Compare));
    let out = r.handle(2, Event::Compared { epoch: 1, result: Ok(5) });
    let busy = || Effect::Answer { to: "a", status: Status::Busy, seq: 1 };
    assert_eq!(out, [busy(), Effect::Answer { to: "a", status: Status::Busy, seq: 2 }]);
    assert_eq!(r.may_read(1), Ok(()));
    let again = r.handle(3, write(7, 1, "a"));
    assert!(matches!(again[0], Effect::Forward { seq: 6, .. }), "it does not pass for applied: {again:?}");
}

#[test]
fn a_new_replica_is_not_read_before_all_members_took_a_write() {
    let mut r = replica(1, &[1, 2]);
    r.is_born();
    r.handle(0, write(7, 1, "a"));
    r.handle(0, Event::Sync { epoch: 1, answer: "s" });
    for event in [Event::LocalDone { op: 1 }, Event::LocalDone { op: 2 }, done(2, 2)] {
        r.handle(1, event);
        assert_eq!(r.may_read(1), Err(Status::Busy));
    }
    assert_eq!(r.handle(2, done(1, 2)), [ok("a", 1)]);
    assert_eq!(r.may_read(1), Ok(()));
}

#[test]
fn a_member_takes_nothing_of_a_primary_that_gives_its_numbers_again() {
    let mut m = replica(2, &[1, 2]);
    let forward = |write, seq| Event::Forward {
        from: 1,
        meta: ChunkMeta { seq, ..meta(1, &[1, 2]) },
        id: id(write),
        sync: false,
        write: 0,
        answer: "f",
    };
    for n in [1, 2] {
        assert!(matches!(m.handle(0, forward(n, n))[..], [Effect::Store { .. }]));
    }
    assert!(matches!(m.handle(0, forward(2, 2))[..], [Effect::Store { write: None, .. }]), "sent again");
    assert_eq!(refused(m.handle(1, forward(9, 1))), Status::Behind);
    assert_eq!(refused(m.handle(1, forward(10, 3))), Status::Behind, "the next number counts as little");
    m.handle(2, Event::Leveled { seq: 2 });
    assert!(matches!(m.handle(3, forward(11, 3))[..], [Effect::Store { .. }]));
}

#[test]
fn a_retry_waits_for_the_write_or_is_answered_at_once_and_is_applied_once() {
    let mut r = replica(1, &[1, 2]);
    r.handle(0, write(7, 1, "a"));
    assert!(r.handle(1, write(7, 1, "b")).is_empty(), "under way");
    r.handle(1, Event::LocalDone { op: 1 });
    assert_eq!(r.handle(1, done(1, 2)), [ok("a", 1), ok("b", 1)]);
    assert_eq!(r.handle(2, write(7, 1, "c")), [ok("c", 1)]);
    assert_eq!(r.seq(), 1);
}

#[test]
fn wrong_epochs_and_wrong_servers_are_refused() {
    let mut r = Replica::new(1, &meta(5, &[1, 2]), Recent::default(), TIMES);
    assert_eq!(refused(r.handle(0, write(1, 4, "a"))), Status::StaleEpoch);
    assert_eq!(refused(r.handle(0, write(1, 6, "a"))), Status::Behind);
    let mut member = replica(2, &[1, 2]);
    assert_eq!(refused(member.handle(0, write(1, 1, "a"))), Status::NotPrimary);
    assert_eq!(r.may_read(4), Err(Status::StaleEpoch));
    assert_eq!(member.may_read(1), Ok(()));
}

#[test]
fn a_silent_member_is_reported_and_the_write_goes_on_without_it() {
    let mut r = replica(1, &[1, 2, 3]);
    r.handle(0, write(7, 1, "a"));
    r.handle(1, Event::LocalDone { op: 1 });
    r.handle(1, done(1, 2));
    assert_eq!(r.handle(200, Event::Tick), [Effect::Probe { servers: vec![3] }]);
    let report = Effect::Report { failed: vec![3], fault: Fault::Silent };
    assert_eq!(r.handle(500, Event::Tick), [report]);
    assert_eq!(r.handle(600, Event::Tick).len(), 0, "reported once");
    assert_eq!(r.handle(1500, Event::Tick).len(), 1, "and again after a while");
    assert_eq!(r.handle(1600, Event::Epoch(meta(2, &[1, 2]))), [Effect::Record, ok("a", 1)]);
    assert!(r.is_level());
}

#[test]
fn a_member_that_is_heard_of_gets_more_time() {
    let mut r = replica(1, &[1, 2]);
    r.handle(0, write(7, 1, "a"));
    r.handle(400, Event::Heard { server: 2 });
    assert_eq!(r.handle(600, Event::Tick), [Effect::Probe { servers: vec![2] }]);
    r.handle(1900, Event::Heard { server: 2 });
    assert!(matches!(r.handle(2000, Event::Tick)[..], [Effect::Report { .. }]));
}

#[test]
fn without_a_majority_the_client_hears_why_and_the_replicas_are_compared() {
    for (fault, status) in [(Fault::NoSpace, Status::NoSpace), (Fault::Unreachable, Status::MemberFailed)] {
        let mut r = replica(1, &[1, 2]);
        r.handle(0, write(7, 1, "a"));
        r.handle(0, Event::LocalDone { op: 1 });
        assert!(matches!(r.handle(1, failed(1, 2, fault))[..], [Effect::Report { .. }]));
        let out = r.handle(2, Event::Refused { epoch: 1 });
        assert_eq!(out, [Effect::Suspect, Effect::Answer { to: "a", status, seq: 1 }, Effect::Compare]);
        let meanwhile = if fault == Fault::NoSpace { Status::NoSpace } else { Status::Busy };
        assert_eq!(refused(r.handle(3, write(8, 1, "b"))), meanwhile);
        assert!(r.handle(4, Event::Compared { epoch: 1, result: Ok(1) }).is_empty());
        assert_eq!(r.handle(5, write(7, 1, "c")), [ok("c", 1)], "the retry: all have it now");
    }
}

#[test]
fn a_new_primary_compares_before_it_takes_a_write() {
    let mut r = replica(2, &[1, 2, 3]);
    let out = r.handle(0, Event::Epoch(meta(2, &[2, 3])));
    assert_eq!(out, [Effect::Suspect, Effect::Record, Effect::Compare]);
    assert_eq!(refused(r.handle(0, write(1, 2, "a"))), Status::Busy);
    assert_eq!(r.may_read(2), Ok(()), "it held all that was acknowledged");
    r.handle(1, Event::Compared { epoch: 2, result: Ok(41) });
    r.handle(1, write(1, 2, "a"));
    assert_eq!(r.seq(), 42);
}

#[test]
fn a_deposed_primary_answers_that_its_epoch_is_over() {
    let mut r = replica(1, &[1, 2, 3]);
    r.handle(0, write(7, 1, "a"));
    let out = r.handle(1, Event::Epoch(meta(2, &[2, 3])));
    assert_eq!(out, [Effect::Record, Effect::Answer { to: "a", status: Status::StaleEpoch, seq: 1 }]);
    assert_eq!(r.may_read(2), Err(Status::StaleEpoch));
    assert!(!r.is_trusted());
}

fn forward(from: u32, epoch: u64, set: &[u32], seq: u64, answer: &'static str) -> E {
    let meta = ChunkMeta { seq, ..meta(epoch, set) };
    Event::Forward { from, meta, id: id(seq), sync: false, write: 9, answer }
}

fn stores(effects: &Effects<u32, &'static str>) -> bool {
    matches!(effects.last(), Some(Effect::Store { write: Some(9), .. }))
}

#[test]
fn a_member_applies_in_order_and_refuses_gaps_and_strangers() {
    let mut r = replica(2, &[1, 2, 3]);
    assert!(stores(&r.handle(0, forward(1, 1, &[1, 2, 3], 1, "a"))));
    assert_eq!(refused(r.handle(0, forward(1, 1, &[1, 2, 3], 3, "b"))), Status::Behind);
    assert_eq!(refused(r.handle(0, forward(3, 1, &[1, 2, 3], 2, "c"))), Status::NotPrimary);
    let again = r.handle(0, forward(1, 1, &[1, 2, 3], 1, "d"));
    assert!(matches!(again[..], [Effect::Store { write: None, .. }]));
}

#[test]
fn a_forward_under_way_while_the_epoch_changes_counts_as_long_as_the_primary_stays() {
    let mut r = replica(2, &[1, 2, 3]);
    r.handle(0, Event::Epoch(meta(2, &[1, 2])));
    assert!(stores(&r.handle(0, forward(1, 1, &[1, 2, 3], 1, "a"))));
    r.handle(0, Event::Epoch(meta(3, &[2])));
    assert_eq!(refused(r.handle(0, forward(1, 2, &[1, 2], 2, "b"))), Status::StaleEpoch);
}

#[test]
fn a_higher_epoch_comes_with_a_forward_too() {
    let mut r = replica(3, &[1, 2, 3]);
    let out = r.handle(0, forward(2, 2, &[2, 3], 1, "a"));
    assert_eq!(out[0], Effect::Record);
    assert!(stores(&out));
    assert_eq!(r.epoch(), 2);
}

#[test]
fn after_a_crash_nothing_is_served_before_it_has_been_compared() {
    let crashed = ChunkMeta { suspect: true, seq: 5, ..meta(1, &[1, 2]) };
    let mut primary: R = Replica::new(1, &crashed, Recent::default(), TIMES);
    assert_eq!(primary.handle(0, Event::Start), [Effect::Compare]);
    assert_eq!(primary.may_read(1), Err(Status::Busy));
    primary.handle(0, Event::Compared { epoch: 1, result: Ok(6) });
    assert_eq!(primary.may_read(1), Ok(()));
    let mut member: R = Replica::new(2, &crashed, Recent::default(), TIMES);
    assert_eq!(member.handle(0, Event::Start), [Effect::AskPrimary]);
    assert_eq!(refused(member.handle(0, forward(1, 1, &[1, 2], 6, "a"))), Status::Busy);
    member.handle(0, Event::Leveled { seq: 6 });
    assert_eq!(member.may_read(1), Ok(()));
    assert!(stores(&member.handle(0, forward(1, 1, &[1, 2], 7, "b"))));
}

#[test]
fn writes_that_never_counted_are_forgotten_when_a_replica_is_made_level() {
    let old = ChunkMeta { epoch: 1, in_sync: vec![1, 3], wanted: 3, seq: 9, suspect: false };
    let mut recent = Recent::default();
    let Event::Forward { id, .. } = forward(1, 2, &[1, 3, 2], 7, "a") else { panic!("no forward") };
    recent.add(id, 7);
    let mut joining: R = Replica::new(2, &old, recent, TIMES);
    joining.handle(0, Event::Leveled { seq: 6 });
    joining.handle(0, Event::Epoch(ChunkMeta { epoch: 2, in_sync: vec![1, 3, 2], ..old }));
    assert!(stores(&joining.handle(0, forward(1, 2, &[1, 3, 2], 7, "a"))));
    joining.handle(0, Event::Leveled { seq: 6 });
    assert_eq!(joining.seq(), 7, "a trusted one has only what counts");
}

#[test]
fn a_server_that_is_brought_up_to_date_is_not_when_the_primary_lacks_a_write() {
    let mut r = replica(1, &[1, 2]);
    r.handle(0, Event::Join { target: 3 });
    r.handle(0, write(7, 1, "a"));
    let out = r.handle(1, Event::LocalFault { seq: Some(1), fault: Some(Fault::NoSpace) });
    assert!(out.contains(&Effect::AbortJoin { target: 3 }), "{out:?}");
    assert_eq!(r.joining(), None);
}

#[test]
fn a_write_that_a_member_could_not_apply_is_applied_when_it_is_sent_to_it_as_the_primary() {
    let mut r = replica(2, &[1, 2]);
    assert!(stores(&r.handle(0, forward(1, 1, &[1, 2], 1, "a"))));
    r.handle(0, Event::LocalFault { seq: Some(1), fault: None });
    r.handle(0, Event::Epoch(ChunkMeta { epoch: 2, in_sync: vec![2], wanted: 1, ..ChunkMeta::default() }));
    r.handle(0, Event::Compared { epoch: 2, result: Ok(0) });
    let Event::Forward { id, .. } = forward(1, 1, &[1, 2], 1, "a") else { panic!("no forward") };
    let event = Event::Write { id, epoch: 2, sync: false, write: 5, answer: "b" };
    let out = r.handle(1, event);
    assert!(matches!(out[0], Effect::Apply { seq: 1, .. }), "{out:?}");
}

#[test]
fn who_was_taken_into_the_set_is_read_from_once_the_primary_has_shown_that_nothing_was_missed() {
    let before = ChunkMeta { epoch: 1, in_sync: vec![1, 3], wanted: 3, seq: 6, suspect: false };
    let joined = || {
        let mut r: R = Replica::new(2, &before, Recent::default(), TIMES);
        r.handle(0, Event::Leveled { seq: 6 });
        let out = r.handle(0, Event::Epoch(ChunkMeta { epoch: 2, in_sync: vec![1, 3, 2], ..before.clone() }));
        assert_eq!(out, [Effect::Suspect, Effect::Record, Effect::AskPrimary]);
        assert_eq!(r.may_read(2), Err(Status::Busy));
        r
    };
    let mut r = joined();
    assert_eq!(refused(r.handle(0, forward(1, 2, &[1, 3, 2], 8, "a"))), Status::Behind);
    assert_eq!(r.may_read(2), Err(Status::Busy));
    r.handle(0, Event::Leveled { seq: 8 });
    assert_eq!(r.may_read(2), Ok(()));
    let mut r = joined();
    assert!(stores(&r.handle(0, forward(1, 2, &[1, 3, 2], 7, "a"))));
    assert_eq!(r.may_read(2), Ok(()));
}

#[test]
fn a_write_that_nobody_could_apply_is_not_acknowledged_by_a_comparison() {
    let mut r = replica(1, &[1, 2]);
    r.handle(0, write(7, 1, "a"));
    r.handle(0, Event::LocalFault { seq: Some(1), fault: Some(Fault::NoSpace) });
    r.handle(0, failed(1, 2, Fault::NoSpace));
    r.handle(0, Event::Doubt);
    let out = r.handle(1, Event::Compared { epoch: 1, result: Ok(0) });
    assert_eq!(refused(out), Status::Busy);
    assert!(matches!(r.handle(2, write(7, 1, "b"))[1], Effect::Apply { seq: 1, .. }));
}

#[test]
fn what_is_found_during_a_comparison_has_another_one_made() {
    let mut r = replica(1, &[1, 2]);
    assert_eq!(r.handle(0, Event::Doubt), [Effect::Suspect, Effect::Compare]);
    assert_eq!(r.handle(1, Event::Doubt), [Effect::Suspect]);
    let out = r.handle(2, Event::Compared { epoch: 1, result: Ok(0) });
    assert_eq!(out, [Effect::Suspect, Effect::Compare]);
    assert!(!r.is_level());
    assert_eq!(r.handle(3, Event::Compared { epoch: 1, result: Ok(0) }), []);
    assert!(r.is_level());
}

#[test]
fn a_primary_that_could_not_apply_a_write_is_still_in_doubt_when_it_restarts() {
    let mut r = replica(1, &[1, 2]);
    r.handle(0, write(7, 1, "a"));
    let out = r.handle(1, Event::LocalFault { seq: Some(1), fault: Some(Fault::NoSpace) });
    assert_eq!(out[0], Effect::Suspect, "the member has the number, so it must not be given again");
    r.handle(2, Event::Refused { epoch: 1 });
    let mut again: R = Replica::new(1, &r.meta(), Recent::default(), TIMES);
    assert_eq!(again.handle(3, Event::Start), [Effect::Compare], "it was written down before");
    assert_eq!(refused(again.handle(4, write(8, 1, "b"))), Status::Busy);
}

#[test]
fn a_doubt_is_written_down_once_and_again_when_a_comparison_may_have_removed_the_note() {
    let mut r = replica(1, &[1, 2]);
    assert_eq!(r.handle(0, Event::Doubt), [Effect::Suspect, Effect::Compare]);
    assert_eq!(r.handle(1, Event::Tick), []);
    let failed = Event::Compared { epoch: 1, result: Err((0, Fault::Disk)) };
    assert_eq!(r.handle(2, failed), [Effect::Suspect, Effect::Compare]);
    assert_eq!(r.handle(3, Event::Compared { epoch: 1, result: Ok(0) }), []);
    assert_eq!(r.handle(4, Event::Doubt), [Effect::Suspect, Effect::Compare]);
}

#[test]
fn a_server_that_is_taken_in_before_it_was_shown_whole_remembers_it() {
    let mut r: R = Replica::new(3, &meta(1, &[1, 2]), Recent::default(), TIMES);
    let set = meta(2, &[1, 2, 3]);
    assert_eq!(r.handle(0, Event::Epoch(set.clone())), [Effect::Suspect, Effect::Record, Effect::AskPrimary]);
    assert_eq!(r.handle(1, Event::Leveled { seq: 4 }), []);
    assert!(r.may_read(2).is_ok() && !r.meta().suspect);
    // Dropped, it is not used in any way, and so needs no note.
    assert_eq!(r.handle(2, Event::Epoch(meta(3, &[1, 2]))), [Effect::Record]);
    assert_eq!(r.handle(3, Event::Epoch(meta(4, &[1, 2, 3])))[0], Effect::Suspect);
}

#[test]
fn a_member_that_misses_something_is_made_level_and_the_write_is_acknowledged() {
    let mut r = replica(1, &[1, 2]);
    r.handle(0, write(7, 1, "a"));
    r.handle(0, Event::LocalDone { op: 1 });
    let answer = MemberAnswer::NotLevel;
    assert_eq!(r.handle(1, Event::Answered { op: 1, server: 2, answer }), [Effect::Suspect, Effect::Compare]);
    assert_eq!(r.handle(2, Event::Compared { epoch: 1, result: Ok(1) }), [ok("a", 1)]);
}

#[test]
fn a_joining_server_gets_every_write_and_is_waited_for() {
    let mut r = replica(1, &[1, 2]);
    r.handle(0, Event::Join { target: 3 });
    let out = r.handle(0, write(7, 1, "a"));
    assert!(matches!(out[2], Effect::Mirror { to: 3, op: 1, .. }), "after it was applied here");
    r.handle(0, Event::LocalDone { op: 1 });
    assert!(r.handle(0, done(1, 2)).is_empty());
    assert_eq!(r.handle(0, done(1, 3)), [ok("a", 1)]);
    r.handle(1, Event::Joined { target: 3 });
    assert_eq!(r.handle(2, Event::Epoch(meta(2, &[1, 2, 3]))), [Effect::Record]);
    assert!(r.is_level());
    let out = r.handle(3, write(8, 2, "b"));
    assert!(matches!(&out[0], Effect::Forward { to, .. } if to[..] == [2, 3]));
}

#[test]
fn a_joining_server_that_fails_holds_nobody_up_and_may_not_slip_into_the_set() {
    let mut r = replica(1, &[1, 2]);
    r.handle(0, Event::Join { target: 3 });
    r.handle(0, write(7, 1, "a"));
    r.handle(0, Event::LocalDone { op: 1 });
    r.handle(0, done(1, 2));
    let out = r.handle(1, failed(1, 3, Fault::Unreachable));
    assert_eq!(out, [Effect::AbortJoin { target: 3 }, ok("a", 1)]);
    // The master had taken it in before it heard.
    let out = r.handle(2, Event::Epoch(meta(2, &[1, 2, 3])));
    assert_eq!(out, [Effect::Suspect, Effect::Record, Effect::Compare]);
    assert!(!r.is_level());
}

#[test]
fn a_primary_whose_disk_fails_has_itself_dropped() {
    let mut r = replica(1, &[1, 2, 3]);
    r.handle(0, write(7, 1, "a"));
    let out = r.handle(1, Event::LocalFault { seq: Some(1), fault: Some(Fault::Disk) });
    assert_eq!(out, [Effect::Suspect, Effect::Report { failed: vec![1], fault: Fault::Disk }]);
    assert_eq!(r.may_read(1), Err(Status::Busy));
    let out = r.handle(2, Event::Epoch(meta(2, &[2, 3])));
    assert!(matches!(out[..], [Effect::Record, Effect::Answer { status: Status::StaleEpoch, .. }]));
}

#[test]
fn a_primary_that_has_reported_itself_acknowledges_nothing_before_it_has_heard_whether_it_still_is_one() {
    for dropped in [true, false] {
        let mut r = replica(1, &[1, 2, 3]);
        r.handle(0, write(7, 1, "a"));
        r.handle(0, Event::LocalDone { op: 1 });
        r.handle(0, done(1, 2));
        r.handle(1, write(8, 1, "b"));
        r.handle(1, Event::LocalFault { seq: Some(2), fault: Some(Fault::Disk) });
        assert_eq!(r.handle(2, done(1, 3)), [], "the others may have a new primary");
        let status = |out: &Effects<u32, &'static str>, name| {
            out.iter().find_map(|e| match e {
                Effect::Answer { to, status, .. } if *to == name => Some(*status),
                _ => None,
            })
        };
        if dropped {
            let out = r.handle(3, Event::Epoch(meta(2, &[2, 3])));
            assert_eq!(status(&out, "a"), Some(Status::StaleEpoch));
            continue;
        }
        let mut out = r.handle(3, Event::Refused { epoch: 1 });
        assert_eq!(status(&out, "b"), Some(Status::MemberFailed));
        out.extend(r.handle(4, Event::Compared { epoch: 1, result: Ok(2) }));
        assert_eq!(status(&out, "a"), Some(Status::Ok), "it is the primary still, and all have it");
    }
}

#[test]
fn a_sync_waits_for_all_members() {
    let mut r = replica(1, &[1, 2, 3]);
    assert_eq!(
        r.handle(0, Event::Sync { epoch: 1, answer: "s" }),
        [Effect::SyncAll { op: 1, to: vec![2, 3] }]
    );
    r.handle(0, Event::LocalDone { op: 1 });
    r.handle(0, done(1, 2));
    assert_eq!(r.handle(0, done(1, 3)), [ok("s", 0)]);
}

#[test]
fn who_is_primary_no_more_does_not_acknowledge_what_a_joining_server_still_owes() {
    let mut r = replica(1, &[1, 2]);
    r.handle(0, Event::Join { target: 3 });
    r.handle(0, write(7, 1, "a"));
    r.handle(0, Event::LocalDone { op: 1 });
    r.handle(0, done(1, 2));
    r.handle(1, Event::Joined { target: 3 });
    let out = r.handle(2, Event::Epoch(meta(2, &[2, 3])));
    let stale = Effect::Answer { to: "a", status: Status::StaleEpoch, seq: 1 };
    assert_eq!(out, [Effect::Record, stale, Effect::AbortJoin { target: 3 }]);
}

fn no_room(epoch: u64, answer: &'static str) -> E {
    Event::NoRoom { epoch, answer }
}

fn answer(to: &'static str, status: Status) -> Effect<u32, &'static str> {
    Effect::Answer { to, status, seq: 0 }
}

#[test]
fn a_primary_without_room_hands_over_and_is_read_from_until_then() {
    let mut r = replica(1, &[1, 2, 3]);
    assert_eq!(r.handle(0, no_room(1, "a")), [Effect::HandOver]);
    assert_eq!(r.handle(1, no_room(1, "b")), [], "asked once");
    assert_eq!((r.may_read(1), r.is_level()), (Ok(()), true));
    let out = r.handle(2, Event::Epoch(meta(2, &[2, 3])));
    let told = [answer("a", Status::StaleEpoch), answer("b", Status::StaleEpoch)];
    assert_eq!(out[1..], told, "{out:?}");
    assert_eq!(refused(r.handle(3, no_room(2, "c"))), Status::NotPrimary);
}

#[test]
fn a_primary_without_room_says_so_only_when_nobody_has_any() {
    let mut r = replica(1, &[1, 2, 3]);
    r.handle(0, no_room(1, "a"));
    assert_eq!(r.handle(1, Event::Stays { epoch: 1, later: true }), [answer("a", Status::Busy)]);
    assert_eq!(r.handle(2, no_room(1, "a")), [Effect::HandOver], "and asks again");
    assert_eq!(r.handle(3, Event::Stays { epoch: 1, later: false }), [answer("a", Status::NoSpace)]);
    // What has room is written, and all is read, as before.
    assert_eq!(r.may_read(1), Ok(()));
    assert!(matches!(r.handle(4, write(7, 1, "b"))[..], [Effect::Forward { .. }, Effect::Apply { .. }]));
}

#[test]
fn who_waits_for_a_master_that_is_silent_is_told_to_come_again() {
    let mut r = replica(1, &[1, 2, 3]);
    r.handle(0, no_room(1, "a"));
    assert!(r.wants_ticks());
    assert_eq!(r.handle(999, Event::Tick), []);
    assert_eq!(r.handle(1000, Event::Tick), [answer("a", Status::Busy)]);
    assert!(!r.wants_ticks());
    assert_eq!(r.handle(1001, Event::Stays { epoch: 1, later: false }), [], "too late");
}

#[test]
fn while_a_member_without_room_cannot_be_made_equal_the_client_is_not_kept_waiting() {
    let mut r = replica(1, &[1, 2]);
    r.handle(0, write(7, 1, "a"));
    r.handle(0, Event::LocalDone { op: 1 });
    r.handle(1, failed(1, 2, Fault::NoSpace));
    r.handle(2, Event::Refused { epoch: 1 });
    assert_eq!(refused(r.handle(3, write(8, 1, "b"))), Status::NoSpace);
    assert_eq!(r.may_read(1), Ok(()));
    r.handle(4, Event::Compared { epoch: 1, result: Err((2, Fault::NoSpace)) });
    r.handle(5, Event::Refused { epoch: 1 });
    assert_eq!(refused(r.handle(6, write(8, 1, "b"))), Status::NoSpace);
    r.handle(7, Event::Compared { epoch: 1, result: Ok(1) });
    assert!(matches!(r.handle(8, write(8, 1, "b"))[..], [Effect::Forward { .. }, Effect::Apply { .. }]));
}
