//! The broker's HTTP API as the commands use it: as a person by key, or as an agent by assertion and token.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::{AssertionId, Clock as _, InstanceId, SpiffeId, TaskId};
use bailiwick_identity::{SigningKey, assertion, dpop, person};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use super::http::{Answer, ClientError, Http, base_url};
use super::key_files::{AgentKey, PersonKey};
use super::{Failure, Place};
use crate::clock::{SystemClock, random};

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const DEFAULT_URL: &str = "http://127.0.0.1:8200";

/// A client of one broker.
#[derive(Debug)]
pub struct ApiClient {
    http: Http,
    base: Url,
    clock: SystemClock,
    possession: Option<Possession>,
}

/// A key of this process alone, to which its tokens are bound (RFC 9449).
#[derive(Debug)]
struct Possession {
    key: SigningKey,
    /// The broker's URL as it is known to everybody: what is proved is a request to that one.
    known_as: String,
    /// The nonce that the broker gave last.
    nonce: Mutex<Option<String>>,
}

/// An access token as the token endpoint gave it.
#[derive(Deserialize)]
pub(crate) struct Token {
    /// The bearer token.
    #[serde(deserialize_with = "zeroizing")]
    pub(crate) access_token: Zeroizing<String>,
    /// Its life in seconds.
    pub(crate) expires_in: u64,
    /// `Bearer`, or `DPoP` for one that is bound to the key of this process.
    #[serde(default)]
    pub(crate) token_type: String,
}

fn zeroizing<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(from).map(Zeroizing::new)
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// A task as it was opened: the document that the broker gave, with the token apart.
#[derive(Debug, Deserialize)]
pub(crate) struct Opened {
    /// The task.
    pub(crate) task: Value,
    /// What was asked for and not granted.
    #[serde(default)]
    pub(crate) narrowed: Vec<Value>,
    /// Its first token.
    pub(crate) token: Token,
}

impl Opened {
    /// The task's id.
    pub(crate) fn id(&self) -> Result<TaskId, ClientError> {
        let id = self.task.get("id").and_then(Value::as_str).unwrap_or_default();
        id.parse().map_err(|_| ClientError::Answer("the broker".to_owned(), "the task has no id".to_owned()))
    }
}

/// What `endpoint.json` says about a broker that runs on this data directory.
#[derive(Debug, Deserialize)]
pub(crate) struct Endpoint {
    /// The broker's URL.
    pub(crate) url: String,
}

impl Endpoint {
    /// Reads it, if a broker runs here.
    pub(crate) fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(data_dir.join("endpoint.json")).ok()?).ok()
    }
}

impl ApiClient {
    /// A client of the broker at this URL.
    ///
    /// # Errors
    /// If it is no URL of a broker, or plain HTTP to another machine.
    pub fn new(url: &str) -> Result<Self, Failure> {
        Ok(Self { http: Http::new()?, base: base_url(url)?, clock: SystemClock::start(), possession: None })
    }

    /// A client of the broker that was named, or that runs on the data directory, or that listens at the default address.
    ///
    /// # Errors
    /// As [`ApiClient::new`].
    pub fn of(place: &Place) -> Result<Self, Failure> {
        if let Some(url) = &place.url {
            return Self::new(url);
        }
        match Endpoint::read(&place.data_dir()?) {
            Some(endpoint) => Self::new(&endpoint.url),
            None => Self::new(DEFAULT_URL),
        }
    }

    /// A client of the broker that listens on this Unix socket.
    ///
    /// # Errors
    /// If no client can be made.
    pub fn at_socket(path: &Path) -> Result<Self, Failure> {
        Ok(Self { http: Http::at_socket(path)?, base: base_url("http://localhost")?, clock: SystemClock::start(), possession: None })
    }

