//! A GitHub App: an installation token for each lease, for named repositories and permissions only; revoked by itself, and then tried.
//!
//! What rules this file. A token comes in two forms, 40 opaque characters and `ghs_<app>_<jwt>` of about 520 with dots, so a token is never parsed, and nothing is
//! as short as it was. A request without repositories or permissions gives all that the installation has, so both must be named. Permissions hold for
//! every repository of a token, so rights for different repositories never share one. A token lives an hour, and GitHub lists none: one whose answer
//! was lost is known to nobody and dead after that hour. It is revoked with itself; that it was taken then is the proof that it was alive.

mod ending;
mod preflight;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use bailiwick_core::{Clock, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use hyper::header::{ACCEPT, HeaderName, USER_AGENT};
use serde::Deserialize;
use serde_json::json;

use super::connection::within;
use super::signing::Key;
use super::web::{Endpoint, Question, Reply, SecretText};
use crate::Secret;
use crate::lease::{Account, AccountName, Ending, Finding, Found, Kind, Minted, Plan, Prefix, Step, TargetCode, TargetError, TargetIds};

const RIGHTS_MAX: usize = 64;
/// GitHub's own limit of a token.
const REPOSITORIES_MAX: usize = 500;
const PERMISSIONS_MAX: usize = 64;
/// The answer describes each repository at length.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// An installation token lives this long, and never longer.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// An app's JWT may live ten minutes; ours is dated back by one, for clocks that differ.
const JWT_LIFE: i64 = 540;
const BACK_DATED: i64 = 60;
/// The word under which the token's SHA-256 is remembered: what GitHub's audit log calls `hashed_token`.
const HASHED: &str = "hashed_token";

/// What a right lets a token do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// Names of repositories, without their owner. At least one.
    pub repositories: BTreeSet<String>,
    /// Permissions, such as `contents`, and how far: `read`, `write` or `admin`. At least one.
    pub permissions: BTreeMap<String, Level>,
}

/// How far a permission goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Look.
    Read,
    /// Change.
    Write,
    /// Govern.
    Admin,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// Which of its two forms GitHub is told to give a token. Both are honoured alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `ghs_` and 36 characters.
    Opaque,
    /// `ghs_<app>_<jwt>`.
    Stateless,
}

/// An app's installation, and what leases may have there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The REST API: `https://api.github.com`, or `https://HOST/api/v3` of an Enterprise Server.
    pub api: Endpoint,
    /// The app's client id.
    pub client_id: String,
    /// The installation.
    pub installation: u64,
    /// The rights that a plan may ask for, by name.
    pub rights: BTreeMap<String, Right>,
    /// `None`: as GitHub likes.
    pub form: Option<Form>,
}

impl Settings {
    /// Is each setting within its range?
    ///
    /// # Errors
    /// [`TargetCode::Plan`], with what was expected.
    pub fn check(&self) -> Result<(), TargetError> {
        let wrong = |what: &str| Err(TargetError::new(TargetCode::Plan, Step::Connect, "", what));
        if !self.api.is_base() {
            return wrong("the API's URL has no query");
        }
        if !(1..=64).contains(&self.client_id.len()) || !self.client_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.') {
            return wrong("expected the app's client id, such as `Iv23liABCDEFGHIJKLMN`");
        }
        let fits = |right: &Right| {
            (1..=REPOSITORIES_MAX).contains(&right.repositories.len())
                && (1..=PERMISSIONS_MAX).contains(&right.permissions.len())
                && right.repositories.iter().all(|name| is_repository(name))
                && right.permissions.keys().all(|name| name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        };
        if self.rights.is_empty() || self.rights.len() > RIGHTS_MAX || !self.rights.values().all(fits) {
            return wrong("expected 1 to 64 rights, each with 1 to 500 names of repositories without their owner and at least one permission");
        }
        Ok(())
    }
}

/// Tokens of one installation.
pub struct GithubApp {
    settings: Settings,
    key: Key,
    clock: Arc<dyn Clock>,
}

