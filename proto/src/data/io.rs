//! Frames on a stream: a reader that copies bulk data once, and an outbox that writes at once
//! when it can and never blocks its caller.

use super::{Buffer, FrameError, HEADER, Header};
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio::sync::Notify;

/// A TCP or Unix connection.
#[derive(Debug)]
pub enum Stream {
    /// Across machines. Nagle's algorithm should be off.
    Tcp(TcpStream),
    /// On one machine.
    Unix(UnixStream),
}

/// The reading half of a [`Stream`].
#[derive(Debug)]
pub enum ReadHalf {
    /// Of a TCP connection.
    Tcp(tcp::OwnedReadHalf),
    /// Of a Unix connection.
    Unix(unix::OwnedReadHalf),
}

#[derive(Debug)]
enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

/// One frame as it arrived.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Checked against its checksum.
    pub header: Header,
    /// The prost message, checked too.
    pub meta: Bytes,
    /// Not checked: its checksums are in the metadata.
    pub data: Bytes,
}

impl Frame {
    /// Decodes the metadata.
    pub fn meta<M: prost::Message + Default>(&self) -> Result<M, FrameError> {
        Ok(M::decode(&self.meta[..])?)
    }
}

/// Why no further frame can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Closed or broken.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Reads frames. Small ones come out of a buffer of 64 KiB, so that one read serves many;
/// bulk data is read straight into its place.
pub struct FrameReader {
    from: ReadHalf,
    buffer: BytesMut,
}

const READ_AHEAD: usize = 64 << 10;

impl ReadHalf {
    async fn read_buf(&mut self, into: &mut BytesMut) -> std::io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read_buf(into).await,
            Self::Unix(s) => s.read_buf(into).await,
        }
    }

    async fn read_exact(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(s) => s.read_exact(into).await,
            Self::Unix(s) => s.read_exact(into).await,
        }
    }
}

impl FrameReader {
    /// Reads from a connection whose preambles are through.
    pub fn new(from: ReadHalf) -> Self {
        Self { from, buffer: BytesMut::with_capacity(READ_AHEAD) }
    }

    /// Whether a whole frame has arrived already, so that `next` will not wait: while this is so, a
    /// server may hold back its replies and send them together.
    pub fn has_frame(&self) -> bool {
        let Some(head) = self.buffer.first_chunk::<HEADER>() else { return false };
        Header::lengths(head).is_ok_and(|(meta, data)| self.buffer.len() >= HEADER + meta + data)
    }

    /// The next frame; `None` when the other side closed between frames.
    pub async fn next(&mut self) -> Result<Option<Frame>, ReadError> {
        if !self.fill(HEADER).await? {
            return if self.buffer.is_empty() { Ok(None) } else { Err(eof()) };
        }
        let mut head = [0; HEADER];
        head.copy_from_slice(&self.buffer[..HEADER]);
        let (meta_len, data_len) = Header::lengths(&head)?;
        if !self.fill(HEADER + meta_len).await? {
            return Err(eof());
        }
        self.buffer.advance(HEADER);
        let meta = Bytes::copy_from_slice(&self.buffer[..meta_len]);
        self.buffer.advance(meta_len);
        let header = Header::decode(&head, &meta)?;
        let data = self.data(data_len).await?;
        Ok(Some(Frame { header, meta, data }))
    }

