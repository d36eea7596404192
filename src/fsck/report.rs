//! What a check says in the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::finding::{Finding, Kind};
use crate::values;

/// Findings of one kind that people are shown.
const SHOWN: usize = 50;

/// What was looked at and what was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Records of the master.
    pub records: u64,
    /// Chunks.
    pub chunks: u64,
    /// Their replicas.
    pub replicas: u64,
    /// Bytes of them that were read.
    pub bytes_read: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Findings that mean that something is wrong.
    pub fn damages(&self) -> usize {
        self.findings.iter().filter(|f| f.kind.is_damage()).count()
    }

    /// For programs.
    pub fn as_json(&self) -> Value {
        let findings = self.findings.iter().map(|f| {
            json!({"kind": f.kind.code(), "damage": f.kind.is_damage(), "what": f.kind.what(),
                   "mend": f.kind.mend(), "detail": f.detail, "paths": f.paths, "inode": f.inode,
                   "index": f.index, "chunk": f.chunk, "server": f.server})
        });
        json!({
            "clean": self.damages() == 0, "records": self.records, "chunks": self.chunks,
            "replicas": self.replicas, "bytes_read": self.bytes_read, "findings": findings.collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub fn as_text(&self) -> String {
        let mut out = String::new();
        let mut by_kind: BTreeMap<Kind, Vec<&Finding>> = BTreeMap::new();
        self.findings.iter().for_each(|f| by_kind.entry(f.kind).or_default().push(f));
        for (kind, findings) in by_kind {
            let title = if kind.is_damage() { "DAMAGE" } else { "note" };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{title}: {} ({} times)", kind.what(), findings.len());
            for f in findings.iter().take(SHOWN) {
                let _ = writeln!(out, "  {}", place(f));
            }
            if findings.len() > SHOWN {
                let _ = writeln!(out, "  and {} more; --json shows all", findings.len() - SHOWN);
            }
            let _ = writeln!(out, "  mend: {}", kind.mend());
        }
        let damages = match self.damages() {
            0 => "clean".to_owned(),
            n => format!("{n} finding(s) of damage"),
        };
        let _ = writeln!(
            out,
            "{} records, {} chunks, {} copies, {} read: {damages}",
            self.records,
            self.chunks,
            self.replicas,
            values::human(self.bytes_read)
        );
        out
    }
}

/// Where it is.
fn place(f: &Finding) -> String {
    let mut parts = Vec::new();
    match (&f.paths[..], f.inode) {
        ([], 0) => {}
        ([], inode) => parts.push(format!("inode {inode}")),
        (paths, _) => parts.push(paths.join(" = ")),
    }
    if f.chunk != 0 {
        parts.push(format!("chunk {}", f.chunk));
    }
    if f.inode != 0 && f.chunk != 0 {
        parts.push(format!("index {}", f.index));
    }
    if f.server != 0 {
        parts.push(format!("chunkserver {}", f.server));
    }
    let mut text = parts.join(", ");
    if !f.detail.is_empty() {
        let _ = write!(text, ": {}", f.detail);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let bad = Finding {
            inode: 5,
            index: 1,
            chunk: 9,
            server: 3,
            paths: vec!["/a/b".into(), "/c".into()],
            ..Finding::new(Kind::BadBlocks, "block(s) 4")
        };
        Report { chunks: 2, findings: vec![bad], ..Report::default() }
    }

    #[test]
    fn people_are_told_file_chunk_server_what_and_mend() {
        let text = report().as_text();
        assert!(text.contains("/a/b = /c, chunk 9, index 1, chunkserver 3: block(s) 4\n"), "{text}");
        assert!(
            text.contains("DAMAGE: blocks of a copy") && text.contains("mend: is being healed"),
            "{text}"
        );
        assert!(text.ends_with("1 finding(s) of damage\n"), "{text}");
    }

    #[test]
    fn programs_are_told_the_same() {
        let v = report().as_json();
        assert_eq!(v["clean"], false);
        assert_eq!(v["findings"][0]["kind"], "bad-blocks");
        assert_eq!(v["findings"][0]["paths"], json!(["/a/b", "/c"]));
    }

    #[test]
    fn a_note_leaves_it_clean() {
        let noted = Report { findings: vec![Finding::new(Kind::Busy, "")], ..Report::default() };
        assert_eq!(noted.as_json()["clean"], true);
        assert!(noted.as_text().ends_with("clean\n"));
    }
}
