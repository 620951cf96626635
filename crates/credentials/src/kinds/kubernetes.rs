//! Kubernetes: a token of a service account for each lease (`TokenRequest`), bound to an empty `Secret` of its own whose removal ends it.
//!
//! What rules this file. A token is dead when the object that it is bound to is gone, and not before it expires otherwise. API servers remember for ten seconds that a
//! token was good, each for itself, so a refusal counts only when that time is over. Who checks nothing but the signature goes on taking the token: where
//! others than the API servers are its audience, the ending is `expires-at` unless they ask the API server. Names there have no `_`, so an account is called
//! `ag-01k..`. A token for 3607 seconds is silently good for a year (the API server takes that number for an old client's), so that number is never asked for.
//! What a killed mint has still under way authorises nothing: it is either an empty object, or a token for an object that is gone.

mod api;
mod ending;
mod preflight;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{Clock, Timestamp};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::connection::within;
use super::web::{Endpoint, SecretText, encoded};
use crate::Secret;
use crate::lease::{Account, AccountName, Ending, Finding, Found, Kind, Minted, Plan, Prefix, Step, Tag, TargetCode, TargetError, TargetIds};
use api::Api;

const RIGHTS_MAX: usize = 64;
const AUDIENCES_MAX: usize = 8;
/// The API server's own shortest life.
const LIFE_MIN: Duration = Duration::from_secs(600);
/// Asked for, it means a year.
const LIFE_NEVER: u64 = 3607;
/// Objects are listed in pages of this many.
const PAGE: usize = 500;
const PAGES_MAX: usize = 200;
/// The words under which it is remembered what was made, and that it was seen to be good.
const UID: &str = "secret_uid";
const ACCEPTED: &str = "accepted";
const LABEL: &str = "app.kubernetes.io/managed-by";
const OURS: &str = "bailiwick";
const TAG: &str = "bailiwick/tag";

/// A namespace of a cluster, and what leases may have there.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The API server.
    pub api: Endpoint,
    /// The namespace of the service accounts, and of the objects that tokens are bound to. The broker reads every `Secret` in it, so it is best one of their own.
    pub namespace: String,
    /// The rights that a plan may ask for, each the name of a service account. A plan has exactly one.
    pub rights: BTreeMap<String, String>,
    /// Whom tokens are for. Empty: the API server.
    pub audiences: Vec<String>,
    /// Whoever else is in the audience asks the API server each time (`TokenReview`), so that a token is dead for them when it is dead there.
    pub audiences_ask: bool,
    /// How long API servers remember that a token was good: ten seconds, unless they were told otherwise.
    pub remembered: Duration,
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
        if !is_name(&self.namespace) || self.namespace.contains('.') {
            return wrong("expected a namespace of small letters, digits and `-`");
        }
        if self.rights.is_empty() || self.rights.len() > RIGHTS_MAX || !self.rights.values().all(|account| is_name(account)) {
            return wrong("expected 1 to 64 rights, each the name of a service account");
        }
        let fits = |audience: &String| (1..=255).contains(&audience.len()) && audience.bytes().all(|b| (0x21..=0x7e).contains(&b));
        if self.audiences.len() > AUDIENCES_MAX || !self.audiences.iter().all(fits) {
            return wrong("expected at most 8 audiences of visible ASCII");
        }
        if self.remembered > Duration::from_secs(30) {
            return wrong("expected API servers that remember a token for at most 30 seconds");
        }
        Ok(())
    }
}

/// Tokens of service accounts of one namespace.
pub struct Kubernetes {
    api: Api,
    settings: Settings,
    clock: Arc<dyn Clock>,
}

impl Kubernetes {
    /// A namespace as it is configured; `token` is that of the broker's own service account. Nothing is connected yet.
    ///
    /// # Errors
    /// [`TargetCode::Plan`] if a setting is out of its range.
    pub fn new(settings: Settings, token: Secret, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        settings.check()?;
        if token.is_empty() {
            return Err(TargetError::new(TargetCode::Plan, Step::Connect, "", "the broker's own token is empty"));
        }
        Ok(Self { api: Api::new(settings.api.clone(), token), settings, clock })
    }

    fn secrets(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", encoded(&self.settings.namespace))
    }

