//! The documents name only tests that there are.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

#[test]
fn every_test_that_the_promises_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let semantics = fs::read_to_string(root.join("docs/semantics.md")).unwrap();
    let mut named = 0;
    for reference in semantics.split("*(").skip(1) {
        let reference = reference.split(")*").next().unwrap();
        let mut source = String::new();
        for word in reference.split('`').skip(1).step_by(2) {
            let path = root.join(word);
            if word.ends_with(".rs") {
                source = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{word}: {e}"));
            } else if word.contains('/') {
                assert!(path.exists(), "{word}");
            } else {
                assert!(source.contains(&format!("fn {word}()")), "there is no test {word}: {reference}");
                named += 1;
            }
        }
    }
    assert!(named > 30, "{named}");
}

#[test]
fn every_promise_names_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let semantics = fs::read_to_string(root.join("docs/semantics.md")).unwrap();
    let promises = semantics.split("## Not promised").next().unwrap();
    for paragraph in promises.split("\n\n").filter(|p| p.starts_with("**")) {
        assert!(paragraph.contains("*(`"), "no test is named: {paragraph}");
    }
}
