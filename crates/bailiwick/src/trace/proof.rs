//! Entries with their proofs: each body is hashed again, and its place in the tree is proved up to the signed head.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_core::Digest;
use bailiwick_ledger::tile::TILE_WIDTH;
use bailiwick_ledger::tree::{self, Leaves, TileReader};
use bailiwick_ledger::{Hash, TileId, inclusion_proof, leaf_hash, verify_inclusion};
use bailiwick_store::{EntryRow, Head as StoreHead, Store, StoreError};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// Leaves under one node that is remembered.
const WIDTH: u64 = TILE_WIDTH as u64;
/// Nodes that are made from one read.
const AT_ONCE: u64 = 64;

/// One entry of the ledger.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Entry {
    /// Its index.
    pub index: u64,
    /// Its leaf hash (RFC 6962 section 2.1), in hex.
    pub leaf: String,
    /// What it says.
    #[schema(value_type = Object)]
    pub entry: Value,
    /// Its exact text. The leaf is over its UTF-8 bytes.
    pub text: String,
    /// Do its bytes and its place lead to the root of `ledger`? If not, somebody changed what is stored: believe nothing of it.
    pub intact: bool,
    /// Its body is gone by the policy of retention. `intact` is then about its leaf alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pruned: bool,
    /// The inclusion proof in the tree of `ledger.size` entries, in base64, from the leaf's sibling upwards (RFC 9162 section 2.1.3.1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proof: Vec<String>,
}

/// The signed head of the ledger.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Head {
    /// The number of entries.
    pub size: u64,
    /// The root over them, in hex.
    pub root: String,
    /// The signed note.
    pub checkpoint: String,
}

impl Head {
    /// As it is shown.
    #[must_use]
    pub fn of(head: &StoreHead) -> Self {
        Self { size: head.size, root: Digest::from_bytes(head.root).to_string(), checkpoint: head.checkpoint.to_string() }
    }
}

/// The nodes of the tree above 256 leaves each, so that a proof reads few leaves. Made when it is first needed, and followed from there.
#[derive(Debug, Default)]
pub struct Nodes {
    above: tokio::sync::Mutex<Above>,
}

/// `levels[0]` holds a node for each 256 leaves, `levels[1]` one for each 256 of those, and so on.
#[derive(Debug, Default)]
struct Above {
    levels: Vec<Vec<Hash>>,
}

impl Above {
    fn count(&self) -> u64 {
        self.levels.first().map_or(0, |nodes| nodes.len() as u64)
    }

    fn push(&mut self, node: Hash) {
        let (mut node, mut level) = (node, 0);
        loop {
            if self.levels.len() <= level {
                self.levels.push(Vec::new());
            }
            let Some(nodes) = self.levels.get_mut(level) else { return };
            nodes.push(node);
            let full = nodes.len().is_multiple_of(usize::from(TILE_WIDTH));
            let last = nodes.len().checked_sub(usize::from(TILE_WIDTH)).and_then(|from| nodes.get(from..));
            let Some(above) = last.filter(|_| full).and_then(perfect) else { return };
            (node, level) = (above, level.saturating_add(1));
        }
    }

    async fn follow(&mut self, store: &Store, size: u64) -> Result<(), StoreError> {
        while self.count() < size / WIDTH {
            let from = self.count();
            let to = (size / WIDTH).min(from.saturating_add(AT_ONCE));
            let leaves = store.leaves(from.saturating_mul(WIDTH)..to.saturating_mul(WIDTH)).await?;
            let leaves: Vec<Hash> = leaves.into_iter().map(Hash::from_bytes).collect();
            for run in leaves.chunks(usize::from(TILE_WIDTH)) {
                let node = perfect(run).ok_or_else(|| missing(from))?;
                self.push(node);
            }
            if self.count() < to {
                return Err(missing(self.count().saturating_mul(WIDTH)));
            }
        }
        Ok(())
    }
}

fn missing(index: u64) -> StoreError {
    StoreError::Unavailable { reason: bailiwick_store::Reason::Disagrees, detail: format!("the leaf of entry {index} is missing").into() }
}

/// The node over exactly 256 hashes.
fn perfect(hashes: &[Hash]) -> Option<Hash> {
    if hashes.len() == usize::from(TILE_WIDTH) { tree::root(&Leaves(hashes), WIDTH).ok() } else { None }
}

/// What a proof of a few entries reads.
struct Reading<'a> {
    above: &'a Above,
    leaves: BTreeMap<u64, Vec<Hash>>,
}

impl TileReader for Reading<'_> {
    type Error = ();

    fn read_tile(&self, tile: TileId) -> Result<Vec<Hash>, ()> {
        let width = usize::from(tile.width());
        let hashes = match usize::from(tile.level()).checked_sub(1) {
            None => self.leaves.get(&tile.index()).and_then(|leaves| leaves.get(..width)),
            Some(level) => {
                let from = usize::try_from(tile.index()).map_err(|_| ())?.saturating_mul(usize::from(TILE_WIDTH));
                self.above.levels.get(level).and_then(|nodes| nodes.get(from..from.saturating_add(width)))
            }
        };
        hashes.map(<[Hash]>::to_vec).ok_or(())
    }
}

