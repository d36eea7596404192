//! Random operations, drawn from the model's state, on the namespace and the model; after each, everything
//! is compared.

use cairn_proto::InodeId;
use cairn_proto::rpc::{self, op::Op as Body, reply::Result as Body2};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};

use super::model::{Model, Node};
use super::{Namespace, link, make, rename, rmdir, unlink};
use crate::core::keys;
use crate::core::namespace::inodes::find;
use crate::core::scratch::Scratch;

const NAMES: [&str; 5] = ["a", "b", "c", "dd", "e\u{301}"];
const KINDS: [u32; 6] = [0o100_644, 0o100_600, 0o040_755, 0o040_755, 0o120_777, 0o010_600];

fn draw(rng: &mut StdRng, model: &Model) -> Body {
    let any = |rng: &mut StdRng| -> u64 {
        // Now and then one that never was.
        if rng.random_ratio(1, 40) { 9_999 } else { *model.nodes.keys().choose(rng).unwrap() }
    };
    let dir = |rng: &mut StdRng| -> u64 {
        if rng.random_ratio(1, 20) {
            return any(rng);
        }
        let dirs = model.nodes.iter().filter(|(_, n)| matches!(n, Node::Dir(_))).map(|(id, _)| *id);
        dirs.choose(rng).unwrap()
    };
    let name = |rng: &mut StdRng| *NAMES.choose(rng).unwrap();
    match rng.random_range(0..20) {
        0..6 => make(dir(rng), name(rng), *KINDS.choose(rng).unwrap()),
        6..8 => unlink(dir(rng), name(rng), false),
        8..10 => rmdir(dir(rng), name(rng)),
        10..16 => {
            let flags = [0, 0, 0, 1, 2].choose(rng).unwrap();
            rename(dir(rng), name(rng), dir(rng), name(rng), *flags)
        }
        16..18 => link(any(rng), dir(rng), name(rng)),
        _ => {
            let size = Some(rng.random_range(0..5_000_000));
            Body::SetAttr(rpc::SetAttr { inode: any(rng), size, ..rpc::SetAttr::default() })
        }
    }
}

/// Everything the namespace shows must be what the model has.
fn compare(namespace: &mut Namespace, model: &Model) {
    let inodes = namespace.count(keys::INODE);
    assert_eq!(inodes, model.nodes.len());
    assert_eq!(namespace.counters.inodes, model.nodes.len() as u64);
    let mut names = 0;
    for (id, node) in &model.nodes {
        let attr = namespace.stat(*id);
        assert_eq!(attr.nlink as usize, model.nlink(*id), "links of {id}");
        match node {
            Node::Other { kind, size } => {
                assert_eq!((attr.mode & 0o170_000, attr.size), (*kind, *size), "inode {id}");
            }
            Node::Dir(entries) => {
                names += entries.len();
                let reply = namespace.run(Body::ReadDir(rpc::ReadDir {
                    inode: *id,
                    limit: 100,
                    ..rpc::ReadDir::default()
                }));
                let Some(Body2::Dir(page)) = reply.result else { panic!("no page of {id}") };
                let read: Vec<_> =
                    page.entries.iter().map(|e| (String::from_utf8_lossy(&e.name), e.inode)).collect();
                let expected: Vec<_> = entries.iter().map(|(n, i)| (n.as_str().into(), *i)).collect();
                assert_eq!(read, expected, "entries of {id}");
                let scratch = Scratch::new(&namespace.store, namespace.counters);
                let record = find(&scratch, InodeId(*id)).unwrap().unwrap();
                assert_eq!(record.entries as usize, entries.len());
            }
        }
    }
    assert_eq!(namespace.count(keys::ENTRY), names);
}

#[test]
fn agrees_with_the_model() {
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut namespace, mut model) = (Namespace::new(), Model::new());
        for step in 0..250 {
            let op = draw(&mut rng, &model);
            let ours = namespace.errno(op.clone());
            let expected = model.run(&op).err().unwrap_or(0);
            assert_eq!(ours, expected, "seed {seed} step {step}: {op:?}");
            compare(&mut namespace, &model);
        }
    }
}

#[test]
fn a_group_has_the_outcome_of_its_operations_one_by_one() {
    for seed in 0..20 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut single, mut model) = (Namespace::new(), Model::new());
        let mut ops = Vec::new();
        for _ in 0..200 {
            let op = draw(&mut rng, &model);
            let _ = model.run(&op);
            ops.push((op, single.now));
            let (op, _) = ops.last().unwrap().clone();
            single.run(op);
        }
        let grouped = Namespace::new();
        let mut scratch = Scratch::new(&grouped.store, grouped.counters);
        for (op, now) in ops {
            let mut context = super::Context {
                session: grouped.session,
                now,
                copies: 3,
                chunk_size: 1 << 20,
                place: &mut || Ok(Vec::new()),
                space: rpc::StatfsReply::default(),
                linger: false,
                events: Vec::new(),
                lingering: Vec::new(),
            };
            super::execute(
                &mut scratch,
                &mut context,
                &rpc::Op { id: 1, op: Some(op), ..rpc::Op::default() },
            );
        }
        let (batch, counters) = scratch.into_batch();
        let mut store = grouped.store.clone();
        crate::store::Store::commit(&mut store, batch).unwrap();
        assert_eq!(counters, single.counters);
        assert_eq!(store, single.store, "seed {seed}");
    }
}
