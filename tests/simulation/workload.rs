//! What the clients do.

use crate::chunkserver::disk::BLOCKS;
use crate::client::Client;
use crate::world::World;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Blocks that a client is changing: it never has overlapping changes under way.
type Busy = RefCell<BTreeSet<(u64, u32)>>;

/// One operation after the other, until a time.
pub async fn work(world: Rc<World>, client: Rc<Client>, busy: Rc<Busy>, until_ms: u64, think: u64) {
    while world.exec.now() / 1000 < until_ms {
        let pause = world.rng.borrow_mut().below(2 * think + 1);
        client.sleep(pause).await;
        let (what, place, first, count) = {
            let mut rng = world.rng.borrow_mut();
            let first = rng.below(BLOCKS.into()) as u32;
            let most = (BLOCKS - first).min(if rng.permille(300) { 8 } else { 2 });
            (
                rng.below(1000),
                rng.below(world.config.places),
                first,
                rng.between(1, u64::from(most) + 1) as u32,
            )
        };
        match what {
            0..=399 => change(&world, &client, &busy, (place, first, count), Change::Data(false)).await,
            400..=549 => change(&world, &client, &busy, (place, first, count), Change::Data(true)).await,
            550..=579 => change(&world, &client, &busy, (place, first, count), Change::Zeros).await,
            580..=589 => change(&world, &client, &busy, (place, 0, BLOCKS), Change::Drop).await,
            590..=659 => client.sync(place).await,
            _ => drop(client.read(place, first, count).await),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Change {
    Data(bool),
    Zeros,
    Drop,
}

async fn change(
    world: &World,
    client: &Rc<Client>,
    busy: &Busy,
    (place, first, count): (u64, u32, u32),
    what: Change,
) {
    let blocks: Vec<_> = (first..first + count).map(|b| (place, b)).collect();
    if blocks.iter().any(|b| busy.borrow().contains(b)) {
        return;
    }
    busy.borrow_mut().extend(&blocks);
    match what {
        Change::Data(sync) => {
            let data = blocks.iter().map(|_| world.history.borrow_mut().fresh()).collect();
            client.write(place, first, Some(data), count, sync).await;
        }
        Change::Zeros => client.write(place, first, None, count, false).await,
        Change::Drop => client.drop_chunk(place, BLOCKS).await,
    }
    busy.borrow_mut().retain(|b| !blocks.contains(b));
}
