//! What the words of a statement admit, without a grammar: its first word, words that act, and names that are called.
//!
//! This is a second opinion beside the tree of the parser, and the stricter one wins. It rests on little: a statement that begins with `SELECT` is one,
//! and does more than look only by a word that stands in it outside of quotes or by something that it calls.

use std::collections::BTreeMap;

use bailiwick_core::Effect;

use super::functions::{Calls, Functions};
use super::scan::Piece;
use super::{Dialect, SqlRefusal};

/// First words that are never sent, and why.
const NEVER: &[(&str, &str)] = &[
    ("grant revoke deny reassign security", "rights are given and taken by people, not by tools"),
    ("set reset discard use unset", "it changes the session, which must be the same for every call: give values in the statement"),
    ("begin start commit rollback savepoint release abort end xa", "each call is a transaction of its own"),
    ("prepare execute deallocate immediate", "send the statement itself, with its parameters bound"),
    ("declare fetch move close handler", "a call gives its rows at once: limit them by `LIMIT` or `max_rows`"),
    ("lock unlock", "a lock ends with the call, and only keeps others waiting"),
    ("listen unlisten notify", "nobody hears messages between calls"),
    ("copy load import", "data comes and goes by parameters and rows, never by files or programs of the server"),
    ("do signal resignal get delimiter", "what a block of code does cannot be told before it runs"),
    ("kill flush purge shutdown install uninstall change stop binlog checkpoint cluster repair cache", "it acts on the server, not on its data"),
    ("vacuum reindex optimize", "it cannot run within a transaction, in which each call runs"),
];

/// First words of the statements that are known.
const KNOWN: &str = "select with values show explain describe desc insert replace update delete merge truncate create alter drop rename \
                     comment analyze call";

/// Words that act wherever they stand, and what a statement with them does at least.
const ACTING: &[(&str, Effect)] = &[
    ("insert", Effect::Write),
    ("update", Effect::Write),
    ("merge", Effect::Write),
    ("into", Effect::Write),
    ("lock", Effect::Write),
    ("delete", Effect::Delete),
    ("truncate", Effect::Delete),
];

/// Words that never stand in a statement that is sent.
const NOWHERE: &[(&str, &str)] = &[
    ("outfile", "files of the server are not written: take the rows"),
    ("dumpfile", "files of the server are not written: take the rows"),
    ("infile", "files are not read: bind the values"),
];

/// Words after which a parenthesis is no call.
const BEFORE_PARENTHESIS: &str = "select from where and or not in any some all exists as on using join by having limit offset fetch union \
    intersect except distinct over filter group within values with recursive materialized lateral when then else case between like ilike to is \
    row array returning only passing repeatable sets rollup cube window interval symmetric explain \
    char varchar character varying nchar decimal numeric dec float precision real int integer bigint smallint bit time timestamp \
    inner left right full outer cross natural";

/// And those of `MariaDB` only; elsewhere a function may have such a name.
const BEFORE_PARENTHESIS_MARIADB: &str = "div mod xor rlike regexp binary key index force ignore use partition escape order for \
    datetime date year text json blob tinyblob signed unsigned tinyint mediumint double varbinary nvarchar fixed number straight_join columns of";

