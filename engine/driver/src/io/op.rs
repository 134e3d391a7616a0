//! Operations, their completions, and the closed set of ways in which they fail.

use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use super::{BufferId, DatagramFrom, PoolBuffer, SocketId};
use tare_units::Nanos;
use tare_units::limits::SEGMENTS_MAX;

/// Names an operation to the worker that pushed it; drivers carry it and never read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// A range of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The buffer.
    pub buffer: BufferId,
    /// First byte.
    pub start: u32,
    /// How many bytes.
    pub len: u32,
}

/// What to do. Sizes are bytes.
#[expect(missing_docs, reason = "fields are explained with their variant, where they need it")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Take connections off a listener: one, or (`multishot`) all that come.
    Accept { listener: SocketId, multishot: bool },
    /// Connect a stream, or set a datagram socket's peer.
    Connect { socket: SocketId, to: SocketAddr },
    /// Send on a connected socket. `zero_copy` asks the kernel to send from the buffer itself.
    Send { socket: SocketId, data: Segment, zero_copy: bool },
    /// Send a range again and again, each time as a send of its own, on a connected socket. It ends
    /// when `count` were sent, or as soon as the kernel took a part of one only or would have to
    /// wait, and waits itself only while nothing at all could be sent. The turn lasts as long as
    /// the sends do, so `count` bounds it.
    SendRepeated { socket: SocketId, data: Segment, count: u32 },
    /// Send several ranges, in order, as one; the first `None` ends them.
    SendVectored { socket: SocketId, data: [Option<Segment>; SEGMENTS_MAX] },
    /// Receive into a buffer.
    Receive { socket: SocketId, into: Segment },
    /// Receive from a TCP stream and throw away, without copying (`MSG_TRUNC`, `tcp(7)`). On
    /// another socket it fails.
    Discard { socket: SocketId, len: u32 },
    /// Receive again and again into buffers of the pool, until the end of the stream or an error.
    ReceiveMultishot { socket: SocketId },
    /// Receive from a TCP stream with the kernel's own stamp of the arrival, where
    /// [`SocketOption::ReceiveTimestamps`](super::SocketOption::ReceiveTimestamps) asked for it.
    ReceiveStamped { socket: SocketId, into: Segment },
    /// Send one datagram to an address; from the local address `source`, on a socket that is bound
    /// to all of them.
    SendTo { socket: SocketId, data: Segment, to: SocketAddr, source: Option<IpAddr> },
    /// Receive one datagram with its addresses. A longer one is cut off, and the completion says
    /// so.
    ReceiveFrom { socket: SocketId, into: Segment },
    /// Send the end of the stream; receiving goes on.
    HalfClose { socket: SocketId },
    /// Close, cancelling what is outstanding.
    Close { socket: SocketId },
    /// Cancel the operation with that token.
    Cancel { token: Token },
}

impl Op {
    /// The socket and the direction that it takes. A close takes no direction, and a cancel no
    /// socket.
    #[inline]
    pub(crate) const fn target(&self) -> Option<(SocketId, Option<Direction>)> {
        match *self {
            Self::Accept { listener, .. } => Some((listener, Some(Direction::In))),
            Self::Receive { socket, .. }
            | Self::Discard { socket, .. }
            | Self::ReceiveMultishot { socket }
            | Self::ReceiveFrom { socket, .. }
            | Self::ReceiveStamped { socket, .. } => Some((socket, Some(Direction::In))),
            Self::Connect { socket, .. }
            | Self::Send { socket, .. }
            | Self::SendRepeated { socket, .. }
            | Self::SendVectored { socket, .. }
            | Self::SendTo { socket, .. }
            | Self::HalfClose { socket } => Some((socket, Some(Direction::Out))),
            Self::Close { socket } => Some((socket, None)),
            Self::Cancel { .. } => None,
        }
    }

    /// Whether it is a receive that ends with its first completion, which a spinning turn attempts.
    #[inline]
    pub(crate) const fn is_single_receive(&self) -> bool {
        matches!(
            self,
            Self::Receive { .. }
                | Self::Discard { .. }
                | Self::ReceiveFrom { .. }
                | Self::ReceiveStamped { .. }
        )
    }

