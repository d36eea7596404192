//! CairnFS: names, inodes, chunk table, membership, repair.
