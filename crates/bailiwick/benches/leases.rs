//! `cargo xtask bench leases`: what a credential that is made for a task costs on a private `PostgreSQL`, beside its bare statements, in
//! turns within one run; then the first call of a task over HTTP, with the account made on the way, and with one that waited for it.
//!
//! *Raw* sends the statements of the facts on one open connection, a batch for the making and one by one for the end, with the login
//! that is refused at the end. *Lease* is `Kind::mint` and `Kind::end` with everything that they promise: lock by name, verifier, terminated
//! sessions on each node, the refused login as evidence. Durable: the server runs with `fsync=on`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a program for measurements"
)]
#![allow(dead_code, clippy::allow_attributes, reason = "the support of the tests has more than this needs")]

#[path = "../tests/it/support.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bailiwick::clock::{SystemClock, random};
use bailiwick_core::{Clock, LeaseId, Timestamp};
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::postgresql::{Postgresql, Settings};
use bailiwick_credentials::lease::{Account, AccountName, Kind as _, Node, Plan, Prefix, Tag};
use bailiwick_testkit::servers::postgres::Postgres;
use http::Method;
use serde_json::{Map, Value, json};
use support::{Place, until};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const ONCE: &str = "
    CREATE ROLE broker LOGIN CREATEROLE PASSWORD 'broker-password';
    GRANT pg_signal_backend TO broker;
    CREATE ROLE orders_ro NOLOGIN; CREATE ROLE orders_rw NOLOGIN;
    GRANT orders_ro, orders_rw TO broker WITH ADMIN OPTION;";
const VERIFIER: &str =
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
/// How long nothing goes on before a first call.
const REST: Duration = Duration::from_millis(50);
const READ: &str = r#"{"sql":"SELECT 1"}"#;

