//! After a chunkserver's connection has ended: is its process gone, or only the connection?

use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::core::cluster::{Event, LinkId};
use crate::owner::OwnerHandle;

/// Before each look. The first comes as soon as a process that was killed has closed everything: whoever writes waits for it.
/// They end when its lease has run out anyway.
const PAUSES: [Duration; 8] = [
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(400),
    Duration::from_millis(1_000),
    Duration::from_millis(1_000),
];
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// Looks a few times whether anything still listens at the server's data address, and tells the owner
/// when that is refused. A process that hangs still accepts (the kernel does it); a machine that is gone does not answer at all: for
/// both the lease must be waited for.
pub(super) async fn watch_for_return(owner: &OwnerHandle, link: LinkId, addr: &str) {
    for pause in PAUSES {
        sleep(pause).await;
        if let Ok(Err(e)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await
            && e.kind() == ErrorKind::ConnectionRefused
        {
            return owner.cluster(Event::Refused { link });
        }
    }
}
