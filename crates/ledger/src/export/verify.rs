//! The auditor's check of an exported log: from the signed root down to every entry, naming the first thing that is wrong.

use std::path::Path;

use super::directory::{Directory, ReadError};
use crate::checkpoint::{Checkpoint, CheckpointError, Origin};
use crate::hash::{Hash, fold_perfect, leaf_hash};
use crate::note::{Verified, VerifierKey};
use crate::policy::{TrustError, TrustPolicy, Trusted};
use crate::tile::{BundleId, TILE_WIDTH, TileId, decode_bundle};
use crate::tiler::Tiler;
use crate::tree::{TileReader, TreeError};

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The number of entries read and found in the tree: all of them, but for those that were pruned.
    pub entries: u64,
    /// The first entry that is there: of those before it there are only hashes, which lead to the signed root. 0 for a log that is not
    /// pruned.
    pub minimum: u64,
    /// The signed size.
    pub size: u64,
    /// The signed root.
    pub root: Hash,
    /// The witnesses among those asked for that cosigned the checkpoint.
    pub cosigned: Vec<Verified>,
}

/// The first thing that is wrong, from the left.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The checkpoint is not one of this log, signed by this key.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// A policy does not hold the checkpoint to be valid.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A file is missing, cannot be read, or has a length that its kind cannot have.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No tile is at fault by itself, but together they do not lead to the signed root: the checkpoint is of another log, or
    /// the log was rewritten.
    #[error("the log does not lead to the signed root")]
    Root,
    /// The tile is not the one that the signed root stands for.
    #[error("`{0}` is not the tile that was signed")]
    Tile(TileId),
    /// The bundle does not hold exactly its number of entries.
    #[error("`{0}` does not hold its entries")]
    Bundle(BundleId),
    /// The entry is not the one that the signed root stands for.
    #[error("entry {0} is not the entry that was signed")]
    Entry(u64),
}

impl From<TreeError<ReadError>> for AuditError {
    fn from(error: TreeError<ReadError>) -> Self {
        match error {
            TreeError::Reader(error) => Self::Read(error),
            TreeError::Width(tile) => Self::Tile(tile),
            TreeError::Range { .. } => Self::Root,
        }
    }
}

/// Verifies everything: the signature of the log's key and the origin, every tile, every entry, the root. Streams; holds one
/// bundle and a few tiles.
pub fn verify(path: &Path, origin: &Origin, log: &VerifierKey) -> Result<Report, AuditError> {
    audit(path, origin, log, &[], |_, _| {})
}

/// The same, with the witnesses that cosigned, and with each entry, once it is proved, given to `each` with its index.
pub fn audit(path: &Path, origin: &Origin, log: &VerifierKey, witnesses: &[VerifierKey], each: impl FnMut(u64, &[u8])) -> Result<Report, AuditError> {
    let directory = Directory::new(path);
    let opened = Checkpoint::open(&directory.checkpoint()?, origin, log, witnesses)?;
    let (entries, minimum) = walk(directory, &opened.checkpoint, false, each)?;
    Ok(Report { entries, minimum, size: opened.checkpoint.size, root: opened.checkpoint.root, cosigned: opened.cosigned })
}

/// As [`audit`], of a log that may be pruned (C2SP tlog-tiles, section Pruning): bundles at its beginning may be missing, no other.
/// That they were rightly pruned is for the caller to find out from the entries: whoever deletes files can make it seem so.
pub fn audit_kept(
    path: &Path,
    origin: &Origin,
    log: &VerifierKey,
    witnesses: &[VerifierKey],
    each: impl FnMut(u64, &[u8]),
) -> Result<Report, AuditError> {
    let directory = Directory::new(path);
    let opened = Checkpoint::open(&directory.checkpoint()?, origin, log, witnesses)?;
    let (entries, minimum) = walk(directory, &opened.checkpoint, true, each)?;
    Ok(Report { entries, minimum, size: opened.checkpoint.size, root: opened.checkpoint.root, cosigned: opened.cosigned })
}

/// Verifies everything by a policy: any of its logs has signed the checkpoint, those witnesses have cosigned it that it asks for,
/// and every tile and entry is the one that the signed root stands for. Gives what is believed, and each entry to `each`.
pub fn audit_by(path: &Path, policy: &TrustPolicy, each: impl FnMut(u64, &[u8])) -> Result<Trusted, AuditError> {
    let directory = Directory::new(path);
    let trusted = policy.open(&directory.checkpoint()?)?;
    walk(directory, &trusted.checkpoint, false, each)?;
    Ok(trusted)
}

