//! What the master wants to know of another chunkserver, and how often of this one.

use super::clock::now;
use super::state::Node;
use bytes::Bytes;
use cairn_proto::data::{Header, Kind};
use cairn_proto::rpc::{HeartbeatAck, Probed, server_message::Msg};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A peer that does not answer within this time is not reached.
const LIMIT: Duration = Duration::from_millis(600);

/// Says whether a peer answers.
pub fn probe(node: &Arc<Node>, server: u32) {
    let node = node.clone();
    tokio::spawn(async move {
        let ping = Header::request(Kind::Ping, 0, 0, 0);
        let reached = node.peers.call(server, ping, &[], Bytes::new(), LIMIT).await.is_ok();
        // Without a stream nobody waits for it.
        let _ = node.master.say(Msg::Probed(Probed { server, reached }));
    });
}

/// The last heartbeat, and what its answer told.
pub struct Beat {
    seq: u64,
    sent: Instant,
    rtt_us: u32,
    next: Option<Duration>,
}

impl Beat {
    /// None was sent yet.
    pub fn new() -> Self {
        Self { seq: 0, sent: Instant::now(), rtt_us: 0, next: None }
    }

    /// One is being sent.
    pub fn sent(&mut self, seq: u64) {
        (self.seq, self.sent) = (seq, Instant::now());
    }

    /// It, or an earlier one, has been answered; it was sent at `sent_at`.
    pub fn answered(&mut self, ack: HeartbeatAck, sent_at: u64) {
        if ack.seq == self.seq {
            self.rtt_us = u32::try_from(self.sent.elapsed().as_micros()).unwrap_or(u32::MAX);
            let due = sent_at + u64::from(ack.next_ms);
            self.next = (ack.next_ms > 0).then(|| Duration::from_millis(due.saturating_sub(now())));
        }
    }

    /// From the last one that was answered to its answer, microseconds; 0: none was yet.
    pub fn rtt_us(&self) -> u32 {
        self.rtt_us
    }

    /// Once after an answer: when the next is wanted.
    pub fn next(&mut self) -> Option<Duration> {
        self.next.take()
    }
}
