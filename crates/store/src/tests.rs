//! Tests of the store as a whole, on real files, with a chain of digests in place of the tree.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bailiwick_core::hold::HoldState;
use bailiwick_core::record::Lost;
use bailiwick_core::{
    Budget, CallId, Digest, Effect, EndReason, ErrorCode, Grant, Hold, HoldId, InstanceId, SpiffeId, Task, TaskId, TaskState, Timestamp,
};

use crate::{
    Entry, EntryRow, HoldFilter, Incident, Integrated, Integrator, Intent, Options, Pin, PinStatus, Reason, Registered, Store, StoreError,
    TaskFilter, TooMany,
};

mod bench;
mod crash;
mod faults;
mod index;
mod journal;
mod labels;
mod leases;
mod parts;
mod sealed;

/// The frontier is the size and a chain over the entries.
#[derive(Default)]
struct Chain {
    broken: Arc<AtomicBool>,
}

impl Integrator for Chain {
    fn integrate(&mut self, frontier: &[u8], entries: &[&[u8]]) -> Result<Integrated, String> {
        if self.broken.load(Ordering::Relaxed) {
            return Err("broken by the test".to_owned());
        }
        let (mut size, mut root) = match frontier.split_first_chunk::<8>() {
            Some((size, root)) => (u64::from_be_bytes(*size), root.try_into().unwrap()),
            None => (0, [0; 32]),
        };
        let mut leaves = Vec::new();
        for entry in entries {
            let leaf = *Digest::of(entry).as_bytes();
            root = *Digest::bind("node", &[&root, &leaf]).as_bytes();
            leaves.push(leaf);
            size += 1;
        }
        let frontier = [size.to_be_bytes().as_slice(), &root].concat();
        Ok(Integrated { leaves, frontier, size, root, checkpoint: format!("test\n{size}\n{}\n", Digest::from_bytes(root)) })
    }
}

fn open(dir: &Path) -> Store {
    Store::open_with(dir, Box::new(Chain::default()), Options { log_bytes: 1 << 20, readers: 2 }).unwrap()
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn random(n: u64) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[2..].copy_from_slice(&n.to_be_bytes());
    bytes
}

fn call(n: u64) -> CallId {
    CallId::new(at(1000), random(n))
}

fn task(n: u64) -> Task {
    let agent: bailiwick_core::AgentName = "clerk".parse().unwrap();
    Task {
        id: TaskId::new(at(1000), random(n)),
        spiffe_id: SpiffeId::agent(&"example.org".parse().unwrap(), &agent),
        agent,
        instance: InstanceId::new(at(1000), random(n)),
        owner: "olive@example.org".parse().unwrap(),
        subject: "sam@example.org".parse().unwrap(),
        purpose: "refunds of the week".to_owned(),
        model_claimed: None,
        model_attested: None,
        component: None,
        undivided: false,
        held_by: None,
        proved_by: None,
        chain: Vec::new(),
        grant: Grant::default(),
        budget: Budget { calls: 1000, calls_per_minute: 100 },
        opened_at: at(1000),
        expires_at: at(1_000_000),
    }
}

fn hold(n: u64, of: &Task) -> Hold {
    Hold {
        id: HoldId::new(at(2000), random(n)),
        call: call(n),
        task: of.id,
        agent: of.agent.clone(),
        owner: of.owner.clone(),
        subject: of.subject.clone(),
        tool: "shop.refund_order".parse().unwrap(),
        effect: Effect::Transfer,
        target: "shop".to_owned(),
        arguments: br#"{"order":7}"#.to_vec().into(),
        key: Digest::of(b"key"),
        digest: Digest::of(b"digest"),
        revision: "r1".to_owned(),
        people: vec!["pia@example.org".parse().unwrap()],
        count: 1,
        reasons: "money moves".to_owned(),
        approvals: Vec::new(),
        at: at(2000),
        expires_at: at(500_000),
        state: HoldState::Pending,
    }
}

fn approved(hold: &Hold) -> Hold {
    Hold { state: HoldState::Approved { at: at(2500) }, ..hold.clone() }
}

fn intent(store: &Store, of: &Task, n: u64) -> Intent {
    Intent {
        known_control: store.control_seq(),
        task: of.id,
        call: call(n),
        consume: None,
        assigns: None,
        budget_calls: 1000,
        at: at(3000),
        body: format!("intent {n}").into_bytes(),
    }
}

