//! `NATS`: the life of a user that no server is told of, and each trap that a revoked one leaves.

use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::nats::{Keys, Nats, SUBJECTS};
use bailiwick_credentials::lease::{Account, Kind as _, Minted, Node, Plan, Prefix, TargetCode, TargetIds, sweep};
use bailiwick_testkit::servers::nats_keys::Nkey;

use crate::nats_world::{Agent, World, claims, credentials};
use crate::words::{assert_verified, count, fresh_name, plan, soon};

const REFUSED: &str = "Authorization Violation";

/// A lease as the house keeps one: the seed was sealed first, then what the mint gave.
struct Lease {
    account: Account,
    user: String,
    jwt: String,
    seed: String,
}

async fn mint(broker: &Nats, plan: &Plan) -> Lease {
    let seed = broker.propose().unwrap().unwrap();
    let minted = broker.mint(plan, Some(&seed)).await.unwrap();
    let (jwt, seed) = credentials(&minted);
    let Minted { ids, secret, expires_at } = minted;
    let user = ids.find("user").unwrap().to_owned();
    Lease { account: Account { name: plan.name.clone(), ids, secret, expires_at }, user, jwt, seed }
}

#[tokio::test]
async fn a_user_works_and_is_dead_afterwards_with_its_open_connections() {
    let world = World::start();
    let broker = world.broker();
    let plan = plan(&["orders_rw"]);
    let lease = mint(&broker, &plan).await;
    assert_eq!(lease.account.expires_at, Some(plan.tag.expires_at));
    let body = claims(&lease.jwt);
    assert_eq!((body["name"].as_str().unwrap(), body["exp"].as_i64().unwrap()), (plan.name.as_str(), plan.tag.expires_at.as_millis() / 1000));
    assert_eq!(body["nats"]["tags"][0], format!("task:{}", plan.tag.task));

    let mut open = Agent::log_in(&world.server, &lease.jwt, &lease.seed).await.unwrap();
    open.send("SUB orders.> 1\r\nPUB orders.new 5\r\nbread").await;
    assert_eq!(open.hear().await.unwrap(), "MSG orders.new 1 5");
    assert_eq!(open.hear().await.unwrap(), "bread");
    let ending = broker.end(&lease.account).await.unwrap();
    assert_verified(&ending, &["one"], REFUSED);
    assert!(ending.evidence().tried().iter().any(|t| t.saw == "a login of a fresh user of the same account is accepted"), "{ending:#?}");
    assert!(open.last_words().await.ends_with("closed"));
    assert!(Agent::log_in(&world.server, &lease.jwt, &lease.seed).await.err().unwrap().contains(REFUSED));
    assert_eq!(broker.list(&Prefix::default()).await.unwrap(), []);
    assert_verified(&world.broker().end(&lease.account).await.unwrap(), &["one"], REFUSED);
    for text in [format!("{ending:?}"), format!("{broker:?} {:?}", lease.account), world.server.log()] {
        assert!(!text.contains(&lease.seed) && !text.contains(&world.operator.seed) && !text.contains(&world.account.seed));
    }
}

