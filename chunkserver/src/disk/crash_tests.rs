//! Random changes, a crash at any sync point or between two, then: what was made stable is there, no block is
//! served with a content that it never had, and what a crash has torn is not taken for a failing disk.

use super::crashing::CrashingStorage;
use super::{Change, ChunkFile, Disk, DiskError, DiskSettings, Payload};
use crate::core::layout::{ChunkMeta, Geometry};
use crate::core::recent::WriteId;
use cairn_proto::block::{BLOCK, piece_crcs};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

const CHUNK: u64 = 256 << 10;

fn settings() -> DiskSettings {
    let geometry = Geometry { chunk_size: CHUNK };
    DiskSettings { geometry, segment_bytes: 256 << 10, reserve: 0, open_files: 4 }
}

/// A chunk as it should be: its whole content after each write.
#[derive(Default)]
struct Model {
    contents: Vec<Vec<u8>>,
    stable: usize,
    /// A replica of this chunk was deleted before; unless something of the new one was made stable, the crash may
    /// have brought the old one back.
    had_another: bool,
}

impl Model {
    fn seq(&self) -> usize {
        self.contents.len() - 1
    }

    fn block(&self, seq: usize, block: usize) -> &[u8] {
        &self.contents[seq][block * BLOCK..(block + 1) * BLOCK]
    }
}

struct Run {
    storage: CrashingStorage,
    disk: Disk,
    files: BTreeMap<u64, Arc<ChunkFile>>,
    models: BTreeMap<u64, Model>,
    rng: StdRng,
    /// Chunks are small and do not live long, so that their files become others'.
    small: bool,
}

impl Run {
    fn new(seed: u64, crash_at: Option<usize>) -> Option<Self> {
        let storage = CrashingStorage::default();
        if let Some(n) = crash_at {
            storage.crash_at(n);
        }
        let (disk, found) = Disk::open(Arc::new(storage.clone()), settings()).ok()?;
        assert!(found.is_empty());
        let rng = StdRng::seed_from_u64(seed);
        let (files, models) = (BTreeMap::new(), BTreeMap::new());
        Some(Self { storage, disk, files, models, rng, small: false })
    }

    fn with_small_chunks(seed: u64, crash_at: Option<usize>) -> Option<Self> {
        Some(Self { small: true, ..Self::new(seed, crash_at)? })
    }

    fn change(&mut self) -> Result<(), DiskError> {
        let id = match self.rng.random_range(0..3) {
            _ if !self.small => self.rng.random_range(1..4),
            0 => self.rng.random_range(1..60),
            _ => self.files.keys().next_back().copied().unwrap_or(1),
        };
        if !self.files.contains_key(&id) {
            let meta = ChunkMeta { epoch: 1, in_sync: vec![1, 2], wanted: 2, ..ChunkMeta::default() };
            let blocks = self.rng.random_range(0..20);
            let file = self.disk.create(id, meta, blocks)?;
            self.files.insert(id, file);
            let had_another = self.models.contains_key(&id);
            let contents = vec![vec![0; CHUNK as usize]];
            self.models.insert(id, Model { contents, stable: 0, had_another });
        }
        let (file, model) = (&self.files[&id], self.models.get_mut(&id).unwrap());
        let len = match self.rng.random_range(0..4) {
            0 => self.rng.random_range(1..5000),
            1 => BLOCK,
            _ if self.small => 2 * BLOCK,
            2 => 2 * BLOCK,
            _ => self.rng.random_range(70_000..120_000),
        };
        let end = if self.small { 6 * BLOCK } else { CHUNK as usize };
        let mut offset = self.rng.random_range(0..end - len);
        if self.rng.random_bool(0.5) {
            offset -= offset % BLOCK;
        }
        let mut content = model.contents[model.seq()].clone();
        let payload = if self.rng.random_bool(0.15) {
            content[offset..offset + len].fill(0);
            Payload::Zeros(len as u64)
        } else {
            let mut data = vec![0; len];
            self.rng.fill(&mut data[..]);
            content[offset..offset + len].copy_from_slice(&data);
            let crcs = piece_crcs(offset as u64, &data);
            Payload::Data(data.into(), crcs)
        };
        model.contents.push(content);
        let seq = model.seq() as u64;
        let change = Change { id: WriteId { session: 1, write: seq }, offset: offset as u64, payload };
        self.disk.may_apply(Some(file), &change)?;
        self.disk.apply(file, &change, seq)
    }

