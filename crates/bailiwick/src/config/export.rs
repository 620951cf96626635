//! `[[export]]`: where entries of the ledger go besides the ledger. Only a file says so, never a request: whoever may write to a
//! place of their choice through an API can make a program of it (CVE-2025-6000).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Value;

/// Records of one request, or of one write.
const BATCH_MAX: usize = 5000;

/// A sink as it is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportFile {
    /// Its name, under which its place in the ledger is remembered: lower-case letters, digits, `-` and `_`.
    name: String,
    /// `ocsf` (OCSF 1.8.0 events), `otlp` (OpenTelemetry spans and log records), or `jsonl` (entries as they stand in the ledger).
    format: ExportFormat,
    /// Where a sink that is new begins: `start` (with the first entry) or `now`. Default `start`.
    #[serde(default)]
    from: ExportFrom,
    /// The kinds of entries that it gets, such as `intent`, `outcome`, `denial`. Default: all.
    #[serde(default)]
    kinds: BTreeSet<String>,
    /// Append to this file, one record a line. Relative to this file.
    file: Option<PathBuf>,
    /// Size in MiB from which on a file is rotated. Default 64.
    rotate_mib: Option<u32>,
    /// Rotated files that are kept, as `FILE.1` (newest) and so on. Default 8.
    keep: Option<u32>,
    /// Send by HTTP POST to this URL. For `otlp`, the base URL: `/v1/traces` and `/v1/logs` are added.
    url: Option<String>,
    /// Headers that are sent along.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Headers whose values are sealed secrets, by the secret's name (`bailiwick secret set NAME`).
    #[serde(default)]
    secret_headers: BTreeMap<String, String>,
    /// The name of a sealed secret that is sent as `Authorization: Bearer`.
    bearer: Option<String>,
    /// How records stand in a request: `lines` (one JSON object a line) or `array` (one JSON array). Default `lines`.
    body: Option<HttpBody>,
    /// Send to this syslog receiver (RFC 5424): `tls://host:6514`, `tcp://host:601` or `udp://host:514`.
    syslog: Option<String>,
    /// The syslog facility, as a number. Default 13 (log audit).
    facility: Option<u8>,
    /// The name of this machine in syslog messages. Default: its own.
    hostname: Option<String>,
    /// A PEM file of further certificate authorities that may vouch for the receiver. Relative to this file.
    ca: Option<PathBuf>,
    /// Send without TLS to a receiver that is not on this machine. Default false.
    #[serde(default)]
    allow_plain: bool,
    /// Most records of one request or write. Default 500.
    batch: Option<u32>,
    /// Seconds that one attempt may take. Default 10.
    timeout_seconds: Option<u32>,
    /// Longest pause between two attempts, in seconds. Default 30.
    retry_seconds_max: Option<u32>,
}

/// What records look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExportFormat {
    /// OCSF 1.8.0 events.
    Ocsf,
    /// OpenTelemetry spans and log records.
    Otlp,
    /// Entries as they stand in the ledger.
    Jsonl,
}

impl ExportFormat {
    /// As it is written.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ocsf => "ocsf",
            Self::Otlp => "otlp",
            Self::Jsonl => "jsonl",
        }
    }
}

/// Where a sink that is new begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExportFrom {
    /// With the first entry of the ledger.
    #[default]
    Start,
    /// With the first entry after its first start.
    Now,
}

/// How records stand in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HttpBody {
    /// One JSON object a line.
    #[default]
    Lines,
    /// One JSON array.
    Array,
}

/// A sink, checked.
#[derive(Clone, Debug)]
pub struct ExportEntry {
    /// Its name.
    pub name: String,
    /// What records look like.
    pub format: ExportFormat,
    /// Where it begins if it is new.
    pub from: ExportFrom,
    /// The kinds of entries that it gets; empty means all.
    pub kinds: BTreeSet<String>,
    /// Where records go.
    pub sink: ExportSink,
    /// Most records of one request or write.
    pub batch: usize,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Longest pause between two attempts.
    pub retry_max: Duration,
}

/// Where records go.
#[derive(Clone, Debug)]
pub enum ExportSink {
    /// A file.
    File {
        /// The file.
        path: PathBuf,
        /// Bytes from which on it is rotated.
        rotate_bytes: u64,
        /// Rotated files that are kept.
        keep: u32,
    },
    /// HTTP POST.
    Http {
        /// Where.
        url: url::Url,
        /// Headers by name.
        headers: BTreeMap<String, Value>,
        /// The name of the secret that is the bearer token.
        bearer: Option<String>,
        /// How records stand in a request.
        body: HttpBody,
        /// On the way there.
        link: LinkConfig,
    },
    /// Syslog.
    Syslog {
        /// `tls`, `tcp` or `udp`.
        transport: SyslogTransport,
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
        /// The facility's number.
        facility: u8,
        /// What this machine is called.
        hostname: Option<String>,
        /// On the way there.
        link: LinkConfig,
    },
}

