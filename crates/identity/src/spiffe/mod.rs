//! SPIFFE: SVIDs of a trust domain's own authority, made and read, and the bundles by which they are checked.
//!
//! Standards: SPIFFE-ID, X509-SVID, JWT-SVID, SPIFFE Trust Domain and Bundle (`spiffe/spiffe`, `standards/`). Nothing here is
//! remembered or fetched: the keys of an [`Authority`] are kept, sealed, by its caller, and a [`Bundle`] comes from where the
//! caller says that it does, never from where an SVID says.

mod authority;
mod bundle;
pub mod workload_api;
mod x509;

pub use authority::{ANNOUNCED, Authority, AuthorityError, JwtSvid, X509Svid};
pub use bundle::{BUNDLE_MAX, Bundle, BundleError, certificates};
pub use x509::{X509Facts, X509Fault, read as read_x509};

use bailiwick_core::{SpiffeId, TrustDomain};

/// The trust domain of an ID.
#[must_use]
pub fn domain_of(id: &SpiffeId) -> Option<TrustDomain> {
    let (domain, _) = id.as_str().strip_prefix("spiffe://")?.split_once('/')?;
    domain.parse().ok()
}

/// The SPIFFE ID of a trust domain itself: it has no path.
#[must_use]
pub fn id_of_domain(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}")
}

/// The trust domain that a name of the Workload API's bundles means: `spiffe://<trust domain>`, or the bare name.
#[must_use]
pub fn domain_named(name: &str) -> Option<TrustDomain> {
    name.strip_prefix("spiffe://").unwrap_or(name).parse().ok()
}
