//! NATS as tools: `publish` a message to a subject, or `request` one answer.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{CallId, Clock, Effect};
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::nats::{Keys, Nats, Right, Settings as KindSettings};
use bailiwick_credentials::lease::{Account, Prefix, Tag};
use bailiwick_credentials::sessions::nats::{Connection, HEADER_MAX, HEADERS_MAX, Headers, Limits, SUBJECT_MAX};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::chain::{CHAIN_HEADERS, Chain, ChainFile};
use super::held::{self, NodeFile, answer, arguments, definition, trouble, unless_cancelled};
use super::{Answer, Built, Builtin, Refusal, Rights, Session, UseError};

const PORT: u16 = 4222;
const WRITE: &str = "write";
const PUBLISH: &str = "publish";
const REQUEST: &str = "request";
const BYTES_MAX: usize = 1 << 20;
const SECONDS_MAX: u64 = 300;
/// Heads of messages come on top of bodies.
const HEAD_ROOM: usize = 16 << 10;

/// `[systems.NAME.nats]`: an account of a cluster with an operator, and the subjects that tasks may publish to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// Every server.
    nodes: Vec<NodeFile>,
    /// The account's public key, `A..`.
    account: String,
    /// Public keys of the operator (`O..`) that may have signed the account, besides the one that we sign with.
    #[serde(default)]
    operators: Vec<String>,
    /// The name of the secret that is the seed of the account, or of one of its signing keys: `SA..`.
    account_seed: String,
    /// The name of the secret that is the seed of the operator, or of one of its signing keys: `SO..`.
    operator_seed: String,
    /// The name of the secret that has the credentials of a user of the system account.
    system_credentials: String,
    /// What the names of this broker's leases begin with: `ag_` unless two brokers share the account.
    prefix: Option<String>,
    /// The subjects that a task may publish to: `["orders.>"]`.
    write_rights: Vec<String>,
    /// What publishing is: `influence` unless it is said. A request is the same: who answers may do anything.
    #[schemars(with = "Option<String>")]
    effect: Option<Effect>,
    /// In which headers of a message task and agent stand.
    #[serde(default)]
    headers: ChainFile,
    /// The most bytes of a body, sent or answered; 65536 unless it is said.
    body_bytes_max: Option<usize>,
    /// How long a call may take, in seconds; 10 unless it is said.
    seconds_max: Option<u64>,
    /// No lease is longer, in seconds; one hour unless it is said.
    lease_seconds_max: Option<u64>,
}

/// The checked table.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    secrets: [String; 3],
    kind: KindSettings,
    prefix: Prefix,
    way: Arc<Way>,
}

/// What the tools know.
#[derive(Debug)]
struct Way {
    subjects: Vec<String>,
    effect: Effect,
    chain: Chain,
    limits: Limits,
}

impl File {
    /// Parses the table. Words say what was expected.
    pub(crate) fn check(&self, folder: &Path) -> Result<Settings, String> {
        if self.write_rights.is_empty() {
            return Err("expected `write_rights`: without a subject there is nothing to do".to_owned());
        }
        let (body, seconds) = (self.body_bytes_max.unwrap_or(64 << 10), self.seconds_max.unwrap_or(10));
        if !(1..=BYTES_MAX).contains(&body) || !(1..=SECONDS_MAX).contains(&seconds) {
            return Err(format!("expected 1 to {BYTES_MAX} bytes and 1 to {SECONDS_MAX} seconds"));
        }
        let right = Right { publish: self.write_rights.clone(), subscribe: Vec::new() };
        let kind = KindSettings {
            nodes: held::nodes(&self.nodes, PORT, folder)?,
            account: self.account.clone(),
            operators: self.operators.clone(),
            rights: BTreeMap::from([(WRITE.to_owned(), right)]),
            lease_max: Duration::from_secs(self.lease_seconds_max.unwrap_or(3600)),
            // One question at a time, and one that nobody answered.
            subscriptions: 10,
            payload_max: u32::try_from(body.saturating_add(HEAD_ROOM)).unwrap_or(u32::MAX),
        };
        kind.check().map_err(|error| error.detail().to_owned())?;
        let prefix = self.prefix.as_deref().map_or(Ok(Prefix::default()), str::parse).map_err(|error| format!("`prefix`: {error}"))?;
        let way = Way {
            subjects: self.write_rights.clone(),
            effect: held::effect_of_publishing(self.effect)?,
            chain: self.headers.check()?,
            limits: Limits { body, answer: body.saturating_add(HEAD_ROOM), time: Duration::from_secs(seconds) },
        };
        let secrets = [&self.operator_seed, &self.account_seed, &self.system_credentials].map(Clone::clone);
        Ok(Settings { secrets, kind, prefix, way: Arc::new(way) })
    }
}

