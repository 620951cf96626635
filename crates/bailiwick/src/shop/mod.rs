//! A small shop as a real MCP server over stdio: the sample sensitive system that ships in the binary.
//!
//! It stands where a third party's server would stand: the broker starts it as a child process, and it trusts nobody.
//! It checks every argument itself, makes every change in a transaction, and keeps an audit of its own, so that what
//! the broker recorded can be compared with what the system saw. It knows nothing of tasks, policy or approvals.
//!
//! It never writes anything but JSON-RPC to its output, and never does a call that it could not answer.

mod changes;
mod data;
mod money;
mod operation;
mod reads;
mod server;
#[cfg(test)]
mod tests;
mod values;

use std::io::{BufRead, Write};
use std::path::Path;

use bailiwick_core::Effect;

/// The longest message taken, in bytes, without its newline.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Why the shop stopped or did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShopError {
    /// The file is an SQLite file of something else, or of a shop of another version.
    #[error("this file is not a shop of this version")]
    NotAShop,
    /// The file could not be opened, read or written.
    #[error("the shop's file failed")]
    File(#[from] rusqlite::Error),
    /// The input could not be read or the output could not be written.
    #[error("the connection failed")]
    Connection(#[from] std::io::Error),
}

/// Serves the shop in `file` until `input` ends: one JSON-RPC message a line in, one a line out.
///
/// A file that is missing or empty is seeded first, see [`seed`].
///
/// # Errors
///
/// [`ShopError`] when the file is not a shop or when input or output fail. What a caller does wrong is answered, not
/// returned.
pub fn run(file: &Path, input: impl BufRead, output: impl Write) -> Result<(), ShopError> {
    let shop = data::open(file)?;
    server::serve(shop, input, output)
}

/// Makes the shop's tables in `file` and fills them with its first day; a file that is a shop already stays as it is.
///
/// The rows are the same every time: customers `C-1001` to `C-1012`, orders `O-2001` to `O-2030`, tickets `T-3001` to
/// `T-3008` (the text of `T-3005` tries to instruct the assistant who reads it), suppliers `S-5001` to `S-5004`,
/// discount requests `D-7001` to `D-7003`, of which `D-7002` awaits a decision.
///
/// # Errors
///
/// [`ShopError::NotAShop`] when the file holds something else, [`ShopError::File`] when it cannot be written.
pub fn seed(file: &Path) -> Result<(), ShopError> {
    data::open(file).map(drop)
}

/// What the answers of some tools bear: tickets are what customers and agents wrote, customers are people.
pub const LABELS: &[(&str, &[&str])] =
    &[("find_customers", &["pii"]), ("list_discounts", &["model-authored"]), ("list_tickets", &["model-authored", "untrusted"])];

/// The tools by name, in the order of `tools/list`, with the effect that an operator should pin for each.
pub fn effects() -> impl Iterator<Item = (&'static str, Effect)> {
    operation::entries().map(|entry| (entry.name, entry.effect))
}
