//! A small installation to ask about: a shop with a tool of each effect, agents of each risk, people, and calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use bailiwick_core::call::{Binding, Tool};
use bailiwick_core::{
    Agent, AgentName, Bound, Budget, Call, CallId, Caller, Digest, Effect, Facts, Grant, Hop, InstanceId, Labels, Person, PersonName, RiskTier, Role,
    SpiffeId, Task, TaskId, Timestamp, ToolGrant, ToolName, Verdict,
};
use bailiwick_policy::{Engine, LoadError, Source, ToolShape, World};

/// 2026-11-23, a Monday, at 10:00:00 UTC.
pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_795_428_000);

pub(crate) fn person(name: &str) -> PersonName {
    name.parse().unwrap()
}

pub(crate) fn people(names: &[&str]) -> Vec<PersonName> {
    names.iter().map(|n| person(n)).collect()
}

pub(crate) fn agent(name: &str, risk: RiskTier, enabled: bool) -> Agent {
    let name: AgentName = name.parse().unwrap();
    Agent {
        spiffe_id: SpiffeId::agent(&"example.org".parse().unwrap(), &name),
        name,
        owner: person("olga"),
        purpose: "helps at the counter".to_owned(),
        risk,
        models: Vec::new(),
        review_by: NOW,
        enabled,
    }
}

pub(crate) fn tool(name: &str, effect: Effect, schema: &str) -> ToolShape {
    ToolShape { name: name.parse().unwrap(), effect, input_schema: Some(schema.as_bytes().into()) }
}

pub(crate) fn world() -> World {
    let someone = |name: &str, roles: &[Role]| Person { name: person(name), roles: roles.iter().copied().collect() };
    World {
        agents: vec![
            agent("low", RiskTier::Low, true),
            agent("medium", RiskTier::Medium, true),
            agent("high", RiskTier::High, true),
            agent("suspended", RiskTier::Low, false),
        ],
        people: vec![someone("olga", &[Role::Owner]), someone("ana", &[Role::Approver]), someone("ben", &[Role::Approver]), someone("sam", &[])],
        tools: vec![
            tool("shop.show_order", Effect::Read, r#"{"type":"object","properties":{"order":{"type":"string"}},"required":["order"]}"#),
            tool("shop.comment_ticket", Effect::Influence, r#"{"properties":{"ticket":{"type":"string"},"text":{"type":"string"}}}"#),
            tool("shop.update_address", Effect::Write, r#"{"properties":{"customer":{"type":"string"},"address":{"type":"object"}}}"#),
            tool("shop.delete_note", Effect::Delete, "{}"),
            tool(
                "shop.refund_order",
                Effect::Transfer,
                r#"{"properties":{"order":{"type":"string"},"cents":{"type":"integer"},"rate":{"type":"number"},
                    "express":{"type":"boolean"},"tags":{"type":"array","items":{"type":"string"}}},"required":["order","cents"]}"#,
            ),
            tool("shop.approve_refund", Effect::Approve, "{}"),
            tool("shop.issue_read_credential", Effect::Issue, "{}"),
        ],
    }
}

pub(crate) fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), text: text.into() }
}

pub(crate) fn engine_of(world: World, text: &str) -> Engine {
    match Engine::new(&[source("test.cedar", text)], world) {
        Ok(engine) => engine,
        Err(error) => panic!("{}", error.render()),
    }
}

pub(crate) fn engine(text: &str) -> Engine {
    engine_of(world(), text)
}

pub(crate) fn refused(text: &str) -> LoadError {
    Engine::new(&[source("mine.cedar", text)], world()).unwrap_err()
}

/// A call to be made; `bound` makes it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) agent: String,
    pub(crate) subject: String,
    pub(crate) tool: String,
    pub(crate) effect: Effect,
    pub(crate) arguments: String,
    pub(crate) depth: usize,
    pub(crate) purpose: String,
    pub(crate) model: Option<String>,
    pub(crate) model_attested: Option<String>,
    pub(crate) component: Option<String>,
    pub(crate) undivided: bool,
    pub(crate) exact_numbers: bool,
    pub(crate) labels: Labels,
}

