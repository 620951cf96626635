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
    /// What clients of people use, if there are any.
    pub interactive: Option<InteractiveMetadata>,
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
            "grant_types_supported": ["client_credentials", super::EXCHANGE_GRANT],
            "authorization_details_types_supported": [super::TOOL_DETAIL, super::TASK_DETAIL],
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
        if let Some(page) = &self.service_documentation {
            put(&mut document, "service_documentation", json!(page));
        }
        if let Some(interactive) = &self.interactive {
            interactive.extend(&mut document);
        }
        document
    }
}

/// What clients of people use: the authorization code grant and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InteractiveMetadata {
    /// The authorization endpoint.
    pub authorization_endpoint: String,
    /// Where clients register themselves, if they may.
    pub registration_endpoint: Option<String>,
    /// Is a client ID that is a URL looked up there?
    pub documents: bool,
}

impl InteractiveMetadata {
    fn extend(&self, document: &mut Value) {
        put(document, "authorization_endpoint", json!(self.authorization_endpoint));
        put(document, "response_types_supported", json!(["code"]));
        put(document, "response_modes_supported", json!(["query"]));
        //= rfc7636#section-4.2
        // If the client is capable of using "S256", it MUST use "S256", as "S256" is Mandatory To Implement (MTI) on the server.
        put(document, "code_challenge_methods_supported", json!(["S256"]));
        //= rfc9207#section-3
        // authorization_response_iss_parameter_supported: Boolean parameter indicating whether the authorization server provides
        // the iss parameter in the authorization response
        put(document, "authorization_response_iss_parameter_supported", json!(true));
        put(document, "client_id_metadata_document_supported", json!(self.documents));
        if let Some(endpoint) = &self.registration_endpoint {
            put(document, "registration_endpoint", json!(endpoint));
        }
        let more = [
            ("grant_types_supported", &["authorization_code", "refresh_token"][..]),
            ("token_endpoint_auth_methods_supported", &["none"]),
            ("revocation_endpoint_auth_methods_supported", &["none"]),
            ("scopes_supported", &[crate::token::TOOLS_SCOPE]),
        ];
        for (name, words) in more {
            if let Some(list) = document.get_mut(name).and_then(Value::as_array_mut) {
                let new: Vec<Value> = words.iter().map(|w| json!(w)).filter(|w| !list.contains(w)).collect();
                list.extend(new);
            }
        }
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
            interactive: None,
            service_documentation: None,
        }
        .document();
        assert_eq!(document["token_endpoint_auth_methods_supported"], json!(["private_key_jwt"]));
        for alg in document["token_endpoint_auth_signing_alg_values_supported"].as_array().unwrap() {
            assert!(Algorithm::from_name(alg.as_str().unwrap()).is_some(), "{alg}");
        }
        assert!(document.get("authorization_endpoint").is_none());
        assert_eq!(document["response_types_supported"], json!([]));
    }
    #[test]
    fn clients_of_people_find_what_they_need_and_others_do_not_lose_what_they_had() {
        let url = |p: &str| format!("https://a.example{p}");
        let interactive = |registration: bool| ServerMetadata {
            issuer: url(""),
            token_endpoint: url("/t"),
            jwks_uri: url("/j"),
            introspection_endpoint: url("/i"),
            revocation_endpoint: url("/r"),
            scopes: vec!["agent".to_owned()],
            interactive: Some(InteractiveMetadata {
                authorization_endpoint: url("/a"),
                registration_endpoint: registration.then(|| url("/n")),
                documents: true,
            }),
            service_documentation: None,
        };
        let document = interactive(true).document();
        for (name, value) in [
            ("authorization_endpoint", json!(url("/a"))),
            ("registration_endpoint", json!(url("/n"))),
            ("code_challenge_methods_supported", json!(["S256"])),
            ("authorization_response_iss_parameter_supported", json!(true)),
            ("client_id_metadata_document_supported", json!(true)),
            ("response_types_supported", json!(["code"])),
            ("grant_types_supported", json!(["client_credentials", crate::oauth::EXCHANGE_GRANT, "authorization_code", "refresh_token"])),
            ("token_endpoint_auth_methods_supported", json!(["private_key_jwt", "none"])),
            ("scopes_supported", json!(["agent", "mcp:tools"])),
        ] {
            assert_eq!(document[name], value, "{name}");
        }
        assert!(interactive(false).document().get("registration_endpoint").is_none());
    }
}
