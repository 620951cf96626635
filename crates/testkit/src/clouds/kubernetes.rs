//! An API server of Kubernetes: Secrets, `TokenRequest`, `TokenReview`, `SelfSubjectAccessReview`, and service accounts' rights. A token that was good is remembered for
//! a while, as the real one does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::github::rfc3339;
use super::server::lock;
use super::{Asked, Service, Told, now, now_millis, random};

/// How the cluster is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The one namespace.
    pub namespace: String,
    /// Its service accounts.
    pub accounts: BTreeSet<String>,
    /// The broker's own token.
    pub broker: String,
    /// What the broker may do: `create secrets`, `create serviceaccounts/token deployer`, `create tokenreviews`, and so on.
    pub rights: BTreeSet<String>,
    /// For how long it is remembered that a token was good.
    pub remembers: Duration,
    /// How many API servers stand behind the one address, each with a memory of its own. They are asked in turn.
    pub replicas: usize,
    /// The audiences that it reviews tokens for, besides itself.
    pub audiences: BTreeSet<String>,
    /// Something puts finalizers on objects.
    pub finalizers: bool,
    /// A page has at most so many objects.
    pub page: usize,
}

struct Token {
    account: String,
    secret: (String, String),
    audiences: Vec<String>,
    expires: i64,
    /// For each API server, until when it remembers that the token was good.
    good_until: BTreeMap<usize, u128>,
}

/// The API server.
pub struct Kubernetes {
    /// Can be changed while it runs.
    pub settings: Mutex<Settings>,
    secrets: Mutex<BTreeMap<String, Value>>,
    tokens: Mutex<BTreeMap<String, Token>>,
    turn: AtomicUsize,
}

const ITSELF: &str = "https://kubernetes.default.svc";

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kubernetes(..)")
    }
}

