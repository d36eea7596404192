//! `cairn locks`: who holds and waits for which file locks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use cairn_proto::rpc::{FileLock, LockKind, LockStatus, LocksReply};
use serde_json::{Value, json};

use crate::commands::which::Which;
use crate::error::Failure;
use crate::{admin, process};

/// Flags of `cairn locks`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long, env = "CAIRN_JSON", hide_env_values = true)]
    pub json: bool,
    /// Of which cluster
    #[command(flatten)]
    pub which: Which,
}

/// The last byte that a file can have: a lock up to it is one to the end.
const END: u64 = i64::MAX as u64;

/// Shows all locks. Errors: no cluster there, no master answers.
pub fn run(args: &Args) -> Result<(), Failure> {
    let masters = args.which.masters()?;
    let reply = process::small_runtime()?.block_on(admin::locks(&masters))?;
    let paths = paths(&reply);
    match args.json {
        true => println!("{:#}", as_json(&reply, &paths)),
        false => print!("{}", as_text(&reply, &paths)),
    }
    Ok(())
}

/// Paths of the locked files, by process and inode, as far as the processes run on this machine: the master knows inodes only.
type Paths = BTreeMap<(u32, u64), PathBuf>;

fn paths(reply: &LocksReply) -> Paths {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let here = reply.locks.iter().filter(|l| l.host == host.trim());
    let path = |l: &LockStatus| {
        let lock = l.lock?;
        Some(((lock.pid, lock.inode), path_of(lock.pid, lock.inode, Path::new(&l.dir))?))
    };
    here.filter_map(path).collect()
}

/// Where a process has an inode of the mount on `dir` open. The mount itself is not asked: it may not answer.
fn path_of(pid: u32, inode: u64, dir: &Path) -> Option<PathBuf> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let wanted = inode.to_string();
    let is_it = |info: &str| {
        info.lines().any(|l| l.strip_prefix("ino:").is_some_and(|number| number.trim() == wanted))
    };
    fs::read_dir(process.join("fdinfo")).ok()?.flatten().find_map(|entry| {
        let info = fs::read_to_string(entry.path()).ok()?;
        let path = fs::read_link(process.join("fd").join(entry.file_name())).ok()?;
        (is_it(&info) && path.starts_with(dir)).then_some(path)
    })
}

fn kind(lock: &FileLock) -> &'static str {
    match lock.kind() {
        LockKind::Range => "fcntl",
        LockKind::Flock => "flock",
    }
}

fn mode(lock: &FileLock) -> &'static str {
    if lock.exclusive { "exclusive" } else { "shared" }
}

fn as_json(reply: &LocksReply, paths: &Paths) -> Value {
    let locks = reply.locks.iter().map(|l| {
        let lock = l.lock.unwrap_or_default();
        json!({"inode": lock.inode, "path": paths.get(&(lock.pid, lock.inode)), "kind": kind(&lock),
               "mode": mode(&lock), "first": lock.first, "last": lock.last.min(END), "pid": lock.pid,
               "mount": l.dir, "host": l.host, "session": l.session, "waiting": l.waiting})
    });
    json!({"locks": locks.collect::<Vec<_>>()})
}

fn as_text(reply: &LocksReply, paths: &Paths) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{:<7} {:<5} {:<9} {:>8}  {:<20} {:<24} file",
        "", "kind", "mode", "pid", "bytes", "mount"
    );
    for l in &reply.locks {
        let lock = l.lock.unwrap_or_default();
        let state = if l.waiting { "waiting" } else { "held" };
        let bytes = match (lock.first, lock.last) {
            (0, END..) => "all".to_owned(),
            (first, END..) => format!("{first} to the end"),
            (first, last) => format!("{first} to {last}"),
        };
        let file = paths.get(&(lock.pid, lock.inode)).map(|path| path.display().to_string());
        let file = file.unwrap_or_else(|| format!("inode {}", lock.inode));
        let mount = format!("{}:{}", l.host, l.dir);
        let (kind, mode, pid) = (kind(&lock), mode(&lock), lock.pid);
        let _ = writeln!(out, "{state:<7} {kind:<5} {mode:<9} {pid:>8}  {bytes:<20} {mount:<24} {file}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> LocksReply {
        let lock =
            FileLock { inode: 7, first: 10, last: u64::MAX, exclusive: true, pid: 3, ..Default::default() };
        let status =
            LockStatus { lock: Some(lock), dir: "/mnt".into(), host: "h".into(), session: 2, waiting: true };
        LocksReply { locks: vec![status] }
    }

    #[test]
    fn json_has_the_promised_shape() {
        let v = as_json(&reply(), &Paths::new());
        assert_eq!(
            v["locks"],
            json!([{"inode": 7, "path": null, "kind": "fcntl", "mode": "exclusive", "first": 10, "last": END,
                    "pid": 3, "mount": "/mnt", "host": "h", "session": 2, "waiting": true}])
        );
    }

    #[test]
    fn text_names_the_file_where_it_can() {
        let paths = Paths::from([((3, 7), PathBuf::from("/mnt/x"))]);
        let text = as_text(&reply(), &paths);
        assert!(
            text.contains("waiting fcntl exclusive        3  10 to the end") && text.contains("/mnt/x"),
            "{text}"
        );
        assert!(as_text(&reply(), &Paths::new()).contains("inode 7"));
    }

    #[test]
    fn an_open_file_is_found_by_its_inode() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let dir_path = dir.path().canonicalize().unwrap();
        let file = fs::File::create(dir_path.join("f")).unwrap();
        let inode = file.metadata().unwrap().ino();
        assert_eq!(path_of(std::process::id(), inode, &dir_path), Some(dir_path.join("f")));
        assert_eq!(path_of(std::process::id(), inode, Path::new("/elsewhere")), None);
    }
}
