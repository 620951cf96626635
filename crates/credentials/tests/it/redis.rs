//! `Redis`: the life of a user on a server and its replica, and each trap that a removed one leaves.

use bailiwick_credentials::lease::{Ending, Kind as _, Prefix, Step, TargetCode, sweep};
use bailiwick_testkit::servers::redis::{Redis as Server, Users};

use crate::redis_world::{Agent, World, broker, broker_line, left, node, of, settings};
use crate::words::{PASSWORD, assert_verified, count, fresh_name, only_intent, plan, remembered, secret};

const REFUSED: &str = "WRONGPASS";
const BOTH: [&str; 2] = ["primary", "replica"];

#[tokio::test]
async fn a_user_works_and_is_dead_afterwards_with_its_open_connections() {
    let world = World::start(Users::AclFile);
    let broker = world.broker();
    let plan = plan(&["orders_rw"]);
    let mut monitor = Agent::log_in_as(&world.primary, "default", Server::PASSWORD).await.unwrap();
    monitor.ask("MONITOR").await.unwrap();
    let minted = broker.mint(&plan, Some(&secret())).await.unwrap();
    assert!(minted.secret.is_none() && minted.expires_at.is_none());
    let account = remembered(&plan, minted);

    let mut idle = Agent::log_in(&world.primary, &plan.name).await.unwrap();
    assert_eq!(idle.ask("GET orders:1").await.unwrap(), "$5\r\nbread");
    let mut within = Agent::log_in(&world.primary, &plan.name).await.unwrap();
    within.ask("MULTI").await.unwrap();
    within.ask("SET orders:1 stolen").await.unwrap();
    let mut listening = Agent::log_in(&world.primary, &plan.name).await.unwrap();
    listening.ask("SUBSCRIBE news.today").await.unwrap();
    let mut blocked = Agent::log_in(&world.primary, &plan.name).await.unwrap();
    blocked.send("BLPOP queue 0").await.unwrap();
    let mut reader = Agent::log_in(&world.replica, &plan.name).await.unwrap();
    assert_eq!(reader.ask("GET orders:1").await.unwrap(), "$5\r\nbread");

    let ending = broker.end(&account).await.unwrap();
    assert_verified(&ending, &BOTH, REFUSED);
    for (open, what) in
        [(&mut idle, "idle"), (&mut within, "MULTI"), (&mut listening, "SUBSCRIBE"), (&mut blocked, "BLPOP"), (&mut reader, "replica")]
    {
        assert_eq!(open.hear().await.unwrap_err(), "closed", "{what}");
    }
    for server in [&world.primary, &world.replica] {
        assert!(Agent::log_in(server, &plan.name).await.err().unwrap().starts_with(REFUSED));
    }
    assert_eq!(world.left(), "");
    assert_eq!(world.primary.admin(&["GET", "orders:1"]).unwrap(), "bread", "what it had queued is not done");
    assert_verified(&world.broker().end(&account).await.unwrap(), &BOTH, REFUSED);

    // What the server keeps of commands, and its files, have no password in them.
    let mut kept = monitor.hear().await.unwrap();
    assert!(kept.contains("GET"), "{kept}");
    for words in [&["SLOWLOG", "GET", "1000"][..], &["ACL", "LOG"]] {
        kept.push_str(&world.primary.admin(words).unwrap());
    }
    kept.push_str(&world.primary.log());
    assert!(kept.contains("SETUSER") && kept.contains(plan.name.as_str()), "{kept}");
    assert!(!kept.contains(PASSWORD));
}

#[tokio::test]
async fn a_server_that_is_told_off_and_resetpass_lets_an_open_connection_go_on() {
    // Why the user is removed: what peers do, on this server.
    let world = World::start(Users::AclFile);
    let broker = world.broker();
    let plan = plan(&["orders_rw"]);
    drop(broker.mint(&plan, Some(&secret())).await.unwrap());
    let mut open = Agent::log_in(&world.primary, &plan.name).await.unwrap();
    world.primary.admin(&["ACL", "SETUSER", plan.name.as_str(), "off", "resetpass"]).unwrap();
    open.ask("SET orders:9 after").await.unwrap();
    assert_eq!(world.primary.admin(&["GET", "orders:9"]).unwrap(), "after");
    assert_verified(&broker.end(&only_intent(&plan)).await.unwrap(), &BOTH, REFUSED);
    assert_eq!(open.ask("PING").await.unwrap_err(), "closed");
}

