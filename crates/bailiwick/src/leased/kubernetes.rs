//! `[systems.NAME.credential.kubernetes]`: a service account of a cluster.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::Clock;
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::kubernetes::{Kubernetes, Settings as KindSettings};
use bailiwick_credentials::lease::Kind;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Authorities, USE, place};

/// A service account of a cluster. A token is bound to an object of its own, which is removed at the task's end.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// The API server.
    api_url: String,
    /// The namespace of the service account. The broker reads every `Secret` in it: best one without others.
    namespace: String,
    /// The service account whose tokens are made.
    service_account: String,
    /// The name of the secret that is the token of the broker's own service account.
    token: String,
    /// Whom tokens are for; the API server unless it is said.
    #[serde(default)]
    audiences: Vec<String>,
    /// Whoever else is in the audience asks the API server each time (`TokenReview`), so that a token is dead for them when it is dead there.
    #[serde(default)]
    audiences_ask: bool,
    /// For how many seconds API servers remember that a token was good; 10 unless it is said, at most 30. An ending takes as long.
    remembered_seconds: Option<u64>,
    /// A file with the certificates (PEM) of the cluster's authorities. Those that the web trusts unless it is said.
    ca: Authorities,
}

/// The checked table.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    kind: KindSettings,
    token: String,
}

impl File {
    pub(super) fn check(&self, folder: &Path) -> Result<Settings, String> {
        let kind = KindSettings {
            api: place("api_url", &self.api_url, self.ca.as_deref(), folder)?,
            namespace: self.namespace.clone(),
            rights: BTreeMap::from([(USE.to_owned(), self.service_account.clone())]),
            audiences: self.audiences.clone(),
            audiences_ask: self.audiences_ask,
            remembered: Duration::from_secs(self.remembered_seconds.unwrap_or(10)),
        };
        kind.check().map_err(|error| error.detail().to_owned())?;
        Ok(Settings { kind, token: self.token.clone() })
    }
}

impl Settings {
    pub(super) fn secrets(&self) -> Vec<&str> {
        vec![&self.token]
    }

    pub(super) fn build(&self, secret: &dyn Fn(&str) -> Result<Secret, String>, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Kind>, String> {
        let kind = Kubernetes::new(self.kind.clone(), secret(&self.token)?, Arc::clone(clock)).map_err(|error| error.detail().to_owned())?;
        Ok(Arc::new(kind))
    }
}