/// The whole ledger: dense, every leaf and the root right, every intent closed at most once.
async fn check_whole(store: &Store) -> Vec<EntryRow> {
    let head = store.head();
    let entries = store.entries(0..head.size).await.unwrap();
    assert_eq!(entries.len() as u64, head.size);
    let bodies: Vec<&[u8]> = entries.iter().map(|e| e.body.as_slice()).collect();
    let tree = Chain::default().integrate(&[], &bodies).unwrap();
    assert_eq!((tree.size, tree.root), (head.size, head.root));
    let mut closed = BTreeSet::new();
    for (n, (entry, leaf)) in entries.iter().zip(tree.leaves).enumerate() {
        assert_eq!((entry.index, entry.leaf), (n as u64, leaf));
        if let Some(intent) = entry.closes {
            assert!(closed.insert(intent) && entries[intent as usize].kind == "intent" && entries[intent as usize].call == entry.call);
        }
    }
    assert_eq!(store.leaves(0..head.size).await.unwrap().len() as u64, head.size);
    entries
}

async fn picture(store: &Store) -> String {
    store.write(|w| Ok(w.state.picture())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn intents_from_many_callers_have_dense_indexes_and_a_right_root() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, b"open".to_vec()).await.unwrap();
    let mut callers = Vec::new();
    for caller in 0..32u64 {
        let (store, of) = (store.clone(), of.clone());
        callers.push(tokio::spawn(async move {
            let mut indexes = Vec::new();
            for n in 0..20 {
                let intent = intent(&store, &of, caller * 100 + n);
                let id = intent.call;
                let index = store.intent(intent).await.unwrap().unwrap();
                indexes.push(index);
                store.outcome(index, id, b"done".to_vec()).await.unwrap();
            }
            indexes
        }));
    }
    let mut all = BTreeSet::new();
    for caller in callers {
        for index in caller.await.unwrap() {
            assert!(all.insert(index), "index {index} was given twice");
        }
    }
    let entries = check_whole(&store).await;
    assert_eq!(entries.len(), 1 + 2 * 640);
    assert!(all.iter().all(|i| entries[*i as usize].kind == "intent"));
    assert_eq!(store.task(of.id).await.unwrap().unwrap().used, 640);
    assert_eq!(store.open_intents().await.unwrap(), Vec::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_calls_at_once_a_budget_of_one_admits_exactly_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for round in 0..20 {
        let of = task(round);
        store.open_task(&of, Vec::new()).await.unwrap();
        let one = |n| Intent { budget_calls: 1, ..intent(&store, &of, n) };
        let (a, b) = tokio::join!(store.intent(one(1)), store.intent(one(2)));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!(a.is_ok() ^ b.is_ok(), "{a:?} {b:?}");
        assert_eq!(a.err().or(b.err()), Some(Lost::BudgetCalls));
    }
}

#[tokio::test]
async fn an_approval_is_spent_by_one_call_and_never_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (of, other) = (task(1), task(2));
    store.open_task(&of, Vec::new()).await.unwrap();
    store.open_task(&other, Vec::new()).await.unwrap();
    let held = store.hold_open(&hold(1, &of), Vec::new(), 10).await.unwrap().unwrap();
    let with = |n, of: &Task| Intent { consume: Some(held.id), ..intent(&store, of, n) };
    assert_eq!(store.intent(with(1, &of)).await.unwrap(), Err(Lost::ApprovalGone), "pending is no yes");
    assert!(store.hold_update(&held, &approved(&held), Vec::new()).await.unwrap());
    assert_eq!(store.intent(with(2, &other)).await.unwrap(), Err(Lost::ApprovalGone), "it is bound to its task");
    let late = Intent { at: at(500_000), ..with(3, &of) };
    assert_eq!(store.intent(late).await.unwrap(), Err(Lost::ApprovalGone), "it has an end");
    let (a, b) = tokio::join!(store.intent(with(4, &of)), store.intent(with(5, &of)));
    assert!(a.unwrap().is_ok());
    assert_eq!(b.unwrap(), Err(Lost::ApprovalGone));
    assert_eq!(store.hold(held.id).await.unwrap().unwrap().state, HoldState::Consumed { call: call(4), at: at(3000) });
    store.close().await;
    drop(store);
    let store = open(dir.path());
    let again = Intent { consume: Some(held.id), ..intent(&store, &of, 6) };
    assert_eq!(store.intent(again).await.unwrap(), Err(Lost::ApprovalGone));
    let consumed = store.hold(held.id).await.unwrap().unwrap();
    assert!(!store.hold_update(&held, &approved(&held), Vec::new()).await.unwrap(), "what was seen is not what is");
    let revived = store.hold_update(&Hold { state: HoldState::Pending, ..consumed.clone() }, &approved(&consumed), Vec::new()).await;
    assert!(!revived.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_passes_after_the_end_of_its_task_has_returned() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = Vec::new();
    for caller in 0..8u64 {
        let (store, of, stop) = (store.clone(), of.clone(), stop.clone());
        callers.push(tokio::spawn(async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                let intent = Intent { budget_calls: u64::MAX, ..intent(&store, &of, caller * 1_000_000 + n) };
                let _ = store.intent(intent).await.unwrap();
                n += 1;
            }
        }));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let closing = TaskState::Closing { reason: EndReason::Revoked, at: at(4000) };
    let ended = store.end_task(of.id, closing, b"end".to_vec()).await.unwrap();
    let end = ended.entry.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let entries = check_whole(&store).await;
    assert!(entries[..end as usize].iter().any(|e| e.kind == "intent"));
    assert!(entries[end as usize..].iter().all(|e| e.kind != "intent"));
    let row = store.task(of.id).await.unwrap().unwrap();
    assert_eq!((row.state, row.used), (closing, entries.iter().filter(|e| e.kind == "intent").count() as u64));
    assert_eq!(store.intent(intent(&store, &of, 9)).await.unwrap(), Err(Lost::TaskClosed));
}

