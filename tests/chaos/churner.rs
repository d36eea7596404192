//! Names come and go, with small files' content: what is there is always what a plain model says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::pattern;
use crate::journal::Journal;
use crate::rng::Rng;

const DIRS: u64 = 4;
/// Names in each directory; files come and go under them.
const NAMES: u64 = 12;
/// The largest file, bytes.
const LARGEST: u64 = 300_000;

struct Churner<'a> {
    journal: &'a Journal,
    root: PathBuf,
    rng: Rng,
    /// What each file holds: the seed of its content and its length.
    files: BTreeMap<PathBuf, (u64, usize)>,
}

pub fn run(journal: &Journal, dir: &Path, seed: u64) {
    let mut churner =
        Churner { journal, root: dir.join("churn"), rng: Rng::new(seed), files: BTreeMap::new() };
    if churner.prepare().is_none() {
        return;
    }
    while journal.goes_on() {
        if churner.step().is_none() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for dir in 0..DIRS {
        churner.list(dir);
    }
}

impl Churner<'_> {
    fn prepare(&self) -> Option<()> {
        self.journal.run("mkdir", "churn", || fs::create_dir(&self.root))?;
        (0..DIRS).try_for_each(|d| {
            let dir = self.root.join(format!("d{d}"));
            self.journal.run("mkdir", "churn/d", || fs::create_dir(&dir))
        })
    }

    fn any_name(&mut self) -> PathBuf {
        let (dir, name) = (self.rng.below(DIRS), self.rng.below(NAMES));
        self.root.join(format!("d{dir}/n{name}"))
    }

    fn step(&mut self) -> Option<()> {
        let path = self.any_name();
        let name = path.display().to_string();
        match (self.rng.below(8), self.files.get(&path).copied()) {
            (0..=2, None) => self.create(&path, &name),
            (0..=1, Some(held)) => self.check(&path, &name, held),
            (2, Some(_)) => self.rename(&path, &name),
            (3 | 4, Some(_)) => {
                self.files.remove(&path);
                self.journal.run("unlink", &name, || fs::remove_file(&path))
            }
            (3 | 4, None) => self.absent(&path, &name),
            (5, Some(held)) => self.journal.run("link", &name, || {
                let other = path.with_extension("link");
                fs::hard_link(&path, &other)?;
                let len = fs::metadata(&other)?.len();
                fs::remove_file(&other)?;
                if len != held.1 as u64 {
                    return Err(std::io::Error::other(format!(
                        "a link has {len} bytes, expected {}",
                        held.1
                    )));
                }
                Ok(())
            }),
            (6, _) => self.journal.run("mkdir+rmdir", &name, || {
                let dir = path.with_extension("dir");
                fs::create_dir(&dir)?;
                fs::remove_dir(&dir)
            }),
            _ => {
                let dir = self.rng.below(DIRS);
                self.list(dir)
            }
        }
    }

    /// A new file, sometimes synced.
    fn create(&mut self, path: &Path, name: &str) -> Option<()> {
        let (seed, len) = (self.rng.next(), self.rng.below(LARGEST) as usize);
        let content = pattern(seed, len);
        let mut file = self.journal.run("create", name, || File::create_new(path))?;
        self.journal.run("write", name, || file.write_all(&content))?;
        if self.rng.below(4) == 0 {
            self.journal.run("fsync", name, || file.sync_all())?;
        }
        self.journal.run("close", name, || {
            drop(file);
            Ok(())
        })?;
        self.files.insert(path.to_owned(), (seed, len));
        Some(())
    }

    fn check(&self, path: &Path, name: &str, (seed, len): (u64, usize)) -> Option<()> {
        let read = self.journal.run("read file", name, || fs::read(path))?;
        if read != pattern(seed, len) {
            self.journal.fail(format!("{name}: {} bytes that are not the {len} written", read.len()));
            return None;
        }
        Some(())
    }

    fn rename(&mut self, path: &Path, name: &str) -> Option<()> {
        let to = self.any_name();
        self.journal.run("rename", name, || fs::rename(path, &to))?;
        if let Some(held) = self.files.remove(path) {
            self.files.insert(to, held);
        }
        Some(())
    }

    fn absent(&self, path: &Path, name: &str) -> Option<()> {
        let found = self.journal.run("stat", name, || match fs::symlink_metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            other => other.map(|_| true),
        })?;
        if found {
            self.journal.fail(format!("{name} is there and should not be"));
            return None;
        }
        Some(())
    }

    /// Exactly the files that should be there are.
    fn list(&self, dir: u64) -> Option<()> {
        let dir = self.root.join(format!("d{dir}"));
        let name = dir.display().to_string();
        let found = self.journal.run("list", &name, || {
            fs::read_dir(&dir)?.map(|e| Ok(e?.path())).collect::<std::io::Result<BTreeSet<PathBuf>>>()
        })?;
        let expected: BTreeSet<PathBuf> =
            self.files.keys().filter(|p| p.parent() == Some(&dir)).cloned().collect();
        if found != expected {
            let lost: Vec<_> = expected.difference(&found).collect();
            let more: Vec<_> = found.difference(&expected).collect();
            self.journal.fail(format!("{name}: lost {lost:?}, too many {more:?}"));
            return None;
        }
        Some(())
    }
}
