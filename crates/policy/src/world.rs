//! What policy knows of the installation: agents, people, tools. Turned into Cedar entities.

use std::collections::{BTreeMap, HashMap, HashSet};

use bailiwick_core::{Agent, AgentName, ComponentName, Digest, Effect, Person, PersonName, Role, ToolName};
use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression};

use crate::schema::{ACTION, AGENT, PERSON, SYSTEM, TASK};

/// A tool as policy needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolShape {
    /// Its name: the action.
    pub name: ToolName,
    /// Its effect: the action's group.
    pub effect: Effect,
    /// Its `inputSchema`, raw JSON. Without it policy reads none of its arguments.
    pub input_schema: Option<Box<[u8]>>,
}

/// The installation as policy sees it. An engine is made for one world; another world needs another engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Every registered agent, suspended ones too.
    pub agents: Vec<Agent>,
    /// Everyone whom configuration knows.
    pub people: Vec<Person>,
    /// Every classified tool, reachable or not, so that a policy about a system that is down stays valid.
    pub tools: Vec<ToolShape>,
}

impl World {
    /// A digest of all that policy can see of it, whatever the order.
    pub(crate) fn digest(&self) -> Digest {
        let mut lines: Vec<Vec<String>> = Vec::new();
        for a in &self.agents {
            let facts = [a.name.as_str(), a.owner.as_str(), &a.purpose, a.risk.word(), if a.enabled { "enabled" } else { "suspended" }];
            lines.push(std::iter::once("agent").chain(facts).map(str::to_owned).collect());
        }
        for p in &self.people {
            lines.push(["person", p.name.as_str()].into_iter().chain(p.roles.iter().map(|r| role_word(*r))).map(str::to_owned).collect());
        }
        for t in &self.tools {
            let schema = t.input_schema.as_ref().map_or_else(|| "-".to_owned(), |s| Digest::of(s).to_string());
            lines.push(vec!["tool".to_owned(), t.name.to_string(), t.effect.word().to_owned(), schema]);
        }
        lines.sort();
        let digests: Vec<Digest> =
            lines.iter().map(|line| Digest::bind("bailiwick/world-line/v1", &line.iter().map(String::as_bytes).collect::<Vec<_>>())).collect();
        Digest::bind("bailiwick/world/v1", &digests.iter().map(|d| d.as_bytes().as_slice()).collect::<Vec<_>>())
    }
}

const fn role_word(role: Role) -> &'static str {
    match role {
        Role::Owner => "owner",
        Role::Approver => "approver",
        Role::Reviewer => "reviewer",
        Role::Auditor => "auditor",
        Role::Operator => "operator",
    }
}

/// The names of Cedar types, parsed once.
#[derive(Debug)]
pub(crate) struct Types {
    action: EntityTypeName,
    agent: EntityTypeName,
    person: EntityTypeName,
    system: EntityTypeName,
    task: EntityTypeName,
}

/// An entity could not be made. Does not happen for values that were parsed.
#[derive(Debug, thiserror::Error)]
#[error("an entity cannot be made: {0}")]
pub(crate) struct EntityError(pub(crate) String);

impl Types {
    pub(crate) fn new() -> Result<Self, EntityError> {
        let name = |n: &str| n.parse().map_err(|e: cedar_policy::ParseErrors| EntityError(e.to_string()));
        Ok(Self { action: name(ACTION)?, agent: name(AGENT)?, person: name(PERSON)?, system: name(SYSTEM)?, task: name(TASK)? })
    }

    fn uid(of: &EntityTypeName, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(of.clone(), EntityId::new(id))
    }
    pub(crate) fn action(&self, id: &str) -> EntityUid {
        Self::uid(&self.action, id)
    }
    pub(crate) fn agent(&self, name: &AgentName) -> EntityUid {
        Self::uid(&self.agent, name.as_str())
    }
    pub(crate) fn person(&self, name: &PersonName) -> EntityUid {
        Self::uid(&self.person, name.as_str())
    }
    pub(crate) fn system(&self, name: &str) -> EntityUid {
        Self::uid(&self.system, name)
    }
    pub(crate) fn task(&self, id: &str) -> EntityUid {
        Self::uid(&self.task, id)
    }
}

