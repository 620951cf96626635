//! Client assertions (RFC 7523 section 3, `private_key_jwt`): how an agent proves itself at the token endpoint. Made and verified.
//!
//! The caller does what needs memory, after `verify` said yes and before a token is issued: refuse the `jti` of an agent that
//! was seen before (remember it until [`Proved::remember_until`]), refuse an agent that is not enabled or whose `review_by` is
//! past, and see the key's place ([`crate::Sightings`]).

use std::time::Duration;

use bailiwick_core::{AgentName, AssertionId, ComponentName, InstanceId, SpiffeId, Timestamp};
use serde_json::{Value, json};

use crate::foreign::KeySet;
use crate::jws::{self, Compact};
use crate::keys::{Algorithm, KeyError, KeyId, PublicKey, SigningKey};
use crate::proof::ProofError;
use crate::strict::{Object, put};

/// The `client_assertion_type` of these assertions (RFC 7523 section 2.2).
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How far in the past the time of issue may lie.
pub const LIFE_MAX: Duration = Duration::from_secs(600);
/// How far in the future the expiry may lie: libraries that cannot be told otherwise say an hour. An assertion is taken once, however
/// long it lives.
pub const AHEAD_MAX: Duration = Duration::from_secs(3600);
/// How far an agent's clock may be ahead of ours, where it says `iat` and `nbf`. An expiry has [`crate::token::SKEW`].
pub const SKEW: Duration = Duration::from_secs(30);
/// The most audiences that are looked at.
const AUDIENCES_MAX: usize = 4;
const MODEL_MAX: usize = 200;

/// What is registered under a client id.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The agent.
    pub agent: AgentName,
    /// The component of it, if the id is a component's.
    pub component: Option<ComponentName>,
    /// Its public keys.
    pub keys: Vec<PublicKey>,
}

/// What an assertion proved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proved {
    /// The agent.
    pub agent: AgentName,
    /// The component of it that it proved to be.
    pub component: Option<ComponentName>,
    /// The key that it proved to hold.
    pub key: KeyId,
    /// The assertion's own id, 8 to 256 bytes: to be refused when seen again from this agent.
    pub jti: String,
    /// When it expires.
    pub expires: Timestamp,
    /// The running copy, if our own client says it (`bailiwick_instance`).
    pub instance: Option<InstanceId>,
    /// The model that the agent says it runs. Claimed, never trusted.
    pub model: Option<String>,
}

impl Proved {
    /// Until when the `jti` must be remembered: after that the assertion is refused by its expiry.
    #[must_use]
    pub fn remember_until(&self) -> Timestamp {
        self.expires.plus(crate::token::SKEW)
    }
}

/// The audiences under which a token endpoint is known: the issuer, with and without the slash that URL libraries add to a bare
/// host, and the endpoint's own URL.
#[must_use]
pub fn audiences(issuer: &str, token_endpoint: &str) -> Vec<String> {
    //= rfc7523#section-3
    // The JWT MUST contain an "aud" (audience) claim containing a value that identifies the authorization server as an intended
    // audience. The token endpoint URL of the authorization server MAY be used as a value for an "aud" element.
    let mut all = vec![issuer.to_owned(), token_endpoint.to_owned()];
    let bare = issuer.split_once("://").is_some_and(|(_, host)| !host.contains('/'));
    if bare {
        all.push(format!("{issuer}/"));
    }
    all
}

/// Verifies an assertion. `client_id` is the parameter of the request, if it was given.
///
/// # Errors
/// The first rule that the assertion breaks; the client is not authenticated then.
pub fn verify(
    assertion: &str,
    client_id: Option<&str>,
    lookup: impl FnOnce(&str) -> Option<Registered>,
    audiences: &[String],
    now: Timestamp,
) -> Result<Proved, ProofError> {
    let jws = parse(assertion)?;
    let id = client(&jws.claims, client_id)?;
    let registered = lookup(id).ok_or(ProofError::Client)?;
    let key = signed_by(&jws, &registered.keys)?;
    check_audience(&jws.claims, audiences, AUDIENCES_MAX)?;
    let expires = check_times(&jws.claims, now)?;
    Ok(Proved {
        agent: registered.agent,
        component: registered.component,
        key,
        jti: jti(&jws.claims)?.to_owned(),
        expires,
        instance: jws.claims.parsed_if("bailiwick_instance")?,
        model: model(&jws.claims)?,
    })
}

