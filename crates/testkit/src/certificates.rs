//! A certificate authority for tests: it signs whatever it is asked to, also certificates that nobody should take.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const EC: &[u8] = &[0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ED25519: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
const CLIENT_AUTH: &[u8] = &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2];
const SERVER_AUTH: &[u8] = &[6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1];

/// Bits of the key usage (RFC 5280 section 4.2.1.3): `digitalSignature`.
pub const DIGITAL_SIGNATURE: u8 = 0x80;
/// `keyCertSign`.
pub const CERT_SIGN: u8 = 0x04;
/// `cRLSign`.
pub const CRL_SIGN: u8 = 0x02;

/// What stands in a certificate.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// URIs among its names.
    pub uris: &'a [&'a str],
    /// DNS names.
    pub dns: &'a [&'a str],
    /// IPv4 addresses.
    pub addresses: &'a [[u8; 4]],
    /// The key usage and whether it is critical; none leaves it out.
    pub usage: Option<(u8, bool)>,
    /// May it sign certificates (`cA`)?
    pub authority: bool,
    /// The extended key usage: client and server, server alone, or none.
    pub purposes: Option<Purposes>,
    /// From when, in seconds from now.
    pub from: i64,
    /// Until when, in seconds from now.
    pub until: i64,
}

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purposes {
    /// Clients and servers.
    Both,
    /// Servers alone.
    Server,
}

impl Default for Wish<'_> {
    /// A good leaf without a name, valid for an hour.
    fn default() -> Self {
        Self {
            uris: &[],
            dns: &[],
            addresses: &[],
            usage: Some((DIGITAL_SIGNATURE, true)),
            authority: false,
            purposes: Some(Purposes::Both),
            from: -60,
            until: 3600,
        }
    }
}

/// A certificate and its private key.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate, in DER.
    pub certificate: Vec<u8>,
    /// The key, in PKCS#8.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").finish_non_exhaustive()
    }
}

impl Leaf {
    /// The certificate as PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// The key as PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.key)
    }
}

/// An authority with a root certificate of its own.
pub struct Authority {
    pair: EcdsaKeyPair,
    name: Vec<u8>,
    root: Vec<u8>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// One of this name.
    pub fn new(name: &str) -> Result<Self> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref())?;
        let name = tlv(0x30, &[&tlv(0x31, &[&tlv(0x30, &[&[6, 3, 0x55, 4, 3], &tlv(0x0c, &[name.as_bytes()])])])]);
        let mut made = Self { pair, name, root: Vec::new() };
        let wish = Wish { authority: true, usage: Some((CERT_SIGN | CRL_SIGN, true)), purposes: None, until: 86_400, ..Wish::default() };
        let subject = made.name.clone();
        made.root = made.certify(&wish, &subject, &made.public())?;
        Ok(made)
    }

    /// The root certificate as PEM.
    #[must_use]
    pub fn root_pem(&self) -> String {
        pem("CERTIFICATE", &self.root)
    }

    /// The root certificate, in DER.
    #[must_use]
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// A certificate for a new P-256 key.
    pub fn leaf(&self, wish: &Wish<'_>) -> Result<Leaf> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref())?;
        let spki = tlv(0x30, &[EC, &tlv(3, &[&[0], pair.public_key().as_ref()])]);
        Ok(Leaf { certificate: self.certify(wish, &tlv(0x30, &[]), &spki)?, key: pkcs8.as_ref().to_vec() })
    }

    fn public(&self) -> Vec<u8> {
        tlv(0x30, &[EC, &tlv(3, &[&[0], self.pair.public_key().as_ref()])])
    }

    fn certify(&self, wish: &Wish<'_>, subject: &[u8], spki: &[u8]) -> Result<Vec<u8>> {
        let tbs = tbs(wish, ECDSA_SHA256, &self.name, subject, spki)?;
        let signature = self.pair.sign(&SystemRandom::new(), &tbs)?;
        Ok(tlv(0x30, &[&tbs, ECDSA_SHA256, &tlv(3, &[&[0], signature.as_ref()])]))
    }
}

