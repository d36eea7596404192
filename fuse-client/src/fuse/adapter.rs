//! From a request to its answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::abi::{Keep, ROOT_NODE, opcode};
use super::answer::Answer;
use super::device::{Buffers, Request};
use super::interrupts::Interrupts;
use super::linger::Linger;
use super::notify::KernelCaches;
use super::operation::{Header, Operation};
use super::requests::{Asked, Requests};
use crate::engine::{DirHandle, Engine, FileHandle, FsError};
use crate::squash::Squash;

/// How long the kernel may keep what it is told while this is the only mount, seconds. It is told when that ends.
const KEEP: Duration = Duration::from_secs(3600);
/// A signal ends a request only if it would not have ended by itself within this time: timers and
/// job control send signals too, and programs do not expect EINTR from a disk.
const INTERRUPT_GRACE: Duration = Duration::from_millis(200);
/// The engine ends operations by its own deadline; this is how much later the adapter does, should several follow each other.
const DEADLINE_SLACK: Duration = Duration::from_secs(1);

/// Open handles by the numbers that the kernel knows them by.
pub(super) struct Handles<T> {
    next: AtomicU64,
    open: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { next: AtomicU64::new(1), open: RwLock::default() }
    }
}

impl<T> Handles<T> {
    pub(super) fn add(&self, handle: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(number, Arc::new(handle));
        number
    }

    pub(super) fn get(&self, number: u64) -> Result<Arc<T>, Answer> {
        self.open.read().get(&number).cloned().ok_or(Answer::Error(libc::EBADF))
    }

    pub(super) fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.open.write().remove(&number)
    }
}

/// The adapter of one mount.
pub(crate) struct Adapter {
    pub(super) engine: Arc<Engine>,
    /// The inode of the mount's root, which the kernel knows as [`ROOT_NODE`].
    pub(super) root: u64,
    pub(super) squash: Squash,
    pub(super) files: Handles<FileHandle>,
    pub(super) directories: Handles<DirHandle>,
    pub(super) interrupts: Interrupts,
    linger: Linger,
    pub(crate) requests: Requests,
    buffers: Arc<Buffers>,
    /// Held shared while an answer that the kernel keeps is being written.
    answering: RwLock<()>,
    /// Inodes that the kernel knows, and how often it was told of each.
    known: Mutex<HashMap<u64, u64>>,
    kernel: OnceLock<Arc<KernelCaches>>,
    pub(super) runtime: tokio::runtime::Handle,
}

