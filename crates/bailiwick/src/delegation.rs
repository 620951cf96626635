//! Parts of tasks: whose token an agent may present to get one, what it gets, and what is put on record when it should not have asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::delegation::{Taker, part};
use bailiwick_core::{Agent, AgentName, Constraint, ErrorCode, PartRefused, Task, TaskId, Timestamp, ToolGrant, ToolName, Wish};
use bailiwick_identity::ProofError;
use bailiwick_identity::oauth::{AskedPart, AskedTools};
use bailiwick_identity::token::Acting;
use bailiwick_policy::TaskQuestion;
use bailiwick_store::Opening;

use crate::clock::random;
use crate::config::Delegate;
use crate::entry::{self, Narrowed};
use crate::house::House;
use crate::live::LiveTask;
use crate::paces::Door;
use crate::standing::Ground;
use crate::tasks::{OpenedTask, Origin, TaskRefused, check_model, check_purpose};

/// Why a token is no ground for a part of its task.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Splice {
    /// It is no valid token of ours for this resource.
    #[error("{0}")]
    Token(ProofError),
    /// It was revoked.
    #[error("the token was revoked")]
    Revoked,
    /// It opens tasks and is of none.
    #[error("the token is of no task")]
    NoTask,
    /// Its task has ended, or one that this is a part of.
    #[error("the token's task has ended")]
    Ended,
    /// It names another agent or component than does its task.
    #[error("the token names another agent or component than its task has")]
    OtherAgent,
    /// It names another running copy than does its task.
    #[error("the token names another running copy than its task has")]
    OtherInstance,
    /// It names another person than its task is done for.
    #[error("the token names another person than its task is done for")]
    OtherSubject,
    /// It names another chain than the one under which its task was opened.
    #[error("the token names another chain than its task was opened under")]
    OtherChain,
    /// The agent whose task it is is out of service.
    #[error("the agent of the token's task is suspended, or overdue for review")]
    OutOfService,
    /// The actor token is no valid token of ours.
    #[error("the actor token is refused: {0}")]
    Actor(ProofError),
    /// The actor token was revoked.
    #[error("the actor token was revoked")]
    ActorRevoked,
    /// The actor token is another's than the client's who presents it.
    #[error("the actor token is not of the client")]
    OtherActor,
    /// The agent whose task it is does not delegate to whoever asks.
    #[error("agent `{0}` does not delegate to it")]
    NotDelegated(AgentName),
    /// More is asked for than there is, or than it may have.
    #[error("{0}")]
    TooMuch(String),
    /// The chain may not go on so.
    #[error(transparent)]
    Chain(PartRefused),
}

impl Splice {
    /// The slug for the record, one for each reason.
    #[must_use]
    pub const fn slug(&self) -> &'static str {
        match self {
            Self::Token(error) => of_proof(*error),
            Self::Actor(_) => "actor_not_valid",
            Self::Revoked => "revoked",
            Self::NoTask => "no_task",
            Self::Ended => "task_ended",
            Self::OtherAgent => "other_agent",
            Self::OtherInstance => "other_instance",
            Self::OtherSubject => "other_subject",
            Self::OtherChain => "other_chain",
            Self::OutOfService => "out_of_service",
            Self::ActorRevoked => "actor_revoked",
            Self::OtherActor => "other_actor",
            Self::NotDelegated(_) => "not_delegated",
            Self::Chain(PartRefused::Itself(_)) => "itself",
            Self::Chain(PartRefused::Loop(_)) => "loop",
            Self::Chain(PartRefused::TooDeep { .. }) => "too_deep",
            Self::Chain(PartRefused::Over) => "over",
            Self::Chain(PartRefused::Excess(_)) | Self::TooMuch(_) => "too_much",
        }
    }

    /// Does nobody come to this by mistake? A token that we did not sign, that was taken away, or that was not given to whoever has it.
    #[must_use]
    pub const fn is_incident(&self) -> bool {
        match self {
            Self::Token(error) | Self::Actor(error) => !matches!(error, ProofError::Expired | ProofError::NotYet | ProofError::Audience),
            Self::Revoked | Self::ActorRevoked | Self::OtherActor | Self::NotDelegated(_) => true,
            Self::OtherAgent | Self::OtherInstance | Self::OtherSubject | Self::OtherChain => true,
            Self::NoTask | Self::Ended | Self::OutOfService | Self::TooMuch(_) | Self::Chain(_) => false,
        }
    }
}

