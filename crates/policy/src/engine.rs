//! The engine: policies in force over one world, sliced by tool in advance. Any error denies.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use bailiwick_core::{
    Agent, AgentName, Bound, Call, Digest, Effect, Facts, PersonName, Policy as Asked, PolicyRef, Revision, TaskId, Timestamp, ToolName, Verdict,
};
use cedar_policy::{
    ActionConstraint, Authorizer, Context, Decision, Entities, Entity, EntityUid, Policy, PolicyId, PolicySet, Request, Response,
    RestrictedExpression,
};

use crate::analysis::Mentions;
use crate::load::{LoadError, Loaded, Problem, Source, load};
use crate::schema::{self, GROUPS, groups_of};
use crate::shape::{InputError, InputShape};
use crate::world::{EntityError, TaskFacts, Types, World, agent_entity, person_entity, system_entity, twice};

/// Most tasks and tools whose entities are kept, in each of two generations.
const KEPT_MAX: usize = 512;
/// How many hex digits of the digest name a revision.
const REVISION_DIGITS: usize = 16;

/// Policies in force over one world. Immutable: another policy, agent, person or tool needs another engine.
pub struct Engine {
    pub(crate) authorizer: Authorizer,
    pub(crate) types: Types,
    pub(crate) tools: BTreeMap<ToolName, Tool>,
    pub(crate) agents: BTreeMap<AgentName, (Agent, Entity)>,
    people: BTreeMap<PersonName, Entity>,
    /// Entities that policies name: they are there whoever calls.
    named: Vec<Entity>,
    refs: BTreeMap<PolicyId, PolicyRef>,
    texts: Vec<PolicyText>,
    warnings: Vec<Problem>,
    schema_text: String,
    revision: Revision,
    kept: RwLock<Kept>,
}

/// A policy as people see it in lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyText {
    /// Id and reason.
    pub policy: PolicyRef,
    /// Its `@title`.
    pub title: Option<Arc<str>>,
    /// True for `permit`.
    pub permits: bool,
    /// Its text.
    pub text: String,
    /// The name of the source that it stands in.
    pub source: Arc<str>,
    /// The line there, from 1.
    pub line: usize,
}

/// A tool with all that asking about it needs.
pub(crate) struct Tool {
    effect: Effect,
    shape: InputShape,
    action: EntityUid,
    pub(crate) resource: EntityUid,
    /// The action and its groups, and the system.
    entities: Vec<Entity>,
    pub(crate) slice: Arc<Slice>,
}

/// The policies that can match a tool, whoever calls.
pub(crate) struct Slice {
    pub(crate) policies: PolicySet,
    pub(crate) mentions: Mentions,
    /// What they come to when nothing but agent and approvals is known; see `Analysis::outline`.
    pub(crate) outline_permits: PolicySet,
    pub(crate) outline_forbids: PolicySet,
}

/// Why a question has no answer. Always a denial.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswerable {
    #[error("policy does not know the tool `{0}`")]
    Tool(ToolName),
    #[error("policy knows the tool `{0}` with another effect")]
    ToolChanged(ToolName),
    #[error("policy does not know the agent `{0}`")]
    Agent(AgentName),
    #[error("policy does not know the person `{0}`")]
    Person(PersonName),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Entity(#[from] EntityError),
    #[error("the context cannot be made: {0}")]
    Context(String),
    #[error("the delegation chain is too long to count")]
    Chain,
    #[error("{}", .0.join("; "))]
    Evaluation(Vec<String>),
}

/// The entities of a task that calls one tool, and what they were made of.
pub(crate) struct Cast {
    facts: TaskFacts,
    pub(crate) principal: EntityUid,
    pub(crate) entities: Entities,
}

type CastKey = (TaskId, ToolName);

