//! `RabbitMQ`: the life of a user, and each trap that one leaves. One server for all of it, because a server takes half a minute to start.

use std::sync::Arc;

use bailiwick_credentials::lease::{Kind as _, Plan, Prefix, TargetCode, sweep};
use bailiwick_credentials::{Secret, kinds};

use crate::cut::Cuts;
use crate::rabbitmq_world::{Agent, World};
use crate::words::{PASSWORD, assert_verified, clock, count, fresh_name, only_intent, plan, remembered, secret};

const REFUSED: &str = "403 ACCESS_REFUSED";

#[test]
fn users_of_rabbitmq_work_and_are_dead_afterwards_whatever_was_open_or_cut_off() {
    let mut world = World::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        preflight_names_what_is_missing(&world).await;
        a_user_works_and_is_dead_afterwards_with_its_open_channels(&world).await;
        a_changed_password_and_removed_permissions_leave_a_channel_open(&world).await;
        a_user_has_what_its_rights_name(&world).await;
        the_api_refuses_a_living_user_as_well(&world).await;
        a_sweep_removes_what_no_lease_explains(&world).await;
        fifty_at_once_leave_the_users_as_they_were(&world).await;
        crate::rabbitmq_session::a_held_connection_does_what_the_account_may_and_is_dead_at_its_end(&world).await;
    });
    any_mint_and_any_end_may_be_cut(&world);
    runtime.block_on(a_server_that_is_down_is_ended_as_soon_as_it_is_back(&mut world));
    let log = world.server.log();
    assert!(log.contains("login refused") && !log.contains(PASSWORD) && !log.contains("broker-password"), "{log}");
}

async fn preflight_names_what_is_missing(world: &World) {
    world.ask("PUT", "/users/broker", "{\"password\":\"broker-password\",\"tags\":\"monitoring\"}");
    let found = world.broker().preflight(&fresh_name()).await.unwrap();
    assert_eq!(found.iter().map(|finding| finding.remedy.as_str()).collect::<Vec<_>>(), ["rabbitmqctl set_user_tags broker administrator"]);
    let error = world.broker().mint(&plan(&[]), Some(&secret())).await.unwrap_err();
    assert_eq!(error.code(), TargetCode::Refused, "{error}");
    world.ask("PUT", "/users/broker", "{\"password\":\"broker-password\",\"tags\":\"administrator\"}");
    let mut settings = world.settings();
    settings.rights.values_mut().for_each(|right| right.vhost = "a/b".to_owned());
    let other = kinds::rabbitmq::Rabbitmq::new(settings, Secret::from("broker-password".to_owned()), clock()).unwrap();
    let found = other.preflight(&fresh_name()).await.unwrap();
    assert_eq!(found[0].remedy, "rabbitmqctl add_vhost a/b");
    let stranger = kinds::rabbitmq::Rabbitmq::new(world.settings(), secret(), clock()).unwrap();
    let error = stranger.preflight(&fresh_name()).await.unwrap_err();
    assert!(error.code() == TargetCode::Refused && !error.to_string().contains(PASSWORD), "{error}");
    assert_eq!(world.broker().preflight(&fresh_name()).await.unwrap(), []);
    assert_eq!(world.left(), "");
    assert!(!format!("{:?}", world.broker()).contains("broker-password"));
}

