//! Finds out which eras an upstream speaks: `server/discover` first, `initialize` where that is not understood.

use std::sync::Arc;
use std::time::Duration;

use bailiwick_wire::Raw;
use bailiwick_wire::mcp::{Method, Version, code};
use tokio_util::sync::CancellationToken;

use super::config::EraChoice;
use super::frame::{self, MetaEra};
use super::http::HttpLink;
use super::session::agreed_version;
use super::stdio::{Channel, OpenCall};
use super::{About, CallScope, EraSupport, Link, Live, Reply, SessionKey, Shared, UpstreamError, UpstreamRequest, UseEra};

/// How long silence on `server/discover` over stdio is taken for a server that is only starting.
const SILENCE: Duration = Duration::from_secs(5);

/// What an answer to `server/discover` shows.
#[derive(Debug)]
enum Discovered {
    Modern(About),
    NotModern,
}

/// 2026-07-28, stdio, backward compatibility: a result, or one of the three errors that only this revision has, is modern;
/// any other error is not.
fn read_discovery(reply: Reply) -> Discovered {
    let version = Version::MODERN.as_str();
    let lists = |list: Option<Raw<'_>>| list.map(|list| list.elements().any(|item| item.string().as_deref() == Some(version)));
    match reply {
        Reply::Result(result) => match lists(result.raw().member("supportedVersions")) {
            Some(true) => Discovered::Modern(About { modern: Some(result), legacy: None }),
            Some(false) | None => Discovered::NotModern,
        },
        Reply::Error { code, data, .. } => {
            let is = |known: i32| code == i64::from(known);
            let modern = is(code::HEADER_MISMATCH)
                || is(code::MISSING_CAPABILITY)
                || (is(code::UNSUPPORTED_VERSION) && lists(data.as_ref().and_then(|data| data.raw().member("supported"))).unwrap_or(false));
            if modern { Discovered::Modern(About::default()) } else { Discovered::NotModern }
        }
    }
}

/// Asks a fresh process. One process speaks one era from here on.
pub(super) async fn stdio(shared: &Shared, channel: &Arc<Channel>) -> Result<Live, String> {
    let words = |error: UpstreamError| error.to_string();
    let mut discover = None;
    if shared.config.era != EraChoice::Legacy {
        let era = MetaEra::Modern { capabilities: "{}" };
        let mut open = channel.begin("server/discover", Raw::EMPTY_OBJECT, era).map_err(words)?;
        let patience = match shared.config.era {
            EraChoice::Modern => shared.config.start_timeout,
            EraChoice::Auto | EraChoice::Legacy => SILENCE.min(shared.config.start_timeout / 3),
        };
        match tokio::time::timeout(patience, open.answer()).await {
            Ok(reply) => match read_discovery(reply.map_err(words)?) {
                Discovered::Modern(about) => return Ok(modern_process(channel, about)),
                Discovered::NotModern => {}
            },
            Err(_) => discover = Some(open),
        }
    }
    if shared.config.era == EraChoice::Modern {
        return Err("it does not speak revision 2026-07-28".to_owned());
    }
    let capabilities = frame::relay_capabilities(shared.config.relay);
    let params = frame::initialize_params(Version::LATEST_LEGACY, &capabilities);
    let params = frame::owned(&params, params.len()).ok_or("the handshake could not be written")?;
    let mut initialize = channel.begin("initialize", params.raw(), MetaEra::Legacy).map_err(words)?;
    tokio::select! {
        biased;
        about = late_discovery(discover) => Ok(modern_process(channel, about)),
        reply = initialize.answer() => legacy_process(channel, reply.map_err(words)?),
    }
}

/// A slow server may still answer `server/discover` after we asked the old way. It does not if it is none.
async fn late_discovery(open: Option<OpenCall>) -> About {
    if let Some(mut open) = open
        && let Ok(reply) = open.answer().await
        && let Discovered::Modern(about) = read_discovery(reply)
    {
        return about;
    }
    std::future::pending().await
}

fn modern_process(channel: &Arc<Channel>, about: About) -> Live {
    channel.set_modern();
    let support = EraSupport { modern: true, legacy: None };
    Live { link: Link::Stdio(Arc::clone(channel)), support, about, life: 0 }
}