impl GithubApp {
    /// An installation as it is configured; `key` is the app's private key. Nothing is connected yet.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if a setting is out of its range.
    pub fn new(settings: Settings, key: Key, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        settings.check()?;
        if key.algorithm() != "RS256" {
            return Err(TargetError::new(TargetCode::Plan, Step::Connect, "", "an app's private key is an RSA key"));
        }
        Ok(Self { settings, key, clock })
    }

    /// What the plan asks for, in one.
    fn right(&self, plan: &Plan) -> Result<Right, TargetError> {
        let wrong = |what: &str| TargetError::new(TargetCode::Plan, Step::Mint, "", what);
        let mut joined: Option<Right> = None;
        for name in &plan.rights {
            let right = self.settings.rights.get(name).ok_or_else(|| wrong(&format!("`{name}` is none of the configured rights")))?;
            match &mut joined {
                None => joined = Some(right.clone()),
                Some(joined) if joined.repositories != right.repositories => {
                    return Err(wrong("rights for different repositories cannot be in one token: its permissions hold for each of them"));
                }
                Some(joined) => {
                    for (permission, level) in &right.permissions {
                        let had = joined.permissions.entry(permission.clone()).or_insert(*level);
                        *had = (*had).max(*level);
                    }
                }
            }
        }
        joined.ok_or_else(|| wrong("a token without a right would have everything that the installation has"))
    }

    /// A question to the API.
    fn question(method: Method, path: impl Into<String>, agent: &str) -> Question {
        Question::new(method, path)
            .header(ACCEPT, "application/vnd.github+json")
            .header(USER_AGENT, agent)
            .header(HeaderName::from_static("x-github-api-version"), "2022-11-28")
    }

    /// The app's own JWT, for one request.
    fn jwt(&self) -> Result<Secret, TargetError> {
        let now = self.clock.now().as_seconds();
        let claims = json!({ "iat": now.saturating_sub(BACK_DATED), "exp": now.saturating_add(JWT_LIFE), "iss": self.settings.client_id });
        self.key.sign(None, &claims)
    }

    async fn mint_token(&self, right: &Right, agent: &str) -> Result<Minted, TargetError> {
        let permissions: BTreeMap<_, _> = right.permissions.iter().map(|(name, level)| (name, level.word())).collect();
        let jwt = self.jwt()?;
        let mut question = Self::question(Method::POST, format!("/app/installations/{}/access_tokens", self.settings.installation), agent)
            .bearer(&jwt)
            .json(&json!({ "repositories": right.repositories, "permissions": permissions }))
            .at_most(ANSWER_BYTES_MAX);
        if let Some(form) = self.settings.form {
            let stateless = if form == Form::Stateless { "enabled" } else { "disabled" };
            question = question.header(HeaderName::from_static("x-github-stateless-s2s-token"), stateless);
        }
        let reply = self.settings.api.ask(Step::Mint, question).await?;
        if reply.status != 201 {
            return Err(self.refusal(Step::Mint, &reply, &[&jwt]));
        }
        let protocol = |what: &str| TargetError::new(TargetCode::Protocol, Step::Mint, self.settings.api.name(), what);
        let given: Given = reply.json().ok_or_else(|| protocol("the answer is no installation token"))?;
        let narrow = given.is_within(right);
        let token = given.token.into_token().ok_or_else(|| protocol("the token cannot stand in a header"))?;
        if !narrow {
            drop(self.delete(&token).await);
            return Err(protocol("the token is wider than what was asked for, and was revoked"));
        }
        let hashed = STANDARD.encode(digest::digest(&digest::SHA256, token.expose()));
        Ok(Minted { ids: TargetIds::one(HASHED, hashed), secret: Some(token), expires_at: Some(given.expires_at) })
    }

    /// Has the token revoke itself. `false`: it is refused already.
    async fn delete(&self, token: &Secret) -> Result<Result<(), String>, TargetError> {
        let question = Self::question(Method::DELETE, "/installation/token", "bailiwick").bearer(token);
        let reply = self.settings.api.ask(Step::Remove, question).await?;
        match reply.status {
            204 => Ok(Ok(())),
            401 => Ok(Err(reply.words(&["/message"], &[token]))),
            _ => Err(self.refusal(Step::Remove, &reply, &[token])),
        }
    }

