//! The unfinished tiles of a growing tree: gives every tile once, when it is full, and the partial ones when asked.

use std::fmt;

use crate::MAX_SIZE;
use crate::frontier::Frontier;
use crate::hash::{Hash, fold_perfect};
use crate::tile::{TILE_WIDTH, TileId};
use crate::tree::{TileReader, TreeError};

/// For who writes tiles (an export, a table): at most 255 hashes for each level are held.
#[derive(Clone, Default)]
pub struct Tiler {
    size: u64,
    /// The hashes at each level that no full tile holds yet. INVARIANT: level `l` has `(size >> 8l) % 256` of them.
    open: Vec<Vec<Hash>>,
    scratch: Vec<Hash>,
}

impl Tiler {
    /// The tree without leaves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on where a tree of `size` leaves ended, by reading its partial tiles. The caller compares [`Tiler::root`] with a
    /// root that it trusts.
    pub fn resume<R: TileReader + ?Sized>(reader: &R, size: u64) -> Result<Self, TreeError<R::Error>> {
        if size > MAX_SIZE {
            return Err(TreeError::Range { asked: size, size: MAX_SIZE });
        }
        let mut tiler = Self { size, ..Self::default() };
        for tile in edge(size) {
            let mut hashes = vec![];
            if let Some(tile) = tile {
                hashes = reader.read_tile(tile).map_err(TreeError::Reader)?;
                if hashes.len() != usize::from(tile.width()) {
                    return Err(TreeError::Width(tile));
                }
            }
            tiler.open.push(hashes);
        }
        Ok(tiler)
    }

    /// Appends a leaf hash. `full` gets every tile that becomes full by it, the lower level first; if it fails, the tiler is
    /// of no further use.
    pub fn push<E>(&mut self, leaf: Hash, mut full: impl FnMut(TileId, &[Hash]) -> Result<(), E>) -> Result<(), E> {
        self.size += 1;
        let (mut hash, mut level) = (leaf, 0_u8);
        loop {
            if self.open.len() <= usize::from(level) {
                self.open.push(Vec::with_capacity(usize::from(TILE_WIDTH)));
            }
            let Some(row) = self.open.get_mut(usize::from(level)) else {
                return Ok(());
            };
            row.push(hash);
            if row.len() < usize::from(TILE_WIDTH) {
                return Ok(());
            }
            let index = (self.size >> (8 * (u32::from(level) + 1))) - 1;
            let (Some(tile), Some(above)) = (TileId::new(level, index, TILE_WIDTH), fold_perfect(row, &mut self.scratch)) else {
                return Ok(());
            };
            full(tile, row)?;
            row.clear();
            (hash, level) = (above, level + 1);
        }
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The tiles that are not full, from the leaves upwards, with their hashes.
    pub fn partial(&self) -> impl Iterator<Item = (TileId, &[Hash])> {
        edge(self.size).zip(&self.open).filter_map(|(tile, hashes)| Some((tile?, hashes.as_slice())))
    }

    /// The same tree as a frontier.
    #[must_use]
    pub fn frontier(&self) -> Frontier {
        let mut scratch = vec![];
        let mut peaks = vec![];
        for row in self.open.iter().rev() {
            let mut rest = row.as_slice();
            while let Some(run) = rest.len().checked_ilog2() {
                let Some((left, right)) = rest.split_at_checked(1 << run) else {
                    break;
                };
                peaks.extend(fold_perfect(left, &mut scratch));
                rest = right;
            }
        }
        Frontier::from_peaks(self.size, peaks)
    }

    /// The root of all leaves so far.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.frontier().root()
    }
}

impl fmt::Debug for Tiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiler").field("size", &self.size).finish_non_exhaustive()
    }
}

/// The partial tile of each level of a tree of `size` leaves, from the leaves to the highest level that has any hash.
pub(crate) fn edge(size: u64) -> impl DoubleEndedIterator<Item = Option<TileId>> {
    let levels = size.checked_ilog2().map_or(0, |height| height / 8 + 1);
    (0..levels).map(move |level| {
        let row = size >> (8 * level);
        let width = u16::try_from(row % u64::from(TILE_WIDTH)).ok()?;
        TileId::new(u8::try_from(level).ok()?, row / u64::from(TILE_WIDTH), width)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::tree::{Leaves, tests::leaves};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn it_gives_exactly_the_tiles_of_the_size_and_the_frontier_of_the_leaves(size in 0_u64..140_000, cut in 0_u64..1000) {
            let all = leaves(size);
            let mut tiles = BTreeMap::new();
            let mut tiler = Tiler::new();
            let mut frontier = Frontier::new();
            for (at, leaf) in all.iter().enumerate() {
                if at as u64 == size * cut / 1000 {
                    tiler = Tiler::resume(&Leaves(&all), at as u64).unwrap();
                }
                frontier.push(*leaf);
                tiler.push(*leaf, |tile, hashes| {
                    tiles.insert(tile, hashes.to_vec());
                    Ok::<_, Infallible>(())
                }).unwrap();
            }
            tiles.extend(tiler.partial().map(|(tile, hashes)| (tile, hashes.to_vec())));
            prop_assert_eq!(tiler.frontier(), frontier);
            let expected: BTreeMap<_, _> =
                TileId::all(size).map(|tile| (tile, Leaves(&all).read_tile(tile).unwrap())).collect();
            prop_assert!(tiles == expected);
        }
    }
}
