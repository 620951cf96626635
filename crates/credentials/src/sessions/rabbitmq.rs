//! A held connection to RabbitMQ: a message published and confirmed, a message taken, a queue looked at; each on a channel of its own.
//!
//! What is published bears the account's name as `user_id`, which the server checks, so that who reads it knows by whose credential it came. The
//! connection's name says the task and the agent.

mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::sync::Mutex;

use super::{SessionError, words_of};
use crate::kinds::connection::Failure;
use crate::kinds::rabbitmq::amqp::{Connection as Amqp, Event, long, method, short, short_in};
use crate::lease::{Account, Node, Tag};

/// The longest name of a connection, of an exchange, of a queue, and the longest routing key.
pub const NAME_MAX: usize = 255;
/// How many headers a message may have, and how long a name or a text of one may be.
pub const HEADERS_MAX: usize = 32;
/// The longest text of a header.
pub const HEADER_MAX: usize = 1024;
/// The server never needs longer to say goodbye.
const CLOSE_MAX: Duration = Duration::from_secs(1);

const CONFIRM_SELECT: (u16, u16) = (85, 10);
const QUEUE_DECLARE: (u16, u16) = (50, 10);
const QUEUE_DECLARE_OK: (u16, u16) = (50, 11);
const PUBLISH: (u16, u16) = (60, 40);
const RETURN: (u16, u16) = (60, 50);
const GET: (u16, u16) = (60, 70);
const GET_OK: (u16, u16) = (60, 71);
const GET_EMPTY: (u16, u16) = (60, 72);
const ACK: (u16, u16) = (60, 80);
const NACK: (u16, u16) = (60, 120);

/// How long a message and an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message's body, published or taken.
    pub body: usize,
    /// Time of a call.
    pub time: Duration,
}

/// A value of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// `true` or `false`.
    Flag(bool),
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The exchange; empty for the default one, which routes to the queue that the routing key names.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// The body.
    pub body: Vec<u8>,
    /// What the body is, such as `application/json`.
    pub content_type: Option<String>,
    /// Headers.
    pub headers: BTreeMap<String, Header>,
}

/// What was taken from a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The message. Of its headers those that are texts, numbers or flags.
    pub message: Message,
    /// Was it given to somebody before, who did not say that it was done?
    pub redelivered: bool,
    /// How many are left in the queue, about.
    pub left: u32,
}

/// What a queue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Messages that nobody has taken.
    pub messages: u32,
    /// Who consumes from it.
    pub consumers: u32,
}

/// A connection that is logged in as a leased account.
pub struct Connection {
    /// Nothing, when the connection is of no use any more. Taken out while a call is under way.
    amqp: Mutex<Option<Amqp>>,
    node: String,
    user: String,
    limits: Limits,
}

impl Connection {
    /// Logs in at the first node that lets us in, and opens the virtual host.
    ///
    /// # Errors
    /// `Lost`, with what the first node said.
    pub async fn open(nodes: &[Node], vhost: &str, account: &Account, tag: &Tag, limits: Limits) -> Result<Self, SessionError> {
        let Some(secret) = &account.secret else { return Err(SessionError::lost("the account's secret is not known")) };
        let (user, name) = (account.name.as_str(), tag.connection_name(NAME_MAX));
        let (mut trouble, mut refused) = (None, true);
        for node in nodes {
            let opening = async {
                let mut amqp = Amqp::log_in_named(node, user, secret, &name).await?;
                amqp.open(vhost).await?;
                Ok::<_, Failure>(amqp)
            };
            match opening.await {
                Ok(amqp) => return Ok(Self { amqp: Mutex::new(Some(amqp)), node: node.name().to_owned(), user: user.to_owned(), limits }),
                Err(failure) => {
                    refused &= failure.words().contains("ACCESS_REFUSED");
                    trouble.get_or_insert(format!(
                        "`{}` does not let the task's account in: {}",
                        node.name(),
                        words_of(failure.words(), Some(secret))
                    ));
                }
            }
        }
        Err(SessionError::no_login(trouble.unwrap_or_else(|| "no node is configured".to_owned()), refused))
    }

