//! One request of one client: who asks, in which era, and how an answer is said in it.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use bailiwick_core::ErrorCode;
use bailiwick_wire::mcp::reply::{self, Client, ServerInfo, Writer};
use bailiwick_wire::mcp::{ClientCapabilities, Id, IdBuf, Method, Refusal};
use bailiwick_wire::{Limits, Raw, RawBuf};

use crate::house::House;
use crate::mcp::parked::ToldList;
use crate::mcp::session::{Scope, Session};
use crate::pipeline::{Asks, Refused, Who};
use crate::registry::{System, ToolEntry};
use crate::upstream::SessionKey;

/// How we introduce ourselves.
pub(super) static SERVER: LazyLock<ServerInfo> =
    LazyLock::new(|| ServerInfo { name: Cow::Borrowed("bailiwick"), version: Cow::Borrowed(env!("CARGO_PKG_VERSION")) });

/// The era of a request, with what it brought.
#[derive(Clone, Debug)]
pub(super) enum Speaks {
    /// 2026-07-28: everything is in the request.
    Modern {
        /// What this request's client can do.
        capabilities: ClientCapabilities,
        /// The same, as written.
        declared: RawBuf,
    },
    /// A handshake revision: what the session remembers.
    Legacy(Arc<Session>),
}

/// A request of a client.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) house: Arc<House>,
    pub(super) who: Who,
    pub(super) scope: Scope,
    pub(super) id: IdBuf,
    pub(super) speaks: Speaks,
    /// `_meta` members to pass on: trace context, log level.
    pub(super) meta: Option<RawBuf>,
    /// The client's progress token.
    pub(super) progress: Option<RawBuf>,
    pub(super) traceparent: Option<String>,
    /// What the client answers to the system's questions in the middle of a call; `None` where nothing may be asked of it.
    pub(super) told: Option<ToldList>,
}

/// A whole answer: HTTP status and JSON-RPC message.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) status: u16,
    pub(super) message: Vec<u8>,
}

impl Said {
    pub(super) const fn ok(message: Vec<u8>) -> Self {
        Self { status: 200, message }
    }

    pub(super) fn refusal(refusal: &Refusal) -> Self {
        let mut message = Vec::new();
        refusal.write(&mut message);
        Self { status: refusal.http_status, message }
    }
}

