//! `[systems.NAME.http]`: where an API is, which operations of its document are offered, and how its key is given.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::{Clock, Effect};
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::static_key::{Key, StaticKey};
use bailiwick_credentials::lease::{Prefix, Trust};
use bailiwick_credentials::sessions::http::{self, Api, Limits, Origin, Placement};
use bailiwick_wire::openapi::{Choice, DOCUMENT_BYTES_MAX, Document, Operation};
use hyper::header::HeaderName;
use rustls::{ClientConfig, RootCertStore};
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::Built;
use super::{HttpApi, Tool, Tools, effect_of};

const BYTES_DEFAULT: usize = 256 << 10;
const BYTES_MAX: usize = 2 << 20;
const SECONDS_DEFAULT: u64 = 30;
const SECONDS_MAX: u64 = 300;
const ROOTS_BYTES_MAX: u64 = 4 << 20;
const PATTERNS_MAX: usize = 1000;
const TAG_HEADER: &str = "x-bailiwick-task";

/// `[systems.NAME.http]`: an HTTP API with an OpenAPI document. Each operation is a tool; the key is injected, and shown to nobody.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The OpenAPI document, 3.0 or 3.1, in JSON: a file, beside the configuration unless its path is absolute.
    document: PathBuf,
    /// Where the API is, such as `https://api.example.org/v1`. What the document says of servers is not read.
    base_url: String,
    /// How the key is given.
    inject: InjectFile,
    /// A path below the base, such as `/me`, that a `GET` with the key answers with success and one without it does not. The broker tries both before
    /// the system is served.
    probe: Option<String>,
    /// The tools that are offered, by name; `*` at the end stands for any rest. All of the document unless it is said.
    include: Option<Vec<String>>,
    /// Tools that are not offered, by name; `*` at the end stands for any rest.
    #[serde(default)]
    exclude: Vec<String>,
    /// Tools that do less than their method says, such as a search by `POST`, with what they do. What does more than its method says stands in the
    /// system's `effects`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    lower: BTreeMap<String, Effect>,
    /// The longest answer that is given, in bytes: 262144 unless it is said, at most 2097152.
    answer_bytes_max: Option<usize>,
    /// How long a request may take, in seconds: 30 unless it is said, at most 300.
    seconds_max: Option<u64>,
    /// Whether the API may be on this machine or a private network.
    #[serde(default)]
    private: bool,
    /// Certificates of the authorities that vouch for the API, in PEM: a file. Those that the web trusts unless it is said.
    roots: Option<PathBuf>,
    /// The header that carries task and agent; `X-Bailiwick-Task` unless it is said, none if it is empty.
    tag_header: Option<String>,
    /// What the names of this broker's leases begin with.
    prefix: Option<String>,
}

/// How the key stands in a request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct InjectFile {
    /// `bearer`, `header`, `basic` or `query`.
    kind: InjectKind,
    /// The name of the header or of the query's parameter.
    name: Option<String>,
    /// What stands before the key in the header, such as `Token `.
    before: Option<String>,
    /// The user, for `basic`; the key is the password.
    user: Option<String>,
    /// The name of the secret that is the key, set with `bailiwick secret set`.
    secret: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum InjectKind {
    Bearer,
    Header,
    Basic,
    Query,
}

/// The checked table.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    api: http::Settings,
    secret: String,
    probe: Option<String>,
    prefix: Prefix,
    tools: Arc<Tools>,
}

impl File {
    /// Parses the table and reads its document. Words say what was expected.
    pub(crate) fn check(&self, folder: &Path) -> Result<Settings, String> {
        let bytes = self.answer_bytes_max.unwrap_or(BYTES_DEFAULT);
        let seconds = self.seconds_max.unwrap_or(SECONDS_DEFAULT);
        if !(1024..=BYTES_MAX).contains(&bytes) || !(1..=SECONDS_MAX).contains(&seconds) {
            return Err(format!("expected `answer_bytes_max` of 1024 to {BYTES_MAX}, and `seconds_max` of 1 to {SECONDS_MAX}"));
        }
        let tls = tls(self.roots.as_deref().map(|roots| folder.join(roots)).as_deref())?;
        let api = http::Settings {
            origin: Origin::new(&self.base_url, self.private, &tls).map_err(|error| format!("base_url: {error}"))?,
            placement: self.inject.check()?,
            limits: Limits { bytes, time: Duration::from_secs(seconds) },
            tag_header: match self.tag_header.as_deref() {
                Some("") => None,
                name => Some(header_name("tag_header", name.unwrap_or(TAG_HEADER))?),
            },
        };
        // What it would refuse, it refuses now.
        Api::new(api.clone(), None).map_err(|error| format!("inject: {error}"))?;
        let probe = self.probe.clone();
        if probe.as_ref().is_some_and(|path| !path.starts_with('/') || path.len() > 1024 || !path.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err("probe: expected a path that begins with `/`, percent-encoded".to_owned());
        }
        let tools = Arc::new(self.tools(&api.placement, &folder.join(&self.document))?);
        let prefix = self.prefix.as_deref().map_or(Ok(Prefix::default()), str::parse).map_err(|error| format!("prefix: {error}"))?;
        Ok(Settings { api, secret: self.inject.secret.clone(), probe, prefix, tools })
    }

