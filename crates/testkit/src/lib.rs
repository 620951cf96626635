//! Test servers and clients for development only: MCP fixtures, third-party clients and verifiers, child processes, scratch folders.

pub mod browser;
pub mod certificates;
pub mod clients;
pub mod clouds;
pub mod flags;
pub mod process;
pub mod scratch;
pub mod servers;
pub mod verifiers;

pub use browser::{Browser, Page};
pub use clients::{CallReport, Client, ClientCall, Era};
pub use flags::Flags;
pub use process::{Child, free_port};
pub use scratch::Scratch;
pub use servers::StdioServer;
pub use verifiers::Witness;
