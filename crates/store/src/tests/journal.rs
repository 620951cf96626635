//! Calls go into the journal first: readers, the next start, an auditor and a pruning see them all the same, and nothing is lost on the way.

use super::*;
use crate::Archive;
use crate::journal::JOURNAL;

/// What a crash at this moment would leave: the files as they are, copied.
pub(super) fn crashed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "bailiwick.lock" {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    copy
}

/// How many entries the database alone has.
fn in_database(dir: &Path) -> u64 {
    let conn = rusqlite::Connection::open(dir.join("bailiwick.sqlite")).unwrap();
    conn.query_row("SELECT count(*) FROM entries", [], |r| Ok(r.get::<_, crate::sql::Count>(0)?.0)).unwrap()
}

async fn calls(store: &Store, of: &Task, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let index = store.intent(intent(store, of, n)).await.unwrap().unwrap();
        if n % 3 != 0 {
            store.outcome(index, call(n), b"done".to_vec()).await.unwrap();
        }
    }
}

/// Nobody follows while this is held: the database stays behind.
pub(super) async fn behind(store: &Store) -> impl Drop + use<> {
    struct Behind(std::sync::mpsc::Sender<()>, Option<std::thread::JoinHandle<()>>);
    impl Drop for Behind {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
            self.1.take().unwrap().join().unwrap();
        }
    }
    let (go, wait) = std::sync::mpsc::channel();
    let (held, is_held) = std::sync::mpsc::channel();
    let database = Arc::clone(&store.inner.database);
    let thread = std::thread::spawn(move || {
        database.while_held(|| {
            held.send(()).unwrap();
            wait.recv().unwrap();
        });
    });
    is_held.recv().unwrap();
    Behind(go, Some(thread))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_durable_and_readable_while_the_database_is_behind_and_a_crash_then_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, b"open".to_vec()).await.unwrap();
    calls(&store, &of, 0..10).await;
    let hold = behind(&store).await;
    calls(&store, &of, 10..30).await;
    let size = store.head().size;
    let entries = check_whole(&store).await;
    assert_eq!(store.entry(size - 1).await.unwrap().as_ref(), entries.last());
    assert_eq!(store.entries_newest(3).await.unwrap(), entries.iter().rev().take(3).cloned().collect::<Vec<_>>());
    assert_eq!(store.entries(size - 2..size + 9).await.unwrap(), entries[entries.len() - 2..]);
    assert_eq!(store.entries(size..size + 9).await.unwrap(), []);
    let (copy, checkpoint) = (crashed(dir.path()), store.checkpoint());
    drop(hold);
    // An auditor who only reads finds all of it.
    let archive = Archive::open(copy.path()).unwrap();
    assert_eq!((archive.size().unwrap(), archive.checkpoint().unwrap()), (size, checkpoint.to_string()));
    assert_eq!(archive.entries(0..size).unwrap(), entries);
    drop(archive);
    assert!(in_database(copy.path()) < size, "nothing was ahead: this shows nothing");
    // So does the next start: entries, authority, open intents, the index.
    let again = open(copy.path());
    assert_eq!((check_whole(&again).await, again.checkpoint()), (entries, checkpoint));
    assert_eq!(picture(&again).await, picture(&store).await);
    assert_eq!(again.task(of.id).await.unwrap().unwrap().used, 30);
    assert_eq!(again.open_intents().await.unwrap().len(), 10);
    assert_eq!(again.entries_of_call(call(29)).await.unwrap().len(), 2);
    calls(&again, &of, 30..40).await;
    check_whole(&again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_durable_between_calls_that_the_database_has_not_and_each_crash_finds_both() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (of, other) = (task(1), task(2));
    store.open_task(&of, Vec::new()).await.unwrap();
    let mut copies = Vec::new();
    for round in 0..20u64 {
        calls(&store, &of, round * 10..round * 10 + 5).await;
        if round == 3 {
            store.open_task(&other, Vec::new()).await.unwrap();
        } else if round > 3 {
            calls(&store, &other, round * 10 + 5..round * 10 + 8).await;
        }
        store.control(Entry::new("x", Vec::new()), move |w| w.meta_put("round", &round.to_be_bytes())).await.unwrap();
        calls(&store, &of, round * 10 + 8..round * 10 + 10).await;
        copies.push((round, crashed(dir.path()), picture(&store).await, check_whole(&store).await));
    }
    let (mut gaps, mut behind) = (0, 0);
    for (round, copy, picture_then, entries) in copies {
        let size = entries.len() as u64;
        let conn = rusqlite::Connection::open(copy.path().join("bailiwick.sqlite")).unwrap();
        let (count, last): (u64, u64) = conn
            .query_row("SELECT count(*), max(idx) FROM entries", [], |r| {
                Ok((r.get::<_, crate::sql::Count>(0)?.0, r.get::<_, crate::sql::Count>(1)?.0))
            })
            .unwrap();
        (gaps, behind) = (gaps + u32::from(count < last + 1), behind + u32::from(last + 1 < size));
        drop(conn);
        let again = open(copy.path());
        assert_eq!(check_whole(&again).await, entries);
        assert_eq!(picture(&again).await, picture_then);
        assert_eq!(again.meta("round").await.unwrap(), Some(round.to_be_bytes().to_vec()));
        for of in [of.id, other.id] {
            let intents = entries.iter().filter(|e| e.kind == "intent" && e.task == Some(of)).count() as u64;
            assert_eq!(again.task(of).await.unwrap().map_or(0, |row| row.used), intents);
        }
    }
    assert!(gaps > 0 && behind > 0, "the database was never behind ({gaps}, {behind}): this shows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_laps_of_a_small_journal_lose_nothing_and_used_calls_are_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = Task { budget: Budget { calls: 3000, calls_per_minute: 1 }, ..task(1) };
    store.open_task(&of, Vec::new()).await.unwrap();
    let mut callers = Vec::new();
    for caller in 0..16u64 {
        let (store, of) = (store.clone(), of.clone());
        callers.push(tokio::spawn(async move {
            let mut admitted = 0;
            for n in 0..250 {
                let intent = Intent { budget_calls: 3000, body: vec![b'x'; 3000], ..intent(&store, &of, caller * 1000 + n) };
                admitted += u64::from(store.intent(intent).await.unwrap().is_ok());
            }
            admitted
        }));
    }
    let mut admitted = 0;
    for caller in callers {
        admitted += caller.await.unwrap();
    }
    assert_eq!(admitted, 3000, "the budget is exact");
    assert_eq!(store.task(of.id).await.unwrap().unwrap().used, 3000);
    let (copy, entries) = (crashed(dir.path()), check_whole(&store).await);
    let again = open(copy.path());
    assert_eq!(check_whole(&again).await, entries);
    assert_eq!(again.intent(Intent { budget_calls: 3000, ..intent(&again, &of, 1) }).await.unwrap(), Err(Lost::BudgetCalls));
    drop(again);
    store.close().await;
    drop(store);
    assert_eq!(in_database(dir.path()), 3001, "after a stop the database has everything");
    std::fs::remove_file(dir.path().join(JOURNAL)).unwrap();
    assert_eq!(check_whole(&open(dir.path())).await, entries);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_follow_stops_every_call_in_words_and_nothing_that_was_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    // The database cannot grow; the journal need not.
    let limit = |pages: &'static str| {
        store.write(move |w| {
            let now: i64 = w.conn.query_row("PRAGMA page_count", [], |r| r.get(0))?;
            let most = if pages.is_empty() { now.to_string() } else { pages.to_owned() };
            Ok(w.conn.query_row(&format!("PRAGMA max_page_count = {most}"), [], |_| Ok(()))?)
        })
    };
    limit("").await.unwrap();
    let (mut admitted, mut refused) = (0, None);
    for n in 0..10_000u64 {
        match store.intent(Intent { budget_calls: u64::MAX, body: vec![7; 5000], ..intent(&store, &of, n) }).await {
            Ok(yes) => admitted += u64::from(yes.is_ok()),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let error = refused.expect("calls pass although the database cannot follow");
    assert!(matches!(error, StoreError::Unavailable { reason: Reason::DiskFull, .. }), "{error:?}");
    assert!(admitted > 0 && store.is_failing());
    assert!(store.append(Entry::new("x", Vec::new())).await.is_err());
    // A crash now: the next start says so too, until there is room.
    let copy = crashed(dir.path());
    // Room again: the first request brings everything back.
    let again = open(copy.path());
    assert_eq!(again.head().size, admitted + 1);
    check_whole(&again).await;
    store.inner.database.with_conn(|conn| conn.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(())).unwrap());
    while store.append(Entry::new("x", Vec::new())).await.is_err() {
        // The disk is asked for the reserve every half second.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!store.is_failing());
    assert_eq!(check_whole(&store).await.len() as u64, admitted + 2);
    assert_eq!(store.task(of.id).await.unwrap().unwrap().used, admitted);
}

#[tokio::test]
async fn a_journal_that_is_damaged_or_of_another_moment_does_not_open_and_says_which_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    let hold = behind(&store).await;
    calls(&store, &of, 0..20).await;
    let copy = crashed(dir.path());
    drop(hold);
    let journal = copy.path().join(JOURNAL);
    let whole = std::fs::read(&journal).unwrap();
    let reopen = || match Store::open(copy.path(), Box::new(Chain::default())) {
        Ok(_) => panic!("it opens"),
        Err(error) => error,
    };
    let mut changed = whole.clone();
    // Each call has a block of its own: this is within one in the middle.
    let middle = whole.iter().rposition(|b| *b != 0).unwrap() / 2 / 4096 * 4096;
    changed[middle + 60] ^= 1;
    std::fs::write(&journal, &changed).unwrap();
    let error = reopen();
    assert!(matches!(&error, StoreError::Unavailable { reason: Reason::Damaged, detail } if detail.contains(JOURNAL)), "{error:?}");
    assert!(Archive::open(copy.path()).is_err());
    // The database alone is put back to before: what is between them is missing.
    let old = tempfile::tempdir().unwrap();
    let store = open(old.path());
    store.open_task(&of, Vec::new()).await.unwrap();
    store.close().await;
    drop(store);
    let saved = crashed(old.path());
    let store = open(old.path());
    calls(&store, &of, 0..5).await;
    store.open_task(&task(2), Vec::new()).await.unwrap();
    calls(&store, &of, 5..9).await;
    store.close().await;
    drop(store);
    for name in ["bailiwick.sqlite", "bailiwick.sqlite-wal", "bailiwick.sqlite-shm"] {
        let _ = std::fs::remove_file(old.path().join(name)).is_ok();
        let _ = std::fs::copy(saved.path().join(name), old.path().join(name)).is_ok();
    }
    let error = match Store::open(old.path(), Box::new(Chain::default())) {
        Ok(_) => panic!("it opens"),
        Err(error) => error,
    };
    assert!(matches!(&error, StoreError::Unavailable { reason: Reason::Disagrees, .. }), "{error:?}");
}

#[tokio::test]
async fn after_the_log_was_cut_nothing_is_left_in_the_journal_either() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(Entry::new("x", b"canary-in-the-journal".to_vec())).await.unwrap();
    let holds = |name: &str| std::fs::read(dir.path().join(name)).unwrap().windows(21).any(|w| w == b"canary-in-the-journal");
    assert!(holds(JOURNAL), "it was never there: this shows nothing");
    store.cut_log().await.unwrap();
    assert!(!holds(JOURNAL) && holds("bailiwick.sqlite"));
    store.append(Entry::new("x", b"later".to_vec())).await.unwrap();
    let copy = crashed(dir.path());
    assert_eq!(check_whole(&open(copy.path())).await.len(), 2);
}

