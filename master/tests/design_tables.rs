//! The tables of node states and of chunk transitions in `docs/design.md` are those in the code.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use cairn_master::core::cluster::node_states::{Action, STATES, TABLE};
use cairn_master::core::cluster::transitions::RULES;
use cairn_master::core::cluster::verdicts::{Held, VERDICTS};

/// The cells of the first table behind `heading`, without its head.
fn table(heading: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/design.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, behind) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading:?}"));
    let rows = behind.lines().skip_while(|l| !l.starts_with('|')).take_while(|l| l.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
    rows.map(cells).collect()
}

#[test]
fn node_states_are_as_documented() {
    let rows = table("**Node states.**");
    let names: Vec<_> = STATES.iter().map(|s| s.name()).collect();
    assert_eq!(rows[0][1..], names);
    let in_code: Vec<Vec<String>> = TABLE
        .iter()
        .map(|(happening, cells)| {
            let cell = |c: &Option<_>| match c {
                Some((state, action)) => format_cell(*state, *action),
                None => "–".to_owned(),
            };
            std::iter::once(happening.text().to_owned()).chain(cells.iter().map(cell)).collect()
        })
        .collect();
    assert_eq!(rows[2..], in_code);
}

fn format_cell(state: cairn_master::core::cluster::node_states::State, action: Action) -> String {
    format!("{}: {}", state.name(), action.name())
}

#[test]
fn changes_of_a_chunk_s_record_are_as_documented() {
    let rows = table("**Chunk transitions.**");
    let in_code: Vec<Vec<String>> = RULES
        .iter()
        .map(|(change, conditions, set)| {
            let conditions: Vec<_> = conditions.iter().map(|c| c.text()).collect();
            vec![change.text().to_owned(), conditions.join("; "), set.text().to_owned()]
        })
        .collect();
    assert_eq!(rows[2..], in_code);
}

#[test]
fn reported_replicas_are_judged_as_documented() {
    let rows = table("**Reported replicas.**");
    let in_code: Vec<Vec<String>> = VERDICTS
        .iter()
        .map(|((member, held, wanted), verdict)| {
            let held = match held {
                Held::Below => "below the record's",
                Held::Equal => "the record's",
                Held::Above => "above the record's",
            };
            let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
            let wanted = wanted.map_or("either".to_owned(), yes);
            vec![yes(*member), held.to_owned(), wanted, verdict.text().to_owned()]
        })
        .collect();
    assert_eq!(rows[2..], in_code);
}
