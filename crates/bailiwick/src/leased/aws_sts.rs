//! `[systems.NAME.credential.aws_sts]`: a role of AWS, by a web identity of an issuer of ours.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::Clock;
use bailiwick_credentials::Secret;
use bailiwick_credentials::kinds::aws_sts::{AwsSts, Issuer, Settings as KindSettings, WebIdentity};
use bailiwick_credentials::lease::Kind;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{Authorities, USE, key, place};
use crate::federation::Federation;

/// A role of AWS, by a web identity of an issuer of ours.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// The region. Its endpoint is `https://sts.REGION.amazonaws.com` unless `endpoint_url` says otherwise.
    region: String,
    /// The endpoint.
    endpoint_url: Option<String>,
    /// The role: `arn:aws:iam::ACCOUNT:role/NAME`.
    role: String,
    /// The URL of an issuer whose key a person keeps, as AWS knows it. With `private_key` and `private_key_id`. Without the three, the broker is the issuer,
    /// with a key of its own: `PUBLIC_URL/federation`.
    issuer: Option<String>,
    /// The name of the secret that is that issuer's private key (PEM): RSA, or EC on P-256.
    private_key: Option<String>,
    /// The key's name in that issuer's key set.
    private_key_id: Option<String>,
    /// Who we say we are: what the role's trust policy compares with `sub`.
    subject: String,
    /// The provider's audience; `sts.amazonaws.com` unless it is said.
    audience: Option<String>,
    /// The statements of the session's policy. At least one: without any, a session has all of its role.
    statements: Vec<Value>,
    /// No session is longer, in seconds: 900 to 43200. 3600 unless it is said.
    session_seconds_max: Option<u64>,
    /// A file with the certificates (PEM) of the authorities that vouch for the endpoint. Those that the web trusts unless it is said.
    ca: Authorities,
}

/// The checked table.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    kind: KindSettings,
    issuer: IssuedBy,
}

/// Who signs the tokens that say who we are.
#[derive(Clone, Debug)]
enum IssuedBy {
    /// The broker, with a key of its own.
    Us,
    /// Somebody whose key is a sealed secret.
    Key { issuer: String, name: String, kid: String },
}

impl File {
    pub(super) fn check(&self, folder: &Path) -> Result<Settings, String> {
        let url = self.endpoint_url.clone().unwrap_or_else(|| format!("https://sts.{}.amazonaws.com", self.region));
        let kind = KindSettings {
            endpoint: place("endpoint_url", &url, self.ca.as_deref(), folder)?,
            region: self.region.clone(),
            role: self.role.clone(),
            audience: self.audience.clone().unwrap_or_else(|| "sts.amazonaws.com".to_owned()),
            subject: self.subject.clone(),
            rights: BTreeMap::from([(USE.to_owned(), self.statements.clone())]),
            session_max: Duration::from_secs(self.session_seconds_max.unwrap_or(3600)),
        };
        kind.check().map_err(|error| error.detail().to_owned())?;
        let issuer = match (&self.issuer, &self.private_key, &self.private_key_id) {
            (None, None, None) => IssuedBy::Us,
            (Some(issuer), Some(name), Some(kid)) => IssuedBy::Key { issuer: issuer.clone(), name: name.clone(), kid: kid.clone() },
            _ => return Err("expected `issuer`, `private_key` and `private_key_id`, or none of the three: then the broker is the issuer".to_owned()),
        };
        Ok(Settings { kind, issuer })
    }
}

impl Settings {
    pub(super) fn secrets(&self) -> Vec<&str> {
        match &self.issuer {
            IssuedBy::Us => Vec::new(),
            IssuedBy::Key { name, .. } => vec![name],
        }
    }

    pub(super) fn build(
        &self,
        secret: &dyn Fn(&str) -> Result<Secret, String>,
        federation: &Federation,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<dyn Kind>, String> {
        let words = |error: bailiwick_credentials::lease::TargetError| error.detail().to_owned();
        let identity = match &self.issuer {
            IssuedBy::Us => federation.web_identity(clock)?,
            IssuedBy::Key { issuer, name, kid } => WebIdentity::new(issuer, kid, key(name, secret)?, Arc::clone(clock)).map_err(words)?,
        };
        let issuer: Arc<dyn Issuer> = Arc::new(identity);
        Ok(Arc::new(AwsSts::new(self.kind.clone(), issuer, Arc::clone(clock)).map_err(words)?))
    }
}
