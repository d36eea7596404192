//! The thin shell: connections, disks and the master around the replicas' state machines.

mod agreement;
mod answer;
mod ask;
mod attach;
mod chunk;
mod clock;
mod compare;
mod dispatch;
mod effects;
mod housekeeping;
mod join;
mod lost_disk;
mod master;
mod monitor;
mod peers;
mod probe;
mod reads;
mod scrub;
mod server;
mod state;
mod verify;
mod wire;

pub use attach::{Registration, keep_attached, register};
pub use housekeeping::{housekeep, is_whole, recover_chunks};
pub use monitor::report;
pub use peers::Peers;
pub use scrub::DiskScrub;
pub use server::{Listeners, serve};
pub use state::{DiskUnit, Node, NodeConfig};
