//! One message, and nothing that hides in it.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Message<'_>, Refusal> {
    Message::parse(text.as_bytes(), &Limits::REQUEST)
}

fn refused(text: &str) -> (u16, i32, Option<String>) {
    let refusal = parse(text).expect_err(text);
    (refusal.http_status, refusal.code, refusal.id.map(|id| id.as_str().to_owned()))
}

#[test]
fn a_request_is_borrowed_as_it_was_written() {
    let text = r#"{"jsonrpc":"2.0","id":"\u0061\/7","method":"tools/call","params":{"name":"pay.transfer","arguments":{"amount":2.50,"n":12345678901234567890123},"_meta":{"progressToken":1},"cursor":null},"extra":1}"#;
    let Message::Request(request) = parse(text).unwrap() else { panic!("not a request") };
    assert_eq!(request.id.raw().text(), r#""\u0061\/7""#);
    assert_eq!(request.method, "tools/call");
    assert_eq!(request.params.name.as_deref(), Some("pay.transfer"));
    assert_eq!(request.params.arguments.unwrap().text(), r#"{"amount":2.50,"n":12345678901234567890123}"#);
    assert_eq!(request.params.get("_meta").unwrap().text(), r#"{"progressToken":1}"#);
    assert!(request.params.cursor.is_none());
    assert!(matches!(parse(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#), Ok(Message::Notification(_))));
    let Ok(Message::Response(response)) = parse(r#"{"jsonrpc":"2.0","id":"gw-1","result":{"action":"accept"}}"#) else { panic!("not a response") };
    assert_eq!(response.outcome.unwrap().text(), r#"{"action":"accept"}"#);
}

#[test]
fn bi_031_a_batch_is_refused_however_short() {
    for text in [
        "[]",
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#,
        r#" [ {"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x"}}]"#,
    ] {
        assert_eq!(refused(text), (400, -32600, None), "{text}");
    }
    assert_eq!(refused("{}{}"), (400, -32700, None));
    assert_eq!(refused("nope"), (400, -32700, None));
    assert_eq!(refused("\"tools/call\""), (400, -32600, None));
}

#[test]
fn bi_037_duplicate_keys_are_refused_in_envelope_params_meta_and_arguments() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","n\u0061me":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"x":1,"x":2}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"r":1,"r":2}}}"#,
    ] {
        assert_eq!(refused(text), (400, -32600, None), "{text}");
    }
}

#[test]
fn section_5_look_alike_names_are_refused_beside_or_instead_of_the_canonical_ones() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","Method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"METHOD":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"ID":2,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","Params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","paramſ":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","re\u017fult":{}}"#,
        r#"{"JSONRPC":"2.0","jsonrpc":"2.0","id":1,"method":"ping"}"#,
    ] {
        assert_eq!((refused(text).0, refused(text).1), (400, -32600), "{text}");
    }
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{},"Arguments":{"x":1}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","argumentſ":{"x":1}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","taſ\u212Aid":"x"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_META":{}}}"#,
    ] {
        assert_eq!(refused(text), (400, -32602, Some("1".into())), "{text}");
    }
}

#[test]
fn section_5_a_tools_call_of_wrong_shape_is_refused_and_not_passed_as_something_else() {
    for text in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["name"]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":"x"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":{"x":1}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":[1]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":"{}"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":1}}"#,
    ] {
        assert_eq!(refused(text), (400, -32602, Some("1".into())), "{text}");
    }
    for text in [
        r#"{"id":7,"method":"ping"}"#,
        r#"{"jsonrpc":"1.0","id":7,"method":"ping"}"#,
        r#"{"jsonrpc":2.0,"id":7,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":["ping"]}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":""}"#,
        r#"{"jsonrpc":"2.0","id":7}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"ping","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{},"params":{}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":1}"#,
    ] {
        assert_eq!(refused(text), (400, -32600, Some("7".into())), "{text}");
    }
}

#[test]
fn an_id_is_a_string_or_an_integer() {
    let with = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
    let fit = format!("\"{}\"", "i".repeat(256));
    for id in ["0", "-3", "12345678901234567890", "\"\"", &fit] {
        let text = with(id);
        assert_eq!(parse(&text).unwrap().id().unwrap().raw().text(), id);
    }
    let long = format!("\"{}\"", "i".repeat(257));
    for id in ["null", "true", "1.0", "1e2", "[1]", "{}", &long] {
        assert_eq!(refused(&with(id)), (400, -32600, None), "{id}");
    }
    let id = |text: &'static str| Id::parse(Raw::parse(text.as_bytes(), &Limits::REQUEST).unwrap()).unwrap();
    assert!(id("1") != id("\"1\""));
    assert!(id("\"a\"") == id("\"\\u0061\""));
}

#[test]
fn a_null_counts_as_absent() {
    let Ok(Message::Request(request)) = parse(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#) else { panic!() };
    assert_eq!(request.params.raw().text(), "{}");
    let text = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":null,"arguments":null}}"#;
    let Ok(Message::Request(request)) = parse(text) else { panic!() };
    assert!(request.params.name.is_none() && request.params.arguments.is_none());
}

#[test]
fn a_body_over_the_limit_is_413() {
    let limits = Limits { bytes: 10, ..Limits::REQUEST };
    let refusal = Message::parse(b"{\"jsonrpc\":\"2.0\"}", &limits).unwrap_err();
    assert_eq!(refusal.http_status, 413);
}

proptest! {
    #[test]
    fn what_was_put_in_comes_out(
        id in prop_oneof![any::<i64>().prop_map(serde_json::Value::from), "[ -~é]{0,40}".prop_map(Into::into)],
        name in any::<String>(),
        arguments in crate::json::tests::value(),
    ) {
        prop_assume!(!name.contains('\0'));
        let arguments = serde_json::json!({ "a": arguments });
        prop_assume!(!arguments.to_string().contains("\\u0000"));
        let text = serde_json::json!({
            "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": name, "arguments": arguments },
        }).to_string();
        let Message::Request(request) = parse(&text).unwrap() else { panic!("not a request") };
        prop_assert_eq!(request.id.raw().text(), id.to_string());
        prop_assert_eq!(request.params.name.as_deref(), Some(&*name));
        prop_assert_eq!(request.params.arguments.unwrap().text(), arguments.to_string());
    }

    #[test]
    fn arbitrary_members_never_panic(text in "[\\[\\]{}:,\"a-z0-9\\\\/ ._]{0,60}") {
        let _ = parse(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call",{text}}}"#));
    }
}
