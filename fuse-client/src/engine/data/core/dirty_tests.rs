//! The dirty map against the obvious model: a byte array for the file, one for the replicas.

use super::dirty::{Dirty, Job};
use rand::{Rng, SeedableRng, rngs::StdRng};

const SIZE: usize = 4096;
const PIECE: u64 = 512;

struct Model {
    rng: StdRng,
    dirty: Dirty,
    /// What the application has written.
    file: Vec<u8>,
    /// What has been acknowledged.
    replicas: Vec<u8>,
    flying: Vec<Job>,
}

impl Model {
    fn range(&mut self, most: usize) -> std::ops::Range<usize> {
        let start = self.rng.random_range(0..SIZE);
        start..(start + self.rng.random_range(1..=most)).min(SIZE)
    }

    fn step(&mut self, now: u64) {
        match self.rng.random_range(0..10) {
            0..4 => {
                let r = self.range(if now.is_multiple_of(3) { 900 } else { 40 });
                let mut data = vec![0; r.len()];
                self.rng.fill(&mut data[..]);
                self.dirty.write(r.start as u64, &data, now);
                self.file[r].copy_from_slice(&data);
            }
            4..6 => {
                if self.rng.random_bool(0.3) {
                    self.dirty.want_all();
                } else {
                    self.dirty.want_older(now.saturating_sub(10));
                }
                while let Some(job) = self.dirty.take() {
                    for (at, data) in &job.extents {
                        for other in self.flying.iter().flat_map(|j| &j.extents) {
                            let apart =
                                at + data.len() as u64 <= other.0 || other.0 + other.1.len() as u64 <= *at;
                            assert!(apart, "overlapping writes in flight");
                        }
                    }
                    self.flying.push(job);
                }
            }
            6..9 if !self.flying.is_empty() => {
                let i = self.rng.random_range(0..self.flying.len());
                let job = self.flying.swap_remove(i);
                for (at, data) in &job.extents {
                    self.replicas[*at as usize..*at as usize + data.len()].copy_from_slice(data);
                }
                self.dirty.done(job.piece);
            }
            9 => {
                // Punch a hole: only where nothing is in flight, as the callers wait for.
                let r = self.range(700);
                let range = r.start as u64..r.end as u64;
                self.dirty.discard(range.clone());
                assert!(!self.dirty.gathers(range.clone()));
                if self.dirty.in_flight(range) {
                    // Bytes that were discarded on top of some in flight show those again.
                    let mut shown = self.replicas[r.clone()].to_vec();
                    self.dirty.overlay(r.start as u64, &mut shown);
                    self.file[r].copy_from_slice(&shown);
                } else {
                    self.replicas[r.clone()].fill(0);
                    self.file[r].fill(0);
                }
            }
            _ => {}
        }
    }

    fn check(&mut self) {
        let r = self.range(SIZE);
        let mut got = self.replicas[r.clone()].to_vec();
        let mut only_memory = vec![0xee; r.len()];
        let gaps = self.dirty.overlay(r.start as u64, &mut only_memory);
        self.dirty.overlay(r.start as u64, &mut got);
        assert_eq!(got, self.file[r.clone()], "what is read is what was written");
        let mut covered = vec![true; r.len()];
        for gap in gaps.iter() {
            covered[gap.start as usize - r.start..gap.end as usize - r.start].fill(false);
        }
        for (i, covered) in covered.into_iter().enumerate() {
            let expected = if covered { self.file[r.start + i] } else { 0xee };
            assert_eq!(only_memory[i], expected);
        }
    }

    fn finish(mut self) {
        let upto = self.dirty.want_all();
        loop {
            self.flying.extend(std::iter::from_fn(|| self.dirty.take()));
            let Some(job) = self.flying.pop() else { break };
            for (at, data) in &job.extents {
                self.replicas[*at as usize..*at as usize + data.len()].copy_from_slice(data);
            }
            self.dirty.done(job.piece);
        }
        assert!(self.dirty.reached(upto) && self.dirty.is_clean());
        assert_eq!((self.dirty.memory(), self.dirty.bytes()), (0, 0), "all memory is given back");
        assert_eq!(self.dirty.flying(), Default::default());
        assert!(self.replicas == self.file);
    }
}

#[test]
fn behaves_like_a_byte_array() {
    for seed in 0..60 {
        let mut model = Model {
            rng: StdRng::seed_from_u64(seed),
            dirty: Dirty::new(PIECE),
            file: vec![0; SIZE],
            replicas: vec![0; SIZE],
            flying: Vec::new(),
        };
        for now in 0..400 {
            model.step(now);
            model.check();
        }
        model.finish();
    }
}

#[test]
fn a_full_piece_is_ready_at_once_and_others_wait_to_be_wanted() {
    let mut dirty = Dirty::new(PIECE);
    assert!(!dirty.write(0, &[1; 100], 0));
    assert!(dirty.take().is_none());
    assert!(dirty.write(100, &[1; 412], 0));
    let job = dirty.take().unwrap();
    assert_eq!((job.piece, job.extents.len()), (0, 1));
    dirty.write(10, &[2; 5], 7);
    dirty.want_older(7);
    assert!(dirty.take().is_none(), "its piece is in flight");
    dirty.done(0);
    assert_eq!(dirty.take().unwrap().extents[0].0, 10);
}

#[test]
fn nothing_is_sent_under_a_direct_operation() {
    let mut dirty = Dirty::new(PIECE);
    dirty.begin_busy(100..200);
    dirty.write(150, &[1; 10], 0);
    dirty.want_all();
    assert!(dirty.take().is_none());
    dirty.end_busy(&(100..200));
    assert!(dirty.take().is_some());
}
