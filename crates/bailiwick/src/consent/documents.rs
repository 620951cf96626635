//! Client ID metadata documents, and the keys that they name: the only thing that is ever fetched from where a stranger says (ADR 0021), and
//! how that is fenced in.
//!
//! The host is one that the configuration names, of the keys too. Its addresses are looked up once, judged, and connected to: never the name again. No
//! redirect, no proxy, no cookie; 5 KB (keys: 32 KB), 5 seconds, four at a time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bailiwick_core::Timestamp;
use bailiwick_credentials::address::is_never_used;
use bailiwick_identity::foreign::KeySet;
use bailiwick_identity::oauth::{ClientIdUrl, ClientMetadata, METADATA_MAX};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use crate::config::Clients;

/// How long one fetch may take, name look-up and TLS included.
const WITHIN: Duration = Duration::from_secs(5);

/// And one address of the host, of that.
const EACH_WITHIN: Duration = Duration::from_secs(2);
const AT_ONCE: usize = 4;
const ADDRESSES_MAX: usize = 16;
const KEPT_MAX: usize = 256;
/// The longest key set of a client, in bytes.
const KEYS_MAX: usize = 32 * 1024;
/// Keys are fetched again for a key that is not among them at most this often.
const KEYS_AGAIN: Duration = Duration::from_secs(30);
/// How long a document counts that says nothing of it, and at most.
const KEPT: Duration = Duration::from_secs(300);
const KEPT_LONGEST: Duration = Duration::from_secs(3600);

/// Documents that were read a while ago.
#[derive(Debug)]
pub(super) struct Documents {
    kept: Mutex<HashMap<ClientIdUrl, (ClientMetadata, Timestamp)>>,
    keys: Mutex<HashMap<ClientIdUrl, KeptKeys>>,
    places: Semaphore,
}

/// The keys of a client, since when, and until when they count.
#[derive(Clone, Debug)]
struct KeptKeys {
    keys: KeySet,
    since: Timestamp,
    until: Timestamp,
}

impl Default for Documents {
    fn default() -> Self {
        Self { kept: Mutex::default(), keys: Mutex::default(), places: Semaphore::new(AT_ONCE) }
    }
}

impl Documents {
    /// What the document at this URL says.
    pub(super) async fn of(&self, url: &ClientIdUrl, clients: &Clients, now: Timestamp) -> Result<ClientMetadata, String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(url).cloned();
        if let Some((metadata, until)) = kept
            && now < until
        {
            return Ok(metadata);
        }
        let (bytes, life) = self.fetched(url, clients, METADATA_MAX).await?;
        let metadata = ClientMetadata::of_document(url, &bytes, &clients.redirect_schemes).map_err(|e| e.description().to_owned())?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (_, until)| now < *until);
        if kept.len() < KEPT_MAX && !life.is_zero() {
            kept.insert(url.clone(), (metadata.clone(), now.plus(life)));
        }
        Ok(metadata)
    }

    /// The keys of a client that stand at this URL; `again` if one was missing among those that are kept.
    pub(super) async fn keys(&self, url: &ClientIdUrl, clients: &Clients, again: bool, now: Timestamp) -> Result<KeySet, String> {
        let kept = self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(url).cloned();
        if let Some(kept) = kept
            && now < kept.until
            && (!again || kept.since.until(now) < KEYS_AGAIN)
        {
            return Ok(kept.keys);
        }
        let (bytes, life) = self.fetched(url, clients, KEYS_MAX).await?;
        let keys = KeySet::jwks(&bytes).map_err(|e| e.to_string())?;
        let mut all = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, kept| now < kept.until);
        if all.len() < KEPT_MAX {
            // Kept a moment in any case: whoever has a code cannot make us fetch at will.
            all.insert(url.clone(), KeptKeys { keys: keys.clone(), since: now, until: now.plus(life.max(KEYS_AGAIN)) });
        }
        Ok(keys)
    }

    async fn fetched(&self, url: &ClientIdUrl, clients: &Clients, most: usize) -> Result<(Bytes, Duration), String> {
        let _place = self.places.try_acquire().map_err(|_| "too many such documents are being read; try again in a moment".to_owned())?;
        tokio::time::timeout(WITHIN, fetch(url, clients, most)).await.map_err(|_| "it did not answer in five seconds".to_owned())?
    }
}

async fn fetch(url: &ClientIdUrl, clients: &Clients, most: usize) -> Result<(Bytes, Duration), String> {
    let tcp = dial(url, clients.private_document_hosts.contains(&url.authority())).await?;
    let name = ServerName::try_from(url.host().to_owned()).map_err(|_| "its host has no name that a certificate could bear".to_owned())?;
    let connector = connector(clients).map_err(|e| e.to_string())?;
    let stream = connector.connect(name, tcp).await.map_err(|_| "its certificate or TLS is not acceptable".to_owned())?;
    let (mut sender, connection) = http1::Builder::new()
        .max_header_size(16 << 10)
        .max_headers(64)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| "the connection failed at once".to_owned())?;
    let request = Request::get(url.path())
        .header(header::HOST, url.authority())
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|_| "its path cannot be asked for".to_owned())?;
    let ask = async {
        let response = sender.send_request(request).await.map_err(|_| "it did not answer".to_owned())?;
        let (head, body) = response.into_parts();
        //= draft-ietf-oauth-client-id-metadata-document#section-4
        // The authorization server MUST NOT automatically follow HTTP redirects when retrieving the client metadata document.
        if head.status != StatusCode::OK {
            return Err(format!("it answered {}", head.status.as_u16()));
        }
        if !is_json(&head.headers) {
            return Err("it is not JSON".to_owned());
        }
        let life = life(&head.headers);
        let whole = Limited::new(body, most).collect().await.map_err(|_| format!("it is longer than {} KB, or did not arrive whole", most / 1024))?;
        Ok((whole.to_bytes(), life))
    };
    let (mut ask, mut connection) = (Box::pin(ask), Box::pin(connection));
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            answer = &mut ask => return answer,
            _ = &mut connection, if open => open = false,
        }
    }
}

