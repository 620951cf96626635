//! A public key's `SubjectPublicKeyInfo`: read strictly, nothing else understood.

use bailiwick_core::der::{BIT_STRING, INTEGER, NULL, OBJECT, Reader, SEQUENCE, positive};

use super::KeyError;

/// A public key as it stands in its `SubjectPublicKeyInfo`.
pub(super) enum Spki<'a> {
    /// RFC 8410 section 4.
    Ed25519([u8; 32]),
    /// RFC 5480 section 2.2, uncompressed.
    P256([u8; 32], [u8; 32]),
    /// RFC 5480 section 2.2, uncompressed.
    P384([u8; 48], [u8; 48]),
    /// RFC 8017 appendix A.1.1.
    Rsa {
        /// The modulus.
        n: &'a [u8],
        /// The exponent.
        e: &'a [u8],
    },
}

const WRONG: KeyError = KeyError::Form("not a SubjectPublicKeyInfo");

const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

/// Reads a `SubjectPublicKeyInfo` that is the whole of `der`.
pub(super) fn spki(der: &[u8]) -> Result<Spki<'_>, KeyError> {
    let (mut algorithm, key) = parts(der).ok_or(WRONG)?;
    let kind = algorithm.expect(OBJECT).ok_or(WRONG)?.content;
    let parameters = algorithm;
    match kind {
        ED25519 if parameters.is_at_end() => Ok(Spki::Ed25519(key.try_into().map_err(|_| WRONG)?)),
        EC => match only(parameters, OBJECT).ok_or(WRONG)? {
            P256 => point(key).map(|(x, y)| Spki::P256(x, y)),
            P384 => point(key).map(|(x, y)| Spki::P384(x, y)),
            _ => Err(KeyError::Kind),
        },
        RSA if only(parameters, NULL).is_some_and(<[u8]>::is_empty) => rsa(key).ok_or(WRONG),
        ED25519 | RSA => Err(WRONG),
        _ => Err(KeyError::Kind),
    }
}

/// The algorithm's parts, and the bytes of the key.
fn parts(der: &[u8]) -> Option<(Reader<'_>, &[u8])> {
    let mut outer = Reader::new(der);
    let mut inner = outer.inside(SEQUENCE)?;
    let (algorithm, bits) = (inner.inside(SEQUENCE)?, inner.expect(BIT_STRING)?);
    let (unused, key) = bits.content.split_first()?;
    (outer.is_at_end() && inner.is_at_end() && *unused == 0).then_some((algorithm, key))
}

/// The content of the value of this tag that is all that is left.
fn only(mut rest: Reader<'_>, tag: u8) -> Option<&[u8]> {
    let one = rest.expect(tag)?;
    rest.is_at_end().then_some(one.content)
}

fn rsa(key: &[u8]) -> Option<Spki<'_>> {
    let mut outer = Reader::new(key);
    let mut numbers = outer.inside(SEQUENCE)?;
    let (n, e) = (positive(numbers.expect(INTEGER)?.content)?, positive(numbers.expect(INTEGER)?.content)?);
    (outer.is_at_end() && numbers.is_at_end()).then_some(Spki::Rsa { n, e })
}

fn point<const N: usize>(key: &[u8]) -> Result<([u8; N], [u8; N]), KeyError> {
    let (form, both) = key.split_first().ok_or(WRONG)?;
    if *form != 4 {
        return Err(KeyError::Form("a compressed point"));
    }
    let (x, y) = both.split_at_checked(N).ok_or(WRONG)?;
    Ok((x.try_into().map_err(|_| WRONG)?, y.try_into().map_err(|_| WRONG)?))
}
