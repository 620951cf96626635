//! Texts are kept until their time is over, erased for good, and never in a call's way.

use super::*;
use crate::erasure::Erased;

fn call(n: u8) -> CallId {
    CallId::new(Timestamp::from_millis(0), [n; 10])
}

fn task(n: u8) -> TaskId {
    TaskId::new(Timestamp::from_millis(0), [n; 10])
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

/// A text of call and task `n`, whose time is over at 1000 ms. It is "sealed" by turning its bits, so that it can be looked for.
fn text(n: u8, kind: PayloadKind, text: &str) -> Payload {
    let sealed: Vec<u8> = text.bytes().collect();
    Payload {
        call: call(n),
        task: task(n),
        kind,
        at: at(0),
        expires_at: at(1000),
        bytes: u64::try_from(text.len()).unwrap(),
        truncated: false,
        weight: text.len(),
        sealed: Box::new(move || Ok(sealed)),
    }
}

fn erasure(what: Erased) -> Erasure {
    Erasure { entry: 7, at: at(5), by: "ops".to_owned(), what }
}

/// Every byte of every file of the directory.
fn bytes(dir: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(dir).unwrap();
    files.flat_map(|f| std::fs::read(f.unwrap().path()).unwrap()).collect()
}

fn holds(dir: &Path, text: &str) -> bool {
    bytes(dir).windows(text.len()).any(|w| w == text.as_bytes())
}

const LONG: usize = 40_000;

#[tokio::test]
async fn a_text_is_there_until_its_time_is_over_and_not_a_moment_longer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Payloads::open(dir.path(), false).unwrap();
    assert!(store.put(text(1, PayloadKind::Arguments, "the arguments")));
    assert!(store.put(text(1, PayloadKind::Answer, "the answer")));
    let found = store.of_call(call(1), Some(task(1)), at(999)).await.unwrap();
    let words: Vec<_> = found.rows.iter().map(|r| (r.kind, String::from_utf8(r.sealed.clone()).unwrap())).collect();
    assert_eq!(words, [(PayloadKind::Arguments, "the arguments".to_owned()), (PayloadKind::Answer, "the answer".to_owned())]);
    // At the boundary it is gone for readers, before anybody swept.
    assert!(store.of_call(call(1), Some(task(1)), at(1000)).await.unwrap().rows.is_empty());
    assert!(store.page(0, 10, at(1000)).await.unwrap().is_empty());
    assert_eq!(store.expire(at(999)).await.unwrap(), 0);
    assert_eq!(store.of_call(call(1), None, at(999)).await.unwrap().rows.len(), 2);
    assert_eq!(store.expire(at(1000)).await.unwrap(), 2);
    assert!(!holds(dir.path(), "the arguments"));
    assert_eq!(store.lost(), 0);
}

#[tokio::test]
async fn what_was_erased_is_gone_from_the_file_and_its_log_and_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Payloads::open(dir.path(), false).unwrap();
    // Long enough for pages of its own, which are the ones that deleting alone would leave as they are.
    let canary = |n: u8| format!("canary-{n}-").repeat(LONG / 9);
    for n in 1..=4 {
        store.put_durable(text(n, PayloadKind::Arguments, &canary(n))).await.unwrap();
    }
    assert!(holds(dir.path(), "canary-1-canary-1-") && holds(dir.path(), "canary-2-canary-2-"), "the search would find nothing at all");
    assert_eq!(store.erase(erasure(Erased::Calls(vec![call(1)]))).await.unwrap(), 1);
    assert_eq!(store.erase(erasure(Erased::Tasks(vec![task(2), task(3)]))).await.unwrap(), 2);
    for n in 1..=3 {
        assert!(!holds(dir.path(), &format!("canary-{n}-")), "{n}");
        // A text that was under way is not kept after the order.
        store.put_durable(text(n, PayloadKind::Answer, &canary(n))).await.unwrap();
        let found = store.of_call(call(n), Some(task(n)), at(6)).await.unwrap();
        assert!(found.rows.is_empty());
        assert_eq!(found.erased, Some(ErasedNote { at: at(5), by: "ops".to_owned(), entry: 7 }));
        assert!(!holds(dir.path(), &format!("canary-{n}-")), "{n}");
    }
    assert!(holds(dir.path(), "canary-4-canary-4-"), "what nobody named was erased too");
    assert_eq!(store.of_call(call(4), Some(task(4)), at(6)).await.unwrap().erased, None);
    // Carried out once more, as after a crash: nothing is left to do.
    assert_eq!(store.erase(erasure(Erased::Calls(vec![call(1)]))).await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_kept_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Payloads::open(dir.path(), true).unwrap();
    assert!(store.put(text(1, PayloadKind::Arguments, "x")));
    store.close().await;
    assert!(!store.put(text(2, PayloadKind::Arguments, "y")));
    assert!(matches!(store.put_durable(text(2, PayloadKind::Arguments, "y")).await, Err(StoreError::Closed)));
    let store = Payloads::open(dir.path(), false).unwrap();
    assert_eq!(store.page(0, 10, at(1)).await.unwrap().len(), 1);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(dir.path().join(FILE)).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_text_without_a_place_or_without_a_seal_is_lost_and_counted_and_the_others_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Payloads::open(dir.path(), false).unwrap();
    let too_heavy = Payload { weight: WAITING_BYTES_MAX + 1, ..text(1, PayloadKind::Arguments, "x") };
    assert!(!store.put(too_heavy));
    let unsealed = Payload { sealed: Box::new(|| Err("no key".to_owned())), ..text(2, PayloadKind::Arguments, "x") };
    assert!(store.put(unsealed));
    assert!(store.put(text(3, PayloadKind::Arguments, "x")));
    assert_eq!(store.page(0, 10, at(1)).await.unwrap().iter().map(|r| r.call).collect::<Vec<_>>(), [call(3)]);
    assert_eq!((store.lost(), store.waiting(), store.is_failing()), (2, 0, false));
    let broken = Payloads::broken();
    assert!(!broken.put(text(1, PayloadKind::Arguments, "x")));
    assert!(broken.is_failing() && broken.lost() == 1);
}

