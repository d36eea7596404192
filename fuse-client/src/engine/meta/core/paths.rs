//! Under which names inodes are known: for people.

use std::collections::HashMap;

use super::cache::MetaCache;

/// Directories above one another, at most: names that changed while the cache was being filled could lead in a circle.
const DEEPEST: usize = 256;
/// The root directory of the cluster.
const ROOT: u64 = 1;

impl MetaCache {
    /// A path of each inode from the root of the cluster, as far as names are known: one whose upper part is not begins with `…`.
    pub fn paths(&self, inodes: &[u64]) -> Vec<Option<String>> {
        let mut names: HashMap<u64, (u64, &[u8])> = HashMap::new();
        for (parent, name, inode) in self.known_entries() {
            names.insert(inode, (parent, name));
        }
        inodes.iter().map(|inode| path(&names, *inode)).collect()
    }
}

fn path(names: &HashMap<u64, (u64, &[u8])>, inode: u64) -> Option<String> {
    let mut parts = Vec::new();
    let mut at = inode;
    while let Some((parent, name)) = names.get(&at).filter(|_| parts.len() < DEEPEST) {
        parts.push(String::from_utf8_lossy(name));
        at = *parent;
    }
    if parts.is_empty() {
        return None;
    }
    parts.reverse();
    let top = if at == ROOT { "/" } else { "…/" };
    Some(format!("{top}{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::super::cache::{Asked, Limits};
    use super::*;
    use crate::engine::attr::FileAttr;

    #[test]
    fn a_path_is_put_together_from_the_names_that_are_known() {
        let mut cache = MetaCache::new(Limits::default(), true);
        let attr = |inode| FileAttr { inode, ..FileAttr::default() };
        for (parent, name, inode) in
            [(1, "src", 2), (2, "main.rs", 3), (40, "deep", 41), (50, "a", 51), (51, "b", 50)]
        {
            cache.learn_entry(Asked::default(), parent, name.as_bytes(), Some(&attr(inode)));
        }
        let paths = cache.paths(&[3, 41, 9, 50]);
        assert_eq!(paths[..2], [Some("/src/main.rs".to_owned()), Some("…/deep".to_owned())]);
        assert_eq!(paths[2], None);
        assert!(paths[3].as_ref().is_some_and(|p| p.len() < 600), "names in a circle");
    }
}
