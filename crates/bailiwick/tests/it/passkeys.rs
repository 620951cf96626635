//! Passkeys in a real browser with an authenticator of its own: registered, used to sign in, and to sign the approval of exactly one call.

use bailiwick_identity::PublicKey;
use bailiwick_identity::passkey::{Passkey, Signed, decode};
use bailiwick_identity::person::{Verdict, Word};
use bailiwick_testkit::browser::{Browser, Page};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::broker::Broker;

/// A broker at which approvals of transfers count only with a passkey.
async fn with_step_up() -> Broker {
    let broker = Broker::start(|text| {
        format!("{text}\n[approvals]\nstep_up = \"passkey\"\nstep_up_effects = [\"transfer\"]\n[people.new]\nroles = [\"approver\"]\n")
    })
    .await;
    crate::support::until("the shop is listed", || broker.house.registry.load().tool("shop.refund_order").is_some_and(|t| t.callable())).await;
    broker
}

/// Under the name for which browsers make passkeys on this machine.
pub(crate) fn local(broker: &Broker) -> String {
    format!("http://localhost:{}", broker.address.port())
}

pub(crate) fn authenticator(page: &mut Page<'_>, verifies: bool) -> String {
    page.command("WebAuthn.enable", &json!({})).unwrap();
    let options = json!({
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": true, "hasUserVerification": true, "isUserVerified": verifies,
        "automaticPresenceSimulation": true,
    });
    let added = page.command("WebAuthn.addVirtualAuthenticator", &json!({ "options": options })).unwrap();
    added["authenticatorId"].as_str().unwrap().to_owned()
}

pub(crate) fn sign_in_by_code(page: &mut Page<'_>, base: &str, code: &str) {
    page.goto(&format!("{base}/sign-in")).unwrap();
    page.fill("input[type=password]", code).unwrap();
    page.evaluate("document.querySelector('input[type=password]').form.requestSubmit()").unwrap();
    page.wait_for("location.pathname !== '/sign-in' && document.querySelector('nav')").unwrap();
}

fn register(page: &mut Page<'_>, base: &str) {
    page.goto(&format!("{base}/account")).unwrap();
    page.click("#add-passkey").unwrap();
    page.wait_for("document.body.innerText.includes('my passkey, added')").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passkey_signs_in_and_its_signature_on_record_shows_which_call_was_approved() {
    let broker = with_step_up().await;
    let (_, token, hold) = broker.held().await;
    let (id, digest) = (hold["id"].as_str().unwrap().to_owned(), hold["digest"].as_str().unwrap().to_owned());
    let code = broker.by("ben", Method::POST, "/v1/sign-in-codes", None).await.json()["code"].as_str().unwrap().to_owned();
    let (base, path) = (local(&broker), format!("/approvals/{id}"));
    let (sent, session, before) = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start().unwrap();
        let mut page = browser.page().unwrap();
        authenticator(&mut page, true);
        sign_in_by_code(&mut page, &base, &code);
        page.goto(&format!("{base}{path}")).unwrap();
        let before = page.text().unwrap();
        register(&mut page, &base);
        // Out, and in again with nothing but the passkey.
        page.click("form.sign-out button").unwrap();
        page.wait_for("location.pathname === '/sign-in'").unwrap();
        page.click("#use-passkey").unwrap();
        page.wait_for("location.pathname === '/approvals' && document.querySelector('nav')").unwrap();
        assert!(page.text().unwrap().contains("Signed in as ben"));
        page.goto(&format!("{base}{path}")).unwrap();
        // What the form sends is kept, to be sent once more.
        page.evaluate("document.querySelector('form[data-passkey]').addEventListener('submit', (e) => { if (e.target.dataset.ready === 'yes') sessionStorage.setItem('sent', new URLSearchParams(new FormData(e.target)).toString()); }, true)").unwrap();
        page.click("button.approve").unwrap();
        page.wait_for("document.body.innerText.includes('approved') && !document.querySelector('button.approve')").unwrap();
        let sent = page.evaluate("sessionStorage.getItem('sent')").unwrap().as_str().unwrap().to_owned();
        let cookies = page.command("Network.getCookies", &json!({ "urls": [base] })).unwrap();
        let session = cookies["cookies"].as_array().unwrap().iter().find(|c| c["name"] == "bailiwick_session").unwrap();
        (sent, session["value"].as_str().unwrap().to_owned(), before)
    })
    .await
    .unwrap();
    assert!(before.contains("must be signed with a passkey: register one first"), "{before}");
    let decided = broker.by("ben", Method::GET, &format!("/v1/holds/{id}"), None).await.json();
    let approval = &decided["approvals"][0];
    assert_eq!((decided["state"].as_str(), approval["proof"].as_str()), (Some("approved"), Some("passkey")));
    verifies_alone(&broker, &id, &digest, approval).await;
    assert!(broker.call(&token, "shop.refund_order", Broker::refund()).await["result"].is_object());
    // The same assertion for another call, in the same session: it was made for the first one.
    let (_, _, other) = broker.held().await;
    let form = sent.replace(&digest, other["digest"].as_str().unwrap());
    let path = format!("/approvals/{}", other["id"].as_str().unwrap());
    let (cookie, origin) = (format!("bailiwick_session={session}"), broker.house.urls.base.clone());
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("cookie", cookie.as_str()), ("origin", origin.as_str())];
    let replayed = broker.send(Method::POST, &path, &headers, format!("{form}&decision=approve")).await;
    assert_eq!(replayed.status, StatusCode::UNAUTHORIZED, "{}", replayed.text());
    assert!(replayed.text().contains("authn.proof_invalid"), "{}", replayed.text());
    // And without one, the session alone.
    let plain = format!("csrf={}&digest={}&decision=approve", field(&form, "csrf"), other["digest"].as_str().unwrap());
    let refused = broker.send(Method::POST, &path, &headers, plain).await;
    assert!(refused.text().contains("approval.step_up"), "{}", refused.text());
}