#[tokio::test]
async fn a_queue_that_nobody_empties_takes_no_more_than_its_bound_and_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = Payloads::open(dir.path(), false).unwrap();
    // The thread is held up by one text that takes its time.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let held =
        Payload { sealed: Box::new(move || wait.recv().map(|()| b"x".to_vec()).map_err(|e| e.to_string())), ..text(0, PayloadKind::Arguments, "x") };
    assert!(store.put(held));
    let mut taken = 0usize;
    for n in 0..10_000u64 {
        let id = CallId::new(Timestamp::from_millis(0), [n.to_be_bytes().as_slice(), &[1, 1]].concat().try_into().unwrap());
        taken += usize::from(store.put(Payload { call: id, ..text(1, PayloadKind::Arguments, "x") }));
    }
    // What the thread took into its own hands before it was held up has a place no more.
    assert!((WAITING_MAX - 1..=WAITING_MAX + BATCH_MAX).contains(&taken), "{taken}");
    assert_eq!(store.lost(), 10_000 - u64::try_from(taken).unwrap());
    go.send(()).unwrap();
    assert_eq!(store.page(0, 20_000, at(1)).await.unwrap().len(), taken + 1);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_loses_texts_loudly_and_is_used_again_when_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let store = Payloads::open(dir.path(), false).unwrap();
    store.ask(|keeper| Ok(keeper.conn.execute_batch("PRAGMA query_only = ON")?)).await.unwrap();
    assert!(store.put_durable(text(1, PayloadKind::Arguments, "x")).await.is_err());
    assert!(store.put(text(2, PayloadKind::Arguments, "x")));
    store.page(0, 1, at(1)).await.unwrap();
    assert_eq!((store.lost(), store.is_failing()), (2, true));
    store.ask(|keeper| Ok(keeper.conn.execute_batch("PRAGMA query_only = OFF")?)).await.unwrap();
    store.put_durable(text(3, PayloadKind::Arguments, "x")).await.unwrap();
    assert!(!store.is_failing());
}

#[tokio::test]
async fn texts_that_are_required_never_go_for_others_and_what_finds_no_room_is_refused_or_lost() {
    let dir = tempfile::tempdir().unwrap();
    let bytes_max = 256 << 10;
    let store = Payloads::open_with(dir.path(), Keeping { durable: true, bytes_max }).unwrap();
    let long = "y".repeat(20_000);
    for n in 0..5 {
        store.put_durable(text(n, PayloadKind::Arguments, &long)).await.unwrap();
    }
    let kept = async |n: u8| !store.of_call(call(n), None, at(5)).await.unwrap().rows.is_empty();
    for n in 100..130 {
        assert!(store.put(text(n, PayloadKind::Answer, &long)));
    }
    assert!(kept(129).await && !kept(100).await);
    assert!(store.displaced() > 0 && store.lost() == 0);
    // What is required displaces what is not, until nothing else is left.
    let mut refused = None;
    for n in 5..60 {
        if let Err(error) = store.put_durable(text(n, PayloadKind::Arguments, &long)).await {
            refused = Some((n, error));
            break;
        }
        assert!(!store.is_full());
    }
    let (refused, error) = refused.expect("there is no bound");
    assert!(refused > 6 && matches!(error, StoreError::NoRoom { .. }), "{refused}: {error}");
    assert!(store.is_full() && !store.is_failing());
    for n in 0..refused {
        assert!(kept(n).await, "{n}");
    }
    assert!(!kept(129).await);
    let lost = store.lost();
    assert!(store.put(text(200, PayloadKind::Answer, &long)));
    assert!(!kept(200).await && store.lost() == lost + 1);
    // What is withdrawn makes room again.
    store.withdraw(call(0), PayloadKind::Arguments).await.unwrap();
    store.put_durable(text(refused, PayloadKind::Arguments, &long)).await.unwrap();
    assert!(!store.is_full());
    store.close().await;
    let bytes = std::fs::metadata(dir.path().join(FILE)).unwrap().len();
    assert!(bytes <= bytes_max + 65_536, "{bytes}");
}