fn parse(assertion: &str) -> Result<Compact<'_>, ProofError> {
    let jws = Compact::parse(assertion)?;
    //= rfc8725#section-3.11
    // Explicit typing: what is typed as another kind of JWT is none of this kind. RFC 7523 demands no type, so none is fine too.
    match jws.typ()?.as_deref() {
        None | Some("jwt" | "client-authentication+jwt") => Ok(jws),
        Some(_) => Err(ProofError::Type),
    }
}

/// Whose assertion it says that it is: to choose where its keys are, never to believe.
///
/// # Errors
/// If it is no assertion.
pub fn claimed(assertion: &str) -> Result<String, ProofError> {
    parse(assertion)?.claims.text("sub").map(str::to_owned)
}

/// What an assertion of a client of people proved.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProvedClient {
    /// The assertion's own id, 8 to 256 bytes: to be refused when seen again from this client.
    pub jti: String,
    /// Until when the `jti` must be remembered.
    pub remember_until: Timestamp,
}

/// Verifies an assertion of a client whose ID is a URL, by the keys that its metadata document names, and by the one algorithm that it
/// says, if it says one.
///
/// # Errors
/// The first rule that the assertion breaks; the client is not authenticated then.
pub fn verify_client(
    assertion: &str,
    client_id: &str,
    (keys, signs_by): (&KeySet, Option<Algorithm>),
    audiences: &[String],
    now: Timestamp,
) -> Result<ProvedClient, ProofError> {
    let jws = parse(assertion)?;
    //= rfc7523#section-3
    // For client authentication, the subject MUST be the "client_id" of the OAuth client.
    // The issuer of an assertion that a client makes for itself is the client (OpenID Connect Core section 9).
    if jws.claims.text("sub")? != client_id || jws.claims.text("iss")? != client_id {
        return Err(ProofError::Client);
    }
    //= rfc7523#section-3
    // The authorization server MUST reject JWTs with an invalid signature or MAC.
    match signs_by {
        Some(one) => keys.signer_of(&jws, &[one])?,
        None => keys.signer_of(&jws, &Algorithm::ALL)?,
    };
    check_audience(&jws.claims, audiences, AUDIENCES_MAX)?;
    let expires = check_times(&jws.claims, now)?;
    Ok(ProvedClient { jti: jti(&jws.claims)?.to_owned(), remember_until: expires.plus(crate::token::SKEW) })
}

fn client<'a>(claims: &'a Object, client_id: Option<&str>) -> Result<&'a str, ProofError> {
    //= rfc7523#section-3
    // For client authentication, the subject MUST be the "client_id" of the OAuth client.
    let sub = claims.text("sub")?;
    // The issuer of an assertion that a client makes for itself is the client (OpenID Connect Core section 9).
    if claims.text("iss")? != sub {
        return Err(ProofError::Issuer);
    }
    //= rfc7521#section-4.2
    // The "client_id" is unnecessary for client assertion authentication because the client is identified by the subject within
    // the assertion. If present, the value of the "client_id" parameter MUST identify the same client as is identified by the
    // client assertion.
    if client_id.is_some_and(|id| id != sub) {
        return Err(ProofError::Client);
    }
    sub.parse::<SpiffeId>().map_err(|_| ProofError::Client)?;
    Ok(sub)
}

