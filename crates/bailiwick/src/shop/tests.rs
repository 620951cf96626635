//! What the shop shows to a client, in both eras, and what it keeps; every test goes through `run`.

use std::path::{Path, PathBuf};

use bailiwick_core::Effect;
use proptest::prelude::*;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct Shop {
    folder: TempDir,
}

impl Shop {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("shop.sqlite")
    }

    fn hear(&self, input: &[u8]) -> Vec<Value> {
        hear(&self.file(), input)
    }

    fn ask(&self, messages: &[Value]) -> Vec<Value> {
        let lines: Vec<String> = messages.iter().map(Value::to_string).collect();
        self.hear(lines.join("\n").as_bytes())
    }

    /// One modern request and its one answer.
    fn request(&self, method: &str, params: Value) -> Value {
        let mut answers = self.ask(&[modern(method, params)]);
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    fn call(&self, tool: &str, arguments: Value) -> Value {
        self.request("tools/call", json!({"name": tool, "arguments": arguments}))["result"].clone()
    }

    /// A call that must succeed: its answer, checked against the schema that the tool publishes.
    fn done(&self, tool: &str, arguments: Value) -> Value {
        let definition = self.definition(tool);
        assert!(fits(&definition["inputSchema"], &arguments), "{tool} {arguments}");
        let result = self.call(tool, arguments);
        assert_eq!(result["isError"], json!(false), "{result}");
        let answer = result["structuredContent"].clone();
        assert!(fits(&definition["outputSchema"], &answer), "{tool} {answer}");
        assert_eq!(serde_json::from_str::<Value>(result["content"][0]["text"].as_str().unwrap()).unwrap(), answer);
        answer
    }

    /// A call that must be refused: the words, after a look that nothing was written down as done.
    fn refused(&self, tool: &str, arguments: Value) -> String {
        let before = self.everything();
        let result = self.call(tool, arguments);
        assert_eq!(result["isError"], json!(true), "{result}");
        assert!(result.get("structuredContent").is_none());
        assert_eq!(self.everything(), before, "a refusal changes nothing");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    fn definition(&self, tool: &str) -> Value {
        let list = self.request("tools/list", json!({}));
        let tools = list["result"]["tools"].as_array().unwrap().clone();
        tools.into_iter().find(|definition| definition["name"] == tool).unwrap()
    }

    fn number(&self, sql: &str) -> i64 {
        Connection::open(self.file()).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn audit(&self) -> Vec<(String, String, Option<String>)> {
        let shop = Connection::open(self.file()).unwrap();
        let mut rows = shop.prepare("SELECT tool, target, traceparent FROM audit ORDER BY id").unwrap();
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap().map(Result::unwrap).collect()
    }

    /// Every row of every table, as text.
    fn everything(&self) -> String {
        seed(&self.file()).unwrap();
        let shop = Connection::open(self.file()).unwrap();
        let mut tables = shop.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
        let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let mut text = String::new();
        for table in tables {
            let mut rows = shop.prepare(&format!("SELECT * FROM {table} ORDER BY rowid")).unwrap();
            let columns = rows.column_count();
            let mut rows = rows.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let cells: Vec<_> = (0..columns).map(|n| row.get::<_, rusqlite::types::Value>(n).unwrap()).collect();
                text.push_str(&format!("{table} {cells:?}\n"));
            }
        }
        text
    }
}

fn hear(file: &Path, input: &[u8]) -> Vec<Value> {
    let mut output = Vec::new();
    run(file, input, &mut output).unwrap();
    let output = String::from_utf8(output).unwrap();
    assert!(output.is_empty() || output.ends_with('\n'));
    output.lines().map(|line| serde_json::from_str(line).unwrap()).inspect(|m: &Value| assert_eq!(m["jsonrpc"], "2.0")).collect()
}

fn modern(method: &str, mut params: Value) -> Value {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let sent = params["_meta"].as_object().cloned().unwrap_or_default();
    params["_meta"] = meta;
    params["_meta"].as_object_mut().unwrap().extend(sent);
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

fn initialize(version: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": "i", "method": "initialize", "params": {
        "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})
}

/// The part of JSON Schema that the shop publishes; a keyword that is not known here fails the test.
fn fits(schema: &Value, value: &Value) -> bool {
    let known = |key: &String| {
        [
            "type",
            "properties",
            "required",
            "additionalProperties",
            "items",
            "enum",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "pattern",
            "description",
            "format",
        ]
        .contains(&key.as_str())
    };
    let schema = schema.as_object().unwrap();
    assert!(schema.keys().all(known), "{schema:?}");
    let kinds: Vec<&str> = match &schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => panic!("{schema:?} has no type"),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let length = value.as_str().map(|text| text.chars().count() as u64);
    let members = value.as_object();
    kinds.contains(&kind)
        && schema.get("enum").is_none_or(|words| words.as_array().unwrap().contains(value))
        && schema.get("minimum").is_none_or(|least| value.as_i64() >= least.as_i64())
        && schema.get("maximum").is_none_or(|most| value.as_i64() <= most.as_i64())
        && schema.get("minLength").is_none_or(|least| length >= least.as_u64())
        && schema.get("maxLength").is_none_or(|most| length <= most.as_u64())
        && value.as_array().is_none_or(|items| items.iter().all(|item| fits(&schema["items"], item)))
        && schema
            .get("required")
            .and_then(Value::as_array)
            .is_none_or(|names| names.iter().all(|name| members.unwrap().contains_key(name.as_str().unwrap())))
        && members.is_none_or(|members| {
            members.iter().all(|(name, member)| match schema.get("properties").and_then(|all| all.get(name)) {
                Some(property) => fits(property, member),
                None => schema.get("additionalProperties") != Some(&json!(false)),
            })
        })
}

#[test]
fn seeding_makes_the_same_shop_each_time_and_leaves_a_used_one_alone() {
    let (one, two) = (Shop::new(), Shop::new());
    seed(&one.file()).unwrap();
    seed(&two.file()).unwrap();
    assert_eq!(one.everything(), two.everything());
    assert_eq!(one.number("SELECT count(*) FROM customer"), 12);
    assert_eq!(one.number("SELECT count(*) FROM purchase"), 30);
    assert_eq!(one.number("SELECT count(*) FROM ticket"), 8);
    assert_eq!(one.number("SELECT count(*) FROM pragma_foreign_key_check"), 0);
    one.done("refund_order", json!({"order": "O-2008", "amount_cents": 100, "reason": "scratched"}));
    let used = one.everything();
    seed(&one.file()).unwrap();
    assert_eq!(one.everything(), used);
}

#[test]
fn a_file_of_something_else_is_not_touched() {
    let shop = Shop::new();
    Connection::open(shop.file()).unwrap().execute_batch("CREATE TABLE diary (page TEXT)").unwrap();
    let before = std::fs::read(shop.file()).unwrap();
    assert!(matches!(seed(&shop.file()), Err(ShopError::NotAShop)));
    assert_eq!(std::fs::read(shop.file()).unwrap(), before);
    std::fs::write(shop.file(), [b'x'; 4096]).unwrap();
    assert!(matches!(run(&shop.file(), &b""[..], Vec::new()), Err(ShopError::NotAShop)));
    assert_eq!(std::fs::read(shop.file()).unwrap(), [b'x'; 4096]);
}

#[test]
fn a_modern_client_discovers_lists_and_calls_without_a_handshake() {
    let shop = Shop::new();
    let discovered = shop.request("server/discover", json!({}))["result"].clone();
    assert_eq!(discovered["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(discovered["capabilities"], json!({"tools": {}}));
    let list = shop.request("tools/list", json!({}))["result"].clone();
    for result in [&discovered, &list] {
        assert_eq!(result["resultType"], "complete");
        assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "bailiwick-shop");
        assert_eq!(result["cacheScope"], "public");
        assert!(result["ttlMs"].is_u64());
    }
    let called = shop.call("list_suppliers", json!({}));
    assert_eq!(called["resultType"], "complete");
    assert!(called.get("ttlMs").is_none());
}

#[test]
fn modern_metadata_is_checked_before_anything_is_done() {
    let shop = Shop::new();
    let refund = json!({"name": "refund_order", "arguments": {"order": "O-2008", "amount_cents": 1, "reason": "abc"}});
    let with_meta = |meta: Value| {
        let mut params = refund.clone();
        params["_meta"] = meta;
        json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params})
    };
    let answers = shop.ask(&[
        with_meta(json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"})),
        with_meta(json!({"io.modelcontextprotocol/protocolVersion": "2099-01-01", "io.modelcontextprotocol/clientCapabilities": {}})),
        with_meta(json!({})),
        with_meta(json!(["2026-07-28", {}, null])),
        json!({"jsonrpc": "2.0", "id": 7, "method": "server/discover"}),
    ]);
    let codes: Vec<_> = answers.iter().map(|answer| answer["error"]["code"].as_i64().unwrap()).collect();
    assert_eq!(codes, [-32602, -32022, -32602, -32602, -32602]);
    assert_eq!(answers[1]["error"]["data"], json!({"supported": ["2026-07-28"], "requested": "2099-01-01"}));
    assert!(shop.audit().is_empty());
}

#[test]
fn what_the_modern_era_dropped_is_an_unknown_method_there() {
    let shop = Shop::new();
    for method in ["initialize", "ping", "logging/setLevel", "resources/list", "no/such", "Tools/Call"] {
        let answer = shop.request(method, json!({"protocolVersion": "2025-06-18"}));
        assert_eq!(answer["error"]["code"], -32601, "{method}");
        assert_eq!(answer["id"], 1);
    }
}

#[test]
fn a_legacy_client_shakes_hands_first() {
    let shop = Shop::new();
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": "show_order", "arguments": {"order": "O-2001"}}});
    let ping = json!({"jsonrpc": "2.0", "id": 3, "method": "ping"});
    let list = json!({"jsonrpc": "2.0", "id": 4, "method": "tools/list", "params": {}});
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let discover = json!({"jsonrpc": "2.0", "id": 5, "method": "server/discover"});
    let answers = shop.ask(&[call.clone(), ping.clone(), initialize("2025-06-18"), ready, ping, list, call, discover]);
    assert_eq!(answers.len(), 7, "a notification is not answered");
    assert_eq!(answers[0]["error"]["code"], -32602);
    assert_eq!(answers[1]["result"], json!({}));
    assert_eq!(answers[2]["id"], "i");
    assert_eq!(answers[2]["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(answers[2]["result"]["serverInfo"]["name"], "bailiwick-shop");
    assert_eq!(answers[3]["result"], json!({}));
    assert_eq!(answers[4]["result"]["tools"].as_array().unwrap().len(), 14);
    assert_eq!(answers[5]["result"]["structuredContent"]["order"], "O-2001");
    for legacy in &answers[2..6] {
        assert!(legacy["result"].get("resultType").is_none() && legacy["result"].get("ttlMs").is_none());
    }
    assert_eq!(answers[6]["error"]["code"], -32601);
}

#[test]
fn the_handshake_never_agrees_on_the_modern_version() {
    let shop = Shop::new();
    for (asked, agreed) in [("2026-07-28", "2025-11-25"), ("1999-01-01", "2025-11-25"), ("2025-03-26", "2025-03-26")] {
        assert_eq!(shop.ask(&[initialize(asked)])[0]["result"]["protocolVersion"], agreed);
    }
    let nothing = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}});
    assert_eq!(shop.ask(&[nothing])[0]["error"]["code"], -32602);
}

#[test]
fn what_is_not_one_json_rpc_message_is_refused_and_the_next_is_served() {
    let shop = Shop::new();
    let refund = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"refund_order"}}"#;
    for (bad, code) in [
        ("{", -32700),
        ("nonsense", -32700),
        (&"[".repeat(100_000), -32700),
        (&format!("[{refund}]"), -32600),
        (r#"["2.0",1,"ping"]"#, -32600),
        (r#""ping""#, -32600),
        (r#"{"id":1,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, -32600),
        (&format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(300)), -32600),
    ] {
        let answers = shop.hear(format!("{bad}\n\n{{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"ping\"}}").as_bytes());
        assert_eq!(answers.len(), 2, "{bad}");
        assert_eq!(answers[0]["error"]["code"], code, "{bad}");
        assert!(answers[0].get("id").is_none());
        assert_eq!(answers[1], json!({"jsonrpc": "2.0", "id": 9, "result": {}}));
    }
    assert_eq!(shop.hear(b"\"\xff\xfe\"\n")[0]["error"]["code"], -32700);
}

#[test]
fn a_message_that_is_too_long_is_passed_over_and_the_next_is_served() {
    let shop = Shop::new();
    let ping = r#"{"jsonrpc":"2.0","id":9,"method":"ping"}"#;
    let padded = |length: usize| format!("{ping}{}\n{ping}\n", " ".repeat(length - ping.len()));
    assert_eq!(shop.hear(padded(MESSAGE_BYTES_MAX).as_bytes()).len(), 2);
    let answers = shop.hear(padded(MESSAGE_BYTES_MAX + 1).as_bytes());
    assert_eq!(answers[0]["error"]["code"], -32600);
    assert_eq!(answers[1]["id"], 9);
    assert_eq!(answers.len(), 2);
    assert_eq!(shop.hear(padded(5 * MESSAGE_BYTES_MAX).trim_end().as_bytes()).len(), 2);
}

#[test]
fn ids_come_back_as_they_were_sent() {
    let shop = Shop::new();
    for id in ["0", "-7", "12345678901234567890123", r#""a\u0041\"b""#, r#""""#] {
        let mut output = Vec::new();
        let line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        run(&shop.file(), line.as_bytes(), &mut output).unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}\n"));
    }
}

