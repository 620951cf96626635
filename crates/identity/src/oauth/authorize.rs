//! A request to the authorization endpoint (RFC 6749 section 4.1.1, RFC 7636, RFC 8707), and what comes back to the client from it.

use std::fmt;
use std::str::FromStr;

use bailiwick_core::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::answer::OauthError;
use super::form::Form;
use super::redirect::{REDIRECT_MAX, RedirectUri};
use super::request::resources;
use super::scope::Scope;
use crate::keys::KeyId;
use crate::token::{AGENT_SCOPE, TOOLS_SCOPE};

/// The longest query of a request, in bytes.
pub const QUERY_MAX: usize = 8 * 1024;
/// The longest `client_id`, in bytes.
const CLIENT_ID_MAX: usize = 3 * 1024;
/// The longest `state`, in bytes.
const STATE_MAX: usize = 2 * 1024;
const VERIFIER: std::ops::RangeInclusive<usize> = 43..=128;

/// What a client asks of a person. It is told nothing, not even of an error, before its redirect URI was found to be its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuthorizationRequest {
    /// Who it says that it is.
    pub client_id: String,
    /// Where it wants its answer.
    pub redirect_uri: Option<String>,
    /// What it gets back as it is.
    pub state: Option<String>,
    /// What it asks for, or what is wrong with that: to be told at the redirect URI.
    pub asked: Result<Asked, OauthError>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Asked {
    /// What the one who redeems the code must know.
    pub challenge: CodeChallenge,
    /// The key that the one who redeems it must prove, if the client names one (`dpop_jkt`).
    pub key: Option<KeyId>,
    /// The resources of ours that the token is for; none says our MCP endpoint.
    pub resources: Vec<String>,
}

impl AuthorizationRequest {
    /// Reads the query of a request. `ours` are the resources that tokens may be for.
    ///
    /// # Errors
    /// In words for the person before the page: nothing in the request can be trusted far enough to answer the client.
    pub fn parse(query: &[u8], ours: &[String]) -> Result<Self, OauthError> {
        if query.len() > QUERY_MAX {
            return Err(OauthError::invalid_request("the request is too long"));
        }
        let form = Form::parse(query)?;
        let client_id = form.value("client_id").ok_or(OauthError::invalid_request("client_id is missing"))?;
        let redirect_uri = form.value("redirect_uri");
        if client_id.len() > CLIENT_ID_MAX || redirect_uri.is_some_and(|uri| uri.len() > REDIRECT_MAX) {
            return Err(OauthError::invalid_request("client_id or redirect_uri is too long"));
        }
        let state = form.value("state").filter(|state| state.len() <= STATE_MAX);
        if state.is_none() && form.value("state").is_some() {
            return Err(OauthError::invalid_request("state is too long"));
        }
        Ok(Self {
            client_id: client_id.to_owned(),
            redirect_uri: redirect_uri.map(str::to_owned),
            state: state.map(str::to_owned),
            asked: Asked::read(&form, ours),
        })
    }
}

