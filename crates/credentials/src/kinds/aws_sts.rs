//! AWS STS by web identity: temporary keys for each lease from a JWT of an issuer of our own (`AssumeRoleWithWebIdentity`), so that no key of AWS is stored at all;
//! narrowed by a session policy, named after the task, and never revoked, because AWS cannot revoke one session.
//!
//! What rules this file. The ending is `expires-at`, always. A session without a policy has all of its role, so a plan without rights is refused. The session's name
//! is the task's id, exactly: what does not fit is refused and not cut, or two tasks would be one in CloudTrail. AWS takes RS256 and ES256 and no `EdDSA`.
//! A lease is at least 900 seconds long there, whatever the task needs.

mod sigv4;
mod xml;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{Clock, Timestamp};
use hyper::Method;
use hyper::header::{ACCEPT, USER_AGENT};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::connection::within;
use super::signing::{Key, random_id};
use super::web::{Endpoint, Form, Question, Reply, SecretText, clean};
use crate::Secret;
use crate::lease::{
    Account, AccountName, Ending, Evidence, Finding, Found, Kind, Minted, Plan, Prefix, Step, Tag, TargetCode, TargetError, TargetIds,
};
pub use sigv4::{Request, SignError, Signed, sign};
use xml::Element;

const RIGHTS_MAX: usize = 64;
const STATEMENTS_MAX: usize = 32;
/// AWS's own limit of a session policy.
const POLICY_MAX: usize = 2048;
/// AWS's own shortest and longest session.
const SESSION_MIN: Duration = Duration::from_secs(900);
const SESSION_MAX: Duration = Duration::from_secs(43_200);
/// A token that says who we are is good for one request.
const ASSERTION_LIFE: Duration = Duration::from_secs(300);
const VERSION: &[u8] = b"2011-06-15";

/// Who signs tokens that say who we are. AWS is told its URL once, as an OpenID Connect provider of the account.
pub trait Issuer: Send + Sync + fmt::Debug {
    /// A JWT of ours with `iss`, this `aud` and `sub`, `exp` after `life`, signed by RS256 or ES256 with a key of the issuer's key set. The task may
    /// stand in a claim of its own. `None` if it cannot be signed.
    fn assertion(&self, audience: &str, subject: &str, task: &str, life: Duration) -> Option<Secret>;
}

/// An issuer with one key.
#[derive(Debug)]
pub struct WebIdentity {
    issuer: String,
    kid: String,
    key: Arc<Key>,
    clock: Arc<dyn Clock>,
}

impl WebIdentity {
    /// `issuer` is the URL where AWS finds `/.well-known/openid-configuration`, whose key set has [`Key::public_jwk`] under `kid`.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if the URL is no `https://` URL, or the key is neither RSA nor EC P-256.
    pub fn new(issuer: &str, kid: &str, key: impl Into<Arc<Key>>, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        let wrong = |what: &str| Err(TargetError::new(TargetCode::Plan, Step::Connect, "", what));
        let key: Arc<Key> = key.into();
        let url =
            issuer.strip_prefix("https://").is_some_and(|rest| !rest.is_empty()) && issuer.len() <= 255 && !issuer.contains(['?', '#', '@', ' ']);
        if !url || !(1..=128).contains(&kid.len()) {
            return wrong("expected an issuer `https://HOST/PATH` of at most 255 characters, and a key's name of at most 128");
        }
        if key.algorithm() == "EdDSA" {
            return wrong("AWS takes tokens signed by RSA or EC P-256 only");
        }
        Ok(Self { issuer: issuer.to_owned(), kid: kid.to_owned(), key, clock })
    }
}

impl Issuer for WebIdentity {
    fn assertion(&self, audience: &str, subject: &str, task: &str, life: Duration) -> Option<Secret> {
        let now = self.clock.now();
        let claims = json!({
            "iss": self.issuer, "aud": audience, "sub": subject, "task_id": task, "jti": random_id().ok()?,
            "iat": now.minus(Duration::from_secs(5)).as_seconds(), "exp": now.plus(life).as_seconds(),
        });
        self.key.sign(Some(&self.kid), &claims).ok()
    }
}

