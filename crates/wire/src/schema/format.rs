//! The string formats that are checked: dates and times of RFC 3339, strictly.

/// A checked format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Date,
    DateTime,
}

impl Format {
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "date" => Some(Self::Date),
            "date-time" => Some(Self::DateTime),
            _ => None,
        }
    }

    pub(super) fn admits(self, text: &str) -> bool {
        match self {
            Self::Date => is_date(text),
            Self::DateTime => is_date_time(text),
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Date => "must be a date like `2026-11-23`",
            Self::DateTime => "must be a time like `2026-11-23T09:30:00Z`",
        }
    }
}

/// Takes exactly `count` ASCII digits off the front.
fn digits(text: &str, count: usize) -> Option<(u32, &str)> {
    let (head, rest) = text.split_at_checked(count)?;
    let all = head.bytes().all(|byte| byte.is_ascii_digit());
    if all { Some((head.parse().ok()?, rest)) } else { None }
}

fn date(text: &str) -> Option<&str> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    (1..=days).contains(&day).then_some(rest)
}

fn is_date(text: &str) -> bool {
    date(text) == Some("")
}

fn is_date_time(text: &str) -> bool {
    date(text).and_then(|rest| time(rest.strip_prefix('T')?)) == Some("")
}

fn time(text: &str) -> Option<&str> {
    let (hour, rest) = digits(text, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => {
            let end = fraction.trim_start_matches(|char: char| char.is_ascii_digit());
            if end.len() == fraction.len() {
                return None;
            }
            end
        }
        None => rest,
    };
    // RFC 3339 section 5.7: a leap second ends an hour.
    let in_range = hour <= 23 && minute <= 59 && (second <= 59 || (second == 60 && minute == 59));
    if !in_range {
        return None;
    }
    if let Some(rest) = rest.strip_prefix('Z') {
        return Some(rest);
    }
    let (hours, rest) = digits(rest.strip_prefix(['+', '-'])?, 2)?;
    let (minutes, rest) = digits(rest.strip_prefix(':')?, 2)?;
    (hours <= 23 && minutes <= 59).then_some(rest)
}
