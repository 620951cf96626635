//! Text of SQL: names, literals, rows of answers, and what the server's refusals mean.

use tokio_postgres::error::SqlState;

use crate::lease::{Step, TargetCode, TargetError};

/// Rows of all statements of a batch, one after the other; `None` is NULL.
pub(in crate::kinds) type Rows = Vec<Vec<Option<String>>>;

pub(in crate::kinds) fn cell(rows: &Rows, row: usize, column: usize) -> Option<&str> {
    rows.get(row)?.get(column)?.as_deref()
}

/// A quoted identifier. It has no NUL: names are checked when they come in.
pub(in crate::kinds) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A quoted literal; every session of ours has `standard_conforming_strings` on, so a backslash is a backslash.
pub(in crate::kinds) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\0', "").replace('\'', "''"))
}

/// A literal of text that may not be representable in the server's encoding: everything but printable ASCII is written as JSON escapes it.
pub(super) fn text_literal(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        if matches!(c, ' '..='~') {
            ascii.push(c);
        } else {
            let mut units = [0; 2];
            ascii.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    literal(&ascii)
}

/// Why a statement or a login did not go through.
#[derive(Debug)]
pub(in crate::kinds) struct Failure {
    /// The server's code; `None` if the connection failed.
    pub(in crate::kinds) state: Option<SqlState>,
    /// The server's words. Statements are not quoted in them.
    pub(super) message: String,
    /// The function of the server that refused: tells apart what shares a code.
    pub(super) routine: Option<String>,
}

impl Failure {
    pub(super) fn lost(message: impl Into<String>) -> Self {
        Self { state: None, message: message.into(), routine: None }
    }

    pub(in crate::kinds) fn is(&self, state: &SqlState) -> bool {
        self.state.as_ref() == Some(state)
    }

    /// Code and words, as evidence keeps them.
    pub(in crate::kinds) fn words(&self) -> String {
        match &self.state {
            Some(state) => format!("{}: {}", state.code(), self.message),
            None => self.message.clone(),
        }
    }

    pub(in crate::kinds) fn target(&self, step: Step, node: &str) -> TargetError {
        TargetError::new(self.code(step), step, node, &self.words())
    }

    fn code(&self, step: Step) -> TargetCode {
        let Some(state) = &self.state else { return TargetCode::Unreachable };
        match (state.code().get(..2).unwrap_or_default(), state) {
            (_, s) if *s == SqlState::INSUFFICIENT_PRIVILEGE => TargetCode::Privilege,
            (_, s) if *s == SqlState::LOCK_NOT_AVAILABLE || *s == SqlState::QUERY_CANCELED => TargetCode::Busy,
            (_, s) if *s == SqlState::UNDEFINED_OBJECT && step == Step::Mint => TargetCode::Plan,
            (_, s) if *s == SqlState::DEPENDENT_OBJECTS_STILL_EXIST => TargetCode::Refused,
            // No waiting mends these: a person does.
            (_, s) if [SqlState::DATABASE_DROPPED, SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(s) => TargetCode::Refused,
            ("0A", _) => TargetCode::Unsupported,
            // 25: read-only, on a primary that became a standby; 40: deadlock; 53: no slot or no memory; XX000: tuple concurrently updated.
            ("25" | "40" | "53" | "55" | "XX", _) => TargetCode::Busy,
            ("08" | "57", _) => TargetCode::Unreachable,
            ("28" | "3D", _) => TargetCode::Refused,
            _ => TargetCode::Protocol,
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refusal) => {
                // Only this code's detail is kept: it lists objects. Others may quote data.
                let detail = refusal.detail().filter(|_| *refusal.code() == SqlState::DEPENDENT_OBJECTS_STILL_EXIST);
                let message = detail.map_or_else(|| refusal.message().to_owned(), |detail| format!("{}: {detail}", refusal.message()));
                Self { state: Some(refusal.code().clone()), message, routine: refusal.routine().map(str::to_owned) }
            }
            None => Self::lost(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_do_not_end_a_name_or_a_literal() {
        assert_eq!(identifier("a\"; DROP ROLE x; --"), "\"a\"\"; DROP ROLE x; --\"");
        assert_eq!(literal("it's \\"), "'it''s \\'");
        assert_eq!(text_literal("{\"a\":\"ü\u{1F600}'\"}"), "'{\"a\":\"\\u00fc\\ud83d\\ude00''\"}'");
    }

    #[test]
    fn a_refusal_says_whether_to_wait() {
        let failure = |state: &SqlState| Failure { state: Some(state.clone()), message: "no".into(), routine: None };
        for (state, code) in [
            (SqlState::INSUFFICIENT_PRIVILEGE, TargetCode::Privilege),
            (SqlState::LOCK_NOT_AVAILABLE, TargetCode::Busy),
            (SqlState::TOO_MANY_CONNECTIONS, TargetCode::Busy),
            (SqlState::ADMIN_SHUTDOWN, TargetCode::Unreachable),
            (SqlState::CANNOT_CONNECT_NOW, TargetCode::Unreachable),
            (SqlState::INVALID_PASSWORD, TargetCode::Refused),
            (SqlState::SYNTAX_ERROR, TargetCode::Protocol),
            (SqlState::INTERNAL_ERROR, TargetCode::Busy),
            (SqlState::T_R_DEADLOCK_DETECTED, TargetCode::Busy),
            (SqlState::READ_ONLY_SQL_TRANSACTION, TargetCode::Busy),
            (SqlState::DATA_CORRUPTED, TargetCode::Refused),
            (SqlState::DATABASE_DROPPED, TargetCode::Refused),
            (SqlState::FEATURE_NOT_SUPPORTED, TargetCode::Unsupported),
        ] {
            assert_eq!(failure(&state).target(Step::Gate, "one").code(), code, "{state:?}");
        }
        assert_eq!(failure(&SqlState::UNDEFINED_OBJECT).target(Step::Mint, "one").code(), TargetCode::Plan);
        assert_eq!(Failure::lost("gone").target(Step::Gate, "one").to_string(), "gate on `one` failed (unreachable): gone");
    }
}