    fn refusal(&self, step: Step, reply: &Reply, secrets: &[&Secret]) -> TargetError {
        let code = match reply.status {
            // No such installation, or permissions and repositories that it does not have.
            404 | 422 => TargetCode::Plan,
            _ => reply.code(),
        };
        TargetError::new(code, step, self.settings.api.name(), &reply.words(&["/message"], secrets))
    }
}

/// The answer to a request for a token.
#[derive(Deserialize)]
struct Given {
    token: SecretText,
    expires_at: Timestamp,
    #[serde(default)]
    permissions: BTreeMap<String, Level>,
    repository_selection: Option<String>,
    repositories: Option<Vec<Repository>>,
}

#[derive(Deserialize)]
struct Repository {
    name: String,
}

impl Given {
    /// Nothing beyond the right, but the look at metadata that each token has.
    fn is_within(&self, right: &Right) -> bool {
        let permitted = |(name, level): (&String, &Level)| right.permissions.get(name).is_some_and(|most| level <= most);
        let permissions = self.permissions.iter().all(|given| permitted(given) || (given.0 == "metadata" && *given.1 == Level::Read));
        let named = |repository: &Repository| right.repositories.iter().any(|name| name.eq_ignore_ascii_case(&repository.name));
        let repositories = self.repositories.as_ref().is_some_and(|repositories| repositories.iter().all(named));
        permissions && repositories && self.repository_selection.as_deref() == Some("selected")
    }
}

#[async_trait::async_trait]
impl Kind for GithubApp {
    fn kind(&self) -> &'static str {
        "github_app"
    }

    /// GitHub makes the token.
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        Ok(None)
    }

    async fn preflight(&self, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
        within(Step::Verify, preflight::preflight(self, probe)).await
    }

    /// Called again, it makes another token: GitHub has no name for one. That of a lost answer is known to nobody, and dead after an hour.
    async fn mint(&self, plan: &Plan, secret: Option<&Secret>) -> Result<Minted, TargetError> {
        if secret.is_some() {
            return Err(TargetError::new(TargetCode::Plan, Step::Mint, "", "GitHub makes the token itself"));
        }
        let right = self.right(plan)?;
        within(Step::Mint, self.mint_token(&right, &plan.tag.connection_name(200))).await
    }

    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        within(Step::Remove, ending::end(self, account)).await
    }

    /// None: GitHub lists no tokens.
    async fn list(&self, _prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        Ok(Vec::new())
    }
}

impl fmt::Debug for GithubApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GithubApp").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn is_repository(name: &str) -> bool {
    (1..=100).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) && name != "." && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_wider_than_the_right_is_seen() {
        let right = Right { repositories: ["shop".to_owned()].into(), permissions: [("contents".to_owned(), Level::Read)].into() };
        let given = |permissions: serde_json::Value, selection: &str, repositories: serde_json::Value| {
            let answer = json!({ "token": "ghs_x", "expires_at": "2026-11-23T10:00:00Z", "permissions": permissions, "repository_selection": selection, "repositories": repositories });
            serde_json::from_value::<Given>(answer).is_ok_and(|given| given.is_within(&right))
        };
        let shop = || json!([{ "name": "Shop" }]);
        assert!(given(json!({ "contents": "read", "metadata": "read" }), "selected", shop()));
        assert!(!given(json!({ "contents": "write" }), "selected", shop()));
        assert!(!given(json!({ "contents": "read", "issues": "read" }), "selected", shop()));
        assert!(!given(json!({ "contents": "read", "metadata": "write" }), "selected", shop()));
        assert!(!given(json!({ "contents": "read" }), "all", shop()));
        assert!(!given(json!({ "contents": "read" }), "selected", json!([{ "name": "shop" }, { "name": "salaries" }])));
        assert!(!given(json!({ "contents": "read" }), "selected", json!(null)));
        assert!(!given(json!({ "contents": "everything" }), "selected", shop()));
    }

    #[test]
    fn a_repository_is_a_name_without_an_owner() {
        assert!(is_repository("shop.rs") && is_repository("a-b_c"));
        for bad in ["", "o/shop", "..", "a b", &"a".repeat(101)] {
            assert!(!is_repository(bad), "{bad}");
        }
    }
}
