//! Redis and NATS as built-in systems, on real servers: a task uses them with accounts that it never sees, and nothing is left at its end.

use bailiwick_credentials::kinds::nats::SUBJECTS;
use bailiwick_credentials::kinds::redis::COMMANDS;
use bailiwick_testkit::servers::nats_keys::{Nkey, start, system_credentials};
use bailiwick_testkit::servers::redis::{Redis, Users};
use serde_json::json;
use zeroize::Zeroizing;

use crate::support::{Place, until};

const PASSWORD: &str = "canary-broker-password-77aa";

const PERMITTED: &str = r#"
@id("brokers-by-themselves")
permit (principal, action in [Action::"cache.write", Action::"bus.publish"], resource);
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_uses_a_cache_and_a_bus_with_accounts_that_end_with_it() {
    let broker_user = format!("broker on >{PASSWORD} resetkeys resetchannels -@all +{}", COMMANDS.join(" +"));
    let cache = Redis::start(Users::AclFile, &[&broker_user], &[]).unwrap();
    let keys = [(b'O', 1), (b'A', 2), (b'A', 3), (b'U', 4)].map(|(letter, number)| Nkey::new(letter, number).unwrap());
    let [operator, account, system, user] = &keys;
    let bus = start(operator, account, system, true, "").unwrap();
    let sections = format!(
        "\n[systems.cache.redis]\nnodes = [{{ host = \"127.0.0.1\", port = {} }}]\nuser = \"broker\"\nsecret = \"cache-broker\"\n\
         read_rights = [\"~orders:*\", \"+@read\"]\nwrite_rights = [\"~orders:*\", \"+@read\", \"+@write\"]\n\
         \n[systems.bus.nats]\nnodes = [{{ host = \"127.0.0.1\", port = {} }}]\naccount = \"{}\"\naccount_seed = \"bus-account\"\n\
         operator_seed = \"bus-operator\"\nsystem_credentials = \"bus-system\"\nwrite_rights = [\"orders.>\"]\n",
        cache.port(),
        bus.port(),
        account.public
    );
    let place = Place::with(|text| text.replace("\"twin.look\"]", "\"twin.look\", \"cache.*\", \"bus.*\"]") + &sections).await;
    place.add_policy(PERMITTED);
    let system_user = system_credentials(system, user, &SUBJECTS);
    for (name, value) in [("cache-broker", PASSWORD), ("bus-operator", &operator.seed), ("bus-account", &account.seed), ("bus-system", &system_user)]
    {
        bailiwick::secrets::set(&place.data, name, Zeroizing::new(value.as_bytes().to_vec())).await.unwrap();
    }
    let broker = place.open().await;
    let tools = ["cache.read", "cache.write", "cache.delete", "bus.publish", "bus.request"];
    until("the tools are listed", || {
        let registry = broker.house.registry.load();
        tools.iter().all(|tool| registry.tool(tool).is_some_and(|tool| tool.callable()) && broker.possible(tool))
    })
    .await;
    let client = place.client();
    let task = client.task("scout").await;
    let structured = |answer: &crate::support::Answer| answer.json()["result"]["structuredContent"].clone();

    let wrote = client.call(&task, "cache.write", r#"{"command":"SET","keys":["orders:1"],"arguments":["bread"]}"#).await;
    assert_eq!(structured(&wrote), json!({ "reply": "OK" }), "{wrote:?}");
    let read = client.call(&task, "cache.read", r#"{"command":"GET","keys":["orders:1"]}"#).await;
    assert_eq!(structured(&read), json!({ "reply": "bread" }), "{read:?}");
    // What deletes is not done by the tool that reads, and is held where it has its own.
    let refused = client.call(&task, "cache.read", r#"{"command":"DEL","keys":["orders:1"]}"#).await;
    assert_eq!(refused.word(), "call.arguments", "{refused:?}");
    let published = client.call(&task, "bus.publish", r#"{"subject":"orders.new","body":"bread"}"#).await;
    assert_eq!(structured(&published), json!({ "published": true }), "{published:?}");
    let refused = client.call(&task, "bus.publish", r#"{"subject":"$JS.API.STREAM.DELETE.orders","body":""}"#).await;
    assert_eq!(refused.word(), "call.arguments", "{refused:?}");
    // One account for reading and one for writing, whose connections say the task.
    let clients = cache.admin(&["CLIENT", "LIST"]).unwrap();
    assert_eq!(
        clients.lines().filter(|line| line.contains("user=ag_") && line.contains(&format!("name=bailiwick_{}_", task.id))).count(),
        2,
        "{clients}"
    );

    let ended = client.complete(&task).await;
    assert_eq!(ended["state"], "closed", "{ended}");
    let endings: Vec<_> = ended["leases"].as_array().unwrap().iter().map(|lease| lease["ending"]["ending"].as_str().unwrap()).collect();
    assert_eq!(endings, ["revoked-verified"; 3], "{ended}");
    assert!(!cache.admin(&["ACL", "USERS"]).unwrap().contains("ag_"));
    assert!(!cache.admin(&["CLIENT", "LIST"]).unwrap().contains("user=ag_"));
    for log in [cache.log(), bus.log()] {
        assert!(!log.contains(&account.seed) && !log.contains(&operator.seed) && !log.contains(&user.seed));
    }
    broker.check_sound(&place).await;
    broker.stop().await;
    place.verify();
}
