//! kill -9 between any two steps of a mint and of an end, with real `Redis`: what was begun is found and ended by the name alone.

use bailiwick_credentials::lease::Kind as _;
use bailiwick_testkit::servers::redis::Users;

use crate::cut::Cuts;
use crate::redis_world::{Agent, World};
use crate::words::{assert_verified, only_intent, plan};

const REFUSED: &str = "WRONGPASS";
const BOTH: [&str; 2] = ["primary", "replica"];

fn with<T>(work: impl FnOnce(&World, &Cuts<'_>) -> T) -> T {
    let world = World::start(Users::AclFile);
    let cuts = Cuts { broker: &|| Box::new(world.broker()), left: &|| world.left(), rights: &["orders_rw"], nodes: &BOTH, refused: REFUSED, step: 1 };
    work(&world, &cuts)
}

#[test]
fn a_mint_cut_at_any_wait_leaves_nothing_that_its_name_does_not_find() {
    with(|_, cuts| cuts.any_mint());
}

#[test]
fn an_end_cut_at_any_wait_is_taken_up_by_the_next() {
    let sessions = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    with(|world, cuts| {
        let open = |plan: &bailiwick_credentials::lease::Plan, _| sessions.block_on(Agent::log_in(&world.replica, &plan.name)).unwrap();
        let is_dead = |mut open: Agent, waits| assert_eq!(sessions.block_on(open.hear()).unwrap_err(), "closed", "cut after {waits} waits");
        cuts.any_end(false, open, is_dead);
    });
}

#[test]
fn any_row_of_cuts_ends_with_nothing_left() {
    with(|_, cuts| cuts.any_row(25));
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