/// Two generations: when the young one is full it becomes the old one, and the old one goes.
#[derive(Default)]
struct Kept {
    young: BTreeMap<CastKey, Arc<Cast>>,
    old: BTreeMap<CastKey, Arc<Cast>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("revision", &self.revision)
            .field("policies", &self.texts.len())
            .field("tools", &self.tools.len())
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Reads and checks all policies against the schema of this world. All or nothing.
    ///
    /// # Errors
    /// Every problem found: syntax, types, unknown tools or attributes, missing or repeated ids, templates, names that are twice in
    /// the world.
    pub fn new(sources: &[Source], world: World) -> Result<Self, LoadError> {
        Self::build(sources, world).map_err(|problems| LoadError::new(problems, sources))
    }

    fn build(sources: &[Source], world: World) -> Result<Self, Vec<Problem>> {
        let revision = revision(sources, &world);
        only_once(sources, &world)?;
        let shapes: BTreeMap<ToolName, (Effect, InputShape)> = world
            .tools
            .iter()
            .map(|t| (t.name.clone(), (t.effect, t.input_schema.as_deref().map(InputShape::of_json_schema).unwrap_or_default())))
            .collect();
        let broken = |what: String| vec![Problem::of_installation(what, "this is a defect of bailiwick: please report it")];
        let (schema, schema_text) = schema::compile(&shapes).map_err(|e| broken(format!("the generated schema is not valid: {e}")))?;
        let (loaded, warnings) = load(sources, &schema)?;
        let types = Types::new().map_err(|e| broken(e.to_string()))?;
        Self::assemble(&world, shapes, &loaded, types)
            .map(|engine| Self { warnings, schema_text, revision, ..engine })
            .map_err(|e| broken(e.to_string()))
    }

    fn assemble(world: &World, shapes: BTreeMap<ToolName, (Effect, InputShape)>, loaded: &[Loaded], types: Types) -> Result<Self, EntityError> {
        let mut agents = BTreeMap::new();
        for agent in &world.agents {
            agents.insert(agent.name.clone(), (agent.clone(), agent_entity(&types, agent)?));
        }
        let mut people = BTreeMap::new();
        for person in &world.people {
            people.insert(person.name.clone(), person_entity(&types, person)?);
        }
        let mut slices: BTreeMap<Vec<usize>, Arc<Slice>> = BTreeMap::new();
        let mut tools = BTreeMap::new();
        for (name, (effect, shape)) in shapes {
            let action = types.action(name.as_str());
            let groups: Vec<EntityUid> = groups_of(effect).iter().map(|g| types.action(g)).collect();
            let matching: Vec<usize> = loaded.iter().enumerate().filter(|(_, l)| covers(&l.policy, &action, &groups)).map(|(i, _)| i).collect();
            let slice = if let Some(slice) = slices.get(&matching) {
                Arc::clone(slice)
            } else {
                let slice = Arc::new(Slice::new(matching.iter().filter_map(|i| loaded.get(*i)))?);
                slices.insert(matching, Arc::clone(&slice));
                slice
            };
            let resource = types.system(name.system());
            let entities = vec![system_entity(&types, name.system())?, action_entity(&action, &groups)];
            tools.insert(name, Tool { effect, shape, action, resource, entities, slice });
        }
        let everyone = agents.values().map(|(_, e)| e).chain(people.values()).chain(tools.values().flat_map(|t: &Tool| &t.entities));
        let known: BTreeMap<EntityUid, &Entity> = everyone.map(|e| (e.uid(), e)).collect();
        let mut named: BTreeMap<EntityUid, Entity> = group_entities(&types);
        let literals = loaded.iter().flat_map(|l| l.policy.entity_literals());
        named.extend(literals.filter_map(|uid| known.get(&uid).map(|e| (uid, (*e).clone()))));
        let texts: Vec<PolicyText> = loaded.iter().map(PolicyText::of).collect();
        let refs = loaded.iter().zip(&texts).map(|(l, t)| (l.policy.id().clone(), t.policy.clone())).collect();
        Ok(Self {
            authorizer: Authorizer::new(),
            types,
            tools,
            agents,
            people,
            named: named.into_values().collect(),
            refs,
            texts,
            warnings: Vec::new(),
            schema_text: String::new(),
            revision: Revision::from(""),
            kept: RwLock::default(),
        })
    }