impl Exchange {
    pub(super) fn writer(&self) -> Writer<'static> {
        let client = match self.speaks {
            Speaks::Modern { .. } => Client::Modern,
            Speaks::Legacy(_) => Client::Legacy,
        };
        Writer { client, server: &SERVER }
    }

    /// May anything be said to this client before the answer? A modern one asks for it: without a progress token and a log level
    /// there is nothing (MCP 2026-07-28).
    pub(super) fn hears(&self) -> bool {
        let logs = || self.meta.as_ref().is_some_and(|m| m.raw().member(bailiwick_wire::mcp::META_LOG_LEVEL).is_some());
        !self.is_modern() || self.progress.is_some() || logs()
    }

    pub(super) const fn is_modern(&self) -> bool {
        matches!(self.speaks, Speaks::Modern { .. })
    }

    pub(super) fn capabilities(&self) -> ClientCapabilities {
        match &self.speaks {
            Speaks::Modern { capabilities, .. } => *capabilities,
            Speaks::Legacy(session) => session.capabilities,
        }
    }

    /// The whole name of a tool that was asked for under its name at this endpoint.
    pub(super) fn whole_name(&self, name: &str) -> String {
        match &self.scope {
            Scope::All => name.to_owned(),
            Scope::System(system) => format!("{system}.{name}"),
        }
    }

    /// The key of the systems' own sessions for this client.
    pub(super) fn session_key(&self) -> SessionKey {
        match &self.speaks {
            Speaks::Modern { .. } => SessionKey::new(&self.who.live.task.id.to_string()),
            Speaks::Legacy(session) => session.key.clone(),
        }
    }

    /// In which era to ask a system: the client's, if it speaks that too, so that nothing needs translating.
    pub(super) fn asks(&self, system: &System) -> Asks {
        let support = system.upstream.era_support().unwrap_or_default();
        let declared = match &self.speaks {
            Speaks::Modern { declared, .. } => declared.raw(),
            Speaks::Legacy(session) => session.declared.raw(),
        };
        let capabilities = relayed(declared);
        match (&self.speaks, support.modern, support.legacy) {
            (Speaks::Modern { .. }, true, _) | (_, true, None) => Asks::Modern { capabilities },
            (Speaks::Legacy(session), _, Some(_)) => Asks::Legacy { version: session.version, capabilities },
            (_, _, Some(version)) => Asks::Legacy { version, capabilities },
            (_, false, None) => Asks::Modern { capabilities },
        }
    }

    /// Was the task granted anything at all of this system? If not, the system does not exist for it.
    pub(super) fn knows(&self, system: &str) -> bool {
        self.who.live.task.grant.tools().keys().any(|n| n.system() == system)
    }

    /// The systems of this endpoint of which the task was granted this operation.
    pub(super) fn systems_with(&self, operation: &str) -> Vec<Arc<System>> {
        let registry = self.house.registry.load();
        let granted = |s: &&Arc<System>| self.who.live.task.grant.tool(&format!("{}.{operation}", s.entry.name)).is_some();
        match &self.scope {
            Scope::All => registry.systems.values().filter(granted).cloned().collect(),
            Scope::System(name) => registry.system(name.as_str()).into_iter().filter(granted).cloned().collect(),
        }
    }

    /// The tools that the task sees here.
    pub(super) fn tools(&self) -> Vec<Arc<ToolEntry>> {
        let registry = self.house.registry.load();
        let here = |t: &&Arc<ToolEntry>| match &self.scope {
            Scope::All => true,
            Scope::System(name) => t.tool.name.system() == name.as_str(),
        };
        let seen = |t: &&Arc<ToolEntry>| t.definition.is_some() && t.callable() && self.who.live.task.grant.tool(t.tool.name.as_str()).is_some();
        registry.tools().filter(here).filter(seen).cloned().collect()
    }

    /// Says a refusal of the pipeline in the client's words. `asked` is the name under which the client asked.
    pub(super) fn refused(&self, method: Method, asked: &str, refused: &Refused) -> Said {
        let Some(id) = self.id_ref() else { return Said::ok(Vec::new()) };
        match shape(refused.code) {
            Shape::Unknown if method == Method::ToolsCall => Said::refusal(&Refusal::unknown_tool(id, asked)),
            Shape::Unknown => Said::refusal(&Refusal { http_status: 200, ..Refusal::bad_request(-32602, "not found").with_id(Some(id)) }),
            Shape::Model if method == Method::ToolsCall => {
                let mut message = Vec::new();
                let facts = facts(refused.code);
                self.writer().tool_error(&mut message, &self.id, &words(refused), facts.raw());
                Said::ok(message)
            }
            Shape::Model => self.error(200, OWN_DENIED, &words(refused), refused.code),
            Shape::Broker => self.error(503, OWN_UNAVAILABLE, &words(refused), refused.code),
        }
    }

    fn error(&self, status: u16, number: i32, text: &str, code: ErrorCode) -> Said {
        let mut message = Vec::new();
        reply::error(&mut message, Some(&self.id), number, text, Some(facts(code).raw()));
        Said { status, message }
    }

    pub(super) fn id_ref(&self) -> Option<Id<'_>> {
        Raw::parse(self.id.as_str().as_bytes(), &Limits::REQUEST).ok().and_then(Id::parse)
    }
}

/// Our own JSON-RPC codes, outside the ranges that JSON-RPC and MCP reserve.
const OWN_DENIED: i32 = -31_403;
const OWN_UNAVAILABLE: i32 = -31_503;

/// The shapes in which a refusal is told.
enum Shape {
    /// As something that does not exist.
    Unknown,
    /// As an error result that the model reads, so that it can change course.
    Model,
    /// As a failure of the broker.
    Broker,
}

