//! The key exchange of SSH (RFC 4253, section 7 and 8; RFC 5656; RFC 8731): both sides agree on keys, and the host proves that it has one of the keys that
//! the configuration names. There is no first use that is trusted.

use aws_lc_rs::agreement::{self, ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{self, ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents};
use zeroize::Zeroizing;

use super::transport::{Cipher, Direction, Transport, Trouble};
use super::wire::{Reader, put_mpint, put_string, put_u32};

pub(super) const KEXINIT: u8 = 20;
const NEWKEYS: u8 = 21;
const ECDH_INIT: u8 = 30;
const ECDH_REPLY: u8 = 31;

const EXCHANGES: [(&str, &agreement::Algorithm); 3] =
    [("curve25519-sha256", &X25519), ("curve25519-sha256@libssh.org", &X25519), ("ecdh-sha2-nistp256", &ECDH_P256)];
/// Said once, at the beginning: we keep to the order of the messages (against the Terrapin attack, CVE-2023-48795).
const STRICT: &str = "kex-strict-c-v00@openssh.com";
/// A key of RSA with 8192 bits has a bit more than 1 KiB.
const HOST_KEY_MAX: usize = 4096;
const KEYS_MAX: usize = 16;

/// The public keys by which a host is known.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HostKeys(Vec<Vec<u8>>);

impl HostKeys {
    /// From lines such as `ssh-ed25519 AAAA..`, as the host's `/etc/ssh/ssh_host_*_key.pub` have them.
    pub(super) fn parse(lines: &[String]) -> Option<Self> {
        use base64::Engine as _;
        let key = |line: &String| {
            let mut words = line.split_ascii_whitespace();
            let (kind, digits) = (words.next()?, words.next()?);
            let blob = base64::engine::general_purpose::STANDARD.decode(digits).ok().filter(|blob| blob.len() <= HOST_KEY_MAX)?;
            (Reader(&blob).text() == Some(kind) && !signatures_of(kind).is_empty()).then_some(blob)
        };
        let keys = lines.iter().map(key).collect::<Option<Vec<_>>>()?;
        ((1..=KEYS_MAX).contains(&keys.len())).then_some(Self(keys))
    }

    /// The signatures that the host can make with one of these keys: we ask for no other.
    fn signatures(&self) -> Vec<&'static str> {
        let kinds = self.0.iter().filter_map(|blob| Reader(blob).text());
        kinds.flat_map(signatures_of).copied().collect()
    }
}

fn signatures_of(kind: &str) -> &'static [&'static str] {
    match kind {
        "ssh-ed25519" => &["ssh-ed25519"],
        "ecdsa-sha2-nistp256" => &["ecdsa-sha2-nistp256"],
        "ssh-rsa" => &["rsa-sha2-512", "rsa-sha2-256"],
        _ => &[],
    }
}

/// What stays the same over a connection's life.
pub(super) struct Hello {
    pub(super) ours: &'static str,
    pub(super) theirs: Vec<u8>,
    pub(super) keys: HostKeys,
}

