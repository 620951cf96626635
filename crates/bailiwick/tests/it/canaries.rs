//! A canary secret of each kind of system is planted, everything is done with it that can be, also what fails, and then it is looked for:
//! in the log at its loudest, in answers, entries, metrics, traces, exports, command lines, and in every file of the data directory.

use std::process::{Command, Stdio};

use bailiwick_credentials::kinds::nats::SUBJECTS;
use bailiwick_credentials::kinds::redis::COMMANDS;
use bailiwick_testkit::clouds::Cloud;
use bailiwick_testkit::clouds::oauth::{Oauth, Settings as Server};
use bailiwick_testkit::clouds::orders::Orders;
use bailiwick_testkit::servers::mariadb::Mariadb;
use bailiwick_testkit::servers::nats::Nats;
use bailiwick_testkit::servers::nats_keys::{Nkey, start, system_credentials};
use bailiwick_testkit::servers::postgres::Postgres;
use bailiwick_testkit::servers::redis::{Redis, Users};
use http::Method;
use zeroize::Zeroizing;

use crate::leases::{ADMIN_PASSWORD, mariadb, orders, postgres, stock};
use crate::support::{Client, PATIENCE, Place, TaskToken, files_of};

const CACHE_PASSWORD: &str = "canary-cache-password-91c2";
const API_KEY: &str = "sk-canary/http+77aa-0123456789";

const PERMITTED: &str = r#"
@id("canaries-by-themselves")
permit (principal, action in [Action::"orders.execute", Action::"stock.execute", Action::"cache.write", Action::"bus.publish"], resource);
"#;

