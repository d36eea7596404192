//! Reading a file: from what is dirty, from what was read in advance, from the replicas.

use super::core::ranges::Ranges;
use super::core::read_ahead::cut;
use super::file::{FileData, State};
use super::prefetched::{Content, Fetch, Held};
use crate::engine::error::FsError;
use bytes::Bytes;
use cairn_proto::block::BLOCK;
use cairn_proto::data::Buffer;
use futures::future::try_join_all;
use std::ops::Range;
use std::sync::Arc;

/// Where a stretch of a read comes from.
struct Source {
    range: Range<u64>,
    /// `None`: the replicas.
    held: Option<Held>,
}

impl Source {
    /// The bytes, if they are in memory.
    fn here(&self) -> Option<Bytes> {
        match &self.held {
            Some(Held { start, content: Content::Here(data), .. }) => {
                Some(data.slice((self.range.start - start) as usize..(self.range.end - start) as usize))
            }
            _ => None,
        }
    }
}

/// A read as far as memory can answer it.
enum Plan {
    /// One source has all of it.
    Single(Source),
    /// The buffer holds what was dirty; the rest comes from the sources.
    Mixed(Buffer, Vec<Source>),
}

impl FileData {
    /// From memory alone: `None` when it cannot be answered without waiting.
    pub fn try_read(self: &Arc<Self>, offset: u64, len: usize) -> Option<Bytes> {
        let mut s = self.state.lock();
        let range = s.cut(offset, len);
        if range.is_empty() {
            return Some(Bytes::new());
        }
        if !self.path.is_exclusive() {
            return None;
        }
        if !s.dirty.touches(range.clone()) && !s.ahead.has(range.clone()) {
            return None;
        }
        let data = match s.plan(range.clone()) {
            Plan::Single(source) => source.here()?,
            Plan::Mixed(mut buffer, sources) => {
                for source in sources {
                    let at = (source.range.start - offset) as usize;
                    let data = source.here()?;
                    buffer.as_mut_slice()[at..at + data.len()].copy_from_slice(&data);
                }
                buffer.freeze()
            }
        };
        self.read_ahead(&mut s, range);
        Some(data)
    }

    /// At most `len` bytes; fewer only at the end of the file.
    pub async fn read(self: &Arc<Self>, offset: u64, len: usize) -> Result<Bytes, FsError> {
        let plan = {
            let mut s = self.state.lock();
            let range = s.cut(offset, len);
            if range.is_empty() {
                return Ok(Bytes::new());
            }
            if self.path.is_exclusive() {
                self.read_ahead(&mut s, range.clone());
            } else {
                s.ahead.clear();
            }
            s.plan(range)
        };
        match plan {
            Plan::Single(source) => self.fetch(source).await,
            Plan::Mixed(mut buffer, sources) => {
                let fetched = sources.into_iter().map(|s| async {
                    let start = s.range.start;
                    Ok::<_, FsError>((start, self.fetch(s).await?))
                });
                for (start, data) in try_join_all(fetched).await? {
                    let at = (start - offset) as usize;
                    buffer.as_mut_slice()[at..at + data.len()].copy_from_slice(&data);
                }
                Ok(buffer.freeze())
            }
        }
    }

    async fn fetch(&self, source: Source) -> Result<Bytes, FsError> {
        let range = source.range;
        if let Some(held) = source.held {
            let data = match held.content {
                Content::Here(data) => Some(data),
                Content::Coming(mut coming) => match coming.wait_for(Option::is_some).await {
                    Ok(data) => data.clone(),
                    Err(_) => None,
                },
            };
            if let Some(data) = data {
                return Ok(data.slice((range.start - held.start) as usize..(range.end - held.start) as usize));
            }
        }
        self.read_replicas(range).await
    }

