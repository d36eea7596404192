//! Which replica to read from first.

/// What is known of a replica's server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the in-sync set.
    pub index: usize,
    /// On this machine.
    pub local: bool,
    /// Not connected, and the time for the next attempt has not come.
    pub broken: bool,
    /// It was slow or silent a short while ago.
    pub suspect: bool,
    /// Requests that it has not answered.
    pub outstanding: usize,
}

/// Requests outstanding on a machine's own server before another machine's idle one is asked instead.
const LOCAL_QUEUE: usize = 16;

/// Sorts candidates, the best first: working before suspect before broken, near before far, then the least
/// loaded; `turn` (any number, another one each time) decides between equals.
pub fn rank(candidates: &mut [Candidate], turn: usize) {
    let n = candidates.len().max(1);
    candidates.sort_by_key(|c| {
        let far = !(c.local && c.outstanding < LOCAL_QUEUE);
        (c.broken, c.suspect, far, c.outstanding, (c.index + turn) % n)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(index: usize) -> Candidate {
        Candidate { index, local: false, broken: false, suspect: false, outstanding: 0 }
    }

    fn order(mut c: Vec<Candidate>, turn: usize) -> Vec<usize> {
        rank(&mut c, turn);
        c.iter().map(|c| c.index).collect()
    }

    #[test]
    fn near_then_idle_and_the_broken_last() {
        let mut c: Vec<_> = (0..4).map(candidate).collect();
        c[0].broken = true;
        c[1].outstanding = 3;
        c[2].suspect = true;
        c[3].local = true;
        c[3].outstanding = 5;
        assert_eq!(order(c, 0), [3, 1, 2, 0]);
    }

    #[test]
    fn equals_take_turns() {
        let c: Vec<_> = (0..3).map(candidate).collect();
        let firsts: Vec<_> = (0..3).map(|turn| order(c.clone(), turn)[0]).collect();
        assert_eq!(firsts, [0, 2, 1]);
    }
}
