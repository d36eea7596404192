//! File locks (`fcntl`, `flock`): answered here while this mount is alone, by the master in company.
//!
//! A request is made of the table that is in charge at that moment; `home.rs` moves what is held from one to the other. A request
//! that waits is told when it is held, or that it has to ask again as the other table is in charge now. It ends with the lock, with
//! a signal, or with the session; it has no deadline.

mod home;
mod state;

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::time::Duration;

use cairn_locks::{Key, Kind, Lock, Mode, Outcome, Owner, Range, wire};
use cairn_proto::rpc::reply::Result as ReplyResult;
use cairn_proto::rpc::{self, Reply, op::Op};
use tokio::sync::oneshot;

use super::files::FileHandle;
use super::meta::Answer;
use super::{Engine, FsError};

pub(super) use home::tell_periodically;
pub(super) use state::Locks;
use state::{Home, Signal, State};

/// How long whoever is interrupted, or ends, waits to hear what has become of a lock: he must not wait for a master that is gone.
const GIVE_UP: Duration = Duration::from_secs(1);
/// How often is looked whether a lone mount may grant locks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A lock as the kernel asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRequest {
    /// `fcntl` or `flock`.
    pub kind: Kind,
    /// A number for the process or the open file description. Of `fcntl` the kernel's, which it may give to another one when that is
    /// closed, of `flock` never used again.
    pub owner: u64,
    /// Which bytes.
    pub range: Range,
    /// Shared or exclusive.
    pub mode: Mode,
    /// The process.
    pub pid: u32,
}

impl LockRequest {
    fn key(&self, inode: u64) -> Key {
        key(inode, self.kind, self.owner)
    }

    fn lock(&self, inode: u64) -> Lock {
        Lock { key: self.key(inode), range: self.range, mode: self.mode, pid: self.pid }
    }
}

/// In the mount's own table all owners are of one session.
const ALONE: u64 = 0;

fn key(inode: u64, kind: Kind, owner: u64) -> Key {
    Key { inode, kind, owner: Owner { session: ALONE, id: owner } }
}

/// How a request stands after it has been made.
enum Step {
    Granted,
    /// The master has been asked; where the request waits, it will be told here.
    Asked(Answer, Option<oneshot::Receiver<Signal>>),
    Waiting(oneshot::Receiver<Signal>),
    /// Nobody is in charge at the moment.
    NotNow,
    /// Too many operations are on their way.
    Full,
}

/// Ranges of the file that were locked through a handle belong to these owners, with the number of each one's last request; who has a
/// handle's last descriptor closed has nothing locked any more.
#[derive(Debug, Default)]
pub(super) struct RangeOwners(parking_lot::Mutex<BTreeMap<u64, u64>>);

impl Engine {
    /// Locks a range or the whole of a file. With `wait`, waits until it is free; `interrupted` ends that.
    ///
    /// # Errors
    /// EAGAIN without `wait`; EDEADLK; ENOLCK; EINTR; EIO, once, where locks of this owner were lost with the session; outages.
    pub async fn lock(
        &self,
        handle: &FileHandle,
        request: &LockRequest,
        wait: bool,
        interrupted: impl Future<Output = ()>,
    ) -> Result<(), FsError> {
        let lock = request.lock(handle.inode());
        self.locks.not_lost(lock.key)?;
        let number = self.locks.number();
        if request.kind == Kind::Range {
            let mut owners = handle.range_owners().0.lock();
            owners.insert(request.owner, number);
            self.locks.state().asked_with(lock.key, number);
            drop(owners);
            self.locks.ranges_used(handle.inode());
        }
        let mut interrupted = pin!(interrupted);
        loop {
            let waiting = match self.start_lock(&lock, number, wait)? {
                Step::Granted => return Ok(()),
                Step::Waiting(signal) => signal,
                Step::Asked(answer, signal) => {
                    let granted = tokio::select! {
                        reply = self.session.answer(answer) => self.granted(&lock, number, reply)?,
                        () = &mut interrupted => return self.give_up(lock, number).await,
                    };
                    match signal {
                        Some(signal) if !granted => signal,
                        _ => return Ok(()),
                    }
                }
                Step::NotNow => {
                    tokio::select! {
                        in_charge = self.until_in_charge() => in_charge?,
                        () = &mut interrupted => return Err(FsError::Interrupted),
                    }
                    continue;
                }
                Step::Full => {
                    self.session.room().await?;
                    continue;
                }
            };
            match self.until_signal(waiting, interrupted.as_mut()).await? {
                Some(Signal::Granted) => return Ok(()),
                Some(Signal::Again) => {}
                None => return self.give_up(lock, number).await,
            }
        }
    }

