//! The kinds of credentials, one file each. Each implements [`Kind`](crate::lease::Kind) against the real protocol of its system.

mod connection;
pub mod mariadb;
pub mod nats;
pub mod postgresql;
pub mod rabbitmq;
pub mod redis;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::Secret;
use crate::lease::{Step, TargetCode, TargetError};

/// A password of 256 random bits: 43 letters, digits, `-` and `_`, which no system has to quote.
fn random_password() -> Result<Secret, TargetError> {
    let mut bytes = Zeroizing::new([0; 32]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| TargetError::new(TargetCode::Internal, Step::Mint, "", "no randomness is available"))?;
    let mut text = Zeroizing::new(vec![0; 43]);
    let written = URL_SAFE_NO_PAD.encode_slice(bytes.as_slice(), &mut text).unwrap_or(0);
    if written == text.len() { Ok(Secret::from(text)) } else { Err(TargetError::new(TargetCode::Internal, Step::Mint, "", "a password was cut")) }
}
