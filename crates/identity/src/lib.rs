//! Who calls: proofs of workloads, task tokens, OAuth server logic. Never reads policy or stored secrets.
//!
//! Every proof is bytes of a stranger until a `verify` function of this room turned it into a value of [`bailiwick_core`]'s
//! types. What cannot be verified is refused; a refusal says why to the log and only "not valid" to the stranger. There is no
//! I/O, no clock and no memory here: what must be remembered (a `jti` that was used, a key that was revoked) is said beside
//! each function, and its caller remembers it.
#![deny(missing_docs)]

pub mod access_request;
pub mod assertion;
pub mod certificate;
mod confirmation;
pub mod dpop;
pub mod enrolment;
#[cfg(test)]
mod every_kind;
pub mod foreign;
mod jws;
pub mod keys;
pub mod oauth;
pub mod passkey;
pub mod person;
pub mod proof;
pub mod secevent;
pub mod sightings;
pub mod sign_in;
pub mod spiffe;
mod strict;
pub mod token;

pub use confirmation::Confirmation;
pub use keys::{Algorithm, KeyError, KeyId, PublicKey, SigningKey, jwks};
pub use proof::{Proof, ProofError};
pub use sightings::{Place, Sightings, TwoPlaces};
pub use token::{Issuer, Verified, Verifier};
