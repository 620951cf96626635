//! Shards of the ledger, and checkpoints that witnesses cosigned. What a note says and whether it is right is for others to know.

use std::collections::BTreeSet;

use bailiwick_core::Timestamp;
use rusqlite::{OptionalExtension as _, Row};

use crate::error::StoreError;
use crate::sql::{At, Count, int};
use crate::store::Store;
use crate::writing::Writing;

/// The longest note that is kept, in bytes.
const NOTE_BYTES_MAX: usize = 512 * 1024;

/// A shard of the ledger after the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its number; the first shard is 1 and has no row.
    pub number: u64,
    /// Its origin.
    pub origin: String,
    /// Its public key.
    pub vkey: String,
    /// The index of the entry that began it.
    pub first: u64,
    /// The origin of the shard before.
    pub old_origin: String,
    /// The public key of the shard before.
    pub old_vkey: String,
    /// The furthest signed checkpoint of the shard before that was seen anywhere.
    pub known: String,
    /// Why it was begun, in the operator's words.
    pub reason: String,
    /// Has what was open in the older state been ended?
    pub settled: bool,
    /// When.
    pub at: Timestamp,
}

/// A checkpoint with cosignatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned {
    /// The log.
    pub origin: String,
    /// Its size.
    pub size: u64,
    /// The signed note, with the cosignatures.
    pub note: String,
    /// Who cosigned: ids of the witnesses' keys.
    pub witnesses: BTreeSet<String>,
    /// When the last cosignature came.
    pub at: Timestamp,
}

impl Writing<'_> {
    /// Notes a new shard.
    ///
    /// # Errors
    /// `Conflict` if number or origin is taken.
    pub fn shard_put(&mut self, shard: &Shard) -> Result<(), StoreError> {
        self.conn
            .prepare_cached(
                "INSERT INTO shards (number, origin, vkey, first, old_origin, old_vkey, known, reason, settled, at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute((
                int(shard.number),
                &shard.origin,
                &shard.vkey,
                int(shard.first),
                &shard.old_origin,
                &shard.old_vkey,
                &shard.known,
                &shard.reason,
                shard.settled,
                shard.at.as_millis(),
            ))?;
        Ok(())
    }

    /// Notes that what was open when a shard was begun has been ended.
    ///
    /// # Errors
    /// The store's.
    pub fn shard_settled(&mut self, number: u64) -> Result<(), StoreError> {
        self.conn.prepare_cached("UPDATE shards SET settled = 1 WHERE number = ?1")?.execute([int(number)])?;
        Ok(())
    }

    /// Keeps a cosigned checkpoint in place of the one of its log and size. Smaller ones of the same log go if a larger one has the
    /// cosignatures of the same witnesses: what they prove, it proves.
    ///
    /// # Errors
    /// `TooLarge`, or the store's.
    pub fn cosigned_put(&mut self, cosigned: &Cosigned) -> Result<(), StoreError> {
        let len = cosigned.note.len();
        if len > NOTE_BYTES_MAX {
            return Err(StoreError::TooLarge { what: "checkpoint", len, max: NOTE_BYTES_MAX });
        }
        self.conn.prepare_cached("INSERT OR REPLACE INTO cosigned (origin, size, note, witnesses, at) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute((
            &cosigned.origin,
            int(cosigned.size),
            &cosigned.note,
            serde_json::to_string(&cosigned.witnesses)?,
            cosigned.at.as_millis(),
        ))?;
        let mut statement = self.conn.prepare_cached("SELECT size, witnesses FROM cosigned WHERE origin = ?1 ORDER BY size DESC")?;
        let rows = statement.query_map([&cosigned.origin], |r| Ok((r.get::<_, Count>(0)?.0, r.get::<_, String>(1)?)))?;
        let mut seen = BTreeSet::new();
        let mut gone = Vec::new();
        for row in rows {
            let (size, witnesses) = row?;
            let witnesses: BTreeSet<String> = serde_json::from_str(&witnesses)?;
            if witnesses.is_subset(&seen) {
                gone.push(size);
            }
            seen.extend(witnesses);
        }
        let mut delete = self.conn.prepare_cached("DELETE FROM cosigned WHERE origin = ?1 AND size = ?2")?;
        for size in gone {
            delete.execute((&cosigned.origin, int(size)))?;
        }
        Ok(())
    }
}