impl Kubernetes {
    /// A cluster without objects.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings: Mutex::new(settings), secrets: Mutex::default(), tokens: Mutex::default(), turn: AtomicUsize::new(0) }
    }

    /// The names of all Secrets.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        lock(&self.secrets).keys().cloned().collect()
    }

    /// One of them, as it stands.
    #[must_use]
    pub fn secret(&self, name: &str) -> Value {
        lock(&self.secrets).get(name).cloned().unwrap_or_default()
    }

    /// Puts a Secret there, as somebody else would.
    pub fn put(&self, name: &str, labels: &Value) {
        let object = json!({ "metadata": { "name": name, "uid": random(36), "labels": labels }, "data": { "password": "b3RoZXJz" } });
        lock(&self.secrets).insert(name.to_owned(), object);
    }

    /// How many tokens are bound to an object that is there, or were never looked at since it is gone.
    #[must_use]
    pub fn alive(&self) -> usize {
        lock(&self.tokens).values().filter(|token| self.is_alive(token)).count()
    }

    fn is_alive(&self, token: &Token) -> bool {
        let uid = lock(&self.secrets).get(&token.secret.0).map(|object| object["metadata"]["uid"].clone());
        token.expires > now() && uid.is_some_and(|uid| uid == token.secret.1.as_str())
    }

    fn may(&self, right: &str) -> Result<(), Told> {
        let settings = lock(&self.settings);
        if settings.rights.contains(right) {
            return Ok(());
        }
        Err(status(403, "Forbidden", &format!("User \"system:serviceaccount:bailiwick:broker\" cannot {right}")))
    }

    fn create_secret(&self, asked: &Asked) -> Result<Told, Told> {
        self.may("create secrets")?;
        let mut object = asked.json();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b));
        if object["kind"] != "Secret" || name.is_empty() || !letters || name.starts_with('-') || name.ends_with('-') {
            return Err(status(
                422,
                "Invalid",
                &format!("Secret \"{name}\" is invalid: metadata.name: a lowercase RFC 1123 subdomain must consist of ..."),
            ));
        }
        let values = object["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        if values.values().any(|value| !value.as_str().is_some_and(|value| value.len() <= 63 && !value.ends_with(['_', '-', '.']))) {
            return Err(status(422, "Invalid", "metadata.labels: Invalid value"));
        }
        let mut secrets = lock(&self.secrets);
        if secrets.contains_key(&name) {
            return Err(status(409, "AlreadyExists", &format!("secrets \"{name}\" already exists")));
        }
        object["metadata"]["uid"] = json!(random(36));
        if lock(&self.settings).finalizers {
            object["metadata"]["finalizers"] = json!(["example.org/keeps"]);
        }
        secrets.insert(name, object.clone());
        Ok(Told::json(201, &object))
    }

    fn delete_secret(&self, name: &str, asked: &Asked) -> Result<Told, Told> {
        self.may("delete secrets")?;
        let mut secrets = lock(&self.secrets);
        let Some(object) = secrets.get_mut(name) else { return Err(not_found(name)) };
        let wanted = &asked.json()["preconditions"]["uid"];
        if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
            return Err(status(409, "Conflict", "Precondition failed: UID in precondition"));
        }
        if object["metadata"]["finalizers"].is_array() {
            object["metadata"]["deletionTimestamp"] = json!(rfc3339(now()));
            return Ok(Told::json(202, object));
        }
        drop(secrets.remove(name));
        Ok(Told::json(200, &json!({ "kind": "Status", "status": "Success" })))
    }

    /// Removes finalizers from everything, and what waits for that.
    pub fn finalize(&self) {
        lock(&self.settings).finalizers = false;
        lock(&self.secrets).retain(|_, object| object["metadata"]["deletionTimestamp"].is_null());
    }

    fn list(&self, asked: &Asked) -> Result<Told, Told> {
        self.may("list secrets")?;
        let query = asked.query();
        let one = |name: &str| query.get(name).map(|values| values.concat()).unwrap_or_default();
        let selector = one("labelSelector");
        let (label, value) = selector.split_once('=').unwrap_or_default();
        let bare = asked.header("accept").starts_with("application/json;as=PartialObjectMetadataList");
        let secrets = lock(&self.secrets);
        let page = lock(&self.settings).page.min(one("limit").parse().unwrap_or(usize::MAX));
        let matching = secrets.iter().filter(|(name, object)| {
            **name > one("continue") && (selector.is_empty() || object["metadata"]["labels"].get(label).is_some_and(|found| found == value))
        });
        let items: Vec<(&String, Value)> =
            matching.map(|(name, object)| (name, if bare { json!({ "metadata": object["metadata"] }) } else { object.clone() })).collect();
        let more = items.get(page.saturating_sub(1)).filter(|_| items.len() > page).map(|(name, _)| (*name).clone());
        let items: Vec<Value> = items.into_iter().take(page).map(|(_, object)| object).collect();
        Ok(Told::json(200, &json!({ "metadata": { "continue": more.unwrap_or_default() }, "items": items })))
    }

    fn token(&self, account: &str, asked: &Asked) -> Result<Told, Told> {
        self.may(&format!("create serviceaccounts/token {account}"))?;
        if !lock(&self.settings).accounts.contains(account) {
            return Err(status(404, "NotFound", &format!("serviceaccounts \"{account}\" not found")));
        }
        let body = asked.json();
        let (spec, bound) = (&body["spec"], &body["spec"]["boundObjectRef"]);
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(3600);
        if seconds < 600 {
            return Err(status(422, "Invalid", "spec.expirationSeconds: Invalid value: may not specify a duration less than 10 minutes"));
        }
        // What the real one does for the clients of old: an hour and seven seconds is a year.
        let seconds = if seconds == 3607 { 365 * 86_400 } else { seconds };
        let (name, uid) = (bound["name"].as_str().unwrap_or_default(), bound["uid"].as_str().unwrap_or_default());
        if bound["kind"] != "Secret" || bound["apiVersion"] != "v1" {
            return Err(status(400, "BadRequest", "cannot bind token to this"));
        }
        let Some(object) = lock(&self.secrets).get(name).cloned() else { return Err(not_found(name)) };
        if object["metadata"]["uid"] != uid {
            return Err(status(409, "Conflict", "the UID in the bound object reference does not match the UID in record"));
        }
        let texts = |value: &Value| {
            value.as_array().map(|all| all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect::<Vec<_>>()).unwrap_or_default()
        };
        let audiences = Some(texts(&spec["audiences"])).filter(|audiences| !audiences.is_empty()).unwrap_or_else(|| vec![ITSELF.to_owned()]);
        let token = format!("eyJhbGciOiJSUzI1NiJ9.{}.{}", random(400), random(86));
        let expires = now() + seconds;
        let made = Token { account: account.to_owned(), secret: (name.to_owned(), uid.to_owned()), audiences, expires, good_until: BTreeMap::new() };
        lock(&self.tokens).insert(token.clone(), made);
        Ok(Told::json(201, &json!({ "kind": "TokenRequest", "status": { "token": token, "expirationTimestamp": rfc3339(expires) } })))
    }

    /// Whose token it is, if it is good for one of these audiences.
    fn authenticate(&self, token: &str, audiences: &[String]) -> Option<String> {
        let namespace = lock(&self.settings).namespace.clone();
        let remembers = lock(&self.settings).remembers;
        let known = lock(&self.settings).audiences.clone();
        let replica = self.turn.fetch_add(1, Ordering::SeqCst) % lock(&self.settings).replicas.max(1);
        let mut tokens = lock(&self.tokens);
        let token = tokens.get_mut(token)?;
        let wanted: Vec<&str> = if audiences.is_empty() { vec![ITSELF] } else { audiences.iter().map(String::as_str).collect() };
        let meant = token.audiences.iter().any(|audience| wanted.contains(&audience.as_str()) && (audience == ITSELF || known.contains(audience)));
        if self.is_alive(token) {
            token.good_until.insert(replica, now_millis() + remembers.as_millis());
        }
        (meant && (self.is_alive(token) || token.good_until.get(&replica).is_some_and(|until| *until > now_millis())))
            .then(|| format!("system:serviceaccount:{namespace}:{}", token.account))
    }

    fn review(&self, asked: &Asked) -> Result<Told, Told> {
        self.may("create tokenreviews")?;
        let body = asked.json();
        let token = body["spec"]["token"].as_str().unwrap_or_default();
        let audiences: Vec<String> = body["spec"]["audiences"]
            .as_array()
            .map(|all| all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        let found = self.authenticate(token, &audiences);
        let status = match found {
            Some(user) => json!({ "authenticated": true, "user": { "username": user } }),
            None => json!({ "user": {}, "error": format!("[invalid bearer token, Token has been invalidated: {token}]") }),
        };
        Ok(Told::json(201, &json!({ "kind": "TokenReview", "status": status })))
    }

    fn access(&self, asked: &Asked) -> Told {
        let body = asked.json();
        let attributes = &body["spec"]["resourceAttributes"];
        let text = |field: &str| attributes[field].as_str().unwrap_or_default();
        let resource =
            if text("subresource").is_empty() { text("resource").to_owned() } else { format!("{}/{}", text("resource"), text("subresource")) };
        let right = format!("{} {resource} {}", text("verb"), text("name"));
        let allowed = lock(&self.settings).rights.contains(right.trim_end());
        Told::json(201, &json!({ "kind": "SelfSubjectAccessReview", "status": { "allowed": allowed } }))
    }

    fn as_broker(&self, asked: &Asked) -> Result<Told, Told> {
        let namespace = format!("/api/v1/namespaces/{}", lock(&self.settings).namespace);
        let path = asked.path.strip_prefix(&namespace);
        let account = path.and_then(|path| path.strip_prefix("/serviceaccounts/")?.strip_suffix("/token"));
        let secret = path.and_then(|path| path.strip_prefix("/secrets/"));
        match (asked.method.as_str(), asked.path.as_str(), path, secret, account) {
            ("POST", _, Some("/secrets"), ..) => self.create_secret(asked),
            ("GET", _, Some("/secrets"), ..) => self.list(asked),
            ("GET", _, _, Some(name), _) => {
                self.may("get secrets")?;
                lock(&self.secrets).get(name).map(|object| Told::json(200, object)).ok_or_else(|| not_found(name))
            }
            ("DELETE", _, _, Some(name), _) => self.delete_secret(name, asked),
            ("POST", _, _, _, Some(account)) => self.token(account, asked),
            ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", ..) => self.review(asked),
            ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", ..) => Ok(self.access(asked)),
            _ => Err(status(404, "NotFound", "the server could not find the requested resource")),
        }
    }
}

fn status(code: u16, reason: &str, message: &str) -> Told {
    Told::json(code, &json!({ "kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code }))
}

fn not_found(name: &str) -> Told {
    status(404, "NotFound", &format!("secrets \"{name}\" not found"))
}

impl Service for Kubernetes {
    fn answer(&self, asked: &Asked) -> Told {
        let broker = lock(&self.settings).broker.clone();
        if asked.bearer() == broker {
            return self.as_broker(asked).unwrap_or_else(|told| told);
        }
        // An agent's token: who it is, and nothing else.
        match self.authenticate(asked.bearer(), &[]) {
            Some(user) => Told::json(200, &json!({ "kind": "SelfSubjectReview", "status": { "userInfo": { "username": user } } })),
            None => status(401, "Unauthorized", "Unauthorized"),
        }
    }
}
