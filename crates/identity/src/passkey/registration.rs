//! A new passkey (WebAuthn section 7.1).

use super::authenticator::Authenticator;
use super::cbor::{self, Item};
use super::client::{self, Ceremony};
use super::{Challenge, PIECE_MAX, Passkey, PasskeyError, Site, key};

/// A passkey that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registered {
    /// It, to be remembered. The caller refuses one whose id is known already, whoever's it is.
    pub passkey: Passkey,
    /// Is it already on several devices, or in a safe place (`BS`)?
    pub is_copied: bool,
}

/// Verifies what `navigator.credentials.create` gave: the attestation object and the client data, as bytes. The user must have been
/// verified by the authenticator.
///
/// # Errors
/// The first rule that it breaks; nothing is registered then.
pub fn register(attestation_object: &[u8], client_data: &[u8], challenge: &Challenge, site: &Site) -> Result<Registered, PasskeyError> {
    client::check(client_data, Ceremony::Create, challenge, site)?;
    if attestation_object.len() > PIECE_MAX {
        return Err(PasskeyError::TooLong);
    }
    let object = cbor::whole(attestation_object)?;
    let member = |name| object.member(&Item::Text(name));
    //= webauthn-3#section-7.1
    // Perform CBOR decoding on the attestationObject field [...] to obtain the attestation statement format fmt, the authenticator
    // data authData, and the attestation statement attStmt.
    let format = member("fmt").and_then(Item::text).ok_or(PasskeyError::Form("no attestation format"))?;
    let Some(Item::Map(statement)) = member("attStmt") else { return Err(PasskeyError::Form("no attestation statement")) };
    //= webauthn-3#section-8.7
    // $$attStmtType //= ( fmt: "none", attStmt: emptyMap )
    if format == "none" && !statement.is_empty() {
        return Err(PasskeyError::Form("a statement where there is none"));
    }
    let authenticator = Authenticator::parse(member("authData").and_then(Item::bytes).ok_or(PasskeyError::Form("no authenticator data"))?)?;
    authenticator.check(site, true)?;
    let Some((id, cose)) = &authenticator.credential else { return Err(PasskeyError::Form("no credential in a registration")) };
    //= webauthn-3#section-7.1
    // Verify that the "alg" parameter in the credential public key in authData matches the alg attribute of one of the items in
    // pkOptions.pubKeyCredParams.
    let key = key::key(cose)?;
    let passkey = Passkey { id: id.to_vec(), key, counter: authenticator.counter, can_be_copied: authenticator.can_be_copied() };
    Ok(Registered { passkey, is_copied: authenticator.is_copied() })
}
