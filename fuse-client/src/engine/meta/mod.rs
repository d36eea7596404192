//! The metadata half: the session with the master, and what may be known without asking it.

mod calls;
pub mod chunks;
mod connection;
pub mod core;
mod lease_term;
pub mod session;

pub use calls::Answer;
pub use connection::ConnectError;
pub use lease_term::LeaseHolder;
pub use session::{Session, SessionConfig, SessionEvent, Standing};
