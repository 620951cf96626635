//! A request to the token endpoint and its answer (RFC 6749 sections 2.3, 4.4, 5 and 6, RFC 7523), and one to the revocation endpoint (RFC 7009).

use std::collections::BTreeSet;
use std::time::Duration;

use aws_lc_rs::digest;
use bailiwick_core::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use hyper::header::{AUTHORIZATION, USER_AGENT};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Inner, Login};
use crate::Secret;
use crate::kinds::signing::random_id;
use crate::kinds::web::{Form, Question, Reply, SecretText, form_encode};
use crate::lease::{Step, TargetCode, TargetError};

/// How long an assertion of ours may be used.
const ASSERTION_LIFE: i64 = 60;
/// Our clock may be ahead of the server's by this much.
const BACK_DATED: i64 = 5;
/// What stands in errors of OAuth (RFC 6749 section 5.2).
pub(super) const PLACES: [&str; 2] = ["/error", "/error_description"];
/// No token lives longer than ten years, whatever a server says.
const EXPIRES_MAX: u64 = 10 * 366 * 86_400;

/// An access token as it was given.
pub(super) struct Token {
    pub(super) secret: Secret,
    pub(super) expires_at: Option<Timestamp>,
}

/// What came with status 200. Whatever is wrong with the access token, a refresh token that came with it is to be kept first.
pub(super) struct Answered {
    /// The refresh token that replaces the one that was sent.
    pub(super) refresh: Option<Secret>,
    access: Option<Token>,
    wrong: Option<TargetError>,
}

impl Answered {
    /// The access token, unless something is wrong with it: then it is revoked, as far as that can be.
    pub(super) async fn access(self, inner: &Inner) -> Result<Token, TargetError> {
        match (self.access, self.wrong) {
            (Some(token), None) => Ok(token),
            (token, wrong) => {
                if let Some(token) = token {
                    drop(revoke(inner, Step::Mint, &token.secret).await);
                }
                Err(wrong.unwrap_or_else(|| self::wrong(inner, TargetCode::Protocol, "the token cannot stand in a header")))
            }
        }
    }
}

/// Why there is no token.
pub(super) enum Refused {
    /// `invalid_grant`: what the token was to be made from is not honoured.
    Grant(TargetError),
    /// Everything else.
    Other(TargetError),
}

impl From<Refused> for TargetError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Grant(error) | Refused::Other(error) => error,
        }
    }
}

/// Section 5.1.
#[derive(Deserialize)]
struct Granted {
    access_token: SecretText,
    token_type: String,
    expires_in: Option<Seconds>,
    scope: Option<String>,
}

/// What replaces a refresh token, of the same answer.
#[derive(Deserialize)]
struct Replaced {
    refresh_token: Option<SecretText>,
}

/// A number of seconds; some servers write it as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl Seconds {
    fn count(&self) -> Option<Duration> {
        let seconds = match self {
            Self::Number(seconds) => *seconds,
            Self::Text(text) => text.parse().ok()?,
        };
        Some(Duration::from_secs(seconds.min(EXPIRES_MAX)))
    }
}

pub(super) async fn client_credentials(inner: &Inner, scopes: &BTreeSet<String>, agent: &str) -> Result<Token, TargetError> {
    let form = Form::new().and("grant_type", b"client_credentials");
    ask(inner, form, scopes, agent, None).await?.access(inner).await
}

pub(super) async fn refresh(inner: &Inner, refresh: &Secret, scopes: &BTreeSet<String>, agent: &str) -> Result<Answered, Refused> {
    let form = Form::new().and("grant_type", b"refresh_token").and("refresh_token", refresh.expose());
    ask(inner, form, scopes, agent, Some(refresh)).await
}

