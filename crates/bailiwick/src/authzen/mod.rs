//! Other enforcement points ask the policy engine: questions in their own words (AuthZEN 1.0), each permit on record before it is told.

mod asking;
mod requests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use bailiwick_core::{Agent, AgentName, Hold, PersonName, PolicyRef, TaskId, Verdict};
use bailiwick_policy::{Elsewhere, ElsewhereQuestion, Source, Thing};
use bailiwick_store::{Entry, StoreError};

use crate::config::{Config, EnforcementPoint, Things};
use crate::entry::{self, Body};
use crate::house::{House, StartError};

pub use asking::Asking;
pub(crate) use requests::{AccessRefused, Asker, NotApplicable, Offer, Standing, Submission, approval_of, standing};

/// An enforcement point with its policies.
#[derive(Debug)]
pub struct Point {
    /// What the configuration says of it.
    pub entry: EnforcementPoint,
    engine: Elsewhere,
    desk: requests::Desk,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluated {
    /// Yes, by these policies.
    Permit(Vec<PolicyRef>),
    /// No, by these policies or for want of one.
    Deny(Vec<PolicyRef>),
    /// No; but with the yes of one of these people it would be permitted, by these policies.
    NeedsApproval(Vec<PersonName>, Vec<PolicyRef>),
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
        all.insert(agent.clone(), Point { entry: entry.clone(), engine, desk: requests::Desk::default() });
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
        match self.ask(asking, &[]) {
            Verdict::Permit(policies) => Evaluated::Permit(policies),
            Verdict::Error(why) => {
                tracing::error!(point = %self.entry.name, %why, "a question was denied: policy could not be evaluated");
                Evaluated::Failed
            }
            Verdict::Forbid(policies) => self.or_with_approval(asking, approvers, policies),
            Verdict::Silent => self.or_with_approval(asking, approvers, Vec::new()),
        }
    }

    /// What the policies say if these people approved.
    fn ask(&self, asking: &Asking, approved: &[PersonName]) -> Verdict {
        let subject = with_known(&self.entry.subjects, &asking.subject);
        let resource = with_known(&self.entry.resources, &asking.resource);
        self.engine.ask(ElsewhereQuestion {
            subject: &subject,
            action: &asking.action,
            action_properties: &asking.action_properties,
            resource: &resource,
            context: &asking.context,
            approved,
        })
    }

    /// Denied now, but permitted if somebody approves: as with held calls, each person is tried as a fact.
    fn or_with_approval(&self, asking: &Asking, approvers: &[PersonName], policies: Vec<PolicyRef>) -> Evaluated {
        let mut people = Vec::new();
        let mut releasing = Vec::new();
        for name in approvers {
            if let Verdict::Permit(by) = self.ask(asking, std::slice::from_ref(name)) {
                people.push(name.clone());
                releasing = by;
            }
        }
        if people.is_empty() { Evaluated::Deny(policies) } else { Evaluated::NeedsApproval(people, releasing) }
    }

    /// The entry that says that a yes was told.
    fn entry_of(&self, agent: &Agent, asking: &Asking, policies: &[PolicyRef], spent: Option<&Hold>, now: bailiwick_core::Timestamp) -> Entry {
        let body = entry::Evaluation {
            point: self.entry.name.as_str(),
            agent: &agent.spiffe_id,
            principal_type: &asking.subject.kind,
            principal: &asking.subject.id,
            action: &asking.action,
            object_type: &asking.resource.kind,
            object: &asking.resource.id,
            revision: self.engine.revision(),
            policies,
            hold: spent.map(|hold| hold.id),
            approvals: spent.map_or(&[], |hold| hold.approvals.as_slice()),
        };
        Entry::new(<entry::Evaluation<'_> as Body>::WORD, entry::encode(now, &body))
    }
}

/// The type under which an enforcement point asks about one of our tasks, by its id.
const TASK: &str = "task";
/// Most people that are tried as approvers for one question.
const CANDIDATES_MAX: usize = 32;

impl House {
    /// The people whose yes a policy of an enforcement point could ask for: nobody who asks, or answers for who asks, is among them unless
    /// the configuration lets people approve their own requests.
    #[must_use]
    pub fn approvers_elsewhere(&self, agent: &Agent, point: &Point, subject: &Thing) -> Vec<PersonName> {
        let asker = match self.asker_elsewhere(point, subject) {
            requests::Asker::Person(name) => name,
            requests::Asker::Stranger => agent.owner.clone(),
            requests::Asker::Disabled => return Vec::new(),
        };
        let mut all = self.approvers(&agent.owner, &asker);
        all.truncate(CANDIDATES_MAX);
        all
    }

    /// Puts permits on record. They may be told afterwards.
    ///
    /// # Errors
    /// The store's: then nothing is permitted.
    pub async fn record_evaluations(&self, agent: &Agent, point: &Point, permitted: &[(&Asking, &[PolicyRef])]) -> Result<(), StoreError> {
        let now = self.clock.now();
        let entries: Vec<Entry> = permitted.iter().map(|(asking, policies)| point.entry_of(agent, asking, policies, None, now)).collect();
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

    /// A task of ours that is asked about (type `task`) has the labels that we know of it, also when it has ended, and is open or not,
    /// whatever the question says. One that the store does not know (any more) has no labels, and is not open.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn with_labels<'a>(&self, asking: &'a Asking) -> Result<Cow<'a, Asking>, StoreError> {
        let Some(task) = asking.subject.id.parse::<TaskId>().ok().filter(|_| asking.subject.kind == TASK) else { return Ok(Cow::Borrowed(asking)) };
        let (labels, open) = match self.live.find(task) {
            Some(live) => (Some(live.labels()), live.is_open(self.clock.now())),
            None => (self.store.task(task).await?.map(|row| row.labels), false),
        };
        let mut known = asking.clone();
        let properties = &mut known.subject.properties;
        properties.insert("open".to_owned(), open.into());
        match labels {
            Some(labels) => properties.insert("labels".to_owned(), labels.iter().map(ToString::to_string).collect()),
            None => properties.remove("labels"),
        };
        Ok(Cow::Owned(known))
    }

    /// The enforcement point that this agent is.
    #[must_use]
    pub fn enforcement_point(&self, agent: &AgentName) -> Option<&Point> {
        self.points.get(agent)
    }
}
