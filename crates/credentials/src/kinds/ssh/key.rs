//! Ed25519 keys of SSH in OpenSSH's own file format, unencrypted: the authority's key, and the key of each lease.

use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::wire::{Reader, put_string, put_u32};
use crate::Secret;
use crate::lease::{Step, TargetCode, TargetError};

pub(super) const ALGORITHM: &[u8] = b"ssh-ed25519";
const BEGIN: &[u8] = b"-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &[u8] = b"-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// A file of such a key has about 400 bytes.
const FILE_MAX: usize = 16 * 1024;
const LINE: usize = 70;

/// A key that signs. It cannot be shown.
pub(crate) struct Key {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl Key {
    /// From 32 random bytes.
    pub(super) fn from_seed(seed: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let public = pair.public_key().as_ref().first_chunk().copied()?;
        Some(Self { pair, public })
    }

    /// From the text of a file that `ssh-keygen -t ed25519 -N ''` wrote. What comes after it is not looked at.
    pub(crate) fn from_file(text: &[u8]) -> Option<Self> {
        let bytes = decode(text)?;
        let mut file = Reader(&bytes);
        if file.take(MAGIC.len())? != MAGIC
            || file.string()? != b"none"
            || file.string()? != b"none"
            || !file.string()?.is_empty()
            || file.u32()? != 1
        {
            return None;
        }
        file.string()?;
        let mut private = Reader(file.string()?);
        if private.u32()? != private.u32()? || private.string()? != ALGORITHM {
            return None;
        }
        let public = private.string()?;
        let seed = private.string()?.get(..32)?;
        // Whoever signs with one key and shows another gives the first away.
        Self::from_seed(seed).filter(|key| key.public == public)
    }

    /// The 32 bytes of the public key.
    pub(super) const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The public key as SSH sends it.
    pub(super) fn blob(&self) -> Vec<u8> {
        blob(&self.public)
    }

    /// `ssh-ed25519 AAAA..`
    pub(super) fn public_line(&self) -> String {
        format!("ssh-ed25519 {}", STANDARD.encode(self.blob()))
    }

    /// A signature as SSH sends it.
    pub(super) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, ALGORITHM);
        put_string(&mut out, self.pair.sign(bytes).as_ref());
        out
    }
}

fn blob(public: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, ALGORITHM);
    put_string(&mut out, public);
    out
}

/// A fresh key, as the text of a file that every client of SSH reads.
pub(super) fn fresh() -> Result<Secret, TargetError> {
    let failed = || TargetError::new(TargetCode::Internal, Step::Mint, "", "no randomness is available");
    let mut seed = Zeroizing::new([0; 32]);
    rand::fill(seed.as_mut_slice()).map_err(|_| failed())?;
    let key = Key::from_seed(seed.as_slice()).ok_or_else(failed)?;
    Ok(Secret::from(encode(&key, &seed)))
}

fn encode(key: &Key, seed: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    // Room for everything at once, so that no copy of the seed is left behind.
    let mut private = Zeroizing::new(Vec::with_capacity(256));
    put_u32(&mut private, 0x6261_696c);
    put_u32(&mut private, 0x6261_696c);
    put_string(&mut private, ALGORITHM);
    put_string(&mut private, &key.public);
    put_u32(&mut private, 64);
    private.extend_from_slice(seed);
    private.extend_from_slice(&key.public);
    put_string(&mut private, b"bailiwick");
    (1_u8..).take((8 - private.len() % 8) % 8).for_each(|byte| private.push(byte));
    let mut file = Zeroizing::new(Vec::with_capacity(512));
    file.extend_from_slice(MAGIC);
    put_string(&mut file, b"none");
    put_string(&mut file, b"none");
    put_string(&mut file, b"");
    put_u32(&mut file, 1);
    put_string(&mut file, &key.blob());
    put_string(&mut file, &private);
    let mut digits = Zeroizing::new(vec![0; file.len().div_ceil(3) * 4]);
    let written = STANDARD.encode_slice(file.as_slice(), &mut digits).unwrap_or(0);
    let mut text = Zeroizing::new(Vec::with_capacity(1024));
    text.extend_from_slice(BEGIN);
    for line in digits.get(..written).unwrap_or_default().chunks(LINE) {
        text.push(b'\n');
        text.extend_from_slice(line);
    }
    text.push(b'\n');
    text.extend_from_slice(END);
    text.push(b'\n');
    text
}

fn decode(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if text.len() > FILE_MAX {
        return None;
    }
    let begin = text.windows(BEGIN.len()).position(|window| window == BEGIN)?;
    let text = text.get(begin.checked_add(BEGIN.len())?..)?;
    let end = text.windows(END.len()).position(|window| window == END)?;
    let digits: Zeroizing<Vec<u8>> = Zeroizing::new(text.get(..end)?.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect());
    let mut bytes = Zeroizing::new(vec![0; digits.len()]);
    let length = STANDARD.decode_slice(digits.as_slice(), &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_as_a_file_and_read_back() {
        let secret = fresh().unwrap();
        let key = Key::from_file(secret.expose()).unwrap();
        let again = Key::from_file(secret.expose()).unwrap();
        assert_eq!(key.public_line(), again.public_line());
        assert_ne!(key.public_line(), Key::from_file(fresh().unwrap().expose()).unwrap().public_line());
    }

    #[test]
    fn a_key_that_is_encrypted_cut_or_of_two_halves_is_refused() {
        let secret = fresh().unwrap();
        let text = secret.expose();
        assert!(Key::from_file(&text[..text.len() - 40]).is_none());
        assert!(Key::from_file(b"").is_none());
        let mut file = decode(text).unwrap();
        let first = file.windows(4).position(|window| window == b"none").unwrap();
        let damaged = |at: usize| {
            let mut file = file.clone();
            file[at] ^= 1;
            let mut out = BEGIN.to_vec();
            out.extend_from_slice(STANDARD.encode(file.as_slice()).as_bytes());
            out.extend_from_slice(END);
            Key::from_file(&out).is_none()
        };
        assert!(damaged(first), "a cipher that is not `none`");
        assert!(damaged(file.len() - 80), "a seed that is not the public key's");
        file.truncate(60);
        assert!(decode(text).is_some());
    }
}
