//! The Merkle log: leaves, tiles, checkpoints, proofs, verification. Never knows what an entry means.
//!
//! The tree is that of RFC 6962 section 2.1 (RFC 9162 section 2.1.1) over SHA-256; what leaves the house has the C2SP formats
//! tlog-tiles, tlog-checkpoint, signed-note, tlog-cosignature, tlog-witness, tlog-policy and tlog-proof, so that verifiers written by strangers read it.
//! All I/O is in [`export`]; everything else is a pure function of its arguments. There is no clock and no randomness here.
//!
//! A store's single writer uses four things inside its own transaction: [`Frontier`], [`integrate`], [`checkpoint::Origin`]
//! and [`sign_checkpoint`].

pub mod checkpoint;
pub mod export;
mod frontier;
mod hash;
pub mod note;
pub mod policy;
pub mod proof;
pub mod tile;
mod tiler;
pub mod tree;
pub mod witness;

pub use checkpoint::{Checkpoint, Opened, Origin, sign_checkpoint};
pub use frontier::{Frontier, FrontierError, integrate};
pub use hash::{Hash, HashError, empty_root, leaf_hash, node_hash};
pub use note::{CosigningKey, KeyName, Note, NoteText, SigningKey, VerifierKey};
pub use policy::{TrustPolicy, Trusted};
pub use proof::Receipt;
pub use tile::{BundleId, EntryTooLong, MAX_ENTRY, TileId};
pub use tiler::Tiler;
pub use tree::{TileReader, TreeError, VerifyError, consistency_proof, inclusion_proof, verify_consistency, verify_inclusion};

/// The largest tree size that this crate reads or writes: sizes are signed 64-bit numbers in other implementations.
pub const MAX_SIZE: u64 = (1 << 63) - 1;
