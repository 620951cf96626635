//! Systems with a server of their own (`url`) that are given a credential made for the task, in a header or as a client certificate: one file for each kind.
//!
//! The table is `[systems.NAME.credential]`, with one table of a kind in it. The model never sees the credential, and it ends with the task.

mod aws_sts;
mod github_app;
mod kubernetes;
pub(crate) mod mtls;
mod oauth2;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bailiwick_core::Clock;
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::web::Endpoint;
use bailiwick_credentials::lease::rotation::Rotation;
use bailiwick_credentials::lease::{Kind, Prefix, Trust};
use rustls::pki_types::CertificateDer;
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use crate::federation::Federation;
use crate::leases::{Given, GivenBy, HeaderUse};

/// Certificates of authorities are longer only by mistake.
const PEM_MAX: u64 = 1 << 20;
/// The header of task, agent and call, unless it is said.
const TAG_HEADER: &str = "x-bailiwick-task";
/// The one right of a system with a server of its own: what its table names.
const USE: &str = "use";

/// `[systems.NAME.credential]`: how a credential is made for each task, and how the system is given it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The header; `authorization` unless it is said.
    header: Option<String>,
    /// What stands before the credential in the header; `Bearer `, or nothing before keys of AWS, unless it is said.
    before: Option<String>,
    /// The header that carries task, agent and call; `X-Bailiwick-Task` unless it is said, none if it is empty.
    tag_header: Option<String>,
    /// What the names of this broker's leases begin with: `ag_` unless two brokers share a cluster.
    prefix: Option<String>,
    /// A token of an OAuth 2 authorization server.
    oauth2: Option<oauth2::File>,
    /// An installation token of a GitHub App.
    github_app: Option<github_app::File>,
    /// A token of a service account of Kubernetes.
    kubernetes: Option<kubernetes::File>,
    /// Temporary keys of AWS: a JSON object with `access_key_id`, `secret_access_key` and `session_token`, in a header that must be named.
    aws_sts: Option<aws_sts::File>,
    /// A client certificate, shown in the handshake of TLS.
    mtls: Option<mtls::File>,
}

/// The checked table. No secret is in it, only names of secrets.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    given: Given,
    prefix: Prefix,
    sort: Sort,
}

#[derive(Clone, Debug)]
enum Sort {
    Oauth2(Arc<oauth2::Settings>),
    GithubApp(Arc<github_app::Settings>),
    Kubernetes(Arc<kubernetes::Settings>),
    AwsSts(Arc<aws_sts::Settings>),
    Mtls(Arc<mtls::Settings>),
}

/// A kind, and how its credentials are used.
#[derive(Debug)]
pub(crate) struct Built {
    /// How its credentials are made and ended.
    pub(crate) kind: Arc<dyn Kind>,
    /// The rights of each credential.
    pub(crate) rights: Vec<String>,
    /// How the system is given it.
    pub(crate) given: Given,
    /// The certificates with which the broker itself asks the system what it offers, where it lets nobody in without one.
    pub(crate) own: Option<mtls::Own>,
    /// Who vouches for the system beside those that the web trusts.
    pub(crate) roots: Vec<CertificateDer<'static>>,
}

impl File {
    /// Parses the table of a system at `url`; `folder` is that of the configuration. Words say what was expected.
    pub(crate) fn check(&self, url: &Url, folder: &Path) -> Result<Settings, String> {
        let sort = self.sort(url, folder)?;
        let prefix = self.prefix.as_deref().map_or(Ok(Prefix::default()), str::parse).map_err(|error| format!("prefix: {error}"))?;
        let tag_header = match self.tag_header.as_deref() {
            Some("") => None,
            name => Some(tag_header(name.unwrap_or(TAG_HEADER))?),
        };
        let by = if matches!(sort, Sort::Mtls(_)) {
            if self.header.is_some() || self.before.is_some() {
                return Err("`header`: a client certificate is shown in the handshake, and stands in no header".to_owned());
            }
            GivenBy::Certificate
        } else {
            let header = self.header(&sort)?;
            if tag_header.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(&header.name)) {
                return Err("`tag_header`: it is the credential's".to_owned());
            }
            GivenBy::Header(header)
        };
        Ok(Settings { given: Given { by, tag_header }, prefix, sort })
    }

    fn sort(&self, url: &Url, folder: &Path) -> Result<Sort, String> {
        let named = |kind: &str, why: String| format!("`{kind}`: {why}");
        match (&self.oauth2, &self.github_app, &self.kubernetes, &self.aws_sts, &self.mtls) {
            (Some(file), None, None, None, None) => Ok(Sort::Oauth2(Arc::new(file.check(folder).map_err(|why| named("oauth2", why))?))),
            (None, Some(file), None, None, None) => Ok(Sort::GithubApp(Arc::new(file.check(folder).map_err(|why| named("github_app", why))?))),
            (None, None, Some(file), None, None) => Ok(Sort::Kubernetes(Arc::new(file.check(folder).map_err(|why| named("kubernetes", why))?))),
            (None, None, None, Some(file), None) => Ok(Sort::AwsSts(Arc::new(file.check(folder).map_err(|why| named("aws_sts", why))?))),
            (None, None, None, None, Some(file)) => Ok(Sort::Mtls(Arc::new(file.check(url, folder).map_err(|why| named("mtls", why))?))),
            _ => Err("expected exactly one of `oauth2`, `github_app`, `kubernetes`, `aws_sts`, `mtls`".to_owned()),
        }
    }

    fn header(&self, sort: &Sort) -> Result<HeaderUse, String> {
        let (name, before) = match (sort, &self.header) {
            // What signs requests is no bearer token: only a server that was made for it takes it.
            (Sort::AwsSts(_), None) => return Err("`header`: expected the header in which this server takes keys of AWS as a JSON object".to_owned()),
            (Sort::AwsSts(_), Some(name)) => (name.clone(), ""),
            (_, name) => (name.clone().unwrap_or_else(|| "authorization".to_owned()), "Bearer "),
        };
        let header = HeaderUse { name, before: self.before.clone().unwrap_or_else(|| before.to_owned()) };
        // What cannot be put into a request is told now, and not at the first call of a task.
        bailiwick_credentials::Injection::header_of(&header.name, &header.before, &Secret::from("probe".to_owned()))
            .map_err(|error| error.to_string())?;
        Ok(header)
    }
}

