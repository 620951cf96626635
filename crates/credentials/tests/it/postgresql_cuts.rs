//! kill -9 between any two steps of a mint and of an end, with real `PostgreSQL`: what was begun is found and ended by the name alone.

use bailiwick_credentials::lease::{Kind as _, Plan};

use crate::cut::Cuts;
use crate::postgresql_world::{World, ask, log_in};
use crate::words::{assert_verified, only_intent, plan};

fn with<T>(work: impl FnOnce(&World, &Cuts<'_>) -> T) -> T {
    let world = World::start();
    let cuts = Cuts {
        broker: &|| Box::new(world.broker()),
        left: &|| world.left(),
        rights: &["grp_orders_rw"],
        nodes: &["primary"],
        refused: "28P01",
        step: 1,
    };
    work(&world, &cuts)
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn a_mint_cut_at_any_wait_leaves_nothing_that_its_name_does_not_find() {
    with(|_, cuts| cuts.any_mint());
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn an_end_cut_at_any_wait_is_taken_up_by_the_next() {
    let sessions = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    with(|world, cuts| {
        let open = |plan: &Plan, waits: usize| {
            sessions.block_on(async {
                let open = log_in(&world.primary, &plan.name, "shop").await.unwrap();
                let made = format!("CREATE TABLE app.t{waits} (id int); CREATE FUNCTION app.f{waits}() RETURNS int LANGUAGE sql AS 'SELECT 1'");
                ask(&open, &made).await.unwrap();
                ask(&open, &format!("BEGIN; INSERT INTO app.t{waits} VALUES (1); PREPARE TRANSACTION 'p{waits}'")).await.unwrap();
                ask(&open, "SET ROLE grp_orders_rw").await.unwrap();
                open
            })
        };
        cuts.any_end(false, open, |open, waits| {
            assert_eq!(sessions.block_on(ask(&open, "SELECT 1")).unwrap_err(), "closed", "cut after {waits} waits");
        });
    });
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn any_row_of_cuts_ends_with_nothing_left() {
    with(|_, cuts| cuts.any_row(15));
}

/// A mint of another process whose last bytes are still on their way, or that hangs: it holds the lock of its name.
#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn an_end_does_not_overtake_a_mint_under_way() {
    let world = World::start();
    let plan = plan(&["grp_orders_ro"]);
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(world.primary.port()).user("broker").password("broker-password").dbname("shop");
    let (other, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, plan.name.as_str().as_bytes());
    let key = i32::from_be_bytes(hash.as_ref()[..4].try_into().unwrap());
    let lock = format!("BEGIN; SELECT pg_advisory_xact_lock({}, {key})", 0x6167_6c65);
    ask(&other, &lock).await.unwrap();
    let broker = std::sync::Arc::new(world.broker());
    let end = tokio::spawn({
        let (broker, account) = (std::sync::Arc::clone(&broker), only_intent(&plan));
        async move { broker.end(&account).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!end.is_finished(), "the end waits for the mint");
    ask(&other, &format!("CREATE ROLE {} LOGIN; GRANT {} TO broker; COMMIT", plan.name, plan.name)).await.unwrap();
    assert_verified(&end.await.unwrap().unwrap(), &["primary"], "28P01");
    assert_eq!(world.left(), "");

    // One that hangs is ended, and the next try finds nothing in its way.
    let hung = crate::words::plan(&["grp_orders_ro"]);
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, hung.name.as_str().as_bytes());
    let key = i32::from_be_bytes(hash.as_ref()[..4].try_into().unwrap());
    ask(&other, &format!("BEGIN; SELECT pg_advisory_xact_lock({}, {key})", 0x6167_6c65)).await.unwrap();
    ask(&other, &format!("CREATE ROLE {} LOGIN", hung.name)).await.unwrap();
    let error = broker.end(&only_intent(&hung)).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("1 sessions ended"), "{error}");
    assert_eq!(ask(&other, "COMMIT").await.unwrap_err(), "closed");
    assert_verified(&broker.end(&only_intent(&hung)).await.unwrap(), &["primary"], "28P01");
    assert_eq!(world.left(), "");
}
