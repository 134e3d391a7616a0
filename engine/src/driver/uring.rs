//! The io_uring backend.
//!
//! # The spinning turn
//!
//! While the worker spins and few receives are pending, they are not left to the kernel's readiness
//! machinery: each turn attempts them anew, by plain non-blocking receives after one enter for what was
//! pushed. Attempts through the ring (`MSG_DONTWAIT` entries) were tried and lost: one that finds nothing
//! takes 420 ns against 233 ns (Linux 6.18, where 217 ns are the bare system call), and a 64-byte ping-pong
//! with one end on the ring had its p50 0.2–0.4 µs above the bare loop's against 0.13–0.16 µs.
//! Above [`SPIN_ATTEMPTS_MAX`] receives are armed, and a turn with nothing to submit looks at the ring's
//! flags in user memory (`IORING_SQ_TASKRUN`) instead of entering the kernel: 0.5 µs above the bare loop, and
//! the same for any number of connections.
//!
//! # What does not go through the ring
//!
//! A half-close and the close itself are plain system calls, made in the order of the pushes: neither sleeps,
//! and the kernel hands `IORING_OP_SHUTDOWN` to a worker thread always.

use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::SockRef;

use super::{
    Backend, BufferId, Capabilities, Completion, Driver, DriverError, Op, OpError, Outcome,
    PoolBuffer, SocketId, SocketSpec, Token, Wait, Wake, Waker,
};
use crate::clock::{Clock, MonotonicClock};
use crate::limits::{COMPLETIONS_PER_TURN, OPERATIONS_MAX, SOCKETS_MAX, SPIN_ATTEMPTS_MAX};
use crate::sys::flight::{Entered, Event, File, Flights, Landed};
use crate::sys::socket;
use crate::units::{Instant, Nanos};

mod ops;

use ops::{Side, call, may_restart, on_socket, place};

/// Operations for which room is made at the start; more is made as more come.
const ROOM: usize = 256;
/// The kernel's mark in a notification: the data of a zero-copy send was copied
/// (`IORING_NOTIF_USAGE_ZC_COPIED` of `linux/io_uring.h`).
const COPIED: u32 = 1 << 31;

/// A socket that the driver holds.
#[derive(Debug)]
struct Socket {
    /// Gone once a close was carried out that still waits for zero-copy notifications.
    descriptor: Option<OwnedFd>,
    file: File,
    receiving: bool,
    sending: bool,
    /// Operations without a result yet, the close apart.
    operations: u32,
    /// Zero-copy sends that have their result and not their notification.
    notifications: u32,
    /// A close was pushed: the id is dead.
    closing: bool,
    /// The close that was started, and waits for the operations.
    close: Option<u32>,
}

