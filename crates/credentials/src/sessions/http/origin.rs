//! Where an API is: a scheme, a host and a port that never change, and addresses that are judged for each connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::address::{innermost, is_never_used, is_private};
use crate::kinds::connection::Stream;
use crate::sessions::SessionError;

/// The longest URL that is configured.
const URL_MAX: usize = 2048;
/// A name is tried at so many of its addresses.
const ADDRESSES_MAX: usize = 8;
/// For one address, TLS included.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Why a URL is none that requests with a credential can go to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    /// Its form.
    #[error("expected a URL of the form `https://host[:port][/path]`, without user, password, query and fragment")]
    Url,
    /// `http://`, and not this machine.
    #[error("`{0}` is another machine: credentials need `https://` on the way there")]
    Plain(String),
    /// The address is never used.
    #[error("`{0}` is link-local, a metadata service, unspecified or multicast: such addresses are never used")]
    Never(String),
    /// The address is private, and it is not said that it may be.
    #[error("`{0}` is this machine or a private network: say `private = true` if it is meant")]
    Private(String),
}

/// Scheme, host, port, and the path that every request's path stands behind.
#[derive(Clone)]
pub struct Origin {
    host: String,
    port: u16,
    authority: String,
    path: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    private: bool,
}

impl Origin {
    /// `private` says that the host may be this machine or on a private network. `tls` says whom to trust; `http://` goes to this machine only.
    ///
    /// # Errors
    /// Which rule the URL breaks.
    pub fn new(url: &str, private: bool, tls: &Arc<ClientConfig>) -> Result<Self, OriginError> {
        let form =
            |text: &str| text.len() <= URL_MAX && text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['#', '?', '@', '\\', '%']);
        let uri: Uri = Some(url).filter(|url| form(url)).and_then(|url| url.parse().ok()).ok_or(OriginError::Url)?;
        let authority = uri.authority().ok_or(OriginError::Url)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(OriginError::Url),
        };
        let path = uri.path().trim_end_matches('/').to_owned();
        let has_port = authority.as_str().len() > authority.host().len();
        let odd = has_port && authority.port_u16().is_none_or(|port| port == 0);
        let odd = odd || path.split('/').skip(1).any(|segment| matches!(segment, "" | "." | ".."));
        if host.is_empty() || host.ends_with('.') || odd {
            return Err(OriginError::Url);
        }
        let address: Option<IpAddr> = host.parse().ok();
        if !secure && host != "localhost" && !address.is_some_and(|address| innermost(address).is_loopback()) {
            return Err(OriginError::Plain(host));
        }
        if address.is_some_and(is_never_used) {
            return Err(OriginError::Never(host));
        }
        if !private && (host == "localhost" || address.is_some_and(is_private)) {
            return Err(OriginError::Private(host));
        }
        let name = ServerName::try_from(host.clone()).map_err(|_| OriginError::Url)?;
        Ok(Self {
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            authority: authority.as_str().to_ascii_lowercase(),
            path,
            tls: secure.then(|| (http1(tls), name)),
            private,
            host,
        })
    }

    /// Host, and port if it is given: the field `Host`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What every request's path stands behind: empty, or a path without `/` at its end.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.authority)
    }

    /// May this address be connected to? Asked for each connection, so that a name cannot move to where we must not go.
    fn judge(&self, address: IpAddr) -> Result<(), &'static str> {
        if is_never_used(address) {
            return Err("its name leads to an address that is never used");
        }
        if !self.private && is_private(address) {
            return Err("its name leads to this machine or a private network, which is not configured");
        }
        if self.tls.is_none() && !innermost(address).is_loopback() {
            return Err("without TLS nothing is sent to another machine");
        }
        Ok(())
    }

    /// A stream to an address that was judged after it was looked up: never to the name.
    pub(super) async fn dial(&self) -> Result<Box<dyn Stream>, SessionError> {
        let addresses: Vec<SocketAddr> = match self.host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, self.port)],
            Err(_) => {
                let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
                found.map_err(|_| SessionError::lost("its name cannot be resolved"))?.take(ADDRESSES_MAX).collect()
            }
        };
        // One bad address spoils the name: a mixed answer is how rebinding looks.
        for address in &addresses {
            self.judge(address.ip()).map_err(SessionError::lost)?;
        }
        let mut last = SessionError::lost("its name has no address");
        for address in addresses {
            match tokio::time::timeout(CONNECT_MAX, self.connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(words)) => last = SessionError::lost(words),
                Err(_) => last = SessionError::lost("it takes too long to connect to"),
            }
        }
        Err(last)
    }

    async fn connect(&self, address: SocketAddr) -> Result<Box<dyn Stream>, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("cannot connect: {}", error.kind()))?;
        stream.set_nodelay(true).map_err(|error| format!("cannot connect: {}", error.kind()))?;
        let Some((config, name)) = &self.tls else { return Ok(Box::new(stream)) };
        let secured = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await;
        Ok(Box::new(secured.map_err(|_| "its certificate or TLS is not acceptable".to_owned())?))
    }
}

