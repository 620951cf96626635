//! Publication and audit of logs on a real disk.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::note::CosigningKey;
use crate::policy::{TrustError, TrustPolicy};
use crate::tree::{self, Leaves, TileReader as _, inclusion_proof, tests::mth, verify_inclusion};

const ORIGIN: &str = "example.com/bailiwick/2027";

fn origin() -> Origin {
    ORIGIN.parse().unwrap()
}

fn key() -> SigningKey {
    SigningKey::from_seed(origin().key_name().clone(), &[7; 32]).unwrap()
}

fn entry(index: u64) -> Vec<u8> {
    let length = (index * 7 % 40) as usize;
    [index.to_be_bytes().as_slice(), &vec![b'e'; length]].concat()
}

fn published(size: u64) -> (TempDir, Checkpoint) {
    let directory = tempfile::tempdir().unwrap();
    let head = write(directory.path(), &origin(), &key(), (0..size).map(entry)).unwrap();
    (directory, head)
}

fn audit_of(directory: &TempDir) -> Result<Report, AuditError> {
    verify(directory.path(), &origin(), key().verifier())
}

fn change(directory: &TempDir, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = directory.path().join(name);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Publishes a log of which the entries before `minimum` are hashes only.
fn publish_pruned(directory: &TempDir, size: u64, minimum: u64) -> Result<(), ExportError> {
    let mut exporter = Exporter::create(directory.path())?.pruned_to(minimum);
    for index in 0..size {
        if index < minimum { exporter.push_hash(leaf_hash(&entry(index)))? } else { exporter.push(&entry(index))? }
    }
    let head = Checkpoint { origin: origin(), size, root: exporter.root() };
    exporter.finish(&head.sign(&key()).unwrap().to_string())
}

fn kept(directory: &TempDir) -> Result<(Report, Vec<u64>), AuditError> {
    let mut seen = vec![];
    let report = audit_kept(directory.path(), &origin(), key().verifier(), &[], |index, bytes| {
        assert_eq!(bytes, entry(index));
        seen.push(index);
    })?;
    Ok((report, seen))
}

#[test]
fn a_pruned_log_verifies_from_its_minimum_index_on_and_its_old_proofs_stay_good() {
    for (size, minimum) in [(1000, 0), (1000, 256), (1000, 768), (66_049, 65_536), (66_000, 65_792)] {
        let (directory, head) = published(size);
        let proof = |index| inclusion_proof(&Directory::new(directory.path()), index, size).unwrap();
        let before = proof(3);
        publish_pruned(&directory, size, minimum).unwrap();
        let (report, seen) = kept(&directory).unwrap();
        assert_eq!((report.minimum, report.entries, report.root), (minimum, size - minimum, head.root));
        assert_eq!(seen, (minimum..size).collect::<Vec<_>>());
        assert_eq!(proof(3), before, "the hash tiles are not all there");
        assert_eq!(verify_inclusion(&leaf_hash(&entry(3)), 3, size, &head.root, &before), Ok(()));
        assert_eq!(audit_of(&directory).is_ok(), minimum == 0, "who expects all entries is told that some are missing");
        let bundles = (0..minimum / 256).filter(|i| directory.path().join(BundleId::new(*i, 256).unwrap().to_string()).exists());
        assert_eq!(bundles.count(), 0);
        // It grows, and is published again.
        publish_pruned(&directory, size + 700, minimum).unwrap();
        assert_eq!(kept(&directory).unwrap().0.entries, size + 700 - minimum);
    }
}

#[test]
fn an_entry_whose_bundle_is_to_be_published_is_not_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let mut exporter = Exporter::create(directory.path()).unwrap().pruned_to(300);
    for index in 0..256 {
        exporter.push_hash(leaf_hash(&entry(index))).unwrap();
    }
    assert!(matches!(exporter.push_hash(leaf_hash(&entry(256))), Err(ExportError::OtherTree)));
}

