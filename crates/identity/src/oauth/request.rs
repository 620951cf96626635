//! Requests to the token, introspection and revocation endpoints, parsed: a value of these types is well-formed and for us.

use bailiwick_core::{InstanceId, TaskId};
use url::Url;

use super::answer::OauthError;
use super::authorize::{CodeGrant, RefreshGrant};
use super::exchange::{EXCHANGE_GRANT, Exchange};
use super::form::Form;
use super::scope::Scope;
use crate::assertion::ASSERTION_TYPE;
use crate::foreign::jwt_svid;

const RESOURCES_MAX: usize = 8;

/// How a client says who it is.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientProof {
    /// `private_key_jwt` (RFC 7523 section 2.2).
    Assertion {
        /// The assertion, for [`crate::assertion::verify`].
        assertion: String,
        /// The `client_id` parameter, if it was given.
        client_id: Option<String>,
    },
    /// A JWT-SVID (draft-ietf-oauth-spiffe-client-auth section 3.1).
    Svid {
        /// The SVID, for [`crate::foreign::jwt_svid::verify`].
        assertion: String,
        /// The `client_id` parameter, if it was given.
        client_id: Option<String>,
    },
    /// Nothing in the form: a public client, or one that proves itself by what its connection shows (RFC 8705 section 2.1).
    Nothing {
        /// The `client_id` parameter, if it was given.
        client_id: Option<String>,
    },
}

impl ClientProof {
    fn parse(form: &Form) -> Result<Self, OauthError> {
        //= rfc6749#section-2.3
        // The client MUST NOT use more than one authentication method in each request.
        if form.value("client_secret").is_some() {
            return Err(OauthError::invalid_client("client secrets are not supported: use private_key_jwt"));
        }
        match (form.value("client_assertion_type"), form.value("client_assertion")) {
            (Some(ASSERTION_TYPE), Some(assertion)) => {
                Ok(Self::Assertion { assertion: assertion.to_owned(), client_id: form.value("client_id").map(str::to_owned) })
            }
            (Some(jwt_svid::ASSERTION_TYPE), Some(assertion)) => {
                Ok(Self::Svid { assertion: assertion.to_owned(), client_id: form.value("client_id").map(str::to_owned) })
            }
            (Some(ASSERTION_TYPE | jwt_svid::ASSERTION_TYPE), None) => Err(OauthError::invalid_client("client_assertion is missing")),
            (Some(_), _) => Err(OauthError::invalid_client("this client_assertion_type is not supported")),
            (None, Some(_)) => Err(OauthError::invalid_client("client_assertion_type is missing")),
            (None, None) => Ok(Self::Nothing { client_id: form.value("client_id").map(str::to_owned) }),
        }
    }
}

impl std::fmt::Debug for ClientProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Assertion { client_id, .. } => f.debug_struct("Assertion").field("client_id", client_id).finish_non_exhaustive(),
            Self::Svid { client_id, .. } => f.debug_struct("Svid").field("client_id", client_id).finish_non_exhaustive(),
            Self::Nothing { client_id } => f.debug_struct("Nothing").field("client_id", client_id).finish(),
        }
    }
}

/// What is asked for, with what only this grant has. Each further grant is a variant, and a file of its own in the house.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrantType {
    /// `client_credentials` (RFC 6749 section 4.4).
    ClientCredentials,
    /// `urn:ietf:params:oauth:grant-type:jwt-bearer` (RFC 7523 section 2.1).
    JwtBearer(Assertion),
    /// Token exchange (RFC 8693), of an agent that asks for a part of another's task.
    TokenExchange(Box<Exchange>),
    /// `authorization_code` (RFC 6749 section 4.1), of an interactive client for its person.
    AuthorizationCode(CodeGrant),
    /// `refresh_token` (RFC 6749 section 6), of an interactive client for its person.
    RefreshToken(RefreshGrant),
}

/// The `grant_type` of RFC 7523 section 2.1.
pub const JWT_BEARER_GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// The assertion of an RFC 7523 grant. Never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Assertion(String);

impl Assertion {
    fn read(form: &Form) -> Result<Self, OauthError> {
        //= rfc7523#section-2.1
        // The value of the "assertion" parameter MUST contain a single JWT.
        form.value("assertion").map(|jwt| Self(jwt.to_owned())).ok_or(OauthError::invalid_request("assertion is missing"))
    }

    /// The JWT.
    #[must_use]
    pub fn jwt(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Assertion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Assertion(..)")
    }
}

