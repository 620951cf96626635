//! The index: what is found, how much is read for it, and what happens to one that is wrong.

use super::*;
use crate::{ACT, Fact, Field, Group, Search, Tally};

/// Entries in the log on which reads are counted.
fn many() -> u64 {
    std::env::var("BAILIWICK_INDEX_ENTRIES").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000)
}

const AGENTS: u64 = 7;

fn id(prefix: &str, n: u64) -> String {
    format!("{prefix}_{n:032x}")
}

fn when(n: u64) -> Timestamp {
    at(1_700_000_000_000 + i64::try_from(n).unwrap() * 1000)
}

/// Two entries for each call of one of seven agents: intent and outcome. Every hundredth failed; one in a thousand deletes.
async fn filled(store: &Store, calls: u64) {
    let append = async |n: u64, body: String| {
        let call: CallId = id("call", n / 2).parse().unwrap();
        let task: TaskId = id("task", n / 2 % 50).parse().unwrap();
        store.append_relaxed(Entry::new("event", body.into_bytes()).of_call(call).of_task(task)).await.unwrap();
    };
    for n in 0..calls {
        let effect = if n % 1000 == 999 { "delete" } else { "read" };
        let (call, task, agent) = (id("call", n), id("task", n % 50), n % AGENTS);
        append(
            2 * n,
            format!(
                r#"{{"v":1,"kind":"intent","at":"{}","call":"{call}","task":"{task}","agent":"spiffe://td/agent/a{agent}","instance":"i{agent}","subject":"sam","owner":"o{agent}","token":"t{}","tool":"shop.t{}","effect":"{effect}","target":"https://shop","revision":"r{}","policies":[{{"id":"p","reason":"x"}}]}}"#,
                when(2 * n),
                n % 50,
                n % 20,
                n / 1000,
            ),
        )
        .await;
        let result = if n % 100 == 3 { "failed" } else { "done" };
        append(2 * n + 1, format!(r#"{{"v":1,"kind":"outcome","at":"{}","call":"{call}","intent":{},"result":"{result}"}}"#, when(2 * n + 1), 2 * n))
            .await;
    }
    while store.head().size < 2 * calls {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn fact(field: Field, value: &str) -> Fact {
    (field, value.to_owned())
}

fn indexes(found: &crate::Found) -> Vec<u64> {
    found.rows.iter().map(|row| row.index).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_to_a_long_log_reads_few_rows_and_finds_exactly_what_a_look_at_every_entry_finds() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let calls = many() / 2;
    filled(&store, calls).await;
    let agent = fact(Field::Agent, "spiffe://td/agent/a3");

    let newest = store.search(Search { facts: vec![agent.clone()], limit: 10, ..Search::default() }).await.unwrap();
    let expected: Vec<u64> = (0..2 * calls).rev().filter(|n| n / 2 % AGENTS == 3).take(10).collect();
    assert_eq!(indexes(&newest), expected, "an outcome is its agent's too");
    assert!(newest.reads <= 40, "{} rows read for 10 of {}", newest.reads, 2 * calls);

    let both = vec![agent.clone(), fact(Field::Outcome, "failed"), fact(Field::Tool, "shop.t3")];
    let rare = store.search(Search { facts: both, limit: 5, ..Search::default() }).await.unwrap();
    let expected: Vec<u64> = (0..calls).rev().filter(|n| n % AGENTS == 3 && n % 100 == 3 && n % 20 == 3).map(|n| 2 * n + 1).take(5).collect();
    assert_eq!(indexes(&rare), expected);
    assert!(rare.reads <= 200, "{} rows read for 5 of {}", rare.reads, 2 * calls);

    let call = store.search(Search { call: Some(id("call", 17).parse().unwrap()), limit: 10, ..Search::default() }).await.unwrap();
    assert_eq!((indexes(&call), call.next), (vec![35, 34], None));
    assert!(call.reads <= 6, "{}", call.reads);

    let (since, until) = (when(1001), when(1005));
    let times = store.search(Search { since: Some(since), until: Some(until), limit: 10, ..Search::default() }).await.unwrap();
    assert_eq!(indexes(&times), [1004, 1003, 1002, 1001]);
    assert!(times.reads <= 600, "{}", times.reads);

    let nothing = store.search(Search { facts: vec![fact(Field::Owner, "nobody")], limit: 10, ..Search::default() }).await.unwrap();
    assert_eq!((nothing.rows.len(), nothing.next, nothing.reads), (0, None, 0));

    let act = store.search(Search { facts: vec![fact(Field::Effect, ACT), fact(Field::Kind, "intent")], limit: 1000, ..Search::default() });
    assert_eq!(act.await.unwrap().rows.len() as u64, calls / 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_follow_one_another_without_a_gap_and_without_an_entry_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    filled(&store, 600).await;
    let mut all = Vec::new();
    let mut below = None;
    loop {
        let facts = vec![fact(Field::Owner, "o2")];
        let page = store.search(Search { facts, limit: 7, below, ..Search::default() }).await.unwrap();
        all.extend(indexes(&page));
        below = page.next;
        if below.is_none() {
            break;
        }
    }
    let expected: Vec<u64> = (0..1200).rev().filter(|n| n / 2 % AGENTS == 2).collect();
    assert_eq!(all, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stretches_of_time_are_counted_by_what_was_said_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    filled(&store, 600).await;
    let intents = |field| Group { field, within: vec![fact(Field::Kind, "intent")], repeats: false };
    let tally = Tally {
        groups: vec![intents(Field::Tool), intents(Field::Owner)],
        scope: vec![fact(Field::Owner, "o1")],
        last: when(200)..when(240),
        this: when(240)..when(1000),
    };
    let (window, groups) = store.tally(tally).await.unwrap();
    assert_eq!((window.last, window.this), (200..240, 240..1000));
    let in_scope = |range: std::ops::Range<u64>| range.filter(|n| n % 2 == 0 && n / 2 % AGENTS == 1).map(|n| n / 2).collect::<Vec<_>>();
    let (last, this, before) = (in_scope(200..240), in_scope(240..1000), in_scope(0..200));
    for tool in &groups[0] {
        let used = |calls: &[u64]| calls.iter().filter(|n| format!("shop.t{}", *n % 20) == tool.value).count() as u64;
        assert_eq!((tool.last, tool.this, tool.before), (used(&last), used(&this), Some(used(&before) > 0)), "{}", tool.value);
    }
    assert_eq!(groups[0].len(), 20);
    assert_eq!(groups[1].iter().map(|o| o.value.as_str()).collect::<Vec<_>>(), ["o1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tampered_index_leaves_out_and_never_puts_in_and_is_whole_again_when_it_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path());
        filled(&store, 300).await;
        assert_eq!(store.search(Search { limit: 1, ..Search::default() }).await.unwrap().rows.len(), 1);
        store.close().await;
    }
    let file = rusqlite::Connection::open(dir.path().join("index.sqlite")).unwrap();
    // What one owner's agent did is said to be another's, and of a third everything is gone.
    let tamper = "UPDATE terms SET value = 'spare' WHERE field = 4 AND value = 'o1';
        UPDATE terms SET value = 'o1' WHERE field = 4 AND value = 'o2';
        DELETE FROM postings WHERE term = (SELECT id FROM terms WHERE field = 4 AND value = 'o3');";
    file.execute_batch(tamper).unwrap();
    drop(file);
    let store = open(dir.path());
    let of = async |owner: &str| store.search(Search { facts: vec![fact(Field::Owner, owner)], limit: 1000, ..Search::default() }).await.unwrap();
    for owner in ["o1", "o3"] {
        assert!(of(owner).await.rows.is_empty(), "{owner}");
    }
    assert_eq!(store.rebuild_index().await.unwrap(), 600);
    for owner in ["o1", "o2", "o3"] {
        let found = of(owner).await;
        let agent: u64 = owner.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        assert_eq!(indexes(&found), (0..600).rev().filter(|n| n / 2 % AGENTS == agent).collect::<Vec<_>>(), "{owner}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_of_another_version_is_made_anew_and_one_that_is_up_to_date_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let found = async |store: &Store| store.search(Search { facts: vec![fact(Field::Owner, "o4")], limit: 1000, ..Search::default() }).await.unwrap();
    let whole = {
        let store = open(dir.path());
        filled(&store, 100).await;
        let whole = indexes(&found(&store).await);
        store.close().await;
        whole
    };
    let tamper = |sql: &str| rusqlite::Connection::open(dir.path().join("index.sqlite")).unwrap().execute_batch(sql).unwrap();
    tamper("DELETE FROM postings");
    let store = open(dir.path());
    assert!(found(&store).await.rows.is_empty(), "it is believed as long as it fits");
    store.close().await;
    drop(store);
    tamper("PRAGMA user_version = 1");
    let store = open(dir.path());
    assert_eq!(indexes(&found(&store).await), whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_end_of_a_task_concerns_is_taken_from_its_opening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let task: TaskId = id("task", 5).parse().unwrap();
    let put = async |body: String| store.append(Entry::new("event", body.into_bytes()).of_task(task)).await.unwrap();
    put(format!(
        r#"{{"v":1,"kind":"task_opened","at":"{}","task":"{task}","opened":{{"spiffe_id":"spiffe://td/agent/a","instance":"i","owner":"ana","subject":"sam"}}}}"#,
        when(0)
    ))
    .await;
    put(format!(r#"{{"v":1,"kind":"task_ended","at":"{}","task":"{task}","state":"closed","reason":"completed"}}"#, when(1))).await;
    for (field, value) in [(Field::Owner, "ana"), (Field::Person, "sam"), (Field::Agent, "spiffe://td/agent/a")] {
        let facts = vec![fact(field, value), fact(Field::Kind, "task_ended")];
        assert_eq!(indexes(&store.search(Search { facts, limit: 5, ..Search::default() }).await.unwrap()), [1], "{field:?}");
    }
}
