//! Text of SQL: names, literals, and what the server's refusals mean.

use mysql_async::Error;

use crate::lease::{AccountName, Step, TargetCode, TargetError};

/// `Access denied for user`: a wrong password, or no such account.
pub(in crate::kinds) const ACCESS_DENIED: u16 = 1045;
/// `Unknown thread id`.
pub(super) const NO_SUCH_THREAD: u16 = 1094;
/// `Operation ALTER USER failed`: there is no such account.
pub(super) const CANNOT_USER: u16 = 1396;
/// `The MariaDB server is running with the --read-only option`.
pub(super) const READ_ONLY: u16 = 1290;
/// `Access denied, this account is locked`.
pub(super) const LOCKED: u16 = 4151;
/// `PROCEDURE does not exist`.
pub(super) const NO_PROCEDURE: u16 = 1305;
/// `execute command denied`.
pub(super) const PROCEDURE_DENIED: u16 = 1370;

/// A quoted literal; every session of ours has `NO_BACKSLASH_ESCAPES`, so a backslash is a backslash.
pub(in crate::kinds) fn name_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(super) fn quoted_role(role: &str) -> String {
    format!("`{}`", role.replace('`', "``"))
}

/// The account as the server writes it. Its letters need no quoting; it is quoted all the same.
pub(super) fn account(name: &AccountName) -> String {
    format!("`{name}`@`%`")
}

/// Why a statement or a login did not go through.
#[derive(Debug)]
pub(in crate::kinds) struct Failure {
    /// The server's number; `None` if the connection failed.
    pub(in crate::kinds) number: Option<u16>,
    message: String,
}

impl Failure {
    pub(super) fn lost(message: impl Into<String>) -> Self {
        Self { number: None, message: message.into() }
    }

    pub(in crate::kinds) fn is(&self, number: u16) -> bool {
        self.number == Some(number)
    }

    /// Number and words, as evidence keeps them.
    pub(in crate::kinds) fn words(&self) -> String {
        self.number.map_or_else(|| self.message.clone(), |number| format!("{number}: {}", self.message))
    }

    pub(in crate::kinds) fn target(&self, step: Step, node: &str) -> TargetError {
        let code = match self.number {
            None => TargetCode::Unreachable,
            // Denied by password or host; for a database, a table, a column, a statement, a routine.
            Some(1044 | ACCESS_DENIED | 1130 | LOCKED) if step == Step::Connect => TargetCode::Refused,
            Some(1044 | 1095 | 1142 | 1143 | 1227 | PROCEDURE_DENIED | 1698 | NO_PROCEDURE) => TargetCode::Privilege,
            Some(1959) if step == Step::Mint => TargetCode::Plan,
            // Too many connections, lock wait, deadlock, interrupted, statement timeout, read-only.
            Some(1040 | 1203 | 1205 | 1213 | 1226 | 1317 | 1969 | READ_ONLY) => TargetCode::Busy,
            // Shutting down, connection killed, not ready yet.
            Some(1053 | 1080 | 1927 | 4031) => TargetCode::Unreachable,
            Some(_) => TargetCode::Protocol,
        };
        TargetError::new(code, step, node, &self.words())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            // A syntax error would quote the statement; ours have none unless a name is wrong, and then this says enough.
            Error::Server(refusal) if refusal.code == 1064 => Self { number: Some(1064), message: "the statement is not understood".to_owned() },
            Error::Server(refusal) => Self { number: Some(refusal.code), message: refusal.message },
            other => Self::lost(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_do_not_end_a_name_or_a_literal() {
        assert_eq!(name_literal("it's \\"), "'it''s \\'");
        assert_eq!(quoted_role("a`b"), "`a``b`");
    }

    #[test]
    fn a_refusal_says_whether_to_wait() {
        let code = |number, step| Failure { number: Some(number), message: "no".into() }.target(step, "one").code();
        assert_eq!(code(1227, Step::Kill), TargetCode::Privilege);
        assert_eq!(code(1095, Step::Kill), TargetCode::Privilege);
        assert_eq!(code(ACCESS_DENIED, Step::Connect), TargetCode::Refused);
        assert_eq!(code(1040, Step::Connect), TargetCode::Busy);
        assert_eq!(code(1064, Step::Mint), TargetCode::Protocol);
        assert_eq!(Failure::lost("gone").target(Step::Kill, "one").code(), TargetCode::Unreachable);
    }
}
