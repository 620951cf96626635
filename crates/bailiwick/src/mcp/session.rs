//! Sessions of clients that shake hands (2025-11-25 and before). A session id is never authentication: it is bound to the task of the
//! token that opened it, and looked at together with the token of every request.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bailiwick_core::{AgentName, SystemName, TaskId, Timestamp};
use bailiwick_wire::RawBuf;
use bailiwick_wire::mcp::{ClientCapabilities, Version};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::random;
use crate::mcp::legacy_tasks::Handles;
use crate::upstream::{ClientAnswer, SessionKey};

const IDLE: Duration = Duration::from_secs(2 * 3600);
/// Most sessions of one task, of all tasks of one agent, and in all.
const OF_TASK_MAX: usize = 64;
const OF_AGENT_MAX: usize = 512;
const ALL_MAX: usize = 10_000;
/// Most requests of ours that may wait for a client's answer in one session.
const ASKED_MAX: usize = 64;
/// Most resources that a session may subscribe to.
const HEEDED_MAX: usize = 1000;
/// The log level of a session whose client set none.
const LEVEL: &str = "info";

/// Which tools an endpoint shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All systems; names have their system in front.
    All,
    /// One system; its URL names it, so its tools have their own names.
    System(SystemName),
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// The revision that was agreed on.
    pub version: Version,
    /// What the client can do.
    pub capabilities: ClientCapabilities,
    /// The same, as it was written.
    pub declared: RawBuf,
    /// The task of the token that opened it.
    pub task: TaskId,
    /// The agent of the task. `None`: it is no session of a client's.
    agent: Option<AgentName>,
    /// The endpoint.
    pub scope: Scope,
    /// The key of the upstreams' own sessions.
    pub key: SessionKey,
    asked: Mutex<HashMap<String, oneshot::Sender<ClientAnswer>>>,
    running: Mutex<HashMap<String, CancellationToken>>,
    seen: Mutex<Timestamp>,
    /// How much its systems log to it: what the client set, else what a server would do unasked.
    level: Mutex<&'static str>,
    /// Resources that the client subscribed to here.
    heeded: Mutex<BTreeSet<String>>,
    /// Its calls that run behind a handle.
    pub(super) handles: Handles,
    /// What goes to the client outside of any request: its GET stream, if it has one.
    pub stream: Mutex<Option<mpsc::Sender<bytes::Bytes>>>,
}

impl Session {
    /// Puts a request of ours under an unguessable id and gives what its answer comes by. `None`: too many wait already.
    pub fn ask(&self) -> Option<(String, oneshot::Receiver<ClientAnswer>)> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, answer| !answer.is_closed());
        if asked.len() >= ASKED_MAX {
            return None;
        }
        let id = format!("bw-{:032x}", u128::from_be_bytes(random()));
        let (sender, receiver) = oneshot::channel();
        asked.insert(id.clone(), sender);
        Some((id, receiver))
    }

    /// A client answered. False: nobody asked.
    pub fn answered(&self, id: &str, answer: ClientAnswer) -> bool {
        let sender = self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        sender.is_some_and(|s| s.send(answer).is_ok())
    }

    /// The client subscribed to a resource, or took that back.
    pub fn heed(&self, uri: &str, subscribed: bool) {
        let mut heeded = self.heeded.lock().unwrap_or_else(PoisonError::into_inner);
        if !subscribed {
            heeded.remove(uri);
        } else if heeded.len() < HEEDED_MAX {
            heeded.insert(uri.to_owned());
        }
    }

    /// How much its systems log to it.
    #[must_use]
    pub fn level(&self) -> &'static str {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client says how much it wants to read.
    pub fn set_level(&self, level: &'static str) {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = level;
    }

    /// Did the client subscribe to it?
    pub fn heeds(&self, uri: &str) -> bool {
        self.heeded.lock().unwrap_or_else(PoisonError::into_inner).contains(uri)
    }

    /// A request begins; `notifications/cancelled` with its id stops it. The guard forgets it.
    pub fn begin(self: &Arc<Self>, id: &str) -> Running {
        let cancel = CancellationToken::new();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), cancel.clone());
        Running { session: Arc::clone(self), id: id.to_owned(), cancel }
    }

    /// The client gives up a request of this session; another session's is ignored (BI-036).
    pub fn cancel(&self, id: &str) {
        if let Some(cancel) = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            cancel.cancel();
        }
    }
}

