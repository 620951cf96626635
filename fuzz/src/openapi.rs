//! Any bytes as an OpenAPI document and as arguments of its operations, apart by a zero byte: parsing and building end in bounded work, and a request
//! that is built stays below its base: as many segments as its template, none of them `.` or `..`, and headers of one line.

use bailiwick_wire::mcp::tool::is_tool_name;
use bailiwick_wire::openapi::{Choice, Document, SCHEMA_BYTES_MAX};
use bailiwick_wire::{Limits, Raw};

/// See the file.
pub fn run(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (Some(document), Some(arguments)) = (parts.next(), parts.next()) else { return };
    let choice = Choice { wanted: &|_| true, headers: &["x-api-key"], query: &["key"] };
    let Ok(document) = Document::parse(document, &choice) else { return };
    for operation in document.operations() {
        assert!(is_tool_name(operation.name()) && operation.name().len() <= 64);
        assert!(operation.input_schema().text().len() <= SCHEMA_BYTES_MAX);
        let Ok(arguments) = Raw::parse(arguments, &Limits::REQUEST) else { continue };
        let Ok(request) = operation.request(arguments) else { continue };
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        assert!(request.target.bytes().all(|byte| byte.is_ascii_graphic()) && !request.target.contains('#') && !query.contains('?'));
        let segments: Vec<&str> = path.split('/').collect();
        assert_eq!(segments.len(), operation.path().split('/').count());
        for segment in segments {
            let lower = segment.to_ascii_lowercase().replace("%2e", ".");
            assert!(lower != "." && lower != ".." && !lower.contains("%2f") && !lower.contains("%5c"));
        }
        for (name, value) in &request.headers {
            assert!(!name.eq_ignore_ascii_case("x-api-key") && !name.eq_ignore_ascii_case("authorization"));
            assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
        assert!(!query.split('&').any(|pair| pair == "key" || pair.starts_with("key=")));
    }
}
