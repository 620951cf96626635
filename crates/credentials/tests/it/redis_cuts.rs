//! kill -9 between any two steps of a mint and of an end, with real `Redis`: what was begun is found and ended by the name alone.

use bailiwick_credentials::lease::Kind as _;
use bailiwick_testkit::servers::redis::Users;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::cut::cut;
use crate::redis_world::{Agent, World};
use crate::words::{assert_verified, count, only_intent, plan, secret};

/// More waits than any mint or end has here.
const WAITS_MAX: usize = 1000;
const REFUSED: &str = "WRONGPASS";
const BOTH: [&str; 2] = ["primary", "replica"];

#[test]
fn a_mint_cut_at_any_wait_leaves_nothing_that_its_name_does_not_find() {
    let world = World::start(Users::AclFile);
    for waits in 0..WAITS_MAX {
        let plan = plan(&["orders_ro"]);
        let broker = world.broker();
        let minted = cut(waits, async { broker.mint(&plan, Some(&secret())).await.unwrap() });
        // Another process, which knows the intent and nothing else, and is there at once.
        let fresh = world.broker();
        let ending = cut(WAITS_MAX, async { fresh.end(&only_intent(&plan)).await }).unwrap().unwrap();
        assert_verified(&ending, &BOTH, REFUSED);
        assert_eq!(world.left(), "", "cut after {waits} waits");
        if minted.is_some() {
            assert!(waits > 3, "a mint waits for its connections and its commands");
            return;
        }
    }
    panic!("the mint never came to its end");
}

#[test]
fn an_end_cut_at_any_wait_is_taken_up_by_the_next() {
    let world = World::start(Users::AclFile);
    let sessions = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for waits in 0..WAITS_MAX {
        let plan = plan(&["orders_rw"]);
        let broker = world.broker();
        drop(cut(WAITS_MAX, async { broker.mint(&plan, Some(&secret())).await.unwrap() }).unwrap());
        let mut open = sessions.block_on(Agent::log_in(&world.replica, &plan.name)).unwrap();
        let first = world.broker();
        let ended = cut(waits, async { first.end(&only_intent(&plan)).await.unwrap() });
        let fresh = world.broker();
        let ending = cut(WAITS_MAX, async { fresh.end(&only_intent(&plan)).await }).unwrap().unwrap();
        assert_verified(&ending, &BOTH, REFUSED);
        assert_eq!(world.left(), "", "cut after {waits} waits");
        assert_eq!(sessions.block_on(open.hear()).unwrap_err(), "closed", "cut after {waits} waits");
        if ended.is_some() {
            return;
        }
    }
    panic!("the end never came to its end");
}

#[test]
fn any_row_of_cuts_ends_with_nothing_left() {
    let world = World::start(Users::AclFile);
    let cases = u32::try_from(count("BAILIWICK_CUTS", 25)).unwrap();
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

/// A mint of another process that hangs between its steps: its connection bears the lease's name.
#[tokio::test]
async fn an_end_cuts_off_a_mint_under_way() {
    let world = World::start(Users::AclFile);
    let plan = plan(&["orders_ro"]);
    let mut other = Agent::log_in_as(&world.primary, "broker", "broker-password").await.unwrap();
    other.ask(&format!("HELLO 2 SETNAME bailiwick:mint:{}", plan.name)).await.unwrap();
    let ending = world.broker().end(&only_intent(&plan)).await.unwrap();
    assert_verified(&ending, &BOTH, REFUSED);
    assert!(ending.evidence().tried().iter().any(|t| t.saw == "the connection of its mint was ended"), "{ending:#?}");
    assert_eq!(other.ask(&format!("ACL SETUSER {} on nopass", plan.name)).await.unwrap_err(), "closed");
    assert_eq!(world.left(), "");
}
