//! The namespace against a plain model of a file system, and its corners one by one.

mod corners;
mod model;
mod random;

use cairn_proto::rpc::{self, op::Op as Body};
use cairn_proto::{ServerId, SessionId};

use super::{Context, execute};
use crate::core::cluster::Event;
use crate::core::records::Counters;
use crate::core::scratch::Scratch;
use crate::core::{keys, view::View};
use crate::store::{MemoryStore, Store};

/// A namespace over a store in memory, each operation committed by itself.
pub(super) struct Namespace {
    pub(super) store: MemoryStore,
    pub(super) counters: Counters,
    pub(super) session: SessionId,
    /// Whether there are other mounts.
    pub(super) company: bool,
    pub(super) now: rpc::Time,
    pub(super) events: Vec<Event>,
    /// What placing a chunk gives.
    pub(super) servers: Vec<ServerId>,
}

impl Namespace {
    pub(super) fn new() -> Self {
        let mut store = MemoryStore::default();
        let root = super::root(rpc::Time::default()).encode();
        let batch = [(keys::inode(cairn_proto::InodeId::ROOT), Some(root))];
        store.commit(batch.into()).unwrap();
        Self {
            store,
            counters: Counters::fresh(),
            session: SessionId(1),
            company: false,
            now: rpc::Time { secs: 1, nanos: 0 },
            events: Vec::new(),
            servers: vec![ServerId(1), ServerId(2), ServerId(3)],
        }
    }

    /// Runs an operation and commits what it changed.
    pub(super) fn run(&mut self, body: Body) -> rpc::Reply {
        let before = self.store.clone();
        let mut scratch = Scratch::new(&before, self.counters);
        let servers = self.servers.clone();
        let mut context = Context {
            session: self.session,
            now: self.now,
            copies: 3,
            chunk_size: 1 << 20,
            place: &mut || Ok(servers.clone()),
            space: rpc::StatfsReply::default(),
            linger: self.company,
            events: Vec::new(),
            lingering: Vec::new(),
        };
        let reply =
            execute(&mut scratch, &mut context, &rpc::Op { id: 1, op: Some(body), ..rpc::Op::default() });
        self.events = context.events;
        let (batch, counters) = scratch.into_batch();
        assert!(reply.errno == 0 || batch.is_empty(), "a failed operation left something");
        self.store.commit(batch).unwrap();
        self.counters = counters;
        self.now.nanos += 1;
        reply
    }

    pub(super) fn errno(&mut self, body: Body) -> i32 {
        self.run(body).errno
    }

    pub(super) fn attr(&mut self, body: Body) -> rpc::Attr {
        let reply = self.run(body);
        match reply.result {
            Some(rpc::reply::Result::Attr(attr)) => attr,
            other => panic!("no attributes: errno {} {other:?}", reply.errno),
        }
    }

    pub(super) fn stat(&mut self, inode: u64) -> rpc::Attr {
        self.attr(Body::GetAttr(rpc::GetAttr { inode }))
    }

    /// How many records there are under a prefix.
    pub(super) fn count(&self, prefix: u8) -> usize {
        let mut count = 0;
        self.store
            .scan(&[prefix], &[prefix], &mut |_, _| {
                count += 1;
                true
            })
            .unwrap();
        count
    }
}

pub(super) fn make(parent: u64, name: &str, mode: u32) -> Body {
    Body::Make(rpc::Make {
        parent,
        name: name.to_owned().into(),
        mode,
        target: if mode & 0o170_000 == 0o120_000 { "target".into() } else { "".into() },
        ..rpc::Make::default()
    })
}

pub(super) fn unlink(parent: u64, name: &str, keep_open: bool) -> Body {
    Body::Unlink(rpc::Unlink { parent, name: name.to_owned().into(), keep_open })
}

pub(super) fn rmdir(parent: u64, name: &str) -> Body {
    Body::Rmdir(rpc::Rmdir { parent, name: name.to_owned().into() })
}

pub(super) fn rename(parent: u64, name: &str, new_parent: u64, new_name: &str, flags: u32) -> Body {
    Body::Rename(rpc::Rename {
        parent,
        name: name.to_owned().into(),
        new_parent,
        new_name: new_name.to_owned().into(),
        flags,
        keep_open: false,
    })
}

pub(super) fn link(inode: u64, new_parent: u64, new_name: &str) -> Body {
    Body::Link(rpc::Link { inode, new_parent, new_name: new_name.to_owned().into() })
}

pub(super) fn lookup(parent: u64, name: &str) -> Body {
    Body::Lookup(rpc::Lookup { parent, name: name.to_owned().into() })
}