#[test]
fn a_call_without_an_id_and_an_answer_to_nothing_do_nothing() {
    let shop = Shop::new();
    let mut call = modern("tools/call", json!({"name": "approve_discount", "arguments": {"discount": "D-7002"}}));
    call.as_object_mut().unwrap().remove("id");
    let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
    assert!(shop.ask(&[call, cancelled, answer]).is_empty());
    assert!(shop.audit().is_empty());
}

#[test]
fn params_of_a_wrong_shape_are_invalid_params() {
    let shop = Shop::new();
    for params in [
        json!({}),
        json!({"name": 7}),
        json!({"name": "no_such_tool"}),
        json!({"name": "REFUND_ORDER", "arguments": {}}),
        json!({"name": "show_order", "arguments": ["O-2001"]}),
        json!({"name": "show_order", "arguments": "O-2001"}),
    ] {
        assert_eq!(shop.request("tools/call", params.clone())["error"]["code"], -32602, "{params}");
    }
    assert_eq!(shop.request("tools/list", json!({"cursor": "x"}))["error"]["code"], -32602);
    let positional = json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []});
    assert_eq!(shop.ask(&[positional])[0]["error"]["code"], -32602);
    let twice = modern("tools/call", json!({"name": "show_order"})).to_string();
    let twice = twice.replace(r#""name""#, r#""name":"refund_order","name""#);
    assert_eq!(shop.hear(twice.as_bytes())[0]["error"]["code"], -32602);
}

