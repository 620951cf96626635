//! OAuth 2: an access token for each lease, by client credentials (RFC 6749 section 4.4) or from a refresh token that only we have (section 6); narrowed by
//! `scope` and `resource`, revoked by RFC 7009, and then tried.
//!
//! What rules this file. The server names the token, so no account stands there under our name: there is nothing to list, and a token whose answer was lost is
//! known to nobody and ends by itself. A revocation is answered 200 whatever it did (RFC 7009 section 2.2), and many servers do nothing for tokens that are
//! JWTs: only a probe that refuses what it had accepted shows an ending. A request without `scope` means the server's default, which may be everything, so
//! a plan without rights is refused. A refresh token is often good for one use: what the server gives in its place is durable before its access token is used
//! ([`Rotation`]), one request is under way at a time, the last two are kept, and `invalid_grant` calls a person instead of being tried for ever.

pub mod code;
mod ending;
mod exchange;
mod preflight;
mod refresh;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::Clock;
use hyper::Method;

use super::connection::within;
use super::signing::Key;
use super::web::{Endpoint, Question};
use crate::Secret;
use crate::lease::rotation::Rotation;
use crate::lease::{Account, AccountName, Ending, Finding, Found, Kind, Minted, Plan, Prefix, Step, TargetCode, TargetError, TargetIds};
use exchange::Token;

const RIGHTS_MAX: usize = 64;
const SCOPES_MAX: usize = 64;
const RESOURCES_MAX: usize = 8;
const TEXT_MAX: usize = 512;
const LAG_MAX: Duration = Duration::from_secs(30);
/// The word under which it is remembered what the probe said of the fresh token: `accepted`, `refused` or `none`.
const PROBED: &str = "probe";

/// A client at an authorization server, and what leases may have there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The token endpoint.
    pub token: Endpoint,
    /// The revocation endpoint (RFC 7009), if the server has one that does something. Some servers revoke the refresh token along with an access token: name it
    /// only where they do not.
    pub revocation: Option<Endpoint>,
    /// A resource that takes tokens of each right: `GET` is answered 2xx to one that lives and 401 or 403 to a dead one.
    pub probe: Option<Endpoint>,
    /// Our name at the server.
    pub client_id: String,
    /// The rights that a plan may ask for, each a list of scopes.
    pub rights: BTreeMap<String, Vec<String>>,
    /// For which resources (RFC 8707). May be empty.
    pub resources: Vec<String>,
    /// No token lives longer, as the server's documentation or its settings say. For tokens of which the server does not say it.
    pub lifetime_max: Option<Duration>,
    /// A revocation reaches the probe within this time, at most 30 seconds. After that, a token that is still accepted is said to live on.
    pub revocation_lag_max: Duration,
}

impl Settings {
    /// Is each setting within its range?
    ///
    /// # Errors
    /// [`TargetCode::Plan`], with what was expected.
    pub fn check(&self) -> Result<(), TargetError> {
        let wrong = |what: &str| Err(TargetError::new(TargetCode::Plan, Step::Connect, "", what));
        if !fits(&self.client_id) {
            return wrong("expected a client id of 1 to 512 characters of ASCII");
        }
        if self.rights.is_empty() || self.rights.len() > RIGHTS_MAX || !self.rights.values().all(|scopes| are_scopes(scopes)) {
            return wrong("expected 1 to 64 rights, each with 1 to 64 scopes (RFC 6749 section 3.3: visible ASCII without `\"` and `\\`)");
        }
        if self.resources.len() > RESOURCES_MAX || !self.resources.iter().all(|resource| fits(resource) && is_absolute(resource)) {
            return wrong("expected at most 8 resources, each an absolute URI without a fragment (RFC 8707)");
        }
        if self.lifetime_max.is_some_and(|life| life.is_zero() || life > Duration::from_secs(366 * 86_400)) {
            return wrong("expected a longest life of tokens between a second and a year");
        }
        if self.revocation_lag_max > LAG_MAX {
            return wrong("expected revocations that reach the probe within 30 seconds");
        }
        Ok(())
    }
}

/// How we prove to the server who we are.
#[derive(Debug)]
pub enum Login {
    /// `client_secret_basic`.
    Basic(Secret),
    /// `client_secret_post`.
    Post(Secret),
    /// `private_key_jwt` (RFC 7523).
    PrivateKeyJwt {
        /// What signs.
        key: Key,
        /// The key's name at the server, if it has several.
        kid: Option<String>,
        /// Whom the assertion is for: the server's issuer, or its token endpoint.
        audience: String,
    },
    /// By nothing but the client's name: for refresh tokens of public clients.
    Public,
}

/// What access tokens are made from.
#[derive(Debug)]
pub enum Grant {
    /// Our own standing at the server.
    ClientCredentials,
    /// A refresh token that a person obtained. It serves nobody else.
    RefreshToken {
        /// The name under which a person set it.
        name: String,
        /// Where it is kept.
        kept: Arc<dyn Rotation>,
    },
}

/// Access tokens of one client.
pub struct Oauth2(Arc<Inner>);

struct Inner {
    settings: Settings,
    login: Login,
    grant: Grant,
    clock: Arc<dyn Clock>,
    /// Who uses the refresh token: two at once would look like a theft to the server.
    turn: tokio::sync::Mutex<()>,
}

