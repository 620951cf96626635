//! The messages of the Workload API (`spiffe/spiffe`, `standards/workloadapi.proto`), of its server and of its client: bytes to values and back.

mod protobuf;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

pub use protobuf::Malformed;
use protobuf::{Reader, Writer, entry, structure, text};

/// Bundles by the SPIFFE ID of their trust domain.
pub type Bundles = BTreeMap<String, Vec<u8>>;

/// Trust domains of one message that are looked at.
const BUNDLES_MAX: usize = 256;

/// An X.509-SVID on its way to its workload.
pub struct X509<'a> {
    /// The SPIFFE ID.
    pub id: &'a str,
    /// The certificate.
    pub certificate: &'a [u8],
    /// Its private key, PKCS #8.
    pub key: &'a [u8],
    /// The roots of its trust domain, one after the other.
    pub bundle: &'a [u8],
}

impl fmt::Debug for X509<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509").field("id", &self.id).finish_non_exhaustive()
    }
}

/// `X509SVIDResponse`.
#[must_use]
pub fn x509_response(svid: &X509<'_>, federated: &Bundles) -> Zeroizing<Vec<u8>> {
    let mut one = Writer::default();
    one.bytes(1, svid.id.as_bytes()).bytes(2, svid.certificate).bytes(3, svid.key).bytes(4, svid.bundle);
    let one = Zeroizing::new(one.done());
    let mut out = Writer::default();
    out.message(1, &one).map(3, federated);
    Zeroizing::new(out.done())
}

/// `X509BundlesResponse`.
#[must_use]
pub fn x509_bundles(bundles: &Bundles) -> Vec<u8> {
    Writer::default().map(2, bundles).done()
}

/// `JWTSVIDResponse` with one SVID.
#[must_use]
pub fn jwt_response(id: &str, svid: &str) -> Vec<u8> {
    let one = Writer::default().bytes(1, id.as_bytes()).bytes(2, svid.as_bytes()).done();
    Writer::default().message(1, &one).done()
}

/// `JWTBundlesResponse`.
#[must_use]
pub fn jwt_bundles(bundles: &Bundles) -> Vec<u8> {
    Writer::default().map(1, bundles).done()
}

/// `ValidateJWTSVIDResponse`.
#[must_use]
pub fn validated(id: &str, claims: &Map<String, Value>) -> Vec<u8> {
    Writer::default().bytes(1, id.as_bytes()).message(2, &structure(claims)).done()
}

/// `JWTSVIDRequest`.
#[derive(Debug, PartialEq, Eq)]
pub struct JwtRequest {
    /// The audiences.
    pub audience: Vec<String>,
    /// The SPIFFE ID that is asked for, if one is.
    pub id: Option<String>,
}

impl JwtRequest {
    /// Reads it.
    ///
    /// # Errors
    /// If it is none. Fields that we do not know are passed over.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut asked = Self { audience: Vec::new(), id: None };
        let mut reader = Reader::new(bytes);
        while let Some((field, found)) = reader.next()? {
            match field {
                1 => asked.audience.push(text(found)?),
                2 => asked.id = Some(text(found)?).filter(|id| !id.is_empty()),
                _ => {}
            }
        }
        Ok(asked)
    }
}

/// `ValidateJWTSVIDRequest`.
pub struct ValidateRequest {
    /// As whom the one who asks is known.
    pub audience: String,
    /// The SVID: whoever has it can use it.
    pub svid: String,
}

impl fmt::Debug for ValidateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateRequest").field("audience", &self.audience).finish_non_exhaustive()
    }
}

impl ValidateRequest {
    /// Reads it.
    ///
    /// # Errors
    /// If it is none. Fields that we do not know are passed over.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (mut audience, mut svid) = (String::new(), String::new());
        let mut reader = Reader::new(bytes);
        while let Some((field, found)) = reader.next()? {
            match field {
                1 => audience = text(found)?,
                2 => svid = text(found)?,
                _ => {}
            }
        }
        Ok(Self { audience, svid })
    }
}

/// The map in `X509BundlesResponse` (field 2) or `JWTBundlesResponse` (field 1).
///
/// # Errors
/// If it is none, or has more than 256 trust domains.
pub fn bundles_in(bytes: &[u8], map: u32) -> Result<Bundles, Malformed> {
    let mut all = Bundles::new();
    let mut reader = Reader::new(bytes);
    while let Some((field, found)) = reader.next()? {
        if field == map {
            let (name, content) = entry(found)?;
            if all.len() >= BUNDLES_MAX {
                return Err(Malformed);
            }
            all.insert(name, content);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_are_read_as_they_were_written() {
        let all: Bundles = [("spiffe://a".to_owned(), vec![1, 2]), ("spiffe://b".to_owned(), vec![])].into();
        assert_eq!(bundles_in(&x509_bundles(&all), 2), Ok(all.clone()));
        assert_eq!(bundles_in(&jwt_bundles(&all), 1), Ok(all));
    }

    #[test]
    fn a_request_for_a_jwt_svid_is_read() {
        let bytes = Writer::default().message(1, b"a").message(1, b"b").bytes(2, b"spiffe://td/x").done();
        let asked = JwtRequest { audience: vec!["a".to_owned(), "b".to_owned()], id: Some("spiffe://td/x".to_owned()) };
        assert_eq!(JwtRequest::parse(&bytes), Ok(asked));
        assert_eq!(JwtRequest::parse(b""), Ok(JwtRequest { audience: Vec::new(), id: None }));
        assert!(JwtRequest::parse(&[0x0a, 1, 0xff]).is_err());
    }

    #[test]
    fn a_message_of_too_many_trust_domains_is_refused() {
        let all: Bundles = (0..300).map(|i| (format!("spiffe://{i}"), vec![1])).collect();
        assert!(bundles_in(&jwt_bundles(&all), 1).is_err());
    }
}
