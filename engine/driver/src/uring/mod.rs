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
use nix::sys::socket::SockFlag;
use slab::Slab;
use socket2::SockRef;

use crate::clock::{Clock, MonotonicClock};
use crate::io::{OPERATIONS_MAX, Pending};
use crate::sys::flight::{Entered, Event, File, InFlight};
use crate::sys::socket;
use crate::{
    Backend, BufferId, Capabilities, Completion, Driver, DriverError, Op, OpError, Outcome,
    PoolBuffer, SocketId, SocketKind, SocketSpec, Token, Wait, Waker,
};
use tare_units::limits::{COMPLETIONS_PER_TURN, SOCKETS_MAX, SPIN_ATTEMPTS_MAX};
use tare_units::{Instant, Nanos};

mod operations;
#[cfg(test)]
mod tests;

/// Operations for which room is made at the start; more is made as more come.
const ROOM: usize = 256;

/// For [`Capabilities::spinning`].
const SPINNING: &str = "plain send and recv while at most 4 receives are pending, else the ring";
const _: () = assert!(SPIN_ATTEMPTS_MAX == 4, "as the words say");

#[derive(Debug)]
struct Socket {
    descriptor: OwnedFd,
    file: File,
    is_stream: bool,
    pending: Pending,
    /// Zero-copy sends that have their result and not their notification.
    notifications: u32,
    /// The close that was started, and waits for the operations.
    close: Option<u32>,
    /// The end of the stream was sent, and the close waits for zero-copy notifications alone.
    ended: bool,
}

/// Does I/O over io_uring, for the thread that made it.
#[derive(Debug)]
pub struct UringDriver {
    // Dropped first: it cancels what is in flight before the descriptors are closed.
    flights: InFlight,
    sockets: Slab<Socket>,
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
            sockets: Slab::with_capacity(ROOM),
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
        self.sockets.get(id.0 as usize)
    }

    fn socket_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.sockets.get_mut(id.0 as usize)
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
        if self.sockets.len() >= SOCKETS_MAX as usize {
            return Err(OpError::TooManyFiles);
        }
        let index = u32::try_from(self.sockets.vacant_key()).expect("below SOCKETS_MAX");
        let file = self.flights.attach(index, &descriptor, is_ipv6, brief);
        self.sockets.insert(Socket {
            descriptor,
            file,
            is_stream,
            pending: Pending::default(),
            notifications: 0,
            close: None,
            ended: false,
        });
        Ok(SocketId(index))
    }

    /// Reaps into `done`, up to `limit` entries of it; returns how many completions there were of
    /// any kind.
    #[inline]
    fn reap(&mut self, done: &mut Vec<Completion>, limit: usize) -> Result<usize, DriverError> {
        let mut reaped = 0;
        self.deliver(done, limit);
        while done.len() < limit
            && let Some(event) = self.flights.reap()
        {
            reaped += 1;
            match event {
                Event::Operation(raw) => self.complete(raw, done)?,
                Event::Internal => {}
                Event::Woken { armed } => {
                    self.woken = true;
                    if !armed {
                        self.flights.arm_waker(&self.waker)?;
                    }
                }
            }
        }
        self.deliver(done, limit);
        Ok(reaped)
    }

    #[inline]
    fn deliver(&mut self, done: &mut Vec<Completion>, limit: usize) {
        while done.len() < limit
            && let Some(completion) = self.ready.pop_front()
        {
            done.push(completion);
        }
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
        for (_, socket) in &self.sockets {
            if socket.notifications > 0 {
                let _ = socket::disconnect(&socket.descriptor);
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
                    socket.pending.operations[direction as usize] = Some(slot);
                }
                self.queued.push_back(slot);
            }
            Err(error) => self.ready.push_back(Completion::last(token, Outcome::Failed(error))),
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
        let is_stream = spec.kind != SocketKind::Datagram;
        self.hold(socket::open(spec, SockFlag::empty())?, spec.is_ipv6(), is_stream, spec.brief)
    }

    fn connect_unix(&mut self, path: &Path) -> Result<SocketId, OpError> {
        self.adopt(socket::connect_unix(path)?)
    }

    fn adopt(&mut self, socket: OwnedFd) -> Result<SocketId, OpError> {
        // As [`socket::open`] has it.
        SockRef::from(&socket).set_nonblocking(false).map_err(|e| OpError::from(("fcntl", &e)))?;
        let (is_ipv6, is_stream) = (socket::is_ipv6(&socket), socket::is_stream(&socket));
        self.hold(socket, is_ipv6, is_stream, false)
    }

    fn release(&mut self, socket: SocketId) -> Result<OwnedFd, OpError> {
        let held = self.socket(socket).filter(|s| !s.pending.closing);
        let held = held.ok_or(OpError::BadSocket)?;
        if held.pending.is_busy() || held.notifications > 0 {
            return Err(OpError::Busy);
        }
        if let Err(DriverError::Call { source, .. }) = self.flights.detach(held.file) {
            return Err(source);
        }
        Ok(self.sockets.remove(socket.0 as usize).descriptor)
    }

    fn share(socket: &OwnedFd) -> Option<OwnedFd> {
        socket.try_clone().ok()
    }

    fn descriptor(&self, socket: SocketId) -> Option<BorrowedFd<'_>> {
        let socket = self.socket(socket).filter(|s| !s.pending.closing)?;
        Some(socket.descriptor.as_fd())
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
        let event = Arc::clone(&self.waker);
        // Fails only when the counter is full, and then the turn is about to wake up anyway.
        Waker(Arc::new(move || _ = event.write(1)))
    }
}
