//! RabbitMQ as tools: `publish` a message, `take` one from a queue for good, and `queue_info`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{CallId, Clock, Effect};
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::rabbitmq::{Rabbitmq, Right, Settings as KindSettings};
use bailiwick_credentials::lease::{Account, Prefix, Tag};
use bailiwick_credentials::sessions::rabbitmq::{Connection, HEADER_MAX, HEADERS_MAX, Header, Limits, Message, NAME_MAX, Taken};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::chain::{CHAIN_HEADERS, Chain, ChainFile};
use super::held::{self, NodeFile, answer, arguments, definition, trouble, unless_cancelled};
use super::{Answer, Built, Builtin, Refusal, Rights, Session, UseError};

const PORT: u16 = 5672;
const API_PORT: u16 = 15672;
const READ: &str = "read";
const WRITE: &str = "write";
const PUBLISH: &str = "publish";
const TAKE: &str = "take";
const QUEUE_INFO: &str = "queue_info";
const QUEUES_MAX: usize = 256;
const BYTES_MAX: usize = 1 << 20;
const SECONDS_MAX: u64 = 300;
/// How many connections an account may have: one is held, and another may be opened before the server has seen that the first is gone.
const CONNECTIONS: u32 = 4;

/// `[systems.NAME.rabbitmq]`: a cluster, and what tasks may have in one virtual host of it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The management API of one or more nodes. The first that answers is asked.
    api: Vec<NodeFile>,
    /// Where each node speaks AMQP: an account can log in at every one.
    nodes: Vec<NodeFile>,
    /// The broker's own user, with the tag `administrator`.
    user: String,
    /// The name of the secret that is its password.
    secret: String,
    /// What the names of this broker's leases begin with: `ag_` unless two brokers share the server.
    prefix: Option<String>,
    /// The virtual host.
    vhost: String,
    /// The permissions of a task that publishes and takes. Without `write` there is no tool that publishes, without `read` none that takes.
    #[serde(default)]
    write_rights: RightFile,
    /// The queues that can be looked at and taken from. Without any there are no tools for it.
    #[serde(default)]
    queues: Vec<String>,
    /// What publishing is: `influence` unless it is said.
    #[schemars(with = "Option<String>")]
    effect: Option<Effect>,
    /// In which headers of a message task and agent stand.
    #[serde(default)]
    headers: ChainFile,
    /// The most bytes of a message's body; 65536 unless it is said.
    body_bytes_max: Option<usize>,
    /// How long a call may take, in seconds; 10 unless it is said.
    seconds_max: Option<u64>,
}

/// Permissions in RabbitMQ's own words: patterns that a whole name must match.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RightFile {
    /// Exchanges to publish to: `orders`. The default exchange is `amq\.default`: through it, every queue can be reached.
    #[serde(default)]
    write: String,
    /// Queues to take from.
    #[serde(default)]
    read: String,
}

/// The checked table.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    secret: String,
    kind: KindSettings,
    prefix: Prefix,
    way: Arc<Way>,
}

