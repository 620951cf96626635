//! What a caller may write in an argument: ids, texts, amounts and words, each parsed once and bounded.

use std::borrow::Cow;
use std::fmt;

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The id of a row: one letter for the kind, a hyphen, and a number without leading zeros, as in `O-2008`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id<const KIND: char>(i64);

pub(super) type CustomerId = Id<'C'>;
pub(super) type OrderId = Id<'O'>;
pub(super) type TicketId = Id<'T'>;
pub(super) type RefundId = Id<'R'>;
pub(super) type SupplierId = Id<'S'>;
pub(super) type PayoutId = Id<'P'>;
pub(super) type DiscountId = Id<'D'>;

impl<const KIND: char> Id<KIND> {
    /// The id of a row that was just added.
    pub(super) fn of_row(row: i64) -> Self {
        Self(row)
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(KIND)?.strip_prefix('-')?;
        let canonical = (1..=9).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
        if canonical { digits.parse().ok().map(Self) } else { None }
    }
}

impl<const KIND: char> fmt::Display for Id<KIND> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KIND}-{}", self.0)
    }
}

impl<const KIND: char> Serialize for Id<KIND> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const KIND: char> Deserialize<'de> for Id<KIND> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format_args!("an id here is written like `{KIND}-1001`")))
    }
}

impl<const KIND: char> ToSql for Id<KIND> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl<const KIND: char> FromSql for Id<KIND> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self)
    }
}

impl<const KIND: char> JsonSchema for Id<KIND> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Id{KIND}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": format!("^{KIND}-[1-9][0-9]{{0,8}}$")})
    }
}

/// One line of text, `MIN` to `MAX` characters, not blank and without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line<const MIN: usize, const MAX: usize>(String);

/// Text of one or more lines, `MIN` to `MAX` characters; of the control characters only tab and newline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text<const MIN: usize, const MAX: usize>(String);

fn measured(text: &str, min: usize, max: usize) -> Result<(), String> {
    let written = text.trim().chars().count();
    if written < min || text.chars().count() > max {
        return Err(format!("a text here has {min} to {max} characters, blanks around it not counted towards the least"));
    }
    Ok(())
}

impl<const MIN: usize, const MAX: usize> Line<MIN, MAX> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! bounded_text {
    ($name:ident, $control:expr, $complaint:literal) => {
        impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for $name<MIN, MAX> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                measured(&text, MIN, MAX).map_err(D::Error::custom)?;
                let refused: fn(char) -> bool = $control;
                if text.chars().any(refused) {
                    return Err(D::Error::custom($complaint));
                }
                Ok(Self(text))
            }
        }

        impl<const MIN: usize, const MAX: usize> ToSql for $name<MIN, MAX> {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                self.0.to_sql()
            }
        }

        impl<const MIN: usize, const MAX: usize> JsonSchema for $name<MIN, MAX> {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                format!("{}{MIN}To{MAX}", stringify!($name)).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "minLength": MIN, "maxLength": MAX})
            }
        }
    };
}

bounded_text!(Line, char::is_control, "a text here is one line without control characters");
bounded_text!(Text, |c| c.is_control() && c != '\n' && c != '\t', "a text here has no control characters but tab and newline");

/// A whole number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whole<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Whole<MIN, MAX> {
    pub(super) fn value(self) -> i64 {
        self.0
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        if (MIN..=MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(D::Error::custom(format_args!("`{number}` is not a whole number from {MIN} to {MAX}")))
        }
    }
}

impl<const MIN: i64, const MAX: i64> ToSql for Whole<MIN, MAX> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl<const MIN: i64, const MAX: i64> JsonSchema for Whole<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Whole{MIN}To{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A country as two capital letters, ISO 3166-1 alpha-2 in form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Country(String);

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
            Ok(Self(text))
        } else {
            Err(D::Error::custom("a country is two capital letters such as `GB`"))
        }
    }
}

impl ToSql for Country {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl JsonSchema for Country {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Country".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^[A-Z]{2}$"})
    }
}

/// A closed set of words, the same in arguments, answers and tables.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
        #[schemars(inline)]
        pub(super) enum $name {
            $(#[serde(rename = $word)] $variant,)+
        }

        impl $name {
            pub(super) fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.as_str().into())
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                match value.as_str()? {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(rusqlite::types::FromSqlError::InvalidType),
                }
            }
        }
    };
}

words!(OrderStatus {
    Placed = "placed",
    Packed = "packed",
    Shipped = "shipped",
    Delivered = "delivered",
    Cancelled = "cancelled",
});
words!(TicketStatus { Open = "open", Waiting = "waiting", Closed = "closed" });
words!(DiscountStatus { Requested = "requested", Approved = "approved", Refused = "refused" });
words!(SupplierStatus { Active = "active", Blocked = "blocked" });
words!(Visibility { Internal = "internal", Customer = "customer" });
words!(Author { Staff = "staff", Customer = "customer", Automation = "automation" });

/// Reads an argument that may be left out but not be null: for `#[serde(default, deserialize_with = "given")]`.
pub(super) fn given<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
