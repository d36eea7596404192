//! `cairn.json`: whose disk this is. One process at a time uses it.

use crate::core::layout::FORMAT;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "cairn.json";

/// Whose a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: [u8; 16],
    /// The chunkserver.
    pub server: u32,
    /// Bytes in a chunk.
    pub chunk_size: u64,
    /// Bytes in a journal segment.
    pub segment_bytes: u64,
}

/// Why a directory cannot be used as a disk.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not readable or writable.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What is the matter.
        error: io::Error,
    },
    /// Another process has it.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// Written by a newer version.
    #[error("{path} has format {format}, newer than this version's {FORMAT}")]
    Newer {
        /// Which directory.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// Not what was written.
    #[error("{0} is damaged")]
    Damaged(PathBuf),
}

/// A directory that this process alone uses, as long as this lives.
pub struct DiskDir {
    path: PathBuf,
    /// `None`: new, it belongs to nobody yet.
    pub identity: Option<Identity>,
    _lock: File,
}

impl DiskDir {
    /// Makes the directory if need be and locks it.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let io = |error| IdentityError::Io { path: path.into(), error };
        fs::create_dir_all(path).map_err(io)?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock"));
        let lock = lock.map_err(io)?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(IdentityError::Locked(path.into())),
            r => r.map_err(|e| io(e.into()))?,
        }
        let identity = match fs::read_to_string(path.join(NAME)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            r => Some(parse(path, &r.map_err(io)?)?),
        };
        Ok(Self { path: path.into(), identity, _lock: lock })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it to a server, for good.
    pub fn claim(&mut self, identity: Identity) -> Result<(), IdentityError> {
        let path = self.path.join(NAME);
        let io = |error| IdentityError::Io { path: path.clone(), error };
        let cluster: String = identity.cluster.iter().map(|b| format!("{b:02x}")).collect();
        let text = format!(
            "{{\"format\":{FORMAT},\"cluster\":\"{cluster}\",\"server\":{},\"chunk_size\":{},\"segment_bytes\":{}}}\n",
            identity.server, identity.chunk_size, identity.segment_bytes
        );
        let new = self.path.join("cairn.json.new");
        let mut file = File::create(&new).map_err(io)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        fs::rename(&new, &path).map_err(io)?;
        File::open(&self.path).and_then(|d| d.sync_all()).map_err(io)?;
        self.identity = Some(identity);
        Ok(())
    }
}

/// The file is one flat object of numbers and one string without escapes.
fn parse(dir: &Path, text: &str) -> Result<Identity, IdentityError> {
    let field = |name: &str| {
        let (_, rest) = text.split_once(&format!("\"{name}\":"))?;
        Some(rest.trim_start().split([',', '}']).next()?.trim().trim_matches('"').to_owned())
    };
    let damaged = || IdentityError::Damaged(dir.join(NAME));
    let number = |name| field(name).and_then(|v| v.parse::<u64>().ok()).ok_or_else(damaged);
    let format = number("format")? as u32;
    if format > FORMAT {
        return Err(IdentityError::Newer { path: dir.into(), format });
    }
    let hex = field("cluster").ok_or_else(damaged)?;
    let mut cluster = [0; 16];
    if hex.len() != 32 || !hex.is_ascii() {
        return Err(damaged());
    }
    for (i, b) in cluster.iter_mut().enumerate() {
        *b = u8::from_str_radix(&hex[i * 2..i * 2 + 2], 16).map_err(|_| damaged())?;
    }
    Ok(Identity {
        cluster,
        server: number("server")? as u32,
        chunk_size: number("chunk_size")?,
        segment_bytes: number("segment_bytes")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_and_the_directory_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        let me = Identity { cluster: [0xab; 16], server: 3, chunk_size: 64 << 20, segment_bytes: 1 << 20 };
        let mut d = DiskDir::open(dir.path()).unwrap();
        assert_eq!(d.identity, None);
        assert!(matches!(DiskDir::open(dir.path()), Err(IdentityError::Locked(_))));
        d.claim(me).unwrap();
        drop(d);
        assert_eq!(DiskDir::open(dir.path()).unwrap().identity, Some(me));
        let newer =
            fs::read_to_string(dir.path().join(NAME)).unwrap().replace("\"format\":1", "\"format\":9");
        fs::write(dir.path().join(NAME), newer).unwrap();
        assert!(matches!(DiskDir::open(dir.path()), Err(IdentityError::Newer { format: 9, .. })));
        fs::write(dir.path().join(NAME), "{").unwrap();
        assert!(matches!(DiskDir::open(dir.path()), Err(IdentityError::Damaged(_))));
    }
}
