//! AWS STS: `AssumeRoleWithWebIdentity`, which verifies the token, the trust policy, the session's name, its length and its policy, and `GetCallerIdentity`, which verifies a
//! signature of version 4 by a way of its own.

use std::collections::BTreeMap;
use std::sync::Mutex;

use aws_lc_rs::{digest, hmac};
use serde_json::Value;

use super::github::rfc3339;
use super::jwt::{Pair, number, text, verify};
use super::server::lock;
use super::{Asked, Service, Told, now, random};

/// How the account is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The OpenID Connect provider: its URL, its key and its audience.
    pub issuer: String,
    /// As above.
    pub key: Pair,
    /// As above.
    pub audience: String,
    /// The role and the `sub` that its trust policy demands.
    pub role: String,
    /// As above.
    pub subject: String,
    /// The role's longest session, in seconds.
    pub session_max: i64,
    /// The endpoint's region.
    pub region: String,
}

struct Session {
    secret: String,
    token: String,
    name: String,
    policy: String,
    expires: i64,
}

/// The endpoint.
pub struct Sts {
    settings: Settings,
    sessions: Mutex<BTreeMap<String, Session>>,
    /// How many seconds later it is for sessions than it is.
    pub ahead: Mutex<i64>,
}

impl std::fmt::Debug for Sts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sts(..)")
    }
}

impl Sts {
    /// An account without sessions.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, sessions: Mutex::default(), ahead: Mutex::new(0) }
    }

    /// Name and policy of each session that was given.
    #[must_use]
    pub fn sessions(&self) -> Vec<(String, String)> {
        lock(&self.sessions).values().map(|session| (session.name.clone(), session.policy.clone())).collect()
    }

    fn account(&self) -> &str {
        self.settings.role.split(':').nth(4).unwrap_or_default()
    }

    fn arn(&self, session: &str) -> String {
        let role = self.settings.role.rsplit('/').next().unwrap_or_default();
        format!("arn:aws:sts::{}:assumed-role/{role}/{session}", self.account())
    }

    fn assume(&self, one: &dyn Fn(&str) -> String) -> Told {
        let settings = &self.settings;
        let (name, policy) = (one("RoleSessionName"), one("Policy"));
        if !(2..=64).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b)) {
            return error(400, "ValidationError", "Value at 'roleSessionName' failed to satisfy constraint");
        }
        let Ok(length) = one("DurationSeconds").parse::<i64>() else { return error(400, "ValidationError", "no duration") };
        if !(900..=settings.session_max).contains(&length) {
            return error(400, "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.");
        }
        if policy.len() > 2048 {
            return error(400, "PackedPolicyTooLarge", "Packed policy consumes more than 100% of allotted space");
        }
        let document: Value = serde_json::from_str(&policy).unwrap_or_default();
        if !policy.is_empty() && (document["Version"] != "2012-10-17" || !document["Statement"].is_array()) {
            return error(400, "MalformedPolicyDocument", "Syntax errors in policy.");
        }
        let token = one("WebIdentityToken");
        let Ok((_, claims)) = verify(&token, &settings.key) else {
            return error(400, "InvalidIdentityToken", &format!("Couldn't retrieve verification key from your identity provider for {token}"));
        };
        if text(&claims, "iss") != settings.issuer || text(&claims, "aud") != settings.audience {
            return error(400, "InvalidIdentityToken", "Incorrect token audience");
        }
        if number(&claims, "exp") <= now() || number(&claims, "iat") > now() + 5 {
            return error(400, "ExpiredTokenException", "Token must be issued within the last 24 hours and not be expired");
        }
        if text(&claims, "sub") != settings.subject || one("RoleArn") != settings.role {
            return error(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity");
        }
        let (id, secret, token) = (format!("ASIA{}", random(16).to_uppercase()), random(40), format!("IQoJb3JpZ2lu{}/+==", random(300)));
        let expires = now() + length;
        let answer = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <AssumeRoleWithWebIdentityResult>\n    \
             <SubjectFromWebIdentityToken>{}</SubjectFromWebIdentityToken>\n    <Audience>{}</Audience>\n    <AssumedRoleUser>\n      <Arn>{}</Arn>\n      \
             <AssumedRoleId>AROA3XFRBF535PLBIFPI4:{name}</AssumedRoleId>\n    </AssumedRoleUser>\n    <Credentials>\n      <SessionToken>{token}</SessionToken>\n      \
             <SecretAccessKey>{secret}</SecretAccessKey>\n      <Expiration>{}</Expiration>\n      <AccessKeyId>{id}</AccessKeyId>\n    </Credentials>\n  \
             </AssumeRoleWithWebIdentityResult>\n  <ResponseMetadata>\n    <RequestId>ad4156e9-bce1-11e2-82e6-6b6efEXAMPLE</RequestId>\n  </ResponseMetadata>\n\
             </AssumeRoleWithWebIdentityResponse>\n",
            settings.subject,
            settings.audience,
            self.arn(&name),
            rfc3339(expires)
        );
        lock(&self.sessions).insert(id, Session { secret, token, name, policy, expires });
        Told::xml(200, answer)
    }

    fn caller(&self, asked: &Asked) -> Told {
        let Some((id, scope, names, signature)) = authorization(asked.header("authorization")) else {
            return error(403, "MissingAuthenticationToken", "Request is missing Authentication Token");
        };
        let sessions = lock(&self.sessions);
        let Some(session) = sessions.get(id) else {
            return error(403, "InvalidClientTokenId", "The security token included in the request is invalid.");
        };
        if asked.header("x-amz-security-token") != session.token {
            return error(403, "InvalidClientTokenId", "The security token included in the request is invalid.");
        }
        let date = asked.header("x-amz-date");
        let day = date.get(..8).unwrap_or_default();
        if scope != format!("{day}/{}/sts/aws4_request", self.settings.region) {
            return error(403, "SignatureDoesNotMatch", "Credential should be scoped to a valid region.");
        }
        let must = ["content-type", "host", "x-amz-date", "x-amz-security-token"];
        if !must.iter().all(|name| names.split(';').any(|signed| signed == *name)) {
            return error(403, "SignatureDoesNotMatch", "a header is not signed");
        }
        let fields: String = names.split(';').map(|name| format!("{name}:{}\n", asked.header(name))).collect();
        let canonical = format!("{}\n{}\n{}\n{fields}\n{names}\n{}", asked.method, asked.path, asked.query, hash(&asked.body));
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hash(canonical.as_bytes()));
        let mut key = format!("AWS4{}", session.secret).into_bytes();
        for part in scope.split('/') {
            key = mac(&key, part.as_bytes());
        }
        if hex(&mac(&key, to_sign.as_bytes())) != signature {
            return error(403, "SignatureDoesNotMatch", &format!("The request signature we calculated does not match. {}", session.token));
        }
        if session.expires <= now() + *lock(&self.ahead) {
            return error(403, "ExpiredToken", "The security token included in the request is expired");
        }
        Told::xml(
            200,
            format!(
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult><Arn>{}</Arn><UserId>AROA:{}</UserId>\
                 <Account>{}</Account></GetCallerIdentityResult></GetCallerIdentityResponse>",
                self.arn(&session.name),
                session.name,
                self.account()
            ),
        )
    }
}

