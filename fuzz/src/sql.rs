//! Any text as SQL of both dialects: the classifier ends without a panic, and what it would send is told as the same thing again.

use bailiwick_wire::sql::{Dialect, Limits, classify};

/// See the file.
pub fn run(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let limits = Limits::default();
    for dialect in [Dialect::Postgresql, Dialect::Mariadb] {
        if let Ok(statement) = classify(dialect, text, &limits) {
            let again = classify(dialect, &statement.text, &limits).expect("what is sent is understood");
            assert_eq!((again.effect, &again.text), (statement.effect, &statement.text));
        }
    }
}