impl Nodes {
    /// Makes what is missing up to the head, so that the first trace does not have to.
    ///
    /// # Errors
    /// The store's.
    pub async fn warm(&self, store: &Store) -> Result<(), StoreError> {
        let size = store.head().size;
        self.above.lock().await.follow(store, size).await
    }

    /// The entries of these rows, each with its proof under this head. A row whose bytes or place do not lead to the root is given
    /// as not intact, and has none.
    ///
    /// # Errors
    /// The store's.
    pub async fn prove(&self, store: &Store, head: &StoreHead, rows: Vec<EntryRow>) -> Result<Vec<Entry>, StoreError> {
        let mut above = self.above.lock().await;
        above.follow(store, head.size).await?;
        let tiles: BTreeSet<u64> = rows.iter().map(|row| row.index / WIDTH).chain([head.size / WIDTH]).collect();
        let mut leaves = BTreeMap::new();
        for tile in tiles {
            let from = tile.saturating_mul(WIDTH);
            let hashes = store.leaves(from..head.size.min(from.saturating_add(WIDTH))).await?;
            leaves.insert(tile, hashes.into_iter().map(Hash::from_bytes).collect());
        }
        let reading = Reading { above: &above, leaves };
        Ok(rows.into_iter().map(|row| proved(&reading, head, row)).collect())
    }
}

fn proved(reading: &Reading<'_>, head: &StoreHead, row: EntryRow) -> Entry {
    let pruned = row.body.is_empty();
    let leaf = if pruned { Hash::from_bytes(row.leaf) } else { leaf_hash(&row.body) };
    let path = inclusion_proof(reading, row.index, head.size).unwrap_or_default();
    let intact = *leaf.as_bytes() == row.leaf && verify_inclusion(&leaf, row.index, head.size, &Hash::from_bytes(head.root), &path).is_ok();
    if !intact {
        tracing::error!(index = row.index, "an entry is not the one that was recorded");
    }
    Entry {
        index: row.index,
        leaf: Digest::from_bytes(row.leaf).to_string(),
        entry: serde_json::from_slice(&row.body).unwrap_or(Value::Null),
        text: String::from_utf8_lossy(&row.body).into_owned(),
        intact,
        pruned,
        proof: if intact { path.iter().map(Hash::to_base64).collect() } else { Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keys;
    use bailiwick_store::{Entry as Appended, Options};

    #[test]
    fn the_remembered_nodes_prove_every_leaf_of_trees_of_any_size() {
        let all: Vec<Hash> = (0..66_000_u32).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        for size in [1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 66_000_usize] {
            let leaves = &all[..size];
            let mut above = Above::default();
            leaves.chunks_exact(usize::from(TILE_WIDTH)).for_each(|run| above.push(perfect(run).unwrap()));
            let size = size as u64;
            let root = tree::root(&Leaves(leaves), size).unwrap();
            for index in [0, size / 3, size / 2, size.saturating_sub(2), size - 1] {
                let tiles = [index / WIDTH, size / WIDTH].map(|tile| {
                    let from = usize::try_from(tile * WIDTH).unwrap();
                    (tile, leaves[from..leaves.len().min(from + usize::from(TILE_WIDTH))].to_vec())
                });
                let reading = Reading { above: &above, leaves: tiles.into_iter().collect() };
                let path = inclusion_proof(&reading, index, size).unwrap();
                let leaf = all[usize::try_from(index).unwrap()];
                verify_inclusion(&leaf, index, size, &root, &path).unwrap_or_else(|e| panic!("{index} of {size}: {e}"));
            }
        }
    }

    #[tokio::test]
    async fn an_entry_that_was_changed_or_moved_is_not_intact_and_has_no_proof() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        crate::place::prepare(&data).unwrap();
        let keys = Keys::load_or_make(&data).unwrap();
        let store = Store::open_with(&data, Box::new(keys.integrator().unwrap()), Options { log_bytes: 0, readers: 1 }).unwrap();
        for n in 0..600 {
            store.append_relaxed(Appended::new("house", format!("{{\"n\":{n}}}").into_bytes())).await.unwrap();
        }
        while store.head().size < 600 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let (nodes, head) = (Nodes::default(), store.head());
        let mut rows = store.entries(250..260).await.unwrap();
        assert!(nodes.prove(&store, &head, rows.clone()).await.unwrap().iter().all(|e| e.intact && !e.proof.is_empty()));
        rows[1].body = b"{\"n\":9}".to_vec();
        (rows[2].body, rows[2].leaf) = (b"{}".to_vec(), *leaf_hash(b"{}").as_bytes());
        rows[3].index = 599;
        let proved = nodes.prove(&store, &head, rows).await.unwrap();
        for (n, entry) in proved.iter().enumerate() {
            assert_eq!((entry.intact, entry.proof.is_empty()), (![1, 2, 3].contains(&n), [1, 2, 3].contains(&n)), "{n}");
        }
    }
}
