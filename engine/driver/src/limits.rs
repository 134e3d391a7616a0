//! The bound of a driver that its unit tests fill up.

use tare_units::limits::{RING_ENTRIES, SOCKETS_MAX};

/// Operations that one driver may have outstanding at once. Unit tests fill it up, so theirs is smaller.
pub const OPERATIONS_MAX: u32 = if cfg!(test) { 1 << 16 } else { 1 << 20 };

const _: () = assert!(RING_ENTRIES <= OPERATIONS_MAX);
// Each connection may have a receive, a send and a timer outstanding, and its close or a cancel besides.
const _: () = assert!(cfg!(test) || 4 * SOCKETS_MAX <= OPERATIONS_MAX);