    /// The outcome of a receive of length zero. It is given without a call, since the kernel would
    /// answer `EAGAIN` while no data is there.
    #[inline]
    pub(crate) const fn empty_receive(&self) -> Option<Outcome> {
        match self {
            Self::Receive { into: Segment { len: 0, .. }, .. } | Self::Discard { len: 0, .. } => {
                Some(Outcome::Received(0))
            }
            Self::ReceiveStamped { into: Segment { len: 0, .. }, .. } => {
                Some(Outcome::ReceivedStamped { len: 0, at: None })
            }
            _ => None,
        }
    }

    /// The system call that carries it out, for the text of an errno that is not expected.
    pub(crate) const fn call(&self) -> &'static str {
        match self {
            Self::Accept { .. } => "accept",
            Self::Connect { .. } => "connect",
            Self::Send { .. } | Self::SendRepeated { .. } => "send",
            Self::SendVectored { .. } | Self::SendTo { .. } => "sendmsg",
            Self::Receive { .. } | Self::Discard { .. } | Self::ReceiveMultishot { .. } => "recv",
            Self::ReceiveFrom { .. } | Self::ReceiveStamped { .. } => "recvmsg",
            Self::HalfClose { .. } => "shutdown",
            Self::Close { .. } => "close",
            Self::Cancel { .. } => "io_uring cancel",
        }
    }

    /// Calls `each` with every range of a buffer that it names.
    #[inline]
    pub(crate) fn for_each_segment(&self, mut each: impl FnMut(Segment)) {
        match self {
            Self::Send { data: segment, .. }
            | Self::SendRepeated { data: segment, .. }
            | Self::SendTo { data: segment, .. }
            | Self::Receive { into: segment, .. }
            | Self::ReceiveFrom { into: segment, .. }
            | Self::ReceiveStamped { into: segment, .. } => each(*segment),
            Self::SendVectored { data, .. } => data.iter().map_while(|s| *s).for_each(each),
            _ => {}
        }
    }
}

/// One of the two directions in which a socket may have one operation each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Receive or accept.
    In,
    /// Send, connect or half-close.
    Out,
}

/// What is outstanding on a socket.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// The place of the operation without a result yet in each [`Direction`].
    pub(crate) operations: [Option<u32>; 2],
    /// What ended a repeated send that had sent something. The kernel reports it once, so the next
    /// operation in that direction fails with it.
    pub(crate) send_error: Option<OpError>,
    /// A close was pushed: the id is dead.
    pub(crate) closing: bool,
}

impl Pending {
    /// Whether an operation, other than a close, has no result yet.
    pub(crate) const fn is_busy(&self) -> bool {
        !matches!(self.operations, [None, None])
    }

    /// Whether an operation in that direction can be pushed now, or a close.
    #[inline]
    pub(crate) fn admit(&mut self, direction: Option<Direction>) -> Result<(), OpError> {
        match direction {
            Some(direction) if self.operations[direction as usize].is_some() => Err(OpError::Busy),
            Some(Direction::Out) => self.send_error.take().map_or(Ok(()), Err),
            Some(Direction::In) => Ok(()),
            None => {
                self.closing = true;
                Ok(())
            }
        }
    }
}

/// How an operation ended.
#[expect(missing_docs, reason = "fields are explained with their variant, where they need it")]
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A connection came in; the driver holds it under this id.
    Accepted(SocketId),
    /// The connection stands.
    Connected,
    /// That many bytes were taken.
    Sent(u32),
    /// Of a repeated send `sends` were taken whole, and `bytes` in all: those above whole sends
    /// belong to a last one that was cut.
    SentRepeated { sends: u32, bytes: u64 },
    /// A zero-copy send's buffer is free again. `copied`: the kernel copied all the same.
    Released { copied: bool },
    /// That many bytes came, or were discarded; zero is the end of the stream.
    Received(u32),
    /// That many bytes came into a pool buffer, to be recycled; no buffer at the end of the stream.
    ReceivedInPool { buffer: Option<PoolBuffer>, len: u32 },
    /// As [`Outcome::Received`], for a receive with a stamp: when the segment that brought the last
    /// of the bytes arrived at the host, by `CLOCK_REALTIME`, since the epoch. On the simulated
    /// wire, by its clock. `None` without a stamp, as at the end of the stream.
    ReceivedStamped { len: u32, at: Option<Nanos> },
    /// A datagram came, of which `len` bytes were stored; `truncated` where it was longer than the
    /// buffer.
    ReceivedFrom { len: u32, addresses: DatagramFrom, truncated: bool },
    /// The end of the stream was sent.
    HalfClosed,
    /// The socket is closed.
    Closed,
    /// The cancel was carried out, or found nothing.
    CancelDone { found: bool },
    /// It failed.
    Failed(OpError),
}