impl Store {
    /// The shards after the first, in order.
    ///
    /// # Errors
    /// The store's.
    pub async fn shards(&self) -> Result<Vec<Shard>, StoreError> {
        self.read(|conn| {
            let mut statement = conn
                .prepare_cached("SELECT number, origin, vkey, first, old_origin, old_vkey, known, reason, settled, at FROM shards ORDER BY number")?;
            let rows = statement.query_map([], shard)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// The cosigned checkpoints of a log that are kept, largest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn cosigned(&self, origin: &str) -> Result<Vec<Cosigned>, StoreError> {
        let origin = origin.to_owned();
        self.read(move |conn| {
            let mut statement = conn.prepare_cached("SELECT origin, size, note, witnesses, at FROM cosigned WHERE origin = ?1 ORDER BY size DESC")?;
            let rows = statement.query_map([&origin], raw_cosigned)?;
            rows.map(|row| read_cosigned(row?)).collect()
        })
        .await
    }

    /// The cosigned checkpoint of a log at exactly this size.
    ///
    /// # Errors
    /// The store's.
    pub async fn cosigned_at(&self, origin: &str, size: u64) -> Result<Option<Cosigned>, StoreError> {
        let origin = origin.to_owned();
        self.read(move |conn| {
            let mut statement = conn.prepare_cached("SELECT origin, size, note, witnesses, at FROM cosigned WHERE origin = ?1 AND size = ?2")?;
            statement.query_row((&origin, int(size)), raw_cosigned).optional()?.map(read_cosigned).transpose()
        })
        .await
    }
}

fn shard(r: &Row<'_>) -> rusqlite::Result<Shard> {
    Ok(Shard {
        number: r.get::<_, Count>(0)?.0,
        origin: r.get(1)?,
        vkey: r.get(2)?,
        first: r.get::<_, Count>(3)?.0,
        old_origin: r.get(4)?,
        old_vkey: r.get(5)?,
        known: r.get(6)?,
        reason: r.get(7)?,
        settled: r.get(8)?,
        at: r.get::<_, At>(9)?.0,
    })
}

fn raw_cosigned(r: &Row<'_>) -> rusqlite::Result<(String, u64, String, String, Timestamp)> {
    Ok((r.get(0)?, r.get::<_, Count>(1)?.0, r.get(2)?, r.get(3)?, r.get::<_, At>(4)?.0))
}

fn read_cosigned((origin, size, note, witnesses, at): (String, u64, String, String, Timestamp)) -> Result<Cosigned, StoreError> {
    Ok(Cosigned { origin, size, note, witnesses: serde_json::from_str(&witnesses)?, at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Integrated, Integrator, Options};

    /// A ledger to which nothing is added.
    struct Empty;

    impl Integrator for Empty {
        fn integrate(&mut self, _: &[u8], _: &[&[u8]]) -> Result<Integrated, String> {
            Ok(Integrated { leaves: Vec::new(), frontier: vec![1], size: 0, root: [0; 32], checkpoint: "empty".to_owned() })
        }
    }

    fn open(dir: &std::path::Path) -> Store {
        Store::open_with(dir, Box::new(Empty), Options { log_bytes: 0, readers: 1 }).unwrap()
    }

    fn cosigned(size: u64, witnesses: &[&str]) -> Cosigned {
        let witnesses = witnesses.iter().map(|w| (*w).to_owned()).collect();
        Cosigned { origin: "o".to_owned(), size, note: format!("note {size}"), witnesses, at: Timestamp::from_millis(5) }
    }

    async fn sizes(store: &Store) -> Vec<u64> {
        store.cosigned("o").await.unwrap().iter().map(|c| c.size).collect()
    }

    #[tokio::test]
    async fn a_cosigned_checkpoint_goes_when_larger_ones_have_all_of_its_witnesses() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for (size, witnesses, left) in [
            (5, &["a", "b"][..], vec![5]),
            (7, &["a"], vec![7, 5]),
            (9, &["a"], vec![9, 5]),
            (9, &["a", "c"], vec![9, 5]),
            (12, &["b"], vec![12, 9]),
            (13, &["a", "b", "c"], vec![13]),
            (8, &["a"], vec![13]),
        ] {
            let row = cosigned(size, witnesses);
            store.write(move |w| w.cosigned_put(&row)).await.unwrap();
            assert_eq!(sizes(&store).await, left);
        }
        assert_eq!(store.cosigned_at("o", 13).await.unwrap(), Some(cosigned(13, &["a", "b", "c"])));
        assert_eq!(store.cosigned_at("other", 13).await.unwrap(), None);
        store.close().await;
    }

    #[tokio::test]
    async fn shards_are_kept_in_order_and_neither_number_nor_origin_is_given_twice() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let shard = |number, origin: &str| Shard {
            number,
            origin: origin.to_owned(),
            vkey: "k".to_owned(),
            first: 9,
            old_origin: "o".to_owned(),
            old_vkey: "v".to_owned(),
            known: String::new(),
            reason: "restored".to_owned(),
            settled: false,
            at: Timestamp::from_millis(7),
        };
        for (number, origin, taken) in [(3, "o/3", true), (2, "o/2", true), (2, "o/x", false), (4, "o/2", false)] {
            let row = shard(number, origin);
            assert_eq!(store.write(move |w| w.shard_put(&row)).await.is_ok(), taken, "{number} {origin}");
        }
        store.write(|w| w.shard_settled(2)).await.unwrap();
        assert_eq!(store.shards().await.unwrap(), [Shard { settled: true, ..shard(2, "o/2") }, shard(3, "o/3")]);
        store.close().await;
    }
}