/// The registered key that signed it. The header may name one of them; it cannot bring one.
fn signed_by(jws: &Compact<'_>, keys: &[PublicKey]) -> Result<KeyId, ProofError> {
    let kid = jws.header.text_if("kid").map_err(|_| ProofError::Key)?;
    let named = keys.iter().filter(|key| kid.is_none_or(|kid| key.is_named(kid)));
    let mut why = ProofError::Key;
    for key in named {
        //= rfc7523#section-3
        // The JWT MUST be digitally signed or have a Message Authentication Code (MAC) applied by the issuer. The authorization
        // server MUST reject JWTs with an invalid signature or MAC. We take signatures by registered keys only.
        match jws.verified_by(key) {
            Ok(()) => return Ok(key.id()),
            Err(ProofError::Algorithm) if why == ProofError::Signature => {}
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// The `aud` is one of our names, or several of them, `most` at most, and nobody else's.
pub(crate) fn check_audience(claims: &Object, ours: &[String], most: usize) -> Result<(), ProofError> {
    let is_ours = |aud: &Value| aud.as_str().is_some_and(|aud| ours.iter().any(|our| our == aud));
    //= rfc7523#section-3
    // In the absence of an application profile specifying otherwise, compliant applications MUST compare the audience values
    // using the Simple String Comparison method. [...] The authorization server MUST reject any JWT that does not contain its
    // own identity as the intended audience. We refuse also one that others could use as well.
    match claims.member("aud") {
        Some(one @ Value::String(_)) if is_ours(one) => Ok(()),
        Some(Value::Array(all)) if (1..=most).contains(&all.len()) && all.iter().all(is_ours) => Ok(()),
        Some(Value::String(_) | Value::Array(_)) => Err(ProofError::Audience),
        _ => Err(ProofError::Claim("aud")),
    }
}

fn check_times(claims: &Object, now: Timestamp) -> Result<Timestamp, ProofError> {
    //= rfc7523#section-3
    // The JWT MUST contain an "exp" (expiration time) claim that limits the time window during which the JWT can be used. The
    // authorization server MUST reject any JWT with an expiration time that has passed, subject to allowable clock skew [...]
    // may reject JWTs with an "exp" claim value that is unreasonably far in the future.
    let expires = claims.time("exp")?;
    if now >= expires.plus(crate::token::SKEW) {
        return Err(ProofError::Expired);
    }
    if expires > now.plus(AHEAD_MAX).plus(SKEW) {
        return Err(ProofError::Lifetime);
    }
    //= rfc7523#section-3
    // The JWT MAY contain an "nbf" (not before) claim that identifies the time before which the token MUST NOT be accepted for
    // processing.
    if claims.time_if("nbf")?.is_some_and(|nbf| nbf > now.plus(SKEW)) {
        return Err(ProofError::NotYet);
    }
    //= rfc7523#section-3
    // The JWT MAY contain an "iat" (issued at) claim [...] may reject JWTs with an "iat" claim value that is unreasonably far in
    // the past.
    let plausible = |iat: Timestamp| iat <= now.plus(SKEW) && iat >= now.minus(LIFE_MAX).minus(SKEW);
    if claims.time_if("iat")?.is_some_and(|iat| !plausible(iat)) {
        return Err(ProofError::IssuedAt);
    }
    Ok(expires)
}

/// The `jti`, which we require, so that an assertion proves something once.
pub(crate) fn jti(claims: &Object) -> Result<&str, ProofError> {
    let jti = claims.text("jti")?;
    if (8..=256).contains(&jti.len()) { Ok(jti) } else { Err(ProofError::Claim("jti")) }
}

fn model(claims: &Object) -> Result<Option<String>, ProofError> {
    let model = claims.text_if("model")?;
    let plain = |m: &str| (1..=MODEL_MAX).contains(&m.len()) && m.bytes().all(|b| (0x20..0x7f).contains(&b));
    if model.is_some_and(|m| !plain(m)) {
        return Err(ProofError::Claim("model"));
    }
    Ok(model.map(str::to_owned))
}

/// What our own clients say of themselves.
#[derive(Clone, Debug)]
pub struct Statement<'a> {
    /// The agent's SPIFFE ID: its client id.
    pub client: &'a SpiffeId,
    /// The issuer's URL.
    pub audience: &'a str,
    /// A fresh id.
    pub jti: AssertionId,
    /// The running copy.
    pub instance: Option<InstanceId>,
    /// The model that it runs: 1 to 200 printable ASCII characters.
    pub model: Option<&'a str>,
}

/// Makes an assertion that lives for a minute.
///
/// # Errors
/// `Library` if the cryptographic library fails.
pub fn make(key: &SigningKey, what: &Statement<'_>, now: Timestamp) -> Result<String, KeyError> {
    let issued = now.as_seconds();
    let mut claims = json!({
        "iss": what.client, "sub": what.client, "aud": what.audience, "jti": what.jti,
        "iat": issued, "exp": issued.saturating_add(60),
    });
    if let Some(instance) = what.instance {
        put(&mut claims, "bailiwick_instance", json!(instance));
    }
    if let Some(model) = what.model {
        put(&mut claims, "model", json!(model));
    }
    jws::sign(key, "client-authentication+jwt", &claims)
}

#[cfg(test)]
mod tests;
