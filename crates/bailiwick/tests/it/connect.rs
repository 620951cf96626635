//! The stdio bridge, as MCP hosts of both eras use it, against the real binary.

use serde_json::json;

use crate::false_broker::FalseBroker;
use crate::running::{Installation, call, modern, refund, until};

fn read(id: u64) -> serde_json::Value {
    call(id, "shop.show_order", &json!({ "order": "O-2009" }))
}

#[test]
fn a_host_of_the_handshake_revisions_works_unmodified_and_its_task_ends_with_it() {
    let one = Installation::of_one_person();
    let mut host = one.host(&[]);
    let hello = host.shake_hands();
    assert_eq!(hello["result"]["protocolVersion"], "2025-06-18");
    let tools = host.ask(&json!({ "jsonrpc": "2.0", "id": "list", "method": "tools/list" }));
    assert!(tools["result"]["tools"].as_array().unwrap().iter().any(|t| t["name"] == "shop.show_order"), "{tools}");
    assert_eq!(host.ask(&read(2))["result"]["structuredContent"]["order"], "O-2009");
    let tasks = one.json(&["task", "list"]);
    assert_eq!(tasks["tasks"][0]["purpose"], "session of test-host");
    assert!(host.close());
    let tasks = one.json(&["task", "list", "--all"]);
    assert_eq!((tasks["tasks"][0]["state"].as_str(), tasks["tasks"][0]["reason"].as_str()), (Some("closed"), Some("completed")));
}

#[test]
fn a_modern_host_needs_no_session_and_many_requests_run_at_a_time() {
    let one = Installation::of_one_person();
    let mut host = one.host(&["--tools", "shop.show_order,shop.list_orders"]);
    let discovered = host.ask(&modern(1, "server/discover", json!({})));
    assert_eq!(discovered["result"]["supportedVersions"], json!(["2026-07-28"]));
    for id in 10..30 {
        host.send(&modern(id, "tools/call", json!({ "name": "shop.show_order", "arguments": { "order": "O-2009" } })));
    }
    let mut answered: Vec<u64> = (10..30)
        .map(|_| host.next())
        .map(|m| (m["result"]["resultType"] == "complete", m["id"].as_u64().unwrap()))
        .filter(|m| m.0)
        .map(|m| m.1)
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, (10..30).collect::<Vec<_>>());
    let unknown = host.ask(&modern(2, "tools/call", json!({ "name": "shop.refund_order", "arguments": refund() })));
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    assert!(host.close());
}

#[test]
fn a_held_call_comes_back_done_after_a_person_approved_it() {
    let one = Installation::of_one_person();
    let mut host = one.host(&[]);
    host.send(&modern(1, "tools/call", json!({ "name": "shop.refund_order", "arguments": refund() })));
    let hold = one.held("ana")["id"].as_str().unwrap().to_owned();
    // Others are not kept waiting by it.
    assert_eq!(
        host.ask(&modern(2, "tools/call", json!({ "name": "shop.show_order", "arguments": { "order": "O-2009" } })))["result"]["isError"],
        json!(false)
    );
    one.done(&["approve", &hold, "--yes"]);
    let done = host.next();
    assert_eq!((&done["id"], &done["result"]["structuredContent"]["amount_cents"]), (&json!(1), &json!(700)), "{done}");
    assert!(host.close());
}

#[test]
fn a_signal_ends_the_task_too() {
    let one = Installation::of_one_person();
    let mut host = one.host(&[]);
    host.shake_hands();
    assert!(host.terminate());
    assert_eq!(one.json(&["task", "list"])["tasks"], json!([]));
}

#[test]
fn a_revoked_task_is_not_opened_anew_behind_the_persons_back() {
    let one = Installation::of_one_person();
    let mut host = one.host(&[]);
    host.shake_hands();
    let task = one.json(&["task", "list"])["tasks"][0]["id"].as_str().unwrap().to_owned();
    one.done(&["task", "revoke", &task]);
    let refused = host.ask(&read(2));
    let words = refused["error"]["message"].as_str().unwrap();
    assert!(words.contains("start this connection anew"), "{refused}");
    assert_eq!(one.json(&["task", "list"])["tasks"], json!([]));
    assert!(host.close());
}

