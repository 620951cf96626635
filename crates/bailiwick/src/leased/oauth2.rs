//! `[systems.NAME.credential.oauth2]`: a client at an authorization server, by its own standing or with a refresh token.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::Clock;
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::oauth2::{Grant, Login, Oauth2, Settings as KindSettings};
use bailiwick_credentials::lease::Kind;
use bailiwick_credentials::lease::rotation::Rotation;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Authorities, USE, key, place};

/// A client at an authorization server. With `refresh_token`, tokens are made from that, else from the client's own standing.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// The token endpoint.
    token_url: String,
    /// The revocation endpoint (RFC 7009), if it does something for access tokens and leaves the refresh token alone.
    revocation_url: Option<String>,
    /// A resource that `GET` reaches with each token: 2xx while the token lives, 401 or 403 when it is dead. Without it no ending is `revoked-verified`.
    probe_url: Option<String>,
    /// The client's id.
    client_id: String,
    /// The name of the secret that is the client's secret.
    client_secret: Option<String>,
    /// Where the client's secret goes: the header (`basic`) or the form (`post`). `basic` unless it is said.
    #[serde(default)]
    client_secret_in: SecretIn,
    /// The name of the secret that is the client's private key (PEM), for `private_key_jwt`.
    private_key: Option<String>,
    /// The key's name at the server.
    private_key_id: Option<String>,
    /// Whom assertions are for; the token endpoint unless it is said.
    audience: Option<String>,
    /// The name of the secret that is a refresh token. It serves this system and nobody else; the broker replaces it as the server does.
    refresh_token: Option<String>,
    /// What tokens may do. At least one: without any, a server gives what it likes.
    scopes: Vec<String>,
    /// For which resources (RFC 8707).
    #[serde(default)]
    resources: Vec<String>,
    /// No token lives longer, in seconds, for servers that do not say it.
    lifetime_seconds_max: Option<u64>,
    /// A revocation reaches the probe within so many seconds; 20 unless it is said, at most 30.
    revocation_lag_seconds_max: Option<u64>,
    /// A file with the certificates (PEM) of the authorities that vouch for these servers. Those that the web trusts unless it is said.
    ca: Authorities,
}

/// Where a client's secret goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SecretIn {
    /// In the header `Authorization`.
    #[default]
    Basic,
    /// In the form.
    Post,
}

/// The checked table.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    kind: KindSettings,
    login: LoginBy,
    refresh_token: Option<String>,
}

#[derive(Clone, Debug)]
enum LoginBy {
    Secret(String, SecretIn),
    Key { name: String, kid: Option<String>, audience: String },
    Nothing,
}

impl File {
    pub(super) fn check(&self, folder: &Path) -> Result<Settings, String> {
        let place = |name: &str, url: &str| place(name, url, self.ca.as_deref(), folder);
        let login = match (&self.client_secret, &self.private_key) {
            (Some(_), Some(_)) => return Err("expected `client_secret` or `private_key`, not both".to_owned()),
            (Some(name), None) => LoginBy::Secret(name.clone(), self.client_secret_in),
            (None, Some(name)) => {
                let audience = self.audience.clone().unwrap_or_else(|| self.token_url.clone());
                LoginBy::Key { name: name.clone(), kid: self.private_key_id.clone(), audience }
            }
            (None, None) if self.refresh_token.is_none() => return Err("expected `client_secret`, `private_key` or `refresh_token`".to_owned()),
            (None, None) => LoginBy::Nothing,
        };
        let kind = KindSettings {
            token: place("token_url", &self.token_url)?,
            revocation: self.revocation_url.as_deref().map(|url| place("revocation_url", url)).transpose()?,
            probe: self.probe_url.as_deref().map(|url| place("probe_url", url)).transpose()?,
            client_id: self.client_id.clone(),
            rights: BTreeMap::from([(USE.to_owned(), self.scopes.clone())]),
            resources: self.resources.clone(),
            lifetime_max: self.lifetime_seconds_max.map(Duration::from_secs),
            revocation_lag_max: Duration::from_secs(self.revocation_lag_seconds_max.unwrap_or(20)),
        };
        kind.check().map_err(|error| error.detail().to_owned())?;
        Ok(Settings { kind, login, refresh_token: self.refresh_token.clone() })
    }
}

impl Settings {
    pub(super) fn secrets(&self) -> Vec<&str> {
        match &self.login {
            LoginBy::Secret(name, _) | LoginBy::Key { name, .. } => vec![name],
            LoginBy::Nothing => Vec::new(),
        }
    }

    pub(super) fn build(
        &self,
        secret: &dyn Fn(&str) -> Result<Secret, String>,
        kept: &Arc<dyn Rotation>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<dyn Kind>, String> {
        let login = match &self.login {
            LoginBy::Secret(name, SecretIn::Basic) => Login::Basic(secret(name)?),
            LoginBy::Secret(name, SecretIn::Post) => Login::Post(secret(name)?),
            LoginBy::Key { name, kid, audience } => Login::PrivateKeyJwt { key: key(name, secret)?, kid: kid.clone(), audience: audience.clone() },
            LoginBy::Nothing => Login::Public,
        };
        let grant = match &self.refresh_token {
            Some(name) => Grant::RefreshToken { name: name.clone(), kept: Arc::clone(kept) },
            None => Grant::ClientCredentials,
        };
        let kind = Oauth2::new(self.kind.clone(), login, grant, Arc::clone(clock)).map_err(|error| error.detail().to_owned())?;
        Ok(Arc::new(kind))
    }
}
