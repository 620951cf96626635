//! A value against compiled nodes, within a budget of work.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::compile::escaped;
use super::{Additional, Limit, Node, Schema, Violation};
use crate::canonical::canonical;
use crate::json::{Decimal, Kind, Raw};

/// Work for one check: about one unit for each subschema met and one for each 64 bytes of the value that it looks at.
const BUDGET: usize = 1_000_000;
/// Subschemas entered without getting deeper into the value: a circle of references ends here.
const MAX_NESTING: usize = 512;

pub(super) fn check(schema: &Schema, value: Raw<'_>) -> Result<(), Violation> {
    Checker { schema, budget: BUDGET, nesting: 0, stopped: false }.outermost(0, value)
}

struct Checker<'s> {
    schema: &'s Schema,
    budget: usize,
    nesting: usize,
    /// The check gave up: no verdict of a part counts any more.
    stopped: bool,
}

impl<'s> Checker<'s> {
    fn node(&self, place: usize) -> Result<&'s Node, Violation> {
        self.schema.nodes.get(place).ok_or_else(|| violation("the schema is broken"))
    }

    /// Checks a value at a new place: here, and only here, properties that no part of the schema names are refused.
    fn outermost(&mut self, place: usize, value: Raw<'_>) -> Result<(), Violation> {
        if value.is_object() {
            let mut known = Known::default();
            self.known(place, &mut known)?;
            if known.listed && !known.open {
                for (name, _) in value.members() {
                    if !known.names.contains(&*name) {
                        return Err(unknown(&name));
                    }
                }
            }
        }
        self.applied(place, value)
    }

    /// Collects what the schemas that apply to one object say about its properties.
    fn known(&mut self, place: usize, known: &mut Known<'s>) -> Result<(), Violation> {
        if !known.visited.insert(place) {
            return Ok(());
        }
        self.spend(1)?;
        let node = self.node(place)?;
        if let Some(properties) = &node.properties {
            known.listed = true;
            known.names.extend(properties.keys().map(String::as_str));
        }
        // What must be there is named by being required.
        known.names.extend(node.required.iter().map(String::as_str));
        known.open |= node.open || matches!(node.additional, Additional::Schema(_));
        let condition = node.condition.iter();
        let parts = (node.all_of.iter().copied())
            .chain(node.any_of.iter().flatten().copied())
            .chain(node.one_of.iter().flatten().copied())
            .chain(node.reference)
            .chain(condition.flat_map(|c| [Some(c.when), c.then, c.otherwise]).flatten());
        parts.into_iter().try_for_each(|part| self.known(part, known))
    }

    /// Checks a value against one subschema and those that apply at the same place.
    fn applied(&mut self, place: usize, value: Raw<'_>) -> Result<(), Violation> {
        self.spend(1 + value.text().len() / 64)?;
        let node = self.node(place)?;
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            self.stopped = true;
            return Err(violation("the schema goes in circles"));
        }
        let outcome = self.own(node, value).and_then(|()| self.parts(node, value));
        self.nesting -= 1;
        outcome
    }

    fn spend(&mut self, work: usize) -> Result<(), Violation> {
        match self.budget.checked_sub(work) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => {
                self.stopped = true;
                Err(violation("checking it takes too much work"))
            }
        }
    }

    fn own(&mut self, node: &'s Node, value: Raw<'_>) -> Result<(), Violation> {
        if node.never {
            return Err(violation("no value is allowed here"));
        }
        if let Some(types) = &node.types
            && !types.iter().any(|one| one.admits(value))
        {
            let words: Vec<_> = types.iter().map(|one| one.words()).collect();
            return Err(violation(format!("must be {}, not {}", words.join(" or "), value.kind())));
        }
        if let Some(allowed) = &node.allowed {
            let mut form = Vec::with_capacity(value.text().len());
            let _ = canonical(value, &mut form);
            if !allowed.contains(&form) {
                return Err(violation(one_of_words(allowed)));
            }
        }
        match value.kind() {
            Kind::Object => self.object(node, value),
            Kind::Array => self.array(node, value),
            Kind::String => string(node, &value.string().unwrap_or_default()),
            Kind::Number => value.number().map_or(Ok(()), |number| range(node, &number)),
            Kind::Null | Kind::Boolean => Ok(()),
        }
    }

    fn object(&mut self, node: &'s Node, value: Raw<'_>) -> Result<(), Violation> {
        let mut seen = Vec::new();
        for (name, member) in value.members() {
            let listed = node.properties.as_ref().and_then(|properties| properties.get(&*name)).copied();
            let outcome = match (listed, node.additional) {
                (Some(place), _) | (None, Additional::Schema(place)) => self.outermost(place, member),
                (None, Additional::Refused) => return Err(unknown(&name)),
                (None, Additional::Unsaid) => Ok(()),
            };
            outcome.map_err(|violation| violation.below(&name))?;
            seen.push(name);
        }
        if !node.members.admit(seen.len()) {
            return Err(violation(format!("must have {}", node.members.words("properties"))));
        }
        match node.required.iter().find(|name| !seen.iter().any(|key| key == *name)) {
            Some(name) => Err(violation(format!("must have the property `{name}`"))),
            None => Ok(()),
        }
    }

    fn array(&mut self, node: &'s Node, value: Raw<'_>) -> Result<(), Violation> {
        let mut count = 0;
        let mut forms = BTreeSet::new();
        for (index, item) in value.elements().enumerate() {
            count += 1;
            let place = node.prefix_items.get(index).copied().or(node.items);
            if let Some(place) = place {
                self.outermost(place, item).map_err(|violation| violation.below(&index.to_string()))?;
            }
            if node.unique_items {
                let mut form = Vec::new();
                let _ = canonical(item, &mut form);
                if !forms.insert(form) {
                    return Err(violation("must not hold one value twice").below(&index.to_string()));
                }
            }
        }
        if node.count.admit(count) {
            return Ok(());
        }
        Err(violation(format!("must have {}", node.count.words("items"))))
    }

    fn parts(&mut self, node: &'s Node, value: Raw<'_>) -> Result<(), Violation> {
        if let Some(place) = node.reference {
            self.applied(place, value)?;
        }
        for place in &node.all_of {
            self.applied(*place, value)?;
        }
        if let Some(places) = &node.any_of
            && self.matches(places, value)? == 0
        {
            return Err(violation(format!("must have one of {} allowed shapes", places.len())));
        }
        if let Some(places) = &node.one_of
            && self.matches(places, value)? != 1
        {
            return Err(violation(format!("must have exactly one of {} allowed shapes", places.len())));
        }
        if let Some(place) = node.not
            && self.fits(place, value)?
        {
            return Err(violation("has a shape that is not allowed"));
        }
        let Some(condition) = node.condition else {
            return Ok(());
        };
        let branch = if self.fits(condition.when, value)? { condition.then } else { condition.otherwise };
        branch.map_or(Ok(()), |place| self.applied(place, value))
    }

    fn matches(&mut self, places: &[usize], value: Raw<'_>) -> Result<usize, Violation> {
        let mut count = 0;
        for place in places {
            count += usize::from(self.fits(*place, value)?);
        }
        Ok(count)
    }

    /// Whether the value passes. Spent budget and circles are errors, never a "no" that `not` could turn into a yes.
    fn fits(&mut self, place: usize, value: Raw<'_>) -> Result<bool, Violation> {
        match self.applied(place, value) {
            Ok(()) => Ok(true),
            Err(violation) if self.stopped => Err(violation),
            Err(_) => Ok(false),
        }
    }
}

