//! What a task may do: tools, and constraints on their arguments. Empty means nothing.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::name::ToolName;

/// A JSON scalar as it stands in an argument. Numbers that are no 64-bit integers are kept as text and never pass a numeric bound.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// An integer within 64 bits.
    Integer(i64),
    /// Another number.
    Number(f64),
    /// A string.
    Text(String),
}

/// A bound on one top-level argument of a tool. Every bound that is given must hold. An argument that is an array must hold it in
/// every element; an object never holds it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// Exactly this value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<Scalar>,
    /// One of these values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Scalar>>,
    /// A number of at least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// A number of at most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// A path at or below this absolute directory, after strict checks: no `..`, no percent-encoding, no backslash, no control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<String>,
    /// May the argument be absent? Default no: an absent argument would take the system's own default, which nobody bounded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// Why an argument is outside its constraint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("argument `{argument}`: {what}")]
pub struct Violation {
    /// The argument's name.
    pub argument: String,
    /// What was expected.
    pub what: String,
}

impl Constraint {
    /// Does this value hold the constraint? `Err` says what was expected.
    ///
    /// # Errors
    /// The first bound that does not hold, in words.
    pub fn allows(&self, value: &Scalar) -> Result<(), String> {
        if let Some(expected) = &self.equals
            && !same(expected, value)
        {
            return Err(format!("the task allows only {}", show(expected)));
        }
        if let Some(list) = &self.one_of
            && !list.iter().any(|s| same(s, value))
        {
            let list: Vec<String> = list.iter().map(show).collect();
            return Err(format!("the task allows only one of {}", list.join(", ")));
        }
        if self.min.is_some() || self.max.is_some() {
            // `None`: not comparable, which holds no bound.
            let order = |bound: f64| match value {
                Scalar::Integer(integer) => compare(*integer, bound),
                Scalar::Number(number) => number.partial_cmp(&bound).filter(|_| number.is_finite()),
                Scalar::Bool(_) | Scalar::Text(_) => None,
            };
            for (bound, outside, words) in [(self.min, Ordering::Less, "no less than"), (self.max, Ordering::Greater, "no more than")] {
                match bound.map(|bound| (bound, order(bound))) {
                    Some((_, None)) => return Err("the task allows only a number here".to_owned()),
                    Some((bound, Some(order))) if order == outside => return Err(format!("the task allows {words} {bound}")),
                    Some(_) | None => {}
                }
            }
        }
        if let Some(directory) = &self.under {
            let Scalar::Text(path) = value else { return Err("the task allows only a path here".to_owned()) };
            if !is_under(path, directory) {
                return Err(format!("the task allows only plain absolute paths under `{directory}`"));
            }
        }
        Ok(())
    }

    /// Are its bounds on numbers what was written? One beyond 2^53 was rounded when it was read, so that it may allow more.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        [self.min, self.max].into_iter().flatten().all(|bound| bound.abs() <= EXACT_MAX)
    }

    /// Is every value that holds this bound one that holds `outer` too? Where that cannot be shown, it is not.
    ///
    /// # Errors
    /// What this bound would allow beyond `outer`, in words.
    pub fn within(&self, outer: &Self) -> Result<(), String> {
        if self.optional && !outer.optional {
            return Err("it may be left out, and the parent task demands it".to_owned());
        }
        if let Some(values) = self.values() {
            // Each is asked of the very matcher that calls are.
            let mut held = values.into_iter().filter(|value| self.allows(value).is_ok());
            return held.try_for_each(|value| outer.allows(value).map_err(|why| format!("{} is asked for: {why}", show(value))));
        }
        if outer.values().is_some() {
            return Err("a range is asked for, and the parent task has single values".to_owned());
        }
        // A bound that is no number is held by nothing: as an inner one it could be anything, and is refused.
        if let Some(most) = outer.max
            && !self.max.is_some_and(|max| max <= most)
        {
            return Err(format!("{} is asked for: the task allows no more than {most}", self.max.map_or("any number".to_owned(), |m| m.to_string())));
        }
        if let Some(least) = outer.min
            && !self.min.is_some_and(|min| min >= least)
        {
            return Err(format!(
                "{} is asked for: the task allows no less than {least}",
                self.min.map_or("any number".to_owned(), |m| m.to_string())
            ));
        }
        if let Some(directory) = &outer.under
            && !self.under.as_ref().is_some_and(|below| is_under(below, directory))
        {
            return Err(format!(
                "{} is asked for: the task allows only plain absolute paths under `{directory}`",
                self.under.as_ref().map_or_else(|| "any path".to_owned(), |d| format!("`{}`", d.escape_debug()))
            ));
        }
        Ok(())
    }

    /// The only values that can hold it, if they are counted one by one.
    fn values(&self) -> Option<Vec<&Scalar>> {
        match (&self.equals, &self.one_of) {
            (Some(value), _) => Some(vec![value]),
            (None, Some(list)) => Some(list.iter().collect()),
            (None, None) => None,
        }
    }

    /// True if it bounds nothing, so that giving it was surely a mistake.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.equals.is_none() && self.one_of.is_none() && self.min.is_none() && self.max.is_none() && self.under.is_none()
    }
}

