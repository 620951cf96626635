//! Requests for access (AuthZEN Access Request and Approval Profile 1.0, draft 1): a denial that people can turn into one yes to exactly that.
//!
//! A request is a held call of a task that may do nothing, opened for it alone: people see, decide and find it as any held call, and it
//! ends with the agent, its owner or the task. An approval is spent by the evaluation that it releases.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::hold::HoldState;
use bailiwick_core::{
    Agent, AssertionId, Budget, CallId, Digest, Effect, EndReason, ErrorCode, Grant, Hold, HoldId, PersonName, PolicyRef, Task, TaskId, Timestamp,
    ToolName, Verdict,
};
use bailiwick_identity::Verified;
use bailiwick_identity::access_request::{Denial, MEMBERS_MAX};
use bailiwick_policy::Thing;
use bailiwick_store::{HoldFilter, StoreError};
use bailiwick_wire::render::line;
use serde_json::{Map, Value, json};

use super::asking::canonical_of;
use super::{Asking, Evaluated, Point};
use crate::approve::SayingError;
use crate::clock::random;
use crate::entry;
use crate::house::House;
use crate::journal::TASKS_THAT_WAIT;
use crate::live::LiveTask;
use crate::paces::Door;
use crate::tasks::{Origin, TaskRefused};

/// How long a denial may be submitted.
const DENIAL_LIFE: Duration = Duration::from_secs(600);
/// How long an `Idempotency-Key` is remembered, and how many of one enforcement point.
const REMEMBERED: Duration = Duration::from_secs(25 * 3600);
const REMEMBERED_MAX: usize = 1000;
/// What people are shown of one request, in bytes.
const SHOWN_MAX: usize = 16 * 1024;
const PURPOSE_MAX: usize = 400;
/// What people see of an action that could be no tool's name; the arguments have it as it is.
const NAMELESS: &str = "access-request";

/// What one enforcement point hands in, one at a time: two alike become one.
#[derive(Debug, Default)]
pub(super) struct Desk {
    turn: tokio::sync::Mutex<()>,
    remembered: Mutex<HashMap<Digest, Remembered>>,
}

#[derive(Clone, Copy, Debug)]
struct Remembered {
    body: Digest,
    task: TaskId,
    until: Timestamp,
}

impl Desk {
    fn find(&self, key: &Digest, now: Timestamp) -> Option<Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied().filter(|r| now < r.until)
    }

    fn remember(&self, retry: Option<(Digest, Digest)>, task: TaskId, now: Timestamp) {
        let Some((key, body)) = retry else { return };
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.retain(|_, r| now < r.until);
        // One that finds no room is not remembered: an equal request finds the same task by what it asks all the same.
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(key, Remembered { body, task, until: now.plus(REMEMBERED) });
        }
    }
}

/// What a denial says of how people could turn it.
#[derive(Debug)]
pub(crate) struct Offer {
    /// The evaluation.
    pub(crate) evaluation: AssertionId,
    /// When it was made.
    pub(crate) at: Timestamp,
    /// Until when it may be submitted.
    pub(crate) expires: Timestamp,
    /// What binds it.
    pub(crate) token: String,
}

/// A request for access as it came.
#[derive(Debug)]
pub(crate) struct Submission {
    /// What was denied, its context with whatever was added.
    pub(crate) asking: Asking,
    /// What is asked for beside it. People see it; nothing else reads it.
    pub(crate) requested: Map<String, Value>,
    /// What bound the denial.
    pub(crate) token: String,
    /// The evaluation, if it was named.
    pub(crate) evaluation: Option<String>,
    /// Until when the denial could be submitted, as it was told.
    pub(crate) expires: String,
    /// Digests of the `Idempotency-Key` and of the body.
    pub(crate) retry: Option<(Digest, Digest)>,
}

