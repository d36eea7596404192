//! A network of its own: one namespace with a bridge, for master and mounts, and one for each chunkserver, joined to the
//! bridge by a pair of veths, which is the cable that is pulled. The machine's own network is not touched.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::common::sh;

/// What is left of a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing gets through.
    Both,
    /// What is sent to the server is lost.
    To,
    /// What the server sends is lost.
    From,
}

/// Deleted when dropped.
pub struct Network {
    name: String,
    servers: usize,
}

const PREFIX: &str = "cairn-chaos-";

impl Network {
    pub fn new(servers: usize) -> Self {
        delete_abandoned();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let network = Self { name: format!("{PREFIX}{}-{number}", std::process::id()), servers };
        let hub = network.hub();
        sh(&format!(
            "ip netns add {hub}; ip -n {hub} link set lo up
             ip -n {hub} link add bridge type bridge; ip -n {hub} addr add {}/24 dev bridge
             ip -n {hub} link set bridge up",
            Self::hub_ip()
        ));
        for server in 1..=servers {
            let space = network.space(server);
            sh(&format!(
                "ip netns add {space}; ip -n {space} link set lo up
                 ip -n {hub} link add port{server} type veth peer name eth0 netns {space}
                 ip -n {hub} link set port{server} master bridge up
                 ip -n {space} addr add {}/24 dev eth0; ip -n {space} link set eth0 up",
                Self::ip(server)
            ));
        }
        network
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn space(&self, server: usize) -> String {
        format!("{}-{server}", self.name)
    }

    pub fn hub_ip() -> String {
        "10.77.0.1".to_owned()
    }

    pub fn ip(server: usize) -> String {
        format!("10.77.0.{}", 10 + server)
    }

    /// Turns a command into one that runs beside the bridge.
    pub fn at_hub(&self, command: &Command) -> Command {
        within(&self.hub(), command)
    }

    /// Turns a command into one that runs on the machine of that server.
    pub fn at(&self, server: usize, command: &Command) -> Command {
        within(&self.space(server), command)
    }

    pub fn cut(&self, server: usize, cut: Cut) {
        let (hub, space) = (self.hub(), self.space(server));
        match cut {
            Cut::Both => sh(&format!("ip -n {hub} link set port{server} down")),
            // A queue that takes nothing loses everything, silently.
            Cut::To => sh(&format!("tc -n {hub} qdisc replace dev port{server} root pfifo limit 0")),
            Cut::From => sh(&format!("tc -n {space} qdisc replace dev eth0 root pfifo limit 0")),
        };
    }

    pub fn mend(&self, server: usize, cut: Cut) {
        let (hub, space) = (self.hub(), self.space(server));
        match cut {
            Cut::Both => sh(&format!("ip -n {hub} link set port{server} up")),
            Cut::To => sh(&format!("tc -n {hub} qdisc del dev port{server} root")),
            Cut::From => sh(&format!("tc -n {space} qdisc del dev eth0 root")),
        };
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for server in 1..=self.servers {
            delete(&self.space(server));
        }
        delete(&self.hub());
    }
}

/// The process ends with this one's thread, whatever becomes of it.
fn within(space: &str, command: &Command) -> Command {
    let mut outer = Command::new("nsenter");
    outer.arg(format!("--net=/run/netns/{space}")).args(["--", "setpriv", "--pdeathsig", "KILL"]);
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

fn delete(space: &str) {
    let _ = Command::new("ip").args(["netns", "del", space]).output();
}

/// Those of runs that were killed.
fn delete_abandoned() {
    let Ok(spaces) = std::fs::read_dir("/run/netns") else { return };
    for space in spaces.flatten() {
        let name = space.file_name().to_string_lossy().into_owned();
        let of = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if of.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            delete(&name);
        }
    }
}

/// The faults are what they claim to be.
#[test]
fn a_cable_can_be_cut_one_way() {
    let network = Network::new(1);
    let listen = "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('10.77.0.11',9))\n\
                  while True:\n d,a=s.recvfrom(9); print(d.decode(),flush=True); s.sendto(d,a)";
    let ask = |text: &str| {
        let ask = format!(
            "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(0.5)\n\
             s.sendto(b'{text}',('10.77.0.11',9))\ntry: print(s.recv(9).decode())\nexcept TimeoutError: print('-')"
        );
        let out = network.at_hub(Command::new("python3").args(["-c", &ask])).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    let mut listener = network
        .at(1, Command::new("python3").args(["-c", listen]))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    crate::common::eventually(std::time::Duration::from_secs(10), "it listens", || ask("up") == "up");
    let mut heard = Vec::new();
    for cut in [Cut::Both, Cut::To, Cut::From] {
        network.cut(1, cut);
        heard.push(ask(&format!("{cut:?}")));
        network.mend(1, cut);
        heard.push(ask("up"));
    }
    listener.kill().unwrap();
    let output = listener.wait_with_output().unwrap();
    assert_eq!(heard, ["-", "up", "-", "up", "-", "up"]);
    let output = String::from_utf8_lossy(&output.stdout);
    let reached = |text: &str| output.lines().any(|l| l == text);
    assert_eq!((reached("To"), reached("From")), (false, true), "{output}");
}