impl Oauth2 {
    /// A client as it is configured. Nothing is connected yet.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if a setting is out of its range.
    pub fn new(settings: Settings, login: Login, grant: Grant, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        settings.check()?;
        let wrong = |what: &str| Err(TargetError::new(TargetCode::Plan, Step::Connect, "", what));
        match (&login, &grant) {
            (Login::Public, Grant::ClientCredentials) => return wrong("client credentials need a secret or a key"),
            (Login::Basic(secret) | Login::Post(secret), _) if secret.is_empty() => return wrong("the client's secret is empty"),
            (Login::PrivateKeyJwt { audience, kid, .. }, _) if !fits(audience) || kid.as_deref().is_some_and(|kid| !fits(kid)) => {
                return wrong("expected an audience and a key's name of 1 to 512 characters of ASCII");
            }
            _ => {}
        }
        Ok(Self(Arc::new(Inner { settings, login, grant, clock, turn: tokio::sync::Mutex::new(()) })))
    }
}

impl Inner {
    /// The scopes that the plan asks for, in order, each once.
    fn scopes(&self, plan: &Plan) -> Result<BTreeSet<String>, TargetError> {
        let wrong = |what: &str| TargetError::new(TargetCode::Plan, Step::Mint, "", what);
        if plan.rights.is_empty() {
            return Err(wrong("a token without a right would have the server's default scope, which may be everything"));
        }
        let mut scopes = BTreeSet::new();
        for name in &plan.rights {
            let right = self.settings.rights.get(name).ok_or_else(|| wrong(&format!("`{name}` is none of the configured rights")))?;
            scopes.extend(right.iter().cloned());
        }
        Ok(scopes)
    }

    async fn mint(self: &Arc<Self>, plan: &Plan) -> Result<Minted, TargetError> {
        let scopes = self.scopes(plan)?;
        let agent = plan.tag.connection_name(200);
        let token = match &self.grant {
            Grant::ClientCredentials => exchange::client_credentials(self, &scopes, &agent).await?,
            Grant::RefreshToken { .. } => refresh::token(self, &scopes, &agent).await?,
        };
        self.remember(token).await
    }

    /// What the probe says of a token that was just made is what makes a later refusal an ending.
    async fn remember(&self, token: Token) -> Result<Minted, TargetError> {
        let said = match self.probe(Step::Mint, &token.secret).await {
            Ok(Some(Probe::Accepted(_))) => "accepted",
            Ok(Some(Probe::Refused(_))) => "refused",
            Ok(None) | Err(_) => "none",
        };
        Ok(Minted { ids: TargetIds::one(PROBED, said), secret: Some(token.secret), expires_at: token.expires_at })
    }

    /// Tries the token; `None` where no probe is configured.
    async fn probe(&self, step: Step, token: &Secret) -> Result<Option<Probe>, TargetError> {
        let Some(endpoint) = &self.settings.probe else { return Ok(None) };
        let reply = endpoint.ask(step, Question::new(Method::GET, "").bearer(token)).await?;
        match reply.status {
            200..=299 => Ok(Some(Probe::Accepted(format!("status {}", reply.status)))),
            401 => Ok(Some(Probe::Refused(reply.words(&["/error", "/error_description", "/message"], &[token])))),
            403 if !reply.retry_after => Ok(Some(Probe::Refused(reply.words(&["/error", "/error_description", "/message"], &[token])))),
            _ => {
                let words = reply.words(&["/error", "/error_description", "/message"], &[token]);
                Err(TargetError::new(reply.code(), step, endpoint.name(), &format!("the probe: {words}")))
            }
        }
    }
}

/// What a probe said.
enum Probe {
    Accepted(String),
    Refused(String),
}

#[async_trait::async_trait]
impl Kind for Oauth2 {
    fn kind(&self) -> &'static str {
        "oauth2"
    }

    /// The server makes the token.
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        Ok(None)
    }

    async fn preflight(&self, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
        within(Step::Verify, preflight::preflight(&self.0, probe)).await
    }

    /// Called again, it makes another token: the server has no name for one. That of a lost answer is known to nobody.
    async fn mint(&self, plan: &Plan, secret: Option<&Secret>) -> Result<Minted, TargetError> {
        if secret.is_some() {
            return Err(TargetError::new(TargetCode::Plan, Step::Mint, "", "the server makes the token itself"));
        }
        within(Step::Mint, self.0.mint(plan)).await
    }

    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        within(Step::Remove, ending::end(&self.0, account)).await
    }

    /// None: an authorization server lists no tokens.
    async fn list(&self, _prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        Ok(Vec::new())
    }
}

impl fmt::Debug for Oauth2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oauth2").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

fn fits(text: &str) -> bool {
    (1..=TEXT_MAX).contains(&text.len()) && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

//= rfc6749#section-3.3
// scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
fn are_scopes(scopes: &[String]) -> bool {
    let one =
        |scope: &str| !scope.is_empty() && scope.len() <= TEXT_MAX && scope.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
    (1..=SCOPES_MAX).contains(&scopes.len()) && scopes.iter().all(|scope| one(scope))
}

//= rfc8707#section-2
// Its value MUST be an absolute URI [...]. The URI MUST NOT include a fragment component.
fn is_absolute(resource: &str) -> bool {
    let scheme = resource.split_once(':').map(|(scheme, _)| scheme).unwrap_or_default();
    let letters = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    letters && !resource.contains(['#', ' '])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_one_word_and_a_resource_an_absolute_uri() {
        let scopes = |scopes: &[&str]| are_scopes(&scopes.iter().map(|&scope| scope.to_owned()).collect::<Vec<_>>());
        assert!(scopes(&["orders.read", "https://www.example.org/scope/x"]));
        for bad in [&[][..], &[""], &["a b"], &["a\"b"], &["a\\b"], &["\u{fc}"], &["a\nb"]] {
            assert!(!scopes(bad), "{bad:?}");
        }
        assert!(is_absolute("https://api.example.org/v1") && is_absolute("urn:example:api"));
        for bad in ["", "api", "/v1", "https://h/#f", "1a:b", "a b:c", ":x"] {
            assert!(!is_absolute(bad), "{bad}");
        }
    }
}
