//! People sign in with an OpenID provider that nobody here wrote, in a real browser; and everything that a stranger could bring instead is refused.

use bailiwick_testkit::browser::{Browser, Page};
use bailiwick_testkit::servers::oidc::{CLIENT_SECRET, OidcProvider};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::broker::{Answer, Broker};

/// A broker at which `ben` is known by his id at the provider, `ana@example.org` by her address, and others by their group.
async fn with_provider(port: u16) -> Broker {
    let section = format!(
        r#"
[people."ana@example.org"]
roles = ["auditor"]
[sign_in.oidc]
name = "the company"
issuer = "http://localhost:{port}"
client_id = "bailiwick"
client_secret = "oidc"
person_claim = "email"
roles_claim = "groups"
roles = {{ "bailiwick-approvers" = ["approver"] }}
provision = true
"#
    );
    Broker::start_with(&[("oidc", CLIENT_SECRET)], |text| {
        let text = text.replace("[people.ben]\n", "[people.ben]\nsub = \"ben@example.org\"\n");
        format!("{text}{section}")
    })
    .await
}

/// Signs in at the provider's own pages as whoever is named.
fn at_the_provider(page: &mut Page<'_>, base: &str, who: &str) {
    page.goto(&format!("{base}/sign-in")).unwrap();
    page.click("a.button").unwrap();
    page.fill("input[name=login]", who).unwrap();
    page.fill("input[name=password]", "anything").unwrap();
    page.click("button[type=submit]").unwrap();
    page.wait_for("!document.querySelector('input[name=login]') && document.querySelector('button[type=submit], nav, [role=alert]')").unwrap();
    // The provider asks for consent.
    if page.evaluate("location.hostname").unwrap() == "localhost" {
        page.click("button[type=submit]").unwrap();
    }
    page.wait_for(&format!(
        "location.href.startsWith('{base}') && !location.pathname.endsWith('/oidc') && document.querySelector('nav, [role=alert]')"
    ))
    .unwrap();
}

async fn in_a_browser<T: Send + 'static>(run: impl FnOnce(&mut Page<'_>) -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start().unwrap();
        run(&mut browser.page().unwrap())
    })
    .await
    .unwrap()
}

async fn of_people(broker: &Broker) -> Vec<Value> {
    let size = broker.house.store.head().size;
    let rows = broker.house.store.entries(0..size).await.unwrap();
    rows.iter().filter(|r| r.kind == "person").map(|r| serde_json::from_slice(&r.body).unwrap()).collect()
}

