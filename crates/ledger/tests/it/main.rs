//! The ledger through its public doors.

#[cfg(test)]
mod foreign;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod strangers;
