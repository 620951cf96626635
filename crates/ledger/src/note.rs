//! Signed notes (C2SP signed-note) and witness cosignatures (C2SP tlog-cosignature, Ed25519), with the keys for both.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::hash::sha256;

/// The longest note that is read, in bytes: room for 64 post-quantum signatures.
pub const MAX_NOTE: usize = 512 * 1024;

/// The most signature lines that are read. The specification asks for at least 16.
pub const MAX_SIGNATURES: usize = 64;

const MAX_NAME: usize = 255;
const DASH: &str = "\u{2014} ";

/// Why a note, a key or a signature was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not the form of a signed note.
    #[error("not a signed note: {0}")]
    Form(&'static str),
    /// Not the text of a verifier key, or its key id is not that of its name and key.
    #[error("not a verifier key: {0}")]
    Key(&'static str),
    /// Two different trusted keys have the same name and key id, so a signature cannot be given to one of them.
    #[error("two trusted keys named `{0}` have the same id")]
    Ambiguous(String),
    /// A signature that claims to be by a trusted key is not. The whole note is refused.
    #[error("the signature of `{0}` is wrong")]
    Signature(String),
    /// No trusted key signed.
    #[error("no trusted key has signed")]
    Unsigned,
}

/// The name in a signature line: not empty, at most 255 bytes, without spaces, control characters and `+`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

impl KeyName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = NoteError;

    fn from_str(name: &str) -> Result<Self, NoteError> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        if name.is_empty() || name.len() > MAX_NAME || name.contains(bad) {
            return Err(NoteError::Key("bad name"));
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a key signs; the number is the signature type of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// The text of a note, by Ed25519: what a log does.
    Note = 0x01,
    /// The text of a checkpoint with the time at which it was seen, by Ed25519: what a witness does.
    Cosignature = 0x04,
}

/// A public key with its name. Its text form (`Display`, `FromStr`) is `name+hex(id)+base64(kind || key)`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifierKey {
    name: KeyName,
    id: [u8; 4],
    kind: KeyKind,
    key: [u8; 32],
}

impl VerifierKey {
    /// A key from its parts; the key id follows from them.
    #[must_use]
    pub fn new(name: KeyName, kind: KeyKind, key: [u8; 32]) -> Self {
        let id = key_id(&name, kind, &key);
        Self { name, id, kind, key }
    }

    /// The name in signature lines.
    #[must_use]
    pub const fn name(&self) -> &KeyName {
        &self.name
    }

    /// Whether it is a log's or a witness's key.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The first four bytes of the hash of name, kind and key.
    #[must_use]
    pub const fn id(&self) -> [u8; 4] {
        self.id
    }

    /// The 32 bytes of the Ed25519 public key.
    #[must_use]
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.key
    }

    fn is_named_by(&self, line: &Signature) -> bool {
        self.name == line.name && self.id == line.id
    }

    /// The time of a cosignature (`None` for a log's signature) if `line`, which names this key, is right.
    fn check(&self, text: &str, line: &Signature) -> Result<Option<u64>, NoteError> {
        let wrong = || NoteError::Signature(self.name.0.clone());
        let key = UnparsedPublicKey::new(&ED25519, &self.key);
        match self.kind {
            KeyKind::Note => {
                key.verify(text.as_bytes(), &line.blob).map_err(|_| wrong())?;
                Ok(None)
            }
            KeyKind::Cosignature => {
                let (time, signature) = line.blob.split_first_chunk().ok_or_else(wrong)?;
                let time = u64::from_be_bytes(*time);
                //= tlog-cosignature: the timestamp MUST NOT exceed 2^63 - 1
                if i64::try_from(time).is_err() {
                    return Err(wrong());
                }
                key.verify(cosigned(text, time).as_bytes(), signature).map_err(|_| wrong())?;
                Ok(Some(time))
            }
        }
    }
}

