//! Sinks that are down, hang, refuse or go away: nothing is lost, nothing else waits, and it is told.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use super::receiver::{Mood, Receiver};
use super::{check_complete, index_of, place_with, read_lines, size, story};
use crate::support::{Broker, Client, PATIENCE, Place, entries, until};

fn http_export(name: &str, receiver: &Receiver, more: &str) -> String {
    format!(
        "\n[[export]]\nname = \"{name}\"\nformat = \"jsonl\"\nurl = \"http://{}/in\"\ntimeout_seconds = 1\nretry_seconds_max = 1\n{more}\n",
        receiver.address
    )
}

async fn standing(client: &Client<'_>, name: &str) -> Value {
    let answer = client.by("ben", Method::GET, "/v1/exports", None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["exports"].as_array().unwrap().iter().find(|e| e["name"] == name).cloned().unwrap_or_default()
}

async fn wait_for_state(client: &Client<'_>, name: &str, state: &str) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let now = standing(client, name).await;
        if now["state"] == state {
            return now;
        }
        assert!(tokio::time::Instant::now() < deadline, "`{name}` does not become {state}: {now}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_hangs_delays_neither_calls_nor_another_sink_and_loses_nothing() {
    let (good, bad) = (Receiver::start(Mood::Takes).await, Receiver::start(Mood::Hangs).await);
    let (place, _dir) = place_with(&format!("{}{}", http_export("bad", &bad, ""), http_export("good", &good, ""))).await;
    let broker = place.open().await;
    let client = place.client();
    let stuck = wait_for_state(&client, "bad", "stuck").await;
    assert!(stuck["error"].as_str().unwrap().contains("in time"), "{stuck}");
    story(&place, &broker).await;
    let (now, all) = (size(&broker).await, Instant::now());
    good.wait_for(now).await;
    assert!(all.elapsed() < PATIENCE && bad.taken().is_empty());
    let stuck = standing(&client, "bad").await;
    assert!(stuck["lag_entries"].as_u64().unwrap() >= now && stuck["failing_since"].is_string(), "{stuck}");
    // Readiness tells it and stays green: a stuck sink freezes nothing.
    let ready = client.send(Method::GET, "/readyz", &[], "").await;
    assert_eq!((ready.status, &ready.json()["exports"]["stuck"]), (200, &json!(1)));
    assert!(ready.json()["export_lag_entries"].as_u64().unwrap() >= now);
    bad.be(Mood::Takes);
    bad.wait_for(now).await;
    check_complete(&bad.indexes(), now);
    check_complete(&good.indexes(), now);
    wait_for_state(&client, "bad", "current").await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_is_down_for_a_whole_run_gets_everything_in_order_when_it_is_back() {
    let gone = Receiver::start(Mood::Takes).await;
    let address = gone.address;
    let (place, _dir) = place_with(&http_export("siem", &gone, "batch = 7")).await;
    drop(gone);
    let broker = place.open().await;
    story(&place, &broker).await;
    let client = place.client();
    assert!(wait_for_state(&client, "siem", "stuck").await["error"].as_str().unwrap().contains("connect"));
    broker.stop().await;
    // Another start, and still nobody there.
    let broker = place.open().await;
    let now = size(&broker).await;
    let back = Receiver::start_at(address, Mood::Takes).await;
    back.wait_for(now).await;
    check_complete(&back.indexes(), now);
    assert!(back.taken().iter().all(|t| t.events().len() <= 7), "more than `batch` at once");
    broker.stop().await;
    // What is noted is not sent again.
    let before = back.indexes().len();
    let broker = place.open().await;
    let later = size(&broker).await;
    back.wait_for(later).await;
    assert_eq!(back.indexes().len() - before, usize::try_from(later - now).unwrap());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_sent_until_it_is_taken_and_what_is_too_large_in_smaller_pieces() {
    let receiver = Receiver::start(Mood::Refuses(500)).await;
    let (place, _dir) = place_with(&http_export("siem", &receiver, "body = \"array\"")).await;
    let broker = place.open().await;
    let client = place.client();
    let stuck = wait_for_state(&client, "siem", "stuck").await;
    assert!(stuck["error"].as_str().unwrap().starts_with("it answered 500"), "{stuck}");
    story(&place, &broker).await;
    let now = size(&broker).await;
    receiver.be(Mood::Limited(3000));
    receiver.wait_for(now).await;
    check_complete(&receiver.indexes(), now);
    assert!(receiver.refused() > 1);
    assert!(receiver.taken().iter().all(|t| t.headers["content-type"] == "application/json" && t.body.len() <= 3000));
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let metrics = String::from_utf8(client.send(Method::GET, "/metrics", &[], "").await.body.to_vec()).unwrap();
        if metrics.contains("bailiwick_export_lag_entries{export=\"siem\"}") {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{metrics}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_between_sending_and_noting_sends_again_and_loses_nothing() {
    let receiver = Receiver::start(Mood::Takes).await;
    let (place, _dir) = place_with(&http_export("siem", &receiver, "")).await;
    for _ in 0..2 {
        let mut child = place.spawn(Some("export-sent"));
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it did not die").unwrap();
        assert_eq!(status.signal(), Some(6), "{status:?}");
    }
    let before = receiver.indexes();
    assert!(before.iter().filter(|i| **i == 0).count() == 2, "what was sent and not noted is sent again: {before:?}");
    let broker = place.open().await;
    story(&place, &broker).await;
    let now = size(&broker).await;
    receiver.wait_for(now).await;
    check_complete(&receiver.indexes(), now);
    // The copies are the same, so that a receiver can drop them.
    let mut by_index = std::collections::BTreeMap::new();
    for event in receiver.taken().iter().flat_map(super::receiver::Taken::events) {
        let first = by_index.entry(index_of(&event)).or_insert_with(|| event.clone());
        assert_eq!(*first, event);
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_loses_nothing_whenever_it_is_killed() {
    let receiver = Receiver::start(Mood::Takes).await;
    let (place, dir) = place_with(&format!(
        "{}\n[[export]]\nname = \"file\"\nformat = \"jsonl\"\nfile = \"{{dir}}/e.jsonl\"\n",
        http_export("siem", &receiver, "batch = 3")
    ))
    .await;
    let task = {
        let broker = place.open().await;
        let task = place.client().task("scout").await;
        broker.stop().await;
        task
    };
    let rounds = std::env::var("BAILIWICK_EXPORT_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    for round in 0..rounds {
        let mut child = place.spawn(None);
        let client = place.client();
        client.wait_for_tools(&task).await;
        for n in 0..10 + round {
            client.try_call(&task, "sys.put", &format!(r#"{{"key":"{round}-{n}"}}"#)).await;
        }
        child.kill().await.unwrap();
    }
    let broker = place.open().await;
    let now = size(&broker).await;
    receiver.wait_for(now).await;
    check_complete(&receiver.indexes(), now);
    let path = dir.path().join("e.jsonl");
    until("the file has every entry", || read_lines(&path).last().is_some_and(|e| index_of(e) + 1 >= now)).await;
    check_complete(&read_lines(&path).iter().map(index_of).collect::<Vec<_>>(), now);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_written_gets_everything_once_it_can() {
    let (place, dir) = place_with("\n[[export]]\nname = \"file\"\nformat = \"jsonl\"\nfile = \"{dir}/later/e.jsonl\"\nretry_seconds_max = 1\n").await;
    let broker = place.open().await;
    let client = place.client();
    story(&place, &broker).await;
    assert!(wait_for_state(&client, "file", "stuck").await["error"].as_str().unwrap().contains("cannot be written"));
    std::fs::create_dir(dir.path().join("later")).unwrap();
    let now = size(&broker).await;
    let path = dir.path().join("later/e.jsonl");
    until("the file has every entry", || read_lines(&path).len() as u64 >= now).await;
    check_complete(&read_lines(&path).iter().map(index_of).collect::<Vec<_>>(), now);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_gets_only_the_kinds_it_asks_for_and_one_that_begins_now_nothing_from_before() {
    let (all, some) = (Receiver::start(Mood::Takes).await, Receiver::start(Mood::Takes).await);
    let place = Place::new().await;
    let broker = place.open().await;
    story(&place, &broker).await;
    let before = size(&broker).await;
    broker.stop().await;
    let text = std::fs::read_to_string(&place.config).unwrap();
    let more = format!("{}{}", http_export("all", &all, "from = \"now\""), http_export("some", &some, "kinds = [\"denial\", \"incident\"]"));
    std::fs::write(&place.config, format!("{text}{more}")).unwrap();
    let broker = place.open().await;
    let now = size(&broker).await;
    all.wait_for(now).await;
    assert!(all.indexes().iter().all(|i| *i >= before), "{:?} began at {before}", all.indexes());
    let wanted = || entries_of(&broker, &["denial", "incident"]);
    let wanted = wanted().await;
    until("it has its kinds", || some.indexes().len() >= wanted.len()).await;
    assert_eq!(some.indexes(), wanted);
    assert_eq!(wait_for_state(&place.client(), "some", "current").await["lag_entries"], 0);
    broker.stop().await;
}

async fn entries_of(broker: &Broker, kinds: &[&str]) -> Vec<u64> {
    let all = entries(&broker.house).await;
    (0_u64..).zip(all).filter(|(_, e)| kinds.contains(&e["kind"].as_str().unwrap())).map(|(i, _)| i).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_is_taken_out_keeps_its_place_until_it_is_forgotten() {
    let receiver = Receiver::start(Mood::Takes).await;
    let place = Place::new().await;
    let plain = std::fs::read_to_string(&place.config).unwrap();
    let with = format!("{plain}{}", http_export("siem", &receiver, ""));
    let run = async |text: &str| {
        std::fs::write(&place.config, text).unwrap();
        let broker = place.open().await;
        let now = size(&broker).await;
        if text == with {
            receiver.wait_for(now).await;
        } else {
            assert_eq!(standing(&place.client(), "siem").await["state"], "removed");
        }
        broker.stop().await;
        now
    };
    let command = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bailiwick"));
        let done = command.arg("--data-dir").arg(&place.data).arg("--json").args(arguments).output().unwrap();
        (done.status.success(), String::from_utf8(done.stdout).unwrap() + &String::from_utf8_lossy(&done.stderr))
    };
    run(&with).await;
    let first = receiver.indexes().len();
    run(&plain).await;
    let now = run(&with).await;
    check_complete(&receiver.indexes(), now);
    assert_eq!(receiver.indexes().iter().filter(|i| **i == 0).count(), 1, "it began anew after {first} records");
    let (good, status) = command(&["export", "status"]);
    assert!(good && status.contains("\"siem\"") && status.contains("stopped"), "{status}");
    assert!(!command(&["export", "forget", "other"]).0);
    let (good, said) = command(&["export", "forget", "siem"]);
    assert!(good, "{said}");
    run(&with).await;
    assert_eq!(receiver.indexes().iter().filter(|i| **i == 0).count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_of_a_sink_reaches_it_and_appears_nowhere_else() {
    const SECRET: &str = "canary-of-a-sink-9d27";
    let receiver = Receiver::start(Mood::Refuses(401)).await;
    let more = "bearer = \"siem-token\"\nsecret_headers = { \"x-key\" = \"siem-token\" }";
    let (place, dir) = place_with(&http_export("siem", &receiver, more)).await;
    // Without the secret it says which one is missing, and does not start.
    let config = bailiwick::config::Config::load(&place.config).unwrap();
    let clock = std::sync::Arc::new(bailiwick::clock::SystemClock::start());
    let error = bailiwick::house::House::open(config, &place.data, clock).await.unwrap_err();
    assert!(error.to_string().contains("siem-token"), "{error}");
    drop(error);
    bailiwick::secrets::set(&place.data, "siem-token", zeroize::Zeroizing::new(SECRET.as_bytes().to_vec())).await.unwrap();

    let log = dir.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_bailiwick"));
    command.arg("--data-dir").arg(&place.data).arg("--config").arg(&place.config).arg("up").env("RUST_LOG", "trace").kill_on_drop(true);
    command.stdin(std::process::Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let mut child = command.spawn().unwrap();
    until("it was refused", || receiver.refused() > 1).await;
    let client = place.client();
    let stuck = wait_for_state(&client, "siem", "stuck").await;
    assert!(stuck["error"].as_str().unwrap().contains("no, "), "{stuck}");
    receiver.be(Mood::Takes);
    until("it was taken", || !receiver.taken().is_empty()).await;
    let taken = receiver.taken().remove(0);
    assert_eq!((taken.headers["authorization"].to_str().unwrap(), taken.headers["x-key"].to_str().unwrap()), (&*format!("Bearer {SECRET}"), SECRET));
    let metrics = client.send(Method::GET, "/metrics", &[], "").await;
    let shown = standing(&client, "siem").await.to_string();
    child.kill().await.unwrap();
    let places = [std::fs::read_to_string(&log).unwrap(), stuck.to_string(), shown, String::from_utf8_lossy(&metrics.body).into_owned(), taken.body];
    assert!(places[0].contains("siem"), "the log says nothing about it");
    for place in places {
        assert!(!place.contains(SECRET), "{place}");
    }
}