/// A completed operation.
#[derive(Debug, PartialEq, Eq)]
pub struct Completion {
    /// The token of its push.
    pub token: Token,
    /// How it ended.
    pub outcome: Outcome,
    /// More completions of the same operation will come.
    pub more: bool,
}

impl Completion {
    #[inline]
    pub(crate) const fn last(token: Token, outcome: Outcome) -> Self {
        Self { token, outcome, more: false }
    }
}

/// The loop of [`Op::SendRepeated`], over whichever call sends: sends `len` bytes `count` times,
/// until one is taken in part or not at all. Gives the outcome, and what ended it after something
/// was sent.
///
/// # Errors
/// As `send` answers where nothing was sent before, `EAGAIN` among them.
#[inline]
pub(crate) fn send_repeatedly(
    count: u32,
    len: u32,
    mut send: impl FnMut() -> Result<usize, Errno>,
) -> Result<(Outcome, Option<Errno>), Errno> {
    let (mut sends, mut bytes, mut error) = (0, 0, None);
    while sends < count {
        match send() {
            Ok(taken) => {
                bytes += taken as u64;
                if taken < len as usize {
                    break;
                }
                sends += 1;
            }
            Err(errno) if sends == 0 => return Err(errno),
            Err(errno) => {
                error = Some(errno).filter(|errno| *errno != Errno::EAGAIN);
                break;
            }
        }
    }
    Ok((Outcome::SentRepeated { sends, bytes }, error))
}