/// Agrees on keys. `offer` is the host's `KEXINIT`, if it came already; `session` the first exchange's hash, if there was one. Gives that hash.
pub(super) async fn exchange(transport: &mut Transport, hello: &Hello, offer: Option<Vec<u8>>, session: Option<&[u8]>) -> Result<Vec<u8>, Trouble> {
    let ours = our_offer(&hello.keys, session.is_none())?;
    transport.send(&ours).await?;
    let theirs = match offer {
        Some(theirs) => theirs,
        None => transport.receive().await?,
    };
    let choice = choose(&ours, &theirs)?;

    let failed = |_| Trouble::Malformed("no key could be made");
    let private = EphemeralPrivateKey::generate(choice.exchange, &SystemRandom::new()).map_err(failed)?;
    let public = private.compute_public_key().map_err(failed)?;
    let mut init = vec![ECDH_INIT];
    put_string(&mut init, public.as_ref());
    transport.send(&init).await?;
    let reply = transport.receive().await?;
    let (key, point, signature) = read_reply(&reply).ok_or(Trouble::Malformed("an answer that belongs to no key exchange"))?;
    if !hello.keys.0.iter().any(|known| known == key) {
        return Err(Trouble::Refused("it has another host key than the configuration names".to_owned()));
    }

    let peer = UnparsedPublicKey::new(choice.exchange, point);
    let bad_point = Trouble::Malformed("a point that is on no curve");
    let shared = agreement::agree_ephemeral(private, peer, bad_point, |shared| {
        let mut number = Zeroizing::new(Vec::with_capacity(64));
        put_mpint(&mut number, shared);
        Ok(number)
    })?;
    let mut all = Zeroizing::new(Vec::new());
    for part in [hello.ours.as_bytes(), &hello.theirs, &ours, &theirs, key, public.as_ref(), point] {
        put_string(&mut all, part);
    }
    all.extend_from_slice(&shared);
    let hash = digest::digest(&SHA256, &all).as_ref().to_vec();
    if !is_signed(&choice.signature, key, &hash, signature) {
        return Err(Trouble::Refused("it does not prove that it has the host key that it shows".to_owned()));
    }

    let session = session.unwrap_or(&hash);
    transport.send(&[NEWKEYS]).await?;
    let no_key = || Trouble::Malformed("no key could be made");
    let direction = |cipher: Cipher, iv: u8, key: u8| {
        let iv = derive(&shared, &hash, iv, session);
        Direction::new(cipher, &derive(&shared, &hash, key, session), iv.first_chunk()?)
    };
    transport.seal_with(direction(choice.sealing, b'A', b'C').ok_or_else(no_key)?);
    if transport.receive().await? != [NEWKEYS] {
        return Err(Trouble::Malformed("a key exchange without an end"));
    }
    transport.open_with(direction(choice.opening, b'B', b'D').ok_or_else(no_key)?);
    Ok(session.to_vec())
}

//= rfc4253#section-7.2: HASH(K || H || X || session_id); one hash is as long as our longest key
fn derive(shared: &[u8], hash: &[u8], letter: u8, session: &[u8]) -> Zeroizing<Vec<u8>> {
    let all = Zeroizing::new([shared, hash, &[letter], session].concat());
    Zeroizing::new(digest::digest(&SHA256, &all).as_ref().to_vec())
}

fn our_offer(keys: &HostKeys, first: bool) -> Result<Vec<u8>, Trouble> {
    let mut offer = vec![KEXINIT];
    let mut cookie = [0; 16];
    rand::fill(&mut cookie).map_err(|_| Trouble::Malformed("no randomness is available"))?;
    offer.extend_from_slice(&cookie);
    let mut exchanges: Vec<_> = EXCHANGES.iter().map(|(name, _)| *name).collect();
    if first {
        exchanges.push(STRICT);
    }
    let ciphers = Cipher::NAMES.map(|(name, _)| name).join(",");
    let macs = "hmac-sha2-256";
    for list in [&exchanges.join(","), &keys.signatures().join(","), &ciphers, &ciphers, macs, macs, "none", "none", "", ""] {
        put_string(&mut offer, list.as_bytes());
    }
    offer.push(0);
    put_u32(&mut offer, 0);
    Ok(offer)
}

#[derive(Debug)]
struct Choice {
    exchange: &'static agreement::Algorithm,
    signature: String,
    sealing: Cipher,
    opening: Cipher,
}

fn lists(offer: &[u8]) -> Option<(Vec<Vec<&str>>, bool)> {
    let mut reader = Reader(offer);
    if reader.byte()? != KEXINIT {
        return None;
    }
    reader.take(16)?;
    let lists = (0..10).map(|_| Some(reader.text()?.split(',').collect())).collect::<Option<_>>()?;
    Some((lists, reader.byte()? != 0))
}

