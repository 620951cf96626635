//! What a provider says of itself (OpenID Connect Discovery 1.0) read strictly.

use serde_json::Value;
use url::{Host, Url};

use crate::sign_in::VALUES_MAX;
use crate::strict::Object;

/// Why metadata is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// It is no JSON object of its form.
    #[error("the document is malformed")]
    Form,
    /// It is of another issuer.
    #[error("the document is of the issuer `{0}`, which is another one")]
    Issuer(String),
    /// A member is missing or not of its form.
    #[error("`{0}` is missing or malformed")]
    Member(&'static str),
    /// The provider cannot do what we need.
    #[error("the provider does not support {0}")]
    Unsupported(&'static str),
}

/// A provider, as far as signing in needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Its identifier, exactly.
    pub issuer: String,
    /// Where browsers are sent.
    pub authorization: Url,
    /// Where codes are exchanged.
    pub token: Url,
    /// Where its keys are.
    pub keys: Url,
    /// Does it name itself in its answers (RFC 9207)?
    pub names_itself: bool,
    /// Where a browser ends its session at the provider, if it can.
    pub end_session: Option<Url>,
    /// Does it take a client's secret in the form only?
    pub secret_in_form: bool,
}

/// Where a provider's metadata is.
#[must_use]
pub fn well_known(issuer: &str) -> String {
    //= openid-connect-discovery-1_0#section-4.1
    // If the Issuer value contains a path component, any terminating / MUST be removed before appending
    // /.well-known/openid-configuration.
    format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
}

/// A place that may be asked: `https`, or `http` on this machine.
pub(crate) fn place(text: &str) -> Option<Url> {
    let url: Url = text.parse().ok()?;
    let here = match url.host()? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    };
    let secure = url.scheme() == "https" || url.scheme() == "http" && here;
    (secure && url.username().is_empty() && url.password().is_none() && url.fragment().is_none() && text.len() <= 2048).then_some(url)
}

impl Provider {
    /// Reads the metadata of the provider that is configured as `issuer`.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(issuer: &str, bytes: &[u8]) -> Result<Self, DiscoveryError> {
        let document = Object::parse_wide(bytes, VALUES_MAX).map_err(|_| DiscoveryError::Form)?;
        let text = |name: &'static str| document.text(name).map_err(|_| DiscoveryError::Member(name));
        //= openid-connect-discovery-1_0#section-4.3
        // The issuer value returned MUST be identical to the Issuer URL that was used as the prefix to
        // /.well-known/openid-configuration to retrieve the configuration information.
        let said = text("issuer")?;
        if said != issuer {
            return Err(DiscoveryError::Issuer(said.chars().take(200).flat_map(char::escape_debug).collect()));
        }
        let url = |name: &'static str| place(text(name)?).ok_or(DiscoveryError::Member(name));
        let lists = |name: &str| match document.member(name) {
            Some(Value::Array(all)) => Some(all.iter().filter_map(Value::as_str).collect::<Vec<_>>()),
            _ => None,
        };
        if !lists("response_types_supported").is_some_and(|all| all.contains(&"code")) {
            return Err(DiscoveryError::Unsupported("the response type `code`"));
        }
        // Some that support PKCE do not say so; one that says which methods it supports must have ours.
        if lists("code_challenge_methods_supported").is_some_and(|all| !all.contains(&"S256")) {
            return Err(DiscoveryError::Unsupported("PKCE with S256"));
        }
        let methods = lists("token_endpoint_auth_methods_supported").unwrap_or_default();
        Ok(Self {
            issuer: issuer.to_owned(),
            authorization: url("authorization_endpoint")?,
            token: url("token_endpoint")?,
            keys: url("jwks_uri")?,
            names_itself: document.member("authorization_response_iss_parameter_supported").and_then(Value::as_bool) == Some(true),
            end_session: document.text_if("end_session_endpoint").ok().flatten().and_then(place),
            secret_in_form: methods.contains(&"client_secret_post") && !methods.contains(&"client_secret_basic"),
        })
    }

    /// Does an answer's `iss` name this provider?
    #[must_use]
    pub fn is_issuer_of(&self, said: Option<&str>) -> bool {
        //= rfc9207#section-2.4
        // Clients MUST then compare the extracted value to the issuer identifier of the authorization server where the
        // authorization request was sent to [...] If the value does not match the expected issuer identifier, clients MUST reject
        // the authorization response [...] clients that support this specification MUST reject authorization responses without the
        // iss parameter from authorization servers that do support the parameter.
        match said {
            Some(said) => said == self.issuer,
            None => !self.names_itself,
        }
    }
}
