//! What is sealed under a root key is found, replaced where it still stands, and refused once the key is retired.

use crate::{NoStep, SealedPlace};
use bailiwick_core::LeaseId;

use super::*;

const OLD: [u8; 8] = *b"old-root";
const NEW: [u8; 8] = *b"new-root";

fn sealed(sort: &[u8; 4], root: [u8; 8], text: &str) -> Vec<u8> {
    [sort.as_slice(), &root, text.as_bytes()].concat()
}

/// Every blob of the schema is in the list of what is sealed, or known to be something else. Who adds one decides.
#[test]
fn every_column_that_can_hold_something_sealed_is_known() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let conn = rusqlite::Connection::open(dir.path().join("bailiwick.sqlite")).unwrap();
    let sql =
        "SELECT m.name || '.' || c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND c.type = 'BLOB' ORDER BY 1";
    let mut statement = conn.prepare(sql).unwrap();
    let columns: Vec<String> = statement.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect();
    let sealed = ["holds.arguments", "kept_secrets.candidate", "leases.secret", "results.result", "salts.sealed", "secrets.sealed"];
    for column in sealed {
        assert!(columns.iter().any(|c| c == column), "{column} is not in the schema");
    }
    // Ids, digests, public keys, entries and states of the tree.
    let words = [
        "id",
        "task",
        "parent",
        "call",
        "hold",
        "digest",
        "hash",
        "jti",
        "key",
        "public_key",
        "definition",
        "body",
        "frontier",
        "root",
        "leaf",
        "leaves",
        "ids",
        "value",
        "closes",
        "journal_must",
        "journal_may",
    ];
    let unknown: Vec<&String> = columns.iter().filter(|c| !sealed.contains(&c.as_str()) && !words.contains(&c.split_once('.').unwrap().1)).collect();
    assert!(unknown.is_empty(), "sealed or not? {unknown:?}");
}

#[tokio::test]
async fn what_is_sealed_under_a_root_key_is_found_and_replaced_only_where_it_still_stands() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..5 {
        store.secret_put(&format!("s{n}"), sealed(b"BWS2", OLD, "x")).await.unwrap();
    }
    store.secret_put("mine", sealed(b"BWS2", NEW, "x")).await.unwrap();
    store.secret_put("short", b"BWS".to_vec()).await.unwrap();
    store.kept_begin("s0", 0, Some(sealed(b"BWS1", OLD, "candidate"))).await.unwrap().unwrap();
    assert_eq!((store.sealed_under(OLD).await.unwrap(), store.sealed_under(NEW).await.unwrap()), (6, 1));
    let rows = store.sealed_rows(OLD, 2).await.unwrap();
    assert_eq!(rows.len(), 3, "two of each sort: {rows:?}");
    let all = store.sealed_rows(OLD, 100).await.unwrap();
    assert!(all.iter().any(|row| row.place == SealedPlace::Candidate("s0".into())), "{all:?}");
    // Somebody sets one meanwhile: what he set is not undone.
    store.secret_put("s1", sealed(b"BWS2", NEW, "set meanwhile")).await.unwrap();
    let anew: Vec<_> = all.into_iter().map(|row| (row.clone(), [b"BWS2".as_slice(), &NEW, &row.sealed[12..]].concat())).collect();
    assert_eq!(store.reseal(anew.clone()).await.unwrap(), 5);
    assert_eq!(store.reseal(anew).await.unwrap(), 0, "once");
    assert_eq!(store.secret("s1").await.unwrap().unwrap(), sealed(b"BWS2", NEW, "set meanwhile"));
    assert_eq!(store.secret("s2").await.unwrap().unwrap(), sealed(b"BWS2", NEW, "x"));
    assert_eq!(store.kept("s0").await.unwrap().unwrap().candidate.unwrap(), sealed(b"BWS2", NEW, "candidate"));
    assert_eq!(store.sealed_under(OLD).await.unwrap(), 0);
}

#[tokio::test]
async fn under_a_retired_root_key_nothing_is_written_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.secret_put("before", sealed(b"BWS2", OLD, "x")).await.unwrap();
    assert_eq!(store.retire_root(OLD).await.unwrap(), 1, "what is there is counted");
    assert_eq!(store.retire_root(OLD).await.unwrap(), 1, "again");
    for sort in [b"BWS1", b"BWS2", b"BWP2"] {
        let refused = store.secret_put("after", sealed(sort, OLD, "x")).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
        let refused = store.kept_begin("before", 0, Some(sealed(sort, OLD, "x"))).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    }
    assert_eq!((store.secret("after").await.unwrap(), store.kept("before").await.unwrap().unwrap().revision), (None, 0));
    store.secret_put("after", sealed(b"BWS2", NEW, "x")).await.unwrap();
    store.secret_put("old-root is only a text here", b"old-rootold-rootold-root".to_vec()).await.unwrap();
    // A step that leaves what is sealed as it is goes on.
    assert_eq!(store.kept_take("before", "ag_1").await.unwrap(), Ok(true));
    let row = SealedRowOf("before");
    assert_eq!(store.reseal(vec![row.anew()]).await.unwrap(), 1);
    assert_eq!(store.sealed_under(OLD).await.unwrap(), 0);
    store.close().await;
    let again = open(dir.path());
    again.secret_put("after a start", sealed(b"BWS2", OLD, "x")).await.unwrap();
    assert_eq!(again.sealed_under(OLD).await.unwrap(), 1);
}

struct SealedRowOf(&'static str);

impl SealedRowOf {
    fn anew(&self) -> (crate::SealedRow, Vec<u8>) {
        let row = crate::SealedRow { place: SealedPlace::Secret(self.0.into()), sealed: sealed(b"BWS2", OLD, "x") };
        (row, sealed(b"BWS2", NEW, "x"))
    }
}

#[tokio::test]
async fn a_lease_whose_secret_comes_late_under_a_retired_key_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.retire_root(OLD).await.unwrap();
    let lease = crate::Lease {
        id: LeaseId::new(at(1), [1; 10]),
        system: "db".parse().unwrap(),
        class: "read".into(),
        kind: "test".into(),
        account: "ag_x".into(),
        target: String::new(),
        rights: Vec::new(),
        begun_at: at(1),
    };
    let row = |root| crate::LeaseRow {
        lease: lease.clone(),
        task: None,
        state: crate::LeaseState::Pooled,
        life: crate::LeaseLife::default(),
        secret: Some(sealed(b"BWS2", root, "x")),
    };
    assert!(matches!(store.lease_begin(row(OLD), b"{}".to_vec()).await, Err(StoreError::Conflict { .. })));
    store.lease_begin(row(NEW), b"{}".to_vec()).await.unwrap().unwrap();
    assert_eq!(store.kept_take("none", "ag_1").await.unwrap(), Err(NoStep::Unset));
}
