//! A system that shakes hands asks its question in the middle of a call, and a client of 2026-07-28 answers it with its next request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::{Answer, Broker, Client, Place, TOOLS, TaskToken, modern};

/// A server of 2025-11-25 whose tools ask for a name before they answer.
struct Asking {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Value>>>,
    /// The client's answers, by the id of the question.
    answers: watch::Sender<Vec<Value>>,
    /// How often its sessions were forgotten.
    forgotten: watch::Sender<usize>,
}

impl Asking {
    async fn start() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asking = Arc::new(Self { address, seen: Arc::default(), answers: watch::Sender::default(), forgotten: watch::Sender::default() });
        let shared = Arc::clone(&asking);
        let router = axum::Router::new().fallback(move |method: Method, headers: HeaderMap, body: Bytes| {
            let shared = Arc::clone(&shared);
            async move { shared.answer(&method, &headers, &body) }
        });
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        asking
    }

    fn calls(&self) -> usize {
        self.seen.lock().unwrap().iter().filter(|m| m["method"] == "tools/call").count()
    }

    fn answer(self: &Arc<Self>, method: &Method, headers: &HeaderMap, body: &[u8]) -> Response {
        let message: Value = serde_json::from_slice(body).unwrap_or_default();
        self.seen.lock().unwrap().push(message.clone());
        let id = message["id"].clone();
        let result = |result: Value| json(200, &json!({ "jsonrpc": "2.0", "id": id, "result": result }));
        let session = format!("s{}", *self.forgotten.borrow());
        let known = headers.get("mcp-session-id").is_none_or(|s| s.as_bytes() == session.as_bytes());
        match (method.as_str(), message["method"].as_str()) {
            ("POST", Some("initialize")) => {
                let about =
                    json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": { "name": "a", "version": "1" } });
                let mut response = result(about);
                response.headers_mut().insert("mcp-session-id", session.parse().unwrap());
                response
            }
            ("POST", _) if !known => json(404, &json!({ "jsonrpc": "2.0", "id": null, "error": { "code": -32001, "message": "Session not found" } })),
            ("POST", Some("tools/list")) => {
                let tools: Value = serde_json::from_str(&format!("[{TOOLS}]")).unwrap();
                result(json!({ "tools": tools }))
            }
            ("POST", Some("tools/call")) if message["params"]["name"] == "look" => self.ask(id),
            ("POST", Some("tools/call")) if message["params"]["name"] == "region" && self.calls() == 1 => {
                let page = json!({ "mode": "url", "elicitationId": "e1", "url": "https://sign.example/in?x=1", "message": "Sign in first" });
                let error = json!({ "code": -32042, "message": "Sign in first", "data": { "elicitations": [page] } });
                json(200, &json!({ "jsonrpc": "2.0", "id": id, "error": error }))
            }
            ("POST", Some("tools/call")) => result(json!({ "content": [{ "type": "text", "text": "done" }] })),
            ("POST", Some(name)) if name.starts_with("notifications/") => status(202),
            ("POST", None) => {
                self.answers.send_modify(|answers| answers.push(message));
                status(202)
            }
            ("DELETE", _) => status(200),
            ("GET", _) => status(405),
            _ => json(404, &json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32601, "message": "Method not found" } })),
        }
    }

    /// Asks on the stream of the call, and answers it with what was said.
    fn ask(&self, id: Value) -> Response {
        let question = format!("ask-{id}");
        let params = json!({ "message": "Your name?", "requestedSchema": { "type": "object", "properties": { "name": { "type": "string" } } } });
        let first = json!({ "jsonrpc": "2.0", "id": question, "method": "elicitation/create", "params": params });
        let answers = self.answers.subscribe();
        let events = futures_util::stream::unfold((Some(first), answers, false), move |(first, mut answers, over)| {
            let (id, question) = (id.clone(), question.clone());
            async move {
                if over {
                    return None;
                }
                if let Some(first) = first {
                    return Some((event(&first), (None, answers, false)));
                }
                let of_ours = |all: &Vec<Value>| all.iter().find(|a| a["id"] == *question).cloned();
                let said = answers.wait_for(|all| of_ours(all).is_some()).await.map(|all| of_ours(&all)).ok().flatten()?;
                let text = said["result"]["content"]["name"].as_str().unwrap_or("nobody").to_owned();
                let last = json!({ "jsonrpc": "2.0", "id": id, "result": { "content": [{ "type": "text", "text": text }] } });
                Some((event(&last), (None, answers, true)))
            }
        });
        Response::builder().header("content-type", "text/event-stream").body(Body::from_stream(events)).unwrap()
    }
}

