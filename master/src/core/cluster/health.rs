//! How well a chunkserver is, as one number.

use super::node_states::State;

/// What the number is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    pub(super) state: State,
    /// What heartbeats take beyond their interval: mean and mean deviation, in thousandths of the interval.
    pub(super) late_permille: u64,
    /// How often it was suspected in the last while.
    pub(super) suspicions: u32,
    /// Disks, and those of them that have failed.
    pub(super) disks: (usize, usize),
    /// Space in use, in thousandths.
    pub(super) used_permille: u64,
    /// Of one core.
    pub(super) load_permille: u64,
}

/// From 0, useless, to 1000, nothing is the matter. A server that is dead has 0, one that is suspected at most 500.
pub(super) fn health(of: Signs) -> u32 {
    let most: u64 = match of.state {
        State::Dead => return 0,
        State::Suspected | State::Joining => 500,
        State::Alive | State::Draining | State::Maintenance => 1_000,
    };
    let late = of.late_permille.min(1_000) / 4;
    let suspicions = u64::from(of.suspicions).saturating_mul(50).min(250);
    let (disks, failed) = of.disks;
    let failed = if disks == 0 { 0 } else { failed as u64 * 500 / disks as u64 };
    let full = of.used_permille.saturating_sub(850).min(150);
    // A process with more work than four cores do is busy.
    let load = of.load_permille.saturating_sub(4_000).min(4_000) / 40;
    let matter = late + suspicions + failed + full + load;
    u32::try_from(most.saturating_sub(matter)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Signs = Signs {
        state: State::Alive,
        late_permille: 0,
        suspicions: 0,
        disks: (2, 0),
        used_permille: 500,
        load_permille: 700,
    };

    #[test]
    fn each_sign_takes_something_off() {
        assert_eq!(health(WELL), 1_000);
        assert_eq!(health(Signs { late_permille: 400, ..WELL }), 900);
        assert_eq!(health(Signs { suspicions: 2, ..WELL }), 900);
        assert_eq!(health(Signs { disks: (2, 1), ..WELL }), 750);
        assert_eq!(health(Signs { used_permille: 950, ..WELL }), 900);
        assert_eq!(health(Signs { load_permille: 8_000, ..WELL }), 900);
        assert_eq!(health(Signs { state: State::Suspected, ..WELL }), 500);
        assert_eq!(health(Signs { state: State::Dead, ..WELL }), 0);
    }

    #[test]
    fn everything_at_once_is_not_below_nothing() {
        let all = Signs {
            state: State::Suspected,
            late_permille: u64::MAX,
            suspicions: u32::MAX,
            disks: (1, 1),
            used_permille: u64::MAX,
            load_permille: u64::MAX,
        };
        assert_eq!(health(all), 0);
    }
}