    /// Publishes a message, to be kept on disk where the queue is, and waits until the server has taken it. `false`: it took it, and no queue wants it, so it is gone.
    ///
    /// # Errors
    /// `NotSent` if it is too long or has a form that the protocol has not. `Refused` if the server says no. `Lost` if the connection is gone, or no answer came in time.
    pub async fn publish(&self, message: &Message) -> Result<bool, SessionError> {
        self.fits(message)?;
        let mut select = method(CONFIRM_SELECT);
        select.push(0);
        let mut publish = method(PUBLISH);
        publish.extend_from_slice(&[0, 0]);
        short(&mut publish, message.exchange.as_bytes());
        short(&mut publish, message.routing_key.as_bytes());
        // Mandatory: what no queue wants is told.
        publish.push(1);
        let properties = self.properties(message);
        self.call(true, async |amqp| {
            amqp.begin(&[select, publish], Some((&properties, &message.body))).await?;
            let mut routed = true;
            loop {
                match amqp.next().await? {
                    Event::Method(RETURN, _) => routed = false,
                    Event::Method(ACK, _) => break,
                    Event::Method(NACK, _) => return amqp.finish().await.map(|()| Err("NACK the server could not keep the message".to_owned())),
                    Event::Closed(words) => return Ok(Err(words)),
                    // The channel that is open, confirms that are on, and what comes back with a return.
                    Event::Method(..) | Event::Header(..) | Event::Body(_) => {}
                }
            }
            amqp.finish().await?;
            Ok(Ok(routed))
        })
        .await
    }

    /// Takes one message from a queue, for good; `None` if it is empty.
    ///
    /// # Errors
    /// As [`Connection::publish`]. A message that is longer than the limit stays in the queue; its length is known only when it was delivered, and the
    /// server counts that.
    pub async fn take(&self, queue: &str) -> Result<Option<Taken>, SessionError> {
        let mut get = method(GET);
        get.extend_from_slice(&[0, 0]);
        short(&mut get, named("a queue", queue)?);
        get.push(0);
        let most = self.limits.body;
        self.call(true, async |amqp| {
            amqp.begin(&[get], None).await?;
            let found = loop {
                match amqp.next().await? {
                    Event::Method(GET_OK, arguments) => break arguments,
                    Event::Method(GET_EMPTY, _) => return amqp.finish().await.map(|()| Ok(None)),
                    Event::Closed(words) => return Ok(Err(words)),
                    Event::Method(..) | Event::Header(..) | Event::Body(_) => {}
                }
            };
            let (tag, mut taken) = got(&found)?;
            match amqp.next().await? {
                Event::Header(length, _) if usize::try_from(length).map_or(true, |length| length > most) => return Err(Failure::Malformed(TOO_LONG)),
                Event::Header(length, properties) => {
                    table::read(&properties, &mut taken.message)?;
                    while u64::try_from(taken.message.body.len()).unwrap_or(u64::MAX) < length {
                        let Event::Body(part) = amqp.next().await? else { return Err(Failure::Malformed("a message breaks off")) };
                        taken.message.body.extend_from_slice(&part);
                    }
                }
                Event::Method(..) | Event::Body(_) | Event::Closed(_) => return Err(Failure::Malformed("a message without a head")),
            }
            let mut ack = method(ACK);
            ack.extend_from_slice(&tag.to_be_bytes());
            ack.push(0);
            amqp.go_on(&ack).await?;
            amqp.finish().await?;
            Ok(Ok(Some(taken)))
        })
        .await
    }

    /// How much is in a queue.
    ///
    /// # Errors
    /// As [`Connection::publish`]; `Refused` with `404` if there is no such queue.
    pub async fn look_at(&self, queue: &str) -> Result<Queue, SessionError> {
        let mut declare = method(QUEUE_DECLARE);
        declare.extend_from_slice(&[0, 0]);
        short(&mut declare, named("a queue", queue)?);
        // Passive: nothing is declared. Then no arguments.
        declare.push(1);
        long(&mut declare, &[]);
        self.call(false, async |amqp| {
            amqp.begin(&[declare], None).await?;
            loop {
                match amqp.next().await? {
                    Event::Method(QUEUE_DECLARE_OK, arguments) => {
                        let (_, rest) = short_in(&arguments)?;
                        let (messages, rest) = number_of_four(rest)?;
                        let (consumers, _) = number_of_four(rest)?;
                        amqp.finish().await?;
                        return Ok(Ok(Queue { messages, consumers }));
                    }
                    Event::Closed(words) => return Ok(Err(words)),
                    Event::Method(..) | Event::Header(..) | Event::Body(_) => {}
                }
            }
        })
        .await
    }

    /// Says that we go, and waits for the answer, but not long.
    pub async fn close(&self) {
        if let Some(mut amqp) = self.amqp.lock().await.take() {
            drop(tokio::time::timeout(CLOSE_MAX, amqp.close()).await);
        }
    }

