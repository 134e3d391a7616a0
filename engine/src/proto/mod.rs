//! placeholder
/// Version of the protocol.
pub const VERSION: u8 = 1;

pub mod auth;
pub mod frame;
pub mod handshake;
pub mod hello;
pub mod ping_pong;
pub mod text;

#[cfg(test)]
mod tests;
