//! What there is: tools and how they are classified, agents and their standing, systems and whether they can be reached.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bailiwick_core::{AgentName, Digest, Effect, ErrorCode, PersonName, Role, SpiffeId, SystemName, Timestamp, ToolName};
use bailiwick_store::{Pin, PinStatus};
use bailiwick_wire::mcp::tool::{Finding, ToolDefinition};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::asker::{Api, ByPerson, has, need};
use super::body::{Json, Named};
use super::problem::Problem;
use super::standing::SuspensionDocument;
use crate::house::House;
use crate::registry::{Registry, Status, ToolEntry, parse_raw};
use crate::upstream;

/// A tool as a reviewer looks at it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tool)]
pub(super) struct ToolDocument {
    /// Its name: `system.tool`.
    #[schema(value_type = String)]
    name: ToolName,
    /// Its effect; for a tool that cannot be called, the proposal.
    #[schema(value_type = String)]
    effect: Effect,
    /// `classified`, `review` or `quarantined`.
    status: &'static str,
    /// Who says what it does: `configuration`, `proposal`, or a person.
    by: String,
    /// Where its calls go.
    target: String,
    /// The digest of its definition: 64 hex digits.
    #[schema(value_type = String)]
    definition: Digest,
    /// What was found in the definition that should not be there.
    findings: Vec<String>,
    /// The definition's exact JSON text, as its system gave it. Absent for an operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
    /// The definition's text that is on record, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned: Option<String>,
}

/// All tools, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ToolList {
    /// The tools.
    tools: Vec<ToolDocument>,
}

/// What a reviewer says about a tool.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Classification {
    /// `read`, `influence`, `write`, `delete`, `transfer` or `approve`.
    effect: String,
    /// The digest of the definition that the reviewer looked at: 64 hex digits.
    definition: String,
}

/// An agent and its standing.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Agent)]
pub(super) struct AgentDocument {
    /// Its name.
    #[schema(value_type = String)]
    name: AgentName,
    /// Its SPIFFE ID.
    #[schema(value_type = String)]
    spiffe_id: SpiffeId,
    /// Who answers for it.
    #[schema(value_type = String)]
    owner: PersonName,
    /// What it is for.
    purpose: String,
    /// `low`, `medium` or `high`.
    risk: &'static str,
    /// The models that it may run, as claimed.
    models: Vec<String>,
    /// After this it gets no tokens.
    #[schema(value_type = String)]
    review_by: Timestamp,
    /// False if the configuration suspends it.
    enabled: bool,
    /// That a person suspended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    suspended: Option<SuspensionDocument>,
    /// Does it get tokens now?
    in_service: bool,
    /// The tools that it may ask for.
    tools: Vec<String>,
    /// The thumbprints of the keys by which it proves itself.
    keys: Vec<String>,
    /// Its open tasks.
    open_tasks: usize,
}

/// Agents, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AgentList {
    /// The agents.
    agents: Vec<AgentDocument>,
}

/// A system and how it stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = System)]
pub(super) struct SystemDocument {
    /// Its name.
    #[schema(value_type = String)]
    name: SystemName,
    /// Where its calls go, without secrets.
    target: String,
    /// `starting`, `ready`, `backing_off` or `stopped`.
    status: &'static str,
    /// Why it cannot be reached, for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Its tools that can be called.
    tools_classified: usize,
    /// Its tools that wait for a person.
    tools_waiting: usize,
}

/// Systems, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SystemList {
    /// The systems.
    systems: Vec<SystemDocument>,
}

/// Every tool that systems offer.
#[utoipa::path(get, path = "/v1/tools", tag = "registry", responses((status = 200, description = "The tools.", body = ToolList)), security(("person" = [])))]
pub(super) async fn tools(State(api): State<Arc<Api>>, _by: ByPerson) -> Result<Response, Problem> {
    let pins = api.house.store.pins().await?;
    let registry = api.house.registry.load();
    let tools = registry.tools().map(|t| tool_document(&registry, t, &pins)).collect();
    Ok(axum::Json(ToolList { tools }).into_response())
}