fn legacy_process(channel: &Arc<Channel>, reply: Reply) -> Result<Live, String> {
    let Reply::Result(about) = reply else {
        return Err("it refuses the handshake".to_owned());
    };
    let version = agreed_version(about.raw()).ok_or("it speaks no revision that we speak")?;
    channel.send(frame::notification("notifications/initialized", "{}"));
    let support = EraSupport { modern: false, legacy: Some(version) };
    Ok(Live { link: Link::Stdio(Arc::clone(channel)), support, about: About { modern: None, legacy: Some(about) }, life: 0 })
}

/// Asks an address, both ways unless configured otherwise: dual servers list only the modern revision and still answer
/// `initialize`.
pub(super) async fn http(shared: &Shared, link: &Arc<HttpLink>) -> Result<Live, String> {
    let patience = shared.config.start_timeout / 2;
    let mut failure = None;
    let (mut support, mut about) = (EraSupport::default(), About::default());
    if shared.config.era != EraChoice::Legacy {
        match tokio::time::timeout(patience, discover_over_http(link)).await {
            Ok(Ok(Discovered::Modern(found))) => {
                support.modern = true;
                about = found;
            }
            Ok(Ok(Discovered::NotModern)) => {}
            Ok(Err(error)) => failure = Some(error.to_string()),
            Err(_) => failure = Some("it does not answer `server/discover`".to_owned()),
        }
    }
    if shared.config.era != EraChoice::Modern {
        let key = SessionKey::new("broker");
        let opened = link.session(&key, Version::LATEST_LEGACY, "{}", &shared.inject);
        match tokio::time::timeout(patience, opened).await {
            Ok(Ok(session)) => {
                support.legacy = Some(session.version);
                about.legacy = Some(session.about.clone());
            }
            Ok(Err(error)) => failure = Some(error.to_string()),
            Err(_) => failure = Some("it does not answer `initialize`".to_owned()),
        }
        link.end_sessions(&key).await;
    }
    if !support.modern && support.legacy.is_none() {
        return Err(failure.unwrap_or_else(|| "it speaks no revision that we speak".to_owned()));
    }
    Ok(Live { link: Link::Http(Arc::clone(link)), support, about, life: 0 })
}

async fn discover_over_http(link: &Arc<HttpLink>) -> Result<Discovered, UpstreamError> {
    let key = SessionKey::new("broker");
    let era = UseEra::Modern { capabilities: Raw::EMPTY_OBJECT };
    let request = UpstreamRequest::new(era, &key, Method::Discover, Raw::EMPTY_OBJECT);
    let scope = CallScope { cancel: CancellationToken::new(), sent: std::sync::atomic::AtomicU64::new(0) };
    link.call(&request, None, &scope).await.map(read_discovery)
}

#[cfg(test)]
mod tests {
    use bailiwick_wire::RawBuf;

    use super::*;

    fn owned(text: &str) -> RawBuf {
        frame::owned(text, text.len()).unwrap()
    }

    fn is_modern(reply: Reply) -> bool {
        matches!(read_discovery(reply), Discovered::Modern(_))
    }

    fn error(code: i64, data: Option<&str>) -> Reply {
        Reply::Error { code, message: String::new(), data: data.map(owned), http_status: 200 }
    }

    #[test]
    fn only_what_the_modern_revision_alone_can_answer_is_modern() {
        assert!(is_modern(Reply::Result(owned(r#"{"supportedVersions":["2026-07-28"]}"#))));
        assert!(!is_modern(Reply::Result(owned(r#"{"supportedVersions":["2027-01-01"]}"#))));
        assert!(!is_modern(Reply::Result(owned("{}"))));
        assert!(is_modern(error(-32020, None)));
        assert!(is_modern(error(-32021, None)));
        assert!(is_modern(error(-32022, Some(r#"{"supported":["2026-07-28"]}"#))));
        assert!(!is_modern(error(-32022, Some(r#"{"supported":["2027-01-01"]}"#))));
        for legacy in [-32601, -32602, -32600, -32000] {
            assert!(!is_modern(error(legacy, None)), "{legacy}");
        }
    }
}
