//! The only room that can read a secret: sealing and injecting. Never sees inbound requests or our tables.
