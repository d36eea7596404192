//! The metadata half: the session with the master, and what may be known without asking it.
