//! A held connection to a real server: messages published and confirmed, taken, and refused; and its end. Run by the tests of the kind, on their server.

use std::collections::BTreeMap;
use std::time::Duration;

use bailiwick_credentials::lease::{Account, Kind as _};
use bailiwick_credentials::sessions::SessionError;
use bailiwick_credentials::sessions::rabbitmq::{Connection, Header, Limits, Message, Queue};
use serde_json::Value;

use crate::rabbitmq_world::World;
use crate::words::{PASSWORD, plan, remembered, secret, tag};

const LIMITS: Limits = Limits { body: 300_000, time: Duration::from_secs(20) };

async fn leased(world: &World, rights: &[&str]) -> Account {
    let plan = plan(rights);
    let minted = world.broker().mint(&plan, Some(&secret())).await.unwrap();
    remembered(&plan, minted)
}

fn message(exchange: &str, routing_key: &str, body: &[u8]) -> Message {
    let headers = [("task", Header::Text(tag().task)), ("tries", Header::Number(-7)), ("last", Header::Flag(true))];
    Message {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        body: body.to_vec(),
        content_type: Some("text/plain".to_owned()),
        headers: BTreeMap::from(headers.map(|(name, value)| (name.to_owned(), value))),
    }
}

async fn open(world: &World, account: &Account, limits: Limits) -> Result<Connection, SessionError> {
    Connection::open(&world.settings().nodes, "shop", account, &tag(), limits).await
}

fn code<T: std::fmt::Debug>(refused: Result<T, SessionError>) -> String {
    let Err(SessionError::Refused { code, .. }) = refused else { panic!("{refused:?}") };
    code
}

pub(crate) async fn a_held_connection_does_what_the_account_may_and_is_dead_at_its_end(world: &World) {
    let account = leased(world, &["orders_rw"]).await;
    let held = open(world, &account, LIMITS).await.unwrap();
    let bread = message("", "orders", b"bread");
    assert!(held.publish(&bread).await.unwrap(), "a queue has it");
    let there = world.ask("POST", "/queues/shop/orders/get", "{\"count\":1,\"ackmode\":\"ack_requeue_true\",\"encoding\":\"auto\"}");
    let there: Value = serde_json::from_str(&there).unwrap();
    let properties = &there[0]["properties"];
    assert_eq!((properties["user_id"].as_str(), properties["delivery_mode"].as_i64()), (Some(account.name.as_str()), Some(2)), "{there}");
    assert_eq!(there[0]["payload"], "bread");
    assert_eq!(held.look_at("orders").await.unwrap(), Queue { messages: 1, consumers: 0 });
    let taken = held.take("orders").await.unwrap().unwrap();
    assert_eq!((taken.message, taken.left), (bread, 0));
    assert_eq!(held.take("orders").await.unwrap(), None);
    // In several frames.
    let long = message("", "orders", &vec![b'x'; 290_000]);
    assert!(held.publish(&long).await.unwrap());
    assert_eq!(held.take("orders").await.unwrap().unwrap().message, long);
    assert!(held.publish(&message("", "orders", b"")).await.unwrap());
    assert_eq!(held.take("orders").await.unwrap().unwrap().message.body, b"");

    // What no queue wants is confirmed, and gone.
    assert!(!held.publish(&message("", "nowhere", b"bread")).await.unwrap());
    // What the system refuses is told, and the connection goes on.
    assert_eq!(code(held.publish(&message("orders", "orders", b"x")).await), "404");
    assert_eq!(code(held.publish(&message("amq.topic", "orders", b"x")).await), "403");
    assert_eq!(code(held.take("salaries").await), "403");
    assert_eq!(code(held.look_at("nowhere").await), "404");
    for wrong in [message("", &"k".repeat(256), b""), message("a\nb", "orders", b""), message("", "orders", &vec![0; 300_001])] {
        assert!(matches!(held.publish(&wrong).await, Err(SessionError::NotSent(_))));
    }
    assert!(held.publish(&message("", "orders", b"second")).await.unwrap());
    assert!(world.server.log().contains(&format!("has a client-provided name: bailiwick {}", tag().task)));

    // A message that is too long for us is nobody's, and stays.
    let small = open(world, &account, Limits { body: 3, ..LIMITS }).await.unwrap();
    let error = small.take("orders").await.unwrap_err();
    assert!(error.gone() && !error.may_have_run() && error.to_string().contains("stays in the queue"), "{error}");
    while held.look_at("orders").await.unwrap().messages == 0 {}
    assert_eq!(held.take("orders").await.unwrap().unwrap().message.body, b"second");

    // Nobody hears an answer that is not theirs.
    let other = open(world, &account, LIMITS).await.unwrap();
    let mut dropped = Box::pin(other.look_at("orders"));
    assert!(futures_util::poll!(dropped.as_mut()).is_pending());
    drop(dropped);
    assert!(other.look_at("orders").await.unwrap_err().gone());

    assert_eq!(world.broker().end(&account).await.unwrap().word(), "revoked-verified");
    let error = held.publish(&message("", "orders", b"after")).await.unwrap_err();
    assert!(error.gone() && !error.may_have_run(), "{error:?}");
    let error = open(world, &account, LIMITS).await.unwrap_err();
    assert!(error.to_string().contains("ACCESS_REFUSED") && !format!("{error:?}").contains(PASSWORD), "{error}");
    assert_eq!(world.left(), "");

    let polite = leased(world, &["orders_ro"]).await;
    let held = open(world, &polite, LIMITS).await.unwrap();
    held.close().await;
    assert!(held.take("orders").await.unwrap_err().gone());
    world.broker().end(&polite).await.unwrap();
}