    /// The policies in force, in the order of their sources.
    #[must_use]
    pub fn policies(&self) -> &[PolicyText] {
        &self.texts
    }

    /// What is odd about the policies though they are valid, such as one that can never match.
    #[must_use]
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// The Cedar schema that the policies were checked against, for editors.
    #[must_use]
    pub fn schema_text(&self) -> &str {
        &self.schema_text
    }

    /// The arguments of a tool that policy can read. `None` if there is no such tool.
    #[must_use]
    pub fn arguments(&self, tool: &ToolName) -> Option<&InputShape> {
        self.tools.get(tool).map(|t| &t.shape)
    }

    /// The question that Cedar is asked about a call.
    pub(crate) fn question(&self, call: &Call<Bound>, facts: Facts<'_>) -> Result<(&Tool, Arc<Cast>, Request), Unanswerable> {
        let name = &call.tool().name;
        let tool = self.tools.get(name).ok_or_else(|| Unanswerable::Tool(name.clone()))?;
        if tool.effect != call.tool().effect {
            return Err(Unanswerable::ToolChanged(name.clone()));
        }
        let cast = self.cast_of(call, tool)?;
        // Where no policy looks at them, they are not even put together.
        let labels = facts.labels.iter().filter(|_| tool.slice.mentions.labels).map(|label| RestrictedExpression::new_string(label.to_string()));
        let mut context = approvals(facts.approved);
        context.extend(clock(facts.now));
        context.push(("calls".to_owned(), RestrictedExpression::new_long(i64::try_from(facts.calls_before).unwrap_or(i64::MAX))));
        context.push(("labels".to_owned(), RestrictedExpression::new_set(labels)));
        if tool.slice.mentions.input {
            context.push(("input".to_owned(), tool.shape.read(call.arguments(), &tool.slice.mentions)?));
        }
        let request = request(&cast.principal, tool, context)?;
        Ok((tool, cast, request))
    }

    fn answer(&self, call: &Call<Bound>, facts: Facts<'_>) -> Result<Verdict, Unanswerable> {
        let (tool, cast, request) = self.question(call, facts)?;
        let response = self.authorizer.is_authorized(&request, &tool.slice.policies, &cast.entities);
        // Cedar skips a policy that errors. A forbid that errors would silently stop forbidding: law 4, errors deny.
        let errors = errors(&response);
        if !errors.is_empty() {
            return Err(Unanswerable::Evaluation(errors));
        }
        let policies = self.determining(&response);
        Ok(match response.decision() {
            Decision::Allow => Verdict::Permit(policies),
            Decision::Deny if policies.is_empty() => Verdict::Silent,
            Decision::Deny => Verdict::Forbid(policies),
        })
    }

    /// The policies that determined a response, by id.
    pub(crate) fn determining(&self, response: &Response) -> Vec<PolicyRef> {
        let mut policies: Vec<PolicyRef> = response.diagnostics().reason().map(|id| self.reference(id)).collect();
        policies.sort_by(|a, b| a.id.cmp(&b.id));
        policies
    }

    pub(crate) fn reference(&self, id: &PolicyId) -> PolicyRef {
        self.refs.get(id).cloned().unwrap_or_else(|| PolicyRef { id: id.to_string().into(), reason: None })
    }

