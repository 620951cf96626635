//! Certificates of users as OpenSSH has them (PROTOCOL.certkeys), of Ed25519 keys, signed by our authority.

use aws_lc_rs::rand;
use bailiwick_core::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::key::Key;
use super::wire::{put_string, put_u32, put_u64};
use crate::lease::{Step, TargetCode, TargetError};

pub(super) const ALGORITHM: &str = "ssh-ed25519-cert-v01@openssh.com";
const USER: u32 = 1;

/// What a certificate says. No extensions: no terminal, no forwarding, no agent, no file of the user's that runs at login.
#[derive(Debug, Clone)]
pub(super) struct Words<'a> {
    /// By which it is revoked. Never 0, which cannot be revoked.
    pub(super) serial: u64,
    /// What the host's log has of each login.
    pub(super) key_id: &'a str,
    /// For which it may log in. A certificate without any is none: elsewhere it would be for every name.
    pub(super) principal: &'a str,
    pub(super) valid_after: Timestamp,
    pub(super) valid_before: Timestamp,
    /// What runs in place of whatever is asked for.
    pub(super) force_command: Option<&'a str>,
    /// From which addresses it may be used, in CIDR. None: from everywhere.
    pub(super) source_addresses: &'a [String],
}

/// The certificate of `key`, as SSH sends it.
pub(super) fn sign(authority: &Key, public: &[u8; 32], words: &Words<'_>) -> Result<Vec<u8>, TargetError> {
    let mut nonce = [0; 32];
    rand::fill(&mut nonce).map_err(|_| TargetError::new(TargetCode::Internal, Step::Mint, "", "no randomness is available"))?;
    let mut out = Vec::with_capacity(1024);
    put_string(&mut out, ALGORITHM.as_bytes());
    put_string(&mut out, &nonce);
    put_string(&mut out, public);
    put_u64(&mut out, words.serial);
    put_u32(&mut out, USER);
    put_string(&mut out, words.key_id.as_bytes());
    put_string(&mut out, &string(words.principal.as_bytes()));
    put_u64(&mut out, seconds(words.valid_after));
    put_u64(&mut out, seconds(words.valid_before));
    // In the order of their names, as the format wants it.
    let mut critical = Vec::new();
    if let Some(command) = words.force_command {
        put_string(&mut critical, b"force-command");
        put_string(&mut critical, &string(command.as_bytes()));
    }
    if !words.source_addresses.is_empty() {
        put_string(&mut critical, b"source-address");
        put_string(&mut critical, &string(words.source_addresses.join(",").as_bytes()));
    }
    put_string(&mut out, &critical);
    put_string(&mut out, b"");
    put_string(&mut out, b"");
    put_string(&mut out, &authority.blob());
    let signature = authority.sign(&out);
    put_string(&mut out, &signature);
    Ok(out)
}

/// The line of a file `..-cert.pub`.
pub(super) fn line(certificate: &[u8]) -> String {
    format!("{ALGORITHM} {}", STANDARD.encode(certificate))
}

/// The certificate in a text that has such a line.
pub(crate) fn in_text(text: &[u8]) -> Option<Vec<u8>> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let line = lines.find_map(|line| line.strip_prefix(ALGORITHM.as_bytes()))?;
    let digits = line.trim_ascii().split(|byte| *byte == b' ').next()?;
    STANDARD.decode(digits).ok().filter(|bytes| bytes.len() <= 16 * 1024)
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, bytes);
    out
}

fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_seconds()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::key::fresh;
    use super::super::wire::Reader;
    use super::*;

    fn words<'a>(addresses: &'a [String]) -> Words<'a> {
        Words {
            serial: 7,
            key_id: "spiffe://example.org/agent/a1;task=task_1",
            principal: "task-agent",
            valid_after: Timestamp::from_seconds(100),
            valid_before: Timestamp::from_seconds(400),
            force_command: Some("exec true"),
            source_addresses: addresses,
        }
    }

    #[test]
    fn a_certificate_is_signed_over_everything_before_its_signature() {
        let authority = Key::from_file(fresh().unwrap().expose()).unwrap();
        let key = Key::from_file(fresh().unwrap().expose()).unwrap();
        let addresses = ["10.0.0.0/8".to_owned(), "::1/128".to_owned()];
        let certificate = sign(&authority, key.public(), &words(&addresses)).unwrap();
        let signature = authority.sign(b"");
        let signed = &certificate[..certificate.len() - signature.len() - 4];
        assert_eq!(&certificate[signed.len() + 4..], authority.sign(signed).as_slice());
        assert_eq!(in_text(format!("x\n{} comment\n", line(&certificate)).as_bytes()), Some(certificate.clone()));
        let mut reader = Reader(&certificate);
        assert_eq!(reader.text(), Some(ALGORITHM));
        reader.string();
        assert_eq!(reader.string(), Some(key.public().as_slice()));
    }

    #[test]
    fn two_certificates_of_the_same_words_differ() {
        let authority = Key::from_file(fresh().unwrap().expose()).unwrap();
        let one = sign(&authority, authority.public(), &words(&[])).unwrap();
        assert_ne!(one, sign(&authority, authority.public(), &words(&[])).unwrap());
    }
}
