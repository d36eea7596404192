//! Whether the in-sync replicas of a quiet chunk hold the same.

/// What a replica says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its epoch.
    pub epoch: u64,
    /// Of the last write that it has applied.
    pub seq: u64,
    /// The digest of its block table.
    pub digest: u64,
}

/// The members that differ from the primary; `None`: they cannot be compared, as one of them is ahead or behind (then a
/// write or a change of epoch came in between, and it is asked again when the chunk is quiet).
pub fn differing(primary: Said, members: &[(u32, Said)]) -> Option<Vec<u32>> {
    let comparable = |s: &Said| (s.epoch, s.seq) == (primary.epoch, primary.seq);
    let all = members.iter().all(|(_, s)| comparable(s));
    let differ = || members.iter().filter(|(_, s)| s.digest != primary.digest).map(|(id, _)| *id).collect();
    all.then(differ)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_count_only_at_the_same_epoch_and_seq() {
        let said = |epoch, seq, digest| Said { epoch, seq, digest };
        let p = said(2, 9, 5);
        assert_eq!(differing(p, &[(7, p), (8, p)]), Some(vec![]));
        assert_eq!(differing(p, &[(7, p), (8, said(2, 9, 6))]), Some(vec![8]));
        assert_eq!(differing(p, &[(7, said(2, 8, 5)), (8, said(2, 9, 6))]), None);
        assert_eq!(differing(p, &[(7, said(3, 9, 5))]), None);
        assert_eq!(differing(p, &[]), Some(vec![]));
    }
}
