//! What one SQL statement does, told from its text: an effect, the tables that it names, and why. Never the guard: it refuses early and explains.
//!
//! The guard is the login's rights and, for reads, a transaction in which nothing can be written. A text cannot tell what a view, a trigger, a
//! type or an operator of the database runs. What it can tell is told never lower than it is: what is not known is taken for the worst, and what
//! two programs could read in two ways is refused.
//!
//! Three readers must agree: our scanner (`scan`), the lexer of the parser (`agree`), and for a read both the parser's tree (`walk`) and
//! the bare words (`words`).

mod agree;
mod functions;
mod scan;
mod walk;
mod words;

use std::collections::BTreeSet;

use bailiwick_core::Effect;
use sqlparser::parser::{Parser, ParserError};

pub use functions::{MARIADB_LOOKS, POSTGRESQL_LOOKS};

use functions::Functions;

/// Whose SQL it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `PostgreSQL` 14 or newer.
    Postgresql,
    /// `MariaDB` 10.5 or newer, in a session with `IGNORE_SPACE` and without `ANSI_QUOTES`.
    Mariadb,
}

/// How large a statement may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of its text.
    pub bytes: usize,
    /// Words and signs.
    pub pieces: usize,
    /// Parentheses within each other.
    pub depth: usize,
    /// Parameters.
    pub parameters: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 32 * 1024, pieces: 4000, depth: 24, parameters: 100 }
    }
}

/// What a statement does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Never lower than what can be told from the text.
    pub effect: Effect,
    /// The tables, views and sequences that it names, as written, with the schema where it is written; without names of its own (`WITH`).
    pub tables: Vec<String>,
    /// Why it has this effect, most telling first. Empty for a read.
    pub reasons: Vec<String>,
    /// What is to be sent: the text without comments and without the `;` at its end.
    pub text: String,
    /// How many parameters it takes.
    pub parameters: u16,
}

/// Why a statement is not sent: a plain sentence, which quotes at most a word of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct SqlRefusal {
    words: String,
}

impl SqlRefusal {
    fn new(words: String) -> Self {
        Self { words }
    }

    /// The sentence.
    #[must_use]
    pub fn words(&self) -> &str {
        &self.words
    }
}

/// Tells what a statement does.
///
/// # Errors
/// More or less than one statement, one that is never sent, one that is not understood, or one that can be read in two ways.
pub fn classify(dialect: Dialect, text: &str, limits: &Limits) -> Result<Statement, SqlRefusal> {
    classify_with(dialect, text, limits, &BTreeSet::new())
}

/// As [`classify`], with functions of which an administrator says that they only read: `similarity`, or with the schema, `app.price`.
///
/// # Errors
/// As [`classify`]. What is never called stays so, whoever vouches for it.
pub fn classify_with(dialect: Dialect, text: &str, limits: &Limits, vouched: &BTreeSet<String>) -> Result<Statement, SqlRefusal> {
    let scan = scan::scan(dialect, text, limits)?;
    let functions = Functions::new(dialect, vouched);
    words::check_first(dialect, &scan.pieces)?;
    words::check_everywhere(&scan.pieces, &functions)?;
    let tokens = agree::tokens(dialect, &scan)?;
    let mut parser = Parser::new(agree::grammar(dialect)).with_recursion_limit(RECURSION_MAX).with_tokens(tokens);
    let parsed = parser.parse_statement().map_err(|error| not_understood(&error))?;
    if parser.peek_token().token != sqlparser::tokenizer::Token::EOF {
        let next: String = parser.peek_token().token.to_string().chars().take(40).collect();
        return Err(SqlRefusal::new(format!("the statement is not understood from `{next}` on, and what is not understood is never sent")));
    }
    let seen = walk::walk(dialect, &parsed, &functions)?;
    let (mut effect, mut reasons) = (seen.effect, seen.reasons);
    if effect == Effect::Read
        && let Some((raised, why)) = words::raise(dialect, &scan.pieces, &functions, seen.aliases)
    {
        effect = raised;
        reasons.insert(0, why);
    }
    if effect == Effect::Read {
        reasons.clear();
    }
    Ok(Statement { effect, tables: seen.tables, reasons, text: scan.text, parameters: scan.parameters })
}

/// How deep the parser may go.
const RECURSION_MAX: usize = 60;

fn not_understood(error: &ParserError) -> SqlRefusal {
    let words = match error {
        ParserError::TokenizerError(words) | ParserError::ParserError(words) => words.as_str(),
        ParserError::RecursionLimitExceeded => "it is nested too deeply",
    };
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    SqlRefusal::new(format!("the statement is not understood, and what is not understood is never sent: {words}"))
}

#[cfg(test)]
mod tests;
