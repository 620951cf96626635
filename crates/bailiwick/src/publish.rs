//! Publication: tiles and checkpoint to files, cosigned by witnesses, in the background. A call never waits for it.

mod work;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bailiwick_core::Timestamp;
use bailiwick_ledger::export::{Contents, Directory, ExportError, Exporter, ReadError};
use bailiwick_ledger::tile::{BundleId, TileId, encode_entry, encode_tile};
use bailiwick_ledger::tree::TileReader as _;
use bailiwick_ledger::{Hash, Note, Origin, Receipt, VerifierKey, inclusion_proof, leaf_hash};
use bailiwick_store::{Cosigned, Store, StoreError};
use tokio::sync::{Notify, watch};

use crate::config::LedgerConfig;
use crate::shard::{Finding, Lineage, Pen, directory_name, tiles_of};
use crate::witness::{Witnesses, gauge, head_of};

/// Entries that are held in memory at a time.
const PAGE: u64 = 1024;

/// Why nothing was published, or no receipt made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The files.
    #[error("`{}`: {error}", path.display())]
    Files {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        error: ExportError,
    },
    /// The body of an entry is not kept any more, or not the one that was recorded, so the publication of entries ends before it.
    #[error("entry {0} is not there to be published")]
    Entry(u64),
    /// The entry is not covered by a published head.
    #[error("entry {0} is not in a published head")]
    Uncovered(u64),
    /// The checkpoint in the store or the files.
    #[error("the checkpoint: {0}")]
    Checkpoint(String),
    /// A thread ended.
    #[error("{0}")]
    System(String),
}

/// A published head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The number of entries.
    pub size: u64,
    /// The signed note, with the cosignatures that it has.
    pub note: Arc<str>,
}

/// What is published, and where.
#[derive(Debug)]
pub struct Publication {
    origin: Origin,
    key: VerifierKey,
    tiles: PathBuf,
    out: Option<PathBuf>,
    every: Duration,
    public_entries: bool,
    witnesses: Witnesses,
    current: ArcSwapOption<Published>,
    /// Rings when somebody wants a publication now.
    wanted: Notify,
    published: watch::Sender<u64>,
}

impl Publication {
    /// The publication of a log. What is published already is read from the files.
    #[must_use]
    pub fn new(config: &LedgerConfig, data_dir: &Path, pen: &Pen, witnesses: Witnesses) -> Self {
        let (origin, key) = pen.log();
        let tiles = tiles_of(data_dir, &origin);
        let note = Directory::new(&tiles).checkpoint().ok();
        let current = note.and_then(|note| Some(Published { size: head_of(&note)?.size, note: note.into() }));
        Self {
            out: config.publish.as_ref().map(|out| out.join(directory_name(&origin))),
            every: config.every,
            public_entries: config.public_entries,
            witnesses,
            published: watch::Sender::new(current.as_ref().map_or(0, |c| c.size)),
            current: ArcSwapOption::new(current.map(Arc::new)),
            wanted: Notify::new(),
            origin,
            key,
            tiles,
        }
    }

