//! Roots and proofs over tiles, and their verification (RFC 9162 section 2.1).

use std::collections::BTreeMap;

use crate::MAX_SIZE;
use crate::hash::{Hash, empty_root, fold_perfect, node_hash};
use crate::tile::TileId;

/// What can give the hashes of a tile: a directory, a table, a slice of leaf hashes.
pub trait TileReader {
    /// Why a tile could not be read.
    type Error;

    /// Exactly `tile.width()` hashes. A reader that has a wider tile at the same place gives its first ones.
    fn read_tile(&self, tile: TileId) -> Result<Vec<Hash>, Self::Error>;
}

/// Why a root or a proof could not be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError<E> {
    /// The question makes no sense: an index outside the tree, an old size beyond the new one, a size beyond [`MAX_SIZE`].
    #[error("index or size {asked} is beyond size {size}")]
    Range {
        /// The index or size asked for.
        asked: u64,
        /// The size of the tree.
        size: u64,
    },
    /// The reader gave another number of hashes than the tile has.
    #[error("`{0}` has another width")]
    Width(TileId),
    /// The reader failed.
    #[error("{0}")]
    Reader(E),
}

/// Why a proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// An index outside the tree, or an old size beyond the new one.
    #[error("index or size out of range")]
    Range,
    /// More or fewer hashes than this index and these sizes need.
    #[error("the proof has a wrong number of hashes")]
    Length,
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// The root of the first `size` leaves.
pub fn root<R: TileReader + ?Sized>(reader: &R, size: u64) -> Result<Hash, TreeError<R::Error>> {
    in_range(size, MAX_SIZE)?;
    if size == 0 { Ok(empty_root()) } else { Nodes::new(reader, size).range(0, size) }
}

