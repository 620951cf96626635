//! `[systems.NAME.credential.github_app]`: an installation of a GitHub App.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bailiwick_core::Clock;
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::github_app::{Form, GithubApp, Level, Right, Settings as KindSettings};
use bailiwick_credentials::lease::Kind;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Authorities, USE, key, place};

/// An installation of a GitHub App. A token is for these repositories and permissions, and lives for an hour at most.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// The REST API; `https://api.github.com` unless it is said, `https://HOST/api/v3` of an Enterprise Server.
    api_url: Option<String>,
    /// The app's client id.
    client_id: String,
    /// The number of the installation, at the end of its URL.
    installation: u64,
    /// The name of the secret that is the app's private key (PEM).
    private_key: String,
    /// The repositories, without their owner. At least one: without any, a token is for all of the installation.
    repositories: BTreeSet<String>,
    /// The permissions, such as `contents = "read"`. At least one: without any, a token has all of the app.
    permissions: BTreeMap<String, LevelFile>,
    /// The form of tokens: `opaque` or `stateless`; as GitHub likes unless it is said.
    form: Option<FormFile>,
    /// A file with the certificates (PEM) of the authorities that vouch for the server. Those that the web trusts unless it is said.
    ca: Authorities,
}

/// How far a permission goes.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum LevelFile {
    /// Look.
    Read,
    /// Change.
    Write,
    /// Govern.
    Admin,
}

/// A form of tokens.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum FormFile {
    /// 40 characters.
    Opaque,
    /// About 520 characters, with a JWT in them.
    Stateless,
}

/// The checked table.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    kind: KindSettings,
    private_key: String,
}

impl File {
    pub(super) fn check(&self, folder: &Path) -> Result<Settings, String> {
        let level = |file: LevelFile| match file {
            LevelFile::Read => Level::Read,
            LevelFile::Write => Level::Write,
            LevelFile::Admin => Level::Admin,
        };
        let right = Right {
            repositories: self.repositories.clone(),
            permissions: self.permissions.iter().map(|(name, file)| (name.clone(), level(*file))).collect(),
        };
        let kind = KindSettings {
            api: place("api_url", self.api_url.as_deref().unwrap_or("https://api.github.com"), self.ca.as_deref(), folder)?,
            client_id: self.client_id.clone(),
            installation: self.installation,
            rights: BTreeMap::from([(USE.to_owned(), right)]),
            form: self.form.map(|form| match form {
                FormFile::Opaque => Form::Opaque,
                FormFile::Stateless => Form::Stateless,
            }),
        };
        kind.check().map_err(|error| error.detail().to_owned())?;
        Ok(Settings { kind, private_key: self.private_key.clone() })
    }
}

impl Settings {
    pub(super) fn secrets(&self) -> Vec<&str> {
        vec![&self.private_key]
    }

    pub(super) fn build(&self, secret: &dyn Fn(&str) -> Result<Secret, String>, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Kind>, String> {
        let kind = GithubApp::new(self.kind.clone(), key(&self.private_key, secret)?, Arc::clone(clock));
        Ok(Arc::new(kind.map_err(|error| error.detail().to_owned())?))
    }
}
