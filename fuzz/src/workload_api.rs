//! Any bytes as each message of the SPIFFE Workload API: the readers end without panic, hold no more than they were given, and what is written again is
//! read as the same.

use bailiwick_identity::spiffe::workload_api::{JwtRequest, ValidateRequest, bundles_in, jwt_bundles, validated, x509_bundles};
use serde_json::Value;

/// See the file.
pub fn run(bytes: &[u8]) {
    if let Ok(asked) = JwtRequest::parse(bytes) {
        let held: usize = asked.audience.iter().map(String::len).sum();
        assert!(held <= bytes.len() && asked.audience.len() <= bytes.len() && asked.id.is_none_or(|id| !id.is_empty()));
    }
    if let Ok(asked) = ValidateRequest::parse(bytes) {
        assert!(asked.audience.len() + asked.svid.len() <= bytes.len());
    }
    for field in [1, 2] {
        let Ok(all) = bundles_in(bytes, field) else { continue };
        assert!(all.len() <= 256);
        assert_eq!(bundles_in(&x509_bundles(&all), 2), Ok(all.clone()));
        assert_eq!(bundles_in(&jwt_bundles(&all), 1), Ok(all));
    }
    if let Ok(Value::Object(claims)) = serde_json::from_slice(bytes) {
        assert!(!validated("spiffe://t.example/a", &claims).is_empty());
    }
}
