//! `PostgreSQL` with a standby: sessions there, lag, failover, and a node that is gone.

use bailiwick_credentials::lease::{Kind as _, TargetCode};
use bailiwick_testkit::servers::postgres::Postgres;

use crate::postgresql_world::{World, ask, broker, log_in, node};
use crate::words::{assert_verified, fresh_name, only_intent, plan, remembered, secret};

/// Waits until the standby lets the account in.
async fn log_in_at(standby: &Postgres, name: &bailiwick_credentials::lease::AccountName) -> tokio_postgres::Client {
    for _ in 0..500 {
        if let Ok(client) = log_in(standby, name, "shop").await {
            return client;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the standby does not replay");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_standby_that_lags_lets_the_account_in_and_so_the_end_is_no_end_yet() {
    let world = World::start();
    let standby = world.primary.standby().unwrap();
    let nodes = || vec![node("primary", &world.primary), node("standby", &standby)];
    let broker_one = broker(nodes());
    assert_eq!(broker_one.preflight(&fresh_name()).await.unwrap(), []);

    let plan_one = plan(&["grp_orders_ro"]);
    let account = remembered(&plan_one, broker_one.mint(&plan_one, Some(&secret())).await.unwrap());
    let open = log_in_at(&standby, &plan_one.name).await;
    ask(&open, "SET ROLE grp_orders_ro").await.unwrap();
    standby.sql("postgres", "SELECT pg_wal_replay_pause()").unwrap();

    let error = broker_one.end(&account).await.unwrap_err();
    assert_eq!((error.code(), error.node()), (TargetCode::Busy, "standby"), "{error}");
    assert!(error.to_string().contains("lags"), "{error}");
    assert_eq!(ask(&open, "SELECT 1").await.unwrap_err(), "closed");
    assert_eq!(world.left(), "");
    let again = log_in(&standby, &plan_one.name, "shop").await.expect("a lagging standby lets in whom the primary forgot");
    assert_eq!(ask(&again, "SELECT count(*) FROM app.orders").await.unwrap(), "100");

    standby.sql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    assert_verified(&broker(nodes()).end(&account).await.unwrap(), &["primary", "standby"], "28P01");
    assert_eq!(ask(&again, "SELECT 1").await.unwrap_err(), "closed");
    assert!(log_in(&standby, &plan_one.name, "shop").await.is_err());

    // A life that the standby has seen nothing of yet: it will know the account for a moment, between its creation and its end.
    standby.sql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    let unseen = plan(&["grp_orders_ro"]);
    drop(broker_one.mint(&unseen, Some(&secret())).await.unwrap());
    assert!(log_in(&standby, &unseen.name, "shop").await.is_err());
    for _ in 0..2 {
        let error = broker(nodes()).end(&only_intent(&unseen)).await.unwrap_err();
        assert_eq!((error.code(), error.node()), (TargetCode::Busy, "standby"), "{error}");
    }
    standby.sql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    assert_verified(&broker(nodes()).end(&only_intent(&unseen)).await.unwrap(), &["primary", "standby"], "28P01");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn after_a_failover_the_end_finds_the_new_primary_by_itself() {
    let mut world = World::start();
    let mut standby = world.primary.standby().unwrap();
    let (first, second) = (plan(&["grp_orders_ro"]), plan(&["grp_orders_rw"]));
    // The order of the nodes is only the usual one.
    let reversed = broker(vec![node("b", &standby), node("a", &world.primary)]);
    let account = remembered(&first, reversed.mint(&first, Some(&secret())).await.unwrap());
    assert_verified(&reversed.end(&account).await.unwrap(), &["a", "b"], "28P01");

    let account = remembered(&second, reversed.mint(&second, Some(&secret())).await.unwrap());
    let open = log_in_at(&standby, &second.name).await;
    world.primary.stop().unwrap();
    standby.sql("postgres", "SELECT pg_promote()").unwrap();
    // The old primary may come back with the account alive, so as long as it is a node, there is no ending without it.
    for nodes in [[node("a", &world.primary), node("b", &standby)], [node("b", &standby), node("a", &world.primary)]] {
        let error = broker(nodes.into()).end(&account).await.unwrap_err();
        assert_eq!((error.code(), error.node()), (TargetCode::Unreachable, "a"), "{error}");
        // What can be reached is ended at once.
        assert_eq!(ask(&open, "SELECT 1").await.unwrap_err(), "closed");
        assert!(log_in(&standby, &second.name, "shop").await.is_err());
    }
    let third = plan(&["grp_orders_ro"]);
    drop(broker(vec![node("a", &world.primary), node("b", &standby)]).mint(&third, Some(&secret())).await.unwrap());
    let alone = broker(vec![node("b", &standby)]);
    assert_verified(&alone.end(&account).await.unwrap(), &["b"], "28P01");
    assert_verified(&alone.end(&only_intent(&third)).await.unwrap(), &["b"], "28P01");
    standby.stop().unwrap();
}