/// What the tools know.
#[derive(Debug)]
struct Way {
    vhost: String,
    queues: Vec<String>,
    tools: Vec<(&'static str, Effect)>,
    chain: Chain,
    limits: Limits,
}

impl File {
    /// Parses the table. Words say what was expected.
    pub(crate) fn check(&self, folder: &Path) -> Result<Settings, String> {
        let mut tools = Vec::new();
        let publishing = held::effect_of_publishing(self.effect)?;
        if !self.write_rights.write.is_empty() {
            tools.push((PUBLISH, publishing));
        }
        if !self.queues.is_empty() {
            tools.push((QUEUE_INFO, Effect::Read));
            if !self.write_rights.read.is_empty() {
                tools.push((TAKE, Effect::Delete));
            }
        }
        if tools.is_empty() {
            return Err("expected `write_rights.write` or `queues`: without any there is nothing to do".to_owned());
        }
        if self.queues.len() > QUEUES_MAX || self.queues.iter().any(|queue| !(1..=NAME_MAX).contains(&queue.len())) {
            return Err(format!("expected at most {QUEUES_MAX} queues with names of 1 to {NAME_MAX} bytes"));
        }
        let right =
            |write: &str, read: &str| Right { vhost: self.vhost.clone(), configure: String::new(), write: write.to_owned(), read: read.to_owned() };
        // Looking at a queue needs the virtual host and no more.
        let rights = [(READ, right("", "")), (WRITE, right(&self.write_rights.write, &self.write_rights.read))];
        let (body, seconds) = (self.body_bytes_max.unwrap_or(64 << 10), self.seconds_max.unwrap_or(10));
        if !(1..=BYTES_MAX).contains(&body) || !(1..=SECONDS_MAX).contains(&seconds) {
            return Err(format!("expected 1 to {BYTES_MAX} bytes and 1 to {SECONDS_MAX} seconds"));
        }
        let kind = KindSettings {
            api: held::nodes(&self.api, API_PORT, folder).map_err(|why| format!("`api`: {why}"))?,
            nodes: held::nodes(&self.nodes, PORT, folder)?,
            user: self.user.clone(),
            rights: BTreeMap::from(rights.map(|(name, right)| (name.to_owned(), right))),
            connections: CONNECTIONS,
        };
        kind.check().map_err(|error| error.detail().to_owned())?;
        let prefix = self.prefix.as_deref().map_or(Ok(Prefix::default()), str::parse).map_err(|error| format!("`prefix`: {error}"))?;
        let limits = Limits { body, time: Duration::from_secs(seconds) };
        let way = Way { vhost: self.vhost.clone(), queues: self.queues.clone(), tools, chain: self.headers.check()?, limits };
        Ok(Settings { secret: self.secret.clone(), kind, prefix, way: Arc::new(way) })
    }
}

impl Settings {
    /// The names of the sealed secrets that it needs.
    pub(crate) fn secrets(&self) -> Vec<&str> {
        vec![&self.secret]
    }

    /// What the names of its leases begin with.
    pub(crate) fn prefix(&self) -> Prefix {
        self.prefix.clone()
    }

    /// Where its calls go.
    pub(crate) fn target(&self) -> String {
        format!("{} ({})", held::target("amqp", &self.kind.nodes), self.way.vhost)
    }

    /// Puts it together.
    pub(crate) fn build(&self, secret: &dyn Fn(&str) -> Result<Secret, String>, clock: &Arc<dyn Clock>) -> Result<Built, String> {
        let kind = Rabbitmq::new(self.kind.clone(), secret(&self.secret)?, Arc::clone(clock)).map_err(|error| error.detail().to_owned())?;
        Ok(Built { kind: Arc::new(kind), builtin: Arc::new(self.tools()) })
    }

