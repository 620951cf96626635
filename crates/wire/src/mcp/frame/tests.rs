//! Frames of upstreams, good and bad, and requests to them.

use super::*;
use crate::mcp::{Params, Request};

fn raw(text: &str) -> Raw<'_> {
    Raw::parse(text.as_bytes(), &Limits::REPLY).unwrap()
}

fn id(text: &str) -> Id<'_> {
    Id::parse(raw(text)).unwrap()
}

fn frame(text: &str) -> Result<Frame<'_>, FrameError> {
    Frame::parse(text.as_bytes(), &Limits::REPLY)
}

#[test]
fn section_5_a_malformed_frame_is_not_passed_on() {
    for text in [
        "",
        "log line on stdout",
        "[]",
        r#"{"id":1,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"x"}}"#,
        r#"{"jsonrpc":"2.0","id":1}"#,
        r#"{"jsonrpc":"2.0","id":null,"result":{}}"#,
        r#"{"jsonrpc":"2.0","result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"Result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{"isError":true,"isError":false}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{}} {"jsonrpc":"2.0","id":2,"result":{}}"#,
    ] {
        assert!(matches!(frame(text), Err(FrameError::Malformed { .. })), "{text}");
    }
    let small = Limits { bytes: 20, ..Limits::REPLY };
    assert!(Frame::parse(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#, &small).is_err());
}

#[test]
fn bi_034_a_request_of_an_upstream_is_told_apart_and_can_be_refused() {
    let text = r#"{"jsonrpc":"2.0","id":"s1","method":"sampling/createMessage","params":{}}"#;
    let Ok(Frame::ServerRequest { id, method }) = frame(text) else { panic!() };
    assert_eq!(method, "sampling/createMessage");
    let mut out = Vec::new();
    write_server_request_refused(&mut out, id);
    assert_eq!(String::from_utf8(out).unwrap(), r#"{"jsonrpc":"2.0","id":"s1","error":{"code":-32601,"message":"method not found"}}"#);
    assert!(matches!(frame(r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info"}}"#), Ok(Frame::Notification(_))));
    assert_eq!(ResultKind::of(raw(r#"{"resultType":"input_required"}"#)), ResultKind::InputRequired);
    assert_eq!(ResultKind::of(raw(r#"{"resultType":"task"}"#)), ResultKind::Task);
    assert_eq!(ResultKind::of(raw(r#"{"resultType":null}"#)), ResultKind::Unknown);
    assert_eq!(ResultKind::of(raw("{}")), ResultKind::Complete);
}

#[test]
fn bi_033_an_answer_counts_once_and_only_for_an_open_request() {
    let mut requests = InFlight::default();
    let first = requests.open(id("1"), Some(id("1")));
    let second = requests.open(id("\"1\""), Some(id("\"1\"")));
    assert_ne!(first, second);
    for wrong in ["99", "\"1\"", "-1", "01"] {
        if let Ok(wrong) = Raw::parse(wrong.as_bytes(), &Limits::REPLY) {
            assert_eq!(requests.close(Id::parse(wrong).unwrap()), Err(FrameError::Correlation));
        }
    }
    let (_, opened) = requests.close(id("2")).unwrap();
    assert_eq!((opened.id.as_str(), opened.progress_token.unwrap().as_str().to_owned()), ("\"1\"", "\"1\"".to_owned()));
    assert_eq!(requests.close(id("2")), Err(FrameError::Correlation));
    assert_eq!(requests.abandon(first).unwrap().id.as_str(), "1");
    assert!(requests.is_empty());
    assert_eq!(requests.open(id("1"), None), 3, "an id is not used again");
}

#[test]
fn progress_gets_the_clients_token_back_with_its_type() {
    let mut requests = InFlight::default();
    requests.open(id("5"), Some(id("\"p1\"")));
    let text = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":50.5,"total":100,"x":1}}"#;
    let Ok(Frame::Notification(notification)) = frame(text) else { panic!() };
    let (_, opened) = requests.of_progress(&notification).unwrap();
    let mut out = Vec::new();
    write_progress(&mut out, &notification, opened.progress_token.as_ref().unwrap());
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p1","progress":50.5,"total":100}}"#
    );
    let other = text.replace("\"progressToken\":1", "\"progressToken\":\"1\"");
    let Ok(Frame::Notification(notification)) = frame(&other) else { panic!() };
    assert!(requests.of_progress(&notification).is_none());
}

#[test]
fn section_5_a_request_to_an_upstream_is_rebuilt_and_its_arguments_keep_their_bytes() {
    let body = r#"{"jsonrpc":"2.0","id":"x","extra":1,"method":"tools/call","params":{"arguments":{"n":12345678901234567890123,"d": 2.50},"name":"srv.pay","hidden":true,"_meta":{"traceparent":"00-a","progressToken":"t","io.modelcontextprotocol/clientCapabilities":{"roots":{}},"X-Upstream-Authorization":"Bearer s"}}}"#;
    let Ok(Message::Request(Request { params, .. })) = Message::parse(body.as_bytes(), &Limits::REQUEST) else { panic!() };
    let meta = Meta::read(&params);
    let request = UpstreamRequest {
        id: 7,
        method: Method::ToolsCall,
        target: Some("pay"),
        arguments: params.arguments,
        cursor: None,
        request_state: None,
        input_responses: None,
        progress: true,
        meta: &meta,
    };
    let mut out = Vec::new();
    request.write(&mut out, Upstream::Modern { capabilities: Raw::EMPTY_OBJECT, client: raw(r#"{"name":"gw"}"#) });
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"pay","arguments":{"n":12345678901234567890123,"d": 2.50},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"gw"},"progressToken":7,"traceparent":"00-a"}}}"#
    );
    let mut out = Vec::new();
    UpstreamRequest { progress: false, meta: &Meta::default(), ..request }.write(&mut out, Upstream::Legacy);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"pay","arguments":{"n":12345678901234567890123,"d": 2.50}}}"#
    );
}

#[test]
fn a_request_is_one_line_whatever_space_its_arguments_have() {
    let arguments = "{\n\t\"a\":\r\n [1,\n2],\"b\":\"\\n\"}";
    let meta = Meta::default();
    let request = UpstreamRequest {
        id: 1,
        method: Method::ResourcesRead,
        target: Some("file:///x"),
        arguments: Some(raw(arguments)),
        cursor: Some("c\n"),
        request_state: Some("s"),
        input_responses: None,
        progress: false,
        meta: &meta,
    };
    let mut out = Vec::new();
    request.write(&mut out, Upstream::Legacy);
    let text = String::from_utf8(out).unwrap();
    assert!(!text.contains(['\n', '\r']), "{text}");
    let Ok(Message::Request(Request { params, .. })) = Message::parse(text.as_bytes(), &Limits::REQUEST) else { panic!() };
    let (mut sent, mut meant) = (Vec::new(), Vec::new());
    let _ = crate::canonical(params.arguments.unwrap(), &mut sent);
    let _ = crate::canonical(raw(arguments), &mut meant);
    assert_eq!(sent, meant);
    let Params { uri, request_state, .. } = params;
    assert_eq!((uri.as_deref(), request_state.as_deref()), (Some("file:///x"), Some("s")));
}

#[test]
fn an_upstreams_error_is_read_strictly() {
    let read = UpstreamError::read(raw(r#"{"code":-32602,"message":"Unknown tool","data":{"a":1}}"#)).unwrap();
    assert_eq!((read.code, &*read.message, read.data.unwrap().text()), (-32602, "Unknown tool", r#"{"a":1}"#));
    for bad in ["{}", r#"{"code":"1","message":"x"}"#, r#"{"code":1.5,"message":"x"}"#, r#"{"code":1}"#] {
        assert_eq!(UpstreamError::read(raw(bad)).unwrap_err(), FrameError::BadError, "{bad}");
    }
}
