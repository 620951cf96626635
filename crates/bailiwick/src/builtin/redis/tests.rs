//! The table, the tools and what a call is judged to be, without a server; and with one, calls over the connection that the broker holds.

use bailiwick_credentials::kinds::redis::COMMANDS;
use bailiwick_credentials::lease::{AccountName, Plan};
use bailiwick_testkit::servers::redis::{Redis as Server, Users};
use bailiwick_wire::Raw;
use bailiwick_wire::schema::Schema;

use super::*;
use crate::builtin::call_id;

fn table(port: u16, change: impl Fn(&mut Value)) -> Result<Settings, String> {
    let mut table = json!({
        "nodes": [{ "host": "127.0.0.1", "port": port }],
        "user": "broker",
        "secret": "cache-broker",
        "read_rights": ["~orders:*", "+@read"],
        "write_rights": ["~orders:*", "&news.*", "+@read", "+@write", "+publish"],
    });
    change(&mut table);
    let file: File = serde_json::from_value(table).map_err(|error| error.to_string())?;
    file.check(Path::new("/"))
}

#[test]
fn a_table_offers_the_tools_that_its_rights_allow() {
    let settings = table(6379, |_| {}).unwrap();
    assert_eq!((settings.secrets(), settings.target()), (vec!["cache-broker"], "redis://127.0.0.1:6379".to_owned()));
    let names = |settings: &Settings| settings.tools.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    assert_eq!(names(&settings), [READ, WRITE, DELETE, PUBLISH]);
    assert_eq!(names(&table(1, |t| t["write_rights"] = json!([])).unwrap()), [READ]);
    assert_eq!(names(&table(1, |t| t["write_rights"] = json!(["~a", "+@write"])).unwrap()), [READ, WRITE, DELETE]);
    for (field, value, words) in [
        ("write_rights", json!(["+@all"]), "is no rule"),
        ("nodes", json!([]), "1 to 32 nodes"),
        ("nodes", json!([{ "host": "cache.example.org" }]), "need TLS"),
        ("prefix", json!("x"), "`prefix`"),
        ("reply_bytes_max", json!(0), "bytes"),
        ("effect", json!("read"), "at least `influence`"),
        ("color", json!(1), "unknown field"),
    ] {
        let error = table(6379, |table| table[field] = value.clone()).unwrap_err();
        assert!(error.contains(words), "{field}: {error}");
    }
    assert!(table(6379, |table| (table["read_rights"], table["write_rights"]) = (json!([]), json!([]))).is_err());
}

#[test]
fn a_call_is_judged_by_its_command_and_each_schema_says_what_may_be_given() {
    let tools = table(6379, |table| table["effect"] = json!("transfer")).unwrap().tools();
    let judge = |tool: &str, arguments: Value| tools.judge(tool, &arguments).map_err(|refusal| refusal.words);
    let right = [
        (READ, json!({ "command": "GET", "keys": ["orders:1"] }), Effect::Read),
        (WRITE, json!({ "command": "SET", "keys": ["orders:1"], "arguments": ["bread", "EX", "60"] }), Effect::Write),
        (DELETE, json!({ "command": "EXPIRE", "keys": ["orders:1"], "arguments": ["60"] }), Effect::Delete),
        (PUBLISH, json!({ "channel": "news.today", "message": "bread" }), Effect::Transfer),
    ];
    for (tool, arguments, effect) in &right {
        assert_eq!(judge(tool, arguments.clone()), Ok(*effect), "{tool}");
        assert_eq!(tools.effect(tool), Some(*effect));
    }
    for (tool, arguments, words) in [
        (READ, json!({ "command": "SET", "keys": ["a"], "arguments": ["1"] }), "this command is one of the tool `write`"),
        (READ, json!({ "command": "DEL", "keys": ["a"] }), "this command is one of the tool `delete`"),
        (WRITE, json!({ "command": "GET", "keys": ["a"] }), "this command is one of the tool `read`"),
        (READ, json!({ "command": "EVAL", "keys": ["a"] }), "`EVAL` is none of the commands that can be run"),
        (READ, json!({ "command": "GET", "keys": [] }), "`GET` takes one key"),
        (READ, json!({ "command": "GET" }), "missing field `keys`"),
        (READ, json!({ "command": "GET", "keys": ["a"], "database": 3 }), "unknown field `database`"),
        (PUBLISH, json!({ "channel": "", "message": "" }), "a channel has 1 to 1024 bytes"),
        ("flush", json!({}), "there is no such tool"),
    ] {
        let said = judge(tool, arguments.clone()).unwrap_err();
        assert!(said.contains(words), "{tool} {arguments}: {said}");
    }
    let definitions = tools.tools();
    for (definition, (tool, arguments, _)) in definitions.iter().zip(&right) {
        assert_eq!(definition["name"], *tool);
        let text = definition["inputSchema"].to_string();
        let schema = Schema::compile(Raw::parse(text.as_bytes(), &bailiwick_wire::Limits::REPLY).unwrap()).unwrap();
        let check = |value: &Value| schema.check(Raw::parse(value.to_string().as_bytes(), &bailiwick_wire::Limits::REPLY).unwrap());
        check(arguments).unwrap();
        assert!(check(&json!({ "command": "FLUSHALL", "keys": ["a"] })).is_err() && check(&json!({})).is_err());
    }
    assert_eq!(definitions[0]["annotations"]["readOnlyHint"], json!(true));
    assert_eq!(definitions[2]["annotations"]["destructiveHint"], json!(true));
}