#[tokio::test]
async fn a_user_has_what_its_rights_name_and_an_empty_list_is_nothing() {
    let world = World::start();
    let broker = world.broker();
    let nothing = mint(&broker, &plan(&[])).await;
    let reader = mint(&broker, &plan(&["orders_ro"])).await;
    let name = reader.account.name.clone();
    for (lease, line, allowed) in [
        (&nothing, "PUB orders.new 0\r\n".to_owned(), false),
        (&nothing, "SUB orders.> 1".to_owned(), false),
        (&nothing, "SUB _INBOX.> 1".to_owned(), false),
        (&nothing, "PUB $SYS.REQ.CLAIMS.UPDATE 0\r\n".to_owned(), false),
        (&reader, "PUB orders.new 0\r\n".to_owned(), false),
        (&reader, "SUB orders.> 1".to_owned(), true),
        (&reader, "SUB > 1".to_owned(), false),
        (&reader, format!("SUB _INBOX.{name}.x 1"), true),
        (&reader, format!("SUB _INBOX.{}.x 1", nothing.account.name), false),
    ] {
        let mut agent = Agent::log_in(&world.server, &lease.jwt, &lease.seed).await.unwrap();
        agent.send(&line).await;
        let answer = agent.ping().await;
        assert_eq!(answer.is_ok(), allowed, "{line}: {answer:?}");
        assert!(allowed || answer.unwrap_err().contains("Permissions Violation"), "{line}");
    }
    let seed = || broker.propose().unwrap().unwrap();
    for rights in [&["orders"][..], &["orders_ro", ">"]] {
        assert_eq!(broker.mint(&plan(rights), Some(&seed())).await.unwrap_err().code(), TargetCode::Plan, "{rights:?}");
    }
    let mut long = plan(&[]);
    long.tag.expires_at = soon().plus(world.settings().lease_max);
    assert_eq!(broker.mint(&long, Some(&seed())).await.unwrap_err().code(), TargetCode::Plan);
    for secret in [None, Some(Secret::from("SUA".to_owned())), Some(Secret::from(world.account.seed.clone()))] {
        assert_eq!(broker.mint(&plan(&[]), secret.as_ref()).await.unwrap_err().code(), TargetCode::Plan);
    }
}

#[tokio::test]
async fn a_broker_that_was_restarted_carries_on_what_the_servers_have_and_remembers_nothing() {
    let world = World::start();
    let (one, two) = (mint(&world.broker(), &plan(&["orders_ro"])).await, mint(&world.broker(), &plan(&["orders_ro"])).await);
    let stranger = Nkey::new(b'U', 9).unwrap().public;
    assert!(world.push(&[&stranger]).await.contains("\"code\":200"));
    let before = world.revoked().await[&stranger];
    for lease in [&one, &two] {
        // Each by a process of its own.
        assert_verified(&world.broker().end(&lease.account).await.unwrap(), &["one"], REFUSED);
    }
    for lease in [&one, &two] {
        assert!(Agent::log_in(&world.server, &lease.jwt, &lease.seed).await.err().unwrap().contains(REFUSED));
    }
    let revoked = world.revoked().await;
    assert_eq!((revoked.len(), revoked[&stranger]), (3, before), "that of somebody else is as it was");
}

#[tokio::test]
async fn what_another_push_took_away_is_found_and_put_back() {
    let world = World::start();
    let broker = world.broker();
    let (one, two) = (mint(&broker, &plan(&["orders_ro"])).await, mint(&broker, &plan(&["orders_ro"])).await);
    for lease in [&one, &two] {
        assert_verified(&broker.end(&lease.account).await.unwrap(), &["one"], REFUSED);
    }
    assert_eq!(broker.restore().await.unwrap(), Vec::<String>::new());
    assert_eq!(broker.list(&Prefix::default()).await.unwrap(), []);

    // What other tools do: push the account as they know it. The server lets the revoked users in again.
    world.push(&[]).await;
    let mut back = Agent::log_in(&world.server, &one.jwt, &one.seed).await.expect("a revocation is forgotten by a push without it");
    // Nobody else may be connected: whoever was ended and could come in is found, and ended by the sweep.
    let orphans = sweep(&broker, &Prefix::default(), &|_| false).await.unwrap();
    let mut names: Vec<_> = orphans.iter().map(|orphan| orphan.found.name.clone()).collect();
    names.sort();
    assert_eq!(names, [one.account.name.clone(), two.account.name.clone()]);
    assert!(back.last_words().await.ends_with("closed"));
    for lease in [&one, &two] {
        assert!(Agent::log_in(&world.server, &lease.jwt, &lease.seed).await.is_err());
    }

    // A revocation with a time before their JWTs were issued is none, and is not taken for one.
    world.push_at(&[(&one.user, 1), (&two.user, 1)]).await;
    assert!(Agent::log_in(&world.server, &one.jwt, &one.seed).await.is_ok());
    let mut both = [one.user.clone(), two.user.clone()];
    both.sort();
    assert_eq!(broker.restore().await.unwrap(), both);
    assert!(Agent::log_in(&world.server, &one.jwt, &one.seed).await.is_err());

    // A process that was told of them, as after a restart.
    world.push(&[]).await;
    let fresh = world.broker();
    for lease in [&one, &two] {
        fresh.remember(&lease.account);
    }
    assert_eq!(fresh.restore().await.unwrap(), both);
    assert_eq!(fresh.restore().await.unwrap(), Vec::<String>::new());

    // An end of another user puts them back as well, and says so.
    world.push(&[]).await;
    let three = mint(&broker, &plan(&["orders_ro"])).await;
    let ending = broker.end(&three.account).await.unwrap();
    assert_verified(&ending, &["one"], REFUSED);
    assert_eq!(ending.evidence().tried().iter().filter(|t| t.saw.contains("was no longer revoked and is again")).count(), 2, "{ending:#?}");
    assert!(Agent::log_in(&world.server, &one.jwt, &one.seed).await.is_err());
}