fn whats(entries: &[Value]) -> Vec<String> {
    entries.iter().map(|e| format!("{} {}", e["what"].as_str().unwrap(), e["person"].as_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_signs_in_with_a_certified_provider_in_a_real_browser_and_its_logout_ends_session_and_tasks() {
    let port = OidcProvider::port().unwrap();
    let broker = with_provider(port).await;
    let base = broker.house.urls.base.clone();
    let provider = OidcProvider::start(port, &base).unwrap();
    // A task on behalf of ben, and one on behalf of somebody else.
    let token = broker.agent_token("scout", None).await;
    let mut tasks = Vec::new();
    for who in ["ben", "ana"] {
        let asked = json!({ "purpose": "p", "tools": ["shop.show_order"], "on_behalf_of": who });
        let opened = broker.with(&token, Method::POST, "/v1/tasks", Some(asked)).await.json();
        tasks.push(opened["task"]["id"].as_str().unwrap().to_owned());
    }
    let issuer = provider.issuer.clone();
    let at = base.clone();
    let (url, text) = in_a_browser(move |page| {
        at_the_provider(page, &at, "ben@example.org");
        assert!(page.url().unwrap().ends_with("/approvals"), "{}", page.text().unwrap());
        assert!(page.text().unwrap().contains("Signed in as ben"), "{}", page.text().unwrap());
        // Out at the provider, which tells the broker behind the browser's back.
        page.goto(&format!("{issuer}/session/end")).unwrap();
        page.click("button[value=yes]").unwrap();
        page.wait_for("location.pathname.endsWith('/success')").unwrap();
        page.goto(&format!("{at}/approvals")).unwrap();
        (page.url().unwrap(), page.text().unwrap())
    })
    .await;
    assert!(provider.output().contains("backchannel.success"), "{}", provider.output());
    assert!(url.ends_with("/sign-in"), "{url}: {text}");
    let state = async |id: &str| broker.by("ops", Method::GET, &format!("/v1/tasks/{id}"), None).await.json()["state"].as_str().unwrap().to_owned();
    assert_ne!(state(&tasks[0]).await, "open", "ben's");
    assert_eq!(state(&tasks[1]).await, "open", "ana's");
    let entries = of_people(&broker).await;
    assert_eq!(whats(&entries), ["recognized ben", "signed_in ben", "logged_out ben"]);
    assert!(!format!("{entries:?}").contains("canary"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_known_by_address_or_group_comes_in_with_the_roles_of_the_group_and_nobody_else_does() {
    let port = OidcProvider::port().unwrap();
    let broker = with_provider(port).await;
    let base = broker.house.urls.base.clone();
    let _provider = OidcProvider::start(port, &base).unwrap();
    for (who, expected) in [
        ("eve@example.org", "You are not known here"),
        // Known by a `sub`: then no other claim names him.
        ("ben", "You are not known here"),
        ("ana@example.org", "Signed in as ana@example.org"),
        ("dan@example.org", "Signed in as dan@example.org"),
    ] {
        let at = base.clone();
        let text = in_a_browser(move |page| {
            at_the_provider(page, &at, who);
            page.text().unwrap()
        })
        .await;
        assert!(text.contains(expected), "{who}: {text}");
    }
    let people = broker.by("ops", Method::GET, "/v1/people", None).await.json();
    let of = |name: &str| people["people"].as_array().unwrap().iter().find(|p| p["name"] == name).cloned();
    assert_eq!(of("dan@example.org").unwrap()["roles"], json!(["approver"]));
    assert_eq!(of("dan@example.org").unwrap()["known_by"], "provider");
    assert_eq!(of("ana@example.org").unwrap()["roles"], json!(["auditor"]));
    assert!(of("eve@example.org").is_none());
    // Roles by claim count at once: for held calls, and for policy.
    let ana = "ana".parse().unwrap();
    assert!(broker.house.approvers(&ana, &ana).iter().any(|p| p.as_str() == "dan@example.org"));
    let shown = of("dan@example.org").unwrap();
    assert_eq!(shown["sessions"][0]["way"], "oidc");
    let ended = broker.by("ops", Method::POST, "/v1/people/dan@example.org/sign-out", None).await;
    assert_eq!((ended.status, ended.json()["sessions"].clone()), (StatusCode::OK, json!([])));
    let disabled = broker.by("ops", Method::POST, "/v1/people/dan@example.org/disable", Some(json!({ "reason": "left" }))).await;
    assert_eq!((disabled.status, disabled.json()["roles"].clone()), (StatusCode::OK, json!([])));
    assert!(!broker.house.approvers(&ana, &ana).iter().any(|p| p.as_str() == "dan@example.org"));
    let at = base.clone();
    let text = in_a_browser(move |page| {
        at_the_provider(page, &at, "dan@example.org");
        page.text().unwrap()
    })
    .await;
    assert!(text.contains("You are not known here"), "{text}");
}

/// The query parameters of a redirect to the provider, and the cookie that came with it.
fn begun(answer: &Answer) -> (Vec<(String, String)>, String) {
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{answer:?}");
    let to: url::Url = answer.headers["location"].to_str().unwrap().parse().unwrap();
    let cookie = answer.headers["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax") && cookie.contains("Max-Age=600"), "{cookie}");
    (to.query_pairs().into_owned().collect(), cookie.split(';').next().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_its_browser_its_state_its_issuer_or_a_second_time_signs_nobody_in() {
    let port = OidcProvider::port().unwrap();
    let broker = with_provider(port).await;
    let provider = OidcProvider::start(port, &broker.house.urls.base).unwrap();
    let begin = async || begun(&broker.send(Method::GET, "/sign-in/oidc", &[], "").await);
    let back = async |cookie: &str, query: &[(&str, &str)]| {
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        broker.send(Method::GET, &format!("/sign-in/oidc/callback?{query}"), &[("cookie", cookie)], "").await
    };
    let (query, cookie) = begin().await;
    let of = |query: &[(String, String)], name: &str| query.iter().find(|(n, _)| n == name).unwrap().1.clone();
    for (name, value) in [("response_type", "code"), ("code_challenge_method", "S256"), ("client_id", "bailiwick")] {
        assert_eq!(of(&query, name), value);
    }
    let state = of(&query, "state");
    assert_ne!(state, of(&query, "nonce"));
    let issuer = provider.issuer.as_str();
    let good = [("code", "c"), ("state", state.as_str()), ("iss", issuer)];
    let refused = |answer: &Answer, words: &str| {
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
        assert!(answer.text().contains(words), "{words}: {}", answer.text());
        assert!(!answer.headers.get_all("set-cookie").iter().any(|c| c.to_str().unwrap().contains("bailiwick_session")));
    };
    // Another browser; and after that the right one, whose sign-in is still under way.
    refused(&back("", &good).await, "does not belong to a sign-in");
    refused(&back("bailiwick_flow=other", &good).await, "does not belong to a sign-in");
    refused(&back(&format!("{cookie}; bailiwick_flow=planted"), &good).await, "does not belong to a sign-in");
    // A code that the provider never gave.
    refused(&back(&cookie, &good).await, "The provider cannot be asked now");
    // Once: the same answer again finds nothing under way.
    refused(&back(&cookie, &good).await, "does not belong to a sign-in");
    for (wrong, words) in [
        (vec![("code", "c"), ("state", "other"), ("iss", issuer)], "does not belong"),
        (vec![("code", "c"), ("iss", issuer)], "does not belong"),
        (vec![("code", "c"), ("iss", "https://evil.example")], "does not belong"),
        (vec![("error", "access_denied")], "The provider did not sign you in"),
    ] {
        let (query, cookie) = begin().await;
        let state = of(&query, "state");
        let mut all = wrong.clone();
        if !all.iter().any(|(n, _)| *n == "state") && words != "does not belong" || all.iter().any(|(_, v)| v.contains("evil")) {
            all.push(("state", &state));
        }
        if all.iter().any(|(n, _)| *n == "error") {
            all.push(("iss", issuer));
        }
        refused(&back(&cookie, &all).await, words);
    }
    // A provider that names itself in its answers must do so.
    let (query, cookie) = begin().await;
    refused(&back(&cookie, &[("code", "c"), ("state", &of(&query, "state"))]).await, "does not belong");
    assert!(of_people(&broker).await.is_empty());
    let forged = broker.form("/sign-in/oidc/logout", &[("logout_token", "e30.e30.AA")]).await;
    assert_eq!((forged.status, forged.json()["error"].clone()), (StatusCode::BAD_REQUEST, json!("invalid_request")));
    assert_eq!(forged.headers["cache-control"], "no-store");
}