/// What may be on the way to a receiver.
#[derive(Clone, Debug, Default)]
pub struct LinkConfig {
    /// Authorities besides the web's that may vouch for it.
    pub roots: Vec<CertificateDer<'static>>,
    /// Without TLS beyond this machine.
    pub allow_plain: bool,
}

/// How syslog messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyslogTransport {
    /// RFC 5425.
    Tls,
    /// RFC 6587 with octet counting.
    Tcp,
    /// RFC 5426.
    Udp,
}

impl ExportSink {
    /// Where it goes, for people: no secrets.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Http { url, .. } => {
                // Some receivers take their token in the query.
                let mut shown = url.clone();
                shown.set_query(None);
                shown.to_string()
            }
            Self::Syslog { transport, host, port, .. } => {
                let scheme = match transport {
                    SyslogTransport::Tls => "tls",
                    SyslogTransport::Tcp => "tcp",
                    SyslogTransport::Udp => "udp",
                };
                if host.contains(':') { format!("{scheme}://[{host}]:{port}") } else { format!("{scheme}://{host}:{port}") }
            }
        }
    }
}

type Fault = (String, &'static str);

/// Checks one sink. Relative paths are taken from `base`; `known` are the kinds of entries that there are.
pub(super) fn export(given: ExportFile, base: &Path, known: &[&str]) -> Result<ExportEntry, Fault> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    if given.name.is_empty() || given.name.len() > 64 || !given.name.bytes().all(plain) {
        return Err((format!("`{}` is no name of an export", given.name.escape_debug()), "use lower-case letters, digits, `-` and `_`"));
    }
    if let Some(kind) = given.kinds.iter().find(|k| !known.contains(&k.as_str())) {
        let what = format!("export `{}`: there are no entries of kind `{}` (known: {})", given.name, kind.escape_debug(), known.join(", "));
        return Err((what, "leave `kinds` out to get all entries"));
    }
    let seconds = |n: Option<u32>, default: u32, max: u32| Duration::from_secs(u64::from(n.unwrap_or(default).clamp(1, max)));
    Ok(ExportEntry {
        format: given.format,
        from: given.from,
        batch: usize::try_from(given.batch.unwrap_or(500)).unwrap_or(BATCH_MAX).clamp(1, BATCH_MAX),
        timeout: seconds(given.timeout_seconds, 10, 600),
        retry_max: seconds(given.retry_seconds_max, 30, 3600),
        sink: sink(&given, base).map_err(|(what, hint)| (format!("export `{}`: {what}", given.name), hint))?,
        kinds: given.kinds,
        name: given.name,
    })
}

fn sink(given: &ExportFile, base: &Path) -> Result<ExportSink, Fault> {
    let ways = [given.file.is_some(), given.url.is_some(), given.syslog.is_some()];
    if ways.iter().filter(|w| **w).count() != 1 {
        return Err(("it needs exactly one of `file`, `url` and `syslog`".to_owned(), "write one `[[export]]` for each place"));
    }
    belongs(given)?;
    if let Some(file) = &given.file {
        let path = base.join(file);
        if path.file_name().is_none() {
            return Err((format!("`{}` names no file", file.display()), "write it as `/var/log/bailiwick/events.jsonl`"));
        }
        let rotate_bytes = u64::from(given.rotate_mib.unwrap_or(64).max(1)).saturating_mul(1 << 20);
        return Ok(ExportSink::File { path, rotate_bytes, keep: given.keep.unwrap_or(8).min(999) });
    }
    let link = LinkConfig { roots: roots(given.ca.as_deref(), base)?, allow_plain: given.allow_plain };
    if let Some(url) = &given.url {
        let url = http_url(url, given.allow_plain)?;
        let literal = given.headers.iter().map(|(k, v)| (k.clone(), Value::Literal(v.clone())));
        let secret = given.secret_headers.iter().map(|(k, v)| (k.clone(), Value::Secret(v.clone())));
        let headers = literal.chain(secret).collect();
        return Ok(ExportSink::Http { url, headers, bearer: given.bearer.clone(), body: given.body.unwrap_or_default(), link });
    }
    let (transport, host, port) = syslog_place(given.syslog.as_deref().unwrap_or_default(), given.allow_plain)?;
    let facility = given.facility.unwrap_or(13);
    if facility > 23 {
        return Err((format!("there is no syslog facility {facility}"), "13 is log audit; see RFC 5424 section 6.2.1"));
    }
    if let Some(name) = &given.hostname
        && (name.is_empty() || name.len() > 255 || !name.bytes().all(|b| b.is_ascii_graphic()))
    {
        return Err(("`hostname` must be printable ASCII without spaces".to_owned(), "see RFC 5424 section 6.2.4"));
    }
    Ok(ExportSink::Syslog { transport, host, port, facility, hostname: given.hostname.clone(), link })
}

