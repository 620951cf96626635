//! One attempted action and its stages. A call has no setters: each stage consumes the one before it.

use std::sync::Arc;

use bytes::Bytes;

use crate::digest::{Digest, Salt};
use crate::effect::Effect;
use crate::error::ErrorCode;
use crate::hold::Hold;
use crate::id::{CallId, InstanceId, TaskId};
use crate::name::{AgentName, ComponentName, PersonName, SpiffeId, ToolName};
use crate::record::Permit;
use crate::task::Task;
use crate::time::Timestamp;

/// Bytes arrived and were parsed; nothing is proved yet.
#[derive(Debug)]
pub struct Received {
    _private: (),
}

/// Who calls is proved.
#[derive(Debug)]
pub struct Authenticated {
    caller: Arc<Caller>,
}

/// The task is open, the tool is granted, pinned and classified, the arguments are valid and within the grant.
#[derive(Debug)]
pub struct Bound {
    caller: Arc<Caller>,
    task: Arc<Task>,
    tool: Arc<Tool>,
    canonical: Digest,
    salt: Salt,
    exact_numbers: bool,
    digest: Digest,
}

/// The decision is on record: the call may be sent, once.
#[derive(Debug)]
pub struct Permitted {
    bound: Bound,
    permit: Permit,
}

/// The proved identity behind a call: the chain from the person down to the running copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The agent.
    pub agent: AgentName,
    /// Its SPIFFE ID: the current actor.
    pub spiffe_id: SpiffeId,
    /// The component of it, if it proved that it is one.
    pub component: Option<ComponentName>,
    /// The running copy.
    pub instance: InstanceId,
    /// The person on whose behalf (RFC 8693 `sub`).
    pub subject: PersonName,
    /// The agents before the current actor, nearest first (RFC 8693 nested `act`). Empty without delegation.
    pub actors: Vec<SpiffeId>,
    /// The task that the token is for.
    pub task: TaskId,
    /// The `jti` of the token that was presented.
    pub token: String,
}

/// A tool as it was classified: name, effect, and the digest of the definition that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// `<system>.<tool>`.
    pub name: ToolName,
    /// What it does.
    pub effect: Effect,
    /// The digest of the pinned definition.
    pub definition: Digest,
    /// Where it goes: the configured address or command of the system, without secrets.
    pub target: String,
}

/// One attempted action at stage `S`.
///
/// A call that was not decided and recorded cannot be sent:
/// ```compile_fail,E0599
/// fn send(call: bailiwick_core::Call<bailiwick_core::Bound>) {
///     let _bytes = call.spend();
/// }
/// ```
/// a stage cannot be skipped:
/// ```compile_fail,E0599
/// fn skip(call: bailiwick_core::Call<bailiwick_core::Received>, binding: bailiwick_core::call::Binding) {
///     let _bound = call.bind(binding);
/// }
/// ```
/// and what was decided cannot be changed afterwards:
/// ```compile_fail,E0616
/// fn change(mut call: bailiwick_core::Call<bailiwick_core::Bound>) {
///     call.arguments = bytes::Bytes::new();
/// }
/// ```
#[derive(Debug)]
pub struct Call<S> {
    id: CallId,
    at: Timestamp,
    requested: String,
    arguments: Bytes,
    stage: S,
}

impl<S> Call<S> {
    /// The call's id.
    pub const fn id(&self) -> CallId {
        self.id
    }
    /// When it arrived.
    pub const fn at(&self) -> Timestamp {
        self.at
    }
    /// The tool's name as it was asked for.
    pub fn requested(&self) -> &str {
        &self.requested
    }
    /// The exact bytes of the arguments: one JSON object.
    pub const fn arguments(&self) -> &Bytes {
        &self.arguments
    }
}

impl Call<Received> {
    /// A call as it arrived. `arguments` is one JSON object that was checked to be well-formed with unique keys.
    #[must_use]
    pub const fn new(id: CallId, at: Timestamp, requested: String, arguments: Bytes) -> Self {
        Self { id, at, requested, arguments, stage: Received { _private: () } }
    }

    /// Adds who calls. The caller's value is made by the room that verifies proofs.
    #[must_use]
    pub fn authenticate(self, caller: Arc<Caller>) -> Call<Authenticated> {
        Call { id: self.id, at: self.at, requested: self.requested, arguments: self.arguments, stage: Authenticated { caller } }
    }
}

/// What binding needs to know about the world, looked up once, by one matcher.
#[derive(Debug)]
pub struct Binding {
    /// The task that the caller's token names.
    pub task: Arc<Task>,
    /// Is that task open now?
    pub open: bool,
    /// The tool of that name, if it is classified and its definition is the pinned one.
    pub tool: Option<Arc<Tool>>,
    /// SHA-256 of the arguments in canonical form (RFC 8785).
    pub canonical: Digest,
    /// A secret that goes into the call's digest, the same for all calls of the task with these canonical arguments: the digest is on
    /// record, and without it arguments that few values can have could be found by trying them.
    pub salt: Salt,
    /// False if a number in the arguments has no exact canonical form; such a call cannot be held.
    pub exact_numbers: bool,
}

impl Call<Authenticated> {
    /// Who calls.
    #[must_use]
    pub const fn caller(&self) -> &Arc<Caller> {
        &self.stage.caller
    }

