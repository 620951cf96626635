//! A held connection to a real server: what it does, what it is refused, and its end.

use std::time::Duration;

use bailiwick_core::Effect;
use bailiwick_credentials::kinds::redis::Redis;
use bailiwick_credentials::lease::{Account, Kind as _};
use bailiwick_credentials::sessions::SessionError;
use bailiwick_credentials::sessions::redis::commands::{Command, names};
use bailiwick_credentials::sessions::redis::{Connection, Limits};
use bailiwick_testkit::servers::redis::Users;
use serde_json::{Value, json};

use crate::redis_world::{World, node};
use crate::words::{PASSWORD, plan, remembered, secret, tag};

const LIMITS: Limits = Limits { bytes: 64 << 10, items: 1000, time: Duration::from_secs(5) };

async fn leased(broker: &Redis, rights: &[&str]) -> Account {
    let plan = plan(rights);
    let minted = broker.mint(&plan, Some(&secret())).await.unwrap();
    remembered(&plan, minted)
}

fn command(name: &str, keys: &[&str], arguments: &[&str]) -> Command {
    let strings = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    Command::new(name, &strings(keys), &strings(arguments)).unwrap()
}

/// Opened with the replica first in the configuration.
async fn open(world: &World, account: &Account, limits: Limits) -> Result<Connection, SessionError> {
    let nodes = [node("replica", &world.replica), node("primary", &world.primary)];
    Connection::open(&nodes, account, &tag(), limits).await
}

#[tokio::test]
async fn a_held_connection_does_what_the_account_may_and_is_dead_at_its_end() {
    let world = World::start(Users::AclFile);
    let broker = world.broker();
    let account = leased(&broker, &["orders_rw"]).await;
    let held = open(&world, &account, LIMITS).await.unwrap();
    let run = async |name: &str, keys: &[&str], arguments: &[&str]| held.run(&command(name, keys, arguments)).await;

    assert_eq!(run("SET", &["orders:9"], &["bread", "NX"]).await.unwrap(), json!("OK"));
    assert_eq!(run("SET", &["orders:9"], &["stone", "NX"]).await.unwrap(), Value::Null);
    assert_eq!(run("MGET", &["orders:9", "orders:none"], &[]).await.unwrap(), json!(["bread", null]));
    assert_eq!(run("INCRBY", &["orders:count"], &["41"]).await.unwrap(), json!(41));
    assert_eq!(run("HSET", &["orders:h"], &["a", "1", "b", "\u{fc} \r\n"]).await.unwrap(), json!(2));
    assert_eq!(run("HGETALL", &["orders:h"], &[]).await.unwrap(), json!(["a", "1", "b", "\u{fc} \r\n"]));
    assert_eq!(run("SETBIT", &["orders:bits"], &["0", "1"]).await.unwrap(), json!(0));
    assert_eq!(run("GET", &["orders:bits"], &[]).await.unwrap(), json!({ "base64": "gA==" }));
    assert_eq!(held.run(&Command::publish("news.today", "bread").unwrap()).await.unwrap(), json!(0));
    let names = world.primary.admin(&["CLIENT", "LIST"]).unwrap();
    assert!(names.contains(&format!("name=bailiwick_{}_spiffe://example.org/agent/o'brien_? ", tag().task)), "{names}");

    // What the system refuses is told, and the connection goes on.
    for (refused, code) in [(run("LPUSH", &["orders:9"], &["x"]).await, "WRONGTYPE"), (run("GET", &["salaries"], &[]).await, "NOPERM")] {
        let Err(SessionError::Refused { code: said, .. }) = &refused else { panic!("{refused:?}") };
        assert_eq!(said, code);
    }
    assert_eq!(run("DEL", &["orders:9"], &[]).await.unwrap(), json!(1));

    assert_eq!(broker.end(&account).await.unwrap().word(), "revoked-verified");
    let error = run("GET", &["orders:1"], &[]).await.unwrap_err();
    assert!(error.gone() && !error.may_have_run(), "{error:?}");
    assert!(run("GET", &["orders:1"], &[]).await.unwrap_err().gone());
    let error = open(&world, &account, LIMITS).await.unwrap_err();
    assert!(error.gone() && error.to_string().contains("WRONGPASS"), "{error}");
    assert!(!format!("{error:?} {held:?}").contains(PASSWORD));
}