fn tool_document(registry: &Registry, tool: &ToolEntry, pins: &[Pin]) -> ToolDocument {
    let name = &tool.tool.name;
    let pin = pins.iter().find(|p| p.system.as_str() == name.system() && p.tool == name.tool());
    let document = tool.definition.as_ref().map(|d| d.raw().text().to_owned());
    let by = match pin {
        _ if tool.system.entry.effect_of(name.tool()).is_some() => "configuration".to_owned(),
        Some(Pin { classified_by: Some(person), .. }) => person.to_string(),
        Some(Pin { status: PinStatus::Classified | PinStatus::Proposed | PinStatus::Quarantined, .. }) => "proposal".to_owned(),
        None => "configuration".to_owned(),
    };
    ToolDocument {
        name: name.clone(),
        effect: tool.tool.effect,
        status: tool.status.word(),
        by,
        target: tool.tool.target.clone(),
        definition: tool.tool.definition,
        findings: findings(registry, tool),
        pinned: pin.and_then(|p| String::from_utf8(p.definition.clone()).ok()).filter(|p| Some(p) != document.as_ref()),
        document,
    }
}

/// What stands in the definition that should not, found again as it was when the tool was listed.
fn findings(registry: &Registry, tool: &ToolEntry) -> Vec<String> {
    let Some(definition) = tool.definition.as_ref().and_then(|d| ToolDefinition::parse(parse_raw(d.raw().bytes())?).ok()) else { return Vec::new() };
    let others = registry.tools().map(|t| &t.tool.name).filter(|n| n.system() != tool.tool.name.system() && !n.is_operation());
    let hazards = definition.hazards(others.map(ToolName::as_str));
    hazards.iter().filter(|h| h.finding != Finding::IconsDropped).map(|h| format!("{} at {}: {}", h.finding.as_str(), h.pointer, h.excerpt)).collect()
}

/// A reviewer says what a tool does, having looked at exactly this definition.
#[utoipa::path(
    post, path = "/v1/tools/{name}/classify", tag = "registry", params(("name" = String, Path, description = "The tool's name.")),
    request_body = Classification,
    responses((status = 200, description = "The tool as it stands now.", body = ToolDocument), (status = 409, description = "It is not that definition any more, or the configuration says otherwise.")),
    security(("person" = [])),
)]
pub(super) async fn classify(State(api): State<Arc<Api>>, by: ByPerson, name: Named, Json(said): Json<Classification>) -> Result<Response, Problem> {
    need(&by.person, &[Role::Reviewer], "ask a reviewer")?;
    let house = &api.house;
    let name: ToolName = name.parse(ErrorCode::ToolUnknown)?;
    let effect: Effect = said.effect.parse().map_err(|e| Problem::invalid(format!("`effect`: {e}")))?;
    let looked_at: Digest = said.definition.parse().map_err(|_| Problem::invalid("`definition` must be 64 lower-case hex digits"))?;
    let conflict = |detail: String| Problem::because(ErrorCode::ApprovalMismatch, detail);
    {
        let registry = house.registry.load();
        let tool = registry.tool(name.as_str()).ok_or_else(|| Problem::new(ErrorCode::ToolUnknown))?;
        if tool.tool.definition != looked_at {
            return Err(conflict("the tool's definition is another one by now; look again".to_owned()));
        }
        if let Some(configured) = tool.system.entry.effect_of(name.tool()).filter(|e| *e != effect) {
            return Err(conflict(format!("the configuration says `{configured}` for this tool; change it there")));
        }
        if tool.definition.is_none() {
            return Err(conflict("an operation is classified by the configuration".to_owned()));
        }
    }
    house.classify(&name, looked_at, effect, &by.person.name).await.map_err(|why| {
        tracing::error!(%why, tool = %name, "a classification was not taken over");
        Problem::because(ErrorCode::UpstreamUnavailable, "the classification could not be taken over at present; look at the tool again")
            .with_status(StatusCode::SERVICE_UNAVAILABLE)
    })?;
    let pins = house.store.pins().await?;
    let registry = house.registry.load();
    let tool = registry.tool(name.as_str()).ok_or_else(|| Problem::new(ErrorCode::ToolUnknown))?;
    Ok(axum::Json(tool_document(&registry, tool, &pins)).into_response())
}