#[tokio::test]
async fn a_task_ends_forwards_only_and_takes_its_holds_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    assert!(matches!(store.open_task(&of, Vec::new()).await, Err(StoreError::Conflict { .. })));
    let held = store.hold_open(&hold(1, &of), Vec::new(), 10).await.unwrap().unwrap();
    store.hold_update(&held, &approved(&held), Vec::new()).await.unwrap();
    let before = store.control_seq();
    let closing = TaskState::Closing { reason: EndReason::Completed, at: at(4000) };
    let ended = store.end_task(of.id, closing, Vec::new()).await.unwrap();
    assert_eq!(ended.withdrawn, vec![held.id]);
    assert_eq!(store.hold(held.id).await.unwrap().unwrap().state, HoldState::Withdrawn { at: at(4000) });
    assert_eq!(store.control_seq(), before + 1);
    let again = TaskState::Closing { reason: EndReason::Revoked, at: at(5000) };
    assert_eq!(store.end_task(of.id, again, Vec::new()).await.unwrap().entry, None);
    let closed = closing.closed(at(6000)).unwrap();
    assert!(store.end_task(of.id, closed, Vec::new()).await.unwrap().entry.is_some());
    assert_eq!(store.end_task(of.id, again, Vec::new()).await.unwrap().entry, None);
    assert_eq!(store.task(of.id).await.unwrap().unwrap().state, closed);
    assert!(store.end_task(of.id, TaskState::Open, Vec::new()).await.is_err());
    assert!(store.hold_open(&hold(2, &of), Vec::new(), 10).await.is_err(), "a task that is not open holds nothing");
    let filter = TaskFilter { agent: Some(of.agent.clone()), state: Some("closed"), ..TaskFilter::default() };
    assert_eq!(store.tasks(filter).await.unwrap().len(), 1);
    assert_eq!(store.tasks(TaskFilter { state: Some("open"), ..TaskFilter::default() }).await.unwrap(), Vec::new());
}

#[tokio::test]
async fn a_call_decided_before_authority_changed_is_stale() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    let decided = intent(&store, &of, 1);
    store.change(Entry::new("agent.put", Vec::new()), |_| Ok(())).await.unwrap();
    assert_eq!(store.control_seq(), decided.known_control, "a grant moves no fence");
    let revoke = store.control(Entry::new("pin.quarantined", b"x".to_vec()), |w| w.meta_put("k", b"v"));
    let (revoked, called) = tokio::join!(revoke, store.intent(decided.clone()));
    revoked.unwrap();
    assert_eq!(called.unwrap(), Err(Lost::Stale), "even in the same batch");
    assert_eq!(store.meta("k").await.unwrap(), Some(b"v".to_vec()));
    assert!(store.intent(intent(&store, &of, 2)).await.unwrap().is_ok());
    let fence = store.control_seq();
    store.close().await;
    drop(store);
    assert_eq!(open(dir.path()).control_seq(), fence, "the fence is durable");
}

