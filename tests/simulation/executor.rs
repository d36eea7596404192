//! Simulated time, and the tasks and timers that run in it: one thread, one order.
//!
//! Everything belongs to a *life* of a node: what belongs to a life that has ended never runs; what belongs
//! to a node that is paused waits, in order, until it goes on. Each node has a clock of its own that runs a little
//! too fast or too slow, also while it is paused.

use futures::channel::oneshot;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

/// Microseconds of simulated time.
pub type Micros = u64;
/// A node's number. 0 is the master.
pub type NodeId = u32;

/// One life of a node: from a start of its process to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    pub node: NodeId,
    pub number: u32,
}

type Job = Box<dyn FnOnce()>;
type Task = Pin<Box<dyn Future<Output = ()>>>;

enum Work {
    Call(Job),
    Poll(u64),
}

#[derive(Default)]
struct Node {
    life: u32,
    paused: bool,
    backlog: VecDeque<(Life, Work)>,
    /// Parts of a million by which its clock runs too fast.
    drift: i64,
}

#[derive(Default)]
struct Inner {
    now: Micros,
    order: u64,
    queue: BTreeMap<(Micros, u64), (Life, Work)>,
    tasks: BTreeMap<u64, (Life, Option<Task>)>,
    next_task: u64,
    nodes: BTreeMap<NodeId, Node>,
}

#[derive(Default)]
pub struct Executor {
    inner: RefCell<Inner>,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

struct Ready {
    task: u64,
    queue: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.queue.lock().unwrap().push_back(self.task);
    }
}

impl Executor {
    pub fn now(&self) -> Micros {
        self.inner.borrow().now
    }

    /// A node's own clock, milliseconds.
    pub fn clock(&self, node: NodeId) -> u64 {
        let inner = self.inner.borrow();
        let drift = inner.nodes.get(&node).map_or(0, |n| n.drift);
        // Long past any moment from which times are subtracted.
        let run = inner.now as i64 + inner.now as i64 * drift / 1_000_000;
        (1_000_000_000 + run) as u64 / 1000
    }

    pub fn set_drift(&self, node: NodeId, parts_of_a_million: i64) {
        self.inner.borrow_mut().nodes.entry(node).or_default().drift = parts_of_a_million;
    }

    /// A node's present life.
    pub fn life(&self, node: NodeId) -> Life {
        let number = self.inner.borrow_mut().nodes.entry(node).or_default().life;
        Life { node, number }
    }

    pub fn is_current(&self, life: Life) -> bool {
        self.life(life.node) == life
    }

    /// Ends a node's life: its tasks are dropped.
    pub fn end_life(&self, node: NodeId) {
        let dropped = {
            let mut inner = self.inner.borrow_mut();
            let n = inner.nodes.entry(node).or_default();
            n.life += 1;
            n.paused = false;
            let backlog = std::mem::take(&mut n.backlog);
            let of_it: Vec<u64> =
                inner.tasks.iter().filter(|(_, (l, _))| l.node == node).map(|(id, _)| *id).collect();
            let tasks: Vec<_> = of_it.iter().filter_map(|id| inner.tasks.remove(id)).collect();
            (backlog, tasks)
        };
        drop(dropped);
    }

    pub fn pause(&self, node: NodeId) {
        self.inner.borrow_mut().nodes.entry(node).or_default().paused = true;
    }

    pub fn is_paused(&self, node: NodeId) -> bool {
        self.inner.borrow().nodes.get(&node).is_some_and(|n| n.paused)
    }

    /// Lets a node go on: what has waited runs at once, before anything else.
    pub fn resume(&self, node: NodeId) {
        let backlog = {
            let mut inner = self.inner.borrow_mut();
            let n = inner.nodes.entry(node).or_default();
            n.paused = false;
            std::mem::take(&mut n.backlog)
        };
        for (life, work) in backlog {
            self.run(life, work);
        }
    }

    /// Calls `job` after a time.
    pub fn after(&self, delay: Micros, life: Life, job: impl FnOnce() + 'static) {
        let mut inner = self.inner.borrow_mut();
        inner.order += 1;
        let key = (inner.now + delay, inner.order);
        inner.queue.insert(key, (life, Work::Call(Box::new(job))));
    }

    /// Completes after so many milliseconds of the node's own clock.
    pub fn sleep(&self, life: Life, ms: u64) -> impl Future<Output = ()> + use<> {
        let (tx, rx) = oneshot::channel();
        let drift = self.inner.borrow().nodes.get(&life.node).map_or(0, |n| n.drift);
        let delay = (ms * 1000) as i64 * 1_000_000 / (1_000_000 + drift);
        self.after(delay as u64, life, move || {
            // Whoever slept may have given up.
            let _ = tx.send(());
        });
        async move {
            // It ends only with everything else.
            let _ = rx.await;
        }
    }

    /// The future's output, unless it takes longer than so many milliseconds.
    pub async fn timeout<T>(&self, life: Life, ms: u64, what: impl Future<Output = T>) -> Option<T> {
        let sleep = std::pin::pin!(self.sleep(life, ms));
        match futures::future::select(std::pin::pin!(what), sleep).await {
            futures::future::Either::Left((out, _)) => Some(out),
            futures::future::Either::Right(_) => None,
        }
    }

    pub fn spawn(&self, life: Life, task: impl Future<Output = ()> + 'static) {
        let id = {
            let mut inner = self.inner.borrow_mut();
            inner.next_task += 1;
            let id = inner.next_task;
            inner.tasks.insert(id, (life, Some(Box::pin(task))));
            id
        };
        self.ready.lock().unwrap().push_back(id);
    }

    /// Runs everything up to a time.
    pub fn run_until(&self, end: Micros) {
        loop {
            self.run_ready();
            let next = {
                let mut inner = self.inner.borrow_mut();
                match inner.queue.first_key_value() {
                    Some(((at, _), _)) if *at <= end => {
                        let ((at, _), work) = inner.queue.pop_first().unwrap();
                        inner.now = at;
                        Some(work)
                    }
                    _ => {
                        inner.now = end;
                        None
                    }
                }
            };
            let Some((life, work)) = next else { return };
            self.run(life, work);
        }
    }

    fn run_ready(&self) {
        loop {
            let Some(task) = self.ready.lock().unwrap().pop_front() else { return };
            let life = self.inner.borrow().tasks.get(&task).map(|(l, _)| *l);
            if let Some(life) = life {
                self.run(life, Work::Poll(task));
            }
        }
    }

    fn run(&self, life: Life, work: Work) {
        let mut inner = self.inner.borrow_mut();
        let node = inner.nodes.entry(life.node).or_default();
        if node.life != life.number {
            drop(inner);
            return drop(work);
        }
        if node.paused {
            return node.backlog.push_back((life, work));
        }
        match work {
            Work::Call(job) => {
                drop(inner);
                job();
            }
            Work::Poll(id) => {
                let Some(mut task) = inner.tasks.get_mut(&id).and_then(|(_, t)| t.take()) else { return };
                drop(inner);
                let waker = Waker::from(Arc::new(Ready { task: id, queue: self.ready.clone() }));
                let done = task.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(());
                let mut inner = self.inner.borrow_mut();
                if done {
                    inner.tasks.remove(&id);
                } else if let Some((_, place)) = inner.tasks.get_mut(&id) {
                    *place = Some(task);
                }
            }
        }
    }

    /// Drops everything, so that nothing keeps anything else alive.
    pub fn clear(&self) {
        let old = std::mem::take(&mut *self.inner.borrow_mut());
        drop(old);
        self.ready.lock().unwrap().clear();
    }
}
