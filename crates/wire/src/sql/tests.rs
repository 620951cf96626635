//! What statements do, told from their text: the parser's own corpus, tricks, and mutations of writes.

use proptest::prelude::*;

use super::*;

fn of(dialect: Dialect, text: &str) -> Result<Statement, SqlRefusal> {
    classify(dialect, text, &Limits::default())
}

fn effect(dialect: Dialect, text: &str) -> Option<Effect> {
    of(dialect, text).ok().map(|statement| statement.effect)
}

const BOTH: [Dialect; 2] = [Dialect::Postgresql, Dialect::Mariadb];

#[test]
fn the_parsers_own_statements_do_what_the_corpus_says() {
    let mut reads = 0;
    for (number, line) in include_str!("corpus.txt").lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let mut parts = line.splitn(3, ' ');
        let expected = [parts.next().unwrap(), parts.next().unwrap()];
        let text: String = serde_json::from_str(parts.next().unwrap()).unwrap();
        for (dialect, expected) in BOTH.into_iter().zip(expected) {
            let told = effect(dialect, &text).map_or("never", Effect::word);
            assert_eq!(told, expected, "line {} in {dialect:?}: {text}\n{:?}", number + 1, of(dialect, &text));
            reads += usize::from(told == "read");
        }
    }
    assert!(reads > 1400, "{reads}");
}

#[test]
fn no_trick_is_taken_for_a_read_by_postgresql() {
    for trick in TRICKS_POSTGRESQL {
        assert_ne!(effect(Dialect::Postgresql, trick), Some(Effect::Read), "{trick}");
    }
}

