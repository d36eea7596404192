//! A store that lives as long as its process.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::{Room, Store, StoreError};
use crate::core::scratch::Batch;
use crate::core::view::{View, ViewError, Visit};

/// Records in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStore {
    records: BTreeMap<Vec<u8>, Bytes>,
}

impl View for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.records.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError> {
        let from = (Bound::Included(from.max(prefix)), Bound::Unbounded);
        for (key, value) in self.records.range::<[u8], _>(from) {
            if !key.starts_with(prefix) || !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}

impl Store for MemoryStore {
    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        for (key, value) in batch {
            match value {
                Some(value) => self.records.insert(key, value),
                None => self.records.remove(&key),
            };
        }
        Ok(())
    }

    fn room(&self) -> (Room, u64) {
        (Room::Ample, u64::from(u32::MAX))
    }
}
