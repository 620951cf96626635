//! Identifiers: UUIDv7 with a word in front, one type each, made from a given time and given randomness.

use std::fmt;
use std::str::FromStr;

use crate::time::Timestamp;

/// A text that is no identifier of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an identifier of the form `{prefix}_` and 32 hex digits")]
pub struct IdError {
    prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        ///
        #[doc = concat!("Text form: `", $prefix, "_` and 32 lower-case hex digits of a UUIDv7 (RFC 9562 section 5.7).")]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// The word in front of the text form.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an identifier from the time now and ten random bytes.
            #[must_use]
            pub fn new(now: Timestamp, random: [u8; 10]) -> Self {
                let millis = u64::try_from(now.as_millis()).unwrap_or(0);
                Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().as_u128())
            }

            /// The 16 bytes, big-endian.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// From 16 bytes, big-endian; the version is not checked.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{:032x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let wrong = IdError { prefix: $prefix };
                let hex = text.strip_prefix(concat!($prefix, "_")).ok_or_else(|| wrong.clone())?;
                let ok = hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if !ok {
                    return Err(wrong);
                }
                u128::from_str_radix(hex, 16).map(Self).map_err(|_| wrong)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <std::borrow::Cow<'_, str>>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(/// A task: a unit of work with purpose, owner, grant, budget and an end.
    TaskId, "task");
id!(/// One attempted action.
    CallId, "call");
id!(/// A call that waits for people.
    HoldId, "hold");
id!(/// A running copy of an agent.
    InstanceId, "inst");
id!(/// Something that should not have happened, on record.
    IncidentId, "inc");
id!(/// A credential's life for a task. The name of its account at the system is made from it.
    LeaseId, "lease");
id!(/// One JWT that we made, or one session of a person.
    SessionId, "ses");
id!(/// The `jti` of an assertion that we make ourselves.
    AssertionId, "jti");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_reads_back() {
        let id = TaskId::new(Timestamp::from_millis(1_700_000_000_000), [7; 10]);
        assert_eq!(id.to_string().parse::<TaskId>().unwrap(), id);
        assert!(id.to_string().starts_with("task_018bcfe5"));
    }

    #[test]
    fn another_kind_or_case_is_refused() {
        let id = TaskId::new(Timestamp::from_millis(1), [1; 10]).to_string();
        assert!(id.parse::<CallId>().is_err());
        assert!(id.to_uppercase().parse::<TaskId>().is_err());
        assert!("task_+123456789012345678901234567890a".parse::<TaskId>().is_err());
    }

    #[test]
    fn later_ids_sort_later() {
        let a = CallId::new(Timestamp::from_millis(1), [255; 10]);
        let b = CallId::new(Timestamp::from_millis(2), [0; 10]);
        assert!(a < b);
    }
}
