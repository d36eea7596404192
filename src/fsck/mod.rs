//! Checks a whole cluster while it runs: the master's records against each other, every replica against its record, the
//! replicas of each chunk against each other, and what chunkservers have against what is known.

mod finding;
mod judge;
mod master;
mod replicas;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_proto::rpc::{ChunkInfo, ServerInfo};
use futures::future::join_all;
use futures::stream::{self, StreamExt};

use crate::error::Failure;
use finding::{Finding, Kind};
use judge::{Answer, Verdict, judge};
use master::Master;
use replicas::Replicas;
pub use report::Report;

/// Chunks looked at at once: each waits for one server at a time.
const AT_ONCE: usize = 8;
/// A chunk in doubt is looked at so often, and so long after the last time.
const LOOKS: usize = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// A replica that should not be may be about to be deleted, or to be taken into the set.
const SETTLE: Duration = Duration::from_secs(3);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// The masters.
    pub masters: Vec<String>,
    /// Bytes a second that are read from one chunkserver.
    pub rate: u64,
    /// Nothing is read; chunkservers only say what they have.
    pub quick: bool,
}

/// Checks everything. Errors: no master answers, or not any more.
pub async fn check(options: &Options) -> Result<Report, Failure> {
    let status = crate::admin::status(&options.masters).await?;
    let cluster = status.cluster_id.as_ref().try_into();
    let cluster = cluster.map_err(|_| Failure::System("the master's cluster id makes no sense".into()))?;
    let servers: Vec<ServerInfo> = status.chunkservers.into_iter().filter_map(|s| s.info).collect();
    let replicas = Replicas::new(cluster, servers, options.rate);
    let mut check = Check {
        master: Master::connect(&options.masters).await?,
        replicas,
        content: !options.quick,
        report: Report::default(),
    };
    check.records_and_replicas().await?;
    check.strangers().await?;
    check.names().await?;
    Ok(check.report)
}

struct Check {
    master: Master,
    replicas: Replicas,
    content: bool,
    report: Report,
}

impl Check {
    async fn records_and_replicas(&mut self) -> Result<(), Failure> {
        let mut from = bytes::Bytes::new();
        loop {
            let page = self.master.page(from).await?;
            self.report.records += page.records;
            self.report.findings.extend(page.findings.into_iter().map(Finding::from));
            self.chunks(&page.chunks).await?;
            if page.next.is_empty() {
                return Ok(());
            }
            from = page.next;
        }
    }

    /// Looks at the replicas of some chunks, and again at those that are in doubt.
    async fn chunks(&mut self, chunks: &[ChunkInfo]) -> Result<(), Failure> {
        let looks = stream::iter(chunks).map(|info| self.look(info, self.content)).buffer_unordered(AT_ONCE);
        let looks: Vec<Look> = looks.collect().await;
        let mut doubtful = Vec::new();
        for look in looks {
            self.report.chunks += 1;
            self.report.replicas += look.replicas;
            self.report.bytes_read += look.bytes_read;
            self.report.findings.extend(look.verdict.certain.iter().cloned());
            if !look.verdict.doubtful.is_empty() {
                doubtful.push(look);
            }
        }
        self.look_again(doubtful).await
    }

    async fn look_again(&mut self, mut doubtful: Vec<Look>) -> Result<(), Failure> {
        let mut grew = BTreeSet::new();
        for _ in 1..LOOKS {
            if doubtful.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            let before: BTreeMap<u64, u64> = doubtful.iter().map(|l| (l.chunk, l.highest)).collect();
            let now = self.master.chunks(before.keys().copied().collect()).await?;
            let now: Vec<ChunkInfo> = now.into_iter().filter_map(|c| c.info).collect();
            let looks = stream::iter(&now).map(|info| self.look(info, false)).buffer_unordered(AT_ONCE);
            doubtful = looks.filter(|l| std::future::ready(!l.verdict.doubtful.is_empty())).collect().await;
            let moved = |l: &&Look| before.get(&l.chunk).is_some_and(|seq| *seq < l.highest);
            grew = doubtful.iter().filter(moved).map(|l| l.chunk).collect();
        }
        for look in doubtful {
            let busy = look.verdict.moving && grew.contains(&look.chunk);
            self.report.findings.extend(look.verdict.doubtful.into_iter().map(|f| match f.kind {
                Kind::Behind if busy => Finding { kind: Kind::Busy, server: 0, ..f },
                _ => f,
            }));
        }
        Ok(())
    }

    async fn look(&self, info: &ChunkInfo, content: bool) -> Look {
        let ask =
            |server: u32| async move { (server, self.replicas.verify(server, info.chunk, content).await) };
        let answers = join_all(info.in_sync.iter().map(|s| ask(*s))).await;
        let said: Vec<_> = answers
            .iter()
            .filter_map(|(_, a)| if let Answer::Said(r) = a { Some(r) } else { None })
            .collect();
        Look {
            chunk: info.chunk,
            replicas: said.iter().filter(|r| r.exists).count() as u64,
            bytes_read: said.iter().map(|r| r.bytes_read).sum(),
            highest: said.iter().map(|r| r.seq).max().unwrap_or(0),
            verdict: judge(info, &answers),
        }
    }

    /// Replicas that nobody asked about.
    async fn strangers(&mut self) -> Result<(), Failure> {
        let mut suspects = Vec::new();
        for server in self.replicas.ids().collect::<Vec<_>>() {
            let mut from = 0;
            // A server that does not answer has been told of with its chunks.
            while let Ok((held, end)) = self.replicas.list(server, from).await {
                let ids: Vec<u64> = held.iter().map(|r| r.chunk).collect();
                from = ids.last().map_or(0, |last| last + 1);
                suspects.extend(self.unexpected(server, ids).await?);
                if end || from == 0 {
                    break;
                }
            }
        }
        if suspects.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(SETTLE).await;
        for suspect in suspects {
            let still = self.unexpected(suspect.server, vec![suspect.chunk]).await?;
            let there = self.replicas.verify(suspect.server, suspect.chunk, false).await;
            if matches!(there, Answer::Said(r) if r.exists) {
                self.report.findings.extend(still);
            }
        }
        Ok(())
    }

    async fn unexpected(&mut self, server: u32, ids: Vec<u64>) -> Result<Vec<Finding>, Failure> {
        let known = self.master.chunks(ids.clone()).await?;
        let judged = ids.into_iter().zip(known).filter_map(|(chunk, known)| match known.info {
            None if !known.garbage => Some(Finding { chunk, server, ..Finding::new(Kind::Unknown, "") }),
            // While the set is not whole, it may be on its way into it.
            Some(info) if !info.in_sync.contains(&server) && info.in_sync.len() >= info.wanted as usize => {
                let (inode, index) = (info.inode, info.index);
                Some(Finding { chunk, server, inode, index, ..Finding::new(Kind::Extra, "") })
            }
            _ => None,
        });
        Ok(judged.collect())
    }

    /// What the files are called that were found fault with.
    async fn names(&mut self) -> Result<(), Failure> {
        let inodes: BTreeSet<u64> =
            self.report.findings.iter().map(|f| f.inode).filter(|i| *i != 0).collect();
        let inodes: Vec<u64> = inodes.into_iter().collect();
        for some in inodes.chunks(master::IDS) {
            let paths = self.master.paths(some.to_vec()).await?;
            for finding in &mut self.report.findings {
                finding.paths.extend(paths.get(&finding.inode).cloned().unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// What one look at a chunk has shown.
struct Look {
    chunk: u64,
    replicas: u64,
    bytes_read: u64,
    /// The highest seq that a replica has.
    highest: u64,
    verdict: Verdict,
}
