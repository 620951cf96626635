//! Cursors of exports: how far each sink has certainly got the ledger. Never anything about what is sent or where.

use bailiwick_core::Timestamp;
use rusqlite::OptionalExtension as _;

use crate::error::StoreError;
use crate::sql::{At, Count, int};
use crate::store::Store;
use crate::writing::Writing;

/// How far a sink has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportCursor {
    /// The sink's name in the configuration.
    pub name: String,
    /// The index of the first entry that it has not certainly got.
    pub next: u64,
    /// When that was noted.
    pub at: Timestamp,
}

impl Writing<'_> {
    /// Notes how far a sink has got, in place of what was noted before.
    ///
    /// # Errors
    /// The store's.
    pub fn export_put(&mut self, name: &str, next: u64, at: Timestamp) -> Result<(), StoreError> {
        self.conn
            .prepare_cached(
                "INSERT INTO exports (name, next, at) VALUES (?1, ?2, ?3)
                 ON CONFLICT (name) DO UPDATE SET next = excluded.next, at = excluded.at",
            )?
            .execute((name, int(next), at.as_millis()))?;
        Ok(())
    }

    /// Forgets a sink. False if there was no cursor under that name.
    ///
    /// # Errors
    /// The store's.
    pub fn export_delete(&mut self, name: &str) -> Result<bool, StoreError> {
        Ok(self.conn.prepare_cached("DELETE FROM exports WHERE name = ?1")?.execute([name])? > 0)
    }
}

impl Store {
    /// How far one sink has got. `None` if it never got anything.
    ///
    /// # Errors
    /// The store's.
    pub async fn export(&self, name: &str) -> Result<Option<ExportCursor>, StoreError> {
        let name = name.to_owned();
        self.read(move |conn| {
            let mut statement = conn.prepare_cached("SELECT name, next, at FROM exports WHERE name = ?1")?;
            Ok(statement.query_row([&name], cursor).optional()?)
        })
        .await
    }

    /// How far every sink has got, by name; those that are no longer configured too.
    ///
    /// # Errors
    /// The store's.
    pub async fn exports(&self) -> Result<Vec<ExportCursor>, StoreError> {
        self.read(|conn| {
            let mut statement = conn.prepare_cached("SELECT name, next, at FROM exports ORDER BY name")?;
            let rows = statement.query_map([], cursor)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

fn cursor(row: &rusqlite::Row<'_>) -> rusqlite::Result<ExportCursor> {
    Ok(ExportCursor { name: row.get(0)?, next: row.get::<_, Count>(1)?.0, at: row.get::<_, At>(2)?.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Integrated, Integrator, Options};

    /// A log to which nobody adds anything.
    struct Empty;

    impl Integrator for Empty {
        fn integrate(&mut self, _frontier: &[u8], _entries: &[&[u8]]) -> Result<Integrated, String> {
            Ok(Integrated { leaves: Vec::new(), frontier: Vec::new(), size: 0, root: [0; 32], checkpoint: String::new() })
        }
    }

    #[tokio::test]
    async fn each_sink_has_its_own_cursor_which_outlives_the_store_and_goes_only_when_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { log_bytes: 0, readers: 1 };
        let (a, b) = (Timestamp::from_millis(5), Timestamp::from_millis(7));
        let store = Store::open_with(dir.path(), Box::new(Empty), options).unwrap();
        assert_eq!(store.export("siem").await.unwrap(), None);
        store.write(move |w| w.export_put("siem", 3, a)).await.unwrap();
        store.write(move |w| w.export_put("otel", 9, a)).await.unwrap();
        store.write(move |w| w.export_put("siem", 4, b)).await.unwrap();
        store.close().await;
        drop(store);
        let store = Store::open_with(dir.path(), Box::new(Empty), options).unwrap();
        let siem = ExportCursor { name: "siem".to_owned(), next: 4, at: b };
        let otel = ExportCursor { name: "otel".to_owned(), next: 9, at: a };
        assert_eq!(store.exports().await.unwrap(), [otel.clone(), siem.clone()]);
        assert_eq!(store.export("siem").await.unwrap(), Some(siem));
        assert!(store.write(|w| w.export_delete("siem")).await.unwrap());
        assert!(!store.write(|w| w.export_delete("siem")).await.unwrap());
        assert_eq!(store.exports().await.unwrap(), [otel]);
        store.close().await;
    }

    #[tokio::test]
    async fn what_is_deleted_or_replaced_is_overwritten_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_with(dir.path(), Box::new(Empty), Options { log_bytes: 0, readers: 1 }).unwrap();
        store.write(|w| w.export_put("canary-deleted", 3, Timestamp::from_millis(5))).await.unwrap();
        store.meta_put("k", b"canary-replaced".to_vec()).await.unwrap();
        store.cut_log().await.unwrap();
        store.write(|w| w.export_delete("canary-deleted")).await.unwrap();
        store.meta_put("k", b"another".to_vec()).await.unwrap();
        store.cut_log().await.unwrap();
        store.close().await;
        drop(store);
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(7).any(|w| w == b"canary-"));
        }
    }
}
