//! A byte stream to a node: TCP or a Unix socket, and TLS over it where the node has it. For kinds whose client is written here.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::lease::{Node, Step, TargetCode, TargetError};

/// How long a connection may take to open, with TLS and login.
pub(crate) const OPEN_MAX: Duration = Duration::from_secs(8);
/// How long one answer may take.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Whatever is called ends after this long, with `busy`.
const CALL_MAX: Duration = Duration::from_secs(55);

/// Bytes to and from a node.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Why a question has no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The way there failed.
    Lost(String),
    /// What came is no answer of this protocol.
    Malformed(&'static str),
    /// The system refused, in these words.
    Said(String),
}

impl Failure {
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Lost(words) | Self::Said(words) => words,
            Self::Malformed(words) => words,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// Opens a stream, under TLS where the node has it.
pub(crate) async fn open(node: &Node) -> Result<Box<dyn Stream>, Failure> {
    let plain = open_plain(node).await?;
    secure(plain, node).await
}

/// Opens a stream without TLS, for protocols that begin in the clear. Nothing secret goes over it before [`secure`].
pub(crate) async fn open_plain(node: &Node) -> Result<Box<dyn Stream>, Failure> {
    let opening = async {
        if node.host().starts_with('/') {
            return Ok::<Box<dyn Stream>, Failure>(Box::new(UnixStream::connect(node.host()).await?));
        }
        let stream = TcpStream::connect((node.host(), node.port())).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    };
    timed(OPEN_MAX, opening).await
}

/// Puts TLS over the stream where the node has it. The server proves that it is the node's host.
pub(crate) async fn secure(stream: Box<dyn Stream>, node: &Node) -> Result<Box<dyn Stream>, Failure> {
    let Some(trust) = node.tls() else { return Ok(stream) };
    let host =
        ServerName::try_from(node.host().to_owned()).map_err(|_| Failure::Lost("the host is no name that a certificate can have".to_owned()))?;
    let shaking = TlsConnector::from(trust.client()).connect(host, stream);
    timed(OPEN_MAX, async { Ok(Box::new(shaking.await?) as Box<dyn Stream>) }).await
}

/// The answer, unless it takes too long.
pub(crate) async fn timed<T>(limit: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Failure::Lost(format!("no answer within {} seconds", limit.as_secs()));
    tokio::time::timeout(limit, work).await.map_err(|_| late())?
}

/// A whole call of a kind.
pub(crate) async fn within<T>(step: Step, work: impl Future<Output = Result<T, TargetError>>) -> Result<T, TargetError> {
    tokio::time::timeout(CALL_MAX, work).await.map_err(|_| TargetError::new(TargetCode::Busy, step, "", "it takes longer than 55 seconds"))?
}
