//! The data directory and the database in it: lock, modes, pragmas, migrations, the log grown beforehand, and the check at start.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::authority::{Authority, OpenTask, Unsettled, Usable};
use crate::entry::{Head, Integrator, kind};
use crate::error::{Reason, StoreError};
use crate::sql::{At, Count, int};

use bailiwick_core::{CallId, HoldId, LeaseId, Task, TaskId};

pub(crate) const DATABASE: &str = "bailiwick.sqlite";
const INDEX: &str = "index.sqlite";
pub(crate) const LOCK: &str = "bailiwick.lock";

/// Each step brings the schema from its place in the list to the next. Never edited once released, only added to.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/0001.sql"),
    include_str!("schema/0002.sql"),
    include_str!("schema/0003.sql"),
    include_str!("schema/0004.sql"),
    include_str!("schema/0005.sql"),
    include_str!("schema/0006.sql"),
    include_str!("schema/0007.sql"),
    include_str!("schema/0008.sql"),
    include_str!("schema/0009.sql"),
    include_str!("schema/0010.sql"),
    include_str!("schema/0011.sql"),
    include_str!("schema/0014.sql"),
    include_str!("schema/0015.sql"),
    include_str!("schema/0016.sql"),
];

/// Calls reach the database many at a time, and each page costs two calls of the kernel in the log: large ones are cheaper.
const PAGE_BYTES: u32 = 16_384;
/// Bytes of the log after which the writer itself writes it back into the database, if the thread for it could not.
const LOG_BYTES_MAX: i64 = 48 << 20;
/// Bytes of entries that are taken into the tree at a time when it is continued.
const REPLAY_BYTES: usize = 4 << 20;

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

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the database for writing, with the newest schema.
    pub(crate) fn open_writer(&self, wal_bytes: u64) -> Result<Connection, StoreError> {
        let path = self.file(DATABASE)?;
        self.check_log()?;
        let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        conn.set_prepared_statement_cache_capacity(128);
        // Of no effect on a database that exists.
        conn.execute_batch(&format!("PRAGMA page_size = {PAGE_BYTES}"))?;
        let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))?;
        if mode != "wal" {
            return Err(StoreError::unavailable(Reason::Engine, "the file system does not support a write-ahead log"));
        }
        // What is deleted or replaced is overwritten with zeros. An intent only adds rows: it pays nothing for it.
        conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA busy_timeout = 5000; PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY;")?;
        migrate(&conn)?;
        // The reply is (busy, pages in the log, pages written back).
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        let page: i64 = conn.query_row("PRAGMA page_size", [], |r| r.get(0))?;
        conn.query_row(&format!("PRAGMA wal_autocheckpoint = {}", LOG_BYTES_MAX / page.max(512)), [], |_| Ok(()))?;
        self.grow_log(wal_bytes)?;
        Ok(conn)
    }

    /// A log that is damaged before its end would be read up to there, and what was acknowledged behind it would be gone.
    fn check_log(&self) -> Result<(), StoreError> {
        let path = self.path.join(format!("{DATABASE}-wal"));
        let found = crate::wal::damage(&path).map_err(|e| StoreError::Directory { path: path.clone(), detail: e.to_string().into() })?;
        let Some(crate::wal::Damage { at }) = found else { return Ok(()) };
        let detail = format!("`{}` is damaged at byte {at}, and acknowledged entries stand behind it", path.display());
        Err(StoreError::unavailable(Reason::Damaged, detail))
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

    /// Makes durable which files there are: a journal that was removed must not come back after a loss of power.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        File::open(&self.path).and_then(|d| d.sync_all()).map_err(|e| StoreError::Directory { path: self.path.clone(), detail: e.to_string().into() })
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
pub(crate) fn private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// The version of the schema that this program writes.
pub(crate) fn known_version() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

fn migrate(conn: &Connection) -> Result<(), StoreError> {
    let found: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    let known = known_version();
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
    /// Entries that the anchor counts.
    pub(crate) anchored: u64,
}

/// Reads the authority in force from the database, checks that the ledger is whole, and continues its tree from the anchor. The note of
/// the last batch must be the one that this integrator signs; one that cannot sign gives an empty note, and is believed what is stored.
pub(crate) fn load(conn: &Connection, integrator: &mut dyn Integrator) -> Result<Loaded, StoreError> {
    let row = conn.query_row("SELECT size, control_seq, settled, frontier, root, checkpoint, dense FROM head WHERE id = 0", [], |r| {
        let head = Head { size: r.get::<_, Count>(0)?.0, root: r.get(4)?, checkpoint: Arc::from(r.get::<_, String>(5)?) };
        Ok((head, r.get::<_, Count>(1)?.0, r.get::<_, Count>(2)?.0, r.get::<_, Vec<u8>>(3)?, r.get::<_, Count>(6)?.0))
    });
    let (anchor, control_seq, settled, frontier, dense) = row?;
    let size = stored_size(conn)?;
    check_dense(conn, &anchor, size, settled, dense)?;
    let mut authority = Authority::loaded(size, control_seq);
    load_tasks(conn, &mut authority, anchor.size)?;
    load_approvals(conn, &mut authority)?;
    load_accounts(conn, &mut authority)?;
    load_unsettled(conn, &mut authority, settled)?;
    let (anchored, anchor) = (anchor.size, continue_anchor(conn, anchor, &frontier, integrator)?);
    let (frontier, head) = replay(conn, anchor, size, integrator)?;
    Ok(Loaded { authority, frontier, head, anchored })
}

fn failed(why: impl Into<String>) -> StoreError {
    StoreError::unavailable(Reason::Ledger, why.into())
}

/// The head of a new log, or the proof that the tree that is stored is the one that we can continue.
fn continue_anchor(conn: &Connection, head: Head, frontier: &[u8], integrator: &mut dyn Integrator) -> Result<(Vec<u8>, Head), StoreError> {
    let tree = integrator.integrate(frontier, &[]).map_err(failed)?;
    if tree.size != head.size || !tree.leaves.is_empty() {
        return Err(failed(format!("the tree has {} entries, the ledger {}", tree.size, head.size)));
    }
    if head.size > 0 {
        let known = tree.root == head.root;
        return if known { Ok((tree.frontier, head)) } else { Err(failed("the stored root is not that of the stored tree")) };
    }
    conn.execute("UPDATE head SET frontier = ?1, root = ?2, checkpoint = ?3 WHERE id = 0", (&tree.frontier, &tree.root, &tree.checkpoint))?;
    Ok((tree.frontier, Head { size: tree.size, root: tree.root, checkpoint: tree.checkpoint.into() }))
}

/// Takes the entries since the anchor into its tree.
fn replay(
    conn: &Connection,
    (mut frontier, mut head): (Vec<u8>, Head),
    size: u64,
    integrator: &mut dyn Integrator,
) -> Result<(Vec<u8>, Head), StoreError> {
    let mut statement = conn.prepare("SELECT idx, body, leaf, note FROM entries WHERE idx >= ?1 ORDER BY idx")?;
    let mut rows = statement.query([int(head.size)])?;
    let (mut bodies, mut leaves, mut bytes, mut note) = (Vec::<Vec<u8>>::new(), Vec::<[u8; 32]>::new(), 0, None);
    while head.size < size {
        let row = rows.next()?;
        if let Some(row) = row {
            bodies.push(row.get(1)?);
            leaves.push(row.get(2)?);
            note = row.get::<_, Option<String>>(3)?;
            bytes = bodies.last().map_or(0, Vec::len).saturating_add(bytes);
        }
        let last = head.size.saturating_add(u64::try_from(bodies.len()).unwrap_or(u64::MAX));
        if row.is_some() && last < size && bytes < REPLAY_BYTES {
            continue;
        }
        let tree = integrator.integrate(&frontier, &bodies.iter().map(Vec::as_slice).collect::<Vec<_>>()).map_err(failed)?;
        if tree.size != last || tree.leaves != leaves {
            return Err(failed(format!("one of the entries {} to {last} is not the one that was recorded", head.size)));
        }
        head = Head { size: tree.size, root: tree.root, checkpoint: tree.checkpoint.into() };
        (frontier, bytes) = (tree.frontier, 0);
        bodies.clear();
        leaves.clear();
        if row.is_none() {
            break;
        }
    }
    let Some(stored) = note else { return Ok((frontier, head)) };
    if head.checkpoint.is_empty() {
        head.checkpoint = stored.into();
    } else if *head.checkpoint != *stored {
        return Err(failed("the stored checkpoint is not that of the stored tree, or was signed by another key"));
    }
    Ok((frontier, head))
}

fn check_dense(conn: &Connection, anchor: &Head, size: u64, settled: u64, dense: u64) -> Result<(), StoreError> {
    // An entry may be settled and in the journal alone: what a change left a gap for is looked at too.
    let from = settled.min(dense);
    let first: Option<i64> = conn.query_row("SELECT min(idx) FROM entries", [], |r| r.get(0))?;
    let recent: i64 = conn.query_row("SELECT count(*) FROM entries WHERE idx >= ?1", [int(from)], |r| r.get(0))?;
    let last_has_note: Option<bool> = conn
        .query_row("SELECT note IS NOT NULL FROM entries WHERE idx >= ?1 ORDER BY idx DESC LIMIT 1", [int(anchor.size)], |r| r.get(0))
        .optional()?;
    let whole = first == (size > 0).then_some(0) && settled <= anchor.size && anchor.size <= size && recent == int(size.saturating_sub(from));
    if whole && last_has_note != Some(false) {
        return Ok(());
    }
    let anchor = anchor.size;
    Err(StoreError::unavailable(
        Reason::Disagrees,
        format!("the head counts {anchor} entries, the ledger has {size} from {first:?} on, not all of them whole"),
    ))
}

fn load_tasks(conn: &Connection, authority: &mut Authority, anchored: u64) -> Result<(), StoreError> {
    let mut statement = conn.prepare(&format!(
        "{} SELECT id, used + coalesce(calls, 0), tasks.task FROM tasks LEFT JOIN since ON since.task = id WHERE state = 'open'",
        crate::tasks::SINCE_ANCHOR
    ))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = TaskId::from_bytes(row.get(0)?);
        let task: Task = serde_json::from_str(row.get_ref(2)?.as_str().map_err(|e| StoreError::malformed(e.to_string()))?)?;
        authority.load_task(id, OpenTask::of(&task, row.get::<_, Count>(1)?.0));
    }
    let mut statement = conn.prepare("SELECT DISTINCT task FROM entries WHERE idx >= ?1 AND kind = 'intent'")?;
    let mut rows = statement.query([int(anchored)])?;
    while let Some(row) = rows.next()? {
        let id = TaskId::from_bytes(row.get(0)?);
        authority.load_spent(id);
        // What it is a part of spent these calls too.
        let line = authority.line(id).unwrap_or_default();
        line.into_iter().for_each(|(id, _)| authority.load_spent(id));
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

fn load_accounts(conn: &Connection, authority: &mut Authority) -> Result<(), StoreError> {
    let mut statement = conn.prepare("SELECT id FROM leases INDEXED BY leases_open WHERE state <> 'ended' AND state = 'pooled'")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        authority.load_account(LeaseId::from_bytes(row.get(0)?));
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
    let control = conn.prepare_cached("SELECT control_seq FROM head WHERE id = 0")?.query_row([], |r| r.get::<_, Count>(0)).optional()?;
    Ok(control.map(|c| c.0).zip(Some(stored_size(conn)?)).map(|(control, size)| (size, control)))
}

pub(crate) fn stored_size(conn: &Connection) -> Result<u64, StoreError> {
    let last = conn.prepare_cached("SELECT max(idx) FROM entries")?.query_row([], |r| r.get::<_, Option<Count>>(0))?;
    Ok(last.map_or(0, |c| c.0.saturating_add(1)))
}
