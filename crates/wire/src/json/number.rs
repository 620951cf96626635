//! Numbers as they were written, compared exactly: no rounding through a float.

use std::cmp::Ordering;

/// A JSON number literal as an exact decimal. Equality and order are by value: `1.0`, `1` and `10e-1` are one number.
#[derive(Debug, Clone, Copy)]
pub struct Decimal<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Decimal<'a> {
    /// Takes a literal of JSON's grammar.
    pub(crate) fn of(literal: &'a str) -> Self {
        let (negative, unsigned) = match literal.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, literal),
        };
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let exponent = exponent.parse().unwrap_or(if exponent.starts_with('-') { FAR_BELOW } else { FAR_ABOVE });
        let exponent = exponent.clamp(FAR_BELOW, FAR_ABOVE);
        Self { negative, whole: whole.as_bytes(), fraction: fraction.as_bytes(), exponent }
    }

    /// Whether the value has no fractional part (`1.0` and `1e2` have none).
    pub fn is_whole(&self) -> bool {
        let (digits, point) = self.significant();
        let count = length(digits.count());
        count == 0 || point >= count
    }

    /// Whether the literal has neither fraction nor exponent.
    pub fn is_integer_literal(&self) -> bool {
        self.fraction.is_empty() && self.exponent == 0
    }

    fn is_zero(&self) -> bool {
        self.significant().0.count() == 0
    }

    /// The digits that count, and how many of them (or zeros after them) stand before the point.
    fn significant(&self) -> (impl Iterator<Item = u8> + 'a, i64) {
        let zeros = |byte: &&u8| **byte == b'0';
        let lead_whole = self.whole.iter().take_while(zeros).count();
        let lead = if lead_whole == self.whole.len() { lead_whole + self.fraction.iter().take_while(zeros).count() } else { lead_whole };
        let total = self.whole.len() + self.fraction.len();
        let tail_fraction = self.fraction.iter().rev().take_while(zeros).count();
        let tail =
            if tail_fraction == self.fraction.len() { tail_fraction + self.whole.iter().rev().take_while(zeros).count() } else { tail_fraction };
        let count = total.saturating_sub(lead).saturating_sub(tail);
        let digits = self.whole.iter().chain(self.fraction).skip(lead).take(count).copied();
        let point = length(self.whole.len()) - length(lead) + self.exponent;
        (digits, point)
    }

    fn magnitude(&self, other: &Self) -> Ordering {
        match (self.is_zero(), other.is_zero()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        let (ours, our_point) = self.significant();
        let (theirs, their_point) = other.significant();
        our_point.cmp(&their_point).then_with(|| ours.cmp(theirs))
    }
}

/// Exponents beyond these cannot be told apart; no literal of [`super::MAX_NUMBER_BYTES`] brings them back into reach.
const FAR_ABOVE: i64 = 1 << 40;
const FAR_BELOW: i64 = -FAR_ABOVE;

fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX >> 1)
}

impl Ord for Decimal<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.is_zero(), number.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let (ours, theirs) = (sign(self), sign(other));
        ours.cmp(&theirs).then_with(|| match ours {
            -1 => other.magnitude(self),
            0 => Ordering::Equal,
            _ => self.magnitude(other),
        })
    }
}

impl PartialOrd for Decimal<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Decimal<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal<'_> {}

#[cfg(test)]
mod tests {
    use super::Decimal;

    #[test]
    fn one_value_in_many_spellings_is_one_number() {
        for spelling in ["100", "1e2", "1E+2", "100.0", "1000e-1", "0.1e3", "100.00e0"] {
            assert_eq!(Decimal::of(spelling), Decimal::of("100"), "{spelling}");
            assert!(Decimal::of(spelling).is_whole(), "{spelling}");
        }
        assert_eq!(Decimal::of("-0"), Decimal::of("0.000e7"));
    }

    #[test]
    fn order_is_exact_where_floats_round() {
        assert!(Decimal::of("9007199254740993") > Decimal::of("9007199254740992"));
        assert!(Decimal::of("-12345678901234567890123") < Decimal::of("-12345678901234567890122"));
        assert!(Decimal::of("0.1") > Decimal::of("0.09999999999999999999999"));
        assert!(Decimal::of("-1") < Decimal::of("0.5"));
        assert!(Decimal::of("1e400") > Decimal::of("1e399"));
        assert!(!Decimal::of("1.5").is_whole());
        assert!(!Decimal::of("15e-1").is_whole());
        assert!(Decimal::of("0.0").is_whole());
    }
}
