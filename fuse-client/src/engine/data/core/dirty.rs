//! What of a file is not yet at the replicas: dirty pieces, pieces being sent, and the rules between them.
//!
//! A piece is sent whole (all its dirty ranges at once); what is written to it meanwhile gathers in a new dirty piece,
//! which waits until the first is acknowledged. So writes that overlap are never in flight together, and the last one wins.

use super::Millis;
use super::piece::Piece;
use super::ranges::Ranges;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// The dirty state of one file.
pub struct Dirty {
    piece_size: u64,
    pieces: BTreeMap<u64, Gathering>,
    sending: BTreeMap<u64, Sending>,
    /// Direct operations on the replicas under way (written through, zeroed): nothing that overlaps is sent.
    busy: Vec<Range<u64>>,
    /// (first write, piece) of everything dirty or being sent.
    order: BTreeSet<(u64, u64)>,
    /// Pieces to be sent, perhaps; looked at again when they are taken.
    ready: VecDeque<u64>,
    /// Numbers the writes.
    writes: u64,
    /// Pieces whose first write is not above this are wanted.
    wanted: u64,
    memory: usize,
    flying: Flying,
}

/// What is being sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flying {
    /// Bytes.
    pub bytes: usize,
    /// Separate writes.
    pub extents: usize,
}

struct Gathering {
    piece: Piece,
    first: u64,
    since: Millis,
}

struct Sending {
    extents: Vec<(u64, Bytes)>,
    first: u64,
    memory: usize,
    bytes: usize,
}

/// A piece to be sent: its number and its dirty ranges as (offset in the file, data).
#[derive(Debug)]
pub struct Job {
    /// The piece's number.
    pub piece: u64,
    /// What to send.
    pub extents: Vec<(u64, Bytes)>,
}

impl Dirty {
    /// Nothing dirty. `piece_size` in bytes, a divisor of the chunk size.
    pub fn new(piece_size: u64) -> Self {
        Self {
            piece_size,
            pieces: BTreeMap::new(),
            sending: BTreeMap::new(),
            busy: Vec::new(),
            order: BTreeSet::new(),
            ready: VecDeque::new(),
            writes: 0,
            wanted: 0,
            memory: 0,
            flying: Flying::default(),
        }
    }

    /// Takes data in. True: a piece became full and is ready to be sent.
    pub fn write(&mut self, offset: u64, data: &[u8], now: Millis) -> bool {
        let mut full = false;
        let mut at = 0;
        while at < data.len() {
            let position = offset + at as u64;
            let number = position / self.piece_size;
            let within = (position % self.piece_size) as usize;
            let n = (self.piece_size as usize - within).min(data.len() - at);
            self.writes += 1;
            full |= self.write_piece(number, within, &data[at..at + n], now);
            at += n;
        }
        full
    }

    fn write_piece(&mut self, number: u64, within: usize, data: &[u8], now: Millis) -> bool {
        let first = self.writes;
        let g = self.pieces.entry(number).or_insert_with(|| {
            self.order.insert((first, number));
            Gathering { piece: Piece::default(), first, since: now }
        });
        let before = g.piece.memory();
        let was_full = g.piece.bytes() as u64 == self.piece_size;
        g.piece.write(self.piece_size as usize, within, data);
        self.memory = self.memory + g.piece.memory() - before;
        let full = !was_full && g.piece.bytes() as u64 == self.piece_size;
        if full {
            self.ready.push_back(number);
        }
        full
    }

    /// Everything dirty now is wanted at the replicas. Returns what [`Self::reached`] is to be asked about.
    pub fn want_all(&mut self) -> u64 {
        self.want(self.writes);
        self.writes
    }

    /// Pieces that began at or before `then` are wanted at the replicas.
    pub fn want_older(&mut self, then: Millis) {
        let newest = self.pieces.values().filter(|g| g.since <= then).map(|g| g.first).max();
        if let Some(newest) = newest {
            self.want(newest);
        }
    }

    fn want(&mut self, upto: u64) {
        let from = self.wanted;
        self.wanted = from.max(upto);
        let newly = self.order.range((from + 1, 0)..(self.wanted + 1, 0)).map(|(_, n)| *n);
        self.ready.extend(newly);
    }

    /// Whether every write up to that number is acknowledged (or dropped).
    pub fn reached(&self, upto: u64) -> bool {
        self.order.first().is_none_or(|(first, _)| *first > upto)
    }

    /// The next piece that may be sent now, if any.
    pub fn take(&mut self) -> Option<Job> {
        for _ in 0..self.ready.len() {
            let number = self.ready.pop_front()?;
            let Some(g) = self.pieces.get(&number) else { continue };
            let full = g.piece.bytes() as u64 == self.piece_size;
            if !full && g.first > self.wanted {
                continue;
            }
            if self.sending.contains_key(&number) {
                // `done` puts it back.
                continue;
            }
            if self.is_busy(self.range_of(number)) {
                // `end_busy` puts it back.
                continue;
            }
            return self.start(number);
        }
        None
    }

    fn start(&mut self, number: u64) -> Option<Job> {
        let g = self.pieces.remove(&number)?;
        let (memory, bytes) = (g.piece.memory(), g.piece.bytes());
        let base = number * self.piece_size;
        let extents: Vec<_> = g.piece.freeze().into_iter().map(|(at, b)| (base + at as u64, b)).collect();
        self.flying.bytes += bytes;
        self.flying.extents += extents.len();
        let job = Job { piece: number, extents: extents.clone() };
        self.sending.insert(number, Sending { extents, first: g.first, memory, bytes });
        Some(job)
    }

