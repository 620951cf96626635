//! The fixtures and the third-party clients against each other, without Bailiwick: what fails here is not its fault.

#[cfg(test)]
mod clients;
#[cfg(test)]
mod echo;
#[cfg(test)]
mod servers;