const fn of_proof(error: ProofError) -> &'static str {
    match error {
        ProofError::TooLong(_) => "too_long",
        ProofError::Form(_) => "malformed",
        ProofError::Duplicate => "claim_twice",
        ProofError::TooDeep => "nested_too_deeply",
        ProofError::Header(_) => "header",
        ProofError::Algorithm => "algorithm",
        ProofError::Type => "type",
        ProofError::Key => "key",
        ProofError::Signature => "signature",
        ProofError::Issuer => "issuer",
        ProofError::Audience => "audience",
        ProofError::Expired => "expired",
        ProofError::NotYet => "not_yet",
        ProofError::IssuedAt => "issued_at",
        ProofError::Lifetime => "lifetime",
        ProofError::Claim(_) => "claim",
        _ => "not_valid",
    }
}

/// Why an agent gets no part of a task.
#[derive(Debug)]
pub enum DelegationRefused {
    /// What it presents is no ground for one.
    Splice(Splice),
    /// It asks for more than there is, or than it may have. Everything that is too much, in words.
    TooMuch(String),
    /// No task could be opened.
    Task(TaskRefused),
}

impl From<TaskRefused> for DelegationRefused {
    fn from(refused: TaskRefused) -> Self {
        Self::Task(refused)
    }
}

/// Alike refusals of one agent within this time are one entry.
const TOLD_AFTER: Duration = Duration::from_secs(10);

/// What was told of agents that presented what they should not have. There are few reasons and few agents, so this stays small.
#[derive(Debug, Default)]
pub struct Splices {
    told: Mutex<HashMap<(AgentName, &'static str), Timestamp>>,
}

impl Splices {
    fn tells(&self, agent: &AgentName, slug: &'static str, now: Timestamp) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (agent.clone(), slug);
        if told.get(&key).is_some_and(|at| at.until(now) < TOLD_AFTER) {
            return false;
        }
        told.insert(key, now);
        true
    }
}

impl House {
    /// The open task of a token that is presented as a subject token (RFC 8693 section 2.1). Whoever presents it need not be the one it
    /// was issued to, nor prove a key that it is bound to: that it was handed over is for `delegates_to` to allow.
    ///
    /// # Errors
    /// The first reason for which it is no ground for a part.
    pub fn subject_of(&self, token: &str) -> Result<Arc<LiveTask>, Splice> {
        let now = self.clock.now();
        //= rfc8693#section-2.1
        // In processing the request, the authorization server MUST perform the appropriate validation procedures for the indicated
        // token type and, if the actor token is present, also perform the appropriate validation procedures for its indicated token
        // type.
        let verified = self.verifier.verify(token, &self.urls.mcp, now).map_err(Splice::Token)?;
        if self.tokens.is_revoked(&verified.jti.to_string()) {
            return Err(Splice::Revoked);
        }
        let caller = verified.caller().ok_or(Splice::NoTask)?;
        let live = self.live.find(caller.task).filter(|live| live.is_open(now)).ok_or(Splice::Ended)?;
        let task = &live.task;
        //= rfc8693#section-4.1
        // For the purpose of applying access control policy, the consumer of a token MUST only consider the token's top-level claims
        // and the party identified as the current actor by the act claim. Prior actors [...] are informational only. The chain that
        // policy reads is the one under which we opened the task; the token's must be the same.
        if task.agent != caller.agent || task.component != caller.component {
            return Err(Splice::OtherAgent);
        }
        if task.instance != caller.instance {
            return Err(Splice::OtherInstance);
        }
        if task.subject != caller.subject {
            return Err(Splice::OtherSubject);
        }
        if task.actors() != caller.actors {
            return Err(Splice::OtherChain);
        }
        if self.task_stands(&live).is_err() || self.stands(Ground::of(&verified)).is_err() {
            return Err(Splice::OutOfService);
        }
        Ok(live)
    }

