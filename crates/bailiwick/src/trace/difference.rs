//! What differs between two stretches of time: what appeared, what is gone, what happened more or less often.

use std::ops::Range;

use bailiwick_core::{PersonName, Timestamp};
use bailiwick_store::{Counted, Field, Group, StoreError, Tally};
use serde::Serialize;
use utoipa::ToSchema;

use super::proof::Head;
use crate::house::House;

/// What is compared, under the name that it has in the report: the field, the kind of entries, and whether repeats count.
const GROUPS: [(&str, Field, Option<&str>, bool); 13] = [
    ("agents", Field::Agent, Some("intent"), false),
    ("owners", Field::Owner, Some("intent"), false),
    ("tools", Field::Tool, Some("intent"), false),
    ("targets", Field::Target, Some("intent"), false),
    ("effects", Field::Effect, Some("intent"), false),
    ("outcomes", Field::Outcome, Some("outcome"), false),
    ("approvers", Field::Approver, Some("hold_step"), false),
    ("denials by reason", Field::Code, Some("denial"), true),
    ("tools that were denied", Field::Tool, Some("denial"), true),
    ("tools that were defined or classified anew", Field::Tool, Some("tool"), false),
    ("incidents", Field::What, Some("incident"), false),
    ("policies that decided", Field::Policy, None, false),
    ("policy revisions", Field::Revision, None, false),
];

/// What differs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Difference {
    /// The earlier stretch.
    pub last: Stretch,
    /// The later one.
    pub this: Stretch,
    /// Only what this person has a part in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub person: Option<PersonName>,
    /// Group by group.
    pub groups: Vec<Differing>,
    /// The signed head of the ledger.
    pub ledger: Head,
}

/// A stretch of time, as entries of the ledger.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Stretch {
    /// From this time on.
    #[schema(value_type = String)]
    pub since: Timestamp,
    /// Before this time.
    #[schema(value_type = String)]
    pub until: Timestamp,
    /// The first entry of it.
    pub first: u64,
    /// The entry after the last one.
    pub end: u64,
}

/// One group.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Differing {
    /// Its name.
    pub name: &'static str,
    /// In the later stretch only.
    pub appeared: Vec<Appeared>,
    /// In the earlier stretch only.
    pub gone: Vec<Number>,
    /// In both, but not equally often.
    pub changed: Vec<Number>,
    /// How many were there equally often.
    pub same: usize,
}

/// A value that is new.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Appeared {
    /// The value.
    pub value: String,
    /// How often.
    pub this: u64,
    /// Was it there before both stretches? Absent if it would have taken too long to find out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<bool>,
}

/// A value with its numbers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Number {
    /// The value.
    pub value: String,
    /// In the earlier stretch.
    pub last: u64,
    /// In the later one.
    pub this: u64,
}

/// What differs between two stretches; for `only`, in what that person has a part in.
///
/// # Errors
/// The store's.
pub async fn between(house: &House, last: Range<Timestamp>, this: Range<Timestamp>, only: Option<PersonName>) -> Result<Difference, StoreError> {
    let group = |&(_, field, kind, repeats): &(&str, Field, Option<&str>, bool)| Group {
        field,
        within: kind.map(|kind| (Field::Kind, kind.to_owned())).into_iter().collect(),
        repeats,
    };
    let scope = only.iter().map(|person| (Field::Person, person.to_string())).collect();
    let tally = Tally { groups: GROUPS.iter().map(group).collect(), scope, last: last.clone(), this: this.clone() };
    let (window, counted) = house.store.tally(tally).await?;
    let groups = GROUPS.iter().zip(counted).map(|((name, ..), counted)| differing(name, counted)).collect();
    let stretch =
        |times: Range<Timestamp>, entries: Range<u64>| Stretch { since: times.start, until: times.end, first: entries.start, end: entries.end };
    Ok(Difference { last: stretch(last, window.last), this: stretch(this, window.this), person: only, groups, ledger: Head::of(&house.store.head()) })
}

fn differing(name: &'static str, counted: Vec<Counted>) -> Differing {
    let mut group = Differing { name, appeared: Vec::new(), gone: Vec::new(), changed: Vec::new(), same: 0 };
    for Counted { value, last, this, before } in counted {
        match (last, this) {
            (0, _) => group.appeared.push(Appeared { value, this, before }),
            (_, 0) => group.gone.push(Number { value, last, this }),
            (last, this) if last == this => group.same = group.same.saturating_add(1),
            _ => group.changed.push(Number { value, last, this }),
        }
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_gone_more_and_equal_is_told_apart() {
        let counted = |value: &str, last, this| Counted { value: value.to_owned(), last, this, before: Some(false) };
        let group = differing("tools", vec![counted("a", 0, 2), counted("b", 3, 0), counted("c", 3, 4), counted("d", 5, 5)]);
        let values = |numbers: &[Number]| numbers.iter().map(|n| n.value.clone()).collect::<Vec<_>>();
        assert_eq!(group.appeared.iter().map(|a| a.value.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!((values(&group.gone), values(&group.changed), group.same), (vec!["b".to_owned()], vec!["c".to_owned()], 1));
    }
}
