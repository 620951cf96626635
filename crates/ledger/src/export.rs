//! A log as a directory of files in the layout of C2SP tlog-tiles: written for publication, read and verified by an auditor.
//!
//! This is the only module of the room that does I/O. Everything is on the disk before the file `checkpoint` names it, so that
//! a crash leaves the old publication or the new one.

mod directory;
mod verify;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

pub use directory::{Directory, ReadError};
pub use verify::{AuditError, Report, audit, audit_by, audit_kept, verify};

use crate::checkpoint::{Checkpoint, CheckpointError, Origin};
use crate::hash::{Hash, leaf_hash};
use crate::note::{Note, SigningKey, VerifierKey};
use crate::tile::{BundleId, EntryTooLong, MAX_LEVEL, TILE_WIDTH, TileId, decode_bundle, encode_entry, encode_tile, row_length};
use crate::tiler::Tiler;
use crate::tree::TreeError;
use directory::{Batch, make_directories};

/// Why a log was not published.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file could not be written.
    #[error("`{path}`: {source}")]
    Write {
        /// The file, within the directory.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// What is there already could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An entry that the format cannot hold.
    #[error(transparent)]
    Entry(#[from] EntryTooLong),
    /// The checkpoint that is there, or the one to be published.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint to be published is not that of the entries given.
    #[error("the checkpoint is not that of these entries")]
    OtherTree,
    /// The published log is longer: this one was cut, or restored from an old copy.
    #[error("the published log has {published} entries, this one {size}")]
    Shrunk {
        /// The size in the published checkpoint.
        published: u64,
        /// The size of the log given.
        size: u64,
    },
    /// The published log has another history.
    #[error("the published log of {size} entries is not the beginning of this one")]
    Forked {
        /// The size in the published checkpoint.
        size: u64,
    },
    /// A published file is not the one that these entries make: the histories differ, or somebody changed the file.
    #[error("`{path}` is published with other contents")]
    Changed {
        /// The file, within the directory.
        path: String,
    },
    /// Somebody else is writing this directory.
    #[error("the directory is being written by another process")]
    Busy,
}

/// Publishes all entries of a log, signed with `key`, and gives the head.
pub fn write<E: AsRef<[u8]>>(
    path: &Path,
    origin: &Origin,
    key: &SigningKey,
    entries: impl IntoIterator<Item = E>,
) -> Result<Checkpoint, ExportError> {
    let mut exporter = Exporter::create(path)?;
    for entry in entries {
        exporter.push(entry.as_ref())?;
    }
    let head = Checkpoint { origin: origin.clone(), size: exporter.size(), root: exporter.root() };
    exporter.finish(&head.sign(key).map_err(CheckpointError::from)?.to_string())?;
    Ok(head)
}

/// What a directory holds of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Tiles and entries: a whole log, which an auditor can read.
    All,
    /// Tiles only: enough to make proofs, and no word of an entry.
    Hashes,
}

/// Publishes a log entry by entry, in constant memory. Until [`Exporter::finish`] nothing that was published changes, and
/// after it only `checkpoint` has: a published file is never overwritten with other contents.
#[derive(Debug)]
pub struct Exporter {
    files: Batch,
    contents: Contents,
    /// The minimum index: of the entries before it there are only hashes, and no bundles.
    minimum: u64,
    tiler: Tiler,
    /// The bytes of the bundle that is not full yet.
    bundle: Vec<u8>,
    published: Option<Checkpoint>,
    /// Held so that the directory has one writer.
    _lock: File,
}

impl Exporter {
    /// Begins with entry 0. What the directory has already is compared and kept: a log that is shorter than the published one,
    /// or has another history, is refused.
    pub fn create(path: &Path) -> Result<Self, ExportError> {
        Self::create_with(path, Contents::All)
    }

