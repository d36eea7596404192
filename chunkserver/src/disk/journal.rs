//! The journal: preallocated segments, filled one after the other and used again.
//!
//! A segment is zero-filled when it is made, so that syncing it never waits for the file system
//! to record an allocation. When its records are in the chunk files (a checkpoint) its head is
//! blanked, and that is made durable, before it may be filled again: so a head that is found
//! after a crash always belongs to the records behind it. Before that the head of the segment that is
//! filled next is made durable: the numbers of records go on from there, and are never given twice.

use super::storage::{Storage, StorageFile};
use crate::core::record::{HEAD, Record, SEGMENT_HEAD, SegmentHead};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A segment's file.
struct Segment {
    name: String,
    /// Its number while it is filled or full.
    number: u64,
    file: Arc<dyn StorageFile>,
    /// Everything in it is on stable storage.
    synced: bool,
}

/// The journal of one disk.
pub struct Journal {
    storage: Arc<dyn Storage>,
    segment_bytes: u64,
    tail: Mutex<Tail>,
    /// Held while syncing, so that those who come meanwhile share the next sync.
    syncing: Mutex<()>,
    /// Records below this lsn are on stable storage.
    synced: AtomicU64,
    current: AtomicU64,
}

struct Tail {
    segment: Segment,
    /// Where the next record goes.
    at: u64,
    lsn: u64,
    /// Segments whose records are not all in the chunk files yet, oldest first.
    full: Vec<Segment>,
    free: Vec<Segment>,
    /// Number for the next new file.
    next_file: u64,
}

/// Free segments that are kept; more are removed.
const SPARE: usize = 2;

/// A record that was found, and where its content (if any) lies.
pub struct Found {
    /// The record.
    pub record: Record,
    /// Index into [`Scan::files`].
    pub file: usize,
    /// Offset of the content.
    pub content: u64,
}

/// What is left of a journal after a crash (or a clean stop).
pub struct Scan {
    /// The records, in order.
    pub records: Vec<Found>,
    /// The segments' files.
    pub files: Vec<Arc<dyn StorageFile>>,
    names: Vec<String>,
    /// Indices of the files with records, oldest first.
    order: Vec<usize>,
    /// How many of these were read: behind a record that is missing nothing counts.
    read: usize,
    next_lsn: u64,
    next_number: u64,
}

/// Reads all records in order, up to the first that is missing or damaged.
pub fn scan(storage: &Arc<dyn Storage>, segment_bytes: u64) -> io::Result<Scan> {
    let mut scan = Scan {
        records: Vec::new(),
        files: Vec::new(),
        names: Vec::new(),
        order: Vec::new(),
        read: 0,
        next_lsn: 1,
        next_number: 1,
    };
    let mut heads = Vec::new();
    for name in storage.list("")?.into_iter().filter(|n| n.starts_with("journal.")) {
        let file = storage.open(&name, false)?;
        let mut b = [0; SegmentHead::LEN];
        if file.read_at(&mut b, 0)? == b.len()
            && let Some(head) = SegmentHead::decode(&b)
        {
            heads.push((head, scan.files.len()));
        }
        scan.files.push(file);
        scan.names.push(name);
    }
    heads.sort_by_key(|(h, _)| h.number);
    scan.order = heads.iter().map(|(_, file)| *file).collect();
    let Some((first, _)) = heads.first() else { return Ok(scan) };
    scan.next_lsn = first.first_lsn;
    scan.next_number = heads.last().map_or(1, |(h, _)| h.number + 1);
    for (head, file) in heads {
        if head.first_lsn != scan.next_lsn {
            tracing::info!(segment = head.number, "the journal ends before this segment");
            break;
        }
        scan.segment(file, segment_bytes)?;
        scan.read += 1;
    }
    Ok(scan)
}

impl Scan {
    fn segment(&mut self, file: usize, segment_bytes: u64) -> io::Result<()> {
        let mut bytes = vec![0; segment_bytes as usize];
        let len = self.files[file].read_at(&mut bytes, 0)?;
        let mut at = SEGMENT_HEAD as usize;
        while at < len {
            let Some((record, head)) = Record::decode(&bytes[at..len], self.next_lsn) else { break };
            let content = (at + head) as u64;
            if !content_is_whole(&record, &bytes[at + head..len]) {
                break;
            }
            at += head + record.content_len();
            self.next_lsn += 1;
            self.records.push(Found { record, file, content });
        }
        Ok(())
    }
}

/// The record's own checksum does not cover the content: the blocks' do.
fn content_is_whole(record: &Record, content: &[u8]) -> bool {
    use crate::core::record::Body;
    use cairn_proto::block::{BLOCK, crc32c};
    let Body::Image(crcs) = &record.body else { return true };
    crcs.iter().zip(content.chunks_exact(BLOCK)).all(|(crc, b)| crc32c(b) == *crc)
}

impl Journal {
    /// Begins anew, behind what `scan` found; all its records must be in the chunk files, durably.
    pub fn start(storage: Arc<dyn Storage>, segment_bytes: u64, scan: Scan) -> io::Result<Self> {
        // What did not count must not count after a crash in between either.
        for i in scan.order[scan.read..].iter().rev() {
            blank(&*scan.files[*i])?;
        }
        let numbers = scan.names.iter().filter_map(|name| name[8..].parse::<u64>().ok());
        let mut next_file = numbers.max().map_or(0, |n| n + 1);
        let (mut free, mut used) = (Vec::new(), BTreeMap::new());
        for (i, (name, file)) in scan.names.into_iter().zip(scan.files).enumerate() {
            let segment = Segment { name, number: 0, file, synced: true };
            match scan.order[..scan.read].iter().position(|o| *o == i) {
                Some(place) => drop(used.insert(place, segment)),
                None => free.push(segment),
            }
        }
        while free.is_empty() || free.len() + used.len() < SPARE {
            free.push(make(&*storage, segment_bytes, &mut next_file)?);
        }
        let segment = free.swap_remove(0);
        let mut tail =
            Tail { segment, at: SEGMENT_HEAD, lsn: scan.next_lsn, full: Vec::new(), free, next_file };
        tail.begin(scan.next_number)?;
        tail.segment.file.sync()?;
        // Oldest first: after a crash in between, what is left must not bring back older blocks.
        for segment in used.into_values() {
            blank(&*segment.file)?;
            tail.free.push(segment);
        }
        Ok(Self {
            storage,
            segment_bytes,
            synced: AtomicU64::new(tail.lsn),
            current: AtomicU64::new(tail.segment.number),
            tail: Mutex::new(tail),
            syncing: Mutex::new(()),
        })
    }

