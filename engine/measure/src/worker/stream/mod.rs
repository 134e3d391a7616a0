//! Bulk payload, one direction each: a [`Sender`] and a [`Receiver`] on a
//! [`Link`](super::link::Link), the same at both ends. Whose connection it is, and how the test
//! begins and ends, is their owner's business.
//!
//! Neither stamps single operations: bytes count when their completion is reaped.

mod pace;
mod receiver;
mod sender;

pub(crate) use receiver::Receiver;
pub(crate) use sender::{Sender, UNSENT_BYTES};

use tare_driver::{Driver, OpError, SocketId, SocketOption};
use tare_proto::hello::{Hello, Transport};
use tare_proto::stream::{Arrivals, BLOCKS_MAX, SocketOptions};
use tare_stats::result::TcpInterval;
use tare_units::Nanos;
use tare_units::limits::{CONTROL_DATAGRAM, DATAGRAM_MAX, INTERVALS_MAX};
use tare_units::path::PathMtu;

/// Bytes that one receive of a TCP stream takes at most. With a low-water mark of the same length,
/// 128 KiB had 38 to 54 Gbit/s over loopback; 64 KiB 22 to 25, 256 KiB 34 to 58 (sends of 128 KiB,
/// Linux 6.18, `benches/bulk.rs`).
pub(crate) const RECEIVE_BYTES: u32 = 128 << 10;
/// Several datagrams, taken at once.
const COALESCED_BYTES: u32 = 64 << 10;

pub(crate) fn receive_bytes(transport: Transport) -> usize {
    match transport {
        Transport::Tcp => RECEIVE_BYTES as usize,
        Transport::Udp => COALESCED_BYTES as usize,
    }
}

pub(crate) fn send_bytes(hello: &Hello) -> usize {
    let size = usize::try_from(hello.size_bytes).unwrap_or(usize::MAX);
    match hello.transport {
        Transport::Tcp => size,
        Transport::Udp if size > DATAGRAM_MAX as usize / 2 => size.max(CONTROL_DATAGRAM),
        Transport::Udp => (DATAGRAM_MAX as usize).max(CONTROL_DATAGRAM),
    }
}

/// What the server's receiver and sender of a stream come to hold beside their buffers and
/// histograms, bytes: their series, their blocks of time, and what is known of datagrams.
pub(crate) fn state_bytes(hello: &Hello) -> usize {
    let (bytes, entry) = (size_of::<u64>(), size_of::<TcpInterval>());
    let receiver = Arrivals::BYTES + (INTERVALS_MAX + BLOCKS_MAX) * bytes;
    let sender = INTERVALS_MAX * (entry + bytes) + BLOCKS_MAX * bytes;
    let (up, down) = (hello.direction.is_up(), hello.direction.is_down());
    usize::from(up) * receiver + usize::from(down) * sender
}

/// After the last datagram was sent, stragglers are given so long to arrive.
pub(crate) const STRAGGLERS: Nanos = Nanos::from_millis(100);

/// The longest datagram of which several are handed to the kernel at once where it does not tell
/// the path's MTU, bytes: it refuses segments that do not fit, and this fits the usual one over
/// IPv6.
const SEGMENT_UNKNOWN: u32 = 1452;
/// Datagrams handed over at once; the kernel's bound is 128, until Linux 6.0 64.
const SEGMENTS_MAX: u32 = 64;

/// How many datagrams of `size` bytes one send hands over: as many as leave whole.
fn datagrams_per_send(size: u32, path: Option<PathMtu>) -> u32 {
    let whole = path.map_or(SEGMENT_UNKNOWN, PathMtu::whole);
    match size <= whole {
        true => (DATAGRAM_MAX / size.max(1)).clamp(1, SEGMENTS_MAX),
        false => 1,
    }
}

/// An option that the kernel does not take.
#[derive(Debug)]
pub(crate) struct RefusedOption {
    option: SocketOption,
    error: OpError,
}

impl RefusedOption {
    /// What is the matter, in words; `kernel` tells whose it is.
    pub(crate) fn message(&self, kernel: &str) -> String {
        let error = self.error;
        match &self.option {
            SocketOption::Congestion(name) => {
                format!("{kernel} does not offer congestion control '{name}': {error}")
            }
            option => format!("{kernel} refuses {option:?}: {error}"),
        }
    }

    pub(crate) const fn remedy(&self) -> &'static str {
        match self.option {
            SocketOption::Congestion(_) => {
                "sysctl net.ipv4.tcp_available_congestion_control names them; modprobe tcp_NAME adds one"
            }
            _ => "leave that option out",
        }
    }
}

/// Sets what was asked for, as far as it is for sockets of that transport.
pub(crate) fn set_options(
    io: &mut impl Driver,
    socket: SocketId,
    asked: &SocketOptions,
    transport: Transport,
) -> Result<(), RefusedOption> {
    for option in options_of(asked, transport) {
        io.set_option(socket, &option).map_err(|error| RefusedOption { option, error })?;
    }
    Ok(())
}

fn options_of(asked: &SocketOptions, transport: Transport) -> impl Iterator<Item = SocketOption> {
    let tcp = transport == Transport::Tcp;
    let options = [
        asked.congestion.clone().filter(|_| tcp).map(SocketOption::Congestion),
        asked.mss_bytes.filter(|_| tcp).map(SocketOption::MaxSegment),
        tcp.then_some(SocketOption::NoDelay(asked.nodelay)),
        asked.dscp.map(|dscp| SocketOption::TrafficClass(dscp << 2)),
        asked.send_buffer_bytes.map(SocketOption::SendBuffer),
        asked.receive_buffer_bytes.map(SocketOption::ReceiveBuffer),
    ];
    options.into_iter().flatten()
}

#[cfg(test)]
mod tests;
