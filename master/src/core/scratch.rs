//! What a group of operations has changed and not committed yet, laid over the store.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::layer::Layer;
use super::records::Counters;
use super::view::{View, ViewError, Visit};

/// Changes that are committed together: a value to put, or `None` to delete.
pub type Batch = BTreeMap<Vec<u8>, Option<Bytes>>;

/// The state as the current group sees it: its own changes first, then the store.
pub struct Scratch<'a> {
    base: &'a dyn View,
    changes: Batch,
    /// What `changes` held under the keys touched since the last savepoint; the outer `None`: nothing.
    undo: Vec<(Vec<u8>, Option<Option<Bytes>>)>,
    /// The counters, as they will be after the commit.
    pub counters: Counters,
    counters_saved: Counters,
    counters_base: Counters,
}

impl<'a> Scratch<'a> {
    /// Nothing changed yet over `base`, whose counters are `counters`.
    pub fn new(base: &'a dyn View, counters: Counters) -> Self {
        Self {
            base,
            changes: Batch::new(),
            undo: Vec::new(),
            counters,
            counters_saved: counters,
            counters_base: counters,
        }
    }

    /// From here on, [`Self::rollback`] comes back to this point.
    pub fn savepoint(&mut self) {
        self.undo.clear();
        self.counters_saved = self.counters;
    }

    /// Takes back everything since the last savepoint.
    pub fn rollback(&mut self) {
        for (key, before) in self.undo.drain(..).rev() {
            match before {
                Some(value) => self.changes.insert(key, value),
                None => self.changes.remove(&key),
            };
        }
        self.counters = self.counters_saved;
    }

    /// Whether anything changed since the last savepoint.
    pub fn changed(&self) -> bool {
        !self.undo.is_empty()
    }

    /// The keys that were put or deleted since the last savepoint; some more than once.
    pub fn touched(&self) -> impl Iterator<Item = &[u8]> {
        self.undo.iter().map(|(key, _)| key.as_slice())
    }

    /// The same, each once, with what was there at the savepoint.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn before(&self) -> Result<BTreeMap<Vec<u8>, Option<Bytes>>, ViewError> {
        let mut all = BTreeMap::new();
        for (key, before) in &self.undo {
            if all.contains_key(key) {
                continue;
            }
            let value = match before {
                Some(value) => value.clone(),
                None => self.base.get(key)?,
            };
            all.insert(key.clone(), value);
        }
        Ok(all)
    }

    /// Puts a value.
    pub fn put(&mut self, key: Vec<u8>, value: impl Into<Bytes>) {
        let before = self.changes.insert(key.clone(), Some(value.into()));
        self.undo.push((key, before));
    }

    /// Deletes a key; no matter whether it is there.
    pub fn delete(&mut self, key: Vec<u8>) {
        let before = self.changes.insert(key.clone(), None);
        self.undo.push((key, before));
    }

    /// Deletes everything whose key starts with `prefix`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn delete_all(&mut self, prefix: &[u8]) -> Result<(), ViewError> {
        let mut keys = Vec::new();
        self.scan(prefix, prefix, &mut |key, _| {
            keys.push(key.to_vec());
            true
        })?;
        for key in keys {
            self.delete(key);
        }
        Ok(())
    }

    /// All changes, the counters included, and the counters to go on with.
    pub fn into_batch(mut self) -> (Batch, Counters) {
        if self.counters != self.counters_base {
            let value = self.counters.encode();
            self.changes.insert(super::keys::COUNTERS.to_vec(), Some(value));
        }
        (self.changes, self.counters)
    }
}

impl View for Scratch<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Layer { base: self.base, changes: &self.changes }.get(key)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError> {
        Layer { base: self.base, changes: &self.changes }.scan(prefix, from, visit)
    }
}