/// The largest number up to which every integer has a double of its own.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Compares an integer with a double as the numbers that they are: none is rounded first. `None` for a bound that is no number.
fn compare(integer: i64, bound: f64) -> Option<Ordering> {
    const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
    if bound.is_nan() {
        return None;
    }
    if bound >= TWO_TO_63 {
        return Some(Ordering::Less);
    }
    if bound < -TWO_TO_63 {
        return Some(Ordering::Greater);
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and within 64 bits")]
    let whole = bound.trunc() as i64;
    let rest = || 0.0.partial_cmp(&bound.fract());
    match integer.cmp(&whole) {
        Ordering::Equal => rest(),
        order => Some(order),
    }
}

#[expect(clippy::float_cmp, reason = "a bound names an exact value")]
fn same(a: &Scalar, b: &Scalar) -> bool {
    match (a, b) {
        (Scalar::Bool(a), Scalar::Bool(b)) => a == b,
        (Scalar::Integer(a), Scalar::Integer(b)) => a == b,
        (Scalar::Number(a), Scalar::Number(b)) => a == b,
        (Scalar::Text(a), Scalar::Text(b)) => a == b,
        (Scalar::Bool(_) | Scalar::Integer(_) | Scalar::Number(_) | Scalar::Text(_), _) => false,
    }
}

fn show(value: &Scalar) -> String {
    match value {
        Scalar::Bool(b) => b.to_string(),
        Scalar::Integer(i) => i.to_string(),
        Scalar::Number(n) => n.to_string(),
        Scalar::Text(t) => format!("`{}`", t.escape_debug()),
    }
}

/// Is `path` a plain absolute path at or below `directory`? Anything that another parser could read differently is refused.
fn is_under(path: &str, directory: &str) -> bool {
    let plain = |p: &str| {
        p.starts_with('/')
            && !p.contains(['\\', '%', '~'])
            && !p.chars().any(char::is_control)
            && p.split('/').all(|s| s != ".." && s != "." && !s.starts_with("...") && !s.ends_with(' '))
    };
    let base = directory.trim_end_matches('/');
    plain(path) && plain(directory) && !path.contains("//") && (path == base || path.strip_prefix(base).is_some_and(|rest| rest.starts_with('/')))
}

/// One granted tool and the constraints on its arguments, by argument name.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ToolGrant {
    /// Bounds by argument; an argument that is not named is free within the tool's schema.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, Constraint>,
}

