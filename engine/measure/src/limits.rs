//! The bound of the HTTP server that its unit tests fill up.

/// Memory that HTTP connections may hold together for what they sent and are sent, bytes. Unit
/// tests fill it up, so theirs is smaller.
pub(crate) const HTTP_MEMORY_MAX: u64 = if cfg!(test) { 1 << 26 } else { 1 << 30 };
