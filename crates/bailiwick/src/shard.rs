//! Shards of the ledger: what a shard is called, how a new one is begun, and the check that each seam between two holds.

mod begin;
mod lineage;
mod pen;

use std::path::Path;

use bailiwick_ledger::export::Directory;
use bailiwick_ledger::note::NoteError;
use bailiwick_ledger::{Checkpoint, Hash, Origin, TileId, TileReader, VerifierKey, tree};
use bailiwick_store::Store;
use serde::Deserialize;

pub use begin::{Begun, ShardError, begin};
pub(crate) use begin::{adopt, examine, open};
pub(crate) use lineage::Lineage;
pub use lineage::{Departure, Finding, LineageError};
pub use pen::Pen;

use crate::entry::{Body, ShardBegun};

/// The directory of the first shard, in every directory of publications.
const FIRST: &str = "1";

/// `n-random`, if that is how the origin ends.
fn suffix(origin: &Origin) -> Option<(u64, &str, &str)> {
    let (base, last) = origin.as_str().rsplit_once('/')?;
    let (number, random) = last.split_once('-')?;
    let canonical = number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0') && random.len() == 8;
    let number: u64 = number.parse().ok().filter(|n| *n > 1 && canonical)?;
    random.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()).then_some((number, base, last))
}

/// The number of a shard, from 1.
pub(crate) fn number_of(origin: &Origin) -> u64 {
    suffix(origin).map_or(1, |(number, _, _)| number)
}

/// The origin of the first shard.
pub(crate) fn base_of(origin: &Origin) -> &str {
    suffix(origin).map_or(origin.as_str(), |(_, base, _)| base)
}

/// The name of a shard's own directory.
pub(crate) fn directory_name(origin: &Origin) -> &str {
    suffix(origin).map_or(FIRST, |(_, _, last)| last)
}

/// The name under which a shard's key is sealed. The first one's is that of the time before there were shards.
pub(crate) fn key_name(origin: &Origin) -> String {
    suffix(origin).map_or_else(|| "ledger".to_owned(), |(_, _, last)| format!("ledger-{last}"))
}

/// The origins of a store's shards, the first one's first.
pub(crate) async fn origins(store: &Store, current: &Origin) -> Result<Vec<String>, bailiwick_store::StoreError> {
    let mut all = vec![base_of(current).to_owned()];
    all.extend(store.shards().await?.into_iter().map(|shard| shard.origin));
    Ok(all)
}

/// A seam between two shards does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeamError {
    /// The entry does not say what it has to.
    #[error("entry {0} begins a shard and does not say after what")]
    Form(u64),
    /// What it names of the old log was not signed by the old log's key.
    #[error("entry {0} begins a shard after a head that the old log did not sign")]
    Unsigned(u64),
    /// The old log's tree is not that of the entries before it.
    #[error("entry {0} begins a shard after a head that is not that of the entries before it")]
    Tree(u64),
}

/// How such an entry begins, after its version.
const KIND: &[u8] = br#""kind":"shard""#;

/// What an entry of kind `shard` says, as far as it can be checked.
#[derive(Deserialize)]
struct Said {
    old_origin: String,
    old_vkey: String,
    /// The old log's own last head over exactly the entries before.
    old_head: String,
}

/// Looks for seams among the entries of a log, in order, and checks each: the head of the old log, signed by its key, is that of the
/// entries before the one that begins the new.
#[derive(Debug, Default)]
pub struct Seams {
    /// Public keys of the shards before, in order.
    old: Vec<VerifierKey>,
    broken: Option<SeamError>,
}

impl Seams {
    /// Looks at the entry at an index; `root` gives the root of the entries before it, if it is needed.
    pub fn look(&mut self, index: u64, entry: &[u8], root: impl FnOnce() -> Option<Hash>) {
        let Some(said) = begins_shard(entry) else { return };
        let root = root().ok_or(SeamError::Tree as Wrong);
        match said.and_then(|said| check(&said, (index, root?))) {
            Ok(key) => self.old.push(key),
            Err(error) => self.broken = self.broken.take().or(Some(error(index))),
        }
    }

    /// The public keys of the shards before the current one.
    ///
    /// # Errors
    /// The first seam that does not hold.
    pub fn finish(self) -> Result<Vec<VerifierKey>, SeamError> {
        self.broken.map_or(Ok(self.old), Err)
    }
}

/// The root of the first `index` entries of a directory that holds `size`: the tiles of its right edge are read as the narrower ones.
pub(crate) fn root_before(files: &Directory, index: u64, size: u64) -> Option<Hash> {
    struct Narrower<'a>(&'a Directory, u64);
    impl TileReader for Narrower<'_> {
        type Error = ();
        fn read_tile(&self, tile: TileId) -> Result<Vec<Hash>, ()> {
            let there = TileId::for_size(tile.level(), tile.index(), self.1).ok_or(())?;
            let mut hashes = self.0.read_tile(there).map_err(|_| ())?;
            hashes.truncate(usize::from(tile.width()));
            Ok(hashes)
        }
    }
    tree::root(&Narrower(files, size), index).ok()
}

type Wrong = fn(u64) -> SeamError;

fn begins_shard(entry: &[u8]) -> Option<Result<Said, Wrong>> {
    #[derive(Deserialize)]
    struct Kind<'a> {
        kind: &'a str,
    }
    // Cheap first: almost no entry is one.
    entry.windows(KIND.len()).take(16).any(|w| w == KIND).then_some(())?;
    let kind: Kind<'_> = serde_json::from_slice(entry).ok()?;
    (kind.kind == <ShardBegun<'_> as Body>::WORD).then(|| serde_json::from_slice(entry).map_err(|_| SeamError::Form as Wrong))
}

fn check(said: &Said, (size, root): (u64, Hash)) -> Result<VerifierKey, Wrong> {
    let key: VerifierKey = said.old_vkey.parse().map_err(|_: NoteError| SeamError::Form as Wrong)?;
    let origin: Origin = said.old_origin.parse().map_err(|_| SeamError::Form as Wrong)?;
    let head = Checkpoint::open(&said.old_head, &origin, &key, &[]).map_err(|_| SeamError::Unsigned as Wrong)?.checkpoint;
    if (head.size, head.root) == (size, root) { Ok(key) } else { Err(SeamError::Tree) }
}

/// The directory of this shard's tiles in a data directory.
pub(crate) fn tiles_of(data_dir: &Path, origin: &Origin) -> std::path::PathBuf {
    data_dir.join("tiles").join(directory_name(origin))
}

#[cfg(test)]
mod tests;