impl ToolGrant {
    /// Checks a call's arguments. `lookup` gives, for an argument's name, the scalars that stand there (every element of an array),
    /// `None` if the argument is absent, or an error in words if it holds something that no constraint can bound.
    ///
    /// # Errors
    /// The first violation.
    pub fn check(&self, mut lookup: impl FnMut(&str) -> Result<Option<Vec<Scalar>>, String>) -> Result<(), Violation> {
        for (argument, constraint) in &self.arguments {
            let violation = |what: String| Violation { argument: argument.clone(), what };
            match lookup(argument).map_err(violation)? {
                None if constraint.optional => {}
                None => return Err(violation("the task bounds it, so it must be given".to_owned())),
                Some(values) if values.is_empty() => return Err(violation("the task bounds it, so it may not be empty".to_owned())),
                Some(values) => {
                    for value in &values {
                        constraint.allows(value).map_err(violation)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl ToolGrant {
    /// The part of this grant that is asked for: the bounds asked for, each within the one that stands here, and those that stand here
    /// for the arguments that nothing was said about.
    ///
    /// # Errors
    /// Every argument for which more is asked.
    pub fn part(&self, asked: &Self) -> Result<Self, Vec<Violation>> {
        let mut arguments = self.arguments.clone();
        let mut beyond = Vec::new();
        for (argument, inner) in &asked.arguments {
            match self.arguments.get(argument).map_or(Ok(()), |outer| inner.within(outer)) {
                Ok(()) => drop(arguments.insert(argument.clone(), inner.clone())),
                Err(what) => beyond.push(Violation { argument: argument.clone(), what }),
            }
        }
        if beyond.is_empty() { Ok(Self { arguments }) } else { Err(beyond) }
    }
}

/// All that a task may do. A tool that is not here does not exist for the task.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Grant {
    tools: BTreeMap<ToolName, ToolGrant>,
}

impl Grant {
    /// A grant of these tools.
    #[must_use]
    pub const fn new(tools: BTreeMap<ToolName, ToolGrant>) -> Self {
        Self { tools }
    }

    /// The grant of one tool, if it is granted.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<&ToolGrant> {
        self.tools.get(name)
    }

    /// All granted tools by name.
    #[must_use]
    pub const fn tools(&self) -> &BTreeMap<ToolName, ToolGrant> {
        &self.tools
    }

    /// True if nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(t: &str) -> Scalar {
        Scalar::Text(t.to_owned())
    }

    #[test]
    fn bi_040_every_element_of_a_list_must_hold_the_bound() {
        let constraint = Constraint { one_of: Some(vec![text("ok@corp.example")]), ..Default::default() };
        let grant = ToolGrant { arguments: [("recipients".to_owned(), constraint)].into() };
        let list = |v: &[&str]| Ok(Some(v.iter().map(|t| text(t)).collect()));
        assert!(grant.check(|_| list(&["ok@corp.example"])).is_ok());
        assert!(grant.check(|_| list(&["ok@corp.example", "x@evil.example"])).is_err());
        assert!(grant.check(|_| list(&[])).is_err());
    }

    #[test]
    fn bi_042_a_look_alike_is_another_value() {
        let constraint = Constraint { equals: Some(text("bluesparrowtech.com")), ..Default::default() };
        for other in ["bluesp\u{430}rrowtech.com", "bluesparrowtech.com.evil.example", "xn--bluesprrowtech-8ij.com", "BLUESPARROWTECH.com"] {
            assert!(constraint.allows(&text(other)).is_err(), "{other}");
        }
    }

    #[test]
    fn bi_043_a_number_in_a_string_holds_no_numeric_bound() {
        let constraint = Constraint { max: Some(100.0), ..Default::default() };
        assert!(constraint.allows(&Scalar::Integer(100)).is_ok());
        for bad in [text("\u{ff11}\u{ff10}\u{ff10}"), text("100"), Scalar::Number(f64::NAN), Scalar::Integer(101), Scalar::Bool(true)] {
            assert!(constraint.allows(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bi_046_a_path_that_could_be_read_otherwise_is_outside() {
        let constraint = Constraint { under: Some("/srv/data".to_owned()), ..Default::default() };
        assert!(constraint.allows(&text("/srv/data/a/report.txt")).is_ok());
        assert!(constraint.allows(&text("/srv/data")).is_ok());
        for bad in [
            "..%2f..%2fetc%2fpasswd",
            "....//",
            "C:\\x",
            "/srv/data/r.txt\0.pdf",
            "/srv/data/../../etc",
            "/srv/database/x",
            "srv/data/x",
            "/srv/data//x",
            "/srv/data/./x",
            "/srv/data/..../x",
            "/srv/data/%2e%2e/x",
        ] {
            assert!(constraint.allows(&text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bounded_argument_that_is_absent_is_a_violation_unless_optional() {
        let mut constraint = Constraint { max: Some(5.0), ..Default::default() };
        let check = |c: &Constraint| ToolGrant { arguments: [("limit".to_owned(), c.clone())].into() }.check(|_| Ok(None));
        assert!(check(&constraint).is_err());
        constraint.optional = true;
        assert!(check(&constraint).is_ok());
    }

    #[test]
    fn a_bound_is_within_another_only_if_nothing_passes_it_that_the_other_stops() {
        let max = |m: f64| Constraint { max: Some(m), ..Constraint::default() };
        let one_of = |v: &[i64]| Constraint { one_of: Some(v.iter().map(|i| Scalar::Integer(*i)).collect()), ..Constraint::default() };
        let under = |d: &str| Constraint { under: Some(d.to_owned()), ..Constraint::default() };
        assert!(max(5.0).within(&max(5.0)).is_ok() && one_of(&[1, 5]).within(&max(5.0)).is_ok() && one_of(&[1]).within(&one_of(&[1, 2])).is_ok());
        assert!(max(5.0).within(&Constraint::default()).is_ok(), "nothing bounds the outer one");
        assert!(under("/srv/data/a").within(&under("/srv/data")).is_ok() && under("/srv/data/").within(&under("/srv/data")).is_ok());
        for (inner, outer) in [
            (max(6.0), max(5.0)),
            (max(f64::NAN), max(5.0)),
            (Constraint::default(), max(5.0)),
            (Constraint { min: Some(1.0), ..Constraint::default() }, max(5.0)),
            (one_of(&[5, 6]), max(5.0)),
            (max(5.0), one_of(&[5])),
            (under("/srv/database"), under("/srv/data")),
            (under("/srv/data/../x"), under("/srv/data")),
            (under("/"), under("/srv/data")),
            (Constraint { optional: true, ..max(5.0) }, max(5.0)),
        ] {
            assert!(inner.within(&outer).is_err(), "{inner:?} {outer:?}");
        }
        assert_eq!(one_of(&[5, 6]).within(&max(5.0)), Err("6 is asked for: the task allows no more than 5".to_owned()));
    }

    #[test]
    fn a_part_keeps_the_bounds_that_nothing_was_said_about() {
        let max = |m: f64| Constraint { max: Some(m), ..Constraint::default() };
        let whole = ToolGrant { arguments: [("a".to_owned(), max(5.0)), ("b".to_owned(), max(7.0))].into() };
        let part = whole.part(&ToolGrant { arguments: [("a".to_owned(), max(3.0)), ("c".to_owned(), max(1.0))].into() }).unwrap();
        assert_eq!(part.arguments, [("a".to_owned(), max(3.0)), ("b".to_owned(), max(7.0)), ("c".to_owned(), max(1.0))].into());
        let beyond = whole.part(&ToolGrant { arguments: [("a".to_owned(), max(6.0)), ("b".to_owned(), max(8.0))].into() }).unwrap_err();
        assert_eq!(beyond.iter().map(|v| v.argument.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn an_empty_grant_grants_nothing() {
        assert!(Grant::default().tool("shop.show_order").is_none());
    }

    #[test]
    fn an_integer_beyond_what_a_double_holds_does_not_pass_a_bound_by_rounding() {
        let at_most = |max: f64| Constraint { max: Some(max), ..Constraint::default() };
        let at_least = |min: f64| Constraint { min: Some(min), ..Constraint::default() };
        // 2^53 + 1 rounds to 2^53.
        assert!(at_most(9_007_199_254_740_992.0).allows(&Scalar::Integer(9_007_199_254_740_993)).is_err());
        assert!(at_most(9_007_199_254_740_992.0).allows(&Scalar::Integer(9_007_199_254_740_992)).is_ok());
        assert!(at_least(-9_007_199_254_740_992.0).allows(&Scalar::Integer(-9_007_199_254_740_993)).is_err());
        assert!(at_most(i64::MAX as f64).allows(&Scalar::Integer(i64::MAX)).is_ok());
        assert!(at_most(2.5).allows(&Scalar::Integer(3)).is_err() && at_most(2.5).allows(&Scalar::Integer(2)).is_ok());
        assert!(at_least(-2.5).allows(&Scalar::Integer(-3)).is_err() && at_least(-2.5).allows(&Scalar::Integer(-2)).is_ok());
        assert!(at_most(f64::NAN).allows(&Scalar::Integer(0)).is_err());
        assert!(!at_most(9_007_199_254_740_994.0).is_exact() && at_most(9_007_199_254_740_992.0).is_exact());
    }
}
