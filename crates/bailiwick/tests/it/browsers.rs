//! Browsers on other sites: a site that the configuration names reads what an MCP client needs, in a real browser, and nothing else; another reads nothing.

use bailiwick_testkit::browser::Browser;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::broker::Broker;

/// A site that serves one empty page.
async fn site() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let page = axum::Router::new().fallback(|| async { axum::response::Html("<!doctype html><title>site</title>") });
    tokio::spawn(async move { axum::serve(listener, page).await.unwrap() });
    format!("http://{address}")
}

async fn broker(site: &str) -> Broker {
    let listen = format!("[listen]\nallowed_origins = [\"{site}\"]\n");
    let desktop = "[agents.desktop]\nowner = \"ana\"\npurpose = \"p\"\nrisk = \"low\"\nreview_by = \"2099-12-31\"\ntools = [\"shop.*\"]\ninteractive = true\n[clients]\ninteractive = true\nregistration = true\n";
    Broker::start(|text| format!("{}{desktop}", text.replace("[listen]\n", &listen))).await
}

const SHARED: [(&str, &str); 6] = [
    ("/mcp", "POST"),
    ("/mcp/s/shop", "POST"),
    ("/oauth/token", "POST"),
    ("/oauth/register", "POST"),
    ("/.well-known/oauth-authorization-server", "GET"),
    ("/.well-known/oauth-protected-resource/mcp", "GET"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_is_named_is_let_in_where_clients_go_never_with_cookies_and_no_other_is() {
    let broker = broker("https://app.example").await;
    let ask = async |origin: &str, path: &str, method: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", method),
            ("access-control-request-headers", "authorization,content-type,mcp-protocol-version,mcp-param-region,cookie"),
        ];
        broker.send(Method::OPTIONS, path, &headers, "").await
    };
    for (path, method) in SHARED {
        let yes = ask("https://app.example", path, method).await;
        assert_eq!(yes.status, StatusCode::NO_CONTENT, "{path}");
        assert_eq!(yes.headers["access-control-allow-origin"], "https://app.example", "{path}");
        assert!(yes.headers["access-control-allow-methods"].to_str().unwrap().contains(method), "{path}");
        assert_eq!(yes.headers["access-control-allow-headers"], "authorization, content-type, mcp-protocol-version, mcp-param-region", "{path}");
        assert_eq!(yes.headers["vary"], "Origin", "{path}");
        assert!(!yes.headers.contains_key("access-control-allow-credentials"), "{path}");
        for other in ["https://evil.example", "https://app.example.evil.example", "http://app.example", "https://app.example:444", "null"] {
            let no = ask(other, path, method).await;
            assert!(!no.headers.contains_key("access-control-allow-origin") && !no.status.is_success(), "{other} {path}: {no:?}");
        }
        let two = [("origin", "https://app.example"), ("origin", "https://evil.example"), ("access-control-request-method", method)];
        assert!(!broker.send(Method::OPTIONS, path, &two, "").await.headers.contains_key("access-control-allow-origin"), "{path}");
        // A name that was bound to our address: the site is the right one, and we are not who it thinks.
        let rebound = [("origin", "https://app.example"), ("host", "rebound.example"), ("access-control-request-method", method)];
        let rebound = broker.send(Method::OPTIONS, path, &rebound[..], "").await;
        assert!(!rebound.headers.contains_key("access-control-allow-origin"), "{path}: {rebound:?}");
    }
    // A refusal can be read too: it says where to sign in.
    let refused = broker.send(Method::POST, "/mcp", &[("origin", "https://app.example")], "{}").await;
    assert_eq!(
        (refused.status, &refused.headers["access-control-allow-origin"].to_str().unwrap()),
        (StatusCode::UNAUTHORIZED, &"https://app.example")
    );
    assert!(refused.headers["access-control-expose-headers"].to_str().unwrap().contains("WWW-Authenticate"));
    assert_eq!(broker.send(Method::POST, "/mcp", &[("origin", "https://evil.example")], "{}").await.status, StatusCode::FORBIDDEN);
    for path in ["/v1/tasks", "/sign-in", "/approvals", "/oauth/authorize", "/oauth/introspect", "/openapi.json", "/v1/enrol", "/events"] {
        let answer = ask("https://app.example", path, "POST").await;
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{path}: {answer:?}");
        let answer = broker.send(Method::GET, path, &[("origin", "https://app.example")], "").await;
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{path}: {answer:?}");
    }
    // Nobody is named: nobody is let in.
    let closed = Broker::start(|text| text).await;
    let answer =
        closed.send(Method::OPTIONS, "/oauth/token", &[("origin", "https://app.example"), ("access-control-request-method", "POST")], "").await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"), "{answer:?}");
}

/// What a page of a site sees of a request: the status and one header, or the browser's refusal.
fn fetch(base: &str, path: &str, options: &Value) -> String {
    let url = format!("{base}{path}");
    format!(
        "fetch({}, {options}).then(async (r) => ({{ status: r.status, challenge: r.headers.get('www-authenticate'), text: (await r.text()).slice(0, 4000) }}), (e) => ({{ failed: String(e) }}))",
        json!(url)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_in_a_real_browser_finds_its_way_from_the_challenge_to_its_registration_and_another_site_reads_nothing() {
    let (named, other) = (site().await, site().await);
    let broker = broker(&named).await;
    let base = broker.house.urls.base.clone();
    let json_body = |body: Value| {
        let headers = json!({ "content-type": "application/json", "mcp-protocol-version": "2026-07-28", "authorization": "Bearer x" });
        json!({ "method": "POST", "headers": headers, "body": body.to_string() })
    };
    let call = json_body(json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }));
    let register = json!({ "method": "POST", "headers": { "content-type": "application/json" }, "body": json!({ "redirect_uris": ["http://127.0.0.1:1/cb"] }).to_string() });
    let form =
        json!({ "method": "POST", "headers": { "content-type": "application/x-www-form-urlencoded" }, "body": "grant_type=authorization_code" });
    let requests = [
        ("/mcp", call.clone()),
        ("/.well-known/oauth-protected-resource/mcp", json!({ "headers": { "mcp-protocol-version": "2026-07-28" } })),
        ("/.well-known/oauth-authorization-server", json!({ "headers": { "mcp-protocol-version": "2026-07-28" } })),
        ("/oauth/register", register),
        ("/oauth/token", form),
        // What is not for it, and what would bring cookies.
        ("/v1/tasks", json!({})),
        ("/sign-in", json!({})),
        ("/.well-known/oauth-authorization-server", json!({ "credentials": "include" })),
    ];
    let (named_seen, other_seen) = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start().unwrap();
        let mut page = browser.page().unwrap();
        let mut seen = |site: &str| -> Vec<Value> {
            page.goto(&format!("{site}/")).unwrap();
            requests.iter().map(|(path, options)| page.evaluate(&fetch(&base, path, options)).unwrap()).collect()
        };
        (seen(&named), seen(&other))
    })
    .await
    .unwrap();
    let statuses: Vec<Option<u64>> = named_seen.iter().map(|s| s["status"].as_u64()).collect();
    assert_eq!(statuses, [Some(401), Some(200), Some(200), Some(201), Some(400), None, None, None], "{named_seen:?}");
    assert!(named_seen[0]["challenge"].as_str().unwrap().contains("resource_metadata="), "{named_seen:?}");
    assert!(named_seen[3]["text"].as_str().unwrap().contains("client_id"));
    assert!(other_seen.iter().all(|s| s["failed"].is_string()), "{other_seen:?}");
}