    /// Reads from the replicas alone.
    async fn read_replicas(&self, range: Range<u64>) -> Result<Bytes, FsError> {
        let block = BLOCK as u64;
        let whole = range.start / block * block..range.end.div_ceil(block) * block;
        let mut parts = cut(whole.clone(), self.path.piece());
        let inside = (range.start - whole.start) as usize..(range.end - whole.start) as usize;
        let (first, second) = (parts.next(), parts.next());
        if let (Some(only), None) = (&first, &second) {
            let data = self.read_blocks(only.clone()).await?;
            return Ok(match data {
                Some(data) => data.slice(inside),
                None => zeros(inside.len()),
            });
        }
        let all = first.into_iter().chain(second).chain(parts);
        let fetched = all.map(|r| async {
            let (start, len) = (r.start, (r.end - r.start) as usize);
            Ok::<_, FsError>((start, len, self.read_blocks(r).await?))
        });
        let mut buffer = Buffer::new((whole.end - whole.start) as usize);
        for (start, len, data) in try_join_all(fetched).await? {
            let at = (start - whole.start) as usize;
            let into = &mut buffer.as_mut_slice()[at..at + len];
            match data {
                Some(data) => into.copy_from_slice(&data),
                None => into.fill(0),
            }
        }
        Ok(buffer.freeze().slice(inside))
    }

    /// Reads whole blocks of one piece.
    async fn read_blocks(&self, range: Range<u64>) -> Result<Option<Bytes>, FsError> {
        let chunk_size = self.path.chunk_size();
        let (index, offset) = (range.start / chunk_size, (range.start % chunk_size) as u32);
        let len = (range.end - range.start) as u32;
        self.path.replicas.read((self.inode, index), offset, len).await
    }

    /// Starts what should be read in advance, now that this range is read.
    fn read_ahead(self: &Arc<Self>, s: &mut State, range: Range<u64>) {
        let (size, path) = (s.size, &self.path);
        if range.start == 0 {
            path.read_from_start(self.inode, size);
        }
        let fetches = s.ahead.plan(range, size, path.piece(), &path.read_memory, path.now());
        for fetch in fetches {
            self.path.runtime.spawn(self.clone().prefetch(fetch));
        }
        if !s.ahead.is_empty() {
            self.path.note_reader(self);
        }
    }

    async fn prefetch(self: Arc<Self>, fetch: Fetch) {
        let data = self.read_replicas(fetch.range.clone()).await;
        if let Err(e) = &data {
            // Whoever needs it asks again and gets the error.
            tracing::debug!(inode = self.inode.0, "reading in advance: {e}");
        }
        self.state.lock().ahead.fetched(fetch, data.ok());
    }
}

impl State {
    /// A read's range, cut at the end of the file.
    fn cut(&self, offset: u64, len: usize) -> Range<u64> {
        offset..offset.saturating_add(len as u64).min(self.size).max(offset)
    }

    fn plan(&self, range: Range<u64>) -> Plan {
        let mut gaps = Ranges::default();
        let mut buffer = None;
        if self.dirty.touches(range.clone()) {
            let mut out = Buffer::new((range.end - range.start) as usize);
            gaps = self.dirty.overlay(range.start, out.as_mut_slice());
            buffer = Some(out);
        } else {
            gaps.insert(range.clone());
        }
        let mut sources = Vec::new();
        for gap in gaps.iter() {
            let mut at = gap.start;
            for held in self.ahead.overlapping(gap.clone()) {
                if at < held.start {
                    sources.push(Source { range: at..held.start, held: None });
                }
                let part = at.max(held.start)..held.end.min(gap.end);
                at = part.end;
                sources.push(Source { range: part, held: Some(held) });
            }
            if at < gap.end {
                sources.push(Source { range: at..gap.end, held: None });
            }
        }
        match (buffer, sources.len()) {
            (None, 1) => match sources.pop() {
                Some(only) => Plan::Single(only),
                None => Plan::Mixed(Buffer::new(0), sources),
            },
            (buffer, _) => {
                let buffer = buffer.unwrap_or_else(|| Buffer::new((range.end - range.start) as usize));
                Plan::Mixed(buffer, sources)
            }
        }
    }
}

/// Zeros, without the cost of making them where they are few enough.
fn zeros(len: usize) -> Bytes {
    static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    match ZEROS.get(..len) {
        Some(zeros) => Bytes::from_static(zeros),
        None => Bytes::from(vec![0; len]),
    }
}