async fn ask(inner: &Inner, form: Form, scopes: &BTreeSet<String>, agent: &str, refresh: Option<&Secret>) -> Result<Answered, Refused> {
    let asked: Vec<&str> = scopes.iter().map(String::as_str).collect();
    let mut form = form.and("scope", asked.join(" ").as_bytes());
    for resource in &inner.settings.resources {
        form = form.and("resource", resource.as_bytes());
    }
    let question = Question::new(Method::POST, "").header(USER_AGENT, agent);
    let known = log_in(inner, question, form).map_err(Refused::Other)?;
    let reply = inner.settings.token.ask(Step::Mint, known.question.form(known.form)).await.map_err(Refused::Other)?;
    if reply.status != 200 {
        return Err(refusal(inner, &reply, refresh.into_iter().chain(known.assertion.as_ref())));
    }
    Ok(granted(inner, &reply, refresh, scopes))
}

fn granted(inner: &Inner, reply: &Reply, sent: Option<&Secret>, scopes: &BTreeSet<String>) -> Answered {
    // Whatever else is wrong with the answer, what replaces our refresh token is in no other.
    let refresh = reply.json::<Replaced>().and_then(|answer| answer.refresh_token).and_then(SecretText::into_token);
    let refresh = refresh.filter(|fresh| sent.is_some_and(|sent| sent.expose() != fresh.expose()));
    let Some(answer) = reply.json::<Granted>() else {
        let wrong = wrong(inner, TargetCode::Protocol, "the answer is no token response");
        return Answered { refresh, access: None, wrong: Some(wrong) };
    };
    let life = answer.expires_in.as_ref().and_then(Seconds::count).or(inner.settings.lifetime_max);
    let expires_at = life.map(|life| inner.clock.now().plus(life));
    //= rfc6749#section-5.1
    // scope: OPTIONAL, if identical to the scope requested by the client; otherwise, REQUIRED.
    let wider = answer.scope.is_some_and(|scope| scope.split(' ').any(|one| !one.is_empty() && !scopes.contains(one)));
    let wrong = if !answer.token_type.eq_ignore_ascii_case("bearer") {
        Some(wrong(inner, TargetCode::Unsupported, "the server gives tokens that are no bearer tokens"))
    } else if wider {
        Some(wrong(inner, TargetCode::Plan, "the server gives a wider scope than was asked for"))
    } else {
        None
    };
    let access = answer.access_token.into_token().map(|secret| Token { secret, expires_at });
    Answered { refresh, access, wrong }
}

/// A question that says who asks.
pub(super) struct Known {
    pub(super) question: Question,
    pub(super) form: Form,
    /// What was signed for it.
    pub(super) assertion: Option<Secret>,
}

fn log_in(inner: &Inner, question: Question, form: Form) -> Result<Known, TargetError> {
    log_in_as(&inner.login, &inner.settings.client_id, inner.clock.now(), question, form)
}