/// A setting that would have no effect is a mistake that somebody relies on.
fn belongs(given: &ExportFile) -> Result<(), Fault> {
    let (file, http, syslog) = (given.file.is_some(), given.url.is_some(), given.syslog.is_some());
    let settings = [
        ("rotate_mib", given.rotate_mib.is_some(), file),
        ("keep", given.keep.is_some(), file),
        ("headers", !given.headers.is_empty(), http),
        ("secret_headers", !given.secret_headers.is_empty(), http),
        ("bearer", given.bearer.is_some(), http),
        ("body", given.body.is_some(), http && given.format != ExportFormat::Otlp),
        ("facility", given.facility.is_some(), syslog),
        ("hostname", given.hostname.is_some(), syslog),
        ("ca", given.ca.is_some(), http || syslog),
        ("allow_plain", given.allow_plain, http || syslog),
    ];
    if let Some((name, ..)) = settings.iter().find(|(_, said, fits)| *said && !fits) {
        return Err((format!("`{name}` has no meaning here"), "see docs/reference/configuration.md"));
    }
    if syslog && given.format == ExportFormat::Otlp {
        return Err(("`otlp` goes by `url` or into a `file`".to_owned(), "use `ocsf` or `jsonl` for syslog"));
    }
    Ok(())
}

pub(super) fn roots(ca: Option<&Path>, base: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let Some(ca) = ca else { return Ok(Vec::new()) };
    let path = base.join(ca);
    let wrong = |why: &dyn std::fmt::Display| (format!("`{}`: {why}", path.display()), "it must be a PEM file of certificates");
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&path).map_err(|e| wrong(&e))?.collect();
    let found = found.map_err(|e| wrong(&e))?;
    if found.is_empty() { Err(wrong(&"no certificate in it")) } else { Ok(found) }
}

/// Does this name a place on this machine, without asking anyone?
fn is_local(host: &url::Host<&str>) -> bool {
    match host {
        url::Host::Domain(name) => name.eq_ignore_ascii_case("localhost"),
        url::Host::Ipv4(ip) => ip.is_loopback(),
        url::Host::Ipv6(ip) => ip.is_loopback(),
    }
}

const PLAIN: &str = "use TLS, or say `allow_plain = true` if the network in between is yours";

fn http_url(text: &str, allow_plain: bool) -> Result<url::Url, Fault> {
    let url: url::Url = text.parse().map_err(|e| (format!("`url` is not valid: {e}"), "write it as `https://host/path`"))?;
    let Some(host) = url.host() else { return Err(("`url` has no host".to_owned(), "write it as `https://host/path`")) };
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err(("`url` must be http or https, without credentials".to_owned(), "put credentials into `bearer` or `secret_headers`"));
    }
    if url.scheme() == "http" && !allow_plain && !is_local(&host) {
        return Err(("`http://` beyond this machine would show the record to the network".to_owned(), PLAIN));
    }
    Ok(url)
}