/// A request to the token endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRequest {
    /// What is asked for.
    pub grant: GrantType,
    /// Who asks.
    pub client: ClientProof,
    /// The scope asked for.
    pub scope: Option<Scope>,
    /// The resources asked for, each one of ours and in our spelling, without repeats (RFC 8707).
    pub resources: Vec<String>,
    /// The open task whose token is to be renewed (our own parameter).
    pub task: Option<TaskId>,
    /// The running copy, where the client's proof does not tell it (our own parameter).
    pub instance: Option<InstanceId>,
}

impl TokenRequest {
    /// Reads the body of a request. `ours` are the resources that tokens may be for.
    ///
    /// # Errors
    /// An error of RFC 6749 section 5.2, or `invalid_target` of RFC 8707 section 2.
    pub fn parse(body: &[u8], ours: &[String]) -> Result<Self, OauthError> {
        let form = Form::parse(body)?;
        let grant = match form.value("grant_type") {
            Some("client_credentials") => GrantType::ClientCredentials,
            Some(JWT_BEARER_GRANT) => GrantType::JwtBearer(Assertion::read(&form)?),
            Some("authorization_code") => GrantType::AuthorizationCode(CodeGrant::read(&form)?),
            Some("refresh_token") => GrantType::RefreshToken(RefreshGrant::read(&form)?),
            Some(EXCHANGE_GRANT) => GrantType::TokenExchange(Box::new(Exchange::read(&form, ours)?)),
            Some(_) => return Err(OauthError::unsupported_grant_type()),
            None => return Err(OauthError::invalid_request("grant_type is missing")),
        };
        let scope = form.value("scope").map(str::parse).transpose().map_err(|_| OauthError::invalid_scope())?;
        let task = form.value("task_id").map(str::parse).transpose();
        let instance = form.value("bailiwick_instance").map(str::parse).transpose();
        Ok(Self {
            grant,
            client: ClientProof::parse(&form)?,
            scope,
            resources: resources(&form, ours)?,
            task: task.map_err(|_| OauthError::invalid_request("task_id is no task id"))?,
            instance: instance.map_err(|_| OauthError::invalid_request("bailiwick_instance is no instance id"))?,
        })
    }
}

pub(super) fn resources(form: &Form, ours: &[String]) -> Result<Vec<String>, OauthError> {
    let mut found: Vec<String> = Vec::new();
    for asked in form.values("resource") {
        let our = ours.iter().find(|our| same_resource(our, asked)).ok_or(OauthError::invalid_target())?;
        if !found.contains(our) {
            found.push(our.clone());
        }
        if found.len() > RESOURCES_MAX {
            return Err(OauthError::invalid_target());
        }
    }
    Ok(found)
}

/// Do both name one resource? Scheme and host are compared without case, and a trailing slash is no difference.
pub(super) fn same_resource(our: &str, asked: &str) -> bool {
    if our == asked {
        return true;
    }
    let (Ok(our), Ok(asked)) = (Url::parse(our), Url::parse(asked)) else { return false };
    //= rfc8707#section-2
    // Its value MUST be an absolute URI [...] The URI MUST NOT include a fragment component.
    let plain = |url: &Url| url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    let place = |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
    plain(&asked)
        && place(&our) == place(&asked)
        && our.query() == asked.query()
        && our.path().trim_end_matches('/') == asked.path().strip_suffix('/').unwrap_or(asked.path())
}

/// A request to the introspection (RFC 7662 section 2.1) or revocation endpoint (RFC 7009 section 2.1).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenQuery {
    /// Who asks.
    pub client: ClientProof,
    /// The token asked about. It need not be one of ours.
    pub token: String,
}

impl TokenQuery {
    /// Reads the body of a request. `token_type_hint` is a hint, and ignored: our tokens say what they are.
    ///
    /// # Errors
    /// An error of RFC 6749 section 5.2.
    pub fn parse(body: &[u8]) -> Result<Self, OauthError> {
        let form = Form::parse(body)?;
        let token = form.value("token").ok_or(OauthError::invalid_request("token is missing"))?.to_owned();
        Ok(Self { client: ClientProof::parse(&form)?, token })
    }
}

