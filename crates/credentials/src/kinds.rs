//! The kinds of credentials, one file each. Each implements [`Kind`](crate::lease::Kind) against the real protocol of its system.

pub mod aws_sts;
pub mod checkout;
pub(crate) mod connection;
mod finding;
pub mod github_app;
pub mod kubernetes;
pub mod mariadb;
pub mod mtls;
pub mod nats;
pub mod oauth2;
pub mod postgresql;
pub mod rabbitmq;
pub mod redis;
pub mod signing;
pub mod ssh;
pub mod static_key;
pub mod web;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::Secret;
use crate::lease::{Ending, Evidence, Step, TargetCode, TargetError};

/// A password of 256 random bits: 43 letters, digits, `-` and `_`, which no system has to quote.
fn random_password() -> Result<Secret, TargetError> {
    let mut bytes = Zeroizing::new([0; 32]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| TargetError::new(TargetCode::Internal, Step::Mint, "", "no randomness is available"))?;
    let mut text = Zeroizing::new(vec![0; 43]);
    let written = URL_SAFE_NO_PAD.encode_slice(bytes.as_slice(), &mut text).unwrap_or(0);
    if written == text.len() { Ok(Secret::from(text)) } else { Err(TargetError::new(TargetCode::Internal, Step::Mint, "", "a password was cut")) }
}

/// What was proposed; accounts of most kinds cannot be made without.
fn proposed(secret: Option<&Secret>) -> Result<&Secret, TargetError> {
    secret.ok_or_else(|| TargetError::new(TargetCode::Plan, Step::Mint, "", "an account needs the secret that was proposed"))
}

/// What was seen on several nodes, one after the other.
fn together(seen: impl IntoIterator<Item = Evidence>) -> Evidence {
    let mut all = Evidence::default();
    for tried in seen.into_iter().flat_map(|evidence| evidence.tried().to_vec()) {
        all.saw(&tried.node, tried.step, tried.at, &tried.saw, None);
    }
    all
}

/// The ending of an account that is gone from every node: verified, unless there is a reason to doubt it.
fn revoked(doubts: &[String], evidence: Evidence) -> Ending {
    if doubts.is_empty() { Ending::RevokedVerified { evidence } } else { Ending::RevokedUnverified { why: doubts.join("; "), evidence } }
}

/// The doubt of an ending whose login could not be tried.
const NO_SECRET: &str = "its secret is not known, so that a login could not be tried";
