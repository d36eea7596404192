//! `cairn file`: a file's chunks.

use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cairn_proto::rpc::FileReply;
use serde_json::{Value, json};

use crate::error::Failure;
use crate::{admin, mounts, process, values};

/// Flags of `cairn file`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file on a mount
    pub path: PathBuf,
    /// As JSON
    #[arg(long, env = "CAIRN_JSON", hide_env_values = true)]
    pub json: bool,
    /// The masters [default: those of the mount that the file lies on]
    #[arg(long, value_name = "ADDR,…", env = "CAIRN_MASTER", hide_env_values = true, value_delimiter = ',',
          value_parser = values::address)]
    pub master: Vec<String>,
}

/// Shows the file's chunks. Errors: it lies on no mount, no master answers.
pub fn run(args: &Args) -> Result<(), Failure> {
    let path = &args.path;
    let cannot = |e: std::io::Error| Failure::System(format!("{}: {e}", path.display()));
    let inode = std::fs::symlink_metadata(path).map_err(cannot)?.ino();
    let masters = match args.master.is_empty() {
        false => args.master.clone(),
        true => masters_of(path)?,
    };
    let reply = process::small_runtime()?.block_on(admin::file(&masters, inode))?;
    match args.json {
        true => println!("{:#}", as_json(path, inode, &reply)),
        false => print!("{}", as_text(path, inode, &reply)),
    }
    Ok(())
}

/// The masters of the mount that `path` lies on. Errors: it lies on none.
pub fn masters_of(path: &Path) -> Result<Vec<String>, Failure> {
    let cannot = |e: std::io::Error| Failure::System(format!("{}: {e}", path.display()));
    // The last part may be a symbolic link, which is meant itself.
    let absolute = std::path::absolute(path).map_err(cannot)?;
    let place = match (absolute.parent(), absolute.file_name()) {
        (Some(dir), Some(name)) => dir.canonicalize().map_err(cannot)?.join(name),
        _ => absolute,
    };
    match mounts::holding(&place).map_err(cannot)? {
        Some(mount) => Ok(mount.masters),
        None => Err(Failure::Usage(format!("{} lies on no CairnFS mount; name a --master", path.display()))),
    }
}

fn address(reply: &FileReply, server: u32) -> &str {
    reply.servers.iter().find(|s| s.id == server).map_or("", |s| s.addr.as_str())
}

fn as_json(path: &Path, inode: u64, reply: &FileReply) -> Value {
    let chunks = reply.chunks.iter().map(|c| {
        let replicas = c.in_sync.iter().map(|s| json!({"server": s, "addr": address(reply, *s)}));
        json!({"index": c.index, "chunk": c.chunk, "epoch": c.epoch, "wanted": c.wanted, "in_sync": c.in_sync,
               "replicas": replicas.collect::<Vec<_>>()})
    });
    json!({
        "path": path.to_string_lossy(), "inode": inode, "size": reply.attr.as_ref().map_or(0, |a| a.size),
        "chunk_size": reply.chunk_size, "chunks": chunks.collect::<Vec<_>>(),
    })
}

fn as_text(path: &Path, inode: u64, reply: &FileReply) -> String {
    let size = reply.attr.as_ref().map_or(0, |a| a.size);
    let mut out = format!(
        "{}: inode {inode}, {size} bytes, {} chunk(s) of up to {}\n",
        path.display(),
        reply.chunks.len(),
        values::human(reply.chunk_size)
    );
    if reply.chunks.is_empty() {
        return out;
    }
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{:>6} {:>10} {:>6} {:>7}  in-sync set, primary first",
        "index", "chunk", "epoch", "copies"
    );
    for c in &reply.chunks {
        let set: Vec<String> = c.in_sync.iter().map(|s| format!("{s} ({})", address(reply, *s))).collect();
        let copies = format!("{}/{}", c.in_sync.len(), c.wanted);
        let _ =
            writeln!(out, "{:>6} {:>10} {:>6} {copies:>7}  {}", c.index, c.chunk, c.epoch, set.join(", "));
    }
    out
}
