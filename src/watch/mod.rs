//! Showing what anybody changes below a directory on a mount.

mod coalesce;
mod tree;

use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairn_proto::rpc::{FileChange, FileChangeKind};
use serde_json::{Value, json};
use tonic::Streaming;

use crate::commands::file::masters_of;
use crate::error::Failure;
use crate::{admin, process};

use coalesce::Coalescer;
use tree::{Line, Tree};

/// Before the master is asked again after it has gone.
const AGAIN: Duration = Duration::from_secs(1);
/// For as long nothing need be done where nothing was held back.
const IDLE: Duration = Duration::from_secs(60);
/// How often what was held back is looked at.
const TICK: Duration = Duration::from_millis(200);

/// Why lines end: nobody reads them any more.
struct Closed;

/// One who watches.
struct Watch {
    path: PathBuf,
    json: bool,
    tree: Tree,
    files: Coalescer,
}

/// Shows changes below `path` until it is ended, or nobody reads any more. Errors: it lies on no mount, cannot be read, or no master
/// answers at first.
pub fn run(path: &Path, masters: &[String], json: bool) -> Result<(), Failure> {
    let masters = match masters {
        [] => masters_of(path)?,
        named => named.to_vec(),
    };
    let mut watch = Watch { path: path.to_owned(), json, tree: Tree::new(0), files: Coalescer::default() };
    process::small_runtime()?.block_on(async {
        let mut changes = admin::watch_files(&masters).await?;
        watch.look()?;
        eprintln!("cairn: watching {}", path.display());
        loop {
            if watch.follow(&mut changes).await.is_err() {
                return Ok(());
            }
            eprintln!("cairn: the master has gone; what changes before it is back is not shown");
            changes = loop {
                tokio::time::sleep(AGAIN).await;
                // Whoever listens first and looks then misses nothing in between.
                if let Ok(changes) = admin::watch_files(&masters).await
                    && watch.look().is_ok()
                {
                    break changes;
                }
            };
            if watch.missed("the master was away").is_err() {
                return Ok(());
            }
        }
    })
}

impl Watch {
    /// Learns what lies below the directory, anew.
    fn look(&mut self) -> Result<(), Failure> {
        let cannot = |e: std::io::Error| Failure::System(format!("{}: {e}", self.path.display()));
        let top = std::fs::metadata(&self.path).map_err(cannot)?;
        self.tree = Tree::new(top.ino());
        if top.is_dir() {
            self.look_into(top.ino(), &self.path.clone(), top.dev());
        }
        Ok(())
    }

    /// Learns what lies below a directory; what goes meanwhile is not there.
    fn look_into(&mut self, inode: u64, path: &Path, device: u64) {
        let mut left = vec![(inode, path.to_owned())];
        while let Some((inode, path)) = left.pop() {
            let Ok(entries) = std::fs::read_dir(&path) else { continue };
            for entry in entries.filter_map(Result::ok) {
                self.tree.add(inode, entry.file_name().as_bytes(), entry.ino());
                // Not into other file systems that are mounted there.
                let here = |m: std::fs::Metadata| m.is_dir() && m.dev() == device;
                let directory = entry.file_type().is_ok_and(|t| t.is_dir());
                if directory && std::fs::symlink_metadata(entry.path()).is_ok_and(here) {
                    left.push((entry.ino(), entry.path()));
                }
            }
        }
    }

    /// Shows changes until the master has gone.
    async fn follow(&mut self, changes: &mut Streaming<FileChange>) -> Result<(), Closed> {
        loop {
            let wait = if self.files.is_empty() { IDLE } else { TICK };
            match tokio::time::timeout(wait, changes.message()).await {
                Ok(Ok(Some(change))) => self.change(&change)?,
                Ok(Ok(None) | Err(_)) => {
                    let rest = self.files.take_all();
                    return self.say_all(rest);
                }
                Err(_) => {}
            }
            let due = self.files.due(Instant::now());
            self.say_all(due)?;
        }
    }

    fn change(&mut self, change: &FileChange) -> Result<(), Closed> {
        if change.kind() == FileChangeKind::Missed {
            // What is known of names may be wrong now.
            if self.look().is_err() {
                eprintln!("cairn: {} cannot be read any more", self.path.display());
            }
            return self.missed(&format!("{} changes came too fast", change.size));
        }
        let at = change.at.unwrap_or_default().secs;
        let outcome = self.tree.follow(change);
        if let Some((inode, below)) = outcome.look_into {
            let path = self.at(&below);
            if let Ok(m) = std::fs::symlink_metadata(&path) {
                self.look_into(inode, &path, m.dev());
            }
        }
        match outcome.line {
            None => Ok(()),
            Some(line @ (Line::Written(..) | Line::Attributes(_))) => {
                let now = self.files.changed(Instant::now(), change.inode, at, line);
                self.say_all(now)
            }
            Some(line) => {
                let before = self.files.take(change.inode);
                self.say_all(before.into_iter().chain([(at, line)]))
            }
        }
    }

    fn at(&self, below: &[u8]) -> PathBuf {
        match below {
            [] => self.path.clone(),
            below => self.path.join(std::ffi::OsString::from_vec(below.to_vec())),
        }
    }

    fn say_all(&self, lines: impl IntoIterator<Item = (i64, Line)>) -> Result<(), Closed> {
        lines.into_iter().try_for_each(|(at, line)| self.say(at, &line))
    }

    fn say(&self, at: i64, line: &Line) -> Result<(), Closed> {
        let path = |below: &[u8]| self.at(below).to_string_lossy().into_owned();
        let (change, path, to, size) = match line {
            Line::Made(at) => ("made", path(at), None, None),
            Line::Removed(at) => ("removed", path(at), None, None),
            Line::Renamed(from, to) => ("renamed", path(from), Some(path(to)), None),
            Line::Written(at, size) => ("written", path(at), None, Some(*size)),
            Line::Attributes(at) => ("attributes", path(at), None, None),
        };
        if self.json {
            let mut object = json!({"at": at, "change": change, "path": path});
            let more = [("to", to.map(Value::from)), ("size", size.map(Value::from))];
            for (key, value) in more.into_iter().filter_map(|(key, value)| Some((key, value?))) {
                object[key] = value;
            }
            return put(&object.to_string());
        }
        let to = to.map_or(String::new(), |to| format!(" -> {}", one_line(&to)));
        let size = size.map_or(String::new(), |size| format!(" ({size} bytes)"));
        put(&format!("{at} {change} {}{to}{size}", one_line(&path)))
    }

    /// Something may have changed that is not told.
    fn missed(&self, why: &str) -> Result<(), Closed> {
        match self.json {
            true => put(&json!({"change": "missed", "why": why}).to_string()),
            false => put(&format!("missed: {why}; more may have changed than is shown")),
        }
    }
}

fn put(line: &str) -> Result<(), Closed> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|_| Closed)
}

/// A name may hold any byte, but a line is one.
fn one_line(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(one_line("a\nb\u{1b}é"), "a\\nb\\u{1b}é");
    }
}
