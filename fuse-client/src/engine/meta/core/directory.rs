//! What is known of a directory as a whole, and when to read it ahead.

use bytes::Bytes;

/// Lookups that missed the cache before a directory is read ahead.
const MISSES_BEFORE_READING: u32 = 3;
/// Entries in a page that is read ahead.
pub const PAGE: u32 = 1000;
/// No more of a directory than this is read ahead.
const MOST_ENTRIES: u32 = 100_000;
/// Times a page is asked for again because the directory changed meanwhile.
const MOST_DISCARDED: u32 = 8;

/// Read-ahead of one directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    /// All its names are in the cache: what is not there does not exist.
    pub(super) complete: bool,
    misses: u32,
    /// Everything up to this name has been read.
    cursor: Bytes,
    entries: u32,
    /// Names up to the cursor; of all of it, where it is complete.
    names: u64,
    discarded: u32,
    reading: bool,
    done: bool,
}

/// What to read ahead: pages from the first name > `after`, at most `pages` of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAhead {
    /// Where to begin.
    pub after: Bytes,
    /// How many pages.
    pub pages: u32,
}

impl Directory {
    /// A lookup in it had to ask. The more of them, the more is read ahead at a time, so that three names of a
    /// huge directory do not cost the whole of it.
    pub(super) fn missed(&mut self) -> Option<ReadAhead> {
        self.misses = self.misses.saturating_add(1);
        if self.misses < MISSES_BEFORE_READING || self.reading || self.done || self.complete {
            return None;
        }
        self.reading = true;
        Some(ReadAhead { after: self.cursor.clone(), pages: self.misses })
    }

    /// A page was read and is in the cache up to `last`.
    pub(super) fn page_read(&mut self, last: Option<Bytes>, entries: u32, end: bool) {
        self.entries = self.entries.saturating_add(entries);
        self.names += u64::from(entries);
        if let Some(last) = last {
            self.cursor = last;
        }
        self.complete |= end;
        self.done |= end || self.entries >= MOST_ENTRIES;
    }

    /// An own change has made a name (or taken it away). What lies behind the cursor will be read as it is then.
    pub(super) fn name_changed(&mut self, name: &[u8], made: bool) {
        if self.complete || name <= &*self.cursor {
            self.names = if made { self.names + 1 } else { self.names.saturating_sub(1) };
        }
    }

    /// Whether it is known to have no names.
    pub(super) fn is_empty(&self) -> bool {
        self.complete && self.names == 0
    }

    /// A page could not be kept because the directory changed while it was read. False: do not try again.
    pub(super) fn page_discarded(&mut self) -> bool {
        self.discarded += 1;
        self.done |= self.discarded >= MOST_DISCARDED;
        !self.done
    }

    /// Whether a page that begins behind `after` is the next one.
    pub(super) fn continues_at(&self, after: &[u8]) -> bool {
        !self.done && self.cursor == after
    }

    /// Everything up to this name has been read.
    pub(super) fn cursor(&self) -> Bytes {
        self.cursor.clone()
    }

    /// The reading ended (all pages read, or an error).
    pub(super) fn reading_ended(&mut self) {
        self.reading = false;
    }

    /// Whether more should be read.
    pub(super) fn wants_more(&self) -> bool {
        !self.done
    }

    /// Entries of it were dropped from the cache.
    pub(super) fn entries_lost(&mut self) {
        *self = Self { reading: self.reading, discarded: self.discarded, done: true, ..Self::default() };
    }
}
