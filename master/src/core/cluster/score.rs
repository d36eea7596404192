//! Which server gets a new copy of a chunk.

use cairn_proto::ServerId;

/// What counts how much; only their relation matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Free space, compared with the server that has most.
    pub free: u32,
    /// Little load, that of copies under way included.
    pub load: u32,
    /// A short round trip to the master.
    pub rtt: u32,
    /// The rack of the server that sends the copy.
    pub rack: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { free: 40, load: 30, rtt: 20, rack: 10 }
    }
}

/// A server that could take the copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    pub(super) id: ServerId,
    pub(super) rack: &'a str,
    pub(super) free_bytes: u64,
    /// Others are to get what is new, where there are others.
    pub(super) is_full: bool,
    /// Of one core.
    pub(super) load_permille: u64,
    /// Copies that it is sending or receiving.
    pub(super) copies: usize,
    pub(super) rtt_us: u64,
}

/// Load that a copy under way counts as, in thousandths of a core.
const COPY_PERMILLE: u64 = 250;

/// The best of `choices`; equal ones by chance. One on a rack that is none of `taken` if there is such a one: copies never
/// stand on one rack where there are two. Of those one that is not full, if there is such a one.
pub(super) fn best(
    choices: &[Choice<'_>],
    weights: Weights,
    (source, taken): (&str, &[&str]),
    random: &mut dyn FnMut() -> u64,
) -> Option<ServerId> {
    let elsewhere: Vec<_> = choices.iter().copied().filter(|c| !taken.contains(&c.rack)).collect();
    let from = if elsewhere.is_empty() { choices } else { &elsewhere };
    let roomy: Vec<_> = from.iter().copied().filter(|c| !c.is_full).collect();
    let from = if roomy.is_empty() { from } else { &roomy };
    let most = |of: &dyn Fn(&Choice<'_>) -> u64| from.iter().map(of).max().unwrap_or(0);
    let load = |c: &Choice<'_>| c.load_permille.saturating_add(c.copies as u64 * COPY_PERMILLE);
    let (free, loaded, slow) = (most(&|c| c.free_bytes), most(&load), most(&|c| c.rtt_us));
    let score = |c: &Choice<'_>| {
        u64::from(weights.free) * permille(c.free_bytes, free)
            + u64::from(weights.load) * (1_000 - permille(load(c), loaded.max(1_000)))
            + u64::from(weights.rtt) * (1_000 - permille(c.rtt_us, slow.max(1_000)))
            + u64::from(weights.rack) * if c.rack == source { 1_000 } else { 0 }
    };
    from.iter().map(|c| (score(c), random(), c.id)).max().map(|(_, _, id)| id)
}

/// `part` in thousandths of `whole`, which is not less.
pub(super) fn permille(part: u64, whole: u64) -> u64 {
    let permille = u128::from(part) * 1_000 / u128::from(whole.max(1));
    u64::try_from(permille).map_or(1_000, |p| p.min(1_000))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn choice(id: u32) -> Choice<'static> {
        let (free_bytes, load_permille) = (100 << 30, 100);
        let is_full = false;
        Choice { id: ServerId(id), rack: "a", free_bytes, is_full, load_permille, copies: 0, rtt_us: 200 }
    }

    fn chosen(choices: &[Choice<'_>], weights: Weights, racks: (&str, &[&str])) -> u32 {
        best(choices, weights, racks, &mut || 0).unwrap().0
    }

    const NOWHERE: (&str, &[&str]) = ("", &[]);

    #[test]
    fn each_weight_decides_where_the_rest_is_equal() {
        let w = Weights::default();
        let less_free = Choice { free_bytes: 50 << 30, ..choice(2) };
        assert_eq!(chosen(&[choice(1), less_free], w, NOWHERE), 1);
        let loaded = Choice { load_permille: 3_000, ..choice(2) };
        assert_eq!(chosen(&[choice(1), loaded], w, NOWHERE), 1);
        let busy = Choice { copies: 5, ..choice(2) };
        assert_eq!(chosen(&[choice(1), busy], w, NOWHERE), 1);
        let far = Choice { rtt_us: 90_000, ..choice(2) };
        assert_eq!(chosen(&[choice(1), far], w, NOWHERE), 1);
        let near = Choice { rack: "b", ..choice(1) };
        assert_eq!(chosen(&[near, choice(2)], w, ("b", &[])), 1);
    }

    #[test]
    fn a_full_one_only_where_there_is_no_other() {
        let full = Choice { is_full: true, ..choice(1) };
        let poor = Choice { free_bytes: 1, load_permille: 9_000, ..choice(2) };
        assert_eq!(chosen(&[full, poor], Weights::default(), NOWHERE), 2);
        assert_eq!(chosen(&[full], Weights::default(), NOWHERE), 1);
    }

    #[test]
    fn the_weights_can_turn_it_round() {
        let roomy = Choice { load_permille: 4_000, ..choice(1) };
        let idle = Choice { free_bytes: 10 << 30, load_permille: 0, ..choice(2) };
        let free_only = Weights { free: 100, load: 0, rtt: 0, rack: 0 };
        let load_only = Weights { free: 0, load: 100, rtt: 0, rack: 0 };
        assert_eq!(chosen(&[roomy, idle], free_only, NOWHERE), 1);
        assert_eq!(chosen(&[roomy, idle], load_only, NOWHERE), 2);
    }

    #[test]
    fn no_two_copies_on_one_rack_where_there_are_two() {
        let poor = Choice { rack: "b", free_bytes: 1, load_permille: 9_000, rtt_us: 1_000_000, ..choice(9) };
        assert_eq!(chosen(&[choice(1), choice(2), poor], Weights::default(), ("a", &["a"])), 9);
        assert_eq!(chosen(&[choice(1), poor], Weights::default(), ("a", &["a", "b"])), 1);
    }

    #[test]
    fn equal_ones_take_turns_and_nobody_is_nobody() {
        let mut n = 0;
        let mut random = || {
            n += 1;
            cairn_proto::digest::replica_hash(n, 0)
        };
        let two = [choice(1), choice(2)];
        let all: BTreeSet<_> =
            (0..50).filter_map(|_| best(&two, Weights::default(), NOWHERE, &mut random)).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(best(&[], Weights::default(), NOWHERE, &mut random), None);
    }
}
