//! Ids as types of their own, so that none is taken for another.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
        impl From<$int> for $name {
            fn from(v: $int) -> Self {
                Self(v)
            }
        }
    };
}

id!(
    /// An inode; never used again once it is gone. 1 is the root directory.
    InodeId,
    u64
);
id!(
    /// A chunk; never used again.
    ChunkId,
    u64
);
id!(
    /// A chunk's epoch: up by one with each change of its in-sync set, from 1. Below 2^32.
    Epoch,
    u64
);
id!(
    /// A chunkserver, for life. Never 0.
    ServerId,
    u32
);
id!(
    /// A mount's session with the master. Never 0.
    SessionId,
    u64
);

impl InodeId {
    /// The root directory.
    pub const ROOT: Self = Self(1);
}
