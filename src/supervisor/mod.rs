//! `cairn up`'s supervisor: starts a cluster's processes, starts again what dies, shows how it stands, stops it all.

mod child;
pub mod layout;
mod live;
mod pid_file;
pub mod stop;

use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

use cairn_proto::rpc::StatusReply;
use rustix::process::Signal;
use tokio::sync::{mpsc, watch};

use crate::error::Failure;
use crate::notify::{self, State};
use crate::{admin, mounts, process};
use child::{Child, Exit, Spec};
use layout::{Cluster, Layout};

/// How long the servers may take until they serve.
const SERVERS_LIMIT: Duration = Duration::from_secs(60);
/// How long the mount may take until it answers.
const MOUNT_LIMIT: Duration = Duration::from_secs(45);
/// Each process answers questions over HTTP, on any port.
const HTTP: &str = "--http=127.0.0.1:0";
/// How often the cluster is looked at.
const TICK: Duration = Duration::from_millis(500);

/// What `up` was asked for.
pub struct Plan {
    /// The mountpoint.
    pub dir: PathBuf,
    /// Flags for `cairn mount`.
    pub mount_flags: Vec<OsString>,
    /// The configuration file, for all processes.
    pub config: Option<PathBuf>,
    /// Whether to show how the cluster stands.
    pub show: bool,
}

/// The servers' names, the master first.
pub fn server_names(cluster: &Cluster) -> impl Iterator<Item = String> {
    std::iter::once("master".to_owned()).chain((1..=cluster.chunkservers.len()).map(|n| format!("cs{n}")))
}

/// Runs the cluster until a signal comes. Errors: it does not start.
pub async fn run(layout: &Layout, mut cluster: Cluster, plan: Plan) -> Result<(), Failure> {
    let _lock = layout.lock()?;
    let _ports = layout.settle_ports(&mut cluster)?;
    let mut stop: Stop = Box::pin(process::terminated()?);
    let mut supervisor = Supervisor::new(layout.clone(), &cluster, &plan)?;
    let outcome = match supervisor.start(&mut stop, &plan).await {
        Ok(true) => {
            notify::ready();
            supervisor.watch(&mut stop, &cluster, &plan).await
        }
        Ok(false) => Ok(()),
        Err(e) => Err(e),
    };
    if plan.show {
        println!("stopping");
    }
    supervisor.stop(&plan).await;
    outcome
}

type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Owns the processes; one loop takes what happens to them.
struct Supervisor {
    layout: Layout,
    config: Option<PathBuf>,
    /// The servers, the mount last.
    children: Vec<Child>,
    listener: notify::Listener,
    exits: mpsc::UnboundedReceiver<Exit>,
    exit_sender: mpsc::UnboundedSender<Exit>,
}

impl Supervisor {
    fn new(layout: Layout, cluster: &Cluster, plan: &Plan) -> Result<Self, Failure> {
        let listener =
            notify::Listener::bind().map_err(|e| Failure::system("cannot listen to the processes", &e))?;
        let (exit_sender, exits) = mpsc::unbounded_channel();
        let children = specs(&layout, cluster, plan).into_iter().map(Child::new).collect();
        Ok(Self { layout, config: plan.config.clone(), children, listener, exits, exit_sender })
    }

    fn start_child(&mut self, index: usize) -> Result<(), Failure> {
        let child = &mut self.children[index];
        child
            .start(&self.layout, self.listener.name(), self.config.as_deref(), &self.exit_sender)
            .map_err(|e| Failure::system(format!("cannot start {}", child.spec.name), &e))
    }

    /// Starts everything; false: a signal came first. Errors: a process failed, or was not ready in time.
    async fn start(&mut self, stop: &mut Stop, plan: &Plan) -> Result<bool, Failure> {
        let mount = self.children.len() - 1;
        for index in 0..mount {
            self.start_child(index)?;
        }
        if !self.until_ready(mount, SERVERS_LIMIT, stop).await? {
            return Ok(false);
        }
        self.start_child(mount)?;
        if !self.until_ready(mount + 1, MOUNT_LIMIT, stop).await? {
            return Ok(false);
        }
        mounts::answers(&plan.dir, MOUNT_LIMIT).await?;
        Ok(true)
    }

    /// Waits until the first `count` processes are ready.
    async fn until_ready(&mut self, count: usize, limit: Duration, stop: &mut Stop) -> Result<bool, Failure> {
        let deadline = tokio::time::sleep(limit);
        tokio::pin!(deadline);
        while self.children[..count].iter().any(|c| !c.ready) {
            tokio::select! {
                biased;
                () = &mut *stop => return Ok(false),
                message = self.listener.next() => self.heard(message),
                Some(exit) = self.exits.recv() => return Err(self.died_early(&exit)),
                () = &mut deadline => {
                    let late: Vec<&str> =
                        self.children[..count].iter().filter(|c| !c.ready).map(|c| c.spec.name.as_str()).collect();
                    let words = self.children[..count].iter().find(|c| !c.ready).map(|c| c.last_words(&self.layout));
                    return Err(Failure::System(format!(
                        "not ready after {limit:?}: {}; {}", late.join(", "), words.unwrap_or_default()
                    )));
                }
            }
        }
        Ok(true)
    }

    fn died_early(&mut self, exit: &Exit) -> Failure {
        let Some(child) = self.children.iter_mut().find(|c| c.pid == Some(exit.pid)) else {
            return Failure::System("an unknown process ended".to_owned());
        };
        child.pid = None;
        let text = format!("{} does not start: {}", child.spec.name, child.last_words(&self.layout));
        match &child.failure {
            Some((code, _)) => Failure::from_code(*code, text),
            None => Failure::System(text),
        }
    }

