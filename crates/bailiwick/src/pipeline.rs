//! The whole way of a call. Read [`House::handle`] aloud: the ifs live here, the steps are straight lines.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bailiwick_core::call::{Binding, Spent};
use bailiwick_core::hold::HoldState;
use bailiwick_core::{
    Authenticated, Bound, Call, CallId, Caller, Circumstances, Decision, Effect, ErrorCode, Hold, Permitted, Received, Recorded, Salt, Scalar,
    Timestamp, decide,
};
use bailiwick_credentials::Injection;
use bailiwick_identity::{Confirmation, KeyId};
use bailiwick_store::{PayloadKind, StoreError};
use bailiwick_wire::json::Kind as JsonKind;
use bailiwick_wire::mcp::{Id, Method, Version};
use bailiwick_wire::{Limits, Raw, RawBuf};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::builtin::{Refusal, Rights, issued};
use crate::entry;
use crate::fault;
use crate::house::House;
use crate::in_place::InPlace;
use crate::journal::Recorder;
use crate::labels::{Asking, LabelError};
use crate::leases::{Held, LeaseError};
use crate::live::LiveTask;
use crate::payload::Whose;
use crate::registry::ToolEntry;
use crate::standing::Ground;
use crate::upstream::{Event, Reply, SessionKey, UpstreamError, UpstreamRequest, UseEra};

/// Who calls, and the task of the token that was presented.
#[derive(Clone, Debug)]
pub struct Who {
    /// The proved identity.
    pub caller: Arc<Caller>,
    /// Its task.
    pub live: Arc<LiveTask>,
    /// What the token is bound to that was presented.
    pub confirmation: Option<Confirmation>,
    /// The registered key by which whoever got the token proved itself, if it was one.
    pub key: Option<KeyId>,
    /// When the token was issued.
    pub issued: Timestamp,
}

/// The era in which a system is asked.
#[derive(Clone, Debug)]
pub enum Asks {
    /// 2026-07-28.
    Modern {
        /// What may be shown of the client's capabilities: an object.
        capabilities: RawBuf,
    },
    /// A handshake revision.
    Legacy {
        /// Which.
        version: Version,
        /// What may be shown of the client's capabilities: an object.
        capabilities: RawBuf,
    },
}

/// How a permitted call is put to its system: everything but the arguments.
#[derive(Debug)]
pub struct Sending {
    /// In which era.
    pub asks: Asks,
    /// Under which session of the system.
    pub session: SessionKey,
    /// The method.
    pub method: Method,
    /// Members of `_meta` to pass on: an object.
    pub meta: Option<RawBuf>,
    /// The client's progress token.
    pub progress: Option<RawBuf>,
    /// Where to say what the system says meanwhile.
    pub events: Option<mpsc::Sender<Event>>,
    /// Cancelled when the client gives the call up.
    pub cancel: CancellationToken,
    /// Members of `params` beside `name` and `arguments` (an upstream's own `requestState` and `inputResponses`), raw.
    pub extra: Vec<(&'static str, String)>,
    /// How much longer than others the call may take, as its system may ask people in the middle of it.
    pub waits: Option<Duration>,
    /// The life of the system's server in which the tool was looked at.
    pub life: Option<u64>,
    /// What the client answers to such questions.
    pub told: Option<crate::mcp::parked::ToldList>,
    /// The credential that is made for the task.
    pub(crate) lease: Option<Arc<crate::leases::Held>>,
}

impl Sending {
    /// The members of `extra` as one text, for their digest on record.
    fn extra_text(&self) -> Option<Vec<u8>> {
        let text: Vec<String> = self.extra.iter().map(|(name, raw)| format!("{name}:{raw}\n")).collect();
        (!text.is_empty()).then(|| text.concat().into_bytes())
    }
}

/// What became of a call.
#[derive(Debug)]
pub enum Answer {
    /// The system answered.
    Done(Reply),
    /// It waits for people.
    Held(Box<Hold>),
    /// It was refused, or came to nothing.
    Refused(Refused),
}

/// A call that was refused, or came to nothing.
#[derive(Debug)]
pub struct Refused {
    /// The stable code.
    pub code: ErrorCode,
    /// What to tell the caller, in words.
    pub detail: String,
}

impl Refused {
    fn answer(code: ErrorCode, detail: impl Into<String>) -> Answer {
        Answer::Refused(Self { code, detail: detail.into() })
    }

