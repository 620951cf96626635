//! Any schema and any value, apart by a zero byte: compiling and checking end in bounded work, and a verdict does not
//! depend on spelling. The same text is tried as a tool definition.

use bailiwick_wire::mcp::ToolDefinition;
use bailiwick_wire::schema::Schema;
use bailiwick_wire::{Limits, Raw, canonical};

/// See the file.
pub fn run(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (Some(schema), Some(value)) = (parts.next(), parts.next()) else { return };
    let Ok(schema) = Raw::parse(schema, &Limits::REPLY) else { return };
    if let Ok(tool) = ToolDefinition::parse(schema) {
        let _ = tool.hazards(["send_email", "search"]);
        let mut out = Vec::new();
        tool.write_listed("x", &mut out);
        let listed = Raw::parse(&out, &Limits::REPLY).expect("a listed definition is strict JSON");
        assert!(listed.member("icons").is_none());
    }
    let (Ok(schema), Ok(value)) = (Schema::compile(schema), Raw::parse(value, &Limits::REPLY)) else { return };
    let mut form = Vec::new();
    let _ = canonical(value, &mut form);
    let form = Raw::parse(&form, &Limits::REPLY).expect("a canonical form is strict JSON");
    // The budget counts bytes, so only finished checks compare.
    let (one, two) = (schema.check(value), schema.check(form));
    let finished = |verdict: &Result<(), bailiwick_wire::schema::Violation>| {
        verdict.as_ref().err().is_none_or(|violation| !violation.expectation.contains("work"))
    };
    if finished(&one) && finished(&two) {
        assert_eq!(one.is_ok(), two.is_ok());
    }
}