impl Asked {
    fn read(form: &Form, ours: &[String]) -> Result<Self, OauthError> {
        if form.value("request").is_some() {
            return Err(REQUEST);
        }
        if form.value("request_uri").is_some() {
            return Err(REQUEST_URI);
        }
        match form.value("response_type") {
            Some("code") => {}
            None => return Err(OauthError::invalid_request("response_type is missing")),
            Some(_) => return Err(RESPONSE_TYPE),
        }
        //= rfc7636#section-4.4.1
        // If the server requires Proof Key for Code Exchange (PKCE) by OAuth public clients and the client does not send the
        // "code_challenge" in the request, the authorization endpoint MUST return the authorization error response with the
        // "error" value set to "invalid_request".
        let challenge = form.value("code_challenge").ok_or(OauthError::invalid_request("code_challenge is missing: use PKCE"))?;
        //= rfc7636#section-4.3
        // code_challenge_method OPTIONAL, defaults to "plain" if not present in the request.
        // We take no plain one: whoever sees the request would know the verifier.
        if form.value("code_challenge_method") != Some("S256") {
            return Err(OauthError::invalid_request("code_challenge_method must be S256"));
        }
        let challenge = challenge.parse().map_err(|NotAChallenge| OauthError::invalid_request("code_challenge is no SHA-256"))?;
        //= rfc9449#section-10
        // The value of the dpop_jkt authorization request parameter is the JWK Thumbprint [RFC7638] of the proof-of-possession public
        // key using the SHA-256 hash function.
        let key = form.value("dpop_jkt").map(str::parse).transpose();
        let key = key.map_err(|_| OauthError::invalid_request("dpop_jkt is no thumbprint of a key"))?;
        //= rfc6749#section-3.3
        // The authorization server MAY fully or partially ignore the scope requested by the client, based on the authorization
        // server policy or the resource owner's instructions.
        if let Some(text) = form.value("scope") {
            let scope: Scope = text.parse().map_err(|_| SCOPE)?;
            if !scope.contains(TOOLS_SCOPE) && !scope.contains(AGENT_SCOPE) {
                return Err(SCOPE);
            }
        }
        let resources = resources(form, ours)?;
        Ok(Self { challenge, key, resources })
    }
}

/// The SHA-256 of a code verifier (RFC 7636 section 4.2, `S256`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeChallenge([u8; 32]);

/// The text is no challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the base64url of a SHA-256, without padding")]
pub struct NotAChallenge;

impl FromStr for CodeChallenge {
    type Err = NotAChallenge;
    fn from_str(text: &str) -> Result<Self, NotAChallenge> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NotAChallenge)?;
        bytes.try_into().map(Self).map_err(|_| NotAChallenge)
    }
}

impl CodeChallenge {
    /// Does whoever presents this verifier know what the challenge was made from?
    #[must_use]
    pub fn is_met_by(&self, verifier: &str) -> bool {
        //= rfc7636#section-4.1
        // code-verifier = 43*128unreserved
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        //= rfc7636#section-4.6
        // BASE64URL-ENCODE(SHA256(ASCII(code_verifier))) == code_challenge
        VERIFIER.contains(&verifier.len()) && verifier.bytes().all(unreserved) && *Digest::of(verifier.as_bytes()).as_bytes() == self.0
    }
}

// Errors that are told at the redirect URI (RFC 6749 section 4.1.2.1).
const REQUEST: OauthError = OauthError::named("request_not_supported", "request objects are not supported");
const REQUEST_URI: OauthError = OauthError::named("request_uri_not_supported", "request objects are not supported");
const RESPONSE_TYPE: OauthError = OauthError::named("unsupported_response_type", "use code");
const SCOPE: OauthError = OauthError::named("invalid_scope", "the scope is malformed or cannot be granted: ask for mcp:tools");

impl OauthError {
    /// The person said no.
    pub const DENIED: Self = Self::named("access_denied", "the person refused");

    /// The whole address to which the person's browser is sent with this error.
    #[must_use]
    pub fn address(&self, to: &RedirectUri, state: Option<&str>, issuer: &str) -> String {
        respond(to, &[("error", self.error()), ("error_description", self.description())], state, issuer)
    }
}

/// The whole address to which the person's browser is sent with a code.
#[must_use]
pub fn code_address(to: &RedirectUri, code: &str, state: Option<&str>, issuer: &str) -> String {
    respond(to, &[("code", code)], state, issuer)
}

fn respond(to: &RedirectUri, parameters: &[(&str, &str)], state: Option<&str>, issuer: &str) -> String {
    let mut all = parameters.to_vec();
    //= rfc6749#section-4.1.2
    // state REQUIRED if the "state" parameter was present in the client authorization request. The exact value received from
    // the client.
    all.extend(state.map(|state| ("state", state)));
    //= rfc9207#section-2
    // In authorization responses to the client, including error responses, an authorization server supporting this
    // specification MUST indicate its identity by including the iss parameter in the response.
    all.push(("iss", issuer));
    to.answer(&all)
}

