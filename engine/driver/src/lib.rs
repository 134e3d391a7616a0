//! Completion drivers: the one interface through which workers do I/O, over io_uring, epoll, or a
//! simulated wire.
//!
//! # Contract
//!
//! A worker *pushes* operations and runs *turns*. The three backends keep the same promises, and
//! the suite in `conformance` holds each of them to it:
//!
//! * **Exactly once.** Each pushed operation completes exactly once, with its token, in some later
//!   turn (never inside [`Driver::push`]). A multishot operation completes many times, each time
//!   but the last with [`Completion::more`] set. A zero-copy send completes twice:
//!   [`Outcome::Sent`] with `more`, then [`Outcome::Released`]. With the first its direction is
//!   free: the next send may be pushed, and several may wait for their second.
//! * **Order.** Nothing is promised across sockets. On one socket at most one operation per
//!   direction (receive or accept; send, connect or half-close) may be outstanding; a second one
//!   completes with [`OpError::Busy`].
//! * **Buffers** belong to the driver from the push until the operation is released: at its
//!   completion, for a zero-copy send at the notification. Several sends may share a buffer, which
//!   stays readable; a receive has it alone. Touching a buffer against that is a defect of the
//!   caller, and [`Driver::buffer`] and [`Driver::buffer_mut`] panic. A multishot receive fills
//!   buffers of the driver's pool, which the worker hands back with [`Driver::recycle`]; when the
//!   pool is empty the operation ends with [`OpError::NoBuffers`] and is pushed again.
//! * **Short counts** are normal: a send or a receive may move fewer bytes than asked. A receive of
//!   zero bytes on a stream is its end. A send or receive of length zero completes with zero.
//! * **Repeated sends** ([`Op::SendRepeated`]) are started when their turn comes in the order of
//!   the pushes, in every kind of turn, and never joined: one system call or entry of the ring
//!   each. One that could send something completes in that turn, which then does not sleep. An
//!   error after some sends does not hide them: the operation tells what was sent, and the next one
//!   in that direction fails with the error.
//! * **Discarding** ([`Op::Discard`]) is a receive in every respect, but for the bytes.
//! * **Cancel.** A cancelled operation still completes, with [`OpError::Canceled`] or with its
//!   result if that came first; the cancel itself completes with [`Outcome::CancelDone`], whether
//!   or not it found its target. A cancelled zero-copy send still gives its notification.
//! * **Close** first cancels what is outstanding on the socket: those operations complete
//!   (cancelled) before, or in the same turn as, the close does. The socket's id is dead from the
//!   push on: operations pushed on it later complete with [`OpError::BadSocket`].
//! * **Drop** cancels, drains, and only then frees memory: the kernel must never write into freed
//!   buffers. If draining does not end within a second, the memory is leaked on purpose.
//! * **Time** is an argument. `now` is the worker's last reading of its clock and deadlines are
//!   absolute instants of the same clock. A turn returns at its deadline or later, never earlier
//!   without a completion, except where the wait is interrupted by a signal or by a [`Waker`].
//!
//! A turn submits everything that was pushed before it, in order of the pushes, so an instant read
//! right before the turn is the time of sending for all sends pushed since the last one.
//!
//! # Waiting
//!
//! [`Wait::Poll`] never sleeps. It is the spinning worker's turn, and each backend does there what
//! was measured to be fastest: few receives are attempted again each turn without any readiness
//! machinery (up to [`tare_units::limits::SPIN_ATTEMPTS_MAX`]), many are watched by the kernel. A
//! worker may mix the kinds of turn freely; the driver re-arms what it must.

#![deny(unsafe_code)]
#![deny(missing_docs)]
#![warn(clippy::print_stdout, clippy::exit)]

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use crate::sys::{option, socket};
use tare_units::{Instant, Nanos};

pub mod clock;
#[cfg(test)]
mod conformance;
pub mod epoll;
pub mod io;
mod nonblocking;
pub mod probe;
#[cfg(any(test, feature = "sim"))]
pub mod simulation;
#[expect(unsafe_code, reason = "the one module that may: every block in it has its proof")]
pub mod sys;
pub mod uring;

pub use crate::io::{
    BufferId, Completion, DatagramFrom, DriverError, Op, OpError, Outcome, PoolBuffer, Segment,
    SocketId, SocketKind, SocketOption, SocketSpec, TcpInfo, Token, device_name, shown, towards,
};
pub use tare_units::path::PathMtu;

/// How a turn waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: submit, reap what is there, return.
    Poll,
    /// Sleep in the kernel until one completion is there, or until the instant.
    Until(Instant),
    /// Sleep until `completions` are there; once one is there, at most `within` longer; never past
    /// `deadline`. A backend without the capability treats it as [`Wait::Until`].
    Batch {
        /// How many completions to gather.
        completions: u32,
        /// The bound on gathering, which is part of the printed error.
        within: Nanos,
        /// When to return with none.
        deadline: Instant,
    },
}

