//! kill -9 between any two steps of a mint and of an end, with real `MariaDB`: what was begun is found and ended by the name alone.

use bailiwick_credentials::lease::{Kind as _, Plan};

use crate::cut::Cuts;
use crate::mariadb_world::{World, ask, log_in, log_in_with};
use crate::words::{assert_verified, only_intent, plan};

const REFUSED: &str = "1045: Access denied for user";

fn with<T>(work: impl FnOnce(&World, &Cuts<'_>) -> T) -> T {
    let world = World::start();
    let cuts =
        Cuts { broker: &|| Box::new(world.broker()), left: &|| world.left(), rights: &["orders_rw"], nodes: &["primary"], refused: REFUSED, step: 1 };
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
        let open = |plan: &Plan, _| sessions.block_on(log_in(&world.server, &plan.name)).unwrap();
        cuts.any_end(false, open, |mut open, waits| {
            assert_eq!(sessions.block_on(ask(&mut open, "SELECT 1")).unwrap_err(), 0, "cut after {waits} waits");
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
