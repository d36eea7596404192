//! A read returns the value of a write that is not overwritten by one that had been acknowledged before the
//! read began; and what one read has seen, a later one does not unsee.
//!
//! From promise 2 ("the last finished write is what a read sees, on any mount") and `docs/design.md`, section 3,
//! "Coherence".

use super::register::{Read, Register};

pub fn check(register: &Register) -> Result<(), String> {
    for read in &register.reads {
        if register.is_foreign(read) {
            return Err(format!("{}: nobody has written what {read:?} returns", register.name));
        }
        if let Some(write) = register.overlooked(read) {
            return Err(format!("{}: {read:?} does not see {write:?}", register.name));
        }
    }
    unseen(register)
}

/// Two reads that begin when the writes of what they return are both complete return the same. (While a write
/// is under way some replicas have it and some have not.)
fn unseen(register: &Register) -> Result<(), String> {
    let complete = |r: &&Read| register.source(r.value).and_then(|w| w.end).is_some_and(|end| end < r.start);
    let reads: Vec<_> = register.reads.iter().filter(|r| r.value != 0).filter(complete).collect();
    for (i, a) in reads.iter().enumerate() {
        for b in &reads[i + 1..] {
            let both = a.start.min(b.start);
            let over = |r: &Read| register.source(r.value).and_then(|w| w.end).is_some_and(|e| e < both);
            let dark = register.blackouts.iter().any(|t| both <= *t && *t <= a.end.max(b.end));
            if a.value != b.value && over(a) && over(b) && !dark {
                return Err(format!("{}: {a:?} and {b:?} disagree", register.name));
            }
        }
    }
    Ok(())
}
