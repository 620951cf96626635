//! What a policy looks at, read from its syntax: arguments, facts that are not known before a call, groups used as tools.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::pst::{ActionConstraint, BinaryOp, Clause, EntityOrSlot, Expr, Literal, PrincipalConstraint, StaticPolicy, Var};
use cedar_policy::{Effect, Policy, pst};

use crate::schema::{ACTION, GROUPS, TASK};

/// Which arguments a policy reads in `context.input`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mentions {
    /// `context.input` is looked at in some way.
    pub(crate) input: bool,
    /// `context.labels` is.
    pub(crate) labels: bool,
    /// It is used as a whole, so that every argument matters.
    all: bool,
    names: BTreeSet<String>,
}

impl Mentions {
    /// Does the argument of this name matter?
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }

    /// What either mentions.
    pub(crate) fn union(mut self, other: &Self) -> Self {
        self.input |= other.input;
        self.labels |= other.labels;
        self.all |= other.all;
        self.names.extend(other.names.iter().cloned());
        self
    }

    fn name(&mut self, name: &str) {
        self.input = true;
        self.names.insert(name.to_owned());
    }

    fn whole(&mut self) {
        self.input = true;
        self.labels = true;
        self.all = true;
    }
}

/// Why a policy's syntax tree could not be had. Cedar gives one for every policy that it parsed from text.
#[derive(Debug, thiserror::Error)]
#[error("its syntax tree cannot be read: {0}")]
pub(crate) struct AnalysisError(String);

/// What is known of a policy by its syntax alone.
#[derive(Debug)]
pub(crate) struct Analysis {
    pub(crate) mentions: Mentions,
    /// For a `permit`, the same with less asked of it: only what is known before a call. For a `forbid`, itself if it asks for
    /// nothing else. So outlines permit at least what the policies permit.
    pub(crate) outline: Option<Policy>,
    /// A group of actions used where only a tool can match.
    pub(crate) group_as_tool: Option<String>,
    /// It reads the model that an agent says it runs. Nobody proved it.
    pub(crate) reads_claimed_model: bool,
}

pub(crate) fn analyse(policy: &Policy) -> Result<Analysis, AnalysisError> {
    let wrong = |e: pst::PstConstructionError| AnalysisError(e.to_string());
    let tree = policy.to_pst().map_err(wrong)?;
    let body = tree.body();
    let clauses = body.clauses();
    let mentions = mentions(clauses);
    let group_as_tool = scope_group(&body.action).or_else(|| clauses.iter().find_map(|c| condition_group(inside(c))));
    let outline = match policy.effect() {
        Effect::Forbid => (!clauses.iter().any(|c| is_open(inside(c)))).then(|| policy.clone()),
        Effect::Permit => {
            let mut wider = body.clone().try_with_clauses(clauses.iter().filter_map(widen)).map_err(wrong)?;
            if names_a_task(&wider.principal) {
                wider.principal = PrincipalConstraint::Any;
            }
            let wider = StaticPolicy::try_from(wider).map_err(|e| AnalysisError(e.to_string()))?;
            Some(Policy::from_pst(wider.into()).map_err(wrong)?)
        }
    };
    let reads_claimed_model = clauses.iter().any(|c| reads_attribute(inside(c), "model"));
    Ok(Analysis { mentions, outline, group_as_tool, reads_claimed_model })
}

/// A task has no name before it is opened, so that any may be the one.
fn names_a_task(principal: &PrincipalConstraint) -> bool {
    match principal {
        PrincipalConstraint::Eq(EntityOrSlot::Entity(uid))
        | PrincipalConstraint::In(EntityOrSlot::Entity(uid))
        | PrincipalConstraint::IsIn(_, EntityOrSlot::Entity(uid)) => is_task(uid),
        _ => false,
    }
}

fn is_task(uid: &pst::EntityUID) -> bool {
    uid.ty.0.id.as_str() == TASK
}

const fn inside(clause: &Clause) -> &Arc<Expr> {
    match clause {
        Clause::When(e) | Clause::Unless(e) => e,
    }
}

fn is_context(e: &Expr) -> bool {
    matches!(e, Expr::Var(Var::Context))
}

fn is_input(e: &Expr) -> bool {
    matches!(e, Expr::GetAttr { expr, attr } if is_context(expr) && attr == "input")
}

