//! Calls of 2025-11-25 behind a handle (`params.task`), and systems of that revision that want a page opened first (-32042).

use serde_json::{Value, json};

use crate::hazards::{handshake, legacy};
use crate::support::{Broker, Client, Place, TaskToken, modern};

struct Scene {
    place: Place,
    broker: Broker,
    task: TaskToken,
    session: String,
}

impl Scene {
    async fn new() -> Self {
        let place = Place::new().await;
        let broker = place.open().await;
        let task = place.client().task("scout").await;
        let session = handshake(&place.client(), &task).await;
        Self { place, broker, task, session }
    }

    fn client(&self) -> Client<'_> {
        self.place.client()
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        let body = json!({ "jsonrpc": "2.0", "id": 9, "method": method, "params": params }).to_string();
        legacy(&self.client(), &self.task, &self.session, &body).await.json()
    }

    async fn begin(&self, tool: &str, arguments: Value) -> String {
        let begun = self.ask("tools/call", json!({ "name": tool, "arguments": arguments, "task": { "ttl": 60_000 } })).await;
        let task = &begun["result"]["task"];
        assert_eq!((task["status"].as_str(), task["ttl"].as_u64()), (Some("working"), Some(60_000)), "{begun}");
        task["taskId"].as_str().unwrap().to_owned()
    }

    async fn status(&self, id: &str) -> String {
        self.ask("tasks/get", json!({ "taskId": id })).await["result"]["status"].as_str().unwrap_or("none").to_owned()
    }

    async fn held(&self) -> Vec<Value> {
        for _ in 0..200 {
            let held = self.client().pending(&self.task).await;
            if !held.is_empty() {
                return held;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("nothing was held");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_behind_a_handle_is_made_and_its_result_says_of_which_task_it_is() {
    let scene = Scene::new().await;
    let id = scene.begin("sys.look", json!({})).await;
    let result = scene.ask("tasks/result", json!({ "taskId": id })).await;
    assert_eq!(result["result"]["_meta"]["io.modelcontextprotocol/related-task"]["taskId"], json!(id), "{result}");
    assert!(result["result"]["content"].is_array(), "{result}");
    assert_eq!(scene.status(&id).await, "completed");
    let all = scene.ask("tasks/list", json!({})).await;
    assert_eq!(all["result"]["tasks"][0]["taskId"], json!(id), "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_call_behind_a_handle_is_made_once_when_people_release_it() {
    let scene = Scene::new().await;
    let id = scene.begin("sys.pay", json!({ "recipient": "a" })).await;
    let held = scene.held().await;
    let about = scene.ask("tasks/get", json!({ "taskId": id })).await;
    assert!(about["result"]["statusMessage"].as_str().unwrap().contains(held[0]["id"].as_str().unwrap()), "{about}");
    scene.client().decide("ben", &held[0], "approve").await;
    let result = scene.ask("tasks/result", json!({ "taskId": id })).await;
    assert!(result["result"]["content"].is_array() && result["result"]["isError"] != json!(true), "{result}");
    let entries = scene.broker.entries().await;
    assert_eq!(entries.iter().filter(|e| e["kind"] == "outcome" && e["result"] == "done").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_call_behind_a_handle_is_told_as_an_error_result_and_a_cancelled_one_is_withdrawn() {
    let scene = Scene::new().await;
    let refused = scene.begin("sys.pay", json!({ "recipient": "a" })).await;
    scene.client().decide("ben", &scene.held().await[0], "refuse").await;
    let result = scene.ask("tasks/result", json!({ "taskId": refused })).await;
    assert_eq!(result["result"]["isError"], json!(true), "{result}");
    let cancelled = scene.begin("sys.pay", json!({ "recipient": "b" })).await;
    scene.held().await;
    assert_eq!(scene.ask("tasks/cancel", json!({ "taskId": cancelled })).await["result"]["status"], json!("cancelled"));
    assert!(scene.client().pending(&scene.task).await.is_empty());
    assert_eq!(scene.ask("tasks/cancel", json!({ "taskId": cancelled })).await["error"]["code"], json!(-32602));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sessions_handle_is_unknown_and_a_session_has_few() {
    let scene = Scene::new().await;
    let id = scene.begin("sys.pay", json!({ "recipient": "a" })).await;
    let other = handshake(&scene.client(), &scene.task).await;
    let asked = json!({ "jsonrpc": "2.0", "id": 9, "method": "tasks/get", "params": { "taskId": id } }).to_string();
    assert_eq!(legacy(&scene.client(), &scene.task, &other, &asked).await.json()["error"]["code"], json!(-32602));
    for _ in 1..32 {
        scene.begin("sys.pay", json!({ "recipient": "a" })).await;
    }
    let more = scene.ask("tools/call", json!({ "name": "sys.look", "arguments": {}, "task": {} })).await;
    assert_eq!(more["result"]["isError"], json!(true), "{more}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_tools_that_may_wait_for_people_are_marked_for_handles() {
    let scene = Scene::new().await;
    let listed = scene.ask("tools/list", json!({})).await;
    let tool = |name: &str| listed["result"]["tools"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap().clone();
    assert_eq!(tool("sys.pay")["execution"]["taskSupport"], json!("optional"));
    assert!(tool("sys.look").get("execution").is_none());
    let modern = scene.client().post(&scene.task, "tools/list", None, modern("tools/list", "", "{}")).await.json();
    assert!(modern["result"]["tools"].as_array().unwrap().iter().all(|t| t.get("execution").is_none()), "{modern}");
}