/// A role, and what leases may have of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The regional endpoint: `https://sts.REGION.amazonaws.com`.
    pub endpoint: Endpoint,
    /// The region that requests are signed for.
    pub region: String,
    /// The role: `arn:aws:iam::ACCOUNT:role/NAME`.
    pub role: String,
    /// The audience that the provider is configured with at AWS.
    pub audience: String,
    /// Who we say we are: what the role's trust policy compares with `sub`.
    pub subject: String,
    /// The rights that a plan may ask for, each a list of statements of a policy. A session has what the role *and* one of them allow.
    pub rights: BTreeMap<String, Vec<Value>>,
    /// No session is longer; the role's own limit must allow it.
    pub session_max: Duration,
}

impl Settings {
    /// Is each setting within its range?
    ///
    /// # Errors
    /// [`TargetCode::Plan`], with what was expected.
    pub fn check(&self) -> Result<(), TargetError> {
        let wrong = |what: &str| Err(TargetError::new(TargetCode::Plan, Step::Connect, "", what));
        if !is_role(&self.role) {
            return wrong("expected a role of the form `arn:aws:iam::123456789012:role/NAME`");
        }
        if !self.endpoint.is_base() {
            return wrong("the endpoint's URL has no query");
        }
        if self.region.is_empty() || self.region.len() > 32 || !self.region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return wrong("expected a region such as `eu-central-1`");
        }
        if ![&self.audience, &self.subject].iter().all(|text| (1..=255).contains(&text.len()) && text.bytes().all(|b| (0x21..=0x7e).contains(&b))) {
            return wrong("expected an audience and a subject of 1 to 255 visible characters of ASCII");
        }
        if self.rights.is_empty() || self.rights.len() > RIGHTS_MAX || !self.rights.values().all(|right| are_statements(right)) {
            return wrong(
                "expected 1 to 64 rights, each with 1 to 32 statements that have `Effect`, `Action` and `Resource`, at least one of them `Allow`",
            );
        }
        if !(SESSION_MIN..=SESSION_MAX).contains(&self.session_max) {
            return wrong("expected sessions of 15 minutes to 12 hours");
        }
        Ok(())
    }
}

/// Sessions of one role.
pub struct AwsSts {
    settings: Settings,
    issuer: Arc<dyn Issuer>,
    clock: Arc<dyn Clock>,
}

/// Temporary keys. Each of the three is a secret of its own.
pub struct Keys {
    /// The access key's id, `ASIA..`.
    pub access_key_id: Secret,
    /// What requests are signed with.
    pub secret_access_key: Secret,
    /// What goes along with each request.
    pub session_token: Secret,
}

