//! A passkey that is used (WebAuthn section 7.2).

use super::authenticator::Authenticator;
use super::client::{self, Ceremony};
use super::{Challenge, Passkey, PasskeyError, Site, key};

/// What `navigator.credentials.get` gave, as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// The credential's id.
    pub id: Vec<u8>,
    /// The authenticator data.
    pub authenticator_data: Vec<u8>,
    /// The client data.
    pub client_data: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
    /// The user's handle, if the authenticator gave one.
    pub user_handle: Option<Vec<u8>>,
}

/// What a use of a passkey showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Used {
    /// Its counter, to be remembered.
    pub counter: u32,
}

/// Verifies an assertion by a passkey that was found by its id. `user` is the handle of the person whose passkey it is. The user must
/// have been verified by the authenticator.
///
/// # Errors
/// The first rule that it breaks; nothing is proved then.
pub fn verify(assertion: &Assertion, passkey: &Passkey, user: &[u8], challenge: &Challenge, site: &Site) -> Result<Used, PasskeyError> {
    //= webauthn-3#section-7.2
    // Identify the user being authenticated and let credentialRecord be the credential record for the credential [...] If
    // response.userHandle is present, verify that it equals the user handle of the user account.
    if assertion.id != passkey.id {
        return Err(PasskeyError::Credential);
    }
    if assertion.user_handle.as_ref().is_some_and(|handle| handle != user) {
        return Err(PasskeyError::User);
    }
    let counter = verify_signature(assertion, passkey, challenge, site)?;
    //= webauthn-3#section-7.2
    // If authData.signCount is nonzero or credentialRecord.signCount is nonzero [...] less than or equal to
    // credentialRecord.signCount: This is a signal, but not proof, that the authenticator may be cloned. We refuse.
    if (counter != 0 || passkey.counter != 0) && counter <= passkey.counter {
        return Err(PasskeyError::Counter);
    }
    Ok(Used { counter })
}

/// All that does not depend on what the broker remembered: a stranger who reads the ledger can check the same.
pub(super) fn verify_signature(assertion: &Assertion, passkey: &Passkey, challenge: &Challenge, site: &Site) -> Result<u32, PasskeyError> {
    let client = client::check(&assertion.client_data, Ceremony::Get, challenge, site)?;
    let authenticator = Authenticator::parse(&assertion.authenticator_data)?;
    authenticator.check(site, true)?;
    if authenticator.credential.is_some() {
        return Err(PasskeyError::Form("a credential in an assertion"));
    }
    //= webauthn-3#section-7.2
    // Compare currentBe and currentBs with the credentialRecord: [...] If credentialRecord.backupEligible is set, verify that
    // currentBe is set. If it is not set, verify that currentBe is not set.
    if authenticator.can_be_copied() != passkey.can_be_copied {
        return Err(PasskeyError::Flags);
    }
    //= webauthn-3#section-7.2
    // Using credentialRecord.publicKey, verify that sig is a valid signature over the binary concatenation of authData and hash.
    let message = [assertion.authenticator_data.as_slice(), client.as_bytes()].concat();
    key::verify(&passkey.key, &message, &assertion.signature)?;
    Ok(authenticator.counter)
}
