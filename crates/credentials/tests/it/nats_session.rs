//! A held connection to a real server: a message published, a question asked, what it is refused, and its end.

use std::time::Duration;

use bailiwick_credentials::kinds::nats::Nats;
use bailiwick_credentials::lease::{Account, Kind as _};
use bailiwick_credentials::sessions::SessionError;
use bailiwick_credentials::sessions::nats::{Connection, Limits};

use crate::nats_world::{Agent, World, credentials};
use crate::words::{plan, tag};

const LIMITS: Limits = Limits { body: 4096, answer: 8192, time: Duration::from_secs(5) };

async fn leased(broker: &Nats, rights: &[&str]) -> Account {
    let plan = plan(rights);
    let minted = broker.mint(&plan, Some(&broker.propose().unwrap().unwrap())).await.unwrap();
    Account { name: plan.name, ids: minted.ids, secret: minted.secret, expires_at: minted.expires_at }
}

/// Somebody else, who listens.
async fn listener(world: &World, broker: &Nats) -> Agent {
    let minted = broker.mint(&plan(&["orders_rw"]), Some(&broker.propose().unwrap().unwrap())).await.unwrap();
    let (jwt, seed) = credentials(&minted);
    let mut agent = Agent::log_in(&world.server, &jwt, &seed).await.unwrap();
    agent.send("SUB orders.> 1").await;
    agent.ping().await.unwrap();
    agent
}

fn header(name: &str, value: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), value.to_owned())]
}

#[tokio::test]
async fn a_held_connection_publishes_what_the_account_may_and_is_dead_at_its_end() {
    let world = World::start();
    let broker = world.broker();
    let account = leased(&broker, &["orders_rw"]).await;
    let mut heard = listener(&world, &broker).await;
    let held = Connection::open(&world.settings().nodes, &account, &tag(), LIMITS).await.unwrap();

    held.publish("orders.new", &header("bailiwick-task", &tag().task), b"bread\r\nand butter").await.unwrap();
    let head = format!("NATS/1.0\r\nbailiwick-task: {}\r\n\r\n", tag().task).len();
    assert_eq!(heard.hear().await.unwrap(), format!("HMSG orders.new 1 {head} {}", head + 17));
    assert_eq!(heard.hear().await.unwrap(), "NATS/1.0");
    assert_eq!(heard.hear().await.unwrap(), format!("bailiwick-task: {}", tag().task));
    assert_eq!(heard.hear().await.unwrap(), "");
    assert_eq!([heard.hear().await.unwrap(), heard.hear().await.unwrap()], ["bread", "and butter"]);

    // What the server refuses is told, though it says nothing to who does not ask; and the connection goes on.
    for subject in ["salaries", "$SYS.REQ.CLAIMS.UPDATE"] {
        let refused = held.publish(subject, &Vec::new(), b"x").await;
        let Err(SessionError::Refused { code, words }) = &refused else { panic!("{refused:?}") };
        assert!(code == "permissions" && words.contains(subject), "{words}");
        let refused = held.request(subject, &Vec::new(), b"x").await;
        assert!(matches!(&refused, Err(SessionError::Refused { code, .. }) if code == "permissions"), "{refused:?}");
    }
    for (subject, headers, body) in [
        ("orders.*", Vec::new(), "x"),
        ("orders.new\r\nPUB orders.other 0", Vec::new(), "x"),
        ("orders.new", header("a", "1\r\nNats-Rollup: all"), "x"),
        ("orders.new", header("a:b", "1"), "x"),
        ("orders.new", Vec::new(), &*"x".repeat(4097)),
    ] {
        let refused = held.publish(subject, &headers, body.as_bytes()).await;
        assert!(matches!(refused, Err(SessionError::NotSent(_))), "{subject:?} {headers:?}: {refused:?}");
    }
    held.publish("orders.new", &Vec::new(), b"").await.unwrap();
    assert_eq!(heard.hear().await.unwrap(), "MSG orders.new 1 0", "nothing of it came between");
    let seen = world.ask("$SYS.REQ.SERVER.PING.CONNZ", &format!("{{\"auth\":true,\"acc\":\"{}\"}}", world.account.public)).await;
    assert!(seen.contains(&format!("\"name\":\"bailiwick {} spiffe://example.org/agent/o'brien ?\"", tag().task)), "{seen}");

    let account = Account { secret: None, ..account };
    broker.end(&account).await.unwrap();
    let error = held.publish("orders.new", &Vec::new(), b"x").await.unwrap_err();
    assert!(error.gone() && !error.may_have_run(), "{error:?}");
    assert!(held.publish("orders.new", &Vec::new(), b"x").await.unwrap_err().gone());
}

#[tokio::test]
async fn a_question_gets_one_answer_or_is_told_that_nobody_listens() {
    let world = World::start();
    let broker = world.broker();
    let account = leased(&broker, &["orders_rw"]).await;
    let limits = Limits { time: Duration::from_millis(700), ..LIMITS };
    let held = Connection::open(&world.settings().nodes, &account, &tag(), limits).await.unwrap();
    let refused = held.request("orders.ask", &Vec::new(), b"how many?").await;
    assert!(matches!(&refused, Err(SessionError::Refused { code, .. }) if code == "503"), "{refused:?}");

    // Answers are published by somebody who may: an administrator of the account, here.
    let mut answering = world.anybody().await;
    answering.send("SUB orders.> 1").await;
    answering.ping().await.unwrap();
    let answer = async |answering: &mut Agent, bytes: &str| {
        let asked = answering.hear().await.unwrap();
        let inbox = asked.split(' ').nth(3).unwrap().to_owned();
        assert!(asked.starts_with("MSG orders.ask 1 ") && inbox.starts_with(&format!("_INBOX.{}.", account.name)), "{asked}");
        assert_eq!(answering.hear().await.unwrap(), "how many?");
        answering.send(&format!("PUB {inbox} {}\r\n{bytes}", bytes.len())).await;
    };
    let none = Vec::new();
    let (heard, ()) = tokio::join!(held.request("orders.ask", &none, b"how many?"), answer(&mut answering, "42"));
    assert_eq!(heard.unwrap().body, b"42");
    // One that is too long is not read, and the connection is of no use then.
    let long = "x".repeat(9000);
    let (heard, ()) = tokio::join!(held.request("orders.ask", &none, b"how many?"), answer(&mut answering, &long));
    let error = heard.unwrap_err();
    assert!(error.gone() && error.may_have_run() && error.to_string().contains("8192 bytes"), "{error}");

    let held = Connection::open(&world.settings().nodes, &account, &tag(), limits).await.unwrap();
    let error = held.request("orders.ask", &Vec::new(), b"how many?").await.unwrap_err();
    assert!(error.gone() && error.may_have_run(), "nobody answered: {error:?}");
}
