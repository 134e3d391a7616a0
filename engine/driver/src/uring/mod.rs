//! The io_uring backend.
//!
//! # The spinning turn
//!
//! While the worker spins and few receives are pending, they are not left to the kernel's readiness
//! machinery: each turn attempts them again, by plain non-blocking receives. Attempts through the
//! ring (`MSG_DONTWAIT` entries) were tried and lost: one that finds nothing takes 420 ns against
//! 233 ns (Linux 6.18, where 217 ns are the bare system call), and a 64-byte ping-pong with one end
//! on the ring had its p50 0.2–0.4 µs above the bare loop's against 0.13–0.16 µs.
//!
//! Plain sends of one buffer are then tried by a plain call as well, in the order of the pushes,
//! and only one that finds no room goes through the ring. With both ends so, a 64-byte ping-pong of
//! the whole engine had its p50 0.33 and 0.35 µs above the bare loop's, against 0.72 and 0.55 µs
//! with sends through the ring (two series, medians of 16 paired blocks each).
//!
//! Above [`SPIN_ATTEMPTS_MAX`] receives are armed, and a turn with nothing to submit looks at the
//! ring's flags in user memory (`IORING_SQ_TASKRUN`) instead of entering the kernel: 0.5 µs above
//! the bare loop, and the same for any number of connections.
//!
//! # What does not go through the ring
//!
//! A half-close and the close itself are plain system calls, made in the order of the pushes:
//! neither sleeps, and the kernel hands `IORING_OP_SHUTDOWN` to a worker thread always. So is the
//! connect of a datagram socket: where no port is left it fails with `EAGAIN`, which the ring takes
//! for "not yet", and waits for what never comes.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::SockRef;

use crate::clock::{Clock, MonotonicClock};
use crate::io::OPERATIONS_MAX;
use crate::sys::flight::{Entered, File, InFlight};
use crate::sys::socket;
use crate::{
    Backend, BufferId, Capabilities, Completion, Driver, DriverError, Op, OpError, Outcome,
    PoolBuffer, SocketId, SocketKind, SocketSpec, Token, Wait, Wake, Waker,
};
use tare_units::limits::{COMPLETIONS_PER_TURN, SOCKETS_MAX, SPIN_ATTEMPTS_MAX};
use tare_units::{Instant, Nanos};

mod complete;
mod start;

/// Operations for which room is made at the start; more is made as more come.
const ROOM: usize = 256;

/// For [`Capabilities::spinning`].
const SPINNING: &str = "plain send and recv while at most 4 receives are pending, else the ring";
const _: () = assert!(SPIN_ATTEMPTS_MAX == 4, "as the words say");

#[derive(Debug)]
struct Socket {
    /// There until the close is carried out.
    descriptor: Option<OwnedFd>,
    file: File,
    is_stream: bool,
    /// The operation without a result yet in each direction.
    outstanding: [Option<u32>; 2],
    /// What ended a repeated send that had sent something; for the next operation in that
    /// direction.
    send_error: Option<OpError>,
    /// Zero-copy sends that have their result and not their notification.
    notifications: u32,
    /// A close was pushed: the id is dead.
    closing: bool,
    /// The close that was started, and waits for the operations.
    close: Option<u32>,
    /// The end of the stream was sent, and the close waits for zero-copy notifications alone.
    ended: bool,
}

impl Socket {
    /// An operation, other than the close, has no result yet.
    const fn is_busy(&self) -> bool {
        matches!(self.outstanding, [Some(_), _] | [_, Some(_)])
    }
}

/// Does I/O over io_uring, for the thread that made it.
#[derive(Debug)]
pub struct UringDriver {
    // Dropped first: it cancels what is in flight before the descriptors are closed.
    flights: InFlight,
    sockets: Vec<Option<Socket>>,
    vacant: Vec<u32>,
    /// Pushed, not yet started.
    queued: VecDeque<u32>,
    /// Receives that are attempted again in each turn that does not wait.
    spinning: Vec<u32>,
    /// Single receives that have no result yet, attempted or armed.
    receives: usize,
    /// Completions that no entry of the ring stands for.
    ready: VecDeque<Completion>,
    waker: Arc<EventFd>,
    /// The waker fired, and no waiting turn has returned because of it yet.
    woken: bool,
    capabilities: Capabilities,
}

#[derive(Debug)]
struct EventWaker(Arc<EventFd>);

impl Wake for EventWaker {
    fn wake(&self) {
        // Fails only when the counter is full, and then the turn is about to wake up anyway.
        let _ = self.0.write(1);
    }
}

