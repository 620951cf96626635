//! kill -9 between any two steps of a check-out and of its end: the account is never lost, never lent twice, and its old password dies.

use bailiwick_credentials::lease::Kind as _;
use bailiwick_credentials::lease::rotation::Phase;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::checkout_world::{BEFORE, Memory, World, only_intent, remembered};
use crate::cut::cut;
use crate::words::{assert_verified, count, plan};

/// More waits than any mint or end has here.
const WAITS_MAX: usize = 400;

fn alone<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn in_order(world: &World, memory: &std::sync::Arc<Memory>, refused: &[String]) {
    assert_eq!((memory.phase("app"), memory.has_candidate("app"), memory.whose("app")), (Phase::Settled, false, None));
    let now = memory.current("app");
    alone(async {
        assert!(world.log_in("app", &now).await.is_some(), "what is kept is what the system takes");
        for old in refused {
            assert!(*old == now || world.log_in("app", old).await.is_none(), "an old password lives");
        }
    });
}

fn ends_cut_anywhere(world: &World, word: &str) {
    let memory = Memory::new(&["app", "app2"]);
    for waits in 0..WAITS_MAX {
        let plan = plan(&["app"]);
        let sessions = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let lease = cut(WAITS_MAX, async { remembered(&plan, world.broker(&memory).mint(&plan, None).await.unwrap()) }).unwrap();
        let old = memory.current("app");
        let mut open = sessions.block_on(world.log_in("app", &old)).unwrap();
        let ended = cut(waits, async { world.broker(&memory).end(&lease).await.unwrap() });
        // Another process, which is there at once.
        let ending = cut(WAITS_MAX, async { world.broker(&memory).end(&lease).await }).unwrap().unwrap();
        assert_verified(&ending, &["primary"], word);
        in_order(world, &memory, &[old]);
        assert!(!sessions.block_on(open.is_alive()), "cut after {waits} waits");
        if ended.is_some() {
            assert!(waits > 10, "an end waits for logins, a change and the house's own memory");
            return;
        }
    }
    panic!("the end never came to its end");
}

fn mints_cut_anywhere(world: &World) {
    let memory = Memory::new(&["app", "app2"]);
    for waits in 0..WAITS_MAX {
        let plan = plan(&["app"]);
        let before = memory.current("app");
        let minted = cut(waits, async { world.broker(&memory).mint(&plan, None).await.unwrap() });
        let ending = cut(WAITS_MAX, async { world.broker(&memory).end(&only_intent(&plan)).await }).unwrap().unwrap();
        // Either it was not lent yet, or it was, and has another password.
        assert_eq!(ending.word() == "revoked-verified", before != memory.current("app"), "cut after {waits} waits: {ending:?}");
        in_order(world, &memory, &[]);
        if minted.is_some() {
            assert_eq!(ending.word(), "revoked-verified");
            return;
        }
    }
    panic!("the mint never came to its end");
}

fn any_row_of_cuts(world: &World) {
    let memory = Memory::new(&["app", "app2"]);
    let cases = u32::try_from(count("BAILIWICK_CUTS", 15)).unwrap();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let cuts = (any::<bool>(), proptest::collection::vec(0..60_usize, 0..5));
    runner
        .run(&cuts, |(answered, ends)| {
            let plan = plan(&["app"]);
            let lease = cut(WAITS_MAX, async { remembered(&plan, world.broker(&memory).mint(&plan, None).await.unwrap()) }).unwrap();
            let lease = if answered { lease } else { only_intent(&plan) };
            let mut seen = vec![memory.current("app")];
            for waits in ends {
                drop(cut(waits, async { world.broker(&memory).end(&lease).await.map(drop) }));
                seen.push(memory.current("app"));
            }
            let over = memory.whose("app").is_none();
            let ending = cut(WAITS_MAX, async { world.broker(&memory).end(&lease).await }).unwrap();
            let verified = ending.as_ref().is_ok_and(|ending| ending.word() == "revoked-verified");
            // One that was over already, and of which nothing was written down, has nothing to show.
            prop_assert!(verified || over && !answered && ending.is_ok(), "{:?}", ending);
            in_order(world, &memory, &seen);
            Ok(())
        })
        .unwrap();
}

fn all(world: &World, word: &str) {
    ends_cut_anywhere(world, word);
    world.set_password("app", BEFORE);
    mints_cut_anywhere(world);
    world.set_password("app", BEFORE);
    any_row_of_cuts(world);
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn a_check_out_of_a_role_of_postgresql_cut_at_any_wait_is_taken_up_by_the_next() {
    all(&World::postgresql(), "28P01");
}

#[test]
#[ignore = "needs what `cargo xtask tools` installs"]
fn a_check_out_of_an_account_of_mariadb_cut_at_any_wait_is_taken_up_by_the_next() {
    all(&World::mariadb(), "1045");
}
