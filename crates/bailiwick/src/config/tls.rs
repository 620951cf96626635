//! The tables `[listen.tls]` and `[listen.mtls]`: certificates of the broker, and whose certificates of clients it believes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bailiwick_core::TrustDomain;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

/// TLS on the main address. The files are read again when they change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsFile {
    /// The certificate and those that lead to its root, in PEM. Relative to this file.
    certificate: PathBuf,
    /// Its private key, in PEM. Relative to this file.
    key: PathBuf,
}

/// A second address at which clients prove themselves by certificates in TLS (RFC 8705).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MtlsFile {
    /// Address and port.
    #[schemars(with = "String")]
    address: Spanned<String>,
    /// The URL under which clients reach it, without a trailing slash. Default: `https://` and the address.
    #[schemars(with = "Option<String>")]
    public_url: Option<Spanned<String>>,
    /// The broker's certificate and those that lead to its root, in PEM. Relative to this file.
    certificate: PathBuf,
    /// Its private key, in PEM. Relative to this file.
    key: PathBuf,
    /// Whom to believe, by trust domain: a file with root certificates in PEM, or a SPIFFE bundle in JSON. A client's certificate is an
    /// X.509-SVID of one of these domains, and its chain leads to a root of that very domain.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, PathBuf>")]
    roots: BTreeMap<TrustDomain, PathBuf>,
    /// Believe the X.509-SVIDs that this broker issues itself. Default false.
    #[serde(default)]
    issued_here: bool,
    /// May an agent come with a certificate that it signed itself, with the key that is registered for it? Default false.
    #[serde(default)]
    self_signed: bool,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate and those that lead to its root, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}

/// The listener for clients with certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MtlsConfig {
    /// Where it listens.
    pub address: std::net::SocketAddr,
    /// How clients reach it; no trailing slash. `None`: `https://` and the address that was bound.
    pub public_url: Option<String>,
    /// The broker's own certificate.
    pub tls: TlsConfig,
    /// Roots by trust domain.
    pub roots: BTreeMap<TrustDomain, PathBuf>,
    /// Are X.509-SVIDs believed that this broker issues?
    pub issued_here: bool,
    /// May an agent sign its certificate itself, with its registered key?
    pub self_signed: bool,
}

type Fault = (std::ops::Range<usize>, String, &'static str);

pub(super) fn tls(file: TlsFile, base: &Path) -> TlsConfig {
    TlsConfig { certificate: base.join(file.certificate), key: base.join(file.key) }
}

pub(super) fn mtls(file: MtlsFile, base: &Path) -> Result<MtlsConfig, Fault> {
    let at = file.address.span();
    let address =
        file.address.get_ref().parse().map_err(|_| {
            (at.clone(), format!("`{}` is no address with a port", file.address.get_ref().escape_debug()), "write it as `0.0.0.0:8443`")
        })?;
    let public_url = match file.public_url {
        None => None,
        Some(given) => {
            let fault = |what: String| (given.span(), what, "write it as `https://broker.example.org:8443`");
            let url = super::public_url(given.get_ref()).map_err(fault)?;
            if !url.starts_with("https://") {
                return Err(fault(format!("`{url}` is not https, and certificates are shown in TLS only")));
            }
            Some(url)
        }
    };
    if file.roots.is_empty() && !file.self_signed && !file.issued_here {
        return Err((
            at,
            "no client could come in: there are no `roots`, and neither `issued_here` nor `self_signed`".to_owned(),
            "name a trust domain and its roots",
        ));
    }
    Ok(MtlsConfig {
        address,
        public_url,
        tls: TlsConfig { certificate: base.join(file.certificate), key: base.join(file.key) },
        roots: file.roots.into_iter().map(|(domain, path)| (domain, base.join(path))).collect(),
        issued_here: file.issued_here,
        self_signed: file.self_signed,
    })
}
