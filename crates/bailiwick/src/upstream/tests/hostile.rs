//! HTTP peers that break the protocol, each in one way.

use super::peer::{Peer, Play, Seen, Then, event, modern_start, result};
use super::*;

/// A modern peer whose `tools/call` is played by `play`.
async fn against(play: impl Fn(&Seen) -> Play + Send + Sync + 'static) -> (Upstream, Peer) {
    let peer = Peer::start(move |seen| modern_start(seen).unwrap_or_else(|| play(seen))).await;
    let upstream = start(Transport::http(&peer.url), |config| config.frame_bytes_max = 4096);
    (upstream, peer)
}

async fn fails(play: impl Fn(&Seen) -> Play + Send + Sync + 'static) -> (UpstreamError, Upstream, Peer) {
    let (upstream, peer) = against(play).await;
    let error = call(&upstream, MODERN, "{}").await.unwrap_err();
    (error, upstream, peer)
}

fn assert_broken(error: &UpstreamError) {
    assert!(matches!(error, UpstreamError::Broken { may_have_run: true, .. }), "{error:?}");
}

#[tokio::test]
async fn bi_033_an_answer_to_another_request_is_dropped_and_counted() {
    let (error, upstream, _) = fails(|_| Play::json(&result("999999", ""))).await;
    assert_broken(&error);
    assert_eq!(upstream.dropped().foreign, 1);
}

