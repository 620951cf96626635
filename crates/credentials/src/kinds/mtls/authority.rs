//! The authority of client certificates: its key and certificate, the certificates that it signs for leases, and its list of revoked ones (RFC 5280).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use bailiwick_core::Timestamp;
use bailiwick_core::der::{BIT_STRING, INTEGER, OCTET_STRING, Reader, SEQUENCE, attribute, bits, integer, object, read_time, sequence, time, value};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// What our serial numbers begin with: so an entry of ours in a list is told from a person's, which never expires.
pub(super) const OURS: [u8; 2] = *b"ba";

const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const UNIT: &[u8] = &[0x55, 4, 11];
const SERIAL_NUMBER: &[u8] = &[0x55, 4, 5];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
const ALTERNATIVE_NAME: &[u8] = &[0x55, 0x1d, 17];
const AUTHORITY_KEY: &[u8] = &[0x55, 0x1d, 35];
const SUBJECT_KEY: &[u8] = &[0x55, 0x1d, 14];
const LIST_NUMBER: &[u8] = &[0x55, 0x1d, 20];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const EC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const URI: u8 = 0x86;
const BOOLEAN_TRUE: &[u8] = &[1, 1, 0xff];
/// A list that is longer is no list of ours.
const ENTRIES_MAX: usize = 100_000;

enum Signer {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn algorithm(&self) -> Vec<u8> {
        match self {
            Self::Ecdsa(_) => sequence(&[&object(ECDSA_SHA256)]),
            Self::Ed25519(_) => sequence(&[&object(ED25519)]),
        }
    }

    fn public(&self) -> &[u8] {
        match self {
            Self::Ecdsa(pair) => pair.public_key().as_ref(),
            Self::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }

    fn sign(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Ecdsa(pair) => pair.sign(&SystemRandom::new(), bytes).ok().map(|signature| signature.as_ref().to_vec()),
            Self::Ed25519(pair) => Some(pair.sign(bytes).as_ref().to_vec()),
        }
    }
}

/// An authority that signs.
pub(super) struct Authority {
    signer: Signer,
    certificate: CertificateDer<'static>,
    /// Its name, as its certificate has it.
    name: Vec<u8>,
    /// The extension that names its key, if its certificate has a name for that.
    key_name: Option<Vec<u8>>,
    pub(super) valid_until: Timestamp,
}

/// What a certificate of a lease says.
pub(super) struct Words<'a> {
    pub(super) serial: [u8; 16],
    pub(super) common_name: &'a str,
    pub(super) task: &'a str,
    pub(super) lease: &'a str,
    /// The agent's identity, if it is a URI.
    pub(super) agent: Option<&'a str>,
    pub(super) valid_after: Timestamp,
    pub(super) valid_before: Timestamp,
}

/// One entry of a list: the serial number's bytes, and the entry as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) serial: Vec<u8>,
    pub(super) at: Timestamp,
    whole: Vec<u8>,
}

impl Entry {
    pub(super) fn new(serial: [u8; 16], at: Timestamp) -> Self {
        Self { serial: serial.to_vec(), at, whole: sequence(&[&integer(&serial), &time(at)]) }
    }
}

