//! What the master says unasked: who else is there, what changed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use cairn_proto::rpc::{self, Welcome, op::Op};
use tokio::sync::mpsc;

use super::Engine;
use super::meta::SessionEvent;

/// Changes of mode, which take time and happen one after another.
enum Change {
    Recall(u64),
    Exclusive,
    Resumed(Welcome),
    Doubt,
}

/// Deals with the session's events until it ends.
pub(super) async fn follow_events(engine: Weak<Engine>, mut events: mpsc::UnboundedReceiver<SessionEvent>) {
    // Writing everything back, as a recall asks, needs to hear of chunks and servers meanwhile.
    let (changes, receiver) = mpsc::unbounded_channel();
    tokio::spawn(follow_changes(engine.clone(), receiver));
    while let Some(event) = events.recv().await {
        let Some(engine) = engine.upgrade() else { return };
        let change = match event {
            SessionEvent::Chunk(chunk) => {
                engine.data.chunk_changed(chunk);
                continue;
            }
            SessionEvent::Servers(servers) => {
                engine.data.set_servers(servers);
                continue;
            }
            SessionEvent::LockGranted(number) => {
                engine.locks.granted(number);
                continue;
            }
            SessionEvent::Recall(id) => Change::Recall(id),
            // Not behind changes of mode: a change of another mount waits for these.
            SessionEvent::LeaseRecall { id, inodes } => {
                tokio::spawn(async move { engine.recalled(id, inodes).await });
                continue;
            }
            SessionEvent::Trim { id, keep } => {
                tokio::spawn(async move { engine.trim(id, keep).await });
                continue;
            }
            SessionEvent::Exclusive => Change::Exclusive,
            SessionEvent::Resumed(welcome) => {
                engine.data.set_servers(welcome.servers.clone());
                engine.lose_unwritten(welcome.session);
                Change::Resumed(welcome)
            }
            SessionEvent::LateChange => {
                tracing::warn!("a change was answered after its deadline; all caches are dropped");
                Change::Doubt
            }
            SessionEvent::Refused { op, errno, detail } => {
                tracing::error!(?op, errno, detail, "the master has not done what had been answered here");
                engine.refused();
                Change::Doubt
            }
        };
        if changes.send(change).is_err() {
            return;
        }
    }
}

async fn follow_changes(engine: Weak<Engine>, mut changes: mpsc::UnboundedReceiver<Change>) {
    while let Some(change) = changes.recv().await {
        let Some(engine) = engine.upgrade() else { return };
        match change {
            Change::Recall(id) => {
                engine.share().await;
                engine.session.acknowledge(rpc::EventAck { id, ..rpc::EventAck::default() });
            }
            Change::Exclusive => engine.have_alone().await,
            Change::Resumed(welcome) => engine.resumed(&welcome).await,
            Change::Doubt => engine.forget_all(engine.exclusive()).await,
        }
    }
}

impl Engine {
    /// Others arrive: everything is written back, everything cached is forgotten. From now on attributes and names are kept under
    /// leases, and what was read is kept under them, but nothing that was written.
    async fn share(&self) {
        tracing::info!("another mount is there: caches are kept under leases");
        self.exclusive.store(false, Ordering::Release);
        self.data.set_exclusive(false);
        if let Err(e) = self.write_back_all().await {
            tracing::error!(error = %e, "not everything could be written back for another mount");
            self.late.store(true, Ordering::Relaxed);
        }
        self.register_open().await;
        self.hand_over_locks().await;
        self.forget_all(false).await;
        self.data.drop_caches();
        self.session.ask_leases(true);
    }

    /// The others have left: caching begins again.
    async fn have_alone(&self) {
        tracing::info!("this is the only mount: caches are on");
        self.session.ask_leases(false);
        // Files that were open before have left in the kernel what may have changed since.
        self.forget_all(true).await;
        self.data.set_exclusive(true);
        self.exclusive.store(true, Ordering::Release);
        self.take_over_locks().await;
        self.reserve_numbers();
    }

    async fn resumed(&self, welcome: &Welcome) {
        if welcome.renewed {
            tracing::warn!(
                session = welcome.session,
                "the session had ended; files that were deleted while open are lost"
            );
            self.lose_locks();
            for file in self.inodes.open() {
                file.local.lock().registered = false;
            }
            // Others may have changed anything meanwhile.
            self.forget_all(self.exclusive()).await;
            self.data.drop_caches();
            self.register_open().await;
        }
        match (self.exclusive(), welcome.exclusive) {
            (true, false) => self.share().await,
            (false, true) => self.have_alone().await,
            _ => {}
        }
        self.ask_for_locks_again();
    }

    /// Tells the master what is open, so that it lives on when others unlink it.
    async fn register_open(&self) {
        let open = self.inodes.open();
        if open.is_empty() {
            return;
        }
        let inodes = open.iter().map(|f| f.inode).collect();
        match self.session.call(Op::Opened(rpc::Opened { inodes })).await {
            Ok(_) => open.iter().for_each(|f| f.local.lock().registered = true),
            Err(e) => tracing::warn!(error = %e, "open files could not be made known to the master"),
        }
    }

    async fn forget_all(&self, exclusive: bool) {
        let names = {
            let mut cache = self.cache.lock();
            let mut names = cache.names();
            names.extend(cache.take_evicted());
            cache.reset(exclusive);
            self.kept.clear();
            names
        };
        let Some(upper) = self.upper.get().map(Arc::clone) else { return };
        if tokio::task::spawn_blocking(move || upper.drop_all(names)).await.is_err() {
            tracing::error!("the kernel's caches could not be dropped");
        }
    }
}
