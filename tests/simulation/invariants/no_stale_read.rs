//! A read returns the value of a write that is not overwritten by one that had been acknowledged before the
//! read began; and what one read has seen, a later one does not unsee.
//!
//! From promise 2 ("the last finished write is what a read sees, on any mount") and `docs/design.md`, section 3,
//! "Coherence". Gibbons and Korach, "Testing shared memories", 1997: a register whose written values differ is atomic
//! if no value is read before and after another one that was complete in between.

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

fn unseen(register: &Register) -> Result<(), String> {
    let none_between = |a: &Read, b: &Read| !register.blackouts.iter().any(|t| a.start <= *t && *t <= b.end);
    for b in register.reads.iter().filter(|r| r.value != 0) {
        let done = register.writes.iter().filter(|w| w.value == b.value).filter_map(|w| w.end);
        let seen = register.reads.iter().filter(|r| r.value == b.value).map(|r| r.end);
        let Some(complete) = done.chain(seen).min() else { continue };
        let between = |a: &&Read| a.value != b.value && a.start > complete && a.end < b.start;
        if let Some(a) = register.reads.iter().filter(between).find(|a| none_between(a, b)) {
            return Err(format!("{}: {b:?} returns what {a:?} had seen overwritten", register.name));
        }
    }
    Ok(())
}
