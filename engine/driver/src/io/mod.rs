//! The words in which a driver is spoken to, and in which it speaks to the system: operations,
//! completions, sockets.
//!
//! They belong to [`crate`], which gives them out; they stand apart so that `sys`, below it, can
//! use them too.

mod op;
mod operations;

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

pub use op::{Completion, Op, OpError, Outcome, Segment, Token};
pub(crate) use op::{Direction, Pending, send_repeatedly};
pub(crate) use operations::{OPERATIONS_MAX, Operations};
use tare_units::Nanos;

/// A socket that a driver holds. Ids are reused after the close has completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u32);

impl Default for SocketId {
    /// No socket.
    fn default() -> Self {
        Self(u32::MAX)
    }
}

/// A buffer in a driver's arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// A buffer of the driver's receive pool that a multishot receive has filled.
#[derive(Debug, PartialEq, Eq)]
pub struct PoolBuffer(pub u16);

/// Stream or datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// A TCP connection yet to be connected.
    Stream,
    /// A TCP listener; [`SocketSpec::local`] is the address to listen on.
    Listener,
    /// A UDP socket.
    Datagram,
}

/// What socket to open.
#[derive(Debug, Clone)]
pub struct SocketSpec {
    /// Stream, listener or datagram.
    pub kind: SocketKind,
    /// Decides the address family where `local` is absent.
    pub ipv6: bool,
    /// The address to bind to. For an IPv6 wildcard listener or datagram socket the driver asks for
    /// dual stack.
    pub local: Option<SocketAddr>,
    /// Share the local port (`SO_REUSEPORT`): a server's per-session datagram sockets.
    pub reuse_port: bool,
    /// Leave Nagle's algorithm on (streams; accepted sockets of a listener likewise).
    pub nagle: bool,
    /// Report the local address of each datagram (`IP_PKTINFO`), so that an answer can leave from
    /// it.
    pub packet_info: bool,
    /// `SO_RCVBUF`, bytes, as the kernel counts.
    pub receive_buffer: Option<u32>,
    /// It lives for one exchange: what a driver prepares for sockets that last would cost more than
    /// it saves.
    pub brief: bool,
}

impl SocketSpec {
    /// A TCP socket without options but `TCP_NODELAY`, in the family of `remote`.
    pub const fn stream_to(remote: SocketAddr) -> Self {
        Self {
            kind: SocketKind::Stream,
            ipv6: remote.is_ipv6(),
            local: None,
            reuse_port: false,
            nagle: false,
            packet_info: false,
            receive_buffer: None,
            brief: false,
        }
    }

    /// Whether the socket is of the IPv6 family.
    pub fn is_ipv6(&self) -> bool {
        self.local.map_or(self.ipv6, |local| local.is_ipv6())
    }

    /// An unbound UDP socket in the family of `remote`.
    pub const fn datagram_to(remote: SocketAddr) -> Self {
        Self { kind: SocketKind::Datagram, ..Self::stream_to(remote) }
    }

    /// A TCP listener on `local`.
    pub const fn listener(local: SocketAddr) -> Self {
        Self { kind: SocketKind::Listener, local: Some(local), ..Self::stream_to(local) }
    }
}

/// What ends a driver rather than one operation.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// More operations are outstanding than a driver takes.
    #[error("more than {OPERATIONS_MAX} operations outstanding on one worker")]
    Full,
    /// A buffer, a socket slot or the driver itself could not be had.
    #[error("{what}: {source}")]
    Resources {
        /// What was asked for, with the remedy where there is one.
        what: &'static str,
        /// The operating system's answer.
        source: OpError,
    },
    /// A system call that must not fail has failed.
    #[error("{call} failed: {source}")]
    Call {
        /// The system call.
        call: &'static str,
        /// Its errno.
        source: OpError,
    },
}

