//! What a drill does: a load on a mount, faults, and how long they made it wait.

pub mod fault;
pub mod load;
pub mod report;
