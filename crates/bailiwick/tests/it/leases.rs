//! Credentials that are made for a task on real PostgreSQL and MariaDB: used without being shown, and provably dead at its end, also
//! when the broker is killed between any two steps or the system is down.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use bailiwick_testkit::servers::mariadb::Mariadb;
use bailiwick_testkit::servers::postgres::Postgres;
use http::Method;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::support::{Broker, Client, PATIENCE, Place, TaskToken, entries, files_of, until};

pub(crate) const ADMIN_PASSWORD: &str = "canary-admin-password-3b1f";

/// What an administrator does once, as the guide says it.
const POSTGRES_ONCE: &str = "
    CREATE ROLE broker LOGIN CREATEROLE PASSWORD 'canary-admin-password-3b1f';
    GRANT pg_signal_backend TO broker;
    CREATE ROLE orders_ro NOLOGIN; CREATE ROLE orders_rw NOLOGIN;
    GRANT orders_ro, orders_rw TO broker WITH ADMIN OPTION;";
const POSTGRES_SHOP: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, note text);
    INSERT INTO orders SELECT n, 'note ' || n FROM generate_series(1, 20) n;
    GRANT SELECT ON orders TO orders_ro;
    GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO orders_rw;";
const MARIADB_ONCE: &str = "
    CREATE USER broker@'%' IDENTIFIED BY 'canary-admin-password-3b1f';
    GRANT CREATE USER, CONNECTION ADMIN, PROCESS ON *.* TO broker@'%';
    GRANT SELECT (User, Host) ON mysql.user TO broker@'%';
    CREATE DATABASE stock;
    CREATE TABLE stock.items (id int PRIMARY KEY, note text);
    INSERT INTO stock.items VALUES (1, 'one'), (2, 'two');
    CREATE ROLE stock_ro; GRANT SELECT ON stock.* TO stock_ro; GRANT stock_ro TO broker@'%' WITH ADMIN OPTION;
    CREATE ROLE stock_rw; GRANT SELECT, INSERT, UPDATE, DELETE ON stock.* TO stock_rw; GRANT stock_rw TO broker@'%' WITH ADMIN OPTION;";

/// Both tools that write pass by themselves here: holding is shown elsewhere.
const PERMITTED: &str = r#"
@id("sql-by-itself")
permit (principal, action in [Action::"orders.execute", Action::"stock.execute", Action::"orders.delete"], resource);
"#;

pub(crate) fn postgres() -> Postgres {
    let server = Postgres::start(&[]).unwrap();
    server.sql("postgres", POSTGRES_ONCE).unwrap();
    server.sql("postgres", "CREATE DATABASE shop").unwrap();
    server.sql("shop", POSTGRES_SHOP).unwrap();
    server
}

pub(crate) fn mariadb() -> Mariadb {
    let server = Mariadb::start(&[]).unwrap();
    server.sql(MARIADB_ONCE).unwrap();
    let setup = bailiwick_credentials::kinds::mariadb::SETUP;
    server.sql(&format!("DELIMITER //\n{setup}//\nDELIMITER ;\nGRANT EXECUTE ON PROCEDURE bailiwick.default_role TO broker@'%';")).unwrap();
    server
}

pub(crate) fn orders(server: &Postgres) -> String {
    format!(
        "\n[systems.orders.postgresql]\nnodes = [{{ name = \"primary\", host = \"127.0.0.1\", port = {} }}]\ndatabase = \"shop\"\nuser = \"broker\"\n\
         secret = \"orders_admin\"\nread_rights = [\"orders_ro\"]\nwrite_rights = [\"orders_rw\"]\n",
        server.port()
    )
}

pub(crate) fn stock(server: &Mariadb) -> String {
    format!(
        "\n[systems.stock.mariadb]\nnodes = [{{ name = \"primary\", host = \"127.0.0.1\", port = {} }}]\ndatabase = \"stock\"\nuser = \"broker\"\n\
         secret = \"orders_admin\"\nread_rights = [\"stock_ro\"]\nwrite_rights = [\"stock_rw\"]\n",
        server.port()
    )
}