#[test]
fn in_a_log_that_may_be_pruned_only_whole_bundles_at_its_beginning_may_be_missing() {
    let bundle = |index: u64| BundleId::new(index, 256).unwrap().to_string();
    let (directory, _) = published(1000);
    fs::remove_file(directory.path().join(bundle(1))).unwrap();
    assert!(matches!(kept(&directory), Err(AuditError::Read(_))), "a hole in the middle was taken for pruning");
    fs::remove_file(directory.path().join(bundle(0))).unwrap();
    assert_eq!(kept(&directory).unwrap().0.minimum, 512);
    change(&directory, &bundle(2), |bytes| bytes[5] ^= 1);
    assert!(matches!(kept(&directory), Err(AuditError::Entry(512))));
    let (directory, _) = published(1000);
    fs::remove_file(directory.path().join(BundleId::new(3, 232).unwrap().to_string())).unwrap();
    for index in 0..3 {
        fs::remove_file(directory.path().join(bundle(index))).unwrap();
    }
    assert!(matches!(kept(&directory), Err(AuditError::Read(_))), "the partial bundle at the end was taken for pruned");
}

#[test]
fn a_published_log_verifies_at_every_shape_of_its_right_edge() {
    for size in [0, 1, 2, 255, 256, 257, 511, 512, 1000, 65_536, 65_537, 66_049] {
        let (directory, head) = published(size);
        let leaves: Vec<_> = (0..size).map(|at| leaf_hash(&entry(at))).collect();
        assert_eq!(head.root, mth(&leaves));
        let mut seen = 0;
        let report = audit(directory.path(), &origin(), key().verifier(), &[], |index, bytes| {
            assert_eq!((index, bytes), (seen, entry(seen).as_slice()));
            seen += 1;
        });
        assert_eq!(report.unwrap(), Report { entries: size, minimum: 0, size, root: head.root, cosigned: vec![] });
        assert_eq!(seen, size);
        if size > 0 {
            let index = size * 2 / 3;
            let proof = inclusion_proof(&Directory::new(directory.path()), index, size).unwrap();
            assert_eq!(verify_inclusion(&leaves[index as usize], index, size, &head.root, &proof), Ok(()));
        }
    }
}

#[test]
fn what_is_published_are_exactly_the_files_of_the_format() {
    let (directory, _) = published(70_000);
    let there = |name: &str| directory.path().join(name).is_file();
    for name in ["checkpoint", "tile/0/000", "tile/0/272", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17"] {
        assert!(there(name), "{name}");
    }
    for name in ["tile/2/000.p/1", "tile/entries/000", "tile/entries/272", "tile/entries/273.p/112"] {
        assert!(there(name), "{name}");
    }
    for name in ["tile/0/273", "tile/1/001", "tile/2/000", "tile/0/000.tmp", "checkpoint.tmp"] {
        assert!(!there(name), "{name}");
    }
    assert_eq!(fs::metadata(directory.path().join("tile/0/000")).unwrap().len(), 8192);
}

#[test]
fn a_changed_entry_is_named() {
    let (directory, _) = published(1000);
    // Entry 256 is the first of its bundle: two bytes of length, then its index.
    change(&directory, "tile/entries/001", |bytes| bytes[9] ^= 1);
    assert!(matches!(audit_of(&directory), Err(AuditError::Entry(256))));
}

#[test]
fn a_swapped_pair_is_named() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &origin(), &key(), (0..600_u64).map(u64::to_be_bytes)).unwrap();
    change(&directory, "tile/entries/001", |bytes| {
        let (left, right) = bytes[30..50].split_at_mut(10);
        left.swap_with_slice(right);
    });
    assert!(matches!(audit_of(&directory), Err(AuditError::Entry(259))));
    let leaves: Vec<_> = (0..600_u64).map(|at| leaf_hash(&at.to_be_bytes())).collect();
    let mut tile = Leaves(&leaves).read_tile("tile/0/001".parse().unwrap()).unwrap();
    tile.swap(3, 4);
    // Even if the tile is rewritten to fit.
    fs::write(directory.path().join("tile/0/001"), encode_tile(&tile)).unwrap();
    assert!(matches!(audit_of(&directory), Err(AuditError::Tile(tile)) if tile.to_string() == "tile/0/001"));
}

