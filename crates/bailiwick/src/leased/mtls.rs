//! `[systems.NAME.credential.mtls]`: a client certificate for each task, signed by an authority whose key the broker holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::{Clock, Timestamp};
use bailiwick_credentials::kinds::mtls::{Mtls, Protocol, Server, Settings as KindSettings};
use bailiwick_credentials::lease::{Node, Trust};
use bailiwick_credentials::{Injection, Secret};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use super::{USE, trust};
use crate::upstream::{ClientCertificate, Inject, UpstreamError};

/// A certificate of our own is made anew when less than this of its life is left.
const LEFT_MIN: Duration = Duration::from_secs(60);
const PROBE_MAX: usize = 1024;

/// A client certificate for each task, signed by an authority whose key the broker holds, and ended by the authority's list of revoked certificates.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// The name of the secret that is the authority: PEM with its certificate and its private key (PKCS #8; P-256 or Ed25519).
    authority: String,
    /// The common name of the certificates: whom the server takes a task for.
    common_name: String,
    /// A file with the certificates (PEM) of the authorities that vouch for the server.
    ca: PathBuf,
    /// The file with the authority's list of revoked certificates: the broker writes it, the server reads it. Without it no ending is more than `expires-at`.
    revocation_list: Option<PathBuf>,
    /// A path that a `GET` with a good certificate is answered for by neither 400, 401 nor 403. The system's own path unless it is said.
    probe: Option<String>,
    /// No certificate lives longer, in seconds: 60 to 3600. 3600 unless it is said.
    lease_seconds_max: Option<u64>,
}

/// The checked table.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    kind: KindSettings,
    authority: String,
    trust: Trust,
}

impl File {
    pub(super) fn check(&self, url: &Url, folder: &Path) -> Result<Settings, String> {
        let host = url
            .host_str()
            .filter(|_| url.scheme() == "https")
            .ok_or("expected a system whose `url` is `https://`: a certificate is shown in the handshake of TLS")?;
        let port = url.port_or_known_default().ok_or("the system's `url` has no port")?;
        let trust = trust(&folder.join(&self.ca))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let node = Node::new(&format!("{bare}:{port}"), bare, port, Some(trust.clone())).map_err(|error| error.to_string())?;
        let path = self.probe.clone().unwrap_or_else(|| url.path().to_owned());
        if !path.starts_with('/') || path.len() > PROBE_MAX || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("`probe`: expected a path that begins with `/`, percent-encoded".to_owned());
        }
        let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let kind = KindSettings {
            servers: vec![Server { node, protocol: Protocol::Http { authority, path } }],
            names: BTreeMap::from([(USE.to_owned(), self.common_name.clone())]),
            lease_max: Duration::from_secs(self.lease_seconds_max.unwrap_or(3600)),
            list: self.revocation_list.as_ref().map(|path| folder.join(path)),
        };
        kind.check().map_err(|error| error.detail().to_owned())?;
        Ok(Settings { kind, authority: self.authority.clone(), trust })
    }
}

impl Settings {
    pub(super) fn secrets(&self) -> Vec<&str> {
        vec![&self.authority]
    }

    /// The authorities that vouch for the server.
    pub(super) fn roots(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.trust.pem()).filter_map(Result::ok).collect()
    }

    pub(super) fn build(&self, secret: &dyn Fn(&str) -> Result<Secret, String>, clock: &Arc<dyn Clock>) -> Result<Arc<Mtls>, String> {
        let kind = Mtls::new(self.kind.clone(), &secret(&self.authority)?, None, Arc::clone(clock));
        Ok(Arc::new(kind.map_err(|error| format!("the secret `{}`: {}", self.authority, error.detail()))?))
    }
}

/// The certificates with which the broker itself asks the server what it offers. Each lives for a few minutes, and its key never leaves this process.
pub(crate) struct Own {
    kind: Arc<Mtls>,
    clock: Arc<dyn Clock>,
    current: Mutex<Option<(Arc<ClientCertificate>, Timestamp)>>,
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Own {
    pub(super) fn new(kind: Arc<Mtls>, clock: &Arc<dyn Clock>) -> Self {
        Self { kind, clock: Arc::clone(clock), current: Mutex::default() }
    }

    fn certificate(&self) -> Option<Arc<ClientCertificate>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((certificate, _)) = current.as_ref().filter(|(_, until)| self.clock.now().plus(LEFT_MIN) < *until) {
            return Some(Arc::clone(certificate));
        }
        let (secret, until) = self.kind.own(USE).ok()?;
        let certificate = ClientCertificate::new(Mtls::certified(&secret)?);
        if let Some((before, _)) = current.replace((Arc::clone(&certificate), until)) {
            before.close();
        }
        Some(certificate)
    }
}

/// What goes along with the broker's own questions to a system that asks for client certificates.
pub(crate) struct WithOwn {
    injection: Arc<Injection>,
    own: Own,
}

impl WithOwn {
    pub(crate) const fn new(injection: Arc<Injection>, own: Own) -> Self {
        Self { injection, own }
    }
}

impl Inject for WithOwn {
    fn headers(&self, put: &mut dyn FnMut(&str, &str)) {
        self.injection.headers(put);
    }

    fn certificate(&self) -> Result<Option<Arc<ClientCertificate>>, UpstreamError> {
        self.own.certificate().map(Some).ok_or(UpstreamError::NoCredential)
    }
}