    /// Is this token, presented as an actor token, one of the client that presents it?
    ///
    /// # Errors
    /// The first reason for which it is not. Otherwise the running copy that it names.
    pub fn actor_of(&self, token: &str, agent: &Agent, acting: &Acting) -> Result<bailiwick_core::InstanceId, Splice> {
        let now = self.clock.now();
        let verified = self.verifier.verify(token, &self.urls.mcp, now).map_err(Splice::Actor)?;
        if self.tokens.is_revoked(&verified.jti.to_string()) || self.stands(Ground::of(&verified)).is_err() {
            return Err(Splice::ActorRevoked);
        }
        if verified.agent != agent.name || verified.acting.component != acting.component {
            return Err(Splice::OtherActor);
        }
        Ok(verified.instance)
    }

    /// Opens a part of a task for another agent, or another component or copy.
    ///
    /// # Errors
    /// If it may not have one, asks for more than there is, or the ledger cannot be written. Nothing was opened then.
    pub async fn delegate(&self, whole: &Arc<LiveTask>, taker: &Taker, acting: &Acting, asked: AskedPart) -> Result<OpenedTask, DelegationRefused> {
        let now = self.clock.now();
        if !self.paces.within(&taker.agent, Door::Task, now) {
            self.note_refused(&taker.agent, Door::Task, ErrorCode::LimitExceeded).await;
            return Err(TaskRefused::new(ErrorCode::LimitExceeded, "the agent opens too many tasks; wait a minute").into());
        }
        self.may_take(whole, taker, acting).map_err(DelegationRefused::Splice)?;
        let entry = self.config.agents.get(&taker.agent).ok_or_else(|| TaskRefused::new(ErrorCode::ProofInvalid, "there is no such agent"))?;
        let agent = &entry.agent;
        self.in_service(agent, now).map_err(|why| TaskRefused::new(ErrorCode::PolicyDenied, why))?;
        if let Some(person) = acting.on_behalf_of.as_ref().filter(|person| **person != whole.task.subject) {
            return Err(TaskRefused::new(ErrorCode::PolicyDenied, format!("the agent may act for `{person}` only")).into());
        }
        check_model(agent, acting, asked.model.as_deref())?;
        self.check_open(agent)?;
        let purpose = asked.purpose.clone().unwrap_or_else(|| whole.task.purpose.clone());
        check_purpose(&purpose)?;
        let asks = Asks { house: self, whole: &whole.task, agent, lists: self.askable(entry, acting)?, purpose: &purpose, now };
        let (tools, narrowed) = asks.tools(asked.tools.as_deref())?;
        let wish = Wish { tools, calls: asked.calls, calls_per_minute: asked.calls_per_minute, ttl: asked.ttl };
        let part = part(&whole.task, taker, &wish, self.config.delegation, now).map_err(|refused| match refused {
            PartRefused::Excess(_) => DelegationRefused::TooMuch(refused.to_string()),
            PartRefused::Over => DelegationRefused::Splice(Splice::Ended),
            other => DelegationRefused::Splice(Splice::Chain(other)),
        })?;
        if part.grant.is_empty() {
            let refused = TaskRefused::new(ErrorCode::TaskEmpty, ErrorCode::TaskEmpty.sentence());
            return Err(TaskRefused { narrowed, ..refused }.into());
        }
        let task = Task {
            id: TaskId::new(now, random()),
            agent: agent.name.clone(),
            spiffe_id: agent.spiffe_id.clone(),
            instance: taker.instance,
            owner: agent.owner.clone(),
            subject: whole.task.subject.clone(),
            purpose,
            model_claimed: asked.model,
            model_attested: acting.model.clone(),
            component: acting.component.clone(),
            undivided: acting.component.is_none() && entry.is_bundle(),
            chain: part.chain,
            held_by: asked.held_by,
            proved_by: Some(acting.proved_by()),
            grant: part.grant,
            budget: part.budget,
            opened_at: now,
            expires_at: part.expires_at,
        };
        let origin = Origin { parent: Some(Arc::clone(whole)), opening: Opening { named: acting.named, by_model: false } };
        Ok(self.begin(task, origin, narrowed, None, now).await?)
    }