fn field(form: &str, name: &str) -> String {
    url::form_urlencoded::parse(form.as_bytes()).find(|(n, _)| n == name).unwrap().1.into_owned()
}

/// With nothing but the ledger: the public key stands in one entry, the approval in another.
async fn verifies_alone(broker: &Broker, id: &str, digest: &str, approval: &Value) {
    let size = broker.house.store.head().size;
    let rows = broker.house.store.entries(0..size).await.unwrap();
    let entries: Vec<Value> = rows.iter().map(|r| serde_json::from_slice(&r.body).unwrap()).collect();
    let added = entries.iter().find(|e| e["what"] == "passkey_added").unwrap();
    let step = entries.iter().find(|e| e["kind"] == "hold_step" && e["approval"]["proof"] == "passkey").unwrap();
    assert_eq!(&step["approval"]["signature"], &approval["signature"]);
    let passkey = Passkey {
        id: decode(added["passkey"].as_str().unwrap()).unwrap(),
        key: PublicKey::from_jwk(&added["key"]).unwrap(),
        counter: 0,
        can_be_copied: false,
    };
    let signed = Signed::parse(step["approval"]["signature"].as_str().unwrap()).unwrap();
    let verdict = Verdict {
        hold: id.parse().unwrap(),
        digest: digest.parse().unwrap(),
        seen: step["approval"]["seen"].as_str().unwrap().parse().unwrap(),
        word: Word::Approve,
    };
    let site = broker.house.passkey_site().unwrap();
    assert_eq!(signed.verify(verdict, &passkey, &site), Ok(()));
    assert!(signed.verify(Verdict { word: Word::Refuse, ..verdict }, &passkey, &site).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_passkey_is_demanded_neither_a_key_nor_a_session_approves_and_either_refuses() {
    let broker = with_step_up().await;
    let (_, _, hold) = broker.held().await;
    let id: bailiwick_core::HoldId = hold["id"].as_str().unwrap().parse().unwrap();
    let (digest, seen): (bailiwick_core::Digest, bailiwick_core::Digest) =
        (hold["digest"].as_str().unwrap().parse().unwrap(), bailiwick_core::Digest::of(b"words"));
    let ben = broker.house.person("ben").unwrap();
    for proof in ["key", "session"] {
        let saying = bailiwick::approve::Saying { digest, seen, proof, signature: String::new(), reason: String::new() };
        let refused = broker.house.approve(id, &ben, saying).await.unwrap_err();
        assert_eq!(refused.code().slug(), "approval.step_up", "{proof}");
    }
    let saying = bailiwick::approve::Saying { digest, seen, proof: "session", signature: String::new(), reason: "no".to_owned() };
    assert_eq!(broker.house.refuse(id, &ben, saying).await.unwrap().state.word(), "refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authenticator_that_does_not_verify_its_user_registers_nothing() {
    let broker = with_step_up().await;
    let code = broker.by("ben", Method::POST, "/v1/sign-in-codes", None).await.json()["code"].as_str().unwrap().to_owned();
    let base = local(&broker);
    let text = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start().unwrap();
        let mut page = browser.page().unwrap();
        authenticator(&mut page, false);
        sign_in_by_code(&mut page, &base, &code);
        page.goto(&format!("{base}/account")).unwrap();
        page.click("#add-passkey").unwrap();
        page.wait_for("document.querySelector('[data-passkey-problem]:not([hidden])')").unwrap();
        page.text().unwrap()
    })
    .await
    .unwrap();
    assert!(text.contains("The browser gave no passkey"), "{text}");
    assert!(broker.house.directory.known(&"ben".parse().unwrap()).is_none_or(|k| k.passkeys.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_registers_a_first_passkey_and_opens_nothing_else() {
    let broker = with_step_up().await;
    // Who has a key adds a passkey with that; an operator cannot.
    assert_eq!(broker.by("ops", Method::POST, "/v1/people/ben/invite", None).await.status, StatusCode::CONFLICT);
    let invited = broker.by("ops", Method::POST, "/v1/people/new/invite", None).await.json();
    let code = invited["code"].as_str().unwrap().to_owned();
    let base = local(&broker);
    tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start().unwrap();
        let mut page = browser.page().unwrap();
        authenticator(&mut page, true);
        sign_in_by_code(&mut page, &base, &code);
        assert!(page.url().unwrap().ends_with("/account"));
        page.goto(&format!("{base}/approvals")).unwrap();
        assert!(page.url().unwrap().ends_with("/sign-in"), "an invitation opens nothing else");
        page.goto(&format!("{base}/account")).unwrap();
        page.click("#add-passkey").unwrap();
        page.wait_for("location.pathname === '/sign-in'").unwrap();
        page.click("#use-passkey").unwrap();
        page.wait_for("location.pathname === '/approvals' && document.querySelector('nav')").unwrap();
        assert!(page.text().unwrap().contains("Signed in as new"));
    })
    .await
    .unwrap();
    assert_eq!(broker.by("ops", Method::POST, "/v1/people/new/invite", None).await.status, StatusCode::CONFLICT, "not twice");
    // A passkey that was removed signs nobody in.
    let name = "new".parse().unwrap();
    let key = broker.house.directory.known(&name).unwrap().passkeys[0].id.clone();
    assert!(broker.house.directory.by_passkey(&key).is_some());
    // One that an operator removes takes the sessions along that were begun with it, and is an incident; nobody is let in instead.
    let (path, why) = (format!("/v1/people/new/passkeys/{key}/remove"), json!({ "reason": "the phone was lost" }));
    assert_eq!(broker.by("ana", Method::POST, &path, Some(why.clone())).await.status, StatusCode::FORBIDDEN);
    let stands = broker.by("ops", Method::POST, &path, Some(why.clone())).await;
    assert_eq!(stands.status, StatusCode::OK, "{stands:?}");
    let stands = stands.json();
    assert_eq!((stands["passkeys"].clone(), stands["sessions"].clone()), (json!([]), json!([])), "{stands}");
    assert!(broker.house.directory.by_passkey(&key).is_none());
    assert_eq!(broker.by("ops", Method::POST, &path, Some(why)).await.status, StatusCode::NOT_FOUND);
    assert_eq!(broker.by("ops", Method::POST, "/v1/people/new/invite", None).await.status, StatusCode::CONFLICT);
    let incidents = broker.house.store.incidents(10).await.unwrap();
    assert!(incidents.iter().any(|i| i.kind == "passkey_removed" && i.document.contains("the phone was lost")), "{incidents:?}");
}