/// A request that runs in a session.
#[derive(Debug)]
pub struct Running {
    session: Arc<Session>,
    id: String,
    /// Cancelled when the client gives it up.
    pub cancel: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.session.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    by_id: RwLock<HashMap<String, Arc<Session>>>,
}

impl Sessions {
    /// Opens one. `None`: there are too many.
    pub fn open(
        &self,
        version: Version,
        capabilities: ClientCapabilities,
        declared: RawBuf,
        (task, agent): (TaskId, &AgentName),
        scope: Scope,
        now: Timestamp,
    ) -> Option<Arc<Session>> {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        let of_agent = || by_id.values().filter(|s| s.agent.as_ref() == Some(agent)).count();
        if by_id.len() >= ALL_MAX || by_id.values().filter(|s| s.task == task).count() >= OF_TASK_MAX || of_agent() >= OF_AGENT_MAX {
            return None;
        }
        let id = format!("{:032x}", u128::from_be_bytes(random()));
        let session = Arc::new(Session {
            key: SessionKey::new(&id),
            id: id.clone(),
            version,
            capabilities,
            declared,
            task,
            agent: Some(agent.clone()),
            scope,
            asked: Mutex::default(),
            running: Mutex::default(),
            seen: Mutex::new(now),
            level: Mutex::new(LEVEL),
            heeded: Mutex::default(),
            handles: Handles::default(),
            stream: Mutex::default(),
        });
        by_id.insert(id, Arc::clone(&session));
        Some(session)
    }

    /// A session for one request, which nobody can find again. Its key is the task's, so that the systems' sessions end with it.
    #[must_use]
    pub fn passing(version: Version, capabilities: ClientCapabilities, task: TaskId) -> Arc<Session> {
        Arc::new(Session {
            id: String::new(),
            version,
            capabilities,
            declared: bailiwick_wire::Raw::EMPTY_OBJECT.to_owned(),
            task,
            agent: None,
            scope: Scope::All,
            key: SessionKey::new(&task.to_string()),
            asked: Mutex::default(),
            running: Mutex::default(),
            seen: Mutex::new(Timestamp::default()),
            level: Mutex::new(LEVEL),
            heeded: Mutex::default(),
            handles: Handles::default(),
            stream: Mutex::default(),
        })
    }

    /// The session of this id, if it belongs to this task and endpoint. Another's does not exist (BI-025).
    #[must_use]
    pub fn find(&self, id: &str, task: TaskId, scope: &Scope, now: Timestamp) -> Option<Arc<Session>> {
        let session = self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()?;
        if session.task != task || session.scope != *scope {
            return None;
        }
        *session.seen.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Some(session)
    }

    /// Ends one.
    pub fn end(&self, id: &str) -> Option<Arc<Session>> {
        self.by_id.write().unwrap_or_else(PoisonError::into_inner).remove(id)
    }

    /// Ends those of a task.
    pub fn end_of_task(&self, task: TaskId) -> Vec<Arc<Session>> {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<_> = by_id.values().filter(|s| s.task == task).cloned().collect();
        by_id.retain(|_, s| s.task != task);
        gone
    }

    /// Takes out those that nobody used for long.
    pub fn expire(&self, now: Timestamp) -> Vec<Arc<Session>> {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        let idle = |s: &Session| s.seen.lock().unwrap_or_else(PoisonError::into_inner).until(now) >= IDLE;
        by_id.extract_if(|_, s| idle(s)).map(|(_, s)| s).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_does_not_take_the_sessions_of_all_however_many_tasks_it_has() {
        let sessions = Sessions::default();
        let (clerk, scout): (AgentName, AgentName) = ("clerk".parse().unwrap(), "scout".parse().unwrap());
        let task = |n: usize| TaskId::new(Timestamp::from_millis(i64::try_from(n).unwrap()), [1; 10]);
        let open = |n: usize, agent: &AgentName| {
            let declared = bailiwick_wire::Raw::EMPTY_OBJECT.to_owned();
            sessions.open(Version::V2025_11_25, ClientCapabilities::default(), declared, (task(n), agent), Scope::All, Timestamp::from_millis(1))
        };
        let opened = (0..2 * OF_AGENT_MAX).filter(|n| open(n / OF_TASK_MAX, &clerk).is_some()).count();
        assert_eq!(opened, OF_AGENT_MAX);
        assert!(open(9999, &scout).is_some());
        sessions.end_of_task(task(0));
        assert!(open(500, &clerk).is_some());
    }
}