/// Adds what proves who we are.
pub(super) fn log_in_as(login: &Login, client_id: &str, now: Timestamp, question: Question, form: Form) -> Result<Known, TargetError> {
    let id = client_id.as_bytes();
    let known = |question, form| Known { question, form, assertion: None };
    Ok(match login {
        Login::Public => known(question, form.and("client_id", id)),
        Login::Post(secret) => known(question, form.and("client_id", id).and("client_secret", secret.expose())),
        Login::Basic(secret) => {
            //= rfc6749#section-2.3.1
            // The client identifier is encoded using the "application/x-www-form-urlencoded" encoding algorithm per Appendix B, and the encoded value is used as
            // the username; the client password is encoded using the same algorithm and used as the password.
            let mut pair = Zeroizing::new(Vec::with_capacity(id.len().saturating_add(secret.expose().len()).saturating_mul(3).saturating_add(1)));
            form_encode(id, &mut pair);
            pair.push(b':');
            form_encode(secret.expose(), &mut pair);
            let value = Zeroizing::new(format!("Basic {}", Zeroizing::new(STANDARD.encode(pair.as_slice())).as_str()));
            known(question.secret_header(AUTHORIZATION, value.as_bytes()), form)
        }
        Login::PrivateKeyJwt { key, kid, audience } => {
            let now = now.as_seconds();
            let claims = json!({
                "iss": client_id, "sub": client_id, "aud": audience, "jti": random_id()?,
                "iat": now.saturating_sub(BACK_DATED), "exp": now.saturating_add(ASSERTION_LIFE),
            });
            let assertion = key.sign(kid.as_deref(), &claims)?;
            let form = form.and("client_id", id).and("client_assertion_type", b"urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
            Known { question, form: form.and("client_assertion", assertion.expose()), assertion: Some(assertion) }
        }
    })
}

/// Section 5.2. Its words are the server's own, without what we sent.
fn refusal<'a>(inner: &'a Inner, reply: &Reply, sent: impl Iterator<Item = &'a Secret>) -> Refused {
    let secrets: Vec<&Secret> = sent.chain(inner.login.secret()).collect();
    let said: serde_json::Value = reply.json().unwrap_or_default();
    let error = said.get("error").and_then(serde_json::Value::as_str).unwrap_or_default();
    let code = match (reply.status, error) {
        (400 | 401 | 403, "invalid_grant" | "invalid_client" | "unauthorized_client" | "access_denied") => TargetCode::Refused,
        (400..=403, "invalid_scope" | "invalid_target" | "invalid_request" | "unsupported_grant_type") => TargetCode::Plan,
        (400..=403, "temporarily_unavailable" | "server_error" | "slow_down") => TargetCode::Busy,
        _ => reply.code(),
    };
    let error = TargetError::new(code, Step::Mint, inner.settings.token.name(), &reply.words(&PLACES, &secrets));
    if matches!(reply.status, 400 | 401) && said.get("error").is_some_and(|error| error == "invalid_grant") {
        Refused::Grant(error)
    } else {
        Refused::Other(error)
    }
}

impl Login {
    /// What is sent as it is.
    pub(super) const fn secret(&self) -> Option<&Secret> {
        match self {
            Self::Basic(secret) | Self::Post(secret) => Some(secret),
            Self::PrivateKeyJwt { .. } | Self::Public => None,
        }
    }
}

/// What a revocation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Revocation {
    /// It was answered 200, which says that it was understood and nothing more.
    Answered,
    /// There is no endpoint, or it does not revoke such tokens.
    None(String),
}

pub(super) async fn revoke(inner: &Inner, step: Step, token: &Secret) -> Result<Revocation, TargetError> {
    let Some(endpoint) = &inner.settings.revocation else { return Ok(Revocation::None("no revocation endpoint is configured".to_owned())) };
    let form = Form::new().and("token", token.expose()).and("token_type_hint", b"access_token");
    let known = log_in(inner, Question::new(Method::POST, ""), form)?;
    let reply = endpoint.ask(step, known.question.form(known.form)).await?;
    let secrets: Vec<&Secret> = [token].into_iter().chain(known.assertion.as_ref()).chain(inner.login.secret()).collect();
    let said: serde_json::Value = reply.json().unwrap_or_default();
    match (reply.status, said.get("error").and_then(serde_json::Value::as_str).unwrap_or_default()) {
        //= rfc7009#section-2.2
        // The authorization server responds with HTTP status code 200 if the token has been revoked successfully or if the client submitted an invalid token.
        (200, _) => Ok(Revocation::Answered),
        (400 | 401, "unsupported_token_type") => Ok(Revocation::None("the server does not revoke tokens of this type".to_owned())),
        _ => Err(TargetError::new(reply.code(), step, endpoint.name(), &reply.words(&PLACES, &secrets))),
    }
}

fn wrong(inner: &Inner, code: TargetCode, what: &str) -> TargetError {
    TargetError::new(code, Step::Mint, inner.settings.token.name(), what)
}

/// A token's name in our own words: the beginning of its SHA-256.
pub(super) fn fingerprint(token: &Secret) -> String {
    let digest = digest::digest(&digest::SHA256, token.expose());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
