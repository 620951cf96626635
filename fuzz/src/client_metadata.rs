//! Any bytes as a client's metadata document, as a registration, as a client's ID and as a redirect URI: what is taken is bounded, and an answer goes only
//! where the client said, without a fragment and never to a script.

use bailiwick_identity::oauth::{ClientIdUrl, ClientMetadata};

use super::Parts;

const SCHEMES: [&str; 1] = ["cursor"];

/// See the file.
pub fn run(bytes: &[u8]) {
    let schemes = SCHEMES.map(str::to_owned);
    let mut parts = Parts::of(bytes);
    let (id, asked, document) = (parts.line(), parts.line(), parts.rest());
    if let Ok(id) = id.parse::<ClientIdUrl>() {
        assert!(id.as_str().starts_with("https://") && id.path().starts_with('/') && !id.host().is_empty());
        assert!(!id.as_str().contains(['#', '?']) && !id.as_str().contains("/../"));
        if let Ok(metadata) = ClientMetadata::of_document(&id, document, &schemes) {
            checked(&metadata, asked);
        }
    }
    if let Ok(metadata) = ClientMetadata::of_registration(document, &schemes) {
        checked(&metadata, asked);
    }
}

fn checked(metadata: &ClientMetadata, asked: &str) {
    assert!((1..=16).contains(&metadata.redirect_uris.len()) && metadata.name.chars().count() <= 100);
    for uri in &metadata.redirect_uris {
        let text = uri.to_string();
        let scheme = text.split(':').next().unwrap_or_default();
        // One that the configuration names, or a domain's in reverse (RFC 8252 section 7.1): no scheme of a browser has a dot.
        assert!(["https", "http", SCHEMES[0]].contains(&scheme) || scheme.contains('.'), "{text}");
        assert!(!text.contains('#'), "{text}");
    }
    if let Some(uri) = metadata.redirect(Some(asked)) {
        // One that was registered, or the same at another port of this machine.
        let known = metadata.redirect_uris.iter().any(|one| one.to_string() == uri.to_string());
        assert!(known || uri.is_loopback(), "{uri}");
    }
}