/// So that the account's JWT does not grow for ever, and clocks may differ.
#[tokio::test]
async fn a_revocation_goes_half_a_day_after_its_user_has_expired_and_that_of_somebody_else_never() {
    const HOUR: u64 = 3600;
    let world = World::start();
    let lease = mint(&world.broker(), &plan(&["orders_ro"])).await;
    assert_verified(&world.broker().end(&lease.account).await.unwrap(), &["one"], REFUSED);
    let (stranger, ours) = (Nkey::new(b'U', 9).unwrap().public, world.revoked().await[&lease.user]);
    assert!(world.push_at(&[(&stranger, 1), (&lease.user, ours)]).await.contains("\"code\":200"));
    // It expires in ten minutes.
    for (ahead, expected) in [(HOUR, true), (12 * HOUR, true), (12 * HOUR + 1200, false)] {
        let broker = world.broker_ahead(std::time::Duration::from_secs(ahead));
        let mut later = plan(&[]);
        later.tag.expires_at = soon().plus(std::time::Duration::from_secs(ahead));
        let other = mint(&broker, &later).await;
        assert_verified(&broker.end(&other.account).await.unwrap(), &["one"], REFUSED);
        let revoked = world.revoked().await;
        assert_eq!(revoked.contains_key(&lease.user), expected, "{ahead}");
        assert_eq!(revoked.get(&stranger), Some(&1));
        assert!(revoked.contains_key(&other.user));
    }
}

#[tokio::test]
async fn an_end_is_one_on_every_node_and_a_node_that_was_away_is_told_when_it_is_back() {
    let (mut world, mut second) = World::cluster();
    let mut settings = world.settings();
    settings.nodes.insert(0, Node::new("two", "127.0.0.1", second.port(), None).unwrap());
    let broker = world.try_broker(settings, &world.keys(&SUBJECTS)).unwrap();
    assert_eq!(broker.preflight(&fresh_name()).await.unwrap(), []);
    let lease = mint(&broker, &plan(&["orders_ro"])).await;
    let mut open = Agent::log_in(&second, &lease.jwt, &lease.seed).await.unwrap();
    assert_verified(&broker.end(&lease.account).await.unwrap(), &["one", "two"], REFUSED);
    assert!(open.last_words().await.ends_with("closed"));
    assert!(Agent::log_in(&second, &lease.jwt, &lease.seed).await.err().unwrap().contains(REFUSED));

    let lease = mint(&broker, &plan(&["orders_ro"])).await;
    let mut open = Agent::log_in(&world.server, &lease.jwt, &lease.seed).await.unwrap();
    second.stop().unwrap();
    // The one that is down is the first of the configuration, and keeps no other alive.
    let error = broker.end(&lease.account).await.unwrap_err();
    assert_eq!((error.code(), error.node()), (TargetCode::Unreachable, "two"), "{error}");
    assert!(open.last_words().await.ends_with("closed"));
    assert!(Agent::log_in(&world.server, &lease.jwt, &lease.seed).await.err().unwrap().contains(REFUSED));
    // Only the first knows of it, and goes away before the second is back.
    world.server.stop().unwrap();
    second.run().unwrap();
    assert!(Agent::log_in(&second, &lease.jwt, &lease.seed).await.is_ok(), "a node that was away lets in whom the others forgot");
    world.server.run().unwrap();
    assert_verified(&broker.end(&lease.account).await.unwrap(), &["one", "two"], REFUSED);
    assert!(Agent::log_in(&second, &lease.jwt, &lease.seed).await.is_err());
}

