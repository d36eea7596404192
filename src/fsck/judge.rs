//! What the replicas of a chunk say, against what the master's record says. Pure.

use cairn_proto::rpc::{ChunkInfo, VerifyReply};

use super::finding::{Finding, Kind};

/// What one server of the in-sync set said.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It said this.
    Said(VerifyReply),
    /// Its disk could not be read.
    Unreadable(String),
    /// It did not answer.
    Unreachable(String),
}

/// What follows from the answers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// It is so, whatever comes later.
    pub certain: Vec<Finding>,
    /// It is so unless the chunk was in motion: to be looked at again.
    pub doubtful: Vec<Finding>,
    /// The replicas' seqs differ, as they do while a chunk is being written.
    pub moving: bool,
}

/// Blocks that are named one by one.
const NAMED: usize = 8;

fn bad_blocks(bad: &[u32]) -> String {
    let named: Vec<String> = bad.iter().take(NAMED).map(u32::to_string).collect();
    let more = if bad.len() > NAMED { format!(" and {} more", bad.len() - NAMED) } else { String::new() };
    format!("block(s) {}{more}", named.join(", "))
}

fn finding(info: &ChunkInfo, kind: Kind, server: u32, detail: String) -> Finding {
    let ChunkInfo { inode, index, chunk, .. } = *info;
    Finding { inode, index, chunk, server, ..Finding::new(kind, detail) }
}

/// Judges one chunk.
pub fn judge(info: &ChunkInfo, answers: &[(u32, Answer)]) -> Verdict {
    let mut verdict = Verdict::default();
    let about = |kind, server, detail: String| finding(info, kind, server, detail);
    if (info.in_sync.len() as u32) < info.wanted {
        let detail = format!("{} of {}", info.in_sync.len(), info.wanted);
        verdict.doubtful.push(about(Kind::FewCopies, 0, detail));
    }
    let said =
        || answers.iter().filter_map(|(s, a)| if let Answer::Said(r) = a { Some((*s, r)) } else { None });
    // A chunk is made at its servers by the first write: before that it is zeros, and nobody has it.
    let unborn = info.epoch == 1 && said().count() == answers.len() && said().all(|(_, r)| !r.exists);
    if unborn {
        return verdict;
    }
    for (server, answer) in answers {
        match answer {
            Answer::Unreachable(why) => {
                verdict.doubtful.push(about(Kind::Unreachable, *server, why.clone()));
            }
            Answer::Unreadable(why) => verdict.doubtful.push(about(Kind::Unreadable, *server, why.clone())),
            Answer::Said(r) => {
                if !r.bad.is_empty() {
                    verdict.certain.push(about(Kind::BadBlocks, *server, bad_blocks(&r.bad)));
                }
                if !r.exists {
                    verdict.doubtful.push(about(Kind::Missing, *server, String::new()));
                } else if r.epoch != info.epoch {
                    let detail = format!("{} instead of {}", r.epoch, info.epoch);
                    verdict.doubtful.push(about(Kind::Epoch, *server, detail));
                } else if r.unclean && r.bad.is_empty() {
                    verdict.doubtful.push(about(Kind::Unclean, *server, String::new()));
                }
            }
        }
    }
    compare(
        info,
        &said().filter(|(_, r)| r.exists && r.epoch == info.epoch).collect::<Vec<_>>(),
        &mut verdict,
    );
    verdict
}

/// Compares the replicas that are what the record says.
fn compare(info: &ChunkInfo, replicas: &[(u32, &VerifyReply)], verdict: &mut Verdict) {
    let about = |kind, server, detail: String| finding(info, kind, server, detail);
    let highest = replicas.iter().map(|(_, r)| r.seq).max().unwrap_or(0);
    for (server, r) in replicas.iter().filter(|(_, r)| r.seq < highest) {
        verdict.moving = true;
        verdict.doubtful.push(about(Kind::Behind, *server, format!("seq {} of {highest}", r.seq)));
    }
    // One whose bad blocks are known differs for that reason.
    let level: Vec<_> =
        replicas.iter().filter(|(_, r)| r.seq == highest && r.bad.is_empty() && !r.unclean).collect();
    let Some((_, first)) = level.first() else { return };
    if level.iter().any(|(_, r)| r.digest != first.digest) {
        let told: Vec<_> = level.iter().map(|(s, r)| format!("server {s}: {:016x}", r.digest)).collect();
        verdict.doubtful.push(about(Kind::Differ, 0, told.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> ChunkInfo {
        ChunkInfo { chunk: 9, epoch: 2, in_sync: vec![1, 2, 3], wanted: 3, inode: 5, index: 0 }
    }

    fn good() -> VerifyReply {
        VerifyReply { exists: true, epoch: 2, seq: 7, digest: 42, ..VerifyReply::default() }
    }

    type Short = Vec<(Kind, u32)>;

    fn kinds(third: Answer) -> (Short, Short, bool) {
        let answers = [(1, Answer::Said(good())), (2, Answer::Said(good())), (3, third)];
        let verdict = judge(&info(), &answers);
        let short = |f: &[Finding]| f.iter().map(|f| (f.kind, f.server)).collect();
        (short(&verdict.certain), short(&verdict.doubtful), verdict.moving)
    }

    #[test]
    fn equal_replicas_are_well() {
        assert_eq!(kinds(Answer::Said(good())), (vec![], vec![], false));
    }

    #[test]
    fn what_is_wrong_with_one_replica_is_told_of_that_one() {
        let doubtful = |third: Answer| kinds(third).1;
        assert_eq!(doubtful(Answer::Said(VerifyReply::default())), [(Kind::Missing, 3)]);
        assert_eq!(doubtful(Answer::Said(VerifyReply { epoch: 1, ..good() })), [(Kind::Epoch, 3)]);
        assert_eq!(doubtful(Answer::Said(VerifyReply { unclean: true, ..good() })), [(Kind::Unclean, 3)]);
        assert_eq!(doubtful(Answer::Said(VerifyReply { digest: 1, ..good() })), [(Kind::Differ, 0)]);
        assert_eq!(doubtful(Answer::Unreachable("refused".into())), [(Kind::Unreachable, 3)]);
        assert_eq!(doubtful(Answer::Unreadable("EIO".into())), [(Kind::Unreadable, 3)]);
        let behind = kinds(Answer::Said(VerifyReply { seq: 6, digest: 1, ..good() }));
        assert_eq!(behind, (vec![], vec![(Kind::Behind, 3)], true));
    }

    #[test]
    fn a_bad_block_is_certain_and_explains_the_difference() {
        let bad = VerifyReply { bad: vec![4], unclean: true, digest: 1, ..good() };
        assert_eq!(kinds(Answer::Said(bad)), (vec![(Kind::BadBlocks, 3)], vec![], false));
    }

    #[test]
    fn a_chunk_that_was_never_written_is_nowhere() {
        let nowhere: Vec<_> = (1..=3).map(|s| (s, Answer::Said(VerifyReply::default()))).collect();
        let fresh = ChunkInfo { epoch: 1, ..info() };
        assert_eq!(judge(&fresh, &nowhere), Verdict::default());
        assert_eq!(judge(&info(), &nowhere).doubtful.len(), 3, "at a later epoch it had been written");
    }

    #[test]
    fn a_small_set_is_told() {
        let few = ChunkInfo { in_sync: vec![1, 2], ..info() };
        let answers = [(1, Answer::Said(good())), (2, Answer::Said(good()))];
        assert_eq!(judge(&few, &answers).doubtful[0].kind, Kind::FewCopies);
    }
}
