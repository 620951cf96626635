//! Clients that prove themselves in TLS (RFC 8705): whose certificates are believed, and what a connection knows of its client.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bailiwick_core::{Agent, AgentName, InstanceId, SpiffeId, TrustDomain};
use bailiwick_identity::certificate::Certificate;
use bailiwick_identity::{KeyId, spiffe};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use crate::config::MtlsConfig;
use crate::house::House;
use crate::tls;

/// A certificate whose holder proved its key in this connection's handshake, and which [`ClientVerifier`] believed.
#[derive(Clone, Debug)]
pub(crate) struct ClientCertificate {
    /// What it says.
    pub certificate: Arc<Certificate>,
}

impl ClientCertificate {
    /// From the leaf of a chain that the handshake believed.
    pub(crate) fn read(leaf: &CertificateDer<'_>) -> Result<Self, bailiwick_identity::certificate::CertificateError> {
        Certificate::read(leaf).map(|certificate| Self { certificate: Arc::new(certificate) })
    }
}

/// The clients whose certificates are believed: by the roots of each trust domain, which may change.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    by_domain: ArcSwap<HashMap<TrustDomain, Arc<dyn ClientCertVerifier>>>,
}

impl Roots {
    /// Reads the roots of all trust domains; the former ones stay if one cannot be read.
    pub(crate) fn read(&self, config: &MtlsConfig, own: Option<(&TrustDomain, Vec<Vec<u8>>)>) -> Result<(), String> {
        let mut by_domain: HashMap<TrustDomain, Vec<Vec<u8>>> = HashMap::new();
        for (domain, path) in &config.roots {
            by_domain.insert(domain.clone(), certificates(domain, path)?);
        }
        if let Some((domain, roots)) = own {
            by_domain.entry(domain.clone()).or_default().extend(roots);
        }
        let verifiers: Result<HashMap<_, _>, String> =
            by_domain.into_iter().map(|(domain, roots)| Ok((domain.clone(), verifier(&domain, roots)?))).collect();
        self.by_domain.store(Arc::new(verifiers?));
        Ok(())
    }
}

fn verifier(domain: &TrustDomain, roots: Vec<Vec<u8>>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from(root)).map_err(|e| format!("a root of `{domain}` cannot be used: {e}"))?;
    }
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(store), tls::provider()).build();
    built.map(|verifier| verifier as _).map_err(|e| format!("the roots of `{domain}` cannot be used: {e}"))
}

/// Root certificates from a file: PEM, or a SPIFFE bundle.
fn certificates(domain: &TrustDomain, path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let wrong = |why: String| format!("the roots of `{domain}` in {}: {why}", path.display());
    let bytes = tls::read_file(path)?;
    let found = if bytes.trim_ascii_start().starts_with(b"{") {
        spiffe::Bundle::parse(domain.clone(), &bytes).map_err(|e| wrong(e.to_string()))?.x509
    } else {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).map(|c| c.map(|c| c.to_vec())).collect();
        all.map_err(|e| wrong(e.to_string()))?
    };
    if found.is_empty() { Err(wrong("there is no certificate".to_owned())) } else { Ok(found) }
}

/// Decides in the handshake whether a client's certificate is believed.
pub(crate) struct ClientVerifier {
    house: Arc<House>,
    self_signed: bool,
}

impl std::fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientVerifier").field("self_signed", &self.self_signed).finish_non_exhaustive()
    }
}

impl ClientVerifier {
    pub(crate) fn new(house: Arc<House>, config: &MtlsConfig) -> Arc<Self> {
        Arc::new(Self { house, self_signed: config.self_signed })
    }