//= rfc4253#section-7.1: the first of the client's that the server has too
fn choose(ours: &[u8], theirs: &[u8]) -> Result<Choice, Trouble> {
    let malformed = || Trouble::Malformed("an offer of algorithms that is none");
    let (ours, _) = lists(ours).ok_or_else(malformed)?;
    let (theirs, guessed) = lists(theirs).ok_or_else(malformed)?;
    if guessed {
        return Err(Trouble::Malformed("the host guesses which key exchange we want"));
    }
    let common = |list: usize| {
        let theirs = theirs.get(list)?;
        ours.get(list)?.iter().find(|name| **name != STRICT && theirs.contains(name)).copied()
    };
    let none = |what: &str| Trouble::Refused(format!("it offers none of our {what}"));
    let exchange = common(0).and_then(|name| EXCHANGES.iter().find(|(ours, _)| *ours == name)).ok_or_else(|| none("key exchanges"))?;
    let signature = common(1).ok_or_else(|| none("kinds of host keys: name another of its keys in the configuration"))?;
    let cipher = |list| common(list).and_then(|name| Cipher::NAMES.iter().find(|(ours, _)| *ours == name)).map(|(_, cipher)| *cipher);
    let (sealing, opening) = cipher(2).zip(cipher(3)).ok_or_else(|| none("ciphers (AES-GCM)"))?;
    if common(6).zip(common(7)).is_none() {
        return Err(none("compressions (none)"));
    }
    Ok(Choice { exchange: exchange.1, signature: signature.to_owned(), sealing, opening })
}

fn read_reply(reply: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut reader = Reader(reply);
    if reader.byte()? != ECDH_REPLY {
        return None;
    }
    let parts = (reader.string()?, reader.string()?, reader.string()?);
    reader.is_empty().then_some(parts)
}

/// Did the owner of the host key sign the hash, in the form that was agreed on?
fn is_signed(algorithm: &str, key: &[u8], hash: &[u8], signature: &[u8]) -> bool {
    verify(algorithm, key, hash, signature).is_some()
}

fn verify(algorithm: &str, key: &[u8], hash: &[u8], signature: &[u8]) -> Option<()> {
    let (mut key, mut signature) = (Reader(key), Reader(signature));
    let kind = key.text()?;
    if signature.text()? != algorithm || !signatures_of(kind).contains(&algorithm) {
        return None;
    }
    let signature = signature.string()?;
    match algorithm {
        "ssh-ed25519" => signature::UnparsedPublicKey::new(&ED25519, key.string()?).verify(hash, signature).ok(),
        "ecdsa-sha2-nistp256" => {
            if key.text()? != "nistp256" {
                return None;
            }
            let mut numbers = Reader(signature);
            let fixed = [fixed_32(numbers.string()?)?, fixed_32(numbers.string()?)?].concat();
            signature::UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.string()?).verify(hash, &fixed).ok()
        }
        _ => {
            let (e, n) = (unsigned(key.string()?), unsigned(key.string()?));
            let parameters = if algorithm == "rsa-sha2-512" { &RSA_PKCS1_2048_8192_SHA512 } else { &RSA_PKCS1_2048_8192_SHA256 };
            RsaPublicKeyComponents { n, e }.verify(parameters, hash, signature).ok()
        }
    }
}

