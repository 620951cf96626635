//! Upstreams over HTTP that keep to the protocol: both eras, sessions, streams, headers, credentials.

use std::sync::atomic::AtomicUsize;

use bailiwick_wire::mcp::headers::HeaderKind;

use super::peer::{Peer, Play, Seen, Then, event, legacy_start, modern_start, result};
use super::*;

fn echo(seen: &Seen) -> Play {
    Play::json(&result(&seen.id(), &format!(r#""got":{}"#, seen.json()["params"]["arguments"])))
}

#[tokio::test]
async fn a_modern_server_gets_derived_headers_and_the_exact_arguments() {
    let peer = Peer::start(|seen| modern_start(seen).unwrap_or_else(|| echo(seen))).await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    assert!(upstream.ready().await);
    assert_eq!(upstream.era_support(), Some(EraSupport { modern: true, legacy: None }));
    let annotated = [HeaderParam { header: "Region".into(), path: vec!["where".into()], kind: HeaderKind::String }];
    let (params, key) = (raw("{\"name\":\"caf\u{e9}\",\"arguments\":{\"where\":\"eu\",\"n\":12345678901234567890123,\"f\": 2.50}}"), key());
    let mut request = UpstreamRequest::new(MODERN, &key, Method::ToolsCall, params);
    request.headers = &annotated;
    request.meta = Some(raw(r#"{"traceparent":"00-x","io.modelcontextprotocol/clientCapabilities":{"roots":{}}}"#));
    upstream.request(request, None).await.unwrap();
    let seen = peer.seen().pop().unwrap();
    assert_eq!(seen.headers["mcp-method"], "tools/call");
    assert_eq!(seen.headers["mcp-name"], "=?base64?Y2Fmw6k=?=");
    assert_eq!(seen.headers["mcp-param-region"], "eu");
    assert_eq!(seen.headers["mcp-protocol-version"], "2026-07-28");
    assert_eq!(seen.headers["accept"], "application/json, text/event-stream");
    assert!(seen.body.contains(r#""arguments":{"where":"eu","n":12345678901234567890123,"f": 2.50}"#), "{}", seen.body);
    let meta = &seen.json()["params"]["_meta"];
    assert_eq!(meta["traceparent"], "00-x");
    assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], serde_json::json!({}));
}

#[tokio::test]
async fn a_dual_server_is_used_in_the_era_of_each_request() {
    let peer = Peer::start(|seen| match seen.method().as_str() {
        "server/discover" => modern_start(seen).unwrap(),
        _ => legacy_start(seen).unwrap_or_else(|| echo(seen)),
    })
    .await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    assert!(upstream.ready().await);
    assert_eq!(upstream.era_support(), Some(EraSupport { modern: true, legacy: Some(Version::V2025_11_25) }));
    text(call(&upstream, MODERN, r#"{"era":"modern"}"#).await);
    text(call(&upstream, LEGACY, r#"{"era":"legacy"}"#).await);
    let calls: Vec<Seen> = peer.seen().into_iter().filter(|seen| seen.method() == "tools/call").collect();
    assert!(calls[0].headers.contains_key("mcp-method") && !calls[0].headers.contains_key("mcp-session-id"));
    assert!(!calls[1].headers.contains_key("mcp-method") && calls[1].headers["mcp-session-id"] == "s1");
    assert!(calls[1].json()["params"].get("_meta").is_none());
}

#[tokio::test]
async fn an_era_that_the_server_does_not_speak_is_refused_before_anything_is_sent() {
    let peer = Peer::start(|seen| modern_start(seen).unwrap_or_else(|| echo(seen))).await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    let error = call(&upstream, LEGACY, "{}").await.unwrap_err();
    assert!(!error.may_have_run() && matches!(error, UpstreamError::Unavailable { .. }), "{error:?}");
    assert_eq!(peer.count("tools/call"), 0);
}

#[tokio::test]
async fn a_task_has_one_session_and_its_end_is_told() {
    let peer = Peer::start(|seen| legacy_start(seen).unwrap_or_else(|| echo(seen))).await;
    let upstream = start(Transport::http(&peer.url), |config| config.era = EraChoice::Legacy);
    assert!(upstream.ready().await);
    let before = peer.count("initialize");
    let (one, two) = tokio::join!(call(&upstream, LEGACY, "{}"), call(&upstream, LEGACY, "{}"));
    assert_eq!(text(one), text(two));
    assert_eq!(peer.count("initialize"), before + 1);
    let deleted = || peer.seen().iter().filter(|seen| seen.verb == "DELETE").count();
    let already = deleted();
    upstream.end_session(&key()).await;
    assert_eq!(deleted(), already + 1);
    text(call(&upstream, LEGACY, "{}").await);
    assert_eq!(peer.count("initialize"), before + 2);
}

#[tokio::test]
async fn a_lost_session_is_opened_again_and_the_call_is_sent_again_once() {
    let lost = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lost);
    let peer = Peer::start(move |seen| {
        legacy_start(seen)
            .unwrap_or_else(|| if count.fetch_add(1, Ordering::SeqCst) == 0 { Play::status("404 Not Found", "", "") } else { echo(seen) })
    })
    .await;
    let upstream = start(Transport::http(&peer.url), |config| config.era = EraChoice::Legacy);
    assert!(upstream.ready().await);
    let before = peer.count("initialize");
    text(call(&upstream, LEGACY, "{}").await);
    assert_eq!(peer.count("initialize"), before + 2);
    assert_eq!(peer.count("tools/call"), 2);
}

#[tokio::test]
async fn a_server_that_loses_every_session_does_not_loop() {
    let peer = Peer::start(|seen| legacy_start(seen).unwrap_or_else(|| Play::status("404 Not Found", "", ""))).await;
    let upstream = start(Transport::http(&peer.url), |config| config.era = EraChoice::Legacy);
    let error = call(&upstream, LEGACY, "{}").await.unwrap_err();
    assert!(!error.may_have_run(), "{error:?}");
    assert_eq!(peer.count("tools/call"), 2);
}

#[tokio::test]
async fn a_cancelled_legacy_call_is_cancelled_by_words() {
    let peer = Peer::start(|seen| legacy_start(seen).unwrap_or_else(Play::hang)).await;
    let upstream = start(Transport::http(&peer.url), |config| config.era = EraChoice::Legacy);
    let (params, key) = (raw(r#"{"name":"echo"}"#), key());
    let request = UpstreamRequest::new(LEGACY, &key, Method::ToolsCall, params);
    let cancel = request.cancel.clone();
    let stop = async {
        until(|| peer.count("tools/call") == 1).await;
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(upstream.request(request, None), stop);
    assert!(matches!(outcome, Err(UpstreamError::Cancelled { may_have_run: true, .. })), "{outcome:?}");
    until(|| peer.count("notifications/cancelled") == 1).await;
    let id = |method: &str, member: &str| {
        let seen = peer.seen().into_iter().find(|seen| seen.method() == method).unwrap().json();
        seen.pointer(member).cloned().unwrap()
    };
    assert_eq!(id("tools/call", "/id"), id("notifications/cancelled", "/params/requestId"));
}

#[tokio::test]
async fn a_call_cancelled_before_it_was_sent_did_not_run() {
    let peer = Peer::start(|_| Play::hang()).await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    let (params, key) = (raw(r#"{"name":"echo"}"#), key());
    let request = UpstreamRequest::new(MODERN, &key, Method::ToolsCall, params);
    request.cancel.cancel();
    let error = upstream.request(request, None).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Cancelled { may_have_run: false, .. }), "{error:?}");
}

#[tokio::test]
async fn progress_comes_back_under_the_clients_own_token() {
    let peer = Peer::start(|seen| {
        modern_start(seen).unwrap_or_else(|| {
            let token = seen.json()["params"]["_meta"]["progressToken"].clone();
            let progress = |token: &str| {
                event(&format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progress":1,"progressToken":{token}}}}}"#))
            };
            let events = [progress(&token.to_string()), progress("4711"), event(&result(&seen.id(), ""))];
            Play::stream(&events.map(|event| (0, event)), Then::Close)
        })
    })
    .await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    for token in [r#""1""#, "1"] {
        let (sender, mut events) = mpsc::channel(8);
        let key = key();
        let mut request = UpstreamRequest::new(MODERN, &key, Method::ToolsCall, raw(r#"{"name":"echo"}"#));
        request.progress_token = Id::parse(raw(token));
        upstream.request(request, Some(sender)).await.unwrap();
        let Some(Event::Notification { method, params }) = events.recv().await else { panic!() };
        assert_eq!(method, "notifications/progress");
        assert_eq!(params.raw().text(), format!(r#"{{"progress":1,"progressToken":{token}}}"#));
        assert!(events.recv().await.is_none(), "progress for a stranger's token came through");
    }
}

#[tokio::test]
async fn a_legacy_stream_that_breaks_off_is_taken_up_where_it_ended() {
    let peer = Peer::start(|seen| match (seen.verb.as_str(), seen.method().as_str()) {
        ("POST", "tools/call") => Play::stream(&[(0, format!("id: {}-7\nretry: 30\ndata:\n\n", seen.id()))], Then::Close),
        ("GET", _) => match seen.headers.get("last-event-id").and_then(|id| id.split('-').next()) {
            Some(id) => Play::stream(&[(0, event(&result(id, r#""resumed":true"#)))], Then::Close),
            None => legacy_start(seen).unwrap(),
        },
        _ => legacy_start(seen).unwrap(),
    })
    .await;
    let upstream = start(Transport::http(&peer.url), |config| config.era = EraChoice::Legacy);
    assert_eq!(text(call(&upstream, LEGACY, "{}").await), r#"{"resumed":true}"#);
}

#[tokio::test]
async fn a_modern_stream_that_breaks_off_is_not_taken_up() {
    let peer = Peer::start(|seen| modern_start(seen).unwrap_or_else(|| Play::stream(&[(0, "id: 7\ndata:\n\n".into())], Then::Close))).await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    let error = call(&upstream, MODERN, "{}").await.unwrap_err();
    assert!(matches!(error, UpstreamError::Died { may_have_run: true, .. }), "{error:?}");
    assert!(peer.seen().iter().all(|seen| seen.verb == "POST"));
}

/// A legacy peer that asks `elicitation/create` on the stream of the call and answers once it has an answer.
async fn asking_peer() -> Peer {
    let (asked, answered) = (Arc::new(std::sync::Mutex::new(String::new())), Arc::new(AtomicUsize::new(0)));
    Peer::start(move |seen| {
        if seen.method() == "tools/call" {
            *asked.lock().unwrap() = seen.id();
            let ask = r#"{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{"message":"sure?"}}"#;
            let answer = event(&result(&seen.id(), r#""done":true"#));
            return Play::stream(&[(0, event(ask)), (300, answer)], Then::Close);
        }
        if seen.method().is_empty() && seen.verb == "POST" {
            answered.fetch_add(1, Ordering::SeqCst);
            return Play::status("202 Accepted", "", "");
        }
        legacy_start(seen).unwrap()
    })
    .await
}

#[tokio::test]
async fn what_a_server_asks_reaches_the_client_only_where_it_is_relayed() {
    for elicitation in [true, false] {
        let peer = asking_peer().await;
        let upstream = start(Transport::http(&peer.url), |config| {
            config.era = EraChoice::Legacy;
            config.relay.elicitation = elicitation;
        });
        let (sender, mut events) = mpsc::channel(8);
        let client = tokio::spawn(async move {
            let mut asked = 0;
            while let Some(event) = events.recv().await {
                let Event::Request { method, params, answer } = event else {
                    continue;
                };
                assert_eq!((method.as_str(), params.raw().text()), ("elicitation/create", r#"{"message":"sure?"}"#));
                answer.send(Ok(raw(r#"{"action":"accept","n":1.0}"#).to_owned())).unwrap();
                asked += 1;
            }
            asked
        });
        let key = key();
        let capabilities = raw(r#"{"elicitation":{},"roots":{}}"#);
        let era = UseEra::Legacy { version: Version::V2025_11_25, capabilities };
        let request = UpstreamRequest::new(era, &key, Method::ToolsCall, raw(r#"{"name":"echo"}"#));
        upstream.request(request, Some(sender)).await.unwrap();
        assert_eq!(client.await.unwrap(), usize::from(elicitation));
        let answer = || peer.seen().into_iter().find(|seen| seen.verb == "POST" && seen.method().is_empty());
        until(|| answer().is_some()).await;
        let answer = answer().unwrap();
        assert_eq!(answer.json()["id"], "q");
        if elicitation {
            assert!(answer.body.contains(r#""result":{"action":"accept","n":1.0}"#), "{}", answer.body);
        } else {
            assert_eq!(answer.json()["error"]["code"], -32601);
            assert_eq!(upstream.dropped().refused, 1);
        }
        let declared = peer.seen().into_iter().rfind(|seen| seen.method() == "initialize").unwrap().json();
        let expected = if elicitation { serde_json::json!({"elicitation": {}}) } else { serde_json::json!({}) };
        assert_eq!(declared["params"]["capabilities"], expected);
    }
}

#[tokio::test]
async fn notifications_of_a_session_come_out_of_its_own_stream() {
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}"#;
    let peer = Peer::start(move |seen| match seen.verb.as_str() {
        "GET" => Play::stream(&[(100, event(changed))], Then::Hang),
        _ => legacy_start(seen).unwrap_or_else(|| echo(seen)),
    })
    .await;
    let upstream = start(Transport::http(&peer.url), |config| config.era = EraChoice::Legacy);
    let mut notices = upstream.subscribe();
    text(call(&upstream, LEGACY, "{}").await);
    loop {
        let notice = notices.recv().await.unwrap();
        assert_eq!(&*notice.method, "notifications/tools/list_changed");
        if notice.session == Some(key()) {
            break;
        }
    }
    upstream.shutdown().await;
    until(|| peer.closed() >= 1).await;
}

#[tokio::test]
async fn a_subscription_to_a_modern_server_is_kept_until_it_is_dropped() {
    let peer = Peer::start(|seen| {
        modern_start(seen).unwrap_or_else(|| {
            let acknowledged = r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{}}"#;
            let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{}}}"#;
            Play::stream(&[(0, event(acknowledged)), (0, event(changed))], Then::Hang)
        })
    })
    .await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    let mut notices = upstream.subscribe();
    let listening = upstream.listen(&raw(r#"{"toolsListChanged":true}"#).to_owned());
    assert_eq!(&*notices.recv().await.unwrap().method, "notifications/tools/list_changed");
    let asked = peer.seen().into_iter().find(|seen| seen.method() == "subscriptions/listen").unwrap();
    assert_eq!(asked.json()["params"]["notifications"], serde_json::json!({"toolsListChanged": true}));
    assert_eq!(peer.closed(), 0);
    drop(listening);
    until(|| peer.closed() == 1).await;
}

struct Token(&'static str);

impl Inject for Token {
    fn headers(&self, put: &mut dyn FnMut(&str, &str)) {
        put("authorization", self.0);
    }
}

#[tokio::test]
async fn the_calls_own_credential_takes_the_place_of_the_systems() {
    let peer = Peer::start(|seen| modern_start(seen).unwrap_or_else(|| echo(seen))).await;
    let upstream = start_with(Transport::http(&peer.url), Arc::new(Token("Bearer system-canary")), |_| {});
    text(call(&upstream, MODERN, "{}").await);
    assert_eq!(peer.seen().pop().unwrap().headers["authorization"], "Bearer system-canary");
    let key = key();
    let mut request = UpstreamRequest::new(MODERN, &key, Method::ToolsCall, raw(r#"{"name":"echo"}"#));
    request.inject = Some(Arc::new(Token("Bearer lease-canary")));
    assert!(!format!("{request:?} {upstream:?}").contains("canary"));
    upstream.request(request, None).await.unwrap();
    assert_eq!(peer.seen().pop().unwrap().headers["authorization"], "Bearer lease-canary");
}

#[tokio::test]
async fn a_credential_that_is_no_header_stops_the_call_without_being_shown() {
    let peer = Peer::start(|seen| modern_start(seen).unwrap_or_else(|| echo(seen))).await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    let key = key();
    let mut request = UpstreamRequest::new(MODERN, &key, Method::ToolsCall, raw(r#"{"name":"echo"}"#));
    request.inject = Some(Arc::new(Token("Bearer can\nary")));
    let error = upstream.request(request, None).await.unwrap_err();
    assert!(!error.may_have_run() && !error.to_string().contains("ary"), "{error:?}");
    assert_eq!(peer.count("tools/call"), 0);
}

#[tokio::test]
async fn calls_in_a_row_share_one_connection() {
    let peer = Peer::start(|seen| modern_start(seen).unwrap_or_else(|| echo(seen))).await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    for _ in 0..5 {
        text(call(&upstream, MODERN, r#"{"a":[1,2]}"#).await);
    }
    let mut used: Vec<usize> = peer.seen().iter().filter(|seen| seen.method() == "tools/call").map(|seen| seen.connection).collect();
    used.dedup();
    assert_eq!(used.len(), 1);
}

#[tokio::test]
async fn metadata_in_the_parameters_is_refused() {
    let peer = Peer::start(|seen| modern_start(seen).unwrap_or_else(|| echo(seen))).await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    let key = key();
    let params = raw(r#"{"name":"echo","_meta":{}}"#);
    upstream.request(UpstreamRequest::new(MODERN, &key, Method::ToolsCall, params), None).await.unwrap_err();
    assert_eq!(peer.count("tools/call"), 0);
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_workers() {
    let peer = Peer::start(|seen| modern_start(seen).unwrap_or_else(|| echo(seen))).await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    assert!(upstream.ready().await);
    let watch = Arc::downgrade(&upstream.shared);
    drop(upstream);
    until(|| watch.strong_count() == 0).await;
}

#[tokio::test]
async fn bi_034_a_result_that_wants_input_passes_only_where_it_is_declared_and_relayed() {
    let wants = |members: &str| format!(r#""resultType":"input_required",{members}"#);
    let ask = wants(r#""inputRequests":{"a":{"method":"elicitation/create","params":{"message":"password?"}}}"#);
    let state_only = wants(r#""requestState":"s""#);
    let declaring = raw(r#"{"elicitation":{}}"#);
    for (relay, capabilities, answer, passes) in [
        (false, declaring, &ask, false),
        (true, Raw::EMPTY_OBJECT, &ask, false),
        (true, declaring, &ask, true),
        (false, Raw::EMPTY_OBJECT, &state_only, true),
    ] {
        let answer = answer.clone();
        let peer = Peer::start(move |seen| modern_start(seen).unwrap_or_else(|| Play::json(&result(&seen.id(), &answer)))).await;
        let upstream = start(Transport::http(&peer.url), |config| {
            config.relay.elicitation = relay;
        });
        let outcome = call(&upstream, UseEra::Modern { capabilities }, "{}").await;
        assert_eq!(outcome.is_ok(), passes, "{outcome:?}");
        assert_eq!(upstream.dropped().refused, u64::from(!passes));
    }
}

#[tokio::test]
async fn a_server_that_asks_without_end_is_answered_within_bounds() {
    let peer = Peer::start(|seen| {
        if seen.method() == "tools/call" {
            let ping = event(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).repeat(5000);
            let answer = event(&result(&seen.id(), ""));
            return Play::stream(&[(0, ping), (0, answer)], Then::Close);
        }
        legacy_start(seen).unwrap_or_else(Play::hang)
    })
    .await;
    let upstream = start(Transport::http(&peer.url), |config| {
        config.era = EraChoice::Legacy;
    });
    text(call(&upstream, LEGACY, "{}").await);
    assert!(upstream.shared.workers.len() < 100, "{}", upstream.shared.workers.len());
}

#[tokio::test]
async fn a_server_that_comes_back_with_another_era_is_looked_at_again() {
    let old = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let now_old = Arc::clone(&old);
    let peer = Peer::start(move |seen| {
        if !now_old.load(Ordering::SeqCst) {
            return modern_start(seen).unwrap_or_else(|| echo(seen));
        }
        match legacy_start(seen) {
            Some(play) => play,
            None if seen.headers.contains_key("mcp-session-id") => echo(seen),
            None => Play::status("404 Not Found", "", ""),
        }
    })
    .await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    let mut notices = upstream.subscribe();
    text(call(&upstream, MODERN, "{}").await);
    old.store(true, Ordering::SeqCst);
    call(&upstream, MODERN, "{}").await.unwrap_err();
    assert_eq!(&*notices.recv().await.unwrap().method, "notifications/tools/list_changed");
    let legacy = EraSupport { modern: false, legacy: Some(Version::V2025_11_25) };
    assert_eq!(upstream.era_support(), Some(legacy));
    text(call(&upstream, LEGACY, "{}").await);
}

#[tokio::test]
async fn what_the_broker_does_by_itself_cannot_be_asked_for() {
    let peer = Peer::start(|seen| match seen.method().as_str() {
        "server/discover" => modern_start(seen).unwrap(),
        _ => legacy_start(seen).unwrap_or_else(|| echo(seen)),
    })
    .await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    assert!(upstream.ready().await);
    let before = peer.seen().len();
    for (era, method) in [(LEGACY, Method::Initialize), (MODERN, Method::SubscriptionsListen)] {
        let key = key();
        let request = UpstreamRequest::new(era, &key, method, Raw::EMPTY_OBJECT);
        let error = upstream.request(request, None).await.unwrap_err();
        assert!(!error.may_have_run(), "{error:?}");
    }
    assert_eq!(peer.seen().len(), before);
}

#[tokio::test]
async fn a_word_that_may_mean_the_session_or_the_request_has_nothing_sent_again() {
    let refused = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request"}}"#;
    let peer =
        Peer::start(move |seen| legacy_start(seen).unwrap_or_else(|| Play::status("400 Bad Request", "content-type: application/json\r\n", refused)))
            .await;
    let upstream = start(Transport::http(&peer.url), |config| config.era = EraChoice::Legacy);
    let reply = call(&upstream, LEGACY, "{}").await.unwrap();
    assert!(matches!(reply, Reply::Error { code: -32000, http_status: 400, .. }), "{reply:?}");
    assert_eq!(peer.count("tools/call"), 1);
    // The next one has a session of its own.
    let before = peer.count("initialize");
    drop(call(&upstream, LEGACY, "{}").await);
    assert_eq!((peer.count("initialize"), peer.count("tools/call")), (before + 1, 2));
}

#[tokio::test]
async fn nothing_of_a_tool_is_sent_to_a_server_that_started_anew_since_it_was_looked_at() {
    let lost = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lost);
    let peer = Peer::start(move |seen| {
        legacy_start(seen)
            .unwrap_or_else(|| if count.fetch_add(1, Ordering::SeqCst) == 0 { Play::status("404 Not Found", "", "") } else { echo(seen) })
    })
    .await;
    let upstream = start(Transport::http(&peer.url), |config| config.era = EraChoice::Legacy);
    assert!(upstream.ready().await);
    let life = upstream.life();
    let key = key();
    let looked_at = |life| UpstreamRequest { life: Some(life), ..UpstreamRequest::new(LEGACY, &key, Method::ToolsCall, raw(r#"{"name":"echo"}"#)) };
    let error = upstream.request(looked_at(life), None).await.unwrap_err();
    assert_eq!((&error, error.may_have_run()), (&UpstreamError::Anew, false));
    assert_eq!((upstream.life(), peer.count("tools/call")), (life + 1, 1));
    assert_eq!(upstream.request(looked_at(life), None).await.unwrap_err(), UpstreamError::Anew);
    assert_eq!(peer.count("tools/call"), 1);
    text(upstream.request(looked_at(life + 1), None).await);
}

#[tokio::test]
async fn a_client_that_declares_ever_other_capabilities_does_not_fill_the_sessions() {
    let peer = Peer::start(|seen| legacy_start(seen).unwrap_or_else(|| echo(seen))).await;
    let upstream = start(Transport::http(&peer.url), |config| {
        config.era = EraChoice::Legacy;
        config.relay.sampling = true;
    });
    let key = key();
    let mut refused = 0;
    for i in 0..20 {
        let capabilities = format!(r#"{{"sampling":{{"x{i}":{{}}}}}}"#);
        let era = UseEra::Legacy { version: Version::V2025_11_25, capabilities: raw(&capabilities) };
        let request = UpstreamRequest::new(era, &key, Method::ToolsCall, raw(r#"{"name":"echo"}"#));
        refused += usize::from(upstream.request(request, None).await.is_err());
    }
    assert_eq!(refused, 4);
}

#[tokio::test]
async fn a_subscription_of_an_older_client_is_a_stream_at_a_modern_server_until_it_is_taken_back() {
    let peer = Peer::start(|seen| match modern_start(seen) {
        Some(play) => play,
        None if seen.method() == "subscriptions/listen" => {
            let told = r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///a"}}"#;
            Play::stream(&[(0, event(told))], Then::Hang)
        }
        None => echo(seen),
    })
    .await;
    let upstream = start(Transport::http(&peer.url), |_| {});
    let key = key();
    let mut notices = upstream.subscribe();
    let ask = async |method| upstream.request(UpstreamRequest::new(MODERN, &key, method, raw(r#"{"uri":"file:///a"}"#)), None).await;
    assert_eq!(text(ask(Method::ResourcesSubscribe).await), "{}");
    assert_eq!(&*notices.recv().await.unwrap().method, "notifications/resources/updated");
    text(ask(Method::ResourcesSubscribe).await);
    assert_eq!(peer.count("subscriptions/listen"), 1);
    text(ask(Method::ResourcesUnsubscribe).await);
    until(|| peer.closed() == 1).await;
    assert_eq!(peer.count("resources/subscribe") + peer.count("resources/unsubscribe"), 0);
}