    fn step(&mut self) -> Result<(), DiskError> {
        let what = match self.rng.random_range(0..if self.small { 22 } else { 14 }) {
            14..17 => 12,
            17..20 => 13,
            20..22 => 10,
            other => other,
        };
        match what {
            12 => {
                let Some(id) = self.files.keys().next().copied() else { return Ok(()) };
                if let Some(file) = self.files.remove(&id) {
                    let model = self.models.get_mut(&id).unwrap();
                    (model.stable, model.had_another) = (0, true);
                    self.disk.delete(&file)?;
                }
                Ok(())
            }
            13 => self.disk.unlink_some(1),
            0..8 => self.change(),
            8 | 9 => {
                let Some(id) = self.files.keys().next_back().copied() else { return Ok(()) };
                self.disk.sync_chunks([&self.files[&id]].into_iter())?;
                let model = self.models.get_mut(&id).unwrap();
                model.stable = model.seq();
                Ok(())
            }
            10 => {
                self.disk.checkpoint()?;
                let there = |id: &u64| self.files.contains_key(id);
                self.models.iter_mut().filter(|(id, _)| there(id)).for_each(|(_, m)| m.stable = m.seq());
                Ok(())
            }
            _ => {
                self.disk.drop_tables(self.files.values());
                Ok(())
            }
        }
    }

    /// Runs until the crash, or for so many steps.
    fn steps(&mut self, n: usize) {
        for _ in 0..n {
            if let Err(e) = self.step() {
                assert!(self.storage.has_crashed(), "without a crash: {e}");
                return;
            }
        }
    }
}

/// Opens what the crash has left and compares it with the model.
fn check(storage: &CrashingStorage, models: &BTreeMap<u64, Model>, killed: bool) {
    let (disk, found) = Disk::open(Arc::new(storage.clone()), settings()).unwrap();
    let found: BTreeMap<u64, _> = found.into_iter().map(|r| (r.file.id, r.file)).collect();
    for (id, model) in models {
        let Some(file) = found.get(id) else {
            assert_eq!(model.stable, 0, "chunk {id} is lost");
            continue;
        };
        if model.had_another && model.stable == 0 {
            continue;
        }
        let suspect = file.in_doubt();
        let seq = file.meta().seq as usize;
        assert!(seq >= model.stable, "chunk {id}: seq {seq} < {}", model.stable);
        disk.verify(file).unwrap();
        for block in 0..CHUNK as usize / BLOCK {
            // In the middle of a change of several parts, the first may be there already.
            let next = (seq + 1).min(model.seq());
            let quiet = (model.stable..=model.seq())
                .all(|s| model.block(s, block) == model.block(model.stable, block));
            match disk.read(file, block as u32, 1) {
                Ok(b) if quiet => assert_eq!(b.data, model.block(model.stable, block), "stable block"),
                Ok(b) => assert!(
                    b.data == model.block(seq, block) || b.data == model.block(next, block),
                    "chunk {id} block {block}: not what it was at seq {seq}"
                ),
                Err(DiskError::Corrupt { .. }) => {
                    assert!(suspect, "taken for corrupt: chunk {id} block {block}");
                    assert!(!quiet, "chunk {id} block {block} was stable, and is torn");
                    assert!(!killed || model.seq() > seq, "torn by a kill");
                }
                Err(e) => panic!("chunk {id} block {block}: {e}"),
            }
        }
    }
}

const STEPS: usize = 40;

#[test]
fn a_power_loss_at_any_sync_point_loses_nothing_that_was_stable() {
    for seed in 0..12 {
        let mut run = Run::new(seed, None).unwrap();
        run.steps(STEPS);
        let syncs = run.storage.syncs();
        for at in 1..=syncs {
            let Some(mut run) = Run::new(seed, Some(at)) else { continue };
            run.steps(STEPS);
            let mut rng = StdRng::seed_from_u64(seed << 32 | at as u64);
            let after = run.storage.after_power_loss(&mut rng);
            check(&after, &run.models, false);
        }
    }
}