fn unsigned(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

fn fixed_32(number: &[u8]) -> Option<[u8; 32]> {
    let digits = unsigned(number);
    let mut fixed = [0; 32];
    let start = fixed.len().checked_sub(digits.len())?;
    fixed.get_mut(start..)?.copy_from_slice(digits);
    Some(fixed)
}

#[cfg(test)]
pub(super) mod fake;

#[cfg(test)]
mod tests {
    use super::super::key::{Key, fresh};
    use super::*;

    fn keys() -> HostKeys {
        let key = Key::from_file(fresh().unwrap().expose()).unwrap();
        HostKeys::parse(&[key.public_line()]).unwrap()
    }

    fn offer(exchanges: &str, ciphers: &str, guessed: bool) -> Vec<u8> {
        let mut offer = vec![KEXINIT];
        offer.extend_from_slice(&[0; 16]);
        for list in [exchanges, "ssh-ed25519", ciphers, ciphers, "", "", "none", "none", "", ""] {
            put_string(&mut offer, list.as_bytes());
        }
        offer.push(u8::from(guessed));
        put_u32(&mut offer, 0);
        offer
    }

    #[test]
    fn the_first_of_ours_that_the_host_has_is_chosen_and_nothing_weak_is() {
        let ours = our_offer(&keys(), true).unwrap();
        let choice = choose(
            &ours,
            &offer("diffie-hellman-group1-sha1,ecdh-sha2-nistp256,curve25519-sha256", "aes128-gcm@openssh.com,aes256-gcm@openssh.com", false),
        );
        let choice = choice.unwrap();
        assert_eq!((choice.sealing, choice.opening, choice.signature.as_str()), (Cipher::Aes256Gcm, Cipher::Aes256Gcm, "ssh-ed25519"));
        assert!(choose(&ours, &offer("diffie-hellman-group14-sha1", "aes256-gcm@openssh.com", false)).is_err());
        assert!(choose(&ours, &offer("curve25519-sha256", "3des-cbc,chacha20-poly1305@openssh.com", false)).is_err());
        assert!(choose(&ours, &offer("curve25519-sha256", "aes256-gcm@openssh.com", true)).is_err());
        assert!(choose(&ours, &offer(STRICT, "aes256-gcm@openssh.com", false)).is_err(), "a mark is no key exchange");
        assert!(choose(&ours, &[KEXINIT]).is_err());
    }

    #[test]
    fn a_host_is_known_by_keys_that_it_can_prove_and_by_at_least_one() {
        assert!(HostKeys::parse(&[]).is_none());
        for line in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-dss AAAAB3NzaC1kc3MAAAAA", "* ssh-ed25519 AAAA"] {
            assert!(HostKeys::parse(&[line.to_owned()]).is_none(), "{line}");
        }
        assert_eq!(keys().signatures(), ["ssh-ed25519"]);
    }

    #[test]
    fn a_signature_of_another_key_or_kind_is_none() {
        let (one, two) = (Key::from_file(fresh().unwrap().expose()).unwrap(), Key::from_file(fresh().unwrap().expose()).unwrap());
        assert!(is_signed("ssh-ed25519", &one.blob(), b"hash", &one.sign(b"hash")));
        assert!(!is_signed("ssh-ed25519", &one.blob(), b"hash", &two.sign(b"hash")));
        assert!(!is_signed("ssh-ed25519", &one.blob(), b"other", &one.sign(b"hash")));
        assert!(!is_signed("rsa-sha2-512", &one.blob(), b"hash", &one.sign(b"hash")));
        assert!(!is_signed("ssh-ed25519", b"", b"hash", b""));
    }

    proptest::proptest! {
        #[test]
        fn nonsense_of_a_host_is_no_offer_no_answer_and_no_signature(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), first in 0_u8..40) {
            let ours = our_offer(&keys(), true).unwrap();
            let message = [&[first], bytes.as_slice()].concat();
            assert!(choose(&ours, &message).is_err());
            assert!(read_reply(&message).is_none_or(|(key, ..)| key.len() < message.len()));
            for algorithm in ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512"] {
                for kind in ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"] {
                    let (mut key, mut signature) = (Vec::new(), Vec::new());
                    put_string(&mut key, kind.as_bytes());
                    put_string(&mut signature, algorithm.as_bytes());
                    key.extend_from_slice(&bytes);
                    signature.extend_from_slice(&bytes);
                    assert!(!is_signed(algorithm, &key, b"hash", &signature));
                }
            }
        }
    }
}
