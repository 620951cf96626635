//! Signed heads of the log (C2SP tlog-checkpoint): origin, size and root, written, signed and opened.

use std::fmt;
use std::str::FromStr;

use crate::MAX_SIZE;
use crate::hash::{Hash, empty_root};
use crate::note::{KeyKind, KeyName, Note, NoteError, NoteText, SigningKey, Verified, VerifierKey};

/// The unique name of a log, such as `example.com/bailiwick/2027`; also the name of its key. Has the form of a [`KeyName`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(KeyName);

impl Origin {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The same name for the log's key: a key SHOULD be named like the origin.
    #[must_use]
    pub const fn key_name(&self) -> &KeyName {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = CheckpointError;

    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        text.parse().map(Self).map_err(|_| CheckpointError::Origin)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a checkpoint was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The first line is not an origin.
    #[error("bad origin")]
    Origin,
    /// The checkpoint of another log.
    #[error("the origin is `{0}`")]
    OtherOrigin(String),
    /// The second line is not the canonical number of a size up to [`MAX_SIZE`].
    #[error("bad size")]
    Size,
    /// The third line is not a hash, or not the empty tree's root although the size is 0.
    #[error("bad root")]
    Root,
    /// Not exactly three lines. Extension lines are allowed by the specification but not recommended; our logs have none.
    #[error("a checkpoint has three lines")]
    Lines,
    /// The note or its signatures.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The log's own key has not signed (a witness alone is not enough).
    #[error("the log's key has not signed")]
    Unsigned,
}

/// A head of the log. As a value it says nothing about who signed it: see [`Checkpoint::open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: Origin,
    /// The number of leaves.
    pub size: u64,
    /// The root of these leaves.
    pub root: Hash,
}

/// A checkpoint whose signatures were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The head.
    pub checkpoint: Checkpoint,
    /// The witnesses among those asked for that cosigned it, with the times at which they saw it.
    pub cosigned: Vec<Verified>,
}

impl Checkpoint {
    /// The three lines that are signed.
    #[must_use]
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, self.root.to_base64())
    }

    /// Reads the three lines; no others are accepted.
    pub fn parse(body: &str) -> Result<Self, CheckpointError> {
        let mut lines = body.strip_suffix('\n').ok_or(CheckpointError::Lines)?.split('\n');
        let (Some(origin), Some(size), Some(root), None) = (lines.next(), lines.next(), lines.next(), lines.next()) else {
            return Err(CheckpointError::Lines);
        };
        let origin = origin.parse()?;
        let size = parse_decimal(size).filter(|size| *size <= MAX_SIZE).ok_or(CheckpointError::Size)?;
        let root = Hash::from_base64(root).map_err(|_| CheckpointError::Root)?;
        if size == 0 && root != empty_root() {
            return Err(CheckpointError::Root);
        }
        Ok(Self { origin, size, root })
    }

    /// Signs it with the log's key.
    pub fn sign(&self, key: &SigningKey) -> Result<Note, NoteError> {
        let text = NoteText::try_from(self.body())?;
        let signature = key.sign(&text);
        Ok(Note::new(text, signature))
    }

    /// Opens a signed checkpoint: `log`, a key of kind [`KeyKind::Note`], must have signed it, for this origin. Cosignatures by
    /// `witnesses` are checked and listed; how many are enough is the caller's policy.
    pub fn open(note: &str, origin: &Origin, log: &VerifierKey, witnesses: &[VerifierKey]) -> Result<Opened, CheckpointError> {
        let note = Note::parse(note)?;
        let trusted: Vec<_> = std::iter::once(log).chain(witnesses).cloned().collect();
        let mut cosigned = note.verify(&trusted)?;
        let by_log = |verified: &Verified| verified.key == *log && log.kind() == KeyKind::Note;
        if !cosigned.iter().any(by_log) {
            return Err(CheckpointError::Unsigned);
        }
        cosigned.retain(|verified| verified.key.kind() == KeyKind::Cosignature);
        let checkpoint = Self::parse(note.text().as_str())?;
        if checkpoint.origin != *origin {
            return Err(CheckpointError::OtherOrigin(checkpoint.origin.to_string()));
        }
        Ok(Opened { checkpoint, cosigned })
    }
}

/// The signed checkpoint as text. A log never signs two heads that are not one the beginning of the other: this is up to the
/// caller, who gives the size and the root of its [`crate::Frontier`] after a durable append.
pub fn sign_checkpoint(origin: &Origin, size: u64, root: &Hash, key: &SigningKey) -> Result<String, NoteError> {
    Checkpoint { origin: origin.clone(), size, root: *root }.sign(key).map(|note| note.to_string())
}