const TRICKS_POSTGRESQL: &[&str] = &[
    // Other statements in a query's clothes.
    "WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x",
    "with x as (insert into orders values (1) returning *) select * from x",
    "WITH x AS (UPDATE orders SET note = '' RETURNING *) SELECT count(*) FROM x",
    "WITH a AS (SELECT 1), b AS (WITH c AS (DELETE FROM orders RETURNING *) SELECT * FROM c) SELECT * FROM a, b",
    "WITH x AS (MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE RETURNING *) SELECT * FROM x",
    "WITH x AS (SELECT 1) DELETE FROM orders",
    "SELECT * INTO backup FROM orders",
    "SELECT * INTO TEMP backup FROM orders",
    "TABLE orders; DELETE FROM orders",
    "SELECT 1; DELETE FROM orders",
    "SELECT 1;; SELECT 2",
    "EXPLAIN ANALYZE DELETE FROM orders",
    "EXPLAIN (ANALYZE) DELETE FROM orders",
    "EXPLAIN (ANALYZE true, VERBOSE) WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x",
    "EXPLAIN (ANALYZE) CREATE TABLE t AS SELECT 1",
    "EXPLAIN ANALYZE EXECUTE removal",
    "EXPLAIN ANALYZE SELECT purge_all()",
    "SELECT * FROM orders FOR UPDATE",
    "SELECT * FROM orders FOR NO KEY UPDATE SKIP LOCKED",
    "SELECT * FROM orders FOR SHARE",
    "SELECT * FROM orders FOR KEY SHARE",
    "SELECT * FROM (SELECT * FROM orders FOR UPDATE) o",
    // What is called.
    "SELECT nextval('orders_id_seq')",
    "SELECT setval('orders_id_seq', 1)",
    "SELECT pg_catalog.nextval('orders_id_seq')",
    "SELECT \"nextval\"('orders_id_seq')",
    "SELECT pg_notify('c', 'x')",
    "SELECT purge_all()",
    "SELECT app.lower('x')",
    "SELECT \"Lower\"('x')",
    "SELECT * FROM purge_all()",
    "SELECT * FROM orders, LATERAL purge(orders.id) p",
    "SELECT * FROM ROWS FROM (purge_all(), generate_series(1, 2)) AS x",
    "SELECT * FROM generate_series(1, purge_all())",
    "SELECT 1 WHERE EXISTS (SELECT purge_all())",
    "SELECT count(*) FILTER (WHERE purge_all()) FROM orders",
    "SELECT rank() OVER (ORDER BY purge_all()) FROM orders",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY purge_all()) FROM orders",
    "SELECT 1 ORDER BY purge_all()",
    "SELECT 1 LIMIT purge_all()",
    "SELECT 1 OFFSET purge_all()",
    "SELECT 1 GROUP BY purge_all() HAVING purge_all() > 1",
    "SELECT CASE WHEN true THEN purge_all() END",
    "SELECT ARRAY[purge_all()]",
    "SELECT (SELECT purge_all())",
    "SELECT DISTINCT ON (purge_all()) 1",
    "VALUES (purge_all())",
    "SELECT * FROM (VALUES (purge_all())) v(a)",
    "SELECT * FROM orders TABLESAMPLE purge(1)",
    "SELECT * FROM orders o JOIN lines l ON purge_all()",
    "SELECT * FROM json_to_recordset(purge_all()) AS x(a int)",
    "SELECT 1 OPERATOR(app.+) 2",
    "SELECT a FROM t ORDER BY a USING OPERATOR(app.<)",
    "WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT purge_all()) SELECT * FROM r",
    "WITH purge_all(a) AS (SELECT 1) SELECT purge_all(a) FROM purge_all",
    "SELECT set_config('role', 'admin', false)",
    "SELECT pg_sleep(1000)",
    "SELECT PG_CATALOG.PG_SLEEP(1000)",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '/tmp/x')",
    "SELECT lo_unlink(1)",
    "SELECT dblink('host=x', 'DELETE FROM t')",
    "SELECT dblink_exec('DELETE FROM t')",
    "SELECT query_to_xml('DELETE FROM orders RETURNING 1', true, true, '')",
    "SELECT * FROM ts_stat('DELETE FROM orders RETURNING to_tsvector(note)')",
    "SELECT pg_terminate_backend(1)",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_logical_emit_message(true, 'a', 'b')",
    "SELECT pg_stat_reset()",
    "SELECT pg_reload_conf()",
    "SELECT pg_create_restore_point('x')",
    "SELECT txid_current()",
    "SELECT pg_current_xact_id()",
    "SELECT setseed(0.5)",
    // Where lexers differ.
    "SELECT E'\\'; DELETE FROM orders; --'",
    "SELECT '\\'; DELETE FROM orders; --'",
    "SELECT $$a$$ || 'b'",
    "SELECT $x$'$x$; DELETE FROM orders; --'",
    "SELECT U&'\\0027; DELETE FROM orders'",
    "SELECT U&\"d\\0061t\" FROM t",
    "SELECT 1 /* /* */ ; DELETE FROM orders; */",
    "SHOW drop table orders",
    "EXPLAIN EXPLAIN SELECT 1",
    "EXPLAIN PREPARE x AS DELETE FROM orders",
    "SELECT 1 /*! ; DELETE FROM orders */",
    "SELECT 1 --\rDELETE",
    "SELECT 1 --x\n",
    "SELECT 1\u{0}; DELETE FROM orders",
    "SELECT\u{a0}1",
    "SELECT 'a\u{202e}b'",
    "SELECT 1\u{200b}",
    "SELECT n'x'",
    "SELECT 1from t",
    "SELECT 0x1F",
    // Never.
    "COPY orders TO PROGRAM 'sh'",
    "COPY (SELECT 1) TO '/tmp/x'",
    "COPY orders FROM STDIN",
    "DO $$ BEGIN DELETE FROM orders; END $$",
    "DO 'BEGIN DELETE FROM orders; END'",
    "CALL purge_all()",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DECLARE c CURSOR FOR SELECT 1",
    "FETCH ALL FROM c",
    "SET ROLE admin",
    "SET search_path = x",
    "RESET ALL",
    "DISCARD ALL",
    "SET SESSION AUTHORIZATION admin",
    "LISTEN x",
    "NOTIFY x",
    "LOCK orders",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "START TRANSACTION READ WRITE",
    "GRANT ALL ON orders TO x",
    "REVOKE ALL ON orders FROM x",
    "CREATE ROLE x SUPERUSER",
    "ALTER SYSTEM SET x = 1",
    "ALTER ROLE x SUPERUSER",
    "REFRESH MATERIALIZED VIEW x",
    "VACUUM",
    "",
    ";",
    "-- nothing",
    "('SELECT 1')",
    "'SELECT 1'",
    // A call without parentheses.
    "SELECT n.pg_advisory_lock FROM generate_series(42,42) AS n",
    "SELECT n.pg_cancel_backend FROM generate_series(1234,1234) AS n",
    "SELECT (a.pid).pg_terminate_backend FROM pg_stat_activity AS a",
    "SELECT n.pg_sleep FROM generate_series(25,25) AS n",
    "SELECT n.\"pg_sleep\" FROM generate_series(25,25) AS n",
    "SELECT generate_series.pg_sleep FROM generate_series(25,25)",
    "SELECT ('x'::text).dblink_connect",
    "SELECT n.lo_unlink FROM generate_series(1,1) AS n",
    "SELECT n.purge_customer FROM generate_series(7,7) AS n",
    "SELECT N.purge_customer FROM generate_series(7,7) AS n",
    "SELECT \"n\".\"purge_customer\" FROM generate_series(7,7) AS n",
    "SELECT generate_series.purge_customer FROM generate_series(7,7)",
    "SELECT btrim.purge_customer FROM trim('x')",
    "SELECT n.purge_customer FROM generate_series(7,7) AS n(m)",
    "SELECT n.n FROM generate_series(7,7) AS n(m)",
    "SELECT n.ordinality FROM generate_series(7,7) AS n",
    "SELECT purge_customer.purge_customer FROM jsonb_array_elements('[1]') AS purge_customer",
    "SELECT n.purge_customer FROM unnest(ARRAY[1]) AS n",
    "SELECT n.purge_customer FROM LATERAL generate_series(7,7) AS n",
    "SELECT n.purge_customer FROM (VALUES (1)) AS n",
    "SELECT n.purge_customer FROM current_user AS n",
    "SELECT current_user.purge_customer FROM current_user",
    "SELECT n.purge_customer FROM ROWS FROM (generate_series(1, 1)) AS n",
    "SELECT 1 FROM orders, generate_series(1, 1) AS n ORDER BY n.purge_customer",
    "SELECT (SELECT n.purge_customer) FROM generate_series(1, 1) AS n",
    "WITH x AS (SELECT n.purge_customer FROM generate_series(1, 1) AS n) SELECT * FROM x",
    "SELECT (n).purge_customer FROM generate_series(1, 1) AS n",
    "SELECT (n).purge_customer.* FROM generate_series(1, 1) AS n",
    "SELECT (n.purge_customer).lower FROM generate_series(1, 1) AS n",
    "SELECT (1).purge_customer",
    "SELECT (1).\"Purge\"",
    "SELECT ((1)).abs.purge_customer",
    "SELECT (SELECT 1).purge_customer",
    "SELECT $1.purge_customer",
    "SELECT (ARRAY[1])[1].purge_customer",
    "SELECT t.tags[1].purge_customer FROM t",
    "SELECT t.nextval FROM t",
    "SELECT t.pg_sleep FROM t",
    "SELECT t.tags[t.pg_sleep] FROM t",
    "SELECT aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaay.purge_customer FROM generate_series(1, 1) AS \
     aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaax",
];

