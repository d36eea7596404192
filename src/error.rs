//! How a command fails: what is said and the exit code.

/// A command's failure; its text says what is wrong and, where there is one, the mend.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Failure {
    /// The command line, an environment variable or the configuration file makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The machine, the network or the cluster.
    #[error("{0}")]
    System(String),
    /// A check found damage.
    #[error("{0}")]
    Damaged(String),
    /// A file system could not be mounted or unmounted.
    #[error("{0}")]
    Mount(String),
}

impl Failure {
    /// The exit code, as mount(8) and fsck(8) have them.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 1,
            Self::System(_) => 2,
            Self::Damaged(_) => 4,
            Self::Mount(_) => 32,
        }
    }

    /// The failure with this exit code.
    pub fn from_code(code: u8, text: String) -> Self {
        match code {
            1 => Self::Usage(text),
            4 => Self::Damaged(text),
            32 => Self::Mount(text),
            _ => Self::System(text),
        }
    }

    /// A system failure: what was tried, and why it failed.
    pub fn system(what: impl std::fmt::Display, why: &(dyn std::error::Error + 'static)) -> Self {
        Self::System(format!("{what}: {}", chain(why)))
    }
}

/// An error with everything that caused it, on one line; a cause that its parent already told is not repeated.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
