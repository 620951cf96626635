//! The ledger through its public doors.

#[cfg(test)]
mod foreign;
#[cfg(test)]
mod guide;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod strangers;
#[cfg(test)]
mod witness;