/// What the token endpoint is given for a code (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CodeGrant {
    /// The code.
    pub code: String,
    /// What the challenge was made from.
    pub verifier: String,
    /// Where the code was sent, if that was said in the request for it.
    pub redirect_uri: Option<String>,
}

impl CodeGrant {
    pub(super) fn read(form: &Form) -> Result<Self, OauthError> {
        let code = form.value("code").ok_or(OauthError::invalid_request("code is missing"))?;
        //= rfc9700#section-2.1.1
        // Authorization servers MUST mitigate PKCE downgrade attacks by ensuring that a token request containing a code_verifier
        // parameter is accepted only if a code_challenge parameter was present in the authorization request.
        // Here neither is ever absent.
        let verifier = form.value("code_verifier").ok_or(OauthError::invalid_request("code_verifier is missing: use PKCE"))?;
        Ok(Self { code: code.to_owned(), verifier: verifier.to_owned(), redirect_uri: form.value("redirect_uri").map(str::to_owned) })
    }
}

impl fmt::Debug for CodeGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CodeGrant").field("redirect_uri", &self.redirect_uri).finish_non_exhaustive()
    }
}

/// What the token endpoint is given to go on (RFC 6749 section 6).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefreshGrant {
    /// The refresh token.
    pub token: String,
}

impl RefreshGrant {
    pub(super) fn read(form: &Form) -> Result<Self, OauthError> {
        let token = form.value("refresh_token").ok_or(OauthError::invalid_request("refresh_token is missing"))?;
        Ok(Self { token: token.to_owned() })
    }
}

