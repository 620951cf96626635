//! The table, the tools and what a call is judged to be, without a server; and with one, a message over the connection that the broker holds.

use bailiwick_credentials::lease::{AccountName, Plan};
use bailiwick_testkit::servers::rabbitmq::Rabbitmq as Server;
use bailiwick_wire::Raw;
use bailiwick_wire::schema::Schema;

use super::*;
use crate::builtin::call_id;

fn table(change: impl Fn(&mut Value)) -> Result<Settings, String> {
    let mut table = json!({
        "api": [{ "host": "127.0.0.1" }],
        "nodes": [{ "host": "127.0.0.1" }],
        "user": "broker",
        "secret": "queue-broker",
        "vhost": "shop",
        "write_rights": { "write": "orders", "read": "done" },
        "queues": ["done"],
    });
    change(&mut table);
    let file: File = serde_json::from_value(table).map_err(|error| error.to_string())?;
    file.check(Path::new("/"))
}

#[test]
fn a_table_offers_the_tools_that_its_rights_allow() {
    let settings = table(|_| {}).unwrap();
    assert_eq!((settings.secrets(), settings.target()), (vec!["queue-broker"], "amqp://127.0.0.1:5672 (shop)".to_owned()));
    let names = |settings: &Settings| settings.way.tools.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    assert_eq!(names(&settings), [PUBLISH, QUEUE_INFO, TAKE]);
    assert_eq!(names(&table(|t| t["queues"] = json!([])).unwrap()), [PUBLISH]);
    assert_eq!(names(&table(|t| t["write_rights"] = json!({})).unwrap()), [QUEUE_INFO]);
    for (field, value, words) in [
        ("nodes", json!([{ "host": "queue.example.org" }]), "need TLS"),
        ("api", json!([]), "`api`: expected 1 to 32 nodes"),
        ("vhost", json!(""), "a virtual host"),
        ("effect", json!("read"), "at least `influence`"),
        ("headers", json!({ "task": "a b" }), "`headers`"),
        ("body_bytes_max", json!(2_000_000), "bytes"),
        ("write_rights", json!({ "configure": ".*" }), "unknown field"),
    ] {
        let error = table(|table| table[field] = value.clone()).unwrap_err();
        assert!(error.contains(words), "{field}: {error}");
    }
    assert!(table(|table| (table["write_rights"], table["queues"]) = (json!({}), json!([]))).is_err());
}

#[test]
fn a_call_is_judged_by_its_tool_and_cannot_route_elsewhere_or_say_that_it_is_anothers() {
    let tools = table(|table| table["effect"] = json!("write")).unwrap().tools();
    let judge = |tool: &str, arguments: Value| tools.judge(tool, &arguments).map_err(|refusal| refusal.words);
    let message = |headers: Value| json!({ "exchange": "orders", "routing_key": "new", "body": "bread", "headers": headers });
    let right = [
        (PUBLISH, message(json!({ "tries": 3, "urgent": true, "who": "me" })), Effect::Write),
        (QUEUE_INFO, json!({ "queue": "done" }), Effect::Read),
        (TAKE, json!({ "queue": "done" }), Effect::Delete),
    ];
    for (tool, arguments, effect) in &right {
        assert_eq!(judge(tool, arguments.clone()), Ok(*effect), "{tool}");
        assert_eq!(tools.effect(tool), Some(*effect));
    }
    for header in ["CC", "BCC", "cc", "x-delay", "X-Death", "bailiwick-task", "Bailiwick-Agent"] {
        let said = judge(PUBLISH, message(json!({ header: "y" }))).unwrap_err();
        assert!(said.contains("cannot be written"), "{header}: {said}");
    }
    for (tool, arguments, words) in [
        (PUBLISH, message(json!({ "a": { "b": 1 } })), "the tool's schema"),
        (PUBLISH, message(json!({ "a": "y".repeat(HEADER_MAX + 1) })), "at most 29 headers"),
        (PUBLISH, message(json!({ "": "y" })), "at most 29 headers"),
        (PUBLISH, json!({ "exchange": "", "routing_key": "k".repeat(256), "body": "" }), "`routing_key` has at most 255 bytes"),
        (PUBLISH, json!({ "exchange": "a\nb", "routing_key": "", "body": "" }), "`exchange`"),
        (PUBLISH, json!({ "exchange": "", "routing_key": "", "body": "b".repeat((64 << 10) + 1) }), "`body` has at most 65536 bytes"),
        (PUBLISH, json!({ "exchange": "", "routing_key": "", "body": "", "reply_to": "x" }), "unknown field `reply_to`"),
        (TAKE, json!({ "queue": "salaries" }), "expected `queue` as one of: done"),
        ("purge", json!({ "queue": "done" }), "there is no such tool"),
    ] {
        let said = judge(tool, arguments.clone()).unwrap_err();
        assert!(said.contains(words), "{tool} {arguments}: {said}");
    }
    for (definition, (tool, arguments, _)) in tools.tools().iter().zip(&right) {
        assert_eq!(definition["name"], *tool);
        let text = definition["inputSchema"].to_string();
        let schema = Schema::compile(Raw::parse(text.as_bytes(), &bailiwick_wire::Limits::REPLY).unwrap()).unwrap();
        schema.check(Raw::parse(arguments.to_string().as_bytes(), &bailiwick_wire::Limits::REPLY).unwrap()).unwrap();
    }
    assert_eq!((tools.rights(Effect::Read).class, tools.rights(Effect::Delete).class), (READ, WRITE));
}