fn syslog_place(text: &str, allow_plain: bool) -> Result<(SyslogTransport, String, u16), Fault> {
    let hint = "write it as `tls://host:6514`, `tcp://host:601` or `udp://host:514`";
    let wrong = || (format!("`{}` is no syslog receiver", text.escape_debug()), hint);
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let transport = match scheme {
        "tls" => SyslogTransport::Tls,
        "tcp" => SyslogTransport::Tcp,
        "udp" => SyslogTransport::Udp,
        _ => return Err(wrong()),
    };
    // Only a special scheme's host is parsed as a host.
    let url: url::Url = format!("https://{rest}").parse().map_err(|_| wrong())?;
    let (host, port) = (url.host().ok_or_else(wrong)?, url.port_or_known_default().ok_or_else(wrong)?);
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    if !bare || !rest.contains(':') {
        return Err(wrong());
    }
    if transport != SyslogTransport::Tls && !allow_plain && !is_local(&host) {
        return Err((format!("`{scheme}://` beyond this machine would show the record to the network"), PLAIN));
    }
    let host = match host {
        url::Host::Domain(name) => name.to_owned(),
        url::Host::Ipv4(ip) => ip.to_string(),
        url::Host::Ipv6(ip) => ip.to_string(),
    };
    Ok((transport, host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<Vec<ExportEntry>, String> {
        let config = Config::parse("bailiwick.toml", &format!("[[export]]\nname = \"x\"\n{text}\n"), Path::new("/base"));
        config.map(|c| c.exports).map_err(|e| e.to_string())
    }

    #[test]
    fn each_way_out_has_its_defaults() {
        let file = parse("format = \"ocsf\"\nfile = \"events.jsonl\"").unwrap().remove(0);
        assert!(
            matches!(&file.sink, ExportSink::File { path, rotate_bytes, keep: 8 } if path == Path::new("/base/events.jsonl") && *rotate_bytes == 64 << 20)
        );
        assert_eq!((file.from, file.batch, file.timeout.as_secs(), file.retry_max.as_secs()), (ExportFrom::Start, 500, 10, 30));
        let http = parse("format = \"otlp\"\nurl = \"https://otel.example.org:4318?key=k1\"\nbearer = \"otel\"").unwrap().remove(0);
        assert!(matches!(&http.sink, ExportSink::Http { bearer: Some(b), .. } if b == "otel"));
        assert_eq!(http.sink.target(), "https://otel.example.org:4318/");
        let syslog = parse("format = \"jsonl\"\nsyslog = \"tls://[2001:db8::1]:6514\"").unwrap().remove(0);
        assert_eq!(syslog.sink.target(), "tls://[2001:db8::1]:6514");
        let local = parse("format = \"jsonl\"\nsyslog = \"udp://127.0.0.1:514\"").unwrap().remove(0);
        assert!(matches!(local.sink, ExportSink::Syslog { transport: SyslogTransport::Udp, facility: 13, port: 514, .. }));
    }

    #[test]
    fn what_would_go_nowhere_or_be_read_on_the_way_is_refused() {
        for (text, what) in [
            ("format = \"ocsf\"", "exactly one"),
            ("format = \"ocsf\"\nfile = \"a\"\nurl = \"https://h/\"", "exactly one"),
            ("format = \"ocsf\"\nfile = \"a\"\nkinds = [\"intnet\"]", "no entries of kind `intnet`"),
            ("format = \"ocsf\"\nfile = \"a\"\nbearer = \"b\"", "`bearer` has no meaning here"),
            ("format = \"otlp\"\nurl = \"https://h/\"\nbody = \"array\"", "`body` has no meaning here"),
            ("format = \"otlp\"\nsyslog = \"tls://h:6514\"", "goes by `url`"),
            ("format = \"ocsf\"\nurl = \"http://siem.example.org/\"", "show the record"),
            ("format = \"ocsf\"\nsyslog = \"tcp://siem.example.org:601\"", "show the record"),
            ("format = \"ocsf\"\nurl = \"https://u:p@h/\"", "without credentials"),
            ("format = \"ocsf\"\nurl = \"ftp://h/\"", "must be http"),
            ("format = \"ocsf\"\nsyslog = \"tls://h\"", "no syslog receiver"),
            ("format = \"ocsf\"\nsyslog = \"h:514\"", "no syslog receiver"),
            ("format = \"ocsf\"\nsyslog = \"tls://h:6514\"\nfacility = 24", "no syslog facility"),
            ("format = \"ocsf\"\nsyslog = \"tls://h:6514\"\nhostname = \"a b\"", "printable"),
            ("format = \"ocsf\"\nurl = \"https://h/\"\nca = \"absent.pem\"", "absent.pem"),
            ("format = \"cef\"\nfile = \"a\"", "unknown variant"),
            ("format = \"ocsf\"\nfile = \"..\"", "names no file"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn two_sinks_of_one_name_would_share_a_cursor_and_are_refused() {
        let one = "[[export]]\nname = \"x\"\nformat = \"ocsf\"\nfile = \"a\"\n";
        let error = Config::parse("bailiwick.toml", &format!("{one}{one}"), Path::new("/base")).unwrap_err();
        assert!(error.to_string().contains("two exports"), "{error}");
        for name in ["", "A", "a b", "a/b", "../x"] {
            assert!(Config::parse("bailiwick.toml", &one.replace("\"x\"", &format!("{name:?}")), Path::new("/")).is_err(), "{name}");
        }
    }
}
