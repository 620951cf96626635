//! A scope (RFC 6749 section 3.3): a bounded set of words.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The longest scope in bytes.
const SCOPE_MAX: usize = 4096;

/// A scope: at least one word, each at most 4,096 bytes in all. Text form: the words in order, each after a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(BTreeSet<String>);

/// The text is no scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected words of visible ASCII without `\"` and `\\`, each after one space, at most 4096 bytes in all")]
pub struct ScopeError;

impl Scope {
    /// The scope of a token without a task.
    #[must_use]
    pub fn agent() -> Self {
        Self(BTreeSet::from([crate::token::AGENT_SCOPE.to_owned()]))
    }

    /// The scope of a task token: the tools that its task was granted, no fewer and no more.
    #[must_use]
    pub fn tools() -> Self {
        Self(BTreeSet::from([crate::token::TOOLS_SCOPE.to_owned()]))
    }

    /// Is the word in it?
    #[must_use]
    pub fn contains(&self, word: &str) -> bool {
        self.0.contains(word)
    }

    /// Is it this word alone?
    #[must_use]
    pub fn is_exactly(&self, word: &str) -> bool {
        self.0.len() == 1 && self.contains(word)
    }

    /// The words, in order.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The words that are in both. `None` if there are none.
    #[must_use]
    pub fn within(&self, allowed: &Self) -> Option<Self> {
        let both: BTreeSet<String> = self.0.intersection(&allowed.0).cloned().collect();
        (!both.is_empty()).then_some(Self(both))
    }
}

impl FromStr for Scope {
    type Err = ScopeError;
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        //= rfc6749#section-3.3
        // scope       = scope-token *( SP scope-token )
        // scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
        let word = |w: &str| !w.is_empty() && w.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
        if text.len() > SCOPE_MAX || !text.split(' ').all(word) {
            return Err(ScopeError);
        }
        Ok(Self(text.split(' ').map(str::to_owned).collect()))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, word) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            f.write_str(word)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_words_and_its_text_form_is_ordered() {
        let scope: Scope = "b a b".parse().unwrap();
        assert_eq!(scope.to_string(), "a b");
        assert!(scope.contains("a") && !scope.contains("c") && !scope.is_exactly("a"));
        assert_eq!(scope.within(&"a z".parse().unwrap()).unwrap().to_string(), "a");
        assert_eq!(scope.within(&Scope::agent()), None);
    }

    #[test]
    fn what_is_no_scope_is_refused() {
        for bad in ["", " ", "a  b", " a", "a ", "a\tb", "a\"b", "a\\b", "\u{e9}", &"x".repeat(4097)] {
            assert_eq!(bad.parse::<Scope>(), Err(ScopeError), "{bad}");
        }
    }
}
