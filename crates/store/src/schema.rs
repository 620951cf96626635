//! The data directory and the database in it: lock, modes, pragmas, migrations, the log grown beforehand, and the check at start.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::authority::{Authority, OpenTask, Unsettled, Usable};
use crate::entry::{Head, Integrated, Integrator, kind};
use crate::error::{Reason, StoreError};
use crate::sql::{At, Count, int};

use bailiwick_core::{CallId, HoldId, TaskId};

const DATABASE: &str = "bailiwick.sqlite";
const INDEX: &str = "index.sqlite";
const LOCK: &str = "bailiwick.lock";

/// Each step brings the schema from its place in the list to the next. Never edited once released, only added to.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/0001.sql"),
    include_str!("schema/0002.sql"),
    include_str!("schema/0003.sql"),
    include_str!("schema/0004.sql"),
    include_str!("schema/0005.sql"),
];

/// A page takes several entries, so that a batch writes few of them.
const PAGE_BYTES: u32 = 8192;
/// Pages of the log after which it is written back into the database even in the middle of a burst: 16 MiB.
const CHECKPOINT_PAGES: i64 = 2000;

/// The data directory, ours alone while the lock lives.
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory if it is absent, and takes it for this process.
    pub(crate) fn take(path: &Path) -> Result<Self, StoreError> {
        let refused = |e: io::Error| StoreError::Directory { path: path.into(), detail: e.to_string().into() };
        if !path.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(refused)?;
        }
        let mode = path.metadata().map_err(refused)?.permissions().mode();
        if mode & 0o002 != 0 {
            return Err(StoreError::Directory { path: path.into(), detail: "anyone may write to it; `chmod 700` it".into() });
        }
        let lock = path.join(LOCK);
        let file = private(&lock).map_err(refused)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.into(), _lock: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: lock }),
            Err(TryLockError::Error(e)) => Err(refused(e)),
        }
    }

    /// Opens the database for writing, with the newest schema.
    pub(crate) fn open_writer(&self, wal_bytes: u64) -> Result<Connection, StoreError> {
        let path = self.file(DATABASE)?;
        let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        conn.set_prepared_statement_cache_capacity(128);
        // Of no effect on a database that exists.
        conn.execute_batch(&format!("PRAGMA page_size = {PAGE_BYTES}"))?;
        let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))?;
        if mode != "wal" {
            return Err(StoreError::unavailable(Reason::Engine, "the file system does not support a write-ahead log"));
        }
        conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA busy_timeout = 5000; PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY;")?;
        migrate(&conn)?;
        // The reply is (busy, pages in the log, pages written back).
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        conn.query_row(&format!("PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"), [], |_| Ok(()))?;
        self.grow_log(wal_bytes)?;
        Ok(conn)
    }

    /// A file that never grows needs no change of the file system's own journal, which costs more than the write itself.
    fn grow_log(&self, bytes: u64) -> Result<(), StoreError> {
        let path = self.path.join(format!("{DATABASE}-wal"));
        let grow = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).open(&path)?;
            // Zeros are no frames to SQLite. Only a log that is empty is touched.
            if file.metadata()?.len() != 0 {
                return Ok(());
            }
            let zeros = vec![0u8; 1 << 20];
            for _ in 0..bytes >> 20 {
                file.write_all(&zeros)?;
            }
            file.sync_all()
        };
        grow().map_err(|e| StoreError::Directory { path: path.clone(), detail: e.to_string().into() })
    }

    /// Opens the database for reading only.
    pub(crate) fn open_reader(&self) -> Result<Connection, StoreError> {
        self.open_querying(OpenFlags::SQLITE_OPEN_READ_ONLY)
    }

    /// Opens the database for reading, and for writing the log back into it.
    pub(crate) fn open_follower(&self) -> Result<Connection, StoreError> {
        let conn = self.open_querying(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.execute_batch("PRAGMA synchronous = FULL;")?;
        Ok(conn)
    }

    fn open_querying(&self, access: OpenFlags) -> Result<Connection, StoreError> {
        let conn = Connection::open_with_flags(self.path.join(DATABASE), access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        conn.execute_batch("PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA busy_timeout = 5000; PRAGMA cache_size = -16384;")?;
        Ok(conn)
    }

    /// The file of the index, which can be thrown away.
    pub(crate) fn index(&self) -> Result<PathBuf, StoreError> {
        self.file(INDEX)
    }

    fn file(&self, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.path.join(name);
        private(&path).map_err(|e| StoreError::Directory { path: path.clone(), detail: e.to_string().into() })?;
        Ok(path)
    }
}

/// Opens or makes a file that only its owner may read or write.
fn private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

fn migrate(conn: &Connection) -> Result<(), StoreError> {
    let found: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let done = usize::try_from(found).unwrap_or(usize::MAX);
    if found > known || found < 0 {
        return Err(StoreError::TooNew { found, known });
    }
    for (step, sql) in MIGRATIONS.iter().enumerate().skip(done) {
        let version = step.saturating_add(1);
        conn.execute_batch(&format!("BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version = {version};\nCOMMIT;"))?;
    }
    Ok(())
}

/// What the writer starts from.
pub(crate) struct Loaded {
    pub(crate) authority: Authority,
    pub(crate) frontier: Vec<u8>,
    pub(crate) head: Head,
}

/// Reads the authority in force from the database and checks that the ledger is whole.
pub(crate) fn load(conn: &Connection) -> Result<Loaded, StoreError> {
    let row = conn.query_row("SELECT size, control_seq, settled, frontier, root, checkpoint FROM head WHERE id = 0", [], |r| {
        let head = Head { size: r.get::<_, Count>(0)?.0, root: r.get(4)?, checkpoint: Arc::from(r.get::<_, String>(5)?) };
        Ok((head, r.get::<_, Count>(1)?.0, r.get::<_, Count>(2)?.0, r.get::<_, Vec<u8>>(3)?))
    });
    let (head, control_seq, settled, frontier) = row?;
    check_dense(conn, head.size, settled)?;
    let mut authority = Authority::loaded(head.size, control_seq);
    load_tasks(conn, &mut authority)?;
    load_approvals(conn, &mut authority)?;
    load_unsettled(conn, &mut authority, settled)?;
    Ok(Loaded { authority, frontier, head })
}

/// The head of a new log, or the proof that the tree that is stored is the one that we can continue.
pub(crate) fn continue_tree(conn: &Connection, loaded: &mut Loaded, integrator: &mut dyn Integrator) -> Result<(), StoreError> {
    let failed = |e: String| StoreError::unavailable(Reason::Ledger, e);
    let Integrated { leaves, frontier, size, root, checkpoint } = integrator.integrate(&loaded.frontier, &[]).map_err(failed)?;
    if size != loaded.head.size || !leaves.is_empty() {
        return Err(failed(format!("the tree has {size} entries, the ledger {}", loaded.head.size)));
    }
    if loaded.head.size > 0 {
        return if root == loaded.head.root { Ok(()) } else { Err(failed("the stored root is not that of the stored tree".to_owned())) };
    }
    conn.execute("UPDATE head SET frontier = ?1, root = ?2, checkpoint = ?3 WHERE id = 0", (&frontier, &root, &checkpoint))?;
    loaded.frontier = frontier;
    loaded.head = Head { size, root, checkpoint: checkpoint.into() };
    Ok(())
}

fn check_dense(conn: &Connection, size: u64, settled: u64) -> Result<(), StoreError> {
    let first: Option<i64> = conn.query_row("SELECT min(idx) FROM entries", [], |r| r.get(0))?;
    let last: Option<i64> = conn.query_row("SELECT max(idx) FROM entries", [], |r| r.get(0))?;
    let expected = (size > 0).then(|| (0, int(size.saturating_sub(1))));
    let recent: i64 = conn.query_row("SELECT count(*) FROM entries WHERE idx >= ?1", [int(settled)], |r| r.get(0))?;
    let dense = first.zip(last) == expected && settled <= size && recent == int(size.saturating_sub(settled));
    if dense {
        return Ok(());
    }
    Err(StoreError::unavailable(Reason::Disagrees, format!("the head counts {size} entries, the ledger has {first:?} to {last:?}")))
}

fn load_tasks(conn: &Connection, authority: &mut Authority) -> Result<(), StoreError> {
    let mut statement = conn.prepare("SELECT id, used, expires_at FROM tasks WHERE state = 'open'")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let open = OpenTask { used: row.get::<_, Count>(1)?.0, expires_at: row.get::<_, At>(2)?.0 };
        authority.load_task(TaskId::from_bytes(row.get(0)?), open);
    }
    Ok(())
}

