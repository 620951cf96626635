//! What a system is given so that it can do its work: environment variables and headers, of literal parts and secrets. It injects
//! itself; nobody else sees a value.

mod plain;

use std::borrow::Cow;
use std::fmt;

use zeroize::Zeroizing;

use crate::redaction::Redaction;
use crate::secret::Secret;

/// The longest value, in bytes: what a process can be given in one variable on Linux.
const VALUE_MAX: usize = 128 * 1024;
const NAMES_MAX: usize = 256;

/// Fields that belong to the connection and not to the credential (RFC 9110 section 7.6.1, RFC 9112 section 6).
const NOT_OURS: [&str; 9] =
    ["host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "keep-alive", "proxy-connection"];

/// Why something is not injected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InjectionError {
    /// The name is none that can be set.
    #[error("`{0}` is no name that can be set")]
    Name(String),
    /// The name was set before.
    #[error("`{0}` is set twice")]
    Twice(String),
    /// The value of this name holds characters that would end it early, is no UTF-8, or is too long.
    #[error("the value of `{0}` cannot be injected: it must be text without control characters, at most 128 KiB")]
    Value(String),
    /// There are too many.
    #[error("more than 256 values")]
    TooMany,
}

/// A part of a value.
pub struct Part(Inner);

enum Inner {
    Literal(String),
    Secret(Secret),
    Imported(Secret),
}

impl Part {
    /// Text that is no secret: it may stand in a configuration, and is not redacted.
    #[must_use]
    pub fn literal(text: impl Into<String>) -> Self {
        Self(Inner::Literal(text.into()))
    }

    /// A value that was moved into the sealed store with all its neighbours, so that nobody has said that it is a secret. It is
    /// kept like one, and cut out of answers unless its name and itself are plain: a directory, a host, a mode. Cutting such a
    /// word out of every answer would make the system useless and protect nothing.
    #[must_use]
    pub const fn imported(secret: Secret) -> Self {
        Self(Inner::Imported(secret))
    }

    /// A secret. Every answer is cleaned of it.
    #[must_use]
    pub const fn secret(secret: Secret) -> Self {
        Self(Inner::Secret(secret))
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Inner::Literal(text) => text.as_bytes(),
            Inner::Secret(secret) | Inner::Imported(secret) => secret.expose(),
        }
    }

    /// What answers are to be cleaned of.
    fn cleaned_of(&self, name: &str) -> Option<&[u8]> {
        match &self.0 {
            Inner::Literal(_) => None,
            Inner::Secret(secret) => Some(secret.expose()),
            Inner::Imported(secret) => (!plain::is_plain(name, secret.expose())).then(|| secret.expose()),
        }
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Literal(_) => f.write_str("Part(literal)"),
            Inner::Secret(secret) | Inner::Imported(secret) => secret.fmt(f),
        }
    }
}

impl From<Part> for Vec<Part> {
    fn from(part: Part) -> Self {
        vec![part]
    }
}

/// The environment and the headers of one system. While it lives it is given to nobody but that system; dropping it is the
/// ending `injection-stopped`.
#[derive(Default)]
pub struct Injection {
    env: Vec<(String, Vec<Part>)>,
    headers: Vec<(String, Vec<Part>)>,
    redaction: Redaction,
}

impl Injection {
    /// Adds an environment variable: one part, or several that are joined.
    ///
    /// # Errors
    /// `Name` if it is empty or holds `=` or control characters, `Twice`, `TooMany`; `Value` if it holds NUL or no UTF-8.
    pub fn add_env(&mut self, name: &str, value: impl Into<Vec<Part>>) -> Result<(), InjectionError> {
        let settable = !name.is_empty() && name.len() <= 256 && !name.contains(|c: char| c == '=' || c.is_control());
        if !settable {
            return Err(wrong_name(name));
        }
        if self.env.iter().any(|(other, _)| other == name) {
            return Err(InjectionError::Twice(name.to_owned()));
        }
        let value = self.checked(name, value.into(), |b| b == 0)?;
        self.env.push((name.to_owned(), value));
        Ok(())
    }

