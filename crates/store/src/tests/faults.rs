//! What happens when the disk is full, the tree breaks, or the file is not what it was.

use super::*;

/// Fills the file up to its limit, as a full disk would: the engine reports the same error.
async fn fill(store: &Store) {
    store
        .write(|w| {
            let pages: i64 = w.conn.query_row("PRAGMA page_count", [], |r| r.get(0))?;
            w.conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
            Ok(())
        })
        .await
        .unwrap();
}

async fn free(store: &Store) {
    store.write(|w| Ok(w.conn.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(()))?)).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_every_call_in_words_and_memory_agrees_with_the_disk_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    // Without a journal, whose bytes are there beforehand.
    let store = Store::open_with(dir.path(), Box::new(Chain::default()), Options { log_bytes: 0, readers: 1 }).unwrap();
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    let held = store.hold_open(&hold(1, &of), Vec::new(), 5).await.unwrap().unwrap();
    store.hold_update(&held, &approved(&held), Vec::new()).await.unwrap();
    let open_one = store.intent(intent(&store, &of, 1)).await.unwrap().unwrap();
    let before = picture(&store).await;
    let size = store.head().size;
    fill(&store).await;
    let large = |n| Intent { body: vec![7; 60_000], ..intent(&store, &of, n) };
    let spending = Intent { consume: Some(held.id), ..large(2) };
    let ending = store.end_task(of.id, TaskState::Closing { reason: EndReason::Revoked, at: at(9) }, vec![1; 60_000]);
    let closing = store.outcome(open_one, call(1), vec![1; 60_000]);
    let (a, b, c, d) = tokio::join!(store.intent(spending), store.intent(large(3)), closing, ending);
    let errors = [a.unwrap_err(), b.unwrap_err(), c.unwrap_err(), d.unwrap_err()];
    for error in &errors {
        assert!(matches!(error, StoreError::Unavailable { reason: Reason::DiskFull, .. }), "{error:?}");
        assert_eq!((error.code(), error.public()), (ErrorCode::AuditUnavailable, "disk full"));
    }
    store.outcome_relaxed(open_one, call(1), vec![1; 60_000]).await.unwrap();
    while store.relaxed_outstanding() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    free(&store).await;
    assert_eq!(store.relaxed_lost(), 1);
    assert_eq!(store.open_intents().await.unwrap(), vec![(open_one, call(1))], "its outcome was lost, so it is to be closed");
    assert_eq!(picture(&store).await, before);
    assert_eq!((store.head().size, store.control_seq()), (size, 0));
    // All of it works again: the approval and the budget were not spent.
    assert!(store.intent(Intent { consume: Some(held.id), ..large(4) }).await.unwrap().is_ok());
    store.outcome(open_one, call(1), Vec::new()).await.unwrap();
    check_whole(&store).await;
    let live = picture(&store).await;
    store.close().await;
    drop(store);
    assert_eq!(picture(&open(dir.path())).await, live, "memory was what the disk says");
}

#[tokio::test]
async fn a_tree_that_cannot_be_continued_refuses_the_batch_and_later_ones_pass() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::default();
    let broken = Arc::clone(&chain.broken);
    let store = Store::open_with(dir.path(), Box::new(chain), Options { log_bytes: 0, readers: 1 }).unwrap();
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    broken.store(true, Ordering::Relaxed);
    let before = store.control_seq();
    let error = store.control(Entry::new("x", Vec::new()), |w| w.meta_put("k", b"v")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { reason: Reason::Ledger, .. }));
    assert!(store.intent(intent(&store, &of, 1)).await.is_err());
    assert_eq!((store.control_seq(), store.meta("k").await.unwrap()), (before, None));
    broken.store(false, Ordering::Relaxed);
    assert_eq!(store.intent(intent(&store, &of, 2)).await.unwrap(), Ok(1));
    check_whole(&store).await;
}

