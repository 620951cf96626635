//! The little DER (X.690) that a public key's `SubjectPublicKeyInfo` needs: read strictly, nothing else understood.

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
const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const BIT_STRING: u8 = 0x03;
const INTEGER: u8 = 0x02;
const NULL: u8 = 0x05;

const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

/// Reads a `SubjectPublicKeyInfo` that is the whole of `der`.
pub(super) fn spki(der: &[u8]) -> Result<Spki<'_>, KeyError> {
    let (outer, rest) = take(der, SEQUENCE)?;
    end(rest)?;
    let (algorithm, key) = take(outer, SEQUENCE)?;
    let (bits, rest) = take(key, BIT_STRING)?;
    end(rest)?;
    let (unused, key) = bits.split_first().ok_or(WRONG)?;
    if *unused != 0 {
        return Err(WRONG);
    }
    let (oid, parameters) = take(algorithm, OID)?;
    match oid {
        ED25519 => {
            end(parameters)?;
            Ok(Spki::Ed25519(key.try_into().map_err(|_| WRONG)?))
        }
        EC => {
            let (curve, rest) = take(parameters, OID)?;
            end(rest)?;
            match curve {
                P256 => point(key).map(|(x, y)| Spki::P256(x, y)),
                P384 => point(key).map(|(x, y)| Spki::P384(x, y)),
                _ => Err(KeyError::Kind),
            }
        }
        RSA => {
            let (null, rest) = take(parameters, NULL)?;
            end(null)?;
            end(rest)?;
            rsa(key)
        }
        _ => Err(KeyError::Kind),
    }
}

fn rsa(key: &[u8]) -> Result<Spki<'_>, KeyError> {
    let (parts, rest) = take(key, SEQUENCE)?;
    end(rest)?;
    let (n, parts) = take(parts, INTEGER)?;
    let (e, parts) = take(parts, INTEGER)?;
    end(parts)?;
    Ok(Spki::Rsa { n: unsigned(n)?, e: unsigned(e)? })
}

fn point<const N: usize>(key: &[u8]) -> Result<([u8; N], [u8; N]), KeyError> {
    let (form, both) = key.split_first().ok_or(WRONG)?;
    if *form != 4 {
        return Err(KeyError::Form("a compressed point"));
    }
    let (x, y) = both.split_at_checked(N).ok_or(WRONG)?;
    Ok((x.try_into().map_err(|_| WRONG)?, y.try_into().map_err(|_| WRONG)?))
}

/// The magnitude of a positive INTEGER in its shortest form.
fn unsigned(integer: &[u8]) -> Result<&[u8], KeyError> {
    match integer {
        [0, rest @ ..] if rest.first().is_some_and(|b| *b >= 0x80) => Ok(rest),
        [first, ..] if (1..0x80).contains(first) => Ok(integer),
        _ => Err(WRONG),
    }
}

/// Takes one element: its content, and what follows it.
///
/// # Errors
/// `Form` if another stands there, or its length is not in its shortest form.
pub(crate) fn take(der: &[u8], tag: u8) -> Result<(&[u8], &[u8]), KeyError> {
    let (found, rest) = der.split_first().ok_or(WRONG)?;
    if *found != tag {
        return Err(WRONG);
    }
    let (length, rest) = match rest {
        [short @ 0..=0x7f, rest @ ..] => (usize::from(*short), rest),
        [0x81, long @ 0x80..=0xff, rest @ ..] => (usize::from(*long), rest),
        [0x82, high @ 1..=0xff, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
        _ => return Err(WRONG),
    };
    rest.split_at_checked(length).ok_or(WRONG)
}

pub(crate) fn end(rest: &[u8]) -> Result<(), KeyError> {
    if rest.is_empty() { Ok(()) } else { Err(WRONG) }
}
