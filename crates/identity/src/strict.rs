//! JSON objects of strangers, read strictly: no name twice, bounded nesting and width, claims parsed into types.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

use bailiwick_core::Timestamp;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::proof::ProofError;

/// Objects and arrays in each other.
const DEPTH_MAX: usize = 20;
/// Members of one object, or elements of one array.
pub(crate) const WIDTH_MAX: usize = 64;

/// One JSON object whose names are unique at every depth.
pub(crate) struct Object(Map<String, Value>);

impl Object {
    /// Reads one object that is the whole of `bytes`. The caller has bounded their length.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ProofError> {
        Self::parse_wide(bytes, WIDTH_MAX)
    }

    /// The same, with so many members or elements at each place.
    pub(crate) fn parse_wide(bytes: &[u8], width: usize) -> Result<Self, ProofError> {
        let why = Cell::new(ProofError::Form("not JSON"));
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let value = Strict { depth: 0, width, why: &why }.deserialize(&mut reader).map_err(|_| why.get())?;
        reader.end().map_err(|_| ProofError::Form("something follows the JSON"))?;
        match value {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(ProofError::Form("not a JSON object")),
        }
    }

    /// The member, if it is there.
    pub(crate) fn member(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The names that stand in it.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A text, if the member is there.
    pub(crate) fn text_if(&self, name: &'static str) -> Result<Option<&str>, ProofError> {
        self.0.get(name).map(|v| v.as_str().ok_or(ProofError::Claim(name))).transpose()
    }

    /// A text.
    pub(crate) fn text(&self, name: &'static str) -> Result<&str, ProofError> {
        self.text_if(name)?.ok_or(ProofError::Claim(name))
    }

    /// A text of a type, if the member is there.
    pub(crate) fn parsed_if<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, ProofError> {
        self.text_if(name)?.map(|t| t.parse().map_err(|_| ProofError::Claim(name))).transpose()
    }

    /// A text of a type.
    pub(crate) fn parsed<T: FromStr>(&self, name: &'static str) -> Result<T, ProofError> {
        self.parsed_if(name)?.ok_or(ProofError::Claim(name))
    }

    /// A `NumericDate`, if the member is there.
    pub(crate) fn time_if(&self, name: &'static str) -> Result<Option<Timestamp>, ProofError> {
        self.0.get(name).map(|v| numeric_date(v).ok_or(ProofError::Claim(name))).transpose()
    }

    /// A `NumericDate`.
    pub(crate) fn time(&self, name: &'static str) -> Result<Timestamp, ProofError> {
        self.time_if(name)?.ok_or(ProofError::Claim(name))
    }
}

/// Reads an object inside another one, which was read strictly.
impl From<Map<String, Value>> for Object {
    fn from(map: Map<String, Value>) -> Self {
        Self(map)
    }
}

impl From<Object> for Map<String, Value> {
    fn from(object: Object) -> Self {
        object.0
    }
}

/// Sets a member of an object that we write.
pub(crate) fn put(object: &mut Value, name: &str, value: Value) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

//= rfc7519#section-2
// NumericDate: A JSON numeric value representing the number of seconds from 1970-01-01T00:00:00Z UTC until the specified
// UTC date/time, ignoring leap seconds. [...] in which non-integer values can be represented.
fn numeric_date(value: &Value) -> Option<Timestamp> {
    /// The year 9999: later than any time that is meant, and far from overflow.
    const SECONDS_MAX: i64 = 253_402_300_799;
    if let Some(seconds) = value.as_i64() {
        return (0..=SECONDS_MAX).contains(&seconds).then(|| Timestamp::from_seconds(seconds));
    }
    let seconds = value.as_f64().filter(|s| (0.0..=253_402_300_799.0).contains(s))?;
    let whole = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    Some(Timestamp::from_millis(0).plus(whole))
}

#[derive(Clone, Copy)]
struct Strict<'w> {
    depth: usize,
    width: usize,
    why: &'w Cell<ProofError>,
}

impl Strict<'_> {
    fn refuse<E: serde::de::Error>(self, why: ProofError) -> E {
        self.why.set(why);
        E::custom("refused")
    }

    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(self.refuse(ProofError::TooDeep));
        }
        Ok(Self { depth: self.depth.saturating_add(1), width: self.width, why: self.why })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("not finite"))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut all = Vec::new();
        while let Some(one) = seq.next_element_seed(inner)? {
            if all.len() >= self.width {
                return Err(self.refuse(ProofError::Form("too many elements")));
            }
            all.push(one);
        }
        Ok(Value::Array(all))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut all = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if all.len() >= self.width {
                return Err(self.refuse(ProofError::Form("too many members")));
            }
            //= rfc7519#section-4
            // The Claim Names within a JWT Claims Set MUST be unique; JWT parsers MUST either reject JWTs with duplicate
            // Claim Names or use a JSON parser that returns only the lexically last duplicate member name.
            if all.contains_key(&name) {
                return Err(self.refuse(ProofError::Duplicate));
            }
            let value = map.next_value_seed(inner)?;
            all.insert(name, value);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> ProofError {
        Object::parse(text.as_bytes()).err().unwrap()
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_at_every_depth_and_in_every_spelling() {
        assert_eq!(refused(r#"{"iss":"a","iss":"b"}"#), ProofError::Duplicate);
        assert_eq!(refused(r#"{"iss":"a","is\u0073":"b"}"#), ProofError::Duplicate);
        assert_eq!(refused(r#"{"act":[{"sub":"a","sub":"b"}]}"#), ProofError::Duplicate);
    }

    #[test]
    fn nesting_and_width_are_bounded() {
        assert_eq!(refused(&format!(r#"{{"a":{}{}}}"#, "[".repeat(4000), "]".repeat(4000))), ProofError::TooDeep);
        let wide: Vec<String> = (0..65).map(|i| format!(r#""k{i}":1"#)).collect();
        assert!(matches!(refused(&format!("{{{}}}", wide.join(","))), ProofError::Form(_)));
    }

    #[test]
    fn what_is_no_single_object_is_refused() {
        for bad in ["", "[]", "1", "{} {}", "{}x", "\u{feff}{}", "{\"a\":NaN}", "{\"a\":1e999}", "{\"a\":\"\\ud800\"}"] {
            assert!(Object::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_seconds_whole_or_not_within_what_a_calendar_knows() {
        let object = Object::parse(br#"{"a":10,"b":10.5,"c":-1,"d":1e300,"e":"10","f":99999999999999}"#).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(object.time("a"), Ok(Timestamp::from_seconds(10)));
        assert_eq!(object.time("b"), Ok(Timestamp::from_millis(10_500)));
        for bad in ["c", "d", "e", "f", "g"] {
            assert!(object.time(bad).is_err(), "{bad}");
        }
    }
}