    /// Makes a key of this process alone, to which all tokens are bound that it gets from now on: whoever steals one has nothing.
    ///
    /// # Errors
    /// If no key can be made, or the broker does not say under which URL it is known.
    pub(crate) async fn hold_key(mut self) -> Result<Self, ClientError> {
        let (key, _) = SigningKey::generate().map_err(|e| ClientError::Signing(e.to_string()))?;
        let known_as = if self.http.is_at_socket() {
            let told: Value = self.read(self.public("/.well-known/oauth-authorization-server").await?)?;
            let issuer = told.get("issuer").and_then(Value::as_str);
            issuer.ok_or_else(|| ClientError::Answer(self.url().to_owned(), "it names no issuer".to_owned()))?.to_owned()
        } else {
            self.url().to_owned()
        };
        self.possession = Some(Possession { key, known_as, nonce: Mutex::default() });
        Ok(self)
    }

    /// What goes with a request to this path beside its body: the token, and the proof that this process may use it.
    pub(crate) fn authorization(&self, token: &Token, method: &Method, path: &str) -> Result<HeaderMap, ClientError> {
        if !token.token_type.eq_ignore_ascii_case(dpop::SCHEME) {
            return bearer(token);
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, secret(&format!("{} {}", dpop::SCHEME, token.access_token.as_str()))?);
        self.prove(&mut headers, method, path, Some(token))?;
        Ok(headers)
    }

    fn prove(&self, headers: &mut HeaderMap, method: &Method, path: &str, token: Option<&Token>) -> Result<(), ClientError> {
        let Some(possession) = &self.possession else { return Ok(()) };
        let now = self.clock.now();
        let nonce = possession.nonce.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let uri = format!("{}{path}", possession.known_as);
        let jti = AssertionId::new(now, random()).to_string();
        let token = token.map(|token| token.access_token.as_str());
        let what = dpop::Statement { method: method.as_str(), uri: &uri, token, nonce: nonce.as_deref(), jti: &jti };
        let proof = dpop::make(&possession.key, &what, now).map_err(|e| ClientError::Signing(e.to_string()))?;
        headers.insert("dpop", secret(&proof)?);
        Ok(())
    }

    /// Takes the nonce that an answer gives for the next proof.
    pub(crate) fn note_nonce(&self, answer: &HeaderMap) {
        let given = answer.get("dpop-nonce").and_then(|value| value.to_str().ok());
        if let (Some(possession), Some(given)) = (&self.possession, given) {
            *possession.nonce.lock().unwrap_or_else(PoisonError::into_inner) = Some(given.to_owned());
        }
    }

    /// A request of the agent, with a token or for one; once more if the broker gives a nonce for it.
    async fn by_agent(&self, method: Method, path: &str, token: Option<&Token>, headers: HeaderMap, body: Bytes) -> Result<Bytes, ClientError> {
        let mut again = true;
        loop {
            let mut all = headers.clone();
            match token {
                Some(token) => all.extend(self.authorization(token, &method, path)?),
                None => self.prove(&mut all, &method, path, None)?,
            }
            match self.whole(method.clone(), path, all, body.clone()).await {
                Err(error) if again && matches!(error.code(), "use_dpop_nonce" | "authn.dpop_nonce") => again = false,
                other => return other,
            }
        }
    }

    /// The broker's URL without a trailing slash: the OAuth issuer.
    pub(crate) fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The MCP endpoint: the audience of every token.
    pub(crate) fn mcp(&self) -> String {
        format!("{}/mcp", self.url())
    }

    /// The connection maker, for requests that are no API calls.
    pub(crate) const fn http(&self) -> &Http {
        &self.http
    }

    /// The time as this client knows it.
    pub(crate) const fn clock(&self) -> &SystemClock {
        &self.clock
    }

    /// Asks without credentials.
    pub(crate) async fn public(&self, path: &str) -> Result<Bytes, ClientError> {
        self.whole(Method::GET, path, HeaderMap::new(), Bytes::new()).await
    }

    /// Asks as a person.
    pub(crate) async fn get(&self, who: &PersonKey, path: &str) -> Result<Value, ClientError> {
        let headers = self.proof(who, &Method::GET, path)?;
        self.json(Method::GET, path, headers, Bytes::new()).await
    }

    /// Asks as a person for what is no JSON.
    pub(crate) async fn get_bytes(&self, who: &PersonKey, path: &str) -> Result<Bytes, ClientError> {
        let headers = self.proof(who, &Method::GET, path)?;
        self.whole(Method::GET, path, headers, Bytes::new()).await
    }