    fn plain(code: ErrorCode) -> Answer {
        Self::answer(code, code.sentence())
    }
}

/// Times that a call is decided again because authority or its approval changed between decision and record.
const DECIDE_AGAIN_MAX: usize = 8;
/// An outcome that could not be written is tried again after this.
const OUTCOME_AGAIN_AFTER: Duration = Duration::from_secs(1);

impl House {
    /// The whole way of a call, from its bytes to its answer.
    pub async fn handle(
        self: &Arc<Self>,
        call: Call<Received>,
        who: &Who,
        tool: Option<&Arc<ToolEntry>>,
        traceparent: Option<&str>,
        sending: Sending,
    ) -> Answer {
        match self.way(call, who, tool, traceparent, sending).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(error.code = %ErrorCode::AuditUnavailable, %error, "call refused: the ledger cannot be written");
                Refused::answer(ErrorCode::AuditUnavailable, format!("{}: {}", ErrorCode::AuditUnavailable.sentence(), error.public()))
            }
        }
    }

    async fn way(
        self: &Arc<Self>,
        call: Call<Received>,
        who: &Who,
        tool: Option<&Arc<ToolEntry>>,
        traceparent: Option<&str>,
        mut sending: Sending,
    ) -> Result<Answer, StoreError> {
        let call = call.authenticate(Arc::clone(&who.caller));
        let mut control = self.store.control_seq();
        // What was decided is what is asked: an entry for `resources/read` is never a way to send another method.
        let tool = tool.filter(|t| t.serves(sending.method));
        let mut call = match self.bind(call, who, tool).await? {
            Ok(call) => call,
            Err(answer) => return Ok(answer),
        };
        let Some(tool) = tool else { return Ok(Refused::plain(ErrorCode::ToolUnknown)) };
        let demand = tool.system.entry.binding;
        if !demand.met_by(who.confirmation.as_ref()) {
            let code = ErrorCode::BindingRequired;
            self.denied(&call, code, "the system demands a token that is bound to a key", &[]).await?;
            return Ok(Refused::answer(code, format!("{}: {}", code.sentence(), demand.words())));
        }
        if let Some(refused) = self.refused_before(&call).await? {
            return Ok(refused);
        }
        sending.lease = match self.reserve_lease(&call, who, tool).await? {
            Ok(lease) => lease,
            Err(answer) => return Ok(answer),
        };
        for _ in 0..DECIDE_AGAIN_MAX {
            // The account that waited for it was taken meanwhile, or its end has begun: there is another one.
            if sending.lease.as_ref().is_some_and(|held| held.is_over()) {
                sending.lease = match self.reserve_lease(&call, who, tool).await? {
                    Ok(lease) => lease,
                    Err(answer) => return Ok(answer),
                };
            }
            // Read first: a server that starts anew from here on is looked at before anything is sent to it.
            sending.life = (!tool.tool.name.is_operation()).then(|| tool.system.listed_life.load(Ordering::Acquire));
            // The tool was looked up before the fence was read, for a held call long before: is it still the one in force?
            if !self.registry.load().has(tool) {
                let code = ErrorCode::ToolUnknown;
                self.release_lease(&sending);
                self.denied(&call, code, "the tool was changed or set aside since it was looked up", &[]).await?;
                return Ok(Refused::plain(code));
            }
            // So was the token: one that was revoked since then lets nothing pass, nor one whose ground was taken away.
            if let Err(why) = self.still_lets(who) {
                let code = ErrorCode::ProofInvalid;
                self.release_lease(&sending);
                self.denied(&call, code, &why, &[]).await?;
                return Ok(Refused::plain(code));
            }
            fault::point("before-decide");
            let decision = self.decide(call, who);
            let approved = decision.spends().is_some();
            if approved && !sending.extra.is_empty() {
                let code = ErrorCode::ApprovalMismatch;
                self.release_lease(&sending);
                let detail = "the answers that were brought back to the system's questions are not part of what people approved";
                self.denied(decision.call(), code, detail, &[]).await?;
                return Ok(Refused::answer(code, detail));
            }
            let recorder = Recorder { house: self, control, traceparent, brought: sending.extra_text(), lease: sending.lease.as_ref() };
            fault::point("before-record");
            call = match bailiwick_core::record::record(&recorder, decision).await? {
                Recorded::Permit(call) => {
                    fault::point("after-record");
                    who.live.count();
                    if approved {
                        // What people approved is all that is sent: the system is told that nobody answers its questions.
                        sending.events = sending.events.map(notifications_only);
                        sending.waits = None;
                    }
                    return Ok(self.permitted(call, who, tool, sending).await);
                }
                Recorded::Denial { code, detail, policies, .. } => {
                    self.release_lease(&sending);
                    let detail = if policies.is_empty() { detail } else { bailiwick_core::decision::words(&policies) };
                    return Ok(Refused::answer(code, detail));
                }
                Recorded::Hold(hold, call) if matches!(hold.state, HoldState::Withdrawn { .. }) => call,
                Recorded::Hold(hold, _) => {
                    fault::point("after-hold");
                    self.release_lease(&sending);
                    metrics::counter!("bailiwick_held_total", "effect" => tool.tool.effect.word()).increment(1);
                    return Ok(Answer::Held(hold));
                }
                Recorded::Stale(call) => call,
            };
            control = self.store.control_seq();
        }
        Ok(Refused::answer(ErrorCode::AuditUnavailable, "authority changed too often while the call was decided; call again"))
    }

    /// Does the token with which the call was let in still let it in?
    fn still_lets(&self, who: &Who) -> Result<(), String> {
        if self.tokens.is_revoked(&who.caller.token) {
            return Err("the token was revoked after the call was let in".to_owned());
        }
        self.stands(Ground::under(who))?;
        self.task_stands(&who.live)
    }

    /// Binds the call to its task and tool, and checks arguments, constraints and pace. What is refused here is on record as denied.
    async fn bind(&self, call: Call<Authenticated>, who: &Who, tool: Option<&Arc<ToolEntry>>) -> Result<Result<Call<Bound>, Answer>, StoreError> {
        let now = self.clock.now();
        let (caller, task) = (&who.caller, &who.live.task);
        let refuse = async |id, name: &str, code: ErrorCode, detail: String| {
            self.denied_early(id, caller, task, name, code, &detail, &[]).await?;
            Ok(Err(Refused::answer(code, detail)))
        };
        // Before anything else: what is refused counts too, or refusals could be had, and recorded, without end.
        if !who.live.within_rate(now) {
            return refuse(call.id(), call.requested(), ErrorCode::BudgetRate, ErrorCode::BudgetRate.sentence().to_owned()).await;
        }
        let Ok(arguments) = Raw::parse(call.arguments(), &Limits::REQUEST) else {
            let (id, name) = (call.id(), call.requested().to_owned());
            return refuse(id, &name, ErrorCode::CallMalformed, "the arguments are not one JSON object with unique keys".to_owned()).await;
        };
        let mut text = Vec::with_capacity(call.arguments().len());
        let canonical = bailiwick_wire::canonical(arguments, &mut text);
        let digest = bailiwick_core::Digest::of(&text);
        let known = tool.filter(|t| t.callable());
        let granted = task.grant.tool(call.requested());
        // Only for a tool that the task has: how long a schema takes must not tell that another exists.
        let violation = known.filter(|_| granted.is_some()).and_then(|t| t.check(arguments).err());
        let binding = Binding {
            task: Arc::clone(task),
            open: who.live.is_open(now),
            tool: known.map(|t| Arc::clone(&t.tool)),
            salt: Salt::from_bytes(who.live.salt.arguments(digest.as_bytes())),
            canonical: digest,
            exact_numbers: !canonical.lossy_numbers,
        };
        let constraint = granted.map(|grant| grant.check(|argument| scalars(arguments, argument)));
        let call = match call.bind(binding) {
            Ok(call) => call,
            Err((call, code)) => return refuse(call.id(), call.requested(), code, code.sentence().to_owned()).await,
        };
        if let Some(violation) = violation {
            return refuse(call.id(), call.requested(), ErrorCode::ArgumentsInvalid, violation).await;
        }
        if let Some(Err(violation)) = constraint {
            return refuse(call.id(), call.requested(), ErrorCode::ConstraintViolated, violation.to_string()).await;
        }
        Ok(Ok(call))
    }

    /// A person said no to exactly this call a while ago: nobody is asked again.
    async fn refused_before(&self, call: &Call<Bound>) -> Result<Option<Answer>, StoreError> {
        if self.holds.is_empty() {
            return Ok(None);
        }
        let Some(hold) = self.holds.find(&call.hold_key(), self.clock.now()) else { return Ok(None) };
        let HoldState::Refused { by, reason, .. } = &hold.state else { return Ok(None) };
        let reason = if reason.is_empty() { String::new() } else { format!(": {}", bailiwick_wire::render::line(reason)) };
        let detail = format!("`{by}` refused this call{reason}");
        self.denied(call, ErrorCode::HoldRefused, &detail, &[]).await?;
        Ok(Some(Refused::answer(ErrorCode::HoldRefused, detail)))
    }

    /// The lease that the call would be sent with, by name: nothing is made before the permit. What a call of a built-in system does is
    /// judged here, from its arguments: it may not do more than its tool is said to do.
    async fn reserve_lease(&self, call: &Call<Bound>, who: &Who, tool: &ToolEntry) -> Result<Result<Option<Arc<Held>>, Answer>, StoreError> {
        let Some(leasing) = &tool.system.leasing else { return Ok(Ok(None)) };
        let rights = match &leasing.builtin {
            None => Rights { class: "use", rights: leasing.rights.clone() },
            Some(builtin) if leasing.issues && call.tool().effect == Effect::Issue => match issued(&**builtin, tool.tool.name.tool()) {
                Some(rights) => rights,
                None => {
                    let code = ErrorCode::ToolUnknown;
                    self.denied(call, code, "a tool that hands no credential out is said to", &[]).await?;
                    return Ok(Err(Refused::plain(code)));
                }
            },
            Some(builtin) => {
                let allowed = call.tool().effect;
                let judged = crate::builtin::read_arguments(call.arguments())
                    .and_then(|arguments| builtin.judge(tool.tool.name.tool(), &arguments))
                    .and_then(|effect| if effect <= allowed { Ok(effect) } else { Err(too_much(&tool.tool.name, allowed, effect)) });
                match judged {
                    Ok(effect) => builtin.rights(effect),
                    Err(refusal) => {
                        let code = ErrorCode::ArgumentsInvalid;
                        // The words may repeat an argument, and no argument stands in an entry.
                        self.denied(call, code, "the arguments ask for what this tool does not do", &[]).await?;
                        return Ok(Err(Refused::answer(code, refusal.words)));
                    }
                }
            }
        };
        let held = self.leases.reserve(&who.live.task, leasing, rights);
        // Before the record: an approval is not spent on a call that could not be sent.
        if !held.is_live() && leasing.is_down(self.clock.now()) {
            self.leases.release(&held);
            let code = ErrorCode::CredentialUnavailable;
            self.denied(call, code, "the system could not be reached a moment ago", &[]).await?;
            return Ok(Err(Refused::plain(code)));
        }
        Ok(Ok(Some(held)))
    }

    /// A call that is not permitted now keeps no account from others.
    fn release_lease(&self, sending: &Sending) {
        if let Some(held) = &sending.lease {
            self.leases.release(held);
        }
    }

    /// Law 2: an approval is a fact, not a door. The policy is asked again with it.
    fn decide(&self, call: Call<Bound>, who: &Who) -> Decision {
        let now = self.clock.now();
        let hold = if self.holds.is_empty() { None } else { self.holds.find(&call.hold_key(), now) };
        let approvers = self.approvers_of(call.task());
        // A yes counts as long as the person may say it: someone who is no approver any more releases nothing.
        let hold = hold.map(|mut hold| {
            hold.approvals.retain(|a| approvers.contains(&a.person));
            hold
        });
        let engine = self.engine.load();
        let labels = who.live.labels();
        decide(&**engine, call, hold, &approvers, Circumstances { now, calls_before: who.live.used(), labels: &labels })
    }

    /// The decision is on record; now act. What acts on the world outlives the client's connection.
    async fn permitted(self: &Arc<Self>, call: Call<Permitted>, who: &Who, tool: &Arc<ToolEntry>, sending: Sending) -> Answer {
        let acting = tool.tool.effect.is_acting();
        let (house, live, tool) = (Arc::clone(self), Arc::clone(&who.live), Arc::clone(tool));
        if !acting {
            return house.forward(call, live, tool, sending).await;
        }
        let forwarded = tokio::spawn(InPlace::new(house.forward(call, live, tool, sending)));
        forwarded.await.unwrap_or_else(|_| Refused::plain(ErrorCode::Internal))
    }

    /// The credential is there, made now if it was only a name. Its making comes to its end even if nobody waits any more.
    async fn leased(&self, held: &Arc<Held>, call: CallId, ended: &CancellationToken) -> Result<(), UpstreamError> {
        let stopped = |words: &'static str| UpstreamError::Cancelled { words: words.into(), may_have_run: false };
        let made = tokio::select! {
            biased;
            made = self.leases.ready(held, call) => made,
            () = ended.cancelled() => return Err(stopped("its task ended before it was sent")),
        };
        made.map_err(|error| {
            if matches!(error, LeaseError::TaskClosed) {
                return stopped("its task ended before it was sent");
            }
            tracing::warn!(%error, lease = %held.id, system = %held.leasing.system, %call, "a call was not sent: it has no credential");
            UpstreamError::NoCredential
        })
    }

    /// Sends it with the credential of the task, if it needs one.
    async fn lease_and_send(
        &self,
        call: CallId,
        tool: &ToolEntry,
        params: &Bytes,
        sending: &Sending,
        live: &LiveTask,
    ) -> Result<Reply, UpstreamError> {
        if let Some(held) = &sending.lease {
            self.leased(held, call, live.ended()).await?;
        }
        send(call, tool, params, sending, live.ended()).await
    }

    /// Sends the exact bytes that were decided, and completes the entry, whatever happens.
    async fn forward(self: Arc<Self>, call: Call<Permitted>, live: Arc<LiveTask>, tool: Arc<ToolEntry>, mut sending: Sending) -> Answer {
        let started = Instant::now();
        let spent = match call.spend() {
            Ok(spent) => spent,
            Err(code) => return Refused::plain(code),
        };
        let told = sending.told.clone();
        let mut open = OpenEntry { house: &self, live: &live, spent: &spent, started, told, closed: false };
        // Before it is sent: whatever the system says from here on, in the middle of the call or at its end, the task carries its labels.
        let asking = Asking { call: Some(spent.id), tool: spent.tool.name.as_str() };
        let labels = if sending.events.is_some() { &tool.labels_heard } else { &tool.labels };
        if let Err(error) = self.label(&live, labels, asking).await {
            return open.not_labelled(&error).await;
        }
        fault::point("after-label");
        let params = tool.params(&spent.arguments, &sending.extra);
        fault::point("before-forward");
        let mut result = self.lease_and_send(spent.id, &tool, &params, &sending, &live).await;
        if let Some(lost) = sending.lease.take_if(|held| held.was_lost_waiting() && result.as_ref().is_err_and(|error| !error.may_have_run())) {
            // The system had lost the account that waited, as after a crash of its own: nothing was sent, and one is made for the call.
            sending.lease = Some(self.leases.instead_of(&lost));
            result = self.lease_and_send(spent.id, &tool, &params, &sending, &live).await;
        }
        if matches!(result, Err(UpstreamError::Anew)) && self.look_again(&tool).await {
            // It is the same tool, and nothing was sent.
            let life = Some(tool.system.listed_life.load(Ordering::Acquire));
            sending.life = life;
            result = send(spent.id, &tool, &params, &sending, live.ended()).await;
        }
        fault::point("after-forward");
        let (answer, outcome) = conclude(result, &tool, sending.lease.as_deref());
        let written = open.complete(outcome, tool.tool.effect.is_acting()).await;
        fault::point("after-outcome");
        // Law 1: completing the entry never hides an answer. It is retried by the sweeper if it could not be written.
        if let Err(error) = written {
            tracing::error!(%error, call = %spent.id, "the outcome could not be written yet");
        }
        answer
    }
}

