//! Once nothing goes wrong any more, all chunks come back to the wanted number of copies, on distinct servers,
//! all of them whole and equal.
//!
//! From the founding design, section 5, "Failure detection and repair".

use crate::world::World;

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
        if record.in_sync.len() < record.wanted as usize {
            return Err(format!("too few copies: {record:?}"));
        }
        let mut all = Vec::new();
        for server in &record.in_sync {
            let node = world.node(server.0).ok_or_else(|| format!("server {server} is down"))?;
            let chunk = node.chunk(id).ok_or_else(|| format!("{record:?}: server {server} has none"))?;
            let machine = chunk.replica.borrow();
            let whole = machine.is_trusted()
                && !node.disk.borrow().in_doubt(id)
                && machine.epoch() == record.epoch.0
                && (!machine.is_primary() || machine.is_level());
            if !whole || !node.may_serve() {
                return Err(format!("{record:?}: server {server} has {:?}", machine.meta()));
            }
            all.push((machine.seq(), node.disk.borrow().table(id), node.disk.borrow().contents(id)));
        }
        if all.windows(2).any(|w| w[0] != w[1]) {
            return Err(format!("{record:?}: replicas differ: {all:?}"));
        }
    }
    Ok(())
}