    /// Does whoever does the task delegate to the taker, and may the taker stand at the end of the chain?
    fn may_take(&self, whole: &LiveTask, taker: &Taker, acting: &Acting) -> Result<(), Splice> {
        let task = &whole.task;
        bailiwick_core::delegation::join_chain(task, taker, self.config.delegation).map_err(Splice::Chain)?;
        let entry = self.config.agents.get(&task.agent);
        let lists: Option<&[Delegate]> = match &task.component {
            None => entry.map(|e| e.delegates_to.as_slice()),
            Some(component) => entry.and_then(|e| e.components.get(component)).map(|c| c.delegates_to.as_slice()),
        };
        let named = lists.unwrap_or_default().iter().any(|to| to.covers(&taker.agent, acting.component.as_ref()));
        if named { Ok(()) } else { Err(Splice::NotDelegated(task.agent.clone())) }
    }

    /// Puts on record that an agent presented what is no ground for a part of a task. The same of one agent again and again is one entry.
    pub(crate) async fn note_splice(&self, agent: &Agent, splice: &Splice, from: std::net::IpAddr) {
        let slug = splice.slug();
        tracing::info!(agent = %agent.name, %splice, slug, %from, "a delegation was refused");
        metrics::counter!("bailiwick_delegations_refused_total", "reason" => slug).increment(1);
        if !self.splices.tells(&agent.name, slug, self.clock.now()) {
            return;
        }
        let words: String = splice.to_string().chars().take(1000).collect();
        let detail = format!("agent `{}` asked from {from} for a part of a task and was refused ({slug}): {words}", agent.name);
        if splice.is_incident() {
            self.incident("delegation_refused", Some(agent), None, &detail).await;
        } else if let Err(error) = self.append(&entry::House { what: "delegation_refused", name: Some(&detail), digest: None }).await {
            tracing::error!(%error, agent = %agent.name, "a refusal could not be recorded");
        }
    }
}

/// Who asks for which part, to find the tools that it gets.
struct Asks<'a> {
    house: &'a House,
    whole: &'a Task,
    agent: &'a Agent,
    lists: Vec<&'a [crate::config::ToolPattern]>,
    purpose: &'a str,
    now: Timestamp,
}

