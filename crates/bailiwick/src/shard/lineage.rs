//! Whether what was let out is the beginning of what the store has: the question that is asked before anything is signed.

use std::path::{Path, PathBuf};

use bailiwick_ledger::export::Directory;
use bailiwick_ledger::{Checkpoint, Frontier, Hash, Note, Origin, Tiler, VerifierKey};
use bailiwick_store::{Store, StoreError};

use super::{base_of, directory_name, number_of};

/// Leaves that are held in memory at a time.
const PAGE: u64 = 65_536;

/// How what was let out departs from what the store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It is longer: the store was set back.
    SetBack {
        /// The size that was let out.
        known: u64,
        /// The size of the store.
        ours: u64,
    },
    /// It is not longer, and is not the beginning of the store.
    Forked {
        /// The size that was let out.
        size: u64,
    },
    /// A later shard of this log was begun.
    LaterShard {
        /// Its origin.
        origin: String,
    },
    /// A witness says that it cosigned more than the store has, or something else, and does not show it.
    Word {
        /// The size that it names.
        size: Option<u64>,
    },
}

/// Something that was let out and cannot be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it was found.
    pub place: String,
    /// What.
    pub what: Departure,
    /// The checkpoint, signed by this log's key, that shows it.
    pub note: Option<String>,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = &self.place;
        match &self.what {
            Departure::SetBack { known, ours } => {
                write!(f, "the ledger was set back: {place} has a signed head of {known} entries, the store has {ours}")
            }
            Departure::Forked { size } => {
                write!(f, "the ledger was forked: {place} has a signed head of {size} entries that are not the first {size} of the store")
            }
            Departure::LaterShard { origin } => write!(f, "the ledger was set back: {place} has a later shard, `{origin}`"),
            Departure::Word { size: Some(size) } => write!(f, "{place} says that it cosigned {size} entries, which is more than the store has"),
            Departure::Word { size: None } => write!(f, "{place} says that it cosigned another history than the store's"),
        }
    }
}

/// Why it could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A published file cannot be read, or is none of this log's.
    #[error("`{}`: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// The store's history, to be compared with.
#[derive(Debug)]
pub(crate) struct Lineage<'a> {
    pub(crate) store: &'a Store,
    pub(crate) origin: &'a Origin,
    pub(crate) key: &'a VerifierKey,
}

impl Lineage<'_> {
    /// Is this head, of our origin and signed by our key, the beginning of the store? `files` may hold its tiles, which saves work.
    pub(crate) async fn judge(&self, known: &Checkpoint, files: &Path) -> Result<Option<Departure>, StoreError> {
        let head = self.store.head();
        if known.size > head.size {
            return Ok(Some(Departure::SetBack { known: known.size, ours: head.size }));
        }
        let ours = Hash::from_bytes(head.root);
        let (size, root, directory) = (known.size, known.root, Directory::new(files));
        let resumed = tokio::task::spawn_blocking(move || Tiler::resume(&directory, size).ok().filter(|tiler| tiler.root() == root));
        let continues = match resumed.await.ok().flatten() {
            // From the published tiles on, the store's own leaves must lead to the store's root.
            Some(tiler) => self.grown(tiler.frontier(), head.size).await?.root() == ours,
            None => self.grown(Frontier::new(), size).await?.root() == root,
        };
        Ok((!continues).then_some(Departure::Forked { size }))
    }

    async fn grown(&self, mut tree: Frontier, to: u64) -> Result<Frontier, StoreError> {
        while tree.size() < to {
            let from = tree.size();
            let leaves = self.store.leaves(from..to.min(from.saturating_add(PAGE))).await?;
            if leaves.is_empty() {
                break;
            }
            for leaf in leaves {
                tree.push(Hash::from_bytes(leaf));
            }
        }
        Ok(tree)
    }

    /// Compares with a directory of published shards: this shard's checkpoint must be the beginning of the store, and there must be no
    /// later shard. `known` are the origins of the shards up to this one.
    pub(crate) async fn files(&self, place: &str, root: &Path, known: &[String]) -> Result<Vec<Finding>, LineageError> {
        let fault = |path: &Path, why: &dyn std::fmt::Display| LineageError::File { path: path.to_path_buf(), why: why.to_string() };
        let mut found = Vec::new();
        let listed = match std::fs::read_dir(root) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(fault(root, &error)),
        };
        for entry in listed {
            let path = entry.map_err(|e| fault(root, &e))?.path();
            let note = match Directory::new(&path).checkpoint() {
                Ok(note) => note,
                Err(error) if error.is_missing() || !path.is_dir() => continue,
                Err(error) => return Err(fault(&path, &error)),
            };
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            if name == directory_name(self.origin) {
                let opened = Checkpoint::open(&note, self.origin, self.key, &[]).map_err(|e| fault(&path.join("checkpoint"), &e))?;
                if let Some(what) = self.judge(&opened.checkpoint, &path).await? {
                    found.push(Finding { place: place.to_owned(), what, note: Some(note) });
                }
                continue;
            }
            let parsed = Note::parse(&note).ok().and_then(|note| Checkpoint::parse(note.text().as_str()).ok());
            let Some(origin) = parsed.map(|head| head.origin) else { continue };
            // One with a smaller number was found when this one was begun: a new shard's is above all that can be seen.
            let above = number_of(&origin) > 1 && number_of(&origin) >= number_of(self.origin);
            let later = base_of(&origin) == base_of(self.origin) && !known.contains(&origin.to_string()) && above;
            if later {
                found.push(Finding { place: place.to_owned(), what: Departure::LaterShard { origin: origin.to_string() }, note: None });
            }
        }
        Ok(found)
    }
}