    /// `None`: a signal came first.
    async fn until_signal(
        &self,
        waiting: oneshot::Receiver<Signal>,
        interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<Signal>, FsError> {
        tokio::select! {
            biased;
            // The sender is gone with the session.
            signal = waiting => signal.map(Some).map_err(|_| FsError::Fenced),
            () = interrupted => Ok(None),
        }
    }

    /// Asks whoever is in charge. Under the state's lock: what is asked of the master before it hands over is answered before.
    fn start_lock(&self, lock: &Lock, number: u64, wait: bool) -> Result<Step, FsError> {
        let mut state = self.locks.state();
        match state.home() {
            Home::Moving => Ok(Step::NotNow),
            // Others may be there by now.
            Home::Here if !self.session.stands() => Ok(Step::NotNow),
            Home::Here => match state.lock_here(lock, wait.then_some(number)) {
                Outcome::Granted => Ok(Step::Granted),
                Outcome::Waiting => Ok(Step::Waiting(state.enlist(number))),
                Outcome::Conflict(_) => Err(FsError::Locked),
                Outcome::Deadlock => Err(FsError::Deadlock),
                Outcome::TooMany => Err(FsError::TooManyLocks),
            },
            Home::Master => {
                let op = rpc::Lock { lock: Some(wire::to_wire(lock)), wait: if wait { number } else { 0 } };
                let Ok(answer) = self.session.try_start(Op::Lock(op))? else { return Ok(Step::Full) };
                state.asked(lock.key);
                Ok(Step::Asked(answer, wait.then(|| state.enlist(number))))
            }
        }
    }

    /// The master's answer: whether the lock is held.
    fn granted(&self, lock: &Lock, number: u64, reply: Result<Reply, FsError>) -> Result<bool, FsError> {
        match reply {
            Ok(Reply { result: Some(ReplyResult::Lock(reply)), .. }) => {
                if reply.granted {
                    self.locks.state().delist(number);
                }
                Ok(reply.granted)
            }
            Ok(_) => Err(FsError::Io("the master's answer does not speak of the lock".into())),
            Err(e) => {
                self.locks.state().delist(number);
                if matches!(e, FsError::TimedOut(_)) {
                    // It may be granted yet, and nobody would know.
                    drop(self.cancel_in_background(*lock, number));
                }
                Err(e)
            }
        }
    }

    /// Does not wait any more. If the lock had been granted before, that is what is answered.
    async fn give_up(&self, lock: Lock, number: u64) -> Result<(), FsError> {
        match tokio::time::timeout(GIVE_UP, self.cancel_in_background(lock, number)).await {
            Ok(Ok(true)) => Ok(()),
            _ => Err(FsError::Interrupted),
        }
    }

    /// Cancels a request; tells whether it had been granted. If nobody listens any more, the lock is let go.
    fn cancel_in_background(&self, lock: Lock, number: u64) -> oneshot::Receiver<bool> {
        let (tell, told) = oneshot::channel();
        let me = self.me.clone();
        self.runtime.spawn(async move {
            let Some(engine) = me.upgrade() else { return };
            let granted = match engine.cancel(&lock, number).await {
                Ok(granted) => granted,
                Err(e) => {
                    tracing::debug!(error = %e, "a request for a lock could not be cancelled");
                    return;
                }
            };
            if tell.send(granted).is_err()
                && granted
                && let Err(e) = engine.unlock_at(lock.key, lock.range, None).await
            {
                tracing::warn!(inode = lock.key.inode, error = %e, "a lock that nobody wants is held");
            }
        });
        told
    }

    async fn cancel(&self, lock: &Lock, number: u64) -> Result<bool, FsError> {
        loop {
            let started = {
                let mut state = self.locks.state();
                state.delist(number);
                match state.home() {
                    Home::Here => return Ok(state.cancel_here(lock, number)),
                    Home::Moving => None,
                    Home::Master => {
                        let op = rpc::CancelLock { lock: Some(wire::to_wire(lock)), wait: number };
                        Some(self.session.try_start(Op::CancelLock(op))?)
                    }
                }
            };
            match started {
                None => self.until_in_charge().await?,
                Some(Err(_full)) => self.session.room().await?,
                Some(Ok(answer)) => {
                    let reply = self.session.answer(answer).await?;
                    return Ok(matches!(reply.result, Some(ReplyResult::Lock(reply)) if reply.granted));
                }
            }
        }
    }

    /// Lets a range go.
    ///
    /// # Errors
    /// ENOLCK where that would split a range too many; EIO, once, where locks of this owner were lost with the session; outages: then
    /// it will be let go all the same.
    pub async fn unlock(
        &self,
        handle: &FileHandle,
        kind: Kind,
        owner: u64,
        range: Range,
    ) -> Result<(), FsError> {
        let key = key(handle.inode(), kind, owner);
        self.locks.not_lost(key)?;
        self.unlock_at(key, range, None).await
    }

    /// `last`: not if the owner has asked for anything since that request.
    async fn unlock_at(&self, key: Key, range: Range, last: Option<u64>) -> Result<(), FsError> {
        loop {
            let started = {
                let mut state = self.locks.state();
                if last.is_some() && state.asked_with_last(key) != last {
                    return Ok(());
                }
                match state.home() {
                    Home::Here => return state.unlock_here(key, range).ok_or(FsError::TooManyLocks),
                    Home::Moving => None,
                    Home::Master if !state.may_hold(key) => return Ok(()),
                    Home::Master => {
                        let lock = Lock { key, range, mode: Mode::Shared, pid: 0 };
                        let op = rpc::Unlock { lock: Some(wire::to_wire(&lock)) };
                        let asked = state.asked_last(key);
                        Some(self.session.try_start(Op::Unlock(op))?.map(|answer| (answer, asked)))
                    }
                }
            };
            match started {
                None => self.until_in_charge().await?,
                Some(Err(_full)) => self.session.room().await?,
                Some(Ok((answer, asked))) => {
                    self.session.answer(answer).await?;
                    if range == Range::ALL {
                        self.locks.state().holds_nothing(key, asked);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// A lock that is in the way of this one.
    ///
    /// # Errors
    /// EIO, once, where locks of this owner were lost with the session; outages.
    pub async fn test_lock(
        &self,
        handle: &FileHandle,
        request: &LockRequest,
    ) -> Result<Option<Lock>, FsError> {
        let lock = request.lock(handle.inode());
        self.locks.not_lost(lock.key)?;
        loop {
            let started = {
                let state = self.locks.state();
                match state.home() {
                    Home::Here => return Ok(state.test_here(&lock)),
                    Home::Moving => None,
                    Home::Master => {
                        let op = rpc::TestLock { lock: Some(wire::to_wire(&lock)) };
                        Some(self.session.try_start(Op::TestLock(op))?)
                    }
                }
            };
            match started {
                None => self.until_in_charge().await?,
                Some(Err(_full)) => self.session.room().await?,
                Some(Ok(answer)) => {
                    let reply = self.session.answer(answer).await?;
                    let Some(ReplyResult::Lock(reply)) = reply.result else { return Ok(None) };
                    return Ok(reply.conflict.and_then(|lock| wire::from_wire(ALONE, &lock)));
                }
            }
        }
    }

    /// A process has closed a descriptor of the file: its `fcntl` locks of it go.
    pub async fn process_closed(&self, handle: &FileHandle, owner: u64) {
        let key = key(handle.inode(), Kind::Range, owner);
        let last = self.locks.state().asked_with_last(key);
        if last.is_some() {
            self.let_go(key, last).await;
        }
    }

    /// The last descriptor of a handle is closed: what was locked through it goes. The kernel tells of it late, and may have given its
    /// number for the owner to another open file description by then: what that one has asked for is not touched.
    pub async fn locks_of_handle_go(&self, handle: &FileHandle, flock_owner: Option<u64>) {
        if let Some(owner) = flock_owner {
            self.let_go(key(handle.inode(), Kind::Flock, owner), None).await;
        }
        let owners = std::mem::take(&mut *handle.range_owners().0.lock());
        for (owner, last) in owners {
            self.let_go(key(handle.inode(), Kind::Range, owner), Some(last)).await;
        }
    }

    /// All of it goes, unless it has been asked for since the `last` request. A process that ends waits for this, and no signal ends that
    /// wait: the master has little time to answer, and hears of it later if it does not.
    async fn let_go(&self, key: Key, last: Option<u64>) {
        {
            let mut state = self.locks.state();
            if last.is_some() && state.asked_with_last(key) != last {
                return;
            }
            state.hears_of_no_loss(key);
            let gone = match state.home() {
                Home::Here => state.unlock_here(key, Range::ALL).is_some(),
                Home::Moving => false,
                Home::Master => !state.may_hold(key),
            };
            if gone {
                state.asks_no_more(key, last);
                return;
            }
        }
        let me = self.me.clone();
        let told = self.runtime.spawn(async move {
            let Some(engine) = me.upgrade() else { return };
            if let Err(e) = engine.unlock_at(key, Range::ALL, last).await {
                tracing::warn!(inode = key.inode, error = %e, "the master has not answered that a lock is let go");
            }
            engine.locks.state().asks_no_more(key, last);
        });
        let _late = tokio::time::timeout(GIVE_UP, told).await;
    }

    /// Whether the kernel has to tell of each close of the file by a process, as `fcntl` locks go with it.
    pub fn closes_matter(&self, inode: u64) -> bool {
        self.locks.are_ranges_used(inode)
    }

    /// Returns when somebody is in charge of the locks, or may be.
    async fn until_in_charge(&self) -> Result<(), FsError> {
        let in_charge = |state: &State| match state.home() {
            Home::Moving => false,
            Home::Here => self.session.stands(),
            Home::Master => true,
        };
        // Nobody tells of a sign of life that was answered.
        let in_charge =
            async { while tokio::time::timeout(LOOK_AGAIN, self.locks.until(in_charge)).await.is_err() {} };
        let late = |_| FsError::TimedOut("the master does not answer".into());
        tokio::time::timeout(self.outage(), in_charge).await.map_err(late)
    }
}
