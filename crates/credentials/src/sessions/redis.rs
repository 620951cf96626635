//! A held connection to Redis: one command of a table for each call, its reply limited, and a name that `CLIENT LIST` shows.
//!
//! The table ([`commands`]) has no command that blocks, subscribes, runs a program, changes the connection or the server, or looks at keys that were
//! not named. So each call is one command and one reply, and what a call touches stands in its arguments.

pub mod commands;

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{SessionError, words_of};
use crate::kinds::connection::Failure;
use crate::kinds::redis::resp::{Limits as ReplyLimits, Reply, TOO_LONG};
use crate::kinds::redis::session::Session;
use crate::lease::{Account, Node, Tag};
use commands::Command;

/// The longest name that a connection gets.
const NAME_MAX: usize = 200;

/// What a reply may have, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a reply, as they come.
    pub bytes: usize,
    /// Items of each array of a reply.
    pub items: usize,
    /// Time.
    pub time: Duration,
}

/// A connection that is logged in as a leased account.
pub struct Connection {
    /// Nothing, when the connection is of no use any more. Taken out while a command is under way.
    session: Mutex<Option<Session>>,
    node: String,
    limits: Limits,
}

impl Connection {
    /// Logs in at the first node that accepts writes; if there is none, at the first that lets us in, where writes are refused then.
    ///
    /// # Errors
    /// `Lost`, with what the first node said.
    pub async fn open(nodes: &[Node], account: &Account, tag: &Tag, limits: Limits) -> Result<Self, SessionError> {
        let Some(secret) = &account.secret else { return Err(SessionError::lost("the account's secret is not known")) };
        // The server takes no spaces in a name.
        let name = tag.connection_name(NAME_MAX).replace(' ', "_");
        let reply = ReplyLimits { bytes: limits.bytes, items: limits.items };
        let (mut replica, mut trouble, mut refused) = (None, None, true);
        for node in nodes {
            match Session::open_with(node, account.name.as_str(), secret, &name, reply).await {
                Ok(session) if session.is_primary() => return Ok(Self::over(session, node, limits)),
                Ok(session) => {
                    replica.get_or_insert((session, node));
                }
                Err(failure) => {
                    refused &= failure.words().starts_with("WRONGPASS");
                    trouble.get_or_insert(format!(
                        "`{}` does not let the task's account in: {}",
                        node.name(),
                        words_of(failure.words(), Some(secret))
                    ));
                }
            }
        }
        match replica {
            Some((session, node)) => Ok(Self::over(session, node, limits)),
            None => Err(SessionError::no_login(trouble.unwrap_or_else(|| "no node is configured".to_owned()), refused)),
        }
    }

    fn over(session: Session, node: &Node, limits: Limits) -> Self {
        Self { session: Mutex::new(Some(session)), node: node.name().to_owned(), limits }
    }

    /// Runs one command; gives its reply: texts, numbers, `null` and arrays of them. A text that is no UTF-8 is `{"base64": ".."}`.
    ///
    /// # Errors
    /// `Refused` if the server says no. `Lost` if the connection is gone, if the reply is longer than its limit or takes longer. If this future is
    /// dropped, the connection is gone as well.
    pub async fn run(&self, command: &Command) -> Result<Value, SessionError> {
        let mut place = self.session.lock().await;
        // Whoever is dropped from here on takes the connection with it: nobody may hear a reply that is not theirs.
        let mut session = place.take().ok_or_else(|| SessionError::lost("the connection is gone"))?;
        session.look().map_err(|failure| SessionError::lost(format!("`{}` ended the connection: {}", self.node, failure.words())))?;
        let words: Vec<&[u8]> = command.words().collect();
        let lost = |words: String| SessionError::Lost { words, may_have_run: true };
        match tokio::time::timeout(self.limits.time, session.exchange(&words)).await {
            Ok(Ok(reply)) => {
                *place = Some(session);
                Ok(value(&reply))
            }
            Ok(Err(Failure::Said(words))) => {
                let (code, words) = words.split_once(' ').unwrap_or(("ERR", &words));
                if matches!(code, "READONLY" | "MASTERDOWN" | "LOADING") {
                    // It is no primary any more: the next connection finds the one that is.
                    return Err(SessionError::lost(format!("`{}` accepts no commands now: {}", self.node, words_of(words, None))));
                }
                *place = Some(session);
                Err(SessionError::Refused { code: words_of(code, None), words: words_of(words, None) })
            }
            Ok(Err(Failure::Malformed(TOO_LONG))) => {
                Err(lost(format!("the reply has more than {} bytes or {} items; ask for less of it", self.limits.bytes, self.limits.items)))
            }
            Ok(Err(failure)) => Err(lost(format!("`{}`: {}", self.node, words_of(failure.words(), None)))),
            Err(_) => Err(lost(format!("no reply within {} seconds", self.limits.time.as_secs()))),
        }
    }

    /// Hangs up.
    pub async fn close(&self) {
        drop(self.session.lock().await.take());
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("node", &self.node).finish_non_exhaustive()
    }
}

fn value(reply: &Reply) -> Value {
    match reply {
        Reply::Null => Value::Null,
        Reply::Integer(number) => (*number).into(),
        Reply::Text(bytes) => str::from_utf8(bytes).map_or_else(|_| json!({ "base64": STANDARD.encode(bytes) }), Value::from),
        Reply::Error(words) => json!({ "error": words_of(words, None) }),
        Reply::Items(items) => items.iter().map(value).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_told_as_json_whatever_bytes_it_has() {
        let reply = Reply::Items(vec![Reply::Null, Reply::Integer(-3), Reply::Text(b"bread".to_vec()), Reply::Text(vec![0xff, 0])]);
        assert_eq!(value(&reply), json!([null, -3, "bread", { "base64": "/wA=" }]));
    }
}