/// How each code is told in MCP. No `_` arm: a new code is a decision to take here.
const fn shape(code: ErrorCode) -> Shape {
    match code {
        ErrorCode::ToolUnknown | ErrorCode::ToolQuarantined | ErrorCode::TaskAbsent => Shape::Unknown,
        ErrorCode::AuditUnavailable | ErrorCode::Internal | ErrorCode::ConfigInvalid => Shape::Broker,
        ErrorCode::AuthnMissing
        | ErrorCode::ProofInvalid
        | ErrorCode::TokenExpired
        | ErrorCode::DpopNonce
        | ErrorCode::DpopInvalid
        | ErrorCode::BindingRequired
        | ErrorCode::RoleMissing
        | ErrorCode::TaskClosed
        | ErrorCode::TaskEmpty
        | ErrorCode::CallMalformed
        | ErrorCode::ArgumentsInvalid
        | ErrorCode::LimitExceeded
        | ErrorCode::ConstraintViolated
        | ErrorCode::PolicyDenied
        | ErrorCode::PolicyError
        | ErrorCode::HoldPending
        | ErrorCode::HoldRefused
        | ErrorCode::HoldExpired
        | ErrorCode::HoldAbsent
        | ErrorCode::HoldFlood
        | ErrorCode::ApprovalSelf
        | ErrorCode::ApprovalNotEligible
        | ErrorCode::StepUpRequired
        | ErrorCode::ApprovalMismatch
        | ErrorCode::BudgetCalls
        | ErrorCode::BudgetRate
        | ErrorCode::UpstreamUnavailable
        | ErrorCode::UpstreamTimeout
        | ErrorCode::UpstreamBroken
        | ErrorCode::CredentialUnavailable
        | ErrorCode::LeaseAbsent
        | ErrorCode::AgentAbsent
        | ErrorCode::CallCancelled
        | ErrorCode::OauthRequest => Shape::Model,
    }
}

fn words(refused: &Refused) -> String {
    format!("{}. {} [{}]", refused.detail, sentence(refused.code.hint()), refused.code)
}

fn sentence(hint: &str) -> String {
    let mut chars = hint.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

/// `{"code":...}` for programs.
pub(super) fn facts(code: ErrorCode) -> RawBuf {
    let text = format!("{{\"code\":\"{}\"}}", code.slug());
    Raw::parse(text.as_bytes(), &Limits::REPLY).unwrap_or(Raw::EMPTY_OBJECT).to_owned()
}

/// The capabilities that may be shown to a system: what it may ask of a client. Extensions are ours to serve, not to relay.
///
/// In words of ours, of which there are few: a system keeps one session for each set of them.
fn relayed(declared: Raw<'_>) -> RawBuf {
    let known = ClientCapabilities::read(declared);
    let mut members = Vec::new();
    match (known.elicitation_form, known.elicitation_url) {
        (true, true) => members.push("\"elicitation\":{\"form\":{},\"url\":{}}".to_owned()),
        (true, false) => members.push("\"elicitation\":{}".to_owned()),
        (false, true) => members.push("\"elicitation\":{\"url\":{}}".to_owned()),
        (false, false) => {}
    }
    if let Some(sampling) = declared.member("sampling").filter(|_| known.sampling) {
        let parts: Vec<&str> = ["context", "tools"].into_iter().filter(|part| sampling.member(part).is_some_and(Raw::is_object)).collect();
        let parts: Vec<String> = parts.into_iter().map(|part| format!("\"{part}\":{{}}")).collect();
        members.push(format!("\"sampling\":{{{}}}", parts.join(",")));
    }
    if known.roots {
        members.push("\"roots\":{}".to_owned());
    }
    let text = format!("{{{}}}", members.join(","));
    Raw::parse(text.as_bytes(), &Limits::REQUEST).unwrap_or(Raw::EMPTY_OBJECT).to_owned()
}
