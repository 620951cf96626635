//! Restored backups, forks, and the shards that follow.

use bailiwick_ledger::note::SigningKey;
use bailiwick_ledger::{Frontier, Receipt, TrustPolicy, export, leaf_hash};
use proptest::prelude::*;

use super::*;
use crate::config::LedgerConfig;
use crate::publish::tests::{Log, Stopped, copy_all};
use crate::witness::Witnesses;
use crate::witness::tests::TestWitness;

/// The store alone is put back to what it was when `saved` was taken.
fn restore(saved: &Path, data: &Path) {
    for name in ["bailiwick.sqlite", "bailiwick.sqlite-wal", "bailiwick.sqlite-shm", "bailiwick.journal", "index.sqlite"] {
        let _ = std::fs::remove_file(data.join(name)).is_ok();
        if saved.join(name).exists() {
            std::fs::copy(saved.join(name), data.join(name)).unwrap();
        }
    }
}

/// A log of 5 entries whose backup was taken, that grew to 9, was published and cosigned, and was closed.
async fn published_and_saved() -> (Stopped, tempfile::TempDir, TestWitness) {
    let log = Log::new(5).await;
    let witness = TestWitness::start(1, log.pen.log()).await;
    let log = log.stop().await;
    let saved = tempfile::tempdir().unwrap();
    copy_all(&log.data(), &saved.path().join("s"));
    let log = log.start().await;
    log.grow(4).await;
    log.round(&log.publication(vec![witness.entry("w")])).await;
    assert_eq!(witness.size(), 9);
    (log.stop().await, saved, witness)
}

fn config_of(dir: &tempfile::TempDir, publish: bool) -> crate::config::Config {
    let mut config = crate::config::Config::parse("test", "", Path::new("/")).unwrap();
    config.ledger = LedgerConfig { publish: publish.then(|| dir.path().join("out")), ..LedgerConfig::default() };
    config
}

async fn look(log: &Log, publish: bool, witnesses: &[&TestWitness]) -> Vec<Finding> {
    let witnesses = Witnesses::new(witnesses.iter().map(|w| w.entry("w")).collect()).unwrap();
    examine(&log.store, &log.pen, &log.data(), Some(&config_of(&log.dir, publish)), &witnesses).await.unwrap()
}

fn remove_tiles(log: &Log) {
    std::fs::remove_dir_all(log.data().join("tiles")).unwrap();
}

#[tokio::test]
async fn a_log_that_went_on_as_it_was_finds_nothing_wherever_it_looks() {
    let (log, _saved, witness) = published_and_saved().await;
    let log = log.start().await;
    assert_eq!(look(&log, true, &[&witness]).await, []);
    log.grow(300).await;
    assert_eq!(look(&log, true, &[&witness]).await, []);
    log.round(&log.publication(vec![witness.entry("w")])).await;
    assert_eq!(look(&log, true, &[&witness]).await, []);
}

#[tokio::test]
async fn a_restored_store_is_recognised_by_each_place_alone() {
    let (log, saved, witness) = published_and_saved().await;
    restore(&saved.path().join("s"), &log.data());
    let log = log.start().await;
    assert_eq!(log.store.head().size, 5);
    let set_back = |found: &[Finding]| matches!(found, [Finding { what: Departure::SetBack { known: 9, ours: 5 }, note: Some(_), .. }]);
    let found = look(&log, false, &[]).await;
    assert!(set_back(&found) && found[0].place.contains("tiles"), "{found:?}");
    remove_tiles(&log);
    let found = look(&log, true, &[]).await;
    assert!(set_back(&found) && found[0].place.contains("publication"), "{found:?}");
    let found = look(&log, false, &[&witness]).await;
    assert!(set_back(&found) && found[0].place.contains("witness `w`"), "{found:?}");
    // A witness that shows nothing still says which size it has.
    witness.behave(crate::witness::tests::Manner::Hidden);
    let found = look(&log, false, &[&witness]).await;
    assert!(matches!(found.as_slice(), [Finding { what: Departure::Word { size: Some(9) }, .. }]), "{found:?}");
    // One that is gone says nothing, and holds nothing up.
    drop(witness);
    assert_eq!(look(&log, false, &[]).await, []);
}

