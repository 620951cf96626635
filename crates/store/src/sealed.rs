//! What is sealed, by the root key that it is sealed under: found in small pages, replaced where nobody changed it meanwhile, and a root key
//! retired, so that nothing is written under it any more. Sees the name of a root key only, which stands in what is sealed.

use bailiwick_core::{HoldId, LeaseId, TaskId};
use rusqlite::Connection;

use crate::error::StoreError;
use crate::sql::{Count, limit};
use crate::store::Store;
use crate::writing::Writing;

/// The name of a root key: 8 bytes, from the fifth byte on of everything that is sealed under it.
pub type RootName = [u8; 8];

/// Where something sealed stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SealedPlace {
    /// A secret, by its name.
    Secret(String),
    /// A secret's replacement that is under way, by the secret's name.
    Candidate(String),
    /// The salt of a task.
    Salt(TaskId),
    /// The secret of a lease.
    Lease(LeaseId),
    /// The arguments of a held call.
    HeldArguments(HoldId),
    /// What an asynchronous call gave.
    HeldResult(HoldId),
}

/// A table with something sealed in it.
struct Table {
    name: &'static str,
    key: &'static str,
    sealed: &'static str,
    place: fn(Key) -> Option<SealedPlace>,
}

enum Key {
    Text(String),
    Id([u8; 16]),
}

/// INVARIANT: every column with something sealed in it is in this list; a test holds it against the schema.
const TABLES: [Table; 6] = [
    Table { name: "secrets", key: "name", sealed: "sealed", place: |key| key.text().map(SealedPlace::Secret) },
    Table { name: "kept_secrets", key: "name", sealed: "candidate", place: |key| key.text().map(SealedPlace::Candidate) },
    Table { name: "salts", key: "task", sealed: "sealed", place: |key| Some(SealedPlace::Salt(TaskId::from_bytes(key.id()?))) },
    Table { name: "leases", key: "id", sealed: "secret", place: |key| Some(SealedPlace::Lease(LeaseId::from_bytes(key.id()?))) },
    Table { name: "holds", key: "id", sealed: "arguments", place: |key| Some(SealedPlace::HeldArguments(HoldId::from_bytes(key.id()?))) },
    Table { name: "results", key: "hold", sealed: "result", place: |key| Some(SealedPlace::HeldResult(HoldId::from_bytes(key.id()?))) },
];

impl Key {
    fn text(self) -> Option<String> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    fn id(self) -> Option<[u8; 16]> {
        if let Self::Id(id) = self { Some(id) } else { None }
    }
}

impl SealedPlace {
    fn table(&self) -> &'static Table {
        let [secrets, candidates, salts, leases, holds, results] = &TABLES;
        match self {
            Self::Secret(_) => secrets,
            Self::Candidate(_) => candidates,
            Self::Salt(_) => salts,
            Self::Lease(_) => leases,
            Self::HeldArguments(_) => holds,
            Self::HeldResult(_) => results,
        }
    }

    fn key(&self) -> rusqlite::types::Value {
        match self {
            Self::Secret(name) | Self::Candidate(name) => name.clone().into(),
            Self::Salt(task) => task.to_bytes().to_vec().into(),
            Self::Lease(lease) => lease.to_bytes().to_vec().into(),
            Self::HeldArguments(hold) | Self::HeldResult(hold) => hold.to_bytes().to_vec().into(),
        }
    }
}

/// Something sealed, and where it stands.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedRow {
    /// Where.
    pub place: SealedPlace,
    /// As it is stored.
    pub sealed: Vec<u8>,
}

impl std::fmt::Debug for SealedRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedRow").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Whether a column's value is sealed, and by whose key. What is older than sealing, or was erased, is not.
fn is_sealed(column: &str) -> String {
    format!("{column} IS NOT NULL AND length({column}) >= 12 AND substr({column}, 1, 3) IN (x'425753', x'425750')")
}

