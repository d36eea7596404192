//! The data wire: frames of a fixed 32-byte header, a small metadata part (a prost message of
//! `data.proto`) and raw data.
//!
//! A connection begins with a [`Preamble`] from each side. After it the connecting side sends
//! requests, each with a request id of its own, and the other answers in any order.

mod buffers;
mod client;
mod frame;
mod io;
mod preamble;
mod tcp;

pub use buffers::Buffer;
pub use client::{CallError, Client, Endpoint, Pending, Reply};
pub use frame::{FrameError, HEADER, Header, Kind, MAX_DATA, MAX_META, Status, flags};
pub use io::{Frame, FrameReader, Outbox, ReadError, ReadHalf, Stream};
pub use preamble::{Greeting, Preamble, PreambleError, Role};
pub use tcp::prepare;