/// A decimal number without sign and without leading zeros.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    text.parse().ok().filter(|_| canonical)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;
    use crate::note::CosigningKey;

    fn origin() -> Origin {
        "example.com/log".parse().unwrap()
    }

    fn key() -> SigningKey {
        SigningKey::from_seed(origin().key_name().clone(), &[1; 32]).unwrap()
    }

    fn head() -> Checkpoint {
        Checkpoint { origin: origin(), size: 70_000, root: leaf_hash(b"root") }
    }

    #[test]
    fn a_signed_head_opens_and_signing_it_again_gives_the_same_bytes() {
        let head = head();
        let note = sign_checkpoint(&head.origin, head.size, &head.root, &key()).unwrap();
        assert_eq!(note, sign_checkpoint(&head.origin, head.size, &head.root, &key()).unwrap());
        let opened = Checkpoint::open(&note, &origin(), key().verifier(), &[]).unwrap();
        assert_eq!(opened, Opened { checkpoint: head, cosigned: vec![] });
    }

    #[test]
    fn the_example_of_the_specification_is_read_and_written() {
        let body = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let checkpoint = Checkpoint::parse(body).unwrap();
        assert_eq!((checkpoint.origin.as_str(), checkpoint.size), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(checkpoint.body(), body);
    }

    #[test]
    fn bodies_that_are_not_canonical_are_refused() {
        let root = head().root.to_base64();
        let empty = empty_root().to_base64();
        assert!(Checkpoint::parse(&format!("o\n0\n{empty}\n")).is_ok());
        for (body, error) in [
            (String::new(), CheckpointError::Lines),
            (format!("o\n1\n{root}"), CheckpointError::Lines),
            (format!("o\n1\n{root}\nextension\n"), CheckpointError::Lines),
            (format!("o\n1\n{root}\n\n"), CheckpointError::Lines),
            (format!("\n1\n{root}\n"), CheckpointError::Origin),
            (format!("o o\n1\n{root}\n"), CheckpointError::Origin),
            (format!("o\n01\n{root}\n"), CheckpointError::Size),
            (format!("o\n+1\n{root}\n"), CheckpointError::Size),
            (format!("o\n\n{root}\n"), CheckpointError::Size),
            (format!("o\n1 \n{root}\n"), CheckpointError::Size),
            (format!("o\n9223372036854775808\n{root}\n"), CheckpointError::Size),
            (format!("o\n1\n{}\n", root.replace('=', "")), CheckpointError::Root),
            (format!("o\n0\n{root}\n"), CheckpointError::Root),
        ] {
            assert_eq!(Checkpoint::parse(&body), Err(error), "{body:?}");
        }
    }

    #[test]
    fn a_witness_is_listed_and_alone_is_not_enough() {
        let witness = CosigningKey::from_seed("witness.example.com/w".parse().unwrap(), &[2; 32]).unwrap();
        let witnesses = [witness.verifier().clone()];
        let mut note = head().sign(&key()).unwrap();
        let line = witness.cosign(note.text(), 5).unwrap();
        let alone = Note::new(note.text().clone(), line.clone()).to_string();
        let refused = Checkpoint::open(&alone, &origin(), key().verifier(), &witnesses);
        assert_eq!(refused, Err(CheckpointError::Unsigned));
        // A witness's key cannot be taken for the log's.
        let refused = Checkpoint::open(&alone, &origin(), witness.verifier(), &[]);
        assert_eq!(refused, Err(CheckpointError::Unsigned));
        note.add(line).unwrap();
        let opened = Checkpoint::open(&note.to_string(), &origin(), key().verifier(), &witnesses).unwrap();
        assert_eq!(opened.cosigned, [Verified { key: witness.verifier().clone(), time: Some(5) }]);
        let unasked = Checkpoint::open(&note.to_string(), &origin(), key().verifier(), &[]).unwrap();
        assert_eq!(unasked.cosigned, []);
    }

    #[test]
    fn the_head_of_another_log_is_refused_even_if_the_same_key_signed_it() {
        let other = Checkpoint { origin: "example.com/other".parse().unwrap(), ..head() };
        let note = other.sign(&key()).unwrap().to_string();
        let refused = Checkpoint::open(&note, &origin(), key().verifier(), &[]);
        assert_eq!(refused, Err(CheckpointError::OtherOrigin("example.com/other".to_owned())));
    }
}