impl Settings {
    /// The names of the sealed secrets that it needs.
    pub(crate) fn secrets(&self) -> Vec<&str> {
        self.secrets.iter().map(String::as_str).collect()
    }

    /// What the names of its leases begin with.
    pub(crate) fn prefix(&self) -> Prefix {
        self.prefix.clone()
    }

    /// Where its calls go.
    pub(crate) fn target(&self) -> String {
        format!("{} ({})", held::target("nats", &self.kind.nodes), self.kind.account)
    }

    /// Puts it together.
    pub(crate) fn build(&self, secret: &dyn Fn(&str) -> Result<Secret, String>, clock: &Arc<dyn Clock>) -> Result<Built, String> {
        let [operator, account, system] = &self.secrets;
        let keys = Keys { operator: secret(operator)?, account: secret(account)?, system: secret(system)? };
        let kind = Nats::new(self.kind.clone(), &keys, Arc::clone(clock)).map_err(|error| error.detail().to_owned())?;
        Ok(Built { kind: Arc::new(kind), builtin: Arc::new(self.tools()) })
    }

    fn tools(&self) -> Tools {
        Tools { kind: self.kind.clone(), way: Arc::clone(&self.way) }
    }
}

/// The tools of an account.
#[derive(Debug)]
struct Tools {
    kind: KindSettings,
    way: Arc<Way>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    subject: String,
    body: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl Way {
    fn ask(&self, tool: &str, given: &Value) -> Result<Message, Refusal> {
        if tool != PUBLISH && tool != REQUEST {
            return Err(Refusal::new("there is no such tool"));
        }
        let message: Message = arguments(given)?;
        if !self.allows(&message.subject) {
            let words = format!(
                "expected `subject` without wildcards, as one of: {}; none of the server's own, which begin with `$` or `_`",
                self.subjects.join(", ")
            );
            return Err(Refusal::new(words));
        }
        if message.body.len() > self.limits.body {
            return Err(Refusal::new(format!("`body` has at most {} bytes", self.limits.body)));
        }
        if let Some(name) = message.headers.keys().find(|name| self.is_reserved(name)) {
            let name: String = name.chars().take(40).collect();
            return Err(Refusal::new(format!("the header `{name}` cannot be written: the server acts on it, or it says whose the message is")));
        }
        let is_name = |name: &str| (1..=128).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        let is_header = |(name, value): (&String, &String)| is_name(name) && value.len() <= HEADER_MAX && !value.chars().any(char::is_control);
        if message.headers.len() > HEADERS_MAX.saturating_sub(CHAIN_HEADERS) || !message.headers.iter().all(is_header) {
            return Err(Refusal::new(format!(
                "at most {} headers, with names of 1 to 128 ASCII characters and values of one line",
                HEADERS_MAX - CHAIN_HEADERS
            )));
        }
        Ok(message)
    }

    /// Is the subject one of those that are configured? The server's own (`$JS.API.STREAM.DELETE.x`, `$KV.x`) and inboxes of others never are.
    fn allows(&self, subject: &str) -> bool {
        let words: Vec<_> = subject.split('.').collect();
        let is_word = |word: &&str| !matches!(*word, "" | "*" | ">") && word.chars().all(|c| !c.is_whitespace() && !c.is_control());
        subject.len() <= SUBJECT_MAX
            && !subject.starts_with(['$', '_'])
            && words.iter().all(is_word)
            && self.subjects.iter().any(|pattern| covers(pattern, &words))
    }

    /// `Nats-Rollup` removes what is in a stream, `KV-Operation` a key; others make it refuse or forget.
    fn is_reserved(&self, name: &str) -> bool {
        let lower = name.to_ascii_lowercase();
        lower.starts_with("nats-") || lower.starts_with("kv-") || matches!(lower.as_str(), "status" | "description") || self.chain.has(name)
    }
}

/// Does the pattern cover a subject of these words? `*` is one word, `>` all that are left, at least one.
fn covers(pattern: &str, words: &[&str]) -> bool {
    let mut words = words.iter();
    for expected in pattern.split('.') {
        match (expected, words.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (expected, Some(word)) if expected == *word => {}
            _ => return false,
        }
    }
    words.next().is_none()
}

#[async_trait::async_trait]
impl Builtin for Tools {
    fn tools(&self) -> Vec<Value> {
        [PUBLISH, REQUEST].map(|name| tool(name, &self.way)).to_vec()
    }