#[test]
fn every_tool_publishes_strict_schemas_and_honest_annotations() {
    let shop = Shop::new();
    let list = shop.request("tools/list", json!({}))["result"]["tools"].clone();
    let list = list.as_array().unwrap();
    let names: Vec<_> = list.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, effects().map(|(name, _)| name).collect::<Vec<_>>());
    for (tool, (name, effect)) in list.iter().zip(effects()) {
        let input = &tool["inputSchema"];
        assert_eq!(input["type"], "object", "{name}");
        assert_eq!(input["additionalProperties"], false, "{name}");
        for property in input["properties"].as_object().into_iter().flat_map(serde_json::Map::values) {
            let bounded = ["pattern", "enum", "maxLength", "maximum"].iter().any(|bound| property.get(bound).is_some());
            assert!(bounded && property["description"].is_string(), "{name} {property}");
        }
        assert!(tool["title"].is_string() && tool["description"].as_str().unwrap().len() > 40, "{name}");
        assert_eq!(tool["outputSchema"]["type"], "object", "{name}");
        assert_eq!(tool["annotations"]["readOnlyHint"], effect == Effect::Read, "{name}");
        let grave = matches!(effect, Effect::Write | Effect::Delete | Effect::Transfer | Effect::Approve);
        assert_eq!(tool["annotations"]["destructiveHint"], grave, "{name}");
    }
    let found: std::collections::BTreeSet<_> = effects().map(|(_, effect)| effect.word()).collect();
    // The shop has no accounts to hand out.
    assert_eq!(found.len(), Effect::ALL.len() - 1, "there is a tool of every effect but `issue`");
}

