//! X.509-SVIDs: the certificates are made, and what one says is read. Reading proves nothing: its path to a root of its trust domain is for a
//! library of X.509 to verify.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair as _};
use bailiwick_core::der::{
    BIT_STRING, BOOLEAN, INTEGER, OBJECT, OCTET_STRING, Reader, SEQUENCE, attribute, bits, integer, object, read_time, sequence, time, value,
};
use bailiwick_core::{Digest, SpiffeId, Timestamp};

use crate::keys::KeyError;

const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ORGANIZATION: &[u8] = &[0x55, 4, 10];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 17];
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 35];
const SUBJECT_KEY: &[u8] = &[0x55, 0x1d, 14];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const EC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
/// `uniformResourceIdentifier [6]` of a `GeneralName`.
const URI: u8 = 0x86;
const TRUE: &[u8] = &[BOOLEAN, 1, 0xff];
/// The longest certificate that is looked at, in bytes.
const CERTIFICATE_MAX: usize = 16 * 1024;
const EXTENSIONS_MAX: usize = 32;
const NAMES_MAX: usize = 64;

/// What one certificate is made of.
pub(super) struct Words<'a> {
    pub(super) serial: [u8; 16],
    /// The issuer's name, as its own certificate has it.
    pub(super) issuer: &'a [u8],
    /// The key id of the issuer.
    pub(super) issuer_key: [u8; 20],
    pub(super) subject: &'a [u8],
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
    /// The uncompressed point on P-256.
    pub(super) public: &'a [u8],
    /// The URI of the one alternative name.
    pub(super) uri: &'a str,
}

/// The name of an authority whose key has this id: another for each key, so that a path is found without trying.
pub(super) fn authority_name(key: &[u8; 20]) -> Vec<u8> {
    let id: String = key.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    sequence(&[&attribute(ORGANIZATION, "Bailiwick"), &attribute(COMMON_NAME, &format!("authority {id}"))])
}

/// The name of a workload: the same for all, and no common name, because some servers take one for a user's name. The SPIFFE ID is its identity.
pub(super) fn workload_name() -> Vec<u8> {
    sequence(&[&attribute(ORGANIZATION, "Bailiwick")])
}

/// The id of a key on P-256.
pub(super) fn key_id(public: &[u8]) -> [u8; 20] {
    //= rfc7093#section-2
    // The keyIdentifier is composed of the leftmost 160-bits of the SHA-256 hash of the value of the BIT STRING
    // subjectPublicKey (excluding the tag, length, and number of unused bits).
    let mut id = [0; 20];
    id.iter_mut().zip(Digest::of(public).as_bytes()).for_each(|(to, from)| *to = *from);
    id
}

/// A certificate that signs others and itself.
pub(super) fn signing(key: &EcdsaKeyPair, words: &Words<'_>) -> Result<Vec<u8>, KeyError> {
    let extensions = [
        //= x509-svid#section-4.1
        // Signing certificates MUST set the `cA` field to `true`. They MAY set the `pathLenConstraint` field: there is none below.
        extension(BASIC_CONSTRAINTS, true, &sequence(&[TRUE, &integer(&[])])),
        //= x509-svid#section-4.3
        // The key usage extension MUST be set on all SVIDs, and MUST be marked critical. SVID signing certificates MUST set
        // `keyCertSign`. They MAY set `cRLSign`. (We have no such list: SVIDs live for an hour at most.)
        extension(KEY_USAGE, true, &[BIT_STRING, 2, 2, 0x04]),
        extension(SUBJECT_KEY, false, &value(OCTET_STRING, &key_id(words.public))),
        //= x509-svid#section-3.2
        // If present, the SPIFFE ID of a signing certificate MUST NOT have a path component.
        alternative_name(words.uri),
        //= x509-svid#section-4.2
        // There is a distinct lack of support for URI type name constraints in the wild. Libraries which don't support them will
        // reject such certificates. (rustls does, so there are none here; a bundle's roots are for its own trust domain anyway.)
    ];
    certificate(key, words, &extensions.concat())
}

