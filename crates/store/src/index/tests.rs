//! Tests of the index's questions to its file: none of them goes through all rows.

use rusqlite::Connection;

use super::{SCHEMA, follow, posting, search, tally};

fn plan(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let count = statement.parameter_count();
    let rows = statement.query_map(rusqlite::params_from_iter(vec![0_i64; count]), |r| r.get::<_, String>(3)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn no_question_goes_through_a_whole_table() {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    for sql in [
        posting::TERM,
        posting::TASK,
        posting::CALL,
        follow::OF_CALL,
        follow::OF_TASK,
        follow::TERM_OF,
        follow::LAST_BLOCK,
        search::SINCE,
        search::UNTIL,
        tally::VALUES,
        tally::BLOCKS,
        tally::REPEATS,
    ] {
        let steps = plan(&conn, sql);
        assert!(steps.iter().any(|step| step.contains("SEARCH")), "{sql}: {steps:?}");
        assert!(steps.iter().all(|step| !step.contains("SCAN")), "{sql}: {steps:?}");
    }
}

#[test]
fn a_question_that_does_go_through_a_whole_table_is_seen() {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    assert!(plan(&conn, "SELECT * FROM postings WHERE n = ?1").iter().any(|step| step.contains("SCAN")));
}