impl UringDriver {
    /// Sets up a ring for the calling thread, the only one that may use it.
    ///
    /// # Errors
    /// [`DriverError::Resources`] where the kernel denies a ring or lacks an operation that is
    /// needed, [`DriverError::Call`] where it gives a ring and denies its use. [`super::probe`]
    /// puts both into words.
    pub fn new() -> Result<Self, DriverError> {
        let (mut flights, step_downs) = InFlight::new()?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let waker = EventFd::from_flags(flags)
            .map_err(|e| DriverError::resources("eventfd", "eventfd", e))?;
        flights.arm_waker(&waker)?;
        flights.poll()?;
        Ok(Self {
            capabilities: Capabilities {
                backend: Backend::Uring,
                zero_copy: flights.zero_copy(),
                batch_wait: true,
                spinning: SPINNING,
                step_downs,
            },
            flights,
            sockets: Vec::with_capacity(ROOM),
            vacant: Vec::with_capacity(ROOM),
            queued: VecDeque::with_capacity(ROOM),
            spinning: Vec::with_capacity(SPIN_ATTEMPTS_MAX),
            receives: 0,
            ready: VecDeque::with_capacity(ROOM),
            waker: Arc::new(waker),
            woken: false,
        })
    }

    /// Completions that overflowed the ring, and were delivered late but not lost.
    pub fn overflows(&self) -> u64 {
        self.flights.overflows()
    }

    fn socket(&self, id: SocketId) -> Option<&Socket> {
        self.sockets.get(id.0 as usize)?.as_ref()
    }

    fn socket_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.sockets.get_mut(id.0 as usize)?.as_mut()
    }

    /// Takes a socket into the table, and into the ring's unless it is `brief`: that takes a system
    /// call each way.
    fn hold(
        &mut self,
        descriptor: OwnedFd,
        is_ipv6: bool,
        is_stream: bool,
        brief: bool,
    ) -> Result<SocketId, OpError> {
        let index = match self.vacant.pop() {
            Some(index) => index,
            None if self.sockets.len() < SOCKETS_MAX as usize => {
                self.sockets.push(None);
                u32::try_from(self.sockets.len() - 1).expect("below SOCKETS_MAX")
            }
            None => return Err(OpError::TooManyFiles),
        };
        let file = self.flights.attach(index, &descriptor, is_ipv6, brief);
        self.sockets[index as usize] = Some(Socket {
            descriptor: Some(descriptor),
            file,
            is_stream,
            outstanding: [None; 2],
            send_error: None,
            notifications: 0,
            closing: false,
            close: None,
            ended: false,
        });
        Ok(SocketId(index))
    }

    /// Sleeps until `done` holds `want` entries, or until `deadline`, or until something ends the
    /// wait early.
    fn wait(
        &mut self,
        mut now: Instant,
        deadline: Instant,
        want: usize,
        done: &mut Vec<Completion>,
        limit: usize,
    ) -> Result<(), DriverError> {
        loop {
            if done.len() >= want || self.woken {
                return Ok(());
            }
            let missing = u32::try_from(want - done.len()).unwrap_or(u32::MAX);
            let until = (deadline != Instant::FAR_FUTURE).then_some((now, deadline));
            let entered = self.flights.enter(missing, until)?;
            let reaped = self.reap(done, limit)?;
            // What was reaped may be of internal interest only, and may have queued operations
            // again.
            self.start_queued(false)?;
            self.deliver(done, limit);
            match entered {
                Entered::TimedOut | Entered::Interrupted => return Ok(()),
                // Nothing there although something was submitted: the deadline or a signal, which
                // the kernel does not tell in that case, unless it stopped submitting half-way.
                Entered::Done if reaped == 0 && !self.flights.has_queued() => return Ok(()),
                Entered::Done => now = MonotonicClock.now(),
            }
        }
    }

    fn waiting_turn(
        &mut self,
        now: Instant,
        wait: (u32, Nanos, Instant),
        done: &mut Vec<Completion>,
        limit: usize,
    ) -> Result<(), DriverError> {
        let (completions, within, deadline) = wait;
        let before = done.len();
        if self.woken || deadline <= now || self.flights.has_completions() || !self.ready.is_empty()
        {
            self.flights.poll()?;
        }
        self.reap(done, limit)?;
        if deadline > now {
            self.wait(now, deadline, before + 1, done, limit)?;
        }
        // A batch counts its time from here, when its first completion is there.
        let want = before + (completions as usize).min(COMPLETIONS_PER_TURN);
        if done.len() > before && done.len() < want {
            let now = MonotonicClock.now();
            self.wait(now, deadline.min(now + within), want, done, limit)?;
        }
        self.woken = false;
        // Nothing that was pushed waits for the next turn, even where this one did not have to
        // sleep.
        if self.flights.has_queued() {
            self.flights.poll()?;
        }
        Ok(())
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        // The kernel has the buffers for as long as the peer acknowledges nothing, and this
        // process could not even exit before.
        for socket in self.sockets.iter().flatten() {
            if let (1.., Some(descriptor)) = (socket.notifications, &socket.descriptor) {
                let _ = socket::disconnect(descriptor.as_fd());
            }
        }
    }
}

