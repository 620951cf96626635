//! Under which name each entry was recorded: a ledger that could not be continued goes on in a shard, over the same indexes.

use bailiwick_store::{Store, StoreError};

/// The names of the log, each from an index on.
#[derive(Debug)]
pub(super) struct Origins {
    first: String,
    shards: Vec<(u64, String)>,
}

impl Origins {
    /// As the store has them. A shard begins only while nothing is exported: at a start.
    pub(super) async fn read(store: &Store) -> Result<Self, StoreError> {
        let shards = store.shards().await?;
        let newest = store.checkpoint().lines().next().unwrap_or_default().to_owned();
        let first = shards.first().map_or(newest, |s| s.old_origin.clone());
        Ok(Self { first, shards: shards.into_iter().map(|s| (s.first, s.origin)).collect() })
    }

    /// The name under which the entry of this index was recorded.
    pub(super) fn of(&self, index: u64) -> &str {
        self.shards.iter().rev().find(|(from, _)| *from <= index).map_or(&self.first, |(_, origin)| origin)
    }

    /// The name of today.
    pub(super) fn newest(&self) -> &str {
        self.shards.last().map_or(&self.first, |(_, origin)| origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_the_name_under_which_it_was_recorded() {
        let origins = Origins { first: "a".to_owned(), shards: vec![(5, "a/2".to_owned()), (9, "a/3".to_owned())] };
        let of: Vec<&str> = [0, 4, 5, 8, 9, 100].into_iter().map(|i| origins.of(i)).collect();
        assert_eq!((of, origins.newest()), (vec!["a", "a", "a/2", "a/2", "a/3", "a/3"], "a/3"));
        let only = Origins { first: "a".to_owned(), shards: Vec::new() };
        assert_eq!((only.of(7), only.newest()), ("a", "a"));
    }
}
