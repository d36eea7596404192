//! `boot`: whether what was written last may have been lost with the machine's power.
//!
//! The file holds the kernel's id of the start of the machine during which all replicas on the disk were last
//! known to be whole, or says that the server was stopped cleanly, with everything on stable storage.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const NAME: &str = "boot";
const CLEAN: &str = "clean";

/// The mark of one disk.
pub struct BootMark {
    dir: PathBuf,
    boot: String,
    found: Option<String>,
}

impl BootMark {
    /// Reads the mark in a disk's directory. `boot`: the id of the machine's present start; empty where it cannot be had.
    pub fn read(dir: &Path, boot: &str) -> io::Result<Self> {
        let found = match fs::read_to_string(dir.join(NAME)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            r => Some(r?.trim().to_owned()),
        };
        Ok(Self { dir: dir.into(), boot: boot.into(), found })
    }

    /// Whether replicas on the disk (`any`: there are some) may lack what was not on stable storage.
    pub fn is_behind(&self, any: bool) -> bool {
        match self.found.as_deref() {
            Some(CLEAN) => false,
            Some(found) => found != self.boot || found.is_empty(),
            None => any,
        }
    }

    /// All replicas are whole.
    pub fn record(&self) -> io::Result<()> {
        self.write(&self.boot)
    }

    /// Everything is on stable storage, and nothing will be written any more.
    pub fn record_clean(&self) -> io::Result<()> {
        self.write(CLEAN)
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let new = self.dir.join("boot.new");
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, self.dir.join(NAME))?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_of_the_machine_is_noticed_until_everything_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let read = |boot| BootMark::read(dir.path(), boot).unwrap();
        assert!(!read("a").is_behind(false) && read("a").is_behind(true));
        read("a").record().unwrap();
        assert!(!read("a").is_behind(true));
        assert!(read("b").is_behind(true) && read("b").is_behind(true));
        read("b").record().unwrap();
        assert!(!read("b").is_behind(true));
        read("b").record_clean().unwrap();
        assert!(!read("c").is_behind(true));
    }

    #[test]
    fn an_unknown_start_is_never_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let read = || BootMark::read(dir.path(), "").unwrap();
        read().record().unwrap();
        assert!(read().is_behind(true));
    }
}
