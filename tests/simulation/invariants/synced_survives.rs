//! What was acknowledged as synced survives everything, the loss of power of all servers at once included.
//!
//! From `docs/design.md`, section 4, "Journal", and section 5: fsync is fdatasync on every in-sync replica.

use super::register::{Read, Register};

pub fn check(register: &Register, last: &Read) -> Result<(), String> {
    match register.overlooked(last) {
        Some(write) if write.synced.is_some() => {
            Err(format!("{}: {write:?}, synced, is lost; in its place is {}", register.name, last.value))
        }
        _ => Ok(()),
    }
}
