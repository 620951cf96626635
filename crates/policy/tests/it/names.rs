//! Names as the world has them: tools and arguments that are no Cedar identifiers, and schemas of every shape.

use bailiwick_core::Effect;
use bailiwick_policy::{ArgumentKind, InputShape, World};
use proptest::prelude::*;

use crate::world::{Ask, assert_error, engine_of, tool, word, world};

fn with(tools: Vec<bailiwick_policy::ToolShape>) -> World {
    World { tools, ..world() }
}

#[test]
fn tools_with_odd_names_can_be_named_in_policy() {
    for name in ["create-issue", "a.b", "if", "in", "has", "principal", "read", "__cedar", "9", "-", "_", "."] {
        let full = format!("git-hub.{name}");
        let world = with(vec![tool(&full, Effect::Write, "{}"), tool("git-hub.other", Effect::Write, "{}")]);
        let engine = engine_of(world, &format!(r#"@id("x") permit (principal, action == Action::"{full}", resource == System::"git-hub");"#));
        let ask = |tool: &str| Ask { effect: Effect::Write, ..Ask::new("low", tool, "{}") };
        assert_eq!(word(&ask(&full).of(&engine, &[])), "permit", "{full}");
        assert_eq!(word(&ask("git-hub.other").of(&engine, &[])), "silent", "{full}");
    }
}

#[test]
fn operations_that_are_no_tools_are_actions_too() {
    let world = with(vec![tool("docs.resources/read", Effect::Read, r#"{"properties":{"uri":{"type":"string"}},"required":["uri"]}"#)]);
    let engine = engine_of(
        world,
        r#"@id("x") permit (principal, action == Action::"docs.resources/read", resource) when { context.input.uri like "file:///pub/*" };"#,
    );
    assert_eq!(word(&Ask::new("low", "docs.resources/read", r#"{"uri":"file:///pub/a"}"#).of(&engine, &[])), "permit");
    assert_eq!(word(&Ask::new("low", "docs.resources/read", r#"{"uri":"file:///etc/a"}"#).of(&engine, &[])), "silent");
}

#[test]
fn arguments_with_odd_names_can_be_read_in_policy() {
    for name in ["content-type", "$filter", "in", "if", "a.b", "has", "über", "a b", "", "true", "\u{1f600}", "__cedar::x", "\\", "\""] {
        let quoted = serde_json::to_string(name).unwrap();
        let schema = format!(r#"{{"properties":{{{quoted}:{{"type":"string"}}}}}}"#);
        let cedar = format!("\"{}\"", name.escape_debug());
        let text = format!(
            r#"@id("x") permit (principal, action == Action::"api.query", resource)
               when {{ context.input has {cedar} && context.input[{cedar}] == "yes" }};"#
        );
        let engine = engine_of(with(vec![tool("api.query", Effect::Read, &schema)]), &text);
        assert_eq!(word(&Ask::new("low", "api.query", &format!(r#"{{{quoted}:"yes"}}"#)).of(&engine, &[])), "permit", "{name}");
        assert_eq!(word(&Ask::new("low", "api.query", &format!(r#"{{{quoted}:"no"}}"#)).of(&engine, &[])), "silent", "{name}");
        assert_error(&Ask::new("low", "api.query", &format!("{{{quoted}:1}}")).of(&engine, &[]), "does not fit");
    }
}

fn shape(schema: &str) -> Vec<(String, ArgumentKind)> {
    InputShape::of_json_schema(schema.as_bytes()).iter().map(|(n, k)| (n.to_owned(), k)).collect()
}

#[test]
fn json_schema_types_become_cedar_types() {
    let properties = r##"{"properties":{
        "a":{"type":"string"}, "b":{"type":"integer"}, "c":{"type":"number"}, "d":{"type":"boolean"}, "e":{"type":"array","items":{"type":"string"}},
        "f":{"enum":["x","y"]}, "g":{"const":7}, "h":{"type":["string","null"]}, "i":{"anyOf":[{"type":"integer"},{"type":"null"}]},
        "j":{"$ref":"#/$defs/J"}, "k":{"allOf":[{"$ref":"#/$defs/J"}]}, "l":{"oneOf":[{"type":"string","format":"uri"},{"type":"string"}]}},
        "$defs":{"J":{"type":"string"}}}"##;
    use ArgumentKind::{Bool, Decimal, Integer, Text, Texts};
    let kinds: Vec<ArgumentKind> = shape(properties).into_iter().map(|(_, k)| k).collect();
    assert_eq!(kinds, [Text, Integer, Decimal, Bool, Texts, Text, Integer, Text, Integer, Text, Text, Text]);
}

#[test]
fn what_has_no_type_in_policy_is_left_out() {
    let properties = r##"{"properties":{
        "a":{"type":"object"}, "b":{}, "c":true, "d":{"type":["string","integer"]}, "e":{"anyOf":[{"type":"string"},{"type":"integer"}]},
        "f":{"type":"array"}, "g":{"type":"array","items":{"type":"integer"}}, "h":{"type":"array","items":{"type":["string","null"]}},
        "i":{"$ref":"#/properties/i"}, "j":{"$ref":"https://example.org/x"}, "k":{"enum":["a",1]}, "l":{"type":"null"}, "m":{"enum":[]},
        "n":{"allOf":[{"type":"string"},{"type":"integer"}]}, "o":{"type":"array","prefixItems":[],"items":{"type":"string"}}, "p":{"const":1.5}}}"##;
    assert_eq!(shape(properties), []);
    for broken in ["", "[]", "not json", "{\"properties\":[]}", "{\"properties\":{\"a\":"] {
        assert_eq!(shape(broken), [], "{broken}");
    }
}

#[test]
fn a_nullable_argument_that_is_null_is_absent() {
    let schema = r#"{"properties":{"to":{"anyOf":[{"type":"string"},{"type":"null"}]}},"required":["to"]}"#;
    let engine = engine_of(
        with(vec![tool("mail.send", Effect::Influence, schema)]),
        r#"@id("x") permit (principal, action, resource) unless { context.input has to };"#,
    );
    let ask = |arguments: &str| Ask { effect: Effect::Influence, ..Ask::new("low", "mail.send", arguments) }.of(&engine, &[]);
    assert_eq!(word(&ask(r#"{"to":null}"#)), "permit");
    assert_eq!(word(&ask(r#"{"to":"a"}"#)), "silent");
}

#[test]
fn numbers_are_compared_exactly() {
    let schema = r#"{"properties":{"amount":{"type":"number"}},"required":["amount"]}"#;
    let engine = engine_of(
        with(vec![tool("bank.pay", Effect::Transfer, schema)]),
        r#"@id("x") permit (principal, action == Action::"bank.pay", resource) when { context.input.amount.lessThanOrEqual(decimal("100.5")) };"#,
    );
    let ask =
        |amount: &str| word(&Ask { effect: Effect::Transfer, ..Ask::new("low", "bank.pay", &format!(r#"{{"amount":{amount}}}"#)) }.of(&engine, &[]));
    for (amount, expected) in [
        ("100", "permit"),
        ("100.5", "permit"),
        ("100.50000", "permit"),
        ("100.5001", "silent"),
        ("-0.5", "permit"),
        ("101", "silent"),
        ("100.50001", "error"),
        ("1e2", "error"),
        ("\"100\"", "error"),
        ("99999999999999999999", "error"),
    ] {
        assert_eq!(ask(amount), expected, "{amount}");
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    let word = prop::sample::select(vec![
        "string",
        "integer",
        "number",
        "boolean",
        "array",
        "object",
        "null",
        "type",
        "properties",
        "items",
        "anyOf",
        "enum",
        "required",
        "#/properties/a",
        "a",
    ]);
    let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i64>().prop_map(Value::from), word.prop_map(|w| json!(w))];
    let key =
        prop::sample::select(vec!["type", "properties", "items", "anyOf", "oneOf", "allOf", "enum", "const", "$ref", "required", "a", "$x-y", "in"]);
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_schema_of_a_tool_gives_an_engine(schema in json(), name in ".{0,12}", kind in prop::sample::select(vec!["string", "integer", "number", "boolean"])) {
        let named = serde_json::json!({ "properties": { name.clone(): { "type": kind } }, "required": [name] });
        let tools = vec![
            tool("a.random", Effect::Write, &schema.to_string()),
            tool("a.named", Effect::Write, &named.to_string()),
        ];
        let engine = bailiwick_policy::Engine::new(&[bailiwick_policy::default_pack()], with(tools));
        prop_assert!(engine.is_ok(), "{}", engine.unwrap_err().render());
        prop_assert!(engine.unwrap().schema_text().contains("a.named"));
    }
}