/// Connects to an address that was judged after it was looked up: never to the name.
async fn dial(url: &ClientIdUrl, private: bool) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((url.host(), url.port())).await.map_err(|_| "its host cannot be found".to_owned())?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).take(ADDRESSES_MAX).collect();
    // One bad address spoils the name: a mixed answer is how rebinding looks.
    if addresses.iter().any(|ip| !allowed(*ip, private)) {
        return Err("its host is at an address of a private network, which `private_document_hosts` in [clients] would have to allow".to_owned());
    }
    for ip in addresses {
        // One that does not answer leaves time for the others.
        if let Ok(Ok(stream)) = tokio::time::timeout(EACH_WITHIN, TcpStream::connect(SocketAddr::new(ip, url.port()))).await {
            return Ok(stream);
        }
    }
    Err("its host cannot be reached".to_owned())
}

fn connector(clients: &Clients) -> Result<TlsConnector, rustls::Error> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for root in &clients.documents_ca {
        roots.add(root.clone())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn is_json(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// How long the document may be kept (RFC 9111 section 5.2.2), within our own bounds.
fn life(headers: &HeaderMap) -> Duration {
    let given = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let mut life = KEPT;
    for directive in given.map(|d| d.trim().to_ascii_lowercase()) {
        if matches!(directive.as_str(), "no-store" | "no-cache") {
            return Duration::ZERO;
        }
        if let Some(seconds) = directive.strip_prefix("max-age=").and_then(|s| s.trim_matches('"').parse().ok()) {
            life = Duration::from_secs(seconds).min(KEPT_LONGEST);
        }
    }
    life
}

/// May this address be connected to? `private` says that the host may be in a private network; where machines tell their own secrets
/// (link-local addresses), and what is no address of one machine, nobody may be.
fn allowed(ip: IpAddr, private: bool) -> bool {
    match ip {
        _ if is_never_used(ip) => false,
        IpAddr::V4(ip) => allowed_v4(ip, private),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(inner) => allowed_v4(inner, private),
            None => allowed_v6(ip, private),
        },
    }
}

fn allowed_v4(ip: Ipv4Addr, private: bool) -> bool {
    let [a, b, c, _] = ip.octets();
    let never = a == 0 || (a == 169 && b == 254) || a >= 224;
    let not_public = ip.is_private()
        || ip.is_loopback()
        || ip.is_documentation()
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19));
    !never && (private || !not_public)
}

fn allowed_v6(ip: Ipv6Addr, private: bool) -> bool {
    let [first, second, ..] = ip.segments();
    let in_private_network = ip.is_loopback() || first & 0xfe00 == 0xfc00;
    // Of the addresses that are given out (2000::/3), not those that stand for others (6to4, Teredo and their like) or for nothing.
    let public = first & 0xe000 == 0x2000 && first != 0x2002 && !(first == 0x2001 && (second < 0x0200 || second == 0x0db8)) && first != 0x3fff;
    public || (private && in_private_network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_connected_to_and_some_never_are() {
        for public in ["1.1.1.1", "8.8.8.8", "203.0.114.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"] {
            assert!(allowed(public.parse().unwrap(), false), "{public}");
        }
        for private in ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"] {
            let ip = private.parse().unwrap();
            assert!(!allowed(ip, false) && allowed(ip, true), "{private}");
        }
        for never in [
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::ffff:169.254.169.254",
            "fe80::1",
            "ff02::1",
            "::",
            "::7f00:1",
            "fd00:ec2::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
        ] {
            let ip = never.parse().unwrap();
            assert!(!allowed(ip, false) && !allowed(ip, true), "{never}");
        }
        for odd in ["2002:7f00:1::1", "2001::1", "2001:db8::1", "64:ff9b::7f00:1", "3fff::1", "198.18.0.1", "192.0.2.1"] {
            assert!(!allowed(odd.parse().unwrap(), false), "{odd}");
        }
    }

    #[test]
    fn a_document_is_kept_as_long_as_it_says_within_bounds() {
        let of = |text: &'static str| life(&HeaderMap::from_iter([(header::CACHE_CONTROL, http::HeaderValue::from_static(text))]));
        assert_eq!(life(&HeaderMap::new()), KEPT);
        assert_eq!(of("public, max-age=60"), Duration::from_secs(60));
        assert_eq!(of("max-age=99999999"), KEPT_LONGEST);
        assert_eq!(of("max-age=60, no-store"), Duration::ZERO);
        assert_eq!(of("max-age=0"), Duration::ZERO);
        assert_eq!(of("max-age=x"), KEPT);
    }
}
