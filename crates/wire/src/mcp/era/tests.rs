//! Section 2.1's table, row by row.

use super::*;
use crate::json::Limits;

const META: &str = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"url":{}},"extensions":{"io.modelcontextprotocol/tasks":{}}},"progressToken":"p1","traceparent":"00-1","baggage":7}"#;

fn body(method: &str, rest: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":2,"method":"{method}","params":{{{rest}}}}}"#)
}

/// Runs `classify` and shows its answer in one line.
fn outcome(headers: &[(&str, &str)], body: &str) -> String {
    let headers = Headers::collect(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
    let message = Message::parse(body.as_bytes(), &Limits::REQUEST).unwrap();
    match classify(&headers, &message) {
        Ok(Era::Modern(modern)) => format!("modern {}", modern.method.as_str()),
        Ok(Era::Legacy(legacy)) => format!("legacy {:?} {}", legacy.version, legacy.initialize),
        Ok(Era::StrayNotification) => "stray".into(),
        Err(refusal) => {
            let data = refusal.data.as_ref().map(|data| data.raw().text().to_owned()).unwrap_or_default();
            format!("{} {} {:?} {data}", refusal.http_status, refusal.code, refusal.id.map(|id| id.as_str().to_owned()))
        }
    }
}

const VERSION: (&str, &str) = ("MCP-Protocol-Version", "2026-07-28");

#[test]
fn a_whole_modern_request_is_modern() {
    let text = body("tools/call", &format!(r#""name":"x","_meta":{META}"#));
    let pairs = [VERSION, ("Mcp-Method", "tools/call"), ("Mcp-Name", "x"), ("Mcp-Session-Id", "old")];
    assert_eq!(outcome(&pairs, &text), "modern tools/call");
    let headers = Headers::collect(pairs.iter().map(|(name, value)| (*name, value.as_bytes())));
    let message = Message::parse(text.as_bytes(), &Limits::REQUEST).unwrap();
    let Ok(Era::Modern(modern)) = classify(&headers, &message) else { panic!("not modern") };
    let expected = ClientCapabilities { elicitation_url: true, tasks_extension: true, ..Default::default() };
    assert_eq!(modern.capabilities, expected);
    assert_eq!(modern.meta.progress_token.unwrap().raw().text(), "\"p1\"");
    assert!(modern.meta.traceparent.is_some() && modern.meta.baggage.is_none() && modern.meta.client_info.is_none());
}

#[test]
fn initialize_is_the_handshake_unless_header_and_metadata_both_say_modern() {
    let with_meta = body("initialize", &format!(r#""protocolVersion":"2025-06-18","_meta":{META}"#));
    let plain = body("initialize", r#""protocolVersion":"2025-06-18""#);
    assert_eq!(outcome(&[VERSION, ("Mcp-Method", "initialize")], &with_meta), "404 -32601 Some(\"2\") ");
    assert_eq!(outcome(&[], &with_meta), "legacy None true");
    assert_eq!(outcome(&[], &plain), "legacy None true");
    assert_eq!(outcome(&[VERSION], &plain), "legacy None true");
    assert_eq!(outcome(&[("MCP-Protocol-Version", "2025-06-18")], &plain), "legacy Some(V2025_06_18) true");
}

#[test]
fn bi_028_the_version_header_must_equal_the_metadata() {
    let text = body("tools/list", &format!(r#""_meta":{META}"#));
    let method = ("Mcp-Method", "tools/list");
    assert_eq!(outcome(&[VERSION, method], &text), "modern tools/list");
    for pairs in [
        &[method][..],
        &[("MCP-Protocol-Version", "2025-06-18"), method],
        &[("MCP-Protocol-Version", "2099-01-01"), method],
        &[VERSION, VERSION, method],
        &[VERSION],
        &[VERSION, ("Mcp-Method", "tools/call")],
    ] {
        assert_eq!(outcome(pairs, &text), "400 -32020 Some(\"2\") ", "{pairs:?}");
    }
}

#[test]
fn a_version_that_we_do_not_speak_is_named_with_those_that_we_do() {
    let text = body("tools/list", r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2099-01-01"}"#);
    assert_eq!(
        outcome(&[("MCP-Protocol-Version", "2099-01-01"), ("Mcp-Method", "tools/list")], &text),
        r#"400 -32022 Some("2") {"supported":["2026-07-28"],"requested":"2099-01-01"}"#
    );
}

#[test]
fn missing_metadata_is_invalid_params() {
    let method = ("Mcp-Method", "tools/list");
    for rest in [
        "",
        r#""_meta":{}"#,
        r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#,
        r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":[]}"#,
        r#""_meta":{"io.modelcontextprotocol/protocolVersion":20260728,"io.modelcontextprotocol/clientCapabilities":{}}"#,
        r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":"x"}"#,
    ] {
        assert_eq!(outcome(&[VERSION, method], &body("tools/list", rest)), "400 -32602 Some(\"2\") ", "{rest}");
    }
    let later = ("MCP-Protocol-Version", "2027-01-01");
    assert_eq!(outcome(&[later, method], &body("tools/list", "")), "400 -32602 Some(\"2\") ");
}

#[test]
fn methods_that_the_modern_revision_lacks_are_404() {
    for name in ["ping", "logging/setLevel", "resources/subscribe", "tasks/list", "tasks/result", "x/y", "Tools/Call"] {
        let text = body(name, &format!(r#""uri":"a","_meta":{META}"#));
        assert_eq!(outcome(&[VERSION, ("Mcp-Method", name)], &text), "404 -32601 Some(\"2\") ", "{name}");
    }
}

#[test]
fn what_has_neither_metadata_nor_a_modern_header_is_legacy() {
    let text = body("tools/call", r#""name":"x""#);
    assert_eq!(outcome(&[], &text), "legacy None false");
    assert_eq!(outcome(&[("mcp-protocol-version", "2025-11-25")], &text), "legacy Some(V2025_11_25) false");
    assert_eq!(outcome(&[("mcp-protocol-version", "2025-03-26"), ("Mcp-Session-Id", "s")], &text), "legacy Some(V2025_03_26) false");
    for bad in ["2024-11-05", "latest", "", "9999999999", "2026-07-2x", "2026-07-28x"] {
        assert_eq!(outcome(&[("mcp-protocol-version", bad)], &text), "400 -32600 Some(\"2\") ", "{bad}");
    }
    assert_eq!(outcome(&[("mcp-session-id", "a"), ("mcp-session-id", "b")], &text), "400 -32600 Some(\"2\") ");
}

#[test]
fn modern_clients_send_neither_notifications_nor_responses() {
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    let response = r#"{"jsonrpc":"2.0","id":2,"result":{}}"#;
    assert_eq!(outcome(&[VERSION], notification), "stray");
    assert_eq!(outcome(&[VERSION], response), "400 -32600 Some(\"2\") ");
    assert_eq!(outcome(&[], notification), "legacy None false");
    assert_eq!(outcome(&[], response), "legacy None false");
}

#[test]
fn the_handshake_never_negotiates_the_modern_revision() {
    let read = |version: &str| {
        let text =
            body("initialize", &format!(r#""protocolVersion":"{version}","capabilities":{{"elicitation":{{}},"roots":null,"sampling":{{}}}}"#));
        let Ok(Message::Request(request)) = Message::parse(text.as_bytes(), &Limits::REQUEST) else { panic!() };
        let read = Initialize::read(&request).unwrap();
        assert_eq!(read.capabilities, ClientCapabilities { elicitation_form: true, sampling: true, ..Default::default() });
        read.negotiated
    };
    assert_eq!(read("2025-06-18"), Version::V2025_06_18);
    assert_eq!(read("2025-03-26"), Version::V2025_03_26);
    assert_eq!(read("2024-11-05"), Version::V2025_11_25);
    assert_eq!(read("2026-07-28"), Version::V2025_11_25);
    let text = body("initialize", "");
    let Ok(Message::Request(request)) = Message::parse(text.as_bytes(), &Limits::REQUEST) else { panic!() };
    assert_eq!(Initialize::read(&request).unwrap_err().code, -32602);
}
