//! Sessions of `PostgreSQL` on a private cluster: what they read and write, what they refuse, and what is left of a statement that was stopped.

use std::time::Duration;

use bailiwick_credentials::lease::{Account, Kind as _, Node};
use bailiwick_credentials::sessions::SessionError;
use bailiwick_credentials::sessions::postgresql::{Limits, Place, Session};
use bailiwick_testkit::servers::postgres::Postgres;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::postgresql_world::{World, node};
use crate::words::{PASSWORD, plan, remembered, secret, tag};

const LIMITS: Limits = Limits { rows: 5, bytes: 4096, time: Duration::from_secs(20) };

fn place(nodes: Vec<Node>, writes: bool) -> Place {
    Place { nodes, database: "shop".into(), writes }
}

/// An account with these rights, and a session with it.
async fn session(world: &World, right: &str) -> (Account, Session) {
    let plan = plan(&[right]);
    let account = remembered(&plan, world.broker().mint(&plan, Some(&secret())).await.unwrap());
    let session = Session::open(&place(vec![node("primary", &world.primary)], true), &account, &tag()).await.unwrap();
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
async fn values_come_and_go_as_json_and_the_server_knows_the_task() {
    let world = World::start();
    let (account, session) = session(&world, "grp_orders_ro").await;
    let rows = session.read("SELECT id, note FROM app.orders WHERE id <= $1 ORDER BY id", &[json!(2)], &LIMITS).await.unwrap();
    assert_eq!(rows.rows, [[json!(1), json!("note")], [json!(2), json!("note")]]);
    assert_eq!(serde_json::to_value(&rows.columns).unwrap(), json!([{ "name": "id", "type": "integer" }, { "name": "note", "type": "text" }]));
    assert!(!rows.truncated && rows.affected.is_none());
    for (sql, parameters, expected) in [
        ("SELECT NULL", json!([]), json!(null)),
        ("SELECT $1::int + 1", json!(["41"]), json!(42)),
        ("SELECT 9007199254740993", json!([]), json!("9007199254740993")),
        ("SELECT 1.10::numeric", json!([]), json!("1.10")),
        ("SELECT 0.1::float8", json!([]), json!(0.1)),
        ("SELECT true", json!([]), json!(true)),
        ("SELECT $1::text || 'x'", json!(["a'b\\ \u{fc}"]), json!("a'b\\ \u{fc}x")),
        ("SELECT $1::bytea", json!([{ "base64": "AP8=" }]), json!({ "base64": "AP8=" })),
        ("SELECT $1::jsonb -> 'a'", json!([{ "a": [1, null] }]), json!("[1, null]")),
        ("SELECT 3 = ANY($1::int[])", json!([[1, 2, 3]]), json!(true)),
        ("SELECT ($1::text[])[2]", json!([["a", "b \"c\"\\d"]]), json!("b \"c\"\\d")),
        ("SELECT '2026-11-23 10:00+02'::timestamptz", json!([]), json!("2026-11-23T08:00:00Z")),
        ("SELECT '2026-11-23 10:00'::timestamp", json!([]), json!("2026-11-23T10:00:00")),
        ("SELECT '2026-11-23'::date", json!([]), json!("2026-11-23")),
        ("SELECT '90 minutes'::interval", json!([]), json!("PT1H30M")),
        ("SELECT current_setting('application_name')", json!([]), json!(tag().connection_name(63))),
        ("SELECT session_user::text", json!([]), json!(account.name.as_str())),
        ("SELECT current_setting('transaction_read_only')", json!([]), json!("on")),
    ] {
        assert_eq!(one(&session, sql, parameters.as_array().unwrap()).await.unwrap(), expected, "{sql}");
    }
    for sql in ["SHOW ALL", "EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM app.orders", "VALUES (1), (2)", "SELECT FROM app.orders"] {
        let rows = session.read(sql, &[], &LIMITS).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(!rows.rows.is_empty(), "{sql}: {rows:?}");
    }
    // Given to another task, it has that task's name, also after a write forgot what the session was told.
    let other = bailiwick_credentials::lease::Tag { task: "task_other".into(), ..tag() };
    assert!(session.assign(&other).await);
    drop(session.write("SELECT 1", &[], &LIMITS).await.unwrap());
    assert_eq!(one(&session, "SHOW application_name", &[]).await.unwrap(), json!(other.connection_name(63)));
    // The first statement has it already: one that reads, and is rolled back.
    assert!(session.assign(&tag()).await);
    assert_eq!(one(&session, "SHOW application_name", &[]).await.unwrap(), json!(tag().connection_name(63)));
    // The server's own log has the chain, and no password.
    let name = tag().connection_name(63);
    assert_eq!(world.sql(&format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}'", name.replace('\'', "''"))), "1");
    assert!(!world.primary.log().contains(PASSWORD) && !format!("{session:?}").contains(PASSWORD));
    session.close().await;
    assert!(session.read("SELECT 1", &[], &LIMITS).await.unwrap_err().gone());
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_read_writes_nothing_whatever_its_text_says() {
    let world = World::start();
    world.sql(
        "CREATE SEQUENCE app.s; GRANT ALL ON SEQUENCE app.s TO grp_orders_rw; CREATE TABLE app.log (t text); GRANT ALL ON app.log TO grp_orders_rw;
               CREATE FUNCTION app.sly() RETURNS int LANGUAGE sql AS 'INSERT INTO app.log VALUES (''x'') RETURNING 1'",
    );
    let (_, session) = session(&world, "grp_orders_rw").await;
    for (sql, expected) in [
        ("DELETE FROM app.orders RETURNING 1", "25006"),
        ("WITH d AS (DELETE FROM app.orders RETURNING 1) SELECT * FROM d", "25006"),
        ("SELECT app.sly()", "25006"),
        ("SELECT nextval('app.s')", "25006"),
        ("SELECT * FROM app.orders FOR UPDATE", "25006"),
        ("SELECT set_config('transaction_read_only', 'off', true), app.sly()", "25001"),
        ("SELECT 1; DELETE FROM app.orders", "42601"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT $1::int", "not enough"),
    ] {
        let refused = session.read(sql, &[], &LIMITS).await.map(|rows| rows.rows).map_err(code);
        match expected {
            "not enough" => assert!(refused.unwrap_err().contains("takes 1 parameters"), "{sql}"),
            // Allowed before the first snapshot, which the statement itself has not taken: and gone with its transaction.
            "25001" if refused.is_ok() => {}
            _ => assert_eq!(refused, Err(expected.to_owned()), "{sql}"),
        }
    }
    // What would end the transaction, or change it, gives no rows.
    for sql in ["COMMIT", "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", "DO 'BEGIN END'", "COPY app.orders TO STDOUT"] {
        assert!(code(session.read(sql, &[], &LIMITS).await.unwrap_err()).contains("no read"), "{sql}");
    }
    assert_eq!(one(&session, "SELECT current_setting('transaction_read_only')", &[]).await.unwrap(), json!("on"));
    // What it set is gone with its transaction.
    one(&session, "SELECT set_config('search_path', 'app', false)", &[]).await.unwrap();
    assert_eq!(one(&session, "SHOW search_path", &[]).await.unwrap(), json!("\"$user\", public"));
    assert_eq!(world.sql("SELECT count(*) FROM app.orders; SELECT count(*) FROM app.log; SELECT is_called FROM app.s"), "100\n0\nf");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_write_is_committed_whole_and_leaves_no_state_behind() {
    let world = World::start();
    world.sql("CREATE TABLE app.child (id int REFERENCES app.orders DEFERRABLE INITIALLY DEFERRED); GRANT ALL ON app.child TO grp_orders_rw");
    let (_, session) = session(&world, "grp_orders_rw").await;
    let rows = session.write("UPDATE app.orders SET note = $1 WHERE id <= 20 RETURNING id", &[json!("new")], &LIMITS).await.unwrap();
    // Rows that do not fit are left out; the statement is done all the same.
    assert_eq!((rows.rows.len(), rows.truncated, rows.affected), (5, true, Some(20)));
    assert_eq!(world.sql("SELECT count(*) FROM app.orders WHERE note = 'new'"), "20");
    let rows = session.write("DELETE FROM app.orders WHERE id = 100", &[], &LIMITS).await.unwrap();
    assert_eq!((rows.rows.len(), rows.affected), (0, Some(1)));
    // Refused while it runs, and refused by the commit.
    assert_eq!(code(session.write("INSERT INTO app.orders VALUES (1)", &[], &LIMITS).await.unwrap_err()), "23505");
    assert_eq!(code(session.write("INSERT INTO app.child VALUES (5000)", &[], &LIMITS).await.unwrap_err()), "23503");
    assert_eq!(code(session.write("INSERT INTO app.child VALUES (1), ('x')", &[], &LIMITS).await.unwrap_err()), "22P02");
    assert_eq!(world.sql("SELECT count(*) FROM app.child"), "0");
    for state in [
        "SELECT set_config('search_path', 'app', false)",
        "SELECT set_config('default_transaction_read_only', 'on', false)",
        "SELECT pg_advisory_lock(5)",
        "CREATE TEMP TABLE hidden (a int)",
        "LISTEN x",
        "PREPARE p AS SELECT 1",
    ] {
        session.write(state, &[], &LIMITS).await.unwrap();
    }
    assert_eq!(
        one(&session, "SELECT current_setting('search_path') || current_setting('application_name')", &[]).await.unwrap(),
        json!(format!("\"$user\", public{}", tag().connection_name(63)))
    );
    assert_eq!(one(&session, "SELECT count(*) FROM pg_prepared_statements", &[]).await.unwrap(), json!(0));
    assert_eq!(
        world.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'; SELECT count(*) FROM pg_class WHERE relname = 'hidden'"),
        "0\n0"
    );
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn rows_bytes_and_time_are_limited() {
    let world = World::start();
    world.sql("GRANT CREATE ON SCHEMA app TO grp_orders_ro");
    let (account, session) = session(&world, "grp_orders_ro").await;
    let five = session.read("SELECT g FROM generate_series(1, 5) g", &[], &LIMITS).await.unwrap();
    assert_eq!((five.rows.len(), five.truncated), (5, false));
    // Without an end of its own.
    let endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r";
    let many = session.read(endless, &[], &LIMITS).await.unwrap();
    assert_eq!((many.rows.len(), many.truncated), (5, true));
    // Rows that do not fit, one by one and at once.
    let wide = session.read("SELECT repeat('x', 1500) FROM generate_series(1, 4)", &[], &LIMITS).await.unwrap();
    assert_eq!((wide.rows.len(), wide.truncated), (2, true));
    let giant = session.read("SELECT repeat('x', 10000000)", &[], &LIMITS).await.unwrap();
    assert_eq!((giant.rows.len(), giant.truncated), (0, true));
    let many = session.read("SELECT g FROM generate_series(1, 3000) g", &[], &Limits { rows: 2500, bytes: 1 << 20, ..LIMITS }).await.unwrap();
    assert_eq!((many.rows.len(), many.truncated, &many.rows[2499]), (2500, true, &vec![json!(2500)]));
    assert_eq!(one(&session, "SELECT 1", &[]).await.unwrap(), json!(1));
    // The server's own limit first; the session goes on.
    let short = Limits { time: Duration::from_millis(300), ..LIMITS };
    assert_eq!(code(session.read("SELECT pg_sleep(100)", &[], &short).await.unwrap_err()), "57014");
    // A function that lifts it is stopped from here.
    world.sql("CREATE FUNCTION app.slow() RETURNS void LANGUAGE plpgsql AS 'BEGIN LOOP BEGIN PERFORM pg_sleep(100); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END'");
    let stopped = session.read("SELECT app.slow()", &[], &short).await.unwrap_err();
    assert!(stopped.gone() && !stopped.may_have_run(), "{stopped}");
    assert!(session.read("SELECT 1", &[], &LIMITS).await.unwrap_err().gone());
    world.broker().end(&account).await.unwrap();
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_call_that_goes_away_stops_at_the_server() {
    let world = World::start();
    let (_, session) = session(&world, "grp_orders_rw").await;
    let running = || world.sql("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'ag\\_%' AND state = 'active'");
    let call = session.write("UPDATE app.orders SET note = pg_sleep(100)::text", &[], &LIMITS);
    assert!(tokio::time::timeout(Duration::from_millis(500), call).await.is_err());
    for _ in 0..200 {
        if running() == "0" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(running(), "0");
    assert_eq!(world.sql("SELECT count(*) FROM app.orders WHERE note = 'note'"), "100");
    assert!(session.read("SELECT 1", &[], &LIMITS).await.unwrap_err().gone());
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_commit_whose_answer_is_lost_may_have_been_done() {
    let world = World::start();
    world.sql(
        "CREATE FUNCTION app.wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(30); RETURN NULL; END';
               CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON app.orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.wait()",
    );
    let (account, session) = session(&world, "grp_orders_rw").await;
    let kill = async {
        while world.sql("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'ag\\_%' AND query = 'COMMIT' AND state = 'active'") != "1" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.broker().end(&account).await.unwrap()
    };
    let (lost, _) = tokio::join!(session.write("UPDATE app.orders SET note = 'x' WHERE id = 1", &[], &LIMITS), kill);
    let lost = lost.unwrap_err();
    assert!(lost.gone() && lost.may_have_run(), "{lost}");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn what_was_committed_is_told_though_the_tidying_hangs() {
    let world = World::start();
    let (_, session) = session(&world, "grp_orders_rw").await;
    session.write("CREATE TEMP TABLE hidden (a int)", &[], &LIMITS).await.unwrap();
    // `DISCARD ALL` waits for whoever holds the session's schema of temporary tables.
    let schema = world.sql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'pg\\_temp\\_%'");
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(world.primary.port()).user(Postgres::SUPERUSER).password(Postgres::PASSWORD).dbname("shop");
    let (holder, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    holder.batch_execute(&format!("BEGIN; COMMENT ON SCHEMA {schema} IS 'held'")).await.unwrap();
    let short = Limits { time: Duration::from_millis(1000), ..LIMITS };
    let rows = session.write("UPDATE app.orders SET note = 'done' WHERE id = 1 RETURNING id", &[], &short).await.unwrap();
    assert_eq!((rows.rows.len(), rows.affected), (1, Some(1)));
    assert!(session.is_over(), "its state is not known to be gone");
    assert_eq!(world.sql("SELECT note FROM app.orders WHERE id = 1"), "done");
    holder.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn what_was_refused_or_read_leaves_no_lock_behind() {
    let world = World::start();
    let (_, session) = session(&world, "grp_orders_rw").await;
    let locks = || world.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'");
    assert_eq!(code(session.write("SELECT pg_advisory_lock(5), 1 / (random() * 0)::int", &[], &LIMITS).await.unwrap_err()), "22012");
    assert_eq!(locks(), "0");
    one(&session, "SELECT pg_advisory_lock(6)", &[]).await.unwrap();
    assert_eq!(locks(), "0");
    assert_eq!(code(session.read("SELECT pg_advisory_lock(7), 1 / (random() * 0)::int", &[], &LIMITS).await.unwrap_err()), "22012");
    assert_eq!(locks(), "0");
    assert_eq!(one(&session, "SHOW application_name", &[]).await.unwrap(), json!(tag().connection_name(63)));
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_dot_calls_a_function_as_the_classifier_says() {
    let world = World::start();
    world.sql("CREATE FUNCTION public.purge_customer(int) RETURNS int LANGUAGE sql AS 'SELECT $1'; CREATE FUNCTION public.shout(text) RETURNS text LANGUAGE sql AS 'SELECT $1'");
    let (_, session) = session(&world, "grp_orders_rw").await;
    for sql in [
        "SELECT n.purge_customer FROM generate_series(7,7) AS n",
        "SELECT generate_series.purge_customer FROM generate_series(7,7)",
        "SELECT (n).purge_customer FROM generate_series(7,7) AS n",
        "SELECT n.purge_customer FROM unnest(ARRAY[7]) AS n",
        "SELECT n.purge_customer FROM ROWS FROM (generate_series(7,7)) AS n",
        "SELECT n.shout FROM current_catalog AS n",
        "SELECT btrim.shout FROM trim('x') ",
        "SELECT n.pg_advisory_lock FROM generate_series(42,42) AS n",
    ] {
        one(&session, sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let told = bailiwick_wire::sql::classify(bailiwick_wire::sql::Dialect::Postgresql, sql, &bailiwick_wire::sql::Limits::default());
        assert!(told.is_err() || told.is_ok_and(|told| told.effect == bailiwick_core::Effect::Delete), "{sql}");
    }
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn an_ended_account_has_no_session_any_more() {
    let world = World::start();
    let (account, session) = session(&world, "grp_orders_ro").await;
    one(&session, "SELECT 1", &[]).await.unwrap();
    world.broker().end(&account).await.unwrap();
    let lost = session.read("SELECT 1", &[], &LIMITS).await.unwrap_err();
    assert!(lost.gone() && !lost.may_have_run(), "{lost}");
    let refused = Session::open(&place(vec![node("primary", &world.primary)], true), &account, &tag()).await.unwrap_err();
    assert!(refused.to_string().contains("28P01") && !refused.to_string().contains(PASSWORD), "{refused}");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn writes_go_to_the_node_that_takes_them_and_reads_to_a_standby_if_nothing_else_answers() {
    let world = World::start();
    let standby = world.primary.standby().unwrap();
    let (account, _) = session(&world, "grp_orders_ro").await;
    let (first, second) = (node("standby", &standby), node("primary", &world.primary));
    let nodes = || vec![first.clone(), second.clone()];
    let lag = "SELECT pg_last_wal_replay_lsn() IS NOT NULL AND EXISTS (SELECT 1 FROM pg_roles WHERE rolname LIKE 'ag\\_%')";
    while standby.sql("postgres", lag).unwrap() != "t" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let open = Session::open(&place(nodes(), true), &account, &tag()).await.unwrap();
    assert_eq!(one(&open, "SELECT pg_is_in_recovery()", &[]).await.unwrap(), json!(false));
    drop(open);
    let mut world = world;
    world.primary.stop().unwrap();
    let open = Session::open(&place(nodes(), false), &account, &tag()).await.unwrap();
    assert_eq!(one(&open, "SELECT pg_is_in_recovery()", &[]).await.unwrap(), json!(true));
    assert!(Session::open(&place(nodes(), true), &account, &tag()).await.is_err());
}

/// A server of a stranger, which says this after the startup message. Gives what it was sent.
async fn stranger(says: &'static [u8]) -> (Node, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Node::new("stranger", "127.0.0.1", listener.local_addr().unwrap().port(), None).unwrap();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = vec![0; 4096];
        let length = stream.read(&mut heard).await.unwrap();
        heard.truncate(length);
        stream.write_all(says).await.unwrap();
        drop(stream.read_to_end(&mut heard).await);
        heard
    });
    (node, heard)
}

#[tokio::test]
async fn a_server_that_does_not_prove_that_it_knows_the_role_gets_neither_password_nor_statement() {
    let plan = plan(&[]);
    let account = || Account { name: plan.name.clone(), ids: Default::default(), secret: Some(secret()), expires_at: None };
    for (says, words) in [
        (&b"R\0\0\0\x08\0\0\0\x03"[..], "in a form that would show it"),
        (b"R\0\0\0\x0c\0\0\0\x05salt", "in a form that would show it"),
        (b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", "without a proof"),
        (b"Z\0\0\0\x05I", "not the role's"),
        (b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-1\0\0\0\0", "does not offer"),
        (b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0R\0\0\0\x11\0\0\0\x0br=x,s=y,i", "part of SCRAM is wrong"),
        (b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0R\0\0\0\x0c\0\0\0\x0cv=AAR\0\0\0\x08\0\0\0\0", "without a proof"),
        (b"E\x7f\xff\xff\xff", "too long"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ""),
    ] {
        let (node, heard) = stranger(says).await;
        let refused = Session::open(&place(vec![node], true), &account(), &tag()).await.unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
        let heard = heard.await.unwrap();
        assert!(!heard.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes()));
    }
}
