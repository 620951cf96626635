//! An HTTP API as a system: its operations are tools, its key is injected and never seen, and a task's end stops that.

use std::sync::Arc;

use bailiwick_testkit::clouds::Cloud;
use bailiwick_testkit::clouds::orders::Orders;
use serde_json::json;
use zeroize::Zeroizing;

use crate::support::{Broker, Place, until};

const KEY: &str = "sk-canary/http+3b1f-0123456789";

struct World {
    place: Place,
    orders: Arc<Orders>,
    cloud: Cloud,
}

impl World {
    async fn new() -> Self {
        let orders = Arc::new(Orders::new(KEY));
        let cloud = Cloud::start(Arc::clone(&orders) as Arc<_>).unwrap();
        let section = format!(
            "\n[systems.orders.http]\ndocument = \"orders.json\"\nbase_url = \"{}\"\nprivate = true\nprobe = \"/me\"\n\
             inject = {{ kind = \"header\", name = \"X-Api-Key\", secret = \"orders_key\" }}\nlower = {{ searchOrders = \"read\" }}\n",
            cloud.url("/v1")
        );
        let place = Place::with(|text| text.replace("\"twin.look\"]", "\"twin.look\", \"orders.*\"]") + &section).await;
        std::fs::write(place.config.parent().unwrap().join("orders.json"), Orders::document().to_string()).unwrap();
        bailiwick::secrets::set(&place.data, "orders_key", Zeroizing::new(KEY.as_bytes().to_vec())).await.unwrap();
        Self { place, orders, cloud }
    }

    async fn open(&self) -> Broker {
        let broker = self.place.open().await;
        until("the API's operations are listed", || {
            let registry = broker.house.registry.load();
            ["orders.getOrder", "orders.echo", "orders.removeOrder"]
                .iter()
                .all(|t| registry.tool(t).is_some_and(|t| t.callable()) && broker.possible(t))
        })
        .await;
        broker
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_uses_an_api_with_a_key_that_nobody_sees_until_it_ends() {
    let world = World::new().await;
    let broker = world.open().await;
    let client = world.place.client();
    let task = client.task("scout").await;
    let read = client.call(&task, "orders.getOrder", r#"{"orderId":1}"#).await;
    assert_eq!(read.json()["result"]["structuredContent"]["body"]["item"], "tea", "{read:?}");
    let found = client.call(&task, "orders.searchOrders", r#"{"body":{"item":"cups"}}"#).await;
    assert_eq!(found.json()["result"]["structuredContent"]["body"][0]["id"], 2, "{found:?}");
    // The API tells everything that it was told; nothing of it is the key.
    let echo = client.call(&task, "orders.echo", "{}").await;
    let text = echo.json().to_string();
    assert!(text.contains("redacted by bailiwick") && !text.contains("canary"), "{text}");
    // What deletes waits for a person, and arguments that are none of the operation's are refused.
    assert_ne!(client.call(&task, "orders.removeOrder", r#"{"orderId":1}"#).await.word(), "done");
    assert_eq!(client.call(&task, "orders.getOrder", r#"{"orderId":"1/../2"}"#).await.word(), "call.arguments");
    assert_eq!(world.orders.orders().len(), 2);
    let before = world.cloud.seen().len();
    assert!(world.cloud.seen().iter().any(|asked| asked.header("x-bailiwick-task").contains(&task.id)), "the chain is in the API's log");
    let ended = client.complete(&task).await;
    assert_eq!(ended["state"], "closed", "{ended}");
    let endings: Vec<_> = ended["leases"].as_array().unwrap().iter().map(|lease| lease["ending"]["ending"].clone()).collect();
    assert_eq!(endings, [json!("injection-stopped")], "one lease, whatever the calls did: {ended}");
    assert!(ended["leases"][0]["ending"]["evidence"].to_string().contains("refused"), "{ended}");
    assert_eq!(client.call(&task, "orders.getOrder", r#"{"orderId":1}"#).await.status, 401);
    assert_eq!(world.cloud.seen().len(), before, "nothing is sent after the end");
    broker.check_sound(&world.place).await;
    broker.stop().await;
    world.place.verify();
    for entry in std::fs::read_dir(&world.place.data).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()), "the key stands in {}", path.display());
        }
    }
}