async fn a_user_works_and_is_dead_afterwards_with_its_open_channels(world: &World) {
    let broker = world.broker();
    let plan = plan(&["orders_ro"]);
    let minted = broker.mint(&plan, Some(&secret())).await.unwrap();
    assert!(minted.secret.is_none() && minted.expires_at.is_none());
    let account = remembered(&plan, minted);
    let mut open = Agent::open(&world.server, &plan.name).await.unwrap();
    assert_eq!(open.get("orders").await.unwrap(), (60, 72), "the queue is empty");
    // Logged in, and without a virtual host: the server counts it as no connection, and closes it not.
    let mut half = Agent::log_in(&world.server, &plan.name).await.unwrap();

    assert_verified(&broker.end(&account).await.unwrap(), &["one"], REFUSED);
    assert_eq!(open.hear().await.unwrap_err(), format!("320 CONNECTION_FORCED - user '{}' is deleted", plan.name));
    assert!(half.open_vhost().await.unwrap_err().starts_with("530 NOT_ALLOWED"));
    assert!(Agent::log_in(&world.server, &plan.name).await.err().unwrap().starts_with(REFUSED));
    assert_eq!(world.left(), "");
    assert_verified(&world.broker().end(&account).await.unwrap(), &["one"], REFUSED);
}

/// Why the user is removed: what peers do, on this server.
async fn a_changed_password_and_removed_permissions_leave_a_channel_open(world: &World) {
    let broker = world.broker();
    let plan = plan(&["orders_ro"]);
    drop(broker.mint(&plan, Some(&secret())).await.unwrap());
    let mut open = Agent::open(&world.server, &plan.name).await.unwrap();
    world.ask("PUT", &format!("/users/{}", plan.name), "{\"password\":\"another\",\"tags\":\"\"}");
    open.get("orders").await.unwrap();
    world.ask("DELETE", &format!("/permissions/shop/{}", plan.name), "");
    assert!(!matches!(open.get("orders").await, Err(said) if said == "closed" || said.starts_with("320")));
    let open = open.watch();
    assert_verified(&broker.end(&only_intent(&plan)).await.unwrap(), &["one"], REFUSED);
    assert!(open.await.unwrap().starts_with("320"));
    assert_eq!(world.left(), "");
}

async fn a_user_has_what_its_rights_name(world: &World) {
    let broker = world.broker();
    let plan = plan(&["orders_rw"]);
    let first = broker.mint(&plan, Some(&secret())).await.unwrap();
    let again = world.broker().mint(&plan, Some(&secret())).await.unwrap();
    assert_eq!(first.ids, again.ids);
    for queue in ["salaries", "my-orders"] {
        let mut open = Agent::open(&world.server, &plan.name).await.unwrap();
        assert!(open.get(queue).await.unwrap_err().starts_with("403 ACCESS_REFUSED"), "{queue}");
    }
    let mut open = Agent::open(&world.server, &plan.name).await.unwrap();
    assert!(open.declare("orders2").await.unwrap_err().starts_with("403 ACCESS_REFUSED"));
    let nothing = crate::words::plan(&[]);
    drop(broker.mint(&nothing, Some(&secret())).await.unwrap());
    assert!(Agent::open(&world.server, &nothing.name).await.err().unwrap().starts_with("530"));

    drop(open);
    let mut held = Vec::new();
    while let Ok(open) = Agent::open(&world.server, &plan.name).await {
        held.push(open.watch());
        assert!(held.len() <= 4, "four connections at most");
    }
    for rights in [&["orders"][..], &["orders_ro", "orders_rw"], &["orders_ro", "other"]] {
        assert_eq!(broker.mint(&crate::words::plan(rights), Some(&secret())).await.unwrap_err().code(), TargetCode::Plan, "{rights:?}");
    }
    assert_eq!(broker.mint(&plan, None).await.unwrap_err().code(), TargetCode::Plan);
    assert_eq!(broker.mint(&plan, Some(&Secret::from("another".to_owned()))).await.unwrap_err().code(), TargetCode::Taken);
    for plan in [&plan, &nothing] {
        assert_verified(&broker.end(&only_intent(plan)).await.unwrap(), &["one"], REFUSED);
    }
    assert_eq!(world.left(), "");
}

