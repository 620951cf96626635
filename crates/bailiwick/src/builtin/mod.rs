//! Systems that know no MCP: what each offers as tools, and how a call of one becomes work there over a connection that we hold.
//!
//! One file for each sort of system. It has the table of the configuration (`[systems.NAME.<kind>]`), the tools, and the glue between
//! arguments and the typed sessions of `credentials::sessions`. A system of this sort is reached with a leased credential only
//! ([`crate::leases`]): the model never sees it, and it ends with the task.

mod chain;
pub(crate) mod checkout;
mod held;
pub(crate) mod http;
pub(crate) mod mariadb;
pub(crate) mod nats;
pub(crate) mod postgresql;
pub(crate) mod rabbitmq;
pub(crate) mod redis;
mod server;
mod settings;
mod sql;
pub(crate) mod ssh;

use std::fmt;
use std::sync::Arc;

use bailiwick_core::{CallId, Effect};
use bailiwick_credentials::lease::{Account, Kind, Tag};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub(crate) use server::LocalServer;
pub use settings::Settings;
pub(crate) use settings::{SealedSecrets, Tables};

/// A system that knows no MCP: what it offers as tools, and how a call of one becomes work there.
#[async_trait::async_trait]
pub(crate) trait Builtin: Send + Sync + fmt::Debug {
    /// The tools as MCP definitions: `name`, `title`, `description`, `inputSchema` (closed), `outputSchema` where answers are
    /// structured, `annotations`. One tool for each effect that calls can have: see [`judge`](Self::judge).
    fn tools(&self) -> Vec<Value>;

    /// The effect that a tool has unless the configuration says otherwise.
    fn effect(&self, tool: &str) -> Option<Effect>;

    /// What this very call would do, told from its arguments alone and never lower than what it can do. The house refuses a call whose
    /// judged effect is above the effect of its tool in force: what deletes needs the tool that deletes.
    ///
    /// # Errors
    /// It can never be done: a plain sentence with a hint, told to the client before anything is decided.
    fn judge(&self, tool: &str, arguments: &Value) -> Result<Effect, Refusal>;

    /// The credential that calls of this judged effect need.
    fn rights(&self, effect: Effect) -> Rights;

    /// Opens a connection with the task's credential.
    ///
    /// # Errors
    /// [`UseError`]; nothing was done at the system.
    async fn open(&self, account: &Account, tag: &Tag) -> Result<Arc<dyn Session>, UseError>;
}

/// A connection that we hold with a task's credential.
#[async_trait::async_trait]
pub(crate) trait Session: Send + Sync + fmt::Debug {
    /// Does what was judged, with the same arguments. Where the system's own log has a place for it, it is told which call this is. Dropping the future or `cancel` stops what can be stopped.
    ///
    /// # Errors
    /// [`UseError`] if there is no answer of the system.
    async fn call(&self, call: CallId, tool: &str, arguments: &Value, cancel: &CancellationToken) -> Result<Answer, UseError>;

    /// The connection waits for a task: what the first call would wait for at the system beside its own work is done now. What comes of it shows
    /// with the first call.
    async fn warm(&self) {}

    /// The connection was opened before there was a task: whatever it does from now on carries this chain into the system's own log. False: it cannot.
    async fn assign(&self, _tag: &Tag) -> bool {
        false
    }

    /// Is the connection gone, though no call said so? Then the next call opens another.
    fn is_over(&self) -> bool {
        false
    }

    /// Closes it, and waits for that, but not long.
    async fn close(&self);
}

/// The largest number without a fraction that every reader of JSON reads the same (RFC 8259 section 6).
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// The arguments of a call, each number as the client wrote it.
///
/// # Errors
/// They are no JSON, or have a number that would become another one on its way.
pub(crate) fn read_arguments(text: &[u8]) -> Result<Value, Refusal> {
    let arguments: Value = serde_json::from_slice(text).map_err(|_| Refusal::new("the arguments are no JSON, or have a number that is too large"))?;
    if is_exact(&arguments) {
        return Ok(arguments);
    }
    Err(Refusal::new("a number of the arguments is too large to be passed on as it stands: write it as text, if the system takes that"))
}

/// Whether every number is the one that the client wrote.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64() || number.as_f64().is_some_and(|number| number.abs() < WHOLE_MAX),
        Value::Array(all) => all.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// The tools that hand a credential out, where the configuration allows it: name, class of the lease, and whose rights it has.
pub(crate) const ISSUING: [(&str, &str, Effect); 2] =
    [("issue_read_credential", crate::leases::ISSUED_READ, Effect::Read), ("issue_write_credential", crate::leases::ISSUED_WRITE, Effect::Write)];

/// The credential that a call of a tool that hands one out needs; `None` for every other tool.
pub(crate) fn issued(builtin: &dyn Builtin, tool: &str) -> Option<Rights> {
    let (_, class, effect) = ISSUING.into_iter().find(|(name, ..)| *name == tool)?;
    Some(Rights { class, rights: builtin.rights(effect).rights })
}

/// What a system answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// An object, as the tool's `outputSchema` says.
    pub(crate) structured: Value,
    /// The system refused.
    pub(crate) is_error: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub(crate) struct UseError {
    /// What happened, without secrets.
    pub(crate) words: String,
    /// May the system have done it all the same? False only where that is certain.
    pub(crate) may_have_run: bool,
    /// The connection is of no use any more: the next call opens another.
    pub(crate) gone: bool,
    /// The account was refused where it should be let in: somebody removed it there.
    pub(crate) login_refused: bool,
}

/// Why a call can never be done, as a plain sentence with what to do instead.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub(crate) struct Refusal {
    /// The sentence.
    pub(crate) words: String,
}

impl Refusal {
    /// With these words.
    pub(crate) fn new(words: impl Into<String>) -> Self {
        Self { words: words.into() }
    }
}

/// What a credential may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    /// `read` or `write`: a task has one lease for each class.
    pub(crate) class: &'static str,
    /// In the kind's own words: groups, roles, patterns.
    pub(crate) rights: Vec<String>,
}

/// A built-in system, put together from its settings and secrets.
#[derive(Debug)]
pub(crate) struct Built {
    /// How its credentials are made and ended.
    pub(crate) kind: Arc<dyn Kind>,
    /// Its tools.
    pub(crate) builtin: Arc<dyn Builtin>,
}

/// A call, for tests that do one without the pipeline.
#[cfg(test)]
pub(crate) fn call_id() -> CallId {
    CallId::new(bailiwick_core::Timestamp::from_seconds(1_790_000_000), crate::clock::random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_would_become_another_is_refused_and_not_rounded() {
        for exact in [r#"{"a":9223372036854775807}"#, r#"{"a":[18446744073709551615,-1,0.5,1e3]}"#, r#"{"a":"123456789012345678901234567890"}"#] {
            assert!(read_arguments(exact.as_bytes()).is_ok(), "{exact}");
        }
        for lossy in [r#"{"a":123456789012345678901234567890}"#, r#"{"a":[{"b":1e300}]}"#, r#"{"a":-9223372036854775809}"#, r#"{"a":1e999}"#, "{"] {
            assert!(read_arguments(lossy.as_bytes()).is_err(), "{lossy}");
        }
    }
}
