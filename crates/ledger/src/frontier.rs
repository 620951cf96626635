//! The right edge of a growing tree: all that is needed to append a leaf and to know the root.

use std::fmt;

use crate::MAX_SIZE;
use crate::hash::{Hash, HashError, empty_root, leaf_hash, node_hash};
use crate::tile::{EntryTooLong, MAX_ENTRY};

const VERSION: u8 = 1;
const HEAD: usize = 9;

/// A compact range from leaf 0: one hash for each perfect subtree, that is, for each one-bit of the size. A plain value of two
/// kibibytes without heap memory; [`Frontier::push`] allocates nothing and hashes two nodes at most on average.
#[derive(Clone)]
pub struct Frontier {
    size: u64,
    /// `peaks[h]` is the root of the perfect subtree of `2^h` leaves. INVARIANT: it counts only where bit `h` of `size` is set.
    peaks: [Hash; 64],
}

/// Why bytes are not a [`Frontier`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrontierError {
    /// Written by a version that this one does not know.
    #[error("unknown frontier version")]
    Version,
    /// Not as long as its size says.
    #[error("a frontier's length does not fit its size")]
    Length,
    /// More leaves than [`MAX_SIZE`].
    #[error("a frontier's size is out of range")]
    Size,
}

impl From<HashError> for FrontierError {
    fn from(_: HashError) -> Self {
        Self::Length
    }
}

impl Frontier {
    /// The tree without leaves.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, peaks: [Hash::from_bytes([0; 32]); 64] }
    }

    /// Appends a leaf hash and gives its index.
    pub fn push(&mut self, leaf: Hash) -> u64 {
        let index = self.size;
        let mut hash = leaf;
        for (height, peak) in self.peaks.iter_mut().enumerate() {
            if index >> height & 1 == 0 {
                *peak = hash;
                break;
            }
            hash = node_hash(peak, &hash);
        }
        // 2^63 pushes after the largest size that can be read cannot be lived to see.
        self.size = index.wrapping_add(1);
        index
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The Merkle tree hash of all leaves so far (RFC 9162 section 2.1.1). Costs one node hash for each one-bit of the size.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut root = None;
        for peak in self.rising() {
            root = Some(root.map_or(*peak, |right| node_hash(peak, &right)));
        }
        root.unwrap_or_else(empty_root)
    }

    /// Version, size (big-endian), then the peaks from the left: 9 to 2,025 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + Hash::LEN * self.size.count_ones() as usize);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.size.to_be_bytes());
        for peak in self.rising().rev() {
            bytes.extend_from_slice(peak.as_bytes());
        }
        bytes
    }

    /// Reads what [`Frontier::to_bytes`] wrote, and nothing else. The hashes themselves can only be judged against a root.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrontierError> {
        let (version, rest) = bytes.split_first().ok_or(FrontierError::Length)?;
        if *version != VERSION {
            return Err(FrontierError::Version);
        }
        let (size, rest) = rest.split_first_chunk().ok_or(FrontierError::Length)?;
        let size = u64::from_be_bytes(*size);
        if size > MAX_SIZE {
            return Err(FrontierError::Size);
        }
        if rest.len() != Hash::LEN * size.count_ones() as usize {
            return Err(FrontierError::Length);
        }
        let mut frontier = Self { size, ..Self::new() };
        let mut hashes = rest.chunks_exact(Hash::LEN);
        for (height, peak) in frontier.peaks.iter_mut().enumerate().rev() {
            if size >> height & 1 == 1 {
                *peak = hashes.next().ok_or(FrontierError::Length)?.try_into()?;
            }
        }
        Ok(frontier)
    }

    /// Sets the peaks from the left; the iterator must give as many as `size` has one-bits.
    pub(crate) fn from_peaks(size: u64, peaks: impl IntoIterator<Item = Hash>) -> Self {
        let mut frontier = Self { size, ..Self::new() };
        let mut peaks = peaks.into_iter();
        for (height, slot) in frontier.peaks.iter_mut().enumerate().rev() {
            if size >> height & 1 == 1
                && let Some(peak) = peaks.next()
            {
                *slot = peak;
            }
        }
        frontier
    }

    /// The peaks that count, the smallest subtree (the rightmost) first.
    fn rising(&self) -> impl DoubleEndedIterator<Item = &Hash> {
        let size = self.size;
        self.peaks.iter().enumerate().filter(move |(height, _)| size >> height & 1 == 1).map(|(_, peak)| peak)
    }
}

