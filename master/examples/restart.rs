//! How long a master with many files takes to serve again after a crash.
//!
//!     cargo run --release -p cairn-master --example restart -- fill DIR 10000000
//!     cargo run --release -p cairn-master --example restart -- serve DIR
//!
//! `fill` writes a cluster's records as the master does, a chunk for each file, and ends without closing anything.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use cairn_master::Config;
use cairn_master::core::keys;
use cairn_master::core::namespace::root;
use cairn_master::core::records::{ChunkValue, Counters, Entry, Inode, S_IFDIR, S_IFREG};
use cairn_master::core::scratch::Batch;
use cairn_master::store::{DataDir, DiskStore, Store};
use cairn_proto::rpc::{self, ClientMessage, client_message::Msg, meta_client::MetaClient, op::Op};
use cairn_proto::{ChunkId, InodeId};
use prost::Message;

/// Files in a directory, and in a group.
const TOGETHER: u64 = 1000;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    match args.as_slice() {
        ["fill", dir, count] => {
            // A cluster is made by a first start.
            runtime.block_on(cairn_master::run(config(dir)?, |_| (), std::future::ready(())))?;
            fill(Path::new(dir), count.parse()?)?;
            std::process::abort()
        }
        ["serve", dir] => runtime.block_on(serve(dir)),
        _ => Err("usage: restart fill DIR COUNT | restart serve DIR".into()),
    }
}

fn config(dir: &str) -> Result<Config, Box<dyn Error>> {
    let listen: SocketAddr = "127.0.0.1:0".parse()?;
    Ok(Config { data: dir.into(), listen, ..Config::default() })
}

fn fill(dir: &Path, count: u64) -> Outcome {
    let mut store = DiskStore::open(DataDir::open(dir)?)?;
    let (start, now) = (Instant::now(), rpc::Time { secs: 1_700_000_000, nanos: 1 });
    let mut next = 2;
    for group in 0..count / TOGETHER {
        let mut batch = Batch::new();
        let directory = InodeId(next);
        let mut put = |key, value: Bytes| batch.insert(key, Some(value));
        let name = format!("directory-{group:08}");
        put(keys::entry(InodeId::ROOT, name.as_bytes()), Entry { inode: directory, kind: S_IFDIR }.encode());
        put(keys::inode(directory), Inode { mode: S_IFDIR | 0o755, entries: TOGETHER, ..root(now) }.encode());
        for n in 1..=TOGETHER {
            let (inode, chunk) = (InodeId(next + n), ChunkId(next + n));
            let name = format!("file-{n:08}.txt");
            put(keys::entry(directory, name.as_bytes()), Entry { inode, kind: S_IFREG }.encode());
            let record = Inode { mode: S_IFREG | 0o644, nlink: 1, size: 4096, entries: 0, ..root(now) };
            put(keys::inode(inode), record.encode());
            put(keys::file_chunk(inode, 0), Bytes::copy_from_slice(&chunk.0.to_be_bytes()));
            let value = ChunkValue { epoch: 1, in_sync: vec![1, 2, 3], wanted: 3, inode: inode.0, index: 0 };
            put(keys::chunk(chunk), value.encode_to_vec().into());
        }
        next += TOGETHER + 1;
        let counters = Counters { next_inode: next, next_chunk: next, inodes: next - 1, ..Counters::fresh() };
        put(keys::COUNTERS.to_vec(), counters.encode());
        store.commit(batch)?;
    }
    println!("{count} files filled in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// From the start of the process to the answer to a mount's first look-up in a directory.
async fn serve(dir: &str) -> Outcome {
    let start = Instant::now();
    let (up, ready) = tokio::sync::oneshot::channel();
    let config = config(dir)?;
    tokio::spawn(cairn_master::run(config, |addr| _ = up.send(addr), std::future::pending()));
    let addr = ready.await?;
    let serving = start.elapsed();
    let (to, outgoing) = tokio::sync::mpsc::channel(4);
    // Takes the place of the one before, as a mount does that was killed.
    let (mount_dir, boot_id) = ("/mnt".into(), "this machine".into());
    let hello = rpc::Hello { protocol: cairn_proto::PROTOCOL, mount_dir, boot_id, ..rpc::Hello::default() };
    let lookup = rpc::Lookup { parent: 2, name: "file-00000500.txt".into() };
    let lookup = rpc::Op { id: 1, op: Some(Op::Lookup(lookup)), ..rpc::Op::default() };
    for msg in [Msg::Hello(hello), Msg::Op(lookup)] {
        to.send(ClientMessage { msg: Some(msg) }).await?;
    }
    let mut client = MetaClient::connect(format!("http://{addr}")).await?;
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut answers = client.session(outgoing).await?.into_inner();
    while let Some(message) = answers.message().await? {
        if let Some(rpc::master_message::Msg::Reply(reply)) = message.msg {
            let found = matches!(reply.result, Some(rpc::reply::Result::Attr(_)));
            let answered = start.elapsed();
            println!(
                "listening after {serving:.0?}, first look-up answered after {answered:.0?}, found: {found}"
            );
            return Ok(());
        }
    }
    Err("the master ended the stream".into())
}
