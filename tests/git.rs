//! docs/semantics.md, "Several mounts": one git repository used from two mounts, by turns and at once.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::{Cluster, text};

/// Commits that each mount makes by turns, and then as many at once.
const COMMITS: usize = 8;
/// A commit that meets another one's locks is tried again for so long.
const LIMIT: Duration = Duration::from_secs(60);

fn git(repository: &Path, args: &[&str]) -> Output {
    let mut git = Command::new("git");
    git.args(["-c", "gc.auto=0", "-c", "user.name=test", "-c", "user.email=test@localhost"]).args(args);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
    git.current_dir(repository).output().unwrap()
}

fn does(repository: &Path, args: &[&str]) -> String {
    let output = git(repository, args);
    assert!(output.status.success(), "git {args:?}: {}", text(&output));
    text(&output)
}

/// Commits a new file of that name, however often another one's commit is in the way. (git reads the index of a commit of single files before
/// it locks it, so that what was added meanwhile is not there: on every file system.)
fn commit(repository: &Path, name: &str) {
    fs::write(repository.join(name), name.repeat(100)).unwrap();
    let begun = Instant::now();
    let steps = [vec!["add", "--", name], vec!["commit", "-q", "-m", name, "--", name]];
    while let Some(failed) = steps.iter().map(|args| git(repository, args)).find(|o| !o.status.success()) {
        let said = text(&failed);
        let in_the_way = [".lock", "cannot lock ref", "did not match any file"];
        assert!(in_the_way.iter().any(|w| said.contains(w)), "{name}: {said}");
        assert!(begun.elapsed() < LIMIT, "{name}: {said}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_mounts_use_one_git_repository_and_no_commit_is_lost() {
    let cluster = Cluster::start();
    let second = cluster.second_mount("second", &[]);
    let repositories = [cluster.mount().join("repository"), second.dir().join("repository")];
    fs::create_dir(&repositories[0]).unwrap();
    does(&repositories[0], &["init", "-q", "-b", "main"]);
    let mut wanted = BTreeSet::new();
    for n in 0..COMMITS {
        for (mount, repository) in repositories.iter().enumerate() {
            let name = format!("turn-{mount}-{n}");
            commit(repository, &name);
            assert_eq!(does(&repositories[1 - mount], &["log", "-1", "--format=%s"]).trim(), name);
            wanted.insert(name);
        }
    }
    repositories.iter().for_each(|r| assert_eq!(does(r, &["status", "--porcelain"]), ""));
    std::thread::scope(|scope| {
        for (mount, repository) in repositories.iter().enumerate() {
            scope.spawn(move || (0..COMMITS).for_each(|n| commit(repository, &format!("once-{mount}-{n}"))));
        }
    });
    wanted.extend((0..2).flat_map(|mount| (0..COMMITS).map(move |n| format!("once-{mount}-{n}"))));
    for repository in &repositories {
        let log = does(repository, &["log", "--format=%s"]);
        assert_eq!(log.lines().count(), wanted.len(), "each once: {log}");
        assert_eq!(log.lines().map(str::to_owned).collect::<BTreeSet<_>>(), wanted);
        does(repository, &["fsck", "--strict", "--full"]);
        let files = does(repository, &["ls-tree", "--name-only", "HEAD"]);
        assert_eq!(files.lines().map(str::to_owned).collect::<BTreeSet<_>>(), wanted);
        for name in &wanted {
            assert_eq!(fs::read_to_string(repository.join(name)).unwrap(), name.repeat(100));
        }
    }
}
