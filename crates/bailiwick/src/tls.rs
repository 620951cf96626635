//! TLS of our listeners: certificates from files, read again when they change, and the handshakes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, MtlsConfig, TlsConfig};
use crate::house::{House, StartError};
use crate::mtls::{ClientVerifier, Roots};

/// Files are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The longest file of certificates or keys that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// The one provider of cryptography.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> = std::sync::LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Reads a file that is not unreasonably long.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let length = std::fs::metadata(path).map_err(|e| wrong(&e))?.len();
    if length > FILE_MAX {
        return Err(wrong(&"longer than 1 MiB"));
    }
    std::fs::read(path).map_err(|e| wrong(&e))
}

/// What our listeners show of themselves, and whom they believe.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    main: Option<Arc<Shown>>,
    mtls: Option<Mtls>,
}

#[derive(Debug)]
struct Mtls {
    shown: Arc<Shown>,
    roots: Roots,
    /// Bound at the start, taken by whoever serves.
    listener: Mutex<Option<TcpListener>>,
    /// Connections that came in under roots that are not in force any more end.
    era: ArcSwap<CancellationToken>,
}

/// A certificate of ours, as it is in force.
#[derive(Debug)]
struct Shown {
    files: TlsConfig,
    key: ArcSwap<CertifiedKey>,
}

impl Shown {
    fn open(files: &TlsConfig) -> Result<Arc<Self>, String> {
        Ok(Arc::new(Self { files: files.clone(), key: ArcSwap::new(Arc::new(certified(files)?)) }))
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key.load_full())
    }
}

fn certified(files: &TlsConfig) -> Result<CertifiedKey, String> {
    let (certificate, key) = (read_file(&files.certificate)?, zeroize::Zeroizing::new(read_file(&files.key)?));
    let wrong = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
    let chain = chain.map_err(|e| wrong(&files.certificate, &e))?;
    if chain.is_empty() {
        return Err(wrong(&files.certificate, &"there is no certificate in PEM"));
    }
    // The reason would not name what stands in the file; it is left out all the same.
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| wrong(&files.key, &"there is no private key in PEM"))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|e| wrong(&files.certificate, &e))
}

/// Accepts connections of one listener.
#[derive(Clone)]
pub(crate) struct Acceptor {
    acceptor: TlsAcceptor,
    mtls: bool,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("mtls", &self.mtls).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Makes the handshake; the caller bounds its time.
    pub(crate) async fn accept(&self, stream: tokio::net::TcpStream) -> std::io::Result<tokio_rustls::server::TlsStream<tokio::net::TcpStream>> {
        self.acceptor.accept(stream).await
    }

    /// Must its clients have certificates?
    pub(crate) const fn is_mtls(&self) -> bool {
        self.mtls
    }
}

impl Tls {
    /// Reads certificates, keys and roots, and binds the listener for clients with certificates. Gives the address of that one.
    pub(crate) async fn open(config: &Config) -> Result<(Self, Option<std::net::SocketAddr>), StartError> {
        let place = |why: String| StartError::place("TLS", why);
        let main = config.tls.as_ref().map(Shown::open).transpose().map_err(place)?;
        let Some(mtls) = &config.mtls else { return Ok((Self { main, mtls: None }, None)) };
        let roots = Roots::default();
        roots.read(mtls, None).map_err(place)?;
        let at = |error| StartError::Listen { address: mtls.address, error };
        let listener = TcpListener::bind(mtls.address).await.map_err(at)?;
        let bound = listener.local_addr().map_err(at)?;
        let shown = Shown::open(&mtls.tls).map_err(place)?;
        let mtls = Mtls { shown, roots, listener: Mutex::new(Some(listener)), era: ArcSwap::from_pointee(CancellationToken::new()) };
        Ok((Self { main, mtls: Some(mtls) }, Some(bound)))
    }

    /// Whose certificates are believed.
    pub(crate) fn roots(&self) -> Option<&Roots> {
        self.mtls.as_ref().map(|mtls| &mtls.roots)
    }

    /// Cancelled when the roots under which a connection came in are not in force any more.
    pub(crate) fn era(&self) -> Option<CancellationToken> {
        self.mtls.as_ref().map(|mtls| CancellationToken::clone(&mtls.era.load()))
    }