/// The name of a header that nobody else writes.
fn tag_header(name: &str) -> Result<String, String> {
    bailiwick_credentials::Injection::header_of(name, "", &Secret::from("probe".to_owned())).map_err(|error| format!("`tag_header`: {error}"))?;
    let lower = name.to_ascii_lowercase();
    let ours = ["authorization", "accept", "content-type", "user-agent", "traceparent", "tracestate", "cookie"];
    if ours.contains(&lower.as_str()) || lower.starts_with("mcp-") {
        return Err(format!("`tag_header`: `{lower}` has another meaning"));
    }
    Ok(lower)
}

impl Settings {
    /// The names of the sealed secrets that it needs. A refresh token is none of them: it is kept by [`Rotation`].
    pub(crate) fn secrets(&self) -> Vec<&str> {
        match &self.sort {
            Sort::Oauth2(settings) => settings.secrets(),
            Sort::GithubApp(settings) => settings.secrets(),
            Sort::Kubernetes(settings) => settings.secrets(),
            Sort::AwsSts(settings) => settings.secrets(),
            Sort::Mtls(settings) => settings.secrets(),
        }
    }

    /// What the names of its leases begin with.
    pub(crate) fn prefix(&self) -> Prefix {
        self.prefix.clone()
    }

    /// Puts it together with its secrets. `kept` is where refresh tokens are, `federation` who signs for us at clouds.
    ///
    /// # Errors
    /// In words: a secret is not set, or is none of its kind.
    pub(crate) fn build(
        &self,
        secret: &dyn Fn(&str) -> Result<Secret, String>,
        kept: &Arc<dyn Rotation>,
        federation: &Federation,
        clock: &Arc<dyn Clock>,
    ) -> Result<Built, String> {
        let (mut own, mut roots) = (None, Vec::new());
        let kind: Arc<dyn Kind> = match &self.sort {
            Sort::Oauth2(settings) => settings.build(secret, kept, clock)?,
            Sort::GithubApp(settings) => settings.build(secret, clock)?,
            Sort::Kubernetes(settings) => settings.build(secret, clock)?,
            Sort::AwsSts(settings) => settings.build(secret, federation, clock)?,
            Sort::Mtls(settings) => {
                let kind = settings.build(secret, clock)?;
                own = Some(mtls::Own::new(Arc::clone(&kind), clock));
                roots = settings.roots();
                kind
            }
        };
        Ok(Built { kind, rights: vec![USE.to_owned()], given: self.given.clone(), own, roots })
    }
}

/// A URL of the system; trusted are the authorities of the file, and nobody else, or those that the web trusts.
fn place(name: &str, url: &str, ca: Option<&Path>, folder: &Path) -> Result<Endpoint, String> {
    let trouble = |why: &str| format!("`{name}`: {why}");
    let tls = match ca {
        Some(path) => trust(&folder.join(path))?.client(),
        None => web().map_err(|error| trouble(&error.to_string()))?,
    };
    Endpoint::new(name.trim_end_matches("_url"), url, Some(tls)).map_err(|error| trouble(&error.to_string()))
}

fn trust(path: &Path) -> Result<Trust, String> {
    let trouble = |why: &str| format!("`{}`: {why}", path.display());
    let length = fs::metadata(path).map_err(|error| trouble(&error.to_string()))?.len();
    if length > PEM_MAX {
        return Err(trouble("it is longer than a mebibyte"));
    }
    let pem = fs::read(path).map_err(|error| trouble(&error.to_string()))?;
    Trust::new(&pem).map_err(|error| trouble(&error.to_string()))
}

fn web() -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// A key in PEM that is a sealed secret.
fn key(name: &str, secret: &dyn Fn(&str) -> Result<Secret, String>) -> Result<bailiwick_credentials::kinds::signing::Key, String> {
    bailiwick_credentials::kinds::signing::Key::from_pem(&secret(name)?).map_err(|error| format!("the secret `{name}`: {error}"))
}

/// The file of authorities, as each kind's table names it.
type Authorities = Option<PathBuf>;
