//! The live status of `cairn up` in the foreground: redrawn in place on a terminal, else a line a change.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use cairn_proto::rpc::StatusReply;

use crate::commands::status;
use crate::values::human;

/// Bytes written to and read from all chunkservers since they started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Traffic {
    bytes_in: u64,
    bytes_out: u64,
}

impl Traffic {
    fn of(reply: &StatusReply) -> Self {
        let sum = |f: fn(&cairn_proto::rpc::ChunkserverStatus) -> u64| reply.chunkservers.iter().map(f).sum();
        Self { bytes_in: sum(|s| s.bytes_in), bytes_out: sum(|s| s.bytes_out) }
    }

    /// Bytes a second since `before`; a server that started again counts from 0.
    fn rate(self, before: Self, elapsed: Duration) -> Self {
        let rate =
            |now: u64, then: u64| (now.saturating_sub(then) as f64 / elapsed.as_secs_f64().max(1e-3)) as u64;
        Self {
            bytes_in: rate(self.bytes_in, before.bytes_in),
            bytes_out: rate(self.bytes_out, before.bytes_out),
        }
    }
}

/// What is on the screen.
pub struct Display {
    terminal: bool,
    drawn: usize,
    last_line: String,
    traffic: Option<(Instant, Traffic)>,
    rate: Traffic,
}

impl Display {
    /// Says where everything is.
    pub fn new(dir: &Path, data: &Path) -> Self {
        let terminal = std::io::stdout().is_terminal();
        say(&format!(
            "CairnFS is mounted on {}, its data in {}; Ctrl-C stops it\n",
            dir.display(),
            data.display()
        ));
        Self { terminal, drawn: 0, last_line: String::new(), traffic: None, rate: Traffic::default() }
    }

    /// Shows how it stands; `away` are the processes that do not serve.
    pub fn show(mut self, reply: Option<&StatusReply>, away: Vec<&str>) -> Self {
        self.measure(reply);
        let lines = lines(reply, &away, self.rate);
        if self.terminal {
            let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
            let text: String = lines.iter().map(|l| format!("\x1b[2K{l}\n")).collect();
            say(&format!("{up}\x1b[J{text}"));
            self.drawn = lines.len();
        } else {
            let line = lines[..lines.len() - 2].join("; ");
            if line != self.last_line {
                say(&format!("{line}\n"));
                self.last_line = line;
            }
        }
        self
    }

    fn measure(&mut self, reply: Option<&StatusReply>) {
        let Some(now) = reply.map(Traffic::of) else { return };
        match self.traffic {
            Some((_, before)) if before == now && self.rate == Traffic::default() => {}
            // Servers report once a second.
            Some((at, _)) if at.elapsed() < Duration::from_secs(1) => return,
            Some((at, before)) => self.rate = now.rate(before, at.elapsed()),
            None => {}
        }
        self.traffic = Some((Instant::now(), now));
    }
}

/// A closed pipe does not end the cluster.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Servers, copies, space, traffic: the last two change all the time.
fn lines(reply: Option<&StatusReply>, away: &[&str], rate: Traffic) -> Vec<String> {
    let (servers, copies, space) = match reply {
        None => ("master does not answer".to_owned(), "unknown".to_owned(), "unknown".to_owned()),
        Some(reply) => {
            let alive = reply.chunkservers.iter().filter(|s| status::state(s) == "alive").count();
            let disks = || reply.chunkservers.iter().flat_map(|s| &s.disks);
            // As the mount shows it: what fits in when every byte is stored so many times.
            let copies = u64::from(reply.copies.max(1));
            let free = human(disks().map(|d| d.free_bytes).sum::<u64>() / copies);
            let total = human(disks().map(|d| d.total_bytes).sum::<u64>() / copies);
            (
                format!("{alive} of {} chunkservers alive", reply.chunkservers.len()),
                status::copies(reply),
                format!("{free} free of {total}"),
            )
        }
    };
    let away = if away.is_empty() { String::new() } else { format!("; starting: {}", away.join(", ")) };
    vec![
        format!("servers   {servers}{away}"),
        format!("copies    {copies}"),
        format!("space     {space}"),
        format!("traffic   {}/s in, {}/s out", human(rate.bytes_in), human(rate.bytes_out)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::rpc::ChunkserverStatus;

    #[test]
    fn traffic_is_a_rate_and_never_negative() {
        let t = |bytes_in, bytes_out| Traffic { bytes_in, bytes_out };
        assert_eq!(t(300, 50).rate(t(100, 90), Duration::from_secs(2)), t(100, 0));
    }

    #[test]
    fn says_who_is_away() {
        let reply = StatusReply { chunkservers: vec![ChunkserverStatus::default()], ..Default::default() };
        let shown = lines(Some(&reply), &["cs1"], Traffic::default()).join("\n");
        assert!(shown.contains("0 of 1 chunkservers alive; starting: cs1"), "{shown}");
        assert!(lines(None, &[], Traffic::default())[0].contains("does not answer"));
    }
}
