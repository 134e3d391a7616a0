//! The only module with unsafe code: ring, buffers, sockets, affinity, capability probe, resource usage.
//!
//! Every unsafe block holds one unsafe operation and a proof of what it relies on. What this module
//! offers to the rest of the engine is safe.

pub mod affinity;
pub mod arena;
#[doc(hidden)]
pub mod bulk;
pub mod cgroup;
pub mod device;
pub mod files;
pub mod flight;
pub mod inet6;
mod message;
pub mod namespace;
pub mod netlink;
pub mod option;
mod pool;
pub mod process;
pub mod random;
pub mod realtime;
mod ring;
pub mod rlimit;
pub mod socket;
pub mod tcp_info;
pub mod tuning;
pub mod usage;
