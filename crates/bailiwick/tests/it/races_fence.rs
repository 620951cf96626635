//! Four writers under load, while tasks, tokens, approvals, tools and policies are taken away from under them: what the ledger says
//! afterwards. No entry that stands after a revocation admits what was revoked, whatever the clients saw.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bailiwick::clock::random;
use bailiwick_core::{AssertionId, InstanceId, SpiffeId};
use bailiwick_identity::{SigningKey, assertion};
use http::Method;
use serde_json::{Value, json};

use crate::support::{Broker, Client, Place, TaskToken, until};

/// What the entries so far took away.
#[derive(Debug, Default)]
struct Taken {
    /// Tasks that ended, tokens that were revoked, holds that ended.
    gone: BTreeMap<String, usize>,
    /// Tools that may not be called, and the definition of those that may.
    tools: BTreeMap<String, Option<String>>,
    /// The policy in force.
    revision: Option<String>,
    /// Agents that are suspended, people who are disabled, keys that were revoked, copies that were ended: what somebody calls with.
    grounds: BTreeMap<(&'static str, String), usize>,
}

impl Taken {
    /// What an entry says of agents, people, keys and copies.
    fn ground(&mut self, n: usize, entry: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let agent = || text(&entry["agent"]).split("/agent/").nth(1).unwrap_or_default().to_owned();
        match (entry["kind"].as_str().unwrap_or_default(), text(&entry["what"]).as_str()) {
            ("agent", "suspended") => drop(self.grounds.insert(("agent", agent()), n)),
            ("agent", "resumed") => drop(self.grounds.remove(&("agent", agent()))),
            ("agent", "key_revoked") => drop(self.grounds.insert(("key", text(&entry["key"])), n)),
            ("agent", "instance_ended") => drop(self.grounds.insert(("copy", text(&entry["instance"])), n)),
            ("person", "disabled") => drop(self.grounds.insert(("person", text(&entry["person"])), n)),
            ("person", "enabled") => drop(self.grounds.remove(&("person", text(&entry["person"])))),
            _ => {}
        }
    }