#[tokio::test]
async fn bi_033_on_a_stream_the_right_answer_still_counts() {
    let (upstream, _) = against(|seen| {
        let events = [(0, event(&result("999999", r#""of":"another""#))), (5, event(&result(&seen.id(), r#""of":"ours""#)))];
        Play::stream(&events, Then::Close)
    })
    .await;
    assert_eq!(text(call(&upstream, MODERN, "{}").await), r#"{"of":"ours"}"#);
    assert_eq!(upstream.dropped().foreign, 1);
}

#[tokio::test]
async fn a_string_with_the_same_digits_is_another_id() {
    let (error, _, _) = fails(|seen| Play::json(&result(&format!("\"{}\"", seen.id()), ""))).await;
    assert_broken(&error);
}

#[tokio::test]
async fn a_result_with_an_error_is_no_answer() {
    let (error, upstream, _) = fails(|seen| {
        let id = seen.id();
        Play::json(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}},"error":{{"code":1,"message":"m"}}}}"#))
    })
    .await;
    assert_broken(&error);
    assert_eq!(upstream.dropped().malformed, 1);
}

#[tokio::test]
async fn two_answers_in_one_body_are_none() {
    let (error, _, _) = fails(|seen| Play::json(&format!("{0}\n{0}", result(&seen.id(), "")))).await;
    assert_broken(&error);
}

#[tokio::test]
async fn a_second_answer_on_a_stream_is_dropped_and_counted() {
    let (upstream, _) = against(|seen| {
        let both = [r#""n":1"#, r#""n":2"#].map(|members| (0, event(&result(&seen.id(), members))));
        Play::stream(&both, Then::Close)
    })
    .await;
    assert_eq!(text(call(&upstream, MODERN, "{}").await), r#"{"n":1}"#);
    until(|| upstream.dropped().foreign == 1).await;
}

#[tokio::test]
async fn a_batch_is_no_answer() {
    let (error, _, _) = fails(|seen| Play::json(&format!("[{}]", result(&seen.id(), "")))).await;
    assert_broken(&error);
}

#[tokio::test]
async fn an_announced_length_over_the_limit_is_not_read() {
    let (error, _, _) = fails(|_| Play::bytes("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999\r\n\r\n")).await;
    assert_broken(&error);
}

#[tokio::test]
async fn an_endless_body_is_cut_off_at_the_limit() {
    let (error, _, _) = fails(|_| {
        let mut pieces = vec![(0, b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".to_vec())];
        pieces.extend((0..100).map(|_| (0, format!("400\r\n{}\r\n", " ".repeat(0x400)).into_bytes())));
        Play { pieces, then: Then::Hang }
    })
    .await;
    assert_broken(&error);
}

#[tokio::test]
async fn an_endless_event_is_cut_off_at_the_limit() {
    let (error, _, _) = fails(|_| {
        let events: Vec<_> = (0..100).map(|_| (0, format!("data: {}", "x".repeat(1024)))).collect();
        Play::stream(&events, Then::Hang)
    })
    .await;
    assert_broken(&error);
}

#[tokio::test]
async fn garbage_on_a_stream_is_no_answer() {
    for garbage in ["data: {not json}\n\n", "data: \u{0}\n\n", "data: []\n\n", "data: {\"jsonrpc\":\"1.0\",\"id\":1,\"result\":{}}\n\n"] {
        let (error, _, _) = fails(move |_| Play::stream(&[(0, garbage.to_owned())], Then::Hang)).await;
        assert_broken(&error);
    }
}

#[tokio::test]
async fn bytes_that_are_no_http_are_no_answer() {
    let (error, _, _) = fails(|_| Play::bytes("\u{1}\u{2}\u{3} what is this\r\n\r\n").closing()).await;
    assert!(error.may_have_run(), "{error:?}");
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let target = Peer::start(|seen| Play::json(&result(&seen.id(), ""))).await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let location = format!("location: {}\r\n", target.url);
        let (error, _, _) = fails(move |_| Play::status(status, &location, "")).await;
        assert_broken(&error);
    }
    assert!(target.seen().is_empty());
}

#[tokio::test]
async fn one_that_never_answers_runs_into_the_time_and_may_have_run() {
    let (upstream, peer) = against(|_| Play::hang()).await;
    assert!(upstream.ready().await);
    let (params, key) = (raw(r#"{"name":"echo"}"#), key());
    let mut request = UpstreamRequest::new(MODERN, &key, Method::ToolsCall, params);
    request.timeout = Some(Duration::from_millis(300));
    let error = upstream.request(request, None).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Timeout { may_have_run: true, .. }), "{error:?}");
    // In this revision the closed connection is what stops the call.
    until(|| peer.closed() == 1).await;
}

#[tokio::test]
async fn one_that_dies_during_a_call_is_not_asked_twice() {
    let (error, _, peer) = fails(|_| Play::close()).await;
    assert!(matches!(error, UpstreamError::Died { may_have_run: true, .. }), "{error:?}");
    assert_eq!(peer.count("tools/call"), 1);
}

#[tokio::test]
async fn one_that_dies_on_a_kept_connection_is_not_asked_twice_either() {
    let (upstream, peer) = against(|seen| if seen.body.contains("die") { Play::close() } else { Play::json(&result(&seen.id(), "")) }).await;
    text(call(&upstream, MODERN, "{}").await);
    let error = call(&upstream, MODERN, r#"{"a":"die"}"#).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Died { may_have_run: true, .. }), "{error:?}");
    assert_eq!(peer.seen().iter().filter(|seen| seen.body.contains("die")).count(), 1);
}

#[tokio::test]
async fn a_list_is_asked_for_again_when_a_kept_connection_dies() {
    let (upstream, peer) = against(|seen| match seen.method().as_str() {
        "tools/list" if seen.connection == 1 => Play::close(),
        "tools/list" => Play::json(&result(&seen.id(), r#""tools":[{"name":"a"}]"#)),
        _ => Play::json(&result(&seen.id(), "")),
    })
    .await;
    text(call(&upstream, MODERN, "{}").await);
    assert_eq!(upstream.list_all(Method::ToolsList, &key()).await.unwrap().len(), 1);
    assert_eq!(peer.count("tools/list"), 2);
}

#[tokio::test]
async fn a_kept_connection_that_the_peer_closed_is_replaced_without_a_word() {
    let (upstream, peer) = against(|seen| Play::json(&result(&seen.id(), "")).closing()).await;
    text(call(&upstream, MODERN, "{}").await);
    // The end of the connection has to arrive before the next call: then it is certain that nothing was sent on it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    text(call(&upstream, MODERN, "{}").await);
    assert_eq!(peer.count("tools/call"), 2);
}

#[tokio::test]
async fn a_server_of_the_modern_revision_may_not_ask_anything() {
    let (upstream, _) = against(|seen| {
        let ask = r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{}}"#;
        Play::stream(&[(0, event(ask)), (0, event(&result(&seen.id(), "")))], Then::Close)
    })
    .await;
    let (sender, mut events) = mpsc::channel(8);
    let key = key();
    let request = UpstreamRequest::new(MODERN, &key, Method::ToolsCall, raw(r#"{"name":"echo"}"#));
    upstream.request(request, Some(sender)).await.unwrap();
    assert!(events.recv().await.is_none());
    assert_eq!(upstream.dropped().malformed, 1);
}

#[tokio::test]
async fn a_refused_credential_is_said_in_plain_words_and_did_not_run() {
    let (error, _, _) = fails(|_| Play::status("401 Unauthorized", "", "secret canary of the peer")).await;
    assert!(matches!(error, UpstreamError::Unavailable { may_have_run: false, .. }), "{error:?}");
    assert!(error.to_string().contains("credential") && !error.to_string().contains("canary"), "{error}");
}

#[tokio::test]
async fn an_error_of_the_upstream_is_an_answer_with_its_status() {
    let (upstream, _) = against(|seen| {
        let id = seen.id();
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32021,"message":"m","data":{{"a":1.0}}}}}}"#);
        Play::status("400 Bad Request", "content-type: application/json\r\n", &body)
    })
    .await;
    let Reply::Error { code, http_status, data, .. } = call(&upstream, MODERN, "{}").await.unwrap() else { panic!() };
    assert_eq!((code, http_status), (-32021, 400));
    assert_eq!(data.unwrap().raw().text(), r#"{"a":1.0}"#);
}

#[tokio::test]
async fn a_list_that_never_advances_is_broken() {
    let (upstream, peer) = against(|seen| Play::json(&result(&seen.id(), r#""tools":[],"nextCursor":"again""#))).await;
    let error = upstream.list_all(Method::ToolsList, &key()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Broken { may_have_run: false, .. }), "{error:?}");
    assert_eq!(peer.count("tools/list"), 2);
}

#[tokio::test]
async fn a_list_without_end_is_broken() {
    let (upstream, peer) = against(|seen| Play::json(&result(&seen.id(), &format!(r#""tools":[],"nextCursor":"{}""#, seen.id())))).await;
    upstream.list_all(Method::ToolsList, &key()).await.unwrap_err();
    assert_eq!(peer.count("tools/list"), LIST_PAGES_MAX);
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_unavailable_with_a_reason() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    drop(listener);
    let upstream = start(Transport::http(url), |config| {
        config.backoff = Backoff { first: Duration::from_secs(600), max: Duration::from_secs(600) };
    });
    until(|| matches!(upstream.status(), Status::BackingOff { .. })).await;
    let error = call(&upstream, MODERN, "{}").await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unavailable { may_have_run: false, .. }), "{error:?}");
    assert!(error.to_string().contains("cannot connect"), "{error}");
}
