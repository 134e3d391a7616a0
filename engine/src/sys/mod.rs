//! The only module with unsafe code: ring, buffers, sockets, affinity, capability probe, resource usage.
//!
//! Every unsafe block holds one unsafe operation and a proof of what it relies on. What this module
//! offers to the rest of the engine is safe.

pub mod arena;
pub mod socket;