fn refusal(dir: &Path) -> StoreError {
    match Store::open_with(dir, Box::new(Chain::default()), Options { log_bytes: 1 << 20, readers: 1 }) {
        Ok(_) => panic!("it opens"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settled_calls_that_only_a_lost_journal_had_are_missed_although_a_change_stands_behind_them() {
    let (mut gaps, zeros) = (0, |path: &Path| std::fs::write(path, vec![0; std::fs::metadata(path).unwrap().len() as usize]).unwrap());
    for round in 0..12u64 {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let of = task(1);
        store.open_task(&of, Vec::new()).await.unwrap();
        for n in 0..10 {
            let index = store.intent(intent(&store, &of, n)).await.unwrap().unwrap();
            store.outcome(index, call(n), b"done".to_vec()).await.unwrap();
        }
        // Durable, behind them.
        store.control(Entry::new("x", Vec::new()), |w| w.meta_put("k", b"v")).await.unwrap();
        let copy = crashed(dir.path());
        let size = store.head().size;
        if in_database(copy.path()) == size {
            continue;
        }
        gaps += 1;
        let journal = copy.path().join(JOURNAL);
        let whole = std::fs::read(&journal).unwrap();
        match round % 3 {
            0 => std::fs::remove_file(&journal).unwrap(),
            1 => zeros(&journal),
            _ => {
                // Its last record alone, which is then like one that was never acknowledged.
                let mut rotten = whole.clone();
                let last = rotten.iter().rposition(|b| *b != 0).unwrap();
                rotten[last] ^= 1;
                std::fs::write(&journal, rotten).unwrap();
            }
        }
        let error = refusal(copy.path());
        assert!(matches!(&error, StoreError::Unavailable { reason: Reason::Disagrees, .. }), "round {round}: {error:?}");
        // Put back, nothing is missing.
        std::fs::write(&journal, &whole).unwrap();
        assert_eq!(check_whole(&open(copy.path())).await.len() as u64, size);
    }
    assert!(gaps >= 3, "the database was never behind: this shows nothing");
}

#[tokio::test]
async fn a_start_that_is_refused_leaves_the_database_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    let hold = behind(&store).await;
    calls(&store, &of, 0..20).await;
    let (copy, entries) = (crashed(dir.path()), check_whole(&store).await);
    drop(hold);
    let on_head = |sql: &str| {
        let conn = rusqlite::Connection::open(copy.path().join("bailiwick.sqlite")).unwrap();
        conn.execute_batch(sql).unwrap();
        conn.query_row("SELECT journal, dense FROM head", [], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?))).unwrap()
    };
    // Only a look at the tree finds it.
    let before = (on_head("CREATE TABLE kept AS SELECT root FROM head; UPDATE head SET root = zeroblob(32)"), in_database(copy.path()));
    refusal(copy.path());
    assert_eq!((on_head(""), in_database(copy.path())), before);
    assert!(before.1 < entries.len() as u64, "nothing was ahead: this shows nothing");
    on_head("UPDATE head SET root = (SELECT root FROM kept); DROP TABLE kept");
    assert_eq!(check_whole(&open(copy.path())).await, entries);
}