    fn cast_of(&self, call: &Call<Bound>, tool: &Tool) -> Result<Arc<Cast>, Unanswerable> {
        let task = call.task();
        let depth = i64::try_from(call.caller().actors.len()).map_err(|_| Unanswerable::Chain)?;
        let key = (task.id, call.tool().name.clone());
        let same = |facts: &TaskFacts| {
            facts.depth == depth
                && facts.agent == task.agent
                && facts.owner == task.owner
                && facts.subject == task.subject
                && facts.purpose == task.purpose
                && facts.chain.iter().eq(task.chain.iter().map(|hop| &hop.agent))
                && facts.component == task.component
                && facts.undivided == task.undivided
                && facts.model == task.model_claimed
                && facts.model_attested == task.model_attested
        };
        if let Some(cast) = self.kept.read().unwrap_or_else(PoisonError::into_inner).young.get(&key)
            && same(&cast.facts)
        {
            return Ok(Arc::clone(cast));
        }
        let facts = TaskFacts {
            agent: task.agent.clone(),
            owner: task.owner.clone(),
            subject: task.subject.clone(),
            purpose: task.purpose.clone(),
            depth,
            chain: task.chain.iter().map(|hop| hop.agent.clone()).collect(),
            component: task.component.clone(),
            undivided: task.undivided,
            model: task.model_claimed.clone(),
            model_attested: task.model_attested.clone(),
        };
        let old = self.kept.write().unwrap_or_else(PoisonError::into_inner).old.remove(&key).filter(|cast| cast.facts == facts);
        let cast = match old {
            Some(cast) => cast,
            None => Arc::new(self.cast(facts, self.types.task(&task.id.to_string()), tool)?),
        };
        self.kept.write().unwrap_or_else(PoisonError::into_inner).keep(key, Arc::clone(&cast));
        Ok(cast)
    }

    /// Everyone and everything that a question about this task and tool can lead to. Small, so that it is made quickly.
    pub(crate) fn cast(&self, facts: TaskFacts, principal: EntityUid, tool: &Tool) -> Result<Cast, Unanswerable> {
        let (agent, agent_entity) = self.agents.get(&facts.agent).ok_or_else(|| Unanswerable::Agent(facts.agent.clone()))?;
        let mut all: BTreeMap<EntityUid, Entity> = self.named.iter().map(|e| (e.uid(), e.clone())).collect();
        all.insert(agent_entity.uid(), agent_entity.clone());
        for name in [&agent.owner, &facts.owner, &facts.subject] {
            let person = self.people.get(name).ok_or_else(|| Unanswerable::Person(name.clone()))?;
            all.insert(person.uid(), person.clone());
        }
        for name in &facts.chain {
            let (_, before) = self.agents.get(name).ok_or_else(|| Unanswerable::Agent(name.clone()))?;
            all.insert(before.uid(), before.clone());
        }
        all.extend(tool.entities.iter().map(|e| (e.uid(), e.clone())));
        all.insert(principal.clone(), facts.entity(&self.types, principal.clone())?);
        // Without the schema: the entities are made by its measure, and the groups of actions are among them.
        let entities = Entities::from_entities(all.into_values(), None).map_err(|e| EntityError(e.to_string()))?;
        Ok(Cast { facts, principal, entities })
    }
}

impl Asked for Engine {
    fn ask(&self, call: &Call<Bound>, facts: Facts<'_>) -> Verdict {
        self.answer(call, facts).unwrap_or_else(|error| Verdict::Error(error.to_string()))
    }
    fn revision(&self) -> Revision {
        Arc::clone(&self.revision)
    }
}

impl Kept {
    fn keep(&mut self, key: CastKey, cast: Arc<Cast>) {
        if self.young.len() >= KEPT_MAX && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, cast);
    }
}

impl Slice {
    fn new<'a>(loaded: impl Iterator<Item = &'a Loaded>) -> Result<Self, EntityError> {
        let mut mentions = Mentions::default();
        let (mut policies, mut outline_permits, mut outline_forbids) = (PolicySet::new(), PolicySet::new(), PolicySet::new());
        let wrong = |e: cedar_policy::PolicySetError| EntityError(e.to_string());
        for Loaded { policy, analysis, .. } in loaded {
            mentions = mentions.union(&analysis.mentions);
            policies.add(policy.clone()).map_err(wrong)?;
            if let Some(outline) = analysis.outline.clone() {
                match outline.effect() {
                    cedar_policy::Effect::Permit => outline_permits.add(outline).map_err(wrong)?,
                    cedar_policy::Effect::Forbid => outline_forbids.add(outline).map_err(wrong)?,
                }
            }
        }
        Ok(Self { policies, mentions, outline_permits, outline_forbids })
    }
}