impl Authority {
    /// From PEM with the authority's certificate and its private key in PKCS #8, P-256 or Ed25519.
    pub(super) fn parse(pem: &[u8]) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(pem).ok()?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem).ok()?;
        let bytes = key.secret_pkcs8_der();
        let ecdsa = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, bytes).map(Signer::Ecdsa);
        let signer = ecdsa.or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map(Signer::Ed25519)).ok()?;
        let fields = fields_of(&certificate)?;
        // A certificate of another key would make every lease's certificate worthless.
        if !fields.key.ends_with(signer.public()) || !fields.is_authority {
            return None;
        }
        let key_name = fields.key_name.map(|name| {
            let named = sequence(&[&value(0x80, name)]);
            sequence(&[&object(AUTHORITY_KEY), &value(OCTET_STRING, &named)])
        });
        let (name, valid_until) = (fields.subject.to_vec(), fields.valid_until);
        Some(Self { signer, certificate, name, key_name, valid_until })
    }

    pub(super) const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate for a key on P-256, whose uncompressed point is `public`.
    pub(super) fn certify(&self, public: &[u8], words: &Words<'_>) -> Option<CertificateDer<'static>> {
        let extension = |kind: &[u8], critical: bool, content: &[u8]| {
            let critical = if critical { BOOLEAN_TRUE } else { &[] };
            sequence(&[&object(kind), critical, &value(OCTET_STRING, content)])
        };
        let mut extensions = [
            extension(BASIC_CONSTRAINTS, true, &sequence(&[])),
            // digitalSignature, the first of nine bits.
            extension(KEY_USAGE, true, &[BIT_STRING, 2, 7, 0x80]),
            extension(EXTENDED_KEY_USAGE, false, &sequence(&[&object(CLIENT_AUTH)])),
        ]
        .concat();
        if let Some(agent) = words.agent {
            extensions.extend(extension(ALTERNATIVE_NAME, false, &sequence(&[&value(URI, agent.as_bytes())])));
        }
        extensions.extend(self.key_name.iter().flatten());
        // The lease first: `PostgreSQL` shows 63 bytes of it.
        let subject = [attribute(SERIAL_NUMBER, words.lease), attribute(UNIT, words.task), attribute(COMMON_NAME, words.common_name)].concat();
        let body = sequence(&[
            &value(0xa0, &integer(&[2])),
            &integer(&words.serial),
            &self.signer.algorithm(),
            &self.name,
            &sequence(&[&time(words.valid_after), &time(words.valid_before)]),
            &value(SEQUENCE, &subject),
            &sequence(&[&sequence(&[&object(EC_KEY), &object(P256)]), &bits(public)]),
            &value(0xa3, &value(SEQUENCE, &extensions)),
        ]);
        self.signed(&body).map(CertificateDer::from)
    }

    /// The list of these, valid for as long as the authority is: it is written anew at each end, and must not shut everybody out in between.
    pub(super) fn list(&self, entries: &[Entry], number: u64, now: Timestamp) -> Option<Vec<u8>> {
        let number = sequence(&[&object(LIST_NUMBER), &value(OCTET_STRING, &integer(&number.to_be_bytes()))]);
        let extensions = [self.key_name.clone().unwrap_or_default(), number].concat();
        let all: Vec<u8> = entries.iter().flat_map(|entry| entry.whole.iter().copied()).collect();
        // An empty list of entries is left out (RFC 5280, section 5.1.2.6).
        let all = if all.is_empty() { Vec::new() } else { value(SEQUENCE, &all) };
        let body = sequence(&[
            &integer(&[1]),
            &self.signer.algorithm(),
            &self.name,
            &time(now),
            &time(self.valid_until),
            &all,
            &value(0xa0, &value(SEQUENCE, &extensions)),
        ]);
        self.signed(&body)
    }

    /// The entries of a list, if it is one of this authority.
    pub(super) fn entries(&self, list: &[u8]) -> Option<(Vec<Entry>, u64)> {
        let mut list = Reader::new(list).inside(SEQUENCE)?;
        let mut body = list.inside(SEQUENCE)?;
        let mut next = body.next()?;
        if next.tag == INTEGER {
            next = body.next()?;
        }
        // `next` is the algorithm.
        if next.tag != SEQUENCE || body.expect(SEQUENCE)?.whole != self.name {
            return None;
        }
        body.next()?;
        let mut rest: Vec<_> = std::iter::from_fn(|| body.next()).collect();
        if rest.first().is_some_and(|value| value.tag != SEQUENCE && value.tag != 0xa0) {
            rest.remove(0);
        }
        let mut entries = Vec::new();
        if let Some(listed) = rest.first().filter(|value| value.tag == SEQUENCE) {
            let mut listed = Reader::new(listed.content);
            while !listed.is_at_end() {
                let whole = listed.expect(SEQUENCE)?;
                let mut entry = Reader::new(whole.content);
                let serial = entry.expect(INTEGER)?.content;
                let at = entry.next()?;
                let zeros = serial.iter().take_while(|byte| **byte == 0).count();
                let serial = serial.get(zeros..)?.to_vec();
                entries.push(Entry { serial, at: read_time(&at)?, whole: whole.whole.to_vec() });
                if entries.len() > ENTRIES_MAX {
                    return None;
                }
            }
        }
        let number = rest.last().filter(|value| value.tag == 0xa0).and_then(|extensions| extension_of(extensions.content, LIST_NUMBER));
        let number = number
            .and_then(|number| Reader::new(number).expect(INTEGER))
            .map_or(0, |number| number.content.iter().fold(0_u64, |all, byte| all.wrapping_shl(8) | u64::from(*byte)));
        Some((entries, number))
    }

    /// Does a list that cannot be read have this authority's name in it? Then it is not somebody else's.
    pub(super) fn is_issuer_of(&self, list: &[u8]) -> bool {
        list.windows(self.name.len()).any(|window| window == self.name)
    }

    fn signed(&self, body: &[u8]) -> Option<Vec<u8>> {
        Some(sequence(&[body, &self.signer.algorithm(), &bits(&self.signer.sign(body)?)]))
    }
}

struct Fields<'a> {
    subject: &'a [u8],
    key: &'a [u8],
    key_name: Option<&'a [u8]>,
    valid_until: Timestamp,
    is_authority: bool,
}

fn fields_of(certificate: &[u8]) -> Option<Fields<'_>> {
    let mut body = Reader::new(certificate).inside(SEQUENCE)?.inside(SEQUENCE)?;
    if body.next()?.tag == 0xa0 {
        body.expect(INTEGER)?;
    }
    body.expect(SEQUENCE)?;
    body.expect(SEQUENCE)?;
    let mut validity = body.inside(SEQUENCE)?;
    validity.next()?;
    let until = validity.next()?;
    let subject = body.expect(SEQUENCE)?.whole;
    let key = body.expect(SEQUENCE)?.content;
    let extensions = std::iter::from_fn(|| body.next()).find(|value| value.tag == 0xa3);
    let find = |kind| extensions.and_then(|extensions| extension_of(extensions.content, kind));
    let key_name = find(SUBJECT_KEY).and_then(|name| Reader::new(name).expect(OCTET_STRING)).map(|name| name.content);
    let constraints = find(BASIC_CONSTRAINTS).and_then(|value| Reader::new(value).expect(SEQUENCE)).map(|value| value.content);
    let is_authority = constraints.is_some_and(|content| content.starts_with(BOOLEAN_TRUE));
    Some(Fields { subject, key, key_name, valid_until: read_time(&until)?, is_authority })
}

/// The content of one of some extensions.
fn extension_of<'a>(extensions: &'a [u8], kind: &[u8]) -> Option<&'a [u8]> {
    let mut all = Reader::new(extensions).inside(SEQUENCE)?;
    std::iter::from_fn(|| all.expect(SEQUENCE)).find_map(|extension| {
        let mut parts = Reader::new(extension.content);
        (parts.next()?.content == kind).then_some(())?;
        std::iter::from_fn(|| parts.next()).last().filter(|value| value.tag == OCTET_STRING).map(|value| value.content)
    })
}