fn mentions(clauses: &[Clause]) -> Mentions {
    let found = RefCell::new(Mentions::default());
    let look = |e: &Expr| -> Option<()> {
        let mut found = found.borrow_mut();
        match e {
            Expr::GetAttr { expr, attr } if is_input(expr) => found.name(attr),
            Expr::HasAttr { expr, attrs } if is_input(expr) => found.name(attrs.first()),
            Expr::HasAttr { expr, attrs } if is_context(expr) => {
                let mut path = attrs.iter();
                let first = path.next();
                found.labels |= first.is_some_and(|a| a == "labels");
                if first.is_some_and(|a| a == "input") {
                    found.input = true;
                    if let Some(name) = path.next() {
                        found.name(name);
                    }
                }
            }
            // The input itself, or the whole context, goes somewhere else: everything in it may matter.
            e if is_input(e) || is_context(e) => found.whole(),
            Expr::GetAttr { expr, attr } if is_context(expr) => found.labels |= attr == "labels",
            _ => return None,
        }
        Some(())
    };
    for clause in clauses {
        inside(clause).reduce(&look, &|(), ()| (), ());
    }
    found.into_inner()
}

/// Is something asked that is not known before a call: arguments, time, counts, labels, the chain,
/// the component, the model, the task itself?
fn is_open(e: &Expr) -> bool {
    const KNOWN: [&str; 2] = ["approved", "approvals"];
    const OPEN: [&str; 7] = ["depth", "chain", "root", "component", "undivided", "model", "model_attested"];
    let look = |e: &Expr| match e {
        Expr::GetAttr { expr, attr } if is_context(expr) => Some(!KNOWN.contains(&attr.as_str())),
        Expr::HasAttr { expr, attrs } if is_context(expr) => Some(!KNOWN.contains(&attrs.first().as_str())),
        Expr::GetAttr { attr, .. } if OPEN.contains(&attr.as_str()) => Some(true),
        Expr::HasAttr { attrs, .. } if attrs.iter().any(|a| OPEN.contains(&a.as_str())) => Some(true),
        Expr::Literal(Literal::EntityUID(uid)) => Some(is_task(uid)),
        e if is_context(e) => Some(true),
        _ => None,
    };
    e.reduce(&look, &|a, b| a || b, false)
}

/// Is an attribute of this name read from something other than the call's arguments?
fn reads_attribute(e: &Expr, name: &str) -> bool {
    let look = |e: &Expr| match e {
        Expr::GetAttr { expr, .. } if is_input(expr) => Some(false),
        Expr::GetAttr { attr, .. } if attr == name => Some(true),
        Expr::HasAttr { expr, attrs } if !is_input(expr) && attrs.iter().any(|a| a == name) => Some(true),
        _ => None,
    };
    e.reduce(&look, &|a, b| a || b, false)
}

/// The clause with only those of its conditions that are known before a call. `None`: nothing is left of it.
fn widen(clause: &Clause) -> Option<Clause> {
    let (op, e) = match clause {
        Clause::When(e) => (BinaryOp::And, e),
        Clause::Unless(e) => (BinaryOp::Or, e),
    };
    let mut parts = Vec::new();
    split(op, e, &mut parts);
    let kept = parts.into_iter().filter(|e| !is_open(e)).reduce(|left, right| Arc::new(Expr::BinaryOp { op, left, right }))?;
    Some(match clause {
        Clause::When(_) => Clause::When(kept),
        Clause::Unless(_) => Clause::Unless(kept),
    })
}

fn split(by: BinaryOp, e: &Arc<Expr>, parts: &mut Vec<Arc<Expr>>) {
    match &**e {
        Expr::BinaryOp { op, left, right } if *op == by => {
            split(by, left, parts);
            split(by, right, parts);
        }
        _ => parts.push(Arc::clone(e)),
    }
}

fn group(uid: &pst::EntityUID) -> Option<String> {
    (uid.ty.0.id.as_str() == ACTION && GROUPS.contains(&uid.eid.as_str())).then(|| uid.eid.to_string())
}

fn scope_group(action: &ActionConstraint) -> Option<String> {
    match action {
        ActionConstraint::Eq(uid) => group(uid),
        _ => None,
    }
}

/// A group that stands anywhere but on the right of `in`: no tool is equal to it.
fn condition_group(e: &Expr) -> Option<String> {
    let found = RefCell::new(None);
    let look = |e: &Expr| -> Option<()> {
        match e {
            Expr::Literal(Literal::EntityUID(uid)) => {
                if let Some(group) = group(uid) {
                    found.borrow_mut().get_or_insert(group);
                }
                Some(())
            }
            Expr::BinaryOp { op: BinaryOp::In, left, .. } => {
                if let Some(group) = condition_group(left) {
                    found.borrow_mut().get_or_insert(group);
                }
                Some(())
            }
            _ => None,
        }
    };
    e.reduce(&look, &|(), ()| (), ());
    found.into_inner()
}