#[tokio::test]
async fn after_a_transaction_that_failed_the_next_batch_goes_over_it_into_the_log_and_not_into_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(Entry::new("x", Vec::new())).await.unwrap();
    let journal = || std::fs::read(dir.path().join(JOURNAL)).unwrap();
    let before = journal();
    let failed = store.change(Entry::new("x", Vec::new()), |_| Err::<(), _>(StoreError::unavailable(Reason::Io, "its commit failed"))).await;
    assert!(failed.is_err());
    store.append(Entry::new("x", b"over it".to_vec())).await.unwrap();
    assert!(journal() == before, "the journal has an index that the log may have too");
    store.append(Entry::new("x", b"as always".to_vec())).await.unwrap();
    assert!(journal() != before);
    let copy = crashed(dir.path());
    assert_eq!(check_whole(&open(copy.path())).await.len(), 3);
}

#[tokio::test]
async fn who_comes_too_late_to_follow_does_not_fail_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(Entry::new("x", Vec::new())).await.unwrap();
    let database = Arc::clone(&store.inner.database);
    database.catch_up().unwrap();
    database.with_conn(|conn| conn.execute_batch("PRAGMA busy_timeout = 0").unwrap());
    let other = rusqlite::Connection::open(dir.path().join("bailiwick.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    database.step_late().unwrap();
    assert!(!store.is_failing());
}

/// Puts files of one directory in place of those of another; what is not there goes.
fn put(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        let _ = std::fs::remove_file(to.join(name));
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

const DATABASE: [&str; 2] = ["bailiwick.sqlite", "bailiwick.sqlite-wal"];

/// Every file of the store, with its bytes.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let names = [DATABASE[0], DATABASE[1], JOURNAL];
    names.iter().map(|name| ((*name).to_owned(), std::fs::read(dir.join(name)).unwrap_or_default())).collect()
}

/// It does not open, in these words, for the broker and for an auditor, and the journal stays as it is.
fn refused_in_words(dir: &Path, words: &str) {
    let before = std::fs::read(dir.join(JOURNAL)).ok();
    let error = refusal(dir);
    assert!(matches!(&error, StoreError::Unavailable { reason: Reason::Disagrees, detail } if detail.contains(words)), "{error:?}");
    assert!(std::fs::read(dir.join(JOURNAL)).ok() == before, "the journal was written");
    match Archive::open(dir) {
        Err(StoreError::Unavailable { reason: Reason::Disagrees, .. }) => {}
        Ok(archive) => assert!(before.is_none() && archive.is_journal_lost(), "an auditor is told nothing"),
        Err(other) => panic!("{other:?}"),
    }
}

/// A store with some calls: as a crash leaves it, and as a stop does.
async fn crashed_and_stopped(calls_made: u64) -> (tempfile::TempDir, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let of = task(1);
    store.open_task(&of, Vec::new()).await.unwrap();
    let hold = behind(&store).await;
    calls(&store, &of, 0..calls_made).await;
    let crash = crashed(dir.path());
    drop(hold);
    store.close().await;
    drop(store);
    (crash, dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_of_another_installation_is_refused_and_not_overwritten_and_with_its_own_it_goes_on() {
    let (crash, stopped) = crashed_and_stopped(9).await;
    let (foreign_crash, foreign_stopped) = crashed_and_stopped(9).await;
    for ours in [&crash, &stopped] {
        let kept = crashed(ours.path());
        for foreign in [&foreign_crash, &foreign_stopped] {
            put(foreign.path(), ours.path(), &[JOURNAL]);
            refused_in_words(ours.path(), "the journal of another database");
        }
        // Nothing of the database either, but for what the engine writes back.
        put(kept.path(), ours.path(), &[JOURNAL]);
        let entries = check_whole(&open(kept.path())).await;
        assert_eq!(check_whole(&open(ours.path())).await, entries);
    }
    // A journal and no database at all: none is made beside it.
    let alone = tempfile::tempdir().unwrap();
    put(foreign_crash.path(), alone.path(), &[JOURNAL]);
    let error = refusal(alone.path());
    assert!(error.to_string().contains("the journal of another database") && !alone.path().join("bailiwick.sqlite").exists(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_its_own_journal_is_refused_and_so_is_an_older_database_beside_a_newer_journal() {
    let mut dir = tempfile::tempdir().unwrap();
    let of = task(1);
    let (mut kept, mut next) = (Vec::new(), 0);
    // Three runs, of which the first is killed; from each, moments when the database has everything.
    for run in 0..3 {
        let store = open(dir.path());
        if run == 0 {
            store.open_task(&of, Vec::new()).await.unwrap();
        }
        for _ in 0..2 {
            calls(&store, &of, next..next + 4).await;
            next += 4;
            store.inner.database.catch_up().unwrap();
            kept.push((run, crashed(dir.path())));
        }
        calls(&store, &of, next..next + 1).await;
        next += 1;
        let killed = crashed(dir.path());
        store.close().await;
        drop(store);
        if run == 0 {
            dir = killed;
        } else {
            kept.push((run, crashed(dir.path())));
        }
    }
    let mut tried = 0;
    for (database, (of_run, of_database)) in kept.iter().enumerate() {
        let entries = check_whole(&open(crashed(of_database.path()).path())).await;
        for (journal, (run, of_journal)) in kept.iter().enumerate() {
            if database == journal {
                continue;
            }
            let mixed = crashed(of_database.path());
            put(of_journal.path(), mixed.path(), &[JOURNAL]);
            if run == of_run && journal > database {
                // Of the same run, with everything that the database lacks in it: nothing is missing, or it is refused.
                assert!(check_whole(&open(mixed.path())).await.starts_with(&entries));
                continue;
            }
            tried += 1;
            refused_in_words(mixed.path(), if run == of_run { "an older copy" } else { "another moment of this one" });
            // Put back, it is as it was.
            put(of_database.path(), mixed.path(), &[JOURNAL]);
            assert_eq!(check_whole(&open(mixed.path())).await, entries);
        }
    }
    assert!(tried > 20, "{tried}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_gone_is_missed_after_a_crash_and_not_after_a_stop_and_who_says_on_record_that_it_is_lost_goes_on() {
    let (crash, stopped) = crashed_and_stopped(9).await;
    std::fs::remove_file(stopped.path().join(JOURNAL)).unwrap();
    assert!(!crate::give_up_lost_journal(stopped.path()).unwrap(), "none must be there");
    let all = check_whole(&open(stopped.path())).await;
    let whole = crashed(crash.path());
    assert!(!crate::give_up_lost_journal(crash.path()).unwrap(), "it is there");
    for zeros in [false, true] {
        let lost = crashed(whole.path());
        std::fs::remove_file(lost.path().join(JOURNAL)).unwrap();
        if zeros {
            std::fs::write(lost.path().join(JOURNAL), vec![0; 8192]).unwrap();
        }
        let before = files(lost.path())[2].clone();
        let error = refusal(lost.path());
        assert!(
            matches!(&error, StoreError::Unavailable { reason: Reason::Disagrees, detail } if detail.contains("is missing") && detail.contains("shard new --even-so")),
            "{error:?}"
        );
        assert!(refusal(lost.path()).to_string().contains("is missing"), "the second start is refused too");
        assert!(files(lost.path())[2] == before);
        assert!(Archive::open(lost.path()).unwrap().is_journal_lost());
        let again = crashed(lost.path());
        put(whole.path(), again.path(), &[JOURNAL]);
        assert_eq!(check_whole(&open(again.path())).await, all);
        assert!(crate::give_up_lost_journal(lost.path()).unwrap());
        let rest = check_whole(&open(lost.path())).await;
        assert!(rest.len() < all.len() && all.starts_with(&rest));
        assert!(!Archive::open(lost.path()).unwrap().is_journal_lost());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_stops_at_any_moment_can_be_made_again() {
    let (crash, stopped) = crashed_and_stopped(9).await;
    for begun in [&crash, &stopped] {
        let all = check_whole(&open(crashed(begun.path()).path())).await;
        // Until the database says which journal may come; until the journal says that it is that one; until the database needs it.
        for moment in 0..3 {
            let copy = crashed(begun.path());
            let directory = crate::schema::Directory::take(copy.path()).unwrap();
            let conn = directory.open_writer(0).unwrap();
            let bond = crate::bond::Bond::stored(&conn).unwrap().unwrap();
            let found = crate::journal::look(&copy.path().join(JOURNAL), &bond).unwrap().unwrap();
            let name = crate::bond::new_name(&conn).unwrap();
            crate::database::take_over(&conn, &found.records, |conn| {
                crate::schema::load(conn, &mut Chain::default())?;
                crate::bond::promise(conn, Some(found.name), name)
            })
            .unwrap();
            if moment > 0 {
                crate::journal::Journal::begin(copy.path(), Some(&found), 0, found.next, name).unwrap().unwrap();
            }
            if moment > 1 {
                crate::bond::bind(&conn, name).unwrap();
            }
            drop((conn, directory));
            assert_eq!(check_whole(&open(copy.path())).await, all, "moment {moment}");
        }
    }
}

#[tokio::test]
async fn an_auditor_is_told_of_a_hole_and_not_given_what_stands_around_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..6u8 {
        store.append(Entry::new("x", vec![n])).await.unwrap();
    }
    store.close().await;
    drop(store);
    rusqlite::Connection::open(dir.path().join("bailiwick.sqlite")).unwrap().execute("DELETE FROM entries WHERE idx = 3", []).unwrap();
    let archive = Archive::open(dir.path()).unwrap();
    assert_eq!((archive.entries(0..3).unwrap().len(), archive.entries(4..99).unwrap().len()), (3, 2));
    for range in [0..6, 3..4, 2..5, 0..99] {
        let error = archive.entries(range).unwrap_err();
        assert!(
            matches!(&error, StoreError::Unavailable { reason: Reason::Disagrees, detail } if detail.contains("entry 3 is missing")),
            "{error:?}"
        );
    }
}
