//! Tasks that are parts of others: what one uses counts in all above it, over a restart too, and the end of the whole is theirs.

use bailiwick_core::record::Lost;
use bailiwick_core::{Budget, EndReason, Task, TaskState};

use super::{approved, at, check_whole, hold, intent, open, picture, task};
use crate::{Intent, StoreError, TaskFilter};

fn part(n: u64, of: &Task) -> Task {
    let chain = std::iter::once(of.hop()).chain(of.chain.iter().cloned()).collect();
    Task { chain, ..task(n) }
}

fn whole(calls: u64) -> Task {
    Task { budget: Budget { calls, calls_per_minute: 100 }, ..task(1) }
}

#[tokio::test]
async fn the_calls_of_parts_are_spent_by_all_above_them_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let whole = whole(4);
    let (left, right) = (part(2, &whole), part(3, &whole));
    let below = part(4, &left);
    for of in [&whole, &left, &right, &below] {
        store.open_task(of, Vec::new()).await.unwrap();
    }
    let used = async |store: &crate::Store, of: &Task| store.task(of.id).await.unwrap().unwrap().used;
    assert!(store.intent(intent(&store, &below, 1)).await.unwrap().is_ok());
    assert!(store.intent(intent(&store, &right, 2)).await.unwrap().is_ok());
    let counted =
        async |store: &crate::Store| [used(store, &whole).await, used(store, &left).await, used(store, &right).await, used(store, &below).await];
    assert_eq!(counted(&store).await, [2, 1, 1, 1]);
    let before = picture(&store).await;
    store.close().await;
    drop(store);
    let store = open(dir.path());
    assert_eq!((counted(&store).await, picture(&store).await), ([2, 1, 1, 1], before), "what memory said is what the disk says");
    assert!(store.intent(intent(&store, &whole, 3)).await.unwrap().is_ok());
    assert!(store.intent(intent(&store, &left, 4)).await.unwrap().is_ok());
    for (n, of) in [(5, &below), (6, &right), (7, &left)] {
        assert_eq!(store.intent(intent(&store, of, n)).await.unwrap(), Err(Lost::BudgetCalls), "the whole has spent its calls");
    }
    assert_eq!(store.intent(Intent { budget_calls: 4, ..intent(&store, &whole, 8) }).await.unwrap(), Err(Lost::BudgetCalls));
    // Refused is not counted anywhere.
    assert_eq!(counted(&store).await, [4, 2, 1, 1]);
    let parts = store.tasks(TaskFilter { parent: Some(whole.id), ..TaskFilter::default() }).await.unwrap();
    assert_eq!(parts.iter().map(|row| row.task.id).collect::<Vec<_>>(), [right.id, left.id]);
    check_whole(&store).await;
}

#[tokio::test]
async fn the_end_of_the_whole_ends_its_parts_in_one_step_with_an_entry_each_and_none_is_opened_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let whole = whole(100);
    let left = part(2, &whole);
    let (below, other) = (part(3, &left), task(4));
    for of in [&whole, &left, &below, &other] {
        store.open_task(of, Vec::new()).await.unwrap();
    }
    let held = store.hold_open(&hold(1, &below), Vec::new(), 10).await.unwrap().unwrap();
    store.hold_update(&held, &approved(&held), Vec::new()).await.unwrap();
    let stale = intent(&store, &below, 1);
    let ended = store.end_whole(whole.id, (EndReason::Revoked, at(4000)), b"whole".to_vec(), |id| id.to_string().into_bytes()).await.unwrap();
    assert_eq!(ended.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [whole.id, left.id, below.id]);
    assert_eq!(ended[2].1.withdrawn, [held.id]);
    for (of, reason) in [(&whole, EndReason::Revoked), (&left, EndReason::Parent), (&below, EndReason::Parent)] {
        assert_eq!(store.task(of.id).await.unwrap().unwrap().state, TaskState::Closing { reason, at: at(4000) });
        assert_eq!(store.intent(intent(&store, of, 2)).await.unwrap(), Err(Lost::TaskClosed));
    }
    assert_eq!(store.intent(stale).await.unwrap(), Err(Lost::Stale));
    assert!(store.intent(intent(&store, &other, 3)).await.unwrap().is_ok(), "another task goes on");
    assert!(matches!(store.open_task(&part(5, &left), Vec::new()).await, Err(StoreError::Conflict { .. })));
    let again = store.end_whole(whole.id, (EndReason::Completed, at(5000)), Vec::new(), |_| Vec::new()).await.unwrap();
    assert_eq!(again.iter().map(|(id, ended)| (*id, ended.entry)).collect::<Vec<_>>(), [(whole.id, None)], "the first reason stays");
    let entries = check_whole(&store).await;
    let bodies: Vec<&[u8]> = entries.iter().filter(|e| e.kind == "task.ended").map(|e| e.body.as_slice()).collect();
    assert_eq!(bodies, [b"whole".as_slice(), left.id.to_string().as_bytes(), below.id.to_string().as_bytes()]);
}

#[tokio::test]
async fn a_part_whose_whole_is_not_open_passes_no_call_even_if_its_own_end_was_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let whole = whole(100);
    let late = Task { expires_at: at(2_000_000), ..part(2, &whole) };
    store.open_task(&whole, Vec::new()).await.unwrap();
    store.open_task(&late, Vec::new()).await.unwrap();
    // Its own time goes on; that of the whole is over.
    let over = Intent { at: at(1_500_000), ..intent(&store, &late, 1) };
    assert_eq!(store.intent(over).await.unwrap(), Err(Lost::TaskClosed));
    assert!(store.intent(intent(&store, &late, 2)).await.unwrap().is_ok());
    let closing = TaskState::Closing { reason: EndReason::Expired, at: at(4000) };
    store.end_task(whole.id, closing, Vec::new()).await.unwrap();
    assert_eq!(store.intent(intent(&store, &late, 3)).await.unwrap(), Err(Lost::TaskClosed));
}