#[tokio::test]
async fn a_reply_has_limits_and_a_call_that_is_dropped_takes_the_connection_with_it() {
    let world = World::start(Users::Memory);
    let account = leased(&world.broker(), &["orders_rw"]).await;
    world.primary.admin(&["SET", "orders:long", &"x".repeat(5000)]).unwrap();
    for n in 0..200 {
        world.primary.admin(&["RPUSH", "orders:list", &n.to_string()]).unwrap();
    }
    let small = Limits { bytes: 2000, items: 100, ..LIMITS };
    for (name, key, arguments) in [("GET", "orders:long", &[][..]), ("LRANGE", "orders:list", &["0", "-1"])] {
        let held = open(&world, &account, small).await.unwrap();
        let error = held.run(&command(name, &[key], arguments)).await.unwrap_err();
        assert!(error.gone() && error.to_string().contains("more than 2000 bytes or 100 items"), "{error}");
    }
    let held = open(&world, &account, small).await.unwrap();
    assert_eq!(held.run(&command("LRANGE", &["orders:list"], &["0", "1"])).await.unwrap(), json!(["0", "1"]));

    // Nobody hears an answer that is not theirs.
    let get = command("GET", &["orders:long"], &[]);
    let mut dropped = Box::pin(held.run(&get));
    assert!(futures_util::poll!(dropped.as_mut()).is_pending());
    drop(dropped);
    let error = held.run(&command("GET", &["orders:1"], &[])).await.unwrap_err();
    assert!(error.gone() && !error.may_have_run(), "{error:?}");

    let slow = Limits { time: Duration::from_millis(200), ..LIMITS };
    let held = open(&world, &account, slow).await.unwrap();
    world.primary.admin(&["CLIENT", "PAUSE", "1000", "WRITE"]).unwrap();
    let error = held.run(&command("SET", &["orders:1"], &["late"])).await.unwrap_err();
    assert!(error.gone() && error.may_have_run(), "{error:?}");
}

#[tokio::test]
async fn the_table_is_what_the_server_says_of_its_commands() {
    let world = World::start(Users::Memory);
    let keys = ["key:one", "key:two"];
    for effect in [Effect::Read, Effect::Write, Effect::Delete] {
        for name in names(effect) {
            let sample = (1..=2).flat_map(|keys| (0..=5).map(move |arguments| (keys, arguments)));
            let sample = sample.filter_map(|(k, a)| {
                let strings = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
                Command::new(name, &strings(&keys[..k]), &vec!["1".to_owned(); a]).ok().map(|command| (k, command))
            });
            let (count, command) = sample.max_by_key(|(k, command)| (*k, usize::MAX - command.words().count())).unwrap();
            let words: Vec<_> = command.words().map(|word| str::from_utf8(word).unwrap()).collect();
            let found = world.primary.admin(&[&["COMMAND", "GETKEYS"][..], &words].concat()).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            assert_eq!(found.lines().collect::<Vec<_>>(), keys[..count], "{words:?}");
            let info = world.primary.admin(&["COMMAND", "INFO", name]).unwrap();
            let says = |flag: &str| info.lines().any(|line| line.trim() == flag);
            assert_eq!(says("readonly"), effect == Effect::Read, "{name}: {info}");
            assert_eq!(says("write"), effect != Effect::Read, "{name}: {info}");
            for flag in ["blocking", "admin", "noscript", "pubsub", "@admin", "@dangerous", "@blocking", "@scripting", "@connection", "@transaction"]
            {
                assert!(!says(flag), "{name} is {flag}");
            }
        }
    }
}