#[tokio::test]
async fn what_an_administrator_saved_meanwhile_does_not_bring_it_back() {
    let mut world = World::start(Users::AclFile);
    let broker = world.broker();
    // What peers do: removed, and the file still has it.
    let lost = plan(&["orders_ro"]);
    drop(broker.mint(&lost, Some(&secret())).await.unwrap());
    world.primary.admin(&["ACL", "SAVE"]).unwrap();
    world.primary.admin(&["ACL", "DELUSER", lost.name.as_str()]).unwrap();
    world.primary.admin(&["ACL", "LOAD"]).unwrap();
    assert!(Agent::log_in(&world.primary, &lost.name).await.is_ok(), "the server brings it back");

    let plan = plan(&["orders_ro"]);
    let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
    world.primary.admin(&["ACL", "SAVE"]).unwrap();
    assert!(world.primary.file("users.acl").unwrap().contains(plan.name.as_str()));
    for account in [account, only_intent(&lost)] {
        assert_verified(&world.broker().end(&account).await.unwrap(), &BOTH, REFUSED);
    }
    assert!(!world.primary.file("users.acl").unwrap().contains("ag_"));
    world.primary.admin(&["ACL", "LOAD"]).unwrap();
    world.primary.stop().unwrap();
    world.primary.run().unwrap();
    for name in [&plan.name, &lost.name] {
        assert!(Agent::log_in(&world.primary, name).await.err().unwrap().starts_with(REFUSED));
    }
    assert_eq!(world.left(), "");
}

#[tokio::test]
async fn a_configuration_that_was_written_meanwhile_does_not_bring_it_back() {
    // Without an ACL file, `CONFIG REWRITE` writes users into the configuration; Sentinel runs it at each failover.
    let mut world = World::start(Users::Configuration);
    let broker = world.broker();
    let (quiet, written, lost) = (plan(&["orders_ro"]), plan(&["orders_ro"]), plan(&["orders_ro"]));
    let account = remembered(&quiet, broker.mint(&quiet, Some(&secret())).await.unwrap());
    let before = world.primary.file("redis.conf").unwrap();
    let ending = broker.end(&account).await.unwrap();
    assert_verified(&ending, &BOTH, REFUSED);
    assert_eq!(world.primary.file("redis.conf").unwrap(), before, "nobody wrote it, so neither do we");

    let account = remembered(&written, broker.mint(&written, Some(&secret())).await.unwrap());
    drop(broker.mint(&lost, Some(&secret())).await.unwrap());
    world.primary.admin(&["CONFIG", "REWRITE"]).unwrap();
    // Statistics that are forgotten do not make it forget.
    world.primary.admin(&["CONFIG", "RESETSTAT"]).unwrap();
    assert!(world.primary.file("redis.conf").unwrap().contains(written.name.as_str()));
    assert_verified(&broker.end(&account).await.unwrap(), &BOTH, REFUSED);
    world.primary.stop().unwrap();
    world.primary.run().unwrap();
    assert!(Agent::log_in(&world.primary, &written.name).await.err().unwrap().starts_with(REFUSED));
    assert!(Agent::log_in(&world.primary, &lost.name).await.is_ok(), "this one was in the file, and lives");
    assert_verified(&broker.end(&only_intent(&lost)).await.unwrap(), &BOTH, REFUSED);
    world.primary.stop().unwrap();
    world.primary.run().unwrap();
    assert_eq!(world.left(), "");
}

#[tokio::test]
async fn a_node_that_is_down_keeps_no_other_alive_and_is_ended_as_soon_as_it_is_back() {
    let mut world = World::start(Users::AclFile);
    // The one that is down is the first of the configuration.
    let broker = broker(vec![node("replica", &world.replica), node("primary", &world.primary)]);
    let plan = plan(&["orders_ro"]);
    let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
    let mut open = Agent::log_in(&world.primary, &plan.name).await.unwrap();
    world.replica.admin(&["ACL", "SAVE"]).unwrap();
    world.replica.stop().unwrap();
    for _ in 0..3 {
        let error = broker.end(&account).await.unwrap_err();
        assert_eq!((error.code(), error.node(), error.is_transient()), (TargetCode::Unreachable, "replica", true), "{error}");
        assert_eq!(left(&world.primary), "", "the node that answers is ended");
    }
    assert_eq!(open.hear().await.unwrap_err(), "closed");
    world.replica.run().unwrap();
    assert!(Agent::log_in(&world.primary, &plan.name).await.is_err());
    assert!(Agent::log_in(&world.replica, &plan.name).await.is_ok(), "a replica that was away has what the primary forgot");
    assert_verified(&broker.end(&account).await.unwrap(), &BOTH, REFUSED);
    assert_eq!(world.left(), "");
}

