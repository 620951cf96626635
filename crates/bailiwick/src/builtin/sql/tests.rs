//! Which tools there are, what a call of one would do, and which calls are refused with which words.

use super::*;

fn settings(extra: &str) -> Result<Settings, String> {
    let text = format!("nodes = [{{ host = \"127.0.0.1\" }}]\ndatabase = \"shop\"\nuser = \"broker\"\nsecret = \"shop_admin\"\n{extra}");
    toml::from_str::<File>(&text).map_err(|error| error.to_string())?.check(5432, Path::new("/nowhere"))
}

fn tools(dialect: Dialect) -> Tools {
    Tools::new(settings("read_rights = [\"ro\"]\nwrite_rights = [\"rw\"]\nreading_functions = [\"app.price\"]\nrows_max = 50").unwrap(), dialect)
}

fn judged(tool: &str, arguments: &Value) -> Result<Effect, String> {
    tools(Dialect::Postgresql).judge(tool, arguments).map_err(|refusal| refusal.words)
}

#[test]
fn a_call_is_judged_by_its_statement() {
    for (tool, sql, effect) in [
        (QUERY, "SELECT * FROM orders", Effect::Read),
        (QUERY, "SELECT app.price(1)", Effect::Read),
        (EXECUTE, "UPDATE orders SET note = 'x'", Effect::Write),
        // What runs in a transaction that may write is no read.
        (EXECUTE, "SELECT 1", Effect::Write),
        (EXECUTE, "DELETE FROM orders", Effect::Delete),
        (EXECUTE, "SELECT purge_all()", Effect::Delete),
        (DELETE, "DELETE FROM orders", Effect::Delete),
        (DELETE, "INSERT INTO orders VALUES (1)", Effect::Write),
    ] {
        assert_eq!(judged(tool, &json!({ "sql": sql })), Ok(effect), "{tool} {sql}");
    }
    assert_eq!(judged(DESCRIBE, &json!({})), Ok(Effect::Read));
    assert_eq!(judged(DESCRIBE, &json!({ "table": "app.orders" })), Ok(Effect::Read));
}

#[test]
fn what_can_never_be_done_is_refused_with_what_to_do_instead() {
    for (tool, arguments, words) in [
        (QUERY, json!({ "sql": "DELETE FROM orders" }), "Use `delete` if it is meant"),
        (QUERY, json!({ "sql": "UPDATE orders SET a = 1" }), "`UPDATE` changes rows. Use `execute`"),
        (QUERY, json!({ "sql": "SELECT nextval('s')" }), "Use `execute`"),
        (QUERY, json!({ "sql": "SELECT 1; SELECT 2" }), "one statement"),
        (EXECUTE, json!({ "sql": "GRANT ALL ON orders TO x" }), "never sent"),
        (EXECUTE, json!({ "sql": "SET ROLE admin" }), "never sent"),
        (EXECUTE, json!({ "sql": "SELEC 1" }), "not known"),
        (QUERY, json!({ "sql": "SELECT $1" }), "takes 1 parameters, and 0 were given"),
        (QUERY, json!({ "sql": "SELECT 1", "parameters": [1] }), "takes 0 parameters, and 1 were given"),
        (QUERY, json!({ "sql": "SELECT 1", "max_rows": 51 }), "1 to 50"),
        (QUERY, json!({ "sql": "SELECT 1", "max_rows": 0 }), "1 to 50"),
        (EXECUTE, json!({ "sql": "SELECT 1", "max_rows": 5 }), "is for `query`"),
        (QUERY, json!({ "sql": "SELECT 1", "more": 1 }), "schema"),
        (QUERY, json!({ "sql": 1 }), "schema"),
        (QUERY, json!({}), "schema"),
        (DESCRIBE, json!({ "table": "" }), "a table's name"),
        (DESCRIBE, json!({ "table": "a\nb" }), "a table's name"),
        ("drop", json!({}), "no such tool"),
    ] {
        let refusal = judged(tool, &arguments).unwrap_err();
        assert!(refusal.contains(words), "{tool} {arguments}: {refusal}");
    }
}

