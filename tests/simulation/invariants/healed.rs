//! Once nothing goes wrong any more, all chunks come back to the wanted number of copies, no more and no fewer, on distinct servers,
//! all of them whole and equal.
//!
//! From the founding design, section 5, "Failure detection and repair".

use crate::message::{Content, Told};
use crate::world::World;

/// A replica's seq, table and contents.
type Replica = (u64, Vec<Told>, Vec<Content>);

/// What is not as it should be, if anything.
pub fn check(world: &World) -> Result<(), String> {
    let records: Vec<_> = world.store.borrow().chunks.values().cloned().collect();
    for record in &records {
        let id = record.chunk.0;
        let holders = world.servers().filter(|s| world.node(*s).is_some_and(|n| n.chunk(id).is_some()));
        if holders.count() == 0 {
            // Nothing was ever written to it.
            continue;
        }
        if record.in_sync.len() != record.wanted as usize {
            return Err(format!("too few copies, or too many: {record:?}"));
        }
        let mut all = Vec::new();
        for server in &record.in_sync {
            let node = world.node(server.0).ok_or_else(|| format!("server {server} is down"))?;
            let chunk = node.chunk(id).ok_or_else(|| format!("{record:?}: server {server} has none"))?;
            let machine = chunk.replica.borrow();
            let whole = machine.is_trusted()
                && !node.disk.borrow().is_unclean(id)
                && machine.epoch() == record.epoch.0
                && (!machine.is_primary() || machine.is_level());
            if !whole || !node.may_serve() {
                let doubt = node.disk.borrow().is_unclean(id);
                let level = machine.is_level();
                return Err(format!(
                    "{record:?}: server {server} has {:?} level {level} in doubt {doubt}",
                    machine.meta()
                ));
            }
            // Bad blocks that nobody has read are not known yet.
            let disk = node.disk.borrow();
            let contents = if disk.is_good_everywhere(id) { disk.contents(id) } else { Vec::new() };
            all.push((machine.seq(), disk.table(id), contents));
        }
        let same = |a: &Replica, b: &Replica| {
            (a.0, &a.1) == (b.0, &b.1) && (a.2 == b.2 || a.2.is_empty() || b.2.is_empty())
        };
        if all.windows(2).any(|w| !same(&w[0], &w[1])) {
            return Err(format!("{record:?}: replicas differ: {all:?}"));
        }
    }
    Ok(())
}
