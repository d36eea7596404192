//! Names and inodes: every operation of `proto/meta.proto`, with the semantics of Linux.
//!
//! [`execute`] runs one operation over a [`Scratch`]. When it fails, nothing of it is left there.
//! Permissions are not checked here: the kernel does that at the mount.

mod acl;
mod chunks;
mod directories;
mod inodes;
mod make;
mod open;
mod remove;
mod rename;
mod setattr;
mod xattrs;

use cairn_proto::rpc::{self, op::Op as Body, reply::Result as Body2};
use cairn_proto::{InodeId, ServerId, SessionId};

use super::cluster::{Event, PlaceError};
use super::errno::{self, Errno};
use super::scratch::Scratch;
use super::view::ViewError;

pub use chunks::{chunk_record, garbage_record, put_chunk};
pub use inodes::{has_opener, root};
pub use open::end_session;

/// No session has this id. It holds inodes that have just lost their last name and that no session holds.
pub const NOBODY: SessionId = SessionId(0);

/// Chooses servers for a new chunk.
pub type Place<'a> = dyn FnMut() -> Result<Vec<ServerId>, PlaceError> + 'a;

/// What an operation needs to know beside the records.
pub struct Context<'a> {
    /// Whose operation it is.
    pub session: SessionId,
    /// The wall clock.
    pub now: rpc::Time,
    /// Copies of a new chunk.
    pub copies: u32,
    /// Bytes in a chunk.
    pub chunk_size: u64,
    /// Chooses servers for a new chunk.
    pub place: &'a mut Place<'a>,
    /// What statfs says, but for the number of files.
    pub space: rpc::StatfsReply,
    /// Whether an inode whose last name goes stays for a moment ([`NOBODY`] holds it): other mounts may just have looked it up.
    pub linger: bool,
    /// What the cluster core must be told, in order: chunks allocated and deleted.
    pub events: Vec<Event>,
    /// Inodes that stay for a moment, for the caller to let go.
    pub lingering: Vec<InodeId>,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Fail {
    /// As POSIX has it.
    #[error("{0}")]
    Errno(Errno),
    /// The same, with words for people.
    #[error("{0}: {1}")]
    Detail(Errno, String),
    /// The store could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl Fail {
    /// The error number and the words for the reply.
    pub fn parts(self) -> (i32, String) {
        match self {
            Self::Errno(e) => (e.0, String::new()),
            Self::Detail(e, detail) => (e.0, detail),
            Self::View(e) => (errno::EIO.0, e.to_string()),
        }
    }
}

/// What an operation gives back when it is done.
type Done = Result<Option<Body2>, Fail>;

/// Whether the operation changes anything, so that its reply must be kept.
pub fn is_change(op: &Body) -> bool {
    !matches!(
        op,
        Body::Lookup(_)
            | Body::GetAttr(_)
            | Body::ReadLink(_)
            | Body::ReadDir(_)
            | Body::GetXattr(_)
            | Body::ListXattr(_)
            | Body::Statfs(_)
            | Body::GetChunks(_)
            | Body::ReplicaFailed(_)
            | Body::Barrier(_)
            | Body::Lock(_)
            | Body::Unlock(_)
            | Body::TestLock(_)
            | Body::CancelLock(_)
            | Body::HoldLocks(_)
            | Body::TakeLocks(_)
    )
}

/// Whether the operation makes the store smaller, and so may be done when it is nearly full.
pub fn is_release(op: &Body) -> bool {
    matches!(
        op,
        Body::Unlink(_) | Body::Rmdir(_) | Body::RemoveXattr(_) | Body::Closed(_) | Body::DropChunks(_)
    )
}

/// Whether the operation changes nothing and is only there for the leases on its inode to be recalled: bytes have changed of which the
/// master had heard before.
pub fn announces(op: &Body) -> bool {
    matches!(op, Body::Grow(grow) if setattr::says_nothing(grow))
}

