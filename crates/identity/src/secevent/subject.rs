//! Subject identifiers (RFC 9493) and complex subjects (SSF 1.0 section 3): of whom an event speaks.

use serde_json::{Map, Value, json};

/// The most identifiers in `aliases`.
const ALIASES_MAX: usize = 16;
/// The longest value of a member, in bytes.
const VALUE_MAX: usize = 1024;

/// Of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// An id at an issuer.
    IssSub {
        /// The issuer.
        iss: String,
        /// The id.
        sub: String,
    },
    /// An address.
    Email(String),
    /// A text that only transmitter and receiver understand.
    Opaque(String),
    /// Several identifiers of the same one.
    Aliases(Vec<Subject>),
    /// A user, perhaps one session of it.
    Complex {
        /// The user.
        user: Option<Box<Subject>>,
        /// The session. Then nothing but it is meant.
        session: Option<Box<Subject>>,
        /// Other members are there, which narrow the subject in a way that we do not understand: `device`, `tenant`, ...
        narrowed: bool,
    },
    /// An identifier of a form that names nobody here: `phone_number`, `did`, `account`, `uri`, ...
    Other(String),
}

/// Why an identifier is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subject identifier is malformed: {0}")]
pub struct SubjectError(&'static str);

impl Subject {
    pub(super) fn read(value: &Value) -> Result<Self, SubjectError> {
        let members = value.as_object().ok_or(SubjectError("no object"))?;
        //= rfc9493#section-3
        // Every Subject Identifier MUST contain a "format" member.
        match text(members, "format")?.as_str() {
            "complex" => {
                let part = |name: &str| members.get(name).map(Self::simple).transpose();
                let (user, session) = (part("user")?, part("session")?);
                if user.is_none() && session.is_none() {
                    return Err(SubjectError("a complex subject without user and session"));
                }
                let narrowed = members.keys().any(|name| !matches!(name.as_str(), "format" | "user" | "session"));
                Ok(Self::Complex { user: user.map(Box::new), session: session.map(Box::new), narrowed })
            }
            //= rfc9493#section-3.2.8
            // The "aliases" Identifier Format [...] MUST NOT be nested.
            "aliases" => {
                let all = members.get("identifiers").and_then(Value::as_array).ok_or(SubjectError("aliases without identifiers"))?;
                if all.is_empty() || all.len() > ALIASES_MAX {
                    return Err(SubjectError("no aliases, or too many"));
                }
                all.iter().map(Self::simple).collect::<Result<_, _>>().map(Self::Aliases)
            }
            _ => Self::simple(value),
        }
    }

    fn simple(value: &Value) -> Result<Self, SubjectError> {
        let members = value.as_object().ok_or(SubjectError("no object"))?;
        //= rfc9493#section-3
        // A Subject Identifier MUST conform to a specific Identifier Format and MUST NOT contain any members not defined by that
        // format.
        let only = |names: &[&str]| {
            let known = members.keys().all(|n| n == "format" || names.contains(&n.as_str()));
            if known { Ok(()) } else { Err(SubjectError("a member that its format does not have")) }
        };
        match text(members, "format")?.as_str() {
            "iss_sub" => only(&["iss", "sub"]).and_then(|()| Ok(Self::IssSub { iss: text(members, "iss")?, sub: text(members, "sub")? })),
            "email" => only(&["email"]).and_then(|()| Ok(Self::Email(text(members, "email")?))),
            "opaque" => only(&["id"]).and_then(|()| Ok(Self::Opaque(text(members, "id")?))),
            "complex" | "aliases" => Err(SubjectError("an identifier inside another")),
            other => Ok(Self::Other(other.to_owned())),
        }
    }

    /// As it is written.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::IssSub { iss, sub } => json!({ "format": "iss_sub", "iss": iss, "sub": sub }),
            Self::Email(email) => json!({ "format": "email", "email": email }),
            Self::Opaque(id) => json!({ "format": "opaque", "id": id }),
            Self::Aliases(all) => json!({ "format": "aliases", "identifiers": all.iter().map(Self::to_json).collect::<Vec<_>>() }),
            Self::Complex { user, session, .. } => {
                let mut members = Map::from_iter([("format".to_owned(), json!("complex"))]);
                for (name, part) in [("user", user), ("session", session)] {
                    if let Some(part) = part {
                        members.insert(name.to_owned(), part.to_json());
                    }
                }
                Value::Object(members)
            }
            Self::Other(format) => json!({ "format": format }),
        }
    }
}

fn text(members: &Map<String, Value>, name: &str) -> Result<String, SubjectError> {
    let text = members.get(name).and_then(Value::as_str).filter(|t| !t.is_empty() && t.len() <= VALUE_MAX);
    text.map(str::to_owned).ok_or(SubjectError("a member is missing, empty, too long or no text"))
}
