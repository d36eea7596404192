//! The handling of one event: what it sees, and what it has decided so far.

use std::collections::BTreeMap;

use cairn_proto::{ChunkId, rpc};
use rpc::master_command::Cmd;

use super::{ChunkRecord, ChunkView, Effect, LinkId, Refusal, ServerRecord, Unreadable};
use crate::core::Millis;

pub(super) struct Work<'a> {
    pub(super) now: Millis,
    pub(super) random: &'a mut dyn FnMut() -> u64,
    view: &'a dyn ChunkView,
    term: u64,
    changed: BTreeMap<ChunkId, ChunkRecord>,
    effects: Vec<Effect>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        now: Millis,
        view: &'a dyn ChunkView,
        term: u64,
        random: &'a mut dyn FnMut() -> u64,
    ) -> Self {
        Self { now, random, view, term, changed: BTreeMap::new(), effects: Vec::new() }
    }

    pub(super) fn into_effects(self) -> Vec<Effect> {
        self.effects
    }

    /// The chunk's record, changes of this event included.
    pub(super) fn chunk(&self, id: ChunkId) -> Result<Option<ChunkRecord>, Unreadable> {
        self.changed.get(&id).map_or_else(|| self.view.chunk(id), |record| Ok(Some(record.clone())))
    }

    /// As [`ChunkView::chunks_from`], changes of this event included.
    pub(super) fn chunks_from(&self, from: ChunkId, limit: usize) -> Result<Vec<ChunkRecord>, Unreadable> {
        let mut records = self.view.chunks_from(from, limit)?;
        for record in &mut records {
            if let Some(changed) = self.changed.get(&record.chunk) {
                record.clone_from(changed);
            }
        }
        Ok(records)
    }

    pub(super) fn view(&self) -> &'a dyn ChunkView {
        self.view
    }

    pub(super) fn put_chunk(&mut self, record: ChunkRecord) {
        self.effects.push(Effect::PutChunk(record.clone()));
        self.effects.push(Effect::TellMounts(record.info()));
        self.changed.insert(record.chunk, record);
    }

    pub(super) fn put_server(&mut self, record: ServerRecord) {
        self.effects.push(Effect::PutServer(record));
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Sends a command that nobody will confirm.
    pub(super) fn send(&mut self, link: LinkId, cmd: Cmd) {
        self.send_numbered(link, 0, cmd);
    }

    /// Sends a command that is confirmed under its number.
    pub(super) fn send_numbered(&mut self, link: LinkId, id: u64, cmd: Cmd) {
        let command = rpc::MasterCommand { id, term: self.term, cmd: Some(cmd) };
        self.effects.push(Effect::Send { link, command });
    }

    pub(super) fn close(&mut self, link: LinkId, reason: Refusal) {
        self.effects.push(Effect::Close { link, reason });
    }
}