#[tokio::test]
async fn a_change_that_fails_leaves_nothing_and_harms_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (of, other) = (task(1), task(2));
    store.open_task(&of, Vec::new()).await.unwrap();
    let before = picture(&store).await;
    let doomed = {
        let other = other.clone();
        let held = hold(1, &of);
        store.control(Entry::new("x", Vec::new()), move |w| {
            w.open_task(&other, crate::Opening::default(), |_| Vec::new())?;
            w.hold_open(&held, Vec::new(), 5)?.unwrap();
            w.end_task(held.task, TaskState::Closing { reason: EndReason::Revoked, at: at(1) }, Vec::new())?;
            w.meta_put("k", b"v")?;
            Err::<(), _>(StoreError::conflict("changed its mind"))
        })
    };
    let (failed, passed) = tokio::join!(doomed, store.intent(intent(&store, &of, 1)));
    assert!(matches!(failed, Err(StoreError::Conflict { .. })));
    assert_eq!(passed.unwrap(), Ok(1));
    assert_eq!(store.meta("k").await.unwrap(), None);
    assert_eq!(store.task(other.id).await.unwrap(), None);
    assert_eq!(store.outcome(1, call(1), Vec::new()).await.unwrap(), 2);
    let after = picture(&store).await;
    assert_eq!(after.replacen("used: 1", "used: 0", 1).replacen('3', "1", 1), before);
    check_whole(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn identical_calls_at_once_get_one_hold() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    let mut callers = Vec::new();
    for n in 0..16 {
        let (store, hold) = (store.clone(), hold(n, &of));
        callers.push(tokio::spawn(async move { store.hold_open(&hold, Vec::new(), 10).await.unwrap().unwrap().id }));
    }
    let mut ids = BTreeSet::new();
    for caller in callers {
        ids.insert(caller.await.unwrap());
    }
    assert_eq!(ids.len(), 1);
    let entries = check_whole(&store).await;
    assert_eq!(entries.iter().filter(|e| e.kind == "hold.opened").count(), 1);
    let found = store.hold_by_key(Digest::of(b"key"), of.id).await.unwrap().unwrap();
    assert!(ids.contains(&found.id));
    let mut original = hold(0, &of);
    (original.id, original.call) = (found.id, found.call);
    assert_eq!(found, original, "every field reads back");
    let mine = HoldFilter { approver: Some("pia@example.org".parse().unwrap()), state: Some("pending"), ..HoldFilter::default() };
    assert_eq!(store.holds(mine).await.unwrap().len(), 1);
    let not_mine = HoldFilter { approver: Some("olive@example.org".parse().unwrap()), ..HoldFilter::default() };
    assert_eq!(store.holds(not_mine).await.unwrap(), Vec::new());
}

#[tokio::test]
async fn a_hold_is_found_until_it_is_over_and_a_task_may_wait_only_so_often() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    let first = store.hold_open(&hold(1, &of), Vec::new(), 1).await.unwrap().unwrap();
    let another = Hold { key: Digest::of(b"another"), ..hold(2, &of) };
    assert_eq!(store.hold_open(&another, Vec::new(), 1).await.unwrap(), Err(TooMany));
    let refused = HoldState::Refused { by: "pia@example.org".parse().unwrap(), reason: "no".to_owned(), at: at(2600) };
    let refused = Hold { state: refused, ..first.clone() };
    assert!(store.hold_update(&first, &refused, Vec::new()).await.unwrap());
    assert!(!store.hold_update(&first, &approved(&first), Vec::new()).await.unwrap(), "the second to decide is too late");
    assert_eq!(store.hold_open(&hold(3, &of), Vec::new(), 1).await.unwrap().unwrap(), refused, "people are not asked twice");
    let later = Hold { at: at(500_000), expires_at: at(600_000), ..hold(4, &of) };
    assert_eq!(store.hold_open(&later, Vec::new(), 1).await.unwrap().unwrap().id, later.id);
    let consumed = Hold { state: HoldState::Consumed { call: call(1), at: at(1) }, ..later.clone() };
    assert!(store.hold_update(&later, &consumed, Vec::new()).await.is_err());
    store.result_put(later.id, b"answer".to_vec()).await.unwrap();
    store.result_put(later.id, b"other".to_vec()).await.unwrap();
    assert_eq!(store.result(later.id).await.unwrap(), Some(b"other".to_vec()));
    assert!(store.result_put(another.id, Vec::new()).await.is_err(), "no result without a hold");
}