fn key_id(name: &KeyName, kind: KeyKind, key: &[u8; 32]) -> [u8; 4] {
    //= signed-note: key ID = SHA-256(key name || 0x0A || signature type || public key)[:4]
    let hash = sha256(&[name.0.as_bytes(), &[b'\n', kind as u8], key].concat());
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let material = [&[self.kind as u8], self.key.as_slice()].concat();
        write!(f, "{}+{:08x}+{}", self.name, u32::from_be_bytes(self.id), STANDARD.encode(material))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifierKey({self})")
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        // The key itself may contain `+`: the alphabet of base64 has it.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(material)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("three parts are needed"));
        };
        let name = name.parse()?;
        if material.len() != 44 {
            return Err(NoteError::Key("bad length"));
        }
        let material = STANDARD.decode(material).map_err(|_| NoteError::Key("bad base64"))?;
        let (kind, key) = material.split_first().ok_or(NoteError::Key("bad length"))?;
        let kind = match kind {
            0x01 => KeyKind::Note,
            0x04 => KeyKind::Cosignature,
            _ => return Err(NoteError::Key("unknown signature type")),
        };
        let key = Self::new(name, kind, key.try_into().map_err(|_| NoteError::Key("bad length"))?);
        if format!("{:08x}", u32::from_be_bytes(key.id)) != id {
            return Err(NoteError::Key("the id is not that of name and key"));
        }
        Ok(key)
    }
}

/// The secret half, kept in memory that the crypto library wipes when it is dropped. Neither `Clone` nor printable.
struct Secret(Ed25519KeyPair);

impl Secret {
    fn from_seed(seed: &[u8; 32]) -> Result<Self, NoteError> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|_| NoteError::Key("bad seed"))
    }

    fn verifier(&self, name: KeyName, kind: KeyKind) -> Result<VerifierKey, NoteError> {
        let key = self.0.public_key().as_ref().try_into().map_err(|_| NoteError::Key("bad seed"))?;
        Ok(VerifierKey::new(name, kind, key))
    }
}

/// A log's key: signs the text of notes. `Debug` shows the public half only.
pub struct SigningKey {
    secret: Secret,
    verifier: VerifierKey,
}

impl SigningKey {
    /// The key of this 32-byte seed (RFC 8032 section 5.1.5). The seed is not kept; wiping it is up to its owner.
    pub fn from_seed(name: KeyName, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let secret = Secret::from_seed(seed)?;
        let verifier = secret.verifier(name, KeyKind::Note)?;
        Ok(Self { secret, verifier })
    }

    /// The public half.
    #[must_use]
    pub const fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The signature line for a note's text. Ed25519 is deterministic: the same text gives the same line.
    #[must_use]
    pub fn sign(&self, text: &NoteText) -> Signature {
        let blob = self.secret.0.sign(text.0.as_bytes()).as_ref().to_vec();
        Signature { name: self.verifier.name.clone(), id: self.verifier.id, blob }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.verifier)
    }
}

/// A witness's key: signs that it saw a checkpoint at a time. `Debug` shows the public half only.
pub struct CosigningKey {
    secret: Secret,
    verifier: VerifierKey,
}

impl CosigningKey {
    /// The key of this 32-byte seed (RFC 8032 section 5.1.5). The seed is not kept; wiping it is up to its owner.
    pub fn from_seed(name: KeyName, seed: &[u8; 32]) -> Result<Self, NoteError> {
        let secret = Secret::from_seed(seed)?;
        let verifier = secret.verifier(name, KeyKind::Cosignature)?;
        Ok(Self { secret, verifier })
    }

    /// The public half.
    #[must_use]
    pub const fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The signature line for a checkpoint's text seen at `time`, in seconds of Unix time. Whoever calls this has checked that
    /// the checkpoint continues the last one that it cosigned.
    pub fn cosign(&self, text: &NoteText, time: u64) -> Result<Signature, NoteError> {
        if i64::try_from(time).is_err() {
            return Err(NoteError::Form("time out of range"));
        }
        let mut blob = time.to_be_bytes().to_vec();
        blob.extend_from_slice(self.secret.0.sign(cosigned(&text.0, time).as_bytes()).as_ref());
        Ok(Signature { name: self.verifier.name.clone(), id: self.verifier.id, blob })
    }
}

impl fmt::Debug for CosigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CosigningKey({})", self.verifier)
    }
}

/// The message that an Ed25519 cosignature signs.
fn cosigned(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

/// What is signed: not empty, ends in a newline, no control character but newlines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteText(String);

impl NoteText {
    /// The text with its final newline.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NoteText {
    type Error = NoteError;

    fn try_from(text: String) -> Result<Self, NoteError> {
        if !text.ends_with('\n') {
            return Err(NoteError::Form("the text does not end in a newline"));
        }
        if text.len() > MAX_NOTE {
            return Err(NoteError::Form("too long"));
        }
        if text.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(NoteError::Form("control character"));
        }
        Ok(Self(text))
    }
}

/// One signature line. Its text form (`Display`) has the final newline.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    name: KeyName,
    id: [u8; 4],
    blob: Vec<u8>,
}