fn load_approvals(conn: &Connection, authority: &mut Authority) -> Result<(), StoreError> {
    let mut statement = conn.prepare("SELECT id, task, expires_at FROM holds WHERE state = 'approved'")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let usable = Usable { task: TaskId::from_bytes(row.get(1)?), expires_at: row.get::<_, At>(2)?.0 };
        authority.load_approval(HoldId::from_bytes(row.get(0)?), usable);
    }
    Ok(())
}

fn load_unsettled(conn: &Connection, authority: &mut Authority, settled: u64) -> Result<(), StoreError> {
    let mut statement = conn.prepare("SELECT idx, kind, call, task, closes FROM entries WHERE idx >= ?1 ORDER BY idx")?;
    let mut rows = statement.query([int(settled)])?;
    while let Some(row) = rows.next()? {
        let index = row.get::<_, Count>(0)?.0;
        match row.get_ref(1)?.as_str().map_err(|e| StoreError::malformed(e.to_string()))? {
            kind::INTENT => {
                let intent = Unsettled { call: CallId::from_bytes(row.get(2)?), task: TaskId::from_bytes(row.get(3)?) };
                authority.load_unsettled(index, intent);
            }
            kind::OUTCOME => authority.load_settled(row.get::<_, Count>(4)?.0),
            _ => {}
        }
    }
    Ok(())
}

/// What the database says of its head: entries and control sequence. `None` if the row is gone.
pub(crate) fn stored_head(conn: &Connection) -> Result<Option<(u64, u64)>, StoreError> {
    let row = conn
        .prepare_cached("SELECT size, control_seq FROM head WHERE id = 0")?
        .query_row([], |r| Ok((r.get::<_, Count>(0)?.0, r.get::<_, Count>(1)?.0)))
        .optional()?;
    Ok(row)
}