/// The certificate of a workload.
pub(super) fn leaf(key: &EcdsaKeyPair, words: &Words<'_>) -> Result<Vec<u8>, KeyError> {
    let extensions = [
        //= x509-svid#section-4.1
        // Leaf certificates MUST set the `cA` field to `false`. (Which is its default, and so not written: X.690 section 11.5.)
        extension(BASIC_CONSTRAINTS, true, &sequence(&[])),
        //= x509-svid#section-4.3
        // Leaf SVIDs MUST set `digitalSignature`. Leaf SVIDs MUST NOT set `keyCertSign` or `cRLSign`.
        extension(KEY_USAGE, true, &[BIT_STRING, 2, 7, 0x80]),
        //= x509-svid#section-4.4
        // Leaf SVIDs SHOULD include this extension. When included, fields `id-kp-serverAuth` and `id-kp-clientAuth` MUST be set.
        extension(EXTENDED_KEY_USAGE, false, &sequence(&[&object(SERVER_AUTH), &object(CLIENT_AUTH)])),
        extension(SUBJECT_KEY, false, &value(OCTET_STRING, &key_id(words.public))),
        extension(AUTHORITY_KEY, false, &sequence(&[&value(0x80, &words.issuer_key)])),
        //= x509-svid#section-2
        // An X.509 SVID MUST contain exactly one URI SAN, and by extension, exactly one SPIFFE ID.
        alternative_name(words.uri),
    ];
    certificate(key, words, &extensions.concat())
}

fn alternative_name(uri: &str) -> Vec<u8> {
    extension(ALTERNATIVE_NAME, false, &sequence(&[&value(URI, uri.as_bytes())]))
}

fn extension(kind: &[u8], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical = if critical { TRUE } else { &[] };
    sequence(&[&object(kind), critical, &value(OCTET_STRING, content)])
}

fn certificate(key: &EcdsaKeyPair, words: &Words<'_>, extensions: &[u8]) -> Result<Vec<u8>, KeyError> {
    let algorithm = sequence(&[&object(ECDSA_SHA256)]);
    let body = sequence(&[
        &value(0xa0, &integer(&[2])),
        &integer(&words.serial),
        &algorithm,
        words.issuer,
        &sequence(&[&time(words.from), &time(words.until)]),
        words.subject,
        &sequence(&[&sequence(&[&object(EC_KEY), &object(P256)]), &bits(words.public)]),
        &value(0xa3, &value(SEQUENCE, extensions)),
    ]);
    let signature = key.sign(&SystemRandom::new(), &body).map_err(|_| KeyError::Library)?;
    Ok(sequence(&[&body, &algorithm, &bits(signature.as_ref())]))
}

/// The public point of a key.
pub(super) fn point(key: &EcdsaKeyPair) -> &[u8] {
    key.public_key().as_ref()
}

/// Why a certificate is no X.509-SVID of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum X509Fault {
    /// Not a certificate of X.509 version 3 in DER, or longer than any that we look at.
    #[error("not a certificate")]
    Form,
    /// None, or more than one, or one that is no SPIFFE ID with a path.
    #[error("the certificate does not have exactly one URI that is a workload's SPIFFE ID")]
    Name,
    /// It may sign others, so it identifies nobody.
    #[error("the certificate may sign others")]
    Signing,
    /// What its key is for is not said, or it is not for signatures.
    #[error("the certificate's key is not for signatures")]
    Usage,
}

/// What the certificate of a workload says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct X509Facts {
    /// The workload.
    pub id: SpiffeId,
    /// Its serial number, as it stands there.
    pub serial: Vec<u8>,
    /// From when on it is valid.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// Reads what a leaf certificate (DER) says, by the rules for an X.509-SVID. Its signature and its times are not looked at: they are verified, by a
/// library and against the roots of [`X509Facts::id`]'s trust domain and of no other, before or after this.
///
/// # Errors
/// The first rule that it breaks.
pub fn read(certificate: &[u8]) -> Result<X509Facts, X509Fault> {
    let read = Certificate::read(certificate).ok_or(X509Fault::Form)?;
    //= x509-svid#section-5.2
    // The validator MUST ensure that the `CA` field in the basic constraints extension is set to `false`, and that `keyCertSign`
    // and `cRLSign` are not set in the key usage extension.
    if read.signs.ok_or(X509Fault::Form)? {
        return Err(X509Fault::Signing);
    }
    let usage = read.usage.ok_or(X509Fault::Usage)?;
    if usage & 0x06 != 0 {
        return Err(X509Fault::Signing);
    }
    if usage & 0x80 == 0 {
        return Err(X509Fault::Usage);
    }
    //= x509-svid#section-5.2
    // The validator MUST also ensure that the scheme of the SPIFFE ID is set to `spiffe`, and MUST ensure that the SPIFFE ID has a
    // non-root path component. SVIDs containing more than one URI SAN MUST be rejected.
    let [uri] = read.uris.as_slice() else { return Err(X509Fault::Name) };
    let id = str::from_utf8(uri).ok().and_then(|uri| uri.parse().ok()).ok_or(X509Fault::Name)?;
    Ok(X509Facts { id, serial: read.serial.to_vec(), from: read.from, until: read.until })
}