#[tokio::test]
async fn a_message_goes_over_the_connection_that_the_broker_holds_with_its_task_in_it() {
    let server = Server::start().unwrap();
    let ask = |method: &str, path: &str, body: &str| server.ask(method, path, body).unwrap();
    ask("PUT", "/users/broker", "{\"password\":\"broker-password\",\"tags\":\"administrator\"}");
    ask("PUT", "/vhosts/shop", "");
    ask("PUT", "/permissions/shop/root", "{\"configure\":\".*\",\"write\":\".*\",\"read\":\".*\"}");
    ask("PUT", "/queues/shop/done", "{}");
    ask("PUT", "/exchanges/shop/orders", "{\"type\":\"direct\"}");
    ask("POST", "/bindings/shop/e/orders/q/done", "{\"routing_key\":\"new\"}");
    let clock: Arc<dyn Clock> = Arc::new(crate::clock::SystemClock::start());
    let secret = |_: &str| Ok(Secret::from("broker-password".to_owned()));
    let settings = table(|table| {
        table["api"][0]["port"] = server.api().into();
        table["nodes"][0]["port"] = server.port().into();
        table["headers"] = json!({ "task": "x-task" });
    });
    let Built { kind, builtin } = settings.unwrap().build(&secret, &clock).unwrap();
    assert_eq!(kind.preflight(&AccountName::new(&Prefix::default(), [7; 16])).await.unwrap(), []);

    let tag = Tag { task: "task_1".into(), agent: "spiffe://example.org/agent/a".into(), expires_at: clock.now().plus(Duration::from_secs(60)) };
    let open = async |effect: Effect, last: u8| {
        let (proposed, name) = (kind.propose().unwrap().unwrap(), AccountName::new(&Prefix::default(), [last; 16]));
        let plan = Plan { name: name.clone(), tag: tag.clone(), rights: builtin.rights(effect).rights };
        let minted = kind.mint(&plan, Some(&proposed)).await.unwrap();
        builtin.open(&Account { name, ids: minted.ids, secret: Some(proposed), expires_at: None }, &tag).await.unwrap()
    };
    let (reader, writer) = (open(Effect::Read, 8).await, open(Effect::Write, 9).await);
    let cancel = CancellationToken::new();
    let of = call_id();
    let call = async |session: &Arc<dyn Session>, tool: &str, arguments: Value| {
        let answer = session.call(of, tool, &arguments, &cancel).await.unwrap();
        (answer.structured, answer.is_error)
    };
    let message =
        |key: &str| json!({ "exchange": "orders", "routing_key": key, "body": "bread", "content_type": "text/plain", "headers": { "tries": 3 } });
    assert_eq!(call(&writer, PUBLISH, message("new")).await, (json!({ "routed": true }), false));
    assert_eq!(call(&writer, PUBLISH, message("old")).await, (json!({ "routed": false }), true));
    assert_eq!(call(&reader, QUEUE_INFO, json!({ "queue": "done" })).await, (json!({ "messages": 1, "consumers": 0 }), false));
    let (refused, is_error) = call(&reader, TAKE, json!({ "queue": "done" })).await;
    assert!(is_error && refused["refused"]["code"] == "403", "who reads takes nothing: {refused}");
    let taken = json!({
        "exchange": "orders", "routing_key": "new", "content_type": "text/plain", "body": "bread", "redelivered": false, "left": 0,
        "headers": { "tries": 3, "x-task": "task_1", "bailiwick-agent": "spiffe://example.org/agent/a", "bailiwick-call": of.to_string() },
    });
    assert_eq!(call(&writer, TAKE, json!({ "queue": "done" })).await, (json!({ "message": taken }), false));
    assert_eq!(call(&writer, TAKE, json!({ "queue": "done" })).await, (json!({ "message": null }), false));
    for session in [reader, writer] {
        session.close().await;
    }
}