impl Asks<'_> {
    /// The tools of the wish. What a pattern covers and the taker may not have is left out, and said; what is asked for by its name and
    /// may not be had is too much.
    fn tools(&self, asked: Option<&[AskedTools]>) -> Result<(BTreeMap<ToolName, ToolGrant>, Vec<Narrowed>), DelegationRefused> {
        let mut tools: BTreeMap<ToolName, ToolGrant> = BTreeMap::new();
        let (mut narrowed, mut beyond) = (Vec::new(), Vec::new());
        let mut take = |name: &ToolName, bounds: &BTreeMap<String, Constraint>, exact: bool| match self.may_have(name) {
            Err(reason) if exact => beyond.push(format!("tool `{name}`: {reason}")),
            Err(reason) => narrowed.push(Narrowed { asked: name.to_string(), reason }),
            Ok(()) => {
                if tools.insert(name.clone(), ToolGrant { arguments: bounds.clone() }).is_some() {
                    beyond.push(format!("tool `{name}` is asked for twice"));
                }
            }
        };
        let Some(asked) = asked else {
            self.whole.grant.tools().keys().for_each(|name| take(name, &BTreeMap::new(), false));
            return Ok((tools, narrowed));
        };
        let mut unknown = Vec::new();
        for AskedTools { system, actions, constraints } in asked {
            for action in actions {
                if action == "*" {
                    let of_system = self.whole.grant.tools().keys().filter(|name| name.system() == system.as_str());
                    of_system.for_each(|name| take(name, constraints, false));
                    continue;
                }
                match ToolName::new(system, action) {
                    // Not there, not granted, not to be given: one answer.
                    Ok(name) if self.whole.grant.tool(name.as_str()).is_some() => take(&name, constraints, true),
                    Ok(name) => unknown.push(bailiwick_core::Excess::Tool(name).to_string()),
                    Err(error) => unknown.push(error.to_string()),
                }
            }
        }
        beyond.extend(unknown);
        if beyond.is_empty() { Ok((tools, narrowed)) } else { Err(DelegationRefused::TooMuch(beyond.join("; "))) }
    }

    /// May the taker have this tool of the whole?
    fn may_have(&self, name: &ToolName) -> Result<(), String> {
        if !self.lists.iter().all(|list| list.iter().any(|pattern| pattern.matches(name))) {
            return Err(format!("agent `{}` may not ask for it", self.agent.name));
        }
        let registry = self.house.registry.load();
        let tool = registry.tool(name.as_str()).ok_or("it is not there at present")?;
        let mut approvers = self.house.approvers_of(self.whole);
        let own = self.house.approvers(&self.agent.owner, &self.whole.subject);
        approvers.retain(|person| own.contains(person));
        let question =
            TaskQuestion { agent: self.agent, subject: &self.whole.subject, purpose: self.purpose, tool: name, approvers: &approvers, now: self.now };
        self.house.ever(&self.house.engine.load(), question, tool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_slug_and_forgery_is_an_incident() {
        let instance = bailiwick_core::InstanceId::from_bytes([1; 16]);
        let name: AgentName = "a".parse().unwrap();
        let chain = [PartRefused::Itself(instance), PartRefused::Loop(name.clone()), PartRefused::TooDeep { depth: 4, max: 3 }, PartRefused::Over];
        let own = [
            Splice::Revoked,
            Splice::NoTask,
            Splice::Ended,
            Splice::OtherAgent,
            Splice::OtherInstance,
            Splice::OtherSubject,
            Splice::OtherChain,
            Splice::OutOfService,
            Splice::Actor(ProofError::Signature),
            Splice::ActorRevoked,
            Splice::OtherActor,
            Splice::TooMuch(String::new()),
        ];
        let proofs = [
            ProofError::TooLong(1),
            ProofError::Form("x"),
            ProofError::Duplicate,
            ProofError::TooDeep,
            ProofError::Header("x"),
            ProofError::Algorithm,
            ProofError::Type,
            ProofError::Key,
            ProofError::Signature,
            ProofError::Issuer,
            ProofError::Audience,
            ProofError::Expired,
            ProofError::NotYet,
            ProofError::IssuedAt,
            ProofError::Lifetime,
            ProofError::Claim("x"),
        ];
        let all: Vec<Splice> =
            chain.map(Splice::Chain).into_iter().chain(own).chain(proofs.map(Splice::Token)).chain([Splice::NotDelegated(name)]).collect();
        let slugs: std::collections::BTreeSet<&str> = all.iter().map(Splice::slug).collect();
        assert_eq!(slugs.len(), all.len(), "{slugs:?}");
        assert!(Splice::Token(ProofError::Signature).is_incident() && !Splice::Token(ProofError::Expired).is_incident());
        assert!(Splice::NotDelegated("b".parse().unwrap()).is_incident() && !Splice::Ended.is_incident());
    }

    #[test]
    fn the_same_again_and_again_is_one_entry() {
        let (splices, at) = (Splices::default(), Timestamp::from_millis);
        let (a, b): (AgentName, AgentName) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert!(splices.tells(&a, "key", at(0)) && splices.tells(&b, "key", at(1)) && splices.tells(&a, "loop", at(1)));
        assert!((2..9999).step_by(100).all(|ms| !splices.tells(&a, "key", at(ms))) && splices.tells(&a, "key", at(10_000)));
    }
}