/// The inclusion proof of leaf `index` in the tree of the first `size` leaves, from the leaf's sibling upwards
/// (RFC 9162 section 2.1.3.1).
pub fn inclusion_proof<R: TileReader + ?Sized>(reader: &R, index: u64, size: u64) -> Result<Vec<Hash>, TreeError<R::Error>> {
    in_range(size, MAX_SIZE)?;
    in_range(index, size.checked_sub(1).ok_or(TreeError::Range { asked: index, size })?)?;
    let mut nodes = Nodes::new(reader, size);
    let (mut low, mut high, mut proof) = (0, size, vec![]);
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            proof.push(nodes.range(middle, high)?);
            high = middle;
        } else {
            proof.push(nodes.range(low, middle)?);
            low = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of `old` leaves is the beginning of the tree of `new` leaves (RFC 9162 section 2.1.4.1). It is empty
/// for `old == 0` and `old == new`.
pub fn consistency_proof<R: TileReader + ?Sized>(reader: &R, old: u64, new: u64) -> Result<Vec<Hash>, TreeError<R::Error>> {
    in_range(new, MAX_SIZE)?;
    in_range(old, new)?;
    if old == 0 || old == new {
        return Ok(vec![]);
    }
    let mut nodes = Nodes::new(reader, new);
    let (mut low, mut high, mut proof) = (0, new, vec![]);
    while old != high {
        let middle = low + split(high - low);
        if old <= middle {
            proof.push(nodes.range(middle, high)?);
            high = middle;
        } else {
            proof.push(nodes.range(low, middle)?);
            low = middle;
        }
    }
    // The verifier has the old root already; it is only a node of its own once the way has turned right.
    if low > 0 {
        proof.push(nodes.range(low, high)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that `leaf` is number `index` of the `size` leaves under `root` (RFC 9162 section 2.1.3.2).
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, root: &Hash, proof: &[Hash]) -> Result<(), VerifyError> {
    if index >= size {
        return Err(VerifyError::Range);
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return Err(VerifyError::Length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    match (last == 0, hash == *root) {
        (false, _) => Err(VerifyError::Length),
        (true, false) => Err(VerifyError::Root),
        (true, true) => Ok(()),
    }
}

/// Checks that the tree of `old` leaves under `old_root` is the beginning of the one of `new` leaves under `new_root`
/// (RFC 9162 section 2.1.4.2). The empty tree is the beginning of every tree, by an empty proof.
pub fn verify_consistency(old: u64, old_root: &Hash, new: u64, new_root: &Hash, proof: &[Hash]) -> Result<(), VerifyError> {
    if old > new {
        return Err(VerifyError::Range);
    }
    if old == 0 || old == new {
        let expected = if old == 0 { &empty_root() } else { new_root };
        let known = new > 0 || *new_root == empty_root();
        return match (proof.is_empty(), old_root == expected && known) {
            (false, _) => Err(VerifyError::Length),
            (true, false) => Err(VerifyError::Root),
            (true, true) => Ok(()),
        };
    }
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let mut hashes = proof.iter();
    // A power of two: the old root is itself the first node, and the proof leaves it out.
    let first = if old.is_power_of_two() { old_root } else { hashes.next().ok_or(VerifyError::Length)? };
    let (mut from_old, mut from_new) = (*first, *first);
    for sibling in hashes {
        if last == 0 {
            return Err(VerifyError::Length);
        }
        if node & 1 == 1 || node == last {
            from_old = node_hash(sibling, &from_old);
            from_new = node_hash(sibling, &from_new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node_hash(&from_new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    match (last == 0, from_old == *old_root && from_new == *new_root) {
        (false, _) => Err(VerifyError::Length),
        (true, false) => Err(VerifyError::Root),
        (true, true) => Ok(()),
    }
}

/// A tree whose leaf hashes are all in memory, read as tiles: for tests and for short logs.
#[derive(Clone, Copy, Debug)]
pub struct Leaves<'a>(pub &'a [Hash]);

/// A tile beyond the leaves that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such tile")]
pub struct NoSuchTile;

impl TileReader for Leaves<'_> {
    type Error = NoSuchTile;

    fn read_tile(&self, tile: TileId) -> Result<Vec<Hash>, NoSuchTile> {
        let span = 1_usize.checked_shl(8 * u32::from(tile.level())).ok_or(NoSuchTile)?;
        let first = usize::try_from(tile.index()).ok().and_then(|index| index.checked_mul(256)).ok_or(NoSuchTile)?;
        let mut scratch = vec![];
        (first..)
            .take(usize::from(tile.width()))
            .map(|at| {
                let low = at.checked_mul(span)?;
                fold_perfect(self.0.get(low..low.checked_add(span)?)?, &mut scratch)
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(NoSuchTile)
    }
}

fn in_range<E>(asked: u64, size: u64) -> Result<(), TreeError<E>> {
    if asked <= size { Ok(()) } else { Err(TreeError::Range { asked, size }) }
}

/// The largest power of two smaller than `length`, which is at least 2.
const fn split(length: u64) -> u64 {
    1 << (length - 1).ilog2()
}

/// The nodes of a tree of one size; every tile is read once.
struct Nodes<'a, R: TileReader + ?Sized> {
    reader: &'a R,
    size: u64,
    tiles: BTreeMap<TileId, Vec<Hash>>,
    scratch: Vec<Hash>,
}

impl<'a, R: TileReader + ?Sized> Nodes<'a, R> {
    const fn new(reader: &'a R, size: u64) -> Self {
        Self { reader, size, tiles: BTreeMap::new(), scratch: vec![] }
    }

    /// The hash of the leaves `low..high`, where `low` is a multiple of a power of two not less than `high - low`.
    fn range(&mut self, low: u64, high: u64) -> Result<Hash, TreeError<R::Error>> {
        let (mut at, mut peaks) = (low, vec![]);
        while at < high {
            let height = (high - at).ilog2();
            peaks.push(self.perfect(height, at >> height)?);
            at += 1 << height;
        }
        let root = peaks.into_iter().rev().reduce(|right, left| node_hash(&left, &right));
        root.ok_or(TreeError::Range { asked: low, size: self.size })
    }

    /// Number `index`, from the left, of the perfect subtrees of `2^height` leaves.
    fn perfect(&mut self, height: u32, index: u64) -> Result<Hash, TreeError<R::Error>> {
        let beyond = TreeError::Range { asked: index, size: self.size };
        let (level, inner) = (height / 8, height % 8);
        let first = index << inner;
        let Some(tile) = u8::try_from(level).ok().and_then(|level| TileId::for_size(level, first >> 8, self.size)) else {
            return Err(beyond);
        };
        let hashes = match self.tiles.entry(tile) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let hashes = self.reader.read_tile(tile).map_err(TreeError::Reader)?;
                if hashes.len() != usize::from(tile.width()) {
                    return Err(TreeError::Width(tile));
                }
                place.insert(hashes)
            }
        };
        let offset = (first & 0xff) as usize;
        let run = hashes.get(offset..offset + (1 << inner));
        run.and_then(|run| fold_perfect(run, &mut self.scratch)).ok_or(beyond)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hash::leaf_hash;

    /// RFC 6962 section 2.1, word for word.
    pub(crate) fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            more => {
                let (left, right) = more.split_at(split(more.len() as u64) as usize);
                node_hash(&mth(left), &mth(right))
            }
        }
    }

    /// RFC 6962 section 2.1.1, word for word.
    fn path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() <= 1 {
            return vec![];
        }
        let k = split(leaves.len() as u64) as usize;
        let (mut proof, sibling) = if m < k { (path(m, &leaves[..k]), mth(&leaves[k..])) } else { (path(m - k, &leaves[k..]), mth(&leaves[..k])) };
        proof.push(sibling);
        proof
    }

    /// RFC 6962 section 2.1.2, word for word.
    fn subproof(m: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
        if m == leaves.len() {
            return if whole { vec![] } else { vec![mth(leaves)] };
        }
        let k = split(leaves.len() as u64) as usize;
        let (mut proof, sibling) =
            if m <= k { (subproof(m, &leaves[..k], whole), mth(&leaves[k..])) } else { (subproof(m - k, &leaves[k..], false), mth(&leaves[..k])) };
        proof.push(sibling);
        proof
    }

    pub(crate) fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|at| leaf_hash(&at.to_be_bytes())).collect()
    }

    fn flip(hash: Hash, bit: usize) -> Hash {
        let mut bytes = *hash.as_bytes();
        bytes[bit / 8 % 32] ^= 1 << (bit % 8);
        Hash::from_bytes(bytes)
    }

    #[test]
    fn every_proof_of_every_small_tree_is_the_one_of_the_standard_and_verifies() {
        let all = leaves(40);
        for size in 1..=all.len() {
            let (tree, top) = (&all[..size], mth(&all[..size]));
            for index in 0..size {
                let proof = inclusion_proof(&Leaves(&all), index as u64, size as u64).unwrap();
                assert_eq!(proof, path(index, tree));
                assert_eq!(verify_inclusion(&tree[index], index as u64, size as u64, &top, &proof), Ok(()));
            }
            for old in 1..=size {
                let proof = consistency_proof(&Leaves(&all), old as u64, size as u64).unwrap();
                assert_eq!(proof, subproof(old, tree, true));
                assert_eq!(verify_consistency(old as u64, &mth(&all[..old]), size as u64, &top, &proof), Ok(()));
            }
        }
    }

    #[test]
    fn questions_outside_the_tree_are_refused() {
        let all = leaves(5);
        let reader = Leaves(&all);
        assert_eq!(inclusion_proof(&reader, 5, 5), Err(TreeError::Range { asked: 5, size: 4 }));
        assert_eq!(inclusion_proof(&reader, 0, 0), Err(TreeError::Range { asked: 0, size: 0 }));
        assert_eq!(consistency_proof(&reader, 6, 5), Err(TreeError::Range { asked: 6, size: 5 }));
        assert_eq!(root(&reader, u64::MAX), Err(TreeError::Range { asked: u64::MAX, size: MAX_SIZE }));
        assert_eq!(root(&reader, 6), Err(TreeError::Reader(NoSuchTile)));
        assert_eq!(verify_inclusion(&all[0], 1, 1, &all[0], &[]), Err(VerifyError::Range));
        assert_eq!(verify_consistency(2, &all[0], 1, &all[0], &[]), Err(VerifyError::Range));
    }

    #[test]
    fn the_empty_tree_begins_every_tree_and_only_by_an_empty_proof() {
        let all = leaves(3);
        let top = mth(&all);
        assert_eq!(consistency_proof(&Leaves(&all), 0, 3), Ok(vec![]));
        assert_eq!(verify_consistency(0, &empty_root(), 3, &top, &[]), Ok(()));
        assert_eq!(verify_consistency(0, &top, 3, &top, &[]), Err(VerifyError::Root));
        assert_eq!(verify_consistency(0, &empty_root(), 3, &top, &[top]), Err(VerifyError::Length));
        assert_eq!(verify_consistency(0, &empty_root(), 0, &top, &[]), Err(VerifyError::Root));
        assert_eq!(verify_consistency(3, &top, 3, &top, &[]), Ok(()));
        assert_eq!(verify_consistency(3, &top, 3, &all[0], &[]), Err(VerifyError::Root));
    }

    #[test]
    fn a_reader_that_gives_a_wrong_width_is_refused() {
        struct Short;
        impl TileReader for Short {
            type Error = NoSuchTile;
            fn read_tile(&self, _: TileId) -> Result<Vec<Hash>, NoSuchTile> {
                Ok(leaves(1))
            }
        }
        assert_eq!(root(&Short, 2), Err(TreeError::Width(TileId::new(0, 0, 2).unwrap())));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn proofs_of_large_trees_verify_and_no_change_of_them_does(
            size in 2_u64..70_000, at in any::<u64>(), before in any::<u64>(), bit in 0_usize..256, which in any::<usize>(),
        ) {
            let all = leaves(size);
            let reader = Leaves(&all);
            let (index, old) = (at % size, 1 + before % (size - 1));
            let top = root(&reader, size).unwrap();
            prop_assert_eq!(top, mth(&all));
            let old_top = root(&reader, old).unwrap();
            let leaf = all[index as usize];

            let proof = inclusion_proof(&reader, index, size).unwrap();
            prop_assert_eq!(verify_inclusion(&leaf, index, size, &top, &proof), Ok(()));
            prop_assert!(verify_inclusion(&flip(leaf, bit), index, size, &top, &proof).is_err());
            prop_assert!(verify_inclusion(&leaf, index, size, &flip(top, bit), &proof).is_err());
            prop_assert!(verify_inclusion(&leaf, index ^ 1, size, &top, &proof).is_err());
            for bad in spoiled(&proof, bit, which) {
                prop_assert!(verify_inclusion(&leaf, index, size, &top, &bad).is_err());
            }

            let proof = consistency_proof(&reader, old, size).unwrap();
            prop_assert_eq!(verify_consistency(old, &old_top, size, &top, &proof), Ok(()));
            prop_assert!(verify_consistency(old, &flip(old_top, bit), size, &top, &proof).is_err());
            prop_assert!(verify_consistency(old, &old_top, size, &flip(top, bit), &proof).is_err());
            for bad in spoiled(&proof, bit, which) {
                prop_assert!(verify_consistency(old, &old_top, size, &top, &bad).is_err());
            }
        }

        #[test]
        fn no_numbers_and_hashes_of_a_stranger_make_verification_fail_in_another_way_than_by_an_error(
            a in any::<u64>(), b in any::<u64>(), count in 0_u64..70,
        ) {
            let proof = leaves(count);
            let (one, two) = (leaf_hash(b"1"), leaf_hash(b"2"));
            prop_assert!(verify_inclusion(&one, a, b, &two, &proof).is_err());
            prop_assert!(verify_consistency(a, &one, b, &two, &proof).is_err());
        }
    }

    /// A flipped bit, a dropped tail, an added hash, a swapped pair.
    fn spoiled(proof: &[Hash], bit: usize, which: usize) -> Vec<Vec<Hash>> {
        let mut all = vec![[proof, &[leaf_hash(b"more")]].concat()];
        if let Some((_, shorter)) = proof.split_last() {
            all.push(shorter.to_vec());
            let mut flipped = proof.to_vec();
            let at = which % proof.len();
            flipped[at] = flip(flipped[at], bit);
            all.push(flipped);
        }
        if proof.len() > 1 {
            let mut swapped = proof.to_vec();
            swapped.swap(which % (proof.len() - 1), which % (proof.len() - 1) + 1);
            all.push(swapped);
        }
        all
    }
}
