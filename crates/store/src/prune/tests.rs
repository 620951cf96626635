//! What is old goes and its leaf stays; what is open is not touched; what died in between goes on.

use bailiwick_core::{Budget, CallId, Digest, EndReason, Grant, InstanceId, SpiffeId, Task, TaskId, TaskState};

use super::*;
use crate::{Integrated, Integrator, Intent, Options};

/// A tree that is a chain of digests.
struct Chain;

impl Integrator for Chain {
    fn integrate(&mut self, frontier: &[u8], entries: &[&[u8]]) -> Result<Integrated, String> {
        let (mut size, mut root) = frontier.split_first_chunk::<8>().map_or((0, [0; 32]), |(s, r)| (u64::from_be_bytes(*s), r.try_into().unwrap()));
        let leaves: Vec<[u8; 32]> = entries.iter().map(|e| *Digest::of(e).as_bytes()).collect();
        for leaf in &leaves {
            root = *Digest::bind("node", &[&root, leaf]).as_bytes();
            size += 1;
        }
        let frontier = [size.to_be_bytes().as_slice(), &root].concat();
        Ok(Integrated { leaves, frontier, size, root, checkpoint: format!("{size}") })
    }
}

fn open(dir: &std::path::Path) -> Store {
    Store::open_with(dir, Box::new(Chain), Options { log_bytes: 0, readers: 1 }).unwrap()
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn body(n: i64) -> Vec<u8> {
    format!(r#"{{"v":1,"kind":"house","at":"{}","what":"canary-{n}"}}"#, at(n)).into_bytes()
}

/// A store with `n` entries, one a millisecond.
async fn store_of(dir: &std::path::Path, n: i64) -> Store {
    let store = open(dir);
    for i in 0..n {
        store.append_relaxed(Entry::new("house", body(i))).await.unwrap();
    }
    store.write(|_| Ok(())).await.unwrap();
    store
}

fn task(n: u8) -> Task {
    let agent: bailiwick_core::AgentName = "clerk".parse().unwrap();
    Task {
        id: TaskId::new(at(0), [n; 10]),
        spiffe_id: SpiffeId::agent(&"example.org".parse().unwrap(), &agent),
        agent,
        instance: InstanceId::new(at(0), [n; 10]),
        owner: "olive".parse().unwrap(),
        subject: "sam".parse().unwrap(),
        purpose: "p".to_owned(),
        model_claimed: None,
        model_attested: None,
        component: None,
        undivided: false,
        held_by: None,
        proved_by: None,
        chain: Vec::new(),
        grant: Grant::default(),
        budget: Budget { calls: 1000, calls_per_minute: 100 },
        opened_at: at(0),
        expires_at: at(1_000_000),
    }
}

async fn prune(store: &Store, to: u64) -> Result<u64, StoreError> {
    store.write(move |w| w.prune(Entry::new("pruned", body(9999)), to)).await
}

#[tokio::test]
async fn bodies_of_the_pruned_are_gone_from_the_file_their_leaves_stay_and_the_store_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), 1000).await;
    let (head, leaves) = (store.head(), store.leaves(0..1000).await.unwrap());
    let prunable = store.prunable(at(600), u64::MAX).await.unwrap();
    // 600 are old enough, and two whole bundles of them.
    assert_eq!(prunable, Prunable { from: 0, to: 512, held_by: None });
    assert_eq!(store.leaves(0..1000).await.unwrap(), leaves);
    assert_eq!(prune(&store, 512).await.unwrap(), 1000);
    assert_eq!(store.minimum().await.unwrap(), 512);
    assert!(store.prune_on().await.unwrap());
    // Until somebody says that index and log are clean too, it is not done.
    assert!(store.prune_on().await.unwrap());
    store.pruned_done().await.unwrap();
    assert!(!store.prune_on().await.unwrap());
    store.cut_log().await.unwrap();
    let rows = store.entries(0..1001).await.unwrap();
    assert_eq!(rows.len(), 1001);
    assert!(rows.iter().all(|r| r.body.is_empty() == (r.index < 512)), "another body went, or stayed");
    assert_eq!(store.leaves(0..1000).await.unwrap(), leaves);
    assert_ne!(store.head(), head);
    store.close().await;
    drop(store);
    let bytes = std::fs::read(dir.path().join("bailiwick.sqlite")).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(!holds("\"canary-0\"") && !holds("\"canary-511\"") && holds("\"canary-512\""));
    let store = open(dir.path());
    assert_eq!(store.append(Entry::new("house", body(2000))).await.unwrap(), 1001);
    assert_eq!(store.minimum().await.unwrap(), 512);
    store.close().await;
}