/// A place whose agent may use the databases of these sections.
async fn place(sections: &[String]) -> Place {
    let sections = sections.concat();
    let place = Place::with(|text| text.replace("\"twin.look\"]", "\"twin.look\", \"orders.*\", \"stock.*\"]") + &sections).await;
    place.add_policy(&if sections.contains("stock") { PERMITTED.to_owned() } else { PERMITTED.replace(", Action::\"stock.execute\"", "") });
    bailiwick::secrets::set(&place.data, "orders_admin", Zeroizing::new(ADMIN_PASSWORD.as_bytes().to_vec())).await.unwrap();
    place
}

/// Accounts of ours, and sessions of accounts of ours or of nobody.
fn left_on(server: &Postgres) -> String {
    let sql = "SELECT 'role ' || rolname FROM pg_roles WHERE rolname LIKE 'ag\\_%';
         SELECT 'session ' || pid FROM pg_stat_activity WHERE usesysid IS NOT NULL AND (usename IS NULL OR usename LIKE 'ag\\_%')";
    server.sql("shop", sql).unwrap()
}

fn left_on_mariadb(server: &Mariadb) -> String {
    let sql = "SELECT 'user', User FROM mysql.user WHERE User LIKE 'ag\\_%';
         SELECT 'session', id FROM information_schema.processlist WHERE user LIKE 'ag\\_%'";
    server.sql(sql).unwrap()
}

/// The tools of the databases are listed, and policy knows them.
async fn ready(broker: &Broker, tools: &[&str]) {
    until("the databases' tools are listed", || {
        let registry = broker.house.registry.load();
        tools.iter().all(|t| registry.tool(t).is_some_and(|t| t.callable()) && broker.possible(t))
    })
    .await;
}