#[test]
fn a_file_that_becomes_anothers_is_mistaken_for_neither() {
    let mut reused = 0;
    for seed in 0..40 {
        let mut run = Run::with_small_chunks(seed, None).unwrap();
        run.steps(2 * STEPS);
        reused += run.storage.renames();
        let syncs = run.storage.syncs();
        for at in 1..=syncs + 1 {
            let Some(mut run) = Run::with_small_chunks(seed, Some(at)) else { continue };
            run.steps(2 * STEPS);
            let mut rng = StdRng::seed_from_u64(seed << 32 | at as u64);
            let after = run.storage.after_power_loss(&mut rng);
            check(&after, &run.models, false);
            check(&after.after_power_loss(&mut rng), &run.models, false);
        }
    }
    assert!(reused > 40, "{reused}");
}

#[test]
fn a_power_loss_between_sync_points_loses_nothing_that_was_stable() {
    for seed in 100..300 {
        let mut run = Run::new(seed, None).unwrap();
        let steps = 1 + seed as usize % STEPS;
        run.steps(steps);
        let mut rng = StdRng::seed_from_u64(seed);
        let after = run.storage.after_power_loss(&mut rng);
        check(&after, &run.models, false);
        // And once more in the middle of what recovery has written.
        check(&after.after_power_loss(&mut rng), &run.models, false);
    }
}

#[test]
fn a_power_loss_during_recovery_loses_nothing_either() {
    for seed in 300..330 {
        let mut run = Run::new(seed, None).unwrap();
        run.steps(STEPS);
        let mut rng = StdRng::seed_from_u64(seed);
        let after = run.storage.after_power_loss(&mut rng);
        for at in 1..8 {
            let again = after.after_kill();
            again.crash_at(at);
            let opened = Disk::open(Arc::new(again.clone()), settings());
            if opened.is_err() {
                check(&again.after_power_loss(&mut rng), &run.models, false);
            }
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_at_all() {
    for seed in 400..430 {
        let mut run = Run::new(seed, None).unwrap();
        run.steps(STEPS);
        let there = |id: &u64| run.files.contains_key(id);
        run.models.iter_mut().filter(|(id, _)| there(id)).for_each(|(_, m)| m.stable = m.seq());
        check(&run.storage.after_kill(), &run.models, true);
    }
}

#[test]
fn a_clean_stop_leaves_nothing_in_doubt() {
    let mut run = Run::new(7, None).unwrap();
    run.steps(STEPS);
    run.disk.checkpoint().unwrap();
    let (_, found) = Disk::open(Arc::new(run.storage.after_kill()), settings()).unwrap();
    assert_eq!(found.len(), run.files.len());
    assert!(found.iter().all(|r| !r.file.in_doubt()));
}

#[test]
fn a_flipped_bit_is_corrupt_and_the_rest_is_served() {
    let mut run = Run::new(9, None).unwrap();
    run.steps(STEPS);
    run.disk.checkpoint().unwrap();
    let storage = run.storage.after_kill();
    let (disk, found) = Disk::open(Arc::new(storage.clone()), settings()).unwrap();
    let file = found[0].file.clone();
    let (block, _) = disk.extents(&file, 0).unwrap()[0];
    let raw = super::storage::Storage::open(&storage, &super::chunk_file::path(file.id), false).unwrap();
    let at = settings().geometry.data() + u64::from(block) * BLOCK as u64 + 77;
    let mut byte = [0];
    raw.read_at(&mut byte, at).unwrap();
    raw.write_at(&[&[byte[0] ^ 4]], at).unwrap();
    assert!(matches!(disk.read(&file, block, 1), Err(DiskError::Corrupt { block: b }) if b == block));
    assert!(file.in_doubt());
    let others = (0..CHUNK as u32 / BLOCK as u32).filter(|b| *b != block);
    assert!(others.into_iter().all(|b| disk.read(&file, b, 1).is_ok()));
}

#[test]
fn a_disk_below_its_reserve_takes_no_new_blocks() {
    let storage = CrashingStorage::default();
    let full = DiskSettings { reserve: 1 << 39, ..settings() };
    let (disk, _) = Disk::open(Arc::new(storage), full).unwrap();
    let data = vec![1; BLOCK];
    let crcs = piece_crcs(0, &data);
    let change = Change { id: WriteId::default(), offset: 0, payload: Payload::Data(data.into(), crcs) };
    assert!(matches!(disk.may_apply(None, &change), Err(DiskError::NoSpace)));
    let zeros = Change { payload: Payload::Zeros(4096), ..change };
    assert!(disk.may_apply(None, &zeros).is_ok(), "punching needs no room");
}
