//! Why the store did not do what it was asked: in words for the operator, with the one public code.

use std::path::PathBuf;
use std::sync::Arc;

use bailiwick_core::ErrorCode;
use rusqlite::ErrorCode as Sqlite;

/// Why the store cannot write or read at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// No space is left.
    DiskFull,
    /// The file system or the file may not be written.
    ReadOnly,
    /// The disk failed.
    Io,
    /// The database file cannot be opened.
    CannotOpen,
    /// The database file is damaged.
    Damaged,
    /// Something else holds the database file.
    Busy,
    /// Not enough memory.
    Memory,
    /// The tree could not be continued.
    Ledger,
    /// The disk does not say what was written to it.
    Disagrees,
    /// Anything else that the database engine reports.
    Engine,
}

impl Reason {
    /// In words, without any detail.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::DiskFull => "disk full",
            Self::ReadOnly => "read-only file system",
            Self::Io => "disk input/output error",
            Self::CannotOpen => "database file cannot be opened",
            Self::Damaged => "database file is damaged",
            Self::Busy => "database file is held by another program",
            Self::Memory => "out of memory",
            Self::Ledger => "the ledger's tree cannot be continued",
            Self::Disagrees => "the database is not what was written to it",
            Self::Engine => "database engine error",
        }
    }
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nothing of the batch was written; the same request may work when the cause is gone.
    #[error("the store is unavailable: {}: {detail}", reason.words())]
    Unavailable {
        /// Why, as a word to act on.
        reason: Reason,
        /// The engine's own words, for the log.
        detail: Arc<str>,
    },
    /// The store was closed, or its writer has stopped.
    #[error("the store is closed")]
    Closed,
    /// Another process has the data directory.
    #[error("`{}` is in use by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The data directory cannot be used.
    #[error("data directory `{}`: {detail}", path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        detail: Arc<str>,
    },
    /// The database was written by a newer version.
    #[error("the database has schema {found}, this version knows up to {known}")]
    TooNew {
        /// What the file says.
        found: i64,
        /// What we know.
        known: i64,
    },
    /// An entry, result or name is larger than the store takes.
    #[error("{what} of {len} bytes is too large: at most {max}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// How large it is.
        len: usize,
        /// How large it may be.
        max: usize,
    },
    /// What is kept beside the ledger has a bound in all, and what is there may not go.
    #[error("there is no room left for {what}: at most {max} bytes")]
    NoRoom {
        /// What it is.
        what: &'static str,
        /// How many bytes it may be in all.
        max: u64,
    },
    /// What was asked contradicts what is stored, such as a second row under one id.
    #[error("refused: {detail}")]
    Conflict {
        /// What is contradicted.
        detail: Arc<str>,
    },
    /// A row does not read back as what it should be.
    #[error("stored data is not well-formed: {detail}")]
    Malformed {
        /// Which, and why.
        detail: Arc<str>,
    },
}

impl StoreError {
    /// The public code: whatever the store cannot record does not happen.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        ErrorCode::AuditUnavailable
    }

    /// Why, in words that anyone may read.
    #[must_use]
    pub const fn public(&self) -> &'static str {
        match self {
            Self::Unavailable { reason, .. } => reason.words(),
            Self::Closed => "the broker is stopping",
            Self::Locked { .. } => "the data directory is in use by another process",
            Self::Directory { .. } => "the data directory cannot be used",
            Self::TooNew { .. } => "the database was written by a newer version",
            Self::TooLarge { .. } => "too large to be recorded",
            Self::NoRoom { .. } => "no room is left for the texts that must be kept (`total_mib_max` under [retention])",
            Self::Conflict { .. } => "contradicts what is on record",
            Self::Malformed { .. } => "stored data is not well-formed",
        }
    }

    /// Does it end the whole batch, rather than one request of it?
    pub(crate) const fn ends_batch(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(crate) fn unavailable(reason: Reason, detail: impl Into<Arc<str>>) -> Self {
        Self::Unavailable { reason, detail: detail.into() }
    }

    pub(crate) fn conflict(detail: impl Into<Arc<str>>) -> Self {
        Self::Conflict { detail: detail.into() }
    }

    pub(crate) fn malformed(detail: impl Into<Arc<str>>) -> Self {
        Self::Malformed { detail: detail.into() }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let detail = error.to_string();
        let reason = match error.sqlite_error_code() {
            Some(Sqlite::ConstraintViolation) => return Self::conflict(detail),
            Some(Sqlite::DiskFull) => Reason::DiskFull,
            Some(Sqlite::ReadOnly) => Reason::ReadOnly,
            Some(Sqlite::SystemIoFailure) => Reason::Io,
            Some(Sqlite::CannotOpen) => Reason::CannotOpen,
            Some(Sqlite::DatabaseCorrupt | Sqlite::NotADatabase) => Reason::Damaged,
            Some(Sqlite::DatabaseBusy | Sqlite::DatabaseLocked | Sqlite::FileLockingProtocolFailed) => Reason::Busy,
            Some(Sqlite::OutOfMemory) => Reason::Memory,
            Some(_) => Reason::Engine,
            None => return Self::malformed(detail),
        };
        Self::unavailable(reason, detail)
    }
}

impl From<serde_json::Error> for StoreError {
    fn from(error: serde_json::Error) -> Self {
        Self::malformed(error.to_string())
    }
}
