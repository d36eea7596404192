//! Those who watch names and files change.

use cairn_proto::rpc::{FileChange, FileChangeKind as Kind};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::state::State;
use super::turn::{Outgoing, Turn};
use crate::core::changes::{self, Change, Place};
use crate::core::records::Entry;

/// Those who may watch at once.
const WATCHERS: usize = 256;

#[derive(Debug)]
struct Watcher {
    to: Sender<FileChange>,
    /// Changes that it was not told because it did not keep up.
    missed: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct FileWatchers(Vec<Watcher>);

impl FileWatchers {
    /// Tells `to` of changes from now on. With too many others it is dropped, and so its stream ends.
    pub(super) fn add(&mut self, to: Sender<FileChange>) {
        self.0.retain(|w| !w.to.is_closed());
        if self.0.len() < WATCHERS {
            self.0.push(Watcher { to, missed: 0 });
        }
    }

    /// Whether nobody would be told.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Time has passed: those who keep up again hear what they have missed.
    pub(super) fn tick(&mut self) {
        self.0.retain_mut(Watcher::tell_missed);
    }

    /// Tells all of them. Those who do not keep up hear how much they have missed, once they do.
    pub(super) fn tell(&mut self, change: &FileChange) {
        self.0.retain_mut(|w| w.tell(change));
    }
}

impl Watcher {
    /// False: it has gone.
    fn tell_missed(&mut self) -> bool {
        if self.missed == 0 {
            return true;
        }
        let missed = FileChange { kind: Kind::Missed.into(), size: self.missed, ..FileChange::default() };
        match self.to.try_send(missed) {
            Ok(()) => {
                self.missed = 0;
                true
            }
            Err(e) => matches!(e, TrySendError::Full(_)),
        }
    }

    /// False: it has gone.
    fn tell(&mut self, change: &FileChange) -> bool {
        if !self.tell_missed() {
            return false;
        }
        let told = match self.missed {
            0 => self.to.try_send(change.clone()),
            _ => Err(TrySendError::Full(FileChange::default())),
        };
        match told {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.missed += 1;
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

impl State {
    /// Notes what the operation has changed that was just executed, for those who watch; they are told when it is durable.
    pub(super) fn note_changes(&self, turn: &mut Turn<'_>) {
        if self.file_watchers.is_empty() || !turn.scratch.changed() {
            return;
        }
        match changes::since_savepoint(&turn.scratch) {
            Ok(changes) => {
                let at = Some(turn.wall);
                let told = changes.into_iter().map(|c| Outgoing::FileChange(FileChange { at, ..message(c) }));
                turn.out.extend(told);
            }
            Err(e) => tracing::error!("what has changed cannot be told to those who watch: {e}"),
        }
    }
}

fn message(change: Change) -> FileChange {
    let named = |kind: Kind, place: Place, entry: Entry| FileChange {
        kind: kind.into(),
        inode: entry.inode.0,
        mode: entry.kind,
        parent: place.parent.0,
        name: place.name,
        ..FileChange::default()
    };
    match change {
        Change::Made(place, entry) => named(Kind::Made, place, entry),
        Change::Removed(place, entry) => named(Kind::Removed, place, entry),
        Change::Renamed { from, to, entry } => {
            FileChange { old_parent: from.parent.0, old_name: from.name, ..named(Kind::Renamed, to, entry) }
        }
        Change::Written { inode, size } => {
            FileChange { kind: Kind::Written.into(), inode: inode.0, size, ..FileChange::default() }
        }
        Change::Attributes(inode) => {
            FileChange { kind: Kind::Attributes.into(), inode: inode.0, ..FileChange::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_does_not_keep_up_hears_how_much_was_missed() {
        let (to, mut told) = tokio::sync::mpsc::channel(2);
        let mut watchers = FileWatchers::default();
        watchers.add(to);
        let change = |inode| FileChange { inode, ..FileChange::default() };
        (1..=5).for_each(|n| watchers.tell(&change(n)));
        let mut next = || told.try_recv().ok().map(|c| (c.kind(), c.inode, c.size));
        assert_eq!(next(), Some((Kind::Made, 1, 0)));
        assert_eq!(next(), Some((Kind::Made, 2, 0)));
        assert_eq!(next(), None);
        watchers.tell(&change(6));
        let mut next = || told.try_recv().ok().map(|c| (c.kind(), c.inode, c.size));
        assert_eq!(next(), Some((Kind::Missed, 0, 3)));
        assert_eq!(next(), Some((Kind::Made, 6, 0)));
        watchers.tell(&change(7));
        watchers.tell(&change(8));
        watchers.tell(&change(9));
        while told.try_recv().is_ok() {}
        watchers.tick();
        assert_eq!(told.try_recv().map(|c| (c.kind(), c.size)), Ok((Kind::Missed, 1)));
        drop(told);
        watchers.tell(&change(10));
        assert!(watchers.is_empty());
    }
}
