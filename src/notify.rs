//! Readiness: a process tells the one that started it that it serves, or why it does not.
//!
//! The protocol is sd_notify(3)'s, so that systemd (`Type=notify`) understands it as well: a datagram of
//! `NAME=value` lines to the socket named in `NOTIFY_SOCKET`.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable that names the socket; a leading `@` stands for an abstract one.
pub const VARIABLE: &str = "NOTIFY_SOCKET";

/// The longest message, bytes.
const LONGEST: usize = 8 << 10;

/// What a process said.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// The process that said it.
    pub pid: u32,
    /// What it said.
    pub state: State,
}

/// What a process says of itself.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// It serves.
    Ready,
    /// It ends, with this exit code, for this reason.
    Failed(u8, String),
}

fn encode(message: &Message) -> String {
    let pid = message.pid;
    match &message.state {
        State::Ready => format!("READY=1\nMAINPID={pid}\n"),
        State::Failed(code, text) => {
            format!("STATUS={}\nEXIT_STATUS={code}\nMAINPID={pid}\n", text.replace('\n', "\u{2028}"))
        }
    }
}

fn decode(text: &str) -> Option<Message> {
    let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
    let pid = value("MAINPID")?.parse().ok()?;
    if value("READY") == Some("1") {
        return Some(Message { pid, state: State::Ready });
    }
    let code = value("EXIT_STATUS")?.parse().ok()?;
    Some(Message { pid, state: State::Failed(code, value("STATUS")?.replace('\u{2028}', "\n")) })
}

fn say(state: State) {
    let Some(name) = std::env::var_os(VARIABLE) else { return };
    let name = name.as_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(String::from_utf8_lossy(name).as_ref()),
    };
    let text = encode(&Message { pid: std::process::id(), state });
    // Nobody who listens any more is no reason to fail.
    let sent = address
        .and_then(|a| UnixDatagram::unbound()?.send_to_addr(&text.as_bytes()[..text.len().min(LONGEST)], &a));
    if let Err(e) = sent {
        tracing::debug!(error = %e, "nobody takes the readiness message");
    }
}

/// Says that this process serves.
pub fn ready() {
    say(State::Ready);
}

/// Says that this process ends, and why.
pub fn failed(code: u8, text: &str) {
    say(State::Failed(code, text.to_owned()));
}

/// Hears what the processes started by this one say.
pub struct Listener {
    socket: tokio::net::UnixDatagram,
    name: String,
}

impl Listener {
    /// Binds a socket under a name of its own. Call it within a runtime.
    pub fn bind() -> std::io::Result<Self> {
        let name = format!("cairn-{}-{:016x}", std::process::id(), rand::random::<u64>());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes())?)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: tokio::net::UnixDatagram::from_std(socket)?, name: format!("@{name}") })
    }

    /// The value for [`VARIABLE`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next message; what makes no sense is passed over.
    pub async fn next(&self) -> std::io::Result<Message> {
        let mut buffer = [0; LONGEST];
        loop {
            let len = self.socket.recv(&mut buffer).await?;
            if let Some(message) = decode(&String::from_utf8_lossy(&buffer[..len])) {
                return Ok(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_socket() {
        for state in [State::Ready, State::Failed(32, "no /dev/fuse\nload it".into())] {
            let message = Message { pid: 7, state };
            assert_eq!(decode(&encode(&message)), Some(message));
        }
    }

    #[test]
    fn nonsense_is_no_message() {
        for text in
            ["", "READY=1", "MAINPID=x\nREADY=1", "MAINPID=3\nSTATUS=x\nEXIT_STATUS=999", "\0\u{fffd}"]
        {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