    /// Sends a document as a person.
    pub(crate) async fn post(&self, who: &PersonKey, path: &str, body: &Value) -> Result<Value, ClientError> {
        let headers = self.proof(who, &Method::POST, path)?;
        self.json(Method::POST, path, headers, Bytes::from(body.to_string())).await
    }

    /// Registers a key with a one-time token. The body holds both.
    pub(crate) async fn enrol(&self, body: &str) -> Result<Value, ClientError> {
        self.json(Method::POST, "/v1/enrol", HeaderMap::new(), Bytes::copy_from_slice(body.as_bytes())).await
    }

    /// Gets an agent's token, or with `task` a new token of that open task.
    pub(crate) async fn token(
        &self,
        agent: &AgentKey,
        instance: InstanceId,
        model: Option<&str>,
        task: Option<TaskId>,
    ) -> Result<Token, ClientError> {
        let now = self.clock.now();
        let jti = AssertionId::new(now, random());
        let statement = assertion::Statement { client: &agent.spiffe_id, audience: self.url(), jti, instance: Some(instance), model };
        let signed = assertion::make(&agent.key, &statement, now).map_err(|e| ClientError::Signing(e.to_string()))?;
        let mut form = vec![
            ("grant_type", "client_credentials".to_owned()),
            ("client_assertion_type", assertion::ASSERTION_TYPE.to_owned()),
            ("client_assertion", signed),
            ("resource", self.mcp()),
        ];
        form.push(task.map_or(("scope", "agent".to_owned()), |task| ("task_id", task.to_string())));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let body = Bytes::from(url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish());
        self.read(self.by_agent(Method::POST, "/oauth/token", None, headers, body).await?)
    }

    /// Gets a token of the agent that this process is, at the broker's Unix socket; with `task` a new token of that open task. With `client` it must be
    /// that agent.
    pub(crate) async fn token_by_process(&self, client: Option<&SpiffeId>, task: Option<TaskId>) -> Result<Token, ClientError> {
        let mut form = vec![("grant_type", "client_credentials".to_owned())];
        form.extend(client.map(|id| ("client_id", id.to_string())));
        form.push(task.map_or(("scope", "agent".to_owned()), |task| ("task_id", task.to_string())));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let body = Bytes::from(url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish());
        self.read(self.by_agent(Method::POST, "/oauth/token", None, headers, body).await?)
    }

    /// Opens a task with an agent's token.
    pub(crate) async fn open_task(&self, agent: &Token, wish: &Value) -> Result<Opened, ClientError> {
        let body = Bytes::from(wish.to_string());
        self.read(self.by_agent(Method::POST, "/v1/tasks", Some(agent), HeaderMap::new(), body).await?)
    }

    /// Completes a task with a token of it, or of its agent.
    pub(crate) async fn complete(&self, token: &Token, task: TaskId) -> Result<Value, ClientError> {
        let path = format!("/v1/tasks/{task}/complete");
        self.read(self.by_agent(Method::POST, &path, Some(token), HeaderMap::new(), Bytes::from_static(b"{}")).await?)
    }

    /// One request as it stands, whose answer is not read yet; a refusal is not looked for.
    pub(crate) async fn send(&self, method: Method, path: &str, headers: HeaderMap, body: Bytes, within: Duration) -> Result<Answer, ClientError> {
        let url: Url = format!("{}{path}", self.url()).parse().map_err(|e: url::ParseError| ClientError::Url(e.to_string()))?;
        self.http.send(method, &url, headers, body, within).await
    }