#[derive(Default)]
struct Known<'s> {
    /// Some schema lists properties.
    listed: bool,
    /// Some schema speaks of further properties itself.
    open: bool,
    names: BTreeSet<&'s str>,
    visited: BTreeSet<usize>,
}

fn string(node: &Node, text: &str) -> Result<(), Violation> {
    if (node.length.least.is_some() || node.length.most.is_some()) && !node.length.admit(text.chars().count()) {
        return Err(violation(format!("must have {}", node.length.words("characters"))));
    }
    match node.format {
        Some(format) if !format.admits(text) => Err(violation(format.words())),
        _ => Ok(()),
    }
}

fn range(node: &Node, number: &Decimal<'_>) -> Result<(), Violation> {
    for (limit, literal) in &node.range {
        let bound = Decimal::of(literal);
        let (holds, words) = match limit {
            Limit::Least => (*number >= bound, "at least"),
            Limit::Most => (*number <= bound, "at most"),
            Limit::Above => (*number > bound, "more than"),
            Limit::Below => (*number < bound, "less than"),
        };
        if !holds {
            return Err(violation(format!("must be {words} {literal}")));
        }
    }
    Ok(())
}

fn one_of_words(allowed: &[Vec<u8>]) -> String {
    let shown: Vec<_> = allowed.iter().take(12).map(|form| String::from_utf8_lossy(form)).collect();
    let more = if allowed.len() > shown.len() { ", ..." } else { "" };
    format!("must be one of {}{more}", shown.join(", "))
}

fn unknown(name: &str) -> Violation {
    violation("the tool has no such property").below(name)
}

fn violation(expectation: impl Into<Cow<'static, str>>) -> Violation {
    Violation { pointer: String::new(), expectation: expectation.into().into_owned() }
}

impl Violation {
    /// The same, seen from one level up.
    fn below(mut self, segment: &str) -> Self {
        self.pointer = format!("/{}{}", escaped(segment), self.pointer);
        self
    }
}
