//! The parser's own lexer must read the text as our scanner did, piece by piece. Where they differ, nobody knows what the server reads.

use sqlparser::dialect::{Dialect as Grammar, MySqlDialect, PostgreSqlDialect};
use sqlparser::tokenizer::{Token, Tokenizer, Whitespace};

use super::scan::{Piece, Scan};
use super::{Dialect, SqlRefusal};

pub(super) fn grammar(dialect: Dialect) -> &'static dyn Grammar {
    match dialect {
        Dialect::Postgresql => &PostgreSqlDialect {},
        Dialect::Mariadb => &MySqlDialect {},
    }
}

/// The parser's tokens of the text, if they are our pieces.
pub(super) fn tokens(dialect: Dialect, scan: &Scan) -> Result<Vec<Token>, SqlRefusal> {
    let differs = || SqlRefusal::new("this text can be read in two ways: write it more plainly, or bind its values as parameters".to_owned());
    let tokens = Tokenizer::new(grammar(dialect), &scan.text).tokenize().map_err(|_| differs())?;
    let mut theirs = Vec::with_capacity(scan.pieces.len());
    for token in &tokens {
        flatten(dialect, token, &mut theirs).ok_or_else(differs)?;
    }
    if theirs == scan.pieces { Ok(tokens) } else { Err(differs()) }
}

/// A token as our scanner would give it; `None` for one that it never gives.
fn flatten(dialect: Dialect, token: &Token, pieces: &mut Vec<Piece>) -> Option<()> {
    match token {
        Token::EOF | Token::Whitespace(Whitespace::Space | Whitespace::Newline | Whitespace::Tab) => {}
        Token::Whitespace(_) => return None,
        Token::Word(word) => pieces.push(match word.quote_style {
            None => Piece::Word(word.value.clone()),
            Some(_) => Piece::Quoted(word.value.clone()),
        }),
        Token::Number(number, false) => pieces.push(Piece::Number(number.clone())),
        Token::SingleQuotedString(text) => pieces.push(Piece::Text(text.clone())),
        // `PostgreSQL`'s `?` is an operator of JSON.
        Token::Placeholder(sign) if sign == "?" && dialect == Dialect::Postgresql => pieces.push(Piece::Sign('?')),
        Token::Placeholder(sign) if sign.starts_with('$') || sign == "?" => pieces.push(Piece::Placeholder(sign.clone())),
        Token::Number(..)
        | Token::Placeholder(_)
        | Token::DoubleQuotedString(_)
        | Token::TripleSingleQuotedString(_)
        | Token::TripleDoubleQuotedString(_)
        | Token::DollarQuotedString(_)
        | Token::SingleQuotedByteStringLiteral(_)
        | Token::DoubleQuotedByteStringLiteral(_)
        | Token::TripleSingleQuotedByteStringLiteral(_)
        | Token::TripleDoubleQuotedByteStringLiteral(_)
        | Token::SingleQuotedRawStringLiteral(_)
        | Token::DoubleQuotedRawStringLiteral(_)
        | Token::TripleSingleQuotedRawStringLiteral(_)
        | Token::TripleDoubleQuotedRawStringLiteral(_)
        | Token::NationalStringLiteral(_)
        | Token::QuoteDelimitedStringLiteral(_)
        | Token::NationalQuoteDelimitedStringLiteral(_)
        | Token::EscapedStringLiteral(_)
        | Token::UnicodeStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::SemiColon
        | Token::Backslash => return None,
        sign => pieces.extend(sign.to_string().chars().map(Piece::Sign)),
    }
    Some(())
}