/// What its arguments do is more than the tool is said to do.
fn too_much(tool: &bailiwick_core::ToolName, allowed: Effect, effect: Effect) -> Refusal {
    Refusal::new(format!("`{tool}` is for calls that {allowed}, and this one would {effect}: use the tool of this system that is for that"))
}

/// Sends to the one upstream of the tool that was decided (law 5), until it answers, the client gives up, or the task ends.
async fn send(call: CallId, tool: &ToolEntry, params: &Bytes, sending: &Sending, ended: &CancellationToken) -> Result<Reply, UpstreamError> {
    let Ok(params) = Raw::parse(params, &Limits { bytes: usize::MAX, ..Limits::REQUEST }) else {
        return Err(UpstreamError::Broken { words: "the request could not be made".into(), may_have_run: false });
    };
    let era = match &sending.asks {
        Asks::Modern { capabilities } => UseEra::Modern { capabilities: capabilities.raw() },
        Asks::Legacy { version, capabilities } => UseEra::Legacy { version: *version, capabilities: capabilities.raw() },
    };
    let mut request = UpstreamRequest::new(era, &sending.session, sending.method, params);
    request.meta = sending.meta.as_ref().map(RawBuf::raw);
    request.progress_token = sending.progress.as_ref().and_then(|t| Id::parse(t.raw()));
    request.headers = &tool.header_params;
    request.cancel = sending.cancel.clone();
    request.life = sending.life;
    request.call = Some(call);
    request.inject = sending.lease.as_ref().and_then(|held| held.inject(call));
    if request.inject.is_none() && sending.lease.as_ref().is_some_and(|held| held.is_given()) {
        // It ended between its making and here. Nothing else of ours goes there in its place.
        return Err(UpstreamError::NoCredential);
    }
    request.lease.clone_from(&sending.lease);
    request.timeout = sending.waits.map(|more| tool.system.upstream.config().call_timeout.saturating_add(more));
    if ended.is_cancelled() {
        return Err(UpstreamError::Cancelled { words: "its task ended before it was sent".into(), may_have_run: false });
    }
    tokio::select! {
        biased;
        result = tool.system.upstream.request(request, sending.events.clone()) => result,
        () = ended.cancelled() => Err(UpstreamError::Cancelled { words: "its task has ended".into(), may_have_run: true }),
    }
}