/// Refuses a statement by its first word.
pub(super) fn check_first(dialect: Dialect, pieces: &[Piece]) -> Result<(), SqlRefusal> {
    let first = pieces.iter().find(|piece| **piece != Piece::Sign('('));
    let Some(Piece::Word(word)) = first else {
        return Err(SqlRefusal::new(if first.is_none() { "the statement is empty" } else { "a statement begins with a word" }.to_owned()));
    };
    let word = word.to_ascii_lowercase();
    if let Some((_, why)) = NEVER.iter().find(|(words, _)| words.split_ascii_whitespace().any(|never| never == word)) {
        return Err(SqlRefusal::new(format!("`{}` is never sent: {why}", word.to_ascii_uppercase())));
    }
    if !KNOWN.split_ascii_whitespace().any(|known| known == word) {
        return Err(SqlRefusal::new(format!(
            "statements that begin with `{}` are not known here",
            word.to_ascii_uppercase().chars().take(40).collect::<String>()
        )));
    }
    let rest = pieces.get(1..).unwrap_or_default();
    let refused = |words: &str| Err(SqlRefusal::new(words.to_owned()));
    match word.as_str() {
        // `ANALYZE SELECT ..` runs what follows.
        "analyze" if dialect == Dialect::Mariadb && !rest.first().is_some_and(|piece| piece.is_word("table")) => {
            refused("`ANALYZE` runs the statement that follows: use `EXPLAIN`")
        }
        "explain" | "describe" | "desc" if any_word(rest, EXPLAINED_NEVER) => refused("a query, or a change of rows, can be explained, nothing else"),
        "show" if !is_known_show(dialect, rest) => refused("this form of `SHOW` is not known here"),
        "create" if !makes_data(rest) => refused(
            "this sort of statement is not offered: tables, views, indexes, sequences, schemas and types can be made here, nothing that is code or gives rights",
        ),
        _ => Ok(()),
    }
}

fn any_word(pieces: &[Piece], words: &str) -> bool {
    pieces.iter().any(|piece| words.split_ascii_whitespace().any(|word| piece.is_word(word)))
}

/// Words that no `EXPLAIN` has, outside of quotes.
const EXPLAINED_NEVER: &str =
    "explain describe prepare execute declare copy call do create drop alter truncate grant revoke set begin commit refresh";

/// `SHOW name` there, and here what shows and does nothing else.
fn is_known_show(dialect: Dialect, rest: &[Piece]) -> bool {
    match (dialect, rest) {
        (Dialect::Postgresql, [Piece::Word(_)]) => true,
        (Dialect::Postgresql, [Piece::Word(_), Piece::Sign('.'), Piece::Word(_)]) => true,
        (Dialect::Postgresql, _) => false,
        (Dialect::Mariadb, [first, ..]) => any_word(
            std::slice::from_ref(first),
            "tables columns fields index indexes keys create databases schemas status variables warnings errors grants table full extended global \
             session character charset collation engines processlist open triggers events procedure function privileges count storage local",
        ),
        (Dialect::Mariadb, []) => false,
    }
}

/// Is what stands after `CREATE` a thing that holds data, and not code or a right?
fn makes_data(rest: &[Piece]) -> bool {
    const BEFORE: &str = "or replace global local temp temporary unlogged unique fulltext spatial recursive materialized";
    rest.iter()
        .find(|piece| !any_word(std::slice::from_ref(piece), BEFORE))
        .is_some_and(|piece| any_word(std::slice::from_ref(piece), "table index view sequence schema type"))
}

/// Refuses words and calls that are never sent, in whatever statement.
pub(super) fn check_everywhere(pieces: &[Piece], functions: &Functions<'_>) -> Result<(), SqlRefusal> {
    for (at, piece) in pieces.iter().enumerate() {
        if let Piece::Word(_) = piece
            && let Some((word, why)) = NOWHERE.iter().find(|(word, _)| piece.is_word(word))
        {
            return Err(SqlRefusal::new(format!("`{}` is never sent: {why}", word.to_ascii_uppercase())));
        }
        if let (Piece::Word(name) | Piece::Quoted(name), Some(Piece::Sign('('))) = (piece, pieces.get(at.saturating_add(1)))
            && let Some(why) = functions.never(name)
        {
            return Err(SqlRefusal::new(format!("`{}` is never called: {why}", name.chars().take(80).collect::<String>())));
        }
        if let Some((name, _)) = part(functions, pieces, at)
            && let Some(refusal) = functions.never_after_dot(name)
        {
            return Err(refusal);
        }
    }
    Ok(())
}

/// `name` in `(..).name`, `[..].name` and `$1.name`: a part of a row, or a function of `PostgreSQL` that is called; and whether it is in quotes.
fn part<'a>(functions: &Functions<'_>, pieces: &'a [Piece], at: usize) -> Option<(&'a str, bool)> {
    let before = |back: usize| at.checked_sub(back).and_then(|at| pieces.get(at));
    let of_value = matches!(before(2), Some(Piece::Sign(')' | ']') | Piece::Placeholder(_)));
    if !functions.is_postgresql() || before(1) != Some(&Piece::Sign('.')) || !of_value {
        return None;
    }
    match pieces.get(at) {
        Some(Piece::Word(name)) => Some((name, false)),
        Some(Piece::Quoted(name)) => Some((name, true)),
        _ => None,
    }
}