    /// Adds a header: one part, or several that are joined, such as `Bearer ` and a token.
    ///
    /// # Errors
    /// `Name` if it is no field name or belongs to the connection, `Twice`, `TooMany`; `Value` if it holds control characters or
    /// no UTF-8.
    pub fn add_header(&mut self, name: &str, value: impl Into<Vec<Part>>) -> Result<(), InjectionError> {
        //= rfc9110#section-5.6.2
        // tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" / "`" / "|" / "~" / DIGIT / ALPHA
        let tchar = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let ours = !NOT_OURS.iter().any(|n| n.eq_ignore_ascii_case(name));
        if name.is_empty() || name.len() > 256 || !name.bytes().all(tchar) || !ours {
            return Err(wrong_name(name));
        }
        if self.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            return Err(InjectionError::Twice(name.to_owned()));
        }
        let value = self.checked(name, value.into(), |b| b < 0x20 || b == 0x7f)?;
        self.headers.push((name.to_owned(), value));
        Ok(())
    }

    /// Puts nothing anywhere; every answer is cleaned of this secret.
    #[must_use]
    pub fn cleaned_of(secret: Option<&Secret>) -> Self {
        let mut injection = Self::default();
        if let Some(secret) = secret {
            injection.redaction.add(secret.expose());
        }
        injection
    }

    /// One header: literal text, such as `Bearer `, and a secret that its lease goes on holding.
    ///
    /// # Errors
    /// As for [`add_header`](Self::add_header).
    pub fn header_of(name: &str, before: &str, secret: &Secret) -> Result<Self, InjectionError> {
        let mut injection = Self::default();
        let copy = Secret::from(Zeroizing::new(secret.expose().to_vec()));
        injection.add_header(name, vec![Part::literal(before), Part::secret(copy)])?;
        Ok(injection)
    }

    fn checked(&mut self, name: &str, value: Vec<Part>, forbidden: fn(u8) -> bool) -> Result<Vec<Part>, InjectionError> {
        if self.env.len().saturating_add(self.headers.len()) >= NAMES_MAX {
            return Err(InjectionError::TooMany);
        }
        let length: usize = value.iter().map(|part| part.bytes().len()).sum();
        let text = value.iter().all(|part| std::str::from_utf8(part.bytes()).is_ok() && !part.bytes().iter().any(|b| forbidden(*b)));
        if length > VALUE_MAX || !text {
            return Err(InjectionError::Value(name.to_owned()));
        }
        value.iter().filter_map(|part| part.cleaned_of(name)).for_each(|secret| self.redaction.add(secret));
        Ok(value)
    }

    /// Puts every environment variable, as name and value. The value is wiped after `put` returns.
    pub fn env(&self, put: impl FnMut(&str, &str)) {
        inject(&self.env, put);
    }

    /// Puts every header, as name and value. The value is wiped after `put` returns.
    pub fn headers(&self, put: impl FnMut(&str, &str)) {
        inject(&self.headers, put);
    }

    /// The names of the environment variables and headers that hold more than literal text.
    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        let secret = |value: &[Part]| value.iter().any(|part| !matches!(part.0, Inner::Literal(_)));
        self.env.iter().chain(&self.headers).filter(move |(_, value)| secret(value)).map(|(name, _)| name.as_str())
    }

    /// Replaces every secret of at least 6 bytes by [`crate::REDACTED`], as it is and in the forms that answers carry it in: base64,
    /// hexadecimal, and escaped as in JSON, URLs, HTML and C, in any mixture. Give it a whole answer: a secret that is cut in two is not found.
    #[must_use]
    pub fn redact<'a>(&self, answer: &'a [u8]) -> Cow<'a, [u8]> {
        self.redaction.redact(answer)
    }

    /// [`Injection::redact`] for text.
    #[must_use]
    pub fn redact_text<'a>(&self, answer: &'a str) -> Cow<'a, str> {
        self.redaction.redact_text(answer)
    }

    /// [`Injection::redact`] for each string, key and number of a JSON value, whatever way they were written. Gives how many it replaced.
    pub fn redact_value(&self, answer: &mut serde_json::Value) -> usize {
        self.redaction.redact_value(answer)
    }
}

fn inject(values: &[(String, Vec<Part>)], mut put: impl FnMut(&str, &str)) {
    for (name, parts) in values {
        let length = parts.iter().map(|part| part.bytes().len()).sum();
        let mut value = Zeroizing::new(Vec::with_capacity(length));
        parts.iter().for_each(|part| value.extend_from_slice(part.bytes()));
        if let Ok(text) = std::str::from_utf8(&value) {
            put(name, text);
        }
    }
}

fn wrong_name(name: &str) -> InjectionError {
    InjectionError::Name(name.chars().take(80).flat_map(char::escape_debug).collect())
}

impl fmt::Debug for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |values: &[(String, Vec<Part>)]| values.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        f.debug_struct("Injection").field("env", &names(&self.env)).field("headers", &names(&self.headers)).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
