//! The metadata documents of the authorization server (RFC 8414) and of the protected resource (RFC 9728).

use serde_json::{Value, json};

use crate::keys::Algorithm;
use crate::strict::put;

/// Where the endpoints of the authorization server are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerMetadata {
    /// The issuer's URL, without a trailing slash.
    pub issuer: String,
    /// The token endpoint.
    pub token_endpoint: String,
    /// The JWK set.
    pub jwks_uri: String,
    /// The introspection endpoint: takes a [`super::TokenQuery`].
    pub introspection_endpoint: String,
    /// The revocation endpoint: takes a [`super::TokenQuery`].
    pub revocation_endpoint: String,
    /// The scopes that a client may ask for.
    pub scopes: Vec<String>,
    /// The authorization endpoint. We have none yet, but some clients refuse a document without one even for a grant that
    /// does not use it; such an endpoint then answers `unsupported_response_type`.
    pub authorization_endpoint: Option<String>,
    /// A page for developers.
    pub service_documentation: Option<String>,
}

impl ServerMetadata {
    /// The document, served at `/.well-known/oauth-authorization-server`.
    #[must_use]
    pub fn document(&self) -> Value {
        const METHODS: [&str; 1] = ["private_key_jwt"];
        let mut document = json!({
            "issuer": self.issuer,
            "token_endpoint": self.token_endpoint,
            "jwks_uri": self.jwks_uri,
            "introspection_endpoint": self.introspection_endpoint,
            "revocation_endpoint": self.revocation_endpoint,
            "scopes_supported": self.scopes,
            "grant_types_supported": ["client_credentials"],
            //= rfc8414#section-2
            // response_types_supported REQUIRED. JSON array containing a list of the OAuth 2.0 "response_type" values that this
            // authorization server supports.
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": METHODS,
            "token_endpoint_auth_signing_alg_values_supported": Algorithm::NAMES,
            "introspection_endpoint_auth_methods_supported": METHODS,
            "introspection_endpoint_auth_signing_alg_values_supported": Algorithm::NAMES,
            "revocation_endpoint_auth_methods_supported": METHODS,
            "revocation_endpoint_auth_signing_alg_values_supported": Algorithm::NAMES,
        });
        let optional = [("authorization_endpoint", &self.authorization_endpoint), ("service_documentation", &self.service_documentation)];
        for (name, value) in optional {
            if let Some(value) = value {
                put(&mut document, name, json!(value));
            }
        }
        document
    }
}

/// What a client needs to know of a protected resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceMetadata {
    /// The resource: no trailing slash, no fragment.
    pub resource: String,
    /// The issuer of its tokens.
    pub authorization_server: String,
    /// The scopes that a client should ask for: clients that know no better ask for all.
    pub scopes: Vec<String>,
    /// Its name, for people.
    pub name: Option<String>,
}

impl ResourceMetadata {
    /// The document, served at [`ResourceMetadata::path`].
    #[must_use]
    pub fn document(&self) -> Value {
        let mut document = json!({
            "resource": self.resource,
            "authorization_servers": [self.authorization_server],
            "scopes_supported": self.scopes,
            "bearer_methods_supported": ["header"],
        });
        if let Some(name) = &self.name {
            put(&mut document, "resource_name", json!(name));
        }
        document
    }

    /// The path at which the document is served.
    #[must_use]
    pub fn path(&self) -> String {
        //= rfc9728#section-3
        // The default well-known URI string used is "/.well-known/oauth-protected-resource" [...] inserting the well-known URI
        // string between the host component and the path and/or query components, if any.
        let path = self.resource.split_once("://").and_then(|(_, rest)| rest.find('/').and_then(|at| rest.get(at..))).unwrap_or("");
        format!("/.well-known/oauth-protected-resource{}", path.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_metadata_is_inserted_before_the_resources_path() {
        let at = |resource: &str| {
            ResourceMetadata { resource: resource.to_owned(), authorization_server: String::new(), scopes: vec![], name: None }.path()
        };
        assert_eq!(at("https://gw.example/mcp"), "/.well-known/oauth-protected-resource/mcp");
        assert_eq!(at("https://gw.example"), "/.well-known/oauth-protected-resource");
    }

    #[test]
    fn the_server_offers_what_it_takes_and_nothing_symmetric() {
        let url = |p: &str| format!("https://a.example{p}");
        let document = ServerMetadata {
            issuer: url(""),
            token_endpoint: url("/t"),
            jwks_uri: url("/j"),
            introspection_endpoint: url("/i"),
            revocation_endpoint: url("/r"),
            scopes: vec!["mcp:tools".to_owned()],
            authorization_endpoint: None,
            service_documentation: None,
        }
        .document();
        assert_eq!(document["token_endpoint_auth_methods_supported"], json!(["private_key_jwt"]));
        for alg in document["token_endpoint_auth_signing_alg_values_supported"].as_array().unwrap() {
            assert!(Algorithm::from_name(alg.as_str().unwrap()).is_some(), "{alg}");
        }
        assert!(document.get("authorization_endpoint").is_none());
    }
}
