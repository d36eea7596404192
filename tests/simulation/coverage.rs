//! What has occurred, so that a simulation that does not reach a part of the cores is noticed.

use cairn_chunkserver::core::replica::{Effect, Event};
use cairn_master::core::cluster;
use cairn_proto::data::Status;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Names, and how often.
#[derive(Default)]
pub struct Coverage(RefCell<BTreeMap<&'static str, u64>>);

impl Coverage {
    pub fn hit(&self, name: &'static str) {
        *self.0.borrow_mut().entry(name).or_insert(0) += 1;
    }

    pub fn take(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut *self.0.borrow_mut())
    }
}

/// The names of all variants, and a function that gives one's name.
macro_rules! names {
    ($all:ident, $name:ident, $kind:ident $(<$($param:ident),*>)?, $what:literal, [$($variant:ident),* $(,)?] $(,)?) => {
        pub const $all: &[&str] = &[$(concat!($what, stringify!($variant))),*];
        pub fn $name $(<$($param),*>)? (of: &$kind $(<$($param),*>)?) -> &'static str {
            match of {
                $($kind::$variant { .. } => concat!($what, stringify!($variant)),)*
            }
        }
    };
}

names!(EVENTS, event, Event<W, A>, "replica event ", [
    Start, Write, NoRoom, Stays, Sync, Forward, LocalDone, LocalFault, Answered, Heard, Epoch, Refused, Join, Joined,
    JoinFailed, Doubt, Compared, Leveled, Tick,
]);
names!(EFFECTS, effect, Effect<W, A>, "replica effect ", [
    Forward, Apply, Mirror, SyncAll, Store, Answer, Record, Suspect, Report, HandOver, Compare, AskPrimary, AbortJoin, Probe,
]);

type ClusterEvent = cluster::Event;
type ClusterEffect = cluster::Effect;
names!(
    CLUSTER_EVENTS,
    cluster_event,
    ClusterEvent,
    "cluster event ",
    [
        Registered,
        Heartbeat,
        Report,
        Problem,
        CaughtUp,
        Probed,
        Done,
        Disconnected,
        Refused,
        ClientReport,
        ChunkAllocated,
        ChunkDeleted,
        SessionOver,
        Ordered,
        Tick,
    ]
);
names!(
    CLUSTER_EFFECTS,
    cluster_effect,
    ClusterEffect,
    "cluster effect ",
    [
        PutChunk,
        PutServer,
        ForgetGarbage,
        Send,
        Fenced,
        Close,
        AnswerClient,
        TellMounts,
        NodeChanged,
        ServersChanged,
    ]
);

/// The branches of recovery, as real cores and what is decided by them have taken them. What happened to chunkservers is counted
/// beside these (and two that are too rare to be asked for: "compared: the primary decided", "a doubt that came too soon after another was not
/// forgotten"): a crash ("its process is gone") and a hang ("its lease has run out") are told apart there.
pub const BRANCHES: &[&str] = &[
    "a stale epoch was refused",
    "what is ahead of a replica was refused by it, so that it is compared",
    "a write ended, as the set could not do without those that failed",
    "several members failed at once",
    "a primary whose lease had run out did not acknowledge",
    "a primary was dropped: it reported itself",
    "a primary was dropped: it was dead",
    "a member was dropped: it was reported",
    "a member was dropped: it was dead",
    "a member was dropped: it had lost its replica",
    "a replica was dropped for a client",
    "a server was taken into a set",
    "a server took the place of one that is drained",
    "a server took the place of one that had too much to do",
    "a hot chunk got one more copy",
    "a copy more than wanted went",
    "a set was not changed: a majority would not have been left",
    "a set was not changed: it was asked for under another epoch",
    "a repair began from the last copy that was there",
    "peers were asked for a second opinion",
    "a second opinion: peers reached a server that the master did not",
    "the master held back, as most servers were gone",
    "a stale replica was deleted",
    "nothing made a deleted replica anew",
    "a replica of a deleted chunk was deleted",
    "a replica of an unknown chunk was deleted",
    "a replica came back in sync",
    "a replica came back to be compared",
    "a replica came back that had been dropped",
    "brought up to date: it had missed nothing",
    "brought up to date: what it had missed",
    "brought up to date: a full copy",
    "compared: equal seq and digest",
    "compared: digests differ at equal seq",
    "compared: the higher version decided",
    "compared: the majority decided",
    "quiet replicas agree",
    "quiet replicas could not be compared: a write or an epoch came in between",
    "quiet replicas differ, by their digests",
    "scrubbing found a bad block",
    "a replica was given up with its disk",
    "adopted: no replica has it whole",
    "what had silently become something else is what most replicas had",
];

/// What a refusal shows.
pub fn refusal<W, A>(of: &Effect<W, A>) -> Option<&'static str> {
    match of {
        Effect::Answer { status: Status::StaleEpoch, .. } => Some("a stale epoch was refused"),
        Effect::Answer { status: Status::Behind, .. } => {
            Some("what is ahead of a replica was refused by it, so that it is compared")
        }
        Effect::Answer { status: Status::MemberFailed, .. } => {
            Some("a write ended, as the set could not do without those that failed")
        }
        Effect::Report { failed, .. } if failed.len() > 1 => Some("several members failed at once"),
        _ => None,
    }
}

/// An event in a few words.
pub fn short<W: std::fmt::Debug, A>(of: &Event<W, A>) -> String {
    match of {
        Event::Write { id, epoch, sync, write, .. } => {
            format!("write {id:?} at {epoch} sync {sync} {write:?}")
        }
        Event::Sync { epoch, .. } => format!("sync at {epoch}"),
        Event::Forward { from, meta, id, sync, .. } => {
            format!("forward from s{from} {id:?} seq {} at {} sync {sync}", meta.seq, meta.epoch)
        }
        Event::Answered { op, server, answer } => format!("op {op}: s{server} {answer:?}"),
        Event::LocalDone { op } => format!("op {op}: done here"),
        Event::LocalFault { seq, fault } => format!("fault here: seq {seq:?} {fault:?}"),
        Event::Epoch(meta) => format!("told epoch {} {:?}", meta.epoch, meta.in_sync),
        Event::Compared { epoch, result } => format!("compared at {epoch}: {result:?}"),
        Event::Leveled { seq } => format!("level at {seq}"),
        Event::Join { target } | Event::Joined { target } | Event::JoinFailed { target } => {
            format!("{} s{target}", event(of))
        }
        other => event(other).to_owned(),
    }
}
