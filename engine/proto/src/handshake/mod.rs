//! The TCP handshake, both ends: hello, challenge and proof where there is a secret, accept or
//! refuse; and the figures at the end of the session.
//!
//! Methods come in four sorts: getters; `handle_*`, something happened; commands; `poll_*`, what
//! next. After each `handle_*` or command, send what `poll_transmit` gives until it gives none,
//! then look at `poll_event`.

pub(super) mod client;
mod error;
mod server;

pub use client::{ClientEvent, ClientHandshake, FiguresReader, hello_in_one_go};
pub use error::HandshakeError;
pub use server::{ServerEvent, ServerFailure, ServerHandshake};

#[cfg(test)]
mod tests;
