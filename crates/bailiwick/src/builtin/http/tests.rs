//! Tests of HTTP APIs as built-in systems, against a real server: a call becomes one request, and the key is seen by nobody but the API.
use std::time::Duration;

use bailiwick_core::{Clock, Timestamp};
use bailiwick_credentials::Secret;
use bailiwick_credentials::lease::{AccountName, Ending, Plan, Prefix, TargetIds};
use bailiwick_testkit::clouds::orders::Orders;
use bailiwick_testkit::clouds::{Cloud, Fault};

use super::super::Built;
use super::*;
use crate::builtin::call_id;

const KEY: &str = "sk-canary/0123+456789";

#[derive(Debug)]
struct Noon;

impl Clock for Noon {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_790_000_000_000)
    }
}

struct World {
    folder: tempfile::TempDir,
    orders: Arc<Orders>,
    cloud: Cloud,
}

impl World {
    fn new() -> Self {
        let orders = Arc::new(Orders::new(KEY));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("orders.json"), Orders::document().to_string()).unwrap();
        Self { cloud: Cloud::start(Arc::clone(&orders) as Arc<_>).unwrap(), orders, folder }
    }

    fn file(&self, more: &str) -> String {
        format!("document = \"orders.json\"\nbase_url = \"{}\"\nprivate = true\n{more}", self.cloud.url("/v1"))
    }

    fn check(&self, table: &str) -> Result<Settings, String> {
        toml::from_str::<File>(table).map_err(|error| error.to_string())?.check(self.folder.path())
    }

    fn build(&self, more: &str) -> Built {
        let settings = self.check(&self.file(more)).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(Noon);
        assert_eq!(settings.secrets(), ["orders-key"]);
        settings.build(&|_| Ok(Secret::from(KEY.to_owned())), &clock).unwrap()
    }
}

const BEARER: &str = "inject = { kind = \"bearer\", secret = \"orders-key\" }\n";

fn tag() -> Tag {
    Tag { task: format!("task_{}", "0b".repeat(16)), agent: "spiffe://td/agent/a1".to_owned(), expires_at: Timestamp::from_millis(1_790_000_600_000) }
}

fn account(n: u8) -> Account {
    Account { name: AccountName::new(&Prefix::default(), [n; 16]), ids: TargetIds::default(), secret: None, expires_at: None }
}

/// A lease's session, minted as the house does it.
async fn session(built: &Built, n: u8) -> Arc<dyn Session> {
    let plan = Plan { name: account(n).name, tag: tag(), rights: Vec::new() };
    assert!(built.kind.propose().unwrap().is_none(), "the key is not copied into leases");
    let minted = built.kind.mint(&plan, None).await.unwrap();
    assert!(minted.secret.is_none() && minted.expires_at.is_none());
    built.builtin.open(&account(n), &tag()).await.unwrap()
}

async fn call(session: &Arc<dyn Session>, tool: &str, arguments: Value) -> Result<Answer, UseError> {
    session.call(call_id(), tool, &arguments, &CancellationToken::new()).await
}

#[tokio::test]
async fn the_operations_of_a_document_are_tools_that_do_what_they_say() {
    let world = World::new();
    let built = world.build(BEARER);
    let tools = built.builtin.tools();
    let names: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["addOrder", "echo", "getOrder", "listOrders", "moved", "refundOrder", "removeOrder", "searchOrders"],
        "what cannot be offered is not"
    );
    for tool in &tools {
        let raw = tool.to_string();
        bailiwick_wire::mcp::ToolDefinition::parse(Raw::parse(raw.as_bytes(), &Limits::REPLY).unwrap()).unwrap();
    }
    assert_eq!(built.builtin.effect("getOrder"), Some(Effect::Read));
    assert_eq!(built.builtin.effect("removeOrder"), Some(Effect::Delete));
    assert_eq!(built.builtin.judge("addOrder", &json!({ "body": { "item": "tea" } })).unwrap(), Effect::Write);
    assert_eq!(tools[2]["outputSchema"]["$defs"]["Order"]["type"], "object", "what an answer looks like is told");
    let held = session(&built, 1).await;
    let got = call(&held, "getOrder", json!({ "orderId": 1 })).await.unwrap();
    assert_eq!(
        (got.is_error, &got.structured["status"], &got.structured["body"]),
        (false, &json!(200), &json!({ "id": 1, "item": "tea", "state": "open" }))
    );
    let added = call(&held, "addOrder", json!({ "body": { "item": "milk" } })).await.unwrap();
    assert_eq!((added.structured["status"].clone(), world.orders.orders()[&3]["item"].clone()), (json!(201), json!("milk")));
    assert_eq!(call(&held, "removeOrder", json!({ "orderId": 3 })).await.unwrap().structured["status"], 204);
    let missing = call(&held, "getOrder", json!({ "orderId": 99 })).await.unwrap();
    assert!(missing.is_error && missing.structured["body"]["error"] == "no such order");
    let asked = world.cloud.seen();
    assert!(asked.iter().all(|asked| asked.header("x-bailiwick-task").starts_with(&format!("bailiwick {} spiffe://td/agent/a1 call_", tag().task))));
    assert!(asked.iter().all(|asked| asked.header("traceparent").starts_with(&format!("00-{}-", "0b".repeat(16)))), "the chain is in the API's log");
    held.close().await;
}