macro_rules! op_errors {
    ($($(#[$doc:meta])* $variant:ident = $errno:ident,)*) => {
        /// Why an operation failed: one variant for each errno that socket operations are
        /// documented to give (man pages of the calls), and [`OpError::Os`] for any other.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum OpError {
            $($(#[$doc])* $variant,)*
            /// A second operation in the same direction of one socket, or a socket released too
            /// early.
            Busy,
            /// The socket id is dead.
            BadSocket,
            /// Another errno than those, from the named system call.
            Os {
                /// The system call.
                call: &'static str,
                /// Its errno.
                errno: i32,
            },
        }

        impl OpError {
            /// Maps the errno of `call`.
            pub const fn from_errno(call: &'static str, errno: i32) -> Self {
                match errno {
                    $(libc::$errno => Self::$variant,)*
                    _ => Self::Os { call, errno },
                }
            }

            /// The errno's name as reports print it, for example `ECONNREFUSED`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($errno),)*
                    Self::Busy => "EBUSY",
                    Self::BadSocket => "EBADF",
                    Self::Os { .. } => "unknown errno",
                }
            }

            /// The errno, where there is one.
            pub const fn errno(self) -> Option<i32> {
                match self {
                    $(Self::$variant => Some(libc::$errno),)*
                    Self::Os { errno, .. } => Some(errno),
                    Self::Busy | Self::BadSocket => None,
                }
            }
        }
    };
}

op_errors! {
    /// The peer refuses connections on that port.
    Refused = ECONNREFUSED,
    /// The peer reset the connection.
    Reset = ECONNRESET,
    /// The connection was aborted before it could be accepted.
    Aborted = ECONNABORTED,
    /// The kernel gave up waiting for the peer.
    TimedOut = ETIMEDOUT,
    /// No route to the host.
    HostUnreachable = EHOSTUNREACH,
    /// No route to the network.
    NetworkUnreachable = ENETUNREACH,
    /// The network interface is down.
    NetworkDown = ENETDOWN,
    /// The peer has closed; nothing more can be sent.
    BrokenPipe = EPIPE,
    /// The socket is not connected.
    NotConnected = ENOTCONN,
    /// The address, or every ephemeral port towards the peer, is in use.
    AddressInUse = EADDRINUSE,
    /// No ephemeral port is left, or the address is not on this machine.
    AddressNotAvailable = EADDRNOTAVAIL,
    /// The address family is switched off.
    FamilyNotSupported = EAFNOSUPPORT,
    /// Cancelled, or its socket was closed.
    Canceled = ECANCELED,
    /// The receive pool is empty, or the kernel's buffers are full.
    NoBuffers = ENOBUFS,
    /// There is no room yet, where waiting for it is the caller's: the queue of a Unix listener is
    /// full.
    TryAgain = EAGAIN,
    /// The path is too long for the address of a Unix socket.
    NameTooLong = ENAMETOOLONG,
    /// The kernel has no memory for it (or `RLIMIT_MEMLOCK` is too small).
    NoMemory = ENOMEM,
    /// This process has too many descriptors open (`RLIMIT_NOFILE`).
    TooManyFiles = EMFILE,
    /// The machine has too many descriptors open.
    TooManyFilesSystem = ENFILE,
    /// The datagram is too large for the path or the protocol.
    MessageTooLong = EMSGSIZE,
    /// Not permitted: a firewall rule, a seccomp profile, or a missing capability.
    NotPermitted = EPERM,
    /// Access denied: a broadcast address, the modes of a Unix socket's path, or a security module.
    AccessDenied = EACCES,
    /// There is nothing of that name: a congestion control, a device, a Unix socket.
    NotFound = ENOENT,
    /// The kernel or the protocol does not have the option.
    NoSuchOption = ENOPROTOOPT,
    /// The kernel does not know the operation or an argument.
    Invalid = EINVAL,
    /// The kernel does not have the system call.
    NotImplemented = ENOSYS,
    /// The protocol or socket does not support the operation.
    NotSupported = EOPNOTSUPP,
}

impl std::fmt::Display for OpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let desc = self.errno().map_or("", |errno| Errno::from_raw(errno).desc());
        match self {
            Self::Os { call, errno } => write!(f, "{call}: errno {errno} ({desc})"),
            Self::Busy => f.write_str("an operation is already outstanding (EBUSY)"),
            Self::BadSocket => f.write_str("the socket is closed (EBADF)"),
            known => write!(f, "{desc} ({})", known.name()),
        }
    }
}

impl std::error::Error for OpError {}

impl From<(&'static str, Errno)> for OpError {
    fn from((call, errno): (&'static str, Errno)) -> Self {
        Self::from_errno(call, errno as i32)
    }
}

impl From<(&'static str, &std::io::Error)> for OpError {
    fn from((call, error): (&'static str, &std::io::Error)) -> Self {
        Self::from_errno(call, error.raw_os_error().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_sends_end_with_the_count_a_full_buffer_or_an_error() {
        let (reset, full) = (Errno::ECONNRESET, Errno::EAGAIN);
        type Answers<'a> = &'a [Result<usize, Errno>];
        let cases: [(u32, Answers<'_>, Result<(u32, u64, Option<Errno>), Errno>); 8] = [
            (0, &[], Ok((0, 0, None))),
            (3, &[Ok(10), Ok(10), Ok(10)], Ok((3, 30, None))),
            (9, &[Ok(10), Ok(4)], Ok((1, 14, None))),
            (9, &[Ok(3)], Ok((0, 3, None))),
            (9, &[Ok(10), Err(full)], Ok((1, 10, None))),
            (9, &[Err(full)], Err(full)),
            (9, &[Err(reset)], Err(reset)),
            (9, &[Ok(10), Err(reset)], Ok((1, 10, Some(reset)))),
        ];
        for (count, answers, expected) in cases {
            let mut left = answers.iter().copied();
            let sent = send_repeatedly(count, 10, || left.next().expect("one send too many"));
            assert_eq!(left.next(), None, "one send too few: {answers:?}");
            let expected = expected
                .map(|(sends, bytes, error)| (Outcome::SentRepeated { sends, bytes }, error));
            assert_eq!(sent, expected, "{answers:?}");
        }
    }
}
