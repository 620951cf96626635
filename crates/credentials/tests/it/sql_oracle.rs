//! The servers as judges of the classifier: nothing that it calls a read changes anything, not even in a transaction that may write.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_core::Effect;
use bailiwick_testkit::servers::mariadb::Mariadb;
use bailiwick_testkit::servers::postgres::Postgres;
use bailiwick_wire::sql::{Dialect, Limits, POSTGRESQL_LOOKS, Statement, classify};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
use tokio_postgres::{Client, Config, NoTls};

/// Every statement of the corpus that is a read and takes no parameter.
fn reads(dialect: Dialect) -> Vec<Statement> {
    let corpus = include_str!("../../../wire/src/sql/corpus.txt").lines().filter(|line| !line.starts_with('#'));
    let texts = corpus.map(|line| serde_json::from_str::<String>(line.splitn(3, ' ').nth(2).unwrap()).unwrap());
    let mut reads: Vec<_> = texts.filter_map(|text| classify(dialect, &text, &Limits::default()).ok()).collect();
    let more = MORE.iter().map(|text| classify(dialect, text, &Limits::default()).unwrap());
    reads.extend(more);
    reads.retain(|statement| statement.effect == Effect::Read && statement.parameters == 0);
    assert!(reads.len() > 500, "{}", reads.len());
    reads
}

/// Reads that both servers understand.
const MORE: &[&str] = &[
    "SELECT count(*), min(id), max(name) FROM t",
    "SELECT * FROM t WHERE id IN (SELECT id FROM t) ORDER BY 1",
    "WITH x AS (SELECT id FROM t) SELECT * FROM x JOIN t ON t.id = x.id",
    "SELECT upper(name), lower(name), length(name), coalesce(name, 'x'), abs(id), round(1.5) FROM t",
    "EXPLAIN SELECT * FROM t",
];

/// Columns that the corpus likes.
const COLUMNS: &[&str] = &[
    "a",
    "b",
    "c",
    "d",
    "x",
    "y",
    "z",
    "id",
    "foo",
    "bar",
    "baz",
    "k",
    "v",
    "col",
    "col1",
    "col2",
    "c1",
    "c2",
    "value",
    "num",
    "salary",
    "state",
    "city",
    "age",
    "total",
    "customer_id",
    "size",
];
const TEXTS: &[&str] = &["name", "fname", "lname", "note", "title", "username", "status", "region", "brand", "str", "s"];

/// Statements that make the tables that the reads name, with a row in each.
fn tables(reads: &[Statement], quote: char, text: &str) -> Vec<String> {
    let names: BTreeSet<_> = reads.iter().flat_map(|read| &read.tables).map(|table| table.trim_matches('"').to_owned()).collect();
    let plain = names.into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.starts_with("pg_"));
    let columns: Vec<_> = COLUMNS.iter().map(|column| format!("{quote}{column}{quote} int DEFAULT 1")).collect();
    let texts: Vec<_> = TEXTS.iter().map(|column| format!("{quote}{column}{quote} {text} DEFAULT 'x'")).collect();
    let columns = [columns, texts].concat().join(", ");
    plain
        .flat_map(|name| [format!("CREATE TABLE {quote}{name}{quote} ({columns})"), format!("INSERT INTO {quote}{name}{quote} (id) VALUES (1)")])
        .collect()
}

/// Everything of a database that a statement could change and that stays.
const POSTGRESQL_STATE: &str = "
    SELECT md5(string_agg(c.oid::text || relname || relkind::text || relowner::text || relnatts::text || relrowsecurity::text || coalesce(relacl::text, ''), ',' ORDER BY c.oid)) FROM pg_class c;
    SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM pg_roles t;
    SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM pg_db_role_setting t;
    SELECT count(*), max(oid) FROM pg_proc; SELECT count(*), max(oid) FROM pg_type; SELECT count(*) FROM pg_namespace; SELECT count(*) FROM pg_extension;
    SELECT count(*) FROM pg_largeobject_metadata; SELECT count(*) FROM pg_prepared_xacts; SELECT count(*) FROM pg_replication_slots;
    SELECT count(*) FROM pg_description; SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'; SELECT last_value, is_called FROM s;
    SELECT md5(string_agg(name || setting, ',' ORDER BY name)) FROM pg_settings WHERE source NOT IN ('client', 'session');
    SELECT md5(string_agg(query_to_xml('SELECT * FROM ' || quote_ident(relname), true, false, '')::text, ',' ORDER BY relname)) FROM pg_class
      WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";

