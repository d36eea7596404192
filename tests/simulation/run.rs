//! One run: a seed gives the cluster, the workload, the faults and every delay.

use crate::calm;
use crate::chunkserver::disk::BLOCKS;
use crate::client::Client;
use crate::faults;
use crate::heat;
use crate::history::Kind;
use crate::invariants::register::{Read, Register};
use crate::invariants::{acknowledged_survives, healed, no_stale_read, replicas_equal, synced_survives};
use crate::rng::SplitMix64;
use crate::sessions;
use crate::trace::Trace;
use crate::workload;
use crate::world::{CLIENTS, Config, MASTER, World};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Things go wrong for so long, milliseconds.
const FAULTS: u64 = 25_000;
/// Everything is well again within this time after the last fault.
const HEALED: u64 = 150_000;

pub struct Outcome {
    pub failure: Option<String>,
    pub trace: String,
    pub coverage: BTreeMap<&'static str, u64>,
}

pub fn run(seed: u64, trace: Trace) -> Outcome {
    let mut rng = SplitMix64::new(seed);
    let config = draw(&mut rng);
    let world = World::new(config, rng, trace);
    trace!(world, "seed {seed}: {:?}", world.config);
    simulate(&world, seed);
    let outcome =
        Outcome { failure: world.failure(), trace: world.trace.kept(), coverage: world.coverage.take() };
    world.clear();
    outcome
}

fn draw(rng: &mut SplitMix64) -> Config {
    let servers = rng.between(3, 6) as u32;
    let copies = match rng.below(20) {
        0 => 2,
        1 if servers == 5 => 5,
        _ => 3,
    };
    let clients = rng.between(1, 4) as u32;
    Config { servers, copies, clients, depth: rng.between(1, 5) as u32, places: rng.between(1, 9) }
}

fn simulate(world: &Rc<World>, seed: u64) {
    for node in world.servers().chain([MASTER]) {
        let drift = world.rng.borrow_mut().below(40_001) as i64 - 20_000;
        world.exec.set_drift(node, drift);
    }
    world.start(MASTER);
    world.servers().for_each(|s| world.start(s));
    let think = [1, 20, 150][world.rng.borrow_mut().below(3) as usize];
    for id in CLIENTS + 1..=CLIENTS + world.config.clients {
        let client = Client::new(world, id, world.config.clients == 1);
        world.clients.borrow_mut().insert(id, client.clone());
        let busy = Rc::default();
        for _ in 0..world.config.depth {
            let work = workload::work(world.clone(), client.clone(), Rc::clone(&busy), FAULTS, think);
            world.exec.spawn(world.exec.life(id), work);
        }
    }
    world.exec.run_until(1_000_000);
    let harness = world.exec.life(crate::world::HARNESS);
    world.exec.spawn(harness, faults::inject(world.clone(), FAULTS));
    heat::begin(world, seed, FAULTS);
    sessions::begin(world, seed, FAULTS);
    while world.exec.now() < FAULTS * 1000 && pass(world, 500) {}
    world.mend();
    if world.failure().is_none() {
        settle(world);
    }
    if world.failure().is_none() {
        calm::divergence(world);
    }
    if world.failure().is_none() {
        verify(world);
    }
}

/// Lets time pass. False: a promise is broken.
fn pass(world: &Rc<World>, ms: u64) -> bool {
    world.exec.run_until(world.exec.now() + ms * 1000);
    if let Err(what) = replicas_equal::check(world) {
        world.fail("equal replicas", what);
    }
    world.failure().is_none()
}

/// Waits until everything is well.
fn settle(world: &Rc<World>) {
    let end = world.exec.now() + HEALED * 1000;
    // What the clients still wait for ends, too.
    for _ in 0..40 {
        if !pass(world, 500) {
            return;
        }
    }
    loop {
        let state = healed::check(world);
        if state.is_ok() {
            return;
        }
        if world.exec.now() > end {
            return world.fail("healed", state.err().unwrap_or_default());
        }
        if !pass(world, 500) {
            return;
        }
    }
}

/// Reads everything once more, and judges all that was read.
fn verify(world: &Rc<World>) {
    let before = world.history.borrow().ops.len();
    let client = Client::new(world, CLIENTS + 99, false);
    for place in 0..world.config.places {
        let client = client.clone();
        world.exec.spawn(world.exec.life(CLIENTS + 99), async move {
            client.read(place, 0, BLOCKS).await;
        });
    }
    world.exec.run_until(world.exec.now() + 20_000_000);
    let history = world.history.borrow();
    for op in &history.ops[before..] {
        let Some(end) = op.end else {
            return world.fail("healed", format!("place {} cannot be read", op.place));
        };
        debug_assert_eq!(op.kind, Kind::Read);
        for (block, value) in (0..).zip(&op.contents) {
            let register = Register::of(&history, op.place, block);
            let last = Read { value: *value, start: op.start, end };
            if let Err(what) = synced_survives::check(&register, &last) {
                return world.fail("synced writes survive", what);
            }
            if let Err(what) = acknowledged_survives::check(&register, &last) {
                return world.fail("acknowledged writes survive", what);
            }
            if let Err(what) = no_stale_read::check(&register) {
                return world.fail("no stale read", what);
            }
        }
    }
}