impl Signature {
    /// The name of the key that claims to have signed.
    #[must_use]
    pub const fn name(&self) -> &KeyName {
        &self.name
    }

    /// The id of the key that claims to have signed.
    #[must_use]
    pub const fn key_id(&self) -> [u8; 4] {
        self.id
    }

    fn parse(line: &str) -> Result<Self, NoteError> {
        const BAD: NoteError = NoteError::Form("bad signature line");
        let (name, blob) = line.strip_prefix(DASH).and_then(|rest| rest.split_once(' ')).ok_or(BAD)?;
        let bytes = STANDARD.decode(blob).map_err(|_| BAD)?;
        let (id, blob) = bytes.split_first_chunk().filter(|(_, blob)| !blob.is_empty()).ok_or(BAD)?;
        Ok(Self { name: name.parse().map_err(|_| BAD)?, id: *id, blob: blob.to_vec() })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blob = STANDARD.encode([self.id.as_slice(), &self.blob].concat());
        writeln!(f, "{DASH}{} {blob}", self.name)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({} {:08x})", self.name, u32::from_be_bytes(self.id))
    }
}

/// The signature lines of a witness's answer: one or more, each with its newline, nothing else.
pub fn parse_signatures(text: &str) -> Result<Vec<Signature>, NoteError> {
    let lines = text.strip_suffix('\n').ok_or(NoteError::Form("the last line does not end"))?;
    if text.len() > MAX_NOTE || lines.split('\n').count() > MAX_SIGNATURES {
        return Err(NoteError::Form("too long"));
    }
    lines.split('\n').map(Signature::parse).collect()
}

/// A text with the signatures that are claimed for it. Nothing in it is to be believed before [`Note::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: NoteText,
    signatures: Vec<Signature>,
}

/// A signature that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The key that signed.
    pub key: VerifierKey,
    /// For a cosignature, the time at which the witness saw the text, in seconds of Unix time.
    pub time: Option<u64>,
}

impl Note {
    /// A note with one signature.
    #[must_use]
    pub fn new(text: NoteText, signature: Signature) -> Self {
        Self { text, signatures: vec![signature] }
    }

    /// Reads a signed note, of [`MAX_NOTE`] bytes and [`MAX_SIGNATURES`] signatures at most.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > MAX_NOTE {
            return Err(NoteError::Form("too long"));
        }
        //= signed-note: the text is separated from the signatures by the last empty line in the note
        let at = note.rfind("\n\n").ok_or(NoteError::Form("no empty line"))?;
        let (text, lines) = note.split_at_checked(at + 1).ok_or(NoteError::Form("no empty line"))?;
        let lines = lines.strip_prefix('\n').ok_or(NoteError::Form("no empty line"))?;
        Ok(Self { text: NoteText::try_from(text.to_owned())?, signatures: parse_signatures(lines)? })
    }

    /// Adds a signature line; one of the same key is replaced.
    pub fn add(&mut self, signature: Signature) -> Result<(), NoteError> {
        self.signatures.retain(|old| (&old.name, old.id) != (&signature.name, signature.id));
        if self.signatures.len() >= MAX_SIGNATURES {
            return Err(NoteError::Form("too many signatures"));
        }
        self.signatures.push(signature);
        Ok(())
    }

    /// The text; unverified.
    #[must_use]
    pub const fn text(&self) -> &NoteText {
        &self.text
    }

    /// The signature lines; unverified.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The trusted keys that signed, each once, in the order of `trusted`. Signatures by other keys are ignored; a wrong one that
    /// names a trusted key refuses the whole note, as does the lack of any right one.
    pub fn verify(&self, trusted: &[VerifierKey]) -> Result<Vec<Verified>, NoteError> {
        let mut verified = vec![];
        for (at, key) in trusted.iter().enumerate() {
            let mut others = trusted.iter().take(at).filter(|other| other.name == key.name && other.id == key.id);
            match others.next() {
                Some(same) if same == key => continue,
                Some(_) => return Err(NoteError::Ambiguous(key.name.0.clone())),
                None => {}
            }
            let mut time = None;
            for line in self.signatures.iter().filter(|line| key.is_named_by(line)) {
                time = time.max(Some(key.check(&self.text.0, line)?));
            }
            verified.extend(time.map(|time| Verified { key: key.clone(), time }));
        }
        if verified.is_empty() { Err(NoteError::Unsigned) } else { Ok(verified) }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text.0)?;
        self.signatures.iter().try_for_each(|line| line.fmt(f))
    }
}

#[cfg(test)]
mod tests;
