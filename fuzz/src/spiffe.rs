//! Any bytes as a SPIFFE bundle, as certificates that stand one after the other, as an X.509-SVID, and as the kept keys of an authority: they are read or
//! refused without panic, and only certificates of authorities are roots.

use bailiwick_core::TrustDomain;
use bailiwick_identity::PublicKey;
use bailiwick_identity::foreign::KeySet;
use bailiwick_identity::spiffe::{Authority, Bundle, certificates, domain_named, id_of_domain, read_x509};

/// See the file.
pub fn run(bytes: &[u8]) {
    let domain: TrustDomain = "t.example".parse().expect("a trust domain");
    if let Ok(bundle) = Bundle::parse(domain, bytes) {
        assert!((1..=64).contains(&bundle.x509.len()));
        // What may sign others identifies nobody.
        assert!(bundle.x509.iter().all(|root| read_x509(root).is_err()));
        assert_eq!(certificates(&bundle.x509.concat()), Some(bundle.x509));
    }
    if let Some(all) = certificates(bytes) {
        assert_eq!(all.concat(), bytes);
        assert!(all.iter().all(|root| read_x509(root).is_err()));
    }
    if let Ok(facts) = read_x509(bytes) {
        assert!(facts.id.as_str().starts_with("spiffe://"));
    }
    if let Ok(set) = KeySet::spiffe_bundle(bytes) {
        assert!(!set.is_empty() && set.len() <= 64);
        let again = KeySet::spiffe_bundle(set.to_bundle().to_string().as_bytes()).expect("what we write is a bundle");
        assert_eq!(again.len(), set.len());
    }
    let _ = Authority::from_bytes(bytes).is_ok();
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = PublicKey::parse(text).is_ok();
        if let Some(domain) = domain_named(text) {
            assert_eq!(domain_named(&id_of_domain(&domain)), Some(domain));
        }
    }
}
