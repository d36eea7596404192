//! Mounts whose sessions end while they have writes under way, in some of the runs.
//!
//! Mirrors of `master/src/core/sessions.rs` only what chunkservers hear of; clients go on under a new session at once. Drawn from a generator of its
//! own, as heat is: runs without it stay what they were.

use crate::rng::SplitMix64;
use crate::world::{CLIENTS, HARNESS, World};
use cairn_master::core::cluster;
use cairn_proto::SessionId;
use std::collections::BTreeSet;
use std::rc::Rc;

/// One run of so many has it.
const ONE_OF: u64 = 8;
/// The first session that is not a client's first, whose number is the client's.
const FIRST: u64 = 1_000;

/// The sessions, as the master has them on its disk.
pub struct Sessions {
    /// Any has ended. Before that, nothing is said of them.
    ended: bool,
    next: u64,
    alive: BTreeSet<u64>,
    /// Over, but not fenced yet.
    over: BTreeSet<u64>,
    /// No write of theirs may be taken any more.
    fenced: BTreeSet<u64>,
}

impl Default for Sessions {
    fn default() -> Self {
        let alive = (0..100).map(|n| u64::from(CLIENTS) + n).collect();
        Self { ended: false, next: FIRST, alive, over: BTreeSet::new(), fenced: BTreeSet::new() }
    }
}

impl Sessions {
    /// A client begins another one.
    pub fn begin(&mut self) -> u64 {
        self.next += 1;
        self.alive.insert(self.next - 1);
        self.next - 1
    }

    /// A session ends.
    fn end(&mut self, session: u64) -> bool {
        self.ended = true;
        self.alive.remove(&session) && self.over.insert(session)
    }

    pub fn fenced(&mut self, session: u64) {
        self.over.remove(&session);
        self.fenced.insert(session);
    }

    pub fn is_fenced(&self, session: u64) -> bool {
        self.fenced.contains(&session)
    }

    pub fn is_over(&self, session: u64) -> bool {
        !self.alive.contains(&session)
    }

    /// What a master that starts knows of them, if there is anything to know.
    pub fn stored(&self) -> Option<(cluster::Sessions, Vec<SessionId>)> {
        self.ended.then(|| (self.told(), self.over.iter().map(|s| SessionId(*s)).collect()))
    }

    fn told(&self) -> cluster::Sessions {
        cluster::Sessions { below: self.next, alive: self.alive.iter().map(|s| SessionId(*s)).collect() }
    }
}

/// Ends the session of a client now and then, in the runs that have it, until that time.
pub fn begin(world: &Rc<World>, seed: u64, until_ms: u64) {
    if seed % ONE_OF != 4 {
        return;
    }
    let (world, mut rng) = (world.clone(), SplitMix64::new(!seed ^ 1));
    let life = world.exec.life(HARNESS);
    world.clone().exec.spawn(life, async move {
        loop {
            world.exec.sleep(life, rng.between(2_000, 9_000)).await;
            if world.exec.now() / 1000 >= until_ms {
                return;
            }
            let client = CLIENTS + rng.between(1, u64::from(world.config.clients) + 1) as u32;
            let session = world.clients.borrow()[&client].session();
            let Some(master) = world.master.borrow().clone() else { continue };
            let told = {
                let mut sessions = world.sessions.borrow_mut();
                if !sessions.end(session) {
                    continue;
                }
                sessions.told()
            };
            trace!(world, "k{client}'s session {session} is over");
            master.session_over(SessionId(session), told);
        }
    });
}