#[test]
fn the_definition_of_refund_order_is_stable() {
    let definition = Shop::new().definition("refund_order");
    insta::with_settings!({sort_maps => true}, { insta::assert_json_snapshot!(definition) });
}

#[test]
fn arguments_that_do_not_fit_are_refused_in_words() {
    let shop = Shop::new();
    let refund = |amount: Value| json!({"order": "O-2008", "amount_cents": amount, "reason": "scratched"});
    for (tool, arguments, words) in [
        ("refund_order", json!({}), "missing field `order`"),
        ("refund_order", refund(json!(0)), "`0` is not a whole number from 1 to 1000000"),
        ("refund_order", refund(json!(-5)), "`-5` is not a whole number"),
        ("refund_order", refund(json!(1_000_001)), "not a whole number from"),
        ("refund_order", refund(json!(1.5)), "floating point"),
        ("refund_order", refund(json!("100")), "invalid type: string"),
        ("refund_order", refund(json!(null)), "invalid type: null"),
        ("refund_order", json!({"order": "o-2008", "amount_cents": 1, "reason": "abc"}), "written like `O-1001`"),
        ("refund_order", json!({"order": "O-2008", "amount_cents": 1, "reason": "   \n"}), "3 to 500 characters"),
        ("refund_order", json!({"order": "O-2008", "amount_cents": 1, "reason": "abc", "force": true}), "unknown field `force`"),
        ("show_order", json!({"order": "O-02008"}), "written like"),
        ("show_order", json!({"order": "O-20081234567890"}), "written like"),
        ("list_orders", json!({"status": "lost"}), "unknown variant `lost`"),
        ("list_orders", json!({"status": null}), "expected value"),
        ("list_orders", json!({"limit": 51}), "from 1 to 50"),
        ("find_customers", json!({"query": "a"}), "2 to 100 characters"),
        ("find_customers", json!({"query": "a\u{0}b"}), "without control characters"),
        ("comment_ticket", json!({"ticket": "T-3001", "visibility": "internal", "text": "x\u{1b}[2J"}), "no control characters"),
        ("comment_ticket", json!({"ticket": "T-3001", "visibility": "internal", "text": "x".repeat(2001)}), "1 to 2000 characters"),
        ("update_address", json!({"customer": "C-1001", "street": "a b", "postal_code": "12", "city": "ab", "country": "gb"}), "two capital letters"),
        ("list_suppliers", json!({"all": true}), "unknown field `all`"),
    ] {
        let said = shop.refused(tool, arguments);
        assert!(said.contains(words) && said.contains(tool) && !said.contains("at line"), "{said}");
    }
    let flood = shop.refused("show_order", json!({"x".repeat(100_000): 1}));
    assert!(flood.len() < 600);
}