    /// Binds the call to its task and tool.
    ///
    /// # Errors
    /// `task.absent` if the task is another's or under another chain, `task.closed` if it is not open or its time is over, `tool.unknown` if the
    /// tool is not granted, not there or not classified: the three are one answer.
    pub fn bind(self, binding: Binding) -> Result<Call<Bound>, (Self, ErrorCode)> {
        let Binding { task, open, tool, canonical, salt, exact_numbers } = binding;
        let caller = &self.stage.caller;
        let same = task.id == caller.task && task.agent == caller.agent && task.component == caller.component && task.instance == caller.instance;
        // The chain that the token names is the one under which the task was opened, link by link.
        let chain = task.chain.len() == caller.actors.len() && task.chain.iter().zip(&caller.actors).all(|(hop, actor)| hop.actor() == *actor);
        if !same || !chain {
            return Err((self, ErrorCode::TaskAbsent));
        }
        if !open || task.expired(self.at) {
            return Err((self, ErrorCode::TaskClosed));
        }
        let granted = task.grant.tool(&self.requested).is_some();
        let Some(tool) = tool.filter(|t| granted && t.name.as_str() == self.requested) else {
            return Err((self, ErrorCode::ToolUnknown));
        };
        let digest = digest(&task, &tool, &salt, &Digest::of(&self.arguments));
        let caller = self.stage.caller;
        let stage = Bound { caller, task, tool, canonical, salt, exact_numbers, digest };
        Ok(Call { id: self.id, at: self.at, requested: self.requested, arguments: self.arguments, stage })
    }
}

/// The digest to which permits and approvals are bound: tool, definition, target, task, salt and the exact bytes of the arguments.
fn digest(task: &Task, tool: &Tool, salt: &Salt, arguments: &Digest) -> Digest {
    Digest::bind(
        "bailiwick/call/v2",
        &[
            tool.name.as_str().as_bytes(),
            tool.definition.as_bytes(),
            tool.target.as_bytes(),
            &task.id.to_bytes(),
            salt.as_bytes(),
            arguments.as_bytes(),
        ],
    )
}

impl Call<Bound> {
    /// Who calls.
    #[must_use]
    pub const fn caller(&self) -> &Arc<Caller> {
        &self.stage.caller
    }
    /// The open task.
    #[must_use]
    pub const fn task(&self) -> &Arc<Task> {
        &self.stage.task
    }
    /// The tool.
    #[must_use]
    pub const fn tool(&self) -> &Arc<Tool> {
        &self.stage.tool
    }
    /// Bound to tool, definition, target, task and the exact bytes of the arguments.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.stage.digest
    }
    /// The secret that went into the digest.
    #[must_use]
    pub const fn salt(&self) -> &Salt {
        &self.stage.salt
    }
    /// May this call be held? A number without an exact canonical form could be shown as one value and read as another.
    #[must_use]
    pub const fn exact_numbers(&self) -> bool {
        self.stage.exact_numbers
    }

    /// The key under which an identical call (whatever its spacing and key order) finds its hold again.
    #[must_use]
    pub fn hold_key(&self) -> Digest {
        digest(&self.stage.task, &self.stage.tool, &self.stage.salt, &self.stage.canonical)
    }

    /// Takes over the exact bytes that people saw, when the hold is for a call of the same canonical form. Law 3: what was decided
    /// is what is sent.
    #[must_use]
    pub fn adopt(self, hold: &Hold) -> Self {
        if hold.key != self.hold_key() {
            return self;
        }
        let digest = digest(&self.stage.task, &self.stage.tool, &self.stage.salt, &Digest::of(&hold.arguments));
        Self { arguments: hold.arguments.clone(), stage: Bound { digest, ..self.stage }, ..self }
    }

    /// Joins the call with its permit.
    pub(crate) fn permitted(self, permit: Permit) -> Call<Permitted> {
        let stage = Permitted { bound: self.stage, permit };
        Call { id: self.id, at: self.at, requested: self.requested, arguments: self.arguments, stage }
    }
}

impl Call<Permitted> {
    /// Who calls.
    #[must_use]
    pub const fn caller(&self) -> &Arc<Caller> {
        &self.stage.bound.caller
    }
    /// The task.
    #[must_use]
    pub const fn task(&self) -> &Arc<Task> {
        &self.stage.bound.task
    }
    /// The tool.
    #[must_use]
    pub const fn tool(&self) -> &Arc<Tool> {
        &self.stage.bound.tool
    }
    /// The permit.
    #[must_use]
    pub const fn permit(&self) -> &Permit {
        &self.stage.permit
    }

    /// Spends the call: gives the exact bytes to send, once. Law 3 is checked here a last time.
    ///
    /// # Errors
    /// `internal` if the permit is for another digest than these bytes have, which no path of this crate can produce.
    pub fn spend(self) -> Result<Spent, ErrorCode> {
        let Permitted { bound, permit } = self.stage;
        let sent = digest(&bound.task, &bound.tool, &bound.salt, &Digest::of(&self.arguments));
        if sent != permit.digest() {
            return Err(ErrorCode::Internal);
        }
        Ok(Spent { id: self.id, entry: permit.entry(), tool: bound.tool, task: bound.task, arguments: self.arguments })
    }
}

/// What is left of a permitted call when its bytes go out.
#[derive(Debug)]
pub struct Spent {
    /// The call.
    pub id: CallId,
    /// The ledger index of its intent.
    pub entry: u64,
    /// The tool.
    pub tool: Arc<Tool>,
    /// The task.
    pub task: Arc<Task>,
    /// The exact bytes to send.
    pub arguments: Bytes,
}
