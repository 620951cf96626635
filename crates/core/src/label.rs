//! Labels: marks on data that a task has seen. A set of them only grows; nothing here takes one away.

use std::sync::Arc;

use crate::name::Label;

/// Most labels that a set holds: a configuration names no more, so that no task comes to more.
pub const LABELS_MAX: usize = 32;

/// More than [`LABELS_MAX`] labels in one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {LABELS_MAX} labels")]
pub struct TooManyLabels;

/// Distinct labels in alphabetical order, at most [`LABELS_MAX`]. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "Vec<Label>")]
pub struct Labels(Arc<[Label]>);

impl Labels {
    /// These labels.
    ///
    /// # Errors
    /// If they are too many.
    pub fn new(labels: impl IntoIterator<Item = Label>) -> Result<Self, TooManyLabels> {
        let mut labels: Vec<Label> = labels.into_iter().collect();
        labels.sort_unstable();
        labels.dedup();
        if labels.len() > LABELS_MAX { Err(TooManyLabels) } else { Ok(Self(labels.into())) }
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.0.iter()
    }

    /// Are all of them among the others?
    #[must_use]
    pub fn within(&self, others: &Self) -> bool {
        self.0.iter().all(|label| others.0.binary_search(label).is_ok())
    }

    /// These and those.
    ///
    /// # Errors
    /// If they are too many together.
    pub fn with(&self, more: &Self) -> Result<Self, TooManyLabels> {
        if more.within(self) {
            return Ok(self.clone());
        }
        Self::new(self.iter().chain(more.iter()).cloned())
    }

    /// Those that are not among the others.
    #[must_use]
    pub fn beyond(&self, others: &Self) -> Self {
        Self(self.iter().filter(|label| others.0.binary_search(label).is_err()).cloned().collect())
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = &'a Label;
    type IntoIter = std::slice::Iter<'a, Label>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl TryFrom<Vec<Label>> for Labels {
    type Error = TooManyLabels;

    fn try_from(labels: Vec<Label>) -> Result<Self, TooManyLabels> {
        Self::new(labels)
    }
}

impl serde::Serialize for Labels {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(given: &[u8]) -> Labels {
        Labels::new(given.iter().map(|n| format!("l{n}").parse().unwrap())).unwrap()
    }

    #[test]
    fn a_label_is_a_short_lower_case_slug() {
        for good in ["untrusted", "pii", "model-authored", "a", &"x".repeat(40)] {
            assert!(good.parse::<Label>().is_ok(), "{good}");
        }
        for bad in ["", "Pii", "-x", "two words", "ä", "a\n", "a\"b", &"x".repeat(41)] {
            assert!(bad.parse::<Label>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_set_holds_more_than_it_may_however_it_is_made() {
        let many = |from: u8, to: u8| Labels::new((from..to).map(|n| format!("l{n}").parse().unwrap()));
        let full = many(0, 32).unwrap();
        assert_eq!(many(0, 33), Err(TooManyLabels));
        assert_eq!(full.with(&labels(&[40])), Err(TooManyLabels));
        assert_eq!(full.with(&labels(&[3])), Ok(full.clone()));
        let read: Vec<Label> = (0..33).map(|n| format!("l{n}").parse().unwrap()).collect();
        assert_eq!(Labels::try_from(read), Err(TooManyLabels));
    }

    proptest! {
        #[test]
        fn a_union_holds_both_and_nothing_else(a in prop::collection::vec(0u8..20, 0..12), b in prop::collection::vec(0u8..20, 0..12)) {
            let (a, b) = (labels(&a), labels(&b));
            let both = a.with(&b).unwrap();
            prop_assert!(a.within(&both) && b.within(&both));
            prop_assert!(both.iter().all(|l| a.iter().chain(&b).any(|other| other == l)));
            prop_assert_eq!(&both, &b.with(&a).unwrap());
            let new = b.beyond(&a);
            prop_assert_eq!(&a.with(&new).unwrap(), &both);
            prop_assert!(new.iter().all(|l| !a.iter().any(|other| other == l)));
            prop_assert_eq!(b.within(&a), new.is_empty());
        }
    }
}