#[tokio::test]
async fn an_intent_is_closed_once_and_by_its_own_call() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    let index = store.intent(intent(&store, &of, 1)).await.unwrap().unwrap();
    assert!(store.outcome(index, call(2), Vec::new()).await.is_err());
    assert!(store.outcome(index + 7, call(1), Vec::new()).await.is_err());
    store.outcome_relaxed(index, call(1), b"done".to_vec()).await.unwrap();
    assert!(store.outcome(index, call(1), Vec::new()).await.is_err());
    assert_eq!(store.relaxed_lost(), 0);
    store.outcome_relaxed(index, call(1), Vec::new()).await.unwrap();
    store.append(Entry::new("mark", Vec::new())).await.unwrap();
    assert_eq!((store.relaxed_lost(), store.relaxed_outstanding()), (1, 0));
    assert!(store.append(Entry::new("intent", Vec::new())).await.is_err());
    let big = Intent { body: vec![0; 65_536], ..intent(&store, &of, 3) };
    assert!(matches!(store.intent(big).await, Err(StoreError::TooLarge { .. })));
    assert_eq!(store.task(of.id).await.unwrap().unwrap().used, 1, "what is refused costs nothing");
}

#[tokio::test]
async fn an_assertion_is_used_once_and_a_flood_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (a, b) = tokio::join!(store.jti_use("clerk", "1", at(100), at(1)), store.jti_use("clerk", "1", at(100), at(1)));
    assert!(a.unwrap() ^ b.unwrap());
    assert!(store.jti_use("other", "1", at(100), at(1)).await.unwrap());
    assert!(!store.jti_use("clerk", "2", at(5), at(5)).await.unwrap(), "expired");
    store.close().await;
    drop(store);
    let store = open(dir.path());
    assert!(!store.jti_use("clerk", "1", at(100), at(99)).await.unwrap());
    let flood = |from: i64, now| {
        store.write(move |w| (from..from + 5000).map(|n| w.jti_use("flood", &n.to_string(), at(1000), at(now))).collect::<Result<Vec<_>, _>>())
    };
    assert_eq!(flood(0, 1).await.unwrap().into_iter().filter(|ok| *ok).count(), 4096);
    assert!(store.jti_use("clerk", "3", at(100), at(50)).await.unwrap(), "one agent's flood is its own");
    assert!(store.jti_use("flood", "x", at(2000), at(1000)).await.unwrap(), "what has expired makes room");
}

#[tokio::test]
async fn what_is_registered_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let pin = Pin {
        system: "shop".parse().unwrap(),
        tool: "refund_order".to_owned(),
        definition: b"{}".to_vec(),
        digest: Digest::of(b"{}"),
        effect: Effect::Transfer,
        status: PinStatus::Classified,
        classified_by: Some("olive@example.org".parse().unwrap()),
        at: at(5),
    };
    let agent = Registered { name: "clerk".parse().unwrap(), document: "{}".to_owned(), public_key: vec![1], at: at(6) };
    let incident =
        Incident { id: bailiwick_core::IncidentId::new(at(7), random(1)), kind: "identity.twice".to_owned(), at: at(7), document: "{}".to_owned() };
    let (p, a, i) = (pin.clone(), agent.clone(), incident.clone());
    let put = move |w: &mut crate::Writing<'_>| {
        w.pin_put(&p)?;
        w.agent_put(&a)?;
        w.incident_put(&i)?;
        assert_eq!(w.pin(&p.system, &p.tool)?, Some(p));
        Ok(())
    };
    store.change(Entry::new("registered", Vec::new()), put).await.unwrap();
    assert_eq!(store.pins().await.unwrap(), vec![pin.clone()]);
    assert_eq!(store.pin(&pin.system, "absent").await.unwrap(), None);
    assert_eq!(store.agents().await.unwrap(), vec![agent]);
    assert_eq!(store.people().await.unwrap(), Vec::new());
    assert_eq!(store.incidents(10).await.unwrap(), vec![incident]);
    store.secret_put("shop", vec![1, 2]).await.unwrap();
    assert_eq!(store.secret_names().await.unwrap(), vec!["shop".to_owned()]);
    assert_eq!(store.secret("shop").await.unwrap(), Some(vec![1, 2]));
    assert!(store.secret_delete("shop").await.unwrap() && !store.secret_delete("shop").await.unwrap());
    assert!(matches!(store.meta_put("k", vec![0; 2 << 20]).await, Err(StoreError::TooLarge { .. })));
}

