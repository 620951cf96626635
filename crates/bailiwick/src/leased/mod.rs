//! Systems with a server of their own (`url`) that are given a credential made for the task in a header: one file for each kind that needs a cloud.
//!
//! The table is `[systems.NAME.credential]`, with one table of a kind in it. The model never sees the credential, and it ends with the task.

mod aws_sts;
mod github_app;
mod kubernetes;
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
use schemars::JsonSchema;
use serde::Deserialize;

use crate::leases::HeaderUse;

/// Certificates of authorities are longer only by mistake.
const PEM_MAX: u64 = 1 << 20;
/// The one right of a system with a server of its own: what its table names.
const USE: &str = "use";

/// `[systems.NAME.credential]`: how a credential is made for each task, and in which header the system is given it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The header; `authorization` unless it is said.
    header: Option<String>,
    /// What stands before the credential in the header; `Bearer `, or nothing before keys of AWS, unless it is said.
    before: Option<String>,
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
}

/// The checked table. No secret is in it, only names of secrets.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    header: HeaderUse,
    prefix: Prefix,
    sort: Sort,
}

#[derive(Clone, Debug)]
enum Sort {
    Oauth2(Arc<oauth2::Settings>),
    GithubApp(Arc<github_app::Settings>),
    Kubernetes(Arc<kubernetes::Settings>),
    AwsSts(Arc<aws_sts::Settings>),
}

/// A kind, and how its credentials are used.
#[derive(Debug)]
pub(crate) struct Built {
    /// How its credentials are made and ended.
    pub(crate) kind: Arc<dyn Kind>,
    /// The rights of each credential.
    pub(crate) rights: Vec<String>,
    /// How the system is given it.
    pub(crate) header: HeaderUse,
}

impl File {
    /// Parses the table; `folder` is that of the configuration. Words say what was expected.
    pub(crate) fn check(&self, folder: &Path) -> Result<Settings, String> {
        let named = |kind: &str, why: String| format!("`{kind}`: {why}");
        let sort = match (&self.oauth2, &self.github_app, &self.kubernetes, &self.aws_sts) {
            (Some(file), None, None, None) => Sort::Oauth2(Arc::new(file.check(folder).map_err(|why| named("oauth2", why))?)),
            (None, Some(file), None, None) => Sort::GithubApp(Arc::new(file.check(folder).map_err(|why| named("github_app", why))?)),
            (None, None, Some(file), None) => Sort::Kubernetes(Arc::new(file.check(folder).map_err(|why| named("kubernetes", why))?)),
            (None, None, None, Some(file)) => Sort::AwsSts(Arc::new(file.check(folder).map_err(|why| named("aws_sts", why))?)),
            _ => return Err("expected exactly one of `oauth2`, `github_app`, `kubernetes`, `aws_sts`".to_owned()),
        };
        let (name, before) = match (&sort, &self.header) {
            // What signs requests is no bearer token: only a server that was made for it takes it.
            (Sort::AwsSts(_), None) => return Err("`header`: expected the header in which this server takes keys of AWS as a JSON object".to_owned()),
            (Sort::AwsSts(_), Some(name)) => (name.clone(), ""),
            (_, name) => (name.clone().unwrap_or_else(|| "authorization".to_owned()), "Bearer "),
        };
        let header = HeaderUse { name, before: self.before.clone().unwrap_or_else(|| before.to_owned()) };
        // What cannot be put into a request is told now, and not at the first call of a task.
        bailiwick_credentials::Injection::header_of(&header.name, &header.before, &Secret::from("probe".to_owned()))
            .map_err(|error| error.to_string())?;
        let prefix = self.prefix.as_deref().map_or(Ok(Prefix::default()), str::parse).map_err(|error| format!("prefix: {error}"))?;
        Ok(Settings { header, prefix, sort })
    }
}

impl Settings {
    /// The names of the sealed secrets that it needs. A refresh token is none of them: it is kept by [`Rotation`].
    pub(crate) fn secrets(&self) -> Vec<&str> {
        match &self.sort {
            Sort::Oauth2(settings) => settings.secrets(),
            Sort::GithubApp(settings) => settings.secrets(),
            Sort::Kubernetes(settings) => settings.secrets(),
            Sort::AwsSts(settings) => settings.secrets(),
        }
    }

    /// What the names of its leases begin with.
    pub(crate) fn prefix(&self) -> Prefix {
        self.prefix.clone()
    }

    /// Puts it together with its secrets. `kept` is where refresh tokens are.
    ///
    /// # Errors
    /// In words: a secret is not set, or is none of its kind.
    pub(crate) fn build(
        &self,
        secret: &dyn Fn(&str) -> Result<Secret, String>,
        kept: &Arc<dyn Rotation>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Built, String> {
        let kind = match &self.sort {
            Sort::Oauth2(settings) => settings.build(secret, kept, clock)?,
            Sort::GithubApp(settings) => settings.build(secret, clock)?,
            Sort::Kubernetes(settings) => settings.build(secret, clock)?,
            Sort::AwsSts(settings) => settings.build(secret, clock)?,
        };
        Ok(Built { kind, rights: vec![USE.to_owned()], header: self.header.clone() })
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
