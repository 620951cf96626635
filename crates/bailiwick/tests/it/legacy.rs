//! Accounts of real databases that were there before, through the whole house: lent to one task, never shown, rotated at its end.

use std::time::Duration;

use bailiwick_testkit::servers::mariadb::Mariadb;
use bailiwick_testkit::servers::postgres::Postgres;
use http::Method;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::support::{Answer, Broker, PATIENCE, Place, TaskToken, until};

const BEFORE: &str = "canary-set-by-a-person-4d7a";

const PERMITTED: &str = r#"
@id("legacy-by-itself")
permit (principal, action in [Action::"erp.execute"], resource);
"#;

async fn place(server: &str, port: u16) -> Place {
    let section = format!(
        "\n[systems.erp.checkout]\nserver = \"{server}\"\nnodes = [{{ name = \"primary\", host = \"127.0.0.1\", port = {port} }}]\ndatabase = \"erp\"\n\
         accounts = [{{ user = \"erp_app\", secret = \"erp-password\" }}]\nwrites = true\n"
    );
    let place = Place::with(|text| text.replace("\"twin.look\"]", "\"twin.look\", \"erp.*\"]") + &section).await;
    place.add_policy(PERMITTED);
    bailiwick::secrets::set(&place.data, "erp-password", Zeroizing::new(BEFORE.as_bytes().to_vec())).await.unwrap();
    place
}

async fn open(place: &Place) -> Broker {
    let broker = place.open().await;
    until("the tools are listed", || {
        let registry = broker.house.registry.load();
        ["erp.query", "erp.execute"].iter().all(|t| registry.tool(t).is_some_and(|t| t.callable()) && broker.possible(t))
    })
    .await;
    broker
}

fn rows(answer: &Answer) -> Value {
    answer.json()["result"]["structuredContent"]["rows"].clone()
}

async fn closed(broker: &Broker, task: &TaskToken) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let filter = bailiwick_store::TaskFilter { state: Some("closed"), limit: 100, ..Default::default() };
        if broker.house.store.tasks(filter).await.unwrap().iter().any(|row| row.task.id.to_string() == task.id) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "the task is not closed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the house knows of the account's password now.
async fn password(broker: &Broker) -> String {
    let sealed = broker.house.store.secret("erp-password").await.unwrap().unwrap();
    String::from_utf8(broker.house.sealer().open_bytes("erp-password", &sealed).unwrap().to_vec()).unwrap()
}

async fn a_whole_life(place: &Place, log: impl Fn() -> String) -> Vec<String> {
    let broker = open(place).await;
    let client = place.client();
    let (one, two) = (client.task("scout").await, client.task("scout").await);
    let read = client.call(&one, "erp.query", r#"{"sql":"SELECT note FROM items WHERE id = 1"}"#).await;
    assert_eq!(rows(&read), json!([["one"]]), "{read:?}");
    let first = password(&broker).await;
    assert_ne!(first, BEFORE, "the first look at the system has rotated it");
    // The same account writes, in the same task; another task finds it lent.
    assert_eq!(client.call(&one, "erp.execute", r#"{"sql":"UPDATE items SET note = 'uno' WHERE id = 1"}"#).await.word(), "done");
    let refused = client.call(&two, "erp.query", r#"{"sql":"SELECT 1"}"#).await;
    assert_ne!(refused.word(), "done", "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.body).contains("credential"), "{refused:?}");
    client.complete(&one).await;
    closed(&broker, &one).await;
    let second = password(&broker).await;
    assert_ne!(second, first);
    let read = client.call(&two, "erp.query", r#"{"sql":"SELECT note FROM items WHERE id = 1"}"#).await;
    assert_eq!(rows(&read), json!([["uno"]]), "now it is free: {read:?}");
    client.complete(&two).await;
    closed(&broker, &two).await;
    let third = password(&broker).await;
    // Every lease has its ending with evidence, and the record says that the secret was replaced.
    let leases = client.by("ops", Method::GET, "/v1/leases?all=true", None).await.json();
    let endings: Vec<&Value> =
        leases["leases"].as_array().unwrap().iter().filter(|l| l["kind"] == "checkout").map(|l| &l["ending"]["ending"]).collect();
    assert!(endings.iter().filter(|e| **e == "revoked-verified").count() >= 2, "{leases}");
    let entries = broker.entries().await;
    assert!(entries.iter().filter(|e| e["what"] == "secret_rotated" && e["name"] == "erp-password").count() >= 3);
    let told = format!("{entries:?} {leases} {read:?} {refused:?} {}", log());
    for password in [BEFORE, &first, &second, &third] {
        assert!(!told.contains(password), "a password is in the record, an answer or the server's log");
    }
    broker.stop().await;
    place.verify();
    vec![BEFORE.to_owned(), first, second, third]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_role_of_postgresql_that_was_there_before_is_used_by_one_task_at_a_time_and_rotated_after_it() {
    let server = Postgres::start(&[]).unwrap();
    server.sql("postgres", &format!("CREATE ROLE erp_app LOGIN PASSWORD '{BEFORE}'; ALTER ROLE erp_app SET log_statement = 'all'")).unwrap();
    server.sql("postgres", "CREATE DATABASE erp OWNER erp_app").unwrap();
    server.sql("erp", "SET ROLE erp_app; CREATE TABLE public.items (id int PRIMARY KEY, note text); INSERT INTO items VALUES (1, 'one')").unwrap();
    let begin = server.log().len();
    let place = place("postgresql", server.port()).await;
    let passwords = a_whole_life(&place, || server.log().split_off(begin)).await;
    let works = async |password: &str| {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(server.port()).user("erp_app").password(password).dbname("erp");
        config.connect(tokio_postgres::NoTls).await.is_ok()
    };
    for (n, password) in passwords.iter().enumerate() {
        assert_eq!(works(password).await, n == 3, "password {n}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn an_account_of_mariadb_that_was_there_before_is_used_by_one_task_at_a_time_and_rotated_after_it() {
    let server = Mariadb::start(&[]).unwrap();
    let once = format!(
        "CREATE DATABASE erp; CREATE TABLE erp.items (id int PRIMARY KEY, note text); INSERT INTO erp.items VALUES (1, 'one');
         CREATE USER erp_app@'%' IDENTIFIED BY '{BEFORE}'; GRANT ALL ON erp.* TO erp_app@'%';"
    );
    server.sql(&once).unwrap();
    let begin = server.log().len();
    let place = place("mariadb", server.port()).await;
    let passwords = a_whole_life(&place, || server.log().split_off(begin)).await;
    assert_eq!(passwords.len(), 4);
}