#[tokio::test]
async fn a_store_that_was_restored_and_grew_again_is_a_fork_wherever_one_looks() {
    let (log, saved, witness) = published_and_saved().await;
    restore(&saved.path().join("s"), &log.data());
    let log = log.start().await;
    log.grow(20).await;
    let forked = |found: &[Finding]| matches!(found, [Finding { what: Departure::Forked { size: 9 }, note: Some(_), .. }]);
    assert!(forked(&look(&log, false, &[]).await));
    remove_tiles(&log);
    assert!(forked(&look(&log, true, &[]).await));
    assert!(forked(&look(&log, false, &[&witness]).await));
    // The publication's tiles are damaged as well: then the store's own entries are what is compared.
    std::fs::remove_dir_all(log.dir.path().join("out/1/tile")).unwrap();
    assert!(forked(&look(&log, true, &[]).await));
}

#[tokio::test]
async fn a_published_head_that_another_key_signed_is_an_error_and_no_proof() {
    let (log, _saved, _witness) = published_and_saved().await;
    let log = log.start().await;
    let (origin, _) = log.pen.log();
    let thief = SigningKey::from_seed(origin.key_name().clone(), &[7; 32]).unwrap();
    let forged = Checkpoint { origin, size: 99, root: bailiwick_ledger::empty_root() }.sign(&thief).unwrap().to_string();
    std::fs::write(log.dir.path().join("out/1/checkpoint"), forged).unwrap();
    let witnesses = Witnesses::new(vec![]).unwrap();
    let refused = examine(&log.store, &log.pen, &log.data(), Some(&config_of(&log.dir, true)), &witnesses).await;
    assert!(matches!(refused, Err(LineageError::File { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_new_shard_goes_on_over_the_same_entries_and_everything_old_stays_verifiable() {
    let (log, saved, witness) = published_and_saved().await;
    let log = log.start().await;
    let (old_origin, old_key) = log.pen.log();
    let log = log.stop().await;
    restore(&saved.path().join("s"), &log.data());
    let data = log.data();
    let config = config_of(&log.dir, true);
    let begun = begin(&data, Some(&config), "restored from the backup of Monday", false).await.unwrap();
    assert_eq!((begun.number, begun.first, begun.known), (2, 5, 9));
    assert!(begun.origin.starts_with(&format!("{old_origin}/2-")), "{}", begun.origin);
    assert_ne!(begun.vkey.rsplit('+').next(), old_key.to_string().rsplit('+').next());

    let log = log.start().await;
    let (origin, key) = log.pen.log();
    assert_eq!((origin.as_str(), key.to_string()), (begun.origin.as_str(), begun.vkey.clone()));
    assert_eq!(look(&log, true, &[]).await, []);
    log.grow(2).await;
    let publication = log.publication(vec![]);
    log.round(&publication).await;
    // The first entry of the shard names the old log, what was lost, and why.
    let entry: serde_json::Value = serde_json::from_slice(&log.store.entry(5).await.unwrap().unwrap().body).unwrap();
    assert_eq!((entry["kind"].as_str(), entry["old_origin"].as_str()), (Some("shard"), Some(old_origin.as_str())));
    assert_eq!(entry["reason"], "restored from the backup of Monday");
    let known = Checkpoint::open(entry["known"].as_str().unwrap(), &old_origin, &old_key, &[]).unwrap();
    assert_eq!(known.checkpoint.size, 9);
    // Both logs verify by themselves, and the new one's seam to the old.
    let out = log.dir.path().join("out");
    assert_eq!(export::verify(&out.join("1"), &old_origin, &old_key).unwrap().entries, 9);
    let name = directory_name(&origin).to_owned();
    let (mut seams, files) = (Seams::default(), export::Directory::new(&out.join(&name)));
    export::audit(&out.join(&name), &origin, &key, &[], |index, entry| seams.look(index, entry, || root_before(&files, index, 8))).unwrap();
    assert_eq!(seams.finish().unwrap(), std::slice::from_ref(&old_key));
    // A policy of both logs takes receipts of both.
    let policy: TrustPolicy = format!("log {old_key}\nlog {key}\nquorum none\n").parse().unwrap();
    let receipt: Receipt = publication.receipt(&log.store, 3, None).await.unwrap().to_string().parse().unwrap();
    let leaf = leaf_hash(&log.store.entry(3).await.unwrap().unwrap().body);
    assert_eq!(receipt.verify_by(&leaf, &policy).unwrap().log, key);
    let old = export::Directory::new(&out.join("1")).receipt(3).unwrap();
    assert_eq!(old.verify_by(&leaf, &policy).unwrap().log, old_key);
    // The witness knows nothing of the new log, and that stops nothing.
    let publication = log.publication(vec![witness.entry("w")]);
    assert_eq!(log.round(&publication).await, (vec![], vec![]));
    assert!(data.join("ledger-1.vkey").exists());
}

#[tokio::test]
async fn a_backup_of_the_time_before_a_shard_is_recognised_and_the_next_shard_has_another_name() {
    let (log, saved, _witness) = published_and_saved().await;
    restore(&saved.path().join("s"), &log.data());
    let (data, config) = (log.data(), config_of(&log.dir, true));
    let second = begin(&data, Some(&config), "first time", false).await.unwrap();
    let log = log.start().await;
    log.round(&log.publication(vec![])).await;
    let log = log.stop().await;
    // The whole data directory is put back, files and keys with it: only the publication remembers.
    std::fs::remove_dir_all(&data).unwrap();
    copy_all(&saved.path().join("s"), &data);
    let log = log.start().await;
    let found = look(&log, true, &[]).await;
    assert!(found.iter().any(|f| f.what == Departure::LaterShard { origin: second.origin.clone() }), "{found:?}");
    assert!(found.iter().any(|f| matches!(f.what, Departure::SetBack { known: 9, ours: 5 })), "{found:?}");
    let _log = log.stop().await;
    let third = begin(&data, Some(&config), "second time", false).await.unwrap();
    assert_eq!((third.number, third.known), (3, 9));
    assert_ne!(third.origin, second.origin);
}

#[tokio::test]
async fn a_shard_whose_files_were_not_written_before_the_machine_stopped_is_taken_up_at_the_next_start() {
    let log = Log::new(5).await;
    let (old, _) = log.pen.log();
    let log = log.stop().await;
    let data = log.data();
    let vkey = std::fs::read(data.join("ledger.vkey")).unwrap();
    let begun = begin(&data, None, "a new year", true).await.unwrap();
    for (name, bytes) in [("ledger.origin", old.as_str().as_bytes()), ("ledger.vkey", &vkey)] {
        crate::place::write_private(&data.join(name), bytes).unwrap();
    }
    let log = log.start().await;
    assert_eq!(log.pen.log().0.as_str(), begun.origin);
    assert_eq!(std::fs::read_to_string(data.join("ledger.vkey")).unwrap().trim(), begun.vkey);
    log.grow(2).await;
    let log = log.again().await;
    assert_eq!((log.store.head().size, log.pen.log().0.as_str()), (8, begun.origin.as_str()));
}

#[tokio::test]
async fn no_shard_is_begun_without_need_without_entries_or_beside_a_broker() {
    let log = Log::new(5).await;
    let data = log.data();
    assert!(matches!(begin(&data, None, "x", true).await, Err(ShardError::Store(bailiwick_store::StoreError::Locked { .. }))));
    let _log = log.stop().await;
    assert!(matches!(begin(&data, None, "x", false).await, Err(ShardError::Needless)));
    assert!(matches!(begin(&data.join("nowhere"), None, "x", true).await, Err(ShardError::Absent(_))));
    let empty = Log::new(0).await;
    let empty = empty.stop().await;
    assert!(matches!(begin(&empty.data(), None, "x", true).await, Err(ShardError::Empty)));
}

#[tokio::test]
async fn a_seam_that_does_not_hold_is_found() {
    let log = Log::new(4).await;
    let (origin, key) = log.pen.log();
    let rows = log.store.entries(0..4).await.unwrap();
    let note = log.store.checkpoint().to_string();
    let thief = SigningKey::from_seed(origin.key_name().clone(), &[7; 32]).unwrap();
    let entry = |vkey: &str, head: &str| {
        format!(r#"{{"v":1,"kind":"shard","old_origin":"{origin}","old_vkey":"{vkey}","old_head":{}}}"#, serde_json::json!(head)).into_bytes()
    };
    let seams = |bodies: &[Vec<u8>]| {
        let (mut seams, mut tree) = (Seams::default(), Frontier::new());
        for body in bodies {
            seams.look(tree.size(), body, || Some(tree.root()));
            tree.push(leaf_hash(body));
        }
        seams.finish()
    };
    let mut bodies: Vec<_> = rows.into_iter().map(|row| row.body).collect();
    bodies.push(entry(&key.to_string(), &note));
    assert_eq!(seams(&bodies), Ok(vec![key.clone()]));
    bodies[4] = entry(&thief.verifier().to_string(), &note);
    assert_eq!(seams(&bodies), Err(SeamError::Unsigned(4)));
    bodies[4] = entry("nonsense", &note);
    assert_eq!(seams(&bodies), Err(SeamError::Form(4)));
    bodies[4] = br#"{"v":1,"kind":"shard"}"#.to_vec();
    assert_eq!(seams(&bodies), Err(SeamError::Form(4)));
    bodies[4] = entry(&key.to_string(), &note);
    bodies.insert(4, b"{}".to_vec());
    assert_eq!(seams(&bodies), Err(SeamError::Tree(5)));
    bodies.remove(4);
    bodies.swap(0, 1);
    assert_eq!(seams(&bodies), Err(SeamError::Tree(4)));
}

proptest! {
    #[test]
    fn the_name_of_a_shard_says_its_number_and_whose_it_is(number in 2_u64..1000, random in any::<u32>()) {
        let first: Origin = "bailiwick.local/0123456789abcdef".parse().unwrap();
        let shard: Origin = format!("{first}/{number}-{random:08x}").parse().unwrap();
        prop_assert_eq!((number_of(&shard), base_of(&shard)), (number, first.as_str()));
        prop_assert_eq!(directory_name(&shard), format!("{number}-{random:08x}"));
        prop_assert_eq!(key_name(&shard), format!("ledger-{number}-{random:08x}"));
        prop_assert_eq!((number_of(&first), directory_name(&first), key_name(&first)), (1, "1", "ledger".to_owned()));
    }

    #[test]
    fn no_other_name_is_taken_for_a_shards(text in "[a-z]{1,5}/[0-9a-fA-Fx+-]{0,12}") {
        if let Ok(origin) = text.parse::<Origin>() {
            let number = number_of(&origin);
            let ending = format!("/{}", directory_name(&origin));
            prop_assert!(number == 1 || text.ends_with(&ending));
        }
    }
}

#[tokio::test]
async fn with_a_lost_journal_a_new_shard_is_the_way_on_and_says_so_and_without_being_asked_for_there_is_none() {
    let log = Log::new(5).await.stop().await;
    let data = log.data();
    let pen = crate::keys::Keys::load_or_make(&data).unwrap().pen().unwrap();
    let options = bailiwick_store::Options { log_bytes: 1 << 20, readers: 1 };
    let store = Store::open_with(&data, Box::new(crate::keys::TreeIntegrator::new(pen)), options).unwrap();
    store.append(bailiwick_store::Entry::new("house", b"{\"late\":1}".to_vec())).await.unwrap();
    let copy = tempfile::tempdir().unwrap();
    let crashed = copy.path().join("s");
    copy_all(&data, &crashed);
    store.close().await;
    drop(store);
    restore(&crashed, &data);
    std::fs::remove_file(data.join("bailiwick.journal")).unwrap();
    let refused = begin(&data, None, "the disk lost a file", false).await;
    assert!(matches!(&refused, Err(ShardError::Store(error)) if error.to_string().contains("is missing")), "{refused:?}");
    let begun = begin(&data, None, "the disk lost a file", true).await.unwrap();
    assert_eq!(begun.number, 2);
    assert!(begun.findings.iter().any(|found| found.contains("journal is lost")), "{:?}", begun.findings);
    let log = log.start().await;
    let entry: serde_json::Value = serde_json::from_slice(&log.store.entry(begun.first).await.unwrap().unwrap().body).unwrap();
    assert!(entry["found"].to_string().contains("journal is lost"), "{entry}");
    assert!(!log.store.shards().await.unwrap().pop().unwrap().settled, "what was open then is to be ended");
}
