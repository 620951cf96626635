//! A client's certificate as the TLS layer hands it over (RFC 5280), as far as identity needs it: thumbprint, key, time, and the SPIFFE ID of
//! an X.509-SVID. Whether its chain leads to a root that we trust is the TLS layer's to say, before anything here is believed.

use std::fmt;
use std::time::Duration;

use bailiwick_core::{Digest, SpiffeId, Timestamp};

use crate::confirmation::Confirmation;
use crate::keys::PublicKey;
use crate::keys::der::{end, take};
use crate::spiffe::{X509Fault, read_x509};

/// The longest certificate that is looked at, in bytes.
pub const CERTIFICATE_MAX: usize = 16 * 1024;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

/// Why a certificate is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Not a certificate of version 3 in DER, or too long.
    #[error("the certificate is malformed")]
    Form,
    /// Its time has not come, or is over.
    #[error("the certificate is not valid at this time")]
    Time,
}

/// What a certificate says. The holder of its key proves it in the TLS handshake.
#[derive(Clone)]
pub struct Certificate {
    thumbprint: Digest,
    key: Option<PublicKey>,
    not_before: Timestamp,
    not_after: Timestamp,
    svid: Result<SpiffeId, X509Fault>,
}

impl Certificate {
    /// Reads a certificate that is the whole of `der`.
    ///
    /// # Errors
    /// `Form`.
    pub fn read(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > CERTIFICATE_MAX {
            return Err(CertificateError::Form);
        }
        let (not_before, not_after, spki) = fields(der)?;
        Ok(Self {
            thumbprint: Digest::of(der),
            // A kind of key that we do not take elsewhere can still be proved in TLS; it is nobody's registered key.
            key: PublicKey::from_spki(spki).ok(),
            not_before,
            not_after,
            svid: read_x509(der).map(|facts| facts.id),
        })
    }

    /// The SHA-256 of its DER: `x5t#S256`.
    #[must_use]
    pub const fn thumbprint(&self) -> Digest {
        self.thumbprint
    }

    /// What a token is bound to that is issued over a connection with this certificate (RFC 8705 section 3.1).
    #[must_use]
    pub const fn confirmation(&self) -> Confirmation {
        Confirmation::Certificate(self.thumbprint)
    }

    /// Its public key, if it is of a kind that agents can register.
    #[must_use]
    pub const fn key(&self) -> Option<&PublicKey> {
        self.key.as_ref()
    }

    /// The SPIFFE ID, if it is an X.509-SVID that may serve to authenticate its holder.
    ///
    /// # Errors
    /// The rule of X.509-SVIDs that it breaks.
    pub const fn spiffe_id(&self) -> Result<&SpiffeId, X509Fault> {
        match &self.svid {
            Ok(id) => Ok(id),
            Err(fault) => Err(*fault),
        }
    }

    /// Is it valid now? A connection may outlive its certificate, so this is asked for each request.
    ///
    /// # Errors
    /// `Time`.
    pub fn check_time(&self, now: Timestamp) -> Result<(), CertificateError> {
        //= rfc5280#section-4.1.2.5
        // The certificate validity period is the time interval during which the CA warrants that it will maintain information about the
        // status of the certificate [...] the period of time from notBefore through notAfter, inclusive.
        if now < self.not_before || now >= self.not_after.plus(Duration::from_secs(1)) {
            return Err(CertificateError::Time);
        }
        Ok(())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("thumbprint", &self.thumbprint).field("svid", &self.svid).finish_non_exhaustive()
    }
}

fn element(der: &[u8], tag: u8) -> Result<(&[u8], &[u8]), CertificateError> {
    take(der, tag).map_err(|_| CertificateError::Form)
}

fn ended(rest: &[u8]) -> Result<(), CertificateError> {
    end(rest).map_err(|_| CertificateError::Form)
}

/// Validity and the whole `SubjectPublicKeyInfo` of a certificate (RFC 5280 section 4.1).
fn fields(der: &[u8]) -> Result<(Timestamp, Timestamp, &[u8]), CertificateError> {
    let (whole, rest) = element(der, SEQUENCE)?;
    ended(rest)?;
    let (tbs, rest) = element(whole, SEQUENCE)?;
    let (_, rest) = element(rest, SEQUENCE)?;
    let (_, rest) = element(rest, BIT_STRING)?;
    ended(rest)?;
    //= rfc5280#section-4.1.2.1
    // When extensions are used, as expected in this profile, version MUST be 3 (value is 2).
    let (version, rest) = element(tbs, VERSION)?;
    if version != [INTEGER, 1, 2] {
        return Err(CertificateError::Form);
    }
    let (_serial, rest) = element(rest, INTEGER)?;
    let (_algorithm, rest) = element(rest, SEQUENCE)?;
    let (_issuer, rest) = element(rest, SEQUENCE)?;
    let (validity, rest) = element(rest, SEQUENCE)?;
    let (_subject, at_key) = element(rest, SEQUENCE)?;
    let (_, rest) = element(at_key, SEQUENCE)?;
    let spki = at_key.get(..at_key.len().saturating_sub(rest.len())).ok_or(CertificateError::Form)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, rest) = time(rest)?;
    ended(rest)?;
    Ok((not_before, not_after, spki))
}

//= rfc5280#section-4.1.2.5
// CAs conforming to this profile MUST always encode certificate validity dates through the year 2049 as UTCTime; certificate validity dates
// in 2050 or later MUST be encoded as GeneralizedTime.
fn time(der: &[u8]) -> Result<(Timestamp, &[u8]), CertificateError> {
    const WRONG: CertificateError = CertificateError::Form;
    let generalized = der.first() == Some(&GENERALIZED_TIME);
    let (text, rest) = element(der, if generalized { GENERALIZED_TIME } else { UTC_TIME })?;
    let text = std::str::from_utf8(text).map_err(|_| WRONG)?;
    let digits = text.strip_suffix('Z').filter(|t| t.bytes().all(|b| b.is_ascii_digit())).ok_or(WRONG)?;
    let (year, after) = digits.split_at_checked(if generalized { 4 } else { 2 }).filter(|(_, after)| after.len() == 10).ok_or(WRONG)?;
    let century = match (generalized, year.parse::<u8>()) {
        (true, _) => "",
        (false, Ok(50..)) => "19",
        (false, _) => "20",
    };
    let pair = |at: usize| after.get(at..at.saturating_add(2)).unwrap_or_default();
    let written = format!("{century}{year}-{}-{}T{}:{}:{}Z", pair(0), pair(2), pair(4), pair(6), pair(8));
    Ok((Timestamp::parse(&written).map_err(|_| WRONG)?, rest))
}

#[cfg(test)]
mod tests;
