//! The dirty bytes of one piece of a file: an aligned stretch of at most 1 MiB.
//!
//! A piece begins as a few small fragments, so that scattered small writes cost what they weigh, and becomes
//! one pooled buffer when it grows. Either way exactly the written ranges are sent.

use super::ranges::Ranges;
use bytes::Bytes;
use cairn_proto::data::Buffer;
use std::ops::Range;

/// Bytes of fragments above which a piece becomes one buffer.
const SMALL: usize = 64 << 10;
/// What a fragment costs beside its bytes.
const OVERHEAD: usize = 96;

/// The dirty bytes of a piece. All offsets are relative to its start.
pub struct Piece {
    content: Content,
}

enum Content {
    /// Sorted; they neither overlap nor touch.
    Fragments(Vec<Fragment>),
    Whole {
        buffer: Buffer,
        dirty: Ranges,
    },
}

struct Fragment {
    at: usize,
    bytes: Vec<u8>,
}

impl Fragment {
    fn end(&self) -> usize {
        self.at + self.bytes.len()
    }

    fn range(&self) -> Range<u64> {
        self.at as u64..self.end() as u64
    }
}

impl Default for Piece {
    /// Nothing is dirty yet.
    fn default() -> Self {
        Self { content: Content::Fragments(Vec::new()) }
    }
}

impl Piece {
    /// Writes at `at`. `size` is the piece's length, which the data does not exceed.
    pub fn write(&mut self, size: usize, at: usize, data: &[u8]) {
        if let Content::Fragments(fragments) = &mut self.content {
            let held: usize = fragments.iter().map(|f| f.bytes.len() + OVERHEAD).sum();
            if held + data.len() <= SMALL {
                return write_fragment(fragments, at, data);
            }
            self.make_whole(size);
        }
        if let Content::Whole { buffer, dirty } = &mut self.content {
            buffer.as_mut_slice()[at..at + data.len()].copy_from_slice(data);
            dirty.insert(at as u64..(at + data.len()) as u64);
        }
    }

    fn make_whole(&mut self, size: usize) {
        let Content::Fragments(fragments) = &self.content else { return };
        let mut buffer = Buffer::new(size);
        let mut dirty = Ranges::default();
        for f in fragments {
            buffer.as_mut_slice()[f.at..f.end()].copy_from_slice(&f.bytes);
            dirty.insert(f.range());
        }
        self.content = Content::Whole { buffer, dirty };
    }

    /// Makes a range clean: what was written there is forgotten.
    pub fn discard(&mut self, r: Range<usize>) {
        match &mut self.content {
            Content::Whole { dirty, .. } => dirty.remove(r.start as u64..r.end as u64),
            Content::Fragments(fragments) => {
                let mut kept = Vec::with_capacity(fragments.len() + 1);
                for f in fragments.drain(..) {
                    if f.end() <= r.start || f.at >= r.end {
                        kept.push(f);
                        continue;
                    }
                    if f.at < r.start {
                        kept.push(Fragment { at: f.at, bytes: f.bytes[..r.start - f.at].to_vec() });
                    }
                    if f.end() > r.end {
                        kept.push(Fragment { at: r.end, bytes: f.bytes[r.end - f.at..].to_vec() });
                    }
                }
                *fragments = kept;
            }
        }
    }

    /// Whether nothing is dirty.
    pub fn is_empty(&self) -> bool {
        match &self.content {
            Content::Fragments(f) => f.is_empty(),
            Content::Whole { dirty, .. } => dirty.is_empty(),
        }
    }

    /// Dirty bytes.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Fragments(f) => f.iter().map(|f| f.bytes.len()).sum(),
            Content::Whole { dirty, .. } => dirty.bytes() as usize,
        }
    }

    /// How many separate ranges are dirty.
    pub fn extents(&self) -> usize {
        match &self.content {
            Content::Fragments(f) => f.len(),
            Content::Whole { dirty, .. } => dirty.count(),
        }
    }

    /// Memory that it holds, bytes.
    pub fn memory(&self) -> usize {
        match &self.content {
            Content::Fragments(f) => f.iter().map(|f| f.bytes.len() + OVERHEAD).sum(),
            Content::Whole { buffer, .. } => buffer.as_ref().len(),
        }
    }

    /// Calls `each` with the dirty ranges within `r` and their bytes, in order.
    pub fn visit(&self, r: Range<usize>, mut each: impl FnMut(usize, &[u8])) {
        match &self.content {
            Content::Fragments(fragments) => {
                for f in fragments {
                    let (a, b) = (f.at.max(r.start), f.end().min(r.end));
                    if a < b {
                        each(a, &f.bytes[a - f.at..b - f.at]);
                    }
                }
            }
            Content::Whole { buffer, dirty } => {
                for x in dirty.within(r.start as u64..r.end as u64) {
                    let x = x.start as usize..x.end as usize;
                    each(x.start, &buffer.as_ref()[x]);
                }
            }
        }
    }

    /// The dirty ranges as shared bytes, in order, without copying.
    pub fn freeze(self) -> Vec<(usize, Bytes)> {
        match self.content {
            Content::Fragments(f) => f.into_iter().map(|f| (f.at, Bytes::from(f.bytes))).collect(),
            Content::Whole { buffer, dirty } => {
                let whole = buffer.freeze();
                dirty
                    .iter()
                    .map(|r| (r.start as usize, whole.slice(r.start as usize..r.end as usize)))
                    .collect()
            }
        }
    }
}

/// Writes into sorted fragments; those that overlap or touch the data become one.
fn write_fragment(fragments: &mut Vec<Fragment>, at: usize, data: &[u8]) {
    let end = at + data.len();
    let from = fragments.partition_point(|f| f.end() < at);
    let to = fragments.partition_point(|f| f.at <= end);
    if from == to {
        fragments.insert(from, Fragment { at, bytes: data.to_vec() });
        return;
    }
    if from + 1 == to && fragments[from].at <= at {
        // The common case, an append or an overwrite: in place.
        let f = &mut fragments[from];
        let within = at - f.at;
        let over = (f.bytes.len() - within).min(data.len());
        f.bytes[within..within + over].copy_from_slice(&data[..over]);
        f.bytes.extend_from_slice(&data[over..]);
        return;
    }
    let start = fragments[from].at.min(at);
    let stop = fragments[to - 1].end().max(end);
    let mut bytes = vec![0; stop - start];
    for f in &fragments[from..to] {
        bytes[f.at - start..f.end() - start].copy_from_slice(&f.bytes);
    }
    bytes[at - start..end - start].copy_from_slice(data);
    fragments.splice(from..to, [Fragment { at: start, bytes }]);
}