#[test]
fn a_call_without_parentheses_is_a_call() {
    for text in [
        "INSERT INTO log SELECT n.purge_customer FROM generate_series(1,1) AS n",
        "INSERT INTO log VALUES (1) ON CONFLICT DO UPDATE SET a = (1).purge_customer",
        "UPDATE log SET a = n.purge_customer FROM generate_series(1,1) AS n",
        "UPDATE log SET a = (id).purge_customer",
    ] {
        assert_eq!(effect(Dialect::Postgresql, text), Some(Effect::Delete), "{text}");
    }
    for text in ["INSERT INTO log SELECT n.lo_unlink FROM generate_series(1,1) AS n", "UPDATE log SET a = (id).pg_sleep"] {
        assert!(of(Dialect::Postgresql, text).unwrap_err().words().contains("is never called"), "{text}");
    }
    for text in [
        "SELECT o.id, app.orders.note, shop.app.orders.note FROM app.orders o, app.orders",
        "SELECT j.schedule, j.cron_expression, l.lo_revenue FROM jobs j, lineorder l",
        "SELECT n.n FROM generate_series(1, 2) AS n",
        "SELECT generate_series.generate_series, o.id FROM generate_series(1, 2), orders o",
        "SELECT n.day, n.ordinality FROM generate_series(1, 2) WITH ORDINALITY AS n(day, ordinality)",
        "SELECT n.n, n.ordinality FROM generate_series(1, 2) WITH ORDINALITY AS n",
        "SELECT u.a, u.b FROM unnest($1::int[], $2::text[]) AS u(a, b)",
        "SELECT e.key, e.value FROM orders o, jsonb_each(o.data) AS e",
        "SELECT e.value FROM orders o, LATERAL jsonb_array_elements(o.data) AS e",
        "SELECT v.column1, w.a FROM (VALUES (1)) AS v, (VALUES (1)) AS w(a)",
        "SELECT x.a, x.b FROM jsonb_to_recordset($1) AS x(a int, b text)",
        "SELECT x.total FROM (SELECT sum(a) AS total FROM t) x",
        "WITH x AS (SELECT 1 AS a) SELECT x.a FROM x",
        "SELECT (o.note).lower, t.tags[1] FROM orders o, t",
    ] {
        assert_eq!(effect(Dialect::Postgresql, text), Some(Effect::Read), "{text}: {:?}", of(Dialect::Postgresql, text));
    }
    let text = "INSERT INTO t AS x (a) SELECT g.g FROM generate_series(1, 2) g ON CONFLICT (a) DO UPDATE SET a = excluded.a + x.a RETURNING t.a";
    assert_eq!(effect(Dialect::Postgresql, text), Some(Effect::Write), "{:?}", of(Dialect::Postgresql, text));
    // Nothing of this is so in MariaDB.
    assert_eq!(effect(Dialect::Mariadb, "SELECT t.nextval FROM t"), Some(Effect::Read));
}

