//! Upstreams over stdio: the shop as a real server, and shell scripts that are wrong in one way each.

use std::path::Path;

use super::*;

/// Not a test: other tests run it as the process of the sample system. The harness writes words of its own to the output
/// before it begins, as many a real server does.
#[test]
#[ignore = "it serves until its input ends; other tests start it as a process"]
fn serve_the_shop() {
    let file = std::env::var_os("SHOP_FILE").expect("started by a test");
    crate::shop::run(Path::new(&file), std::io::stdin().lock(), std::io::stdout().lock()).unwrap();
}

struct Env(Vec<(String, String)>);

impl Inject for Env {
    fn env(&self, put: &mut dyn FnMut(&str, &str)) {
        self.0.iter().for_each(|(name, value)| put(name, value));
    }
}

fn env(name: &str, value: impl Into<String>) -> Arc<Env> {
    Arc::new(Env(vec![(name.to_owned(), value.into())]))
}

#[tokio::test]
async fn the_shop_is_a_modern_server_behind_noise_on_its_output() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Transport::stdio(
        std::env::current_exe().unwrap(),
        ["--exact", "upstream::tests::stdio::serve_the_shop", "--ignored", "--nocapture", "--quiet"],
    );
    let file = folder.path().join("shop.db");
    let upstream = start_with(shop, env("SHOP_FILE", file.to_str().unwrap()), |_| {});
    assert!(upstream.ready().await);
    assert_eq!(upstream.era_support(), Some(EraSupport { modern: true, legacy: None }));
    let tools = upstream.list_all(Method::ToolsList, &key()).await.unwrap();
    assert_eq!(tools.len(), crate::shop::effects().count());
    let key = key();
    let params = raw("{\"name\":\n\"no_such_tool\",\"arguments\":{}}");
    let reply = upstream.request(UpstreamRequest::new(MODERN, &key, Method::ToolsCall, params), None).await.unwrap();
    assert!(matches!(reply, Reply::Error { code: -32602, http_status: 200, .. }), "{reply:?}");
    upstream.shutdown().await;
    assert_eq!(upstream.status(), Status::Stopped);
}

/// A legacy server in shell. `$line` is the message and `$id` its id; `answer MEMBERS` answers it.
/// The handshake is done; `script` is the body of a `case` over calls: it sees every `tools/call`.
fn script(on_call: &str) -> Transport {
    let text = format!(
        r#"
        answer() {{ printf '{{"jsonrpc":"2.0","id":%s,"result":{{%s}}}}\n' "$id" "$1"; }}
        while IFS= read -r line; do
            id=${{line#*'"id":'}}; id=${{id%%,*}}
            case $line in
            *'"method":"server/discover"'*)
                printf '{{"jsonrpc":"2.0","id":%s,"error":{{"code":-32602,"message":"no"}}}}\n' "$id" ;;
            *'"method":"initialize"'*)
                answer '"protocolVersion":"2024-11-05","capabilities":{{}},"serverInfo":{{}}' ;;
            *'"method":"tools/call"'*)
                {on_call} ;;
            *)  if [ -n "$LOG" ]; then printf '%s\n' "$line" >>"$LOG"; fi ;;
            esac
        done
        "#
    );
    Transport::stdio("/bin/sh", ["-c".to_owned(), text])
}