#[tokio::test]
async fn a_call_goes_over_the_connection_that_the_broker_holds() {
    let broker = format!("broker on >broker-password resetkeys resetchannels -@all +{}", COMMANDS.join(" +"));
    let server = Server::start(Users::Memory, &[&broker], &[]).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(crate::clock::SystemClock::start());
    let secret = |name: &str| (name == "cache-broker").then(|| Secret::from("broker-password".to_owned())).ok_or_else(|| "none".to_owned());
    let Built { kind, builtin } = table(server.port(), |_| {}).unwrap().build(&secret, &clock).unwrap();
    let name = AccountName::new(&Prefix::default(), [7; 16]);
    assert_eq!(kind.preflight(&name).await.unwrap(), []);

    let tag = Tag { task: "task_1".into(), agent: "spiffe://example.org/agent/a".into(), expires_at: clock.now().plus(Duration::from_secs(60)) };
    let proposed = kind.propose().unwrap().unwrap();
    let name = AccountName::new(&Prefix::default(), [8; 16]);
    let plan = Plan { name: name.clone(), tag: tag.clone(), rights: builtin.rights(Effect::Delete).rights };
    let minted = kind.mint(&plan, Some(&proposed)).await.unwrap();
    let account = Account { name, ids: minted.ids, secret: Some(proposed), expires_at: None };
    let session = builtin.open(&account, &tag).await.unwrap();
    let cancel = CancellationToken::new();
    let call = async |tool: &str, arguments: Value| {
        let answer = session.call(call_id(), tool, &arguments, &cancel).await.unwrap();
        (answer.structured, answer.is_error)
    };
    assert_eq!(call(WRITE, json!({ "command": "SET", "keys": ["orders:1"], "arguments": ["bread"] })).await, (json!({ "reply": "OK" }), false));
    assert_eq!(call(READ, json!({ "command": "GET", "keys": ["orders:1"] })).await, (json!({ "reply": "bread" }), false));
    assert_eq!(call(PUBLISH, json!({ "channel": "news.x", "message": "bread" })).await, (json!({ "reply": 0 }), false));
    let (refused, is_error) = call(READ, json!({ "command": "GET", "keys": ["salaries"] })).await;
    assert!(is_error && refused["refused"]["code"] == "NOPERM", "{refused}");
    let wrong = session.call(call_id(), READ, &json!({ "command": "DEL", "keys": ["orders:1"] }), &cancel).await.unwrap_err();
    assert!(!wrong.gone && !wrong.may_have_run, "{wrong}");
    // What the server keeps of its clients bears the task.
    assert!(server.admin(&["CLIENT", "LIST"]).unwrap().contains("name=bailiwick_task_1_spiffe://example.org/agent/a"));

    server.admin(&["CLIENT", "PAUSE", "5000", "ALL"]).unwrap();
    let asked = json!({ "command": "GET", "keys": ["orders:1"] });
    let (cancelled, ()) = tokio::join!(session.call(call_id(), READ, &asked, &cancel), async { cancel.cancel() });
    assert!(cancelled.is_err_and(|error| error.gone && error.may_have_run));
    session.close().await;
}
