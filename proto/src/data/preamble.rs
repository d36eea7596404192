//! The first bytes on a data connection: who speaks, to which cluster, in which version.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: &[u8; 8] = b"CAIRNDAT";
const PREAMBLE: usize = 48;
const GREETING: usize = 32;

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A mount or another client; the id is its session.
    Client,
    /// A chunkserver; the id is its own.
    Server,
}

/// What the connecting side says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// Who connects.
    pub role: Role,
    /// The cluster it believes to speak to.
    pub cluster: [u8; 16],
    /// Session or server id.
    pub id: u64,
}

/// What the accepting chunkserver answers, when it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The cluster it belongs to.
    pub cluster: [u8; 16],
    /// Its id.
    pub server: u32,
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum PreambleError {
    /// The other side closed, or the connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Not this protocol.
    #[error("not a CairnFS data connection")]
    Magic,
    /// Another version of it.
    #[error("protocol version {0}, expected {expected}", expected = crate::PROTOCOL)]
    Version(u32),
    /// A role that there is not.
    #[error("unknown role {0}")]
    Role(u8),
}

fn version(b: &[u8]) -> Result<(), PreambleError> {
    if &b[..8] != MAGIC {
        return Err(PreambleError::Magic);
    }
    let version = u32::from_le_bytes([b[8], b[9], b[10], b[11]]);
    if version != crate::PROTOCOL {
        return Err(PreambleError::Version(version));
    }
    Ok(())
}

impl Preamble {
    /// Sends it.
    pub async fn send(&self, to: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        let mut b = [0; PREAMBLE];
        b[..8].copy_from_slice(MAGIC);
        b[8..12].copy_from_slice(&crate::PROTOCOL.to_le_bytes());
        b[12] = self.role as u8;
        b[16..32].copy_from_slice(&self.cluster);
        b[32..40].copy_from_slice(&self.id.to_le_bytes());
        to.write_all(&b).await
    }

    /// Receives it. Put a time limit around this: a silent peer must not hold a connection.
    pub async fn receive(from: &mut (impl AsyncRead + Unpin)) -> Result<Self, PreambleError> {
        let mut b = [0; PREAMBLE];
        from.read_exact(&mut b).await?;
        version(&b)?;
        let role = match b[12] {
            0 => Role::Client,
            1 => Role::Server,
            other => return Err(PreambleError::Role(other)),
        };
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&b[16..32]);
        let mut id = [0; 8];
        id.copy_from_slice(&b[32..40]);
        Ok(Self { role, cluster, id: u64::from_le_bytes(id) })
    }
}

impl Greeting {
    /// Sends it.
    pub async fn send(&self, to: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        let mut b = [0; GREETING];
        b[..8].copy_from_slice(MAGIC);
        b[8..12].copy_from_slice(&crate::PROTOCOL.to_le_bytes());
        b[12..16].copy_from_slice(&self.server.to_le_bytes());
        b[16..32].copy_from_slice(&self.cluster);
        to.write_all(&b).await
    }

    /// Receives it.
    pub async fn receive(from: &mut (impl AsyncRead + Unpin)) -> Result<Self, PreambleError> {
        let mut b = [0; GREETING];
        from.read_exact(&mut b).await?;
        version(&b)?;
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&b[16..32]);
        Ok(Self { cluster, server: u32::from_le_bytes([b[12], b[13], b[14], b[15]]) })
    }
}
