//! What this room writes is read by code that nobody here wrote, and the other way round: `tlog_tiles` and `signed_note`.

use std::fs;
use std::path::{Path, PathBuf};

use bailiwick_ledger::export::{self, Directory, Exporter};
use bailiwick_ledger::note::{KeyKind, Note};
use bailiwick_ledger::{
    Checkpoint, Frontier, Origin, SigningKey, TileId, VerifierKey, consistency_proof, inclusion_proof, leaf_hash, verify_consistency,
    verify_inclusion,
};
use proptest::prelude::*;
use signed_note::{StandardSigner, StandardVerifier, VerifierList};
use tlog_tiles::{Error, Hash, Tile, TileHashReader, TileReader};

const SIZE: u64 = 70_000;

fn origin() -> Origin {
    "example.com/bailiwick/2027".parse().unwrap()
}

fn key() -> SigningKey {
    SigningKey::from_seed(origin().key_name().clone(), &[42; 32]).unwrap()
}

fn entry(index: u64) -> Vec<u8> {
    format!("{{\"entry\":{index}}}").into_bytes()
}

fn publish(path: &Path, size: u64) -> Checkpoint {
    export::write(path, &origin(), &key(), (0..size).map(entry)).unwrap()
}

/// The oracle's reader over our files. Its own paths are those of Go's checksum database, which have the height in them.
struct Files(PathBuf);

