//! Running in the background: the same command is started again, and the first process returns
//! once the second says that it serves.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::error::Failure;
use crate::notify::{self, State};

/// The flag by which a process knows that it is the one in the background.
pub const FLAG: &str = "--in-background";

/// Starts this very command line, with `extra` at its end, in the background, its output going to `log` (or nowhere), and waits until it
/// is ready. Errors: its own, or that it was not ready within `limit`.
pub async fn launch(extra: &[OsString], log: Option<&Path>, limit: Duration) -> Result<u32, Failure> {
    let cannot = |e: std::io::Error| Failure::system("cannot start in the background", &e);
    let listener = notify::Listener::bind().map_err(cannot)?;
    let output = || match log {
        Some(path) => File::options().create(true).append(true).open(path).map(Stdio::from),
        None => Ok(Stdio::null()),
    };
    let mut child = tokio::process::Command::new(std::env::current_exe().map_err(cannot)?)
        .args(std::env::args_os().skip(1))
        .args(extra)
        .arg(FLAG)
        .env(notify::VARIABLE, listener.name())
        .stdin(Stdio::null())
        .stdout(output().map_err(cannot)?)
        .stderr(output().map_err(cannot)?)
        .spawn()
        .map_err(cannot)?;
    let pid = child.id().unwrap_or_default();
    let said = async {
        loop {
            match listener.next().await {
                Ok(message) if message.pid == pid => return Ok(message.state),
                Ok(_) => {}
                Err(e) => return Err(cannot(e)),
            }
        }
    };
    let outcome = tokio::select! {
        biased;
        state = said => state?,
        status = child.wait() => {
            let status = status.map_err(cannot)?;
            return Err(Failure::System(format!("the process in the background ended: {status}")));
        }
        () = tokio::time::sleep(limit) => {
            return Err(Failure::System(format!(
                "the process in the background (pid {pid}) is not ready after {limit:?}"
            )));
        }
    };
    match outcome {
        State::Ready => Ok(pid),
        State::Failed(code, text) => Err(Failure::from_code(code, text)),
    }
}

/// In the background: a session of its own, so that nothing that happens to the terminal ends it.
pub fn leave_session() -> Result<(), Failure> {
    rustix::process::setsid().map_err(|e| Failure::system("cannot leave the terminal's session", &e))?;
    Ok(())
}
