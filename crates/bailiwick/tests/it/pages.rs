//! The pages in a browser: signing in by a one-time code, and deciding with a form that only our own page can send.

use http::{Method, StatusCode};
use serde_json::Value;

use crate::broker::{Answer, Broker};

/// A browser with a cookie jar of two.
pub(crate) struct Browser<'a> {
    broker: &'a Broker,
    cookies: Vec<(String, String)>,
}

impl<'a> Browser<'a> {
    pub(crate) const fn new(broker: &'a Broker) -> Self {
        Self { broker, cookies: Vec::new() }
    }

    pub(crate) async fn send(&mut self, method: Method, target: &str, origin: Option<&str>, fields: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let cookies = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("; ");
        let mut headers = vec![("content-type", "application/x-www-form-urlencoded"), ("cookie", cookies.as_str())];
        if let Some(origin) = origin {
            headers.push(("origin", origin));
        }
        let answer = self.broker.send(method, target, &headers, body).await;
        for set in answer.headers.get_all("set-cookie") {
            let text = set.to_str().unwrap();
            assert!(text.contains("HttpOnly") && text.contains("SameSite=Strict") && text.contains("Path=/"), "{text}");
            let (name, value) = text.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.retain(|(n, _)| n != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        answer
    }

    pub(crate) async fn get(&mut self, target: &str) -> Answer {
        self.send(Method::GET, target, None, &[]).await
    }

    pub(crate) async fn post(&mut self, target: &str, fields: &[(&str, &str)]) -> Answer {
        let origin = self.broker.house.urls.base.clone();
        self.send(Method::POST, target, Some(&origin), fields).await
    }

    /// Signs in as this person; gives the answer to the form.
    pub(crate) async fn sign_in(&mut self, name: &str, hold: &str) -> Answer {
        let code = self.broker.by(name, Method::POST, "/v1/sign-in-codes", None).await.json();
        let form = self.get("/sign-in").await;
        let csrf = hidden(form.text(), "csrf");
        self.post("/sign-in", &[("csrf", &csrf), ("secret", code["code"].as_str().unwrap()), ("hold", hold)]).await
    }
}

/// The value of a hidden field.
pub(crate) fn hidden(html: &str, name: &str) -> String {
    let field = format!("name=\"{name}\" value=\"");
    let rest = html.split(&field).nth(1).unwrap_or_else(|| panic!("{name} in {html}"));
    rest.split('"').next().unwrap().to_owned()
}

fn path(hold: &Value) -> String {
    format!("/approvals/{}", hold["id"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_signs_in_once_and_leads_to_the_held_call() {
    let broker = Broker::ready().await;
    let (_, _, hold) = broker.held().await;
    let id = hold["id"].as_str().unwrap();
    let mut browser = Browser::new(&broker);
    assert_eq!(browser.get(&path(&hold)).await.headers["location"], format!("/sign-in?hold={id}"));
    let wrong = {
        let csrf = hidden(browser.get("/sign-in").await.text(), "csrf");
        browser.post("/sign-in", &[("csrf", &csrf), ("secret", "guess")]).await
    };
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);
    let signed_in = browser.sign_in("ben", id).await;
    assert_eq!((signed_in.status, signed_in.headers["location"].to_str().unwrap()), (StatusCode::SEE_OTHER, path(&hold).as_str()));
    let list = browser.get("/approvals").await;
    assert!(list.text().contains("Waiting for you") && list.text().contains(id), "{}", list.text());
    let page = browser.get(&path(&hold)).await;
    for part in ["answer ticket 7", "arrived broken", broker.spiffe_id("scout").as_str(), hold["digest"].as_str().unwrap(), "Approve this call once"]
    {
        assert!(page.text().contains(part), "{part}");
    }
    let csrf = hidden(list.text(), "csrf");
    assert_eq!(browser.post("/sign-out", &[("csrf", &csrf)]).await.headers["location"], "/sign-in");
    assert_eq!(browser.get("/approvals").await.status, StatusCode::SEE_OTHER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_needs_the_session_the_token_our_own_page_and_the_digest_that_was_shown() {
    let broker = Broker::ready().await;
    let (_, token, hold) = broker.held().await;
    let (page, base) = (path(&hold), broker.house.urls.base.clone());
    let digest = hold["digest"].as_str().unwrap();
    let mut browser = Browser::new(&broker);
    browser.sign_in("ben", "").await;
    let csrf = hidden(browser.get(&page).await.text(), "csrf");
    let form = [("csrf", csrf.as_str()), ("digest", digest), ("decision", "approve"), ("reason", "fine\r\nby me")];
    let with = |name: &str, value: &'static str| form.map(|(n, v)| if n == name { (n, value) } else { (n, v) });
    let zeros: &'static str = Box::leak("0".repeat(64).into_boxed_str());
    for origin in [None, Some("null"), Some("https://evil.example"), Some("http://127.0.0.1:1")] {
        assert_eq!(browser.send(Method::POST, &page, origin, &form).await.status, StatusCode::FORBIDDEN, "{origin:?}");
    }
    assert_eq!(browser.send(Method::POST, &page, Some(&base), &with("csrf", "other")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(browser.send(Method::POST, &page, Some(&base), &with("digest", zeros)).await.status, StatusCode::CONFLICT);
    assert_eq!(browser.send(Method::POST, &page, Some(&base), &with("decision", "perhaps")).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(Browser::new(&broker).post(&page, &form).await.status, StatusCode::UNAUTHORIZED);
    let still = broker.by("ben", Method::GET, &format!("/v1/holds/{}", hold["id"].as_str().unwrap()), None).await.json();
    assert_eq!(still["state"], "pending");

    let decided = browser.post(&page, &form).await;
    assert_eq!((decided.status, decided.headers["location"].to_str().unwrap()), (StatusCode::SEE_OTHER, page.as_str()), "{decided:?}");
    let over = browser.get(&page).await;
    assert!(over.text().contains("approved") && !over.text().contains("Approve this call once"));
    let after = broker.by("ben", Method::GET, &format!("/v1/holds/{}", hold["id"].as_str().unwrap()), None).await.json();
    assert_eq!((after["approvals"][0]["proof"].as_str(), after["approvals"][0]["signature"].as_str()), (Some("session"), Some("")));
    assert!(broker.call(&token, "shop.refund_order", Broker::refund()).await["result"].is_object());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_sees_only_what_its_person_may_see_and_says_so_as_a_page() {
    let broker = Broker::ready().await;
    let (_, _, hold) = broker.held().await;
    let mut browser = Browser::new(&broker);
    browser.sign_in("zoe", "").await;
    let answer = browser.get(&path(&hold)).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(!answer.text().contains("refund"));
    let mut owner = Browser::new(&broker);
    owner.sign_in("ana", "").await;
    let page = owner.get(&path(&hold)).await;
    assert!(page.text().contains("You cannot decide this call"), "{}", page.text());
}