/// Why a request for access is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessRefused {
    /// Nobody's approval could turn it.
    #[error("nobody's approval would permit this as policy is now")]
    NotRequestable,
    /// Too late.
    #[error("the denial can be submitted no longer: evaluate again")]
    Expired,
    /// It is not about the denial that it brings.
    #[error("the request does not fit the denial that it brings: {0}")]
    Binding(&'static str),
    /// The key was used for another request.
    #[error("this `Idempotency-Key` came with another request before")]
    Duplicate,
    /// Too many, or too long.
    #[error("{0}")]
    Limit(ErrorCode, String),
    /// The store's.
    #[error("the ledger cannot be written: {0}")]
    Store(#[from] StoreError),
}

impl From<TaskRefused> for AccessRefused {
    fn from(refused: TaskRefused) -> Self {
        Self::Limit(refused.code, refused.detail)
    }
}

/// Why an approval that was presented releases nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotApplicable {
    /// It is not one of this enforcement point's, or was changed, or nobody gave it.
    Unverifiable,
    /// Its time is over, it was spent or taken back.
    Expired,
    /// It is for something else.
    OutOfScope,
    /// It is good, and policy says no all the same.
    PolicyDenied,
}

impl NotApplicable {
    //= authzen-access-request-approval-profile-1_0#iana-reeval-reasons
    // approval_expired request; out_of_scope request; policy_denied none; approval_unverifiable none.
    /// The profile's word, and whether a new request is what follows.
    pub(crate) const fn told(self) -> (&'static str, bool) {
        match self {
            Self::Unverifiable => ("approval_unverifiable", false),
            Self::Expired => ("approval_expired", true),
            Self::OutOfScope => ("out_of_scope", true),
            Self::PolicyDenied => ("policy_denied", false),
        }
    }
}

/// Where a request stands, in the profile's words.
//= authzen-access-request-approval-profile-1_0#state-transitions
// a task is created in the pending state and transitions exactly once to one of the terminal states defined above. Terminal states do
// not transition further.
// An approval that was spent or taken back stays `approved` here; what it still releases is said where it is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Pending,
    Approved,
    Denied,
    Expired,
    Cancelled,
}

impl Standing {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Where a request stands.
pub(crate) const fn standing(hold: &Hold) -> Standing {
    let enough = hold.count > 0 && hold.approvals.len() >= hold.count;
    match &hold.state {
        HoldState::Refused { .. } => Standing::Denied,
        _ if enough => Standing::Approved,
        HoldState::Expired { .. } => Standing::Expired,
        HoldState::Withdrawn { .. } => Standing::Cancelled,
        HoldState::Pending | HoldState::Approved { .. } | HoldState::Consumed { .. } => Standing::Pending,
    }
}

/// The approval as it is given, and has to be brought back.
pub(crate) fn approval_of(hold: &Hold) -> Value {
    json!({ "id": hold.id, "approved_at": hold.approvals.last().map(|a| a.at), "approved_until": hold.expires_at })
}

/// Who a subject of an enforcement point is here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// This person, or an agent of his or hers.
    Person(PersonName),
    /// Somebody whom we do not know.
    Stranger,
    /// A person who is disabled.
    Disabled,
}

/// The digest that a person approves: what is asked for, in whose name, and every byte that is shown.
fn digest_of(hold: &Hold, shown: &Digest) -> Digest {
    let parts = [hold.tool.as_str().as_bytes(), hold.target.as_bytes(), &hold.task.to_bytes(), hold.key.as_bytes(), shown.as_bytes()];
    Digest::bind("bailiwick/access-request/v1", &parts)
}

impl House {
    /// Where requests for access go.
    pub(crate) fn access_request_endpoint(&self) -> Option<String> {
        //= authzen-access-request-approval-profile-1_0#discovery
        // A PDP supporting this profile MUST publish an access_request_endpoint in PDP metadata. The endpoint value MUST be an HTTPS URI.
        // Without TLS there is none, and so no denial offers it.
        let base = &self.urls.base;
        base.starts_with("https://").then(|| format!("{base}/access/v1/requests"))
    }

    /// Who a subject of an enforcement point is here, if anybody.
    pub(crate) fn asker_elsewhere(&self, point: &Point, subject: &Thing) -> Asker {
        let name = match subject.kind.as_str() {
            "user" => match point.entry.people.get(&subject.id) {
                Some(name) => name.clone(),
                None => match subject.id.to_ascii_lowercase().parse::<PersonName>() {
                    Ok(name) if self.config.people.contains_key(&name) || self.directory.names().contains(&name) => name,
                    _ => return Asker::Stranger,
                },
            },
            "agent" => match self.agent(&subject.id) {
                Some(agent) => agent.owner.clone(),
                None => return Asker::Stranger,
            },
            _ => return Asker::Stranger,
        };
        if self.person(name.as_str()).is_some() { Asker::Person(name) } else { Asker::Disabled }
    }