impl Driver for UringDriver {
    type Socket = OwnedFd;

    #[inline]
    fn push(&mut self, token: Token, op: Op) -> Result<(), DriverError> {
        if self.flights.len() + self.ready.len() >= OPERATIONS_MAX as usize {
            return Err(DriverError::Full);
        }
        match self.admit(&op) {
            Ok(file) => {
                self.receives += usize::from(op.is_single_receive());
                let target = op.target();
                let slot = self.flights.insert(token, op, file);
                if let Some((id, Some(direction))) = target
                    && let Some(socket) = self.socket_mut(id)
                {
                    socket.outstanding[direction as usize] = Some(slot);
                }
                self.queued.push_back(slot);
            }
            Err(error) => self.ready.push_back(Completion {
                token,
                outcome: Outcome::Failed(error),
                more: false,
            }),
        }
        Ok(())
    }

    #[inline]
    fn turn(
        &mut self,
        now: Instant,
        wait: Wait,
        done: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        let limit = done.len() + COMPLETIONS_PER_TURN;
        let wait = match wait {
            Wait::Poll => {
                self.start_queued(true)?;
                self.flights.poll()?;
                self.reap(done, limit)?;
                return self.attempt_receives(done, limit);
            }
            Wait::Until(deadline) => (1, Nanos::ZERO, deadline),
            Wait::Batch { completions, within, deadline } => (completions, within, deadline),
        };
        self.start_queued(false)?;
        self.waiting_turn(now, wait, done, limit)
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn open(&mut self, spec: &SocketSpec) -> Result<SocketId, OpError> {
        let descriptor = socket::open_blocking(spec)?;
        let is_stream = spec.kind != SocketKind::Datagram;
        self.hold(descriptor, spec.is_ipv6(), is_stream, spec.brief)
    }

    fn connect_unix(&mut self, path: &Path) -> Result<SocketId, OpError> {
        self.adopt(socket::connect_unix(path)?)
    }

    fn adopt(&mut self, socket: OwnedFd) -> Result<SocketId, OpError> {
        // As [`socket::open_blocking`] has it.
        SockRef::from(&socket).set_nonblocking(false).map_err(|e| OpError::from(("fcntl", &e)))?;
        let is_ipv6 = socket::is_ipv6(socket.as_fd());
        let is_stream = socket::is_stream(socket.as_fd());
        self.hold(socket, is_ipv6, is_stream, false)
    }

    fn release(&mut self, socket: SocketId) -> Result<OwnedFd, OpError> {
        let held = self.socket(socket).filter(|s| !s.closing);
        let held = held.ok_or(OpError::BadSocket)?;
        if held.is_busy() || held.notifications > 0 {
            return Err(OpError::Busy);
        }
        if let Err(DriverError::Call { source, .. }) = self.flights.detach(held.file) {
            return Err(source);
        }
        let held = self.sockets[socket.0 as usize].take();
        self.vacant.push(socket.0);
        held.and_then(|s| s.descriptor).ok_or(OpError::BadSocket)
    }

    fn share(socket: &OwnedFd) -> Option<OwnedFd> {
        socket.try_clone().ok()
    }

    fn descriptor(&self, socket: SocketId) -> Option<BorrowedFd<'_>> {
        let socket = self.socket(socket).filter(|s| !s.closing)?;
        socket.descriptor.as_ref().map(AsFd::as_fd)
    }

    fn allocate(&mut self, len: usize) -> Result<BufferId, DriverError> {
        self.flights
            .allocate(len)
            .ok_or(DriverError::Resources { what: "a buffer", source: OpError::NoBuffers })
    }

    fn free(&mut self, buffer: BufferId) {
        self.flights.free(buffer);
    }

    #[inline]
    fn buffer(&self, buffer: BufferId) -> &[u8] {
        self.flights.arena().bytes(buffer)
    }

    #[inline]
    fn buffer_mut(&mut self, buffer: BufferId) -> &mut [u8] {
        self.flights.bytes_mut(buffer)
    }

    fn provide_pool(&mut self, count: u16, len: u32) -> Result<(), DriverError> {
        self.flights.provide_pool(count, len)
    }

    fn pool_bytes(&self, buffer: &PoolBuffer) -> &[u8] {
        self.flights.pool_bytes(buffer)
    }

    fn recycle(&mut self, buffer: PoolBuffer) {
        self.flights.recycle(buffer);
    }

    fn waker(&self) -> Waker {
        Waker(Arc::new(EventWaker(Arc::clone(&self.waker))))
    }
}

#[cfg(test)]
mod tests;
