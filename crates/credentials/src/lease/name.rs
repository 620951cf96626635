//! Names of accounts: a prefix that says whose they are, and the lease's 128 bits. A name is never used twice.

use std::fmt;
use std::str::FromStr;

/// Crockford's base 32 in lower case: no `i`, `l`, `o` and `u`, and the order of the text is the order of the number.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LENGTH: usize = 26;

/// A text that is no prefix or no name of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountNameError {
    /// Not `ag`, then at most three small letters or digits, then `_`.
    #[error("expected a prefix of the form `ag_` or `ag` with at most three small letters or digits and `_`")]
    Prefix,
    /// Not 26 digits of base 32 after the prefix.
    #[error("expected a prefix and 26 digits of base 32")]
    Digits,
}

/// What the names of one house's accounts begin with: `ag_`, or `ag`, at most three small letters or digits, and `_`.
///
/// Two houses that use the same server need two prefixes: a sweep takes every account of its own prefix for its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is this one of its names?
    #[must_use]
    pub fn covers(&self, name: &AccountName) -> bool {
        name.prefix() == self.0
    }
}

impl Default for Prefix {
    fn default() -> Self {
        Self("ag_".to_owned())
    }
}

impl FromStr for Prefix {
    type Err = AccountNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let site = text.strip_prefix("ag").and_then(|rest| rest.strip_suffix('_')).ok_or(AccountNameError::Prefix)?;
        let ok = site.len() <= 3 && site.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if ok { Ok(Self(text.to_owned())) } else { Err(AccountNameError::Prefix) }
    }
}

/// The name of an account at a system: prefix and 26 digits, such as `ag_01kapv5x6sf9j8e3t1d2c4b5a6`.
///
/// 29 to 32 characters, so that no system cuts it off (MySQL: 32, `PostgreSQL`: 63), of small letters, digits and `_` only, so that no
/// system folds it and none needs it quoted. Made from the lease's id, so that it is known before anything is created.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName(String);

impl AccountName {
    /// The name of a lease's account.
    #[must_use]
    pub fn new(prefix: &Prefix, lease: [u8; 16]) -> Self {
        let number = u128::from_be_bytes(lease);
        let mut name = prefix.0.clone();
        for place in (0..LENGTH).rev() {
            let digit = (number >> (5 * place)) & 31;
            name.push(DIGITS.get(usize::try_from(digit).unwrap_or(0)).copied().unwrap_or(b'0').into());
        }
        Self(name)
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 128 bits that it was made from.
    #[must_use]
    pub fn lease(&self) -> [u8; 16] {
        let digits = self.0.split_once('_').map_or("", |(_, digits)| digits);
        number(digits).unwrap_or(0).to_be_bytes()
    }

    fn prefix(&self) -> &str {
        self.0.split_inclusive('_').next().unwrap_or_default()
    }
}

fn number(digits: &str) -> Option<u128> {
    if digits.len() != LENGTH {
        return None;
    }
    digits.bytes().try_fold(0_u128, |number, byte| {
        let digit = DIGITS.iter().position(|digit| *digit == byte)?;
        number.checked_mul(32)?.checked_add(u128::try_from(digit).ok()?)
    })
}

impl FromStr for AccountName {
    type Err = AccountNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let prefix = text.split_inclusive('_').next().unwrap_or_default();
        prefix.parse::<Prefix>()?;
        number(text.strip_prefix(prefix).unwrap_or_default()).ok_or(AccountNameError::Digits)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
