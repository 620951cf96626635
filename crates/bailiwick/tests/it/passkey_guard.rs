//! When a passkey is not added, in a real browser: by an old session, beside one that is there, after one was removed, and by an invitation that was used.

use std::time::Duration;

use bailiwick_core::Clock as _;
use bailiwick_testkit::browser::{Browser, Page};
use http::{Method, StatusCode};
use serde_json::json;

use crate::broker::Broker;
use crate::passkeys::{authenticator, local, sign_in_by_code};
use crate::support::Ahead;

const NEW: &str = "[people.new]\nroles = [\"approver\"]\n[people.next]\nroles = [\"approver\"]\n";

fn account(page: &mut Page<'_>, base: &str) -> String {
    page.goto(&format!("{base}/account")).unwrap();
    page.text().unwrap()
}

fn can_add(page: &mut Page<'_>) -> bool {
    page.evaluate("!!document.querySelector('#add-passkey')").unwrap() == json!(true)
}

/// Sends the form as the page shows it; gives what is shown then.
fn add(page: &mut Page<'_>, until: &str) -> String {
    page.click("#add-passkey").unwrap();
    page.wait_for(&format!("document.body.innerText.includes('{until}')")).unwrap();
    page.text().unwrap()
}

/// A code as a person's own key gets one, by the broker's clock.
fn code(broker: &Broker, clock: &Ahead, who: &str) -> String {
    broker.house.sign_ins.code(who.parse().unwrap(), clock.now())
}