/// Calls that come to something, and calls that fail at the system.
const CALLS: [(&str, &str); 12] = [
    ("orders.query", r#"{"sql":"SELECT note FROM orders WHERE id = 1"}"#),
    ("orders.query", r#"{"sql":"SELECT nothing FROM nowhere"}"#),
    ("orders.execute", r#"{"sql":"UPDATE orders SET note = 'x' WHERE id = 1"}"#),
    ("orders.describe", "{}"),
    ("stock.query", r#"{"sql":"SELECT * FROM items"}"#),
    ("stock.execute", r#"{"sql":"INSERT INTO items VALUES (1, 'twice')"}"#),
    ("cache.write", r#"{"command":"SET","keys":["orders:1"],"arguments":["bread"]}"#),
    ("cache.read", r#"{"command":"GET","keys":["others:1"]}"#),
    ("bus.publish", r#"{"subject":"orders.new","body":"bread"}"#),
    ("bus.publish", r#"{"subject":"elsewhere.new","body":"bread"}"#),
    ("api.echo", "{}"),
    ("twin.look", "{}"),
];

/// Systems of every kind, each with a secret of ours, and a broker's place that may use them.
struct World {
    server: Postgres,
    place: Place,
    exports: tempfile::TempDir,
    planted: Vec<(&'static str, String)>,
    _systems: (Mariadb, Redis, Nats, Cloud, Cloud),
}

async fn world() -> World {
    let (server, other) = (postgres(), mariadb());
    let user = format!("broker on >{CACHE_PASSWORD} resetkeys resetchannels -@all +{}", COMMANDS.join(" +"));
    let cache = Redis::start(Users::AclFile, &[&user], &[]).unwrap();
    let [operator, account, system, nobody] = [(b'O', 1), (b'A', 2), (b'A', 3), (b'U', 4)].map(|(letter, n)| Nkey::new(letter, n).unwrap());
    let bus = start(&operator, &account, &system, true, "").unwrap();
    let api = std::sync::Arc::new(Orders::new(API_KEY));
    let api_cloud = Cloud::start(std::sync::Arc::clone(&api) as _).unwrap();
    let oauth = std::sync::Arc::new(Oauth::new(Server::default()));
    let oauth_cloud = Cloud::start(std::sync::Arc::clone(&oauth) as _).unwrap();
    let refresh = oauth.log_in();
    let exports = tempfile::tempdir().unwrap();
    let sections = [
        orders(&server),
        stock(&other),
        format!(
            "\n[systems.cache.redis]\nnodes = [{{ host = \"127.0.0.1\", port = {} }}]\nuser = \"broker\"\nsecret = \"cache-broker\"\n\
             read_rights = [\"~orders:*\", \"+@read\"]\nwrite_rights = [\"~orders:*\", \"+@read\", \"+@write\"]\n",
            cache.port()
        ),
        format!(
            "\n[systems.bus.nats]\nnodes = [{{ host = \"127.0.0.1\", port = {} }}]\naccount = \"{}\"\naccount_seed = \"bus-account\"\n\
             operator_seed = \"bus-operator\"\nsystem_credentials = \"bus-system\"\nwrite_rights = [\"orders.>\"]\n",
            bus.port(),
            account.public
        ),
        format!(
            "\n[systems.api.http]\ndocument = \"orders.json\"\nbase_url = \"{}\"\nprivate = true\nprobe = \"/me\"\n\
             inject = {{ kind = \"header\", name = \"X-Api-Key\", secret = \"api-key\" }}\nlower = {{ searchOrders = \"read\" }}\n",
            api_cloud.url("/v1")
        ),
        format!(
            "\n[systems.twin.credential.oauth2]\ntoken_url = \"{}\"\nrevocation_url = \"{}\"\nprobe_url = \"{}\"\nclient_id = \"broker\"\n\
             refresh_token = \"refresh\"\nscopes = [\"orders.read\"]\n",
            oauth_cloud.url("/token"),
            oauth_cloud.url("/revoke"),
            oauth_cloud.url("/orders")
        ),
        format!(
            "\n[[export]]\nname = \"siem\"\nformat = \"ocsf\"\nfile = \"{0}/ocsf.jsonl\"\n[[export]]\nname = \"lines\"\nformat = \"jsonl\"\nfile = \"{0}/lines.jsonl\"\n",
            exports.path().display()
        ),
    ]
    .concat();
    let mine = "\"twin.look\", \"orders.*\", \"stock.*\", \"cache.*\", \"bus.*\", \"api.*\"]";
    let place = Place::with(|text| text.replace("\"twin.look\"]", mine) + &sections).await;
    std::fs::write(place.config.parent().unwrap().join("orders.json"), Orders::document().to_string()).unwrap();
    let bus_user = system_credentials(&system, &nobody, &SUBJECTS);
    let planted = vec![
        ("orders_admin", ADMIN_PASSWORD.to_owned()),
        ("cache-broker", CACHE_PASSWORD.to_owned()),
        ("bus-operator", operator.seed),
        ("bus-account", account.seed),
        ("bus-system", bus_user),
        ("api-key", API_KEY.to_owned()),
        ("refresh", refresh),
    ];
    for (name, value) in &planted {
        bailiwick::secrets::set(&place.data, name, Zeroizing::new(value.as_bytes().to_vec())).await.unwrap();
    }
    World { server, place, exports, planted, _systems: (other, cache, bus, api_cloud, oauth_cloud) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_secret_of_each_kind_is_seen_nowhere() {
    let World { mut server, place, exports, planted, _systems } = world().await;
    // Once without policies of their own, until every system has told its tools.
    let broker = place.open().await;
    let known = |tool: &str| broker.house.registry.load().tool(tool).is_some_and(|t| t.callable()) && broker.possible(tool);
    crate::support::until("every tool is known", || CALLS.iter().all(|(tool, _)| known(tool))).await;
    broker.stop().await;
    place.add_policy(PERMITTED);

    let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
    let log = exports.path().join("broker.log");
    let mut child = place.spawn_logging(&log);
    let client = place.client();
    let task = started(&client).await;
    for (tool, arguments) in CALLS {
        seen.push((format!("the answer of {tool}"), client.call(&task, tool, arguments).await.body.to_vec()));
    }
    // A system goes away in the middle of the task, and its end fails for a while.
    server.stop().unwrap();
    seen.push(("a call of a system that is down".to_owned(), client.call(&task, "orders.query", r#"{"sql":"SELECT 1"}"#).await.body.to_vec()));
    let target = format!("/v1/tasks/{}/complete", task.id);
    seen.push(("the end".to_owned(), client.with_token(&task.token, Method::POST, &target, "").await.body.to_vec()));
    server.run().unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let shown = client.by("ops", Method::GET, &format!("/v1/tasks/{}", task.id), None).await;
        if shown.json()["state"] == "closed" {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{shown:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    look_around(&client, &task, &mut seen).await;
    // Killed, not stopped: what is in its files is what a crash leaves.
    child.start_kill().unwrap();
    child.wait().await.unwrap();
    for line in [vec!["ledger", "verify"], vec!["secret", "list"], vec!["check"], vec!["system", "check", "orders"]] {
        seen.push((line.join(" "), command(&place, &line)));
    }
    let files = [files_of(&place.data), files_of(exports.path()), vec![place.config.clone()]].concat();
    seen.extend(files.iter().map(|file| (file.display().to_string(), std::fs::read(file).unwrap())));
    let loud = std::fs::read_to_string(&log).unwrap();
    assert!(loud.contains("a lease could not be ended yet"), "the log is there to be looked at: {loud}");
    nowhere(&place, &planted, &seen);
    // The same search finds what is there.
    assert!(seen.iter().any(|(_, bytes)| bytes.windows(task.id.len()).any(|w| w == task.id.as_bytes())));
}

/// Everything that people can ask the broker for.
async fn look_around(client: &Client<'_>, task: &TaskToken, seen: &mut Vec<(String, Vec<u8>)>) {
    for target in [
        "/metrics",
        "/readyz",
        "/v1/leases?all=true&limit=500",
        "/v1/systems",
        "/v1/secrets",
        "/v1/tools",
        "/v1/agents",
        "/v1/exports",
        "/v1/entries",
    ] {
        seen.push((target.to_owned(), client.by("ops", Method::GET, target, None).await.body.to_vec()));
    }
    for target in [format!("/v1/trace/{}", task.id), format!("/v1/tasks/{}", task.id), "/v1/ledger/entries".to_owned()] {
        seen.push((target.clone(), client.by("ben", Method::GET, &target, None).await.body.to_vec()));
    }
    for system in ["orders", "stock", "cache", "bus", "twin"] {
        let target = format!("/v1/systems/{system}/check");
        let checked = client.by("ops", Method::POST, &target, Some(serde_json::json!({}))).await;
        assert_eq!(checked.json()["passed"], true, "{checked:?}");
        seen.push((target, checked.body.to_vec()));
    }
}

fn nowhere(place: &Place, planted: &[(&str, String)], seen: &[(String, Vec<u8>)]) {
    let mut canaries: Vec<(String, String)> = planted.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    canaries.extend(
        planted.iter().filter(|(name, _)| *name == "bus-system").flat_map(|(_, file)| seeds(file)).map(|seed| ("bus-system's seed".to_owned(), seed)),
    );
    // Tokens that the authorization server gave away meanwhile.
    canaries.extend(place.twin.seen().iter().filter_map(|s| {
        Some(("a minted token".to_owned(), s.headers.get("authorization")?.to_str().ok()?.trim_start_matches("Bearer ").to_owned()))
    }));
    assert!(canaries.len() > planted.len() + 1, "{}", canaries.len());
    for (what, canary) in &canaries {
        for (place, bytes) in seen {
            assert!(!bytes.windows(canary.len()).any(|w| w == canary.as_bytes()), "{what} is in {place}");
        }
    }
}

/// The private lines of a credentials file.
fn seeds(file: &str) -> Vec<String> {
    file.lines().filter(|line| line.starts_with('S') && line.len() > 50).map(str::to_owned).collect()
}

fn command(place: &Place, line: &[&str]) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bailiwick"));
    command.arg("--data-dir").arg(&place.data).arg("--config").arg(&place.config).args(line).stdin(Stdio::null()).env("RUST_LOG", "trace");
    let out = command.output().unwrap();
    [out.stdout, out.stderr].concat()
}

/// A task that may use every system, once all of them take calls.
async fn started(client: &Client<'_>) -> TaskToken {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while client.try_send(Method::GET, "/readyz", &[], "").await.is_none_or(|a| a.status != 200) {
        assert!(tokio::time::Instant::now() < deadline, "the broker did not come up");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    loop {
        let task = client.task("scout").await;
        let ready = client.call(&task, "orders.query", r#"{"sql":"SELECT 1"}"#).await.word() == "done"
            && client.call(&task, "bus.publish", r#"{"subject":"orders.new","body":""}"#).await.word() == "done";
        if ready {
            return task;
        }
        assert!(tokio::time::Instant::now() < deadline, "the systems did not come up");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
