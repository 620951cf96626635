//! The names and the bytes of the C2SP tlog-tiles files: hash tiles and entry bundles.

use std::fmt;
use std::str::FromStr;

use crate::hash::Hash;

/// The number of hashes in a full tile and of entries in a full bundle.
pub const TILE_WIDTH: u16 = 256;

/// The largest entry in bytes: its length is written in 16 bits.
pub const MAX_ENTRY: usize = u16::MAX as usize;

/// The highest level of a tile that a tree of at most [`crate::MAX_SIZE`] leaves can have.
pub const MAX_LEVEL: u8 = 7;

/// Bits of a leaf index that one level of tiles spans.
const TILE_HEIGHT: u32 = 8;

/// An entry is longer than [`MAX_ENTRY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry of {length} bytes is longer than 65535")]
pub struct EntryTooLong {
    /// Its length in bytes.
    pub length: usize,
}

/// A tile of hashes: `width` hashes from number `256 * index` on of the row of nodes that each cover `256^level` leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    level: u8,
    index: u64,
    width: u16,
}

/// A bundle of entries: `width` entries from number `256 * index` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleId {
    index: u64,
    width: u16,
}

/// A text that is not the canonical path of a tile or bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the path of a tile")]
pub struct PathError;

/// How many hashes the row of nodes at `level` has in a tree of `size` leaves: only full subtrees count.
#[must_use]
pub fn row_length(level: u8, size: u64) -> u64 {
    size.checked_shr(u32::from(level) * TILE_HEIGHT).unwrap_or(0)
}

fn width_in_row(index: u64, length: u64) -> Option<u16> {
    let first = index.checked_mul(u64::from(TILE_WIDTH))?;
    let width = length.checked_sub(first)?.min(u64::from(TILE_WIDTH));
    u16::try_from(width).ok().filter(|width| *width > 0)
}

impl TileId {
    /// The tile, if the level is at most [`MAX_LEVEL`], the width 1 to 256, and the leaves at most [`crate::MAX_SIZE`] + 1.
    #[must_use]
    pub fn new(level: u8, index: u64, width: u16) -> Option<Self> {
        let first = index.checked_mul(u64::from(TILE_WIDTH))?;
        let last = first.checked_add(u64::from(width))?;
        let fits = level <= MAX_LEVEL && last <= row_length(level, crate::MAX_SIZE + 1);
        (fits && (1..=TILE_WIDTH).contains(&width)).then_some(Self { level, index, width })
    }

    /// The tile at this place, as wide as a tree of `size` leaves makes it; `None` if it would be empty.
    #[must_use]
    pub fn for_size(level: u8, index: u64, size: u64) -> Option<Self> {
        Self::new(level, index, width_in_row(index, row_length(level, size))?)
    }

    /// All tiles of a tree of `size` leaves, level by level from the leaves, from the left.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        (0..=MAX_LEVEL).flat_map(move |level| {
            let count = row_length(level, size).div_ceil(u64::from(TILE_WIDTH));
            (0..count).filter_map(move |index| Self::for_size(level, index, size))
        })
    }

    /// The level: 0 for leaf hashes.
    #[must_use]
    pub const fn level(self) -> u8 {
        self.level
    }

    /// The number within the level, from the left.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.index
    }

    /// The number of hashes, 1 to 256.
    #[must_use]
    pub const fn width(self) -> u16 {
        self.width
    }

    /// Whether the tile has all its hashes and can never change.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The full tile at the same place.
    #[must_use]
    pub const fn full(self) -> Self {
        Self { width: TILE_WIDTH, ..self }
    }

    /// The number of leaves up to the end of the tile.
    #[must_use]
    pub const fn end(self) -> u64 {
        (self.index * TILE_WIDTH as u64 + self.width as u64) << (self.level as u32 * TILE_HEIGHT)
    }
}

impl BundleId {
    /// The bundle, if the width is 1 to 256 and the entries at most [`crate::MAX_SIZE`] + 1.
    #[must_use]
    pub fn new(index: u64, width: u16) -> Option<Self> {
        TileId::new(0, index, width).map(Self::beside)
    }

    /// The bundle at this place, as wide as a log of `size` entries makes it; `None` if it would be empty.
    #[must_use]
    pub fn for_size(index: u64, size: u64) -> Option<Self> {
        TileId::for_size(0, index, size).map(Self::beside)
    }