async fn of_browser<T: Send + 'static>(run: impl FnOnce(&mut Page<'_>) -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start().unwrap();
        let mut page = browser.page().unwrap();
        authenticator(&mut page, true);
        run(&mut page)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_passkey_is_added_by_a_page_that_was_asked_for_within_five_minutes_of_the_sign_in() {
    let clock = Ahead::start();
    let broker = Broker::start_at(std::sync::Arc::clone(&clock) as _, &[], |text| text).await;
    let (base, first, moved) = (local(&broker), code(&broker, &clock, "ben"), std::sync::Arc::clone(&clock));
    of_browser(move |page| {
        sign_in_by_code(page, &base, &first);
        moved.go(Duration::from_secs(280));
        account(page, &base);
        // Whoever has the page open may look for the authenticator.
        moved.go(Duration::from_secs(120));
        add(page, "my passkey, added");
    })
    .await;
    // Somebody else's session, which was left open.
    let (base, again, moved) = (local(&broker), code(&broker, &clock, "zoe"), std::sync::Arc::clone(&clock));
    let (before, text, offered) = of_browser(move |page| {
        sign_in_by_code(page, &base, &again);
        account(page, &base);
        let before = can_add(page);
        moved.go(Duration::from_secs(301));
        let text = account(page, &base);
        (before, text, can_add(page))
    })
    .await;
    assert!(before && !offered && text.contains("sign in again to add your first passkey"), "{text}");
    assert!(broker.house.directory.known(&"zoe".parse().unwrap()).is_none_or(|known| known.passkeys.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_passkey_none_is_added_without_one_and_removing_it_without_one_closes_adding_for_a_day() {
    let clock = Ahead::start();
    let broker = Broker::start_at(std::sync::Arc::clone(&clock) as _, &[], |text| text).await;
    let (base, one, two) = (local(&broker), code(&broker, &clock, "ben"), code(&broker, &clock, "ben"));
    let (later, next_day) = (std::sync::Arc::clone(&clock), std::sync::Arc::clone(&clock));
    let text = tokio::task::spawn_blocking(move || {
        let (mut mine, mut stolen) = (Browser::start().unwrap(), Browser::start().unwrap());
        let (mut mine, mut stolen) = (mine.page().unwrap(), stolen.page().unwrap());
        for (page, code) in [(&mut mine, &one), (&mut stolen, &two)] {
            authenticator(page, true);
            sign_in_by_code(page, &base, code);
            account(page, &base);
            assert!(can_add(page), "there is none yet");
        }
        add(&mut mine, "my passkey, added");
        // The page of the other session was asked for before there was one: it is refused all the same.
        let refused = add(&mut stolen, "sign in with a passkey");
        assert!(refused.contains("sign in with a passkey to add another one"), "{refused}");
        let text = account(&mut stolen, &base);
        assert!(!can_add(&mut stolen) && text.contains("sign in with a passkey to add another one"), "{text}");
        // Away with it: then there is none, and none can be put in its place.
        stolen.evaluate("document.querySelector('form[action=\"/account/passkeys/remove\"]').requestSubmit()").unwrap();
        stolen.wait_for("document.body.innerText.includes('None yet')").unwrap();
        later.go(Duration::from_secs(60));
        let text = account(&mut stolen, &base);
        assert!(!can_add(&mut stolen), "{text}");
        text
    })
    .await
    .unwrap();
    assert!(text.contains("a passkey was removed in a session without one"), "{text}");
    let incidents = broker.house.store.incidents(10).await.unwrap();
    assert!(incidents.iter().any(|i| i.kind == "passkey_removed" && i.document.contains("ben")), "{incidents:?}");
    // Nor by an operator's invitation.
    assert_eq!(broker.house.directory.known(&"ben".parse().unwrap()).unwrap().passkeys.len(), 0);
    for (hours, open) in [(23, false), (1, true)] {
        next_day.go(Duration::from_secs(hours * 3600));
        let (base, code) = (local(&broker), code(&broker, &clock, "ben"));
        let offered = of_browser(move |page| {
            sign_in_by_code(page, &base, &code);
            account(page, &base);
            let offered = can_add(page);
            if offered {
                add(page, "my passkey, added");
            }
            offered
        })
        .await;
        assert_eq!(offered, open, "after {hours} hours more");
    }
    assert_eq!(broker.house.directory.known(&"ben".parse().unwrap()).unwrap().passkeys.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_is_for_one_passkey_however_many_were_given() {
    let broker = Broker::start(|text| format!("{text}\n{NEW}")).await;
    let invite = async || broker.by("ops", Method::POST, "/v1/people/new/invite", None).await.json()["code"].as_str().unwrap().to_owned();
    let (base, one, two) = (local(&broker), invite().await, invite().await);
    let used = one.clone();
    tokio::task::spawn_blocking(move || {
        let (mut mine, mut theirs) = (Browser::start().unwrap(), Browser::start().unwrap());
        let (mut mine, mut theirs) = (mine.page().unwrap(), theirs.page().unwrap());
        for (page, code) in [(&mut mine, &one), (&mut theirs, &two)] {
            authenticator(page, true);
            sign_in_by_code(page, &base, code);
        }
        mine.click("#add-passkey").unwrap();
        mine.wait_for("location.pathname === '/sign-in'").unwrap();
        let refused = add(&mut theirs, "the invitation was used already");
        assert!(refused.contains("authn.proof_invalid"), "{refused}");
        let text = account(&mut theirs, &base);
        assert!(!can_add(&mut theirs) && text.contains("the invitation was used already"), "{text}");
    })
    .await
    .unwrap();
    assert_eq!(broker.house.directory.known(&"new".parse().unwrap()).unwrap().passkeys.len(), 1);
    let mut browser = crate::pages::Browser::new(&broker);
    let csrf = crate::pages::hidden(browser.get("/sign-in").await.text(), "csrf");
    assert_eq!(browser.post("/sign-in", &[("csrf", &csrf), ("secret", &used)]).await.status, StatusCode::FORBIDDEN, "a code works once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_invited_who_has_something_or_may_do_nothing_and_nobody_but_an_operator_invites() {
    let provider = "[people.pia]\nroles = [\"approver\"]\nsub = \"pia-1\"\n[sign_in.oidc]\nissuer = \"http://localhost:1\"\nclient_id = \"b\"\n";
    let broker = Broker::start(|text| format!("{text}\n{NEW}{provider}")).await;
    let invite = async |by: &str, who: &str| broker.by(by, Method::POST, &format!("/v1/people/{who}/invite"), None).await;
    for by in ["ana", "ben", "rea", "aud", "zoe"] {
        assert_eq!(invite(by, "new").await.status, StatusCode::FORBIDDEN, "{by}");
    }
    assert_eq!(broker.send(Method::POST, "/v1/people/new/invite", &[], "").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(invite("ops", "nobody").await.status, StatusCode::NOT_FOUND);
    assert_eq!(invite("ops", "No-Name!").await.status, StatusCode::NOT_FOUND);
    for (who, why) in [("ben", "has a key"), ("ops", "has a key"), ("pia", "the provider already")] {
        let refused = invite("ops", who).await;
        assert!(refused.status == StatusCode::CONFLICT && refused.text().contains(why), "{who}: {refused:?}");
    }
    let reason = Some(json!({ "reason": "left" }));
    assert_eq!(broker.by("ops", Method::POST, "/v1/people/next/disable", reason).await.status, StatusCode::OK);
    let refused = invite("ops", "next").await;
    assert!(refused.status == StatusCode::CONFLICT && refused.text().contains("disabled"), "{refused:?}");
    // One that was given before is worth nothing once its person is disabled.
    let given = invite("ops", "new").await;
    assert_eq!(given.status, StatusCode::OK, "{given:?}");
    let given = given.json()["code"].as_str().unwrap().to_owned();
    assert_eq!(broker.by("ops", Method::POST, "/v1/people/new/disable", Some(json!({ "reason": "left" }))).await.status, StatusCode::OK);
    let mut browser = crate::pages::Browser::new(&broker);
    let csrf = crate::pages::hidden(browser.get("/sign-in").await.text(), "csrf");
    assert_eq!(browser.post("/sign-in", &[("csrf", &csrf), ("secret", &given)]).await.status, StatusCode::FORBIDDEN);
    let without = Broker::start(|text| format!("{text}\n{NEW}[sign_in]\npasskeys = false\n")).await;
    let refused = without.by("ops", Method::POST, "/v1/people/new/invite", None).await;
    assert!(refused.status == StatusCode::CONFLICT && refused.text().contains("no passkeys here"), "{refused:?}");
}