fn entity<const N: usize>(
    uid: EntityUid,
    attributes: [(&str, RestrictedExpression); N],
    parents: impl IntoIterator<Item = EntityUid>,
) -> Result<Entity, EntityError> {
    let attributes: HashMap<String, RestrictedExpression> = attributes.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    Entity::new(uid, attributes, parents.into_iter().collect::<HashSet<_>>()).map_err(|e| EntityError(e.to_string()))
}

fn text(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

pub(crate) fn agent_entity(types: &Types, agent: &Agent) -> Result<Entity, EntityError> {
    let attributes = [
        ("owner", RestrictedExpression::new_entity_uid(types.person(&agent.owner))),
        ("purpose", text(&agent.purpose)),
        ("risk", RestrictedExpression::new_long(agent.risk.level())),
        ("enabled", RestrictedExpression::new_bool(agent.enabled)),
    ];
    entity(types.agent(&agent.name), attributes, [])
}

pub(crate) fn person_entity(types: &Types, person: &Person) -> Result<Entity, EntityError> {
    let roles = RestrictedExpression::new_set(person.roles.iter().map(|r| text(role_word(*r))));
    entity(types.person(&person.name), [("roles", roles)], [])
}

pub(crate) fn system_entity(types: &Types, name: &str) -> Result<Entity, EntityError> {
    entity(types.system(name), [("name", text(name))], [])
}

/// What a task's entity is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskFacts {
    pub(crate) agent: AgentName,
    pub(crate) owner: PersonName,
    pub(crate) subject: PersonName,
    pub(crate) purpose: String,
    pub(crate) depth: i64,
    /// The agents before, nearest first; the last one is the root.
    pub(crate) chain: Vec<AgentName>,
    pub(crate) component: Option<ComponentName>,
    pub(crate) undivided: bool,
    pub(crate) model: Option<String>,
    pub(crate) model_attested: Option<String>,
}

impl TaskFacts {
    pub(crate) fn entity(&self, types: &Types, uid: EntityUid) -> Result<Entity, EntityError> {
        let agent = types.agent(&self.agent);
        let mut attributes: HashMap<String, RestrictedExpression> = [
            ("agent", RestrictedExpression::new_entity_uid(agent.clone())),
            ("owner", RestrictedExpression::new_entity_uid(types.person(&self.owner))),
            ("subject", RestrictedExpression::new_entity_uid(types.person(&self.subject))),
            ("purpose", text(&self.purpose)),
            ("depth", RestrictedExpression::new_long(self.depth)),
            ("chain", RestrictedExpression::new_set(self.chain.iter().map(|a| RestrictedExpression::new_entity_uid(types.agent(a))))),
            ("root", RestrictedExpression::new_entity_uid(types.agent(self.chain.last().unwrap_or(&self.agent)))),
            ("undivided", RestrictedExpression::new_bool(self.undivided)),
        ]
        .into_iter()
        .map(|(n, v)| (n.to_owned(), v))
        .collect();
        let component = self.component.as_ref().map(ComponentName::as_str);
        for (name, value) in [("component", component), ("model", self.model.as_deref()), ("model_attested", self.model_attested.as_deref())] {
            if let Some(value) = value {
                attributes.insert(name.to_owned(), text(value));
            }
        }
        Entity::new(uid, attributes, [agent].into()).map_err(|e| EntityError(e.to_string()))
    }
}

/// Looks names up that occur twice.
pub(crate) fn twice<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen: BTreeMap<&str, ()> = BTreeMap::new();
    names.into_iter().find(|n| seen.insert(n, ()).is_some())
}
