//! `MariaDB`: the life of an account, and each trap that a dropped one leaves.

use bailiwick_credentials::lease::{Kind as _, Prefix, Step, TargetCode, sweep};
use mysql_async::prelude::Queryable as _;

use crate::mariadb_world::{World, ask, broker, log_in, log_in_with, node};
use crate::words::{PASSWORD, assert_verified, count, fresh_name, only_intent, plan, remembered, secret};

const REFUSED: &str = "1045: Access denied for user";

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn an_account_works_and_is_dead_afterwards_with_its_open_sessions() {
    let world = World::start();
    let broker = world.broker();
    let plan = plan(&["orders_rw"]);
    let minted = broker.mint(&plan, Some(&secret())).await.unwrap();
    assert!(minted.secret.is_none() && minted.expires_at.is_none());
    let account = remembered(&plan, minted);

    let mut open = log_in(&world.server, &plan.name).await.unwrap();
    let mut inside = log_in(&world.server, &plan.name).await.unwrap();
    assert_eq!(ask(&mut open, "SELECT CURRENT_ROLE()").await.unwrap(), "orders_rw");
    assert_eq!(ask(&mut open, "SELECT COUNT(*) FROM shop.orders").await.unwrap(), "2");
    assert_eq!(ask(&mut open, "SELECT COUNT(*) FROM mysql.user").await.unwrap_err(), 1142);
    assert_eq!(log_in(&world.server, &plan.name).await.unwrap_err(), 1226, "two connections at most");
    // This session goes on reading and writing after `DROP USER`: its rights were cached at `USE`.
    inside.query_drop("USE shop; BEGIN; INSERT INTO orders VALUES (3, 'x')").await.unwrap();

    let ending = broker.end(&account).await.unwrap();
    assert_verified(&ending, &["primary"], REFUSED);
    for session in [&mut open, &mut inside] {
        assert_eq!(ask(session, "SELECT 1").await.unwrap_err(), 0);
    }
    assert_eq!(log_in(&world.server, &plan.name).await.unwrap_err(), 1045);
    assert_eq!(world.left(), "");
    assert_eq!(world.sql("SELECT COUNT(*) FROM shop.orders"), "2", "what it had begun is rolled back");
    assert_verified(&world.broker().end(&account).await.unwrap(), &["primary"], REFUSED);
    let log = world.server.log();
    assert!(log.contains("CREATE OR REPLACE USER") && log.contains(plan.name.as_str()), "the server logs statements");
    assert!(!log.contains(PASSWORD));
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_server_that_is_told_to_drop_only_lets_an_open_session_write() {
    // Why sessions are killed: what peers do, on this server.
    let world = World::start();
    let broker = world.broker();
    let plan = plan(&["orders_rw"]);
    drop(broker.mint(&plan, Some(&secret())).await.unwrap());
    let mut open = log_in(&world.server, &plan.name).await.unwrap();
    open.query_drop("USE shop").await.unwrap();
    world.sql(&format!("REVOKE ALL PRIVILEGES, GRANT OPTION FROM {0}@'%'; DROP USER {0}@'%'", plan.name));
    open.query_drop("INSERT INTO orders VALUES (7, 'after the drop')").await.unwrap();
    assert_eq!(world.sql("SELECT note FROM shop.orders WHERE id = 7"), "after the drop");
    assert_verified(&broker.end(&only_intent(&plan)).await.unwrap(), &["primary"], REFUSED);
    assert_eq!(ask(&mut open, "SELECT 1").await.unwrap_err(), 0);
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn who_may_not_see_sessions_does_not_take_them_for_ended() {
    let world = World::start();
    let plan = plan(&["orders_rw"]);
    let account = remembered(&plan, world.broker().mint(&plan, Some(&secret())).await.unwrap());
    let mut open = log_in(&world.server, &plan.name).await.unwrap();
    // It would see no sessions, and `KILL USER` would say OK.
    world.sql("REVOKE PROCESS ON *.* FROM broker@'%'");
    let error = world.broker().end(&account).await.unwrap_err();
    assert_eq!((error.code(), error.step()), (TargetCode::Privilege, Step::Kill), "{error}");
    world.sql("GRANT PROCESS ON *.* TO broker@'%'; REVOKE CONNECTION ADMIN ON *.* FROM broker@'%'");
    let error = world.broker().end(&account).await.unwrap_err();
    assert_eq!((error.code(), error.step()), (TargetCode::Privilege, Step::Kill), "{error}");
    assert_eq!(ask(&mut open, "SELECT 1").await.unwrap(), "1");
    world.sql("GRANT CONNECTION ADMIN ON *.* TO broker@'%'");
    assert_verified(&world.broker().end(&account).await.unwrap(), &["primary"], REFUSED);
    assert_eq!(ask(&mut open, "SELECT 1").await.unwrap_err(), 0);
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn preflight_names_each_missing_right_and_its_remedies_are_enough() {
    let world = World::start();
    world.sql("REVOKE CREATE USER, CONNECTION ADMIN, PROCESS ON *.* FROM broker@'%'; REVOKE SELECT (User, Host) ON mysql.user FROM broker@'%'");
    world.sql("REVOKE ADMIN OPTION FOR orders_ro FROM broker@'%'; DROP DATABASE bailiwick");
    let broker = world.broker();
    let first = broker.preflight(&fresh_name()).await.unwrap();
    let remedies: Vec<_> = first.iter().map(|finding| finding.remedy.as_str()).collect();
    assert_eq!(
        remedies,
        [
            "GRANT CREATE USER ON *.* TO `broker`@`%`;",
            "GRANT CONNECTION ADMIN ON *.* TO `broker`@`%`;",
            "GRANT PROCESS ON *.* TO `broker`@`%`;",
            "GRANT SELECT (User, Host) ON mysql.user TO `broker`@`%`;",
            "GRANT `orders_ro` TO `broker`@`%` WITH ADMIN OPTION;",
        ],
        "{first:#?}"
    );
    for remedy in remedies {
        world.sql(remedy);
    }
    // The same broker: its idle sessions have the rights that they began with.
    let second = broker.preflight(&fresh_name()).await.unwrap();
    assert_eq!(second.len(), 1, "{second:#?}");
    assert!(second[0].missing.contains("bailiwick.default_role"), "{second:#?}");
    assert_eq!(world.left(), "");
    world.sql(&second[0].remedy);
    assert_eq!(broker.preflight(&fresh_name()).await.unwrap(), []);
    assert_eq!(world.left(), "");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn the_administrators_procedure_gives_no_role_to_anybody_else() {
    let world = World::start();
    world.sql("CREATE USER person@'%' IDENTIFIED BY 'p'; GRANT orders_rw TO person@'%'; CREATE USER 'ag_admin'@'%'; GRANT orders_rw TO ag_admin@'%'");
    let mut broker = log_in_with(&world.server, "broker", "broker-password").await.unwrap();
    for account in ["person", "ag_admin", "ag_00000000000000000000000000`@`%`; DROP DATABASE shop; -- ", "root"] {
        broker.exec_drop("CALL bailiwick.default_role(LEFT(?, 32), 'orders_rw')", (account,)).await.unwrap();
    }
    assert_eq!(world.sql("SELECT GROUP_CONCAT(User) FROM mysql.user WHERE default_role <> ''"), "NULL");
    let mut person = log_in_with(&world.server, "person", "p").await.unwrap();
    assert_eq!(ask(&mut person, "CALL bailiwick.default_role('person', 'orders_rw')").await.unwrap_err(), 1370);
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_plan_asks_for_one_configured_role_and_a_mint_again_is_the_same_account() {
    let world = World::start();
    let broker = world.broker();
    for rights in [&["mysql"][..], &["orders_ro", "orders_rw"], &["orders_ro`, `orders_rw"]] {
        assert_eq!(broker.mint(&plan(rights), Some(&secret())).await.unwrap_err().code(), TargetCode::Plan, "{rights:?}");
    }
    assert_eq!(broker.mint(&plan(&[]), None).await.unwrap_err().code(), TargetCode::Plan);
    let plan = plan(&["orders_ro"]);
    let first = broker.mint(&plan, Some(&secret())).await.unwrap();
    let again = world.broker().mint(&plan, Some(&secret())).await.unwrap();
    assert_eq!(first.ids, again.ids);
    let mut open = log_in(&world.server, &plan.name).await.unwrap();
    assert_eq!(ask(&mut open, "SELECT COUNT(*) FROM shop.orders").await.unwrap(), "2");
    assert_eq!(ask(&mut open, "DELETE FROM shop.orders").await.unwrap_err(), 1142);
    world.sql("DROP ROLE orders_rw");
    assert_eq!(broker.mint(&crate::words::plan(&["orders_rw"]), Some(&secret())).await.unwrap_err().code(), TargetCode::Plan);
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_sweep_removes_what_no_lease_explains_and_no_account_of_a_person() {
    let world = World::start();
    let broker = world.broker();
    let (live, lost) = (plan(&["orders_ro"]), plan(&["orders_rw"]));
    for plan in [&live, &lost] {
        drop(broker.mint(plan, Some(&secret())).await.unwrap());
    }
    let mut open = log_in(&world.server, &lost.name).await.unwrap();
    world.sql("CREATE USER ag_admin@'%'; CREATE USER agx_00000000000000000000000007@'%'; CREATE USER ag_00000000000000000000000007@'10.0.0.1'");
    let orphans = sweep(&broker, &Prefix::default(), &|name| *name == live.name).await.unwrap();
    assert_eq!(orphans.iter().map(|orphan| orphan.found.name.clone()).collect::<Vec<_>>(), *std::slice::from_ref(&lost.name));
    assert_eq!(orphans[0].ending.as_ref().unwrap().word(), "revoked-unverified");
    assert_eq!(ask(&mut open, "SELECT 1").await.unwrap_err(), 0);
    assert_eq!(world.sql("SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'ag%'"), "4");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn what_it_defined_survives_without_rights_and_prepared_transactions_are_told() {
    let world = World::start();
    let broker = world.broker();
    let plan = plan(&["orders_rw"]);
    let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
    let mut open = log_in(&world.server, &plan.name).await.unwrap();
    open.query_drop("CREATE PROCEDURE shop.door() SQL SECURITY DEFINER DELETE FROM shop.orders").await.unwrap();
    open.query_drop("XA START 'mine'; INSERT INTO shop.orders VALUES (9, 'x'); XA END 'mine'; XA PREPARE 'mine'").await.unwrap();
    let ending = broker.end(&account).await.unwrap();
    assert_verified(&ending, &["primary"], REFUSED);
    assert!(ending.evidence().tried().iter().any(|t| t.saw.starts_with("1 prepared XA transactions")), "{ending:#?}");
    let door = world.server.sql("CALL shop.door()").unwrap_err().to_string();
    assert!(door.contains("1449") || door.contains("does not exist"), "{door}");
    world.sql("XA ROLLBACK 'mine'");
    assert_eq!(world.sql("SELECT COUNT(*) FROM shop.orders"), "2");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_replica_that_lags_lets_the_account_in_and_so_the_end_is_no_end_yet() {
    let logging = ["log-bin=bin", "server-id=1", "binlog-format=ROW"];
    let world = World::with(&logging);
    let replica = bailiwick_testkit::servers::mariadb::Mariadb::start(&["server-id=2", "log-bin=bin", "read-only=1", "log-slave-updates=1"]).unwrap();
    world.sql("CREATE USER follower@'%' IDENTIFIED BY 'f'; GRANT REPLICATION SLAVE ON *.* TO follower@'%'");
    let master = format!("MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='follower', MASTER_PASSWORD='f'", world.server.port());
    replica.sql(&format!("RESET MASTER; SET GLOBAL gtid_slave_pos = ''; CHANGE MASTER TO {master}, MASTER_USE_GTID=slave_pos; START SLAVE")).unwrap();
    let nodes = || vec![node("primary", &world.server), node("replica", &replica)];
    let position = world.sql("SELECT @@global.gtid_binlog_pos");
    assert_eq!(replica.sql(&format!("SELECT MASTER_GTID_WAIT('{position}', 60)")).unwrap(), "0");
    let broker_one = broker(nodes());
    assert_eq!(broker_one.preflight(&fresh_name()).await.unwrap(), [], "{}", replica.sql("SHOW SLAVE STATUS\\G").unwrap());

    let plan = plan(&["orders_ro"]);
    let account = remembered(&plan, broker_one.mint(&plan, Some(&secret())).await.unwrap());
    let mut open = loop {
        if let Ok(open) = log_in(&replica, &plan.name).await {
            break open;
        }
    };
    replica.sql("STOP SLAVE SQL_THREAD").unwrap();
    let error = broker_one.end(&account).await.unwrap_err();
    assert_eq!((error.code(), error.node()), (TargetCode::Busy, "replica"), "{error}");
    assert_eq!(ask(&mut open, "SELECT 1").await.unwrap_err(), 0);
    assert_eq!(world.left(), "");
    let mut again = log_in(&replica, &plan.name).await.expect("a lagging replica lets in whom the primary forgot");
    assert_eq!(ask(&mut again, "SELECT COUNT(*) FROM shop.orders").await.unwrap(), "2");
    replica.sql("START SLAVE SQL_THREAD").unwrap();
    assert_verified(&broker(nodes()).end(&account).await.unwrap(), &["primary", "replica"], REFUSED);
    assert_eq!(ask(&mut again, "SELECT 1").await.unwrap_err(), 0);
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_node_that_is_gone_keeps_no_session_alive_elsewhere() {
    let world = World::start();
    let plan = plan(&["orders_rw"]);
    let account = remembered(&plan, world.broker().mint(&plan, Some(&secret())).await.unwrap());
    let mut open = log_in(&world.server, &plan.name).await.unwrap();
    let nobody = bailiwick_testkit::free_port().unwrap();
    let gone = bailiwick_credentials::lease::Node::new("gone", "127.0.0.1", nobody, None).unwrap();
    let error = broker(vec![gone, node("primary", &world.server)]).end(&account).await.unwrap_err();
    assert_eq!((error.code(), error.node()), (TargetCode::Unreachable, "gone"), "{error}");
    assert_eq!(ask(&mut open, "SELECT 1").await.unwrap_err(), 0);
    assert_eq!(world.left(), "");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn fifty_at_once_and_many_in_a_row_leave_the_tables_as_they_were() {
    let world = World::start();
    let broker = std::sync::Arc::new(world.broker());
    let rows = "SELECT (SELECT COUNT(*) FROM mysql.global_priv), (SELECT COUNT(*) FROM mysql.roles_mapping), (SELECT COUNT(*) FROM mysql.db)";
    let before = world.sql(rows);
    let mut at_once = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let broker = std::sync::Arc::clone(&broker);
        at_once.spawn(async move {
            let plan = plan(&["orders_ro"]);
            let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
            broker.end(&account).await.unwrap()
        });
    }
    while let Some(ending) = at_once.join_next().await {
        assert_verified(&ending.unwrap(), &["primary"], REFUSED);
    }
    for _ in 0..count("BAILIWICK_LEASES", 20) {
        let plan = plan(&["orders_ro"]);
        let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
        assert_verified(&broker.end(&account).await.unwrap(), &["primary"], REFUSED);
    }
    assert_eq!(world.sql(rows), before);
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_system_that_is_down_is_ended_as_soon_as_it_is_back() {
    let mut world = World::start();
    let broker = world.broker();
    let plan = plan(&["orders_ro"]);
    let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
    world.server.stop().unwrap();
    for _ in 0..3 {
        let error = broker.end(&account).await.unwrap_err();
        assert!(error.code() == TargetCode::Unreachable && error.is_transient(), "{error}");
    }
    world.server.run().unwrap();
    assert!(log_in(&world.server, &plan.name).await.is_ok());
    assert_verified(&broker.end(&account).await.unwrap(), &["primary"], REFUSED);
    assert_eq!(world.left(), "");
}