    /// What a denial offers that people could turn. None: nothing binds it, or there is nowhere to go.
    pub(crate) fn offer_access(&self, agent: &Agent, point: &Point, asking: &Asking) -> Option<Offer> {
        let endpoint = self.access_request_endpoint()?;
        let members = asking.members(&point.entry.volatile);
        if members.len() > MEMBERS_MAX {
            return None;
        }
        let now = self.clock.now();
        let evaluation = AssertionId::new(now, random());
        let denial = Denial { audience: &endpoint, agent: &agent.spiffe_id, evaluation, members: &members, hash: asking.hash(&members)? };
        let (token, expires) = denial.sign(&self.issuer, now, DENIAL_LIFE).ok()?;
        Some(Offer { evaluation, at: now, expires, token })
    }

    /// Takes a request for access: people are asked, once.
    ///
    /// # Errors
    /// See [`AccessRefused`]; nobody is asked then.
    pub(crate) async fn request_access(&self, by: &Verified, agent: &Agent, point: &Point, mut submitted: Submission) -> Result<Hold, AccessRefused> {
        let _turn = point.desk.turn.lock().await;
        let now = self.clock.now();
        if let Some((key, body)) = submitted.retry
            && let Some(before) = point.desk.find(&key, now)
        {
            if before.body != body {
                return Err(AccessRefused::Duplicate);
            }
            if let Some(hold) = self.access_request(agent, point, before.task).await? {
                return Ok(hold);
            }
        }
        let (evaluation, denial_ends, said) = self.bound_to(agent, point, &mut submitted, now)?;
        let asking = &submitted.asking;
        let known = self.with_labels(asking).await?;
        let Evaluated::NeedsApproval(people, policies) = point.evaluate(&known, &self.approvers_elsewhere(agent, point, &asking.subject)) else {
            return Err(AccessRefused::NotRequestable);
        };
        let members = asking.members(&point.entry.volatile);
        let scope = asking.scope(&members);
        let bytes = canonical_of(&scope).ok_or(AccessRefused::Binding("a number in it is not exactly one number"))?;
        if let Some(hold) = self.same_request(agent, point, &bytes, now) {
            point.desk.remember(submitted.retry, hold.task, now);
            return Ok(hold);
        }
        self.room_for(agent, point, &asking.subject, now).await?;
        let shown = shown(scope, said, &submitted.requested)?;
        //= authzen-access-request-approval-profile-1_0#binding-token-integrity
        // The Access Request Service SHOULD track recently-seen jti values until the token's exp to detect replay of an otherwise valid token
        let issuer = format!("access-request:{}", agent.name);
        if !self.store.jti_use(&issuer, &evaluation.to_string(), denial_ends, now).await? {
            return Err(AccessRefused::Binding("it was submitted before"));
        }
        let task = self.task_of_request(by, agent, point, asking, now);
        let opened = self.begin(task, Origin::default(), Vec::new(), None, now).await?;
        let hold = self.ask_people(by, &opened.live, point, asking, (&bytes, shown), (people, policies), now).await;
        match &hold {
            Ok(hold) => point.desk.remember(submitted.retry, hold.task, now),
            Err(_) => self.end_request(opened.live.task.id).await,
        }
        hold
    }

    /// Checks the denial that is brought, and leaves of the context what counts. Gives the evaluation, until when its denial could be
    /// submitted, and what was added.
    fn bound_to(
        &self,
        agent: &Agent,
        point: &Point,
        submitted: &mut Submission,
        now: Timestamp,
    ) -> Result<(AssertionId, Timestamp, Map<String, Value>), AccessRefused> {
        use AccessRefused::Binding;
        let endpoint = self.access_request_endpoint().ok_or(AccessRefused::NotRequestable)?;
        let bound = self.verifier.verify_denial(&submitted.token, &endpoint).map_err(|error| {
            tracing::info!(agent = %agent.name, %error, "a request for access brought no denial of ours");
            Binding("`binding_token` is not one of this broker's")
        })?;
        //= authzen-access-request-approval-profile-1_0#confused-deputy-and-request-substitution
        // Implementations MUST bind Access Requests and approval results to the Subject, Resource, Action, Context, task, and requester.
        if bound.agent != agent.spiffe_id {
            return Err(Binding("the denial was another enforcement point's"));
        }
        if submitted.evaluation.as_ref().is_some_and(|given| *given != bound.evaluation.to_string()) {
            return Err(Binding("`evaluation_id` is another evaluation's"));
        }
        //= authzen-access-request-approval-profile-1_0#binding-token-integrity
        // When denial_expires_at or equivalent protected binding material is present, the Access Request Service MUST verify that
        // denial.expires_at matches the protected value before relying on it.
        if submitted.expires != bound.expires.to_string() {
            return Err(Binding("`expires_at` is not the denial's"));
        }
        let members: Vec<&str> = bound.members.iter().map(String::as_str).collect();
        if submitted.asking.hash(&members).is_none_or(|hash| !bound.is_about(&hash)) {
            return Err(Binding("subject, resource, action or context is not what was denied"));
        }
        if bound.is_over(now) {
            return Err(AccessRefused::Expired);
        }
        let counts = |name: &String| bound.members.contains(name) || point.entry.volatile.contains(name);
        let (context, said) = std::mem::take(&mut submitted.asking.context).into_iter().partition(|(name, _)| counts(name));
        submitted.asking.context = context;
        Ok((bound.evaluation, bound.expires, said))
    }