#[tokio::test]
async fn only_whole_bundles_only_forwards_and_nothing_that_is_too_young_or_without_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), 700).await;
    for bad in [0, 100, 257, 768, 7680] {
        assert!(matches!(prune(&store, bad).await, Err(StoreError::Conflict { .. })), "{bad}");
    }
    // At the boundary: entry 511 is of 511 ms, entry 512 of 512.
    assert_eq!(store.prunable(at(511), u64::MAX).await.unwrap().to, 256);
    assert_eq!(store.prunable(at(512), u64::MAX).await.unwrap().to, 512);
    assert_eq!(store.prunable(at(1_000_000), 600).await.unwrap(), Prunable { from: 0, to: 512, held_by: Some(HeldBy::Bound) });
    prune(&store, 256).await.unwrap();
    assert!(prune(&store, 256).await.is_err());
    store.append(Entry::new("house", b"no time at all".to_vec())).await.unwrap();
    for i in 0..600 {
        store.append_relaxed(Entry::new("house", body(i))).await.unwrap();
    }
    store.write(|_| Ok(())).await.unwrap();
    // Entry 700 is the one that says that it was pruned, 701 has no time.
    assert_eq!(store.prunable(at(1_000_000), u64::MAX).await.unwrap().to, 512);
    store.close().await;
}

#[tokio::test]
async fn an_open_task_and_an_open_call_hold_whatever_is_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), 300).await;
    let of = task(1);
    store.open_task(&of, body(300)).await.unwrap();
    for i in 301..900 {
        store.append_relaxed(Entry::new("house", body(i))).await.unwrap();
    }
    let call = CallId::new(at(0), [1; 10]);
    let intent =
        Intent { known_control: store.control_seq(), task: of.id, call, consume: None, assigns: None, budget_calls: 9, at: at(0), body: body(900) };
    let intent = store.intent(intent).await.unwrap().unwrap();
    assert_eq!(intent, 900);
    for i in 901..1600 {
        store.append_relaxed(Entry::new("house", body(i))).await.unwrap();
    }
    store.write(|_| Ok(())).await.unwrap();
    let old = at(1_000_000);
    assert_eq!(store.prunable(old, u64::MAX).await.unwrap(), Prunable { from: 0, to: 256, held_by: Some(HeldBy::OpenTask) });
    let (reason, ended) = (EndReason::Completed, at(5));
    store.end_task(of.id, TaskState::Closed { reason, at: ended }, body(1600)).await.unwrap();
    assert_eq!(store.prunable(old, u64::MAX).await.unwrap(), Prunable { from: 0, to: 768, held_by: Some(HeldBy::OpenCall) });
    // The writer looks itself, whatever it is told.
    assert!(prune(&store, 1024).await.is_err());
    store.outcome(intent, call, body(1601)).await.unwrap();
    assert_eq!(store.prunable(old, u64::MAX).await.unwrap(), Prunable { from: 0, to: 1536, held_by: None });
    assert_eq!(store.forget_tasks_before(at(1_000_000)).await.unwrap(), 0);
    assert_eq!(store.forget_tasks_before(at(1_000_001)).await.unwrap(), 1);
    assert!(store.task(of.id).await.unwrap().is_none());
    store.close().await;
}

#[tokio::test]
async fn what_no_anchor_counts_yet_is_pruned_too_and_the_next_start_finds_its_tree() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), 0).await;
    // Entries that are waited for one by one, and nothing that sets the anchor.
    for i in 0..300 {
        store.append(Entry::new("house", body(i))).await.unwrap();
    }
    assert_eq!(store.prunable(at(1_000_000), u64::MAX).await.unwrap().to, 256);
    prune(&store, 256).await.unwrap();
    // The process is gone before a body is.
    store.close().await;
    drop(store);
    let store = open(dir.path());
    assert!(store.prune_on().await.unwrap());
    store.close().await;
    drop(store);
    let store = open(dir.path());
    assert_eq!((store.minimum().await.unwrap(), store.head().size), (256, 301));
    store.close().await;
}

#[tokio::test]
async fn what_says_that_entries_were_pruned_and_the_seams_of_shards_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), 300).await;
    prune(&store, 256).await.unwrap();
    store.append(Entry::new("shard", body(301))).await.unwrap();
    for i in 302..600 {
        store.append_relaxed(Entry::new("house", body(i))).await.unwrap();
    }
    store.write(|_| Ok(())).await.unwrap();
    prune(&store, 512).await.unwrap();
    store.prune_on().await.unwrap();
    let kept: Vec<_> = store.entries(0..512).await.unwrap().into_iter().filter(|r| !r.body.is_empty()).map(|r| (r.index, r.kind)).collect();
    assert_eq!(kept, [(300, "pruned".to_owned()), (301, "shard".to_owned())]);
    store.close().await;
}

#[tokio::test]
async fn a_pruning_that_died_after_it_was_on_record_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(dir.path(), 3000).await;
    prune(&store, 2816).await.unwrap();
    // One step, and the process is gone.
    assert!(store.write(|w| w.prune_step()).await.unwrap());
    store.close().await;
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.minimum().await.unwrap(), 2816);
    assert!(store.prune_on().await.unwrap());
    assert!(store.entries(0..2816).await.unwrap().iter().all(|r| r.body.is_empty()));
    store.close().await;
}
