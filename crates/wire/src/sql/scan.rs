//! A strict scanner of SQL: it refuses what two lexers could read in two ways, and gives the text without its comments.
//!
//! It does not try to read all of SQL. Whatever a server's setting can change (backslashes, `"` in `MariaDB`), whatever one lexer takes for a comment
//! and another for an operator, and whatever a person who approves cannot see, is refused with the way out: a parameter, or another spelling.

use super::{Dialect, Limits, SqlRefusal};

/// A part of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// A keyword or a name without quotes, as written.
    Word(String),
    /// A name in quotes, without them.
    Quoted(String),
    /// A text in single quotes, without them.
    Text(String),
    /// A number, as written.
    Number(String),
    /// `$1` or `?`.
    Placeholder(String),
    /// One character of an operator or of punctuation.
    Sign(char),
}

impl Piece {
    /// Is it this keyword? `keyword` is in small letters.
    pub(super) fn is_word(&self, keyword: &str) -> bool {
        matches!(self, Self::Word(word) if word.eq_ignore_ascii_case(keyword))
    }
}

/// A text that has one reading.
#[derive(Debug)]
pub(super) struct Scan {
    /// The text without comments and without the `;` at its end: what is parsed and what is sent.
    pub(super) text: String,
    pub(super) pieces: Vec<Piece>,
    /// How many parameters it has: the highest `$n`, or the number of `?`.
    pub(super) parameters: u16,
}

pub(super) fn scan(dialect: Dialect, text: &str, limits: &Limits) -> Result<Scan, SqlRefusal> {
    if text.len() > limits.bytes {
        return Err(SqlRefusal::new(format!("the statement is longer than {} bytes: bind what is long as a parameter", limits.bytes)));
    }
    let scan = Scan { text: String::with_capacity(text.len()), pieces: Vec::new(), parameters: 0 };
    let mut scanner = Scanner { dialect, limits, chars: text.chars().collect(), at: 0, depth: 0, ended: false, scan };
    while let Some(c) = scanner.peek(0) {
        scanner.step(c)?;
    }
    let mut scan = scanner.scan;
    scan.text.truncate(scan.text.trim_end().len());
    Ok(scan)
}

struct Scanner<'a> {
    dialect: Dialect,
    limits: &'a Limits,
    chars: Vec<char>,
    at: usize,
    depth: usize,
    ended: bool,
    scan: Scan,
}