    /// A request for the same that people decide or have decided, and that is not over.
    fn same_request(&self, agent: &Agent, point: &Point, scope: &[u8], now: Timestamp) -> Option<Hold> {
        let same = |hold: &Hold| {
            now < hold.expires_at
                && hold.agent == agent.name
                && hold.tool.system() == point.entry.name.as_str()
                && self.live.find(hold.task).is_some_and(|live| live.is_open(now) && self.scope_key(&live, scope) == hold.key)
        };
        self.holds.matching(same).into_iter().next()
    }

    /// Under which an equal request finds its hold. It stands in no entry, as the digest of the arguments does: what people saw is kept from
    /// whoever reads the record by it.
    fn scope_key(&self, live: &LiveTask, scope: &[u8]) -> Digest {
        self.keyed(live, &[b"scope\n", scope].concat())
    }

    /// Is there room for one more? Neither one subject nor one enforcement point buries people under requests.
    async fn room_for(&self, agent: &Agent, point: &Point, subject: &Thing, now: Timestamp) -> Result<(), AccessRefused> {
        let limit = |words: &str| AccessRefused::Limit(ErrorCode::HoldFlood, words.to_owned());
        if !self.paces.within(&agent.name, Door::Task, now) {
            self.note_refused(&agent.name, Door::Task, ErrorCode::LimitExceeded).await;
            return Err(limit("this enforcement point asks for too much; wait a minute"));
        }
        self.check_open(agent)?;
        let waiting = self.holds.matching(|h| h.agent == agent.name && h.tool.system() == point.entry.name.as_str() && h.waits(now));
        let most = usize::try_from(self.config.pending_max).unwrap_or(usize::MAX);
        if waiting.len() >= most.saturating_mul(TASKS_THAT_WAIT) {
            return Err(limit("too many requests of this enforcement point wait for people"));
        }
        let of_subject = |hold: &&Hold| {
            let shown: Option<Value> = serde_json::from_slice(&hold.arguments).ok();
            shown.is_some_and(|s| {
                s.pointer("/subject/id").is_some_and(|id| *id == subject.id) && s.pointer("/subject/type").is_some_and(|k| *k == subject.kind)
            })
        };
        if waiting.iter().filter(of_subject).count() >= most {
            return Err(limit("too many requests of this subject wait for people"));
        }
        Ok(())
    }