async fn client(server: &Postgres) -> Client {
    let mut config = Config::new();
    config.host("127.0.0.1").port(server.port()).user(Postgres::SUPERUSER).password(Postgres::PASSWORD).dbname("postgres");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("SET statement_timeout = '3s'").await.unwrap();
    client
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn no_read_changes_anything_on_postgresql() {
    let server = Postgres::start(&["autovacuum=off", "log_statement=none"]).unwrap();
    let reads = reads(Dialect::Postgresql);
    server.sql("postgres", &format!("{}; CREATE SEQUENCE s", tables(&reads, '"', "text").join(";"))).unwrap();
    let before = server.sql("postgres", POSTGRESQL_STATE).unwrap();
    let client = client(&server).await;
    let (mut ran, mut refused) = (0, BTreeMap::<String, usize>::new());
    for read in &reads {
        for access in ["READ ONLY", "READ WRITE"] {
            client.batch_execute(&format!("BEGIN TRANSACTION {access}")).await.unwrap();
            match client.query(&read.text, &[]).await {
                Ok(_) => {
                    ran += 1;
                    // Whoever writes, locks a row or takes a number gets a transaction id; and a read may not change its session either.
                    let row = client
                        .query_one("SELECT pg_current_xact_id_if_assigned() IS NULL, (SELECT count(*) FROM pg_listening_channels())", &[])
                        .await;
                    let row = row.unwrap();
                    assert!(row.get::<_, bool>(0) && row.get::<_, i64>(1) == 0, "{access}: {}", read.text);
                }
                Err(error) => {
                    let code = error.code().map_or(String::new(), |code| code.code().to_owned());
                    assert_ne!(code, "25006", "a read-only transaction refuses what was called a read: {}", read.text);
                    *refused.entry(code).or_default() += 1;
                }
            }
            // Committed, so that what it did would stay.
            client.batch_execute("COMMIT").await.unwrap();
        }
    }
    assert_eq!(server.sql("postgres", POSTGRESQL_STATE).unwrap(), before);
    assert!(ran > 500, "{ran} ran, of {} twice; refused by code: {refused:?}", reads.len());
}

/// Volatile by the catalogue, and yet they change nothing.
const HARMLESS: &[&str] = &[
    "clock_timestamp",
    "timeofday",
    "random",
    "gen_random_uuid",
    "pg_database_size",
    "pg_indexes_size",
    "pg_relation_size",
    "pg_table_size",
    "pg_total_relation_size",
    "inet_client_addr",
    "generate_series",
    "current_query",
    "pg_is_in_recovery",
    // Methods of sampling, which the grammar calls.
    "bernoulli",
    "system",
];

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn functions_that_only_look_are_not_volatile_for_postgresql() {
    let server = Postgres::start(&[]).unwrap();
    let volatile = server.sql("postgres", "SELECT DISTINCT proname FROM pg_proc WHERE provolatile = 'v' OR prokind = 'p'").unwrap();
    let volatile: BTreeSet<_> = volatile.lines().collect();
    let sly: Vec<_> = POSTGRESQL_LOOKS.split_ascii_whitespace().filter(|name| volatile.contains(name) && !HARMLESS.contains(name)).collect();
    assert_eq!(sly, Vec::<&str>::new());
    let known = server.sql("postgres", "SELECT DISTINCT proname FROM pg_proc").unwrap();
    let known: BTreeSet<_> = known.lines().collect();
    let there = POSTGRESQL_LOOKS.split_ascii_whitespace().filter(|name| known.contains(name)).count();
    assert!(there > 400, "{there}");
}

const MARIADB_STATE: &str = "
    SELECT MD5(GROUP_CONCAT(table_schema, table_name, IFNULL(create_time, ''), table_type ORDER BY table_schema, table_name)) FROM information_schema.tables
      WHERE table_schema NOT IN ('information_schema', 'performance_schema');
    SELECT COUNT(*) FROM information_schema.routines; SELECT COUNT(*) FROM information_schema.triggers; SELECT COUNT(*) FROM information_schema.events;
    SELECT MD5(GROUP_CONCAT(Host, User, Priv ORDER BY Host, User)) FROM mysql.global_priv; SELECT COUNT(*) FROM mysql.plugin;
    SELECT MD5(GROUP_CONCAT(variable_name, variable_value ORDER BY variable_name)) FROM information_schema.global_variables
      WHERE variable_name NOT LIKE 'gtid%' AND variable_name NOT LIKE '%timestamp%';
    SELECT next_not_cached_value FROM shop.s;
    SHOW MASTER STATUS";

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn no_read_changes_anything_on_mariadb() {
    // Whatever changes a table, a definition or a sequence is in the binary log.
    let server = Mariadb::start(&["log-bin=bin", "server-id=1", "binlog-format=STATEMENT"]).unwrap();
    let reads = reads(Dialect::Mariadb);
    server.sql("CREATE DATABASE shop; CREATE SEQUENCE shop.s").unwrap();
    for statement in tables(&reads, '`', "varchar(50)") {
        server.sql(&format!("USE shop; {statement}")).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let state = || server.sql(&format!("SET SESSION group_concat_max_len = 100000000; {MARIADB_STATE}")).unwrap();
    let before = state();
    let options = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(server.port()).user(Some("tester")).pass(Some("tester"));
    server.sql("SET SESSION sql_log_bin = 0; CREATE USER tester@'%' IDENTIFIED BY 'tester'; GRANT ALL ON *.* TO tester@'%'").unwrap();
    let before = if state() == before { before } else { state() };
    let mut client = Conn::new(options.db_name(Some("shop")).prefer_socket(false).stmt_cache_size(0)).await.unwrap();
    client.query_drop("SET SESSION sql_mode = 'STRICT_ALL_TABLES,IGNORE_SPACE', max_statement_time = 3").await.unwrap();
    let (mut ran, mut refused) = (0, BTreeMap::<u16, usize>::new());
    for read in &reads {
        for access in ["READ ONLY", "READ WRITE"] {
            client.query_drop(format!("START TRANSACTION {access}")).await.unwrap();
            match client.exec_drop(read.text.as_str(), ()).await {
                Ok(()) => ran += 1,
                Err(mysql_async::Error::Server(error)) => {
                    assert_ne!(error.code, 1792, "a read-only transaction refuses what was called a read: {}", read.text);
                    *refused.entry(error.code).or_default() += 1;
                }
                Err(error) => panic!("{}: {error}", read.text),
            }
            client.query_drop("COMMIT").await.unwrap();
        }
        let locks: Option<Option<String>> =
            client.query_first("SELECT GROUP_CONCAT(variable_value) FROM information_schema.user_variables").await.unwrap_or(None);
        assert!(locks.flatten().is_none_or(|found| found.is_empty()), "{}", read.text);
    }
    assert_eq!(state(), before);
    assert!(ran > 500, "{ran} ran, of {} twice; refused by number: {refused:?}", reads.len());
}
