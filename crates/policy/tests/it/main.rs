//! Policy through its public door: traps, holds, names, load errors, cases kept as data, and what must always hold.

mod always;
mod cases;
mod holds;
mod load_errors;
mod names;
mod possible;
mod speed;
mod traps;
mod world;
