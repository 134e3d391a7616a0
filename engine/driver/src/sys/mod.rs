//! The only module with unsafe code: ring, buffers, sockets, and the system calls for which there is no safe wrapper.
//!
//! Every unsafe block holds one unsafe operation and a proof of what it relies on. What this module
//! offers to the rest of the engine is safe.

pub mod affinity;
pub mod arena;
#[doc(hidden)]
pub mod bulk;
pub mod device;
pub mod flight;
mod message;
pub mod option;
mod pool;
pub mod random;
pub mod realtime;
mod ring;
pub mod rlimit;
pub mod socket;
pub mod tcp_info;