    /// A task that may do nothing, for as long as people may decide.
    fn task_of_request(&self, by: &Verified, agent: &Agent, point: &Point, asking: &Asking, now: Timestamp) -> Task {
        let subject = match self.asker_elsewhere(point, &asking.subject) {
            Asker::Person(name) => name,
            Asker::Stranger | Asker::Disabled => agent.owner.clone(),
        };
        let purpose = line(&format!(
            "access request of {} `{}`: {} of {} `{}`",
            asking.subject.kind, asking.subject.id, asking.action, asking.resource.kind, asking.resource.id
        ));
        Task {
            id: TaskId::new(now, random()),
            agent: agent.name.clone(),
            spiffe_id: agent.spiffe_id.clone(),
            instance: by.instance,
            owner: agent.owner.clone(),
            subject,
            purpose: purpose.chars().take(PURPOSE_MAX).collect(),
            model_claimed: None,
            model_attested: by.acting.model.clone(),
            component: by.acting.component.clone(),
            undivided: by.acting.component.is_none() && self.config.agents.get(&agent.name).is_some_and(crate::config::AgentEntry::is_bundle),
            chain: Vec::new(),
            held_by: crate::authn::binding::held_by(by.confirmation.as_ref()),
            proved_by: Some(by.acting.proved_by()),
            grant: Grant::default(),
            budget: Budget { calls: 0, calls_per_minute: 0 },
            opened_at: now,
            expires_at: now.plus(self.config.hold_ttl),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is one fact of the request")]
    async fn ask_people(
        &self,
        by: &Verified,
        live: &LiveTask,
        point: &Point,
        asking: &Asking,
        (scope, shown): (&[u8], Vec<u8>),
        (people, policies): (Vec<PersonName>, Vec<PolicyRef>),
        now: Timestamp,
    ) -> Result<Hold, AccessRefused> {
        let task = &live.task;
        let name = &point.entry.name;
        let tool = ToolName::new(name, &asking.action).or_else(|_| ToolName::new(name, NAMELESS));
        let tool = tool.map_err(|_| AccessRefused::Binding("the action has no name"))?;
        let mut hold = Hold {
            id: HoldId::new(now, random()),
            call: CallId::new(now, random()),
            task: task.id,
            agent: task.agent.clone(),
            owner: task.owner.clone(),
            subject: task.subject.clone(),
            tool,
            effect: Effect::Approve,
            target: line(&format!("{} {}", asking.resource.kind, asking.resource.id)),
            arguments: shown.into(),
            key: self.scope_key(live, scope),
            digest: Digest::of(scope),
            revision: point.engine.revision().to_string(),
            people,
            count: 1,
            reasons: bailiwick_core::decision::words(&policies),
            approvals: Vec::new(),
            at: now,
            expires_at: task.expires_at,
            state: HoldState::Pending,
        };
        let arguments = self.keyed(live, &hold.arguments);
        hold.digest = digest_of(&hold, &arguments);
        let token = by.jti.to_string();
        let who = entry::Who {
            agent: &task.spiffe_id,
            component: task.component.as_ref(),
            undivided: task.undivided,
            instance: task.instance,
            subject: &task.subject,
            owner: &task.owner,
            actors: &[],
            token: &token,
        };
        let labels = live.labels();
        let opened = entry::HoldOpened {
            hold: hold.id,
            call: hold.call,
            task: hold.task,
            who,
            tool: &hold.tool,
            effect: hold.effect,
            digest: hold.digest,
            arguments,
            kept_until: None,
            people: &hold.people,
            count: hold.count,
            revision: &hold.revision,
            policies: &policies,
            labels: &labels,
            expires_at: hold.expires_at,
        };
        let body = entry::encode(now, &opened);
        match self.store.hold_open(&hold, body, 1).await? {
            Ok(hold) => {
                self.holds.put(hold.clone());
                Ok(hold)
            }
            Err(_) => Err(AccessRefused::Limit(ErrorCode::HoldFlood, "too many requests wait for people".to_owned())),
        }
    }

    /// The request that this task carries, if it is this enforcement point's.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn access_request(&self, agent: &Agent, point: &Point, task: TaskId) -> Result<Option<Hold>, StoreError> {
        let holds = self.store.holds(HoldFilter { task: Some(task), agent: Some(agent.name.clone()), limit: 1, ..HoldFilter::default() }).await?;
        Ok(holds.into_iter().find(|hold| hold.tool.system() == point.entry.name.as_str()))
    }

    /// Takes a request back that people have not decided. False: they have.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn cancel_request(&self, hold: &Hold) -> Result<bool, StoreError> {
        if hold.state != HoldState::Pending {
            return Ok(false);
        }
        match self.withdraw(hold.id).await {
            Ok(()) => {}
            Err(SayingError::Store(error)) => return Err(error),
            Err(_) => return Ok(false),
        }
        self.end_request(hold.task).await;
        Ok(true)
    }

    /// Ends the task that carries a request. If that cannot be recorded, it is owed.
    async fn end_request(&self, task: TaskId) {
        if let Err(error) = self.end_task(task, EndReason::Completed, None).await {
            tracing::error!(%error, %task, "the end of a request for access could not be recorded yet");
        }
    }