#[tokio::test]
async fn a_full_resolver_remembers_a_revocation_over_a_restart_and_one_in_memory_is_not_served() {
    let mut world = World::start();
    let broker = world.broker();
    assert_eq!(broker.preflight(&fresh_name()).await.unwrap(), []);
    let lease = mint(&broker, &plan(&["orders_ro"])).await;
    world.server.stop().unwrap();
    for _ in 0..3 {
        let error = broker.end(&lease.account).await.unwrap_err();
        assert!(error.code() == TargetCode::Unreachable && error.is_transient(), "{error}");
    }
    world.server.run().unwrap();
    assert!(Agent::log_in(&world.server, &lease.jwt, &lease.seed).await.is_ok());
    assert_verified(&broker.end(&lease.account).await.unwrap(), &["one"], REFUSED);
    world.server.stop().unwrap();
    world.server.run().unwrap();
    assert!(Agent::log_in(&world.server, &lease.jwt, &lease.seed).await.err().unwrap().contains(REFUSED));

    let forgetful = World::with(false);
    let found = forgetful.broker().preflight(&fresh_name()).await.unwrap();
    assert!(!found.is_empty(), "an account that cannot be changed is served");
}

#[tokio::test]
async fn preflight_names_what_our_user_may_not_do_and_a_key_that_is_not_trusted() {
    let world = World::start();
    for lacking in SUBJECTS {
        let subjects: Vec<_> = SUBJECTS.into_iter().filter(|subject| *subject != lacking).collect();
        let broker = world.try_broker(world.settings(), &world.keys(&subjects)).unwrap();
        let found = broker.preflight(&fresh_name()).await.unwrap();
        assert!(!found.is_empty() && found[0].missing.contains("Permissions Violation"), "{lacking}: {found:#?}");
    }
    let mut wrong = world.keys(&SUBJECTS);
    wrong.operator = Secret::from(Nkey::new(b'O', 77).unwrap().seed);
    // It does not even look like the operator's: what the server has is not signed by the configured key.
    let found = world.try_broker(world.settings(), &wrong).unwrap().preflight(&fresh_name()).await.unwrap();
    assert!(found[0].missing.contains("not signed by the configured operator"), "{found:#?}");
    let mut settings = world.settings();
    settings.operators.push(world.operator.public.clone());
    let found = world.try_broker(settings, &wrong).unwrap().preflight(&fresh_name()).await.unwrap();
    assert!(found[0].missing.contains("nothing shows that the servers trust ours"), "{found:#?}");
    let mut wrong = world.keys(&SUBJECTS);
    wrong.account = Secret::from(Nkey::new(b'A', 78).unwrap().seed);
    let found = world.try_broker(world.settings(), &wrong).unwrap().preflight(&fresh_name()).await.unwrap();
    assert!(!found.is_empty(), "the account does not know the key that signs users");
    for swapped in [(&world.account.seed, &world.account.seed), (&world.operator.seed, &world.operator.seed)] {
        let wrong = Keys { operator: Secret::from(swapped.0.clone()), account: Secret::from(swapped.1.clone()), ..world.keys(&SUBJECTS) };
        assert_eq!(world.try_broker(world.settings(), &wrong).unwrap_err().code(), TargetCode::Plan);
    }
    assert_eq!(world.broker().preflight(&fresh_name()).await.unwrap(), [], "and nothing of it did harm");
}