#[test]
fn an_argument_given_twice_is_refused() {
    let shop = Shop::new();
    let line = modern("tools/call", json!({"name": "approve_discount", "arguments": {"discount": "D-7001"}})).to_string();
    let line = line.replace(r#""discount""#, r#""discount":"D-7002","discount""#);
    let answer = &shop.hear(line.as_bytes())[0];
    assert_eq!(answer["result"]["isError"], true);
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("duplicate field `discount`"));
    assert!(shop.audit().is_empty());
}

#[test]
fn customers_are_found_by_name_email_or_city_and_the_pattern_is_only_text() {
    let shop = Shop::new();
    let ids = |query: &str| -> Vec<String> {
        let found = shop.done("find_customers", json!({"query": query}));
        found["customers"].as_array().unwrap().iter().map(|c| c["customer"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids("FERNWOOD"), ["C-1001"]);
    assert_eq!(ids("kaya.bramble@"), ["C-1011"]);
    assert_eq!(ids("nordheim"), ["C-1002"]);
    assert_eq!(ids("O'Marrow"), ["C-1012"]);
    assert_eq!(ids("example.com").len(), 12);
    assert!(ids("%%").is_empty() && ids("__").is_empty() && ids("' OR 1=1 --").is_empty() && ids(r"\\").is_empty());
    let two = shop.done("find_customers", json!({"query": "example.com", "limit": 2}));
    assert_eq!(two["customers"].as_array().unwrap().len(), 2);
}

#[test]
fn orders_are_shown_with_their_refunds_and_listed_by_customer_and_status() {
    let shop = Shop::new();
    let order = shop.done("show_order", json!({"order": "O-2001"}));
    assert_eq!((&order["paid_cents"], &order["refunded_cents"], &order["refundable_cents"]), (&json!(4900), &json!(1500), &json!(3400)));
    assert_eq!(order["refunds"][0]["refund"], "R-4001");
    assert_eq!(shop.refused("show_order", json!({"order": "O-9999"})), "there is no order `O-9999`");
    let mine = shop.done("list_orders", json!({"customer": "C-1012", "status": "shipped"}));
    assert_eq!(mine["orders"].as_array().unwrap().len(), 1);
    assert_eq!(mine["orders"][0]["order"], "O-2008");
    let newest = shop.done("list_orders", json!({"limit": 1}));
    assert_eq!(newest["orders"][0]["order"], "O-2030");
    assert_eq!(shop.done("list_orders", json!({}))["orders"].as_array().unwrap().len(), 20);
}

#[test]
fn tickets_are_listed_with_their_comments_and_one_of_them_tries_to_give_orders() {
    let shop = Shop::new();
    let open = shop.done("list_tickets", json!({"status": "open"}));
    assert!(open["tickets"].as_array().unwrap().iter().all(|ticket| ticket["status"] == "open"));
    let hostile = shop.done("list_tickets", json!({"customer": "C-1012"}));
    assert_eq!(hostile["tickets"][0]["ticket"], "T-3005");
    assert!(hostile["tickets"][0]["text"].as_str().unwrap().contains("SYSTEM NOTICE TO THE ASSISTANT"));
    for n in 1..=6 {
        shop.done("comment_ticket", json!({"ticket": "T-3005", "visibility": "internal", "text": format!("note {n}")}));
    }
    let ticket = shop.done("list_tickets", json!({"customer": "C-1012"}))["tickets"][0].clone();
    assert_eq!(ticket["comments_total"], 6);
    let texts: Vec<_> = ticket["comments"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["note 2", "note 3", "note 4", "note 5", "note 6"]);
}

#[test]
fn discount_requests_and_suppliers_are_listed() {
    let shop = Shop::new();
    let open = shop.done("list_discounts", json!({"status": "requested"}));
    assert_eq!(open["discounts"].as_array().unwrap().len(), 1);
    assert_eq!(open["discounts"][0]["discount"], "D-7002");
    let suppliers = shop.done("list_suppliers", json!({}));
    assert_eq!(suppliers["suppliers"].as_array().unwrap().len(), 4);
    assert_eq!(suppliers["suppliers"][3]["status"], "blocked");
}

#[test]
fn a_comment_is_marked_as_automation_and_a_closed_ticket_takes_none() {
    let shop = Shop::new();
    let comment = |ticket: &str| json!({"ticket": ticket, "visibility": "customer", "text": "Line one\n\tline two"});
    assert_eq!(shop.done("comment_ticket", comment("T-3001"))["comments_total"], 3);
    assert_eq!(shop.number("SELECT count(*) FROM comment WHERE author = 'automation'"), 1);
    assert!(shop.refused("comment_ticket", comment("T-3004")).contains("is closed"));
    assert!(shop.refused("comment_ticket", comment("T-1")).contains("there is no ticket `T-1`"));
    Connection::open(shop.file())
        .unwrap()
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 197)
         INSERT INTO comment (ticket, author, visibility, text) SELECT 3001, 'staff', 'internal', 'x' FROM n",
        )
        .unwrap();
    assert!(shop.refused("comment_ticket", comment("T-3001")).contains("has 200 comments"));
}

