//! Four writers under load, while tasks, tokens, approvals, tools and policies are taken away from under them: what the ledger says
//! afterwards. No entry that stands after a revocation admits what was revoked, whatever the clients saw.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bailiwick::clock::random;
use http::Method;
use serde_json::Value;

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
}

/// What is wrong with these entries: intents that stand behind an entry that took away what they admit.
fn admitted_after_revocation(entries: &[Value]) -> Vec<String> {
    let (mut taken, mut wrong) = (Taken::default(), Vec::new());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for (n, entry) in entries.iter().enumerate() {
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