    fn heard(&mut self, message: std::io::Result<notify::Message>) {
        match message {
            Ok(message) => {
                let Some(child) = self.children.iter_mut().find(|c| c.pid == Some(message.pid)) else {
                    return;
                };
                match message.state {
                    State::Ready => child.ready = true,
                    State::Failed(code, text) => child.failure = Some((code, text)),
                }
            }
            Err(e) => tracing::warn!(error = %e, "cannot hear the processes"),
        }
    }

    /// Until a signal comes: what dies is started again.
    async fn watch(&mut self, stop: &mut Stop, cluster: &Cluster, plan: &Plan) -> Result<(), Failure> {
        let mut display = plan.show.then(|| live::Display::new(&plan.dir, self.layout.root()));
        let mut seen = look(cluster, plan.show);
        if plan.show {
            tokio::select! {
                () = &mut *stop => return Ok(()),
                _ = seen.changed() => {}
            }
        }
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let due = self.children.iter().filter_map(|c| c.due).min();
            tokio::select! {
                biased;
                () = &mut *stop => return Ok(()),
                message = self.listener.next() => self.heard(message),
                Some(exit) = self.exits.recv() => self.ended(&exit),
                () = sleep_until(due), if due.is_some() => self.restart_due(),
                _ = tick.tick() => {
                    let reply = seen.borrow_and_update().clone();
                    let away = self.children.iter().filter(|c| !c.ready).map(|c| c.spec.name.as_str()).collect();
                    display = display.map(|d| d.show(reply.as_ref(), away));
                }
            }
        }
    }

    fn ended(&mut self, exit: &Exit) {
        // A message sent just before the end may still be waiting; the log has it as well.
        let Some(child) = self.children.iter_mut().find(|c| c.pid == Some(exit.pid)) else { return };
        child.ended(Instant::now(), rand::random());
        let status = exit.status.as_ref().map_or_else(ToString::to_string, ToString::to_string);
        tracing::warn!(process = child.spec.name, pid = exit.pid, status, "died; it is started again");
    }

    fn restart_due(&mut self) {
        let now = Instant::now();
        for index in 0..self.children.len() {
            if self.children[index].due.is_some_and(|due| due <= now)
                && let Err(e) = self.start_child(index)
            {
                tracing::error!(error = %e, "cannot start a process again");
                self.children[index].ended(now, rand::random());
            }
        }
    }

    /// The mount first, so that it can write back what it holds; then the servers.
    async fn stop(&mut self, plan: &Plan) {
        let mount = self.children.len() - 1;
        self.stop_all(mount..mount + 1, stop::MOUNT_LIMIT).await;
        if mounts::is_on(&plan.dir) {
            mounts::detach(&plan.dir);
        }
        self.stop_all(0..mount, stop::SERVER_LIMIT).await;
    }

    async fn stop_all(&mut self, which: std::ops::Range<usize>, limit: Duration) {
        for (signal, limit) in [(Signal::TERM, limit), (Signal::KILL, stop::SERVER_LIMIT)] {
            self.children[which.clone()].iter().for_each(|c| c.signal(signal));
            let deadline = tokio::time::sleep(limit);
            tokio::pin!(deadline);
            while self.children[which.clone()].iter().any(|c| c.pid.is_some()) {
                tokio::select! {
                    Some(exit) = self.exits.recv() => {
                        let gone = self.children.iter_mut().find(|c| c.pid == Some(exit.pid));
                        if let Some(child) = gone {
                            child.pid = None;
                        }
                    }
                    () = &mut deadline => break,
                }
            }
            for child in self.children[which.clone()].iter().filter(|c| c.pid.is_some()) {
                tracing::warn!(process = child.spec.name, ?signal, "does not end");
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Asks the master how it stands, again and again, without holding up anybody.
fn look(cluster: &Cluster, wanted: bool) -> watch::Receiver<Option<StatusReply>> {
    let (tell, told) = watch::channel(None);
    let masters = vec![cluster.master_address()];
    if wanted {
        tokio::spawn(async move {
            while !tell.is_closed() {
                // No answer: the display says so.
                tell.send_replace(admin::status(&masters).await.ok());
                tokio::time::sleep(TICK).await;
            }
        });
    }
    told
}

/// The command lines of all processes, the mount's last.
fn specs(layout: &Layout, cluster: &Cluster, plan: &Plan) -> Vec<Spec> {
    let flag = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        let mut flag = OsString::from(name);
        flag.push(value.as_ref());
        flag
    };
    let mut names = server_names(cluster);
    let server = |name: Option<String>, args| Spec { name: name.unwrap_or_default(), args, mounts_on: None };
    let mut specs = vec![server(
        names.next(),
        vec![
            "master".into(),
            flag("--data=", &layout.master()),
            format!("--listen={}", cluster.master).into(),
            format!("--replicas={}", cluster.replicas).into(),
            HTTP.into(),
        ],
    )];
    for (number, address) in (1..).zip(&cluster.chunkservers) {
        let mut args = vec![
            "chunkserver".into(),
            flag("--data=", &layout.chunkserver(number)),
            format!("--listen={address}").into(),
            format!("--master={}", cluster.master).into(),
            HTTP.into(),
        ];
        args.extend(layout.socket(number).map(|path| flag("--unix-socket=", &path)));
        specs.push(server(names.next(), args));
    }
    let mut args = vec!["mount".into(), HTTP.into()];
    args.extend(plan.mount_flags.iter().cloned());
    args.extend([cluster.master_address().into(), plan.dir.clone().into()]);
    specs.push(Spec { name: "mount".to_owned(), args, mounts_on: Some(plan.dir.clone()) });
    specs
}