/// Labels of these names.
pub(crate) fn labels(names: &[&str]) -> Labels {
    Labels::new(names.iter().map(|name| name.parse().unwrap())).unwrap()
}

impl Ask {
    pub(crate) fn new(agent: &str, tool: &str, arguments: &str) -> Self {
        let known = world().tools.into_iter().find(|t| t.name.as_str() == tool).map(|t| t.effect);
        Self {
            agent: agent.to_owned(),
            subject: "sam".to_owned(),
            tool: tool.to_owned(),
            effect: known.unwrap_or(Effect::Read),
            arguments: arguments.to_owned(),
            depth: 0,
            purpose: "answers a customer".to_owned(),
            model: None,
            model_attested: None,
            component: None,
            undivided: false,
            exact_numbers: true,
            labels: Labels::default(),
        }
    }

    pub(crate) fn bound(&self) -> Call<Bound> {
        let name: ToolName = self.tool.parse().unwrap();
        let agent: AgentName = self.agent.parse().unwrap();
        let spiffe_id = SpiffeId::agent(&"example.org".parse().unwrap(), &agent);
        let (task, instance) = (TaskId::new(NOW, [1; 10]), InstanceId::new(NOW, [2; 10]));
        let hop = |_| Hop {
            task: TaskId::new(NOW, [9; 10]),
            agent: agent.clone(),
            spiffe_id: spiffe_id.clone(),
            component: None,
            instance,
            owner: person("olga"),
        };
        let chain: Vec<Hop> = (0..self.depth).map(hop).collect();
        let caller = Caller {
            agent: agent.clone(),
            spiffe_id: spiffe_id.clone(),
            component: self.component.as_ref().map(|c| c.parse().unwrap()),
            instance,
            subject: person(&self.subject),
            actors: chain.iter().map(Hop::actor).collect(),
            task,
            token: "t".to_owned(),
        };
        let task = Task {
            id: task,
            agent,
            spiffe_id,
            instance,
            owner: person("olga"),
            subject: person(&self.subject),
            purpose: self.purpose.clone(),
            model_claimed: self.model.clone(),
            model_attested: self.model_attested.clone(),
            component: self.component.as_ref().map(|c| c.parse().unwrap()),
            undivided: self.undivided,
            chain,
            held_by: None,
            proved_by: None,
            grant: Grant::new(BTreeMap::from([(name.clone(), ToolGrant::default())])),
            budget: Budget { calls: 100, calls_per_minute: 100 },
            opened_at: NOW,
            expires_at: NOW.plus(std::time::Duration::from_secs(3600)),
        };
        let binding = Binding {
            task: Arc::new(task),
            open: true,
            tool: Some(Arc::new(Tool { name, effect: self.effect, definition: Digest::of(b"d"), target: "stdio".to_owned() })),
            canonical: Digest::of(self.arguments.as_bytes()),
            salt: bailiwick_core::Salt::from_bytes([7; 32]),
            exact_numbers: self.exact_numbers,
        };
        let call = Call::new(CallId::new(NOW, [3; 10]), NOW, self.tool.clone(), self.arguments.clone().into_bytes().into());
        call.authenticate(Arc::new(caller)).bind(binding).map_err(|(_, code)| code).unwrap()
    }

    pub(crate) fn of(&self, engine: &Engine, approved: &[&str]) -> Verdict {
        use bailiwick_core::Policy as _;
        engine.ask(&self.bound(), Facts { approved: &people(approved), now: NOW, calls_before: 0, labels: &self.labels })
    }
}

pub(crate) fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Permit(_) => "permit",
        Verdict::Forbid(_) => "forbid",
        Verdict::Silent => "silent",
        Verdict::Error(_) => "error",
    }
}

pub(crate) fn ids(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Permit(by) | Verdict::Forbid(by) => by.iter().map(|p| p.id.to_string()).collect(),
        Verdict::Silent | Verdict::Error(_) => Vec::new(),
    }
}

#[track_caller]
pub(crate) fn assert_error(verdict: &Verdict, part: &str) {
    match verdict {
        Verdict::Error(text) => assert!(text.contains(part), "{text}"),
        other => panic!("expected an error, got {other:?}"),
    }
}
