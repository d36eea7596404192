//! A simulated chunkserver: real replicas' state machines, a simulated disk, and between them what the
//! real server's shell does. Each file says which part of the shell it mirrors; the shell's tasks are tasks here, too.

mod agreement;
mod attach;
mod chunk;
mod compare;
pub mod disk;
mod dispatch;
mod effects;
mod image;
mod join;
pub mod lost_disk;
mod node;
mod peers;
mod scrub;

pub use attach::{ended, told};
pub use chunk::Ticket;
pub use dispatch::dispatch;
pub use node::Node;