/// Which backend a driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// io_uring.
    Uring,
    /// epoll, through mio.
    Epoll,
    /// The simulated wire.
    #[cfg(any(test, feature = "sim"))]
    Sim,
}

impl Backend {
    /// The name in flags, on the wire and in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
            #[cfg(any(test, feature = "sim"))]
            Self::Sim => "sim",
        }
    }
}

/// Which backend to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum BackendChoice {
    /// io_uring where a probe shows that it works, epoll elsewhere.
    #[default]
    Auto,
    /// This one, or an error.
    Only(Backend),
}

/// What a driver can do on this kernel, and how it does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Which backend this is.
    pub backend: Backend,
    /// Zero-copy sends are offered; without it [`Op::Send`] with `zero_copy` copies, and its
    /// [`Outcome::Released`] says so.
    pub zero_copy: bool,
    /// [`Wait::Batch`] is honoured.
    pub batch_wait: bool,
    /// What a turn of [`Wait::Poll`] does instead of waiting, in words fit for the report: it
    /// decides what spinning costs above a bare loop of non-blocking calls.
    pub spinning: &'static str,
    /// Steps down from what this backend would like to use, in words fit for the report, for
    /// example `no DEFER_TASKRUN (needs Linux 6.1)`. Empty when nothing is missing.
    pub step_downs: Vec<String>,
}

/// Wakes a waiting turn from another thread. Cheap to clone.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

impl Waker {
    /// Makes the present or the next waiting turn return soon, possibly with no completion.
    pub fn wake(&self) {
        (self.0)();
    }
}

/// Does I/O for one worker; see the [module](self) for the contract. Not shared between threads.
pub trait Driver {
    /// What [`Driver::adopt`] takes and [`Driver::release`] gives: a descriptor, or a simulated
    /// one.
    type Socket;

    /// Queues `op` for the next turn. Its completion carries `token`.
    ///
    /// # Errors
    /// [`DriverError::Full`] when too many operations are outstanding; the operation is not queued.
    ///
    /// # Panics
    /// When a buffer of `op` is lent (for a send: to a receive), does not exist, or is shorter than
    /// the range.
    fn push(&mut self, token: Token, op: Op) -> Result<(), DriverError>;

    /// Submits what was pushed, waits as told, and appends what completed to `done`, at most
    /// [`tare_units::limits::COMPLETIONS_PER_TURN`] of them. `now` is the caller's reading of its
    /// clock right before the call.
    ///
    /// # Errors
    /// Only what ends the driver; the failure of an operation is its completion.
    fn turn(
        &mut self,
        now: Instant,
        wait: Wait,
        done: &mut Vec<Completion>,
    ) -> Result<(), DriverError>;

    /// What this driver can do, and where it had to step down.
    fn capabilities(&self) -> &Capabilities;

    /// Opens a socket: for a listener or with a local address it is bound (and listening) on
    /// return. A stream that is bound to port 0 gets its port when it connects.
    ///
    /// # Errors
    /// As `socket`, `setsockopt`, `bind` or `listen` answers.
    fn open(&mut self, spec: &SocketSpec) -> Result<SocketId, OpError>;

    /// Opens a stream socket and connects it to the Unix listener at `path`, at once. It sends and
    /// receives as any other; it has no addresses, and no TCP options or figures.
    ///
    /// # Errors
    /// As `socket` or `connect` answers: [`OpError::TryAgain`] while the listener's queue is full,
    /// so the caller tries again later; [`OpError::NotFound`], [`OpError::Refused`] and
    /// [`OpError::AccessDenied`] for the path; [`OpError::NameTooLong`] for one of more than 107
    /// bytes. [`OpError::NotSupported`] on the simulated wire.
    fn connect_unix(&mut self, path: &Path) -> Result<SocketId, OpError> {
        let _ = path;
        Err(OpError::NotSupported)
    }

    /// Takes over a socket that exists already.
    ///
    /// # Errors
    /// When the driver holds as many sockets as it can.
    fn adopt(&mut self, socket: Self::Socket) -> Result<SocketId, OpError>;

    /// Gives the socket away, to be adopted by another driver. Nothing may be outstanding on it.
    ///
    /// # Errors
    /// [`OpError::Busy`] while something is outstanding, [`OpError::BadSocket`] for a dead id.
    fn release(&mut self, socket: SocketId) -> Result<Self::Socket, OpError>;

    /// A second handle on a socket that belongs to no driver, for one of them to adopt. `None`
    /// where there is none to be had.
    fn share(socket: &Self::Socket) -> Option<Self::Socket>;