    fn service_account<'a>(&'a self, plan: &Plan) -> Result<&'a str, TargetError> {
        let wrong = |what: &str| TargetError::new(TargetCode::Plan, Step::Mint, "", what);
        let [name] = plan.rights.as_slice() else { return Err(wrong("a token is one service account's: expected exactly one right")) };
        self.settings.rights.get(name).map(String::as_str).ok_or_else(|| wrong(&format!("`{name}` is none of the configured rights")))
    }

    async fn mint_token(&self, plan: &Plan) -> Result<Minted, TargetError> {
        let account = self.service_account(plan)?;
        let uid = self.bound_object(plan).await?;
        let life = self.clock.now().until(plan.tag.expires_at).max(LIFE_MIN).as_secs();
        let life = if life == LIFE_NEVER { LIFE_NEVER.saturating_sub(1) } else { life };
        let mut spec = json!({
            "expirationSeconds": life,
            "boundObjectRef": { "kind": "Secret", "apiVersion": "v1", "name": object_name(&plan.name), "uid": uid },
        });
        if let (false, Some(spec)) = (self.settings.audiences.is_empty(), spec.as_object_mut()) {
            spec.insert("audiences".to_owned(), json!(self.settings.audiences));
        }
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", encoded(&self.settings.namespace), encoded(account));
        let agent = plan.tag.connection_name(200);
        let reply = self.api.ask(Step::Mint, Method::POST, &path, Some(&body), &agent).await?;
        if reply.status != 201 {
            return Err(self.api.refusal(Step::Mint, &reply));
        }
        let protocol = |what: &str| TargetError::new(TargetCode::Protocol, Step::Mint, self.api.node(), what);
        let given: Given = reply.json().ok_or_else(|| protocol("the answer is no token"))?;
        let token = given.status.token.into_token().ok_or_else(|| protocol("the token cannot stand in a header"))?;
        let user = format!("system:serviceaccount:{}:{account}", self.settings.namespace);
        let review = self.review(Step::Mint, &token).await?;
        if review.refused.is_some() || review.user != user {
            return Err(protocol("the token that was just made is not honoured, or is somebody else's"));
        }
        let ids = TargetIds::one(UID, uid).and(ACCEPTED, "yes");
        Ok(Minted { ids, secret: Some(token), expires_at: Some(given.status.expiration_timestamp) })
    }

    /// The object that the token is bound to: made, or found if it is ours. Gives its uid.
    async fn bound_object(&self, plan: &Plan) -> Result<String, TargetError> {
        let name = object_name(&plan.name);
        let body = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name, "labels": { LABEL: OURS }, "annotations": { TAG: plan.tag.to_text() } },
            "type": "Opaque",
            "immutable": true,
        });
        let agent = plan.tag.connection_name(200);
        let reply = self.api.ask(Step::Mint, Method::POST, &self.secrets(), Some(&body), &agent).await?;
        let object = match reply.status {
            201 => reply.json::<Object>(),
            409 => self.find(Step::Mint, &plan.name).await?,
            _ => return Err(self.api.refusal(Step::Mint, &reply)),
        };
        let object = object.ok_or_else(|| TargetError::new(TargetCode::Busy, Step::Mint, self.api.node(), "the object is gone again"))?;
        let ours = object.is_ours() && object.tag().as_ref() == Some(&plan.tag) && object.metadata.deletion_timestamp.is_none();
        if !ours || object.metadata.name != name {
            return Err(TargetError::new(TargetCode::Taken, Step::Mint, self.api.node(), "an object of this name is there, and is not this lease's"));
        }
        Ok(object.metadata.uid)
    }

    /// The object of this account, if it is there.
    async fn find(&self, step: Step, name: &AccountName) -> Result<Option<Object>, TargetError> {
        let path = format!("{}/{}", self.secrets(), object_name(name));
        let reply = self.api.ask(step, Method::GET, &path, None, OURS).await?;
        match reply.status {
            200 => reply.json().map(Some).ok_or_else(|| TargetError::new(TargetCode::Protocol, step, self.api.node(), "the answer is no object")),
            404 => Ok(None),
            _ => Err(self.api.refusal(step, &reply)),
        }
    }

    /// Asks the API server whether it honours the token, for the audience that it was made for.
    async fn review(&self, step: Step, token: &Secret) -> Result<Review, TargetError> {
        let reply = self.api.review(step, token, &self.settings.audiences).await?;
        if reply.status != 201 {
            return Err(self.api.refusal_of(step, &reply, token));
        }
        let reviewed: Reviewed =
            reply.json().ok_or_else(|| TargetError::new(TargetCode::Protocol, step, self.api.node(), "the answer is no review"))?;
        let status = reviewed.status;
        let error = super::web::clean(status.error.as_deref().unwrap_or("not authenticated"), &[token]);
        Ok(Review { refused: (!status.authenticated).then_some(error), user: status.user.username })
    }

    async fn list_objects(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        let (mut found, mut next) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let path = format!("{}?labelSelector={}&limit={PAGE}&continue={}", self.secrets(), encoded(&format!("{LABEL}={OURS}")), encoded(&next));
            let reply = self.api.list(&path).await?;
            if reply.status != 200 {
                return Err(self.api.refusal(Step::List, &reply));
            }
            let list: List =
                reply.json().ok_or_else(|| TargetError::new(TargetCode::Protocol, Step::List, self.api.node(), "the answer is no list"))?;
            for object in list.items {
                let Some(name) = account_name(&object.metadata.name).filter(|name| prefix.covers(name) && object.is_ours()) else { continue };
                let ids = TargetIds::one(UID, &object.metadata.uid);
                found.push(Found { name, ids, tag: object.tag(), node: self.api.node().to_owned() });
            }
            next = list.metadata.next.unwrap_or_default();
            if next.is_empty() {
                return Ok(found);
            }
        }
        Err(TargetError::new(TargetCode::Protocol, Step::List, self.api.node(), "more than 100,000 objects"))
    }
}