impl PolicyText {
    fn of(loaded: &Loaded) -> Self {
        let Loaded { policy, source, line, .. } = loaded;
        let words = |key: &str| policy.annotation(key).filter(|t| !t.is_empty()).map(Arc::from);
        Self {
            policy: PolicyRef { id: policy.id().to_string().into(), reason: words("reason") },
            title: words("title"),
            permits: policy.effect() == cedar_policy::Effect::Permit,
            text: policy.to_cedar().unwrap_or_default(),
            source: Arc::clone(source),
            line: *line,
        }
    }
}

/// Can this policy's scope match the tool's action?
fn covers(policy: &Policy, action: &EntityUid, groups: &[EntityUid]) -> bool {
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => uid == *action,
        ActionConstraint::In(uids) => uids.iter().any(|uid| uid == action || groups.contains(uid)),
    }
}

fn action_entity(action: &EntityUid, groups: &[EntityUid]) -> Entity {
    Entity::new_no_attrs(action.clone(), groups.iter().cloned().collect())
}

/// The groups of actions with their own groups. Cedar knows of none unless it is told: a `forbid` about a group would never match.
fn group_entities(types: &Types) -> BTreeMap<EntityUid, Entity> {
    let above = |group: &str| -> &'static [&'static str] {
        match group.parse::<Effect>() {
            Ok(effect) => groups_of(effect).get(1..).unwrap_or_default(),
            Err(_) if group == schema::ACT => &[schema::ANY],
            Err(_) => &[],
        }
    };
    let entity = |group: &&str| {
        let uid = types.action(group);
        let parents: Vec<EntityUid> = above(group).iter().map(|g| types.action(g)).collect();
        (uid.clone(), action_entity(&uid, &parents))
    };
    GROUPS.iter().map(entity).collect()
}

/// Who approved: each person once, however often named.
pub(crate) fn approvals(approved: &[PersonName]) -> Vec<(String, RestrictedExpression)> {
    let mut names: Vec<&PersonName> = approved.iter().collect();
    names.sort();
    names.dedup();
    let count = i64::try_from(names.len()).unwrap_or(0);
    let names = names.into_iter().map(|n| RestrictedExpression::new_string(n.as_str().to_owned()));
    vec![("approved".to_owned(), RestrictedExpression::new_set(names)), ("approvals".to_owned(), RestrictedExpression::new_long(count))]
}

/// Seconds, hour of the day (UTC) and ISO 8601 weekday, 1 for Monday to 7 for Sunday.
fn clock(now: Timestamp) -> [(String, RestrictedExpression); 3] {
    const DAY: i64 = 86_400;
    let seconds = now.as_seconds();
    // 1970-01-01 was a Thursday, the fourth day.
    let weekday = seconds.div_euclid(DAY).saturating_add(3).rem_euclid(7).saturating_add(1);
    let hour = seconds.rem_euclid(DAY) / 3600;
    let long = |name: &str, value| (name.to_owned(), RestrictedExpression::new_long(value));
    [long("now", seconds), long("hour", hour), long("weekday", weekday)]
}

pub(crate) fn request(principal: &EntityUid, tool: &Tool, context: Vec<(String, RestrictedExpression)>) -> Result<Request, Unanswerable> {
    let context = Context::from_pairs(context).map_err(|e| Unanswerable::Context(e.to_string()))?;
    Request::new(principal.clone(), tool.action.clone(), tool.resource.clone(), context, None).map_err(|e| Unanswerable::Context(e.to_string()))
}

pub(crate) fn errors(response: &Response) -> Vec<String> {
    let mut errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
    errors.sort();
    errors
}