#[test]
fn a_recommended_discount_grants_nothing_until_it_is_approved_once() {
    let shop = Shop::new();
    let ask = |customer: &str, percent: i64| json!({"customer": customer, "percent": percent, "reason": "a loyal customer"});
    let made = shop.done("recommend_discount", ask("C-1001", 12));
    assert_eq!((&made["discount"], &made["status"]), (&json!("D-7004"), &json!("requested")));
    let percent = "SELECT discount_percent FROM customer WHERE id = 1001";
    assert_eq!(shop.number(percent), 0);
    assert!(shop.refused("recommend_discount", ask("C-1001", 15)).contains("has an open discount request: `D-7004`"));
    assert!(shop.refused("recommend_discount", ask("C-1011", 15)).contains("already has a discount of 15"));
    assert!(shop.refused("recommend_discount", ask("C-1", 15)).contains("there is no customer"));
    assert_eq!(shop.done("approve_discount", json!({"discount": "D-7004"}))["percent"], 12);
    assert_eq!(shop.number(percent), 12);
    assert!(shop.refused("approve_discount", json!({"discount": "D-7004"})).contains("was decided before: approved"));
    assert!(shop.refused("approve_discount", json!({"discount": "D-7003"})).contains("was decided before: refused"));
    assert!(shop.refused("approve_discount", json!({"discount": "D-1"})).contains("there is no discount request"));
}

#[test]
fn an_address_is_replaced_and_says_how_many_orders_follow_it() {
    let shop = Shop::new();
    let to = |customer: &str| json!({"customer": customer, "street": "1 New'; DROP TABLE customer; --", "postal_code": "AB1 2CD", "city": "Łódź", "country": "PL"});
    assert_eq!(shop.done("update_address", to("C-1006"))["orders_redirected"], 1);
    let found = shop.done("find_customers", json!({"query": "Farid"}));
    assert_eq!(found["customers"][0]["street"], "1 New'; DROP TABLE customer; --");
    assert!(shop.refused("update_address", to("C-1")).contains("there is no customer"));
}