/// What the API server said of a token.
struct Review {
    /// Its words, if it does not honour it.
    refused: Option<String>,
    user: String,
}

#[derive(Deserialize)]
struct Given {
    status: GivenStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GivenStatus {
    token: SecretText,
    expiration_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct Reviewed {
    status: ReviewedStatus,
}

#[derive(Deserialize)]
struct ReviewedStatus {
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    user: User,
    error: Option<String>,
}

#[derive(Deserialize, Default)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default)]
    items: Vec<Object>,
}

#[derive(Deserialize, Default)]
struct ListMetadata {
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// An object, as far as it is read: never its data.
#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    deletion_timestamp: Option<Value>,
}

impl Object {
    fn is_ours(&self) -> bool {
        self.metadata.labels.get(LABEL).is_some_and(|who| who == OURS)
    }

    fn tag(&self) -> Option<Tag> {
        self.metadata.annotations.get(TAG).and_then(|text| Tag::parse(text))
    }
}

#[async_trait::async_trait]
impl Kind for Kubernetes {
    fn kind(&self) -> &'static str {
        "kubernetes"
    }

    /// The API server makes the token.
    fn propose(&self) -> Result<Option<Secret>, TargetError> {
        Ok(None)
    }

    async fn preflight(&self, probe: &AccountName) -> Result<Vec<Finding>, TargetError> {
        within(Step::Verify, preflight::preflight(self, probe)).await
    }

    /// Called again, it makes another token for the same object, and the end of the object is the end of both.
    async fn mint(&self, plan: &Plan, secret: Option<&Secret>) -> Result<Minted, TargetError> {
        if secret.is_some() {
            return Err(TargetError::new(TargetCode::Plan, Step::Mint, "", "the API server makes the token itself"));
        }
        within(Step::Mint, self.mint_token(plan)).await
    }

    async fn end(&self, account: &Account) -> Result<Ending, TargetError> {
        within(Step::Remove, ending::end(self, account)).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<Found>, TargetError> {
        within(Step::List, self.list_objects(prefix)).await
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The account's name as an object can have it.
fn object_name(name: &AccountName) -> String {
    name.as_str().replace('_', "-")
}

fn account_name(object: &str) -> Option<AccountName> {
    if object.contains('_') { None } else { object.replacen('-', "_", 1).parse().ok() }
}

/// RFC 1123: small letters, digits, `-` and `.`, at most 253.
fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=253).contains(&name.len())
        && name.bytes().all(|b| inner(b) || b == b'-' || b == b'.')
        && name.bytes().next().is_some_and(inner)
        && name.bytes().next_back().is_some_and(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accounts_name_there_and_back() {
        let name = AccountName::new(&Prefix::default(), [7; 16]);
        let object = object_name(&name);
        assert!(is_name(&object) && object.starts_with("ag-"));
        assert_eq!(account_name(&object), Some(name.clone()));
        for other in [name.as_str(), "ag-", "ag-person", "default-token-x", "ag-01kapv5x6sf9j8e3t1d2c4b5a6-1"] {
            assert_eq!(account_name(other), None, "{other}");
        }
        for bad in ["", "Upper", "a_b", "-a", "a-", "a/b", &"a".repeat(254)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
