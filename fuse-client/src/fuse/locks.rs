//! Requests about file locks.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use cairn_locks::{Kind, Mode, Range};

use super::adapter::Adapter;
use super::answer::Answer;
use super::operation::{FileLock, Operation};
use super::requests::Asked;
use crate::engine::LockRequest;

/// What the kernel asks for; EINVAL where it is no lock.
fn request(handle: u64, lock: &FileLock) -> Result<LockRequest, Answer> {
    let mode = match lock.kind {
        libc::F_RDLCK => Mode::Shared,
        libc::F_WRLCK => Mode::Exclusive,
        _ => return Err(Answer::Error(libc::EINVAL)),
    };
    let range = Range::new(lock.first, lock.last).ok_or(Answer::Error(libc::EINVAL))?;
    Ok(LockRequest { kind: kind(lock), owner: owner(handle, lock), range, mode, pid: lock.pid })
}

/// A `flock` is the handle's: the kernel's number is the address of the open file description, which the next one may have before
/// the mount hears that this one was closed.
fn owner(handle: u64, lock: &FileLock) -> u64 {
    if lock.flock { handle } else { lock.owner }
}

fn kind(lock: &FileLock) -> Kind {
    if lock.flock { Kind::Flock } else { Kind::Range }
}

impl Adapter {
    /// Locks; answers when that is done. A signal ends it at once: the wait for a lock is no I/O, and programs expect that. Whoever
    /// was granted the lock in the same moment is told so, and is not told that he was interrupted.
    pub(super) fn lock(
        self: &Arc<Self>,
        device: &Arc<OwnedFd>,
        asked: Asked,
        handle: u64,
        lock: FileLock,
        wait: bool,
    ) {
        let unique = asked.unique;
        let interrupt = self.interrupts.enter(unique);
        let adapter = self.clone();
        let mut work: Pin<Box<dyn Future<Output = Answer> + Send>> = Box::pin(async move {
            let locked = async {
                let (file, request) = (adapter.files.get(handle)?, request(handle, &lock)?);
                adapter.engine.lock(&file, &request, wait, interrupt.notified()).await?;
                Ok::<_, Answer>(Answer::Done)
            };
            match locked.await {
                Ok(answer) | Err(answer) => answer,
            }
        });
        if let Poll::Ready(answer) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            self.interrupts.leave(unique);
            self.send(device, asked, answer);
            return;
        }
        let (adapter, device) = (self.clone(), device.clone());
        self.runtime.spawn(async move {
            let answer = work.await;
            adapter.interrupts.leave(unique);
            adapter.send(&device, asked, answer);
        });
    }

    pub(super) async fn on_lock(&self, operation: Operation<'_>) -> Result<Answer, Answer> {
        match operation {
            Operation::TestLock { handle, lock } => {
                let file = self.files.get(handle)?;
                Ok(Answer::Lock(self.engine.test_lock(&file, &request(handle, &lock)?).await?))
            }
            Operation::SetLock { handle, lock, .. } if lock.kind == libc::F_UNLCK => {
                let file = self.files.get(handle)?;
                let range = Range::new(lock.first, lock.last).ok_or(Answer::Error(libc::EINVAL))?;
                self.engine.unlock(&file, kind(&lock), owner(handle, &lock), range).await?;
                Ok(Answer::Done)
            }
            _ => Err(Answer::Error(libc::ENOSYS)),
        }
    }
}
