//! Other enforcement points ask: the certification scenario of the Authorization API 1.0 (openid/authzen, `authorization-api-1_0-scenario`),
//! who may ask, and what is on record of it.

use std::path::Path;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::broker::{Answer, Broker};

/// The fixture of the scenario (section 2), as policies of the enforcement point.
pub(crate) const POLICIES: &str = r#"
@id("alice-reads") permit (principal == user::"alice", action == Action::"read", resource is record);
@id("alice-writes") permit (principal == user::"alice", action == Action::"write", resource is record)
unless { resource has status && resource.status == "archived" };
@id("bob-reads") permit (principal == user::"bob", action == Action::"read", resource is record);
@id("admins-write-archived") permit (principal is user, action == Action::"write", resource is record)
when { principal has role && principal.role == "admin" && resource has status && resource.status == "archived" };
@id("soft-deletes") permit (principal == user::"alice", action == Action::"delete", resource is record)
when { context.action has soft && context.action.soft };
@id("purge") @reason("purging needs a second person") permit (principal == user::"alice", action == Action::"purge", resource is record)
when { context.approved.contains("ben") };
@id("breaks") permit (principal, action == Action::"break", resource) when { resource.absent };
@id("tasks-that-read-no-stranger") permit (principal is task, action == Action::"send", resource is record)
unless { principal.labels.contains("untrusted") };
"#;

const POINT: &str = r#"
[enforcement_points.records]
agent = "scout"
directory = "DIRECTORY"
actions = ["read", "write", "delete"]
[enforcement_points.records.subjects.user]
alice = {}
bob = { role = "admin" }
[enforcement_points.records.resources.record]
record-1 = { status = "active" }
record-2 = { status = "archived" }
"#;

pub(crate) struct Pdp {
    pub(crate) broker: Broker,
    pub(crate) token: String,
    _dir: tempfile::TempDir,
}

