//! Is a token presented by the one to whom it is bound? (RFC 9449 section 7, RFC 8705 section 3)

use bailiwick_core::ErrorCode;
use bailiwick_identity::Verified;

use super::{NotAuthenticated, Presented};
use crate::house::House;

impl House {
    /// Refuses a token that is bound to a key which the request does not prove.
    pub(super) fn bound(&self, verified: &Verified, _presented: &Presented<'_>) -> Result<(), NotAuthenticated> {
        match verified.confirmation {
            None => Ok(()),
            Some(_) => {
                tracing::info!(error.code = %ErrorCode::ProofInvalid, "a bound token was presented without its key");
                Err(NotAuthenticated { code: ErrorCode::ProofInvalid })
            }
        }
    }
}
