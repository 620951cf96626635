//! kill -9 between any two steps of a mint and of an end, with real `MariaDB`: what was begun is found and ended by the name alone.

use bailiwick_credentials::lease::Kind as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::cut::cut;
use crate::mariadb_world::{World, ask, log_in, log_in_with};
use crate::words::{assert_verified, count, only_intent, plan, secret};

/// More waits than any mint or end has here.
const WAITS_MAX: usize = 1000;
const REFUSED: &str = "1045: Access denied for user";

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn a_mint_cut_at_any_wait_leaves_nothing_that_its_name_does_not_find() {
    let world = World::start();
    for waits in 0..WAITS_MAX {
        let plan = plan(&["orders_ro"]);
        let broker = world.broker();
        let minted = cut(waits, async { broker.mint(&plan, Some(&secret())).await.unwrap() });
        // Another process, which knows the intent and nothing else, and is there at once.
        let fresh = world.broker();
        let ending = cut(WAITS_MAX, async { fresh.end(&only_intent(&plan)).await }).unwrap().unwrap();
        assert_verified(&ending, &["primary"], REFUSED);
        assert_eq!(world.left(), "", "cut after {waits} waits");
        if minted.is_some() {
            assert!(waits > 3, "a mint waits for its connection, its lock and its statements");
            return;
        }
    }
    panic!("the mint never came to its end");
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn an_end_cut_at_any_wait_is_taken_up_by_the_next() {
    let world = World::start();
    let sessions = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for waits in 0..WAITS_MAX {
        let plan = plan(&["orders_rw"]);
        let broker = world.broker();
        drop(cut(WAITS_MAX, async { broker.mint(&plan, Some(&secret())).await.unwrap() }).unwrap());
        let mut open = sessions.block_on(log_in(&world.server, &plan.name)).unwrap();
        let first = world.broker();
        let ended = cut(waits, async { first.end(&only_intent(&plan)).await.unwrap() });
        let fresh = world.broker();
        let ending = cut(WAITS_MAX, async { fresh.end(&only_intent(&plan)).await }).unwrap().unwrap();
        assert_verified(&ending, &["primary"], REFUSED);
        assert_eq!(world.left(), "", "cut after {waits} waits");
        assert_eq!(sessions.block_on(ask(&mut open, "SELECT 1")).unwrap_err(), 0, "cut after {waits} waits");
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
    let cuts = (0..40_usize, any::<bool>(), proptest::collection::vec(0..60_usize, 0..4));
    runner
        .run(&cuts, |(mint, again, ends)| {
            let plan = plan(&["orders_rw"]);
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
    let plan = plan(&["orders_ro"]);
    let mut other = log_in_with(&world.server, "broker", "broker-password").await.unwrap();
    assert_eq!(ask(&mut other, &format!("SELECT GET_LOCK('bailiwick.{}', 0)", plan.name)).await.unwrap(), "1");
    let broker = std::sync::Arc::new(world.broker());
    let end = tokio::spawn({
        let (broker, account) = (std::sync::Arc::clone(&broker), only_intent(&plan));
        async move { broker.end(&account).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!end.is_finished(), "the end waits for the mint");
    ask(&mut other, &format!("CREATE USER {}@'%'", plan.name)).await.unwrap();
    drop(other);
    assert_verified(&end.await.unwrap().unwrap(), &["primary"], REFUSED);
    assert_eq!(world.left(), "");

    // One that hangs is ended, and the next try finds nothing in its way.
    let hung = crate::words::plan(&["orders_ro"]);
    let mut other = log_in_with(&world.server, "broker", "broker-password").await.unwrap();
    ask(&mut other, &format!("SELECT GET_LOCK('bailiwick.{}', 0)", hung.name)).await.unwrap();
    let error = broker.end(&only_intent(&hung)).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("hung"), "{error}");
    assert_eq!(ask(&mut other, "SELECT 1").await.unwrap_err(), 0);
    assert_verified(&broker.end(&only_intent(&hung)).await.unwrap(), &["primary"], REFUSED);
}