    fn effect(&self, tool: &str) -> Option<Effect> {
        matches!(tool, PUBLISH | REQUEST).then_some(self.way.effect)
    }

    fn judge(&self, tool: &str, arguments: &Value) -> Result<Effect, Refusal> {
        self.way.ask(tool, arguments).map(|_| self.way.effect)
    }

    fn rights(&self, _: Effect) -> Rights {
        Rights { class: WRITE, rights: vec![WRITE.to_owned()] }
    }

    async fn open(&self, account: &Account, tag: &Tag) -> Result<Arc<dyn Session>, UseError> {
        let connection = Connection::open(&self.kind.nodes, account, tag, self.way.limits).await.map_err(|error| trouble(&error))?;
        Ok(Arc::new(Held { connection, chain: self.way.chain.of(tag), way: Arc::clone(&self.way) }))
    }
}

/// A connection with a lease's credential.
#[derive(Debug)]
struct Held {
    connection: Connection,
    chain: BTreeMap<String, String>,
    way: Arc<Way>,
}

#[async_trait::async_trait]
impl Session for Held {
    async fn call(&self, call: CallId, tool: &str, arguments: &Value, cancel: &CancellationToken) -> Result<Answer, UseError> {
        let asked = self.way.ask(tool, arguments);
        let Message { subject, body, headers } =
            asked.map_err(|refusal| UseError { words: refusal.words, may_have_run: false, gone: false, login_refused: false })?;
        let headers: Headers = self.chain.clone().into_iter().chain([self.way.chain.of_call(call)]).chain(headers).collect();
        let work = async {
            if tool == PUBLISH {
                return answer(self.connection.publish(&subject, &headers, body.as_bytes()).await.map(|()| json!({ "published": true })));
            }
            let heard = self.connection.request(&subject, &headers, body.as_bytes()).await;
            answer(heard.map(|heard| {
                let headers: Map<_, _> = heard.headers.into_iter().map(|(name, value)| (name, value.into())).collect();
                match String::from_utf8(heard.body) {
                    Ok(text) => json!({ "headers": headers, "body": text }),
                    Err(bytes) => json!({ "headers": headers, "body_base64": STANDARD.encode(bytes.as_bytes()) }),
                }
            }))
        };
        unless_cancelled(cancel, work).await
    }

    async fn close(&self) {
        self.connection.close().await;
    }
}

fn tool(name: &str, way: &Way) -> Value {
    let input = json!({
        "subject": { "type": "string", "minLength": 1, "maxLength": SUBJECT_MAX, "description": format!("the subject, one of: {}", way.subjects.join(", ")) },
        "body": { "type": "string", "maxLength": way.limits.body, "description": "the message" },
        "headers": {
            "type": "object",
            "additionalProperties": { "type": "string", "maxLength": HEADER_MAX },
            "maxProperties": HEADERS_MAX - CHAIN_HEADERS,
            "description": "headers of the message",
        },
    });
    let needed: &[&str] = &["subject", "body"];
    if name == PUBLISH {
        let output = json!({ "published": { "type": "boolean", "description": "the server has it; who hears it, nobody tells" } });
        return definition(name, "Publish", "Publishes a message to whoever listens to a subject.", way.effect, (&input, needed), &output);
    }
    let output = json!({
        "headers": { "type": "object" },
        "body": { "type": "string" },
        "body_base64": { "type": "string", "description": "in place of `body`, where that is no text" },
    });
    definition(name, "Request", "Publishes a message that wants an answer, and gives the first that comes.", way.effect, (&input, needed), &output)
}

#[cfg(test)]
mod tests;
