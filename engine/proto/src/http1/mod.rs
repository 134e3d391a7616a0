//! HTTP/1.1 (RFC 9112), both ends: requests written and responses read by the client, requests read
//! by the server.
//!
//! Sans I/O: bytes are handed in as they arrive, in whatever pieces, and consumed by reference.
//! Nothing is allocated while a head or a body arrives in one piece; a head that is cut is gathered
//! in a buffer borrowed from [`Spare`].

mod body;
mod fields;
pub mod incoming;
pub mod request;
pub mod response;
pub mod status;

pub(crate) use body::is_token;

/// Buffers for heads that arrive in pieces, shared by all connections of a worker.
#[derive(Debug, Default)]
pub struct Spare(Vec<Vec<u8>>);

impl Spare {
    /// `count` buffers of `bytes` each; more, and larger ones, are allocated where they do not do.
    pub fn new(count: usize, bytes: usize) -> Self {
        Self((0..count).map(|_| Vec::with_capacity(bytes)).collect())
    }

    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    /// Takes a buffer back, if there is one.
    fn put(&mut self, buffer: &mut Vec<u8>) {
        if buffer.capacity() > 0 {
            let mut buffer = std::mem::take(buffer);
            buffer.clear();
            self.0.push(buffer);
        }
    }

    /// Keeps no more than `count` buffers.
    pub fn trim(&mut self, count: usize) {
        self.0.truncate(count);
    }
}