    /// Does the approval that is presented release exactly this now? Then it is spent, and the permit on record.
    ///
    /// # Errors
    /// The store's: then nothing is permitted.
    pub(crate) async fn release(
        &self,
        agent: &Agent,
        point: &Point,
        asking: &Asking,
        given: &Value,
    ) -> Result<Result<(Hold, Vec<PolicyRef>), NotApplicable>, StoreError> {
        let now = self.clock.now();
        let hold = match self.applicable(agent, point, asking, given, now).await? {
            Ok(hold) => hold,
            Err(why) => return Ok(Err(why)),
        };
        let approvers = self.approvers_elsewhere(agent, point, &asking.subject);
        let approved: Vec<PersonName> = hold.approvals.iter().map(|a| a.person.clone()).filter(|p| approvers.contains(p)).collect();
        //= authzen-access-request-approval-profile-1_0#pdp-processing-rules
        // MUST ensure that approval does not override policy conditions that remain mandatory at enforcement time
        let known = self.with_labels(asking).await?;
        let Verdict::Permit(policies) = point.ask(&known, &approved) else { return Ok(Err(NotApplicable::PolicyDenied)) };
        let call = CallId::new(now, random());
        let entry = point.entry_of(agent, asking, &policies, Some(&hold), now).of_task(hold.task).of_call(call);
        let seen = hold.clone();
        let spent = self.store.write(move |w| if w.hold_spend(&seen, call, now)? { w.append(entry).map(|_| true) } else { Ok(false) });
        if !spent.await? {
            // Somebody was faster: take over what the store says.
            if let Some(now) = self.store.hold(hold.id).await? {
                self.holds.put(now);
            }
            return Ok(Err(NotApplicable::Expired));
        }
        self.holds.put(Hold { state: HoldState::Consumed { call, at: now }, ..hold.clone() });
        self.end_request(hold.task).await;
        Ok(Ok((hold, policies)))
    }

    //= authzen-access-request-approval-profile-1_0#completion-semantics
    // The PDP MUST NOT authorize a re-evaluation solely because the request contains a known approval.id. The PDP MUST verify that the
    // approval reference presented in context.approval is applicable to the authenticated caller or requester, current Subject, Resource,
    // Action, relevant Context, approval scope, and approval expiry.
    async fn applicable(
        &self,
        agent: &Agent,
        point: &Point,
        asking: &Asking,
        given: &Value,
        now: Timestamp,
    ) -> Result<Result<Hold, NotApplicable>, StoreError> {
        let Some(id) = given.get("id").and_then(Value::as_str).and_then(|id| id.parse::<HoldId>().ok()) else {
            return Ok(Err(NotApplicable::Unverifiable));
        };
        let ours = |hold: &Hold| hold.agent == agent.name && hold.tool.system() == point.entry.name.as_str();
        let Some(hold) = self.store.hold(id).await?.filter(ours) else { return Ok(Err(NotApplicable::Unverifiable)) };
        // It comes back as it was given, or not at all.
        if standing(&hold) != Standing::Approved || *given != approval_of(&hold) {
            return Ok(Err(NotApplicable::Unverifiable));
        }
        let live = self.live.find(hold.task).filter(|live| hold.releases(now) && live.is_open(now));
        let Some(live) = live else { return Ok(Err(NotApplicable::Expired)) };
        let scope = canonical_of(&asking.scope(&asking.members(&point.entry.volatile)));
        Ok(if scope.is_some_and(|scope| self.scope_key(&live, &scope) == hold.key) { Ok(hold) } else { Err(NotApplicable::OutOfScope) })
    }
}

/// What people are shown: what is asked, and, apart from it, what the request says for itself.
fn shown(mut scope: Value, said: Map<String, Value>, requested: &Map<String, Value>) -> Result<Vec<u8>, AccessRefused> {
    if let Some(all) = scope.as_object_mut() {
        for (name, members) in [("said", Value::Object(said)), ("requested_access", Value::Object(requested.clone()))] {
            if members.as_object().is_some_and(|m| !m.is_empty()) {
                all.insert(name.to_owned(), members);
            }
        }
    }
    let bytes = canonical_of(&scope).ok_or(AccessRefused::Binding("a number in it is not exactly one number"))?;
    if bytes.len() > SHOWN_MAX {
        return Err(AccessRefused::Limit(ErrorCode::LimitExceeded, format!("people would have to read more than {SHOWN_MAX} bytes")));
    }
    Ok(bytes)
}
