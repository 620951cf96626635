//! A log as a directory of files.