#[test]
fn tables_of_the_server_are_only_read_however_they_are_named() {
    let many: Vec<_> = (0..40).map(|n| format!("t{n}")).collect();
    let many = many.join(", ");
    for (dialect, text) in [
        (Dialect::Postgresql, "UPDATE shop.pg_catalog.pg_settings SET setting = 'x'".to_owned()),
        (Dialect::Postgresql, "UPDATE \"shop\".\"pg_catalog\".\"pg_settings\" SET setting = 'x'".to_owned()),
        (Dialect::Postgresql, format!("DROP TABLE {many}, pg_catalog.pg_authid")),
        (Dialect::Mariadb, format!("DROP TABLE {many}, mysql.user")),
        (Dialect::Mariadb, "UPDATE `MySQL`.user SET a = 1".to_owned()),
    ] {
        let refusal = of(dialect, &text).unwrap_err();
        assert!(refusal.words().contains("only read"), "{text}: {refusal}");
    }
    assert_eq!(effect(Dialect::Postgresql, "UPDATE pg_temp.t SET a = 1"), Some(Effect::Write));
}

#[test]
fn no_trick_is_taken_for_a_read_by_mariadb() {
    for trick in TRICKS_MARIADB {
        assert_ne!(effect(Dialect::Mariadb, trick), Some(Effect::Read), "{trick}");
    }
}

const TRICKS_MARIADB: &[&str] = &[
    "SELECT * FROM orders INTO OUTFILE '/tmp/x'",
    "SELECT * INTO DUMPFILE '/tmp/x' FROM orders",
    "SELECT 1 INTO @a",
    "SELECT @a := 1",
    "SELECT @@global.read_only := 1",
    "SELECT LOAD_FILE('/etc/passwd')",
    "SELECT load_file ('/etc/passwd')",
    "SELECT SLEEP(1000)",
    "SELECT BENCHMARK(1000000000, SHA2('a', 512))",
    "SELECT GET_LOCK('a', 10)",
    "SELECT `lower`('x')",
    "SELECT shop.purge_all()",
    "SELECT purge_all()",
    "SELECT NEXTVAL(orders_seq)",
    "SELECT NEXT VALUE FOR orders_seq",
    "SELECT SETVAL(orders_seq, 1)",
    "SELECT LAST_INSERT_ID(5)",
    "SELECT * FROM orders FOR UPDATE",
    "SELECT * FROM orders LOCK IN SHARE MODE",
    "SELECT * FROM orders PROCEDURE ANALYSE()",
    "SELECT 1 /*! INTO OUTFILE '/tmp/x' */",
    "SELECT 1 /*!50000 + purge_all() */",
    "SELECT 1 /*M! + purge_all() */",
    "SELECT /*+ SET_VAR(read_only=0) */ 1",
    "SELECT 1 # comment\n; DELETE FROM orders",
    "SELECT 1 --x\n",
    "SELECT 'a\\'; DELETE FROM orders; -- '",
    "SELECT \"a\"",
    "SELECT 1; DELETE FROM orders",
    "SELECT 1 \\G",
    "SELECT {fn purge_all()}",
    "SELECT {d '2020-01-01'}",
    "SELECT _utf8'a'",
    "SELECT N'a'",
    "SELECT x'00'",
    "SELECT 1e",
    "SELECT 1a FROM t",
    "SELECT ?a FROM t",
    "DO SLEEP(5)",
    "HANDLER orders OPEN",
    "LOAD DATA INFILE '/etc/passwd' INTO TABLE t",
    "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE t",
    "CALL purge_all()",
    "EXECUTE IMMEDIATE 'DELETE FROM orders'",
    "PREPARE p FROM 'DELETE FROM orders'",
    "SET GLOBAL general_log = 1",
    "SET ROLE admin",
    "SET PASSWORD = PASSWORD('x')",
    "USE mysql",
    "LOCK TABLES orders WRITE",
    "FLUSH PRIVILEGES",
    "KILL 1",
    "SHUTDOWN",
    "INSTALL PLUGIN x SONAME 'y'",
    "BEGIN NOT ATOMIC DELETE FROM orders; END",
    "XA START 'x'",
    "ANALYZE DELETE FROM orders",
    "ANALYZE FORMAT=JSON DELETE FROM orders",
    "EXPLAIN DELETE FROM orders",
    "EXPLAIN EXTENDED UPDATE orders SET id = 1",
    "EXPLAIN ANALYZE DELETE FROM orders",
    "REPLACE INTO orders VALUES (1)",
    "RENAME TABLE a TO b",
    "CREATE USER x",
    "GRANT ALL ON *.* TO x",
    "DELETE FROM orders",
    "TRUNCATE orders",
    "(SELECT 1 INTO OUTFILE '/tmp/x')",
    "SELECT 1 UNION SELECT 2 INTO OUTFILE '/tmp/x'",
    "SELECT * FROM orders WHERE a = (SELECT purge_all())",
    "VALUES (purge_all())",
    "INSERT INTO mysql.user VALUES (1)",
];