impl fmt::Debug for RefreshGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshGrant(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // RFC 7636 appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn ours() -> Vec<String> {
        vec!["https://gw.example/mcp".to_owned()]
    }

    fn query(change: &[(&str, Option<&str>)]) -> String {
        let mut all = vec![
            ("response_type", "code"),
            ("client_id", "https://c.example/client"),
            ("redirect_uri", "http://127.0.0.1:1/cb"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("state", "s"),
            ("resource", "https://gw.example/mcp"),
            ("scope", "mcp:tools"),
        ];
        for (name, value) in change {
            all.retain(|(n, _)| n != name);
            all.extend(value.map(|v| (*name, v)));
        }
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(all).finish()
    }

    fn parse(change: &[(&str, Option<&str>)]) -> Result<AuthorizationRequest, OauthError> {
        AuthorizationRequest::parse(query(change).as_bytes(), &ours())
    }

    #[test]
    fn a_request_is_read() {
        let read = parse(&[]).unwrap();
        assert_eq!((read.client_id.as_str(), read.state.as_deref()), ("https://c.example/client", Some("s")));
        let asked = read.asked.unwrap();
        assert_eq!(asked.resources, ["https://gw.example/mcp"]);
        assert!(asked.challenge.is_met_by(VERIFIER));
        assert_eq!(asked.key, None);
        let bound = parse(&[("dpop_jkt", Some(CHALLENGE))]).unwrap().asked.unwrap();
        assert_eq!(bound.key.map(|key| key.to_string()).as_deref(), Some(CHALLENGE));
    }

    #[test]
    fn what_is_wrong_with_what_is_asked_is_told_to_the_client_and_what_is_wrong_with_who_asks_is_not() {
        let told = |change: &[(&str, Option<&str>)]| parse(change).unwrap().asked.unwrap_err().error();
        assert_eq!(told(&[("response_type", None)]), "invalid_request");
        assert_eq!(told(&[("response_type", Some("token"))]), "unsupported_response_type");
        assert_eq!(told(&[("response_type", Some("code id_token"))]), "unsupported_response_type");
        assert_eq!(told(&[("code_challenge", None)]), "invalid_request");
        assert_eq!(told(&[("code_challenge", Some("short"))]), "invalid_request");
        assert_eq!(told(&[("code_challenge_method", None)]), "invalid_request");
        assert_eq!(told(&[("code_challenge_method", Some("plain"))]), "invalid_request");
        for jkt in ["short", &"A".repeat(44), &format!("{CHALLENGE}="), "https://evil.example/key"] {
            assert_eq!(told(&[("dpop_jkt", Some(jkt))]), "invalid_request", "{jkt}");
        }
        assert_eq!(told(&[("scope", Some("admin"))]), "invalid_scope");
        assert_eq!(told(&[("resource", Some("https://evil.example/mcp"))]), "invalid_target");
        assert_eq!(told(&[("request", Some("e30"))]), "request_not_supported");
        assert_eq!(told(&[("request_uri", Some("https://evil.example"))]), "request_uri_not_supported");
        for untold in [
            parse(&[("client_id", None)]),
            parse(&[("client_id", Some(&"x".repeat(CLIENT_ID_MAX + 1)))]),
            parse(&[("redirect_uri", Some(&"x".repeat(REDIRECT_MAX + 1)))]),
            parse(&[("state", Some(&"x".repeat(STATE_MAX + 1)))]),
            AuthorizationRequest::parse(format!("{}&redirect_uri=https%3A%2F%2Fevil.example", query(&[])).as_bytes(), &ours()),
            AuthorizationRequest::parse(format!("{}&client_id=evil", query(&[])).as_bytes(), &ours()),
        ] {
            assert_eq!(untold.unwrap_err().error(), "invalid_request");
        }
    }

    #[test]
    fn scopes_that_we_do_not_have_are_passed_over_beside_one_that_we_have() {
        for scope in ["mcp:tools offline_access", "agent", "agent mcp:tools"] {
            assert!(parse(&[("scope", Some(scope))]).unwrap().asked.is_ok(), "{scope}");
        }
        assert!(parse(&[("scope", None)]).unwrap().asked.is_ok());
    }

    #[test]
    fn only_the_verifier_itself_meets_a_challenge() {
        let challenge: CodeChallenge = CHALLENGE.parse().unwrap();
        for bad in
            ["", CHALLENGE, VERIFIER.get(1..).unwrap(), &format!("{VERIFIER}A"), &format!(" {VERIFIER}"), &"a".repeat(129), &"\u{e9}".repeat(30)]
        {
            assert!(!challenge.is_met_by(bad), "{bad}");
        }
        assert!("".parse::<CodeChallenge>().is_err() && format!("{CHALLENGE}=").parse::<CodeChallenge>().is_err());
    }

    #[test]
    fn an_answer_says_who_answers_and_gives_the_state_back_as_it_was() {
        let to = RedirectUri::parse("http://127.0.0.1:1/cb", &[]).unwrap();
        let address = code_address(&to, "c", Some("a b&iss=evil"), "https://gw.example");
        assert_eq!(address, "http://127.0.0.1:1/cb?code=c&state=a+b%26iss%3Devil&iss=https%3A%2F%2Fgw.example");
        let refused = OauthError::DENIED.address(&to, None, "https://gw.example");
        assert_eq!(refused, "http://127.0.0.1:1/cb?error=access_denied&error_description=the+person+refused&iss=https%3A%2F%2Fgw.example");
    }

    #[test]
    fn codes_and_refresh_tokens_are_not_shown() {
        let form = Form::parse(b"code=hunter2&code_verifier=hunter2&refresh_token=hunter2").unwrap();
        let shown = format!("{:?} {:?}", CodeGrant::read(&form).unwrap(), RefreshGrant::read(&form).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_query_makes_it_panic(query in proptest::collection::vec(any::<u8>(), 0..300), text in "(client_id|redirect_uri|state|scope|resource|code_challenge)=\\PC{0,80}") {
            for query in [query.as_slice(), text.as_bytes()] {
                let _ = AuthorizationRequest::parse(query, &ours()).is_ok();
            }
        }
    }
}
