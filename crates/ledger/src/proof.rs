//! Receipts: offline proofs that an entry is in the log (C2SP tlog-proof), in one text.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::{Checkpoint, CheckpointError, Opened, Origin, parse_decimal};
use crate::hash::Hash;
use crate::note::{MAX_NOTE, Note, NoteError, VerifierKey};
use crate::policy::{TrustError, TrustPolicy, Trusted};
use crate::tree::{VerifyError, verify_inclusion};

const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// A tree of at most 2^63 leaves is not deeper.
const MAX_PATH: usize = 63;

/// The most bytes of extra data that are read.
pub const MAX_EXTRA: usize = 64 * 1024;

/// An inclusion proof with the signed checkpoint that it leads to. Nothing in it is to be believed before
/// [`Receipt::verify`]; `extra` not even then, for nobody signs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    extra: Option<Vec<u8>>,
    index: u64,
    path: Vec<Hash>,
    checkpoint: Note,
}

/// Why a receipt was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not the form of a tlog-proof.
    #[error("not a tlog-proof: {0}")]
    Form(&'static str),
    /// The checkpoint in it.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The note around the checkpoint.
    #[error("the checkpoint: {0}")]
    Note(#[from] NoteError),
    /// A policy does not hold the checkpoint to be valid.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The entry is not proved to be in the log.
    #[error(transparent)]
    Inclusion(#[from] VerifyError),
}

impl Receipt {
    /// A receipt for entry `index`; `path` is its inclusion proof for the size in `checkpoint`.
    pub fn new(index: u64, path: Vec<Hash>, checkpoint: Note, extra: Option<Vec<u8>>) -> Result<Self, ReceiptError> {
        if path.len() > MAX_PATH || extra.as_ref().is_some_and(|extra| extra.len() > MAX_EXTRA) {
            return Err(ReceiptError::Form("too long"));
        }
        Ok(Self { extra, index, path, checkpoint })
    }

    /// The number of the entry.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Data beside the proof that nobody has signed.
    #[must_use]
    pub fn extra(&self) -> Option<&[u8]> {
        self.extra.as_deref()
    }

    /// The signed checkpoint; unverified.
    #[must_use]
    pub const fn checkpoint(&self) -> &Note {
        &self.checkpoint
    }

    /// Checks offline that the entry with this leaf hash is in the log: the log's key has signed the checkpoint for `origin`,
    /// and the path leads from the leaf to its root. Lists the `witnesses` that cosigned; how many are enough is the caller's
    /// policy.
    pub fn verify(&self, leaf: &Hash, origin: &Origin, log: &VerifierKey, witnesses: &[VerifierKey]) -> Result<Opened, ReceiptError> {
        let opened = Checkpoint::open(&self.checkpoint.to_string(), origin, log, witnesses)?;
        verify_inclusion(leaf, self.index, opened.checkpoint.size, &opened.checkpoint.root, &self.path)?;
        Ok(opened)
    }

    /// Checks offline, by a policy that names logs and witnesses, that the entry with this leaf hash is in a log that is known, and
    /// that the witnesses whom the policy asks for have seen it.
    pub fn verify_by(&self, leaf: &Hash, policy: &TrustPolicy) -> Result<Trusted, ReceiptError> {
        let trusted = policy.open(&self.checkpoint.to_string())?;
        verify_inclusion(leaf, self.index, trusted.checkpoint.size, &trusted.checkpoint.root, &self.path)?;
        Ok(trusted)
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{}", hash.to_base64()))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, ReceiptError> {
        if text.len() > MAX_NOTE + 2 * MAX_EXTRA {
            return Err(ReceiptError::Form("too long"));
        }
        let (head, checkpoint) = text.split_once("\n\n").ok_or(ReceiptError::Form("no empty line"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(ReceiptError::Form("unknown first line"));
        }
        let extra = lines.peek().and_then(|line| line.strip_prefix("extra ")).map(|extra| STANDARD.decode(extra));
        let extra = extra.transpose().map_err(|_| ReceiptError::Form("bad extra data"))?;
        if extra.is_some() {
            lines.next();
        }
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(parse_decimal);
        let index = index.ok_or(ReceiptError::Form("bad index"))?;
        let mut path = vec![];
        for line in lines {
            if path.len() == MAX_PATH {
                return Err(ReceiptError::Form("too long"));
            }
            path.push(Hash::from_base64(line).map_err(|_| ReceiptError::Form("bad hash"))?);
        }
        Self::new(index, path, Note::parse(checkpoint)?, extra)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hash::leaf_hash;
    use crate::note::{CosigningKey, SigningKey};
    use crate::tree::{Leaves, inclusion_proof, tests::leaves, tests::mth};

    fn origin() -> Origin {
        "example.com/log".parse().unwrap()
    }

    fn key() -> SigningKey {
        SigningKey::from_seed(origin().key_name().clone(), &[1; 32]).unwrap()
    }

    fn receipt(index: u64, size: u64, extra: Option<Vec<u8>>) -> (Hash, Receipt) {
        let all = leaves(size);
        let note = Checkpoint { origin: origin(), size, root: mth(&all) }.sign(&key()).unwrap();
        let path = inclusion_proof(&Leaves(&all), index, size).unwrap();
        (all[index as usize], Receipt::new(index, path, note, extra).unwrap())
    }

    #[test]
    fn a_receipt_has_the_lines_of_the_specification() {
        let (_, receipt) = receipt(1, 3, Some(b"extra".to_vec()));
        let text = receipt.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..3], ["c2sp.org/tlog-proof@v1", "extra ZXh0cmE=", "index 1"]);
        assert_eq!((lines[5], lines[6], lines[7]), ("", "example.com/log", "3"));
        assert_eq!(lines.len(), 11);
        assert!(text.ends_with(&receipt.checkpoint().to_string()));
    }

    #[test]
    fn texts_that_are_no_receipts_are_refused() {
        let (_, receipt) = receipt(1, 3, None);
        let text = receipt.to_string();
        for bad in [
            String::new(),
            text.replace("@v1", "@v2"),
            text.replace("index 1", "index 01"),
            text.replace("index 1", "index -1"),
            text.replace("index 1\n", ""),
            text.replace("index 1", "index 1\nextra AAAA"),
            text.replace("index 1", "extra !\nindex 1"),
            text.replace("index 1", "index 1\nAAAA"),
            text.replace("index 1", &format!("index 1{}", format!("\n{}", leaf_hash(b"").to_base64()).repeat(62))),
            text.replace("\n\nexample", "\nexample"),
            text.replace('\n', "\r\n"),
            format!("{text}more"),
        ] {
            assert!(bad.parse::<Receipt>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_receipt_proves_only_its_entry_in_its_log_by_its_key() {
        let (leaf, receipt) = receipt(700, 1000, None);
        let verifier = key().verifier().clone();
        let opened = receipt.verify(&leaf, &origin(), &verifier, &[]).unwrap();
        assert_eq!(opened.checkpoint.size, 1000);
        assert_eq!(receipt.verify(&leaf_hash(b"other"), &origin(), &verifier, &[]), Err(ReceiptError::Inclusion(VerifyError::Root)));
        let other = "example.com/other".parse().unwrap();
        assert!(matches!(receipt.verify(&leaf, &other, &verifier, &[]), Err(ReceiptError::Checkpoint(_))));
        let thief = SigningKey::from_seed(origin().key_name().clone(), &[2; 32]).unwrap();
        assert!(matches!(receipt.verify(&leaf, &origin(), thief.verifier(), &[]), Err(ReceiptError::Checkpoint(_))));
    }

    #[test]
    fn a_receipt_is_believed_by_a_policy_only_with_its_witnesses() {
        let (leaf, receipt) = receipt(3, 10, None);
        let witness = CosigningKey::from_seed("witness.example/w".parse().unwrap(), &[7; 32]).unwrap();
        let policy = |quorum: &str| -> TrustPolicy {
            format!("log {}\nwitness w {}\nquorum {quorum}\n", key().verifier(), witness.verifier()).parse().unwrap()
        };
        assert_eq!(receipt.verify_by(&leaf, &policy("none")).unwrap().cosigned, []);
        assert!(matches!(receipt.verify_by(&leaf, &policy("w")), Err(ReceiptError::Trust(TrustError::Quorum { .. }))));
        let mut note = receipt.checkpoint().clone();
        note.add(witness.cosign(note.text(), 99).unwrap()).unwrap();
        let cosigned = Receipt::new(receipt.index(), receipt.path.clone(), note, None).unwrap();
        let cosigned: Receipt = cosigned.to_string().parse().unwrap();
        let trusted = cosigned.verify_by(&leaf, &policy("w")).unwrap();
        assert_eq!((trusted.cosigned[0].0.as_str(), trusted.cosigned[0].1.time), ("w", Some(99)));
        assert_eq!(cosigned.verify_by(&leaf_hash(b"other"), &policy("w")), Err(ReceiptError::Inclusion(VerifyError::Root)));
        let empty: TrustPolicy = "quorum none\n".parse().unwrap();
        assert!(matches!(cosigned.verify_by(&leaf, &empty), Err(ReceiptError::Trust(TrustError::UnknownLog(_)))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn receipts_go_round_and_one_flipped_bit_makes_them_worthless(
            size in 1_u64..2000, at in any::<u64>(), extra in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
            place in any::<usize>(), bit in 0_u8..8,
        ) {
            let (leaf, receipt) = receipt(at % size, size, extra);
            let text = receipt.to_string();
            prop_assert_eq!(&text.parse::<Receipt>().unwrap(), &receipt);
            prop_assert!(receipt.verify(&leaf, &origin(), key().verifier(), &[]).is_ok());
            let mut bytes = text.into_bytes();
            let place = place % bytes.len();
            bytes[place] ^= 1 << bit;
            let changed = String::from_utf8(bytes).ok().and_then(|text| text.parse::<Receipt>().ok());
            if let Some(changed) = changed {
                let still = changed.verify(&leaf, &origin(), key().verifier(), &[]).is_ok();
                // Nobody signs the extra data; all else is proved.
                prop_assert!(!still || changed.extra() != receipt.extra());
            }
        }
    }
}