    fn tools(&self, placement: &Placement, path: &Path) -> Result<Tools, String> {
        let patterns = self.include.as_ref().map_or(0, Vec::len).saturating_add(self.exclude.len());
        if patterns > PATTERNS_MAX {
            return Err(format!("expected at most {PATTERNS_MAX} names in `include` and `exclude`"));
        }
        let bytes = read(path, DOCUMENT_BYTES_MAX as u64).map_err(|why| format!("document: {why}"))?;
        let wanted = |name: &str| {
            self.include.as_ref().is_none_or(|all| all.iter().any(|pattern| matches(pattern, name)))
                && !self.exclude.iter().any(|pattern| matches(pattern, name))
        };
        let (header, query) = match placement {
            Placement::Header { name, .. } => (name.as_str(), None),
            Placement::Bearer | Placement::Basic { .. } => ("authorization", None),
            Placement::Query { name } => ("authorization", Some(name.as_str())),
        };
        let choice = Choice { wanted: &wanted, headers: &[header], query: query.as_slice() };
        let document = Document::parse(&bytes, &choice).map_err(|error| format!("document: {error}"))?;
        self.told_of_skipped(&document)?;
        let mut tools = Tools::new();
        for operation in document.operations() {
            let effect = self.effect(operation)?;
            tools.insert(operation.name().to_owned(), Tool { operation: operation.clone(), effect });
        }
        if tools.is_empty() {
            return Err("no operation of the document can be offered".to_owned());
        }
        self.each_name_is_known(&tools)?;
        Ok(tools)
    }

    /// An operation that is named and cannot be offered is an error; others are left out, and the log says so.
    fn told_of_skipped(&self, document: &Document) -> Result<(), String> {
        for skipped in document.skipped() {
            if self.include.as_ref().is_some_and(|all| all.contains(&skipped.name)) {
                return Err(format!("`{}` ({}) cannot be offered: {}", skipped.name, skipped.operation, skipped.why));
            }
            tracing::warn!(tool = %skipped.name, operation = %skipped.operation, why = %skipped.why, "an operation is not offered");
        }
        Ok(())
    }

    /// What the method says, unless it is lowered by name.
    fn effect(&self, operation: &Operation) -> Result<Effect, String> {
        let (name, usual) = (operation.name(), effect_of(operation.method()));
        match self.lower.get(name) {
            None => Ok(usual),
            Some(effect) if *effect < usual => Ok(*effect),
            Some(_) => Err(format!("lower: `{name}` is `{usual}` by its method `{}`: expected less than that", operation.method())),
        }
    }

    /// A name that names nothing is a mistake.
    fn each_name_is_known(&self, tools: &Tools) -> Result<(), String> {
        let exact = self.include.iter().flatten().filter(|name| !name.ends_with('*'));
        let named: BTreeSet<&String> = exact.chain(self.lower.keys()).collect();
        match named.iter().find(|name| !tools.contains_key(**name)) {
            Some(name) => Err(format!("`{name}` is no tool of the document, or not one that is offered")),
            None => Ok(()),
        }
    }
}

/// `name`, or `na*`.
fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

impl InjectFile {
    fn check(&self) -> Result<Placement, String> {
        let unused = |what: &[(&str, bool)]| match what.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(format!("inject: `{name}` is not used with this kind")),
            None => Ok(()),
        };
        let (name, before, user) = (("name", self.name.is_some()), ("before", self.before.is_some()), ("user", self.user.is_some()));
        match self.kind {
            InjectKind::Bearer => {
                unused(&[name, before, user])?;
                Ok(Placement::Bearer)
            }
            InjectKind::Header => {
                unused(&[user])?;
                let name = self.name.as_deref().ok_or("inject: expected `name`, the header's")?;
                Ok(Placement::Header { name: header_name("inject.name", name)?, before: self.before.clone().unwrap_or_default() })
            }
            InjectKind::Basic => {
                unused(&[name, before])?;
                Ok(Placement::Basic { user: self.user.clone().ok_or("inject: expected `user`")? })
            }
            InjectKind::Query => {
                unused(&[before, user])?;
                Ok(Placement::Query { name: self.name.clone().ok_or("inject: expected `name`, the parameter's")? })
            }
        }
    }
}

fn header_name(key: &str, name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{key}: expected the name of a header"))
}

/// A file of at most so many bytes.
fn read(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let length = std::fs::metadata(path).map_err(|error| format!("`{shown}` cannot be read: {error}"))?.len();
    if length > max {
        return Err(format!("`{shown}` is longer than {max} bytes"));
    }
    std::fs::read(path).map_err(|error| format!("`{shown}` cannot be read: {error}"))
}

/// Whom to trust: the file's authorities and nobody else, or those that the web trusts.
fn tls(roots: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    if let Some(path) = roots {
        let pem = read(path, ROOTS_BYTES_MAX).map_err(|why| format!("roots: {why}"))?;
        return Ok(Trust::new(&pem).map_err(|error| format!("roots: {error}"))?.client());
    }
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

impl Settings {
    /// The names of the sealed secrets that it needs.
    pub(crate) fn secrets(&self) -> Vec<&str> {
        vec![&self.secret]
    }

    /// What the names of its leases begin with.
    pub(crate) fn prefix(&self) -> Prefix {
        self.prefix.clone()
    }

    /// Where its calls go.
    pub(crate) fn target(&self) -> String {
        format!("{}{}", self.api.origin.origin(), self.api.origin.path())
    }

    /// Puts it together.
    pub(crate) fn build(&self, secret: &dyn Fn(&str) -> Result<Secret, String>, clock: &Arc<dyn Clock>) -> Result<Built, String> {
        let key = Key::new(secret(&self.secret)?).map_err(|error| format!("the secret `{}`: {}", self.secret, error.detail()))?;
        let api = Arc::new(Api::new(self.api.clone(), Some(Arc::clone(&key))).map_err(|error| error.to_string())?);
        let kind = StaticKey::new(key, Arc::clone(&api), self.probe.clone(), Arc::clone(clock));
        Ok(Built { kind: Arc::new(kind), builtin: Arc::new(HttpApi { api, tools: Arc::clone(&self.tools) }) })
    }
}