impl Writing<'_> {
    /// From here on nothing is written under this root key, until the store is opened again. Gives how much still stands under it: nothing that was
    /// queued before is missing from the count.
    ///
    /// # Errors
    /// The store's.
    pub fn retire_root(&mut self, root: RootName) -> Result<u64, StoreError> {
        let hex: String = root.iter().map(|byte| format!("{byte:02x}")).collect();
        for table in &TABLES {
            let (name, sealed) = (table.name, table.sealed);
            for (event, on) in [("insert", "INSERT".to_owned()), ("update", format!("UPDATE OF {sealed}"))] {
                // Of this connection, which alone writes, and gone with it. An update that leaves what is sealed as it is says nothing new.
                let unless = if event == "update" { format!(" AND NEW.{sealed} IS NOT OLD.{sealed}") } else { String::new() };
                let condition = is_sealed(&format!("NEW.{sealed}"));
                self.conn.execute_batch(&format!(
                    "CREATE TEMP TRIGGER IF NOT EXISTS retired_{hex}_{name}_{event} BEFORE {on} ON main.{name}
                     WHEN {condition} AND substr(NEW.{sealed}, 5, 8) = x'{hex}'{unless}
                     BEGIN SELECT RAISE(ABORT, 'sealed under a root key that is retired'); END"
                ))?;
            }
        }
        under(self.conn, root)
    }

    /// Puts what was sealed anew in the place of what was read, where it still stands. Gives how many it were.
    ///
    /// # Errors
    /// The store's.
    pub fn reseal(&mut self, rows: &[(SealedRow, Vec<u8>)]) -> Result<usize, StoreError> {
        let mut changed = 0usize;
        for (row, anew) in rows {
            let table = row.place.table();
            let (name, key, sealed) = (table.name, table.key, table.sealed);
            let sql = format!("UPDATE {name} SET {sealed} = ?3 WHERE {key} = ?1 AND {sealed} = ?2");
            changed = changed.saturating_add(self.conn.prepare_cached(&sql)?.execute((row.place.key(), &row.sealed, anew))?);
        }
        Ok(changed)
    }
}

impl Store {
    /// What is sealed under this root key, at most `most` of each sort.
    ///
    /// # Errors
    /// The store's.
    pub async fn sealed_rows(&self, root: RootName, most: usize) -> Result<Vec<SealedRow>, StoreError> {
        self.read(move |conn| {
            let mut found = Vec::new();
            for table in &TABLES {
                let (name, key, sealed, condition) = (table.name, table.key, table.sealed, is_sealed(table.sealed));
                let sql = format!("SELECT {key}, {sealed} FROM {name} WHERE {condition} AND substr({sealed}, 5, 8) = ?1 LIMIT ?2");
                let mut statement = conn.prepare_cached(&sql)?;
                let mut rows = statement.query((root.as_slice(), limit(most)))?;
                while let Some(row) = rows.next()? {
                    let key = match row.get_ref(0)? {
                        rusqlite::types::ValueRef::Text(text) => Key::Text(String::from_utf8_lossy(text).into_owned()),
                        rusqlite::types::ValueRef::Blob(id) => Key::Id(id.try_into().map_err(|_| StoreError::malformed("the key of a row"))?),
                        _ => return Err(StoreError::malformed("the key of a row")),
                    };
                    let place = (table.place)(key).ok_or_else(|| StoreError::malformed("the key of a row"))?;
                    found.push(SealedRow { place, sealed: row.get(1)? });
                }
            }
            Ok(found)
        })
        .await
    }

    /// How much is sealed under this root key.
    ///
    /// # Errors
    /// The store's.
    pub async fn sealed_under(&self, root: RootName) -> Result<u64, StoreError> {
        self.read(move |conn| under(conn, root)).await
    }

    /// See [`Writing::reseal`]. Durable when it returns.
    ///
    /// # Errors
    /// As there.
    pub async fn reseal(&self, rows: Vec<(SealedRow, Vec<u8>)>) -> Result<usize, StoreError> {
        self.write(move |w| w.reseal(&rows)).await
    }

    /// See [`Writing::retire_root`].
    ///
    /// # Errors
    /// As there.
    pub async fn retire_root(&self, root: RootName) -> Result<u64, StoreError> {
        self.write(move |w| w.retire_root(root)).await
    }
}

fn under(conn: &Connection, root: RootName) -> Result<u64, StoreError> {
    let mut count = 0u64;
    for table in &TABLES {
        let sql = format!("SELECT count(*) FROM {} WHERE {} AND substr({}, 5, 8) = ?1", table.name, is_sealed(table.sealed), table.sealed);
        let here: Count = conn.prepare_cached(&sql)?.query_row([root.as_slice()], |r| r.get(0))?;
        count = count.saturating_add(here.0);
    }
    Ok(count)
}