#[test]
fn what_only_looks_is_a_read() {
    for text in [
        "SELECT * FROM orders",
        "select id, note from app.orders where id = 1 order by id desc limit 10 offset 5;",
        "SELECT count(*), sum(total), avg(total) FROM orders GROUP BY customer HAVING count(*) > 3",
        "WITH o AS (SELECT * FROM orders WHERE id < 10) SELECT o.id, c.name FROM o JOIN customers c ON c.id = o.customer",
        "WITH o(a, b) AS (SELECT 1, 2) SELECT a FROM o",
        "SELECT * FROM (SELECT id FROM orders) AS o UNION ALL SELECT id FROM old_orders",
        "-- the newest\nSELECT /* all of it */ max(created_at) FROM orders -- that is all",
        "SELECT CASE WHEN total > 10 THEN 'big' ELSE 'small' END, coalesce(note, ''), upper(trim(note)) FROM orders",
        "SELECT row_number() OVER (PARTITION BY customer ORDER BY id) FROM orders",
        "SELECT 'it''s; DELETE FROM orders -- no' FROM orders WHERE note LIKE '%a%' AND id IN (1, 2, 3)",
        "SELECT cast(total AS decimal(10, 2)) FROM orders WHERE id BETWEEN 1 AND 1.5e3",
        "(SELECT 1) UNION (SELECT 2)",
        "EXPLAIN SELECT * FROM orders",
        "SELECT extract(year FROM created_at) FROM orders",
        "SELECT t.update, t.delete FROM t",
    ] {
        for dialect in BOTH {
            let statement = of(dialect, text).unwrap_or_else(|refusal| panic!("{dialect:?} {text}: {refusal}"));
            assert_eq!((statement.effect, statement.reasons), (Effect::Read, vec![]), "{dialect:?} {text}");
        }
    }
    for text in [
        "SELECT * FROM orders WHERE note = $1 AND data->>'a' = $2 AND data ? 'k' AND tags @> ARRAY['x']",
        "SELECT \"Note\"::text, now() - interval '1 day' FROM \"App\".\"Orders\" FETCH FIRST 5 ROWS ONLY",
        "SELECT g FROM generate_series(1, 10) AS g(n)",
        "SELECT * FROM jsonb_to_recordset($1) AS x(a int, b text)",
        "SELECT array_agg(id ORDER BY id) FILTER (WHERE id > 1), string_agg(note, ', ') FROM orders",
        "VALUES (1, 'a'), (2, 'b')",
        "SHOW server_version",
        "SELECT DISTINCT ON (customer) * FROM orders",
        "SELECT unnest(ARRAY[1, 2]), pg_catalog.lower('X'), \"lower\"('Y')",
        "SELECT * FROM orders WHERE id = ANY($1)",
        "SELECT date_trunc('day', at), count(*) FROM orders GROUP BY 1",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY total) FROM orders",
        "EXPLAIN (ANALYZE, BUFFERS) SELECT 1",
    ] {
        assert_eq!(effect(Dialect::Postgresql, text), Some(Effect::Read), "{text}: {:?}", of(Dialect::Postgresql, text));
    }
    for text in [
        "SELECT `Note`, ifnull(note, '') FROM `shop`.`orders` WHERE id = ? LIMIT 5, 10",
        "SELECT group_concat(id ORDER BY id SEPARATOR ', ') FROM orders",
        "SELECT date_format(now(), '%Y') , json_extract(data, '$.a') FROM orders",
        "SHOW TABLES",
        "SHOW CREATE TABLE orders",
        "SHOW COLUMNS FROM orders",
        "DESCRIBE orders",
        "SELECT insert('abc', 1, 1, 'x'), truncate(1.5, 0), replace('a', 'b', 'c'), if(1, 2, 3), left('a', 1)",
    ] {
        assert_eq!(effect(Dialect::Mariadb, text), Some(Effect::Read), "{text}: {:?}", of(Dialect::Mariadb, text));
    }
}

