//! Delegation: a part of a task that is given on to another agent. Nothing is in the part that is not in the whole; what would be more
//! is refused and named, never cut away in silence.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::grant::{Grant, ToolGrant};
use crate::id::{InstanceId, TaskId};
use crate::name::{AgentName, ComponentName, PersonName, SpiffeId, ToolName};
use crate::task::{Budget, Task};
use crate::time::Timestamp;

/// The deepest chain that any installation may allow: what a token has room for.
pub const DEPTH_MAX: usize = 16;

/// One link of a chain: a task, and who gave a part of it on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Hop {
    /// The task of which a part was given on.
    pub task: TaskId,
    /// The agent that does that task.
    pub agent: AgentName,
    /// The agent's SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// The component of it, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentName>,
    /// The running copy.
    pub instance: InstanceId,
    /// The person who answers for the agent.
    pub owner: PersonName,
}

impl Hop {
    /// The link as tokens and entries name it: agent, component if it is one, and running copy.
    #[must_use]
    pub fn actor(&self) -> SpiffeId {
        match &self.component {
            Some(component) => self.spiffe_id.of_component(component).of_instance(self.instance),
            None => self.spiffe_id.of_instance(self.instance),
        }
    }
}

/// Who wants a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taker {
    /// The agent.
    pub agent: AgentName,
    /// The component of it, if it proved that it is one.
    pub component: Option<ComponentName>,
    /// The running copy.
    pub instance: InstanceId,
}

/// What is asked of a task. What is left out is as it is in the whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// Tools, each with bounds on its arguments.
    pub tools: BTreeMap<ToolName, ToolGrant>,
    /// Calls in all.
    pub calls: Option<u64>,
    /// Calls in any minute.
    pub calls_per_minute: Option<u32>,
    /// How long it may take.
    pub ttl: Option<Duration>,
}

/// The bounds of a chain, as the installation sets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainLimits {
    /// How many times a task may be given on.
    pub depth_max: usize,
    /// May one agent stand in a chain twice?
    pub loops: bool,
}

/// The part of a task that is given on.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What it may do.
    pub grant: Grant,
    /// How much. The calls count in the whole too.
    pub budget: Budget,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// The tasks that it is a part of, nearest first.
    pub chain: Vec<Hop>,
}

/// Something that was asked for and that the whole does not have.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Excess {
    /// A tool.
    #[error("tool `{0}` is not the parent task's to give")]
    Tool(ToolName),
    /// An argument of a tool.
    #[error("argument `{argument}` of `{tool}`: {what}")]
    Argument {
        /// The tool.
        tool: ToolName,
        /// Its argument.
        argument: String,
        /// What is more, in words.
        what: String,
    },
    /// Calls in all.
    #[error("{asked} calls are asked for, and the parent task has {most}")]
    Calls {
        /// Asked for.
        asked: u64,
        /// What the whole has.
        most: u64,
    },
    /// Calls in any minute.
    #[error("{asked} calls in a minute are asked for, and the parent task has {most}")]
    CallsPerMinute {
        /// Asked for.
        asked: u32,
        /// What the whole has.
        most: u32,
    },
    /// Time.
    #[error("{asked} seconds are asked for, and the parent task has {left} left")]
    Time {
        /// Asked for.
        asked: u64,
        /// What is left of the whole.
        left: u64,
    },
}

/// Why no part is given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PartRefused {
    /// Whoever wants it does the whole already, or gave it on: one running copy stands in a chain once.
    #[error("the running copy `{0}` stands in the chain already")]
    Itself(InstanceId),
    /// The agent gave it on before.
    #[error("agent `{0}` stands in the chain already")]
    Loop(AgentName),
    /// The chain would be too long.
    #[error("the chain would be {depth} deep, and may be {max}")]
    TooDeep {
        /// How deep it would be.
        depth: usize,
        /// How deep it may be.
        max: usize,
    },
    /// The whole is over.
    #[error("the parent task has ended")]
    Over,
    /// More is asked for than there is.
    #[error("{}", join(.0))]
    Excess(Vec<Excess>),
}