impl Keys {
    /// From what [`Kind::mint`] gave. `None` if it is none.
    #[must_use]
    pub fn parse(secret: &Secret) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Text {
            access_key_id: SecretText,
            secret_access_key: SecretText,
            session_token: SecretText,
        }
        let text: Text = serde_json::from_slice(secret.expose()).ok()?;
        Some(Self {
            access_key_id: text.access_key_id.into_token()?,
            secret_access_key: text.secret_access_key.into_token()?,
            session_token: text.session_token.into_token()?,
        })
    }

    /// The three as one.
    fn to_secret(&self) -> Secret {
        // None of them has a character that JSON escapes: `Keys::given` looked.
        let parts = [
            b"{\"access_key_id\":\"".as_slice(),
            self.access_key_id.expose(),
            b"\",\"secret_access_key\":\"",
            self.secret_access_key.expose(),
            b"\",\"session_token\":\"",
            self.session_token.expose(),
            b"\"}",
        ];
        Secret::from(Zeroizing::new(parts.concat()))
    }

    fn given(credentials: &Element) -> Option<Self> {
        let text = |name| {
            let text = credentials.child(name)?.text();
            let fits = (16..=16 << 10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/+=_.:-%".contains(&b));
            fits.then(|| Secret::from(Zeroizing::new(text.as_bytes().to_vec())))
        };
        Some(Self { access_key_id: text("AccessKeyId")?, secret_access_key: text("SecretAccessKey")?, session_token: text("SessionToken")? })
    }

    fn each(&self) -> [&Secret; 3] {
        [&self.session_token, &self.secret_access_key, &self.access_key_id]
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl AwsSts {
    /// A role as it is configured. Nothing is connected yet.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if a setting is out of its range.
    pub fn new(settings: Settings, issuer: Arc<dyn Issuer>, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        settings.check()?;
        Ok(Self { settings, issuer, clock })
    }

    /// The session policy: the statements of each right of the plan.
    fn policy(&self, rights: &BTreeSet<&String>) -> Result<String, TargetError> {
        let wrong = |what: &str| TargetError::new(TargetCode::Plan, Step::Mint, "", what);
        let mut statements: Vec<&Value> = Vec::new();
        for name in rights {
            statements.extend(self.settings.rights.get(*name).ok_or_else(|| wrong(&format!("`{name}` is none of the configured rights")))?);
        }
        if statements.is_empty() {
            return Err(wrong("a session without a policy would have all of its role"));
        }
        let policy = json!({ "Version": "2012-10-17", "Statement": statements }).to_string();
        if policy.len() > POLICY_MAX { Err(wrong("the rights together are longer than the 2048 characters of a session policy")) } else { Ok(policy) }
    }

    async fn mint_session(&self, rights: &BTreeSet<&String>, tag: &Tag) -> Result<Minted, TargetError> {
        let policy = self.policy(rights)?;
        if !is_session_name(&tag.task) {
            let what = "the task's id cannot name a session: 2 to 64 letters, digits and `_=,.@-`";
            return Err(TargetError::new(TargetCode::Plan, Step::Mint, "", what));
        }
        let asked = self.clock.now().until(tag.expires_at).clamp(SESSION_MIN, self.settings.session_max);
        let asked = Duration::from_secs(asked.as_secs());
        let assertion = self.issuer.assertion(&self.settings.audience, &self.settings.subject, &tag.task, ASSERTION_LIFE);
        let assertion = assertion.ok_or_else(|| TargetError::new(TargetCode::Internal, Step::Mint, "", "our issuer signs nothing"))?;
        let form = Form::new()
            .and("Action", b"AssumeRoleWithWebIdentity")
            .and("Version", VERSION)
            .and("RoleArn", self.settings.role.as_bytes())
            .and("RoleSessionName", tag.task.as_bytes())
            .and("DurationSeconds", asked.as_secs().to_string().as_bytes())
            .and("Policy", policy.as_bytes())
            .and("WebIdentityToken", assertion.expose());
        let question = Question::new(Method::POST, "/").header(ACCEPT, "text/xml").header(USER_AGENT, &tag.connection_name(200)).form(form);
        let reply = self.settings.endpoint.ask(Step::Mint, question).await?;
        if reply.status != 200 {
            return Err(self.refusal(Step::Mint, &reply, &[&assertion]));
        }
        self.session(&reply, &tag.task, asked)
    }

    fn session(&self, reply: &Reply, task: &str, asked: Duration) -> Result<Minted, TargetError> {
        let protocol = |what: &str| TargetError::new(TargetCode::Protocol, Step::Mint, self.settings.endpoint.name(), what);
        let answer = Element::parse(&reply.body).filter(|answer| answer.name() == "AssumeRoleWithWebIdentityResponse");
        let answer = answer.ok_or_else(|| protocol("the answer is none to the question"))?;
        let result = answer.child("AssumeRoleWithWebIdentityResult").ok_or_else(|| protocol("the answer has no result"))?;
        let user = result.child("AssumedRoleUser").and_then(|user| user.child("Arn")).map(Element::text).unwrap_or_default();
        if !user.starts_with("arn:") || user.rsplit_once('/').is_none_or(|(_, session)| session != task) {
            return Err(protocol("the session has another name than was asked for"));
        }
        let credentials = result.child("Credentials").ok_or_else(|| protocol("the answer has no credentials"))?;
        let keys = Keys::given(credentials).ok_or_else(|| protocol("the credentials are none"))?;
        let expires_at = credentials
            .child("Expiration")
            .and_then(|text| Timestamp::parse(text.text()).ok())
            .ok_or_else(|| protocol("the answer has no expiry"))?;
        if expires_at > self.clock.now().plus(asked.saturating_add(Duration::from_secs(300))) {
            return Err(protocol("the session is longer than was asked for"));
        }
        Ok(Minted { ids: TargetIds::one("session", user), secret: Some(keys.to_secret()), expires_at: Some(expires_at) })
    }

    /// Asks AWS who these keys are (`GetCallerIdentity`, which needs no permission and which no policy denies).
    async fn who(&self, keys: &Keys) -> Result<Result<String, String>, TargetError> {
        let form = Form::new().and("Action", b"GetCallerIdentity").and("Version", VERSION);
        let path = format!("{}/", self.settings.endpoint.path());
        let request = Request {
            method: "POST",
            host: self.settings.endpoint.authority(),
            path: &path,
            query: &[],
            headers: &[("content-type", "application/x-www-form-urlencoded")],
            body: form.bytes(),
            region: &self.settings.region,
            service: "sts",
        };
        let signed =
            sign(&request, keys, self.clock.now()).map_err(|error| TargetError::new(TargetCode::Internal, Step::Verify, "", &error.to_string()))?;
        let question = signed
            .headers()
            .into_iter()
            .fold(Question::new(Method::POST, "/").header(ACCEPT, "text/xml"), |question, (name, value)| question.secret_header(name, value));
        let reply = self.settings.endpoint.ask(Step::Verify, question.form(form)).await?;
        let answer = Element::parse(&reply.body);
        match (reply.status, answer) {
            (200, Some(answer)) if answer.name() == "GetCallerIdentityResponse" => {
                let arn = answer.child("GetCallerIdentityResult").and_then(|result| result.child("Arn")).map(Element::text).unwrap_or_default();
                Ok(Ok(clean(arn, &keys.each())))
            }
            (400 | 403, Some(answer))
                if matches!(error_code(&answer), "ExpiredToken" | "ExpiredTokenException" | "InvalidClientTokenId" | "SignatureDoesNotMatch") =>
            {
                Ok(Err(words(reply.status, Some(&answer), &keys.each())))
            }
            _ => Err(self.refusal(Step::Verify, &reply, &keys.each())),
        }
    }

    fn refusal(&self, step: Step, reply: &Reply, secrets: &[&Secret]) -> TargetError {
        let answer = Element::parse(&reply.body);
        let code = match answer.as_ref().map(error_code).unwrap_or_default() {
            "MalformedPolicyDocument" | "PackedPolicyTooLarge" | "ValidationError" => TargetCode::Plan,
            "AccessDenied" => TargetCode::Privilege,
            "IDPRejectedClaim" | "InvalidIdentityToken" | "ExpiredTokenException" | "RegionDisabledException" => TargetCode::Refused,
            "IDPCommunicationError" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded" => TargetCode::Busy,
            _ => reply.code(),
        };
        TargetError::new(code, step, self.settings.endpoint.name(), &words(reply.status, answer.as_ref(), secrets))
    }

    /// AWS has no way to revoke one session: what is left is to say so, and until when, and whether it is taken now.
    async fn end_session(&self, account: &Account) -> Ending {
        let mut evidence = Evidence::default();
        let node = self.settings.endpoint.name();
        let keys = account.secret.as_ref().and_then(Keys::parse);
        let saw = match &keys {
            None => "the keys are not known: the answer was lost, or they were never made".to_owned(),
            Some(keys) => match self.who(keys).await {
                Ok(Ok(arn)) => format!("AWS cannot revoke a session: this one is accepted until it expires, as {arn}"),
                Ok(Err(words)) => format!("the session is refused: {words}"),
                Err(error) => format!("AWS cannot revoke a session, and whether this one is still accepted could not be asked: {error}"),
            },
        };
        evidence.saw(node, Step::Verify, self.clock.now(), &saw, account.secret.as_ref());
        let at = account.expires_at.unwrap_or_else(|| self.clock.now().plus(self.settings.session_max));
        Ending::ExpiresAt { at, evidence }
    }

    /// A session of each right is made, and used to ask who it is.
    async fn try_rights(&self) -> Result<Vec<Finding>, TargetError> {
        let node = self.settings.endpoint.name().to_owned();
        let mut findings = Vec::new();
        for name in self.settings.rights.keys() {
            let tag = Tag { task: "preflight".to_owned(), agent: "bailiwick".to_owned(), expires_at: self.clock.now().plus(SESSION_MIN) };
            let tried = async {
                let minted = self.mint_session(&BTreeSet::from([name]), &tag).await?;
                let keys = minted.secret.as_ref().and_then(Keys::parse);
                let keys = keys.ok_or_else(|| TargetError::new(TargetCode::Internal, Step::Mint, "", "keys of our own cannot be read"))?;
                self.who(&keys).await
            };
            let (missing, remedy) = match tried.await {
                Ok(Ok(arn)) if arn.ends_with("/preflight") => continue,
                Ok(Ok(arn)) => (format!("a session of `{name}` is somebody else: {arn}"), "name the role's own account and region".to_owned()),
                Ok(Err(words)) => (format!("a session of `{name}` is refused: {words}"), "name the region of the endpoint".to_owned()),
                Err(error) if error.is_transient() || error.code() == TargetCode::Internal => return Err(error),
                Err(error) => {
                    let who = format!("audience `{}`, subject `{}`", self.settings.audience, self.settings.subject);
                    let remedy = format!(
                        "make our issuer an OpenID Connect provider of the account, and let the trust policy of {} allow {who}",
                        self.settings.role
                    );
                    (format!("no session for the right `{name}`: {error}"), remedy)
                }
            };
            findings.push(Finding { node: node.clone(), missing, remedy });
        }
        Ok(findings)
    }
}

#[async_trait::async_trait]
impl Kind for AwsSts {
    fn kind(&self) -> &'static str {
        "aws_sts"
    }

    /// AWS makes the keys.
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        Ok(None)
    }

    /// Its sessions live for 15 minutes: nothing ends them, and nobody keeps their keys.
    async fn preflight(&self, _probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
        within(Step::Verify, self.try_rights()).await
    }

    /// Called again, it makes other keys for a session of the same name. Those of a lost answer are known to nobody.
    async fn mint(&self, plan: &Plan, secret: Option<&Secret>) -> Result<Minted, TargetError> {
        if secret.is_some() {
            return Err(TargetError::new(TargetCode::Plan, Step::Mint, "", "AWS makes the keys itself"));
        }
        within(Step::Mint, self.mint_session(&plan.rights.iter().collect(), &plan.tag)).await
    }

    /// `expires-at`, always.
    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        within(Step::Verify, async { Ok(self.end_session(account).await) }).await
    }

    /// None: AWS lists no sessions.
    async fn list(&self, _prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        Ok(Vec::new())
    }
}

