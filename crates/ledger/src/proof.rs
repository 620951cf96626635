//! Receipts: offline proofs that an entry is in the log (C2SP tlog-proof), in one text.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::{Checkpoint, CheckpointError, Opened, Origin, parse_decimal};
use crate::hash::Hash;
use crate::note::{MAX_NOTE, Note, NoteError, VerifierKey};
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
    /// The entry is not proved to be in the log.
    #[error(transparent)]
    Inclusion(#[from] VerifyError),
}

impl Receipt {
    /// A receipt for entry `index`; `path` is its inclusion proof for the size in `checkpoint`.
    pub fn new(
        index: u64,
        path: Vec<Hash>,
        checkpoint: Note,
        extra: Option<Vec<u8>>,
    ) -> Result<Self, ReceiptError> {
        if path.len() > MAX_PATH || extra.as_ref().is_some_and(|extra| extra.len() > MAX_EXTRA) {
            return Err(ReceiptError::Form("too long"));
        }
        Ok(Self {
            extra,
            index,
            path,
            checkpoint,
        })
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
    pub fn verify(
        &self,
        leaf: &Hash,
        origin: &Origin,
        log: &VerifierKey,
        witnesses: &[VerifierKey],
    ) -> Result<Opened, ReceiptError> {
        let opened = Checkpoint::open(&self.checkpoint.to_string(), origin, log, witnesses)?;
        verify_inclusion(
            leaf,
            self.index,
            opened.checkpoint.size,
            &opened.checkpoint.root,
            &self.path,
        )?;
        Ok(opened)
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.path
            .iter()
            .try_for_each(|hash| writeln!(f, "{}", hash.to_base64()))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for Receipt {
    type Err = ReceiptError;

    fn from_str(text: &str) -> Result<Self, ReceiptError> {
        if text.len() > MAX_NOTE + 2 * MAX_EXTRA {
            return Err(ReceiptError::Form("too long"));
        }
        let (head, checkpoint) = text
            .split_once("\n\n")
            .ok_or(ReceiptError::Form("no empty line"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(ReceiptError::Form("unknown first line"));
        }
        let extra = lines
            .peek()
            .and_then(|line| line.strip_prefix("extra "))
            .map(|extra| STANDARD.decode(extra));
        let extra = extra
            .transpose()
            .map_err(|_| ReceiptError::Form("bad extra data"))?;
        if extra.is_some() {
            lines.next();
        }
        let index = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .and_then(parse_decimal);
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