fn join(excess: &[Excess]) -> String {
    let words: Vec<String> = excess.iter().map(ToString::to_string).collect();
    words.join("; ")
}

/// May `taker` stand at the end of the chain of `whole`?
///
/// # Errors
/// If it stands there already, or the chain would be too long.
pub fn join_chain(whole: &Task, taker: &Taker, limits: ChainLimits) -> Result<Vec<Hop>, PartRefused> {
    let chain: Vec<Hop> = std::iter::once(whole.hop()).chain(whole.chain.iter().cloned()).collect();
    if let Some(hop) = chain.iter().find(|hop| hop.instance == taker.instance) {
        return Err(PartRefused::Itself(hop.instance));
    }
    let same = |hop: &&Hop| hop.agent == taker.agent && hop.component == taker.component;
    if let Some(hop) = chain.iter().find(same).filter(|_| !limits.loops) {
        return Err(PartRefused::Loop(hop.agent.clone()));
    }
    let max = limits.depth_max.min(DEPTH_MAX);
    if chain.len() > max {
        return Err(PartRefused::TooDeep { depth: chain.len(), max });
    }
    Ok(chain)
}

/// The part of `whole` that `taker` asks for.
///
/// # Errors
/// If the chain may not go on, the whole is over, or more is asked for than it has: then everything that is too much is named.
pub fn part(whole: &Task, taker: &Taker, wish: &Wish, limits: ChainLimits, now: Timestamp) -> Result<Part, PartRefused> {
    let chain = join_chain(whole, taker, limits)?;
    if whole.expired(now) {
        return Err(PartRefused::Over);
    }
    let mut excess = Vec::new();
    let mut tools = BTreeMap::new();
    for (name, asked) in &wish.tools {
        match whole.grant.tool(name.as_str()).map(|granted| granted.part(asked)) {
            None => excess.push(Excess::Tool(name.clone())),
            Some(Ok(part)) => drop(tools.insert(name.clone(), part)),
            Some(Err(beyond)) => {
                let named = beyond.into_iter().map(|v| Excess::Argument { tool: name.clone(), argument: v.argument, what: v.what });
                excess.extend(named);
            }
        }
    }
    let Budget { calls, calls_per_minute } = whole.budget;
    if let Some(asked) = wish.calls.filter(|asked| *asked > calls) {
        excess.push(Excess::Calls { asked, most: calls });
    }
    if let Some(asked) = wish.calls_per_minute.filter(|asked| *asked > calls_per_minute) {
        excess.push(Excess::CallsPerMinute { asked, most: calls_per_minute });
    }
    if let Some(asked) = wish.ttl.filter(|ttl| now.plus(*ttl) > whole.expires_at) {
        excess.push(Excess::Time { asked: asked.as_secs(), left: whole.left(now).as_secs() });
    }
    if !excess.is_empty() {
        return Err(PartRefused::Excess(excess));
    }
    Ok(Part {
        grant: Grant::new(tools),
        budget: Budget { calls: wish.calls.unwrap_or(calls), calls_per_minute: wish.calls_per_minute.unwrap_or(calls_per_minute) },
        expires_at: wish.ttl.map_or(whole.expires_at, |ttl| now.plus(ttl)),
        chain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::{Constraint, Scalar};
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const LIMITS: ChainLimits = ChainLimits { depth_max: 3, loops: false };

    fn agent(n: u8) -> Taker {
        Taker { agent: format!("a{n}").parse().unwrap(), component: None, instance: InstanceId::from_bytes([n; 16]) }
    }

    fn task(taker: &Taker, part: Part) -> Task {
        Task {
            id: TaskId::from_bytes(taker.instance.to_bytes()),
            agent: taker.agent.clone(),
            spiffe_id: SpiffeId::agent(&"td".parse().unwrap(), &taker.agent),
            instance: taker.instance,
            owner: "ana".parse().unwrap(),
            subject: "ana".parse().unwrap(),
            purpose: String::new(),
            model_claimed: None,
            model_attested: None,
            component: taker.component.clone(),
            undivided: false,
            held_by: None,
            proved_by: None,
            chain: part.chain,
            grant: part.grant,
            budget: part.budget,
            opened_at: NOW,
            expires_at: part.expires_at,
        }
    }

    fn root(tools: BTreeMap<ToolName, ToolGrant>) -> Task {
        let budget = Budget { calls: 100, calls_per_minute: 10 };
        let expires_at = NOW.plus(Duration::from_secs(600));
        task(&agent(0), Part { grant: Grant::new(tools), budget, expires_at, chain: Vec::new() })
    }

    fn tool(name: &str, max: Option<f64>) -> (ToolName, ToolGrant) {
        let bound = max.map(|max| ("n".to_owned(), Constraint { max: Some(max), ..Constraint::default() }));
        (name.parse().unwrap(), ToolGrant { arguments: bound.into_iter().collect() })
    }

    #[test]
    fn every_excess_is_named_and_nothing_is_cut_away_in_silence() {
        let whole = root([tool("s.a", Some(5.0)), tool("s.b", None)].into());
        let wish = Wish {
            tools: [tool("s.a", Some(6.0)), tool("s.c", None)].into(),
            calls: Some(101),
            calls_per_minute: Some(11),
            ttl: Some(Duration::from_secs(601)),
        };
        let words = part(&whole, &agent(1), &wish, LIMITS, NOW).unwrap_err().to_string();
        assert_eq!(
            words,
            "argument `n` of `s.a`: 6 is asked for: the task allows no more than 5; tool `s.c` is not the parent task's to give; \
             101 calls are asked for, and the parent task has 100; 11 calls in a minute are asked for, and the parent task has 10; \
             601 seconds are asked for, and the parent task has 600 left"
        );
        assert_eq!(part(&whole, &agent(1), &Wish::default(), LIMITS, whole.expires_at), Err(PartRefused::Over));
    }

    #[test]
    fn a_chain_ends_at_its_depth_and_has_no_agent_or_copy_twice() {
        let mut last = root([tool("s.a", None)].into());
        let wish = Wish { tools: [tool("s.a", None)].into(), ..Wish::default() };
        for n in 1..=3 {
            last = task(&agent(n), part(&last, &agent(n), &wish, LIMITS, NOW).unwrap());
        }
        assert_eq!(last.chain.iter().map(|h| h.agent.as_str()).collect::<Vec<_>>(), ["a2", "a1", "a0"]);
        assert_eq!(part(&last, &agent(4), &wish, LIMITS, NOW), Err(PartRefused::TooDeep { depth: 4, max: 3 }));
        let endless = ChainLimits { depth_max: 99, loops: true };
        let refused = |taker: &Taker, limits| part(&last, taker, &wish, limits, NOW).err();
        // The copy that does it, and one further up; as another agent too.
        assert_eq!(refused(&agent(3), endless), Some(PartRefused::Itself(agent(3).instance)));
        assert_eq!(refused(&Taker { instance: agent(0).instance, ..agent(9) }, endless), Some(PartRefused::Itself(agent(0).instance)));
        let other_copy = Taker { instance: agent(9).instance, ..agent(1) };
        assert_eq!(refused(&other_copy, ChainLimits { loops: false, ..endless }), Some(PartRefused::Loop("a1".parse().unwrap())));
        assert_eq!(refused(&other_copy, endless), None);
        // A component is not the bundle.
        let component = Taker { component: Some("memory".parse().unwrap()), ..other_copy };
        assert_eq!(refused(&component, ChainLimits { loops: false, ..endless }), None);
    }

    fn scalar() -> impl Strategy<Value = Scalar> {
        prop_oneof![
            any::<bool>().prop_map(Scalar::Bool),
            (-6i64..6).prop_map(Scalar::Integer),
            prop_oneof![Just(-0.0), Just(0.5), Just(3.0), Just(f64::NAN), Just(f64::INFINITY)].prop_map(Scalar::Number),
            prop_oneof![Just("x"), Just("/a"), Just("/a/b"), Just("/a/b/c"), Just("/ab"), Just("/a/../b"), Just("/")]
                .prop_map(|t| Scalar::Text(t.to_owned())),
        ]
    }

    fn bound() -> impl Strategy<Value = Option<f64>> {
        proptest::option::of(prop_oneof![(-6i32..6).prop_map(f64::from), Just(2.5), Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY)])
    }

    fn constraint() -> impl Strategy<Value = Constraint> {
        let under =
            proptest::option::weighted(0.2, prop_oneof![Just("/a"), Just("/a/"), Just("/a/b"), Just("/"), Just("a"), Just("/a/.."), Just("//")]);
        let equals = proptest::option::weighted(0.2, scalar());
        let one_of = proptest::option::weighted(0.3, proptest::collection::vec(scalar(), 0..4));
        (equals, one_of, bound(), bound(), under, any::<bool>()).prop_map(|(equals, one_of, min, max, under, optional)| Constraint {
            equals,
            one_of,
            min,
            max,
            under: under.map(str::to_owned),
            optional,
        })
    }

    fn tools() -> impl Strategy<Value = BTreeMap<ToolName, ToolGrant>> {
        let arguments = proptest::collection::btree_map(prop_oneof![Just("n".to_owned()), Just("m".to_owned())], constraint(), 0..3);
        let name = prop_oneof![Just("s.a"), Just("s.b"), Just("t.a")].prop_map(|n| n.parse().unwrap());
        proptest::collection::btree_map(name, arguments.prop_map(|arguments| ToolGrant { arguments }), 0..4)
    }

    /// Arguments of a call, as the pipeline hands them to the matcher: nothing, or every element of a list.
    type Given = BTreeMap<&'static str, Vec<Scalar>>;

    fn given() -> impl Strategy<Value = Given> {
        proptest::collection::btree_map(prop_oneof![Just("n"), Just("m")], proptest::collection::vec(scalar(), 0..3), 0..3)
    }

    fn may(task: &Task, tool: &str, given: &Given) -> bool {
        task.grant.tool(tool).is_some_and(|grant| grant.check(|argument| Ok(given.get(argument).cloned())).is_ok())
    }

    fn wish() -> impl Strategy<Value = Wish> {
        let ttl = proptest::option::of((1u64..700).prop_map(Duration::from_secs));
        (tools(), proptest::option::of(0u64..120), proptest::option::of(0u32..12), ttl).prop_map(|(tools, calls, calls_per_minute, ttl)| Wish {
            tools,
            calls,
            calls_per_minute,
            ttl,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_given_on_no_child_can_do_what_its_parent_cannot(
            first in tools(),
            wishes in proptest::collection::vec((wish(), any::<bool>()), 1..5),
            calls in proptest::collection::vec((prop_oneof![Just("s.a"), Just("s.b"), Just("t.a")], given()), 1..40),
        ) {
            let mut all = vec![root(first)];
            for (n, (mut wish, kept)) in (1u8..).zip(wishes) {
                let parent = all.last().unwrap();
                if kept {
                    // Random bounds are seldom within: ask for tools that the parent has, so that chains come to be.
                    wish.tools.retain(|name, _| parent.grant.tool(name.as_str()).is_some());
                    wish.tools.values_mut().for_each(|t| t.arguments.retain(|_, c| c.equals.is_some() || c.max.is_some()));
                    wish.ttl = None;
                    wish.calls = wish.calls.map(|c| c.min(parent.budget.calls));
                    wish.calls_per_minute = None;
                }
                if let Ok(part) = part(parent, &agent(n), &wish, LIMITS, NOW) {
                    // What is given is what was asked for.
                    prop_assert!(part.grant.tools().keys().eq(wish.tools.keys()));
                    all.push(task(&agent(n), part));
                }
            }
            prop_assert!(all.len() <= 4, "no deeper than the limit");
            for (parent, child) in all.iter().zip(all.iter().skip(1)) {
                prop_assert!(child.budget.calls <= parent.budget.calls && child.budget.calls_per_minute <= parent.budget.calls_per_minute);
                prop_assert!(child.expires_at <= parent.expires_at && child.parent() == Some(parent.id));
                prop_assert_eq!(&child.chain[1..], &parent.chain[..]);
                for (tool, given) in &calls {
                    prop_assert!(!may(child, tool, given) || may(parent, tool, given), "{} {:?}\n{:?}\n{:?}", tool, given, child.grant, parent.grant);
                }
            }
        }
    }
}