#[test]
fn an_order_only_moves_forward() {
    let shop = Shop::new();
    let set = |order: &str, status: &str| json!({"order": order, "status": status});
    assert_eq!(shop.done("set_order_status", set("O-2005", "packed"))["before"], "placed");
    shop.done("set_order_status", set("O-2005", "shipped"));
    for status in ["placed", "packed", "shipped", "cancelled"] {
        assert!(shop.refused("set_order_status", set("O-2005", status)).contains("is shipped: it cannot become"));
    }
    shop.done("set_order_status", set("O-2005", "delivered"));
    shop.done("set_order_status", set("O-2004", "cancelled"));
    assert!(shop.refused("set_order_status", set("O-2004", "placed")).contains("is cancelled"));
    assert!(shop.refused("set_order_status", set("O-1", "packed")).contains("there is no order"));
}

#[test]
fn a_customer_is_deleted_only_by_the_right_name_and_with_nothing_open() {
    let shop = Shop::new();
    let delete = |customer: &str, name: &str| json!({"customer": customer, "name": name});
    assert!(shop.refused("delete_customer", delete("C-1008", "hugo larkspur")).contains("has another name"));
    assert!(shop.refused("delete_customer", delete("C-1008", "Hugo Larkspur")).contains("still has 1 orders under way"));
    shop.done("set_order_status", json!({"order": "O-2024", "status": "cancelled"}));
    let deleted = shop.done("delete_customer", delete("C-1008", "Hugo Larkspur"));
    assert_eq!(deleted["orders_kept"], 2);
    assert_eq!(shop.done("show_order", json!({"order": "O-2012"}))["customer"], Value::Null);
    assert!(shop.refused("delete_customer", delete("C-1008", "Hugo Larkspur")).contains("there is no customer"));
    let refund = json!({"order": "O-2012", "amount_cents": 1, "reason": "late wish"});
    assert!(shop.refused("refund_order", refund).contains("nobody to pay"));
}

#[test]
fn a_refund_stays_within_what_was_paid_and_earlier_refunds() {
    let shop = Shop::new();
    let refund = |order: &str, cents: i64| json!({"order": order, "amount_cents": cents, "reason": "dented in transit"});
    assert!(shop.refused("refund_order", refund("O-2001", 3401)).contains("more than the 3400 cents"));
    assert_eq!(shop.done("refund_order", refund("O-2001", 3000))["refundable_cents"], 400);
    assert!(shop.refused("refund_order", refund("O-2001", 401)).contains("more than the 400 cents"));
    assert_eq!(shop.done("refund_order", refund("O-2001", 400))["refundable_cents"], 0);
    assert!(shop.refused("refund_order", refund("O-2007", 1)).contains("more than the 0 cents"));
    assert!(shop.refused("refund_order", refund("O-1", 1)).contains("there is no order"));
    let past_the_tool = Connection::open(shop.file()).unwrap();
    let forced = past_the_tool.execute("INSERT INTO refund (purchase, amount_cents, reason) VALUES (2001, 1, 'x')", []);
    assert!(forced.unwrap_err().to_string().contains("more than was paid"));
}

#[test]
fn a_supplier_is_paid_each_invoice_once_and_no_more_than_is_owed() {
    let shop = Shop::new();
    let pay = |supplier: &str, invoice: &str, cents: i64| json!({"supplier": supplier, "invoice": invoice, "amount_cents": cents});
    let paid = shop.done("pay_supplier", pay("S-5003", "HW-17", 76_000));
    assert_eq!((&paid["owed_cents"], &paid["account"]), (&json!(400), &json!("XX00 0000 0000 0003")));
    assert!(shop.refused("pay_supplier", pay("S-5003", "HW-18", 401)).contains("more than the 400 cents"));
    for again in ["HW-17", " hw-17 "] {
        assert!(shop.refused("pay_supplier", pay("S-5003", again, 1)).contains("was paid before"));
    }
    assert!(shop.refused("pay_supplier", pay("S-5004", "QT-1", 1)).contains("is blocked"));
    assert!(shop.refused("pay_supplier", pay("S-1", "A-1", 1)).contains("there is no supplier"));
}