impl fmt::Debug for AwsSts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsSts").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn error_code(answer: &Element) -> &str {
    answer.child("Error").and_then(|error| error.child("Code")).map(Element::text).unwrap_or_default()
}

fn words(status: u16, answer: Option<&Element>, secrets: &[&Secret]) -> String {
    if matches!(status, 300..=399) {
        return format!("status {status}: a redirect, which is never followed");
    }
    let error = answer.and_then(|answer| answer.child("Error"));
    let said = |name| error.and_then(|error| error.child(name)).map(Element::text).unwrap_or_default();
    clean(&format!("status {status} {}: {}", said("Code"), said("Message")), secrets)
}

fn is_role(arn: &str) -> bool {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let [a, partition, service, region, account, role] = parts.as_slice() else { return false };
    let name = role.strip_prefix("role/").unwrap_or_default();
    *a == "arn"
        && matches!(*partition, "aws" | "aws-cn" | "aws-us-gov")
        && *service == "iam"
        && region.is_empty()
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
        && (1..=512).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_/-".contains(&b))
}

/// AWS's own rule: `[\w+=,.@-]{2,64}`.
fn is_session_name(name: &str) -> bool {
    (2..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b))
}

/// A statement grants or denies something on something; one that says less would mean more.
fn are_statements(statements: &[Value]) -> bool {
    let listed = |value: Option<&Value>| match value {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(texts)) => !texts.is_empty() && texts.iter().all(|text| text.as_str().is_some_and(|text| !text.is_empty())),
        _ => false,
    };
    let effect = |statement: &Value| statement.get("Effect").and_then(Value::as_str).unwrap_or_default().to_owned();
    let whole = |statement: &Value| {
        matches!(effect(statement).as_str(), "Allow" | "Deny") && listed(statement.get("Action")) && listed(statement.get("Resource"))
    };
    (1..=STATEMENTS_MAX).contains(&statements.len())
        && statements.iter().all(whole)
        && statements.iter().any(|statement| effect(statement) == "Allow")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_a_session_and_a_statement_are_what_aws_says_they_are() {
        assert!(is_role("arn:aws:iam::123456789012:role/path/agents") && is_role("arn:aws-cn:iam::123456789012:role/a"));
        for bad in [
            "",
            "agents",
            "arn:aws:iam::123456789012:user/a",
            "arn:aws:iam::12345678901x:role/a",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:sts:eu:123456789012:role/a",
            "arn:aws:iam::123456789012:role/a:b",
        ] {
            assert!(!is_role(bad), "{bad}");
        }
        assert!(is_session_name("task_0190c5a0b1c2d3e4f5061728394a5b6c") && is_session_name(&"a".repeat(64)));
        for bad in ["", "a", "a b", "task/1", "t\u{e4}sk", &"a".repeat(65)] {
            assert!(!is_session_name(bad), "{bad}");
        }
        let statement = |value: Value| are_statements(&[value]);
        assert!(statement(json!({ "Effect": "Allow", "Action": "s3:GetObject", "Resource": ["arn:aws:s3:::a/*"] })));
        for bad in [
            json!({ "Effect": "Allow", "Action": "s3:GetObject" }),
            json!({ "Effect": "Allow", "NotAction": "s3:GetObject", "Resource": "*" }),
            json!({ "Effect": "allow", "Action": "s3:GetObject", "Resource": "*" }),
            json!({ "Effect": "Allow", "Action": [], "Resource": "*" }),
            json!({ "Effect": "Deny", "Action": "*", "Resource": "*" }),
            json!("Allow"),
        ] {
            assert!(!statement(bad.clone()), "{bad}");
        }
        assert!(!are_statements(&[]));
    }

    #[test]
    fn keys_are_read_back_and_not_shown() {
        let secret = |text: &str| Secret::from(text.to_owned());
        let keys = Keys {
            access_key_id: secret("ASIA0123456789ABCDEF"),
            secret_access_key: secret("a/b+c=0123456789"),
            session_token: secret("IQoJ0123456789+/=="),
        };
        let read = Keys::parse(&keys.to_secret()).unwrap();
        assert!(keys.each().iter().zip(read.each()).all(|(a, b)| a.expose() == b.expose()));
        assert_eq!(format!("{read:?}"), "Keys(..)");
        for bad in [
            "",
            "{}",
            "{\"access_key_id\":\"a\",\"secret_access_key\":\"b\"}",
            "{\"access_key_id\":\"a\",\"secret_access_key\":\"b\",\"session_token\":\"c d\"}",
        ] {
            assert!(Keys::parse(&secret(bad)).is_none(), "{bad}");
        }
    }
}
