//! How many operations a second a master does over loopback, with 1 and with 16 in flight.
//!
//! `cargo run --release -p cairn-master --example operations [DIR]`; the store is made under DIR
//! (default: the directory for temporary files), whose disk's sync time is most of what is measured.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cairn_proto::rpc::{
    self, ClientMessage, MasterMessage, client_message::Msg, master_message, meta_client::MetaClient,
    op::Op as Body,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

const RUN: Duration = Duration::from_secs(2);

struct Mount {
    up: mpsc::Sender<ClientMessage>,
    down: tonic::Streaming<MasterMessage>,
    next: u64,
}

impl Mount {
    async fn send(&mut self, body: Body) -> Result<(), Box<dyn Error>> {
        self.next += 1;
        let op = rpc::Op { id: self.next, op: Some(body), ..rpc::Op::default() };
        self.up.send(ClientMessage { msg: Some(Msg::Op(op)) }).await?;
        Ok(())
    }

    async fn answer(&mut self) -> Result<(), Box<dyn Error>> {
        loop {
            match self.down.message().await?.and_then(|m| m.msg) {
                Some(master_message::Msg::Reply(r)) if r.errno == 0 => return Ok(()),
                Some(master_message::Msg::Reply(r)) => return Err(format!("errno {}", r.errno).into()),
                Some(_) => {}
                None => return Err("the stream ended".into()),
            }
        }
    }

    async fn measure(
        &mut self,
        what: &str,
        in_flight: usize,
        mut next: impl FnMut(u64) -> Body,
    ) -> Result<u64, Box<dyn Error>> {
        let (start, mut done) = (Instant::now(), 0);
        for i in 0..in_flight as u64 {
            self.send(next(i)).await?;
        }
        while start.elapsed() < RUN {
            self.answer().await?;
            done += 1;
            self.send(next(done + in_flight as u64 - 1)).await?;
        }
        for _ in 0..in_flight {
            self.answer().await?;
        }
        let rate = done as f64 / start.elapsed().as_secs_f64();
        println!("{what:8} {in_flight:3} in flight: {rate:9.0} /s  {:7.0} us each", 1e6 / rate);
        Ok(done)
    }
}

fn mkdir(name: String) -> Body {
    Body::Make(rpc::Make { parent: 1, name: name.into(), mode: 0o040_755, ..rpc::Make::default() })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = match std::env::args_os().nth(1) {
        Some(dir) => tempfile::tempdir_in(PathBuf::from(dir))?,
        None => tempfile::tempdir()?,
    };
    let config = cairn_master::Config {
        data: dir.path().join("master"),
        listen: "127.0.0.1:0".parse()?,
        ..cairn_master::Config::default()
    };
    let (up, ready) = oneshot::channel();
    tokio::spawn(cairn_master::run(config, |addr| _ = up.send(addr), std::future::pending()));
    let addr = ready.await?;
    let (up, requests) = mpsc::channel(512);
    let hello = rpc::Hello { protocol: cairn_proto::PROTOCOL, ..rpc::Hello::default() };
    up.send(ClientMessage { msg: Some(Msg::Hello(hello)) }).await?;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{addr}"))?.tcp_nodelay(true);
    let down = MetaClient::new(endpoint.connect().await?).session(ReceiverStream::new(requests)).await?;
    let mut mount = Mount { up, down: down.into_inner(), next: 0 };
    let welcome = mount.down.message().await?;
    assert!(welcome.is_some_and(|m| matches!(m.msg, Some(master_message::Msg::Welcome(_)))));
    for in_flight in [1, 16] {
        let made = mount.measure("mkdir", in_flight, |i| mkdir(format!("{in_flight}-{i}"))).await?;
        let name = |i| format!("{in_flight}-{}", i % made).into();
        mount
            .measure("lookup", in_flight, |i| Body::Lookup(rpc::Lookup { parent: 1, name: name(i) }))
            .await?;
    }
    Ok(())
}