#[tokio::test]
async fn where_a_file_of_users_cannot_be_written_an_ending_is_less_than_verified_and_says_why() {
    for (kept, file) in [(Users::AclFile, "ACL file"), (Users::Configuration, "configuration")] {
        let mut server = Server::start(kept, &[&broker_line()], &[]).unwrap();
        let broker = broker(vec![node("one", &server)]);
        let plan = plan(&["orders_ro"]);
        drop(broker.mint(&plan, Some(&secret())).await.unwrap());
        server.admin(if kept == Users::AclFile { &["ACL", "SAVE"] } else { &["CONFIG", "REWRITE"] }).unwrap();
        server.freeze(true).unwrap();
        let ending = broker.end(&only_intent(&plan)).await.unwrap();
        let Ending::RevokedUnverified { why, .. } = &ending else { panic!("{ending:#?}") };
        assert_eq!(*why, format!("`one` cannot write its {file}: if the user stands in it, a restart brings it back"));
        assert!(Agent::log_in(&server, &plan.name).await.is_err(), "it is gone for now");
        let found = broker.preflight(&fresh_name()).await.unwrap();
        assert!(found.len() == 1 && found[0].missing.contains(&format!("cannot write its {file}")), "{found:#?}");
        server.stop().unwrap();
        server.run().unwrap();
        assert!(Agent::log_in(&server, &plan.name).await.is_ok(), "the doubt was right");
        server.freeze(false).unwrap();
        assert_verified(&broker.end(&only_intent(&plan)).await.unwrap(), &["one"], REFUSED);
        assert_eq!(broker.preflight(&fresh_name()).await.unwrap(), []);
        server.stop().unwrap();
        server.run().unwrap();
        assert!(Agent::log_in(&server, &plan.name).await.is_err());
    }
}

#[tokio::test]
async fn preflight_names_each_missing_command_and_each_node_that_nobody_named() {
    let world = World::start(Users::AclFile);
    let alone = broker(vec![node("primary", &world.primary)]);
    let found = alone.preflight(&fresh_name()).await.unwrap();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].missing.contains("2 nodes, and 1 are configured"), "{found:#?}");

    world.replica.admin(&["ACL", "SETUSER", "broker", "-acl|deluser", "-acl|save", "-client|kill", "-config|rewrite", "-info"]).unwrap();
    let found = world.broker().preflight(&fresh_name()).await.unwrap();
    let missing: Vec<_> = found.iter().map(|finding| (finding.node.as_str(), finding.remedy.as_str())).collect();
    let expected =
        ["acl|deluser", "acl|save", "client|kill", "config|rewrite", "info"].map(|command| ("replica", format!("ACL SETUSER broker +{command}")));
    assert_eq!(missing, expected.iter().map(|(node, remedy)| (*node, remedy.as_str())).collect::<Vec<_>>());
    for finding in &found {
        world.replica.admin(&finding.remedy.split(' ').collect::<Vec<_>>()).unwrap();
    }
    assert_eq!(world.broker().preflight(&fresh_name()).await.unwrap(), []);
    world.primary.admin(&["ACL", "SETUSER", "broker", "-@all"]).unwrap();
    let found = world.broker().preflight(&fresh_name()).await.unwrap();
    world.primary.admin(&found[0].remedy.split(' ').collect::<Vec<_>>()).unwrap();
    assert_eq!(world.broker().preflight(&fresh_name()).await.unwrap(), []);
    assert_eq!(world.left(), "");

    // An end without a right is no end, and says which.
    let plan = plan(&["orders_ro"]);
    let account = remembered(&plan, world.broker().mint(&plan, Some(&secret())).await.unwrap());
    world.primary.admin(&["ACL", "SETUSER", "broker", "-acl|save"]).unwrap();
    let error = world.broker().end(&account).await.unwrap_err();
    assert_eq!((error.code(), error.step(), error.node()), (TargetCode::Privilege, Step::Remove, "primary"), "{error}");
}

