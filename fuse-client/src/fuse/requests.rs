//! Counts the kernel's requests, and how long they take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cairn_proto::latency::Latency;
use cairn_proto::monitor::Figure;

use super::abi::opcode::*;

/// More than any opcode.
const OPCODES: usize = 64;

/// What requests are called, by the opcodes that are answered.
const NAMES: [(u32, &str); 35] = [
    (LOOKUP, "lookup"),
    (GETATTR, "getattr"),
    (SETATTR, "setattr"),
    (READLINK, "readlink"),
    (SYMLINK, "symlink"),
    (MKNOD, "mknod"),
    (MKDIR, "mkdir"),
    (UNLINK, "unlink"),
    (RMDIR, "rmdir"),
    (RENAME, "rename"),
    (LINK, "link"),
    (OPEN, "open"),
    (READ, "read"),
    (WRITE, "write"),
    (STATFS, "statfs"),
    (RELEASE, "release"),
    (FSYNC, "fsync"),
    (SETXATTR, "setxattr"),
    (GETXATTR, "getxattr"),
    (LISTXATTR, "listxattr"),
    (REMOVEXATTR, "removexattr"),
    (FLUSH, "flush"),
    (INIT, "init"),
    (OPENDIR, "opendir"),
    (READDIR, "readdir"),
    (RELEASEDIR, "releasedir"),
    (FSYNCDIR, "fsyncdir"),
    (CREATE, "create"),
    (DESTROY, "destroy"),
    (FALLOCATE, "fallocate"),
    (READDIRPLUS, "readdirplus"),
    (RENAME2, "rename2"),
    (LSEEK, "lseek"),
    (COPY_FILE_RANGE, "copy_file_range"),
    (0, "other"),
];

/// A request that is to be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) unique: u64,
    opcode: u32,
    at: Instant,
}

impl Asked {
    /// It has just come.
    pub(super) fn now(unique: u64, opcode: u32) -> Self {
        Self { unique, opcode, at: Instant::now() }
    }
}

/// The counts, since the mount began.
#[derive(Debug)]
pub(crate) struct Requests {
    answered: [AtomicU64; OPCODES],
    reads: Latency,
    writes: Latency,
    syncs: Latency,
    others: Latency,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            answered: std::array::from_fn(|_| AtomicU64::new(0)),
            reads: Latency::default(),
            writes: Latency::default(),
            syncs: Latency::default(),
            others: Latency::default(),
        }
    }
}

impl Requests {
    /// The kernel gets its answer.
    pub(super) fn answered(&self, asked: Asked) {
        let known = NAMES.iter().any(|(opcode, _)| *opcode == asked.opcode);
        let at = if known { asked.opcode as usize } else { 0 };
        self.answered[at % OPCODES].fetch_add(1, Ordering::Relaxed);
        let of = match asked.opcode {
            READ => &self.reads,
            WRITE => &self.writes,
            FSYNC | FLUSH | FSYNCDIR => &self.syncs,
            _ => &self.others,
        };
        of.record(asked.at.elapsed());
    }

    /// For collectors; without what never occurred.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let count = |(opcode, name): &(u32, &str)| {
            let n = self.answered[*opcode as usize].load(Ordering::Relaxed);
            let figure = Figure::counter("cairn_requests_total", "The kernel's requests answered", n);
            (n > 0).then(|| figure.of("operation", name))
        };
        let took =
            [("read", &self.reads), ("write", &self.writes), ("sync", &self.syncs), ("other", &self.others)]
                .map(|(kind, latency)| Figure {
                    name: "cairn_request_seconds",
                    help: "How long the kernel's requests took until they were answered",
                    labels: vec![("kind", kind.to_owned())],
                    value: latency.histogram(),
                });
        NAMES.iter().filter_map(count).chain(took).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_counted_under_its_name() {
        let requests = Requests::default();
        for opcode in [READ, READ, FSYNC, 63, 1 << 20] {
            requests.answered(Asked::now(1, opcode));
        }
        let figures = requests.figures();
        let counted = |name: &str| {
            let label = ("operation", name.to_owned());
            figures.iter().find(|f| f.labels.contains(&label)).map(|f| f.value.clone())
        };
        use cairn_proto::monitor::Value::Counter;
        assert_eq!(counted("read"), Some(Counter(2)));
        assert_eq!(counted("fsync"), Some(Counter(1)));
        assert_eq!(counted("other"), Some(Counter(2)));
        assert_eq!(counted("write"), None);
        assert_eq!(figures.len(), 3 + 4);
    }
}
