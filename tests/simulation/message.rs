//! What goes over connections: the data wire, the chunkservers' stream and the mounts' questions, in short.

use cairn_chunkserver::core::recent::WriteId;
use cairn_master::core::cluster::Down;
use cairn_proto::data::Status;
use cairn_proto::rpc::{ChunkInfo, server_message};
use std::rc::Rc;

/// A block's content. 0 is what a hole reads as.
pub type Content = u64;
/// What replicas are told of a block: (checksum, version).
pub type Told = (u32, u64);

/// What a write puts into a chunk: whole blocks, or zeros over so many of them.
#[derive(Debug)]
pub struct Change {
    pub id: WriteId,
    pub first: u32,
    pub payload: Payload,
}

#[derive(Clone, Debug)]
pub enum Payload {
    Data(Vec<Content>),
    Zeros(u32),
}

impl Change {
    /// (first, behind the last).
    pub fn blocks(&self) -> (u32, u32) {
        let n = match &self.payload {
            Payload::Data(d) => d.len() as u32,
            Payload::Zeros(n) => *n,
        };
        (self.first, self.first + n)
    }
}

#[derive(Debug)]
pub struct Request {
    pub chunk: u64,
    pub epoch: u64,
    pub sync: bool,
    pub body: Ask,
}

#[derive(Clone, Debug)]
pub enum Ask {
    Write {
        change: Rc<Change>,
        create: Vec<u32>,
        wanted: u32,
    },
    Forward {
        change: Rc<Change>,
        seq: u64,
        in_sync: Vec<u32>,
        wanted: u32,
    },
    Read {
        first: u32,
        count: u32,
    },
    Sync {
        local: bool,
    },
    State,
    Table,
    Install {
        first: u32,
        told: Vec<Told>,
        crcs: Vec<u32>,
        data: Vec<Content>,
        in_sync: Vec<u32>,
        seq: u64,
    },
    Reconcile,
    Ping,
    /// To the master: where the chunk at this place is; `alloc`: it is made if there is none.
    Locate {
        place: u64,
        alloc: bool,
    },
    /// To the master: a replica could not be used.
    Failed {
        servers: Vec<u32>,
    },
    /// To the master: the chunk at this place becomes a hole.
    Drop {
        place: u64,
    },
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: Status,
    pub epoch: u64,
    pub body: Answer,
}

#[derive(Clone, Debug)]
pub enum Answer {
    Nothing,
    Blocks(Vec<Content>, Vec<u32>),
    State { seq: u64, unclean: bool, exists: bool, digest: u64 },
    Table(Vec<Told>),
    Located(Option<ChunkInfo>),
}

pub enum Message {
    Request(u32, Request),
    Reply(u32, Reply),
    Up(server_message::Msg),
    Down(Down),
    /// To a mount: a chunk has changed.
    Tell(ChunkInfo),
    /// The other side has closed the connection.
    End,
}
