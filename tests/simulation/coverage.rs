//! What has occurred, so that a simulation that does not reach a part of the cores is noticed.

use cairn_chunkserver::core::replica::{Effect, Event};
use cairn_master::core::cluster;
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
    Start, Write, Sync, Forward, LocalDone, LocalFault, Answered, Heard, Epoch, Refused, Join, Joined,
    JoinFailed, Doubt, Compared, Leveled, Tick,
]);
names!(EFFECTS, effect, Effect<W, A>, "replica effect ", [
    Forward, Apply, Mirror, SyncAll, Store, Answer, Record, Report, Compare, AskPrimary, AbortJoin, Probe,
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
        Ordered,
        Tick,
    ]
);
names!(
    CLUSTER_EFFECTS,
    cluster_effect,
    ClusterEffect,
    "cluster effect ",
    [PutChunk, PutServer, ForgetGarbage, Send, Close, AnswerClient, TellMounts, NodeChanged, ServersChanged,]
);

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