    fn tools(&self) -> Tools {
        Tools { kind: self.kind.clone(), way: Arc::clone(&self.way) }
    }
}

/// The tools of a virtual host.
#[derive(Debug)]
struct Tools {
    kind: KindSettings,
    way: Arc<Way>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    exchange: String,
    routing_key: String,
    body: String,
    content_type: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, HeaderValue>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Flag(bool),
    Number(i64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfQueue {
    queue: String,
}

/// A call, as it will be done.
enum Asked {
    Publish(Message),
    Take(String),
    QueueInfo(String),
}

impl Way {
    fn effect(&self, tool: &str) -> Option<Effect> {
        self.tools.iter().find(|(name, _)| *name == tool).map(|(_, effect)| *effect)
    }

    fn ask(&self, tool: &str, given: &Value) -> Result<(Asked, Effect), Refusal> {
        let effect = self.effect(tool).ok_or_else(|| Refusal::new("there is no such tool"))?;
        let asked = match tool {
            PUBLISH => Asked::Publish(self.message(arguments(given)?)?),
            TAKE => Asked::Take(self.queue(arguments(given)?)?),
            _ => Asked::QueueInfo(self.queue(arguments(given)?)?),
        };
        Ok((asked, effect))
    }

    fn queue(&self, OfQueue { queue }: OfQueue) -> Result<String, Refusal> {
        if self.queues.contains(&queue) { Ok(queue) } else { Err(Refusal::new(format!("expected `queue` as one of: {}", self.queues.join(", ")))) }
    }

    fn message(&self, given: Publish) -> Result<Message, Refusal> {
        for (what, text) in [("exchange", &given.exchange), ("routing_key", &given.routing_key)] {
            if text.len() > NAME_MAX || text.chars().any(char::is_control) {
                return Err(Refusal::new(format!("`{what}` has at most {NAME_MAX} bytes, and no control characters")));
            }
        }
        if given.body.len() > self.limits.body {
            return Err(Refusal::new(format!("`body` has at most {} bytes", self.limits.body)));
        }
        if let Some(name) = given.headers.keys().find(|name| self.is_reserved(name)) {
            let words = format!("the header `{}` cannot be written: it would route the message elsewhere, or say whose it is", short(name));
            return Err(Refusal::new(words));
        }
        let header = |value| match value {
            HeaderValue::Flag(flag) => Header::Flag(flag),
            HeaderValue::Number(number) => Header::Number(number),
            HeaderValue::Text(text) => Header::Text(text),
        };
        let headers: BTreeMap<_, _> = given.headers.into_iter().map(|(name, value)| (name, header(value))).collect();
        let long = |header: &Header| matches!(header, Header::Text(text) if text.len() > HEADER_MAX);
        if headers.len() > HEADERS_MAX.saturating_sub(CHAIN_HEADERS)
            || headers.values().any(long)
            || headers.keys().any(|name| !(1..=128).contains(&name.len()))
        {
            return Err(Refusal::new(format!(
                "at most {} headers, with names of 1 to 128 bytes and texts of at most {HEADER_MAX}",
                HEADERS_MAX - CHAIN_HEADERS
            )));
        }
        Ok(Message {
            exchange: given.exchange,
            routing_key: given.routing_key,
            body: given.body.into_bytes(),
            content_type: given.content_type,
            headers,
        })
    }

    /// `CC` and `BCC` make the server route to further keys, which nobody was asked about; `x-` headers are for exchanges and plugins.
    fn is_reserved(&self, name: &str) -> bool {
        let lower = name.to_ascii_lowercase();
        lower == "cc" || lower == "bcc" || lower.starts_with("x-") || self.chain.has(name)
    }
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

#[async_trait::async_trait]
impl Builtin for Tools {
    fn tools(&self) -> Vec<Value> {
        self.way.tools.iter().map(|(name, effect)| tool(name, *effect, &self.way)).collect()
    }

    fn effect(&self, tool: &str) -> Option<Effect> {
        self.way.effect(tool)
    }

    fn judge(&self, tool: &str, arguments: &Value) -> Result<Effect, Refusal> {
        self.way.ask(tool, arguments).map(|(_, effect)| effect)
    }

    fn rights(&self, effect: Effect) -> Rights {
        let class = if effect == Effect::Read { READ } else { WRITE };
        Rights { class, rights: vec![class.to_owned()] }
    }

    async fn open(&self, account: &Account, tag: &Tag) -> Result<Arc<dyn Session>, UseError> {
        let (way, nodes) = (&self.way, &self.kind.nodes);
        let connection = Connection::open(nodes, &way.vhost, account, tag, way.limits).await.map_err(|error| trouble(&error))?;
        let chain = way.chain.of(tag).into_iter().map(|(name, text)| (name, Header::Text(text))).collect();
        Ok(Arc::new(Held { connection, chain, way: Arc::clone(way) }))
    }
}

/// A connection with a lease's credential.
#[derive(Debug)]
struct Held {
    connection: Connection,
    chain: BTreeMap<String, Header>,
    way: Arc<Way>,
}

#[async_trait::async_trait]
impl Session for Held {
    async fn call(&self, call: CallId, tool: &str, arguments: &Value, cancel: &CancellationToken) -> Result<Answer, UseError> {
        let asked = self.way.ask(tool, arguments);
        let (asked, _) = asked.map_err(|refusal| UseError { words: refusal.words, may_have_run: false, gone: false, login_refused: false })?;
        unless_cancelled(cancel, self.done(call, asked)).await
    }

    async fn close(&self) {
        self.connection.close().await;
    }
}

impl Held {
    async fn done(&self, call: CallId, asked: Asked) -> Result<Answer, UseError> {
        match asked {
            Asked::Publish(mut message) => {
                let (name, text) = self.way.chain.of_call(call);
                message.headers.extend(self.chain.clone().into_iter().chain([(name, Header::Text(text))]));
                let routed = self.connection.publish(&message).await;
                // The server said that it took it and dropped it.
                let dropped = matches!(routed, Ok(false));
                let published = answer(routed.map(|routed| json!({ "routed": routed })))?;
                Ok(Answer { is_error: published.is_error || dropped, ..published })
            }
            Asked::Take(queue) => answer(self.connection.take(&queue).await.map(|taken| json!({ "message": taken.map(|taken| told(&taken)) }))),
            Asked::QueueInfo(queue) => {
                let queue = self.connection.look_at(&queue).await;
                answer(queue.map(|queue| json!({ "messages": queue.messages, "consumers": queue.consumers })))
            }
        }
    }
}

/// A message, as it is told.
fn told(taken: &Taken) -> Value {
    let Taken { message, redelivered, left } = taken;
    let header = |header: &Header| match header {
        Header::Text(text) => Value::from(text.as_str()),
        Header::Number(number) => (*number).into(),
        Header::Flag(flag) => (*flag).into(),
    };
    let headers: Map<_, _> = message.headers.iter().map(|(name, value)| (name.clone(), header(value))).collect();
    let mut told = json!({
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "content_type": message.content_type,
        "headers": headers,
        "redelivered": redelivered,
        "left": left,
    });
    if let Some(told) = told.as_object_mut() {
        match str::from_utf8(&message.body) {
            Ok(text) => told.insert("body".to_owned(), text.into()),
            Err(_) => told.insert("body_base64".to_owned(), STANDARD.encode(&message.body).into()),
        };
    }
    told
}

fn tool(name: &str, effect: Effect, way: &Way) -> Value {
    let queue = json!({ "queue": { "type": "string", "enum": way.queues, "description": "the queue" } });
    match name {
        PUBLISH => {
            let input = json!({
                "exchange": { "type": "string", "maxLength": NAME_MAX, "description": "the exchange; empty for the default one" },
                "routing_key": { "type": "string", "maxLength": NAME_MAX, "description": "the routing key; for the default exchange, the queue" },
                "body": { "type": "string", "maxLength": way.limits.body, "description": "the message" },
                "content_type": { "type": "string", "maxLength": NAME_MAX, "description": "what the body is, such as application/json" },
                "headers": {
                    "type": "object",
                    "additionalProperties": { "type": ["string", "integer", "boolean"] },
                    "maxProperties": HEADERS_MAX - CHAIN_HEADERS,
                    "description": "headers of the message",
                },
            });
            let output = json!({ "routed": { "type": "boolean", "description": "false: no queue wanted it, and it is gone" } });
            let description = "Publishes a persistent message and waits until the server has taken it.";
            definition(name, "Publish", description, effect, (&input, &["exchange", "routing_key", "body"]), &output)
        }
        TAKE => {
            let output = json!({ "message": { "type": ["object", "null"], "description": "null: the queue is empty" } });
            let description = "Takes one message from a queue, for good: nobody else gets it any more.";
            definition(name, "Take a message", description, effect, (&queue, &["queue"]), &output)
        }
        _ => {
            let output = json!({ "messages": { "type": "integer" }, "consumers": { "type": "integer" } });
            let description = "Tells how many messages wait in a queue, and how many consumers it has.";
            definition(name, "Look at a queue", description, effect, (&queue, &["queue"]), &output)
        }
    }
}

#[cfg(test)]
mod tests;