impl Default for Frontier {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Frontier {
    fn eq(&self, other: &Self) -> bool {
        self.size == other.size && self.rising().eq(other.rising())
    }
}

impl Eq for Frontier {}

impl fmt::Debug for Frontier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frontier").field("size", &self.size).field("peaks", &self.rising().collect::<Vec<_>>()).finish()
    }
}

/// Appends a batch of entries to the tree and adds their leaf hashes, in order, to `leaves`. The first entry's index is the
/// frontier's size before the call. If one entry is longer than [`MAX_ENTRY`], nothing has changed.
pub fn integrate<'a>(frontier: &mut Frontier, entries: impl IntoIterator<Item = &'a [u8]>, leaves: &mut Vec<Hash>) -> Result<(), EntryTooLong> {
    let before = leaves.len();
    for entry in entries {
        if entry.len() > MAX_ENTRY {
            leaves.truncate(before);
            return Err(EntryTooLong { length: entry.len() });
        }
        leaves.push(leaf_hash(entry));
    }
    for leaf in leaves.iter().skip(before) {
        frontier.push(*leaf);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::tests::mth;

    #[test]
    fn the_reference_tree_has_the_published_roots() {
        // Inputs and roots of the certificate-transparency reference implementation's Merkle tree test.
        let inputs: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut frontier = Frontier::new();
        for (input, root) in inputs.iter().zip(roots) {
            frontier.push(leaf_hash(input));
            assert_eq!(frontier.root().to_string(), root);
        }
    }

    #[test]
    fn a_batch_with_an_entry_that_is_too_long_changes_nothing() {
        let mut frontier = Frontier::new();
        let mut leaves = vec![];
        integrate(&mut frontier, [b"one".as_slice()], &mut leaves).unwrap();
        let (old, long) = (frontier.clone(), vec![0; MAX_ENTRY + 1]);
        let refused = integrate(&mut frontier, [b"two".as_slice(), &long], &mut leaves);
        assert_eq!(refused, Err(EntryTooLong { length: MAX_ENTRY + 1 }));
        assert_eq!((frontier, leaves.len()), (old, 1));
    }

    #[test]
    fn bytes_of_another_version_length_or_size_are_refused() {
        let mut frontier = Frontier::new();
        (0..5).for_each(|at| _ = frontier.push(leaf_hash(&[at])));
        let bytes = frontier.to_bytes();
        let mut other = bytes.clone();
        other[0] = 2;
        assert_eq!(Frontier::from_bytes(&other), Err(FrontierError::Version));
        assert_eq!(Frontier::from_bytes(&bytes[..bytes.len() - 1]), Err(FrontierError::Length));
        assert_eq!(Frontier::from_bytes(&[bytes.as_slice(), &[0]].concat()), Err(FrontierError::Length));
        assert_eq!(Frontier::from_bytes(&[]), Err(FrontierError::Length));
        let mut vast = bytes;
        vast[1] = 0x80;
        assert_eq!(Frontier::from_bytes(&vast), Err(FrontierError::Size));
    }

    proptest! {
        #[test]
        fn its_root_is_the_recursive_tree_hash_at_every_size_and_its_bytes_go_round(size in 0_u64..600) {
            let leaves: Vec<_> = (0..size).map(|at| leaf_hash(&at.to_be_bytes())).collect();
            let mut frontier = Frontier::new();
            for (at, leaf) in leaves.iter().enumerate() {
                prop_assert_eq!(frontier.push(*leaf), at as u64);
            }
            prop_assert_eq!(frontier.root(), mth(&leaves));
            prop_assert_eq!(Frontier::from_bytes(&frontier.to_bytes()), Ok(frontier.clone()));
            prop_assert!(frontier.to_bytes().len() <= 64 * 33);
        }
    }
}