    /// The number of the segment that is being filled.
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }

    /// Appends a record (its `lsn` is given here) and the content of its blocks. Returns the number of
    /// the segment; `None`, and nothing was appended, when that would not be `required`.
    pub fn append(
        &self,
        mut record: Record,
        content: &[&[u8]],
        required: Option<u64>,
    ) -> io::Result<Option<u64>> {
        let mut tail = self.tail.lock();
        record.lsn = tail.lsn;
        let head = record.encode();
        debug_assert!(head.len() >= HEAD);
        let len = (head.len() + record.content_len()) as u64;
        if tail.at + len > self.segment_bytes {
            self.next_segment(&mut tail)?;
        }
        if required.is_some_and(|n| n != tail.segment.number) {
            return Ok(None);
        }
        let mut parts = Vec::with_capacity(1 + content.len());
        parts.push(&head[..]);
        parts.extend_from_slice(content);
        tail.segment.file.write_at(&parts, tail.at)?;
        tail.segment.synced = false;
        tail.at += len;
        tail.lsn += 1;
        Ok(Some(tail.segment.number))
    }

    /// Everything appended before the call is on stable storage when this returns.
    pub fn sync(&self) -> io::Result<()> {
        let wanted = self.tail.lock().lsn;
        let _turn = self.syncing.lock();
        if self.synced.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        let (upto, files) = {
            let tail = self.tail.lock();
            let all = tail.full.iter().chain([&tail.segment]).filter(|s| !s.synced);
            (tail.lsn, all.map(|s| (s.number, s.file.clone())).collect::<Vec<_>>())
        };
        // In order: a record never becomes durable before those in the segments before it are.
        for (number, file) in files {
            file.sync()?;
            let mut tail = self.tail.lock();
            if let Some(s) = tail.full.iter_mut().find(|s| s.number == number) {
                s.synced = true;
            }
        }
        self.synced.store(upto, Ordering::Release);
        Ok(())
    }

    /// Whether segments wait for a checkpoint.
    pub fn wants_checkpoint(&self) -> bool {
        !self.tail.lock().full.is_empty()
    }

    /// Closes the current segment if it holds anything: a checkpoint that starts now covers all records so far.
    /// Returns the number of the last segment that is full.
    pub fn rotate(&self) -> io::Result<u64> {
        let mut tail = self.tail.lock();
        if tail.at > SEGMENT_HEAD {
            self.next_segment(&mut tail)?;
        }
        Ok(tail.segment.number - 1)
    }

    /// Segments up to number `upto` are not needed any more.
    pub fn release(&self, upto: u64) -> io::Result<()> {
        let current = {
            let tail = self.tail.lock();
            (!tail.segment.synced).then(|| tail.segment.file.clone())
        };
        current.map_or(Ok(()), |file| file.sync())?;
        loop {
            let (file, spare) = {
                let tail = self.tail.lock();
                let Some(first) = tail.full.first().filter(|s| s.number <= upto) else { return Ok(()) };
                (first.file.clone(), tail.free.len() < SPARE)
            };
            blank(&*file)?;
            let mut tail = self.tail.lock();
            let mut segment = tail.full.remove(0);
            segment.synced = true;
            if spare {
                tail.free.push(segment);
            } else {
                drop(tail);
                self.storage.remove(&segment.name)?;
            }
        }
    }

    fn next_segment(&self, tail: &mut Tail) -> io::Result<()> {
        let next = match tail.free.pop() {
            Some(s) => s,
            None => make(&*self.storage, self.segment_bytes, &mut tail.next_file)?,
        };
        let number = tail.segment.number + 1;
        let old = std::mem::replace(&mut tail.segment, next);
        tail.full.push(old);
        tail.begin(number)?;
        self.current.store(number, Ordering::Release);
        Ok(())
    }
}

impl Tail {
    fn begin(&mut self, number: u64) -> io::Result<()> {
        self.segment.number = number;
        self.segment.synced = false;
        self.at = SEGMENT_HEAD;
        let head = SegmentHead { number, first_lsn: self.lsn };
        self.segment.file.write_at(&[&head.encode()], 0)
    }
}

fn blank(file: &dyn StorageFile) -> io::Result<()> {
    file.write_at(&[&[0; SegmentHead::LEN]], 0)?;
    file.sync()
}

fn make(storage: &dyn Storage, bytes: u64, next_file: &mut u64) -> io::Result<Segment> {
    let name = format!("journal.{next_file}");
    *next_file += 1;
    let file = storage.open(&name, true)?;
    let zeros = vec![0; (1 << 20).min(bytes as usize)];
    let mut at = 0;
    while at < bytes {
        let n = (bytes - at).min(zeros.len() as u64);
        file.write_at(&[&zeros[..n as usize]], at)?;
        at += n;
    }
    file.sync()?;
    storage.sync_dir("")?;
    Ok(Segment { name, number: 0, file, synced: true })
}
