//! Bulk payload, one direction each: a [`Sender`] and a [`Receiver`] on a [`Link`](super::link::Link), the same at both
//! ends. Whose connection it is, and how the test begins and ends, is their owner's business.
//!
//! Neither stamps single operations: bytes count when their completion is reaped.

mod pace;
mod receiver;
mod sender;

pub use receiver::Receiver;
pub use sender::Sender;

use crate::driver::SocketOption;
use crate::limits::{CONTROL_DATAGRAM, DATAGRAM_MAX};
use crate::proto::hello::{Hello, Transport};
use crate::proto::stream::SocketOptions;

/// Bytes that one receive of a TCP stream takes at most. With a low-water mark of the same length, 128 KiB had 38 to
/// 54 Gbit/s over loopback; 64 KiB 22 to 25, 256 KiB 34 to 58 (sends of 128 KiB, Linux 6.18, `benches/bulk.rs`).
pub const RECEIVE_BYTES: u32 = 128 << 10;
/// Several datagrams, taken at once.
const COALESCED_BYTES: u32 = 64 << 10;

/// The receive buffer that a stream needs, bytes.
#[must_use]
pub fn receive_bytes(transport: Transport) -> usize {
    match transport {
        Transport::Tcp => RECEIVE_BYTES as usize,
        Transport::Udp => COALESCED_BYTES as usize,
    }
}

/// The send buffer that a stream needs, bytes.
#[must_use]
pub fn send_bytes(hello: &Hello) -> usize {
    let size = usize::try_from(hello.size_bytes).unwrap_or(usize::MAX);
    match hello.transport {
        Transport::Tcp => size,
        Transport::Udp if size > SEGMENT_MAX => size.max(CONTROL_DATAGRAM),
        Transport::Udp => (DATAGRAM_MAX as usize).max(CONTROL_DATAGRAM),
    }
}

/// The longest datagram of which several are handed to the kernel at once, bytes: it refuses segments that do not fit
/// the device's MTU, and this fits the usual one over IPv6.
const SEGMENT_MAX: usize = 1452;
/// Datagrams handed over at once; the kernel's own bound is 128, until Linux 6.0 64 (`UDP_MAX_SEGMENTS`).
const SEGMENTS_MAX: usize = 64;

/// The options that were asked for, as they are set on a socket of that transport.
pub fn socket_options(
    asked: &SocketOptions,
    transport: Transport,
) -> impl Iterator<Item = SocketOption> {
    let tcp = transport == Transport::Tcp;
    let options = [
        asked
            .congestion
            .clone()
            .filter(|_| tcp)
            .map(SocketOption::Congestion),
        asked
            .mss_bytes
            .filter(|_| tcp)
            .map(SocketOption::MaxSegment),
        tcp.then_some(SocketOption::NoDelay(asked.nodelay)),
        asked.dscp.map(|dscp| SocketOption::TrafficClass(dscp << 2)),
        asked.send_buffer_bytes.map(SocketOption::SendBuffer),
        asked.receive_buffer_bytes.map(SocketOption::ReceiveBuffer),
    ];
    options.into_iter().flatten()
}