/// Notifications of one call that may wait to be passed on.
const EVENTS_WAITING: usize = 64;

/// The way for notifications alone. A question's way back is dropped.
fn notifications_only(to: mpsc::Sender<Event>) -> mpsc::Sender<Event> {
    let (from, mut events) = mpsc::channel(EVENTS_WAITING);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if matches!(event, Event::Notification { .. }) && to.send(event).await.is_err() {
                return;
            }
        }
    });
    from
}

/// What goes into the outcome's entry.
struct Concluded {
    result: &'static str,
    code: Option<ErrorCode>,
    answer: Option<Bytes>,
}

fn conclude(result: Result<Reply, UpstreamError>, tool: &ToolEntry, lease: Option<&Held>) -> (Answer, Concluded) {
    match result {
        Ok(Reply::Result(result)) => match clean(tool, lease, &result) {
            Ok(result) => {
                let failed = result.raw().member("isError").and_then(Raw::boolean) == Some(true);
                let outcome = if failed { "failed" } else { "done" };
                let concluded = Concluded { result: outcome, code: None, answer: Some(Bytes::copy_from_slice(result.raw().bytes())) };
                (Answer::Done(Reply::Result(result)), concluded)
            }
            Err(()) => {
                let code = ErrorCode::UpstreamBroken;
                (
                    Refused::answer(code, "the system's answer held a secret in a place from which it could not be taken"),
                    Concluded { result: "done", code: Some(code), answer: None },
                )
            }
        },
        Ok(Reply::Error { code, message, data, http_status }) => {
            let message = tool.system.injection.redact_text(&message).into_owned();
            let message = match lease.and_then(Held::injection) {
                Some(injection) => injection.redact_text(&message).into_owned(),
                None => message,
            };
            let data = data.and_then(|d| clean(tool, lease, &d).ok());
            let concluded = Concluded { result: "failed", code: None, answer: Some(Bytes::from(message.clone())) };
            (Answer::Done(Reply::Error { code, message, data, http_status }), concluded)
        }
        Err(error) => {
            let code = error.code();
            let concluded = Concluded { result: if error.may_have_run() { "unknown" } else { "not_sent" }, code: Some(code), answer: None };
            (Refused::answer(code, error.to_string()), concluded)
        }
    }
}