/// All tiles and entries below a head that is believed; `prunable` if entries at the beginning may be missing. Gives the number of
/// entries, and the first of them.
fn walk(directory: Directory, head: &Checkpoint, prunable: bool, each: impl FnMut(u64, &[u8])) -> Result<(u64, u64), AuditError> {
    let edge = Tiler::resume(&directory, head.size)?;
    if edge.root() != head.root {
        return Err(blame(&directory, &edge, head)?);
    }
    let mut walk = Walk { directory, each, prunable, entries: 0, minimum: 0, scratch: vec![] };
    let partial: Vec<_> = edge.partial().collect();
    for (tile, hashes) in partial.into_iter().rev() {
        walk.below(tile, hashes)?;
    }
    Ok((walk.entries, walk.minimum))
}

struct Walk<F> {
    directory: Directory,
    each: F,
    /// Nothing but the beginning of the log was looked at so far, and it may be missing.
    prunable: bool,
    entries: u64,
    minimum: u64,
    scratch: Vec<Hash>,
}

impl<F: FnMut(u64, &[u8])> Walk<F> {
    /// Checks all that is below a tile whose hashes are known to be right. As deep as the tree has levels, eight at most.
    fn below(&mut self, tile: TileId, hashes: &[Hash]) -> Result<(), AuditError> {
        let Some(level) = tile.level().checked_sub(1) else {
            return self.entries(tile, hashes);
        };
        for (index, hash) in (tile.index() * u64::from(TILE_WIDTH)..).zip(hashes) {
            let child = TileId::new(level, index, TILE_WIDTH).ok_or(AuditError::Root)?;
            let children = self.directory.read_tile(child)?;
            if fold_perfect(&children, &mut self.scratch) != Some(*hash) {
                return Err(AuditError::Tile(child));
            }
            self.below(child, &children)?;
        }
        Ok(())
    }

    fn entries(&mut self, tile: TileId, hashes: &[Hash]) -> Result<(), AuditError> {
        let bundle = BundleId::new(tile.index(), tile.width()).ok_or(AuditError::Root)?;
        let (bytes, whole) = match self.directory.read_bundle(bundle) {
            Err(error) if self.prunable && error.is_missing() && bundle == bundle.full() => {
                self.minimum = bundle.first_entry() + u64::from(TILE_WIDTH);
                return Ok(());
            }
            found => found?,
        };
        self.prunable = false;
        let entries = decode_bundle(&bytes, bundle.width(), whole);
        for (index, (entry, hash)) in (bundle.first_entry()..).zip(entries.ok_or(AuditError::Bundle(bundle))?.into_iter().zip(hashes)) {
            if leaf_hash(entry) != *hash {
                return Err(AuditError::Entry(index));
            }
            (self.each)(index, entry);
            self.entries += 1;
        }
        Ok(())
    }
}

/// The tiles at the right edge do not lead to the signed root. They have no tile above that would say which one is wrong, so
/// each is compared with what lies below it.
fn blame(directory: &Directory, edge: &Tiler, head: &Checkpoint) -> Result<AuditError, AuditError> {
    let (mut first, mut scratch, mut repaired) = (None, vec![], Vec::new());
    for (tile, hashes) in edge.partial() {
        let mut below = Vec::with_capacity(hashes.len());
        if let Some(level) = tile.level().checked_sub(1) {
            for index in (tile.index() * u64::from(TILE_WIDTH)..).take(hashes.len()) {
                let child = TileId::new(level, index, TILE_WIDTH).ok_or(AuditError::Root)?;
                below.extend(fold_perfect(&directory.read_tile(child)?, &mut scratch));
            }
        } else {
            let bundle = BundleId::new(tile.index(), tile.width()).ok_or(AuditError::Root)?;
            let (bytes, whole) = directory.read_bundle(bundle)?;
            let entries = decode_bundle(&bytes, bundle.width(), whole).ok_or(AuditError::Bundle(bundle))?;
            below.extend(entries.into_iter().map(leaf_hash));
        }
        if let Some(at) = below.iter().zip(hashes).position(|(made, stored)| made != stored) {
            first = first.or(Some((tile, at as u64)));
        }
        repaired.push((tile, below));
    }
    let Some((tile, at)) = first else {
        return Ok(AuditError::Root);
    };
    let below_is_right = Tiler::resume(&Edge(repaired), head.size).is_ok_and(|tiler| tiler.root() == head.root);
    if below_is_right || tile.level() > 0 {
        return Ok(AuditError::Tile(tile));
    }
    Ok(AuditError::Entry(tile.index() * u64::from(TILE_WIDTH) + at))
}

/// The tiles of the right edge, made anew from what lies below them.
struct Edge(Vec<(TileId, Vec<Hash>)>);

impl TileReader for Edge {
    type Error = ();

    fn read_tile(&self, tile: TileId) -> Result<Vec<Hash>, ()> {
        self.0.iter().find(|(id, _)| *id == tile).map(|(_, hashes)| hashes.clone()).ok_or(())
    }
}