impl DriverError {
    pub(crate) fn call<E>(call: &'static str, error: E) -> Self
    where
        OpError: From<(&'static str, E)>,
    {
        Self::Call { call, source: OpError::from((call, error)) }
    }

    pub(crate) fn resources<E>(what: &'static str, call: &'static str, error: E) -> Self
    where
        OpError: From<(&'static str, E)>,
    {
        Self::Resources { what, source: OpError::from((call, error)) }
    }
}

/// The address pair of a datagram: where it came from, and to which local address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatagramFrom {
    /// The sender.
    pub from: SocketAddr,
    /// The local address it was sent to, where [`SocketSpec::packet_info`] asked for it.
    pub local: Option<IpAddr>,
}

/// The local address `local` as a socket for `to` is bound to it: a link-local one that nobody gave
/// a zone takes that of `to`, since both are on the same link (RFC 4007, section 6).
pub const fn towards(local: SocketAddr, to: SocketAddr) -> SocketAddr {
    match (local, to) {
        (SocketAddr::V6(own), SocketAddr::V6(to))
            if own.scope_id() == 0 && own.ip().is_unicast_link_local() =>
        {
            SocketAddr::V6(SocketAddrV6::new(*own.ip(), own.port(), 0, to.scope_id()))
        }
        _ => local,
    }
}

/// The name of the network device with this number, where there is one.
pub fn device_name(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?;
    // Where there is none, nix finds an empty name.
    name.into_string().ok().filter(|name| !name.is_empty())
}

/// An address without its port, as it is typed: a zone by its device's name, `fe80::1%eth0`.
pub fn shown(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => {
            let index = v6.scope_id();
            let name = device_name(index).unwrap_or_else(|| index.to_string());
            format!("{}%{name}", v6.ip())
        }
        _ => address.ip().to_string(),
    }
}

/// An option of a socket. The names of the kernel's options are those of `socket(7)`, `tcp(7)`,
/// `udp(7)`, `ip(7)` and `ipv6(7)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketOption {
    /// `TCP_NODELAY`: a small segment does not wait for the acknowledgement of those before it.
    NoDelay(bool),
    /// `TCP_CONGESTION`, by name. An unknown one is [`OpError::NotFound`], one that is kept for
    /// privileged processes [`OpError::NotPermitted`].
    Congestion(String),
    /// `TCP_MAXSEG`, bytes. What the kernel cannot do is [`OpError::Invalid`].
    MaxSegment(u32),
    /// `IP_TOS` and, on an IPv6 socket, `IPV6_TCLASS` as well: the whole octet, of which DSCP are
    /// the upper six bits.
    TrafficClass(u8),
    /// `SO_SNDBUF`, bytes. The kernel doubles it, for its own bookkeeping, and caps it without a
    /// word: what came of it tells [`Driver::socket_buffers`](crate::Driver::socket_buffers).
    SendBuffer(u32),
    /// `SO_RCVBUF`, bytes, as [`SocketOption::SendBuffer`].
    ReceiveBuffer(u32),
    /// `SO_RCVLOWAT`, bytes: with fewer there, a TCP socket does not count as readable. It delays
    /// what waits for readiness; a receive that is attempted takes what is there.
    ReceiveLowWater(u32),
    /// `TCP_NOTSENT_LOWAT`, bytes: with more than that in the send buffer and not sent yet, nothing
    /// more is taken.
    UnsentLowWater(u32),
    /// `SO_LINGER` of zero: a close throws away what the peer has not taken, and resets the
    /// connection, in place of leaving the kernel to send it to whoever may never read it.
    ResetOnClose,
    /// `UDP_SEGMENT`, bytes: the kernel cuts each send into datagrams of that size. Zero switches
    /// it off.
    Segmentation(u16),
    /// `SO_TIMESTAMPNS`: the kernel stamps what arrives, for [`Op::ReceiveStamped`]. What a listener
    /// accepts inherits it. It begins a little after it was set. The simulated wire stamps always.
    ReceiveTimestamps(bool),
    /// `UDP_GRO`: one receive may bring several datagrams of one flow.
    Coalescing(bool),
}

/// What TCP says of a connection (`TCP_INFO`, `struct tcp_info` of `linux/tcp.h`). Counts are since
/// the connection was made; what kernels before Linux 4.10 do not report is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// Segments sent again (`tcpi_total_retrans`).
    pub retransmits: u64,
    /// Timeouts of the segment that is sent again at present, without an answer (`tcpi_backoff`).
    pub backoff: u8,
    /// The congestion window, segments.
    pub cwnd_segments: u32,
    /// The size of the segments that are sent, bytes (`tcpi_snd_mss`).
    pub mss_bytes: u32,
    /// The smoothed round-trip time. The kernel keeps it, as all its times here, in microseconds.
    pub rtt: Nanos,
    /// The shortest round-trip time of the last minutes; without a measurement about 71 minutes.
    pub min_rtt: Nanos,
    /// How long there was something to send.
    pub busy: Nanos,
    /// How much of it the peer's window held sending up.
    pub rwnd_limited: Nanos,
    /// How much of it the send buffer did.
    pub sndbuf_limited: Nanos,
    /// Segments sent that carried data.
    pub data_segments_out: u64,
    /// Segments received.
    pub segments_in: u64,
    /// Bytes sent that the peer has acknowledged.
    pub acked_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_source_takes_the_targets_zone_unless_it_has_its_own() {
        for (local, to, bound) in [
            ("[fe80::1]:0", "[fe80::2%3]:80", "[fe80::1%3]:0"),
            ("[fe80::1%4]:0", "[fe80::2%3]:80", "[fe80::1%4]:0"),
            ("[fd00::1]:0", "[fe80::2%3]:80", "[fd00::1]:0"),
            ("[fe80::1]:0", "[fd00::2]:80", "[fe80::1]:0"),
            ("10.0.0.1:0", "10.0.0.2:80", "10.0.0.1:0"),
        ] {
            let [local, to, bound] = [local, to, bound].map(|text| text.parse().unwrap());
            assert_eq!(towards(local, to), bound);
        }
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        assert_eq!(shown(format!("[fe80::1%{lo}]:0").parse().unwrap()), "fe80::1%lo");
        assert_eq!(shown("[fd00::1]:7".parse().unwrap()), "fd00::1");
        assert_eq!(shown("10.0.0.1:7".parse().unwrap()), "10.0.0.1");
    }
}
