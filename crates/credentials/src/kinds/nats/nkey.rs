//! Keys of NATS: Ed25519, written in base 32 with a letter that says whose they are and a checksum.

use aws_lc_rs::rand;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::Secret;
use crate::lease::{Step, TargetCode, TargetError};

const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const SEED: u8 = 18 << 3;

/// Whose key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Operator,
    Account,
    User,
}

impl Role {
    const fn byte(self) -> u8 {
        match self {
            Self::Operator => 14 << 3,
            Self::Account => 0,
            Self::User => 20 << 3,
        }
    }
}

/// A key that signs.
pub(crate) struct Key {
    pair: Ed25519KeyPair,
    role: Role,
}

impl Key {
    /// From its seed, such as `SUA..`.
    pub(crate) fn from_seed(text: &[u8], role: Role) -> Option<Self> {
        let bytes = decode(text.trim_ascii())?;
        let ([first, second], seed) = bytes.split_first_chunk::<2>()?;
        if (first & 0xf8, (first & 7) << 5 | second >> 3) != (SEED, role.byte()) || seed.len() != 32 {
            return None;
        }
        Some(Self { pair: Ed25519KeyPair::from_seed_unchecked(seed).ok()?, role })
    }

    /// Its public half, such as `UA..`.
    pub(super) fn public(&self) -> String {
        let mut bytes = vec![self.role.byte()];
        bytes.extend_from_slice(self.pair.public_key().as_ref());
        String::from_utf8_lossy(&encode(&bytes)).into_owned()
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }
}

/// A fresh seed of a user.
pub(super) fn fresh_seed() -> Result<Secret, TargetError> {
    let mut bytes = Zeroizing::new([0; 34]);
    if let Some((head, seed)) = bytes.split_first_chunk_mut::<2>() {
        *head = [SEED | Role::User.byte() >> 5, Role::User.byte() << 3];
        rand::fill(seed).map_err(|_| TargetError::new(TargetCode::Internal, Step::Mint, "", "no randomness is available"))?;
    }
    Ok(Secret::from(encode(bytes.as_slice())))
}

/// The 32 bytes of a public key of this role.
pub(super) fn public(text: &str, role: Role) -> Option<[u8; 32]> {
    let bytes = decode(text.as_bytes())?;
    let (first, key) = bytes.split_first()?;
    if *first == role.byte() { key.try_into().ok() } else { None }
}

/// Did the holder of the public key sign it?
pub(super) fn verify(public: &[u8; 32], bytes: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(bytes, signature).is_ok()
}

/// The bytes and their checksum in base 32 (RFC 4648 section 6) without padding.
fn encode(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(64));
    let (mut held, mut bits) = (0_u32, 0_u32);
    for byte in bytes.iter().copied().chain(crc16(bytes).to_le_bytes()) {
        held = (held << 8 | u32::from(byte)) & 0xffff;
        bits = bits.saturating_add(8);
        while bits >= 5 {
            bits = bits.saturating_sub(5);
            text.push(digit(held >> bits));
        }
    }
    if bits > 0 {
        text.push(digit(held << (5_u32.saturating_sub(bits))));
    }
    text
}

fn digit(value: u32) -> u8 {
    usize::try_from(value & 31).ok().and_then(|at| DIGITS.get(at)).copied().unwrap_or(b'A')
}

/// The bytes, if the text is canonical and its checksum is right.
fn decode(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if text.len() > 64 {
        return None;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(64));
    let (mut held, mut bits) = (0_u32, 0_u32);
    for letter in text {
        let value = u32::try_from(DIGITS.iter().position(|digit| digit == letter)?).ok()?;
        held = (held << 5 | value) & 0xffff;
        bits = bits.saturating_add(5);
        if bits >= 8 {
            bits = bits.saturating_sub(8);
            bytes.push(u8::try_from((held >> bits) & 0xff).ok()?);
        }
    }
    let sum = [bytes.len().checked_sub(2).and_then(|at| bytes.get(at)).copied()?, bytes.last().copied()?];
    let length = bytes.len().saturating_sub(2);
    bytes.truncate(length);
    (u16::from_le_bytes(sum) == crc16(&bytes) && encode(&bytes).as_slice() == text).then_some(bytes)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |mut sum, byte| {
        sum ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            sum = if sum & 0x8000 == 0 { sum << 1 } else { sum << 1 ^ 0x1021 };
        }
        sum
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_checksum_is_that_of_xmodem() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn a_published_seed_gives_its_published_key() {
        // The pair of the documentation of NATS ("NKeys"); computed again by another implementation.
        let seed = b"SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
        let key = Key::from_seed(seed, Role::User).unwrap();
        assert_eq!(key.public(), "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4");
        let bytes = public(&key.public(), Role::User).unwrap();
        assert!(verify(&bytes, b"nonce", &key.sign(b"nonce")));
        assert!(!verify(&bytes, b"other", &key.sign(b"nonce")));
        assert!(Key::from_seed(seed, Role::Account).is_none());
        assert!(public(&key.public(), Role::Account).is_none());
    }

    #[test]
    fn a_fresh_seed_is_one_of_a_user_and_no_two_are_one() {
        let (one, two) = (fresh_seed().unwrap(), fresh_seed().unwrap());
        assert!(one.expose().starts_with(b"SU") && one.expose().len() == 58);
        assert_ne!(Key::from_seed(one.expose(), Role::User).unwrap().public(), Key::from_seed(two.expose(), Role::User).unwrap().public());
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_one_wrong_letter_is_not(bytes in proptest::collection::vec(any::<u8>(), 0..36), at in 0..60_usize, to in 0..32_usize) {
            let text = encode(&bytes);
            let read = decode(&text).unwrap();
            prop_assert_eq!(read.as_slice(), bytes.as_slice());
            let mut wrong = text.to_vec();
            let at = at % wrong.len();
            if wrong[at] != DIGITS[to] {
                wrong[at] = DIGITS[to];
                prop_assert!(decode(&wrong).is_none());
            }
        }
    }
}