    fn proof(&self, who: &PersonKey, method: &Method, path: &str) -> Result<HeaderMap, ClientError> {
        let now = self.clock.now();
        let target = format!("{}{path}", self.base.path().trim_end_matches('/'));
        let request = person::Request { method: method.as_str(), target: &target };
        let proof = person::make(&who.key, &who.name, self.url(), request, AssertionId::new(now, random()), now);
        let proof = proof.map_err(|e| ClientError::Signing(e.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, secret(&format!("{} {proof}", person::SCHEME))?);
        Ok(headers)
    }

    async fn json(&self, method: Method, path: &str, headers: HeaderMap, body: Bytes) -> Result<Value, ClientError> {
        self.read(self.whole(method, path, headers, body).await?)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, bytes: Bytes) -> Result<T, ClientError> {
        serde_json::from_slice(&bytes).map_err(|e| ClientError::Answer(self.url().to_owned(), e.to_string()))
    }

    async fn whole(&self, method: Method, path: &str, mut headers: HeaderMap, body: Bytes) -> Result<Bytes, ClientError> {
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, application/problem+json, text/plain"));
        let answer = self.send(method, path, headers, body, ANSWER_WITHIN).await?;
        self.note_nonce(&answer.headers);
        let status = answer.status;
        let is_json = answer.is("application/json") || answer.is("application/problem+json");
        let bytes = answer.bytes(ANSWER_WITHIN).await?;
        if status.is_success() {
            return Ok(bytes);
        }
        Err(problem(status, if is_json { &bytes } else { b"" }))
    }
}

/// The `Authorization` of a token.
pub(crate) fn bearer(token: &Token) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, secret(&format!("Bearer {}", token.access_token.as_str()))?);
    Ok(headers)
}

fn secret(value: &str) -> Result<HeaderValue, ClientError> {
    let wrong = |_| ClientError::Answer("the broker".to_owned(), "a token that cannot stand in a header".to_owned());
    let mut value = HeaderValue::from_str(value).map_err(wrong)?;
    value.set_sensitive(true);
    Ok(value)
}

/// A refusal in words: RFC 9457 with our `code` and `hint`, or OAuth's `error` and `error_description` (RFC 6749 section 5.2).
pub(crate) fn problem(status: StatusCode, body: &[u8]) -> ClientError {
    let body: Value = serde_json::from_slice(body).unwrap_or_else(|_| json!({}));
    let text = |name: &str| body.get(name).and_then(Value::as_str).filter(|t| !t.is_empty()).map(super::screen::line);
    let detail =
        text("detail").or_else(|| text("error_description")).or_else(|| text("title")).unwrap_or_else(|| format!("the broker answered {status}"));
    let code = text("code").or_else(|| text("error")).unwrap_or_else(|| format!("http.{}", status.as_u16()));
    ClientError::Problem { status, code, detail, hint: text("hint").unwrap_or_default() }
}

/// The documents of a list: the answer itself, or its member of this name.
pub(crate) fn items<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    let list = answer.as_array().or_else(|| answer.get(name).and_then(Value::as_array));
    list.map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_by_its_detail_code_and_hint() {
        let body = br#"{"type":"about:blank","title":"Forbidden","status":403,"code":"authz.role","detail":"ana is no auditor","hint":"ask ben"}"#;
        let failure = Failure::from(problem(StatusCode::FORBIDDEN, body)).to_string();
        assert_eq!(failure, "error: ana is no auditor (authz.role)\nhint: ask ben");
    }

    #[test]
    fn an_oauth_error_is_told_by_its_description() {
        let error = problem(StatusCode::UNAUTHORIZED, br#"{"error":"invalid_client","error_description":"the proof is not valid"}"#);
        assert_eq!((error.code(), error.to_string().as_str()), ("invalid_client", "the proof is not valid (invalid_client)"));
    }

    #[test]
    fn a_refusal_that_says_nothing_is_told_by_its_status_and_an_escape_in_it_does_not_reach_the_terminal() {
        assert_eq!(problem(StatusCode::BAD_GATEWAY, b"<html>").to_string(), "the broker answered 502 Bad Gateway (http.502)");
        let shown = problem(StatusCode::FORBIDDEN, br#"{"detail":"\u001b[2Jgone"}"#).to_string();
        assert!(!shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn a_token_does_not_show_itself() {
        let token: Token = serde_json::from_str(r#"{"access_token":"eyJsecret","token_type":"Bearer","expires_in":300}"#).unwrap();
        assert!(!format!("{token:?} {:?}", bearer(&token).unwrap()).contains("secret"));
    }
}
