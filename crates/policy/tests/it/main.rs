//! Policy through its public door: traps, holds, names, load errors, cases kept as data, and what must always hold.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "what fails here is a failed test")]

mod always;
mod cases;
mod chains;
mod holds;
mod load_errors;
mod names;
mod plainly;
mod possible;
mod speed;
mod traps;
mod world;