#[test]
fn a_statement_has_the_highest_effect_that_is_in_it() {
    for (text, expected) in [
        ("INSERT INTO orders (id) VALUES ($1)", Effect::Write),
        ("INSERT INTO orders (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET note = 'x' RETURNING id", Effect::Write),
        ("UPDATE app.orders SET note = lower(note) WHERE id = 1", Effect::Write),
        ("DELETE FROM orders WHERE id = 1", Effect::Delete),
        ("TRUNCATE orders", Effect::Delete),
        ("DROP TABLE orders", Effect::Delete),
        ("ALTER TABLE orders DROP COLUMN note", Effect::Delete),
        ("ALTER TABLE orders ALTER COLUMN note TYPE int USING 1", Effect::Delete),
        ("ALTER TABLE orders ADD COLUMN x int DEFAULT 1", Effect::Write),
        ("CREATE TABLE t (id int PRIMARY KEY, at timestamptz DEFAULT now())", Effect::Write),
        ("CREATE TABLE t AS SELECT * FROM orders", Effect::Write),
        ("CREATE INDEX i ON orders (note)", Effect::Write),
        ("MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET a = 1", Effect::Write),
        ("MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN DELETE", Effect::Delete),
        ("INSERT INTO t SELECT purge_all()", Effect::Delete),
        ("INSERT INTO t VALUES (nextval('s'))", Effect::Write),
        ("WITH d AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM d", Effect::Delete),
        ("SELECT update FROM orders", Effect::Write),
        ("CALL purge_all()", Effect::Delete),
    ] {
        let statement = of(Dialect::Postgresql, text).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
        assert_eq!(statement.effect, expected, "{text}: {:?}", statement.reasons);
        assert!(!statement.reasons.is_empty(), "{text}");
    }
    for (text, expected) in [
        ("INSERT INTO orders (id) VALUES (?) ON DUPLICATE KEY UPDATE note = VALUES(note)", Effect::Write),
        ("REPLACE INTO orders (id) VALUES (?)", Effect::Delete),
        ("CREATE OR REPLACE TABLE t (id int)", Effect::Delete),
        ("UPDATE orders SET note = ? LIMIT 1", Effect::Write),
        ("DELETE a FROM a JOIN b ON a.id = b.id", Effect::Delete),
        ("ALTER TABLE orders MODIFY COLUMN note int", Effect::Delete),
    ] {
        let statement = of(Dialect::Mariadb, text).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
        assert_eq!(statement.effect, expected, "{text}: {:?}", statement.reasons);
    }
}

#[test]
fn what_is_sent_has_no_comment_and_no_semicolon() {
    let statement = of(Dialect::Postgresql, " SELECT $2 /* x */ , 'a;--' -- end\n FROM t WHERE a = $1 ; -- really").unwrap();
    assert_eq!(statement.text, " SELECT $2   , 'a;--'  \n FROM t WHERE a = $1");
    assert_eq!((statement.parameters, statement.tables), (2, vec!["t".to_owned()]));
    let statement = of(Dialect::Mariadb, "SELECT ?, ? FROM a.`b c`, D").unwrap();
    assert_eq!((statement.parameters, statement.tables), (2, vec!["a.\"b c\"".to_owned(), "D".to_owned()]));
}

#[test]
fn tables_are_those_of_the_database_and_not_the_statements_own_names() {
    let tables = |text| of(Dialect::Postgresql, text).unwrap().tables;
    assert_eq!(tables("WITH o AS (SELECT * FROM app.Orders) SELECT * FROM o, \"Lines\" AS l"), ["app.orders", "Lines"]);
    // The body of a name that is not recursive sees the table of that name.
    assert_eq!(tables("WITH orders AS (SELECT * FROM orders) SELECT * FROM orders"), ["orders"]);
    assert_eq!(tables("WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT * FROM r) SELECT * FROM r"), Vec::<String>::new());
    assert_eq!(tables("SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) x, a"), ["a"]);
    assert_eq!(tables("SELECT * FROM generate_series(1, 2), t"), ["t"]);
    assert_eq!(tables("INSERT INTO a SELECT * FROM b WHERE EXISTS (SELECT 1 FROM c)"), ["a", "b", "c"]);
    assert_eq!(tables("DROP TABLE x, app.y"), ["x", "app.y"]);
}

#[test]
fn what_is_never_sent_is_refused_with_a_reason() {
    for (text, words) in [
        ("GRANT ALL ON orders TO x", "`GRANT` is never sent: rights are given and taken by people"),
        ("set role admin", "`SET` is never sent: it changes the session"),
        ("COMMIT", "each call is a transaction of its own"),
        ("ALTER ROLE x SUPERUSER", "is not offered"),
        ("CREATE ROLE x", "is not offered"),
        ("CREATE EXTENSION dblink", "is not offered"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "is not offered"),
        ("DROP ROLE x", "removed by people"),
        ("ALTER TABLE t OWNER TO x", "set by people"),
        ("ALTER TABLE t DISABLE ROW LEVEL SECURITY", "set by people"),
        ("UPDATE pg_catalog.pg_authid SET rolsuper = true", "only read"),
        ("DELETE FROM pg_authid", "only read"),
        ("SELECT pg_sleep(1)", "`pg_sleep` is never called: it only waits"),
        ("FROBNICATE x", "`FROBNICATE` are not known"),
        ("SELECT 1 +", "not understood"),
    ] {
        let refusal = of(Dialect::Postgresql, text).unwrap_err();
        assert!(refusal.words().contains(words), "{text}: {refusal}");
    }
}

