//! Redis as tools: `read`, `write` and `delete` run one command of a table on keys that are named, `publish` tells a channel.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{CallId, Clock, Effect};
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::redis::{Redis, Settings as KindSettings};
use bailiwick_credentials::lease::{Account, Node, Prefix, Tag};
use bailiwick_credentials::sessions::redis::commands::{ARGUMENTS_MAX, Command, KEY_MAX, KEYS_MAX, names};
use bailiwick_credentials::sessions::redis::{Connection, Limits};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::held::{self, NodeFile, answer, arguments, definition, trouble, unless_cancelled};
use super::{Answer, Built, Builtin, Refusal, Rights, Session, UseError};

const PORT: u16 = 6379;
const READ: &str = "read";
const WRITE: &str = "write";
const DELETE: &str = "delete";
const PUBLISH: &str = "publish";
const BYTES_MAX: usize = 1 << 20;
const ITEMS_MAX: usize = 100_000;
const SECONDS_MAX: u64 = 300;

/// `[systems.NAME.redis]`: a server with its replicas, and what tasks may have there.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// Every node: primaries and replicas.
    nodes: Vec<NodeFile>,
    /// The broker's own user.
    user: String,
    /// The name of the secret that is its password.
    secret: String,
    /// What the names of this broker's leases begin with: `ag_` unless two brokers share the server.
    prefix: Option<String>,
    /// The ACL rules of a task that reads: `["~orders:*", "+@read"]`. Without them there is no tool that reads.
    #[serde(default)]
    read_rights: Vec<String>,
    /// The ACL rules of a task that writes, deletes or publishes. Without them there are no such tools; without a channel (`&news.*`) none publishes.
    #[serde(default)]
    write_rights: Vec<String>,
    /// What publishing is: `influence` unless it is said.
    #[schemars(with = "Option<String>")]
    effect: Option<Effect>,
    /// The most bytes of a reply; 65536 unless it is said.
    reply_bytes_max: Option<usize>,
    /// The most items of each array of a reply; 1000 unless it is said.
    reply_items_max: Option<usize>,
    /// How long a command may take, in seconds; 10 unless it is said.
    seconds_max: Option<u64>,
}

/// The checked table.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    secret: String,
    kind: KindSettings,
    prefix: Prefix,
    tools: Vec<(&'static str, Effect)>,
    limits: Limits,
}

impl File {
    /// Parses the table. Words say what was expected.
    pub(crate) fn check(&self, folder: &Path) -> Result<Settings, String> {
        let publishing = held::effect_of_publishing(self.effect)?;
        let mut tools = Vec::new();
        if !self.read_rights.is_empty() {
            tools.push((READ, Effect::Read));
        }
        if !self.write_rights.is_empty() {
            tools.extend([(WRITE, Effect::Write), (DELETE, Effect::Delete)]);
        }
        if self.write_rights.iter().any(|rule| rule.starts_with('&')) {
            tools.push((PUBLISH, publishing));
        }
        if tools.is_empty() {
            return Err("expected `read_rights` or `write_rights`: without any there is nothing to do".to_owned());
        }
        let rights = [(READ, &self.read_rights), (WRITE, &self.write_rights)].into_iter().filter(|(_, rules)| !rules.is_empty());
        let rights = rights.map(|(name, rules)| (name.to_owned(), rules.clone())).collect::<BTreeMap<_, _>>();
        let (bytes, items) = (self.reply_bytes_max.unwrap_or(64 << 10), self.reply_items_max.unwrap_or(1000));
        let seconds = self.seconds_max.unwrap_or(10);
        if !(1..=BYTES_MAX).contains(&bytes) || !(1..=ITEMS_MAX).contains(&items) || !(1..=SECONDS_MAX).contains(&seconds) {
            return Err(format!("expected 1 to {BYTES_MAX} bytes, 1 to {ITEMS_MAX} items and 1 to {SECONDS_MAX} seconds"));
        }
        let kind = KindSettings { nodes: held::nodes(&self.nodes, PORT, folder)?, user: self.user.clone(), rights };
        kind.check().map_err(|error| error.detail().to_owned())?;
        let prefix = self.prefix.as_deref().map_or(Ok(Prefix::default()), str::parse).map_err(|error| format!("`prefix`: {error}"))?;
        let limits = Limits { bytes, items, time: Duration::from_secs(seconds) };
        Ok(Settings { secret: self.secret.clone(), kind, prefix, tools, limits })
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
        held::target("redis", &self.kind.nodes)
    }

    /// Puts it together.
    pub(crate) fn build(&self, secret: &dyn Fn(&str) -> Result<Secret, String>, clock: &Arc<dyn Clock>) -> Result<Built, String> {
        let kind = Redis::new(self.kind.clone(), secret(&self.secret)?, Arc::clone(clock)).map_err(|error| error.detail().to_owned())?;
        Ok(Built { kind: Arc::new(kind), builtin: Arc::new(self.tools()) })
    }