/// A certificate that an Ed25519 key signs for itself; `pkcs8` is the key.
pub fn self_signed(pkcs8: &[u8], wish: &Wish<'_>) -> Result<Leaf> {
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8)?;
    let spki = tlv(0x30, &[ED25519, &tlv(3, &[&[0], pair.public_key().as_ref()])]);
    let name = tlv(0x30, &[]);
    let tbs = tbs(wish, ED25519, &name, &name, &spki)?;
    let signature = pair.sign(&tbs);
    Ok(Leaf { certificate: tlv(0x30, &[&tbs, ED25519, &tlv(3, &[&[0], signature.as_ref()])]), key: pkcs8.to_vec() })
}

fn tbs(wish: &Wish<'_>, algorithm: &[u8], issuer: &[u8], subject: &[u8], spki: &[u8]) -> Result<Vec<u8>> {
    #[expect(clippy::disallowed_methods, reason = "for development only: certificates of tests are judged by the machine's clock")]
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let mut serial = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut serial)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    let validity = tlv(0x30, &[&time(now + wish.from)?, &time(now + wish.until)?]);
    let extensions = tlv(0x30, &extensions(wish).iter().map(Vec::as_slice).collect::<Vec<_>>());
    let version: &[u8] = &[0xa0, 3, 2, 1, 2];
    Ok(tlv(0x30, &[version, &tlv(2, &[&serial]), algorithm, issuer, &validity, subject, spki, &tlv(0xa3, &[&extensions])]))
}

fn extensions(wish: &Wish<'_>) -> Vec<Vec<u8>> {
    let extension = |last: u8, critical: bool, value: &[u8]| {
        let flag: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
        tlv(0x30, &[&[6, 3, 0x55, 0x1d, last], flag, &tlv(4, &[value])])
    };
    let mut all = vec![extension(19, true, &if wish.authority { tlv(0x30, &[&[1, 1, 0xff]]) } else { tlv(0x30, &[]) })];
    if let Some((bits, critical)) = wish.usage {
        all.push(extension(15, critical, &tlv(3, &[&[u8::try_from(bits.trailing_zeros()).unwrap_or(0) % 8, bits]])));
    }
    match wish.purposes {
        Some(Purposes::Both) => all.push(extension(37, false, &tlv(0x30, &[SERVER_AUTH, CLIENT_AUTH]))),
        Some(Purposes::Server) => all.push(extension(37, false, &tlv(0x30, &[SERVER_AUTH]))),
        None => {}
    }
    let uris = wish.uris.iter().map(|uri| tlv(0x86, &[uri.as_bytes()]));
    let dns = wish.dns.iter().map(|name| tlv(0x82, &[name.as_bytes()]));
    let names: Vec<Vec<u8>> = uris.chain(dns).chain(wish.addresses.iter().map(|address| tlv(0x87, &[address]))).collect();
    if !names.is_empty() {
        all.push(extension(17, true, &tlv(0x30, &names.iter().map(Vec::as_slice).collect::<Vec<_>>())));
    }
    all
}

/// One element of DER.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(u8::try_from(length).unwrap_or(0)),
        0x80..0x100 => out.extend([0x81, u8::try_from(length).unwrap_or(0)]),
        _ => out.extend([0x82, u8::try_from(length >> 8).unwrap_or(0xff), u8::try_from(length & 0xff).unwrap_or(0)]),
    }
    out.extend(content);
    out
}

/// A `UTCTime`.
fn time(seconds: i64) -> Result<Vec<u8>> {
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date of the Gregorian calendar, in eras of 400 years that begin with March.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let short = year.checked_sub(2000).filter(|y| (0..50).contains(y)).context("a year from 2000 to 2049")?;
    let text = format!("{short:02}{month:02}{date:02}{:02}{:02}{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60);
    Ok(tlv(0x17, &[text.as_bytes()]))
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