#[tokio::test]
async fn a_server_that_refuses_discovery_is_asked_the_old_way() {
    let upstream = start(script(r#"answer '"ok":1.0'"#), |_| {});
    assert!(upstream.ready().await);
    assert_eq!(upstream.era_support(), Some(EraSupport { modern: false, legacy: Some(Version::V2025_03_26) }));
    assert_eq!(text(call(&upstream, LEGACY, "{}").await), r#"{"ok":1.0}"#);
}

#[tokio::test]
async fn bi_033_a_foreign_answer_is_dropped_and_counted_and_a_second_one_too() {
    let foreign = r#"printf '{"jsonrpc":"2.0","id":999999,"result":{}}\n'; answer '"n":1'; answer '"n":2'"#;
    let upstream = start(script(foreign), |_| {});
    assert_eq!(text(call(&upstream, LEGACY, "{}").await), r#"{"n":1}"#);
    until(|| upstream.dropped().foreign == 2).await;
}

#[tokio::test]
async fn a_result_with_an_error_is_dropped_and_the_call_runs_into_its_time() {
    let both = r#"printf '{"jsonrpc":"2.0","id":%s,"result":{},"error":{"code":1,"message":"m"}}\n' "$id""#;
    let upstream = start(script(both), |_| {});
    assert!(upstream.ready().await);
    let key = key();
    let mut request = UpstreamRequest::new(LEGACY, &key, Method::ToolsCall, raw(r#"{"name":"echo"}"#));
    request.timeout = Some(Duration::from_millis(300));
    let error = upstream.request(request, None).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Timeout { may_have_run: true, .. }), "{error:?}");
    assert_eq!(upstream.dropped().malformed, 1);
}

#[tokio::test]
async fn a_huge_line_breaks_its_call_and_nothing_else() {
    let huge = r#"case $line in *huge*) head -c 200000 /dev/zero | tr '\0' x; echo ;; *) answer '"ok":1' ;; esac"#;
    let upstream = start(script(huge), |config| config.frame_bytes_max = 100_000);
    let error = call(&upstream, LEGACY, r#"{"a":"huge"}"#).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Broken { may_have_run: true, .. }), "{error:?}");
    assert_eq!(text(call(&upstream, LEGACY, "{}").await), r#"{"ok":1}"#);
}

#[tokio::test]
async fn a_process_that_dies_fails_its_calls_at_once_and_is_started_again() {
    let dies = r#"case $line in *die*) exit 3 ;; *) answer '"ok":1' ;; esac"#;
    let upstream = start(script(dies), |_| {});
    let error = call(&upstream, LEGACY, r#"{"a":"die"}"#).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Died { may_have_run: true, .. }), "{error:?}");
    assert!(error.to_string().contains("exit code 3"), "{error}");
    assert_eq!(text(call(&upstream, LEGACY, "{}").await), r#"{"ok":1}"#);
}

#[tokio::test]
async fn the_last_words_of_a_process_still_count() {
    for _ in 0..5 {
        let upstream = start(script(r#"answer '"last":1'; exit 0"#), |_| {});
        assert_eq!(text(call(&upstream, LEGACY, "{}").await), r#"{"last":1}"#);
    }
}

#[tokio::test]
async fn a_command_that_does_not_exist_backs_off_with_a_reason() {
    let upstream = start(Transport::stdio("/no/such/command", [""; 0]), |config| {
        config.backoff = Backoff { first: Duration::from_secs(600), max: Duration::from_secs(600) };
    });
    until(|| matches!(upstream.status(), Status::BackingOff { .. })).await;
    let error = call(&upstream, LEGACY, "{}").await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unavailable { may_have_run: false, .. }), "{error:?}");
    assert!(error.to_string().contains("cannot be started"), "{error}");
}

#[tokio::test]
async fn a_call_nobody_waits_for_is_cancelled_by_words_and_its_answer_is_late_not_foreign() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let slow = r#"case $line in *slow*) slow=$id ;; *) answer '"ok":1'; id=$slow; answer '"late":1' ;; esac"#;
    let upstream = start_with(script(slow), env("LOG", log.to_str().unwrap()), |_| {});
    assert!(upstream.ready().await);
    let key = key();
    let mut request = UpstreamRequest::new(LEGACY, &key, Method::ToolsCall, raw(r#"{"name":"slow"}"#));
    request.timeout = Some(Duration::from_millis(200));
    upstream.request(request, None).await.unwrap_err();
    let told = || std::fs::read_to_string(&log).unwrap_or_default();
    until(|| told().contains("notifications/cancelled")).await;
    assert_eq!(text(call(&upstream, LEGACY, "{}").await), r#"{"ok":1}"#);
    until(|| upstream.dropped().late == 1).await;
    assert_eq!(upstream.dropped().foreign, 0);
}

#[tokio::test]
async fn two_clients_with_the_same_token_get_their_own_progress() {
    // The first call is answered when the second has come; each has progress under the token that it was sent with.
    let both = r#"
        token=${line#*'"progressToken":'}; token=${token%%[,\}]*}
        printf '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"of":%s}}\n' "$token" "$id"
        if [ -n "$first" ]; then answer '"a":1'; id=$first; answer '"a":1'; else first=$id; fi"#;
    let upstream = start(script(both), |_| {});
    let ask = async |token: &str| {
        let (sender, mut events) = mpsc::channel(8);
        let key = key();
        let mut request = UpstreamRequest::new(LEGACY, &key, Method::ToolsCall, raw(r#"{"name":"echo"}"#));
        request.progress_token = Id::parse(raw(token));
        upstream.request(request, Some(sender)).await.unwrap();
        let Some(Event::Notification { params, .. }) = events.recv().await else { panic!() };
        assert!(events.recv().await.is_none());
        params.raw().text().to_owned()
    };
    let (one, two) = tokio::join!(ask("1"), ask(r#""1""#));
    assert!(one.contains(r#""progressToken":1,"#), "{one}");
    assert!(two.contains(r#""progressToken":"1","#), "{two}");
    let of = |text: &str| text.split("\"of\":").nth(1).unwrap().to_owned();
    assert_ne!(of(&one), of(&two));
}

#[tokio::test]
async fn the_environment_is_empty_but_for_what_is_allowed_and_injected() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("env");
    let text = format!("env >'{0}.new'; mv '{0}.new' '{0}'; cat >/dev/null", file.display());
    let inject = env("TOKEN", "canary");
    let upstream = start_with(Transport::stdio("/bin/sh", ["-c".to_owned(), text]), inject, |_| {});
    until(|| file.exists()).await;
    let seen = std::fs::read_to_string(&file).unwrap();
    assert!(seen.contains("TOKEN=canary") && seen.contains("PATH="), "{seen}");
    assert!(std::env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("CARGO")), "cargo runs the tests");
    assert!(!seen.lines().any(|line| line.starts_with("CARGO")), "{seen}");
    upstream.shutdown().await;
}

#[tokio::test]
async fn a_process_that_will_not_end_is_killed_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let text = format!(
        "trap '' TERM; (trap '' TERM; exec sleep 600) & echo $$ $! >'{0}.new'; mv '{0}.new' '{0}'; while :; do sleep 600; done",
        file.display()
    );
    let upstream = start(Transport::stdio("/bin/sh", ["-c".to_owned(), text]), |_| {});
    until(|| file.exists()).await;
    let pids = std::fs::read_to_string(&file).unwrap();
    // Killed children of a process that is gone may stand as zombies until they are collected.
    let alive = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.is_empty() && !status.contains("State:\tZ")
    };
    assert!(pids.split_whitespace().all(alive));
    upstream.shutdown().await;
    until(|| !pids.split_whitespace().any(alive)).await;
    assert_eq!(upstream.status(), Status::Stopped);
}

#[tokio::test]
async fn a_servers_question_reaches_the_client_only_if_it_can_only_be_its_own() {
    let asks = r#"
        printf '{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}\n'
        IFS= read -r reply; answer "\"reply\":$reply""#;
    let upstream = start(script(asks), |config| config.relay.elicitation = true);
    let (sender, mut events) = mpsc::channel(8);
    let client = tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let Event::Request { answer, .. } = event {
                answer.send(Ok(raw("{\"action\":\n\"decline\"}").to_owned())).unwrap();
            }
        }
    });
    let key = key();
    let request = UpstreamRequest::new(LEGACY, &key, Method::ToolsCall, raw(r#"{"name":"echo"}"#));
    let reply = text(upstream.request(request, Some(sender)).await);
    assert!(reply.contains(r#""id":"q","result":{"action": "decline"}"#), "{reply}");
    client.await.unwrap();
    // Without anyone to ask, the server is told so.
    let reply = text(call(&upstream, LEGACY, "{}").await);
    assert!(reply.contains("-32601"), "{reply}");
    assert_eq!(upstream.dropped().refused, 1);
}

#[tokio::test]
async fn a_question_that_may_be_about_another_sessions_call_reaches_nobody() {
    // The first call is never answered; the second is asked about something.
    let asks = r#"
        case $line in
        *first*) ;;
        *) printf '{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}\n'
           while IFS= read -r reply; do case $reply in *'"q"'*) break ;; esac; done
           answer "\"reply\":$reply" ;;
        esac"#;
    let upstream = start(script(asks), |config| config.relay.elicitation = true);
    let (one, other) = (SessionKey::new("task_1"), SessionKey::new("task_2"));
    let request = |key, params| UpstreamRequest::new(LEGACY, key, Method::ToolsCall, raw(params));
    let given_up = UpstreamRequest { timeout: Some(Duration::from_millis(50)), ..request(&one, r#"{"name":"first"}"#) };
    assert!(upstream.ready().await);
    assert!(upstream.request(given_up, None).await.unwrap_err().may_have_run());
    let (sender, mut events) = mpsc::channel(8);
    let reply = text(upstream.request(request(&other, r#"{"name":"second"}"#), Some(sender)).await);
    assert!(reply.contains("-32601"), "{reply}");
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn a_server_that_is_silent_on_discovery_is_asked_the_old_way_and_may_still_say_it_is_modern() {
    for (late, modern) in [("", false), (r#"id=$discover; answer '"supportedVersions":["2026-07-28"]'"#, true)] {
        let text = format!(
            r#"
            answer() {{ printf '{{"jsonrpc":"2.0","id":%s,"result":{{%s}}}}\n' "$id" "$1"; }}
            while IFS= read -r line; do
                id=${{line#*'"id":'}}; id=${{id%%,*}}
                case $line in
                *'"method":"server/discover"'*) discover=$id ;;
                *'"method":"initialize"'*) init=$id; {late}
                    id=$init; answer '"protocolVersion":"2025-06-18","capabilities":{{}},"serverInfo":{{}}' ;;
                esac
            done
            "#
        );
        let upstream = start(Transport::stdio("/bin/sh", ["-c".to_owned(), text]), |config| {
            config.start_timeout = Duration::from_secs(6);
        });
        assert!(upstream.ready().await);
        assert_eq!(upstream.era_support().unwrap().modern, modern);
    }
}
