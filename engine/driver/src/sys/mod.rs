//! The only module with unsafe code: ring, buffers, sockets, and the system calls for which there
//! is no safe wrapper.
//!
//! Every unsafe block holds one unsafe operation and a proof of what it relies on. What this module
//! offers to the rest of the engine is safe.

pub mod affinity;
pub(crate) mod arena;
#[cfg(any(test, feature = "benches"))]
#[doc(hidden)]
pub mod benches;
pub mod device;
pub(crate) mod flight;
pub(crate) mod message;
pub mod option;
mod pool;
pub mod random;
mod ring;
pub mod rlimit;
pub mod socket;
