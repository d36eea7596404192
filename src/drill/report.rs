//! What came of the runs.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::fault::Fault;
use super::load::Seen;

/// One fault, and the longest calls during it.
#[derive(Clone, Debug)]
pub struct Run {
    /// What failed how.
    pub fault: Fault,
    /// Whether the server was primary of what was written.
    pub primary: bool,
    /// Of the writer.
    pub writes: Seen,
    /// Of the reader.
    pub reads: Seen,
    /// From the fault to all copies being there again.
    pub whole: Duration,
}

/// Runs of one kind.
struct Row<'a> {
    fault: Fault,
    primary: bool,
    runs: Vec<&'a Run>,
}

/// The value that `percent` of the values do not exceed; of few values the nearest above.
fn percentile(values: &[Duration], percent: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

fn rows(runs: &[Run]) -> Vec<Row<'_>> {
    let kinds = Fault::ALL.into_iter().flat_map(|f| [(f, true), (f, false)]);
    let row = |(fault, primary)| {
        let of_kind = |r: &&Run| r.fault == fault && r.primary == primary;
        Row { fault, primary, runs: runs.iter().filter(of_kind).collect() }
    };
    kinds.map(row).filter(|row| !row.runs.is_empty()).collect()
}

fn summary(values: &[Duration]) -> [f64; 3] {
    [50, 90, 100].map(|p| percentile(values, p).as_secs_f64())
}

/// As a table for people.
pub fn as_text(runs: &[Run]) -> String {
    let mut out = format!(
        "{:<6} {:<8} {:>4}  {:^23}  {:^23}  {:>9}  {:>6}\n{:<20}  {:>7} {:>7} {:>7}  {:>7} {:>7} {:>7}  {:>9}\n",
        "fault",
        "of a",
        "runs",
        "longest write, s",
        "longest read, s",
        "whole, s",
        "errors",
        "",
        "p50",
        "p90",
        "max",
        "p50",
        "p90",
        "max",
        "max"
    );
    for Row { fault, primary, runs } in rows(runs) {
        let of = |seen: fn(&Run) -> Duration| runs.iter().map(|r| seen(r)).collect::<Vec<_>>();
        let [w50, w90, w100] = summary(&of(|r| r.writes.longest));
        let [r50, r90, r100] = summary(&of(|r| r.reads.longest));
        let [_, _, whole] = summary(&of(|r| r.whole));
        let errors: u64 = runs.iter().map(|r| r.writes.errors + r.reads.errors).sum();
        let role = if primary { "primary" } else { "member" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:<6} {role:<8} {:>4}  {w50:>7.3} {w90:>7.3} {w100:>7.3}  {r50:>7.3} {r90:>7.3} {r100:>7.3}  {whole:>9.1}  {errors:>6}",
            fault.name(),
            runs.len(),
        );
    }
    out
}

/// The same for programs, with each run.
pub fn as_json(runs: &[Run]) -> Value {
    let side = |s: &Seen| json!({"longest_s": s.longest.as_secs_f64(), "calls": s.calls, "errors": s.errors});
    let run = |r: &Run| {
        json!({"fault": r.fault.name(), "primary": r.primary, "writes": side(&r.writes), "reads": side(&r.reads),
               "whole_s": r.whole.as_secs_f64()})
    };
    json!({"runs": runs.iter().map(run).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_values_are_values() {
        let values = [5, 1, 4, 2, 3].map(Duration::from_secs);
        assert_eq!([0, 50, 90, 100].map(|p| percentile(&values, p).as_secs()), [1, 3, 5, 5]);
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn rows_are_by_fault_and_role() {
        let run = |fault, primary, millis, errors| Run {
            fault,
            primary,
            writes: Seen { longest: Duration::from_millis(millis), calls: 9, errors },
            reads: Seen::default(),
            whole: Duration::from_secs(1),
        };
        let runs = [
            run(Fault::Stop, true, 3000, 0),
            run(Fault::Kill, false, 100, 1),
            run(Fault::Stop, true, 500, 0),
        ];
        let text = as_text(&runs);
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert!(rows[0].starts_with("kill   member") && rows[0].ends_with('1'), "{text}");
        assert!(rows[1].contains("0.500   3.000   3.000"), "{text}");
        assert_eq!(as_json(&runs)["runs"][1]["writes"]["errors"], 1);
    }
}