    /// The number of the bundle.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.index
    }

    /// The number of entries, 1 to 256.
    #[must_use]
    pub const fn width(self) -> u16 {
        self.width
    }

    /// The full bundle at the same place.
    #[must_use]
    pub const fn full(self) -> Self {
        Self { width: TILE_WIDTH, ..self }
    }

    /// The index of its first entry in the log.
    #[must_use]
    pub const fn first_entry(self) -> u64 {
        self.index * TILE_WIDTH as u64
    }

    const fn beside(tile: TileId) -> Self {
        Self { index: tile.index, width: tile.width }
    }
}

impl fmt::Display for TileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tile/{}/", self.level)?;
        write_place(f, self.index, self.width)
    }
}

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tile/entries/")?;
        write_place(f, self.index, self.width)
    }
}

impl FromStr for TileId {
    type Err = PathError;

    fn from_str(path: &str) -> Result<Self, PathError> {
        let (level, place) = path.strip_prefix("tile/").and_then(|rest| rest.split_once('/')).ok_or(PathError)?;
        let (index, width) = read_place(place)?;
        let tile = Self::new(level.parse().map_err(|_| PathError)?, index, width).ok_or(PathError)?;
        canonical(tile, path)
    }
}

impl FromStr for BundleId {
    type Err = PathError;

    fn from_str(path: &str) -> Result<Self, PathError> {
        let (index, width) = read_place(path.strip_prefix("tile/entries/").ok_or(PathError)?)?;
        canonical(Self::new(index, width).ok_or(PathError)?, path)
    }
}

/// Signs, leading zeros and superfluous groups are refused by comparing with what we would have written.
fn canonical<T: fmt::Display>(value: T, path: &str) -> Result<T, PathError> {
    if value.to_string() == path { Ok(value) } else { Err(PathError) }
}

/// Groups of three digits, all but the last marked by `x`, then the width if the tile is partial.
fn write_place(f: &mut fmt::Formatter<'_>, index: u64, width: u16) -> fmt::Result {
    let mut unit = 1_u64;
    while index / unit >= 1000 {
        unit *= 1000;
    }
    while unit > 1 {
        write!(f, "x{:03}/", index / unit % 1000)?;
        unit /= 1000;
    }
    write!(f, "{:03}", index % 1000)?;
    if width == TILE_WIDTH { Ok(()) } else { write!(f, ".p/{width}") }
}

fn read_place(place: &str) -> Result<(u64, u16), PathError> {
    let (number, width) = match place.split_once(".p/") {
        Some((number, width)) => (number, width.parse().map_err(|_| PathError)?),
        None => (place, TILE_WIDTH),
    };
    let mut index = 0_u64;
    for group in number.split('/') {
        let digits: u64 = group.trim_start_matches('x').parse().map_err(|_| PathError)?;
        index = index.checked_mul(1000).and_then(|index| index.checked_add(digits)).ok_or(PathError)?;
    }
    Ok((index, width))
}

/// The bytes of a tile: its hashes one after the other.
#[must_use]
pub fn encode_tile(hashes: &[Hash]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(hashes.len() * Hash::LEN);
    hashes.iter().for_each(|hash| bytes.extend_from_slice(hash.as_bytes()));
    bytes
}

/// The hashes in a tile's bytes; `None` unless there are exactly `width` of them.
#[must_use]
pub fn decode_tile(bytes: &[u8], width: u16) -> Option<Vec<Hash>> {
    let (hashes, rest) = bytes.as_chunks::<{ Hash::LEN }>();
    (hashes.len() == usize::from(width) && rest.is_empty()).then(|| hashes.iter().copied().map(Hash::from_bytes).collect())
}

