//! Authenticator data (WebAuthn section 6.1): what the authenticator says under its signature.

use bailiwick_core::Digest;

use super::cbor::{self, Item};
use super::{ID_MAX, PIECE_MAX, PasskeyError, Site};

const UP: u8 = 0x01;
const UV: u8 = 0x04;
const BE: u8 = 0x08;
const BS: u8 = 0x10;
const AT: u8 = 0x40;
const ED: u8 = 0x80;

/// What an authenticator says.
#[derive(Debug)]
pub(super) struct Authenticator<'a> {
    site: [u8; 32],
    flags: u8,
    pub(super) counter: u32,
    /// The new credential: its id and its key. Only at a registration.
    pub(super) credential: Option<(&'a [u8], Item<'a>)>,
}

const CUT: PasskeyError = PasskeyError::Form("the authenticator data is cut off");

impl<'a> Authenticator<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, PasskeyError> {
        if bytes.len() > PIECE_MAX {
            return Err(PasskeyError::TooLong);
        }
        let (site, rest) = bytes.split_first_chunk::<32>().ok_or(CUT)?;
        let ([flags], rest) = rest.split_first_chunk::<1>().ok_or(CUT)?;
        let (counter, rest) = rest.split_first_chunk::<4>().ok_or(CUT)?;
        let (credential, rest) = if flags & AT == 0 { (None, rest) } else { credential(rest).map(|(c, rest)| (Some(c), rest))? };
        // Extensions are read so that nothing can follow them; none was asked for, and none is looked at.
        let rest = if flags & ED == 0 {
            rest
        } else {
            match cbor::first(rest)? {
                (Item::Map(_), rest) => rest,
                _ => return Err(PasskeyError::Form("extensions that are no map")),
            }
        };
        if !rest.is_empty() {
            return Err(PasskeyError::Form("something follows the authenticator data"));
        }
        //= webauthn-3#section-7.2
        // If the credential backup state [...] flag is set, verify that the BE bit is set as well.
        if flags & BS != 0 && flags & BE == 0 {
            return Err(PasskeyError::Flags);
        }
        Ok(Self { site: *site, flags: *flags, counter: u32::from_be_bytes(*counter), credential })
    }

    /// Checks what both ceremonies check.
    pub(super) fn check(&self, site: &Site, user_verified: bool) -> Result<(), PasskeyError> {
        //= webauthn-3#section-7.2
        // Verify that the rpIdHash in authData is the SHA-256 hash of the RP ID expected by the Relying Party.
        if self.site != *Digest::of(site.id.as_bytes()).as_bytes() {
            return Err(PasskeyError::RelyingParty);
        }
        //= webauthn-3#section-7.2
        // Verify that the UP bit of the flags in authData is set.
        if self.flags & UP == 0 {
            return Err(PasskeyError::NotPresent);
        }
        //= webauthn-3#section-7.2
        // If options.userVerification is set to required, verify that the UV bit of the flags in authData is set.
        if user_verified && self.flags & UV == 0 {
            return Err(PasskeyError::NotVerified);
        }
        Ok(())
    }

    pub(super) const fn can_be_copied(&self) -> bool {
        self.flags & BE != 0
    }

    pub(super) const fn is_copied(&self) -> bool {
        self.flags & BS != 0
    }
}

#[expect(clippy::type_complexity, reason = "id and key, and what follows")]
fn credential(bytes: &[u8]) -> Result<((&[u8], Item<'_>), &[u8]), PasskeyError> {
    let (_aaguid, rest) = bytes.split_first_chunk::<16>().ok_or(CUT)?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(CUT)?;
    let (id, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(CUT)?;
    //= webauthn-3#section-7.1
    // Verify that the credentialId is <= 1023 bytes. Credential IDs larger than this many bytes SHOULD cause the RP to fail this
    // registration ceremony. A credential id has at least 16 bytes (section 4).
    if id.len() < 16 || id.len() > ID_MAX {
        return Err(PasskeyError::Form("the credential's id is too short or too long"));
    }
    let (key, rest) = cbor::first(rest)?;
    Ok(((id, key), rest))
}
