//! A connection to a receiver: with TLS, or in the clear where the configuration says so.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::sink::SinkError;
use crate::config::LinkConfig;

/// Name look-up, connection and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Bytes in both directions.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// How a receiver is reached.
pub(crate) struct Dialer {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    allow_plain: bool,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("host", &self.host).field("port", &self.port).field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Dialer {
    /// `host` is a name or an address without brackets.
    ///
    /// # Errors
    /// Why no certificate could ever fit.
    pub(crate) fn new(host: &str, port: u16, secure: bool, alpn: Option<&[u8]>, link: &LinkConfig) -> Result<Self, String> {
        let tls = if secure {
            let name = match host.parse::<IpAddr>() {
                Ok(ip) => ServerName::IpAddress(ip.into()),
                Err(_) => ServerName::try_from(host.to_owned()).map_err(|_| format!("`{host}` is no name that a certificate can have"))?,
            };
            Some((connector(alpn, link).map_err(|e| e.to_string())?, name))
        } else {
            None
        };
        Ok(Self { host: host.to_owned(), port, tls, allow_plain: link.allow_plain })
    }

    /// A new connection.
    pub(crate) async fn dial(&self) -> Result<Box<dyn Io>, SinkError> {
        let dialed = tokio::time::timeout(CONNECT_TIMEOUT, async {
            let tcp = self.tcp().await?;
            Ok(match &self.tls {
                None => Box::new(tcp) as Box<dyn Io>,
                Some((connector, name)) => {
                    let secured = connector.connect(name.clone(), tcp).await;
                    Box::new(secured.map_err(|e| SinkError::new(format!("its certificate or TLS is not acceptable: {e}")))?)
                }
            })
        });
        dialed.await.unwrap_or_else(|_| Err(SinkError::new("it takes too long to connect to")))
    }

    async fn tcp(&self) -> Result<TcpStream, SinkError> {
        let mut failure = SinkError::new("its name has no address");
        for address in self.addresses().await? {
            // Small, so that what a receiver that went away never saw is bounded; see `syslog`.
            let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
            let connected = match socket.and_then(|s| s.set_send_buffer_size(super::syslog::SEND_BUFFER).map(|()| s)) {
                Ok(socket) => socket.connect(address).await,
                Err(error) => Err(error),
            };
            match connected {
                Ok(stream) => {
                    drop(stream.set_nodelay(true));
                    return Ok(stream);
                }
                Err(error) => failure = SinkError::new(format!("cannot connect: {}", error.kind())),
            }
        }
        Err(failure)
    }

    /// Where it is now. In the clear only on this machine, unless that is allowed.
    pub(super) async fn addresses(&self) -> Result<Vec<SocketAddr>, SinkError> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found: Vec<_> = found.map_err(|_| SinkError::new("its name cannot be resolved"))?.take(ADDRESSES_MAX).collect();
        if self.tls.is_none() && !self.allow_plain && found.iter().any(|a| !a.ip().is_loopback()) {
            return Err(SinkError::new("it is not on this machine, and the way there is not encrypted"));
        }
        Ok(found)
    }
}

/// TLS with the web's roots and what the operator added.
fn connector(alpn: Option<&[u8]>, link: &LinkConfig) -> Result<TlsConnector, rustls::Error> {
    let mut config = trusting(link)?;
    config.alpn_protocols.extend(alpn.map(<[u8]>::to_vec));
    Ok(TlsConnector::from(Arc::new(config)))
}

/// How a client of TLS trusts: the web's roots and what the operator added.
pub(crate) fn trusting(link: &LinkConfig) -> Result<rustls::ClientConfig, rustls::Error> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for root in &link.roots {
        roots.add(root.clone())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