/// What the words of a statement that the tree calls a read admit: the effect that it has at least, and why. `aliases` are names of the
/// statement's own that have a list of columns, and how many of each.
pub(super) fn raise(dialect: Dialect, pieces: &[Piece], functions: &Functions<'_>, mut aliases: BTreeMap<String, usize>) -> Option<(Effect, String)> {
    let mut raised: Option<(Effect, String)> = None;
    let mut raise = |effect: Effect, why: String| {
        if raised.as_ref().is_none_or(|(highest, _)| *highest < effect) {
            raised = Some((effect, why));
        }
    };
    for (at, piece) in pieces.iter().enumerate() {
        let called = pieces.get(at.saturating_add(1)) == Some(&Piece::Sign('('));
        let before = at.checked_sub(1).and_then(|at| pieces.get(at));
        if let Some((effect, why)) = acts(dialect, piece, before, called) {
            raise(effect, why);
        }
        if let Some((name, quoted)) = part(functions, pieces, at)
            && let Calls::Acts(effect, why) = functions.calls(None, name, quoted)
        {
            raise(effect, why);
        }
        if !called {
            continue;
        }
        let (name, quoted) = match piece {
            Piece::Word(word) => (word, false),
            Piece::Quoted(name) => (name, true),
            Piece::Text(_) | Piece::Number(_) | Piece::Placeholder(_) | Piece::Sign(_) => continue,
        };
        let qualified = before == Some(&Piece::Sign('.'));
        let more = if dialect == Dialect::Mariadb { BEFORE_PARENTHESIS_MARIADB } else { "" };
        let mut keywords = BEFORE_PARENTHESIS.split_ascii_whitespace().chain(more.split_ascii_whitespace());
        if !quoted && !qualified && keywords.any(|word| piece.is_word(word)) {
            continue;
        }
        let schema = if qualified { at.checked_sub(2).and_then(|at| pieces.get(at)) } else { None };
        let deeper = qualified && at.checked_sub(3).and_then(|at| pieces.get(at)) == Some(&Piece::Sign('.'));
        let schema = match schema {
            _ if deeper => Some(String::new()),
            Some(Piece::Word(schema)) => Some(schema.to_ascii_lowercase()),
            Some(Piece::Quoted(schema)) => Some(schema.clone()),
            _ if qualified => Some(String::new()),
            _ => None,
        };
        match functions.calls(schema.as_deref(), name, quoted) {
            Calls::Reads => {}
            Calls::Acts(effect, why) => match aliases.get_mut(&name.to_ascii_lowercase()).filter(|left| **left > 0 && !qualified) {
                Some(left) => *left -= 1,
                None => raise(effect, why),
            },
        }
    }
    raised
}

/// What a word does by standing there.
fn acts(dialect: Dialect, piece: &Piece, before: Option<&Piece>, called: bool) -> Option<(Effect, String)> {
    let Piece::Word(word) = piece else { return None };
    if before == Some(&Piece::Sign('.')) {
        return None;
    }
    let after = |keyword: &str| before.is_some_and(|before| before.is_word(keyword));
    if piece.is_word("share") && (after("for") || after("key")) || piece.is_word("value") && after("next") {
        return Some((Effect::Write, "it locks rows or takes a number from a sequence".to_owned()));
    }
    // `INSERT(text, ..)` and `TRUNCATE(number, ..)` are functions of MariaDB.
    if dialect == Dialect::Mariadb && called && (piece.is_word("insert") || piece.is_word("truncate")) {
        return None;
    }
    let (keyword, effect) = ACTING.iter().find(|(keyword, _)| piece.is_word(keyword))?;
    Some((
        *effect,
        format!("the word `{}` stands in it outside of quotes (quote it if it is a name)", if word.is_empty() { keyword } else { word.as_str() }),
    ))
}