#[test]
fn sizes_have_limits() {
    let limits = Limits::default();
    let long = format!("SELECT '{}'", "x".repeat(limits.bytes));
    let many = format!("SELECT 1{}", "+1".repeat(limits.pieces));
    let deep = format!("SELECT {}1{}", "(".repeat(limits.depth + 1), ")".repeat(limits.depth + 1));
    let parameters = format!("SELECT ${}", limits.parameters + 1);
    for text in [long, many, deep, parameters, "SELECT $0".to_owned(), "SELECT $99999999999".to_owned()] {
        assert!(of(Dialect::Postgresql, &text).is_err());
    }
    let questions = format!("SELECT ?{}", ", ?".repeat(usize::from(limits.parameters)));
    assert!(of(Dialect::Mariadb, &questions).is_err());
}

#[test]
fn the_largest_statements_end() {
    let limits = Limits::default();
    let chain = limits.pieces / 2 - 2;
    let depth = limits.depth - 1;
    let (open, close) = ("(".repeat(depth), ")".repeat(depth));
    for text in [
        format!("SELECT 1{}", "+1".repeat(chain)),
        format!("SELECT 1{}", " AND 1".repeat(chain)),
        format!("SELECT 1{}", " UNION SELECT 1".repeat(limits.pieces / 3 - 2)),
        format!("SELECT {}1", "- ".repeat(limits.pieces - 3)),
        format!("SELECT {}1", "NOT ".repeat(limits.pieces - 3)),
        format!("SELECT {open}1{close}"),
        format!("SELECT * FROM {open}a{close}"),
        format!("SELECT * FROM {open}a JOIN b ON true{close}"),
        format!("{open}SELECT 1{close}"),
        format!("SELECT {}1{close}", "(SELECT ".repeat(depth)),
        format!("SELECT * FROM {}t{}", "(SELECT * FROM ".repeat(depth), ") x".repeat(depth)),
        format!("SELECT {}1{close}", "lower(".repeat(depth)),
        format!("SELECT {}1{}", "CASE WHEN 1 THEN ".repeat(600), " END".repeat(600)),
        format!("SELECT a{}", "[1]".repeat(limits.pieces / 3 - 2)),
        format!("SELECT a{}", "::int".repeat(limits.pieces / 3 - 2)),
        format!("SELECT a{}", " COLLATE b".repeat(chain)),
        format!("SELECT a{}", ".b".repeat(chain)),
        format!("SELECT * FROM a{}", " JOIN b ON 1".repeat(limits.pieces / 4 - 2)),
        format!("SELECT 1 IN {open}1{close}"),
        format!("SELECT a IN {}1{close}", "(b IN ".repeat(depth)),
        format!("EXPLAIN {}SELECT 1", "EXPLAIN ".repeat(200)),
        format!("SELECT {}INTERVAL '1' DAY", "INTERVAL ".repeat(200)),
        format!("SELECT CAST({open}1{close} AS int)"),
        "SELECT ((((((((((((a".to_owned(),
        format!("SELECT {}", "CAST(".repeat(depth)),
        format!("CREATE TABLE t (a {}int{})", "ARRAY<".repeat(100), ">".repeat(100)),
    ] {
        for dialect in BOTH {
            // On a thread with the stack of the runtime's.
            let text = text.clone();
            let shown = text.chars().take(30).collect::<String>();
            let run = std::thread::Builder::new().stack_size(2 << 20).spawn(move || drop(of(dialect, &text))).unwrap();
            assert!(run.join().is_ok(), "{dialect:?} {shown}");
        }
    }
}

const WRITES: &[(Dialect, &str)] = &[
    (Dialect::Postgresql, "DELETE FROM orders WHERE id = 1"),
    (Dialect::Postgresql, "UPDATE orders SET note = 'x' WHERE id = 1"),
    (Dialect::Postgresql, "INSERT INTO orders (id) VALUES (1) RETURNING id"),
    (Dialect::Postgresql, "TRUNCATE orders"),
    (Dialect::Postgresql, "DROP TABLE orders"),
    (Dialect::Postgresql, "SELECT * INTO backup FROM orders"),
    (Dialect::Postgresql, "SELECT purge_all ( ) FROM orders"),
    (Dialect::Postgresql, "SELECT nextval ( 's' )"),
    (Dialect::Postgresql, "SELECT * FROM orders FOR UPDATE"),
    (Dialect::Postgresql, "WITH x AS ( DELETE FROM orders RETURNING * ) SELECT * FROM x"),
    (Dialect::Postgresql, "MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE"),
    (Dialect::Mariadb, "DELETE FROM orders WHERE id = 1"),
    (Dialect::Mariadb, "REPLACE INTO orders VALUES (1)"),
    (Dialect::Mariadb, "UPDATE orders SET note = 'x' WHERE id = 1"),
    (Dialect::Mariadb, "SELECT * FROM orders INTO OUTFILE 'x'"),
    (Dialect::Mariadb, "SELECT purge_all ( ) FROM orders"),
    (Dialect::Mariadb, "SELECT NEXT VALUE FOR s"),
    (Dialect::Mariadb, "SELECT * FROM orders LOCK IN SHARE MODE"),
];