    fn roots_of(&self, domain: &TrustDomain) -> Option<Arc<dyn ClientCertVerifier>> {
        self.house.tls.roots().and_then(|roots| roots.by_domain.load().get(domain).cloned())
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let refused = |why: &dyn std::fmt::Display, error: CertificateError| {
            tracing::info!(%why, "a client's certificate was refused");
            Err(rustls::Error::InvalidCertificate(error))
        };
        let certificate = match Certificate::read(end_entity) {
            Ok(certificate) => certificate,
            Err(why) => return refused(&why, CertificateError::BadEncoding),
        };
        match certificate.spiffe_id() {
            Ok(id) => {
                // The roots of this trust domain and of no other: none speaks for the workloads of another.
                let Some(verifier) = spiffe::domain_of(id).and_then(|domain| self.roots_of(&domain)) else {
                    return refused(&format_args!("{id} is of no trust domain whose roots are known"), CertificateError::UnknownIssuer);
                };
                verifier.verify_client_cert(end_entity, intermediates, now)
            }
            //= rfc8705#section-2.2
            // This method of mutual-TLS OAuth client authentication is intended to support client authentication using self-signed
            // certificates. As a prerequisite, the client registers its X.509 certificates [...] the certificate chain is not validated
            // by the server in this case. Here what is registered is the key.
            Err(_) if self.self_signed => {
                let valid = certificate.check_time(self.house.clock.now()).is_ok();
                match certificate.key() {
                    Some(key) if valid && self.house.agent_of_key(&key.id()).is_some() => Ok(ClientCertVerified::assertion()),
                    _ => refused(&"its key is no agent's, or it is not valid now", CertificateError::ApplicationVerificationFailure),
                }
            }
            Err(why) => refused(&why, CertificateError::ApplicationVerificationFailure),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &tls::provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &tls::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Whom a certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ByCertificate {
    /// The agent.
    pub(crate) agent: AgentName,
    /// The component of it, if the SPIFFE ID names one.
    pub(crate) component: Option<bailiwick_core::ComponentName>,
    /// The running copy, if the SPIFFE ID names one.
    pub(crate) instance: Option<InstanceId>,
    /// The registered key, if it came with one of its own.
    pub(crate) key: Option<KeyId>,
}

impl House {
    /// The agent that proved itself by the certificate of its connection (RFC 8705 section 2).
    pub(crate) fn by_certificate(&self, shown: &ClientCertificate) -> Option<ByCertificate> {
        let certificate = &shown.certificate;
        certificate.check_time(self.clock.now()).ok()?;
        match certificate.spiffe_id() {
            Ok(id) => self.agent_of_id(id),
            Err(_) => {
                let key = certificate.key()?.id();
                let agent = self.agent_of_key(&key)?;
                Some(ByCertificate { agent: agent.name.clone(), component: None, instance: None, key: Some(key) })
            }
        }
    }

    fn agent_of_id(&self, id: &SpiffeId) -> Option<ByCertificate> {
        //= rfc8705#section-2.1.2
        // tls_client_auth_san_uri: A string containing the value of a uniformResourceIdentifier SAN entry in the certificate, which the OAuth
        // client will use in mutual-TLS authentication. In our own trust domain it is the agent's SPIFFE ID.
        let domain = &self.config.trust_domain;
        let (whole, instance) = copy_of(id);
        if spiffe::domain_of(id).as_ref() == Some(domain) {
            let (agent, component) = bailiwick_identity::token::workload(domain, whole.as_ref().unwrap_or(id))?;
            let entry = self.config.agents.get(&agent)?;
            let known = component.as_ref().is_none_or(|c| entry.components.contains_key(c));
            return known.then_some(ByCertificate { agent, component, instance, key: None });
        }
        let mut named = self.config.agents.values().filter(|entry| entry.san_uris.contains(id));
        let entry = named.next().filter(|_| named.next().is_none())?;
        Some(ByCertificate { agent: entry.agent.name.clone(), component: None, instance: None, key: None })
    }

    /// The one agent for which this key is registered.
    fn agent_of_key(&self, key: &KeyId) -> Option<&Agent> {
        if self.standing.is_revoked(key) {
            return None;
        }
        let holds = |name: &AgentName| self.keyring.agent(name.as_str()).iter().any(|k| k.id() == *key);
        let mut holders = self.config.agents.values().map(|entry| &entry.agent).filter(|agent| holds(&agent.name));
        holders.next().filter(|_| holders.next().is_none())
    }
}

/// The workload of which this is a running copy, if its last segment names one.
fn copy_of(id: &SpiffeId) -> (Option<SpiffeId>, Option<InstanceId>) {
    let parts = id.as_str().rsplit_once('/').and_then(|(whole, last)| Some((whole.parse().ok()?, last.parse().ok()?)));
    parts.map_or((None, None), |(whole, instance)| (Some(whole), Some(instance)))
}
