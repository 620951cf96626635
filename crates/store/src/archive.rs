//! The ledger of a data directory on which nothing runs, for whoever checks it: read, and never written, migrated or repaired.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::bond::Bond;
use crate::entry::EntryRow;
use crate::error::{Reason, StoreError};
use crate::journal::JOURNAL;
use crate::ledger::entries_in;
use crate::registry::Pin;
use crate::schema::{DATABASE, LOCK, known_version, stored_size};
use crate::sql::Count;

/// A ledger that is only read. No broker can be started on it meanwhile.
#[derive(Debug)]
pub struct Archive {
    conn: Mutex<Connection>,
    /// What a crash left in the journal, which the database has not, and the newest note of it.
    ahead: Vec<EntryRow>,
    note: Option<Arc<str>>,
    lost: bool,
    _lock: Option<File>,
}

impl Archive {
    /// Was there ever a broker on this directory?
    #[must_use]
    pub fn is_there(dir: &Path) -> bool {
        dir.join(DATABASE).exists()
    }

    /// Opens the ledger in a data directory. A database of an older version is read as it is. Beside a log that a crash left behind, the
    /// engine may make its shared-memory file; else no file is made or changed.
    ///
    /// # Errors
    /// `Locked`, `Directory`, `TooNew`, or `Unavailable` if it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let lock = locked(dir)?;
        let log = dir.join(format!("{DATABASE}-wal"));
        let refused = |e: io::Error| StoreError::Directory { path: log.clone(), detail: e.to_string().into() };
        if let Some(crate::wal::Damage { at }) = crate::wal::damage(&log).map_err(refused)? {
            let detail = format!("`{}` is damaged at byte {at}, and acknowledged entries stand behind it", log.display());
            return Err(StoreError::unavailable(Reason::Damaged, detail));
        }
        // Without a log the database is all there is, and nobody writes it: then the engine needs no file of its own.
        let quiet = log.metadata().map_or(true, |meta| meta.len() == 0);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let conn = Connection::open_with_flags(uri(&dir.join(DATABASE), quiet), flags)?;
        conn.execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA cache_size = -16384;")?;
        let found: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
        let known = known_version();
        if found > known || found < 0 {
            return Err(StoreError::TooNew { found, known });
        }
        let Some(bond) = Bond::stored(&conn)? else {
            return Ok(Self { conn: Mutex::new(conn), ahead: Vec::new(), note: None, lost: false, _lock: lock });
        };
        let found = crate::journal::look(&dir.join(JOURNAL), &bond)?;
        let lost = found.is_none() && bond.must.is_some();
        let records = found.map_or_else(Vec::new, |found| found.records);
        let note = records.last().map(|record| Arc::clone(&record.note));
        let ahead = records.into_iter().flat_map(|record| record.entries).collect();
        Ok(Self { conn: Mutex::new(conn), ahead, note, lost, _lock: lock })
    }

    /// Is the journal missing that must stand beside the database? Then calls may have been acknowledged that are not here.
    #[must_use]
    pub const fn is_journal_lost(&self) -> bool {
        self.lost
    }

    /// How many entries there are.
    ///
    /// # Errors
    /// The store's.
    pub fn size(&self) -> Result<u64, StoreError> {
        let ahead = self.ahead.last().map_or(0, |row| row.index.saturating_add(1));
        Ok(self.read(stored_size)?.max(ahead))
    }

    /// The tools that were looked at, by system and tool.
    ///
    /// # Errors
    /// The store's.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        self.read(crate::registry::pins)
    }

    /// The newest signed note; empty if there never was one.
    ///
    /// # Errors
    /// The store's.
    pub fn checkpoint(&self) -> Result<String, StoreError> {
        let newest = self.ahead.last().map(|row| row.index);
        if let Some(note) = self.note.as_ref().filter(|_| newest.map(|n| n.saturating_add(1)) == self.size().ok()) {
            return Ok(note.as_ref().to_owned());
        }
        self.read(|conn| {
            let has_notes: bool = conn.query_row("SELECT count(*) FROM pragma_table_info('entries') WHERE name = 'note'", [], |r| r.get(0))?;
            let newest = "SELECT note FROM entries ORDER BY idx DESC LIMIT 1";
            let note: Option<String> = if has_notes { conn.query_row(newest, [], |r| r.get(0)).optional()?.flatten() } else { None };
            match note {
                Some(note) => Ok(note),
                None => Ok(conn.query_row("SELECT checkpoint FROM head WHERE id = 0", [], |r| r.get(0))?),
            }
        })
    }

    /// The first entry that has its body.
    ///
    /// # Errors
    /// The store's.
    pub fn minimum(&self) -> Result<u64, StoreError> {
        self.read(|conn| {
            let prunes: bool = conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'pruned'", [], |r| r.get(0))?;
            let minimum = "SELECT minimum FROM pruned WHERE id = 0";
            Ok(if prunes { conn.query_row(minimum, [], |r| r.get::<_, Count>(0))?.0 } else { 0 })
        })
    }

    /// The origin of the newest shard. `None`: the ledger is in its first one.
    ///
    /// # Errors
    /// The store's.
    pub fn newest_shard(&self) -> Result<Option<String>, StoreError> {
        self.read(|conn| {
            let shards: bool = conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'shards'", [], |r| r.get(0))?;
            let newest = "SELECT origin FROM shards ORDER BY number DESC LIMIT 1";
            Ok(if shards { conn.query_row(newest, [], |r| r.get(0)).optional()? } else { None })
        })
    }

    /// Entries, in order, without a hole.
    ///
    /// # Errors
    /// `Disagrees` if one of them is missing, with its index; or the store's.
    pub fn entries(&self, range: Range<u64>) -> Result<Vec<EntryRow>, StoreError> {
        let expected = range.start..range.end.min(self.size()?);
        let mut rows = self.read(|conn| entries_in(conn, range.clone()))?;
        let ahead = self.ahead.iter().filter(|row| range.contains(&row.index));
        let before = rows.len();
        rows.extend(ahead.cloned());
        if rows.len() > before {
            rows.sort_by_key(|row| row.index);
            rows.dedup_by_key(|row| row.index);
        }
        let found = rows.iter().map(|row| Some(row.index)).chain([None]);
        match expected.map(Some).chain([None]).zip(found).find(|(expected, found)| expected != found) {
            None => Ok(rows),
            Some((missing, _)) => {
                let missing = missing.map_or_else(String::new, |index| format!(" {index}"));
                let detail = format!("entry{missing} is missing: the database has others behind it, and the journal has it not");
                Err(StoreError::unavailable(Reason::Disagrees, detail))
            }
        }
    }

    fn read<T>(&self, question: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        question(&self.conn.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Takes the lock that a broker would hold, if there is one to take.
fn locked(dir: &Path) -> Result<Option<File>, StoreError> {
    let path = dir.join(LOCK);
    let refused = |e: io::Error| StoreError::Directory { path: path.clone(), detail: e.to_string().into() };
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refused(error)),
        Ok(file) => match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path }),
            Err(TryLockError::Error(error)) => Err(refused(error)),
        },
    }
}

/// The database as the engine's URI: for reading only.
fn uri(path: &Path, immutable: bool) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri.push_str(if immutable { "?immutable=1" } else { "?mode=ro" });
    uri
}