/// Runs one operation.
pub fn execute(scratch: &mut Scratch<'_>, context: &mut Context<'_>, op: &rpc::Op) -> rpc::Reply {
    scratch.savepoint();
    let (told, lingered) = (context.events.len(), context.lingering.len());
    let outcome = match &op.op {
        Some(body) => dispatch(scratch, context, body),
        None => Err(Fail::Detail(errno::EINVAL, "an operation without content".into())),
    };
    // A mount that is ahead knows already what it would be told.
    let outcome = outcome.and_then(|result| match op.at {
        Some(_) => Ok((None, Vec::new())),
        None => Ok((result, changed_directories(scratch, op.op.as_ref())?)),
    });
    match outcome {
        Ok((result, parents)) => rpc::Reply { id: op.id, parents, result, ..rpc::Reply::default() },
        Err(fail) => {
            scratch.rollback();
            context.events.truncate(told);
            context.lingering.truncate(lingered);
            let (errno, detail) = fail.parts();
            rpc::Reply { id: op.id, errno, detail, ..rpc::Reply::default() }
        }
    }
}

/// The directories whose entries the operation has changed, as they are now.
fn changed_directories(s: &Scratch<'_>, op: Option<&Body>) -> Result<Vec<rpc::Attr>, Fail> {
    let (one, other) = match op {
        Some(Body::Make(op)) => (op.parent, op.parent),
        Some(Body::Unlink(op)) => (op.parent, op.parent),
        Some(Body::Rmdir(op)) => (op.parent, op.parent),
        Some(Body::Link(op)) => (op.new_parent, op.new_parent),
        Some(Body::Rename(op)) => (op.parent, op.new_parent),
        _ => return Ok(Vec::new()),
    };
    let attr = |inode| Ok::<_, Fail>(inodes::load_dir(s, InodeId(inode))?.attr(InodeId(inode)));
    Ok(if one == other { vec![attr(one)?] } else { vec![attr(one)?, attr(other)?] })
}

fn dispatch(s: &mut Scratch<'_>, c: &mut Context<'_>, op: &Body) -> Done {
    match op {
        Body::Lookup(op) => directories::lookup(s, op),
        Body::GetAttr(op) => inodes::get_attr(s, op),
        Body::SetAttr(op) => setattr::set_attr(s, c, op),
        Body::Make(op) => make::make(s, c, op),
        Body::Unlink(op) => remove::unlink(s, c, op),
        Body::Rmdir(op) => remove::rmdir(s, c, op),
        Body::Rename(op) => rename::rename(s, c, op),
        Body::Link(op) => make::link(s, c, op),
        Body::ReadLink(op) => inodes::read_link(s, op),
        Body::ReadDir(op) => directories::read_dir(s, op),
        Body::GetXattr(op) => xattrs::get(s, op),
        Body::ListXattr(op) => xattrs::list(s, op),
        Body::SetXattr(op) => xattrs::set(s, c, op),
        Body::RemoveXattr(op) => xattrs::remove(s, c, op),
        Body::Statfs(_) => Ok(Some(Body2::Statfs(rpc::StatfsReply { files: s.counters.inodes, ..c.space }))),
        Body::Opened(op) => open::opened(s, c, op),
        Body::Closed(op) => open::closed(s, c, op),
        Body::GetChunks(op) => chunks::get(s, op),
        Body::AllocChunks(op) => chunks::alloc(s, c, op),
        Body::DropChunks(op) => chunks::drop_range(s, c, op),
        Body::Grow(op) => setattr::grow(s, op),
        Body::Barrier(_) => Ok(None),
        Body::ReserveInodes(op) => make::reserve(s, *op),
        // Answered by the cluster core and the table of locks, never passed to the namespace.
        Body::ReplicaFailed(_)
        | Body::Lock(_)
        | Body::Unlock(_)
        | Body::TestLock(_)
        | Body::CancelLock(_)
        | Body::HoldLocks(_)
        | Body::TakeLocks(_) => Err(errno::EINVAL.into()),
    }
}

/// The attributes as a reply.
fn attr_reply(inode: InodeId, record: &super::records::Inode) -> Done {
    Ok(Some(Body2::Attr(record.attr(inode))))
}

#[cfg(test)]
mod tests;
