//! The published ledger through the broker's own doors: files and receipts over HTTP, a store that was set back, and the shard after it.

use std::path::Path;
use std::time::Duration;

use bailiwick::shard;
use bailiwick_ledger::{Checkpoint, Receipt, TileId, TrustPolicy, export, leaf_hash};
use http::Method;

use crate::support::{Place, TaskToken};

const FILES: [&str; 5] = ["bailiwick.sqlite", "bailiwick.sqlite-wal", "bailiwick.sqlite-shm", "bailiwick.journal", "index.sqlite"];

fn copy(from: &Path, to: &Path) {
    for name in FILES {
        let _ = std::fs::remove_file(to.join(name)).is_ok();
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// One run of the broker: a call that is permitted, everything published, and stopped.
async fn run(place: &Place, task: Option<&TaskToken>, tool: &str, arguments: &str) -> TaskToken {
    let broker = place.open().await;
    let client = place.client();
    let task = match task {
        Some(task) => task.clone(),
        None => client.task("scout").await,
    };
    assert_eq!(client.call(&task, tool, arguments).await.word(), "done");
    let last = broker.entries().await.len() as u64 - 1;
    assert!(broker.house.publication.covering(last, Duration::from_secs(30)).await, "nothing is published");
    broker.stop().await;
    task
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_whose_store_was_set_back_makes_no_call_and_goes_on_as_a_shard_without_the_old_tasks() {
    let place = Place::with(|text| format!("{text}\n[ledger]\npublish = \"out\"\npublish_seconds = 1\n")).await;
    let task = run(&place, None, "sys.look", r#"{"key":"k"}"#).await;
    let saved = tempfile::tempdir().unwrap();
    copy(&place.data, saved.path());
    run(&place, Some(&task), "sys.put", r#"{"key":"k","value":"v"}"#).await;
    let before = place.verify();
    copy(saved.path(), &place.data);

    let broker = place.open().await;
    let (client, size) = (place.client(), broker.house.store.head().size);
    assert!(size < before);
    for (tool, arguments) in
        [("sys.look", r#"{"key":"2"}"#), ("sys.put", r#"{"key":"2","value":"v"}"#), ("sys.pay", r#"{"recipient":"acme","amount":1}"#)]
    {
        let answer = client.call(&task, tool, arguments).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains("audit.unavailable"), "{tool}: {text}");
    }
    assert_eq!((place.upstream.times("look", "\"2\""), place.upstream.times("put", "\"2\"")), (0, 0));
    let ready = client.send(Method::GET, "/readyz", &[], "").await;
    assert!(ready.status == 503 && !ready.json().to_string().contains("set back"), "a stranger is told what is wrong: {ready:?}");
    let ready = client.by("ops", Method::GET, "/readyz", None).await;
    assert!(ready.status == 503 && ready.json()["reasons"].to_string().contains("set back"), "{ready:?}");
    let status = client.by("ops", Method::GET, "/v1/ledger/status", None).await.json();
    assert!(status["stopped"].as_str().unwrap().contains("set back"), "{status}");
    assert!(!status["incidents"].as_array().unwrap().is_empty(), "{status}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(broker.house.store.head().size, size, "something was signed");
    broker.stop().await;

    let config = bailiwick::config::Config::load(&place.config).unwrap();
    let begun = shard::begin(&place.data, Some(&config), "restored for a test", false).await.unwrap();
    assert_eq!((begun.number, begun.first), (2, size));
    let broker = place.open().await;
    assert_eq!(client.send(Method::GET, "/readyz", &[], "").await.status, 200);
    // Nobody knows what was revoked since the backup: what was open is not any more.
    let word = client.call(&task, "sys.look", r#"{"key":"3"}"#).await.word();
    assert!(matches!(word.as_str(), "task.closed" | "authn.proof_invalid"), "{word}");
    let fresh = client.task("scout").await;
    assert_eq!(client.call(&fresh, "sys.look", r#"{"key":"4"}"#).await.word(), "done");
    let status = client.by("ops", Method::GET, "/v1/ledger/status", None).await.json();
    assert_eq!((status["stopped"].as_str(), status["shards"][0]["number"].as_u64()), (None, Some(2)));
    let last = broker.entries().await.len() as u64 - 1;
    assert!(broker.house.publication.covering(last, Duration::from_secs(30)).await);
    broker.stop().await;
    assert!(place.verify() > size);
    // The old publication is untouched, and the new one stands beside it.
    let out = place.config.parent().unwrap().join("out");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 2);
    let old: bailiwick_ledger::VerifierKey = std::fs::read_to_string(place.data.join("ledger-1.vkey")).unwrap().trim().parse().unwrap();
    let origin = old.name().as_str().parse().unwrap();
    // It may have been a round behind when the broker stopped: what was found furthest is in the data directory's own tiles.
    let kept = export::verify(&out.join("1"), &origin, &old).unwrap().entries;
    assert!(kept > 0 && kept <= begun.known, "{kept} of {}", begun.known);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_alone_from_before_a_shard_starts_says_so_and_goes_on_as_a_third_shard() {
    let place = Place::with(|text| format!("{text}\n[ledger]\npublish = \"out\"\npublish_seconds = 1\n")).await;
    let task = run(&place, None, "sys.look", r#"{"key":"k"}"#).await;
    let saved = tempfile::tempdir().unwrap();
    copy(&place.data, saved.path());
    let config = bailiwick::config::Config::load(&place.config).unwrap();
    assert_eq!(shard::begin(&place.data, Some(&config), "for a test", true).await.unwrap().number, 2);
    run(&place, Some(&task), "sys.look", r#"{"key":"2"}"#).await;
    copy(saved.path(), &place.data);

    let broker = place.open().await;
    let why = broker.house.pen.stopped().expect("it goes on where it was set back");
    assert!(why.contains("later shard"), "{why}");
    let answer = place.client().call(&task, "sys.look", r#"{"key":"3"}"#).await;
    assert!(String::from_utf8_lossy(&answer.body).contains("audit.unavailable"), "{answer:?}");
    broker.stop().await;
    assert_eq!(shard::begin(&place.data, Some(&config), "restored for a test", false).await.unwrap().number, 3);
    let broker = place.open().await;
    assert_eq!(broker.house.pen.stopped(), None);
    let fresh = place.client().task("scout").await;
    assert_eq!(place.client().call(&fresh, "sys.look", r#"{"key":"4"}"#).await.word(), "done");
    broker.stop().await;
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_shard_does_not_hide_that_what_was_open_before_the_first_is_not_ended() {
    let place = Place::with(|text| format!("{text}\n[ledger]\npublish_seconds = 1\n")).await;
    let task = run(&place, None, "sys.look", r#"{"key":"k"}"#).await;
    let config = bailiwick::config::Config::load(&place.config).unwrap();
    shard::begin(&place.data, Some(&config), "the first", true).await.unwrap();
    let store = rusqlite::Connection::open(place.data.join("bailiwick.sqlite")).unwrap();
    assert_eq!(store.execute("UPDATE shards SET settled = 0 WHERE number = 2", []).unwrap(), 1);
    drop(store);
    shard::begin(&place.data, Some(&config), "the second", true).await.unwrap();
    let broker = place.open().await;
    let word = place.client().call(&task, "sys.look", r#"{"key":"3"}"#).await.word();
    assert!(matches!(word.as_str(), "task.closed" | "authn.proof_invalid"), "{word}");
    assert!(broker.house.store.shards().await.unwrap().iter().all(|shard| shard.settled));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_and_hashes_are_for_everybody_entries_for_auditors_and_receipts_for_those_whom_they_concern() {
    let place = Place::with(|text| format!("{text}\n[ledger]\npublish_seconds = 1\n")).await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "sys.put", r#"{"key":"k","value":"v"}"#).await.word(), "done");
    let entries = broker.entries().await;
    let index = entries.iter().position(|e| e["kind"] == "intent").unwrap() as u64;
    assert!(broker.house.publication.covering(entries.len() as u64 - 1, Duration::from_secs(30)).await);
    let (origin, key) = broker.house.pen.log();

    let note = client.send(Method::GET, "/ledger/checkpoint", &[], "").await;
    assert_eq!((note.status, note.headers["content-type"].to_str().unwrap()), (200, "text/plain; charset=utf-8"));
    let head = Checkpoint::open(std::str::from_utf8(&note.body).unwrap(), &origin, &key, &[]).unwrap().checkpoint;
    let tile = TileId::for_size(0, 0, head.size).unwrap();
    let hashes = client.send(Method::GET, &format!("/ledger/{tile}"), &[], "").await;
    assert_eq!((hashes.status, hashes.body.len() as u64), (200, head.size * 32));
    for absent in ["/ledger/tile/0/001", "/ledger/tile/0/000.p/255", "/ledger/tile/x", "/ledger/tile/0/../../secret", "/ledger/nothing"] {
        assert_eq!(client.send(Method::GET, absent, &[], "").await.status, 404, "{absent}");
    }
    let bundle = format!("/ledger/{}", tile.to_string().replace("tile/0/", "tile/entries/"));
    assert_eq!(client.send(Method::GET, &bundle, &[], "").await.status, 401);
    assert_eq!(client.by("ana", Method::GET, &bundle, None).await.status, 403);
    let entries = client.by("ben", Method::GET, &bundle, None).await;
    assert_eq!((entries.status, entries.headers["cache-control"].to_str().unwrap()), (200, "no-store"));
    assert_eq!(bailiwick_ledger::tile::decode_bundle(&entries.body, tile.width(), true).unwrap().len() as u64, head.size);

    // The receipt of the call, by its owner: it holds with nothing but the policy.
    let call = broker.entries().await[usize::try_from(index).unwrap()]["call"].as_str().unwrap().to_owned();
    let policy: TrustPolicy = format!("log {key}\nquorum none\n").parse().unwrap();
    for id in [call.clone(), index.to_string()] {
        let receipt = client.by("ana", Method::GET, &format!("/v1/ledger/receipts/{id}"), None).await;
        assert_eq!(receipt.status, 200, "{receipt:?}");
        let receipt: Receipt = String::from_utf8(receipt.body.to_vec()).unwrap().parse().unwrap();
        let extra = receipt.extra().unwrap().to_vec();
        assert!(String::from_utf8_lossy(&extra).contains(&call));
        assert_eq!(receipt.index(), index);
        receipt.verify_by(&leaf_hash(&extra), &policy).unwrap();
    }
    let bare = client.by("ana", Method::GET, &format!("/v1/ledger/receipts/{call}?bare=true"), None).await;
    let bare: Receipt = String::from_utf8(bare.body.to_vec()).unwrap().parse().unwrap();
    assert_eq!(bare.extra(), None);
    // The broker's start concerns auditors and operators only.
    assert_eq!(client.by("ana", Method::GET, "/v1/ledger/receipts/0", None).await.status, 404);
    assert_eq!(client.by("ben", Method::GET, "/v1/ledger/receipts/0", None).await.status, 200);
    for absent in ["99999", "007", "call_x"] {
        assert_eq!(client.by("ben", Method::GET, &format!("/v1/ledger/receipts/{absent}"), None).await.status, 404, "{absent}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_for_everybody_if_the_configuration_says_so() {
    let place = Place::with(|text| format!("{text}\n[ledger]\npublish_seconds = 1\npublic_entries = true\n")).await;
    let broker = place.open().await;
    assert!(broker.house.publication.covering(0, Duration::from_secs(30)).await);
    let size = broker.house.publication.current().unwrap().size;
    let bundle = TileId::for_size(0, 0, size).unwrap().to_string().replace("tile/0/", "tile/entries/");
    let answer = place.client().send(Method::GET, &format!("/ledger/{bundle}"), &[], "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    broker.stop().await;
}