fn starts_word(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Characters that nobody sees, or that turn the order of those that one sees.
fn is_invisible(c: char) -> bool {
    matches!(u32::from(c), 0xad | 0x34f | 0x61c | 0x115f | 0x1160 | 0x17b4 | 0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f | 0x2028..=0x202e
        | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb | 0x1_d173..=0x1_d17a | 0xe_0000..=0xe_0fff)
}

impl Scanner<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at.saturating_add(ahead)).copied()
    }

    fn before(&self) -> Option<char> {
        self.at.checked_sub(1).and_then(|at| self.chars.get(at)).copied()
    }

    /// The next character, kept.
    fn keep(&mut self) {
        if let Some(c) = self.peek(0) {
            self.scan.text.push(c);
            self.at += 1;
        }
    }

    fn push(&mut self, piece: Piece) -> Result<(), SqlRefusal> {
        if self.ended {
            return refused("expected one statement: nothing may follow its `;`");
        }
        if self.scan.pieces.len() >= self.limits.pieces {
            return Err(SqlRefusal::new(format!("the statement has more than {} words and signs", self.limits.pieces)));
        }
        self.scan.pieces.push(piece);
        Ok(())
    }

    fn step(&mut self, c: char) -> Result<(), SqlRefusal> {
        match c {
            ' ' | '\t' | '\n' => self.keep(),
            '\r' if self.peek(1) == Some('\n') => self.keep(),
            '-' if self.peek(1) == Some('-') => self.line_comment()?,
            '/' if self.peek(1) == Some('*') => self.block_comment()?,
            '\'' => {
                let text = self.quoted('\'')?;
                self.push(Piece::Text(text))?;
            }
            '"' if self.dialect == Dialect::Mariadb => {
                return refused("`\"` is a text or a name, as the server is set: use ' for a text and ` for a name");
            }
            '`' if self.dialect == Dialect::Postgresql => return refused("a name is quoted by \" here"),
            '"' | '`' => {
                let name = self.quoted(c)?;
                self.push(Piece::Quoted(name))?;
            }
            c if starts_word(c) => self.word()?,
            c if c.is_ascii_digit() || (c == '.' && self.peek(1).is_some_and(|next| next.is_ascii_digit())) => self.number(c)?,
            '$' if self.dialect == Dialect::Postgresql => self.numbered_parameter()?,
            '?' if self.dialect == Dialect::Mariadb => self.parameter()?,
            ';' => {
                if self.ended || self.scan.pieces.is_empty() {
                    return refused("expected one statement before the `;`");
                }
                self.ended = true;
                self.at += 1;
            }
            c => self.sign(c)?,
        }
        Ok(())
    }

    fn sign(&mut self, c: char) -> Result<(), SqlRefusal> {
        let known = match c {
            '(' => {
                self.depth += 1;
                self.depth <= self.limits.depth
            }
            ')' => {
                self.depth = self.depth.saturating_sub(1);
                true
            }
            ',' | '.' | '+' | '-' | '*' | '/' | '%' | '<' | '>' | '=' | '!' | '|' | '&' | '^' | '~' => true,
            ':' | '[' | ']' | '@' | '#' | '?' => self.dialect == Dialect::Postgresql,
            _ => false,
        };
        if !known {
            return Err(SqlRefusal::new(match c {
                '(' => format!("parentheses are nested deeper than {}", self.limits.depth),
                '#' => "`#` begins a comment here: write `-- `".to_owned(),
                '@' => "variables are not used here: bind a parameter".to_owned(),
                ':' => "expected `?` for a parameter".to_owned(),
                '\\' => "a backslash has no one meaning in SQL: bind the text as a parameter".to_owned(),
                '{' | '}' => "braces are not used here: write the function or the literal without them".to_owned(),
                '$' => "`$` is not used here: quote the name, or bind a parameter with `?`".to_owned(),
                c if c.is_ascii_graphic() => format!("`{c}` is not used here"),
                c => format!(
                    "the character U+{:04X} is allowed between quotes only, if anywhere: quote the name or bind the text as a parameter",
                    u32::from(c)
                ),
            }));
        }
        self.keep();
        self.push(Piece::Sign(c))
    }

    fn word(&mut self) -> Result<(), SqlRefusal> {
        let mut word = String::new();
        while let Some(c) = self.peek(0).filter(|c| in_word(*c)) {
            word.push(c);
            self.keep();
        }
        if let Some('\'' | '"' | '`' | '$') = self.peek(0) {
            return Err(SqlRefusal::new(format!("`{word}` stands right before a quote or `$`: put a space between them, or bind a parameter")));
        }
        if !self.peek(0).is_none_or(|c| c.is_ascii()) {
            return refused("a name with letters beyond ASCII must be quoted");
        }
        self.push(Piece::Word(word))
    }

    fn number(&mut self, first: char) -> Result<(), SqlRefusal> {
        if first == '.' && self.before().is_some_and(|c| in_word(c) || matches!(c, ')' | ']' | '"' | '`' | '\'' | '.' | '?')) {
            return refused("a digit follows a `.`: quote the name");
        }
        let mut number = String::new();
        self.digits(&mut number);
        if self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()) {
            number.push('.');
            self.keep();
            self.digits(&mut number);
        }
        if matches!(self.peek(0), Some('e' | 'E')) {
            let signed = matches!(self.peek(1), Some('+' | '-'));
            if self.peek(if signed { 2 } else { 1 }).is_some_and(|c| c.is_ascii_digit()) {
                for _ in 0..if signed { 2 } else { 1 } {
                    number.extend(self.peek(0));
                    self.keep();
                }
                self.digits(&mut number);
            }
        }
        if self.peek(0).is_some_and(|c| in_word(c) || matches!(c, '.' | '\'' | '"' | '`' | '$') || !c.is_ascii()) {
            return Err(SqlRefusal::new(format!("`{number}` is followed by what no number has: put a space between them, or quote the name")));
        }
        self.push(Piece::Number(number))
    }

    fn digits(&mut self, number: &mut String) {
        if self.peek(0) == Some('.') && number.is_empty() {
            number.push('.');
            self.keep();
        }
        while let Some(c) = self.peek(0).filter(char::is_ascii_digit) {
            number.push(c);
            self.keep();
        }
    }

    /// `$1`. Dollar quotes are refused: bind the text.
    fn numbered_parameter(&mut self) -> Result<(), SqlRefusal> {
        let mut number = String::new();
        self.keep();
        while let Some(c) = self.peek(0).filter(char::is_ascii_digit) {
            number.push(c);
            self.keep();
        }
        let parameter = number.parse::<u16>().ok().filter(|n| (1..=self.limits.parameters).contains(n) && !number.starts_with('0'));
        let Some(parameter) = parameter.filter(|_| !self.peek(0).is_some_and(|c| in_word(c) || matches!(c, '$' | '\'' | '"') || !c.is_ascii()))
        else {
            return Err(SqlRefusal::new(format!(
                "`$` begins a parameter only, `$1` to `${}`: bind a text instead of quoting it by `$`",
                self.limits.parameters
            )));
        };
        self.scan.parameters = self.scan.parameters.max(parameter);
        self.push(Piece::Placeholder(format!("${number}")))
    }

    fn parameter(&mut self) -> Result<(), SqlRefusal> {
        self.keep();
        if self.peek(0).is_some_and(|c| in_word(c) || matches!(c, '\'' | '`' | '?' | '.') || !c.is_ascii()) {
            return refused("a `?` stands alone");
        }
        self.scan.parameters = self.scan.parameters.saturating_add(1);
        if self.scan.parameters > self.limits.parameters {
            return Err(SqlRefusal::new(format!("the statement has more than {} parameters", self.limits.parameters)));
        }
        self.push(Piece::Placeholder("?".to_owned()))
    }

    /// What stands between quotes; a doubled quote is one.
    fn quoted(&mut self, quote: char) -> Result<String, SqlRefusal> {
        if self.before() == Some('&') {
            return refused("`&` stands right before a quote: put a space between them");
        }
        let mut inner = String::new();
        self.keep();
        loop {
            match self.peek(0) {
                None => return Err(SqlRefusal::new(format!("a quote {quote} is not closed"))),
                Some(c) if c == quote && self.peek(1) == Some(quote) => {
                    inner.push(c);
                    self.keep();
                    self.keep();
                }
                Some(c) if c == quote => break,
                Some('\\') => return refused("a backslash between quotes has no one meaning: bind the text as a parameter"),
                Some(c) => {
                    self.visible(c)?;
                    inner.push(c);
                    self.keep();
                }
            }
        }
        self.keep();
        if self.peek(0).is_some_and(|c| in_word(c) || matches!(c, '\'' | '"' | '`' | '$') || !c.is_ascii()) {
            return refused("a word or a quote follows a closing quote: put a space between them");
        }
        if inner.is_empty() && quote != '\'' {
            return refused("a quoted name is empty");
        }
        Ok(inner)
    }

    fn visible(&self, c: char) -> Result<(), SqlRefusal> {
        let plain = matches!(c, '\t' | '\n') || (c == '\r' && self.peek(1) == Some('\n'));
        if plain || !(c.is_control() || is_invisible(c)) {
            return Ok(());
        }
        Err(SqlRefusal::new(format!("the character U+{:04X} cannot be seen: bind the text as a parameter", u32::from(c))))
    }

    /// `-- ` to the end of the line; without the space, one server sees a comment and another two signs.
    fn line_comment(&mut self) -> Result<(), SqlRefusal> {
        let ends_here = self.peek(2) == Some('\r') && self.peek(3) == Some('\n');
        if !(ends_here || matches!(self.peek(2), None | Some(' ' | '\t' | '\n'))) {
            return refused("`--` needs a space after it, to be a comment everywhere");
        }
        self.scan.text.push(' ');
        while let Some(c) = self.peek(0).filter(|c| *c != '\n') {
            self.visible(c)?;
            self.at += 1;
        }
        Ok(())
    }

    /// `/* .. */`, not nested, and none that a server takes for more than a comment.
    fn block_comment(&mut self) -> Result<(), SqlRefusal> {
        if matches!(self.peek(2), Some('!' | '+' | 'M' | 'm')) {
            return refused("a comment that some servers run or obey (`/*!`, `/*M!`, `/*+`) is not sent");
        }
        self.scan.text.push(' ');
        self.at += 2;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some('*'), Some('/')) => break,
                (Some('/'), Some('*')) => return refused("a comment within a comment ends in two places: write one"),
                (Some(c), _) => {
                    self.visible(c)?;
                    self.at += 1;
                }
                (None, _) => return refused("a comment is not closed"),
            }
        }
        self.at += 2;
        Ok(())
    }
}

fn refused<T>(words: &str) -> Result<T, SqlRefusal> {
    Err(SqlRefusal::new(words.to_owned()))
}