    /// One call on the connection. The inner `Err` is a refusal that the connection outlives.
    async fn call<T>(&self, acts: bool, work: impl AsyncFnOnce(&mut Amqp) -> Result<Result<T, String>, Failure>) -> Result<T, SessionError> {
        let mut place = self.amqp.lock().await;
        // Whoever is dropped from here on takes the connection with it: nobody may hear an answer that is not theirs.
        let mut amqp = place.take().ok_or_else(|| SessionError::lost("the connection is gone"))?;
        let ended = |failure: &Failure| format!("`{}` ended the connection: {}", self.node, words_of(failure.words(), None));
        amqp.look().map_err(|failure| SessionError::lost(ended(&failure)))?;
        match tokio::time::timeout(self.limits.time, work(&mut amqp)).await {
            Ok(Ok(Ok(answer))) => {
                *place = Some(amqp);
                Ok(answer)
            }
            Ok(Ok(Err(words))) => {
                *place = Some(amqp);
                let (code, words) = words.split_once(' ').unwrap_or(("", &words));
                Err(SessionError::Refused { code: words_of(code, None), words: words_of(words, None) })
            }
            Ok(Err(Failure::Malformed(TOO_LONG))) => {
                let words = format!(
                    "the message has more than {} bytes, and stays in the queue; the server counts this as a delivery of it, which a quorum queue's limit may heed",
                    self.limits.body
                );
                Err(SessionError::lost(words))
            }
            Ok(Err(failure)) => Err(SessionError::Lost { words: ended(&failure), may_have_run: acts }),
            Err(_) => Err(SessionError::Lost { words: format!("no answer within {} seconds", self.limits.time.as_secs()), may_have_run: acts }),
        }
    }

    fn fits(&self, message: &Message) -> Result<(), SessionError> {
        named("an exchange", &message.exchange)?;
        named("a routing key", &message.routing_key)?;
        named("a content type", message.content_type.as_deref().unwrap_or_default())?;
        if message.body.len() > self.limits.body {
            return Err(SessionError::NotSent(format!("a body has at most {} bytes", self.limits.body)));
        }
        let fits = |(name, value): (&String, &Header)| {
            !name.is_empty() && name.len() <= 128 && !matches!(value, Header::Text(text) if text.len() > HEADER_MAX)
        };
        if message.headers.len() > HEADERS_MAX || !message.headers.iter().all(fits) {
            return Err(SessionError::NotSent(format!(
                "at most {HEADERS_MAX} headers with names of 1 to 128 bytes and texts of at most {HEADER_MAX}"
            )));
        }
        Ok(())
    }

    /// The properties of a message: which are there, and each in the order of the protocol.
    fn properties(&self, message: &Message) -> Vec<u8> {
        const CONTENT_TYPE: u16 = 1 << 15;
        // Headers, delivery mode, user and application.
        let flags: u16 = 1 << 13 | 1 << 12 | 1 << 4 | 1 << 3 | if message.content_type.is_some() { CONTENT_TYPE } else { 0 };
        let mut properties = flags.to_be_bytes().to_vec();
        if let Some(content_type) = &message.content_type {
            short(&mut properties, content_type.as_bytes());
        }
        long(&mut properties, &table::of(&message.headers));
        // To be kept on disk.
        properties.push(2);
        short(&mut properties, self.user.as_bytes());
        short(&mut properties, b"bailiwick");
        properties
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("node", &self.node).field("user", &self.user).finish_non_exhaustive()
    }
}

const TOO_LONG: &str = "the message is too long";

/// A text where the protocol has short ones.
fn named<'a>(what: &str, text: &'a str) -> Result<&'a [u8], SessionError> {
    if text.len() > NAME_MAX || text.chars().any(char::is_control) {
        return Err(SessionError::NotSent(format!("{what} has at most {NAME_MAX} bytes, and no control characters")));
    }
    Ok(text.as_bytes())
}

fn number_of_four(bytes: &[u8]) -> Result<(u32, &[u8]), Failure> {
    let (number, rest) = bytes.split_first_chunk().ok_or(Failure::Malformed("an answer is cut off"))?;
    Ok((u32::from_be_bytes(*number), rest))
}

/// What a get-ok says: the delivery's number, and the message without its content.
fn got(arguments: &[u8]) -> Result<(u64, Taken), Failure> {
    let (high, rest) = number_of_four(arguments)?;
    let (low, rest) = number_of_four(rest)?;
    let (redelivered, rest) = rest.split_first().ok_or(Failure::Malformed("an answer is cut off"))?;
    let (exchange, rest) = short_in(rest)?;
    let (routing_key, rest) = short_in(rest)?;
    let (left, _) = number_of_four(rest)?;
    let message = Message { exchange, routing_key, body: Vec::new(), content_type: None, headers: BTreeMap::new() };
    Ok((u64::from(high) << 32 | u64::from(low), Taken { message, redelivered: *redelivered != 0, left }))
}