/// Does I/O over io_uring, for the thread that made it.
#[derive(Debug)]
pub struct UringDriver {
    // Dropped first: it cancels what is in flight before the descriptors are closed.
    flights: Flights,
    sockets: Vec<Option<Socket>>,
    vacant: Vec<u32>,
    /// Pushed, not yet started.
    queued: VecDeque<u32>,
    /// Receives that are attempted anew in each turn that does not wait.
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
    /// [`DriverError::Resources`] where the kernel denies a ring or lacks an operation that is needed,
    /// [`DriverError::Call`] where it gives a ring and denies its use. [`super::probe`] puts both into words.
    pub fn new() -> Result<Self, DriverError> {
        let (mut flights, step_downs) = Flights::new()?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let waker = EventFd::from_flags(flags).map_err(|e| DriverError::Resources {
            what: "eventfd",
            source: OpError::from(("eventfd", e)),
        })?;
        flights.arm_waker(&waker)?;
        flights.poll()?;
        Ok(Self {
            capabilities: Capabilities {
                backend: Backend::Uring,
                zero_copy: flights.zero_copy(),
                batch_wait: true,
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
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.flights.overflows()
    }

    fn socket(&self, id: SocketId) -> Option<&Socket> {
        self.sockets.get(id.0 as usize)?.as_ref()
    }

    fn socket_mut(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.sockets.get_mut(id.0 as usize)?.as_mut()
    }

    /// The descriptor of a live socket.
    fn descriptor(&self, id: SocketId) -> Option<&OwnedFd> {
        let socket = self.socket(id).filter(|s| !s.closing)?;
        socket.descriptor.as_ref()
    }

    /// Notes a pushed operation with its socket, or says why it cannot be.
    #[inline]
    fn admit(&mut self, op: &Op) -> Result<Option<File>, OpError> {
        let Some((id, side)) = place(op) else {
            return Ok(None);
        };
        let lacks_pool = matches!(op, Op::ReceiveMultishot { .. }) && !self.flights.has_pool();
        let socket = self.socket_mut(id).filter(|s| !s.closing);
        let socket = socket.ok_or(OpError::BadSocket)?;
        let busy = match side {
            None => {
                socket.closing = true;
                return Ok(Some(socket.file));
            }
            Some(Side::Receive) => &mut socket.receiving,
            Some(Side::Send) => &mut socket.sending,
        };
        if *busy {
            return Err(OpError::Busy);
        }
        if lacks_pool {
            return Err(OpError::NoBuffers);
        }
        *busy = true;
        socket.operations += 1;
        Ok(Some(socket.file))
    }

    /// Starts what was pushed, in order, and attempts or arms the receives that spin.
    #[inline]
    fn start_queued(&mut self, spin: bool) -> Result<(), DriverError> {
        let spin = spin && self.receives <= SPIN_ATTEMPTS_MAX;
        while let Some(slot) = self.queued.pop_front() {
            self.start(slot, spin)?;
        }
        if !spin {
            while let Some(slot) = self.spinning.pop() {
                self.flights.submit(slot)?;
            }
        }
        Ok(())
    }

    /// Attempts the receives that spin.
    #[inline]
    fn attempt_receives(
        &mut self,
        done: &mut Vec<Completion>,
        limit: usize,
    ) -> Result<(), DriverError> {
        let mut index = 0;
        while index < self.spinning.len() && done.len() < limit {
            let slot = self.spinning[index];
            if let Some(landed) = self.flights.attempt(slot) {
                self.spinning.swap_remove(index);
                self.land(landed, done)?;
            } else {
                index += 1;
            }
        }
        Ok(())
    }

    #[inline]
    fn start(&mut self, slot: u32, spin: bool) -> Result<(), DriverError> {
        match *self.flights.op(slot) {
            Op::Receive { into, .. } if into.len == 0 => self.end(slot, Outcome::Received(0)),
            Op::Receive { .. } | Op::ReceiveFrom { .. } if spin => self.spinning.push(slot),
            Op::HalfClose { socket } => {
                let outcome = self.half_close(socket);
                self.end(slot, outcome);
            }
            Op::Close { socket } => return self.start_close(slot, socket),
            Op::Cancel { token } => return self.start_cancel(slot, token),
            _ => return self.flights.submit(slot),
        }
        Ok(())
    }

    fn half_close(&self, id: SocketId) -> Outcome {
        let descriptor = self.socket(id).and_then(|s| s.descriptor.as_ref());
        let descriptor = descriptor.expect("a socket stays while an operation is pushed on it");
        match SockRef::from(descriptor).shutdown(Shutdown::Write) {
            Ok(()) => Outcome::HalfClosed,
            Err(e) => Outcome::Failed(OpError::from(("shutdown", &e))),
        }
    }

    fn start_close(&mut self, slot: u32, id: SocketId) -> Result<(), DriverError> {
        while let Some(index) = self
            .spinning
            .iter()
            .position(|&s| on_socket(self.flights.op(s), id))
        {
            let spinning = self.spinning.swap_remove(index);
            self.end(spinning, Outcome::Failed(OpError::Canceled));
        }
        let socket = self
            .socket_mut(id)
            .expect("a socket stays until it is closed");
        socket.close = Some(slot);
        let (file, outstanding) = (socket.file, socket.operations);
        if outstanding > 0 {
            self.flights.cancel_file(file)?;
        }
        self.finish_close(id)
    }

    fn start_cancel(&mut self, slot: u32, token: Token) -> Result<(), DriverError> {
        let cancellable = |op: &Op| {
            !matches!(
                op,
                Op::Cancel { .. } | Op::Close { .. } | Op::HalfClose { .. }
            )
        };
        let Some(target) = self.flights.find(token, cancellable) else {
            self.end(slot, Outcome::CancelDone { found: false });
            return Ok(());
        };
        if self.flights.in_kernel(target) {
            return self.flights.cancel(slot, target);
        }
        // Not the kernel's: it spins, or it was pushed after this cancel and is none of its business.
        let spinning = self.spinning.iter().position(|&s| s == target);
        if let Some(index) = spinning {
            self.spinning.swap_remove(index);
            self.end(target, Outcome::Failed(OpError::Canceled));
        }
        let found = spinning.is_some();
        self.end(slot, Outcome::CancelDone { found });
        Ok(())
    }

    /// Carries out a started close once nothing but notifications is outstanding, and completes it once
    /// those have come as well. The descriptor does not wait for them: the kernel may keep the data of a
    /// zero-copy send for as long as the far end does not acknowledge it.
    fn finish_close(&mut self, id: SocketId) -> Result<(), DriverError> {
        let Some(socket) = self.socket_mut(id) else {
            return Ok(());
        };
        let (Some(close), 0) = (socket.close, socket.operations) else {
            return Ok(());
        };
        let (file, notifications) = (socket.file, socket.notifications);
        if let Some(descriptor) = socket.descriptor.take() {
            self.flights.detach(file)?;
            drop(descriptor);
        }
        if notifications == 0 {
            self.sockets[id.0 as usize] = None;
            self.vacant.push(id.0);
            self.end(close, Outcome::Closed);
        }
        Ok(())
    }

    /// Ends an operation that the kernel does not have, with a completion in this turn.
    fn end(&mut self, slot: u32, outcome: Outcome) {
        let completion = Completion {
            token: self.flights.token(slot),
            outcome,
            more: false,
        };
        self.settle(slot);
        self.flights.remove(slot);
        self.ready.push_back(completion);
    }

    /// Notes with its socket that an operation has its result.
    #[inline]
    fn settle(&mut self, slot: u32) {
        let op = self.flights.op(slot);
        if matches!(op, Op::Receive { .. } | Op::ReceiveFrom { .. }) {
            self.receives -= 1;
        }
        let Some((id, Some(side))) = place(op) else {
            return;
        };
        let Some(socket) = self.socket_mut(id) else {
            return;
        };
        socket.operations -= 1;
        match side {
            Side::Receive => socket.receiving = false,
            Side::Send => socket.sending = false,
        }
    }

    /// Reaps into `done`, up to `limit` entries of it; returns how many completions there were of any kind.
    #[inline]
    fn reap(&mut self, done: &mut Vec<Completion>, limit: usize) -> Result<usize, DriverError> {
        let mut reaped = 0;
        self.deliver(done, limit);
        while done.len() < limit
            && let Some(event) = self.flights.reap()
        {
            reaped += 1;
            match event {
                Event::Landed(landed) => self.land(landed, done)?,
                Event::Internal => {}
                Event::Woken { armed } => {
                    self.woken = true;
                    if !armed {
                        self.flights.arm_waker(&self.waker.as_fd())?;
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

    #[inline]
    fn land(&mut self, landed: Landed, done: &mut Vec<Completion>) -> Result<(), DriverError> {
        let Landed {
            slot, result, more, ..
        } = landed;
        if landed.notification {
            return self.release_zero_copy(slot, result, done);
        }
        let place = place(self.flights.op(slot));
        let closing = place.is_some_and(|(id, _)| self.socket(id).is_some_and(|s| s.closing));
        if result == -libc::EINTR && !more && !closing && may_restart(self.flights.op(slot)) {
            self.queued.push_back(slot);
            return Ok(());
        }
        let token = self.flights.token(slot);
        let copied = matches!(self.flights.op(slot), Op::Send { zero_copy, .. } if *zero_copy)
            && !self.capabilities.zero_copy;
        let outcome = self.outcome(landed, closing);
        let sent_copy = copied && matches!(outcome, Outcome::Sent(_));
        done.push(Completion {
            token,
            outcome,
            more: more || sent_copy,
        });
        if sent_copy {
            self.ready.push_back(Completion {
                token,
                outcome: Outcome::Released { copied: true },
                more: false,
            });
        }
        let zero_copy = more && matches!(self.flights.op(slot), Op::Send { .. });
        if !more || zero_copy {
            self.settle(slot);
        }
        if zero_copy && let Some(socket) = place.and_then(|(id, _)| self.socket_mut(id)) {
            socket.notifications += 1;
        }
        if !more {
            self.flights.remove(slot);
        }
        if closing && let Some((id, _)) = place {
            self.finish_close(id)?;
        }
        Ok(())
    }

    /// The second completion of a zero-copy send.
    fn release_zero_copy(
        &mut self,
        slot: u32,
        result: i32,
        done: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        let place = place(self.flights.op(slot));
        done.push(Completion {
            token: self.flights.token(slot),
            outcome: Outcome::Released {
                copied: result.cast_unsigned() & COPIED != 0,
            },
            more: false,
        });
        self.flights.remove(slot);
        let Some((id, _)) = place else {
            return Ok(());
        };
        if let Some(socket) = self.socket_mut(id) {
            socket.notifications -= 1;
        }
        self.finish_close(id)
    }

    /// What the kernel's answer means.
    #[inline]
    fn outcome(&mut self, landed: Landed, closing: bool) -> Outcome {
        let result = landed.result;
        let Ok(count) = u32::try_from(result) else {
            let op = self.flights.op(landed.slot);
            return match (op, -result) {
                (Op::Timer { .. }, libc::ETIME) => Outcome::TimerFired,
                (Op::Cancel { .. }, libc::ENOENT) => Outcome::CancelDone { found: false },
                // It could not be stopped any more, but it was there.
                (Op::Cancel { .. }, libc::EALREADY) => Outcome::CancelDone { found: true },
                (_, libc::EINTR) if closing => Outcome::Failed(OpError::Canceled),
                (op, errno) => Outcome::Failed(OpError::from_errno(call(op), errno)),
            };
        };
        match self.flights.op(landed.slot) {
            Op::Accept { listener, .. } => self.accepted(*listener, landed.accepted),
            Op::Connect { .. } => Outcome::Connected,
            Op::Send { .. } | Op::SendVectored { .. } | Op::SendTo { .. } => Outcome::Sent(count),
            Op::Receive { .. } => Outcome::Received(count),
            Op::ReceiveMultishot { .. } => Outcome::ReceivedInPool {
                buffer: landed.pool,
                len: count,
            },
            Op::ReceiveFrom { .. } => {
                let (addresses, truncated) = self.flights.datagram(landed.slot);
                Outcome::ReceivedFrom {
                    len: count,
                    addresses,
                    truncated,
                }
            }
            Op::Timer { .. } => Outcome::TimerFired,
            Op::Cancel { .. } => Outcome::CancelDone { found: true },
            Op::HalfClose { .. } | Op::Close { .. } => {
                unreachable!("carried out without the ring")
            }
        }
    }

    fn accepted(&mut self, listener: SocketId, descriptor: Option<OwnedFd>) -> Outcome {
        let Some(descriptor) = descriptor else {
            return Outcome::Failed(OpError::Aborted);
        };
        // Of its listener's family, which spares the question to the kernel.
        let is_ipv6 = self.socket(listener).is_some_and(|s| s.file.is_ipv6());
        match self.hold(descriptor, is_ipv6) {
            Ok(id) => Outcome::Accepted(id),
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Takes a socket into the table.
    fn hold(&mut self, descriptor: OwnedFd, is_ipv6: bool) -> Result<SocketId, OpError> {
        let index = match self.vacant.pop() {
            Some(index) => index,
            None if self.sockets.len() < SOCKETS_MAX as usize => {
                self.sockets.push(None);
                u32::try_from(self.sockets.len() - 1).expect("below SOCKETS_MAX")
            }
            None => return Err(OpError::TooManyFiles),
        };
        let file = self.flights.attach(index, &descriptor, is_ipv6);
        self.sockets[index as usize] = Some(Socket {
            descriptor: Some(descriptor),
            file,
            receiving: false,
            sending: false,
            operations: 0,
            notifications: 0,
            closing: false,
            close: None,
        });
        Ok(SocketId(index))
    }

    /// Sleeps until `done` holds `want` entries, or until `deadline`, or until something ends the wait early.
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
            // What was reaped may be of internal interest only, and may have queued operations anew.
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

    /// Runs a turn that may sleep.
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
        // Nothing that was pushed waits for the next turn, even where this one did not have to sleep.
        if self.flights.has_queued() {
            self.flights.poll()?;
        }
        Ok(())
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
                if matches!(op, Op::Receive { .. } | Op::ReceiveFrom { .. }) {
                    self.receives += 1;
                }
                let slot = self.flights.insert(token, op, file);
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
            Wait::Batch {
                completions,
                within,
                deadline,
            } => (completions, within, deadline),
        };
        self.start_queued(false)?;
        self.waiting_turn(now, wait, done, limit)
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn open(&mut self, spec: &SocketSpec) -> Result<SocketId, OpError> {
        self.adopt(socket::open(spec)?)
    }

    fn adopt(&mut self, socket: OwnedFd) -> Result<SocketId, OpError> {
        // The ring takes a non-blocking descriptor at its word and gives EAGAIN instead of waiting.
        SockRef::from(&socket)
            .set_nonblocking(false)
            .map_err(|e| OpError::from(("fcntl", &e)))?;
        let is_ipv6 = socket::is_ipv6(socket.as_fd());
        self.hold(socket, is_ipv6)
    }

    fn release(&mut self, socket: SocketId) -> Result<OwnedFd, OpError> {
        let held = self.socket(socket).filter(|s| !s.closing);
        let held = held.ok_or(OpError::BadSocket)?;
        if held.operations > 0 || held.notifications > 0 {
            return Err(OpError::Busy);
        }
        if let Err(DriverError::Call { source, .. }) = self.flights.detach(held.file) {
            return Err(source);
        }
        let held = self.sockets[socket.0 as usize].take();
        self.vacant.push(socket.0);
        held.and_then(|s| s.descriptor).ok_or(OpError::BadSocket)
    }

    fn local_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        socket::local_addr(self.descriptor(socket)?.as_fd())
    }

    fn peer_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        socket::peer_addr(self.descriptor(socket)?.as_fd())
    }

    fn allocate(&mut self, len: usize) -> Result<BufferId, DriverError> {
        self.flights.allocate(len).ok_or(DriverError::Resources {
            what: "a buffer",
            source: OpError::NoBuffers,
        })
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
        Waker::new(EventWaker(Arc::clone(&self.waker)))
    }
}

#[cfg(test)]
mod tests;