/// Appends an entry to the bytes of a bundle: its length as a big-endian 16-bit number, then itself.
pub fn encode_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), EntryTooLong> {
    let length = u16::try_from(entry.len()).map_err(|_| EntryTooLong { length: entry.len() })?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// The first `width` entries of a bundle; `None` if it ends before, or if `whole` and bytes are left over.
#[must_use]
pub fn decode_bundle(bytes: &[u8], width: u16, whole: bool) -> Option<Vec<&[u8]>> {
    let mut rest = bytes;
    let mut entries = Vec::with_capacity(usize::from(width.min(TILE_WIDTH)));
    for _ in 0..width {
        let (length, after) = rest.split_first_chunk()?;
        let (entry, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        rest = after;
    }
    (!whole || rest.is_empty()).then_some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let path = |level, index, width| TileId::new(level, index, width).unwrap().to_string();
        assert_eq!(path(0, 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(path(3, 0, 256), "tile/3/000");
        assert_eq!(path(0, 273, 112), "tile/0/273.p/112");
        assert_eq!(BundleId::new(1_234_067, 5).unwrap().to_string(), "tile/entries/x001/x234/067.p/5");
    }

    #[test]
    fn a_tree_of_seventy_thousand_leaves_has_the_tiles_of_the_specification() {
        let tiles: Vec<_> = TileId::all(70_000).collect();
        assert_eq!(tiles.iter().filter(|tile| tile.level() == 0 && tile.is_full()).count(), 273);
        let partial: Vec<_> = tiles.iter().filter(|tile| !tile.is_full()).map(ToString::to_string).collect();
        assert_eq!(partial, ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]);
        assert_eq!(tiles.len(), 273 + 1 + 1 + 1 + 1);
        assert_eq!(TileId::all(0).count(), 0);
    }

    #[test]
    fn paths_that_are_not_canonical_are_refused() {
        for path in [
            "",
            "tile",
            "tile/0/",
            "tile/0/1",
            "tile/0/0001",
            "tile/00/001",
            "tile/+0/001",
            "tile/8/000",
            "tile/0/x001",
            "tile/0/001/002",
            "tile/0/x000/001",
            "tile/0/001.p/0",
            "tile/0/001.p/256",
            "tile/0/001.p/01",
            "tile/0/001.p/",
            "tile/0/001/",
            "tile/0/xx001/002",
            "tile/0/-01",
            "/tile/0/001",
            "tile/0/../001",
            "tile/7/001",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
            "tile/entries/001",
        ] {
            assert_eq!(path.parse::<TileId>(), Err(PathError), "{path}");
        }
        assert_eq!("tile/0/001".parse::<BundleId>(), Err(PathError));
        assert_eq!("tile/entries/1".parse::<BundleId>(), Err(PathError));
    }

    #[test]
    fn an_entry_has_at_most_sixteen_bits_of_length() {
        let mut bundle = vec![];
        assert_eq!(encode_entry(&mut bundle, &[0; MAX_ENTRY]), Ok(()));
        assert_eq!(bundle.len(), MAX_ENTRY + 2);
        assert_eq!(encode_entry(&mut bundle, &[0; MAX_ENTRY + 1]), Err(EntryTooLong { length: MAX_ENTRY + 1 }));
        assert_eq!(bundle.len(), MAX_ENTRY + 2);
    }

    proptest! {
        #[test]
        fn paths_go_round(level in 0..=MAX_LEVEL, index in any::<u64>(), shift in 0_u32..64, width in 1..=TILE_WIDTH) {
            if let Some(tile) = TileId::new(level, index >> shift, width) {
                prop_assert_eq!(tile.to_string().parse(), Ok(tile));
            }
            if let Some(bundle) = BundleId::new(index >> shift, width) {
                prop_assert_eq!(bundle.to_string().parse(), Ok(bundle));
            }
        }

        #[test]
        fn what_is_read_as_a_path_is_written_the_same(path in "tile/[0-9]{1,2}/(x[0-9]{3}/){0,3}[0-9]{3}(\\.p/[0-9]{1,3})?") {
            if let Ok(tile) = path.parse::<TileId>() {
                prop_assert_eq!(tile.to_string(), path);
            }
        }

        #[test]
        fn bundles_go_round_and_a_cut_or_longer_one_is_refused(
            entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..30),
        ) {
            let mut bundle = vec![];
            for entry in &entries {
                encode_entry(&mut bundle, entry).unwrap();
            }
            let width = entries.len() as u16;
            let borrowed: Vec<_> = entries.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(decode_bundle(&bundle, width, true), Some(borrowed.clone()));
            prop_assert_eq!(decode_bundle(&bundle[..bundle.len() - 1], width, true), None);
            prop_assert_eq!(decode_bundle(&bundle, width - 1, true), None);
            prop_assert_eq!(decode_bundle(&bundle, width - 1, false), Some(borrowed[..entries.len() - 1].to_vec()));
        }
    }
}
