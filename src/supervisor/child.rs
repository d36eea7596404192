//! One process of the cluster: how it is started, and when it is started again.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cairn_proto::backoff::Backoff;
use rustix::process::Signal;
use tokio::sync::mpsc;

use super::layout::Layout;
use super::pid_file;
use crate::{daemon, mounts, notify};

/// A process that lived so long is started again at once when it dies.
const STEADY: Duration = Duration::from_secs(5);
/// A log larger than this is put aside when its process starts again, bytes.
const LOG_LIMIT: u64 = 16 << 20;
/// How much of a log's end an error message shows, bytes and lines.
const TAIL: (u64, usize) = (8 << 10, 12);

/// What is to run.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name in the data directory and in messages.
    pub name: String,
    /// The command line behind `cairn`.
    pub args: Vec<OsString>,
    /// The mountpoint, where it is the mount.
    pub mounts_on: Option<PathBuf>,
}

/// A process ended.
#[derive(Debug)]
pub struct Exit {
    /// Its pid.
    pub pid: u32,
    /// How.
    pub status: std::io::Result<ExitStatus>,
}

/// A process of the cluster, running or to be started again.
pub struct Child {
    /// What is to run.
    pub spec: Spec,
    /// Where it runs.
    pub pid: Option<u32>,
    /// Whether it has said that it serves.
    pub ready: bool,
    /// What it said when it failed.
    pub failure: Option<(u8, String)>,
    /// When it is to be started again.
    pub due: Option<Instant>,
    started: Instant,
    log_from: u64,
    backoff: Backoff,
}

impl Child {
    /// Not started yet.
    pub fn new(spec: Spec) -> Self {
        Self {
            spec,
            pid: None,
            ready: false,
            failure: None,
            due: None,
            started: Instant::now(),
            log_from: 0,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(5)),
        }
    }

    /// Starts it; its end goes to `exits`.
    pub fn start(
        &mut self,
        layout: &Layout,
        notify_socket: &str,
        config: Option<&Path>,
        exits: &mpsc::UnboundedSender<Exit>,
    ) -> std::io::Result<()> {
        if let Some(dir) = &self.spec.mounts_on {
            mounts::clear_dead(dir);
        }
        let log = self.open_log(layout)?;
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command
            .args(&self.spec.args)
            .arg(daemon::FLAG)
            .env(notify::VARIABLE, notify_socket)
            .env_remove("CAIRN_DETACH")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some(config) = config {
            command.env("CAIRN_CONFIG", config);
        }
        let mut process = command.spawn()?;
        let pid = process.id().unwrap_or_default();
        (self.pid, self.ready, self.failure, self.due) = (Some(pid), false, None, None);
        self.started = Instant::now();
        pid_file::write(&layout.pid(&self.spec.name), pid)?;
        let exits = exits.clone();
        tokio::spawn(async move {
            let status = process.wait().await;
            // Nobody listens any more when everything ends.
            let _ = exits.send(Exit { pid, status });
        });
        Ok(())
    }

    fn open_log(&mut self, layout: &Layout) -> std::io::Result<File> {
        let path = layout.log(&self.spec.name);
        if std::fs::metadata(&path).is_ok_and(|m| m.len() > LOG_LIMIT) {
            std::fs::rename(&path, path.with_extension("log.1"))?;
        }
        let file = File::options().create(true).append(true).open(&path)?;
        self.log_from = file.metadata()?.len();
        Ok(file)
    }

    /// It ended: plans when it is started again.
    pub fn ended(&mut self, now: Instant, random: f64) {
        self.pid = None;
        self.ready = false;
        let delay = if now.duration_since(self.started) >= STEADY {
            self.backoff.reset();
            Duration::ZERO
        } else {
            self.backoff.next(random)
        };
        self.due = Some(now + delay);
    }

    /// Signals it, where it runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            pid_file::signal(pid, signal);
        }
    }

    /// What it said when it failed, else the last lines that this run of it logged.
    pub fn last_words(&self, layout: &Layout) -> String {
        if let Some((_, text)) = &self.failure {
            return text.clone();
        }
        let path = layout.log(&self.spec.name);
        let tail = tail(&path, self.log_from).unwrap_or_default();
        format!("see {}\n{tail}", path.display()).trim_end().to_owned()
    }
}

fn tail(path: &Path, from: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL.0))))?;
    let mut bytes = Vec::new();
    file.take(TAIL.0).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL.1)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_process_is_started_again_at_once_a_failing_one_ever_later() {
        let spec = Spec { name: "x".into(), args: Vec::new(), mounts_on: None };
        let mut child = Child::new(spec);
        let start = child.started;
        child.ended(start + STEADY, 0.99);
        assert_eq!(child.due, Some(start + STEADY));
        let soon = start + Duration::from_millis(1);
        let delays: Vec<_> = (0..8)
            .map(|_| {
                child.ended(soon, 0.99);
                child.due.unwrap() - soon
            })
            .collect();
        assert!(delays.windows(2).all(|d| d[0] <= d[1]), "{delays:?}");
        assert!(delays[7] > Duration::from_secs(4) && delays[7] <= Duration::from_secs(5));
    }

    #[test]
    fn the_tail_is_the_last_lines_of_this_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let old = "old run\n";
        let lines: Vec<String> = (0..30).map(|i| format!("line {i}")).collect();
        std::fs::write(&path, format!("{old}{}\n", lines.join("\n"))).unwrap();
        let shown = tail(&path, old.len() as u64).unwrap();
        assert_eq!(shown.lines().count(), TAIL.1);
        assert!(shown.ends_with("line 29"));
    }
}
