//! Headers against bodies.

use proptest::prelude::*;

use super::*;
use crate::json::Limits;
use crate::mcp::{Message, Request};

fn raw(text: &str) -> Raw<'_> {
    Raw::parse(text.as_bytes(), &Limits::REQUEST).unwrap()
}

fn headers<'a>(pairs: &'a [(&'a str, &'a str)]) -> Headers<'a> {
    Headers::collect(pairs.iter().map(|(name, value)| (*name, value.as_bytes())))
}

fn request(text: &str) -> Request<'_> {
    match Message::parse(text.as_bytes(), &Limits::REQUEST) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

fn check(pairs: &[(&str, &str)], body: &str) -> Result<(), i32> {
    let request = request(body);
    headers(pairs).check_body(&request.method, &request.params).map_err(|refusal| refusal.code)
}

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete_file","arguments":{}}}"#;

#[test]
fn bi_028_method_and_name_headers_must_equal_the_body() {
    assert_eq!(check(&[("Mcp-Method", "tools/call"), ("mcp-name", " \tdelete_file ")], CALL), Ok(()));
    for pairs in [
        &[("Mcp-Method", "tools/call"), ("Mcp-Name", "read_file")][..],
        &[("Mcp-Method", "tools/list"), ("Mcp-Name", "delete_file")],
        &[("Mcp-Method", "Tools/Call"), ("Mcp-Name", "delete_file")],
        &[("Mcp-Method", "tools/call")],
        &[("Mcp-Name", "delete_file")],
        &[("Mcp-Method", "tools/call"), ("Mcp-Name", "Delete_File")],
        &[("Mcp-Method", "tools/call"), ("Mcp-Name", "delete_file"), ("MCP-NAME", "delete_file")],
        &[("Mcp-Method", "tools/call"), ("Mcp-Method", "tools/list"), ("Mcp-Name", "delete_file")],
        &[("Mcp-Method", "tools/call"), ("Mcp-Name", "delete_file\u{e9}")],
    ] {
        assert_eq!(check(pairs, CALL), Err(-32020), "{pairs:?}");
    }
}

#[test]
fn bi_028_an_encoded_name_is_decoded_before_it_is_compared() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///Zürich"}}"#;
    let with = |name: &str| check(&[("Mcp-Method", "resources/read"), ("Mcp-Name", name)], body);
    assert_eq!(with("=?base64?ZmlsZTovLy9aw7xyaWNo?="), Ok(()));
    for name in ["=?base64?ZmlsZTovLy9aw7xyaWNo", "=?BASE64?ZmlsZTovLy9aw7xyaWNo?=", "=?base64?***?=", "=?base64?/w==?=", "=?base64?eA==?="] {
        assert_eq!(with(name), Err(-32020), "{name}");
    }
    let tasks = r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"t1"}}"#;
    assert_eq!(check(&[("Mcp-Method", "tasks/get"), ("Mcp-Name", "t1")], tasks), Ok(()));
    assert_eq!(check(&[("Mcp-Method", "tasks/get"), ("Mcp-Name", "t2")], tasks), Err(-32020));
}

fn annotated() -> Vec<HeaderParam> {
    let param =
        |header: &str, path: &[&str], kind| HeaderParam { header: header.into(), path: path.iter().map(|name| (*name).to_owned()).collect(), kind };
    vec![
        param("Region", &["region"], HeaderKind::String),
        param("Count", &["page", "count"], HeaderKind::Integer),
        param("Dry-Run", &["dry"], HeaderKind::Boolean),
    ]
}

#[test]
fn bi_028_parameter_headers_must_equal_the_arguments() {
    let arguments = r#"{"region":"Zürich","page":{"count":100},"dry":false}"#;
    let good = [("mcp-param-REGION", "=?base64?WsO8cmljaA==?="), ("Mcp-Param-Count", "100.0"), ("Mcp-Param-Dry-Run", "false")];
    let check = |pairs: &[(&str, &str)], arguments| headers(pairs).check_params(raw(arguments), &annotated()).map_err(|refusal| refusal.code);
    assert_eq!(check(&good, arguments), Ok(()));
    assert_eq!(check(&[], r#"{"region":null}"#), Ok(()));
    assert_eq!(check(&[("Mcp-Param-Other", "x")], "{}"), Ok(()));
    assert_eq!(check(&good[..2], arguments), Err(-32020));
    assert_eq!(check(&[("Mcp-Param-Region", "eu")], "{}"), Err(-32020));
    assert_eq!(check(&[("Mcp-Param-Region", "eu")], r#"{"region":"us"}"#), Err(-32020));
    assert_eq!(check(&[("Mcp-Param-Region", "eu"), ("mcp-param-region", "eu")], r#"{"region":"eu"}"#), Err(-32020));
    assert_eq!(check(&[("Mcp-Param-Region", "=?base64?!?=")], r#"{"region":"eu"}"#), Err(-32020));
    for count in ["101", "0x64", "100x", "", "1e2.", "\"100\""] {
        assert_eq!(check(&[("Mcp-Param-Count", count)], r#"{"page":{"count":100}}"#), Err(-32020), "{count}");
    }
    assert_eq!(check(&[("Mcp-Param-Dry-Run", "False")], r#"{"dry":false}"#), Err(-32020));
}

#[test]
fn headers_for_an_upstream_come_from_the_body_and_pass_its_own_check() {
    let text =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","arguments":{"region":" x\n","page":{"count":5},"dry":null}}}"#;
    let request = request(text);
    let derived = derive(Method::ToolsCall, request.params.name.as_deref(), request.params.arguments, &annotated());
    assert_eq!(
        derived,
        [
            ("mcp-protocol-version".into(), "2026-07-28".to_owned()),
            ("mcp-method".into(), "tools/call".into()),
            ("mcp-name".into(), "pay".into()),
            ("mcp-param-region".into(), "=?base64?IHgK?=".into()),
            ("mcp-param-count".into(), "5".into()),
        ]
    );
    let headers = Headers::collect(derived.iter().map(|(name, value)| (&**name, value.as_bytes())));
    assert_eq!(headers.check_body("tools/call", &request.params), Ok(()));
    assert_eq!(derive(Method::ToolsList, Some("x"), None, &[]).len(), 2);
    assert_eq!(headers.check_params(request.params.arguments_or_empty(), &annotated()), Ok(()));
}

proptest! {
    #[test]
    fn any_text_survives_a_header(text in any::<String>()) {
        let header = encode(&text);
        prop_assert_eq!(visible(header.as_bytes()), Some(&*header));
        prop_assert_eq!(&*decode(&header).unwrap(), &*text);
    }
}