#[test]
fn without_a_broker_the_host_is_told_so_in_its_own_protocol() {
    let new = Installation::new();
    new.done(&["agent", "add", "assistant"]);
    let mut host = new.host(&["--url", "http://127.0.0.1:9"]);
    let refused = host.ask(&json!({ "jsonrpc": "2.0", "id": "x", "method": "initialize", "params": { "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "h", "version": "1" } } }));
    assert_eq!(refused["error"]["data"]["code"], "broker.down");
    assert!(refused["error"]["message"].as_str().unwrap().contains("bailiwick up"), "{refused}");
    assert!(host.close());
}

#[test]
fn what_is_no_message_is_answered_with_an_error_and_the_next_one_is_served() {
    let one = Installation::of_one_person();
    let mut host = one.host(&[]);
    host.send_text("[]");
    assert_eq!(host.next()["error"]["code"], -32600);
    host.send_text("{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"tools/call\",\"params\":{\"name\":\"a\",\"name\":\"b\"}}");
    assert!(host.next()["error"]["code"].is_i64());
    host.send_text(&format!("\"{}\"", "x".repeat(5 << 20)));
    assert!(host.next()["error"]["message"].as_str().unwrap().contains("4 MiB"));
    host.shake_hands();
    assert_eq!(host.ask(&read(9))["result"]["structuredContent"]["order"], "O-2009");
}

#[test]
fn a_cancelled_call_is_withdrawn_or_stopped_and_never_answered_late() {
    let one = Installation::of_one_person();
    let mut host = one.host(&[]);
    host.send(&modern(1, "tools/call", json!({ "name": "shop.refund_order", "arguments": refund() })));
    one.held("ana");
    host.send(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } }));
    // The next answer is to the next request, not to the one that was cancelled.
    let next = host.ask(&modern(2, "tools/list", json!({})));
    assert!(next["result"]["tools"].is_array(), "{next}");
    until("nothing of it is still under way", || one.json(&["task", "list"])["tasks"][0]["calls_used"] == json!(0));
    assert!(host.close());
}

#[test]
fn a_token_that_is_not_taken_is_renewed_once_for_the_same_task_and_the_request_sent_again() {
    let broker = FalseBroker::start(|asked| match asked.header("authorization") {
        "Bearer first" => (401, r#"{"code":"authn.token_expired"}"#.to_owned()),
        _ => (200, r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}"#.to_owned()),
    });
    let new = Installation::new();
    new.done(&["agent", "add", "assistant"]);
    let mut host = new.host(&["--url", &broker.url]);
    assert_eq!(host.ask(&modern(1, "tools/list", json!({})))["result"]["resultType"], "complete");
    let sent: Vec<String> = broker.asked("/mcp").iter().map(|a| a.header("authorization").to_owned()).collect();
    assert_eq!(sent, ["Bearer first", "Bearer t2"]);
    let renewal = &broker.asked("/oauth/token")[1].body;
    assert!(renewal.contains("task_id=task_00000000000000000000000000000009"), "{renewal}");
    assert_eq!(broker.asked("/v1/tasks").len(), 1);
    assert!(host.close());
    assert_eq!(broker.asked("/v1/tasks/task_00000000000000000000000000000009/complete").len(), 1);
}

#[test]
fn a_token_that_is_never_taken_is_not_tried_for_ever() {
    let broker = FalseBroker::start(|_| (401, r#"{"code":"authn.proof_invalid","detail":"the proof of identity is not valid"}"#.to_owned()));
    let new = Installation::new();
    new.done(&["agent", "add", "assistant"]);
    let mut host = new.host(&["--url", &broker.url]);
    let refused = host.ask(&modern(1, "tools/list", json!({})));
    assert_eq!(refused["error"]["data"]["code"], "authn.proof_invalid", "{refused}");
    assert_eq!(broker.asked("/mcp").len(), 2);
}

#[test]
fn a_parameter_that_must_be_mirrored_is_found_out_and_mirrored() {
    let broker = FalseBroker::start(|asked| match asked.header("mcp-method") {
        "tools/list" => {
            let schema = r#"{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}}}"#;
            (
                200,
                format!(
                    r#"{{"jsonrpc":"2.0","id":"bailiwick-connect-tools","result":{{"resultType":"complete","tools":[{{"name":"a.b","inputSchema":{schema}}}]}}}}"#
                ),
            )
        }
        _ if asked.header("mcp-param-region") == "eu" => {
            (200, r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","content":[]}}"#.to_owned())
        }
        _ => (
            400,
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32020,"message":"Mcp-Param-Region header does not match the request body"}}"#.to_owned(),
        ),
    });
    let new = Installation::new();
    new.done(&["agent", "add", "assistant"]);
    let mut host = new.host(&["--url", &broker.url]);
    let answer = host.ask(&modern(7, "tools/call", json!({ "name": "a.b", "arguments": { "region": "eu" } })));
    assert!(answer["result"]["content"].is_array(), "{answer}");
    let methods: Vec<String> = broker.asked("/mcp").iter().map(|a| a.header("mcp-method").to_owned()).collect();
    assert_eq!(methods, ["tools/call", "tools/list", "tools/call"]);
    // The host hears nothing of the question that the bridge asked itself.
    let again = host.ask(&modern(7, "tools/call", json!({ "name": "a.b", "arguments": { "region": "eu" } })));
    assert!(again["result"]["content"].is_array(), "{again}");
    assert_eq!(broker.asked("/mcp").len(), 4);
}