    fn tools(&self) -> Tools {
        Tools { nodes: self.kind.nodes.clone(), tools: self.tools.clone(), limits: self.limits }
    }
}

/// The tools of a server.
#[derive(Debug)]
struct Tools {
    nodes: Vec<Node>,
    tools: Vec<(&'static str, Effect)>,
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    command: String,
    keys: Vec<String>,
    #[serde(default)]
    arguments: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    channel: String,
    message: String,
}

/// The command of a call. A tool runs commands of its own effect only.
fn command(tool: &str, given: &Value) -> Result<Command, Refusal> {
    if tool == PUBLISH {
        let Publish { channel, message } = arguments(given)?;
        return Command::publish(&channel, &message).map_err(Refusal::new);
    }
    let Run { command, keys, arguments } = arguments(given)?;
    let command = Command::new(&command, &keys, &arguments).map_err(Refusal::new)?;
    match command.effect().word() {
        own if own == tool => Ok(command),
        other => Err(Refusal::new(format!("this command is one of the tool `{other}`"))),
    }
}

#[async_trait::async_trait]
impl Builtin for Tools {
    fn tools(&self) -> Vec<Value> {
        self.tools.iter().map(|(name, effect)| tool(name, *effect)).collect()
    }

    fn effect(&self, tool: &str) -> Option<Effect> {
        self.tools.iter().find(|(name, _)| *name == tool).map(|(_, effect)| *effect)
    }

    fn judge(&self, tool: &str, arguments: &Value) -> Result<Effect, Refusal> {
        let effect = self.effect(tool).ok_or_else(|| Refusal::new("there is no such tool"))?;
        command(tool, arguments).map(|command| command.effect().max(if tool == PUBLISH { effect } else { Effect::Read }))
    }

    fn rights(&self, effect: Effect) -> Rights {
        let class = if effect == Effect::Read { READ } else { WRITE };
        Rights { class, rights: vec![class.to_owned()] }
    }

    async fn open(&self, account: &Account, tag: &Tag) -> Result<Arc<dyn Session>, UseError> {
        let connection = Connection::open(&self.nodes, account, tag, self.limits).await.map_err(|error| trouble(&error))?;
        Ok(Arc::new(Held(connection)))
    }
}

/// A connection with a lease's credential.
#[derive(Debug)]
struct Held(Connection);

#[async_trait::async_trait]
impl Session for Held {
    async fn call(&self, _call: CallId, tool: &str, arguments: &Value, cancel: &CancellationToken) -> Result<Answer, UseError> {
        let command =
            command(tool, arguments).map_err(|refusal| UseError { words: refusal.words, may_have_run: false, gone: false, login_refused: false })?;
        unless_cancelled(cancel, async { answer(self.0.run(&command).await.map(|reply| json!({ "reply": reply }))) }).await
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

fn tool(name: &str, effect: Effect) -> Value {
    let output = json!({
        "reply": { "description": "text, number, null, or an array of them; a text that is no UTF-8 is an object with `base64`" },
    });
    if name == PUBLISH {
        let input = json!({
            "channel": { "type": "string", "minLength": 1, "maxLength": KEY_MAX, "description": "the channel" },
            "message": { "type": "string", "description": "what its listeners get" },
        });
        let description = "Publishes a message on a channel. The reply is how many listeners got it.";
        return definition(name, "Publish", description, effect, (&input, &["channel", "message"]), &output);
    }
    let commands: Vec<_> = names(effect).collect();
    let input = json!({
        "command": { "type": "string", "enum": commands, "description": "the command, as Redis names it" },
        "keys": {
            "type": "array",
            "items": { "type": "string", "minLength": 1, "maxLength": KEY_MAX },
            "minItems": 1,
            "maxItems": KEYS_MAX,
            "description": "its keys, without the other arguments",
        },
        "arguments": {
            "type": "array",
            "items": { "type": "string" },
            "maxItems": ARGUMENTS_MAX,
            "description": "its other arguments in their order; MSET takes one for each key. Counts of keys are left out.",
        },
    });
    let (title, description) = match effect {
        Effect::Read => ("Read", "Runs one Redis command that only reads, such as GET, HGETALL, LRANGE or ZRANGE, on keys that you name."),
        Effect::Delete => ("Delete", "Runs one Redis command that removes data, such as DEL, HDEL, LPOP, EXPIRE or RENAME, on keys that you name."),
        _ => (
            "Write",
            "Runs one Redis command that writes, such as SET, HSET, LPUSH or ZADD, on keys that you name. SET takes NX or XX, KEEPTTL or EX.",
        ),
    };
    definition(name, title, description, effect, (&input, &["command", "keys"]), &output)
}

#[cfg(test)]
mod tests;
