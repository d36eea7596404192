//! Where an answer goes: a request on a connection.

use bytes::Bytes;
use cairn_proto::data::{Header, Kind, Outbox, Status};
use cairn_proto::latency::Latency;
use cairn_proto::rpc::WriteReply;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::Notify;

/// How long clients' requests take.
#[derive(Debug, Default)]
pub struct Latencies {
    /// Reads.
    pub reads: Latency,
    /// Writes.
    pub writes: Latency,
}

/// A connection, seen from those who answer on it.
pub struct Conn {
    /// What is sent on it.
    pub out: Arc<Outbox>,
    in_flight: AtomicUsize,
    /// Bytes of data that came with the requests in flight.
    held: AtomicUsize,
    room: Notify,
    /// Where it is counted how long answers to a client take.
    latency: Option<Arc<Latencies>>,
}

/// Requests of one connection that may be unanswered at once.
const IN_FLIGHT: usize = 1024;
/// Bytes of data that may have come with them.
const HELD: usize = 64 << 20;
/// Bytes of answers that may wait for a peer that does not read them.
const QUEUED: usize = 64 << 20;

impl Conn {
    /// A connection on which nothing was asked yet.
    pub fn new(out: Arc<Outbox>) -> Self {
        let (in_flight, held) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { out, in_flight, held, room: Notify::new(), latency: None }
    }

    /// A client's: how long its answers take is counted.
    #[must_use]
    pub fn timed(self, latency: Arc<Latencies>) -> Self {
        Self { latency: Some(latency), ..self }
    }

    /// Whether another request may be taken.
    pub fn has_room(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) < IN_FLIGHT
            && self.held.load(Ordering::Acquire) < HELD
            && self.out.queued() < QUEUED
    }

    /// Waits a little, or until a request has been answered.
    pub async fn wait_for_room(&self) {
        let soon = std::time::Duration::from_millis(20);
        let _ = tokio::time::timeout(soon, self.room.notified()).await;
    }

    /// The right to answer a request that came with so many bytes of data.
    pub fn expect(self: &Arc<Self>, header: Header, bytes: usize) -> Answer {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.held.fetch_add(bytes, Ordering::AcqRel);
        let timed = self.latency.is_some() && matches!(header.kind, Kind::Read | Kind::Write);
        Answer { conn: self.clone(), header, bytes, began: timed.then(Instant::now) }
    }
}

/// The right to answer one request.
pub struct Answer {
    conn: Arc<Conn>,
    header: Header,
    bytes: usize,
    /// When it came, where that is counted.
    began: Option<Instant>,
}

impl Answer {
    /// Answers with a message and data.
    pub fn send(self, status: Status, epoch: u64, meta: &[u8], data: Bytes) {
        // A broken connection is its reader's business.
        let _ = self.conn.out.send(&self.header.reply(status, epoch as u32), meta, data);
    }

    /// Answers a write or a sync.
    pub fn written(self, status: Status, epoch: u64, seq: u64) {
        let meta = WriteReply { seq, failed: Vec::new() }.encode_to_vec();
        self.send(status, epoch, &meta, Bytes::new());
    }

    /// Answers that it could not be done, with a text for people.
    pub fn refuse(self, status: Status, epoch: u64, why: &str) {
        self.send(status, epoch, &[], Bytes::copy_from_slice(why.as_bytes()));
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let (Some(began), Some(latency)) = (self.began, &self.conn.latency) {
            let of = if self.header.kind == Kind::Read { &latency.reads } else { &latency.writes };
            of.record(began.elapsed());
        }
        let held = self.conn.held.fetch_sub(self.bytes, Ordering::AcqRel);
        let was_full = held >= HELD && held - self.bytes < HELD;
        if was_full | (self.conn.in_flight.fetch_sub(1, Ordering::AcqRel) == IN_FLIGHT) {
            self.conn.room.notify_one();
        }
    }
}
