//! CairnFS: client engine and the FUSE adapter over it.
