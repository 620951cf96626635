//! Who calls: proofs of workloads, task tokens, OAuth server logic. Never reads policy or stored secrets.