impl Adapter {
    pub(crate) fn new(
        engine: Arc<Engine>,
        root: u64,
        squash: Squash,
        runtime: tokio::runtime::Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            engine,
            root,
            squash,
            files: Handles::default(),
            directories: Handles::default(),
            interrupts: Interrupts::default(),
            linger: Linger::default(),
            requests: Requests::default(),
            buffers: Arc::default(),
            answering: RwLock::new(()),
            known: Mutex::default(),
            kernel: OnceLock::new(),
            runtime,
        })
    }

    pub(super) fn buffers(&self) -> Arc<Buffers> {
        self.buffers.clone()
    }

    /// Returns when no answer is being written that began before.
    pub(super) fn wait_for_answers(&self) {
        drop(self.answering.write());
    }

    /// How the kernel is told to forget things.
    pub(crate) fn set_kernel(&self, kernel: Arc<KernelCaches>) {
        let _ = self.kernel.set(kernel);
    }

    pub(super) fn kernel(&self) -> Option<Arc<KernelCaches>> {
        self.kernel.get().cloned()
    }

    /// The inodes that the kernel knows.
    pub(super) fn known_inodes(&self) -> Vec<u64> {
        let mut inodes: Vec<_> = self.known.lock().keys().copied().collect();
        inodes.push(self.root);
        inodes
    }

    /// The inode that the kernel means.
    pub(super) fn inode(&self, node: u64) -> u64 {
        if node == ROOT_NODE { self.root } else { node }
    }

    /// A request's header with the inode that the kernel means, and who the caller is on this mount.
    fn understood(&self, h: Header) -> Header {
        let (uid, gid) = self.squash.identity(h.uid, h.gid);
        Header { node: self.inode(h.node), uid, gid, squashed: self.squash.concerns(h.uid), ..h }
    }

    fn forgotten(&self, inodes: impl Iterator<Item = (u64, u64)>) {
        let mut known = self.known.lock();
        for (inode, times) in inodes {
            if let Entry::Occupied(mut told) = known.entry(inode) {
                let left = told.get().saturating_sub(times);
                if left == 0 {
                    told.remove();
                } else {
                    *told.get_mut() = left;
                }
            }
        }
    }

    /// Deals with a request: at once if it can be answered from memory, else in a task.
    pub(super) fn process(self: &Arc<Self>, device: &Arc<OwnedFd>, mut request: Request) {
        let header = self.understood(request.header);
        request.header = header;
        match request.operation() {
            Ok(Operation::Interrupt { unique }) => return self.interrupts.interrupt(unique),
            Ok(Operation::Forget { times }) => return self.forgotten([(header.node, times)].into_iter()),
            Ok(Operation::SetLock { handle, lock, wait }) if lock.kind != libc::F_UNLCK => {
                let asked = Asked::now(header.unique, header.opcode);
                return self.lock(device, asked, handle, lock, wait);
            }
            Ok(Operation::BatchForget(list)) => return self.forgotten(list.pairs()),
            _ => {}
        }
        let asked = Asked::now(header.unique, header.opcode);
        let deadline = has_deadline(header.opcode).then(|| self.engine.outage() + DEADLINE_SLACK);
        let mut work: Pin<Box<dyn Future<Output = Answer> + Send>> = Box::pin(self.clone().answer(request));
        // The first poll is done here: what needs no waiting needs no other thread, and what does has sent its message
        // to the master before the task begins. The task polls again, so that no wake-up is lost.
        if let Poll::Ready(answer) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            self.send(device, asked, answer);
            return;
        }
        self.linger.enter();
        if let Some(answer) = self.linger.wait(&mut work) {
            self.linger.leave();
            self.send(device, asked, answer);
            return;
        }
        let interrupt = self.interrupts.enter(header.unique);
        let (adapter, device) = (self.clone(), device.clone());
        self.runtime.spawn(async move {
            adapter.finish(&device, asked, work, &interrupt, deadline).await;
        });
    }

    async fn finish(
        &self,
        device: &OwnedFd,
        asked: Asked,
        mut work: Pin<Box<dyn Future<Output = Answer> + Send>>,
        interrupt: &Notify,
        deadline: Option<Duration>,
    ) {
        let interrupted = async {
            interrupt.notified().await;
            tokio::time::sleep(INTERRUPT_GRACE).await;
        };
        let too_late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep(deadline).await,
                None => std::future::pending().await,
            }
        };
        let errno = tokio::select! {
            biased;
            answer = &mut work => {
                self.interrupts.leave(asked.unique);
                self.linger.leave();
                self.send(device, asked, answer);
                return;
            }
            () = interrupted => libc::EINTR,
            () = too_late => libc::ETIMEDOUT,
        };
        self.interrupts.leave(asked.unique);
        self.linger.leave();
        self.send(device, asked, Answer::Error(errno));
        // The operation goes on: it may have reached the master, and the caches must follow.
        self.undo(work.await);
    }

    pub(super) fn send(&self, device: &OwnedFd, asked: Asked, answer: Answer) {
        let unique = asked.unique;
        self.requests.answered(asked);
        let sent = if answer.is_kept() {
            let _answering = self.answering.read();
            // Before the kernel can say that it has forgotten.
            let new = self.told(&answer);
            let alone = self.engine.exclusive();
            answer.send(device, unique, &|attr| match attr {
                _ if alone => Keep { name: KEEP, attr: KEEP },
                // Names are not kept while others are there: to make the kernel forget one takes a lock that it may hold while it
                // waits for us. Attributes are, of inodes that it knows already: of a new one it could not be told in time.
                Some(attr) if !new.contains(&attr.inode) => {
                    Keep { name: Duration::ZERO, attr: self.engine.keep_for(attr) }
                }
                _ => Keep::default(),
            })
        } else {
            answer.send(device, unique, &|_| Keep::default())
        };
        match sent {
            Ok(()) => {}
            // The process is gone: nobody will ever close what it opened.
            Err(rustix::io::Errno::NOENT) => {
                self.forgotten(answer.inodes().map(|inode| (inode, 1)));
                self.undo(answer);
            }
            Err(e) => tracing::debug!(error = %e, "an answer could not be given to the kernel"),
        }
    }

    /// The kernel is told of inodes: those that it did not know before.
    fn told(&self, answer: &Answer) -> Vec<u64> {
        let mut known = self.known.lock();
        let mut new = Vec::new();
        for inode in answer.inodes() {
            let times = known.entry(inode).or_insert(0);
            *times += 1;
            if *times == 1 {
                new.push(inode);
            }
        }
        new
    }

    fn undo(&self, answer: Answer) {
        match answer {
            Answer::Open { handle, .. } | Answer::Create { handle, .. } => drop(self.files.remove(handle)),
            Answer::OpenDir { handle } => drop(self.directories.remove(handle)),
            _ => {}
        }
    }

    async fn answer(self: Arc<Self>, request: Request) -> Answer {
        let header = request.header;
        let Ok(operation) = request.operation() else {
            tracing::error!(opcode = header.opcode, "the kernel sent a request that is cut short");
            return Answer::Error(libc::EIO);
        };
        match self.carry_out(&header, operation).await {
            Ok(answer) | Err(answer) => self.unless_root_is_gone(&header, answer).await,
        }
    }

    /// Of a name in the mount's root, that there is none: not when there is no root any more.
    async fn unless_root_is_gone(&self, h: &Header, answer: Answer) -> Answer {
        let none = matches!(answer, Answer::Entry(None) | Answer::Error(libc::ENOENT));
        if none && h.node == self.root && h.node != ROOT_NODE {
            let root = self.engine.getattr(self.root).await;
            if let Err(e @ FsError::Refused { errno: libc::ESTALE, .. }) = root {
                return e.into();
            }
        }
        answer
    }

    async fn carry_out(&self, h: &Header, operation: Operation<'_>) -> Result<Answer, Answer> {
        if h.squashed {
            self.permit(h, &operation).await?;
        }
        match operation {
            Operation::Forget { .. } | Operation::BatchForget(_) | Operation::Interrupt { .. } => {
                Ok(Answer::Nothing)
            }
            Operation::Destroy => Ok(Answer::Done),
            Operation::Unknown => Err(Answer::Error(libc::ENOSYS)),
            Operation::Open { .. }
            | Operation::Create { .. }
            | Operation::Read { .. }
            | Operation::Write { .. }
            | Operation::Flush { .. }
            | Operation::Release { .. }
            | Operation::Fsync { .. }
            | Operation::Fallocate { .. }
            | Operation::Seek { .. }
            | Operation::CopyRange { .. } => self.on_file(h, operation).await,
            Operation::TestLock { .. } | Operation::SetLock { .. } => self.on_lock(operation).await,
            Operation::OpenDir
            | Operation::ReadDir { .. }
            | Operation::ReleaseDir { .. }
            | Operation::FsyncDir => self.on_directory(h, operation).await,
            _ => self.on_metadata(h, operation).await,
        }
    }
}

/// Whether the adapter ends the request by a deadline. Work on data has deadlines of its own, for each piece: it goes
/// on for as long as there is progress.
fn has_deadline(code: u32) -> bool {
    !matches!(
        code,
        opcode::WRITE
            | opcode::FSYNC
            | opcode::FLUSH
            | opcode::RELEASE
            | opcode::SETATTR
            | opcode::OPEN
            | opcode::FALLOCATE
            | opcode::COPY_FILE_RANGE
    )
}
