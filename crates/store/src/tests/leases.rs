//! Leases: nothing begins for a task that ends, and no task is closed over one that has no ending.

use bailiwick_core::LeaseId;

use super::*;
use crate::{Lease, LeaseFilter, LeaseLife, LeaseRow, LeaseState, MadeEntry};

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
    let (one, two) = (task(1), task(2));
    store.open_task(&one, b"{}".to_vec()).await.unwrap();
    store.open_task(&two, b"{}".to_vec()).await.unwrap();
    store.end_task(one.id, closing(at(2000)), b"{}".to_vec()).await.unwrap();
    store.lease_begin(row(0, None), b"{}".to_vec()).await.unwrap().unwrap();
    let id = LeaseId::new(at(1000), random(0));
    assert!(!store.lease_made(id, LeaseLife::default(), None, entry_of("{}")).await.unwrap());
    assert_eq!(state(&store, 0).await, LeaseState::Pooled);
    assert!(!store.lease_assign(id, one.id, LeaseLife::default(), b"{}".to_vec()).await.unwrap());
    assert!(store.lease_assign(id, two.id, LeaseLife::default(), b"{}".to_vec()).await.unwrap());
    assert!(!store.lease_assign(id, two.id, LeaseLife::default(), b"{}".to_vec()).await.unwrap());
    store.end_task(two.id, closing(at(2000)), b"{}".to_vec()).await.unwrap();
    assert_eq!(state(&store, 0).await, LeaseState::Ending);
    store.close().await;
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