impl Pdp {
    /// Over http there is nowhere to request access.
    async fn over_http() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("records.cedar"), POLICIES).unwrap();
        let broker = Broker::start(|text| format!("{text}{}", point(dir.path()))).await;
        let token = broker.agent_token("scout", None).await;
        Self { broker, token, _dir: dir }
    }

    async fn start() -> Self {
        Self::with(POLICIES, "").await
    }

    /// With these policies, and more lines in the enforcement point's table.
    pub(crate) async fn with(policies: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("records.cedar"), policies).unwrap();
        // The profile's transport requirements, and its discovery, are about https.
        let broker = Broker::over_tls(|text| format!("{text}{}", point(dir.path()).replace("actions =", &format!("{more}\nactions =")))).await;
        let token = broker.agent_token("scout", None).await;
        Self { broker, token, _dir: dir }
    }

    pub(crate) async fn raw(&self, path: &str, more: &[(&str, &str)], content_type: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![("authorization", bearer.as_str()), ("content-type", content_type)];
        headers.extend_from_slice(more);
        self.broker.send(Method::POST, path, &headers, body.to_owned()).await
    }

    pub(crate) async fn ask(&self, path: &str, body: Value) -> Answer {
        self.raw(path, &[], "application/json", &body.to_string()).await
    }

    async fn decision(&self, body: Value) -> bool {
        let answer = self.ask("/access/v1/evaluation", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert!(answer.headers["content-type"].to_str().unwrap().starts_with("application/json"));
        answer.json()["decision"].as_bool().unwrap()
    }

    async fn decisions(&self, body: Value) -> Vec<bool> {
        let answer = self.ask("/access/v1/evaluations", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()["evaluations"].as_array().unwrap().iter().map(|e| e["decision"].as_bool().unwrap()).collect()
    }

    async fn found(&self, what: &str, body: Value) -> Vec<Value> {
        let answer = self.ask(&format!("/access/v1/search/{what}"), body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()["results"].as_array().unwrap().clone()
    }

    pub(crate) async fn on_record(&self) -> Vec<Value> {
        crate::support::entries(&self.broker.house).await.into_iter().filter(|e| e["kind"] == "evaluation").collect()
    }
}

fn point(directory: &Path) -> String {
    POINT.replace("DIRECTORY", directory.to_str().unwrap())
}

pub(crate) fn user(id: &str) -> Value {
    json!({ "type": "user", "id": id })
}

fn admin() -> Value {
    json!({ "type": "user", "id": "bob", "properties": { "role": "admin" } })
}

pub(crate) fn record(id: &str) -> Value {
    json!({ "type": "record", "id": id })
}

fn archived() -> Value {
    json!({ "type": "record", "id": "record-2", "properties": { "status": "archived" } })
}

pub(crate) fn question(subject: Value, action: &str, resource: Value) -> Value {
    json!({ "subject": subject, "action": { "name": action }, "resource": resource })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_of_ours_has_the_labels_that_we_know_whatever_an_enforcement_point_says_of_it() {
    let pdp = Pdp::start().await;
    let live = {
        crate::support::until("the shop is listed", || pdp.broker.house.registry.load().tool("shop.show_order").is_some_and(|t| t.callable())).await;
        let (task, _) = pdp.broker.task(&pdp.token).await;
        pdp.broker.house.live.find(task["id"].as_str().unwrap().parse().unwrap()).unwrap()
    };
    let ask = |id: &str, properties: Value| {
        let subject = json!({ "type": "task", "id": id, "properties": properties });
        pdp.decision(json!({ "subject": subject, "action": { "name": "send" }, "resource": { "type": "record", "id": "record-1" } }))
    };
    let id = live.task.id.to_string();
    assert!(ask(&id, json!({})).await, "it has read nothing");
    read_a_stranger(&pdp.broker, &live).await;
    assert!(!ask(&id, json!({})).await);
    assert!(!ask(&id, json!({ "labels": [] })).await, "what the question says of it does not count");
    // Nor does it in a search, which would promise what is then denied.
    let subject = json!({ "type": "task", "id": id, "properties": { "labels": [] } });
    let searched = json!({ "subject": subject, "action": { "name": "send" }, "resource": { "type": "record" } });
    assert_eq!(pdp.found("resource", searched).await, Vec::<Value>::new());
    // One that never was has no labels to be read: no.
    let never = bailiwick_core::TaskId::new(live.task.opened_at, [9; 10]).to_string();
    assert!(!ask(&never, json!({ "labels": [] })).await);
}

/// The task is given what a stranger could have written.
async fn read_a_stranger(broker: &Broker, live: &bailiwick::live::LiveTask) {
    let (whole, labels) = (live.task.whole(), bailiwick_core::Labels::new(["untrusted".parse().unwrap()]).unwrap());
    let put = labels.clone();
    let entry = bailiwick_store::Entry::new("labelled", b"{\"kind\":\"labelled\"}".to_vec());
    broker.house.store.write(move |w| w.label_whole(whole, &put, entry)).await.unwrap();
    live.label(&labels).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_has_ended_keeps_its_labels_and_policy_is_told_that_it_is_not_open() {
    let policies = r#"
@id("not-after-strangers") permit (principal is task, action == Action::"send", resource is record)
unless { principal has labels && principal.labels.contains("untrusted") };
@id("while-it-is-open") permit (principal is task, action == Action::"write", resource is record)
when { principal.open };
"#;
    let pdp = Pdp::with(policies, "").await;
    crate::support::until("the shop is listed", || pdp.broker.house.registry.load().tool("shop.show_order").is_some_and(|t| t.callable())).await;
    let ask = |id: &str, action: &'static str| {
        let subject = json!({ "type": "task", "id": id, "properties": { "labels": [], "open": true } });
        pdp.decision(question(subject, action, record("record-1")))
    };
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let (task, token) = pdp.broker.task(&pdp.token).await;
        tasks.push((task["id"].as_str().unwrap().to_owned(), token));
    }
    let [(read, token), (clean, other)] = tasks.try_into().unwrap();
    read_a_stranger(&pdp.broker, &pdp.broker.house.live.find(read.parse().unwrap()).unwrap()).await;
    assert_eq!((ask(&read, "send").await, ask(&clean, "send").await), (false, true));
    assert_eq!((ask(&read, "write").await, ask(&clean, "write").await), (true, true));
    for (task, token) in [(&read, &token), (&clean, &other)] {
        let ended = pdp.broker.with(token, Method::POST, &format!("/v1/tasks/{task}/complete"), None).await;
        assert_eq!(ended.status, StatusCode::OK, "{ended:?}");
    }
    assert_eq!((ask(&read, "send").await, ask(&clean, "send").await), (false, true), "its end washes nothing off");
    assert_eq!((ask(&read, "write").await, ask(&clean, "write").await), (false, false), "whatever the question says");
    let never = bailiwick_core::TaskId::new(bailiwick_core::Timestamp::from_millis(1), [9; 10]).to_string();
    assert!(!ask(&never, "write").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certification_scenario_basic_passes() {
    let pdp = Pdp::start().await;
    // The eight decisions of the fixture.
    assert!(pdp.decision(question(user("alice"), "read", record("record-1"))).await);
    assert!(pdp.decision(question(user("alice"), "write", record("record-1"))).await);
    assert!(pdp.decision(question(user("bob"), "read", record("record-1"))).await);
    assert!(!pdp.decision(question(user("bob"), "write", record("record-1"))).await);
    assert!(!pdp.decision(question(user("alice"), "write", archived())).await);
    assert!(pdp.decision(question(admin(), "write", archived())).await);
    for soft in [true, false] {
        let asked =
            json!({ "subject": user("alice"), "action": { "name": "delete", "properties": { "soft": soft } }, "resource": record("record-1") });
        assert_eq!(pdp.decision(asked).await, soft);
    }
    // 4.2.3, 4.2.8, 4.2.9: context, more properties, unknown fields.
    let mut asked = question(user("alice"), "read", record("record-1"));
    asked["context"] = json!({ "time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1" });
    asked["foo"] = json!("bar");
    asked["futureField"] = json!({ "nested": true });
    asked["subject"]["properties"] = json!({ "department": "Sales", "role": "manager" });
    asked["action"]["properties"] = json!({ "method": "GET" });
    asked["resource"]["properties"] = json!({ "status": "active", "owner": "bob" });
    assert!(pdp.decision(asked).await);
    // 4.4: what is missing or of another type.
    let whole = question(user("alice"), "read", record("record-1"));
    for pointer in ["/subject", "/action", "/resource", "/subject/type", "/subject/id", "/action/name", "/resource/type", "/resource/id"] {
        let mut asked = whole.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        asked.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
        assert_eq!(pdp.ask("/access/v1/evaluation", asked).await.status, StatusCode::BAD_REQUEST, "{pointer}");
    }
    for (pointer, value) in [("/subject", json!("alice")), ("/action/name", json!(123)), ("/resource", json!([])), ("/context", json!("x"))] {
        let mut asked = whole.clone();
        asked["context"] = json!({});
        *asked.pointer_mut(pointer).unwrap() = value;
        assert_eq!(pdp.ask("/access/v1/evaluation", asked).await.status, StatusCode::BAD_REQUEST, "{pointer}");
    }
    for (content_type, body) in [("text/plain", whole.to_string()), ("application/json", "{".to_owned()), ("application/json", String::new())] {
        assert_eq!(pdp.raw("/access/v1/evaluation", &[], content_type, &body).await.status, StatusCode::BAD_REQUEST, "{content_type} {body}");
    }
    // 4.5 and 4.6: the request's id, and the same answer again.
    let with_id = pdp.raw("/access/v1/evaluation", &[("x-request-id", "abc-1")], "application/json", &whole.to_string()).await;
    assert_eq!(with_id.headers["x-request-id"], "abc-1");
    let refused = pdp.raw("/access/v1/evaluation", &[("x-request-id", "abc-2")], "application/json", "{").await;
    assert_eq!(refused.headers["x-request-id"], "abc-2");
    for _ in 0..5 {
        assert!(pdp.decision(whole.clone()).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certification_scenario_batch_passes() {
    let pdp = Pdp::start().await;
    let asked = json!({ "subject": user("alice"), "action": { "name": "read" },
        "evaluations": [{ "resource": record("record-1") }, { "resource": record("record-2") }] });
    assert_eq!(pdp.decisions(asked).await.len(), 2);
    let asked = json!({ "subject": user("bob"), "resource": record("record-1"), "evaluations": [{ "action": { "name": "read" } }, { "action": { "name": "write" } }] });
    assert_eq!(pdp.decisions(asked).await, [true, false]);
    let active = json!({ "type": "record", "id": "record-1", "properties": { "status": "active" } });
    let asked =
        json!({ "subject": user("alice"), "action": { "name": "write" }, "evaluations": [{ "resource": active }, { "resource": archived() }] });
    assert_eq!(pdp.decisions(asked).await, [true, false]);
    let asked =
        json!({ "action": { "name": "write" }, "resource": archived(), "evaluations": [{ "subject": user("alice") }, { "subject": admin() }] });
    assert_eq!(pdp.decisions(asked).await, [false, true]);
    let (one, two) = (question(user("alice"), "read", record("record-1")), question(user("bob"), "write", record("record-1")));
    assert_eq!(pdp.decisions(json!({ "evaluations": [one, two] })).await, [true, false]);
    let asked = json!({ "subject": user("alice"), "action": { "name": "read" }, "context": { "time": "2025-06-27T18:03-07:00" }, "evaluations": [
        { "resource": record("record-1") }, { "resource": record("record-2"), "context": { "time": "2025-06-27T19:00-07:00", "source": "batch-override" } }] });
    assert_eq!(pdp.decisions(asked).await.len(), 2);
    let asked =
        json!({ "subject": user("alice"), "action": { "name": "write" }, "resource": active, "evaluations": [{}, { "resource": archived() }] });
    assert_eq!(pdp.decisions(asked).await, [true, false]);
    // 5.4.1: one that is not whole is denied for itself.
    let asked = json!({ "subject": user("alice"), "action": { "name": "read" }, "options": { "evaluations_semantic": "execute_all" },
        "evaluations": [{ "resource": record("record-1") }, {}, { "resource": "x" }] });
    assert_eq!(pdp.decisions(asked).await, [true, false, false]);
    // 5.4.2 and 5.4.3: none is one.
    let mut asked = question(user("alice"), "read", record("record-1"));
    assert_eq!(pdp.ask("/access/v1/evaluations", asked.clone()).await.json()["decision"], true);
    asked["evaluations"] = json!([]);
    assert_eq!(pdp.ask("/access/v1/evaluations", asked).await.json()["decision"], true);
    // The other two ways to go through them.
    let each = json!([{ "action": { "name": "read" } }, { "action": { "name": "break" } }, { "action": { "name": "write" } }]);
    let with = |semantic: &str| json!({ "subject": user("alice"), "resource": record("record-1"), "evaluations": each, "options": { "evaluations_semantic": semantic } });
    assert_eq!(pdp.decisions(with("deny_on_first_deny")).await, [true, false]);
    assert_eq!(pdp.decisions(with("permit_on_first_permit")).await, [true]);
    assert_eq!(pdp.ask("/access/v1/evaluations", with("perhaps")).await.status, StatusCode::BAD_REQUEST);
    let many: Vec<Value> = (0..101).map(|_| json!({})).collect();
    assert_eq!(pdp.ask("/access/v1/evaluations", json!({ "evaluations": many })).await.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certification_scenario_search_and_discovery_pass() {
    let pdp = Pdp::start().await;
    let readers = json!({ "subject": { "type": "user" }, "action": { "name": "read" }, "resource": record("record-1") });
    let found = pdp.found("subject", readers.clone()).await;
    assert_eq!(found, [user("alice"), user("bob")]);
    for (pointer, value) in [("subject", user("alice")), ("context", json!({ "ip": "192.168.1.1" })), ("page", json!({ "limit": 1 }))] {
        let mut asked = readers.clone();
        asked[pointer] = value;
        assert_eq!(pdp.found("subject", asked).await, found, "{pointer}");
    }
    let writers = json!({ "subject": { "type": "user" }, "action": { "name": "write" }, "resource": archived() });
    assert_eq!(pdp.found("subject", writers).await, [user("bob")]);
    let readable = json!({ "subject": user("alice"), "action": { "name": "read" }, "resource": { "type": "record" } });
    assert!(pdp.found("resource", readable.clone()).await.contains(&record("record-1")));
    let mut with_id = readable.clone();
    with_id["resource"]["id"] = json!("record-1");
    assert_eq!(pdp.found("resource", with_id).await, pdp.found("resource", readable).await);
    let writable = json!({ "subject": admin(), "action": { "name": "write" }, "resource": { "type": "record" } });
    assert!(pdp.found("resource", writable).await.contains(&record("record-2")));
    let possible = pdp.found("action", json!({ "subject": user("alice"), "resource": record("record-1") })).await;
    assert!(possible.contains(&json!({ "name": "read" })) && possible.contains(&json!({ "name": "write" })), "{possible:?}");
    assert_eq!(
        pdp.found("action", json!({ "subject": admin(), "resource": archived() })).await,
        [json!({ "name": "read" }), json!({ "name": "write" })]
    );
    // 6.6: what is not known.
    assert!(pdp.found("action", json!({ "subject": user("nonexistent-user"), "resource": record("record-1") })).await.is_empty());
    assert!(
        pdp.found("subject", json!({ "subject": { "type": "spaceship" }, "action": { "name": "read" }, "resource": record("record-1") }))
            .await
            .is_empty()
    );
    // 6.7: what is missing.
    for (what, asked) in [
        ("subject", json!({ "subject": { "type": "user" }, "resource": record("record-1") })),
        ("resource", json!({ "action": { "name": "read" }, "resource": { "type": "record" } })),
        ("action", json!({ "subject": user("alice") })),
        ("subject", json!({ "subject": { "type": "user" }, "action": { "name": "read" }, "resource": { "type": "record" } })),
        ("resource", json!({ "subject": { "type": "user" }, "action": { "name": "read" }, "resource": { "type": "record" } })),
        ("action", json!({ "subject": { "type": "user" }, "resource": record("record-1") })),
    ] {
        assert_eq!(pdp.ask(&format!("/access/v1/search/{what}"), asked.clone()).await.status, StatusCode::BAD_REQUEST, "{what} {asked}");
    }
    let metadata = pdp.broker.send(Method::GET, "/.well-known/authzen-configuration", &[("x-request-id", "m")], "").await;
    let base = &pdp.broker.house.urls.base;
    assert!(base.starts_with("https://"));
    assert_eq!(metadata.headers["content-type"], "application/json");
    let said = metadata.json();
    assert_eq!(said["policy_decision_point"], *base);
    for name in ["access_evaluation", "access_evaluations", "search_subject", "search_resource", "search_action", "access_request"] {
        let endpoint = said[format!("{name}_endpoint")].as_str().unwrap();
        assert!(endpoint.starts_with(&format!("{base}/access/v1/")), "{name}: {endpoint}");
    }
    assert_eq!(said["capabilities"], json!(["urn:openid:authzen:capability:access-request"]));
    let keys = pdp.broker.send(Method::GET, "/.well-known/jwks.json", &[], "").await.json();
    assert_eq!((&said["jwks_uri"], keys["keys"].as_array().unwrap().len()), (&json!(format!("{base}/.well-known/jwks.json")), 1));
    assert_eq!(metadata.headers["x-request-id"], "m");
    // A search permits nothing, and so leaves no permit on record.
    assert!(pdp.on_record().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permit_is_on_record_before_it_is_told_and_what_needs_a_person_is_no_permit() {
    let pdp = Pdp::start().await;
    let permitted = pdp.ask("/access/v1/evaluation", question(user("alice"), "read", record("record-1"))).await.json();
    assert_eq!(permitted["context"]["policies"], json!(["alice-reads"]));
    let entries = pdp.on_record().await;
    let entry = entries.last().unwrap();
    assert_eq!(
        (&entry["point"], &entry["principal"], &entry["action"], &entry["object"], &entry["policies"][0]["id"]),
        (&json!("records"), &json!("alice"), &json!("read"), &json!("record-1"), &json!("alice-reads"))
    );
    assert_eq!(entry["agent"], pdp.broker.spiffe_id("scout").as_str());
    for (action, reason) in [("absent", "policy.denied"), ("break", "policy.error"), ("purge", "approval_required")] {
        let denied = pdp.ask("/access/v1/evaluation", question(user("alice"), action, record("record-1"))).await.json();
        assert_eq!((&denied["decision"], &denied["context"]["reason"]), (&json!(false), &json!(reason)), "{denied}");
        if action == "purge" {
            assert_eq!(denied["context"]["approvers"], json!(["ben"]));
        }
    }
    // An enforcement point cannot say itself that somebody approved.
    let mut claimed = question(user("alice"), "purge", record("record-1"));
    claimed["context"] = json!({ "approved": ["ben"] });
    assert!(!pdp.decision(claimed).await);
    assert_eq!(pdp.on_record().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tls_no_denial_offers_a_request_for_access() {
    let pdp = Pdp::over_http().await;
    let denied = pdp.ask("/access/v1/evaluation", question(user("alice"), "purge", record("record-1"))).await.json();
    assert_eq!((&denied["context"]["reason"], &denied["context"]["access_request"]), (&json!("approval_required"), &Value::Null));
    let metadata = pdp.broker.send(Method::GET, "/.well-known/authzen-configuration", &[], "").await.json();
    assert!(metadata.get("access_request_endpoint").is_none() && metadata.get("capabilities").is_none(), "{metadata}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_agent_that_is_an_enforcement_point_asks() {
    let pdp = Pdp::start().await;
    let asked = question(user("alice"), "read", record("record-1"));
    let other = pdp.broker.agent_token("other", None).await;
    for path in ["evaluation", "evaluations", "search/subject", "search/resource", "search/action"].map(|p| format!("/access/v1/{p}")) {
        let refused = pdp.broker.with(&other, Method::POST, &path, Some(asked.clone())).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::FORBIDDEN, "authz.role"), "{path}");
        let by_person = pdp.broker.by("ops", Method::POST, &path, Some(asked.clone())).await;
        assert_eq!(by_person.status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(
            pdp.broker.send(Method::POST, &path, &[("content-type", "application/json")], asked.to_string()).await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    assert!(pdp.on_record().await.is_empty());
}