/// Agents: all of them for operators, auditors and reviewers, the own ones for their owners.
#[utoipa::path(get, path = "/v1/agents", tag = "registry", responses((status = 200, description = "The agents.", body = AgentList)), security(("person" = [])))]
pub(super) async fn agents(State(api): State<Arc<Api>>, by: ByPerson) -> Response {
    let house = &api.house;
    let all = has(&by.person, &[Role::Operator, Role::Auditor, Role::Reviewer]);
    let seen = house.config.agents.values().filter(|e| all || e.agent.owner == by.person.name);
    axum::Json(AgentList { agents: seen.map(|e| agent_document(house, e)).collect() }).into_response()
}

/// An agent of the configuration.
pub(super) fn agent_named(house: &House, name: &AgentName) -> Option<AgentDocument> {
    house.config.agents.get(name).map(|entry| agent_document(house, entry))
}

fn agent_document(house: &House, entry: &crate::config::AgentEntry) -> AgentDocument {
    let agent = &entry.agent;
    AgentDocument {
        name: agent.name.clone(),
        spiffe_id: agent.spiffe_id.clone(),
        owner: agent.owner.clone(),
        purpose: agent.purpose.clone(),
        risk: agent.risk.word(),
        models: agent.models.clone(),
        review_by: agent.review_by,
        enabled: agent.enabled,
        suspended: house.standing.suspension(&agent.name).map(SuspensionDocument::from),
        in_service: house.in_service(agent, house.clock.now()).is_ok(),
        tools: entry.tools.iter().map(|p| p.as_str().to_owned()).collect(),
        keys: house.agent_keys(&agent.name).iter().map(|k| k.id().to_string()).collect(),
        open_tasks: house.live.all().iter().filter(|t| t.task.agent == agent.name).count(),
    }
}

/// The names of the sealed secrets. No value ever leaves the store this way.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SecretList {
    /// The names, sorted.
    secrets: Vec<String>,
}

/// The names of the sealed secrets, for operators.
#[utoipa::path(get, path = "/v1/secrets", tag = "registry", responses((status = 200, description = "The names.", body = SecretList)), security(("person" = [])))]
pub(super) async fn secrets(State(api): State<Arc<Api>>, by: ByPerson) -> Result<Response, Problem> {
    if !has(&by.person, &[Role::Operator]) {
        return Err(Problem::because(ErrorCode::RoleMissing, "operators see which secrets there are"));
    }
    Ok(axum::Json(SecretList { secrets: api.house.store.secret_names().await? }).into_response())
}

/// The systems that are configured. Why one cannot be reached is told to operators only.
#[utoipa::path(get, path = "/v1/systems", tag = "registry", responses((status = 200, description = "The systems.", body = SystemList)), security(("person" = [])))]
pub(super) async fn systems(State(api): State<Arc<Api>>, by: ByPerson) -> Response {
    let registry = api.house.registry.load();
    let operator = has(&by.person, &[Role::Operator]);
    let document = |system: &Arc<crate::registry::System>| {
        let name = &system.entry.name;
        let count = |wanted: &dyn Fn(Status) -> bool| {
            registry.tools().filter(|t| t.tool.name.system() == name.as_str() && t.definition.is_some() && wanted(t.status)).count()
        };
        let status = system.upstream.status();
        let unfit = system.leasing.as_ref().and_then(|leasing| leasing.unfit());
        let why = match &status {
            _ if unfit.is_some() => unfit.clone(),
            upstream::Status::BackingOff { why, .. } => Some(why.to_string()),
            upstream::Status::Starting | upstream::Status::Ready | upstream::Status::Stopped => None,
        };
        SystemDocument {
            name: name.clone(),
            target: system.entry.target(),
            status: if unfit.is_some() { "backing_off" } else { word(&status) },
            why: why.filter(|_| operator),
            tools_classified: count(&|s| s == Status::Classified),
            tools_waiting: count(&|s| s != Status::Classified),
        }
    };
    axum::Json(SystemList { systems: registry.systems.values().map(document).collect() }).into_response()
}

/// The status of a system in one word.
pub(super) const fn word(status: &upstream::Status) -> &'static str {
    match status {
        upstream::Status::Starting => "starting",
        upstream::Status::Ready => "ready",
        upstream::Status::BackingOff { .. } => "backing_off",
        upstream::Status::Stopped => "stopped",
    }
}