/// Credential's id, scope, signed headers and signature.
fn authorization(header: &str) -> Option<(&str, &str, &str, &str)> {
    let rest = header.strip_prefix("AWS4-HMAC-SHA256 Credential=")?;
    let (credential, rest) = rest.split_once(", SignedHeaders=")?;
    let (names, signature) = rest.split_once(", Signature=")?;
    let (id, scope) = credential.split_once('/')?;
    Some((id, scope, names, signature))
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn error(status: u16, code: &str, message: &str) -> Told {
    let message = message.replace('&', "&amp;").replace('<', "&lt;");
    Told::xml(
        status,
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
             <RequestId>c6104cbe-af31-11e0-8154-cbc7ccf896c7</RequestId></ErrorResponse>"
        ),
    )
}

impl Service for Sts {
    fn answer(&self, asked: &Asked) -> Told {
        let form = asked.form();
        let one = |name: &str| form.get(name).filter(|values| values.len() == 1).map(|values| values.concat()).unwrap_or_default();
        match (asked.method.as_str(), asked.path.as_str(), one("Version").as_str(), one("Action").as_str()) {
            ("POST", "/", "2011-06-15", "AssumeRoleWithWebIdentity") => self.assume(&one),
            ("POST", "/", "2011-06-15", "GetCallerIdentity") => self.caller(asked),
            _ => error(400, "InvalidAction", "Could not find operation"),
        }
    }
}