#[tokio::test]
async fn the_key_is_in_no_answer_however_the_api_writes_it() {
    let world = World::new();
    let ways = [
        BEARER,
        "inject = { kind = \"header\", name = \"X-Api-Key\", secret = \"orders-key\" }\n",
        "inject = { kind = \"basic\", user = \"shop\", secret = \"orders-key\" }\n",
        "inject = { kind = \"query\", name = \"key\", secret = \"orders-key\" }\n",
    ];
    for way in ways {
        let built = world.build(way);
        let held = session(&built, 1).await;
        let answer = call(&held, "echo", json!({})).await.unwrap();
        let shown = answer.structured.to_string();
        assert_eq!(answer.structured["status"], 200, "{way}: {shown}");
        assert!(!shown.contains("canary") && !shown.contains("yranac"), "{way}: {shown}");
        for (name, value) in answer.structured["body"].as_object().unwrap() {
            if !["headers", "query"].contains(&name.as_str()) {
                assert!(value.as_str().unwrap().contains(bailiwick_credentials::REDACTED), "{way}: {name} is {value}");
            }
        }
        assert!(answer.structured["headers"].get("set-cookie").is_none());
        let moved = call(&held, "moved", json!({})).await.unwrap();
        assert!(moved.is_error && !moved.structured.to_string().contains("canary"), "{}", moved.structured);
        assert!(!format!("{built:?} {held:?}").contains("canary"));
    }
    assert_eq!(world.cloud.seen().len(), 8, "no redirect was followed");
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_before_anything_is_sent() {
    let world = World::new();
    let built = world.build(BEARER);
    for (tool, arguments, words) in [
        ("nothing", json!({}), "no such operation"),
        ("getOrder", json!({}), "orderId"),
        ("getOrder", json!({ "orderId": "1/refund" }), "whole number"),
        ("getOrder", json!({ "orderId": 0 }), "orderId"),
        ("getOrder", json!({ "orderId": 1e30 }), "too large to be passed on"),
        ("getOrder", json!({ "orderId": 1, "X-Api-Key": "mine" }), "X-Api-Key"),
        ("addOrder", json!({ "body": { "item": "x", "id": 7 } }), "id"),
        ("addOrder", json!({ "body": { "item": "x", "state": 12_345_678_901_234_567_890_123.0 } }), "too large to be passed on"),
    ] {
        let refused = built.builtin.judge(tool, &arguments).unwrap_err();
        assert!(refused.words.contains(words), "{tool} {arguments}: {}", refused.words);
        let held = session(&built, 1).await;
        assert!(!call(&held, tool, arguments).await.unwrap_err().may_have_run);
    }
    assert!(world.cloud.seen().is_empty());
}

#[tokio::test]
async fn a_lease_that_has_ended_is_used_for_nothing_more_and_says_so() {
    let world = World::new();
    let built = world.build(BEARER);
    let (one, other) = (session(&built, 1).await, session(&built, 2).await);
    call(&one, "getOrder", json!({ "orderId": 1 })).await.unwrap();
    world.cloud.fault("GET /v1/orders/1", Fault::Slow(Duration::from_secs(20)));
    let running = tokio::spawn({
        let one = Arc::clone(&one);
        async move { call(&one, "getOrder", json!({ "orderId": 1 })).await }
    });
    while world.cloud.count("GET /v1/orders/1") < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ending = built.kind.end(&account(1)).await.unwrap();
    let Ending::InjectionStopped { evidence } = &ending else { panic!("{ending:?}") };
    let words = format!("{evidence:?}");
    assert!(words.contains("requests in the air that were cut off: 1") && words.contains("refused") && !words.contains("canary"), "{words}");
    assert!(evidence.tried().iter().all(|tried| tried.at == Noon.now()));
    let cut = running.await.unwrap().unwrap_err();
    assert!(cut.may_have_run && cut.gone, "{cut:?}");
    let late = call(&one, "getOrder", json!({ "orderId": 1 })).await.unwrap_err();
    assert!(!late.may_have_run && late.gone, "{late:?}");
    assert!(built.builtin.open(&account(1), &tag()).await.is_err(), "it is not opened again");
    let plan = Plan { name: account(1).name, tag: tag(), rights: Vec::new() };
    assert!(built.kind.mint(&plan, None).await.is_err(), "nor minted");
    assert!(built.kind.end(&account(1)).await.is_ok(), "it can be ended again");
    assert_eq!(world.cloud.count("GET /v1/orders/1"), 2);
    assert!(!call(&other, "getOrder", json!({ "orderId": 1 })).await.unwrap().is_error, "another task's lease goes on");
    assert!(built.kind.end(&account(9)).await.is_ok(), "one that was never used ends");
}

#[tokio::test]
async fn answers_have_a_limit_in_bytes_and_in_time() {
    let world = World::new();
    let arguments = json!({ "orderId": 1 });
    let impatient = world.build(&format!("{BEARER}seconds_max = 1\n"));
    world.cloud.fault("GET /v1/orders/1", Fault::Slow(Duration::from_secs(20)));
    let slow = call(&session(&impatient, 2).await, "getOrder", json!({ "orderId": 1 })).await.unwrap_err();
    assert!(slow.may_have_run && slow.words.contains("within 1 seconds"), "{slow:?}");
    let built = world.build(&format!("{BEARER}answer_bytes_max = 2048\n"));
    let held = session(&built, 1).await;
    world.cloud.fault("GET /v1/orders/1", Fault::Huge);
    let huge = call(&held, "getOrder", json!({ "orderId": 1 })).await.unwrap();
    assert_eq!((huge.structured["status"].clone(), huge.structured.get("body")), (json!(200), None));
    assert!(huge.structured["note"].as_str().unwrap().contains("longer than 2048 bytes"));
    world.cloud.fault("GET /v1/orders/1", Fault::Lost);
    assert!(call(&held, "getOrder", json!({ "orderId": 1 })).await.unwrap_err().may_have_run);
    world.cloud.fault("GET /v1/orders/1", Fault::Redirect("http://169.254.169.254/".to_owned()));
    let moved = call(&held, "getOrder", json!({ "orderId": 1 })).await.unwrap();
    assert!(moved.is_error && moved.structured["note"].as_str().unwrap().contains("never followed"));
    let cancel = CancellationToken::new();
    let before = world.cloud.count("GET /v1/orders/1");
    world.cloud.fault("GET /v1/orders/1", Fault::Slow(Duration::from_secs(20)));
    let stop = async {
        while world.cloud.count("GET /v1/orders/1") == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel.cancel();
    };
    let (cut, ()) = tokio::join!(held.call(call_id(), "getOrder", &arguments, &cancel), stop);
    assert!(cut.unwrap_err().may_have_run);
    assert!(
        !held.call(call_id(), "getOrder", &arguments, &cancel).await.unwrap_err().may_have_run,
        "nothing is sent for a call that was cancelled before"
    );
    assert!(!call(&held, "getOrder", json!({ "orderId": 1 })).await.unwrap().is_error, "and the session goes on");
}

#[tokio::test]
async fn preflight_says_whether_the_key_is_taken_and_needed() {
    let world = World::new();
    let good = world.build(&format!("{BEARER}probe = \"/me\"\n"));
    assert_eq!(good.kind.preflight(&account(1).name).await.unwrap(), []);
    let settings = world.check(&world.file(&format!("{BEARER}probe = \"/me\"\n"))).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(Noon);
    let wrong = settings.build(&|_| Ok(Secret::from("another-key-0123".to_owned())), &clock).unwrap();
    let findings = wrong.kind.preflight(&account(1).name).await.unwrap();
    assert!(findings[0].missing.contains("refused") && findings[0].remedy.contains("bailiwick secret set"), "{findings:?}");
    let odd = world.build(&format!("{BEARER}probe = \"/nowhere\"\n"));
    assert!(odd.kind.preflight(&account(1).name).await.unwrap()[0].missing.contains("404"));
    world.cloud.down(true);
    assert!(good.kind.preflight(&account(2).name).await.unwrap_err().is_transient());
    assert!(good.kind.list(&Prefix::default()).await.unwrap().is_empty());
    assert!(settings.build(&|_| Ok(Secret::from("short".to_owned())), &clock).unwrap_err().contains("8 bytes"));
}

#[test]
fn a_table_that_cannot_be_used_is_refused_with_words() {
    let world = World::new();
    let with = |more: &str| world.check(&world.file(more)).map(drop).unwrap_err();
    for (table, words) in [
        (String::new(), "missing field `inject`"),
        (format!("{BEARER}include = [\"upload\"]"), "not `application/json`"),
        (format!("{BEARER}include = [\"getOrders\"]"), "no operation"),
        (format!("{BEARER}include = [\"getOrder\", \"nope\"]"), "`nope` is no tool"),
        (format!("{BEARER}include = [\"getOrder\"]\nlower = {{ searchOrders = \"read\" }}"), "`searchOrders` is no tool"),
        (format!("{BEARER}lower = {{ searchOrders = \"write\" }}"), "expected less"),
        (format!("{BEARER}lower = {{ getOrder = \"read\" }}"), "expected less"),
        (format!("{BEARER}probe = \"me\""), "begins with `/`"),
        (format!("{BEARER}seconds_max = 0"), "seconds_max"),
        (format!("{BEARER}answer_bytes_max = 1"), "answer_bytes_max"),
        (format!("{BEARER}tag_header = \"Authorization\""), "belongs to the connection or to the credential"),
        (format!("{BEARER}tag_header = \"a b\""), "name of a header"),
        (format!("{BEARER}roots = \"orders.json\""), "roots"),
        (format!("{BEARER}unknown = 1"), "unknown field"),
        ("inject = { kind = \"bearer\", name = \"x\", secret = \"orders-key\" }".to_owned(), "`name` is not used"),
        ("inject = { kind = \"header\", secret = \"orders-key\" }".to_owned(), "expected `name`"),
        ("inject = { kind = \"header\", name = \"Host\", secret = \"orders-key\" }".to_owned(), "belongs to the connection"),
        ("inject = { kind = \"basic\", secret = \"orders-key\" }".to_owned(), "expected `user`"),
        ("inject = { kind = \"query\", secret = \"orders-key\" }".to_owned(), "expected `name`"),
        ("inject = { kind = \"cookie\", secret = \"orders-key\" }".to_owned(), "unknown variant"),
    ] {
        let why = with(&table);
        assert!(why.contains(words), "{table}: {why}");
    }
    let at = |url: &str| world.check(&format!("document = \"orders.json\"\nbase_url = \"{url}\"\n{BEARER}")).map(drop).unwrap_err();
    assert!(at("https://127.0.0.1/").contains("private = true"));
    assert!(at("http://api.example.org/").contains("https://"));
    assert!(at("https://169.254.169.254/").contains("never used"));
    assert!(
        at("https://me:hunter22@api.example.org/").contains("expected a URL") && !at("https://me:hunter22@api.example.org/").contains("hunter22")
    );
    let absent = world.check(&format!("document = \"none.json\"\nbase_url = \"https://api.example.org\"\n{BEARER}")).map(drop).unwrap_err();
    assert!(absent.contains("none.json"), "{absent}");
    std::fs::write(world.folder.path().join("orders.json"), "openapi: 3.1.0").unwrap();
    assert!(with(BEARER).contains("YAML"));
}

#[test]
fn names_choose_and_lower() {
    let world = World::new();
    let built = world
        .build(&format!("{BEARER}include = [\"get*\", \"search*\", \"refundOrder\"]\nexclude = [\"getO*\"]\nlower = {{ searchOrders = \"read\" }}"));
    let names: Vec<_> = built.builtin.tools().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["refundOrder", "searchOrders"], "what is excluded is not offered");
    assert_eq!(built.builtin.judge("searchOrders", &json!({ "body": { "item": "tea" } })).unwrap(), Effect::Read);
    assert_eq!(built.builtin.tools()[1]["annotations"]["readOnlyHint"], true);
    let target = world.check(&world.file(BEARER)).unwrap().target();
    assert_eq!(target, world.cloud.url("/v1"));
}