impl TileReader for Files {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, Error> {
        let path = |tile: &Tile| self.0.join(tile.path().replacen("tile/8/", "tile/", 1));
        tiles.iter().map(|tile| fs::read(path(tile)).map_err(|_| Error::InvalidTile)).collect()
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

fn theirs(hash: &bailiwick_ledger::Hash) -> Hash {
    Hash(*hash.as_bytes())
}

fn all_theirs(proof: &[bailiwick_ledger::Hash]) -> Vec<Hash> {
    proof.iter().map(theirs).collect()
}

fn all_ours(proof: &[Hash]) -> Vec<bailiwick_ledger::Hash> {
    proof.iter().map(|hash| bailiwick_ledger::Hash::from_bytes(hash.0)).collect()
}

#[test]
fn the_oracle_proves_entries_and_growth_from_our_files_as_we_do_and_accepts_our_proofs() {
    let directory = tempfile::tempdir().unwrap();
    let head = publish(directory.path(), SIZE);
    let files = Files(directory.path().to_owned());
    let (reader, ours) = (TileHashReader::new(SIZE, theirs(&head.root), &files), Directory::new(directory.path()));
    for index in [0, 1, 255, 256, 257, 40_000, 65_535, 65_536, 69_887, 69_888, 69_999] {
        let proof = inclusion_proof(&ours, index, SIZE).unwrap();
        let oracle = tlog_tiles::prove_record(SIZE, index, &reader).unwrap();
        assert_eq!(proof, all_ours(&oracle), "entry {index}");
        let leaf = tlog_tiles::record_hash(&entry(index));
        assert!(tlog_tiles::check_record(&all_theirs(&proof), SIZE, theirs(&head.root), index, leaf).is_ok());
        let leaf = bailiwick_ledger::Hash::from_bytes(leaf.0);
        assert_eq!(verify_inclusion(&leaf, index, SIZE, &head.root, &all_ours(&oracle)), Ok(()));
    }
    for old in [1, 2, 255, 256, 257, 4096, 65_535, 65_536, 65_537, 69_999, SIZE] {
        let mut frontier = Frontier::new();
        (0..old).for_each(|at| _ = frontier.push(leaf_hash(&entry(at))));
        let old_root = frontier.root();
        let proof = consistency_proof(&ours, old, SIZE).unwrap();
        let oracle = tlog_tiles::prove_tree(SIZE, old, &reader).unwrap();
        assert_eq!(proof, all_ours(&oracle), "old size {old}");
        let accepted = tlog_tiles::check_tree(&all_theirs(&proof), SIZE, theirs(&head.root), old, theirs(&old_root));
        assert!(accepted.is_ok());
        assert_eq!(verify_consistency(old, &old_root, SIZE, &head.root, &all_ours(&oracle)), Ok(()));
    }
}

#[test]
fn the_oracle_refuses_our_files_after_one_flipped_bit() {
    let directory = tempfile::tempdir().unwrap();
    let head = publish(directory.path(), 1000);
    let path = directory.path().join("tile/0/002");
    let mut bytes = fs::read(&path).unwrap();
    bytes[77] ^= 4;
    fs::write(path, bytes).unwrap();
    let files = Files(directory.path().to_owned());
    let reader = TileHashReader::new(1000, theirs(&head.root), &files);
    // Its reader alone does not check every tile (only those after the first as many as the size has one-bits); the proof does.
    let proves = |index| {
        let leaf = tlog_tiles::record_hash(&entry(index));
        tlog_tiles::prove_record(1000, index, &reader)
            .and_then(|proof| tlog_tiles::check_record(&proof, 1000, theirs(&head.root), index, leaf))
            .is_ok()
    };
    assert!(!proves(600));
    assert!(proves(10));
}

#[test]
fn the_oracle_opens_our_checkpoint_and_we_open_one_that_it_signed() {
    let directory = tempfile::tempdir().unwrap();
    let head = publish(directory.path(), 300);
    let text = Directory::new(directory.path()).checkpoint().unwrap();
    let vkey = key().verifier().to_string();
    let known = VerifierList::new(vec![Box::new(StandardVerifier::new(&vkey).unwrap())]);
    let note = signed_note::Note::from_bytes(text.as_bytes()).unwrap();
    assert_eq!(note.verify(&known).unwrap().0.len(), 1);
    let theirs = tlog_tiles::Checkpoint::from_bytes(note.text()).unwrap();
    assert_eq!((theirs.origin(), theirs.size(), theirs.hash().0), (origin().as_str(), 300, *head.root.as_bytes()));

    let signer = StandardSigner::new("PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz");
    let mut note = signed_note::Note::new(&theirs.to_bytes(), &[]).unwrap();
    note.add_sigs(&[&signer.unwrap()]).unwrap();
    let log: VerifierKey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".parse().unwrap();
    let opened = Checkpoint::open(&String::from_utf8(note.to_bytes()).unwrap(), &origin(), &log, &[]).unwrap();
    assert_eq!(opened.checkpoint, head);
}

#[test]
fn a_log_published_step_by_step_is_one_log_to_the_oracle() {
    let directory = tempfile::tempdir().unwrap();
    let mut heads = vec![publish(directory.path(), 1)];
    for size in [2, 255, 256, 300, 1024, 3000] {
        let mut exporter = Exporter::resume(directory.path(), &origin(), key().verifier()).unwrap();
        (exporter.size()..size).for_each(|at| exporter.push(&entry(at)).unwrap());
        let head = Checkpoint { origin: origin(), size, root: exporter.root() };
        exporter.finish(&head.sign(&key()).unwrap().to_string()).unwrap();
        heads.push(head);
    }
    let newest = heads.last().unwrap();
    let files = Files(directory.path().to_owned());
    let reader = TileHashReader::new(newest.size, theirs(&newest.root), &files);
    for old in &heads {
        let proof = tlog_tiles::prove_tree(newest.size, old.size, &reader).unwrap();
        let (top, old_top) = (theirs(&newest.root), theirs(&old.root));
        assert!(tlog_tiles::check_tree(&proof, newest.size, top, old.size, old_top).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_oracle_and_we_have_the_same_names_for_tiles(level in 0_u8..8, index in 0_u64..1 << 40, width in 1_u16..=256) {
        if let Some(tile) = TileId::new(level, index, width) {
            let oracle = Tile::new(8, level, index, width.into(), false).path();
            prop_assert_eq!(tile.to_string(), oracle.replacen("tile/8/", "tile/", 1));
        }
    }

    #[test]
    fn the_oracle_and_we_agree_on_every_note_and_key(
        text in "[ -~é\n]{0,40}\n", name in "[!-*,-~]{1,8}", seed in any::<[u8; 32]>(), cut in any::<usize>(), bit in 0_u8..8,
    ) {
        let key = SigningKey::from_seed(name.parse().unwrap(), &seed).unwrap();
        let text = bailiwick_ledger::note::NoteText::try_from(text).unwrap();
        let note = Note::new(text.clone(), key.sign(&text)).to_string();
        prop_assert_eq!(key.verifier().kind(), KeyKind::Note);
        let vkey = key.verifier().to_string();
        prop_assert_eq!(&vkey.parse::<VerifierKey>().unwrap(), key.verifier());
        let accepts = |note: &str| {
            let known = VerifierList::new(vec![Box::new(StandardVerifier::new(&vkey).unwrap())]);
            signed_note::Note::from_bytes(note.as_bytes()).is_ok_and(|note| note.verify(&known).is_ok())
        };
        let we_accept =
            |note: &str| Note::parse(note).is_ok_and(|note| note.verify(&[key.verifier().clone()]).is_ok());
        prop_assert!(accepts(&note) && we_accept(&note), "{}", note);
        let mut bytes = note.clone().into_bytes();
        let at = cut % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert_eq!(accepts(&changed), we_accept(&changed), "{}", changed);
            prop_assert!(!we_accept(&changed));
        }
    }
}
