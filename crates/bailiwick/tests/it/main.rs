//! The house through its public doors: a broker on a directory of its own, its listener, and requests over TCP.

#[cfg(test)]
mod access_requests;
#[cfg(test)]
mod api;
#[cfg(test)]
mod attacks;
#[cfg(test)]
mod authzen;
#[cfg(test)]
mod binding;
#[cfg(test)]
mod broker;
#[cfg(test)]
mod brokers;
#[cfg(test)]
mod browsers;
#[cfg(test)]
mod canaries;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod client_certificates;
#[cfg(test)]
mod cloud;
#[cfg(test)]
mod connect;
#[cfg(test)]
mod delegation;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod events;
#[cfg(test)]
mod exports;
#[cfg(test)]
mod false_broker;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod handles;
#[cfg(test)]
mod hazards;
#[cfg(test)]
mod hosts;
#[cfg(test)]
mod http_api;
#[cfg(test)]
mod interactive;
#[cfg(test)]
mod interactive_bound;
#[cfg(test)]
mod labels;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod legacy;
#[cfg(test)]
mod mtls;
#[cfg(test)]
mod oauth;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod passkey_guard;
#[cfg(test)]
mod passkeys;
#[cfg(test)]
mod payloads;
#[cfg(test)]
mod power;
#[cfg(test)]
mod power_broker;
#[cfg(test)]
mod power_load;
#[cfg(test)]
mod power_trace;
#[cfg(test)]
mod proofs;
#[cfg(test)]
mod questions;
#[cfg(test)]
mod races;
#[cfg(test)]
mod races_fence;
#[cfg(test)]
mod refusal;
#[cfg(test)]
mod review;
#[cfg(test)]
mod root_key;
#[cfg(test)]
mod running;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod shards;
#[cfg(test)]
mod sign_in;
#[cfg(test)]
mod spiffe;
#[cfg(test)]
mod standards;
#[cfg(test)]
mod standing;
#[cfg(test)]
mod support;
#[cfg(test)]
mod third_party;
#[cfg(test)]
mod trace;