fn event(message: &Value) -> Result<String, std::convert::Infallible> {
    Ok(format!("data: {message}\n\n"))
}

fn status(status: u16) -> Response {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

fn json(status: u16, body: &Value) -> Response {
    Response::builder().status(status).header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
}

struct Scene {
    place: Place,
    broker: Broker,
    task: TaskToken,
    asking: Arc<Asking>,
}

impl Scene {
    async fn new(relay: &str) -> Self {
        Self::edited(relay, |text| text).await
    }

    /// `edit` changes the configuration's text.
    async fn edited(relay: &str, edit: impl FnOnce(String) -> String) -> Self {
        let asking = Asking::start().await;
        let address = asking.address;
        let place = Place::with(|text| {
            let own = text.lines().find(|line| line.starts_with("url = ")).unwrap().to_owned();
            edit(text.replacen(&own, &format!("url = \"http://{address}/mcp\"\nera = \"legacy\"\nrelay = [{relay}]"), 1))
        })
        .await;
        let broker = place.open().await;
        let task = place.client().task("scout").await;
        Self { place, broker, task, asking }
    }

    fn client(&self) -> Client<'_> {
        self.place.client()
    }

    async fn look(&self, task: &TaskToken, arguments: &str, more: &str) -> Answer {
        let body = modern("tools/call", &format!(r#""name":"sys.look","arguments":{arguments}{more}"#), r#"{"elicitation":{}}"#);
        self.client().post(task, "tools/call", Some("sys.look"), body).await
    }
}

/// The members of a retry that answers every question with this name.
fn named(asked: &Value, name: &str) -> String {
    let answers: serde_json::Map<String, Value> = asked["inputRequests"]
        .as_object()
        .unwrap()
        .keys()
        .map(|key| (key.clone(), json!({ "action": "accept", "content": { "name": name } })))
        .collect();
    format!(r#","requestState":{},"inputResponses":{}"#, asked["requestState"], Value::Object(answers))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_in_the_middle_of_a_call_is_answered_by_the_next_request_and_the_call_is_made_once() {
    let scene = Scene::new("\"elicitation\"").await;
    let asked = scene.look(&scene.task, r#"{"key":"a"}"#, "").await.json()["result"].clone();
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    let (_, question) = asked["inputRequests"].as_object().unwrap().iter().next().unwrap();
    assert_eq!((question["method"].as_str(), question["params"]["message"].as_str()), (Some("elicitation/create"), Some("Your name?")));
    // The same arguments in another spelling are the same call.
    let done = scene.look(&scene.task, r#"{ "key" : "a" }"#, &named(&asked, "Ada")).await.json()["result"].clone();
    assert_eq!(done["content"][0]["text"], "Ada", "{done}");
    assert_eq!(scene.asking.calls(), 1);
    assert!(scene.broker.house.parking.is_empty());
    // What the client said is on record with the outcome, and only its digest.
    let entries = scene.broker.entries().await;
    let outcome = entries.iter().rfind(|e| e["kind"] == "outcome").unwrap();
    assert_eq!((outcome["result"].as_str(), outcome["told"][0]["method"].as_str()), (Some("done"), Some("elicitation/create")));
    assert!(!outcome.to_string().contains("Ada"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_system_says_in_the_middle_of_a_call_bears_its_labels_before_anybody_hears_it() {
    let scene = Scene::edited("\"elicitation\"", |text| text + "[systems.sys.tool_labels]\nlook = [\"untrusted\"]\n").await;
    let asked = scene.look(&scene.task, r#"{"key":"a"}"#, "").await.json()["result"].clone();
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    let live = scene.broker.house.live.find(scene.task.id.parse().unwrap()).unwrap();
    assert_eq!(live.labels().iter().map(|l| l.as_str()).collect::<Vec<_>>(), ["untrusted"], "the call has no answer yet");
    let row = scene.broker.house.store.task(live.task.id).await.unwrap().unwrap();
    assert_eq!(row.labels, live.labels());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_bears_the_labels_of_its_own_name_before_anybody_hears_it() {
    let labels = "[systems.sys.tool_labels]\n\"elicitation/create\" = [\"asked\"]\n\"sampling/createMessage\" = [\"sampled\"]\n";
    let scene = Scene::edited("\"elicitation\"", |text| text + labels).await;
    let asked = scene.look(&scene.task, r#"{"key":"a"}"#, "").await.json()["result"].clone();
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    let row = scene.broker.house.store.task(scene.task.id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.labels.iter().map(|l| l.as_str()).collect::<Vec<_>>(), ["asked"], "what is not relayed is not said");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_for_an_answer_is_taken_up_only_by_its_own_caller_for_the_same_call_and_once() {
    let scene = Scene::new("\"elicitation\"").await;
    let other = scene.client().task("scout").await;
    let asked = scene.look(&scene.task, r#"{"key":"a"}"#, "").await.json()["result"].clone();
    let retry = named(&asked, "Eve");
    assert_eq!(scene.look(&other, r#"{"key":"a"}"#, &retry).await.word(), "-32602");
    assert_eq!(scene.look(&scene.task, r#"{"key":"b"}"#, &retry).await.word(), "-32602");
    let mut forged = asked.clone();
    forged["requestState"] = json!("AAAA");
    assert_eq!(scene.look(&scene.task, r#"{"key":"a"}"#, &named(&forged, "Eve")).await.word(), "-32602");
    // None of them reached it: it waits still.
    assert_eq!(scene.look(&scene.task, r#"{"key":"a"}"#, &named(&asked, "Ada")).await.json()["result"]["content"][0]["text"], "Ada");
    assert_eq!(scene.look(&scene.task, r#"{"key":"a"}"#, &named(&asked, "Ada")).await.word(), "-32602");
    assert_eq!(scene.asking.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_answered_is_asked_again_and_a_wrong_shape_is_no_answer() {
    let scene = Scene::new("\"elicitation\"").await;
    let first = scene.look(&scene.task, "{}", "").await.json()["result"].clone();
    let nothing = format!(r#","requestState":{},"inputResponses":{{"other":{{"action":"accept"}}}}"#, first["requestState"]);
    let again = scene.look(&scene.task, "{}", &nothing).await.json()["result"].clone();
    assert_eq!(again["inputRequests"], first["inputRequests"]);
    assert_ne!(again["requestState"], first["requestState"]);
    let key = again["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let wrong = format!(r#","requestState":{},"inputResponses":{{"{key}":{{"roots":[]}}}}"#, again["requestState"]);
    let third = scene.look(&scene.task, "{}", &wrong).await.json()["result"].clone();
    assert_eq!(third["inputRequests"], first["inputRequests"]);
    assert_eq!(scene.look(&scene.task, "{}", &named(&third, "Ada")).await.word(), "done");
    assert_eq!(scene.asking.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_may_have_few_calls_that_wait_for_answers_and_its_end_gives_them_up() {
    let scene = Scene::new("\"elicitation\"").await;
    for i in 0..8 {
        let asked = scene.look(&scene.task, &format!(r#"{{"key":"{i}"}}"#), "").await;
        assert_eq!(asked.word(), "held", "{asked:?}");
    }
    assert_eq!(scene.look(&scene.task, r#"{"key":"more"}"#, "").await.word(), "call.limit");
    let revoked = scene.client().by("ana", Method::POST, &format!("/v1/tasks/{}/revoke", scene.task.id), None).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    crate::support::until("the calls are given up", || scene.broker.house.parking.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_system_of_an_approved_call_gets_no_answer_that_nobody_approved() {
    let asking = Asking::start().await;
    let address = asking.address;
    let place = Place::with(|text| {
        let own = text.lines().find(|line| line.starts_with("url = ")).unwrap().to_owned();
        let text = text.replacen(&own, &format!("url = \"http://{address}/mcp\"\nera = \"legacy\"\nrelay = [\"elicitation\"]"), 1);
        text.replacen("look = \"read\"", "look = \"transfer\"", 1)
    })
    .await;
    let broker = place.open().await;
    let task = place.client().task("scout").await;
    let scene = Scene { place, broker, task, asking };
    let held = scene.look(&scene.task, r#"{"key":"a"}"#, "").await;
    assert_ne!(held.json()["result"]["content"][0]["text"], "nobody", "{held:?}");
    for hold in scene.client().pending(&scene.task).await {
        scene.client().decide("ben", &hold, "approve").await;
    }
    let done = scene.look(&scene.task, r#"{"key":"a"}"#, "").await.json()["result"].clone();
    assert_eq!(done["content"][0]["text"], "nobody", "{done}");
    assert_eq!(scene.asking.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_leave_to_relay_no_question_reaches_a_client() {
    let scene = Scene::new("").await;
    let answer = scene.look(&scene.task, "{}", "").await.json();
    assert_eq!(answer["result"]["content"][0]["text"], "nobody", "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_system_that_forgot_its_sessions_is_looked_at_before_the_call_is_made_once() {
    let scene = Scene::new("").await;
    assert_eq!(scene.client().call(&scene.task, "sys.put", r#"{"key":"1"}"#).await.word(), "done");
    let listed = |scene: &Scene| scene.asking.seen.lock().unwrap().iter().filter(|m| m["method"] == "tools/list").count();
    let (lists, calls) = (listed(&scene), scene.asking.calls());
    scene.asking.forgotten.send_modify(|n| *n += 1);
    assert_eq!(scene.client().call(&scene.task, "sys.put", r#"{"key":"2"}"#).await.word(), "done");
    assert!(listed(&scene) > lists, "its tools were not looked at");
    // The refused attempt, and the call.
    assert_eq!(scene.asking.calls(), calls + 2);
}

async fn region(scene: &Scene, more: &str, capabilities: &str) -> Value {
    let body = modern("tools/call", &format!(r#""name":"sys.region","arguments":{{"region":"eu"}}{more}"#), capabilities);
    let bearer = format!("Bearer {}", scene.task.token);
    let mut headers = crate::support::modern_headers(&bearer, "tools/call", Some("sys.region"));
    headers.push(("mcp-param-region", "eu"));
    scene.client().send(Method::POST, "/mcp", &headers, body).await.json()
}

const SHOWS_PAGES: &str = r#"{"elicitation":{"url":{}}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_a_system_wants_opened_first_is_asked_for_in_the_clients_revision_and_then_the_call_is_made_anew() {
    let scene = Scene::new("\"elicitation\"").await;
    let asked = region(&scene, "", SHOWS_PAGES).await["result"].clone();
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    let question = &asked["inputRequests"]["page-1"];
    assert_eq!((&question["method"], &question["params"]["url"]), (&json!("elicitation/create"), &json!("https://sign.example/in?x=1")));
    let opened = format!(r#","requestState":{},"inputResponses":{{"page-1":{{"action":"accept"}}}}"#, asked["requestState"]);
    let done = region(&scene, &opened, SHOWS_PAGES).await["result"].clone();
    assert_eq!(done["content"][0]["text"], "done", "{done}");
    assert_eq!(scene.asking.calls(), 2);
    // The system of the older revision is told nothing that it does not know.
    assert!(!scene.asking.seen.lock().unwrap().iter().any(|m| m.to_string().contains("inputResponses")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_was_declined_or_cannot_be_shown_or_may_not_be_relayed_is_told_to_the_model() {
    let scene = Scene::new("\"elicitation\"").await;
    let asked = region(&scene, "", SHOWS_PAGES).await["result"].clone();
    let declined = format!(r#","requestState":{},"inputResponses":{{"page-1":{{"action":"decline"}}}}"#, asked["requestState"]);
    let told = region(&scene, &declined, SHOWS_PAGES).await["result"].clone();
    assert!(told["content"][0]["text"].as_str().unwrap().contains("declined"), "{told}");
    assert_eq!(scene.asking.calls(), 1);
    for (relay, capabilities) in [("\"elicitation\"", "{}"), ("", SHOWS_PAGES)] {
        let scene = Scene::new(relay).await;
        let told = region(&scene, "", capabilities).await["result"].clone();
        let text = told["content"][0]["text"].as_str().unwrap();
        assert!(told["isError"] == json!(true) && text.contains("page") && !text.contains("sign.example"), "{told}");
    }
}
