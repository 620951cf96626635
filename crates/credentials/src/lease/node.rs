//! A node of a system, and the rule that a credential crosses a network only under TLS.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Why a node cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The name or the host is empty, too long or has a control character.
    #[error("a node needs a name and a host, each at most 253 printable characters")]
    Form,
    /// No TLS, and not this machine.
    #[error("`{0}` is another machine: credentials need TLS on the way there")]
    Plain(String),
    /// No certificate of an authority, or one that cannot be read.
    #[error("expected certificates of authorities in PEM")]
    Roots,
}

/// Whom to trust to say which server is which: certificates of authorities.
#[derive(Clone)]
pub struct Trust {
    pem: Vec<u8>,
    client: Arc<ClientConfig>,
}

impl Trust {
    /// From the authorities' certificates in PEM. Nobody else is trusted.
    ///
    /// # Errors
    /// `Roots` if there is none or one cannot be read.
    pub fn new(pem: &[u8]) -> Result<Self, NodeError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|_| NodeError::Roots)?).map_err(|_| NodeError::Roots)?;
        }
        if roots.is_empty() {
            return Err(NodeError::Roots);
        }
        // Clients that take PEM build a configuration of their own, with the process's provider. A second installation changes nothing.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|_| NodeError::Roots)?;
        Ok(Self { pem: pem.to_vec(), client: Arc::new(client.with_root_certificates(roots).with_no_client_auth()) })
    }

    /// For clients that take a configuration of rustls.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// For clients that take PEM.
    #[must_use]
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust(..)")
    }
}

/// One server of a system: a primary, a standby, a replica, a cluster's member.
#[derive(Clone)]
pub struct Node {
    name: String,
    host: String,
    port: u16,
    tls: Option<Trust>,
}

impl Node {
    /// `name` is what evidence calls it. `host` is a name, an address, or the path of the folder of a Unix socket.
    ///
    /// # Errors
    /// `Form`, or `Plain` if there is no TLS and `host` is another machine.
    pub fn new(name: &str, host: &str, port: u16, tls: Option<Trust>) -> Result<Self, NodeError> {
        let fits = |text: &str| (1..=253).contains(&text.len()) && !text.chars().any(char::is_control);
        if !fits(name) || !fits(host) {
            return Err(NodeError::Form);
        }
        let here = host == "localhost" || host.starts_with('/') || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if tls.is_none() && !here {
            return Err(NodeError::Plain(host.to_owned()));
        }
        Ok(Self { name: name.to_owned(), host: host.to_owned(), port, tls })
    }

    /// What evidence calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A name, an address, or the path of the folder of a Unix socket.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port; with a Unix socket, the number in its file's name.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whom to trust there; `None` only on this machine.
    #[must_use]
    pub const fn tls(&self) -> Option<&Trust> {
        self.tls.as_ref()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{}{})", self.name, self.host, self.port, if self.tls.is_some() { ", tls" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_a_node_is_on_this_machine() {
        for here in ["127.0.0.1", "::1", "localhost", "/run/postgresql"] {
            assert!(Node::new("one", here, 5432, None).is_ok(), "{here}");
        }
        for there in ["10.0.0.1", "db.example.org", "localhost.example.org", "::ffff:10.0.0.1"] {
            assert_eq!(Node::new("one", there, 5432, None).unwrap_err(), NodeError::Plain(there.into()));
        }
        assert_eq!(Trust::new(b"").unwrap_err(), NodeError::Roots);
        assert_eq!(Trust::new(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap_err(), NodeError::Roots);
        assert_eq!(Node::new("", "127.0.0.1", 1, None).unwrap_err(), NodeError::Form);
        assert_eq!(Node::new("one", "127.0.0.1\n", 1, None).unwrap_err(), NodeError::Form);
    }
}