/// A space, as a person or a trickster may write it.
const SPACES: &[&str] = &[
    " ",
    "\n",
    "\t",
    "  ",
    "\r\n",
    "/**/",
    " /* SELECT */ ",
    "/* */",
    " -- SELECT 1\n",
    "--\n",
    "/*!*/",
    "/*!50000 */",
    "\u{a0}",
    "\u{c}",
    "\u{b}",
    "#\n",
    "\r",
    "/* /* */ */",
    " --x\n",
    "/*'*/",
    "/*\"*/ ",
    "-- '\n",
];

/// What may stand around a statement.
const AROUND: &[(&str, &str)] = &[
    ("", ""),
    ("(", ")"),
    ("((", "))"),
    ("", ";"),
    (";", ""),
    ("SELECT 1; ", ""),
    ("WITH w AS (", ") SELECT * FROM w"),
    ("WITH w(a) AS MATERIALIZED (", ") SELECT * FROM w"),
    ("WITH RECURSIVE w AS (SELECT 1 UNION ALL (", ")) SELECT * FROM w"),
    ("SELECT * FROM (", ") x"),
    ("SELECT (", ")"),
    ("SELECT 1 WHERE EXISTS (", ")"),
    ("EXPLAIN ", ""),
    ("EXPLAIN ANALYZE ", ""),
    ("EXPLAIN (ANALYZE, VERBOSE) ", ""),
    ("EXPLAIN FORMAT=JSON ", ""),
    ("DESCRIBE ", ""),
    ("ANALYZE ", ""),
    ("TABLE orders UNION ", ""),
    ("VALUES ((", "))"),
    ("SHOW ", ""),
    ("SELECT 1 UNION ALL ", ""),
    ("SELECT 1 -- ", ""),
    ("SELECT 1 /* ", " */ FROM ("),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(std::env::var("BAILIWICK_SQL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2000)))]

    #[test]
    fn no_mutation_of_a_write_is_a_read(
        write in prop::sample::select(WRITES),
        spaces in prop::collection::vec(prop::sample::select(SPACES), 1..12),
        upper in prop::collection::vec(any::<bool>(), 1..40),
        around in prop::collection::vec(prop::sample::select(AROUND), 0..3),
        joined in prop::sample::select(&[" ", "\n", "/* */ "][..]),
    ) {
        let (dialect, text) = write;
        let mut mutated = String::new();
        for (n, word) in text.split(' ').enumerate() {
            if n > 0 {
                // There `#` is an operator.
                mutated.push_str(Some(spaces[n % spaces.len()]).filter(|space| dialect == Dialect::Mariadb || !space.contains('#')).unwrap_or(" "));
            }
            mutated.extend(word.chars().enumerate().map(|(n, c)| if upper[n % upper.len()] { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }));
        }
        for (before, after) in around {
            // What makes a comment of the write is no mutation of it.
            if before.contains("--") || before.contains("/*") {
                mutated = format!("{before}\n*/ {mutated}");
            } else {
                mutated = format!("{before}{joined}{mutated}{joined}{after}");
            }
        }
        prop_assert_ne!(effect(dialect, &mutated), Some(Effect::Read), "{}", mutated);
    }

    #[test]
    fn whatever_comes_is_told_or_refused(text in "[ -~\\n\\t\u{e9}\u{200b}]{0,80}") {
        for dialect in BOTH {
            if let Ok(statement) = of(dialect, &text) {
                // What is sent is told as the same thing.
                let again = of(dialect, &statement.text).unwrap();
                prop_assert_eq!((again.effect, &again.text), (statement.effect, &statement.text));
            }
        }
    }

    #[test]
    fn words_of_sql_in_any_order_are_told_or_refused(words in prop::collection::vec(prop::sample::select(
        &["SELECT", "1", "FROM", "t", "(", ")", ",", "*", "WITH", "x", "AS", "DELETE", "UPDATE", "SET", "a", "=", "INTO", "UNION", "VALUES", "EXPLAIN", "ANALYZE",
          "purge", "'s'", "JOIN", "ON", "LIMIT", ".", "::", "int", "CASE", "WHEN", "END", "IN", "NOT", "ORDER", "BY", "FOR", "SHARE"][..]), 1..25)) {
        let text = words.join(" ");
        for dialect in BOTH {
            if let Ok(statement) = of(dialect, &text) && statement.effect == Effect::Read {
                prop_assert!(!words.contains(&"DELETE") || text.contains(". DELETE"), "{}", text);
                prop_assert!(!text.contains("purge ("), "{}", text);
                prop_assert!(!words.contains(&"INTO") || text.contains(". INTO"), "{}", text);
            }
        }
    }
}