fn only_once(sources: &[Source], world: &World) -> Result<(), Vec<Problem>> {
    let checks = [
        ("policy source", twice(sources.iter().map(|s| &*s.name))),
        ("agent", twice(world.agents.iter().map(|a| a.name.as_str()))),
        ("person", twice(world.people.iter().map(|p| p.name.as_str()))),
        ("tool", twice(world.tools.iter().map(|t| t.name.as_str()))),
    ];
    let problems: Vec<Problem> = checks
        .into_iter()
        .filter_map(|(kind, name)| name.map(|n| format!("there are two of the {kind} `{n}`")))
        .map(|message| Problem::of_installation(message, "give each a name of its own"))
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn revision(sources: &[Source], world: &World) -> Revision {
    let mut texts: Vec<Digest> =
        sources.iter().map(|s| Digest::bind("bailiwick/policy-source/v1", &[s.name.as_bytes(), s.text.as_bytes()])).collect();
    texts.sort();
    let world = world.digest();
    let parts: Vec<&[u8]> = texts.iter().chain([&world]).map(|d| d.as_bytes().as_slice()).collect();
    Digest::bind("bailiwick/policy/v1", &parts).to_string().chars().take(REVISION_DIGITS).collect::<String>().into()
}

#[cfg(test)]
#[path = "../tests/it/world.rs"]
#[expect(dead_code, reason = "the integration tests use the rest")]
mod testing;

#[cfg(test)]
mod tests {
    use cedar_policy::Schema;

    use super::testing::{Ask, NOW, engine, labels, world};
    use super::*;

    /// Mentions every argument of every tool, and what the task has seen.
    const ALL: &str = r#"@id("all") permit (principal, action, resource) when { context.input == context.input && !context.labels.isEmpty() };"#;

    fn schema(engine: &Engine) -> Schema {
        Schema::from_cedarschema_str(engine.schema_text()).unwrap().0
    }

    #[test]
    fn what_is_made_without_the_schema_is_valid_by_the_schema() {
        let engine = engine(ALL);
        let schema = schema(&engine);
        let labels = labels(&["pii", "untrusted"]);
        for (tool, arguments) in [
            ("shop.refund_order", r#"{"order":"1","cents":2,"rate":1.5,"express":true,"tags":["a"]}"#),
            ("shop.refund_order", r#"{"order":"1","cents":2}"#),
            ("shop.delete_note", "{}"),
        ] {
            let call = Ask { model: Some("m".to_owned()), ..Ask::new("low", tool, arguments) }.bound();
            let (tool, cast, request) = engine.question(&call, Facts { approved: &[], now: NOW, calls_before: 0, labels: &labels }).unwrap();
            let (principal, action, resource) = (cast.principal.clone(), tool.action.clone(), tool.resource.clone());
            Request::new(principal, action, resource, request.context().unwrap().clone(), Some(&schema)).unwrap();
            Entities::from_entities(cast.entities.iter().cloned(), Some(&schema)).unwrap();
        }
    }

    #[test]
    fn groups_are_those_of_the_schema() {
        let engine = engine(ALL);
        let of_schema = schema(&engine).action_entities().unwrap();
        for tool in world().tools {
            let call = Ask::new("low", tool.name.as_str(), "{}").bound();
            let cast = engine.cast_of(&call, &engine.tools[&tool.name]).unwrap();
            for action in cast.entities.iter().map(Entity::uid).filter(|u| u.type_name().to_string() == "Action") {
                let sorted = |entities: &Entities| {
                    let mut list: Vec<String> = entities.ancestors(&action).unwrap().map(ToString::to_string).collect();
                    list.sort();
                    list
                };
                assert_eq!(sorted(&cast.entities), sorted(&of_schema), "{action}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_forgets_the_oldest() {
        let engine = engine(ALL);
        let call = Ask::new("low", "shop.show_order", "{}").bound();
        let tool = &engine.tools[&call.tool().name];
        let cast = engine.cast_of(&call, tool).unwrap();
        let mut kept = Kept::default();
        for i in 0..2 * KEPT_MAX + 10 {
            let mut random = [0; 10];
            random[2..].copy_from_slice(&i.to_be_bytes());
            kept.keep((TaskId::new(NOW, random), call.tool().name.clone()), Arc::clone(&cast));
            assert!(kept.young.len() <= KEPT_MAX && kept.old.len() <= KEPT_MAX);
        }
        assert_eq!(kept.young.len(), 10);
    }
}
