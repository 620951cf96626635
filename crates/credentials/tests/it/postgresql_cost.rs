//! What a lease costs on `PostgreSQL` next to its bare statements, in one run on one server. Shown with
//! `cargo test -p bailiwick-credentials --test it -- --ignored --nocapture cost`.

use std::time::{Duration, Instant};

use bailiwick_credentials::lease::Kind as _;

use crate::postgresql_world::{World, ask, log_in, log_in_with};
use crate::words::{assert_verified, count, fresh_name, plan, remembered, secret};

/// A verifier of the tests' password is not needed: it is the server's work that is measured.
const VERIFIER: &str =
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

#[tokio::test]
#[ignore = "a measurement"]
async fn the_cost_of_a_lease_next_to_its_bare_statements() {
    let world = World::with(&["fsync=on"]);
    let broker = world.broker();
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(world.primary.port()).user("broker").password("broker-password").dbname("shop");
    let (bare, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..count("BAILIWICK_LEASES", 100) {
        let name = fresh_name();
        let begin = Instant::now();
        let create = format!(
            "BEGIN; CREATE ROLE {name} LOGIN INHERIT NOCREATEDB NOCREATEROLE NOSUPERUSER CONNECTION LIMIT 2 PASSWORD '{VERIFIER}' \
             VALID UNTIL '2030-01-01' IN ROLE grp_orders_ro; GRANT {name} TO broker; COMMENT ON ROLE {name} IS '{{}}'; \
             ALTER ROLE {name} SET statement_timeout = '30s'; ALTER ROLE {name} SET idle_in_transaction_session_timeout = '30s'; \
             ALTER ROLE {name} SET application_name = 'x'; SELECT oid FROM pg_roles WHERE rolname = '{name}'; COMMIT"
        );
        let oid = ask(&bare, &create).await.unwrap();
        times[0].push(begin.elapsed());
        let begin = Instant::now();
        ask(&bare, &format!("ALTER ROLE {name} NOLOGIN PASSWORD NULL")).await.unwrap();
        let kill = format!("SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usesysid = {oid}");
        ask(&bare, &kill).await.unwrap();
        ask(&bare, &format!("SELECT gid FROM pg_prepared_xacts WHERE owner = '{name}'")).await.unwrap();
        let databases = format!(
            "SELECT DISTINCT datname FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid WHERE refclassid = 'pg_authid'::regclass AND refobjid = {oid}"
        );
        ask(&bare, &databases).await.unwrap();
        ask(&bare, &format!("DROP ROLE IF EXISTS {name}")).await.unwrap();
        ask(&bare, &kill).await.unwrap();
        ask(&bare, &format!("SELECT count(*) FROM pg_roles WHERE rolname = '{name}'")).await.unwrap();
        assert_eq!(log_in_with(&world.primary, &name, "shop", "pencil").await.unwrap_err(), "28P01");
        times[1].push(begin.elapsed());

        let plan = plan(&["grp_orders_ro"]);
        let secret = secret();
        let begin = Instant::now();
        let minted = broker.mint(&plan, Some(&secret)).await.unwrap();
        times[2].push(begin.elapsed());
        let account = remembered(&plan, minted);
        let begin = Instant::now();
        let ending = broker.end(&account).await.unwrap();
        times[3].push(begin.elapsed());
        assert_verified(&ending, &["primary"], "28P01");
    }
    assert!(log_in(&world.primary, &fresh_name(), "shop").await.is_err());
    for (name, times) in ["bare mint", "bare end", "lease mint", "lease end"].into_iter().zip(&mut times) {
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        println!("{name:<10} p50 {:>9.2?} p99 {:>9.2?}", at(50), at(99));
    }
}