#[tokio::test]
async fn entries_are_found_by_call_and_by_task_and_the_index_is_rebuilt_if_it_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (of, other) = (task(1), task(2));
    store.open_task(&of, Vec::new()).await.unwrap();
    store.open_task(&other, Vec::new()).await.unwrap();
    store.append(Entry::new("denial", Vec::new()).of_task(of.id).of_call(call(1))).await.unwrap();
    let index = store.intent(intent(&store, &of, 1)).await.unwrap().unwrap();
    store.outcome(index, call(1), Vec::new()).await.unwrap();
    let found = async |store: &Store| {
        assert_eq!(store.index_of_call(call(1)).await.unwrap(), Some(index));
        assert_eq!(store.index_of_call(call(2)).await.unwrap(), None);
        let of_call: Vec<u64> = store.entries_of_call(call(1)).await.unwrap().iter().map(|e| e.index).collect();
        assert_eq!(of_call, vec![2, 3, 4]);
        let of_task: Vec<u64> = store.entries_of_task(of.id, 0, 100).await.unwrap().iter().map(|e| e.index).collect();
        assert_eq!(of_task, vec![0, 2, 3, 4]);
        assert_eq!(store.entries_of_task(of.id, 3, 1).await.unwrap().len(), 1);
    };
    found(&store).await;
    store.close().await;
    drop(store);
    let conn = rusqlite::Connection::open(dir.path().join("index.sqlite")).unwrap();
    conn.execute_batch("UPDATE cursor SET leaf = x'00'; DELETE FROM call_index").unwrap();
    drop(conn);
    let store = open(dir.path());
    found(&store).await;
    drop(store);
    std::fs::write(dir.path().join("index.sqlite"), b"no database at all, but long enough to look at").unwrap();
    found(&open(dir.path())).await;
}

#[tokio::test]
async fn a_second_process_is_refused_and_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let store = open(&dir);
    let again = Store::open_with(&dir, Box::new(Chain::default()), Options::default());
    assert!(matches!(again, Err(StoreError::Locked { .. })));
    store.append(Entry::new("x", Vec::new())).await.unwrap();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    store.close().await;
    assert!(matches!(store.append(Entry::new("x", Vec::new())).await, Err(StoreError::Closed)));
    assert!(matches!(store.entry(0).await, Err(StoreError::Closed)));
    let reopened = open(&dir);
    assert_eq!(reopened.head().size, 1);
    drop((store, reopened));
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Store::open(&dir, Box::new(Chain::default())), Err(StoreError::Directory { .. })));
}

#[tokio::test]
async fn an_intent_whose_caller_went_away_is_listed_as_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    {
        let gone = store.intent(intent(&store, &of, 1));
        let mut gone = std::pin::pin!(gone);
        // Polled once, so that it is queued for the writer's thread; then dropped, as by a caller that was cancelled.
        store.inner.desk.crowd(2);
        std::future::poll_fn(|cx| {
            let _ = gone.as_mut().poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
    }
    let here = store.intent(intent(&store, &of, 2)).await.unwrap().unwrap();
    let left = store.open_intents().await.unwrap();
    assert_eq!(left, vec![(1, call(1))]);
    store.outcome(1, call(1), b"unknown".to_vec()).await.unwrap();
    assert_eq!(store.open_intents().await.unwrap(), Vec::new());
    store.close().await;
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.open_intents().await.unwrap(), vec![(here, call(2))], "a crash leaves what was under way");
    let mut heads = store.subscribe_head();
    store.outcome(here, call(2), b"unknown".to_vec()).await.unwrap();
    heads.changed().await.unwrap();
    assert_eq!(heads.borrow().size, store.head().size);
    drop(heads);
    drop(store);
    assert_eq!(open(dir.path()).open_intents().await.unwrap(), Vec::new());
}