/// Takes out of an answer whatever was injected into the request.
fn clean(tool: &ToolEntry, lease: Option<&Held>, answer: &RawBuf) -> Result<RawBuf, ()> {
    let cleaned = cleaned_by(&tool.system.injection, answer)?;
    match lease.and_then(Held::injection) {
        Some(injection) => cleaned_by(&injection, &cleaned),
        None => Ok(cleaned),
    }
}

fn cleaned_by(injection: &Injection, answer: &RawBuf) -> Result<RawBuf, ()> {
    match injection.redact(answer.raw().bytes()) {
        Cow::Borrowed(_) => Ok(answer.clone()),
        Cow::Owned(clean) => {
            metrics::counter!("bailiwick_redactions_total").increment(1);
            Raw::parse(&clean, &Limits::REPLY).map(Raw::to_owned).map_err(|_| ())
        }
    }
}

/// An entry that is open: if the future that forwards is dropped, it is closed as unknown.
struct OpenEntry<'a> {
    house: &'a Arc<House>,
    live: &'a LiveTask,
    spent: &'a Spent,
    started: Instant,
    told: Option<crate::mcp::parked::ToldList>,
    closed: bool,
}

impl OpenEntry<'_> {
    /// The entry. The answer's text is queued to be kept, if it is to be.
    fn body(&self, concluded: &Concluded) -> Vec<u8> {
        let (now, duration) = (self.house.clock.now(), self.started.elapsed());
        let salt = Salt::from_bytes(self.live.salt.answer(&self.spent.id.to_bytes()));
        let kind = PayloadKind::Answer;
        // A credential that is handed out is kept nowhere, whatever the policy on texts says.
        let kept = concluded.answer.as_ref().filter(|_| self.spent.tool.effect != Effect::Issue);
        let kept_until = kept.and_then(|_| self.house.kept_until(kind, &self.spent.tool, now));
        if let (Some(until), Some(answer)) = (kept_until, &concluded.answer) {
            let whose = Whose { call: self.spent.id, task: self.spent.task.id, kind };
            self.house.keep(self.house.text(whose, &salt, answer, now, until));
        }
        metrics::histogram!("bailiwick_call_seconds", "result" => concluded.result).record(duration.as_secs_f64());
        let outcome = entry::Outcome {
            call: self.spent.id,
            intent: self.spent.entry,
            result: concluded.result,
            code: concluded.code.map(ErrorCode::slug),
            answer: concluded.answer.as_ref().map(|a| self.house.salted(&salt, a)),
            answer_bytes: concluded.answer.as_ref().map_or(0, Bytes::len),
            kept_until,
            told: self.told.as_ref().map(crate::mcp::parked::told).unwrap_or_default(),
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        };
        fitting(now, outcome)
    }

    /// The task cannot carry the labels of what it would be given: nothing was sent.
    async fn not_labelled(&mut self, error: &LabelError) -> Answer {
        let code = error.code();
        tracing::error!(error.code = %code, %error, call = %self.spent.id, "a call was not sent: its task could not be labelled");
        let concluded = Concluded { result: "not_sent", code: Some(code), answer: None };
        if let Err(error) = self.complete(concluded, false).await {
            tracing::error!(%error, call = %self.spent.id, "the outcome could not be written yet");
        }
        Refused::answer(code, format!("{}: the task could not be marked with what the answer would bear", code.sentence()))
    }

    /// Strict for what acts: the answer waits until the outcome is durable. Relaxed for reads, with a bound.
    async fn complete(&mut self, concluded: Concluded, strict: bool) -> Result<(), StoreError> {
        let body = self.body(&concluded);
        let (entry, call) = (self.spent.entry, self.spent.id);
        if !strict {
            // Given up while it waits for a place: dropping this closes the entry.
            let queued = self.house.store.outcome_relaxed(entry, call, body).await;
            self.closed = true;
            return queued;
        }
        self.closed = true;
        let written = self.house.store.outcome(entry, call, body.clone()).await;
        if written.is_err() {
            owe_outcome(self.house, entry, call, body);
        }
        written.map(|_| ())
    }
}

