//! Other enforcement points ask the policy engine: questions in their own words (AuthZEN 1.0), each permit on record before it is told.

use std::collections::BTreeMap;
use std::path::Path;

use bailiwick_core::{Agent, AgentName, PersonName, PolicyRef, Role, Verdict};
use bailiwick_policy::{Elsewhere, ElsewhereQuestion, Source, Thing};
use bailiwick_store::{Entry, StoreError};
use serde_json::{Map, Value};

use crate::config::{Config, EnforcementPoint, Things};
use crate::entry::{self, Body};
use crate::house::{House, StartError};

/// An enforcement point with its policies.
#[derive(Debug)]
pub struct Point {
    /// What the configuration says of it.
    pub entry: EnforcementPoint,
    engine: Elsewhere,
}

/// A question, as it is sent.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Who would do it.
    pub subject: Thing,
    /// What would be done.
    pub action: String,
    /// What is known of that.
    pub action_properties: Map<String, Value>,
    /// To what.
    pub resource: Thing,
    /// What else is known.
    pub context: Map<String, Value>,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluated {
    /// Yes, by these policies.
    Permit(Vec<PolicyRef>),
    /// No, by these policies or for want of one.
    Deny(Vec<PolicyRef>),
    /// No; but with the yes of one of these people it would be permitted.
    NeedsApproval(Vec<PersonName>),
    /// No: the policies could not be evaluated.
    Failed,
}

impl Evaluated {
    /// Is it a yes?
    #[must_use]
    pub const fn is_permit(&self) -> bool {
        matches!(self, Self::Permit(_))
    }
}

/// The enforcement points of a configuration, by the agents that they are.
///
/// # Errors
/// A policy that is not valid, or a directory without one.
pub(crate) fn points(config: &Config) -> Result<BTreeMap<AgentName, Point>, StartError> {
    let mut all = BTreeMap::new();
    for (agent, entry) in &config.enforcement_points {
        let sources = sources(&entry.directory)?;
        let engine = Elsewhere::new(&sources).map_err(|why| StartError::Policy(format!("error: enforcement point `{}`: {why}", entry.name)))?;
        all.insert(agent.clone(), Point { entry: entry.clone(), engine });
    }
    Ok(all)
}

fn sources(directory: &Path) -> Result<Vec<Source>, StartError> {
    let place = |e: std::io::Error| StartError::place(directory.display().to_string(), e);
    let mut files = Vec::new();
    for file in std::fs::read_dir(directory).map_err(place)? {
        let path = file.map_err(place)?.path();
        if path.extension().is_some_and(|e| e == "cedar") {
            files.push(path);
        }
    }
    files.sort();
    let read = |path: std::path::PathBuf| {
        Ok(Source { name: path.display().to_string().into(), text: std::fs::read_to_string(&path).map_err(place)?.into() })
    };
    files.into_iter().map(read).collect()
}

/// What we know of a thing, and what the enforcement point knows of it: its own word about what it guards counts.
fn with_known(known: &Things, thing: &Thing) -> Thing {
    let mut properties = known.get(&thing.kind).and_then(|all| all.get(&thing.id)).cloned().unwrap_or_default();
    properties.extend(thing.properties.clone());
    Thing { properties, ..thing.clone() }
}

impl Point {
    /// What the policies say. Nothing is recorded by this.
    #[must_use]
    pub fn evaluate(&self, asking: &Asking, approvers: &[PersonName]) -> Evaluated {
        let subject = with_known(&self.entry.subjects, &asking.subject);
        let resource = with_known(&self.entry.resources, &asking.resource);
        let question = ElsewhereQuestion {
            subject: &subject,
            action: &asking.action,
            action_properties: &asking.action_properties,
            resource: &resource,
            context: &asking.context,
            approved: &[],
        };
        match self.engine.ask(question) {
            Verdict::Permit(policies) => Evaluated::Permit(policies),
            Verdict::Error(why) => {
                tracing::error!(point = self.entry.name, %why, "a question was denied: policy could not be evaluated");
                Evaluated::Failed
            }
            Verdict::Forbid(policies) => self.or_with_approval(question, approvers, policies),
            Verdict::Silent => self.or_with_approval(question, approvers, Vec::new()),
        }
    }

    /// Denied now, but permitted if somebody approves: as with held calls, each person is tried as a fact.
    fn or_with_approval(&self, question: ElsewhereQuestion<'_>, approvers: &[PersonName], policies: Vec<PolicyRef>) -> Evaluated {
        let releases = |name: &&PersonName| {
            let approved = std::slice::from_ref(*name);
            matches!(self.engine.ask(ElsewhereQuestion { approved, ..question }), Verdict::Permit(_))
        };
        let people: Vec<PersonName> = approvers.iter().filter(releases).cloned().collect();
        if people.is_empty() { Evaluated::Deny(policies) } else { Evaluated::NeedsApproval(people) }
    }
}

/// Most people that are tried as approvers for one question.
const CANDIDATES_MAX: usize = 32;

impl House {
    /// The people whose yes a policy of an enforcement point could ask for.
    #[must_use]
    pub fn approvers_elsewhere(&self) -> Vec<PersonName> {
        let may = self.config.people.values().filter(|p| p.roles.contains(&Role::Approver));
        may.map(|p| p.name.clone()).take(CANDIDATES_MAX).collect()
    }

    /// Puts permits on record. They may be told afterwards.
    ///
    /// # Errors
    /// The store's: then nothing is permitted.
    pub async fn record_evaluations(&self, agent: &Agent, point: &Point, permitted: &[(&Asking, &[PolicyRef])]) -> Result<(), StoreError> {
        let now = self.clock.now();
        let entry = |(asking, policies): &(&Asking, &[PolicyRef])| {
            let body = entry::Evaluation {
                point: &point.entry.name,
                agent: &agent.spiffe_id,
                principal_type: &asking.subject.kind,
                principal: &asking.subject.id,
                action: &asking.action,
                object_type: &asking.resource.kind,
                object: &asking.resource.id,
                revision: point.engine.revision(),
                policies,
            };
            Entry::new(<entry::Evaluation<'_> as Body>::WORD, entry::encode(now, &body))
        };
        let entries: Vec<Entry> = permitted.iter().map(entry).collect();
        if entries.is_empty() {
            return Ok(());
        }
        self.store
            .write(move |w| {
                for entry in entries {
                    w.append(entry)?;
                }
                Ok(())
            })
            .await
    }

    /// The enforcement point that this agent is.
    #[must_use]
    pub fn enforcement_point(&self, agent: &AgentName) -> Option<&Point> {
        self.points.get(agent)
    }
}
