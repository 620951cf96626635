//! Where an upstream may be: parses its address and refuses the places that a broker must never be sent to.

use std::net::IpAddr;

use bailiwick_core::SystemName;
use bailiwick_credentials::address::{innermost, is_never_used};
use http::{HeaderValue, Uri};
use rustls::pki_types::ServerName;
use url::{Host, Url};

use super::config::ConfigError;

/// A checked address of an upstream: where to connect, and what to say in the request line and `Host`.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub(super) place: Place,
    pub(super) port: u16,
    /// The name that the certificate must have; `None` for plain HTTP.
    pub(super) tls: Option<ServerName<'static>>,
    pub(super) host: HeaderValue,
    /// Path and query.
    pub(super) target: Uri,
    plain: PlainHttp,
}

/// What the address names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Name(String),
    Address(IpAddr),
}

/// How far unencrypted HTTP may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlainHttp {
    NotUsed,
    LoopbackOnly,
    Anywhere,
}

impl Endpoint {
    pub(super) fn parse(system: &SystemName, url: &str, allow_plain_http: bool) -> Result<Self, ConfigError> {
        let system = || system.clone();
        let url = Url::parse(url).map_err(|why| ConfigError::Url { system: system(), why: why.to_string() })?;
        let plain = match url.scheme() {
            "https" => PlainHttp::NotUsed,
            "http" if allow_plain_http => PlainHttp::Anywhere,
            "http" => PlainHttp::LoopbackOnly,
            _ => return Err(ConfigError::Scheme { system: system() }),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ConfigError::Userinfo { system: system() });
        }
        let bad = |why: &str| ConfigError::Url { system: system(), why: why.to_owned() };
        let host = url.host().ok_or_else(|| bad("it has no host"))?;
        let place = match &host {
            Host::Domain(name) => Place::Name((*name).to_owned()),
            Host::Ipv4(v4) => Place::Address(IpAddr::V4(*v4)),
            Host::Ipv6(v6) => Place::Address(IpAddr::V6(*v6)),
        };
        let tls = match (&place, plain) {
            (_, PlainHttp::LoopbackOnly | PlainHttp::Anywhere) => None,
            (Place::Address(ip), PlainHttp::NotUsed) => Some(ServerName::IpAddress((*ip).into())),
            (Place::Name(name), PlainHttp::NotUsed) => Some(ServerName::try_from(name.clone()).map_err(|_| bad("its host is no DNS name"))?),
        };
        let port = url.port_or_known_default().ok_or_else(|| bad("it has no port"))?;
        let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let endpoint = Self {
            place,
            port,
            tls,
            host: HeaderValue::from_str(&authority).map_err(|_| bad("its host is no header value"))?,
            target: target.parse().map_err(|_| bad("its path is not usable"))?,
            plain,
        };
        endpoint.check_before_resolving().map_err(|why| ConfigError::Address { system: system(), why })?;
        Ok(endpoint)
    }

    /// What can be told without a look-up. A name needs one, unless it may not be used at all.
    fn check_before_resolving(&self) -> Result<(), &'static str> {
        match &self.place {
            Place::Address(ip) => self.check(*ip),
            Place::Name(name) if self.plain == PlainHttp::LoopbackOnly && name != "localhost" => {
                Err("`http://` goes only to `localhost` or a loopback address; use `https://`")
            }
            Place::Name(_) => Ok(()),
        }
    }

    /// Whether this resolved address may be connected to. Asked again for each connection, so that a name cannot move.
    pub(super) fn check(&self, ip: IpAddr) -> Result<(), &'static str> {
        let ip = innermost(ip);
        if is_never_used(ip) {
            return Err("link-local, metadata, unspecified and multicast addresses are never used");
        }
        match self.plain {
            PlainHttp::LoopbackOnly if !ip.is_loopback() => Err("`http://` goes only to `localhost` or a loopback address; use `https://`"),
            PlainHttp::LoopbackOnly | PlainHttp::Anywhere | PlainHttp::NotUsed => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn parse(url: &str) -> Result<Endpoint, ConfigError> {
        Endpoint::parse(&"sys".parse().unwrap(), url, false)
    }

    #[test]
    fn bi_060_to_063_metadata_and_odd_spellings_of_this_host_are_refused() {
        for url in [
            "http://169.254.169.254/latest/meta-data/",
            "https://169.254.169.254/",
            "http://[::ffff:169.254.169.254]/",
            "https://[::ffff:169.254.169.254]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://[2002:a9fe:a9fe::1]/",
            "https://[::a9fe:a9fe]/",
            "https://[::ffff:0:a9fe:a9fe]/",
            "https://[64:ff9b:1::a9fe:a9fe]/",
            "https://[fe80::1]/",
            "https://[fd00:ec2::254]/",
            "https://0251.0376.0251.0376/",
            "https://2852039166/",
            "http://0/",
            "http://0.0.0.0/",
            "http://[::]/",
            "http://localhost./",
            "http://127.0.0.1.nip.io/",
            "https://100.100.100.200/",
        ] {
            let refused = parse(url);
            assert!(matches!(refused, Err(ConfigError::Address { .. })), "{url}: {refused:?}");
        }
    }

    #[test]
    fn bi_064_only_http_and_https_are_schemes() {
        for url in ["file:///etc/passwd", "gopher://127.0.0.1:6379/_x", "dict://a", "unix:/run/docker.sock"] {
            assert!(matches!(parse(url), Err(ConfigError::Scheme { .. })), "{url}");
        }
    }

    #[test]
    fn an_address_with_a_password_is_refused_and_not_repeated() {
        let error = parse("https://me:hunter22@example.com/").unwrap_err();
        assert!(!error.to_string().contains("hunter22"), "{error}");
    }

    #[test]
    fn loopback_may_be_plain_and_the_rest_may_not_unless_configured() {
        for url in ["http://127.0.0.1:8080/mcp", "http://localhost/mcp?x=1", "http://[::1]:9/"] {
            assert!(parse(url).is_ok(), "{url}");
        }
        assert!(parse("http://10.0.0.7/mcp").is_err());
        let system = "sys".parse().unwrap();
        assert!(Endpoint::parse(&system, "http://10.0.0.7/mcp", true).is_ok());
        assert!(Endpoint::parse(&system, "http://169.254.169.254/mcp", true).is_err());
    }

    #[test]
    fn a_name_is_checked_by_what_it_resolves_to() {
        let secure = parse("https://metadata.google.internal/").unwrap();
        assert!(secure.check("169.254.169.254".parse().unwrap()).is_err());
        assert!(secure.check("10.1.2.3".parse().unwrap()).is_ok());
        let local = parse("http://localhost:1/").unwrap();
        assert!(local.check("10.1.2.3".parse().unwrap()).is_err());
        assert!(local.check("127.0.0.1".parse().unwrap()).is_ok());
    }

    #[test]
    fn the_request_line_has_the_path_and_the_host_has_the_port() {
        let endpoint = parse("http://127.0.0.1:8080/a/mcp?x=1#frag").unwrap();
        assert_eq!(endpoint.target, "/a/mcp?x=1");
        assert_eq!(endpoint.host, "127.0.0.1:8080");
    }

    proptest::proptest! {
        #[test]
        fn no_spelling_of_a_link_local_address_passes(low: u16) {
            let [c, d] = low.to_be_bytes();
            let v4 = Ipv4Addr::new(169, 254, c, d);
            for ip in [IpAddr::V4(v4), IpAddr::V6(v4.to_ipv6_mapped()), IpAddr::V6(v4.to_ipv6_compatible())] {
                proptest::prop_assert!(parse("https://example.com/").unwrap().check(ip).is_err());
            }
        }
    }
}