#[test]
fn rights_follow_the_effect_and_tools_follow_the_rights() {
    let both = tools(Dialect::Mariadb);
    assert_eq!(both.rights(Effect::Read), Rights { class: "read", rights: vec!["ro".into()] });
    for effect in [Effect::Influence, Effect::Write, Effect::Delete, Effect::Approve] {
        assert_eq!(both.rights(effect), Rights { class: "write", rights: vec!["rw".into()] });
    }
    let names = |extra: &str| {
        let tools = Tools::new(settings(extra).unwrap(), Dialect::Postgresql);
        tools.tools().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("read_rights = [\"ro\"]\nwrite_rights = [\"rw\"]"), ["query", "describe", "execute", "delete"]);
    assert_eq!(names("read_rights = [\"ro\"]"), ["query", "describe"]);
    assert_eq!(names("write_rights = [\"rw\"]"), ["execute", "delete"]);
    let reads_only = Tools::new(settings("read_rights = [\"ro\"]").unwrap(), Dialect::Postgresql);
    assert_eq!(reads_only.effect("execute"), None);
    assert!(reads_only.judge("execute", &json!({ "sql": "SELECT 1" })).is_err());
}

#[test]
fn definitions_are_closed_and_say_what_they_do() {
    for dialect in [Dialect::Postgresql, Dialect::Mariadb] {
        for tool in tools(dialect).tools() {
            let definition = tool.to_string();
            let raw = bailiwick_wire::Raw::parse(definition.as_bytes(), &bailiwick_wire::Limits::REPLY).unwrap();
            bailiwick_wire::mcp::ToolDefinition::parse(raw).unwrap();
            assert_eq!(tool["inputSchema"]["additionalProperties"], false);
            let reads = matches!(tool["name"].as_str().unwrap(), QUERY | DESCRIBE);
            assert_eq!(tool["annotations"]["readOnlyHint"], reads, "{tool}");
            assert_eq!(tool["annotations"]["destructiveHint"], tool["name"] == DELETE, "{tool}");
        }
    }
}

#[test]
fn a_table_that_cannot_be_meant_is_refused_in_words() {
    for (extra, words) in [
        ("", "without any there is nothing to do"),
        ("read_rights = [\"ro\"]\nrows_max = 0", "1 to 100000 rows"),
        ("read_rights = [\"ro\"]\nbytes_max = 99999999", "bytes"),
        ("read_rights = [\"ro\"]\nseconds_max = 0", "seconds"),
        ("read_rights = [\"ro\"]\nprefix = \"x\"", "`prefix`"),
        ("read_rights = [\"ro\"]\nreading_functions = [\"Price()\"]", "small letters"),
        ("read_rights = [\"ro\"]\npassword = \"x\"", "unknown field"),
    ] {
        let refused = settings(extra).unwrap_err();
        assert!(refused.contains(words), "{extra}: {refused}");
    }
}

#[test]
fn our_own_questions_to_the_catalogue_are_reads() {
    for (dialect, texts) in [(Dialect::Postgresql, [POSTGRESQL_TABLES, POSTGRESQL_COLUMNS]), (Dialect::Mariadb, [MARIADB_TABLES, MARIADB_COLUMNS])] {
        for text in texts {
            let statement = bailiwick_wire::sql::classify(dialect, text, &Limits::default()).unwrap();
            assert_eq!((statement.effect, statement.reasons), (Effect::Read, vec![]), "{text}");
        }
    }
}

#[test]
fn answers_have_rows_and_counts() {
    let rows = postgresql::Rows {
        columns: vec![postgresql::Column { name: "id".into(), kind: "integer".into() }],
        rows: vec![vec![json!(1)]],
        truncated: true,
        affected: Some(7),
    };
    let expected = json!({ "columns": [{ "name": "id", "type": "integer" }], "rows": [[1]], "row_count": 1, "truncated": true, "affected": 7 });
    assert_eq!(told(&rows), expected);
    assert_eq!(told(&postgresql::Rows::default()), json!({ "columns": [], "rows": [], "row_count": 0, "truncated": false }));
}
