//! How a process can be asked how it is: whether it serves, and its figures.
//!
//! The process leaves word with a [`Monitor`]; whoever answers probes and collectors (`cairn --http`) asks that. The question
//! is answered on the process's own runtime, so that a process which hangs inside does not answer, and is known by it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name, as Prometheus wants it: the unit last, `_total` for what is only counted up.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Which of several of that name.
    pub labels: Vec<(&'static str, String)>,
    /// How much.
    pub value: Value,
}

/// What a figure is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Counted up from the start of the process on.
    Counter(u64),
    /// As it is now.
    Gauge(f64),
    /// How often something took how long.
    Histogram {
        /// Upper bounds in seconds, going up, and how often it was at most that.
        buckets: Vec<(f64, u64)>,
        /// All of it, in seconds.
        sum: f64,
        /// How often.
        count: u64,
    },
}

impl Figure {
    /// Something counted since the start.
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, labels: Vec::new(), value: Value::Counter(value) }
    }

    /// Something as it is now.
    pub fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, labels: Vec::new(), value: Value::Gauge(value as f64) }
    }

    /// Of several of that name the one with this label.
    #[must_use]
    pub fn of(mut self, label: &'static str, value: impl fmt::Display) -> Self {
        self.labels.push((label, value.to_string()));
        self
    }
}

/// How a process is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Why it does not serve; none: it does.
    pub unwell: Option<String>,
    /// What is not as it should be although it serves.
    pub remarks: Vec<String>,
    /// Its figures. Those of one name stand together.
    pub figures: Vec<Figure>,
}

impl Report {
    /// It does not serve, and that is all that is known.
    pub fn unwell(why: impl Into<String>) -> Self {
        Self { unwell: Some(why.into()), ..Self::default() }
    }
}

type Answering = Pin<Box<dyn Future<Output = Report> + Send>>;

#[derive(Clone)]
enum State {
    /// It does not serve yet.
    Starting(&'static str),
    Asked(Handle, Arc<dyn Fn() -> Answering + Send + Sync>),
}

struct Inner {
    address: String,
    state: Mutex<State>,
    /// A question has not been answered yet; there is never more than one.
    waiting: AtomicBool,
}

/// Where a process leaves word how it can be asked. Clones are one and the same.
#[derive(Clone)]
pub struct Monitor(Arc<Inner>);

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("address", &self.0.address).finish_non_exhaustive()
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self::at(String::new())
    }
}

impl Monitor {
    /// One that can be asked at an address ("host:port"; empty: nowhere).
    pub fn at(address: String) -> Self {
        let state = Mutex::new(State::Starting("it is starting"));
        Self(Arc::new(Inner { address, state, waiting: AtomicBool::new(false) }))
    }

    /// Where it can be asked; empty: nowhere.
    pub fn address(&self) -> &str {
        &self.0.address
    }

    /// The process does not serve yet.
    pub fn starting(&self, why: &'static str) {
        *self.0.state.lock() = State::Starting(why);
    }

    /// From now on questions are answered by `answer`, on the runtime that this is called on.
    pub fn answered_by<F, R>(&self, answer: F)
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Report> + Send + 'static,
    {
        let answer = move || -> Answering { Box::pin(answer()) };
        *self.0.state.lock() = State::Asked(Handle::current(), Arc::new(answer));
    }

    /// How the process is. It has `patience` to answer, else that is what is the matter with it.
    pub async fn ask(&self, patience: Duration) -> Report {
        let (runtime, answer) = match self.0.state.lock().clone() {
            State::Starting(why) => return Report::unwell(why),
            State::Asked(runtime, answer) => (runtime, answer),
        };
        let inner = self.0.clone();
        let started = tokio::time::Instant::now();
        // One at a time: a process that hangs is not to be filled with questions.
        while inner.waiting.swap(true, Ordering::AcqRel) {
            if started.elapsed() >= patience {
                return Report::unwell("it does not answer");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let asked = runtime.spawn(async move {
            let _over = Over(inner);
            answer().await
        });
        match tokio::time::timeout(patience.saturating_sub(started.elapsed()), asked).await {
            Ok(Ok(report)) => report,
            Ok(Err(_)) => Report::unwell("it is stopping"),
            Err(_) => Report::unwell(format!("it does not answer within {patience:?}")),
        }
    }
}

/// The question is over, however that came.
struct Over(Arc<Inner>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.waiting.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn it_says_what_it_was_told_to() {
        let m = Monitor::at("127.0.0.1:1".into());
        assert_eq!(m.ask(PATIENCE).await.unwell.as_deref(), Some("it is starting"));
        m.starting("no master yet");
        assert_eq!(m.ask(PATIENCE).await.unwell.as_deref(), Some("no master yet"));
        m.answered_by(|| async { Report { figures: vec![Figure::gauge("a", "b", 1)], ..Report::default() } });
        let report = m.ask(PATIENCE).await;
        assert!(report.unwell.is_none() && report.figures.len() == 1);
    }

    #[tokio::test]
    async fn one_that_hangs_is_told_from_one_that_answers_and_is_asked_once() {
        let m = Monitor::default();
        let asked = Arc::new(Mutex::new(0));
        let (count, go) = (asked.clone(), Arc::new(tokio::sync::Notify::new()));
        let gone = go.clone();
        m.answered_by(move || {
            *count.lock() += 1;
            let go = gone.clone();
            async move {
                go.notified().await;
                Report::default()
            }
        });
        for _ in 0..3 {
            let report = m.ask(PATIENCE).await;
            assert!(report.unwell.is_some_and(|w| w.contains("does not answer")));
        }
        assert_eq!(*asked.lock(), 1);
        go.notify_one();
        go.notify_one();
        let report = m.ask(Duration::from_secs(20)).await;
        assert_eq!(report.unwell, None);
    }
}
