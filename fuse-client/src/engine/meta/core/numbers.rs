//! Inode numbers that the master has reserved for this mount.

/// How many are asked for at a time.
pub const RESERVE: u32 = 8192;

/// Numbers in reserve: those in use, and the range to go on with.
#[derive(Debug, Default)]
pub struct Numbers {
    next: u64,
    end: u64,
    more: Option<(u64, u64)>,
    asking: bool,
}

impl Numbers {
    /// A number that nobody else gives to an inode.
    pub fn take(&mut self) -> Option<u64> {
        if self.next == self.end {
            (self.next, self.end) = self.more.take()?;
        }
        let number = self.next;
        self.next += 1;
        Some(number)
    }

    /// Whether a range should be asked for now. Whoever is told so must call [`Self::asked`].
    pub fn ask(&mut self) -> bool {
        let wanted = self.more.is_none() && !self.asking;
        self.asking |= wanted;
        wanted
    }

    /// The answer: `count` numbers from `first` on, or none.
    pub fn asked(&mut self, range: Option<(u64, u32)>) {
        self.asking = false;
        if let Some((first, count)) = range.filter(|(first, count)| *first != 0 && *count != 0) {
            self.more = Some((first, first.saturating_add(u64::from(count))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_range_is_asked_for_while_one_is_in_use() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.take(), None);
        assert!(numbers.ask() && !numbers.ask(), "one question at a time");
        numbers.asked(Some((10, 2)));
        assert_eq!(numbers.take(), Some(10));
        assert!(numbers.ask());
        numbers.asked(None);
        assert!(numbers.ask(), "an answer without numbers is no answer");
        numbers.asked(Some((50, 1)));
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(11), Some(50), None]);
    }
}