/// HTTP/1.1 is all that is spoken.
fn http1(tls: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(tls);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls() -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
    }

    fn parse(url: &str, private: bool) -> Result<Origin, OriginError> {
        Origin::new(url, private, &tls())
    }

    #[test]
    fn an_origin_is_a_place_and_nothing_else() {
        let origin = parse("https://API.example.org:8443/v3/", false).unwrap();
        assert_eq!((origin.authority(), origin.path(), origin.origin().as_str()), ("api.example.org:8443", "/v3", "https://api.example.org:8443"));
        for bad in [
            "",
            "api.example.org",
            "/v3",
            "ftp://h/",
            "https://u:p@h/",
            "https://u@h/",
            "https://h/#f",
            "https://h/?a=b",
            "https://",
            "https://h:/",
            "https://h:99999/",
            "https://h./",
            "https://h/a/../b",
            "https://h/a//b",
            "https://h/%2e%2e",
            "https://h\\x/",
            "https://h/ x",
        ] {
            assert_eq!(parse(bad, true).unwrap_err(), OriginError::Url, "{bad}");
        }
    }

    #[test]
    fn bi_060_places_that_a_broker_must_not_be_sent_to_are_refused() {
        for url in
            ["https://169.254.169.254/", "https://[::ffff:169.254.169.254]/", "https://[fe80::1]/", "https://0.0.0.0/", "https://[fd00:ec2::254]/"]
        {
            assert!(matches!(parse(url, true).unwrap_err(), OriginError::Never(_)), "{url}");
        }
        for url in ["https://10.0.0.1/", "https://127.0.0.1/", "http://localhost:80/", "https://[::1]/", "https://[::ffff:192.168.0.1]/"] {
            assert!(matches!(parse(url, false).unwrap_err(), OriginError::Private(_)), "{url}");
            assert!(parse(url, true).is_ok(), "{url}");
        }
        for url in ["http://10.0.0.1/", "http://api.example.org/", "http://localhost.example.org/"] {
            assert!(matches!(parse(url, true).unwrap_err(), OriginError::Plain(_)), "{url}");
        }
    }

    #[test]
    fn bi_062_a_name_is_judged_by_what_it_leads_to() {
        let public = parse("https://api.example.org/", false).unwrap();
        for bad in ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fe80::1"] {
            assert!(public.judge(bad.parse().unwrap()).is_err(), "{bad}");
        }
        assert!(public.judge("1.1.1.1".parse().unwrap()).is_ok());
        let private = parse("https://api.example.org/", true).unwrap();
        assert!(private.judge("10.1.2.3".parse().unwrap()).is_ok() && private.judge("169.254.169.254".parse().unwrap()).is_err());
        let plain = parse("http://localhost/", true).unwrap();
        assert!(plain.judge("127.0.0.1".parse().unwrap()).is_ok() && plain.judge("10.1.2.3".parse().unwrap()).is_err());
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_not_connected_to_where_that_is_not_configured() {
        // Spellings that the resolver takes for addresses.
        for host in ["127.1", "2130706433", "0x7f000001", "0177.0.0.1"] {
            let Ok(origin) = parse(&format!("https://{host}:9/"), false) else { continue };
            let words = origin.dial().await.err().unwrap().to_string();
            assert!(words.contains("private network") || words.contains("cannot be resolved"), "{host}: {words}");
        }
    }
}
