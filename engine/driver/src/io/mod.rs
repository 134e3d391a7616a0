//! The words in which a driver is spoken to, and in which it speaks to the system: operations,
//! completions, sockets.
//!
//! They belong to [`crate`], which gives them out; they stand apart so that `sys`, below it, can
//! use them too.

mod op;
mod operations;
mod repeat;
mod socket;

use std::net::{IpAddr, SocketAddr};

pub(crate) use op::Direction;
pub use op::{Completion, Op, OpError, Outcome, Segment, Token};
pub(crate) use operations::{OPERATIONS_MAX, Operations};
pub(crate) use repeat::Repeated;
pub use socket::{SocketOption, TcpInfo, device_name, shown, towards};

/// A socket that a driver holds. Ids are reused after the close has completed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u32);

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
    /// `TCP_NODELAY` (streams; accepted sockets of a listener likewise).
    pub nodelay: bool,
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
            nodelay: true,
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
        Self { kind: SocketKind::Datagram, nodelay: false, ..Self::stream_to(remote) }
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
