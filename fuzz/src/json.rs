//! Any bytes: the scanner ends without panic, and the canonical form and what a person is shown are the same value.

use bailiwick_wire::render::{Hidden, render};
use bailiwick_wire::{Limits, Raw, canonical};

/// See the file.
pub fn run(bytes: &[u8]) {
    let Ok(raw) = Raw::parse(bytes, &Limits::REPLY) else { return };
    let mut once = Vec::new();
    let seen = canonical(raw, &mut once);
    let form = Raw::parse(&once, &Limits::REPLY).expect("a canonical form is strict JSON");
    let mut twice = Vec::new();
    assert_eq!(canonical(form, &mut twice), seen);
    assert_eq!(once, twice);

    let shown = render(raw);
    let mut from_shown = Vec::new();
    let _ = canonical(Raw::parse(shown.text.as_bytes(), &Limits::REPLY).expect("what is shown is JSON"), &mut from_shown);
    assert_eq!(once, from_shown);
    assert!(shown.text.chars().all(|char| Hidden::of(char).is_none()));
}
