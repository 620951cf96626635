//! Sessions of `MariaDB` on a private server: what they read and write, what they refuse, and what is left of a statement that was stopped.

use std::time::Duration;

use bailiwick_credentials::lease::{Account, Kind as _, Node};
use bailiwick_credentials::sessions::SessionError;
use bailiwick_credentials::sessions::mariadb::{Limits, Place, Session};
use serde_json::{Value, json};

use crate::mariadb_world::{World, node};
use crate::words::{PASSWORD, plan, remembered, secret, tag};

const LIMITS: Limits = Limits { rows: 5, bytes: 4096, time: Duration::from_secs(20) };

fn place(nodes: Vec<Node>, writes: bool) -> Place {
    Place { nodes, database: "shop".into(), writes, packet_bytes: 1 << 20 }
}

async fn session(world: &World, right: &str) -> (Account, Session) {
    let plan = plan(&[right]);
    let account = remembered(&plan, world.broker().mint(&plan, Some(&secret())).await.unwrap());
    let session = Session::open(&place(vec![node("primary", &world.server)], true), &account, &tag()).await.unwrap();
    (account, session)
}

fn code(error: SessionError) -> String {
    match error {
        SessionError::Refused { code, .. } => code,
        other => format!("{other:?}"),
    }
}

async fn one(session: &Session, sql: &str, parameters: &[Value]) -> Result<Value, String> {
    let rows = session.read(sql, parameters, &LIMITS).await.map_err(code)?;
    Ok(rows.rows.first().and_then(|row| row.first()).cloned().unwrap_or(Value::Null))
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn values_come_and_go_as_json() {
    let world = World::start();
    let (account, session) = session(&world, "orders_ro").await;
    let rows = session.read("SELECT id, note FROM orders WHERE id <= ? ORDER BY id", &[json!(2)], &LIMITS).await.unwrap();
    assert_eq!(rows.rows, [[json!(1), json!("note")], [json!(2), json!("note")]]);
    assert_eq!(serde_json::to_value(&rows.columns).unwrap(), json!([{ "name": "id", "type": "int" }, { "name": "note", "type": "text" }]));
    for (sql, parameters, expected) in [
        ("SELECT NULL", json!([]), json!(null)),
        ("SELECT ? + 1", json!(["41"]), json!(42.0)),
        ("SELECT 9007199254740993", json!([]), json!("9007199254740993")),
        ("SELECT CAST(1.1 AS DECIMAL(10,2))", json!([]), json!("1.10")),
        ("SELECT CAST(0.1 AS DOUBLE)", json!([]), json!(0.1)),
        ("SELECT CONCAT(?, 'x')", json!(["a'b\\ \u{fc}"]), json!("a'b\\ \u{fc}x")),
        ("SELECT CAST(? AS BINARY)", json!([{ "base64": "AP8=" }]), json!({ "base64": "AP8=" })),
        ("SELECT JSON_VALUE(?, '$.a')", json!([{ "a": 5 }]), json!("5")),
        ("SELECT CAST('2026-11-23 10:00' AS DATETIME)", json!([]), json!("2026-11-23T10:00:00")),
        ("SELECT CAST('2026-11-23' AS DATE)", json!([]), json!("2026-11-23")),
        ("SELECT @@tx_read_only", json!([]), json!(1)),
        ("SELECT SUBSTRING_INDEX(USER(), '@', 1)", json!([]), json!(account.name.as_str())),
        ("SELECT COUNT (*) FROM orders", json!([]), json!(2)),
    ] {
        assert_eq!(one(&session, sql, parameters.as_array().unwrap()).await.unwrap(), expected, "{sql}");
    }
    // What shows has rows too.
    for sql in [
        "SHOW TABLES",
        "SHOW FULL TABLES",
        "SHOW DATABASES",
        "SHOW CREATE TABLE orders",
        "SHOW COLUMNS FROM orders",
        "SHOW INDEX FROM orders",
        "SHOW VARIABLES LIKE 'version'",
        "SHOW GLOBAL STATUS LIKE 'Uptime'",
        "SHOW GRANTS",
        "SHOW PROCESSLIST",
        "SHOW CHARACTER SET LIKE 'utf8mb4'",
        "SHOW COLLATION LIKE 'utf8mb4_bin'",
        "DESCRIBE orders",
        "EXPLAIN SELECT * FROM orders",
        "VALUES (1, 2), (3, 4)",
        "WITH x AS (SELECT 1) SELECT * FROM x",
    ] {
        let rows = session.read(sql, &[], &LIMITS).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(!rows.columns.is_empty() && (!rows.rows.is_empty() || sql.contains("INDEX")), "{sql}: {rows:?}");
    }
    let wrong = session.read("SELECT ?", &[], &LIMITS).await.unwrap_err();
    assert!(matches!(&wrong, SessionError::NotSent(words) if words.contains("takes 1 parameters")), "{wrong}");
    assert!(!world.server.log().contains(PASSWORD) && !format!("{session:?}").contains(PASSWORD));
    session.close().await;
    assert!(session.read("SELECT 1", &[], &LIMITS).await.unwrap_err().gone());
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_read_writes_no_table_whatever_its_text_says() {
    let world = World::start();
    world.sql(
        "CREATE SEQUENCE shop.s; CREATE TABLE shop.log (t text);
               CREATE FUNCTION shop.sly() RETURNS INT MODIFIES SQL DATA RETURN (SELECT COUNT(*) FROM shop.log);
               CREATE PROCEDURE shop.purge_all() DELETE FROM shop.orders;",
    );
    let (_, session) = session(&world, "orders_rw").await;
    for (sql, expected) in [
        ("DELETE FROM orders RETURNING id", "1792"),
        ("INSERT INTO log VALUES ('x') RETURNING t", "1792"),
        ("DELETE FROM orders", "no read"),
        ("CREATE TABLE t (a int)", "no read"),
        ("DROP TABLE log", "no read"),
        ("TRUNCATE log", "no read"),
        ("CALL purge_all()", "no read"),
        ("COMMIT", "no read"),
        ("SET SESSION tx_read_only = 0", "no read"),
        ("SELECT id FROM orders INTO OUTFILE '/tmp/bailiwick-outfile'", "1227"),
        ("DO GET_LOCK('x', 0)", "no read"),
        ("ALTER TABLE log ADD COLUMN a int", "no read"),
        ("RENAME TABLE log TO gol", "no read"),
        ("SELECT NEXT VALUE FOR s", "1792"),
        ("SELECT * FROM orders FOR UPDATE", ""),
        ("SELECT 1; DELETE FROM orders", "1064"),
        ("SELECT * FROM nowhere", "1146"),
        ("LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE log", "1792"),
    ] {
        let refused = session.read(sql, &[], &LIMITS).await.map_err(code);
        if expected == "no read" {
            // Not even run; or, where the server looks first, refused by it.
            let words = refused.unwrap_err();
            assert!(words.contains("no read") || words == "1792", "{sql}: {words}");
        } else if !expected.is_empty() {
            assert_eq!(refused.map(|rows| rows.rows), Err(expected.to_owned()), "{sql}");
        }
    }
    assert_eq!(world.sql("SELECT COUNT(*) FROM shop.orders; SELECT COUNT(*) FROM shop.log"), "2\n0");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_write_is_committed_and_leaves_no_state_behind() {
    let world = World::start();
    world.sql("DELIMITER //\nCREATE PROCEDURE shop.messy() BEGIN SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'; SET @left = 5; SET ROLE NONE; CREATE TEMPORARY TABLE shop.hidden (a int); DO GET_LOCK('x', 0); END//");
    let (_, session) = session(&world, "orders_rw").await;
    let rows = session.write("UPDATE orders SET note = ? WHERE id = 1", &[json!("new")], &LIMITS).await.unwrap();
    assert_eq!((rows.rows.len(), rows.affected), (0, Some(1)));
    let rows = session
        .write("INSERT INTO orders VALUES (11, 'a'), (12, 'b'), (13, 'c'), (14, 'd'), (15, 'e'), (16, 'f') RETURNING id", &[], &LIMITS)
        .await
        .unwrap();
    assert_eq!((rows.rows.len(), rows.truncated), (5, true));
    assert_eq!(world.sql("SELECT COUNT(*) FROM shop.orders WHERE note <> 'note'"), "7");
    assert_eq!(code(session.write("INSERT INTO orders VALUES (20, 'x'), (1, 'x')", &[], &LIMITS).await.unwrap_err()), "1062");
    assert_eq!(world.sql("SELECT COUNT(*) FROM shop.orders WHERE id = 20"), "0");
    session.write("CALL messy()", &[], &LIMITS).await.unwrap();
    let mode = one(&session, "SELECT @@sql_mode", &[]).await.unwrap();
    assert!(mode.as_str().unwrap().contains("IGNORE_SPACE") && !mode.as_str().unwrap().contains("ANSI_QUOTES"), "{mode}");
    assert_eq!(one(&session, "SELECT @left", &[]).await.unwrap(), json!(null));
    assert_eq!(one(&session, "SELECT COUNT(*) FROM orders", &[]).await.unwrap(), json!(8));
    assert_eq!(code(session.read("SELECT * FROM hidden", &[], &LIMITS).await.unwrap_err()), "1146");
    assert_eq!(world.sql("SELECT IS_FREE_LOCK('x')"), "1");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn what_was_refused_or_read_leaves_no_lock_behind() {
    let world = World::start();
    let (_, session) = session(&world, "orders_rw").await;
    let free = || world.sql("SELECT IS_FREE_LOCK('x')");
    one(&session, "SELECT GET_LOCK('x', 0)", &[]).await.unwrap();
    assert_eq!(free(), "1");
    let refused = session.write("INSERT INTO orders SELECT 1, GET_LOCK('x', 0) FROM orders", &[], &LIMITS).await.unwrap_err();
    assert_eq!(code(refused), "1062");
    assert_eq!(free(), "1");
    assert!(one(&session, "SELECT @@sql_mode", &[]).await.unwrap().as_str().unwrap().contains("IGNORE_SPACE"));
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_read_whose_connection_is_lost_is_no_answer() {
    let world = World::start();
    let (_, session) = session(&world, "orders_ro").await;
    let kill = async {
        let mut id = String::new();
        while id.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            id = world.sql("SELECT id FROM information_schema.processlist WHERE user LIKE 'ag%' AND info LIKE '%SLEEP%' LIMIT 1");
        }
        world.sql(&format!("KILL HARD CONNECTION {id}"));
    };
    let (lost, ()) = tokio::join!(session.read("SELECT seq, SLEEP(1) FROM seq_1_to_100", &[], &LIMITS), kill);
    assert!(lost.as_ref().is_err_and(|lost| lost.gone() || matches!(lost, SessionError::Refused { .. })), "{lost:?}");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn rows_bytes_and_time_are_limited() {
    let world = World::start();
    let (account, session) = session(&world, "orders_ro").await;
    let (place, tag) = (place(vec![node("primary", &world.server)], true), tag());
    let open = async || {
        // The account may have two connections, and one that was given up is ended in the background.
        for _ in 0..200 {
            if world.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE user LIKE 'ag%'") == "0" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Session::open(&place, &account, &tag).await.unwrap()
    };
    let series = "SELECT seq FROM seq_1_to_";
    let rows = session.read(&format!("{series}5"), &[], &LIMITS).await.unwrap();
    assert_eq!((rows.rows.len(), rows.truncated), (5, false));
    let rows = session.read(&format!("{series}100000000"), &[], &LIMITS).await.unwrap();
    assert_eq!((rows.rows.len(), rows.truncated), (5, true));
    assert_eq!(one(&session, "SELECT 1", &[]).await.unwrap(), json!(1), "the session goes on");
    let wide = session.read("SELECT REPEAT('x', 1500) FROM seq_1_to_4", &[], &LIMITS).await.unwrap();
    assert_eq!((wide.rows.len(), wide.truncated), (2, true));
    // A limit of its own that is larger than ours: the connection is given up, and nothing runs on at the server.
    session.close().await;
    let session = open().await;
    let rows = session.read(&format!("{series}100000000 LIMIT 90000000"), &[], &LIMITS).await.unwrap();
    assert_eq!((rows.rows.len(), rows.truncated), (5, true));
    assert!(session.is_over(), "whoever holds it opens another");
    assert!(session.read("SELECT 1", &[], &LIMITS).await.unwrap_err().gone());
    let session = open().await;
    assert!(!session.is_over());
    let giant = session.read("SELECT REPEAT('x', 10000000)", &[], &LIMITS).await;
    // Longer than the server's own packets, or than ours: in no case is it kept.
    assert!(giant.as_ref().is_ok_and(|rows| rows.rows.iter().flatten().all(Value::is_null)), "{giant:?}");
    session.close().await;
    let session = open().await;
    let short = Limits { time: Duration::from_millis(500), ..LIMITS };
    assert_eq!(code(session.read("SELECT COUNT(*) FROM seq_1_to_100000000 a, seq_1_to_100000000 b", &[], &short).await.unwrap_err()), "1969");
    assert_eq!(one(&session, "SELECT 1", &[]).await.unwrap(), json!(1));
    drop(session);
    soon_idle(&world).await;
}

/// Nothing of our accounts runs at the server.
async fn soon_idle(world: &World) {
    let running = || world.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE user LIKE 'ag%' AND command NOT IN ('Sleep')");
    for _ in 0..200 {
        if running() == "0" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(running(), "0");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_call_that_goes_away_stops_at_the_server() {
    let world = World::start();
    let (_, session) = session(&world, "orders_rw").await;
    let call = session.write("UPDATE orders SET note = SLEEP(100)", &[], &LIMITS);
    assert!(tokio::time::timeout(Duration::from_millis(500), call).await.is_err());
    soon_idle(&world).await;
    assert_eq!(world.sql("SELECT COUNT(*) FROM shop.orders WHERE note = 'note'"), "2");
    assert!(session.read("SELECT 1", &[], &LIMITS).await.unwrap_err().gone());
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn an_ended_account_has_no_session_any_more_and_what_was_sent_may_have_been_done() {
    let world = World::start();
    let (account, session) = session(&world, "orders_rw").await;
    let kill = async {
        while world.sql("SELECT COUNT(*) FROM information_schema.processlist WHERE user LIKE 'ag%' AND info LIKE 'UPDATE%'") != "1" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.broker().end(&account).await.unwrap()
    };
    let (lost, _) = tokio::join!(session.write("UPDATE orders SET note = SLEEP(100)", &[], &LIMITS), kill);
    let lost = lost.unwrap_err();
    assert!(lost.gone() && lost.may_have_run(), "{lost}");
    let refused = Session::open(&place(vec![node("primary", &world.server)], true), &account, &tag()).await.unwrap_err();
    assert!(refused.to_string().contains("Access denied") && !refused.to_string().contains(PASSWORD), "{refused}");
}
