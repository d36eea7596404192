//! What a check has found, and what to say of it.

use cairn_proto::rpc::{FsckDamage, FsckFinding};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// In the master's records.
    Records(FsckDamage),
    /// Fewer copies in sync than wanted.
    FewCopies,
    /// A server of the in-sync set does not answer.
    Unreachable,
    /// A server of the in-sync set has no replica.
    Missing,
    /// A replica is at another epoch than the record.
    Epoch,
    /// A replica lags behind the others.
    Behind,
    /// A replica is in doubt since a crash, and has not been compared.
    Unclean,
    /// Blocks that are not what their checksums say.
    BadBlocks,
    /// A replica could not be read.
    Unreadable,
    /// Replicas that should be equal are not.
    Differ,
    /// A replica of a chunk that there is not.
    Unknown,
    /// A replica that is not one of the in-sync set.
    Extra,
    /// A chunk changed all the time that it was looked at.
    Busy,
}

impl Kind {
    /// A short name for programs.
    pub fn code(self) -> &'static str {
        use FsckDamage as D;
        match self {
            Self::Records(damage) => match damage {
                D::Unspecified | D::FsckMalformed => "malformed-record",
                D::FsckNameWithoutInode => "name-without-inode",
                D::FsckNameOfAnotherType => "name-of-another-type",
                D::FsckNameInNoDirectory => "name-in-no-directory",
                D::FsckInodeWithoutName => "inode-without-name",
                D::FsckNoRoot => "no-root",
                D::FsckXattrWithoutInode => "xattr-without-inode",
                D::FsckKeyWithoutInode => "key-without-inode",
                D::FsckKeyWithoutChunk => "key-without-chunk",
                D::FsckChunkInTwoPlaces => "chunk-in-two-places",
                D::FsckChunkBehindEnd => "chunk-behind-end",
                D::FsckChunkWithoutInode => "chunk-without-inode",
                D::FsckChunkWithoutKey => "chunk-without-key",
                D::FsckChunkIsGarbage => "chunk-is-garbage",
                D::FsckSetImpossible => "impossible-set",
            },
            Self::FewCopies => "few-copies",
            Self::Unreachable => "server-unreachable",
            Self::Missing => "replica-missing",
            Self::Epoch => "replica-epoch",
            Self::Behind => "replica-behind",
            Self::Unclean => "replica-unclean",
            Self::BadBlocks => "bad-blocks",
            Self::Unreadable => "replica-unreadable",
            Self::Differ => "replicas-differ",
            Self::Unknown => "unknown-replica",
            Self::Extra => "extra-replica",
            Self::Busy => "busy",
        }
    }

    /// What is wrong, for people.
    pub fn what(self) -> &'static str {
        use FsckDamage as D;
        match self {
            Self::Records(damage) => match damage {
                D::Unspecified | D::FsckMalformed => "a record of the master cannot be decoded",
                D::FsckNameWithoutInode => "a name leads nowhere",
                D::FsckNameOfAnotherType => "a name says another file type than its inode",
                D::FsckNameInNoDirectory => "a name lies in no directory",
                D::FsckInodeWithoutName => "a file has no name, and nobody holds it open",
                D::FsckNoRoot => "the root directory is missing",
                D::FsckXattrWithoutInode => "an extended attribute belongs to no file",
                D::FsckKeyWithoutInode => "a chunk belongs to a file that there is not",
                D::FsckKeyWithoutChunk => "a part of the file is lost: its chunk has no record",
                D::FsckChunkInTwoPlaces => "a chunk is used in two places",
                D::FsckChunkBehindEnd => "a chunk lies behind the end of its file",
                D::FsckChunkWithoutInode => "a chunk's file does not exist",
                D::FsckChunkWithoutKey => "a chunk's file does not use it",
                D::FsckChunkIsGarbage => "a chunk in use is marked for deletion",
                D::FsckSetImpossible => "a chunk's in-sync set cannot be",
            },
            Self::FewCopies => "fewer copies than wanted",
            Self::Unreachable => "a chunkserver with a copy does not answer",
            Self::Missing => "a copy is missing",
            Self::Epoch => "a copy is at another epoch than the record",
            Self::Behind => "a copy lags behind the others",
            Self::Unclean => "a copy is in doubt since a crash",
            Self::BadBlocks => "blocks of a copy are not what their checksums say",
            Self::Unreadable => "a copy cannot be read",
            Self::Differ => "copies differ that should be equal",
            Self::Unknown => "a copy of a chunk that there is not",
            Self::Extra => "a copy that is not one of the in-sync set",
            Self::Busy => "changed all the time, so that its copies could not be compared",
        }
    }

    /// What mends it.
    pub fn mend(self) -> &'static str {
        use FsckDamage as D;
        match self {
            Self::Records(D::FsckChunkBehindEnd) => "goes with the file, or when it is truncated",
            Self::Records(D::FsckKeyWithoutChunk) => {
                "restore the file from a backup; cutting it down to the part before drops the key"
            }
            Self::Records(_) => "nothing mends it by itself: restore the master's data, and report this",
            Self::FewCopies | Self::Missing => {
                "is copied anew by itself, once enough servers with space are alive"
            }
            Self::Unreachable => "start it again; what it has is copied elsewhere once it is declared dead",
            Self::Epoch | Self::Behind | Self::Unclean => "is brought up to date by its primary, by itself",
            Self::BadBlocks => "is being healed from the other copies",
            Self::Unreadable => "replace the disk; its chunks are copied elsewhere by themselves",
            Self::Differ => "restart the chunkserver of a copy, so that its primary compares them",
            Self::Unknown => "is deleted by itself after a time of grace",
            Self::Extra => "is deleted, or taken into the set, by itself",
            Self::Busy => "check again when it is quiet",
        }
    }

    /// Whether it means that something is wrong; else it is only worth knowing. Replicas that are left over cost space
    /// until they are deleted, as there always are some while files come and go.
    pub fn is_damage(self) -> bool {
        let harmless =
            [Self::Records(FsckDamage::FsckChunkBehindEnd), Self::Unknown, Self::Extra, Self::Busy];
        !harmless.contains(&self)
    }
}

/// Something found. Ids are 0 where they do not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// The file; for names: the directory.
    pub inode: u64,
    /// The chunk's place in the file.
    pub index: u64,
    /// The chunk.
    pub chunk: u64,
    /// The chunkserver.
    pub server: u32,
    /// More of it, for people.
    pub detail: String,
    /// What the file is called; several names for one that has several.
    pub paths: Vec<String>,
}

impl Finding {
    /// About nothing yet.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { kind, inode: 0, index: 0, chunk: 0, server: 0, detail, paths: Vec::new() }
    }
}

impl From<FsckFinding> for Finding {
    fn from(f: FsckFinding) -> Self {
        let mut detail = f.detail.clone();
        if !f.name.is_empty() {
            let name = String::from_utf8_lossy(&f.name).into_owned();
            detail = if detail.is_empty() { format!("{name:?}") } else { format!("{name:?}: {detail}") };
        }
        let about = Self::new(Kind::Records(f.damage()), detail);
        Self { inode: f.inode, index: f.index, chunk: f.chunk, server: f.server, ..about }
    }
}
