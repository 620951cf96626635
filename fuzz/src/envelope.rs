//! Any body under three sets of headers: the envelope and the era end without panic, and what we would send on parses
//! to the same call.

use bailiwick_wire::mcp::era::classify;
use bailiwick_wire::mcp::frame::{Upstream, UpstreamRequest};
use bailiwick_wire::mcp::{Headers, Message, Meta, Method};
use bailiwick_wire::{Limits, Raw};

/// See the file.
pub fn run(bytes: &[u8]) {
    let Ok(message) = Message::parse(bytes, &Limits::REQUEST) else { return };
    let version: (&str, &[u8]) = ("mcp-protocol-version", b"2026-07-28");
    for headers in [&[][..], &[version], &[version, ("mcp-method", b"tools/call"), ("mcp-name", b"a")]] {
        let _ = classify(&Headers::collect(headers.iter().copied()), &message);
    }
    let Message::Request(request) = &message else { return };
    let meta = Meta::read(&request.params);
    let sent = UpstreamRequest {
        id: 1,
        method: Method::ToolsCall,
        target: request.params.name.as_deref(),
        arguments: request.params.arguments,
        cursor: request.params.cursor.as_deref(),
        request_state: request.params.request_state.as_deref(),
        input_responses: request.params.input_responses,
        progress: true,
        meta: &meta,
    };
    let mut out = Vec::new();
    sent.write(&mut out, Upstream::Modern { capabilities: Raw::EMPTY_OBJECT, client: Raw::EMPTY_OBJECT });
    assert!(!out.contains(&b'\n'));
    let Ok(Message::Request(back)) = Message::parse(&out, &Limits::REPLY) else { panic!("we sent a bad request") };
    assert_eq!(back.params.name, request.params.name);
    assert_eq!(back.params.request_state, request.params.request_state);
    assert_eq!(back.params.arguments.is_some(), request.params.arguments.is_some());
}
