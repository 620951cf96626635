//! `PostgreSQL`, one node: the life of a role, and each trap that a dropped role leaves.

use bailiwick_credentials::Secret;
use bailiwick_credentials::lease::{Account, Ending, Kind as _, Prefix, Step, Tag, TargetCode, TargetIds, sweep};

use crate::postgresql_world::{World, ask, log_in, node, of, settings};
use crate::words::{PASSWORD, assert_verified, count, fresh_name, only_intent, plan, remembered, secret, soon, tag};

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_role_works_carries_its_task_and_is_dead_afterwards() {
    let world = World::start();
    let broker = world.broker();
    let plan = plan(&["grp_orders_ro"]);
    let minted = broker.mint(&plan, Some(&secret())).await.unwrap();
    assert!(minted.secret.is_none() && minted.expires_at == Some(plan.tag.expires_at));

    let open = log_in(&world.primary, &plan.name, "shop").await.unwrap();
    assert_eq!(ask(&open, "SELECT count(*) FROM app.orders").await.unwrap(), "100");
    assert_eq!(ask(&open, "DELETE FROM app.orders").await.unwrap_err(), "42501");
    assert_eq!(ask(&open, "SHOW statement_timeout").await.unwrap(), "30s");
    let shown = ask(&open, "SHOW application_name").await.unwrap();
    assert!(shown.starts_with("bailiwick task_0190c5a0b1c2d3e4f5061728394a5b6c"), "{shown}");
    let role = format!("FROM pg_roles WHERE rolname = '{}'", plan.name);
    let comment = world.sql(&format!("SELECT shobj_description(oid, 'pg_authid') {role}"));
    assert_eq!(Tag::parse(&comment), Some(plan.tag.clone()), "{comment}");
    assert_eq!(world.sql(&format!("SELECT rolvaliduntil = '{}' {role}", plan.tag.expires_at)), "t");
    assert_eq!(world.sql(&format!("SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolconnlimit {role}")), "f|f|f|f|f|2");

    let account = remembered(&plan, minted);
    let ending = broker.end(&account).await.unwrap();
    assert_verified(&ending, &["primary"], "28P01");
    assert_eq!(ask(&open, "SELECT 1").await.unwrap_err(), "closed");
    assert_eq!(log_in(&world.primary, &plan.name, "shop").await.unwrap_err(), "28P01");
    assert_eq!(world.left(), "");
    // Ended is ended, whoever asks again.
    assert_verified(&world.broker().end(&account).await.unwrap(), &["primary"], "28P01");
    let log = world.primary.log();
    assert!(log.contains(plan.name.as_str()) && log.contains("SCRAM-SHA-256$4096:"), "the server logs statements");
    assert!(!log.contains(PASSWORD));
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn what_a_role_left_open_prepared_owned_or_granted_goes_with_it() {
    let world = World::start();
    world.primary.sql("postgres", "CREATE DATABASE other").unwrap();
    world.primary.sql("other", "GRANT CREATE ON SCHEMA public TO grp_orders_rw; CREATE TABLE public.ours (id int)").unwrap();
    let broker = world.broker();
    let plan = plan(&["grp_orders_rw"]);
    let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
    let open = log_in(&world.primary, &plan.name, "shop").await.unwrap();
    for statement in [
        "CREATE TABLE app.mine (id int)",
        "CREATE FUNCTION app.door() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM app.orders WHERE id < 3 RETURNING 1::bigint'",
        "GRANT EXECUTE ON FUNCTION app.door() TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO grp_orders_ro",
        "CREATE TEMP TABLE scratch (id int)",
        "SELECT lo_create(0)",
        // The same name as a function of the catalogue: must not be what we call.
        "CREATE FUNCTION app.count(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint'",
        "BEGIN; LOCK TABLE app.mine; INSERT INTO app.mine VALUES (1); PREPARE TRANSACTION 'it''s mine'",
    ] {
        ask(&open, statement).await.unwrap();
    }
    let elsewhere = log_in(&world.primary, &plan.name, "other").await.unwrap();
    ask(&elsewhere, "CREATE TABLE public.theirs (id int)").await.unwrap();
    ask(&elsewhere, "BEGIN; INSERT INTO public.theirs VALUES (1); PREPARE TRANSACTION 'there \\ too'").await.unwrap();
    // This session would go on reading and writing after `DROP ROLE`.
    ask(&elsewhere, "SET ROLE grp_orders_rw").await.unwrap();

    let ending = broker.end(&account).await.unwrap();
    assert_verified(&ending, &["primary"], "28P01");
    assert_eq!(ask(&open, "SELECT 1").await.unwrap_err(), "closed");
    assert_eq!(ask(&elsewhere, "SELECT 1").await.unwrap_err(), "closed");
    assert_eq!(world.left(), "");
    assert_eq!(world.sql("SELECT count(*) FROM pg_proc WHERE proname = 'door'; SELECT count(*) FROM pg_largeobject_metadata"), "0\n0");
    assert_eq!(world.primary.sql("other", "SELECT to_regclass('theirs') IS NULL, to_regclass('ours') IS NULL").unwrap(), "t|f");
    let removed: Vec<_> = ending.evidence().tried().iter().filter(|t| t.step == Step::Remove).map(|t| t.saw.as_str()).collect();
    let told = |words: &str| removed.iter().any(|saw| saw.contains(words));
    assert!(told("`it's mine` in database `shop`") && told("`there \\ too` in database `other`"), "{removed:#?}");
    assert!(told("table app.mine") && told("function app.door()"), "{removed:#?}");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_session_that_holds_on_is_ended_again_and_again() {
    let world = World::start();
    let broker = world.broker();
    let plan = plan(&["grp_orders_rw"]);
    let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
    let name = plan.name.clone();
    let port = world.primary.port();
    // It logs in as fast as it can for as long as it is let in.
    let knocking = tokio::spawn(async move {
        let mut opened = 0;
        for _ in 0..400 {
            let mut config = tokio_postgres::Config::new();
            config.host("127.0.0.1").port(port).user(name.as_str()).password(PASSWORD).dbname("shop");
            if let Ok((client, connection)) = config.connect(tokio_postgres::NoTls).await {
                opened += 1;
                tokio::spawn(connection);
                drop(client.simple_query("SET ROLE grp_orders_rw; SELECT pg_sleep(600)").await);
            } else if opened > 0 {
                return opened;
            }
        }
        opened
    });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_verified(&broker.end(&account).await.unwrap(), &["primary"], "28P01");
    assert!(knocking.await.unwrap() > 0);
    assert_eq!(world.left(), "");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn what_others_built_on_its_objects_waits_for_a_person_and_has_no_rights_meanwhile() {
    let world = World::start();
    let broker = world.broker();
    let plan = plan(&["grp_orders_rw"]);
    let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
    let open = log_in(&world.primary, &plan.name, "shop").await.unwrap();
    ask(&open, "CREATE TABLE app.mine (id int)").await.unwrap();
    ask(&open, "CREATE FUNCTION app.door() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM app.orders'").await.unwrap();
    world.sql("CREATE VIEW app.theirs AS SELECT * FROM app.mine");
    assert_eq!(world.sql("SELECT app.door()"), "100");

    let error = broker.end(&account).await.unwrap_err();
    assert_eq!((error.code(), error.step(), error.node()), (TargetCode::Refused, Step::Remove, "primary"), "{error}");
    assert!(error.to_string().contains("view app.theirs depends on table app.mine"), "{error}");
    assert_eq!(ask(&open, "SELECT 1").await.unwrap_err(), "closed");
    assert!(log_in(&world.primary, &plan.name, "shop").await.is_err());
    let door = world.primary.sql("shop", "SELECT app.door()").unwrap_err().to_string();
    assert!(door.contains("permission denied"), "{door}");

    let mut settings = settings(vec![node("primary", &world.primary)]);
    settings.cascade = true;
    assert_verified(&of(settings).end(&account).await.unwrap(), &["primary"], "28P01");
    assert_eq!(world.left(), "");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_mint_again_is_the_same_account_and_a_foreign_one_is_never_taken() {
    let world = World::start();
    let broker = world.broker();
    let plan_one = plan(&["grp_orders_ro"]);
    let first = broker.mint(&plan_one, Some(&secret())).await.unwrap();
    let again = world.broker().mint(&plan_one, Some(&secret())).await.unwrap();
    assert_eq!(first.ids, again.ids);
    assert!(log_in(&world.primary, &plan_one.name, "shop").await.is_ok());

    let theirs = plan(&["grp_orders_ro"]);
    world.sql(&format!("CREATE ROLE {}", theirs.name));
    assert_eq!(broker.mint(&theirs, Some(&secret())).await.unwrap_err().code(), TargetCode::Taken);
    let other_task = bailiwick_credentials::lease::Plan { tag: Tag { task: "task_other".into(), ..tag() }, ..plan_one.clone() };
    assert_eq!(broker.mint(&other_task, Some(&secret())).await.unwrap_err().code(), TargetCode::Taken);

    for rights in [&["pg_signal_backend"][..], &["broker"], &["grp_orders_ro; DROP TABLE app.orders"]] {
        let plan = plan(rights);
        assert_eq!(broker.mint(&plan, Some(&secret())).await.unwrap_err().code(), TargetCode::Plan, "{rights:?}");
    }
    assert_eq!(broker.mint(&plan(&[]), None).await.unwrap_err().code(), TargetCode::Plan);
    world.sql("DROP OWNED BY grp_orders_rw; DROP ROLE grp_orders_rw");
    assert_eq!(broker.mint(&plan(&["grp_orders_rw"]), Some(&secret())).await.unwrap_err().code(), TargetCode::Plan);
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn an_account_of_the_pool_is_given_to_a_task() {
    let world = World::start();
    let broker = world.broker();
    let mut early = plan(&["grp_orders_ro"]);
    early.tag = Tag { task: "pool".into(), agent: "pool".into(), expires_at: soon() };
    let account = remembered(&early, broker.mint(&early, Some(&secret())).await.unwrap());
    broker.assign(&account, &tag()).await.unwrap();
    let found = broker.list(&Prefix::default()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].tag.as_ref().map(|tag| tag.task.clone()), &found[0].ids), (Some(tag().task), &account.ids));
    let open = log_in(&world.primary, &early.name, "shop").await.unwrap();
    assert!(ask(&open, "SHOW application_name").await.unwrap().contains("task_0190c5a0"));
    assert_verified(&broker.end(&account).await.unwrap(), &["primary"], "28P01");
    assert!(broker.assign(&account, &tag()).await.is_err());
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_sweep_removes_what_no_lease_explains_and_no_role_of_a_person() {
    let world = World::start();
    let broker = world.broker();
    let (live, lost) = (plan(&["grp_orders_ro"]), plan(&["grp_orders_rw"]));
    for plan in [&live, &lost] {
        drop(broker.mint(plan, Some(&secret())).await.unwrap());
    }
    let open = log_in(&world.primary, &lost.name, "shop").await.unwrap();
    world.sql("CREATE ROLE ag_admin LOGIN; CREATE ROLE agx_00000000000000000000000007 LOGIN; CREATE ROLE \"agX00000000000000000000000007\"");
    let orphans = sweep(&broker, &Prefix::default(), &|name| *name == live.name).await.unwrap();
    assert_eq!(orphans.iter().map(|orphan| orphan.found.name.clone()).collect::<Vec<_>>(), *std::slice::from_ref(&lost.name));
    assert_eq!(orphans[0].found.tag, Some(lost.tag.clone()));
    // Nobody has its secret any more, so the ending does not claim more than it saw.
    assert_eq!(orphans[0].ending.as_ref().unwrap().word(), "revoked-unverified");
    assert_eq!(ask(&open, "SELECT 1").await.unwrap_err(), "closed");
    let roles = world.sql("SELECT count(*) FROM pg_roles WHERE rolname ILIKE 'ag%'");
    assert_eq!(roles, "4");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_session_of_a_role_whose_oid_was_lost_is_not_passed_over() {
    let world = World::start();
    let broker = world.broker();
    let plan = plan(&["grp_orders_ro"]);
    drop(broker.mint(&plan, Some(&secret())).await.unwrap());
    let open = log_in(&world.primary, &plan.name, "shop").await.unwrap();
    ask(&open, "SET ROLE grp_orders_ro").await.unwrap();
    // Somebody dropped it by hand, and the answer of its mint was never written down.
    world.sql(&format!("DROP ROLE {}", plan.name));
    assert_eq!(ask(&open, "SELECT count(*) FROM app.orders").await.unwrap(), "100");
    assert_verified(&broker.end(&only_intent(&plan)).await.unwrap(), &["primary"], "28P01");
    assert_eq!(ask(&open, "SELECT 1").await.unwrap_err(), "closed");

    // One that hides its mark may be anybody's. It is left alone, and the ending says so.
    let hidden = crate::words::plan(&["grp_orders_ro"]);
    drop(broker.mint(&hidden, Some(&secret())).await.unwrap());
    let open = log_in(&world.primary, &hidden.name, "shop").await.unwrap();
    ask(&open, "SET application_name = 'somebody'").await.unwrap();
    world.sql(&format!("DROP ROLE {}", hidden.name));
    let ending = broker.end(&only_intent(&hidden)).await.unwrap();
    let Ending::RevokedUnverified { why, .. } = ending else { panic!("{ending:?}") };
    assert!(why.contains("1 sessions of roles that are gone"), "{why}");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_refusal_that_says_nothing_of_the_role_is_no_verification() {
    let world = World::start();
    let broker = world.broker();
    let plan = plan(&["grp_orders_ro"]);
    let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
    let rules = format!("host all {} all reject\nhost all all all scram-sha-256\nlocal all all scram-sha-256\n", plan.name);
    std::fs::write(world.primary.data().join("pg_hba.conf"), rules).unwrap();
    world.sql("SELECT pg_reload_conf()");
    while log_in(&world.primary, &plan.name, "shop").await.is_ok() {}
    let ending = broker.end(&account).await.unwrap();
    let Ending::RevokedUnverified { why, .. } = &ending else { panic!("{ending:?}") };
    assert!(why.contains("28000"), "{why}");
    assert_eq!(world.left(), "");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn preflight_names_each_missing_right_and_its_remedies_are_enough() {
    let world = World::start();
    world.sql("ALTER ROLE broker NOCREATEROLE; REVOKE pg_signal_backend FROM broker; DROP OWNED BY grp_orders_rw; DROP ROLE grp_orders_rw");
    world.sql("CREATE DATABASE closed");
    // In version 15, it may give a group of which it is no member itself.
    world.sql("REVOKE grp_orders_ro FROM broker");
    world
        .sql("REVOKE CONNECT ON DATABASE closed FROM PUBLIC; GRANT CONNECT ON DATABASE closed TO grp_orders_ro; ALTER ROLE grp_orders_ro CREATEROLE");
    let findings = world.broker().preflight(&fresh_name()).await.unwrap();
    let remedies: Vec<_> = findings.iter().map(|finding| finding.remedy.as_str()).collect();
    assert_eq!(
        remedies,
        [
            "ALTER ROLE \"broker\" CREATEROLE;",
            "GRANT pg_signal_backend TO \"broker\";",
            "ALTER ROLE \"grp_orders_ro\" NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS;",
            "CREATE ROLE \"grp_orders_rw\" NOLOGIN;",
            "GRANT CONNECT ON DATABASE \"closed\" TO \"broker\";",
        ],
        "{findings:#?}"
    );
    for remedy in remedies {
        world.sql(remedy);
    }
    assert_eq!(world.broker().preflight(&fresh_name()).await.unwrap(), []);
    assert_eq!(world.left(), "");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn preflight_tries_the_login_that_an_end_will_try() {
    let world = World::start();
    let rules = "host all broker all scram-sha-256\nlocal all all scram-sha-256\n";
    std::fs::write(world.primary.data().join("pg_hba.conf"), rules).unwrap();
    world.sql("SELECT pg_reload_conf()");
    let probe = fresh_name();
    while log_in(&world.primary, &probe, "shop").await.unwrap_err() == "28P01" {}
    let findings = world.broker().preflight(&probe).await.unwrap();
    assert!(findings[0].missing.contains("no pg_hba.conf entry") && findings[0].node == "primary", "{findings:#?}");
    assert!(findings.iter().any(|finding| finding.missing.contains("an end could not be verified")), "{findings:#?}");
    assert_eq!(world.left(), "");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn fifty_at_once_and_many_in_a_row_leave_the_catalogue_as_it_was() {
    let world = World::start();
    let broker = std::sync::Arc::new(world.broker());
    let rows = "SELECT (SELECT count(*) FROM pg_authid), (SELECT count(*) FROM pg_auth_members), (SELECT count(*) FROM pg_shdepend), \
                (SELECT count(*) FROM pg_shdescription), (SELECT count(*) FROM pg_db_role_setting), \
                (SELECT string_agg(relacl::text, ' ') FROM pg_class WHERE relname = 'orders'), \
                (SELECT sum(pg_column_size(relacl)) FROM pg_class), (SELECT datacl FROM pg_database WHERE datname = 'shop')";
    let before = world.sql(rows);
    let mut at_once = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let broker = std::sync::Arc::clone(&broker);
        at_once.spawn(async move {
            let plan = plan(&["grp_orders_ro"]);
            let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
            broker.end(&account).await.unwrap()
        });
    }
    while let Some(ending) = at_once.join_next().await {
        assert_verified(&ending.unwrap(), &["primary"], "28P01");
    }
    for _ in 0..count("BAILIWICK_LEASES", 20) {
        let plan = plan(&["grp_orders_ro"]);
        let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
        assert_verified(&broker.end(&account).await.unwrap(), &["primary"], "28P01");
    }
    assert_eq!(world.sql(rows), before);
    assert_eq!(world.left(), "");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_system_that_is_down_is_ended_as_soon_as_it_is_back() {
    let mut world = World::start();
    let broker = world.broker();
    let plan = plan(&["grp_orders_ro"]);
    let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
    // A mint is not waited for on the server's disk: the next test is about what a crash may take.
    world.sql("CHECKPOINT");
    world.primary.stop().unwrap();
    for _ in 0..3 {
        let error = broker.end(&account).await.unwrap_err();
        assert!(error.code() == TargetCode::Unreachable && error.is_transient(), "{error}");
    }
    world.primary.run().unwrap();
    assert!(log_in(&world.primary, &plan.name, "shop").await.is_ok());
    assert_verified(&broker.end(&account).await.unwrap(), &["primary"], "28P01");
    assert_eq!(world.left(), "");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_role_that_a_crash_took_is_ended_and_whoever_has_its_number_now_is_left_alone() {
    let mut world = World::start();
    let broker = world.broker();
    let plan = plan(&["grp_orders_ro"]);
    let mut account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
    world.primary.stop().unwrap();
    world.primary.run().unwrap();
    // The sessions of the broker before went with the server too.
    let broker = world.broker();
    assert_verified(&broker.end(&account).await.unwrap(), &["primary"], "28P01");
    // The server gives a number again that it had given before the crash, to a role that is not ours.
    world.sql(&format!(
        "CREATE ROLE bystander LOGIN PASSWORD '{PASSWORD}'; ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO bystander"
    ));
    account.ids = TargetIds::one("oid", world.sql("SELECT oid FROM pg_roles WHERE rolname = 'bystander'"));
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(world.primary.port()).user("bystander").password(PASSWORD).dbname("shop");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_verified(&broker.end(&account).await.unwrap(), &["primary"], "28P01");
    assert_eq!(ask(&client, "SELECT current_user").await.unwrap(), "bystander");
    assert_eq!(world.left(), "");
}

#[tokio::test]
#[ignore = "needs what `cargo xtask tools` installs"]
async fn a_wrong_setting_or_a_wrong_password_is_told_without_the_password() {
    let world = World::start();
    let mut wrong = settings(vec![]);
    let make = |settings, secret: &str| {
        bailiwick_credentials::kinds::postgresql::Postgresql::new(settings, Secret::from(secret.to_owned()), crate::words::clock())
    };
    assert_eq!(make(wrong.clone(), "x").unwrap_err().code(), TargetCode::Plan);
    wrong.nodes.push(node("primary", &world.primary));
    wrong.groups.push("broker".into());
    assert_eq!(make(wrong.clone(), "x").unwrap_err().code(), TargetCode::Plan);
    wrong.groups.pop();
    let broker = make(wrong, "not-the-password-of-the-broker").unwrap();
    let account = Account { name: fresh_name(), ids: TargetIds::default(), secret: None, expires_at: None };
    let error = broker.end(&account).await.unwrap_err();
    assert_eq!(error.code(), TargetCode::Refused);
    assert!(!format!("{error} {error:?} {broker:?}").contains("not-the-password"));
}
