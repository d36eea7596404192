//! A directory entry's name as a map key that can be looked up without owning it.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

/// Parent and name, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryKey {
    pub(super) parent: u64,
    pub(super) name: Box<[u8]>,
}

/// What both the owned and the borrowed form are. Lookups go through `dyn Parts`, so that they do not allocate.
pub(super) trait Parts {
    fn parts(&self) -> (u64, &[u8]);
}

impl Parts for EntryKey {
    fn parts(&self) -> (u64, &[u8]) {
        (self.parent, &self.name)
    }
}

impl Parts for (u64, &[u8]) {
    fn parts(&self) -> (u64, &[u8]) {
        *self
    }
}

impl Hash for dyn Parts + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for dyn Parts + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Parts + '_ {}

// Must hash like `dyn Parts`: the map finds one by the other.
impl Hash for EntryKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl<'a> Borrow<dyn Parts + 'a> for EntryKey {
    fn borrow(&self) -> &(dyn Parts + 'a) {
        self
    }
}