    /// The listener for clients with certificates, once.
    pub(crate) fn take_listener(&self) -> Option<TcpListener> {
        self.mtls.as_ref().and_then(|mtls| mtls.listener.lock().unwrap_or_else(PoisonError::into_inner).take())
    }

    /// For the main listener, if it has TLS.
    pub(crate) fn main_acceptor(&self) -> Result<Option<Acceptor>, rustls::Error> {
        self.main.as_ref().map(|shown| acceptor(Arc::clone(shown), None)).transpose()
    }

    /// For the listener of clients with certificates.
    pub(crate) fn mtls_acceptor(&self, house: &Arc<House>, config: &MtlsConfig) -> Result<Option<Acceptor>, rustls::Error> {
        let verifier = || ClientVerifier::new(Arc::clone(house), config);
        self.mtls.as_ref().map(|mtls| acceptor(Arc::clone(&mtls.shown), Some(verifier()))).transpose()
    }
}

fn acceptor(shown: Arc<Shown>, verifier: Option<Arc<ClientVerifier>>) -> Result<Acceptor, rustls::Error> {
    let versions = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let mtls = verifier.is_some();
    let mut config = match verifier {
        Some(verifier) => versions.with_client_cert_verifier(verifier),
        None => versions.with_no_client_auth(),
    }
    .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if mtls {
        // A session that is taken up again would not show its certificate to the roots of today.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Acceptor { acceptor: TlsAcceptor::from(Arc::new(config)), mtls })
}

/// How a file was when it was looked at last.
type Mark = Option<(SystemTime, u64)>;

fn marks<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Vec<Mark> {
    let mark = |path: &PathBuf| std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
    paths.into_iter().map(mark).collect()
}

impl House {
    /// Reads certificates, keys and roots again when their files change.
    pub(crate) fn start_tls(self: &Arc<Self>) {
        if self.config.tls.is_none() && self.config.mtls.is_none() {
            return;
        }
        let house = Arc::clone(self);
        // The keys of our own SPIFFE issuer are known only now, and change by themselves.
        let mut own = self.local.own_changes().filter(|_| self.config.mtls.as_ref().is_some_and(|m| m.issued_here));
        if own.is_some() {
            self.read_tls_again();
        }
        self.workers.spawn(async move {
            let mut known = house.tls_marks();
            let mut tick = tokio::time::interval(LOOK_EVERY);
            loop {
                tokio::select! {
                    () = house.stop.cancelled() => return,
                    _ = tick.tick() => {}
                }
                let now = house.tls_marks();
                let turned = own.as_mut().is_some_and(|own| own.has_changed().unwrap_or(false));
                if now != known || turned {
                    known = now;
                    own.iter_mut().for_each(watch::Receiver::mark_unchanged);
                    house.read_tls_again();
                }
            }
        });
    }

    fn tls_marks(&self) -> Vec<Mark> {
        let shown = [&self.tls.main, &self.tls.mtls.as_ref().map(|m| Arc::clone(&m.shown))].map(|s| s.as_ref().map(|s| s.files.clone()));
        let files: Vec<PathBuf> = shown.into_iter().flatten().flat_map(|f| [f.certificate, f.key]).collect();
        let roots = self.config.mtls.iter().flat_map(|m| m.roots.values());
        marks(files.iter().chain(roots))
    }

    /// Takes what stands in the files now. What cannot be read leaves what was in force before.
    pub fn read_tls_again(&self) {
        let told = |read: Result<(), String>, what: &str| match read {
            Ok(()) => tracing::info!("{what} were read again"),
            Err(why) => tracing::error!(why, "{what} could not be read again: the former ones stay in force"),
        };
        let mtls = self.tls.mtls.as_ref();
        for shown in self.tls.main.iter().chain(mtls.map(|m| &m.shown)) {
            told(certified(&shown.files).map(|key| shown.key.store(Arc::new(key))), "a listener's certificate and key");
        }
        if let (Some(mtls), Some(config)) = (mtls, &self.config.mtls) {
            let own = config.issued_here.then(|| (&self.config.trust_domain, self.local.own_roots())).filter(|(_, roots)| !roots.is_empty());
            let read = mtls.roots.read(config, own);
            if read.is_ok() {
                // Whoever is still believed connects anew.
                mtls.era.swap(Arc::new(CancellationToken::new())).cancel();
            }
            told(read, "the roots of clients");
        }
    }
}
