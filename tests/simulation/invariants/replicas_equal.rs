//! Under one epoch, when nothing is under way, all in-sync replicas have the same bytes and versions.
//!
//! From `docs/design.md`, section 4, "Replication".

use crate::world::World;

pub fn check(world: &World) -> Result<(), String> {
    let records: Vec<_> = world.store.borrow().chunks.values().cloned().collect();
    for record in records {
        let id = record.chunk.0;
        let mut seen = Vec::new();
        for server in &record.in_sync {
            let Some(node) = world.node(server.0) else { break };
            let Some(chunk) = node.chunk(id) else { break };
            let machine = chunk.replica.borrow();
            let settled = machine.is_trusted()
                && !machine.wants_ticks()
                && machine.epoch() == record.epoch.0
                && (!machine.is_primary() || machine.is_level())
                && machine.joining().is_none();
            let disk = node.disk.borrow();
            let bad = disk.in_doubt(id) || world.rotten.borrow().iter().any(|(_, c, _)| *c == id);
            if !settled || bad {
                break;
            }
            seen.push((server.0, machine.seq(), disk.table(id), disk.contents(id)));
        }
        if seen.len() < record.in_sync.len() {
            continue;
        }
        let same_seq = seen.windows(2).all(|w| w[0].1 == w[1].1);
        let same = seen.windows(2).all(|w| (&w[0].2, &w[0].3) == (&w[1].2, &w[1].3));
        if same_seq && !same {
            return Err(format!("chunk {id} epoch {}: {seen:?}", record.epoch));
        }
    }
    Ok(())
}
