//! A piece against a byte array, in both of its forms.

use super::piece::Piece;
use rand::{Rng, SeedableRng, rngs::StdRng};

fn compare(piece: &Piece, model: &[Option<u8>]) {
    let mut got = vec![None; model.len()];
    piece.visit(0..model.len(), |at, data| {
        for (i, b) in data.iter().enumerate() {
            got[at + i] = Some(*b);
        }
    });
    assert!(got == model);
    assert_eq!(piece.bytes(), model.iter().flatten().count());
    assert_eq!(piece.is_empty(), piece.bytes() == 0);
}

#[test]
fn holds_what_was_written() {
    for (seed, size) in (0..40).flat_map(|seed| [(seed, 1000), (seed, 200_000)]) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut piece = Piece::default();
        let mut model = vec![None; size];
        for _ in 0..60 {
            let at = rng.random_range(0..size);
            let end = (at + rng.random_range(1..=size / 12)).min(size);
            if rng.random_bool(0.25) {
                piece.discard(at..end);
                model[at..end].fill(None);
            } else {
                let data: Vec<u8> = (at..end).map(|_| rng.random()).collect();
                piece.write(size, at, &data);
                for (m, b) in model[at..end].iter_mut().zip(data) {
                    *m = Some(b);
                }
            }
            compare(&piece, &model);
        }
        let extents = piece.extents();
        let frozen = piece.freeze();
        assert_eq!(frozen.len(), extents);
        let mut got = vec![None; size];
        for (at, data) in frozen {
            for (i, b) in data.iter().enumerate() {
                got[at + i] = Some(*b);
            }
        }
        assert!(got == model);
    }
}

#[test]
fn scattered_small_writes_cost_what_they_weigh() {
    let mut piece = Piece::default();
    for i in 0..4 {
        piece.write(1 << 20, i * 200_000, &[1; 4096]);
    }
    assert_eq!(piece.extents(), 4);
    assert!(piece.memory() < 5 * 4096);
}