    /// What was taken away before that this intent rests on. `keys` has the key that proved the holder of each token.
    fn missing(&self, n: usize, intent: &Value, keys: &BTreeMap<String, String>) -> Vec<String> {
        let text = |member: &str| intent[member].as_str().unwrap_or_default().to_owned();
        let agent = text("agent").split("/agent/").nth(1).unwrap_or_default().split('/').next().unwrap_or_default().to_owned();
        let key = keys.get(&text("token")).cloned().unwrap_or_default();
        let rests = [("agent", agent), ("key", key), ("copy", text("instance")), ("person", text("subject")), ("person", text("owner"))];
        rests.into_iter().filter_map(|on| Some(format!("intent {n} admits a {} that was taken away at {}", on.0, self.grounds.get(&on)?))).collect()
    }
}

/// What is wrong with these entries: intents that stand behind an entry that took away what they admit.
fn admitted_after_revocation(entries: &[Value]) -> Vec<String> {
    admitted(entries, &BTreeMap::new())
}

/// The same, with the key that proved the holder of each token.
fn admitted(entries: &[Value], keys: &BTreeMap<String, String>) -> Vec<String> {
    let (mut taken, mut wrong) = (Taken::default(), Vec::new());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for (n, entry) in entries.iter().enumerate() {
        taken.ground(n, entry);
        if entry["kind"] == "intent" {
            wrong.extend(taken.missing(n, entry, keys));
        }
        match entry["kind"].as_str().unwrap_or_default() {
            "task_ended" => drop(taken.gone.insert(text(&entry["task"]), n)),
            "hold_step" if matches!(text(&entry["step"]).as_str(), "refused" | "expired" | "withdrawn") => {
                taken.gone.insert(text(&entry["hold"]), n);
            }
            "house" if entry["what"] == "token_revoked" => drop(taken.gone.insert(text(&entry["name"]), n)),
            "house" if matches!(text(&entry["what"]).as_str(), "policy" | "started") => taken.revision = Some(text(&entry["digest"])),
            "tool" => {
                let callable = (entry["status"] == "classified").then(|| text(&entry["definition"]));
                taken.tools.insert(text(&entry["tool"]), callable);
            }
            "intent" => {
                for what in ["task", "token", "hold"] {
                    if let Some(since) = taken.gone.get(&text(&entry[what])) {
                        wrong.push(format!("intent {n} admits a {what} that ended at {since}"));
                    }
                }
                // An approval is spent by the first intent that names its hold.
                if entry["hold"].is_string() {
                    taken.gone.insert(text(&entry["hold"]), n);
                }
                if taken.tools.get(&text(&entry["tool"])).is_some_and(|t| t.as_deref() != entry["definition"].as_str()) {
                    wrong.push(format!("intent {n} admits a definition of {} that is not in force", entry["tool"]));
                }
                if taken.revision.as_ref().is_some_and(|r| entry["revision"] != **r) {
                    wrong.push(format!("intent {n} was decided under a policy that is not in force"));
                }
            }
            _ => {}
        }
    }
    wrong
}

/// One writer: reads, writes, and payments that ben approves, by whatever task stands in its place now.
async fn writer(client: Client<'_>, task: &Mutex<TaskToken>, stop: &AtomicBool, passed: &AtomicUsize) {
    let mut n = 0u64;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        let of = task.lock().unwrap().clone();
        let key = format!(r#"{{"key":"{:016x}"}}"#, u64::from_be_bytes(random()));
        let answer = match n % 4 {
            0 => {
                let payment = format!(r#"{{"recipient":"{:016x}","amount":1}}"#, u64::from_be_bytes(random()));
                client.call(&of, "sys.pay", &payment).await;
                for hold in client.pending(&of).await {
                    // Some are approved and some refused, while their tasks end.
                    client.decide("ben", &hold, if n.is_multiple_of(3) { "refuse" } else { "approve" }).await;
                }
                client.call(&of, "sys.pay", &payment).await
            }
            1 => client.call(&of, "sys.put", &key).await,
            _ => client.call(&of, "sys.look", &key).await,
        };
        passed.fetch_add(usize::from(answer.word() == "done"), Ordering::SeqCst);
    }
}

/// Takes away what the writers call with, again and again, and gives them something new: the task, or only its token.
async fn revoke(client: &Client<'_>, task: &Mutex<TaskToken>, turn: u64) {
    let old = task.lock().unwrap().clone();
    if !turn.is_multiple_of(2) {
        let mut form = client.proved("scout");
        form.push(("token", old.token.clone()));
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let answer = client.send(Method::POST, "/oauth/revoke", &[("content-type", "application/x-www-form-urlencoded")], body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    // A task whose token is gone ends as well, a moment later: an agent has only so many open.
    let fresh = client.task("scout").await;
    let answer = client.by("ops", Method::POST, &format!("/v1/tasks/{}/revoke", old.id), None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    *task.lock().unwrap() = fresh;
}

/// Has the system redefine a tool, so that it is set aside, and a reviewer take it back.
async fn redefine(place: &Place, broker: &Broker, turn: usize) {
    let before = place.upstream.lists();
    let member = format!(r#""more{turn}":{{"type":"string"}},"key""#);
    let other =
        format!(r#"{{"name":"extra{turn}","description":"Another.","inputSchema":{{"type":"object"}},"annotations":{{"readOnlyHint":true}}}},"#);
    place.upstream.redefine(|tools| {
        let tools = tools.replacen(r#""key""#, &member, 1);
        // A tool more is another policy schema, and so another revision of the policy.
        if turn.is_multiple_of(2) { format!("{other}{tools}") } else { tools }
    });
    until("the tool is set aside", || {
        place.upstream.lists() > before && broker.house.registry.load().tool("sys.look").is_some_and(|t| !t.callable())
    })
    .await;
    let tool = "sys.look".parse().unwrap();
    let registry = broker.house.registry.load_full();
    let looked = registry.tool("sys.look").unwrap();
    let (definition, effect) = (looked.tool.definition, looked.tool.effect);
    // Between the two, whoever wants to call it is told that there is no such tool.
    tokio::time::sleep(Duration::from_millis(30)).await;
    broker.house.classify(&tool, definition, effect, &"ben".parse().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_entry_after_a_revocation_admits_what_it_revoked_however_many_race() {
    let seconds: u64 = std::env::var("BAILIWICK_RACE_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(6);
    let place = Place::with(|text| text.replace("expires_minutes = 60", "expires_minutes = 60\npending_max = 1000")).await;
    let broker = place.open().await;
    let client = place.client();
    let mut tasks = Vec::new();
    for _ in 0..4 {
        tasks.push(Mutex::new(client.task("scout").await));
    }
    let (stop, passed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let writers = tasks.iter().map(|task| writer(place.client(), task, &stop, &passed));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let revoking = async {
        let mut turn = 0;
        while tokio::time::Instant::now() < deadline {
            turn += 1;
            revoke(&client, &tasks[usize::try_from(turn / 2 % 4).unwrap()], turn).await;
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        stop.store(true, Ordering::SeqCst);
    };
    let redefining = async {
        let mut turn = 0;
        // Its system is asked again after two seconds at the earliest.
        while tokio::time::Instant::now() + Duration::from_secs(2) < deadline {
            turn += 1;
            redefine(&place, &broker, turn).await;
        }
    };
    tokio::join!(futures_util::future::join_all(writers), revoking, redefining);
    let entries = broker.entries().await;
    let count = |is: &dyn Fn(&Value) -> bool| entries.iter().filter(|e| is(e)).count();
    let seen = [
        ("calls", count(&|e| e["kind"] == "intent")),
        ("tasks that ended", count(&|e| e["kind"] == "task_ended" && e["state"] == "closing")),
        ("tokens revoked", count(&|e| e["what"] == "token_revoked")),
        ("tools set aside", count(&|e| e["kind"] == "tool" && e["status"] == "quarantined")),
        ("policies taken anew", count(&|e| e["what"] == "policy")),
        ("holds that ended", count(&|e| e["kind"] == "hold_step" && (e["step"] == "withdrawn" || e["step"] == "refused"))),
        ("approvals spent", count(&|e| e["kind"] == "intent" && e["hold"].is_string())),
    ];
    eprintln!("{} entries: {seen:?}", entries.len());
    assert!(seen.iter().all(|(_, n)| *n > 0) && seen[0].1 > 50, "too little happened to show anything: {seen:?}");
    assert!(passed.load(Ordering::SeqCst) > 50);
    assert_eq!(admitted_after_revocation(&entries), Vec::<String>::new());
    negative_control(&entries);
    broker.check_sound(&place).await;
    broker.stop().await;
    place.verify();
}

/// The same entries with one intent moved behind what took away what it admits: each must be found.
fn negative_control(entries: &[Value]) {
    type Pair = fn(&Value, &Value) -> bool;
    let kinds: [(&str, Pair); 5] = [
        ("task", |intent, entry| entry["kind"] == "task_ended" && entry["task"] == intent["task"]),
        ("token", |intent, entry| entry["what"] == "token_revoked" && entry["name"] == intent["token"]),
        ("definition", |intent, entry| entry["kind"] == "tool" && entry["status"] == "quarantined" && entry["tool"] == intent["tool"]),
        ("policy", |_, entry| entry["what"] == "policy"),
        ("hold", |intent, entry| entry["kind"] == "intent" && entry["hold"].is_string() && entry["hold"] == intent["hold"]),
    ];
    for (what, takes_away) in kinds {
        let pair = entries.iter().enumerate().filter(|(_, e)| e["kind"] == "intent").find_map(|(n, intent)| {
            let at = entries.iter().skip(n).position(|e| takes_away(intent, e))?;
            Some((n, n + at))
        });
        let (intent, after) = pair.unwrap_or_else(|| panic!("no entry took away a {what} that was used"));
        let mut doctored = entries.to_vec();
        doctored.insert(after + 1, entries[intent].clone());
        let wrong = admitted_after_revocation(&doctored);
        assert!(wrong.iter().any(|w| w.contains(what)), "an intent behind the end of its {what} was not found: {wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_revoked_without_end_do_not_stop_the_calls_of_others() {
    let place = Place::new().await;
    let broker = place.open().await;
    let client = place.client();
    let task = client.task("scout").await;
    let flood = async {
        let all = (0..8u8).map(|lane| {
            let house = &broker.house;
            async move {
                for n in 0..60 {
                    house.revoke_token(&format!("lane{lane}-{n}"), house.clock.now().plus(Duration::from_secs(60))).await.unwrap();
                }
            }
        });
        futures_util::future::join_all(all).await;
    };
    let calls = async {
        for n in 0..100 {
            assert_eq!(client.call(&task, "sys.look", &format!(r#"{{"key":"{n}"}}"#)).await.word(), "done");
        }
    };
    tokio::join!(flood, calls);
    let entries = broker.entries().await;
    assert_eq!(entries.iter().filter(|e| e["what"] == "token_revoked").count(), 480, "a revocation is not on record");
    assert_eq!(admitted_after_revocation(&entries), Vec::<String>::new());
}

/// What a person takes away by one request, and the task with whose token clients call meanwhile.
struct Case {
    task: TaskToken,
    target: String,
    /// The request that gives it back.
    back: Option<&'static str>,
}

const GROUNDS: [&str; 6] = ["task", "agent", "person", "key", "copy", "component"];

/// A member of a token of ours, as it says it.
fn says(token: &str, member: &str) -> Option<String> {
    let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Value>(&claims).ok()?[member].as_str().map(str::to_owned)
}

impl Case {
    async fn of(what: &str, place: &Place, broker: &Broker) -> Self {
        let client = place.client();
        let copy = InstanceId::new(broker.house.clock.now(), random());
        let (workload, file) = match what {
            "component" => ("scout/reader", Some("scout.reader.jwk")),
            "key" => ("extra", Some("extra.jwk")),
            _ => ("scout", None),
        };
        let (agent_token, key) = match file {
            None => (client.agent_token(workload, Some(copy)).await, String::new()),
            Some(file) => {
                let (key, _) = SigningKey::generate().unwrap();
                std::fs::write(place.data.join("agents").join(file), key.public().jwk().to_string()).unwrap();
                broker.house.keyring.reload().unwrap();
                (by_key(&client, workload, &key, copy, broker).await, key.public().id().to_string())
            }
        };
        let subject = if what == "person" { "cat" } else { "ana" };
        let asked = json!({ "purpose": "races", "tools": ["sys.look"], "on_behalf_of": subject });
        let opened = client.with_token(&agent_token, Method::POST, "/v1/tasks", &asked.to_string()).await;
        assert_eq!(opened.status, 201, "{opened:?}");
        let opened = opened.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let task = TaskToken { id: text(&opened["task"]["id"]), token: text(&opened["token"]["access_token"]) };
        let (target, back) = match what {
            "task" => (format!("/v1/tasks/{}/revoke", task.id), None),
            "agent" => ("/v1/agents/scout/suspend".to_owned(), Some("/v1/agents/scout/resume")),
            "person" => ("/v1/people/cat/disable".to_owned(), Some("/v1/people/cat/enable")),
            "copy" => (format!("/v1/agents/scout/instances/{copy}/revoke"), None),
            _ => (format!("/v1/agents/{}/keys/{key}/revoke", workload.split('/').next().unwrap()), None),
        };
        Self { task, target, back }
    }
}

/// An agent token for whoever proves itself by this key.
async fn by_key(client: &Client<'_>, workload: &str, key: &SigningKey, copy: InstanceId, broker: &Broker) -> String {
    let now = broker.house.clock.now();
    let id: SpiffeId = format!("spiffe://bailiwick.local/agent/{workload}").parse().unwrap();
    let base = client.base();
    let statement = assertion::Statement { client: &id, audience: &base, jti: AssertionId::new(now, random()), instance: Some(copy), model: None };
    let made = assertion::make(key, &statement, now).unwrap();
    let form = [("grant_type", "client_credentials"), ("client_assertion_type", assertion::ASSERTION_TYPE), ("client_assertion", &made)];
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let answer = client.send(Method::POST, "/oauth/token", &[("content-type", "application/x-www-form-urlencoded")], body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["access_token"].as_str().unwrap().to_owned()
}

/// Eight clients call with the same token while it is taken away what the token rests on; each calls on after the answer, and is refused.
async fn race(place: &Place, case: &Case) {
    let client = place.client();
    let revoked = AtomicBool::new(false);
    let passed = AtomicUsize::new(0);
    let hammer = async || {
        let mut after = 0;
        while after < 2 {
            let known = revoked.load(Ordering::SeqCst);
            let answer = client.call(&case.task, "sys.look", "{}").await;
            assert!(!known || answer.status == 401, "a call passed after the answer of {}: {answer:?}", case.target);
            passed.fetch_add(usize::from(answer.word() == "done"), Ordering::SeqCst);
            after += usize::from(known);
        }
    };
    let revoking = async {
        while passed.load(Ordering::SeqCst) < 16 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answer = client.by("ops", Method::POST, &case.target, Some(json!({ "reason": "races" }))).await;
        assert_eq!(answer.status, 200, "{}: {answer:?}", case.target);
        revoked.store(true, Ordering::SeqCst);
    };
    tokio::join!(revoking, futures_util::future::join_all((0..8).map(|_| hammer())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_entry_after_an_agent_a_person_a_key_a_copy_or_a_component_was_taken_away_admits_what_rests_on_it() {
    const MORE: &str = "[people.cat]\nroles = []\n[agents.extra]\nowner = \"ana\"\npurpose = \"tests\"\nrisk = \"low\"\nreview_by = \"2099-12-31\"\n\
                        tools = [\"sys.look\"]\n[agents.scout.components.reader]\npurpose = \"reads\"\ntools = [\"sys.look\"]\n[systems.sys]";
    let rounds: usize = std::env::var("BAILIWICK_RACE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let place = Place::with(|text| text.replacen("[systems.sys]", MORE, 1)).await;
    let broker = place.open().await;
    let mut keys = BTreeMap::new();
    for what in GROUNDS {
        for _ in 0..rounds {
            let case = Case::of(what, &place, &broker).await;
            let token = &case.task.token;
            keys.extend(says(token, "jti").zip(says(token, "client_key")));
            race(&place, &case).await;
            if let Some(back) = case.back {
                let answer = place.client().by("ops", Method::POST, back, Some(json!({ "reason": "races" }))).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                // A token of the very second is from before the suspension.
                tokio::time::sleep(Duration::from_millis(1100)).await;
            }
        }
    }
    assert_eq!(keys.len(), GROUNDS.len() * rounds, "each token names the key that proved its holder");
    let entries = broker.entries().await;
    let intents = entries.iter().filter(|e| e["kind"] == "intent").count();
    assert!(intents >= 16 * GROUNDS.len() * rounds, "too little happened to show anything: {intents}");
    assert_eq!(admitted(&entries, &keys), Vec::<String>::new());
    // Each kind is found if it is there.
    type Takes = fn(&Value) -> bool;
    let kinds: [(&str, Takes); 4] = [
        ("agent", |e| e["kind"] == "agent" && e["what"] == "suspended"),
        ("person", |e| e["kind"] == "person" && e["what"] == "disabled"),
        ("key", |e| e["what"] == "key_revoked"),
        ("copy", |e| e["what"] == "instance_ended"),
    ];
    for (what, takes) in kinds {
        let at = entries.iter().position(takes).unwrap_or_else(|| panic!("no {what} was taken away"));
        let before = entries.iter().take(at).rposition(|e| e["kind"] == "intent").unwrap();
        let mut doctored = entries.clone();
        doctored.insert(at + 1, entries[before].clone());
        let wrong = admitted(&doctored, &keys);
        assert!(
            wrong.iter().any(|w| w.contains(&format!("admits a {what} that"))),
            "an intent behind the end of its {what} was not found: {wrong:?}"
        );
    }
    broker.check_sound(&place).await;
    broker.stop().await;
    place.verify();
}