#[test]
fn every_change_leaves_one_line_in_the_audit_with_its_trace() {
    let shop = Shop::new();
    let changes = [
        ("comment_ticket", json!({"ticket": "T-3001", "visibility": "internal", "text": "hello"}), "T-3001"),
        ("recommend_discount", json!({"customer": "C-1001", "percent": 5, "reason": "a loyal customer"}), "C-1001"),
        ("update_address", json!({"customer": "C-1001", "street": "1 a", "postal_code": "12", "city": "ab", "country": "GB"}), "C-1001"),
        ("set_order_status", json!({"order": "O-2024", "status": "cancelled"}), "O-2024"),
        ("delete_customer", json!({"customer": "C-1008", "name": "Hugo Larkspur"}), "C-1008"),
        ("refund_order", json!({"order": "O-2008", "amount_cents": 1, "reason": "abc"}), "O-2008"),
        ("pay_supplier", json!({"supplier": "S-5001", "invoice": "CM-1", "amount_cents": 1}), "S-5001"),
        ("approve_discount", json!({"discount": "D-7002"}), "D-7002"),
    ];
    let changing = effects().filter(|(_, effect)| *effect != Effect::Read).count();
    assert_eq!(changes.len(), changing, "a tool that changes something is missing here");
    for (tool, arguments, _) in &changes {
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"traceparent": TRACEPARENT}});
        assert_eq!(shop.request("tools/call", params)["result"]["isError"], false, "{tool}");
    }
    shop.done("list_orders", json!({}));
    let expected: Vec<_> = changes.iter().map(|(tool, _, target)| (tool.to_string(), target.to_string(), Some(TRACEPARENT.to_owned()))).collect();
    assert_eq!(shop.audit(), expected, "one line per change, none for a read");
    let shop = Connection::open(shop.file()).unwrap();
    assert!(shop.execute("DELETE FROM audit", []).is_err());
    assert!(shop.execute("UPDATE audit SET tool = 'x'", []).is_err());
    let kept: String = shop.query_row("SELECT arguments FROM audit WHERE tool = 'refund_order'", [], |row| row.get(0)).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&kept).unwrap()["reason"], "abc");
}

#[test]
fn a_traceparent_that_is_none_is_not_recorded() {
    let shop = Shop::new();
    let bad = [
        json!("x"),
        json!(7),
        json!(null),
        json!(TRACEPARENT.to_uppercase()),
        json!(format!("{TRACEPARENT}-00")),
        json!(TRACEPARENT.replace("00-0af", "01-0af")),
        json!("00-00000000000000000000000000000000-b7ad6b7169203331-01"),
        json!("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"),
        json!(TRACEPARENT.trim_end_matches("01")),
    ];
    for traceparent in &bad {
        let arguments = json!({"ticket": "T-3001", "visibility": "internal", "text": "hello"});
        let params = json!({"name": "comment_ticket", "arguments": arguments, "_meta": {"traceparent": traceparent}});
        assert_eq!(shop.request("tools/call", params)["result"]["isError"], false);
    }
    assert_eq!(shop.audit().iter().filter(|(_, _, trace)| trace.is_none()).count(), bad.len());
}

#[test]
fn a_shop_that_another_process_is_writing_says_so() {
    let shop = Shop::new();
    seed(&shop.file()).unwrap();
    let other = Connection::open(shop.file()).unwrap();
    let connection = Connection::open(shop.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut output = Vec::new();
    let line = modern("tools/call", json!({"name": "approve_discount", "arguments": {"discount": "D-7002"}})).to_string();
    server::serve(connection, line.as_bytes(), &mut output).unwrap();
    let answer: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(answer["result"]["isError"], true);
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("nothing was done"));
}

#[test]
fn a_broken_shop_tells_the_client_nothing_of_its_tables() {
    let shop = Shop::new();
    seed(&shop.file()).unwrap();
    Connection::open(shop.file()).unwrap().execute_batch("DROP TABLE audit").unwrap();
    let answer = shop.request("tools/call", json!({"name": "approve_discount", "arguments": {"discount": "D-7002"}}));
    assert_eq!(answer["error"], json!({"code": -32603, "message": "the shop failed: nothing was done"}));
    assert_eq!(shop.number("SELECT count(*) FROM discount_request WHERE status = 'requested'"), 1, "undone with its audit line");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_comes_in_only_json_rpc_goes_out(input in proptest::collection::vec(any::<u8>(), 0..400)) {
        let shop = Shop::new();
        for answer in shop.hear(&input) {
            prop_assert!(answer["error"]["code"].is_i64());
        }
    }

    #[test]
    fn refunds_never_exceed_what_was_paid(amounts in proptest::collection::vec(1_i64..8_000, 1..12)) {
        let shop = Shop::new();
        let calls: Vec<Value> = amounts.iter().map(|cents| modern("tools/call", json!({
            "name": "refund_order", "arguments": {"order": "O-2008", "amount_cents": cents, "reason": "abc"}}))).collect();
        shop.ask(&calls);
        let refunded = shop.number("SELECT coalesce(sum(amount_cents), 0) FROM refund WHERE purchase = 2008");
        prop_assert!(refunded <= 12_980);
        prop_assert!(refunded > 0);
    }
}