#[test]
fn a_changed_tile_is_named_whether_full_or_at_the_edge() {
    for name in ["tile/0/000", "tile/0/271", "tile/1/000", "tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"] {
        let (directory, _) = published(70_000);
        change(&directory, name, |bytes| bytes[5] ^= 0x10);
        match audit_of(&directory) {
            Err(AuditError::Tile(tile)) => assert_eq!(tile.to_string(), name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_dropped_tail_is_caught_in_every_form() {
    let (directory, _) = published(1000);
    let old = fs::read_to_string(directory.path().join("checkpoint")).unwrap();
    // The last file is cut.
    change(&directory, "tile/entries/003.p/232", |bytes| bytes.truncate(bytes.len() - 1));
    assert!(matches!(audit_of(&directory), Err(AuditError::Bundle(bundle)) if bundle.index() == 3));
    // It is gone.
    fs::remove_file(directory.path().join("tile/entries/003.p/232")).unwrap();
    assert!(matches!(audit_of(&directory), Err(AuditError::Read(error)) if error.is_missing()));
    fs::remove_file(directory.path().join("tile/0/003.p/232")).unwrap();
    assert!(matches!(audit_of(&directory), Err(AuditError::Read(error)) if error.is_missing()));
    // A shorter log under the old head.
    let (shorter, _) = published(999);
    fs::write(shorter.path().join("checkpoint"), old).unwrap();
    assert!(audit_of(&shorter).is_err());
}

#[test]
fn a_forged_checkpoint_is_refused() {
    let (directory, head) = published(300);
    let publish = |note: &str| fs::write(directory.path().join("checkpoint"), note).unwrap();
    let note = head.sign(&key()).unwrap().to_string();

    publish(&note.replacen("\n300\n", "\n299\n", 1));
    assert!(matches!(audit_of(&directory), Err(AuditError::Checkpoint(CheckpointError::Note(_)))));
    let thief = SigningKey::from_seed(origin().key_name().clone(), &[8; 32]).unwrap();
    publish(&head.sign(&thief).unwrap().to_string());
    assert!(matches!(audit_of(&directory), Err(AuditError::Checkpoint(CheckpointError::Note(_)))));
    let other = Checkpoint { origin: "example.com/other".parse().unwrap(), ..head.clone() };
    publish(&other.sign(&key()).unwrap().to_string());
    assert!(matches!(audit_of(&directory), Err(AuditError::Checkpoint(CheckpointError::OtherOrigin(_)))));
    // Signed by the right key, but about another tree.
    let rewritten = Checkpoint { root: leaf_hash(b"other"), ..head.clone() };
    publish(&rewritten.sign(&key()).unwrap().to_string());
    assert!(matches!(audit_of(&directory), Err(AuditError::Root)));
    publish(&note);
    assert_eq!(audit_of(&directory).unwrap().root, head.root);
}

#[test]
fn a_log_that_grew_keeps_its_published_files_and_verifies_again() {
    let (directory, _) = published(700);
    let mut exporter = Exporter::resume(directory.path(), &origin(), key().verifier()).unwrap();
    assert_eq!(exporter.size(), 700);
    (700..70_000).for_each(|at| exporter.push(&entry(at)).unwrap());
    let head = Checkpoint { origin: origin(), size: exporter.size(), root: exporter.root() };
    exporter.finish(&head.sign(&key()).unwrap().to_string()).unwrap();
    assert_eq!(audit_of(&directory).unwrap().root, published(70_000).1.root);
    // The partial files have gone; to who still has the old head, the full ones give their beginning.
    for name in ["tile/entries/002.p", "tile/0/002.p", "tile/1/000.p"] {
        assert!(!directory.path().join(name).exists(), "{name}");
    }
    let (_, old) = published(700);
    fs::write(directory.path().join("checkpoint"), old.sign(&key()).unwrap().to_string()).unwrap();
    assert_eq!(audit_of(&directory).unwrap().size, 700);
}

#[test]
fn a_receipt_made_from_the_published_files_proves_its_entry() {
    let (directory, head) = published(1000);
    let receipt = Directory::new(directory.path()).receipt(600).unwrap();
    let opened = receipt.verify(&leaf_hash(&entry(600)), &origin(), key().verifier(), &[]).unwrap();
    assert_eq!(opened.checkpoint, head);
    assert!(receipt.verify(&leaf_hash(&entry(601)), &origin(), key().verifier(), &[]).is_err());
    assert!(Directory::new(directory.path()).receipt(1000).is_err());
}

#[test]
fn a_log_that_shrank_or_forked_is_not_published() {
    let (directory, head) = published(700);
    let refused = write(directory.path(), &origin(), &key(), (0..699).map(entry));
    assert!(matches!(refused, Err(ExportError::Shrunk { published: 700, size: 699 })));
    let forked = (0..900).map(|at| entry(if at == 5 { 6 } else { at }));
    let refused = write(directory.path(), &origin(), &key(), forked);
    assert!(matches!(refused, Err(ExportError::Changed { path }) if path == "tile/0/000"));
    let forked = (0..900).map(|at| entry(if at == 650 { 6 } else { at }));
    let refused = write(directory.path(), &origin(), &key(), forked);
    assert!(matches!(refused, Err(ExportError::Forked { size: 700 })));
    let refused = write(directory.path(), &"example.com/other".parse().unwrap(), &key(), (0..900).map(entry));
    assert!(matches!(refused, Err(ExportError::Checkpoint(CheckpointError::OtherOrigin(_)))));
    // Nothing of it has touched what was published.
    assert_eq!(audit_of(&directory).unwrap().entries, 700);
    assert_eq!(write(directory.path(), &origin(), &key(), (0..700).map(entry)).unwrap(), head);
    assert_eq!(audit_of(&directory).unwrap().entries, 700);
}

#[test]
fn a_checkpoint_of_other_entries_is_not_published() {
    let (directory, head) = published(10);
    let mut exporter = Exporter::create(directory.path()).unwrap();
    (0..11).for_each(|at| exporter.push(&entry(at)).unwrap());
    assert!(matches!(exporter.finish(&head.sign(&key()).unwrap().to_string()), Err(ExportError::OtherTree)));
    assert_eq!(audit_of(&directory).unwrap().size, 10);
}

#[test]
fn a_directory_has_one_writer() {
    let (directory, _) = published(10);
    let first = Exporter::create(directory.path()).unwrap();
    assert!(matches!(Exporter::create(directory.path()), Err(ExportError::Busy)));
    drop(first);
    assert!(Exporter::create(directory.path()).is_ok());
}

#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
    let (directory, _) = published(10);
    let path = directory.path().join("tile/entries/000.p/10");
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(matches!(audit_of(&directory), Err(AuditError::Read(ReadError::Form { .. }))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_flipped_bit_in_any_file_of_the_log_is_caught(size in 1_u64..1500, pick in any::<usize>(), at in any::<usize>(), bit in 0_u8..8) {
        let (directory, _) = published(size);
        let tiles = crate::TileId::all(size).map(|tile| tile.to_string());
        let bundles = (0..).map_while(|index| BundleId::for_size(index, size)).map(|bundle| bundle.to_string());
        let mut names: Vec<_> = tiles.chain(bundles).collect();
        names.push("checkpoint".to_owned());
        let name = &names[pick % names.len()];
        change(&directory, name, |bytes| {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        });
        prop_assert!(audit_of(&directory).is_err(), "{}", name);
    }
}

#[test]
fn a_directory_of_hashes_grows_and_proves_and_holds_no_entry() {
    let directory = tempfile::tempdir().unwrap();
    let leaves: Vec<_> = (0..700).map(|at| leaf_hash(&entry(at))).collect();
    let mut from = 0;
    for size in [0, 3, 255, 256, 300, 300, 700_u64] {
        let mut exporter = if from == 0 && Directory::new(directory.path()).checkpoint().is_err() {
            Exporter::create_with(directory.path(), Contents::Hashes).unwrap()
        } else {
            Exporter::resume_with(directory.path(), &origin(), key().verifier(), Contents::Hashes).unwrap()
        };
        assert_eq!(exporter.size(), from);
        for at in from..size {
            // An entry or its hash, it is the same.
            if at % 2 == 0 { exporter.push(&entry(at)).unwrap() } else { exporter.push_hash(leaves[at as usize]).unwrap() }
        }
        let head = Checkpoint { origin: origin(), size, root: exporter.root() };
        exporter.finish(&head.sign(&key()).unwrap().to_string()).unwrap();
        let tiles = Directory::new(directory.path());
        assert_eq!(tree::root(&tiles, size).unwrap(), mth(&leaves[..size as usize]));
        if from > 0 {
            let proof = tree::consistency_proof(&tiles, from, size).unwrap();
            let (old, new) = (mth(&leaves[..from as usize]), mth(&leaves[..size as usize]));
            assert_eq!(tree::verify_consistency(from, &old, size, &new, &proof), Ok(()));
        }
        from = size;
    }
    assert!(!directory.path().join("tile/entries").exists());
    assert!(matches!(audit_of(&directory), Err(AuditError::Read(_))));
    let mut whole = Exporter::create(&directory.path().join("other")).unwrap();
    assert!(matches!(whole.push_hash(leaves[0]), Err(ExportError::OtherTree)));
}

#[test]
fn an_audit_by_policy_wants_the_witnesses_and_every_entry() {
    let (directory, head) = published(300);
    let witness = CosigningKey::from_seed("witness.example/w".parse().unwrap(), &[9; 32]).unwrap();
    let policy: TrustPolicy = format!("log {}\nwitness w {}\nquorum w\n", key().verifier(), witness.verifier()).parse().unwrap();
    assert!(matches!(audit_by(directory.path(), &policy, |_, _| {}), Err(AuditError::Trust(TrustError::Quorum { .. }))));
    // The cosigned checkpoint takes the place of the other, over the same tiles.
    let mut note = head.sign(&key()).unwrap();
    note.add(witness.cosign(note.text(), 5).unwrap()).unwrap();
    Exporter::resume(directory.path(), &origin(), key().verifier()).unwrap().finish(&note.to_string()).unwrap();
    let mut seen = 0;
    let trusted = audit_by(directory.path(), &policy, |_, _| seen += 1).unwrap();
    assert_eq!((trusted.checkpoint, trusted.cosigned.len(), seen), (head, 1, 300));
    change(&directory, "tile/entries/000", |bytes| bytes[70] ^= 1);
    assert!(audit_by(directory.path(), &policy, |_, _| {}).is_err());
}

#[test]
fn what_is_published_is_for_everybody_to_read_whatever_the_umask_says() {
    use std::os::unix::fs::PermissionsExt as _;
    const WITHIN: &str = "BAILIWICK_TEST_UNDER_A_UMASK";
    if std::env::var_os(WITHIN).is_none() {
        let name = "export::tests::what_is_published_is_for_everybody_to_read_whatever_the_umask_says";
        let script = format!("umask 077; exec \"$0\" --exact {name}");
        let done = std::process::Command::new("sh").args(["-c", &script]).arg(std::env::current_exe().unwrap()).env(WITHIN, "1").output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out/1");
    write(&out, &origin(), &key(), (0..600).map(entry)).unwrap();
    let mut folders = vec![directory.path().join("out")];
    while let Some(folder) = folders.pop() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o755, "{}", folder.display());
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with(".lock") {
                assert_eq!(mode(&path), 0o644, "{}", path.display());
            }
        }
    }
}

#[test]
fn nothing_is_written_through_a_link_that_somebody_put_under_a_temporary_name() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let victim = elsewhere.path().join("victim");
    fs::write(&victim, b"as it was").unwrap();
    for name in ["checkpoint.tmp", "tile/0/000.p/5.tmp", "tile/entries/000.p/5.tmp", ".lock"] {
        let link = directory.path().join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&victim, link).unwrap();
    }
    write(directory.path(), &origin(), &key(), (0..5).map(entry)).unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"as it was");
    assert!(!directory.path().join("checkpoint").is_symlink());
    assert_eq!(audit_of(&directory).unwrap().entries, 5);
}
