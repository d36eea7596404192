//! How the cores read what the store holds.

use bytes::Bytes;

/// A record could not be read, or is not what it must be. Says which and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the store cannot be read: {0}")]
pub struct ViewError(pub String);

/// Called for each record of a scan; says whether to go on.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> bool + 'a;

/// An ordered set of records, to be read.
pub trait View {
    /// The value under `key`.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError>;

    /// Visits the records whose keys start with `prefix` and are not below `from`, in the order of
    /// their keys, until `visit` says no.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), ViewError>;
}
