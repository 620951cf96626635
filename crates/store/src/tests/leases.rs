//! Leases: nothing begins for a task that ends, and no task is closed over one that has no ending.

use bailiwick_core::LeaseId;

use super::journal::{behind, crashed};
use super::*;
use crate::{Assignment, Lease, LeaseFilter, LeaseLife, LeaseRow, LeaseState, MadeEntry};

/// An entry whatever becomes of the lease.
fn entry_of(text: &str) -> MadeEntry {
    MadeEntry { made: text.as_bytes().to_vec(), not_used: br#"{"state":"not_used"}"#.to_vec() }
}

fn row(n: u64, of: Option<TaskId>) -> LeaseRow {
    let id = LeaseId::new(at(1000), random(n));
    LeaseRow {
        lease: Lease {
            id,
            system: "orders".parse().unwrap(),
            class: "read".to_owned(),
            kind: "memory".to_owned(),
            account: format!("ag_{n:026}"),
            target: "postgresql://127.0.0.1:5432/shop".to_owned(),
            rights: vec!["orders_ro".to_owned()],
            begun_at: at(1000),
        },
        task: of,
        state: LeaseState::Intended,
        life: LeaseLife::default(),
        secret: Some(b"sealed".to_vec()),
    }
}

fn closing(at: Timestamp) -> TaskState {
    TaskState::Closing { reason: EndReason::Completed, at }
}

fn closed(at: Timestamp) -> TaskState {
    TaskState::Closed { reason: EndReason::Completed, at }
}

async fn state(store: &Store, n: u64) -> LeaseState {
    store.lease(LeaseId::new(at(1000), random(n))).await.unwrap().unwrap().state
}

#[tokio::test]
async fn a_task_is_closed_only_when_each_of_its_leases_has_its_ending() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let task = task(1);
    store.open_task(&task, b"{}".to_vec()).await.unwrap();
    for n in 0..2 {
        store.lease_begin(row(n, Some(task.id)), b"{}".to_vec()).await.unwrap().unwrap();
    }
    let id = |n| LeaseId::new(at(1000), random(n));
    assert!(store.lease_made(id(0), LeaseLife::default(), None, entry_of("{}")).await.unwrap());
    store.end_task(task.id, closing(at(2000)), b"{}".to_vec()).await.unwrap();
    assert_eq!((state(&store, 0).await, state(&store, 1).await), (LeaseState::Ending, LeaseState::Ending));
    // The mint that was under way comes to its end: what it made is known, and must not be used.
    let made = LeaseLife { ids: serde_json::json!({ "oid": "7" }), ..LeaseLife::default() };
    assert!(!store.lease_made(id(1), made.clone(), Some(b"other".to_vec()), entry_of("{}")).await.unwrap());
    let found = store.lease(id(1)).await.unwrap().unwrap();
    assert_eq!((found.state, found.life, found.secret.as_deref()), (LeaseState::Ending, made, Some(b"other".as_slice())));
    for n in 0..2 {
        let refused = store.end_task(task.id, closed(at(3000)), b"{}".to_vec()).await.unwrap_err();
        assert!(matches!(refused, StoreError::Conflict { .. }), "{refused:?}");
        assert!(store.lease_ended(id(n), LeaseLife::default(), at(3000), b"{}".to_vec()).await.unwrap());
        assert!(!store.lease_ended(id(n), LeaseLife::default(), at(3001), b"{}".to_vec()).await.unwrap());
    }
    // What was made while its task ended is on record as that.
    let bodies: Vec<Vec<u8>> = store.entries_newest(100).await.unwrap().into_iter().map(|entry| entry.body.clone()).collect();
    let late = bodies.iter().filter(|body| body.as_slice() == br#"{"state":"not_used"}"#).count();
    assert_eq!(late, 1);
    // Nothing of a task that is not closed is forgotten, and of one that is only what ended long ago.
    assert_eq!(store.leases_forget(at(9000)).await.unwrap(), 0);
    assert!(store.end_task(task.id, closed(at(3000)), b"{}".to_vec()).await.unwrap().entry.is_some());
    assert_eq!(store.lease(id(0)).await.unwrap().unwrap().secret, None);
    assert_eq!(store.leases_forget(at(3000)).await.unwrap(), 0);
    assert_eq!(store.leases_forget(at(3001)).await.unwrap(), 2);
    assert!(store.lease(id(0)).await.unwrap().is_none());
    store.close().await;
}

#[tokio::test]
async fn nothing_begins_for_a_task_that_is_not_open_and_nothing_is_ended_unsaid() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, two) = (task(1), task(2));
    store.open_task(&one, b"{}".to_vec()).await.unwrap();
    store.open_task(&two, b"{}".to_vec()).await.unwrap();
    store.end_task(one.id, closing(at(2000)), b"{}".to_vec()).await.unwrap();
    assert!(store.lease_begin(row(0, Some(one.id)), b"{}".to_vec()).await.unwrap().is_err());
    assert!(store.lease(LeaseId::new(at(1000), random(0))).await.unwrap().is_none());
    store.lease_begin(row(1, Some(two.id)), b"{}".to_vec()).await.unwrap().unwrap();
    let id = LeaseId::new(at(1000), random(1));
    let unsaid = store.lease_ended(id, LeaseLife::default(), at(1), b"{}".to_vec()).await.unwrap_err();
    assert!(matches!(unsaid, StoreError::Conflict { .. }), "{unsaid:?}");
    assert!(store.lease_ending(id).await.unwrap() && !store.lease_ending(id).await.unwrap());
    let open = |open| LeaseFilter { open, limit: 10, ..LeaseFilter::default() };
    assert_eq!(store.leases(open(true)).await.unwrap().len(), 1);
    assert!(store.lease_ended(id, LeaseLife::default(), at(1), b"{}".to_vec()).await.unwrap());
    assert_eq!((store.leases(open(true)).await.unwrap().len(), store.leases(open(false)).await.unwrap().len()), (0, 1));
    store.close().await;
}