/// Why the login is tried by AMQP: the API's 401 says nothing about the password.
async fn the_api_refuses_a_living_user_as_well(world: &World) {
    let plan = plan(&[]);
    let account = remembered(&plan, world.broker().mint(&plan, Some(&secret())).await.unwrap());
    let as_it = kinds::rabbitmq::Settings { user: plan.name.to_string(), ..world.settings() };
    let error = kinds::rabbitmq::Rabbitmq::new(as_it, secret(), clock()).unwrap().list(&Prefix::default()).await.unwrap_err();
    assert!(error.to_string().contains("status 401 Not management user"), "{error}");
    assert!(Agent::log_in(&world.server, &plan.name).await.is_ok());
    assert_verified(&world.broker().end(&account).await.unwrap(), &["one"], REFUSED);
}

async fn a_sweep_removes_what_no_lease_explains(world: &World) {
    let broker = world.broker();
    let (live, lost) = (plan(&["orders_ro"]), plan(&["orders_rw"]));
    for plan in [&live, &lost] {
        drop(broker.mint(plan, Some(&secret())).await.unwrap());
    }
    let open = Agent::open(&world.server, &lost.name).await.unwrap().watch();
    for person in ["ag_admin", "agx_00000000000000000000000007"] {
        world.ask("PUT", &format!("/users/{person}"), "{\"password\":\"p\",\"tags\":\"\"}");
    }
    let orphans = sweep(&broker, &Prefix::default(), &|name| *name == live.name).await.unwrap();
    assert_eq!(orphans.iter().map(|orphan| &orphan.found.name).collect::<Vec<_>>(), [&lost.name]);
    assert_eq!(orphans[0].ending.as_ref().unwrap().word(), "revoked-unverified");
    assert!(open.await.unwrap().starts_with("320"));
    assert_verified(&broker.end(&only_intent(&live)).await.unwrap(), &["one"], REFUSED);
    for person in ["ag_admin", "agx_00000000000000000000000007"] {
        world.ask("DELETE", &format!("/users/{person}"), "");
    }
}

async fn fifty_at_once_leave_the_users_as_they_were(world: &World) {
    let broker = Arc::new(world.broker());
    let before = world.ask("GET", "/users?columns=name", "");
    let mut at_once = tokio::task::JoinSet::new();
    for _ in 0..count("BAILIWICK_LEASES", 50) {
        let broker = Arc::clone(&broker);
        at_once.spawn(async move {
            let plan = plan(&["orders_ro"]);
            let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
            broker.end(&account).await.unwrap()
        });
    }
    while let Some(ending) = at_once.join_next().await {
        assert_verified(&ending.unwrap(), &["one"], REFUSED);
    }
    assert_eq!(world.ask("GET", "/users?columns=name", ""), before);
}

/// Each end of a cut mint waits for what may still be on its way, so only every third place is cut.
fn any_mint_and_any_end_may_be_cut(world: &World) {
    let sessions = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let cuts =
        Cuts { broker: &|| Box::new(world.broker()), left: &|| world.left(), rights: &["orders_rw"], nodes: &["one"], refused: REFUSED, step: 3 };
    cuts.any_mint();
    let open = |plan: &Plan, _| {
        let open = sessions.block_on(Agent::open(&world.server, &plan.name)).unwrap();
        let _watching = sessions.enter();
        open.watch()
    };
    cuts.any_end(true, open, |open, waits| assert!(sessions.block_on(open).unwrap().starts_with("320"), "cut after {waits} waits"));
}

async fn a_server_that_is_down_is_ended_as_soon_as_it_is_back(world: &mut World) {
    let broker = world.broker();
    let plan = plan(&["orders_ro"]);
    let account = remembered(&plan, broker.mint(&plan, Some(&secret())).await.unwrap());
    world.server.stop().unwrap();
    for _ in 0..3 {
        let error = broker.end(&account).await.unwrap_err();
        assert!(error.code() == TargetCode::Unreachable && error.is_transient(), "{error}");
    }
    world.server.run().unwrap();
    assert!(Agent::log_in(&world.server, &plan.name).await.is_ok());
    assert_verified(&broker.end(&account).await.unwrap(), &["one"], REFUSED);
    assert_eq!(world.left(), "");
}
