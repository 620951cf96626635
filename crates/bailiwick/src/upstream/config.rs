//! What an operator says about one upstream system: how it is reached, which era it is used in, what it may ask of clients.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bailiwick_core::SystemName;
use rustls::pki_types::CertificateDer;

use super::connect::ClientCertificate;
use super::error::UpstreamError;

/// Everything that [`super::Upstream::start`] needs, without secrets.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    pub system: SystemName,
    pub transport: Transport,
    pub era: EraChoice,
    pub relay: Relay,
    /// From the start of a process, or of a first contact, until the server can take calls.
    pub start_timeout: Duration,
    /// For a call that brings no time of its own.
    pub call_timeout: Duration,
    pub backoff: Backoff,
    /// The longest message taken from the upstream, in bytes.
    pub frame_bytes_max: usize,
}

impl UpstreamConfig {
    /// The defaults: both eras, nothing relayed, 15 s to start, 60 s a call, frames of 8 MiB.
    #[must_use]
    pub fn new(system: SystemName, transport: Transport) -> Self {
        Self {
            system,
            transport,
            era: EraChoice::Auto,
            relay: Relay::default(),
            start_timeout: Duration::from_secs(15),
            call_timeout: Duration::from_secs(60),
            backoff: Backoff::default(),
            frame_bytes_max: 8 << 20,
        }
    }
}

/// How a system is reached.
#[derive(Debug, Clone)]
pub enum Transport {
    /// One process that speaks newline-delimited JSON (MCP 2026-07-28, transports, stdio).
    Stdio {
        command: PathBuf,
        args: Vec<String>,
        cwd: Option<PathBuf>,
        /// Names of variables passed on from our own environment, beside the few that every program needs.
        env_allow: Vec<String>,
    },
    /// Streamable HTTP at one address.
    Http {
        /// `https://...`, or `http://...` to `localhost` or a loopback address.
        url: String,
        /// Lets `http://` go anywhere but to the addresses that are always refused.
        allow_plain_http: bool,
        /// Certificate authorities trusted beside the web's.
        extra_roots: Vec<CertificateDer<'static>>,
    },
    /// No server at all: done in this process.
    Local(Arc<dyn super::Local>),
}

impl Transport {
    /// A process without extra variables in the current folder.
    pub fn stdio(command: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self::Stdio { command: command.into(), args, cwd: None, env_allow: Vec::new() }
    }

    /// An address under the strict rules.
    pub fn http(url: impl Into<String>) -> Self {
        Self::Http { url: url.into(), allow_plain_http: false, extra_roots: Vec::new() }
    }
}

/// Which protocol eras of an upstream are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EraChoice {
    /// What it speaks. HTTP: both, if it does. stdio: one process speaks one era, the modern one if it can.
    #[default]
    Auto,
    Modern,
    Legacy,
}

/// What an upstream may ask of the client behind us. Empty means no.
///
/// `roots` lets a client widen what some servers may touch (`server-filesystem` replaces its folders by them).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Relay {
    pub elicitation: bool,
    pub sampling: bool,
    pub roots: bool,
}

impl Relay {
    /// Whether this request of a legacy server goes to the client.
    pub(super) fn allows(self, method: &str) -> bool {
        match method {
            "elicitation/create" => self.elicitation,
            "sampling/createMessage" => self.sampling,
            "roots/list" => self.roots,
            _ => false,
        }
    }

    /// Whether this member of the client's capabilities is shown to the upstream.
    pub(super) fn declares(self, capability: &str) -> bool {
        match capability {
            "elicitation" => self.elicitation,
            "sampling" => self.sampling,
            "roots" => self.roots,
            // The caller decides on extensions: they ask nothing of a client by themselves.
            "extensions" => true,
            _ => false,
        }
    }
}

/// How long to wait before a dead upstream is started again: doubling from `first` to `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), max: Duration::from_secs(60) }
    }
}

/// Puts a credential into a process's environment or a request's headers. Called at the moment of spawning or sending;
/// what it puts is never kept and never logged.
pub trait Inject: Send + Sync {
    /// Variables for the environment of a stdio server.
    fn env(&self, put: &mut dyn FnMut(&str, &str)) {
        let _ = put;
    }

    /// Headers for a request over HTTP.
    fn headers(&self, put: &mut dyn FnMut(&str, &str)) {
        let _ = put;
    }

    /// The certificate to show in the handshake, over HTTPS.
    ///
    /// # Errors
    /// There should be one, and there is none to be had.
    fn certificate(&self) -> Result<Option<Arc<ClientCertificate>>, UpstreamError> {
        Ok(None)
    }
}

/// Injects nothing: for an upstream that needs no credential.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCredential;

impl Inject for NoCredential {}

impl fmt::Debug for dyn Inject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inject(..)")
    }
}

/// Why an upstream cannot be used as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("the address of `{system}` is not a URL: {why}")]
    Url { system: SystemName, why: String },
    #[error("the address of `{system}` must begin with `https://` or `http://`")]
    Scheme { system: SystemName },
    #[error("the address of `{system}` holds a name or password: give it as a credential")]
    Userinfo { system: SystemName },
    #[error("the address of `{system}` is refused: {why}")]
    Address { system: SystemName, why: &'static str },
    #[error("a trusted certificate of `{system}` is not usable")]
    Certificate { system: SystemName },
    #[error("the command of `{system}` is empty")]
    Command { system: SystemName },
}