#[tokio::test]
async fn a_pooled_account_is_given_to_one_task_that_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (one, two, three) = (task(1), task(2), task(3));
    for of in [&one, &two, &three] {
        store.open_task(of, b"{}".to_vec()).await.unwrap();
    }
    store.end_task(one.id, closing(at(2000)), b"{}".to_vec()).await.unwrap();
    store.lease_begin(row(0, None), b"{}".to_vec()).await.unwrap().unwrap();
    let id = LeaseId::new(at(1000), random(0));
    assert!(!store.lease_made(id, LeaseLife::default(), None, entry_of("{}")).await.unwrap());
    assert_eq!(state(&store, 0).await, LeaseState::Pooled);
    let given = |of: &Task, n| Intent { assigns: Some(assignment(0, n)), ..intent(&store, of, n) };
    assert_eq!(store.intent(given(&one, 1)).await.unwrap(), Err(Lost::TaskClosed));
    assert!(store.intent(given(&two, 2)).await.unwrap().is_ok());
    // Two calls at once may each bring it: the task has it, and it is on record once.
    assert!(store.intent(given(&two, 3)).await.unwrap().is_ok());
    assert_eq!(store.intent(given(&three, 4)).await.unwrap(), Err(Lost::LeaseGone));
    let found = store.lease(id).await.unwrap().unwrap();
    assert_eq!((found.state, found.task, found.life.call), (LeaseState::Live, Some(two.id), Some(call(2))));
    let entries = check_whole(&store).await;
    let steps: Vec<_> = entries.iter().filter(|e| e.body == b"assigned").collect();
    assert_eq!(steps.len(), 1);
    assert_eq!((steps[0].kind.as_str(), steps[0].task, steps[0].call), ("lease", Some(two.id), Some(call(2))));
    store.end_task(two.id, closing(at(2000)), b"{}".to_vec()).await.unwrap();
    assert_eq!(state(&store, 0).await, LeaseState::Ending);
    assert_eq!(store.intent(given(&three, 5)).await.unwrap(), Err(Lost::LeaseGone));
    store.close().await;
}

fn assignment(lease: u64, n: u64) -> Assignment {
    let life = LeaseLife { call: Some(call(n)), pooled: true, ..LeaseLife::default() };
    Assignment::new(LeaseId::new(at(1000), random(lease)), &life, b"assigned".to_vec()).unwrap()
}