    async fn data(&mut self, len: usize) -> Result<Bytes, ReadError> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let mut data = Buffer::new(len);
        let here = len.min(self.buffer.len());
        self.buffer.copy_to_slice(&mut data.as_mut_slice()[..here]);
        if here < len {
            self.from.read_exact(&mut data.as_mut_slice()[here..]).await?;
        }
        Ok(data.freeze())
    }

    /// Waits until `len` bytes are buffered; false at the end of the stream.
    async fn fill(&mut self, len: usize) -> std::io::Result<bool> {
        while self.buffer.len() < len {
            if self.buffer.capacity() < READ_AHEAD / 4 {
                self.buffer.reserve(READ_AHEAD);
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn eof() -> ReadError {
    ReadError::Io(std::io::ErrorKind::UnexpectedEof.into())
}

/// Where frames are put to be sent. `send` writes as much as the socket takes at once, in the
/// caller's own task (a wake-up of another task costs more than the write); a task of the outbox
/// writes the rest. How much may queue is for the callers to bound, by the requests in flight.
pub struct Outbox {
    to: WriteHalf,
    queue: Mutex<Queue>,
    more: Arc<Notify>,
}

#[derive(Default)]
struct Queue {
    parts: VecDeque<Bytes>,
    bytes: usize,
    failed: bool,
    /// Replies held back until `flush`.
    corked: bool,
}

/// Slices handed to one writev; the kernel takes 1,024 at most.
const SLICES: usize = 64;

impl Stream {
    /// Cuts the connection into a reader and an outbox, whose task ends when the outbox is dropped or the socket fails.
    pub fn into_frames(self) -> (FrameReader, Arc<Outbox>) {
        let (read, write) = match self {
            Self::Tcp(s) => {
                let (r, w) = s.into_split();
                (ReadHalf::Tcp(r), WriteHalf::Tcp(w))
            }
            Self::Unix(s) => {
                let (r, w) = s.into_split();
                (ReadHalf::Unix(r), WriteHalf::Unix(w))
            }
        };
        let more = Arc::new(Notify::new());
        let out = Arc::new(Outbox { to: write, queue: Mutex::default(), more: more.clone() });
        tokio::spawn(Outbox::drain(Arc::downgrade(&out), more));
        (FrameReader::new(read), out)
    }
}

impl Outbox {
    /// Sends a frame (or queues it). False: the connection is broken, nothing will arrive any more.
    pub fn send(&self, header: &Header, meta: &[u8], data: Bytes) -> bool {
        let head = header.encode(meta, data.len());
        let mut front = BytesMut::with_capacity(HEADER + meta.len());
        front.extend_from_slice(&head);
        front.extend_from_slice(meta);
        let mut q = self.queue.lock();
        if q.failed {
            return false;
        }
        let idle = q.parts.is_empty() && !q.corked;
        q.push(front.freeze());
        q.push(data);
        if idle {
            self.write(&mut q);
            if !q.parts.is_empty() {
                self.more.notify_one();
            }
        }
        !q.failed
    }

    /// Holds frames back from now on, until [`Self::uncork`]: for a server that has further requests at hand.
    pub fn cork(&self) {
        self.queue.lock().corked = true;
    }

    /// Sends what was held back.
    pub fn uncork(&self) {
        let mut q = self.queue.lock();
        q.corked = false;
        self.write(&mut q);
        if !q.parts.is_empty() {
            self.more.notify_one();
        }
    }

    /// Bytes that wait to be written.
    pub fn queued(&self) -> usize {
        self.queue.lock().bytes
    }

    /// Nothing more is sent, what waits is forgotten; the peer sees the end of the stream once the last
    /// reference is gone. A server calls this when it stops reading from the peer.
    pub fn close(&self) {
        let mut q = self.queue.lock();
        q.fail();
        drop(q);
        self.more.notify_one();
    }

    fn write(&self, q: &mut Queue) {
        while !q.parts.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut n = 0;
            for (slice, part) in slices.iter_mut().zip(&q.parts) {
                *slice = IoSlice::new(part);
                n += 1;
            }
            let written = match &self.to {
                WriteHalf::Tcp(s) => s.try_write_vectored(&slices[..n]),
                WriteHalf::Unix(s) => s.try_write_vectored(&slices[..n]),
            };
            match written {
                Ok(written) => q.pop(written),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => return q.fail(),
            }
        }
    }

    /// Waits without a reference of its own, so that dropping the last other one closes the socket at once.
    async fn drain(outbox: std::sync::Weak<Self>, more: Arc<Notify>) {
        loop {
            more.notified().await;
            let Some(out) = outbox.upgrade() else { return };
            while out.has_more() {
                let ready = async {
                    match &out.to {
                        WriteHalf::Tcp(s) => s.ready(Interest::WRITABLE).await,
                        WriteHalf::Unix(s) => s.ready(Interest::WRITABLE).await,
                    }
                };
                let ready = tokio::select! {
                    ready = ready => ready,
                    () = more.notified() => continue,
                };
                let mut q = out.queue.lock();
                match ready {
                    Ok(_) => out.write(&mut q),
                    Err(_) => q.fail(),
                }
            }
        }
    }

    fn has_more(&self) -> bool {
        let q = self.queue.lock();
        !q.parts.is_empty() && !q.corked
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.more.notify_one();
    }
}

impl Queue {
    fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.bytes += part.len();
            self.parts.push_back(part);
        }
    }

    fn pop(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let Some(first) = self.parts.front_mut() else { return };
            if first.len() <= written {
                written -= first.len();
                self.parts.pop_front();
            } else {
                first.advance(written);
                return;
            }
        }
    }

    fn fail(&mut self) {
        self.failed = true;
        self.parts.clear();
        self.bytes = 0;
    }
}