impl Drop for OpenEntry<'_> {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let body = self.body(&Concluded { result: "unknown", code: Some(ErrorCode::CallCancelled), answer: None });
        let (house, entry, call) = (Arc::clone(self.house), self.spent.entry, self.spent.id);
        tokio::spawn(async move {
            if let Err(error) = house.store.outcome(entry, call, body.clone()).await {
                tracing::error!(%error, %call, "the outcome of a call that was given up could not be written yet");
                owe_outcome(&house, entry, call, body);
            }
        });
    }
}

/// The entry of an outcome. Of answers to questions it says as many as fit, the first ones: what became of the call stands in any case.
fn fitting(now: bailiwick_core::Timestamp, mut outcome: entry::Outcome<'_>) -> Vec<u8> {
    loop {
        let body = entry::encode(now, &outcome);
        if body.len() <= bailiwick_store::ENTRY_BYTES_MAX || outcome.told.is_empty() {
            return body;
        }
        tracing::error!(call = %outcome.call, told = outcome.told.len(), "the outcome of a call is too large for its entry: it is cut");
        let half = outcome.told.len() / 2;
        outcome.told.truncate(half);
    }
}

/// Tries again to write an outcome, until it stands. As no call passes while the store fails, few are ever owed.
fn owe_outcome(house: &Arc<House>, entry: u64, call: CallId, body: Vec<u8>) {
    let house = Arc::clone(house);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                // The next start closes it as unknown.
                () = house.stop.cancelled() => return,
                () = tokio::time::sleep(OUTCOME_AGAIN_AFTER) => {}
            }
            match house.store.outcome(entry, call, body.clone()).await {
                // A conflict says that it is closed already.
                Ok(_) | Err(StoreError::Conflict { .. } | StoreError::Closed) => return,
                // Trying again does not make it smaller.
                Err(error @ StoreError::TooLarge { .. }) => {
                    tracing::error!(%error, %call, "the outcome of a call is too large for its entry: the next start closes it as unknown");
                    return;
                }
                Err(error) => tracing::warn!(%error, %call, "the outcome of a call could not be written yet"),
            }
        }
    });
}