#[tokio::test]
async fn what_the_mint_left_is_ended_by_seed_by_key_or_by_time() {
    let world = World::start();
    let broker = world.broker();
    // Cut before the mint's answer was written down: the intent has the seed.
    let seed = broker.propose().unwrap().unwrap();
    let cut = plan(&["orders_ro"]);
    let minted = broker.mint(&cut, Some(&seed)).await.unwrap();
    let (jwt, text) = credentials(&minted);
    let mut open = Agent::log_in(&world.server, &jwt, &text).await.unwrap();
    let account = Account { name: cut.name.clone(), ids: TargetIds::default(), secret: Some(seed), expires_at: None };
    assert_verified(&world.broker().end(&account).await.unwrap(), &["one"], REFUSED);
    assert!(open.last_words().await.ends_with("closed"));

    let lease = mint(&broker, &plan(&["orders_ro"])).await;
    let by_key = Account { secret: None, ..lease.account };
    assert_eq!(world.broker().end(&by_key).await.unwrap().word(), "revoked-unverified");
    assert!(Agent::log_in(&world.server, &lease.jwt, &lease.seed).await.is_err());

    let by_time = Account { name: fresh_name(), ids: TargetIds::default(), secret: None, expires_at: None };
    assert_eq!(world.broker().end(&by_time).await.unwrap().word(), "expires-at");
}

#[tokio::test]
async fn a_sweep_ends_whoever_is_connected_and_no_lease_explains() {
    let world = World::start();
    let broker = world.broker();
    let (live, lost) = (mint(&broker, &plan(&["orders_ro"])).await, mint(&broker, &plan(&["orders_ro"])).await);
    let mut working = Agent::log_in(&world.server, &live.jwt, &live.seed).await.unwrap();
    let mut orphan = Agent::log_in(&world.server, &lost.jwt, &lost.seed).await.unwrap();
    let orphans = sweep(&broker, &Prefix::default(), &|name| *name == live.account.name).await.unwrap();
    assert_eq!(orphans.iter().map(|orphan| &orphan.found.name).collect::<Vec<_>>(), [&lost.account.name]);
    assert_eq!(orphans[0].ending.as_ref().unwrap().word(), "revoked-unverified");
    assert!(orphan.last_words().await.ends_with("closed"));
    working.ping().await.unwrap();
    assert!(Agent::log_in(&world.server, &lost.jwt, &lost.seed).await.is_err());
}

#[tokio::test]
async fn fifty_at_once_are_all_revoked_and_none_is_lost() {
    let world = World::start();
    let broker = std::sync::Arc::new(world.broker());
    let mut at_once = tokio::task::JoinSet::new();
    for _ in 0..count("BAILIWICK_LEASES", 50) {
        let broker = std::sync::Arc::clone(&broker);
        at_once.spawn(async move {
            let lease = mint(&broker, &plan(&["orders_ro"])).await;
            assert_verified(&broker.end(&lease.account).await.unwrap(), &["one"], REFUSED);
            lease
        });
    }
    while let Some(lease) = at_once.join_next().await {
        let lease = lease.unwrap();
        assert!(Agent::log_in(&world.server, &lease.jwt, &lease.seed).await.is_err());
    }
}

#[test]
fn an_end_cut_at_any_wait_is_taken_up_by_the_next() {
    let world = World::start();
    let sessions = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for waits in 0..1000 {
        let broker = world.broker();
        let lease = sessions.block_on(mint(&broker, &plan(&["orders_ro"])));
        let mut open = sessions.block_on(Agent::log_in(&world.server, &lease.jwt, &lease.seed)).unwrap();
        let first = world.broker();
        let ended = crate::cut::cut(waits, async { first.end(&lease.account).await.unwrap() });
        let fresh = world.broker();
        let ending = crate::cut::cut(1000, async { fresh.end(&lease.account).await }).unwrap().unwrap();
        assert_verified(&ending, &["one"], REFUSED);
        assert!(sessions.block_on(open.last_words()).ends_with("closed"), "cut after {waits} waits");
        if ended.is_some() {
            assert!(waits > 3);
            return;
        }
    }
    panic!("the end never came to its end");
}
