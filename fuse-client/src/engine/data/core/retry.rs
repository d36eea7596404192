//! What an answer, or its absence, means for a request.

use cairn_proto::data::Status;
use cairn_proto::rpc::Failure;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered.
    Answered(Status),
    /// No connection: refused, reset, or lost with the answer outstanding.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// The answer's data does not match its checksums.
    Mismatch,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is done.
    Done,
    /// The location is out of date: ask the master for it, then at once again.
    Relocate,
    /// It will pass: wait, ask the master for the location, then again.
    Wait,
    /// The replica is at fault: tell the master, go on with the location that it answers.
    Report(Failure),
    /// No further attempt can succeed.
    Fail(Fatal),
}

/// Why no further attempt can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// The chunkservers are full.
    NoSpace,
    /// The session has been fenced.
    Fenced,
    /// The server does not understand the request.
    Protocol,
}

/// The rule, for requests to one certain replica (writes to the primary).
pub fn next(outcome: Outcome) -> Step {
    match outcome {
        Outcome::Unreachable => Step::Report(Failure::Unreachable),
        Outcome::TimedOut => Step::Report(Failure::TimedOut),
        Outcome::Mismatch => Step::Report(Failure::Corrupt),
        Outcome::Answered(status) => match status {
            Status::Ok => Step::Done,
            Status::StaleEpoch | Status::NotPrimary => Step::Relocate,
            // The chunk may have been dropped and made anew since it was located.
            Status::NoChunk => Step::Wait,
            Status::Behind | Status::NotServing | Status::Busy | Status::Garbled | Status::MemberFailed => {
                Step::Wait
            }
            Status::NoSpace => Step::Fail(Fatal::NoSpace),
            Status::DiskError => Step::Report(Failure::BadDisk),
            Status::Corrupt => Step::Report(Failure::Corrupt),
            Status::BadRequest => Step::Fail(Fatal::Protocol),
            Status::Fenced => Step::Fail(Fatal::Fenced),
        },
    }
}

/// Whether the answer, to a read, says that the server has never heard of the chunk: `epoch` is the reply's. When all
/// of the in-sync set say so, nothing was ever acknowledged, and the chunk reads as zeros.
pub fn is_unborn(status: Status, epoch: u32) -> bool {
    match status {
        Status::NoChunk => true,
        Status::Behind => epoch == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hopeless_fails() {
        let fatal: Vec<_> = (0..14)
            .filter_map(Status::from_u32)
            .filter(|s| matches!(next(Outcome::Answered(*s)), Step::Fail(_)))
            .collect();
        assert_eq!(fatal, [Status::NoSpace, Status::BadRequest, Status::Fenced]);
        assert_eq!(next(Outcome::Answered(Status::Ok)), Step::Done);
    }

    #[test]
    fn a_chunk_below_the_asked_epoch_is_not_unborn() {
        assert!(is_unborn(Status::Behind, 0) && is_unborn(Status::NoChunk, 0));
        assert!(!is_unborn(Status::Behind, 3) && !is_unborn(Status::Ok, 0));
    }
}