#[tokio::test]
async fn a_user_has_what_its_rights_name_and_nothing_dangerous_besides() {
    let world = World::start(Users::AclFile);
    let broker = world.broker();
    let plan = plan(&["orders_ro"]);
    let first = broker.mint(&plan, Some(&secret())).await.unwrap();
    let again = world.broker().mint(&plan, Some(&secret())).await.unwrap();
    assert_eq!(first.ids, again.ids);
    let mut open = Agent::log_in(&world.primary, &plan.name).await.unwrap();
    assert_eq!(open.ask("GET orders:1").await.unwrap(), "$5\r\nbread");
    for command in [
        "GET salaries",
        "SET orders:1 x",
        "KEYS *",
        "ACL WHOAMI",
        "ACL SETUSER x on",
        "CONFIG GET *",
        "CLIENT LIST",
        "PUBLISH news.x y",
        "FLUSHALL",
        "INFO",
    ] {
        assert!(open.ask(command).await.unwrap_err().starts_with("NOPERM"), "{command}");
    }
    for rights in [&["orders"][..], &["orders_ro", "+@all"], &["orders_ro ~*"]] {
        assert_eq!(broker.mint(&crate::words::plan(rights), Some(&secret())).await.unwrap_err().code(), TargetCode::Plan, "{rights:?}");
    }
    assert_eq!(broker.mint(&plan, None).await.unwrap_err().code(), TargetCode::Plan);
    let other = bailiwick_credentials::Secret::from("another-password".to_owned());
    assert_eq!(broker.mint(&plan, Some(&other)).await.unwrap_err().code(), TargetCode::Taken);
    for rule in ["+@all", "+@admin", ">password", "nopass", "allkeys", "(+@all ~*)", "+acl|setuser"] {
        let mut wrong = settings(vec![node("primary", &world.primary)]);
        wrong.rights.insert("wrong".into(), vec![rule.into()]);
        let made = bailiwick_credentials::kinds::redis::Redis::new(wrong, secret(), crate::words::clock());
        assert_eq!(made.unwrap_err().code(), TargetCode::Plan, "{rule}");
    }
    assert!(!format!("{:?}", of(settings(vec![node("primary", &world.primary)]))).contains("broker-password"));
}

#[tokio::test]
async fn a_server_that_does_not_know_hello_does_not_give_the_password_away() {
    let server = Server::start(Users::AclFile, &[&broker_line()], &["rename-command HELLO \"\""]).unwrap();
    let error = broker(vec![node("one", &server)]).mint(&plan(&[]), Some(&secret())).await.unwrap_err();
    assert_eq!(error.code(), TargetCode::Unsupported, "{error}");
    assert!(!error.to_string().contains("broker-password"), "{error}");
}

#[tokio::test]
async fn a_sweep_removes_what_no_lease_explains_and_no_user_of_a_person() {
    let world = World::start(Users::AclFile);
    let broker = world.broker();
    let (live, lost) = (plan(&["orders_ro"]), plan(&["orders_rw"]));
    for plan in [&live, &lost] {
        drop(broker.mint(plan, Some(&secret())).await.unwrap());
    }
    // Only the replica has this one: the primary was restarted without having saved.
    world.primary.admin(&["ACL", "DELUSER", lost.name.as_str()]).unwrap();
    let mut open = Agent::log_in(&world.replica, &lost.name).await.unwrap();
    for person in ["ag_admin", "agx_00000000000000000000000007", "ag_person"] {
        world.primary.admin(&["ACL", "SETUSER", person, "on", "nopass"]).unwrap();
    }
    let orphans = sweep(&broker, &Prefix::default(), &|name| *name == live.name).await.unwrap();
    assert_eq!(
        orphans.iter().map(|orphan| (orphan.found.name.clone(), orphan.found.node.as_str())).collect::<Vec<_>>(),
        [(lost.name.clone(), "replica")]
    );
    assert_eq!(orphans[0].ending.as_ref().unwrap().word(), "revoked-unverified");
    assert_eq!(open.hear().await.unwrap_err(), "closed");
    let users = world.primary.admin(&["ACL", "USERS"]).unwrap();
    assert_eq!(users.lines().filter(|user| user.contains("ag")).count(), 4, "{users}");
}

#[tokio::test]
async fn fifty_at_once_and_many_in_a_row_leave_the_users_as_they_were() {
    let world = World::start(Users::AclFile);
    let broker = std::sync::Arc::new(world.broker());
    let before = world.primary.admin(&["ACL", "LIST"]).unwrap();
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
        assert_verified(&ending.unwrap(), &BOTH, REFUSED);
    }
    for _ in 0..count("BAILIWICK_LEASES", 40) {
        let plan = plan(&["orders_ro"]);
        let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
        assert_verified(&broker.end(&account).await.unwrap(), &BOTH, REFUSED);
    }
    assert_eq!(world.primary.admin(&["ACL", "LIST"]).unwrap(), before);
}

#[tokio::test]
async fn a_server_without_any_file_keeps_nothing() {
    let server = Server::start(Users::Memory, &[&broker_line()], &[]).unwrap();
    let broker = broker(vec![node("one", &server)]);
    assert_eq!(broker.preflight(&fresh_name()).await.unwrap(), []);
    let ending = broker.end(&only_intent(&plan(&[]))).await.unwrap();
    assert!(ending.evidence().tried().iter().any(|t| t.saw == "the node keeps users in memory only"), "{ending:#?}");
    assert_eq!(left(&server), "");
}
