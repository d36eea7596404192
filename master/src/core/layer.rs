//! Changes laid over records: what is read is as if they had been made.

use std::ops::Bound;

use bytes::Bytes;

use super::scratch::Batch;
use super::view::{View, ViewError, Visit};

/// `changes` over `base`.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// What lies below.
    pub base: &'a dyn View,
    /// What has changed of it.
    pub changes: &'a Batch,
}

impl View for Layer<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError> {
        let start = from.max(prefix);
        let mut ours = self
            .changes
            .range::<[u8], _>((Bound::Included(start), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .peekable();
        let mut go_on = true;
        self.base.scan(prefix, from, &mut |key, value| {
            while let Some((our_key, our_value)) = ours.next_if(|(k, _)| k.as_slice() < key) {
                if let Some(v) = our_value {
                    go_on = visit(our_key, v);
                    if !go_on {
                        return false;
                    }
                }
            }
            go_on = match ours.next_if(|(k, _)| k.as_slice() == key) {
                Some((_, Some(v))) => visit(key, v),
                Some((_, None)) => true,
                None => visit(key, value),
            };
            go_on
        })?;
        if go_on {
            for (key, value) in ours {
                if let Some(v) = value
                    && !visit(key, v)
                {
                    break;
                }
            }
        }
        Ok(())
    }
}