    /// As [`Exporter::create`], of all or of the hashes only.
    pub fn create_with(path: &Path, contents: Contents) -> Result<Self, ExportError> {
        let lock = lock(path)?;
        let published = match Directory::new(path).checkpoint() {
            Ok(note) => {
                let note = Note::parse(&note).map_err(CheckpointError::from)?;
                Some(Checkpoint::parse(note.text().as_str())?)
            }
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error.into()),
        };
        let exporter = Self { files: Batch::new(path), contents, minimum: 0, tiler: Tiler::new(), bundle: vec![], published, _lock: lock };
        exporter.check_history()?;
        Ok(exporter)
    }

    /// Goes on after the last published entry: the next one pushed has the index [`Exporter::size`]. The published head must be
    /// signed by the log's key, and the tiles at the right edge must lead to it.
    pub fn resume(path: &Path, origin: &Origin, log: &VerifierKey) -> Result<Self, ExportError> {
        Self::resume_with(path, origin, log, Contents::All)
    }

    /// As [`Exporter::resume`], of all or of the hashes only, as the directory was begun.
    pub fn resume_with(path: &Path, origin: &Origin, log: &VerifierKey, contents: Contents) -> Result<Self, ExportError> {
        let lock = lock(path)?;
        let directory = Directory::new(path);
        let head = Checkpoint::open(&directory.checkpoint()?, origin, log, &[])?.checkpoint;
        let tiler = Tiler::resume(&directory, head.size).map_err(|error| match error {
            TreeError::Reader(error) => error.into(),
            TreeError::Range { .. } | TreeError::Width(_) => ExportError::Forked { size: head.size },
        })?;
        let mut bundle = vec![];
        if let Some(id) = BundleId::for_size(head.size / u64::from(TILE_WIDTH), head.size)
            && contents == Contents::All
        {
            let (bytes, whole) = directory.read_bundle(id)?;
            let entries = decode_bundle(&bytes, id.width(), whole).ok_or(ExportError::Forked { size: head.size })?;
            entries.into_iter().try_for_each(|entry| encode_entry(&mut bundle, entry))?;
        }
        let exporter = Self { files: Batch::new(path), contents, minimum: 0, tiler, bundle, published: Some(head), _lock: lock };
        exporter.check_history()?;
        Ok(exporter)
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: &[u8]) -> Result<(), ExportError> {
        self.push_leaf(leaf_hash(entry), Some(entry))
    }

    /// The log is pruned: of the entries before this index there are only hashes, and bundles that end before it are not there, or not
    /// any more (C2SP tlog-tiles, section Pruning). It is rounded down to whole bundles.
    #[must_use]
    pub fn pruned_to(self, minimum: u64) -> Self {
        Self { minimum: minimum - minimum % u64::from(TILE_WIDTH), ..self }
    }

    /// Appends an entry of which only the leaf hash is known: to a directory of hashes, or before the minimum index.
    ///
    /// # Errors
    /// `OtherTree` if the directory is to hold the entry too.
    pub fn push_hash(&mut self, leaf: Hash) -> Result<(), ExportError> {
        if self.contents == Contents::All && self.tiler.size() >= self.minimum {
            return Err(ExportError::OtherTree);
        }
        self.push_leaf(leaf, None)
    }

    fn push_leaf(&mut self, leaf: Hash, entry: Option<&[u8]>) -> Result<(), ExportError> {
        let kept = self.contents == Contents::All && self.tiler.size() >= self.minimum;
        match entry {
            Some(entry) if kept => encode_entry(&mut self.bundle, entry)?,
            // What was taken up of a partial bundle must not stand before entries that come later.
            _ => self.bundle.clear(),
        }
        let (files, published) = (&mut self.files, published_size(self.published.as_ref()));
        self.tiler.push(leaf, |tile, hashes| files.add(&tile.to_string(), &encode_tile(hashes), tile.end() > published))?;
        let size = self.tiler.size();
        if kept
            && size.is_multiple_of(u64::from(TILE_WIDTH))
            && let Some(full) = BundleId::for_size(size / u64::from(TILE_WIDTH) - 1, size)
        {
            self.files.add(&full.to_string(), &self.bundle, size > published)?;
            self.bundle.clear();
        }
        self.check_history()
    }

    /// The number of entries so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.tiler.size()
    }

    /// The root of the entries so far.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.tiler.root()
    }

    /// Writes what is partial, waits until all is on the disk, and publishes `checkpoint`, a signed note about exactly these
    /// entries (its signatures are not checked here). Partial files that a full one now replaces are removed.
    pub fn finish(mut self, checkpoint: &str) -> Result<(), ExportError> {
        let note = Note::parse(checkpoint).map_err(CheckpointError::from)?;
        let head = Checkpoint::parse(note.text().as_str())?;
        if (head.size, head.root) != (self.size(), self.root()) {
            return Err(ExportError::OtherTree);
        }
        if let Some(published) = &self.published {
            if published.origin != head.origin {
                return Err(CheckpointError::OtherOrigin(published.origin.to_string()).into());
            }
            if published.size > head.size {
                return Err(ExportError::Shrunk { published: published.size, size: head.size });
            }
        }
        let published = published_size(self.published.as_ref());
        for (tile, hashes) in self.tiler.partial() {
            self.files.add(&tile.to_string(), &encode_tile(hashes), tile.end() > published)?;
        }
        if let Some(bundle) = BundleId::for_size(head.size / u64::from(TILE_WIDTH), head.size)
            && self.contents == Contents::All
        {
            self.files.add(&bundle.to_string(), &self.bundle, head.size > published)?;
        }
        self.files.settle()?;
        self.files.add("checkpoint", checkpoint.as_bytes(), true)?;
        self.files.settle()?;
        remove_bundles(&self.files, self.minimum)?;
        // Without this, a log that publishes after every entry would keep 255 copies of the beginning of every bundle.
        for level in 0..=MAX_LEVEL {
            let open_before = row_length(level, published) / u64::from(TILE_WIDTH);
            if let Some(tile) = TileId::for_size(level, open_before, head.size).filter(|tile| tile.is_full()) {
                self.files.remove_partial(&tile.to_string())?;
                if level == 0
                    && let Some(bundle) = BundleId::for_size(open_before, head.size)
                {
                    self.files.remove_partial(&bundle.to_string())?;
                }
            }
        }
        Ok(())
    }

    fn check_history(&self) -> Result<(), ExportError> {
        match &self.published {
            Some(published) if published.size == self.size() && published.root != self.root() => Err(ExportError::Forked { size: published.size }),
            _ => Ok(()),
        }
    }
}

/// Removes the bundles that end before the minimum index, the oldest first: those that are gone are always a beginning of the log.
fn remove_bundles(files: &Batch, minimum: u64) -> Result<(), ExportError> {
    let bundle = |index| BundleId::new(index, TILE_WIDTH).map(|id| id.to_string());
    let count = minimum / u64::from(TILE_WIDTH);
    // The last of them goes last.
    if !count.checked_sub(1).and_then(bundle).is_some_and(|last| files.has(&last)) {
        return Ok(());
    }
    for name in (0..count).filter_map(bundle) {
        files.remove_partial(&name)?;
        files.remove(&name)?;
    }
    Ok(())
}

fn published_size(published: Option<&Checkpoint>) -> u64 {
    published.map_or(0, |published| published.size)
}

fn lock(path: &Path) -> Result<File, ExportError> {
    let failed = |source| ExportError::Write { path: ".lock".to_owned(), source };
    make_directories(path).map_err(failed)?;
    let lock = path.join(".lock");
    if lock.is_symlink() {
        // Nothing of another place is opened in our name.
        fs::remove_file(&lock).map_err(failed)?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(lock).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ExportError::Busy),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests;
