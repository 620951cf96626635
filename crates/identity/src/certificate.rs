//! A client's certificate as the TLS layer hands it over (RFC 5280), as far as identity needs it: thumbprint, key, time, and the SPIFFE ID of
//! an X.509-SVID. Whether its chain leads to a root that we trust is the TLS layer's to say, before anything here is believed.

use std::fmt;
use std::time::Duration;

use bailiwick_core::der::{BIT_STRING, INTEGER, Reader, SEQUENCE, read_time};
use bailiwick_core::{Digest, SpiffeId, Timestamp};

use crate::confirmation::Confirmation;
use crate::keys::PublicKey;
use crate::spiffe::{X509Fault, read_x509};

/// The longest certificate that is looked at, in bytes.
pub const CERTIFICATE_MAX: usize = 16 * 1024;

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
        let (not_before, not_after, spki) = fields(der).ok_or(CertificateError::Form)?;
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

/// Validity and the whole `SubjectPublicKeyInfo` of a certificate (RFC 5280 section 4.1).
fn fields(der: &[u8]) -> Option<(Timestamp, Timestamp, &[u8])> {
    let mut outer = Reader::new(der);
    let mut whole = outer.inside(SEQUENCE)?;
    let mut body = whole.inside(SEQUENCE)?;
    whole.expect(SEQUENCE)?;
    whole.expect(BIT_STRING)?;
    //= rfc5280#section-4.1.2.1
    // When extensions are used, as expected in this profile, version MUST be 3 (value is 2).
    let version = body.expect(VERSION)?.content;
    if !outer.is_at_end() || !whole.is_at_end() || version != [INTEGER, 1, 2] {
        return None;
    }
    let (_serial, _algorithm, _issuer) = (body.expect(INTEGER)?, body.expect(SEQUENCE)?, body.expect(SEQUENCE)?);
    let mut validity = body.inside(SEQUENCE)?;
    let (not_before, not_after) = (read_time(&validity.next()?)?, read_time(&validity.next()?)?);
    let (_subject, spki) = (body.expect(SEQUENCE)?, body.expect(SEQUENCE)?.whole);
    validity.is_at_end().then_some((not_before, not_after, spki))
}

#[cfg(test)]
mod tests;