#[tokio::test]
async fn if_the_disk_kept_another_state_than_was_answered_it_is_read_anew() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::default();
    let broken = Arc::clone(&chain.broken);
    let store = Store::open_with(dir.path(), Box::new(chain), Options { log_bytes: 0, readers: 1 }).unwrap();
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    // A commit whose failure was reported although it reached the disk looks like this to the writer.
    let other = rusqlite::Connection::open(dir.path().join("bailiwick.sqlite")).unwrap();
    other.execute("UPDATE head SET control_seq = 41", []).unwrap();
    broken.store(true, Ordering::Relaxed);
    assert!(store.append(Entry::new("x", Vec::new())).await.is_err());
    broken.store(false, Ordering::Relaxed);
    assert_eq!(store.intent(intent(&store, &of, 1)).await.unwrap(), Err(Lost::Stale));
    assert_eq!(store.control_seq(), 41);
    assert!(store.intent(intent(&store, &of, 1)).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_ledger_with_a_missing_or_foreign_tail_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bailiwick.sqlite");
    let change = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    let reopen = || Store::open_with(dir.path(), Box::new(Chain::default()), Options { log_bytes: 0, readers: 1 });
    let store = open(dir.path());
    for n in 0..2u8 {
        store.append(Entry::new("x", vec![n])).await.unwrap();
    }
    // A change sets the anchor: the head counts three entries, two more follow it.
    store.open_task(&task(1), Vec::new()).await.unwrap();
    for n in 3..5u8 {
        store.append(Entry::new("x", vec![n])).await.unwrap();
    }
    store.close().await;
    drop(store);
    change("CREATE TABLE kept AS SELECT * FROM entries");
    let whole = "DELETE FROM entries; INSERT INTO entries SELECT * FROM kept;";
    for (missing, reason) in [
        ("DELETE FROM entries WHERE idx = 3", Reason::Disagrees),
        ("DELETE FROM entries WHERE idx >= 2", Reason::Disagrees),
        ("UPDATE entries SET body = x'09' WHERE idx = 3", Reason::Ledger),
        ("UPDATE entries SET body = x'09' WHERE idx = 4", Reason::Ledger),
        ("UPDATE entries SET leaf = zeroblob(32) WHERE idx = 4", Reason::Ledger),
        ("UPDATE entries SET note = 'another' WHERE idx = 4", Reason::Ledger),
        ("UPDATE entries SET note = NULL WHERE idx = 4", Reason::Disagrees),
        ("UPDATE head SET root = zeroblob(32)", Reason::Ledger),
    ] {
        change(&format!("CREATE TABLE IF NOT EXISTS anchor AS SELECT * FROM head; {missing}"));
        let error = reopen().err();
        assert!(matches!(&error, Some(StoreError::Unavailable { reason: found, .. }) if *found == reason), "{missing}: {error:?}");
        change(&format!("{whole} DELETE FROM head; INSERT INTO head SELECT * FROM anchor"));
    }
    assert_eq!(reopen().unwrap().head().size, 5);
    change("PRAGMA user_version = 99");
    assert!(matches!(reopen(), Err(StoreError::TooNew { found: 99, .. })));
    std::fs::write(&file, vec![0x42; 8192]).unwrap();
    assert!(matches!(reopen(), Err(StoreError::Unavailable { reason: Reason::Damaged, .. })));
}

#[tokio::test]
async fn with_a_reserve_what_takes_authority_away_is_recorded_on_a_full_disk_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    let sent = store.intent(intent(&store, &of, 1)).await.unwrap().unwrap();
    let reserve = || std::fs::metadata(dir.path().join("bailiwick.reserve")).unwrap().len();
    assert_eq!(reserve(), (1 << 20) / 8);
    // As the engine says it of a disk without a free block.
    let full = store.write(|_| Err::<(), _>(StoreError::unavailable(Reason::DiskFull, "by the test"))).await;
    assert!(full.is_err() && reserve() == 0 && store.is_failing());
    let refused = |result: Result<(), StoreError>| matches!(result, Err(StoreError::Unavailable { reason: Reason::DiskFull, .. }));
    assert!(refused(store.intent(intent(&store, &of, 2)).await.map(drop)));
    assert!(refused(store.open_task(&task(2), Vec::new()).await.map(drop)));
    assert!(refused(store.append(Entry::new("x", Vec::new())).await.map(drop)));
    assert!(refused(store.change(Entry::new("x", Vec::new()), |_| Ok(())).await.map(drop)));
    // What was sent has its outcome, and what is taken away is taken away.
    store.outcome(sent, call(1), b"done".to_vec()).await.unwrap();
    store.control(Entry::new("x", Vec::new()), |w| w.meta_put("k", b"v")).await.unwrap();
    store.end_task(of.id, TaskState::Closing { reason: EndReason::Revoked, at: at(9) }, Vec::new()).await.unwrap();
    assert!(store.is_failing(), "whoever watches would think that calls pass");
    assert!(!store.task(of.id).await.unwrap().unwrap().state.is_open());
    let copy = tempfile::tempdir().unwrap();
    for name in ["bailiwick.sqlite", "bailiwick.sqlite-wal", "bailiwick.journal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    assert_eq!(check_whole(&open(copy.path())).await.len(), 5);
    // The disk has room: the next that is tried goes on, and the reserve is there again.
    while store.append(Entry::new("x", Vec::new())).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!store.is_failing() && reserve() == (1 << 20) / 8);
    assert_eq!(check_whole(&store).await.len(), 6);
}