fn main() {
    let (mut json, mut leases) = (false, 200_usize);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        match flag.as_str() {
            "--json" => json = true,
            // Cargo says so to every benchmark.
            "--bench" => {}
            "--leases" => leases = arguments.next().unwrap().parse().unwrap(),
            other => panic!("unknown argument `{other}`; there are --json and --leases N"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut report = Map::new();
    runtime.block_on(async {
        let server = Postgres::start(&["fsync=on", "log_statement=none"]).unwrap();
        server.sql("postgres", ONCE).unwrap();
        server.sql("postgres", "CREATE DATABASE shop").unwrap();
        kind(&server, leases, &mut report).await;
        for (name, pool) in [("first_use", 0), ("first_use_pooled", 8)] {
            first_use(&server, name, pool, leases.min(100), &mut report).await;
        }
    });
    if json {
        println!("{}", Value::Object(report));
    }
}

/// Sorted times, at the median and at the worst of a hundred.
fn say(name: &str, times: &mut [Duration], report: &mut Map<String, Value>) -> f64 {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1e6;
    println!("{name:<22} p50 {:>9.0} µs   p99 {:>9.0} µs   of {}", at(50), at(99), times.len());
    report.insert(format!("{name}_p50_us"), json!(at(50).round()));
    report.insert(format!("{name}_p99_us"), json!(at(99).round()));
    at(50)
}

async fn connect(server: &Postgres) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(server.port()).user("broker").password("broker-password").dbname("shop");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn cell(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap();
    let row = messages.iter().find_map(|m| if let SimpleQueryMessage::Row(row) = m { row.get(0) } else { None });
    row.unwrap_or_default().to_owned()
}

fn fresh_name() -> AccountName {
    AccountName::new(&Prefix::default(), LeaseId::new(SystemClock::start().now(), random()).to_bytes())
}

async fn raw_mint(bare: &Client, name: &AccountName) -> String {
    let create = format!(
        "BEGIN; CREATE ROLE {name} LOGIN INHERIT NOCREATEDB NOCREATEROLE NOSUPERUSER CONNECTION LIMIT 2 PASSWORD '{VERIFIER}' \
         VALID UNTIL '2030-01-01' IN ROLE orders_ro; GRANT {name} TO broker; COMMENT ON ROLE {name} IS '{{}}'; \
         ALTER ROLE {name} SET statement_timeout = '30s'; ALTER ROLE {name} SET idle_in_transaction_session_timeout = '30s'; \
         ALTER ROLE {name} SET application_name = 'x'; SELECT oid FROM pg_roles WHERE rolname = '{name}'; COMMIT"
    );
    cell(bare, &create).await
}

async fn raw_end(server: &Postgres, bare: &Client, name: &AccountName, oid: &str) {
    let kill = format!("SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usesysid = {oid}");
    cell(bare, &format!("ALTER ROLE {name} NOLOGIN PASSWORD NULL")).await;
    cell(bare, &kill).await;
    cell(bare, &format!("SELECT gid FROM pg_prepared_xacts WHERE owner = '{name}'")).await;
    let owned =
        "SELECT DISTINCT datname FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid WHERE refclassid = 'pg_authid'::regclass AND refobjid = ";
    cell(bare, &format!("{owned}{oid}")).await;
    cell(bare, &format!("DROP ROLE IF EXISTS {name}")).await;
    cell(bare, &kill).await;
    cell(bare, &format!("SELECT count(*) FROM pg_roles WHERE rolname = '{name}'")).await;
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(server.port()).user(name.as_str()).password("pencil").dbname("shop");
    assert!(config.connect(NoTls).await.is_err(), "a role that is dropped logged in");
}

async fn kind(server: &Postgres, leases: usize, report: &mut Map<String, Value>) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let settings = Settings {
        nodes: vec![Node::new("primary", "127.0.0.1", server.port(), None).unwrap()],
        database: "shop".into(),
        user: "broker".into(),
        groups: vec!["orders_ro".into(), "orders_rw".into()],
        connections: 2,
        statement_timeout: Duration::from_secs(30),
        cascade: false,
    };
    let kind = Postgresql::new(settings, Secret::from("broker-password".to_owned()), Arc::clone(&clock)).unwrap();
    let bare = connect(server).await;
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..leases {
        let name = fresh_name();
        let begin = Instant::now();
        let oid = raw_mint(&bare, &name).await;
        times[0].push(begin.elapsed());
        let begin = Instant::now();
        raw_end(server, &bare, &name, &oid).await;
        times[1].push(begin.elapsed());
        let expires_at: Timestamp = clock.now().plus(Duration::from_secs(600));
        let tag = Tag { task: "task_00000000000000000000000000000000".into(), agent: "spiffe://bailiwick.local/agent/scout".into(), expires_at };
        let plan = Plan { name: fresh_name(), tag, rights: vec!["orders_ro".into()] };
        let begin = Instant::now();
        let secret = kind.propose().unwrap();
        let minted = kind.mint(&plan, secret.as_ref()).await.unwrap();
        times[2].push(begin.elapsed());
        let account = Account { name: plan.name, ids: minted.ids, secret, expires_at: minted.expires_at };
        let begin = Instant::now();
        let ending = kind.end(&account).await.unwrap();
        times[3].push(begin.elapsed());
        assert_eq!(ending.word(), "revoked-verified");
    }
    let [raw_mint, raw_end, mint, end] = ["raw_mint", "raw_end", "lease_mint", "lease_end"];
    let medians: Vec<f64> = [raw_mint, raw_end, mint, end].into_iter().zip(&mut times).map(|(name, times)| say(name, times, report)).collect();
    for (name, ratio) in [("mint_over_raw", medians[2] / medians[0]), ("end_over_raw", medians[3] / medians[1])] {
        println!("{name:<22} {ratio:.2}");
        report.insert(name.to_owned(), json!((ratio * 100.0).round() / 100.0));
    }
}

/// First calls one after another until all that waited are taken, without a rest: half of them are taken while the pool is filled again.
async fn burst(broker: &support::Broker, client: &support::Client<'_>, (name, pool): (&str, usize), tasks: usize, report: &mut Map<String, Value>) {
    let mut first = Vec::new();
    while first.len() < tasks {
        let mut opened = Vec::new();
        for _ in 0..pool {
            opened.push(client.task_with("scout", json!({ "tools": ["orders.query"] })).await);
        }
        until("the pool is full", || broker.house.pooled("orders") >= pool).await;
        tokio::time::sleep(REST).await;
        for task in &opened {
            let begin = Instant::now();
            let answer = client.call(task, "orders.query", READ).await;
            first.push(begin.elapsed());
            assert_eq!(answer.word(), "done", "{answer:?}");
        }
        for task in opened {
            let done = client.with_token(&task.token, Method::POST, &format!("/v1/tasks/{}/complete", task.id), "").await;
            assert_eq!(done.json()["state"], "closed", "{done:?}");
        }
    }
    say(&format!("{name}_in_a_row"), &mut first, report);
}

/// The first call of each of some tasks, one after another, each as a task finds it whose agent comes now and then: the pool is full and nothing
/// is going on. And the second, which is what a call costs.
async fn first_use(server: &Postgres, name: &str, pool: usize, tasks: usize, report: &mut Map<String, Value>) {
    let section = format!(
        "\n[systems.orders]\npool = {{ read = {pool} }}\n[systems.orders.postgresql]\nnodes = [{{ name = \"primary\", host = \"127.0.0.1\", port = {} }}]\n\
         database = \"shop\"\nuser = \"broker\"\nsecret = \"orders_admin\"\nread_rights = [\"orders_ro\"]\nwrite_rights = [\"orders_rw\"]\n",
        server.port()
    );
    let place = Place::with(|text| text.replace("\"twin.look\"]", "\"twin.look\", \"orders.*\"]") + &section).await;
    bailiwick::secrets::set(&place.data, "orders_admin", zeroize::Zeroizing::new(b"broker-password".to_vec())).await.unwrap();
    let broker = place.open().await;
    until("the tools are listed", || {
        broker.house.registry.load().tool("orders.query").is_some_and(|t| t.callable()) && broker.possible("orders.query")
    })
    .await;
    let client = place.client();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..tasks {
        if pool > 0 {
            until("the pool is full", || broker.house.pooled("orders") >= pool).await;
            tokio::time::sleep(REST).await;
        }
        let task = client.task_with("scout", json!({ "tools": ["orders.query"] })).await;
        for times in [&mut first, &mut second] {
            let begin = Instant::now();
            let answer = client.call(&task, "orders.query", READ).await;
            times.push(begin.elapsed());
            assert_eq!(answer.word(), "done", "{answer:?}");
        }
        let done = client.with_token(&task.token, Method::POST, &format!("/v1/tasks/{}/complete", task.id), "").await;
        assert_eq!(done.json()["state"], "closed", "{done:?}");
    }
    say(name, &mut first, report);
    say(&format!("{name}_then"), &mut second, report);
    if pool > 0 {
        burst(&broker, &client, (name, pool), tasks, report).await;
    }
    broker.stop().await;
    let left = server.sql("shop", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'ag\\_%'").unwrap();
    assert_eq!(left, "0", "accounts were left behind");
}
