//! The ledger through its public doors.

#[cfg(test)]
mod oracle;
