//! A login with a client certificate: the handshake of TLS, and what the protocol above it says.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Protocol, Server};
use crate::Secret;
use crate::kinds::connection::{Failure, Stream, open_plain, timed};
use crate::lease::Trust;

const OPEN_MAX: Duration = Duration::from_secs(5);
/// A server that speaks no protocol that we know says nothing if it accepts a certificate, and refuses a bad one at once.
const SILENCE: Duration = Duration::from_millis(1500);
const MESSAGE_MAX: usize = 16 * 1024;
const STATUS_LINE_MAX: usize = 1024;

/// An open connection, for as long as it is kept.
pub(super) type Open = TlsStream<Box<dyn Stream>>;

/// What a client of rustls needs to show the certificate in `secret`.
pub(super) fn client(secret: &Secret, trust: &Trust) -> Option<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(trust.pem()) {
        roots.add(root.ok()?).ok()?;
    }
    let key = certified(secret)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let mut client = client.with_root_certificates(roots).with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    // A session that is taken up again would not show the certificate.
    client.resumption = rustls::client::Resumption::disabled();
    Some(Arc::new(client))
}

/// The certificate in `secret` with its chain, and its key.
pub(super) fn certified(secret: &Secret) -> Option<CertifiedKey> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(secret.expose()).collect::<Result<_, _>>().ok()?;
    let key = PrivateKeyDer::from_pem_slice(secret.expose()).ok()?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider()).ok()
}

/// Logs in. `Said`: the server refuses the certificate, or who it is for.
pub(super) async fn log_in(server: &Server, user: &str, secret: &Secret) -> Result<Open, Failure> {
    let trust = server.node.tls().ok_or(Failure::Malformed("a node without TLS"))?;
    let config = client(secret, trust).ok_or(Failure::Malformed("the secret has no key and certificate"))?;
    let host =
        ServerName::try_from(server.node.host().to_owned()).map_err(|_| Failure::Malformed("the host is no name that a certificate can have"))?;
    timed(OPEN_MAX, async {
        let mut plain = open_plain(&server.node).await?;
        if let Protocol::Postgresql { .. } = &server.protocol {
            // SSLRequest
            plain.write_all(&[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f]).await?;
            if plain.read_u8().await? != b'S' {
                return Err(Failure::Malformed("the server speaks no TLS"));
            }
        }
        let mut stream = TlsConnector::from(config).connect(host, plain).await.map_err(why)?;
        match &server.protocol {
            Protocol::Tls => listen(&mut stream).await?,
            Protocol::Postgresql { database } => start(&mut stream, user, database).await?,
            Protocol::Http { authority, path } => ask(&mut stream, authority, path).await?,
        }
        Ok(stream)
    })
    .await
}

//= rfc8446#section-4.4.2.4: a server that dislikes the certificate sends an alert, after our side of the handshake is done
async fn listen(stream: &mut Open) -> Result<(), Failure> {
    let mut byte = [0; 1];
    match tokio::time::timeout(SILENCE, stream.read(&mut byte)).await {
        Err(_) | Ok(Ok(1..)) => Ok(()),
        Ok(Ok(0)) => Err(Failure::Said("the server hung up after the handshake".to_owned())),
        Ok(Err(error)) => Err(why(error)),
    }
}

/// Many servers of HTTP finish the handshake whatever they think of the certificate, and say it in their answer: nginx by 400.
async fn ask(stream: &mut Open, authority: &str, path: &str) -> Result<(), Failure> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: bailiwick-verify\r\nAccept: application/json, text/event-stream\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(why)?;
    stream.flush().await.map_err(why)?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        if line.len() >= STATUS_LINE_MAX {
            return Err(Failure::Malformed("an answer that is no HTTP"));
        }
        match stream.read_u8().await {
            Ok(byte) => line.push(byte),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && line.is_empty() => {
                return Err(Failure::Said("the server hung up without an answer".to_owned()));
            }
            Err(error) => return Err(why(error)),
        }
    }
    let line = String::from_utf8_lossy(&line);
    //= rfc9112#section-4
    // status-line = HTTP-version SP status-code SP [ reason-phrase ]
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).and_then(|code| code.trim().parse::<u16>().ok());
    match status {
        Some(code @ (400 | 401 | 403 | 495 | 496)) => Err(Failure::Said(format!("HTTP status {code}"))),
        Some(code @ 500..=599) => Err(Failure::Lost(format!("HTTP status {code}"))),
        Some(_) => Ok(()),
        None => Err(Failure::Malformed("an answer that is no HTTP")),
    }
}

async fn start(stream: &mut Open, user: &str, database: &str) -> Result<(), Failure> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", user, "database", database, "application_name", "bailiwick verify"] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len().saturating_add(4)).unwrap_or(u32::MAX);
    let message = [&length.to_be_bytes(), body.as_slice()].concat();
    stream.write_all(&message).await.map_err(why)?;
    stream.flush().await.map_err(why)?;
    let kind = stream.read_u8().await.map_err(why)?;
    let length = usize::try_from(stream.read_u32().await.map_err(why)?).unwrap_or(usize::MAX);
    let length =
        length.checked_sub(4).filter(|length| *length <= MESSAGE_MAX).ok_or(Failure::Malformed("a message of a length that no answer has"))?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(why)?;
    match (kind, body.as_slice()) {
        (b'R', [0, 0, 0, 0]) => Ok(()),
        (b'R', _) => Err(Failure::Said("the server asks for a password: its `pg_hba.conf` has no line with `cert` for this".to_owned())),
        (b'E', fields) => Err(Failure::Said(words_of(fields))),
        _ => Err(Failure::Malformed("an answer that belongs to no login")),
    }
}

/// Code and message of an error.
fn words_of(fields: &[u8]) -> String {
    let field = |letter: u8| fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(&[letter])).map(String::from_utf8_lossy);
    format!("{}: {}", field(b'C').unwrap_or_default(), field(b'M').unwrap_or_default())
}

/// An alert is a refusal; everything else is the way there.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn why(error: std::io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => Failure::Said(format!("alert {alert:?}")),
        _ => Failure::Lost(error.to_string()),
    }
}