    /// The head that was published last.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Published>> {
        self.current.load_full()
    }

    /// May anybody read the entries?
    #[must_use]
    pub const fn public_entries(&self) -> bool {
        self.public_entries
    }

    /// How many entries are published to files with what they say. `None`: none are to be.
    pub(crate) async fn entries_out(&self) -> Option<u64> {
        let out = Directory::new(self.out.as_ref()?);
        // What cannot be read has not got anything.
        Some(apart(move || out.checkpoint().ok().and_then(|note| head_of(&note))).await.ok().flatten().map_or(0, |head| head.size))
    }

    /// The witnesses.
    #[must_use]
    pub const fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }

    /// Asks for a publication now, and waits until the entry is covered by one.
    pub async fn covering(&self, index: u64, within: Duration) -> bool {
        let mut published = self.published.subscribe();
        if *published.borrow() > index {
            return true;
        }
        self.wanted.notify_one();
        tokio::time::timeout(within, published.wait_for(|size| *size > index)).await.is_ok_and(|waited| waited.is_ok())
    }

    /// One round: what is new is written, the witnesses that are due are asked, and what they signed is published. Gives what stops the
    /// pen, which is stopped already, and what is an incident only.
    ///
    /// # Errors
    /// What could not be written. Nothing that was published is worse for it.
    pub async fn round(&self, store: &Store, pen: &Pen, now: Timestamp) -> Result<(Vec<Finding>, Vec<Finding>), PublishError> {
        let head = store.head();
        if head.size == 0 || pen.stopped().is_some() {
            return Ok((Vec::new(), Vec::new()));
        }
        let before = self.current();
        let fresh = before.as_ref().is_none_or(|current| current.size < head.size);
        let kept = store.cosigned_at(self.origin.as_str(), head.size).await?;
        let mut have = kept.as_ref().map(|kept| kept.witnesses.clone()).unwrap_or_default();
        let text = kept.map_or_else(|| head.checkpoint.to_string(), |kept| kept.note);
        let mut note = Note::parse(&text).map_err(|e| PublishError::Checkpoint(e.to_string()))?;
        if fresh {
            // First here: whatever a witness sees of us, we can be held to by our own files as well.
            self.write(&self.tiles, Contents::Hashes, &text, head.size, store).await?;
        }
        let lineage = Lineage { store, origin: &self.origin, key: &self.key };
        let asked = self.witnesses.ask(&lineage, &note, head.size, &have, &self.tiles).await?;
        for finding in &asked.stops {
            pen.stop(&finding.to_string());
        }
        if !asked.stops.is_empty() {
            return Ok((asked.stops, asked.words));
        }
        let more = !asked.lines.is_empty();
        for (id, line) in asked.lines {
            note.add(line).map_err(|e| PublishError::Checkpoint(e.to_string()))?;
            have.insert(id);
        }
        let text = note.to_string();
        if more {
            let row = Cosigned { origin: self.origin.to_string(), size: head.size, note: text.clone(), witnesses: have, at: now };
            store.write(move |w| w.cosigned_put(&row)).await?;
            self.write(&self.tiles, Contents::Hashes, &text, head.size, store).await?;
        }
        let shown = before.as_ref().is_none_or(|current| *current.note != *text);
        if shown {
            self.current.store(Some(Arc::new(Published { size: head.size, note: text.as_str().into() })));
            self.published.send_replace(head.size);
            metrics::gauge!("bailiwick_ledger_published_size").set(gauge(head.size));
        }
        if let Some(out) = &self.out
            && (shown || !self.is_out(out, &text).await)
        {
            self.write(out, Contents::All, &text, head.size, store).await?;
        }
        Ok((Vec::new(), asked.words))
    }

    async fn is_out(&self, out: &Path, text: &str) -> bool {
        let (directory, text) = (Directory::new(out), text.to_owned());
        tokio::task::spawn_blocking(move || directory.checkpoint().is_ok_and(|there| there == text)).await.unwrap_or_default()
    }

    /// Brings a directory up to a head: new tiles, then the checkpoint.
    async fn write(&self, path: &Path, contents: Contents, note: &str, size: u64, store: &Store) -> Result<(), PublishError> {
        let files = |error| PublishError::Files { path: path.to_path_buf(), error };
        let (origin, key, to) = (self.origin.clone(), self.key.clone(), path.to_path_buf());
        // Of what was pruned there are hashes only, here and there.
        let minimum = store.minimum().await?;
        let opened = apart(move || open(&to, &origin, &key, contents)).await?;
        let mut exporter = opened.map_err(files)?.pruned_to(minimum);
        while exporter.size() < size {
            let from = exporter.size();
            let rows = store.entries(from..size.min(from.saturating_add(PAGE))).await?;
            if rows.is_empty() {
                return Err(PublishError::Entry(from));
            }
            let (written, back) = apart(move || {
                let mut push = || -> Result<(), Pushed> {
                    for row in &rows {
                        let leaf = Hash::from_bytes(row.leaf);
                        let pruned = row.index < minimum && row.body.is_empty();
                        if contents == Contents::Hashes || pruned {
                            exporter.push_hash(leaf).map_err(Pushed::Files)?;
                        } else if leaf_hash(&row.body) == leaf {
                            exporter.push(&row.body).map_err(Pushed::Files)?;
                        } else {
                            return Err(Pushed::Entry(row.index));
                        }
                    }
                    Ok(())
                };
                (push(), exporter)
            })
            .await?;
            exporter = back;
            written.map_err(|pushed| match pushed {
                Pushed::Files(error) => files(error),
                Pushed::Entry(index) => PublishError::Entry(index),
            })?;
        }
        let note = note.to_owned();
        apart(move || exporter.finish(&note)).await?.map_err(files)
    }

    /// The receipt of an entry: its inclusion proof for the published head that the most witnesses cosigned, the newest among such.
    ///
    /// # Errors
    /// `Uncovered` if no published head covers it yet; or what could not be read.
    pub async fn receipt(&self, store: &Store, index: u64, extra: Option<Vec<u8>>) -> Result<Receipt, PublishError> {
        let current = self.current().map(|current| (0, current.size, current.note.to_string()));
        let kept = store.cosigned(self.origin.as_str()).await?.into_iter().map(|row| (row.witnesses.len(), row.size, row.note));
        let mut heads: Vec<_> = kept.chain(current).filter(|(_, size, _)| *size > index).collect();
        heads.sort_by_key(|(witnesses, size, _)| std::cmp::Reverse((*witnesses, *size)));
        for (_, size, note) in heads {
            let directory = Directory::new(&self.tiles);
            // The edge of an old head may be gone if the tiles were made anew: then another one.
            let Ok(path) = apart(move || inclusion_proof(&directory, index, size)).await? else { continue };
            let note = Note::parse(&note).map_err(|e| PublishError::Checkpoint(e.to_string()))?;
            return Receipt::new(index, path, note, extra).map_err(|e| PublishError::Checkpoint(e.to_string()));
        }
        Err(PublishError::Uncovered(index))
    }

    /// A hash tile of a published head, as its bytes. `None` if there is none.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn tile(&self, tile: TileId) -> Result<Option<Vec<u8>>, PublishError> {
        if self.current().is_none_or(|current| tile.end() > current.size) {
            return Ok(None);
        }
        let directory = Directory::new(&self.tiles);
        match apart(move || directory.read_tile(tile)).await? {
            Ok(hashes) => Ok(Some(encode_tile(&hashes))),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    /// A bundle of entries of a published head, as its bytes. `None` if there is none, or not any more.
    ///
    /// # Errors
    /// The store's.
    pub async fn bundle(&self, store: &Store, bundle: BundleId) -> Result<Option<Vec<u8>>, PublishError> {
        let (first, width) = (bundle.first_entry(), u64::from(bundle.width()));
        let end = first.saturating_add(width);
        if self.current().is_none_or(|current| end > current.size) {
            return Ok(None);
        }
        let rows = store.entries(first..end).await?;
        let mut bytes = Vec::new();
        for row in &rows {
            // Its body may have been pruned by now: then there is no bundle.
            if leaf_hash(&row.body) != Hash::from_bytes(row.leaf) || encode_entry(&mut bytes, &row.body).is_err() {
                return Ok(None);
            }
        }
        Ok((u64::try_from(rows.len()).ok() == Some(width)).then_some(bytes))
    }

    fn unreadable(&self, error: ReadError) -> PublishError {
        PublishError::Files { path: self.tiles.clone(), error: error.into() }
    }

    /// The ids of the witnesses that have cosigned the published head.
    #[must_use]
    pub fn cosigners(note: &str) -> BTreeSet<String> {
        let note = Note::parse(note).ok();
        let lines = note.iter().flat_map(Note::signatures);
        lines.map(|line| format!("{}+{:08x}", line.name(), u32::from_be_bytes(line.key_id()))).collect()
    }
}

enum Pushed {
    Files(ExportError),
    Entry(u64),
}

fn open(path: &Path, origin: &Origin, key: &VerifierKey, contents: Contents) -> Result<Exporter, ExportError> {
    match Directory::new(path).checkpoint() {
        Ok(_) => Exporter::resume_with(path, origin, key, contents),
        Err(error) if error.is_missing() => Exporter::create_with(path, contents),
        Err(error) => Err(error.into()),
    }
}

async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PublishError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| PublishError::System(e.to_string()))
}

#[cfg(test)]
pub(crate) mod tests;
