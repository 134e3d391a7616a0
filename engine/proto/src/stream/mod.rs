//! Payload one way or both: what a client asks for, what each end tells of it, and the bytes.
//!
//! # TCP
//!
//! After the accept both ends are silent until the client sends. Its first byte starts the test: of
//! an `up` or `both` stream it is payload; of a `down` stream it is a single byte of any value, to
//! be ignored. From then on the end that sends sends messages of `size_bytes`, back to back or at
//! the rate asked for, until its time or its bytes are over.
//!
//! Payload bytes have their top bit set; else they are random, so that nothing on the path
//! compresses them. A frame begins with `t`, below 0x80: the first such byte from the server begins
//! its figures.
//!
//! The client ends by half-closing: `up` and `both` when it has sent its last byte, `down` when it
//! has heard enough. The server then stops sending (if it had not), sends its figures behind the
//! last payload byte, and closes.
//!
//! A *receiver* measures by its own clock from its first payload byte: after `warmup_ns`, for
//! `duration_ns`; with `bytes`, from the first byte to the last. So no clocks need to agree, and
//! the delay of the path cancels.
//!
//! # UDP
//!
//! ```text
//! byte 0       d3 payload, d4 signal
//! byte 1       flags; bit 0 of payload: sent in the measured phase
//! byte 2..8    sequence, big-endian, from 0 in each direction
//! byte 8..16   session, big-endian
//! byte 16..24  of payload that is long enough: the sender's monotonic clock when it was sent, nanoseconds
//! ```
//!
//! The client starts the test by payload, or, where it sends none, by a signal. Where payload is to
//! come, it signals again whenever it has sent nothing for 100 ms, until it fetches the figures. A
//! server that sends stops when it has heard neither for [`SIGNALS_LOST_AFTER`]: so nobody who has
//! gone, or whose address was another's, is sent to for longer. A signal, and payload whose
//! sequence is a multiple of [`ANSWERED_EVERY`], is answered by a bare reply header where there is
//! no such session (any more), with the flags of [`super::datagram`]; a session that the server has
//! ended by itself answers any payload so, but not each datagram. Both ends send at most until
//! their time is over.
//!
//! Datagrams have one length, the last one too: with `bytes` there may be more payload than was
//! asked for. Datagrams of the measured phase carry a flag, and each end counts those it sent and
//! got: what was sent less what came is lost, to the datagram.

mod arrivals;
mod ask;
mod figures;
mod signal;
mod window;

pub use arrivals::Arrivals;
pub use ask::{SocketOptions, StreamAsk};
pub use figures::{Received, Sent, StreamFigures};
pub use signal::{StreamHeader, StreamKind, sent_at};
pub use window::{BLOCKS_MAX, Blocks, Window};

use tare_units::Nanos;

/// How often a client repeats its signal over UDP.
pub const SIGNAL_EVERY: Nanos = Nanos::from_millis(100);
/// A server stops sending over UDP when it has not heard from its client for so long.
pub const SIGNALS_LOST_AFTER: Nanos = Nanos::from_secs(2);
/// Every so many datagrams of payload, one is answered where there is no session for it.
pub const ANSWERED_EVERY: u64 = 1024;
/// Payload bytes are at least this.
pub const PAYLOAD_BIT: u8 = 0x80;

#[cfg(test)]
mod tests;
