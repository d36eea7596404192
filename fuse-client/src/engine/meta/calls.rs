//! Operations: carried out with a deadline, or sent on their way when they have been answered here.

use std::sync::Arc;
use std::time::Duration;

use cairn_proto::rpc::client_message::Msg as Up;
use cairn_proto::rpc::op::Op;
use cairn_proto::rpc::{ClientMessage, Reply, Time};
use tokio::sync::oneshot;

use super::session::{Fence, Session, Waiter};
use crate::engine::error::FsError;

/// While the master is known not to answer, operations do not wait for it again as long as the first one did.
const WAIT_AGAIN: Duration = Duration::from_millis(200);

/// The answer to an operation that is on its way.
pub struct Answer(oneshot::Receiver<Reply>);

impl Session {
    /// Carries out one operation.
    ///
    /// # Errors
    /// [`FsError::Refused`] with the master's errno; [`FsError::TimedOut`] when the outage lasts too long: then it is
    /// not known whether the operation has been or will be carried out.
    pub async fn call(&self, op: Op) -> Result<Reply, FsError> {
        self.ask(op).await.and_then(accepted)
    }

    /// The same, where a refusal is an answer like any other.
    ///
    /// # Errors
    /// As of [`Self::call`], but for refusals.
    pub async fn ask(&self, mut op: Op) -> Result<Reply, FsError> {
        loop {
            match self.try_start(op)? {
                Ok(Answer(answer)) => {
                    return self.in_time(async { answer.await.map_err(|_| ended()) }).await;
                }
                Err(back) => op = back,
            }
            self.room().await?;
        }
    }

    /// Sends an operation whose answer does not matter.
    pub fn tell(self: &Arc<Self>, op: Op) {
        let session = self.clone();
        tokio::spawn(async move {
            if let Err(e) = session.call(op).await {
                tracing::debug!(error = %e, "the master did not take a notice");
            }
        });
    }

    /// Sends an operation, if that can be done at once; else gives it back.
    ///
    /// # Errors
    /// The session has ended.
    pub fn try_start(&self, op: Op) -> Result<Result<Answer, Op>, FsError> {
        let (caller, answer) = oneshot::channel();
        Ok(self.send_op(op, None, Waiter::Caller(caller))?.map_or(Ok(Answer(answer)), Err))
    }

    /// Sends an operation that has been carried out and answered here, if that can be done at once; else gives it back.
    ///
    /// # Errors
    /// The session has ended.
    pub fn try_start_ahead(&self, op: Op, at: Time) -> Result<Option<Op>, FsError> {
        self.send_op(op, Some(at), Waiter::Nobody)
    }

    /// The operation comes back when there is no room for it.
    fn send_op(&self, op: Op, at: Option<Time>, waiter: Waiter) -> Result<Option<Op>, FsError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(ended());
        }
        if !state.window.has_room() {
            return Ok(Some(op));
        }
        let lease = state.asks_leases;
        let op = state.window.start(op, at, lease, waiter);
        if let Some(up) = &state.up {
            // Fails when the stream has just broken; it is sent again on the next one.
            let _ = up.send(ClientMessage { msg: Some(Up::Op(op)) });
        }
        Ok(None)
    }

    /// Whether a change may not be done after all: the master has not answered for as long as an operation waits, nor been
    /// heard since; or its disk is nearly full.
    pub fn is_doubtful(&self) -> bool {
        let state = self.state.lock();
        state.silent || state.scarce
    }

    /// Whether an operation may be sent now.
    pub fn has_room(&self) -> bool {
        self.state.lock().window.has_room()
    }

    /// What the master has refused of what had been answered here and concerned this inode. Reported once.
    pub fn take_failure(&self, inode: u64) -> Option<FsError> {
        let errno = self.state.lock().failures.take(inode)?;
        Some(FsError::Refused { errno, detail: "an earlier change was refused".into() })
    }

    /// Returns when an operation may be sent.
    ///
    /// # Errors
    /// [`FsError::TimedOut`]; the session has ended.
    pub async fn room(&self) -> Result<(), FsError> {
        let until = async {
            loop {
                let room = self.room.notified();
                {
                    let state = self.state.lock();
                    if state.closed {
                        return Err(ended());
                    }
                    if state.window.has_room() {
                        return Ok(());
                    }
                }
                room.await;
            }
        };
        self.in_time(until).await
    }

    /// The answer, when it comes.
    ///
    /// # Errors
    /// As of [`Self::call`].
    pub async fn answer(&self, Answer(answer): Answer) -> Result<Reply, FsError> {
        self.in_time(async { answer.await.map_err(|_| ended()) }).await.and_then(accepted)
    }

    /// Returns when all changes that were answered here before have been answered by the master, too: they are durable then.
    ///
    /// # Errors
    /// [`FsError::TimedOut`]; the session has ended.
    pub async fn settled(&self) -> Result<(), FsError> {
        let passed = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(ended());
            }
            let last = state.window.last();
            if state.window.settled(last) {
                return Ok(());
            }
            let (passed, receiver) = oneshot::channel();
            state.fences.push(Fence { last, passed });
            receiver
        };
        self.in_time(async { passed.await.map_err(|_| ended()) }).await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, FsError>>) -> Result<T, FsError> {
        let patience =
            if self.state.lock().silent { WAIT_AGAIN.min(self.config.outage) } else { self.config.outage };
        match tokio::time::timeout(patience, work).await {
            Ok(result) => result,
            Err(_) => {
                self.state.lock().silent = true;
                Err(FsError::TimedOut("the master does not answer".into()))
            }
        }
    }
}

fn accepted(reply: Reply) -> Result<Reply, FsError> {
    match reply.errno {
        0 => Ok(reply),
        errno => Err(FsError::Refused { errno, detail: reply.detail }),
    }
}

fn ended() -> FsError {
    FsError::Unreachable("the session has ended".into())
}