    /// The local address of a socket, where it has one.
    fn local_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        socket::local_addr(self.descriptor(socket)?)
    }

    /// The peer's address of a connected or accepted socket, where it has one.
    fn peer_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        socket::peer_addr(self.descriptor(socket)?)
    }

    /// The descriptor of a live socket, to ask the kernel what no operation covers. `None` where
    /// there is no kernel.
    fn descriptor(&self, socket: SocketId) -> Option<BorrowedFd<'_>>;

    /// Sets an option of a socket. The simulated wire takes them all and heeds but the low-water
    /// mark and [`SocketOption::ResetOnClose`]; it has neither [`SocketOption::Segmentation`] nor
    /// [`SocketOption::Coalescing`] ([`OpError::NotSupported`]), and of congestion controls `cubic`
    /// and `reno` alone ([`OpError::NotFound`]).
    ///
    /// # Errors
    /// As `setsockopt` answers, [`OpError::NoSuchOption`] and [`OpError::Invalid`] among them;
    /// [`OpError::NotFound`] for an unknown congestion control, [`OpError::BadSocket`] for a dead
    /// id.
    fn set_option(&mut self, socket: SocketId, option: &SocketOption) -> Result<(), OpError> {
        let descriptor = self.descriptor(socket).ok_or(OpError::BadSocket)?;
        option::set(descriptor, option)
    }

    /// What TCP says of a connection; `None` for other sockets and on the simulated wire.
    fn tcp_info(&self, socket: SocketId) -> Option<TcpInfo> {
        option::tcp_info(self.descriptor(socket)?)
    }

    /// Memory that the kernel holds for what a socket has not sent and what was not received from
    /// it, bytes; on the simulated wire what the peer has not read.
    fn kernel_bytes(&self, socket: SocketId) -> Option<u64> {
        option::memory_bytes(self.descriptor(socket)?)
    }

    /// The effective sizes of a socket's send and receive buffers, bytes as the kernel counts them
    /// (twice what [`SocketOption::SendBuffer`] and [`SocketOption::ReceiveBuffer`] asked for);
    /// `None` on the simulated wire.
    fn socket_buffers(&self, socket: SocketId) -> Option<(u32, u32)> {
        option::buffers(self.descriptor(socket)?)
    }

    /// The name of a connection's congestion control; `None` for sockets that are not TCP and on
    /// the simulated wire.
    fn congestion_control(&self, socket: SocketId) -> Option<String> {
        option::congestion_control(self.descriptor(socket)?)
    }

    /// Bytes that were sent and not yet acknowledged by the peer (TCP), or not yet put on the
    /// wire (UDP); `None` on the simulated wire.
    fn send_queue_bytes(&self, socket: SocketId) -> Option<u64> {
        option::send_queue_bytes(self.descriptor(socket)?)
    }

    /// The path's MTU of a connected datagram socket, as the kernel knows it at this moment; `None`
    /// where it does not tell, and on the simulated wire.
    fn path_mtu(&self, socket: SocketId) -> Option<PathMtu> {
        option::path_mtu(self.descriptor(socket)?)
    }

    /// How often the kernel found no room in a socket's receive buffer since the socket was opened;
    /// `None` where it does not tell, and on the simulated wire. With [`SocketOption::Coalescing`],
    /// each time may be several datagrams.
    fn receive_overflows(&self, socket: SocketId) -> Option<u64> {
        option::receive_overflows(self.descriptor(socket)?)
    }

    /// Allocates a buffer of `len` bytes, zeroed. Not to be called in the measured phase.
    ///
    /// # Errors
    /// [`DriverError::Resources`] when there are too many buffers.
    fn allocate(&mut self, len: usize) -> Result<BufferId, DriverError>;

    /// Gives a buffer back; if it is lent, as soon as it is released.
    fn free(&mut self, buffer: BufferId);

    /// The bytes of a buffer.
    ///
    /// # Panics
    /// While the buffer is lent to a receive, and for an id that was freed.
    fn buffer(&self, buffer: BufferId) -> &[u8];

    /// The bytes of a buffer, to be written.
    ///
    /// # Panics
    /// While the buffer is lent to any operation, and for an id that was freed.
    fn buffer_mut(&mut self, buffer: BufferId) -> &mut [u8];

    /// Sets up the pool that multishot receives fill: `count` buffers (a power of two) of `len`
    /// bytes. Once per driver, before the first multishot receive.
    ///
    /// # Errors
    /// When the kernel or the driver cannot.
    fn provide_pool(&mut self, count: u16, len: u32) -> Result<(), DriverError>;

    /// The bytes that a multishot receive left in `buffer`.
    fn pool_bytes(&self, buffer: &PoolBuffer) -> &[u8];

    /// Hands a pool buffer back to be filled again.
    fn recycle(&mut self, buffer: PoolBuffer);

    /// A handle by which another thread ends this driver's wait.
    fn waker(&self) -> Waker;
}
