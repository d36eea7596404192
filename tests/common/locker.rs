//! Processes that lock files, write and sync them when they are told to.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What is answered at all is answered within this.
const ANSWER: Duration = Duration::from_secs(60);

/// Answers each line with "ok" or the name of the error. SIGUSR1 interrupts a wait.
const SCRIPT: &str = r"
import errno, fcntl, os, signal, struct, sys
def interrupted(*_): raise InterruptedError(errno.EINTR, 'a signal')
signal.signal(signal.SIGUSR1, interrupted)
f = open(sys.argv[1], 'r+b', buffering=0)
MODES = {'x': (fcntl.F_WRLCK, fcntl.LOCK_EX), 's': (fcntl.F_RDLCK, fcntl.LOCK_SH), 'u': (fcntl.F_UNLCK, fcntl.LOCK_UN)}
COMMANDS = {'posix': (fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW), 'ofd': (36, 37, 38)}
FORM = 'hhqqixxxx'
def do(how, *words):
    if how == 'write':
        return os.pwrite(f.fileno(), words[0].encode(), 0) and None
    if how == 'sync':
        return os.fsync(f.fileno())
    kind, mode, start, length = words
    kernels, flocks = MODES[mode]
    if kind == 'flock':
        return fcntl.flock(f, flocks | (0 if how == 'wait' else fcntl.LOCK_NB))
    command = COMMANDS[kind][('test', 'try', 'wait').index(how)]
    answer = fcntl.fcntl(f, command, struct.pack(FORM, kernels, 0, int(start), int(length), 0))
    if how == 'test':
        found, _, start, length, pid = struct.unpack(FORM, answer)
        return 'free' if found == fcntl.F_UNLCK else f'{found} {start} {length} {pid}'
print('ready', flush=True)
for line in sys.stdin:
    try:
        print(do(*line.split()) or 'ok', flush=True)
    except OSError as e:
        print('EDEADLK' if e.errno == errno.EDEADLK else errno.errorcode[e.errno], flush=True)
";

/// A process that has a file open.
pub struct Locker {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Locker {
    /// Opens a file that is there.
    pub fn open(path: &Path) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (tell, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let locker = Self { child, stdin, answers };
        assert_eq!(locker.answer(), "ready");
        locker
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for something, without waiting for the answer: "try|wait|test posix|ofd|flock x|s|u START LENGTH" (0: to the end), "write TEXT" (at
    /// the beginning), "sync".
    pub fn ask(&mut self, what: &str) {
        writeln!(self.stdin, "{what}").unwrap();
    }

    #[track_caller]
    pub fn answer(&self) -> String {
        self.answers.recv_timeout(ANSWER).expect("no answer")
    }

    /// Asks and waits for the answer.
    #[track_caller]
    pub fn does(&mut self, what: &str) -> String {
        self.ask(what);
        self.answer()
    }

    /// Asks again and again until it is done.
    #[track_caller]
    pub fn gets(&mut self, what: &str, limit: Duration) {
        super::eventually(limit, what, || self.does(what) == "ok");
    }

    /// Nothing has been answered for a while.
    #[track_caller]
    pub fn waits(&self) {
        let answer = self.answers.recv_timeout(Duration::from_millis(700));
        assert_eq!(answer, Err(RecvTimeoutError::Timeout), "it should wait");
    }

    pub fn signal(&self, signal: libc::c_int) {
        super::signal_pid(self.pid(), signal);
    }

    /// Whether it has ended within this time.
    pub fn ends(&mut self, limit: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < limit {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // Not waited for without a bound: it may wait itself for a mount that does not answer.
        if !self.ends(Duration::from_secs(5)) {
            eprintln!("process {} does not end", self.pid());
        }
    }
}