/// The scalars that stand under a top-level argument: every element of an array; an object cannot be bounded.
fn scalars(arguments: Raw<'_>, name: &str) -> Result<Option<Vec<Scalar>>, String> {
    let Some(value) = arguments.member(name) else { return Ok(None) };
    if value.kind() == JsonKind::Array {
        return value.elements().map(scalar).collect::<Result<Vec<_>, _>>().map(Some);
    }
    scalar(value).map(|s| Some(vec![s]))
}

fn scalar(value: Raw<'_>) -> Result<Scalar, String> {
    let unbounded = || "the task bounds it, and only plain values can be bounded".to_owned();
    match value.kind() {
        JsonKind::Boolean => value.boolean().map(Scalar::Bool).ok_or_else(unbounded),
        JsonKind::String => value.string().map(|s| Scalar::Text(s.into_owned())).ok_or_else(unbounded),
        JsonKind::Number => match value.integer() {
            Some(integer) => Ok(Scalar::Integer(integer)),
            None => value.text().parse().map(Scalar::Number).map_err(|_| unbounded()),
        },
        JsonKind::Null | JsonKind::Array | JsonKind::Object => Err(unbounded()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bailiwick_core::{Digest, Timestamp};

    #[test]
    fn an_outcome_that_is_too_large_is_cut_until_it_fits_and_still_says_what_became_of_the_call() {
        let told = |n: usize| (0..n).map(|_| entry::Told { method: "elicitation/create".to_owned(), answer: Digest::of(b"x") }).collect();
        let outcome = |n: usize, code| entry::Outcome {
            call: CallId::new(Timestamp::from_millis(1), [1; 10]),
            intent: 7,
            result: "done",
            code,
            answer: Some(Digest::of(b"answer")),
            answer_bytes: 6,
            kept_until: None,
            told: told(n),
            duration_ms: 3,
        };
        for n in [0, 64, 600, 5000] {
            let body = fitting(Timestamp::from_millis(1), outcome(n, None));
            assert!(body.len() <= bailiwick_store::ENTRY_BYTES_MAX, "{n}: {}", body.len());
            let said: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((said["result"].as_str(), said["answer_bytes"].as_u64(), said["intent"].as_u64()), (Some("done"), Some(6), Some(7)));
            let kept = said.get("told").map_or(0, |t| t.as_array().unwrap().len());
            assert!(if n <= 64 { kept == n } else { kept > 64 }, "{n}: {kept}");
        }
        // What nothing can be cut from comes back as it is, and the store refuses it, once.
        let long = "c".repeat(70_000);
        assert!(fitting(Timestamp::from_millis(1), outcome(9, Some(&long))).len() > bailiwick_store::ENTRY_BYTES_MAX);
    }
}
