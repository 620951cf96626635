//! Third-party clients and servers, unmodified, do their work through the real program.

mod clients;
mod program;
mod servers;
mod tap;
