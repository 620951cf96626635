//! Any text as SQL of both dialects: the classifier ends without a panic, and what it would send is told as the same thing again.
#![no_main]

use bailiwick_wire::sql::{Dialect, Limits, classify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let limits = Limits::default();
    for dialect in [Dialect::Postgresql, Dialect::Mariadb] {
        if let Ok(statement) = classify(dialect, text, &limits) {
            let again = classify(dialect, &statement.text, &limits).expect("what is sent is understood");
            assert_eq!((again.effect, &again.text), (statement.effect, &statement.text));
        }
    }
});
