//! Patches that put bugs in by hand, to see that they are found.

use std::fs::read_to_string;
use std::path::Path;

/// Panics unless there are so many patches in a directory of the tree, and each hunk of each fits the tree as it is.
pub fn all_fit(dir: &str, at_least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().path());
    let patches: Vec<_> = entries.filter(|p| p.extension().is_some_and(|e| e == "patch")).collect();
    assert!(patches.len() >= at_least, "{patches:?}");
    for patch in patches {
        let hunks = hunks(&read_to_string(&patch).unwrap());
        assert!(!hunks.is_empty(), "{} changes nothing", patch.display());
        for (file, before) in hunks {
            let source = read_to_string(root.join(&file)).unwrap();
            assert!(source.contains(&before), "{} does not fit {file} any more", patch.display());
        }
    }
}

/// The file of each hunk, and what it wants to find there.
fn hunks(patch: &str) -> Vec<(String, String)> {
    let (mut hunks, mut file) = (Vec::new(), "");
    for line in patch.lines() {
        if let Some(name) = line.strip_prefix("--- a/") {
            file = name;
        } else if line.starts_with("@@") {
            hunks.push((file.to_owned(), String::new()));
        } else if let Some((_, before)) = hunks.last_mut()
            && !line.starts_with(['+', 'd', 'i'])
        {
            before.push_str(line.get(1..).unwrap_or_default());
            before.push('\n');
        }
    }
    hunks
}