/// Is it the certificate of an authority: one that may sign others?
pub(super) fn is_authority(certificate: &[u8]) -> bool {
    Certificate::read(certificate).is_some_and(|read| read.signs == Some(true) && read.usage.is_none_or(|usage| usage & 0x04 != 0))
}

struct Certificate<'a> {
    serial: &'a [u8],
    from: Timestamp,
    until: Timestamp,
    /// The `cA` of its basic constraints; `None` if they are malformed.
    signs: Option<bool>,
    /// The first eight bits of its key usage.
    usage: Option<u8>,
    uris: Vec<&'a [u8]>,
}

impl<'a> Certificate<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        if der.len() > CERTIFICATE_MAX {
            return None;
        }
        let mut outer = Reader::new(der);
        let mut whole = outer.inside(SEQUENCE)?;
        let mut body = whole.inside(SEQUENCE)?;
        let algorithm = whole.expect(SEQUENCE)?;
        whole.expect(BIT_STRING)?;
        if !outer.is_at_end() || !whole.is_at_end() || body.inside(0xa0)?.expect(INTEGER)?.content != [2] {
            return None;
        }
        let serial = body.expect(INTEGER)?.content;
        //= rfc5280#section-4.1.1.2
        // This field MUST contain the same algorithm identifier as the signature field in the sequence tbsCertificate.
        if body.expect(SEQUENCE)?.whole != algorithm.whole {
            return None;
        }
        body.expect(SEQUENCE)?;
        let mut times = body.inside(SEQUENCE)?;
        let (from, until) = (read_time(&times.next()?)?, read_time(&times.next()?)?);
        body.expect(SEQUENCE)?;
        body.expect(SEQUENCE)?;
        let mut extensions = body.inside(0xa3)?.inside(SEQUENCE)?;
        if !body.is_at_end() {
            return None;
        }
        let mut read = Self { serial, from, until, signs: Some(false), usage: None, uris: Vec::new() };
        let mut seen: Vec<&[u8]> = Vec::new();
        while !extensions.is_at_end() {
            let (kind, content) = extension_of(extensions.inside(SEQUENCE)?)?;
            //= rfc5280#section-4.2
            // A certificate MUST NOT include more than one instance of a particular extension.
            if seen.contains(&kind) || seen.len() >= EXTENSIONS_MAX {
                return None;
            }
            seen.push(kind);
            read.take(kind, content)?;
        }
        Some(read)
    }

    fn take(&mut self, kind: &[u8], content: &'a [u8]) -> Option<()> {
        match kind {
            BASIC_CONSTRAINTS => {
                let mut constraints = whole(content, SEQUENCE)?;
                self.signs = Some(constraints.is_next(BOOLEAN) && constraints.expect(BOOLEAN)?.content != [0]);
            }
            KEY_USAGE => {
                let mut outer = Reader::new(content);
                let named = outer.expect(BIT_STRING)?.content;
                self.usage = Some(named.get(1).copied().filter(|_| outer.is_at_end())?);
            }
            ALTERNATIVE_NAME => {
                let mut names = whole(content, SEQUENCE)?;
                for _ in 0..NAMES_MAX {
                    if names.is_at_end() {
                        return Some(());
                    }
                    let name = names.next()?;
                    if name.tag == URI {
                        self.uris.push(name.content);
                    }
                }
                return None;
            }
            _ => {}
        }
        Some(())
    }
}

/// The one value of this tag that is all of `bytes`.
fn whole(bytes: &[u8], tag: u8) -> Option<Reader<'_>> {
    let mut outer = Reader::new(bytes);
    let inside = outer.inside(tag)?;
    outer.is_at_end().then_some(inside)
}

fn extension_of(mut parts: Reader<'_>) -> Option<(&[u8], &[u8])> {
    let kind = parts.expect(OBJECT)?.content;
    if parts.is_next(BOOLEAN) {
        parts.next()?;
    }
    let content = parts.expect(OCTET_STRING)?.content;
    parts.is_at_end().then_some((kind, content))
}
