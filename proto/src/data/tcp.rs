//! What is set on every TCP connection of the data wire.

use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::TcpStream;

/// A peer that acknowledges nothing for so long, milliseconds, loses the connection. Without it, TCP doubles its pauses for
/// as long as a cable is out, and goes on seconds after it is back.
const USER_TIMEOUT: u32 = 3_000;

/// Prepares a new connection, at either end.
///
/// # Errors
/// When it is broken already.
pub fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    Ok(set_tcp_user_timeout(stream, USER_TIMEOUT)?)
}