impl std::fmt::Debug for TokenQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenQuery").field("client", &self.client).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLIENT: &str = "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=a.b.c";

    fn ours() -> Vec<String> {
        vec!["https://gw.example/mcp".to_owned(), "https://gw.example".to_owned()]
    }

    fn parse(more: &str) -> Result<TokenRequest, OauthError> {
        TokenRequest::parse(format!("{CLIENT}&{more}").as_bytes(), &ours())
    }

    fn error(more: &str) -> &'static str {
        parse(more).unwrap_err().error()
    }

    #[test]
    fn a_client_credentials_request_is_read() {
        let task = TaskId::from_bytes([7; 16]);
        let request =
            parse(&format!("grant_type=client_credentials&scope=b+a&resource=https%3A%2F%2Fgw.example%2Fmcp&task_id={task}&client_id=x")).unwrap();
        assert_eq!((request.grant, request.task), (GrantType::ClientCredentials, Some(task)));
        assert_eq!(request.scope.unwrap().to_string(), "a b");
        assert_eq!(request.resources, ["https://gw.example/mcp"]);
        assert_eq!(request.client, ClientProof::Assertion { assertion: "a.b.c".to_owned(), client_id: Some("x".to_owned()) });
    }

    #[test]
    fn every_resource_must_be_ours() {
        let get = |list: &[&str]| {
            let all: Vec<String> =
                list.iter().map(|r| format!("resource={}", r.replace('%', "%25").replace('&', "%26").replace('#', "%23"))).collect();
            parse(&format!("grant_type=client_credentials&{}", all.join("&"))).map(|r| r.resources)
        };
        assert_eq!(get(&["HTTPS://GW.example:443/mcp/"]).unwrap(), ["https://gw.example/mcp"]);
        assert_eq!(
            get(&["https://gw.example/", "https://gw.example/mcp", "https://gw.example"]).unwrap(),
            ["https://gw.example", "https://gw.example/mcp"]
        );
        assert!(get(&[]).unwrap().is_empty());
        for bad in [
            "https://evil.example/mcp",
            "https://gw.example/mcp#x",
            "https://gw.example/mcp?x",
            "http://gw.example/mcp",
            "https://gw.example/mcp2",
            "https://gw.example/mcp//",
            "https://u@gw.example/mcp",
            "https://gw.example:444/mcp",
            "/mcp",
            "gw.example/mcp",
        ] {
            assert_eq!(get(&["https://gw.example/mcp", bad]).unwrap_err().error(), "invalid_target", "{bad}");
        }
    }

    #[test]
    fn errors_have_the_names_of_the_standard() {
        assert_eq!(error(""), "invalid_request");
        assert_eq!(error("grant_type=password"), "unsupported_grant_type");
        assert_eq!(error("grant_type=client_credentials&grant_type=client_credentials"), "invalid_request");
        assert_eq!(error("grant_type=client_credentials&scope=a%22"), "invalid_scope");
        assert_eq!(error("grant_type=client_credentials&task_id=1"), "invalid_request");
        assert_eq!(error("grant_type=client_credentials&client_secret=x"), "invalid_client");
    }

    #[test]
    fn a_client_that_does_not_prove_itself_is_invalid() {
        assert_eq!(parse("grant_type=client_credentials").unwrap().client, ClientProof::Assertion { assertion: "a.b.c".to_owned(), client_id: None });
        let nothing = TokenRequest::parse(b"grant_type=client_credentials&client_id=x", &ours()).unwrap().client;
        assert_eq!(nothing, ClientProof::Nothing { client_id: Some("x".to_owned()) });
        for bad in [
            "client_assertion=a",
            "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion_type=urn:ietf:params:oauth:client-assertion-type:saml2-bearer&client_assertion=a",
            "client_id=x&client_secret=y",
        ] {
            let body = format!("grant_type=client_credentials&token=t&{bad}");
            assert_eq!(TokenRequest::parse(body.as_bytes(), &ours()).unwrap_err().error(), "invalid_client", "{bad}");
            assert_eq!(TokenQuery::parse(body.as_bytes()).unwrap_err().error(), "invalid_client", "{bad}");
        }
    }

    #[test]
    fn a_question_about_a_token_needs_the_token() {
        assert_eq!(TokenQuery::parse(format!("{CLIENT}&token=xyz&token_type_hint=refresh_token").as_bytes()).unwrap().token, "xyz");
        assert_eq!(TokenQuery::parse(CLIENT.as_bytes()).unwrap_err().error(), "invalid_request");
    }

    #[test]
    fn requests_do_not_show_tokens_and_assertions() {
        let query = TokenQuery::parse(format!("{CLIENT}&token=hunter2").as_bytes()).unwrap();
        let request = parse("grant_type=client_credentials").unwrap();
        let shown = format!("{query:?} {request:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("a.b.c"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..300), text in "(grant_type|resource|scope|token|client_assertion)=\\PC{0,80}") {
            for body in [body.as_slice(), text.as_bytes()] {
                let _ = TokenRequest::parse(body, &ours()).is_ok();
                let _ = TokenQuery::parse(body).is_ok();
            }
        }
    }
}