fn rows(answer: &crate::support::Answer) -> Value {
    answer.json()["result"]["structuredContent"]["rows"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_reads_and_writes_with_credentials_that_are_made_for_it_and_end_with_it() {
    let server = postgres();
    let place = place(&[orders(&server)]).await;
    let broker = place.open().await;
    ready(&broker, &["orders.query", "orders.execute"]).await;
    let client = place.client();
    let task = client.task("scout").await;
    // Nothing is made before a call is permitted.
    assert_eq!(left_on(&server), "");
    let refused = client.call(&task, "orders.query", r#"{"sql":"DELETE FROM orders"}"#).await;
    assert_eq!(refused.word(), "call.arguments", "{refused:?}");
    assert_eq!(left_on(&server), "");
    let read = client.call(&task, "orders.query", r#"{"sql":"SELECT id, note FROM orders ORDER BY id LIMIT 2"}"#).await;
    assert_eq!(rows(&read), json!([[1, "note 1"], [2, "note 2"]]), "{read:?}");
    // One account, of the group that reads, with the chain in its comment; the session carries it too.
    let account = server.sql("shop", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'ag\\_%'").unwrap();
    let comment = server.sql("shop", "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname LIKE 'ag\\_%'").unwrap();
    assert!(comment.contains(&task.id) && comment.contains("spiffe://bailiwick.local/agent/scout"), "{comment}");
    let group = "SELECT g.rolname FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member WHERE r.rolname LIKE 'ag\\_%'";
    assert_eq!(server.sql("shop", group).unwrap(), "orders_ro");
    let session = server.sql("shop", "SELECT application_name FROM pg_stat_activity WHERE usename LIKE 'ag\\_%'").unwrap();
    assert!(session.contains(task.id.get(..20).unwrap()), "{session}");
    // What writes is done with another one, made only now.
    let wrote = client.call(&task, "orders.execute", r#"{"sql":"UPDATE orders SET note = $1 WHERE id = 1","parameters":["new"]}"#).await;
    assert_eq!(wrote.word(), "done", "{wrote:?}");
    assert_eq!(server.sql("shop", "SELECT note FROM orders WHERE id = 1").unwrap(), "new");
    assert_eq!(server.sql("shop", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'ag\\_%'").unwrap(), "2");
    let ended = client.complete(&task).await;
    assert_eq!(ended["state"], "closed", "{ended}");
    assert_eq!(left_on(&server), "");
    let endings: Vec<&str> = ended["leases"].as_array().unwrap().iter().map(|l| l["ending"]["ending"].as_str().unwrap()).collect();
    assert_eq!(endings, ["revoked-verified", "revoked-verified"]);
    let one = format!("/v1/leases/{}", ended["leases"][0]["id"].as_str().unwrap());
    for (who, status) in [("ops", 200), ("ana", 200), ("ben", 200), ("cat", 401)] {
        assert_eq!(client.by(who, Method::GET, &one, None).await.status, status, "{who}");
    }
    // The record says it in this order, all of it under the task.
    let entries = broker.entries().await;
    let at = |what: &dyn Fn(&Value) -> bool| entries.iter().position(|e| e["task"] == *task.id && what(e)).unwrap();
    let lease = |state: &'static str| at(&|e: &Value| e["kind"] == "lease" && e["state"] == state && e["account"] == *account);
    let intent = at(&|e| e["kind"] == "intent" && e["tool"] == "orders.query");
    let closed = at(&|e| e["kind"] == "task_ended" && e["state"] == "closed");
    let closing = at(&|e| e["kind"] == "task_ended" && e["state"] == "closing");
    let order = [intent, lease("intended"), lease("live"), closing, lease("ended"), closed];
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(entries[intent]["lease"], entries[lease("ended")]["lease"]);
    assert!(entries[closed]["endings"].as_array().unwrap().iter().any(|e| e["lease"] == entries[intent]["lease"]), "{}", entries[closed]);
    // And the trace of the call has the credential from its making to its refusal.
    let call = entries[intent]["call"].as_str().unwrap();
    let trace = client.by("ben", Method::GET, &format!("/v1/trace/{call}"), None).await.json();
    assert_eq!((&trace["lease"]["account"], &trace["lease"]["state"]), (&json!(account), &json!("ended")), "{trace}");
    let evidence = trace["lease"]["ending"]["evidence"].to_string();
    assert!(evidence.contains("28P01"), "the login was tried and refused: {evidence}");
    broker.check_sound(&place).await;
    broker.stop().await;
    place.verify();
    no_canary(&place, &server.log());
}

/// The administrator's password and the minted ones are nowhere.
fn no_canary(place: &Place, log: &str) {
    for file in files_of(&place.data) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(ADMIN_PASSWORD.len()).any(|w| w == ADMIN_PASSWORD.as_bytes()), "the password stands in {}", file.display());
    }
    assert_eq!(log.matches(ADMIN_PASSWORD).count(), log.matches("CREATE ROLE broker").count(), "only the administrator ever said it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_system_is_down_a_task_stays_closing_and_says_why_and_is_closed_soon_after_its_return() {
    let mut server = postgres();
    let place = place(&[orders(&server)]).await;
    let broker = place.open().await;
    ready(&broker, &["orders.query"]).await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "orders.query", r#"{"sql":"SELECT 1"}"#).await.word(), "done");
    server.stop().unwrap();
    let ended = client.complete(&task).await;
    assert_eq!(ended["state"], "closing", "{ended}");
    assert!(ended["leases"][0]["failure"].as_str().unwrap().contains("primary"), "{ended}");
    assert_eq!(client.call(&task, "orders.query", r#"{"sql":"SELECT 1"}"#).await.status, 401);
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.run().unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let shown = client.by("ops", Method::GET, &format!("/v1/tasks/{}", task.id), None).await.json();
        if shown["state"] == "closed" {
            assert_eq!(shown["leases"][0]["ending"]["ending"], "revoked-verified", "{shown}");
            assert!(shown["leases"][0]["attempts"].as_u64().unwrap() > 0, "{shown}");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{shown}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(left_on(&server), "");
    broker.stop().await;
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_account_somebody_removed_is_given_another_and_both_have_their_ending() {
    let server = postgres();
    let place = place(&[orders(&server)]).await;
    let broker = place.open().await;
    ready(&broker, &["orders.query"]).await;
    let client = place.client();
    let task = client.task("scout").await;
    let ask = || client.call(&task, "orders.query", r#"{"sql":"SELECT current_user"}"#);
    let first = rows(&ask().await)[0][0].as_str().unwrap().to_owned();
    server.sql("shop", &format!("ALTER ROLE {first} NOLOGIN")).unwrap();
    server.sql("shop", &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{first}'")).unwrap();
    server.sql("shop", &format!("DROP ROLE {first}")).unwrap();
    // The connection is gone, and then the account: each costs a call at most.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let second = loop {
        let answer = ask().await;
        if answer.word() == "done" {
            break rows(&answer)[0][0].as_str().unwrap().to_owned();
        }
        assert!(tokio::time::Instant::now() < deadline, "{answer:?}");
    };
    assert_ne!(first, second);
    let ended = client.complete(&task).await;
    assert_eq!(ended["state"], "closed", "{ended}");
    let leases = ended["leases"].as_array().unwrap();
    assert_eq!(leases.len(), 2, "{ended}");
    assert!(leases.iter().all(|lease| lease["ending"]["ending"] == "revoked-verified"), "{ended}");
    assert_eq!(left_on(&server), "");
    broker.check_sound(&place).await;
    broker.stop().await;
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_may_speak_of_a_built_in_system_that_was_never_reached() {
    let mut server = postgres();
    server.stop().unwrap();
    let place = place(&[orders(&server)]).await;
    let forbidden =
        r#"@id("orders-by-the-word") forbid (principal, action == Action::"orders.query", resource) when { context.input.sql like "*secret*" };"#;
    place.add_policy(&format!("{}{forbidden}", PERMITTED.replace(", Action::\"stock.execute\"", "")));
    let broker = place.open().await;
    assert!(!broker.house.registry.load().tool("orders.query").is_some_and(|t| t.callable()), "it is not served");
    broker.stop().await;
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_may_end_a_lease_by_hand_and_the_record_says_so() {
    let mut server = postgres();
    let place = place(&[orders(&server)]).await;
    let broker = place.open().await;
    ready(&broker, &["orders.query"]).await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_eq!(client.call(&task, "orders.query", r#"{"sql":"SELECT 1"}"#).await.word(), "done");
    server.stop().unwrap();
    let ended = client.complete(&task).await;
    let id = ended["leases"][0]["id"].as_str().unwrap();
    let end = format!("/v1/leases/{id}/end");
    let reason = json!({ "reason": "the server is scrapped" });
    assert_eq!(client.by("ana", Method::POST, &end, Some(reason.clone())).await.status, 403, "an owner is no operator");
    assert_eq!(client.by("ops", Method::POST, &end, Some(json!({ "reason": " " }))).await.status, 400);
    let lease = client.by("ops", Method::POST, &end, Some(reason)).await.json();
    assert_eq!((&lease["ending"]["ending"], &lease["ended_by"]), (&json!("by-hand"), &json!("ops")), "{lease}");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while client.by("ops", Method::GET, &format!("/v1/tasks/{}", task.id), None).await.json()["state"] != "closed" {
        assert!(tokio::time::Instant::now() < deadline, "the task is not closed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let entries = broker.entries().await;
    let step = entries.iter().find(|e| e["kind"] == "lease" && e["state"] == "ended").unwrap();
    assert_eq!((&step["by"], &step["reason"]), (&json!("ops"), &json!("the server is scrapped")));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_no_lease_explains_is_removed_and_is_an_incident() {
    let server = postgres();
    server.sql("shop", "CREATE ROLE ag_00000000000000000000000007 LOGIN; CREATE ROLE ag_of_a_person LOGIN").unwrap();
    let place = place(&[orders(&server)]).await;
    let broker = place.open().await;
    until("the orphan is gone", || !left_on(&server).contains("00007")).await;
    assert_eq!(left_on(&server), "role ag_of_a_person");
    let house = &broker.house;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !entries(house).await.iter().any(|e| e["kind"] == "incident" && e["what"] == "orphan_account") {
        assert!(tokio::time::Instant::now() < deadline, "no incident");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_system_whose_credentials_could_not_be_ended_is_not_served_and_the_check_names_what_is_missing() {
    let server = postgres();
    server.sql("postgres", "REVOKE pg_signal_backend FROM broker").unwrap();
    let place = place(&[orders(&server)]).await;
    // Policies that speak of tools which nobody has seen yet are refused at a first start.
    place.add_policy("");
    let broker = place.open().await;
    let client = place.client();
    let check = async || client.by("ops", Method::POST, "/v1/systems/orders/check", Some(json!({}))).await.json();
    let report = check().await;
    assert_eq!(report["passed"], false, "{report}");
    assert!(report["missing"].to_string().contains("GRANT pg_signal_backend TO"), "{report}");
    let systems = client.by("ops", Method::GET, "/v1/systems", None).await.json();
    let orders = systems["systems"].as_array().unwrap().iter().find(|s| s["name"] == "orders").unwrap().clone();
    assert_eq!(orders["status"], "backing_off", "{orders}");
    assert!(broker.house.registry.load().tool("orders.query").is_none());
    server.sql("postgres", "GRANT pg_signal_backend TO broker").unwrap();
    assert_eq!(check().await["passed"], true);
    ready(&broker, &["orders.query"]).await;
    assert_eq!(left_on(&server), "", "a check leaves nothing behind");
    broker.stop().await;
}

/// How a program of the agent's own logs in: `Ok` with the answer, or the server's code.
async fn log_in(server: &Postgres, account: &str, secret: &str) -> Result<String, String> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(server.port()).user(account).password(secret).dbname("shop");
    let code = |e: tokio_postgres::Error| e.code().map_or_else(|| e.to_string(), |c| c.code().to_owned());
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(code)?;
    tokio::spawn(connection);
    let row = client.query_one("SELECT note FROM orders WHERE id = 1", &[]).await.map_err(code)?;
    Ok(row.get(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_waits_is_given_to_one_task_with_its_chain_and_nothing_waits_after_a_stop() {
    let server = postgres();
    let section = orders(&server).replace("[systems.orders.postgresql]", "[systems.orders]\npool = { read = 1 }\n[systems.orders.postgresql]");
    let place = place(&[section]).await;
    let broker = place.open().await;
    ready(&broker, &["orders.query", "orders.execute"]).await;
    until("an account waits", || broker.house.pooled("orders") == 1).await;
    let waiting = server.sql("shop", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'ag\\_%'").unwrap();
    let client = place.client();
    // What is not permitted keeps nothing from others.
    let denied = client.task_with("scout", json!({ "tools": ["orders.query"] })).await;
    assert_eq!(client.call(&denied, "orders.query", r#"{"sql":"DROP TABLE orders"}"#).await.word(), "call.arguments");
    assert_eq!(broker.house.pooled("orders"), 1);
    let task = client.task("scout").await;
    let read = client.call(&task, "orders.query", r#"{"sql":"SELECT note FROM orders WHERE id = 1"}"#).await;
    assert_eq!(rows(&read), json!([["note 1"]]), "{read:?}");
    let comment = format!("SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = '{waiting}'");
    assert!(server.sql("shop", &comment).unwrap().contains(&task.id), "the account that waited was not the one that was used");
    let session = format!("SELECT application_name FROM pg_stat_activity WHERE usename = '{waiting}'");
    assert!(server.sql("shop", &session).unwrap().contains(task.id.get(..20).unwrap()));
    assert_eq!(client.complete(&task).await["state"], "closed");
    until("another one waits", || broker.house.pooled("orders") == 1).await;
    assert!(!left_on(&server).contains(&waiting), "an account was used for two tasks");
    broker.stop().await;
    assert_eq!(left_on(&server), "", "what waited is ended with the broker");
    place.verify();
}

/// A database of which so many accounts for reads wait.
fn pooled(server: &Postgres, read: usize) -> String {
    orders(server).replace("[systems.orders.postgresql]", &format!("[systems.orders]\npool = {{ read = {read} }}\n[systems.orders.postgresql]"))
}

fn roles(server: &Postgres) -> Vec<String> {
    let roles = server.sql("shop", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'ag\\_%'").unwrap();
    roles.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_that_a_crash_of_the_system_took_while_they_waited_are_ended_and_the_first_call_has_another() {
    // Nothing reaches the server's disk by itself: a crash takes what was made without waiting for it.
    let mut server = Postgres::start(&["wal_writer_delay=10s", "wal_writer_flush_after=0"]).unwrap();
    server.sql("postgres", POSTGRES_ONCE).unwrap();
    server.sql("postgres", "CREATE DATABASE shop").unwrap();
    server.sql("shop", POSTGRES_SHOP).unwrap();
    let place = place(&[pooled(&server, 2)]).await;
    let broker = place.open().await;
    ready(&broker, &["orders.query"]).await;
    until("two wait", || broker.house.pooled("orders") == 2).await;
    let waited = roles(&server);
    assert_eq!(waited.len(), 2);
    server.stop().unwrap();
    server.run().unwrap();
    // What the crash left all the same is taken by hand.
    for role in roles(&server) {
        server.sql("shop", &format!("DROP ROLE {role}")).unwrap();
    }
    let client = place.client();
    let task = client.task("scout").await;
    let read = client.call(&task, "orders.query", r#"{"sql":"SELECT current_user"}"#).await;
    assert_eq!(read.word(), "done", "{read:?}");
    let account = rows(&read)[0][0].as_str().unwrap().to_owned();
    assert!(!waited.contains(&account), "{account} was lost");
    let again = client.call(&task, "orders.query", r#"{"sql":"SELECT current_user"}"#).await;
    assert_eq!(rows(&again), json!([[account]]), "the task keeps it");
    // The trace of the call has the credential that it was sent with.
    let entries = broker.entries().await;
    let call = entries.iter().find(|e| e["kind"] == "intent" && e["task"] == *task.id).unwrap()["call"].as_str().unwrap();
    let trace = client.by("ben", Method::GET, &format!("/v1/trace/{call}"), None).await.json();
    assert_eq!(trace["lease"]["account"], json!(account), "{trace}");
    let ended = client.complete(&task).await;
    assert_eq!(ended["state"], "closed", "{ended}");
    for lease in ended["leases"].as_array().unwrap() {
        assert_eq!(lease["ending"]["ending"], "revoked-verified", "{ended}");
    }
    until("two others wait", || broker.house.pooled("orders") == 2).await;
    assert!(roles(&server).iter().all(|role| !waited.contains(role)));
    // Each lost one has its ending, too.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let steps = broker.entries().await;
        let is_ended = |account: &String| steps.iter().any(|e| e["kind"] == "lease" && e["state"] == "ended" && e["account"] == **account);
        if waited.iter().all(is_ended) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{steps:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.check_sound(&place).await;
    broker.stop().await;
    assert_eq!(left_on(&server), "");
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_whose_connection_the_system_closed_while_it_waited_is_used_over_another() {
    let mut server = postgres();
    let place = place(&[pooled(&server, 1)]).await;
    let broker = place.open().await;
    ready(&broker, &["orders.query"]).await;
    let client = place.client();
    for restarted in [false, true] {
        until("one waits", || broker.house.pooled("orders") == 1).await;
        let waited = roles(&server);
        if restarted {
            server.sql("postgres", "CHECKPOINT").unwrap();
            server.stop().unwrap();
            server.run().unwrap();
        } else {
            server.sql("shop", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'ag\\_%'").unwrap();
        }
        let task = client.task("scout").await;
        let read = client.call(&task, "orders.query", r#"{"sql":"SELECT current_user, current_setting('application_name')"}"#).await;
        assert_eq!(read.word(), "done", "{read:?}");
        assert!(waited.iter().any(|role| rows(&read)[0][0] == **role), "{read:?} {waited:?}");
        assert!(rows(&read)[0][1].as_str().unwrap().contains(task.id.get(..20).unwrap()), "{read:?}");
        assert_eq!(client.complete(&task).await["state"], "closed");
    }
    broker.stop().await;
    assert_eq!(left_on(&server), "");
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_right_after_the_record_of_a_first_call_its_account_is_the_tasks_and_is_ended() {
    let server = postgres();
    let place = place(&[pooled(&server, 1)]).await;
    let broker = place.open().await;
    ready(&broker, &["orders.query"]).await;
    broker.stop().await;
    let mut child = place.spawn(Some("lease-assigned"));
    let client = place.client();
    wait_for(&client).await;
    // It dies with the first call for which an account waited.
    let mut tasks = Vec::new();
    let calls = async {
        loop {
            let task = client.task("scout").await;
            let answer = client.try_call(&task, "orders.query", r#"{"sql":"SELECT 1"}"#).await;
            tasks.push(task);
            if answer.is_none() {
                return std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = calls => {}
        status = child.wait() => assert!(status.unwrap().signal().is_some()),
    }
    let broker = place.open().await;
    let entries = broker.entries().await;
    let assigned = entries.iter().find(|e| e["kind"] == "lease" && e["state"] == "assigned").unwrap();
    let intent = entries.iter().find(|e| e["kind"] == "intent" && e["call"] == assigned["call"]).unwrap();
    assert_eq!((&assigned["task"], &assigned["lease"]), (&intent["task"], &intent["lease"]));
    let account = assigned["account"].as_str().unwrap().to_owned();
    until("its account is ended", || !roles(&server).contains(&account)).await;
    let task = tasks.iter().find(|task| assigned["task"] == *task.id).unwrap();
    let ended = client.complete(task).await;
    assert_eq!(ended["state"], "closed", "{ended}");
    let lease = ended["leases"].as_array().unwrap().iter().find(|lease| lease["account"] == *account).unwrap();
    assert_eq!(lease["ending"]["ending"], "revoked-verified", "{ended}");
    end_open_tasks(&broker).await;
    until("only the pool is left", || roles(&server).len() == 1 && broker.house.pooled("orders") == 1).await;
    broker.stop().await;
    assert_eq!(left_on(&server), "");
    place.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_is_handed_out_only_where_it_may_be_after_a_person_said_yes_and_ends_with_the_task() {
    let server = postgres();
    let closed = place(&[orders(&server)]).await;
    let broker = closed.open().await;
    ready(&broker, &["orders.query"]).await;
    assert!(broker.house.registry.load().tool("orders.issue_read_credential").is_none(), "off unless it is said");
    broker.stop().await;
    let section = orders(&server).replace("[systems.orders.postgresql]", "[systems.orders]\nissue_credentials = true\n[systems.orders.postgresql]");
    // The configuration cannot make it a smaller thing than it is.
    let place = place(&[section.replace("\nissue", "\neffects = { issue_write_credential = \"read\" }\nissue")]).await;
    let broker = place.open().await;
    ready(&broker, &["orders.query", "orders.issue_read_credential"]).await;
    let client = place.client();
    let task = client.task("scout").await;
    assert_ne!(client.call(&task, "orders.issue_write_credential", "{}").await.word(), "done");
    client.approved(&task, "orders.issue_read_credential", "{}").await;
    let answer = client.call(&task, "orders.issue_read_credential", "{}").await.json();
    let handed = &answer["result"]["structuredContent"];
    let (account, secret) = (handed["account"].as_str().unwrap(), handed["secret"].as_str().unwrap());
    assert_eq!(log_in(&server, account, secret).await, Ok("note 1".to_owned()), "{answer}");
    let ended = client.complete(&task).await;
    assert_eq!((&ended["state"], &ended["leases"][0]["ending"]["ending"]), (&json!("closed"), &json!("revoked-verified")), "{ended}");
    assert_eq!(log_in(&server, account, secret).await, Err("28P01".to_owned()));
    assert_eq!(left_on(&server), "");
    broker.stop().await;
    for file in files_of(&place.data) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "the secret stands in {}", file.display());
    }
    assert!(!server.log().contains(secret));
}

const POINTS: [&str; 7] = ["before-lease", "lease-intended", "lease-minted", "lease-live", "lease-ending", "lease-dead", "lease-ended"];

/// kill -9 at each step, and at random, against both databases at once: after each restart every account that is left is that of a live
/// lease of an open task, and with the tasks ended nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_any_two_steps_it_leaves_no_account_that_no_live_lease_explains() {
    let rounds: usize = std::env::var("BAILIWICK_LEASE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(POINTS.len() + 3);
    let (server, other) = (postgres(), mariadb());
    let place = place(&[orders(&server), stock(&other)]).await;
    let broker = place.open().await;
    ready(&broker, &["orders.query", "orders.execute", "stock.query", "stock.execute"]).await;
    broker.stop().await;
    for round in 0..rounds {
        let point = POINTS.get(round % (POINTS.len() * 2)).copied();
        let mut child = place.spawn(point);
        let client = place.client();
        wait_for(&client).await;
        let after = Duration::from_millis(u64::try_from(round).unwrap() * 37 % 400);
        tokio::select! {
            () = busy(&client) => {}
            () = tokio::time::sleep(if point.is_some() { PATIENCE } else { after }) => assert!(point.is_none(), "it did not die at {point:?}"),
        }
        child.start_kill().ok();
        let status = child.wait().await.unwrap();
        assert!(status.signal().is_some(), "{status:?}");
        let broker = place.open().await;
        // The check of each system makes an account of its own for a moment, and it is none that a lease explains.
        ready(&broker, &["orders.query", "orders.execute", "stock.query", "stock.execute"]).await;
        settled(&broker, &server, &other).await;
        end_open_tasks(&broker).await;
        settled(&broker, &server, &other).await;
        assert_eq!((left_on(&server), left_on_mariadb(&other)), (String::new(), String::new()), "in round {round} at {point:?}");
        broker.check_sound(&place).await;
        broker.stop().await;
    }
    place.verify();
}

async fn wait_for(client: &Client<'_>) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while client.try_send(Method::GET, "/readyz", &[], "").await.is_none_or(|a| a.status != 200) {
        assert!(tokio::time::Instant::now() < deadline, "the broker did not come up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Tasks with calls to both databases, one after another, until the broker is gone.
async fn busy(client: &Client<'_>) {
    loop {
        let Some(token) = client.token_if_there("scout").await else { return };
        let asked = json!({ "purpose": "tests", "tools": ["orders.*", "stock.*"] }).to_string();
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let Some(answer) = client.try_send(Method::POST, "/v1/tasks", &headers, asked).await else { return };
        if answer.status != 201 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        let opened = answer.json();
        let task =
            TaskToken { id: opened["task"]["id"].as_str().unwrap().to_owned(), token: opened["token"]["access_token"].as_str().unwrap().to_owned() };
        for (tool, sql) in [
            ("orders.query", "SELECT count(*) FROM orders"),
            ("stock.query", "SELECT count(*) FROM items"),
            ("orders.execute", "UPDATE orders SET note = 'x' WHERE id = 2"),
            ("stock.execute", "UPDATE items SET note = 'x' WHERE id = 2"),
        ] {
            let arguments = json!({ "sql": sql }).to_string();
            if client.try_call(&task, tool, &arguments).await.is_none() {
                return;
            }
        }
        let bearer = format!("Bearer {}", task.token);
        let done = client.try_send(Method::POST, &format!("/v1/tasks/{}/complete", task.id), &[("authorization", &bearer)], "").await;
        if done.is_none() {
            return;
        }
    }
}

/// Waits until nothing is being ended, and holds what is left against the leases that are live.
async fn settled(broker: &Broker, server: &Postgres, other: &Mariadb) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let filter = bailiwick_store::LeaseFilter { open: true, limit: 1000, ..Default::default() };
        let leases = broker.house.store.leases(filter).await.unwrap();
        let ending = leases.iter().any(|l| l.state != bailiwick_store::LeaseState::Live);
        let closing = bailiwick_store::TaskFilter { state: Some("closing"), limit: 10, ..Default::default() };
        let closing = broker.house.store.tasks(closing).await.unwrap();
        let left = [left_on(server), left_on_mariadb(other)].join("\n");
        let unexplained: Vec<&str> = left
            .lines()
            .filter_map(|line| line.strip_prefix("role ").or_else(|| line.strip_prefix("user\t")))
            .filter(|account| !leases.iter().any(|l| l.lease.account == *account))
            .collect();
        if !ending && closing.is_empty() && unexplained.is_empty() {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{unexplained:?} {leases:?} {closing:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn end_open_tasks(broker: &Broker) {
    let filter = bailiwick_store::TaskFilter { state: Some("open"), limit: 1000, ..Default::default() };
    for row in broker.house.store.tasks(filter).await.unwrap() {
        broker.house.end_task(row.task.id, bailiwick_core::EndReason::Revoked, None).await.unwrap();
    }
}
