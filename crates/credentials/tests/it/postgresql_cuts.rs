//! kill -9 between any two steps of a mint and of an end, with real `PostgreSQL`: what was begun is found and ended by the name alone.

use bailiwick_credentials::lease::Kind as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::cut::cut;
use crate::postgresql_world::{World, ask, log_in};
use crate::words::{assert_verified, count, only_intent, plan, secret};

/// More waits than any mint or end has here.
const WAITS_MAX: usize = 400;

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn a_mint_cut_at_any_wait_leaves_nothing_that_its_name_does_not_find() {
    let world = World::start();
    for waits in 0..WAITS_MAX {
        let plan = plan(&["grp_orders_ro"]);
        let broker = world.broker();
        let minted = cut(waits, async { broker.mint(&plan, Some(&secret())).await.unwrap() });
        // Another process, which knows the intent and nothing else, and is there at once.
        let fresh = world.broker();
        let ending = cut(WAITS_MAX, async { fresh.end(&only_intent(&plan)).await }).unwrap().unwrap();
        assert_verified(&ending, &["primary"], "28P01");
        assert_eq!(world.left(), "", "cut after {waits} waits");
        if minted.is_some() {
            assert!(waits > 3, "a mint waits for its connection, its lock and its commit");
            return;
        }
    }
    panic!("the mint never came to its end");
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn an_end_cut_at_any_wait_is_taken_up_by_the_next() {
    let world = World::start();
    for waits in 0..WAITS_MAX {
        let plan = plan(&["grp_orders_rw"]);
        let sessions = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let broker = world.broker();
        drop(cut(WAITS_MAX, async { broker.mint(&plan, Some(&secret())).await.unwrap() }).unwrap());
        let open = sessions.block_on(async {
            let open = log_in(&world.primary, &plan.name, "shop").await.unwrap();
            ask(&open, &format!("CREATE TABLE app.t{waits} (id int); CREATE FUNCTION app.f{waits}() RETURNS int LANGUAGE sql AS 'SELECT 1'"))
                .await
                .unwrap();
            ask(&open, &format!("BEGIN; INSERT INTO app.t{waits} VALUES (1); PREPARE TRANSACTION 'p{waits}'")).await.unwrap();
            ask(&open, "SET ROLE grp_orders_rw").await.unwrap();
            open
        });
        let first = world.broker();
        let ended = cut(waits, async { first.end(&only_intent(&plan)).await.unwrap() });
        let fresh = world.broker();
        let ending = cut(WAITS_MAX, async { fresh.end(&only_intent(&plan)).await }).unwrap().unwrap();
        assert_verified(&ending, &["primary"], "28P01");
        assert_eq!(world.left(), "", "cut after {waits} waits");
        assert_eq!(sessions.block_on(ask(&open, "SELECT 1")).unwrap_err(), "closed", "cut after {waits} waits");
        if ended.is_some() {
            return;
        }
    }
    panic!("the end never came to its end");
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn any_row_of_cuts_ends_with_nothing_left() {
    let world = World::start();
    let cases = u32::try_from(count("BAILIWICK_CUTS", 15)).unwrap();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let cuts = (0..30_usize, any::<bool>(), proptest::collection::vec(0..60_usize, 0..4));
    runner
        .run(&cuts, |(mint, again, ends)| {
            let plan = plan(&["grp_orders_rw"]);
            let broker = world.broker();
            drop(cut(mint, async { broker.mint(&plan, Some(&secret())).await.map(drop) }));
            if again {
                let broker = world.broker();
                drop(cut(WAITS_MAX, async { broker.mint(&plan, Some(&secret())).await.map(drop) }));
            }
            for waits in ends {
                let broker = world.broker();
                drop(cut(waits, async { broker.end(&only_intent(&plan)).await.map(drop) }));
            }
            let fresh = world.broker();
            let ending = cut(WAITS_MAX, async { fresh.end(&only_intent(&plan)).await }).unwrap();
            prop_assert!(ending.as_ref().is_ok_and(|ending| ending.word() == "revoked-verified"), "{:?}", ending);
            prop_assert_eq!(world.left(), "");
            Ok(())
        })
        .unwrap();
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