#[tokio::test]
async fn an_account_that_the_journal_alone_knows_to_be_a_tasks_keeps_the_task_from_being_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = |n| LeaseId::new(at(1000), random(n));
    for n in 0..3 {
        store.open_task(&task(n), b"{}".to_vec()).await.unwrap();
        store.lease_begin(row(n, None), b"{}".to_vec()).await.unwrap().unwrap();
        store.lease_made(id(n), LeaseLife::default(), None, entry_of("{}")).await.unwrap();
    }
    let call_of = |of: u64| Intent { assigns: Some(assignment(of, of)), ..intent(&store, &task(of), of) };
    assert!(store.intent(call_of(0)).await.unwrap().is_ok());
    // One step from open to closed, while the database has not followed.
    let refused = store.end_task(task(0).id, closed(at(2000)), b"{}".to_vec()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused:?}");
    store.end_task(task(0).id, closing(at(2000)), b"{}".to_vec()).await.unwrap();
    assert_eq!(state(&store, 0).await, LeaseState::Ending);
    // In one batch with the end of its task, in either order.
    let ends = |of: u64| {
        let of = task(of).id;
        store.write(move |w| w.end_task(of, TaskState::Closing { reason: EndReason::Completed, at: at(2000) }, b"{}".to_vec()))
    };
    let (called, ended) = tokio::join!(store.intent(call_of(1)), ends(1));
    ended.unwrap();
    assert_eq!(state(&store, 1).await, if called.unwrap().is_ok() { LeaseState::Ending } else { LeaseState::Pooled });
    // An account that is being ended is given to nobody.
    assert!(store.lease_ending(id(2)).await.unwrap());
    assert_eq!(store.intent(call_of(2)).await.unwrap(), Err(Lost::LeaseGone));
    check_whole(&store).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_an_account_is_the_tasks_whose_call_was_acknowledged_and_waits_if_none_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..2 {
        store.open_task(&task(n), b"{}".to_vec()).await.unwrap();
        store.lease_begin(row(n, None), b"{}".to_vec()).await.unwrap().unwrap();
    }
    let waiting = picture(&store).await;
    let held = behind(&store).await;
    // Nobody follows meanwhile: the record of the call is all that there is.
    store.intent(Intent { assigns: Some(assignment(0, 7)), ..intent(&store, &task(0), 7) }).await.unwrap().unwrap();
    assert!(store.inner.database.ahead.has_assigned());
    let copy = crashed(dir.path());
    drop(held);
    let again = open(copy.path());
    let found = again.lease(LeaseId::new(at(1000), random(0))).await.unwrap().unwrap();
    assert_eq!((found.state, found.task, found.life.call), (LeaseState::Live, Some(task(0).id), Some(call(7))));
    assert_eq!(state(&again, 1).await, LeaseState::Pooled);
    assert_ne!(picture(&again).await, waiting);
    let refused = again.end_task(task(0).id, closed(at(2000)), b"{}".to_vec()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused:?}");
    check_whole(&again).await;
    // Taken over a second time it is what it was.
    let once = picture(&again).await;
    drop(again);
    let again = open(copy.path());
    assert_eq!(picture(&again).await, once);
    again.close().await;
}

#[tokio::test]
async fn what_is_asked_every_second_looks_at_what_is_open_and_not_at_all_that_ever_was() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let conn = rusqlite::Connection::open(dir.path().join("bailiwick.sqlite")).unwrap();
    let plan = |sql: &str| -> Vec<String> {
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        statement.raw_query().mapped(|r| r.get(3)).map(Result::unwrap).collect()
    };
    let leases = |state, open| crate::leases::listing(&LeaseFilter { state, open, ..LeaseFilter::default() });
    let tasks = |state| crate::tasks::listing(&TaskFilter { state: Some(state), ..TaskFilter::default() });
    for (sql, index) in [
        (leases(Some(LeaseState::Ending), false), "leases USING INDEX leases_open"),
        (leases(None, true), "leases USING INDEX leases_open"),
        (leases(Some(LeaseState::Pooled), true), "leases USING INDEX leases_open"),
        (tasks("open"), "tasks USING INDEX tasks_state"),
        (tasks("closing"), "tasks USING INDEX tasks_state"),
    ] {
        let steps = plan(&sql);
        assert!(steps.iter().any(|step| step.contains(index)), "{steps:?}");
        assert!(!steps.iter().any(|step| step.contains("SCAN") && step.contains("autoindex")), "{steps:?}");
    }
}