    /// A job has ended: acknowledged, or given up. Returns the range of the file that it may have changed.
    pub fn done(&mut self, number: u64) -> Range<u64> {
        if let Some(s) = self.sending.remove(&number) {
            self.memory -= s.memory;
            self.flying.bytes -= s.bytes;
            self.flying.extents -= s.extents.len();
            self.order.remove(&(s.first, number));
        }
        if self.pieces.contains_key(&number) {
            self.ready.push_back(number);
        }
        self.range_of(number)
    }

    /// Forgets dirty bytes in a range (those being sent go on).
    pub fn discard(&mut self, range: Range<u64>) {
        let numbers: Vec<u64> = self
            .pieces
            .range(range.start / self.piece_size..range.end.div_ceil(self.piece_size))
            .map(|(n, _)| *n)
            .collect();
        for number in numbers {
            let base = number * self.piece_size;
            let Some(g) = self.pieces.get_mut(&number) else { continue };
            let before = g.piece.memory();
            let from = range.start.saturating_sub(base) as usize;
            let to = (range.end - base).min(self.piece_size) as usize;
            g.piece.discard(from..to);
            self.memory = self.memory + g.piece.memory() - before;
            if g.piece.is_empty() {
                self.memory -= g.piece.memory();
                self.order.remove(&(g.first, number));
                self.pieces.remove(&number);
            }
        }
    }

    /// Whether something that overlaps is being sent or directly worked on.
    pub fn in_flight(&self, range: Range<u64>) -> bool {
        let numbers = range.start / self.piece_size..range.end.div_ceil(self.piece_size);
        self.sending.range(numbers).any(|(_, s)| {
            s.extents.iter().any(|(at, b)| *at < range.end && range.start < at + b.len() as u64)
        }) || self.is_busy(range)
    }

    /// Whether a direct operation that overlaps is under way.
    pub fn is_busy(&self, range: Range<u64>) -> bool {
        self.busy.iter().any(|b| b.start < range.end && range.start < b.end)
    }

    /// Whether dirty bytes in the range wait to be sent.
    pub fn gathers(&self, range: Range<u64>) -> bool {
        let numbers = range.start / self.piece_size..range.end.div_ceil(self.piece_size);
        self.pieces.range(numbers).any(|(n, g)| {
            let base = n * self.piece_size;
            let from = range.start.saturating_sub(base) as usize;
            let to = (range.end - base).min(self.piece_size) as usize;
            let mut any = false;
            g.piece.visit(from..to, |_, _| any = true);
            any
        })
    }

    /// A direct operation begins; nothing that overlaps is in flight.
    pub fn begin_busy(&mut self, range: Range<u64>) {
        self.busy.push(range);
    }

    /// The direct operation has ended.
    pub fn end_busy(&mut self, range: &Range<u64>) {
        if let Some(i) = self.busy.iter().position(|b| b == range) {
            self.busy.swap_remove(i);
        }
        let numbers = range.start / self.piece_size..range.end.div_ceil(self.piece_size);
        self.ready.extend(self.pieces.range(numbers).map(|(n, _)| *n));
    }

    /// Copies what is dirty or being sent into `out`, which begins at `offset` of the file. Returns the ranges
    /// (in the file) that it did not cover.
    pub fn overlay(&self, offset: u64, out: &mut [u8]) -> Ranges {
        let end = offset + out.len() as u64;
        let mut gaps = Ranges::default();
        gaps.insert(offset..end);
        let numbers = offset / self.piece_size..end.div_ceil(self.piece_size);
        for s in self.sending.range(numbers.clone()).map(|(_, s)| s) {
            let from = s.extents.partition_point(|(at, b)| at + b.len() as u64 <= offset);
            for (at, data) in &s.extents[from..] {
                let (a, b) = ((*at).max(offset), (at + data.len() as u64).min(end));
                if a >= b {
                    break;
                }
                out[(a - offset) as usize..(b - offset) as usize]
                    .copy_from_slice(&data[(a - at) as usize..(b - at) as usize]);
                gaps.remove(a..b);
            }
        }
        for (n, g) in self.pieces.range(numbers) {
            let base = n * self.piece_size;
            let from = offset.saturating_sub(base) as usize;
            let to = (end - base).min(self.piece_size) as usize;
            g.piece.visit(from..to, |at, data| {
                let a = base + at as u64;
                let i = (a - offset) as usize;
                out[i..i + data.len()].copy_from_slice(data);
                gaps.remove(a..a + data.len() as u64);
            });
        }
        gaps
    }

    /// Whether anything in the range is dirty or being sent.
    pub fn touches(&self, range: Range<u64>) -> bool {
        let numbers = range.start / self.piece_size..range.end.div_ceil(self.piece_size);
        self.pieces.range(numbers.clone()).next().is_some() || self.sending.range(numbers).next().is_some()
    }

    /// For each piece that is wanted, or will be by the next `want_all`: its first byte, and how many writes it takes.
    pub fn gathering(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        self.pieces.iter().map(|(n, g)| (n * self.piece_size, g.piece.extents()))
    }

    /// Nothing is dirty or being sent.
    pub fn is_clean(&self) -> bool {
        self.order.is_empty()
    }

    /// Dirty bytes, those being sent included.
    pub fn bytes(&self) -> u64 {
        self.flying.bytes as u64 + self.pieces.values().map(|g| g.piece.bytes() as u64).sum::<u64>()
    }

    /// Memory held, bytes.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// What is being sent.
    pub fn flying(&self) -> Flying {
        self.flying
    }

    fn range_of(&self, number: u64) -> Range<u64> {
        number * self.piece_size..(number + 1) * self.piece_size
    }
}
