//! What is remembered: the SQLite store with one writer thread. Never sees HTTP or a plain secret.
