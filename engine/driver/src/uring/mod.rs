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
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{Shutdown, SockFlag, shutdown};
use slab::Slab;
use socket2::SockRef;

use crate::clock::{Clock, MonotonicClock};
use crate::io::{OPERATIONS_MAX, Pending};
use crate::sys::flight::{Entered, Event, File, InFlight, RawCompletion};
use crate::sys::socket;
use crate::{
    Backend, BufferId, Capabilities, Completion, Driver, DriverError, Op, OpError, Outcome,
    PoolBuffer, SocketId, SocketKind, SocketSpec, Token, Wait, Waker,
};
use tare_units::bounds::UNACKED_MAX;
use tare_units::limits::{COMPLETIONS_PER_TURN, SOCKETS_MAX, SPIN_ATTEMPTS_MAX};
use tare_units::{Instant, Nanos};

#[cfg(test)]
mod tests;

/// Operations for which room is made at the start; more is made as more come.
const ROOM: usize = 256;

/// For [`Capabilities::spinning`].
const SPINNING: &str = "plain send and recv while at most 4 receives are pending, else the ring";
const _: () = assert!(SPIN_ATTEMPTS_MAX == 4, "as the words say");

/// The kernel's mark in a notification: the data of a zero-copy send was copied
/// (`IORING_NOTIF_USAGE_ZC_COPIED` of `linux/io_uring.h`).
const COPIED: u32 = 1 << 31;

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

    /// Notes a pushed operation with its socket, or says why it cannot be.
    #[inline]
    fn admit(&mut self, op: &Op) -> Result<Option<File>, OpError> {
        let Some((id, direction)) = op.target() else { return Ok(None) };
        let lacks_pool = matches!(op, Op::ReceiveMultishot { .. }) && !self.flights.has_pool();
        let socket = self.socket_mut(id).filter(|s| !s.pending.closing);
        let socket = socket.ok_or(OpError::BadSocket)?;
        socket.pending.admit(direction)?;
        if lacks_pool { Err(OpError::NoBuffers) } else { Ok(Some(socket.file)) }
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

    #[inline]
    fn attempt_receives(
        &mut self,
        done: &mut Vec<Completion>,
        limit: usize,
    ) -> Result<(), DriverError> {
        let mut index = 0;
        while index < self.spinning.len() && done.len() < limit {
            let slot = self.spinning[index];
            if let Some(raw) = self.flights.attempt(slot) {
                self.spinning.swap_remove(index);
                self.complete(raw, done)?;
            } else {
                index += 1;
            }
        }
        Ok(())
    }

    #[inline]
    fn start(&mut self, slot: u32, spin: bool) -> Result<(), DriverError> {
        let op = self.flights.op(slot);
        if let Some(outcome) = op.empty_receive() {
            self.end(slot, outcome);
            return Ok(());
        }
        match *op {
            ref op if spin && op.is_single_receive() => self.spinning.push(slot),
            Op::SendRepeated { socket, .. } => return self.send_repeatedly(slot, socket),
            Op::Send { zero_copy: false, .. } | Op::SendTo { .. } if spin => {
                return self.attempt_send(slot);
            }
            Op::Connect { socket, to } if !self.held(socket).is_stream => {
                let Socket { descriptor, file, .. } = self.held(socket);
                let to = socket::for_family(file.is_ipv6, to);
                let outcome = match socket::connect(descriptor, to) {
                    Ok(()) => Outcome::Connected,
                    Err(Errno::EAGAIN) => Outcome::Failed(OpError::AddressNotAvailable),
                    Err(errno) => Outcome::Failed(("connect", errno).into()),
                };
                self.end(slot, outcome);
            }
            Op::HalfClose { socket } => {
                let ended = shutdown(self.held(socket).descriptor.as_raw_fd(), Shutdown::Write);
                let failed = |errno| Outcome::Failed(("shutdown", errno).into());
                self.end(slot, ended.map_or_else(failed, |()| Outcome::HalfClosed));
            }
            Op::Close { socket } => return self.start_close(slot, socket),
            Op::Cancel { token } => return self.start_cancel(slot, token),
            _ => return self.flights.submit(slot),
        }
        Ok(())
    }

    fn held(&self, id: SocketId) -> &Socket {
        self.socket(id).expect("a socket stays while an operation is pushed on it")
    }

    /// Sends at once what the socket has room for, by a plain call, and leaves it to the ring where
    /// there is none. Its completion is handed over in this turn.
    #[inline]
    fn attempt_send(&mut self, slot: u32) -> Result<(), DriverError> {
        let Some(raw) = self.flights.attempt(slot) else { return self.flights.submit(slot) };
        let outcome = self.outcome(raw, false);
        self.end(slot, outcome);
        Ok(())
    }

    /// Sends by plain calls for as long as there is room, and leaves a send to the ring where there
    /// is none.
    ///
    /// Through the ring, 64 sends of 64 bytes per enter were 7 % faster, and not at 4 KiB and
    /// above.
    fn send_repeatedly(&mut self, slot: u32, id: SocketId) -> Result<(), DriverError> {
        let outcome = match self.flights.send_repeatedly(slot) {
            Ok((outcome, error)) => {
                if let (Some(errno), Some(socket)) = (error, self.socket_mut(id)) {
                    socket.pending.send_error = Some(("send", errno).into());
                }
                outcome
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return self.flights.submit(slot),
            Err(errno) => Outcome::Failed(("send", errno).into()),
        };
        self.end(slot, outcome);
        Ok(())
    }

    fn start_close(&mut self, slot: u32, id: SocketId) -> Result<(), DriverError> {
        let is_here = |op: &Op| op.target().is_some_and(|(socket, _)| socket == id);
        while let Some(index) = self.spinning.iter().position(|&s| is_here(self.flights.op(s))) {
            let spinning = self.spinning.swap_remove(index);
            self.end(spinning, Outcome::Failed(OpError::Canceled));
        }
        let socket = self.socket_mut(id).expect("a socket stays until it is closed");
        socket.close = Some(slot);
        for target in socket.pending.operations.into_iter().flatten() {
            self.flights.cancel(target, None)?;
        }
        self.finish_close(id)
    }

    fn start_cancel(&mut self, slot: u32, token: Token) -> Result<(), DriverError> {
        let cancellable =
            |op: &Op| !matches!(op, Op::Cancel { .. } | Op::Close { .. } | Op::HalfClose { .. });
        let Some(target) = self.flights.find(token, cancellable) else {
            self.end(slot, Outcome::CancelDone { found: false });
            return Ok(());
        };
        if self.flights.in_kernel(target) {
            return self.flights.cancel(target, Some(slot));
        }
        // Not the kernel's: it spins, or it was pushed after this cancel and is none of its
        // business.
        let spinning = self.spinning.iter().position(|&s| s == target);
        if let Some(index) = spinning {
            self.spinning.swap_remove(index);
            self.end(target, Outcome::Failed(OpError::Canceled));
        }
        let found = spinning.is_some();
        self.end(slot, Outcome::CancelDone { found });
        Ok(())
    }

    /// Carries out a started close once nothing is outstanding. The end of the stream does not wait
    /// for notifications: the kernel keeps the data of a zero-copy send until the peer
    /// acknowledges it. That it does so is waited for no longer than [`UNACKED_MAX`].
    fn finish_close(&mut self, id: SocketId) -> Result<(), DriverError> {
        let Some(socket) = self.socket_mut(id) else { return Ok(()) };
        let (Some(close), false) = (socket.close, socket.pending.is_busy()) else { return Ok(()) };
        if socket.notifications > 0 {
            if !std::mem::replace(&mut socket.ended, true) {
                socket::end_within(&socket.descriptor, UNACKED_MAX);
            }
            return Ok(());
        }
        let file = socket.file;
        self.flights.detach(file)?;
        self.sockets.remove(id.0 as usize);
        self.end(close, Outcome::Closed);
        Ok(())
    }

    /// Ends an operation that the kernel does not have, with a completion in this turn.
    fn end(&mut self, slot: u32, outcome: Outcome) {
        let completion = Completion::last(self.flights.token(slot), outcome);
        self.settle(slot);
        self.flights.remove(slot);
        self.ready.push_back(completion);
    }

    /// Notes with its socket that an operation has its result.
    #[inline]
    fn settle(&mut self, slot: u32) {
        let op = self.flights.op(slot);
        let target = op.target();
        self.receives -= usize::from(op.is_single_receive());
        if let Some((id, Some(direction))) = target
            && let Some(socket) = self.socket_mut(id)
        {
            socket.pending.operations[direction as usize] = None;
        }
    }

    #[inline]
    fn complete(
        &mut self,
        raw: RawCompletion,
        done: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        let RawCompletion { slot, result, more, notification, .. } = raw;
        let (op, token) = (self.flights.op(slot), self.flights.token(slot));
        let zero_copy = matches!(op, Op::Send { zero_copy: true, .. });
        // Whether it can be started again as if nothing had been.
        let may_restart = !matches!(op, Op::Connect { .. } | Op::Cancel { .. });
        let target = op.target();
        let socket = target.and_then(|(id, _)| self.socket(id));
        let closing = socket.is_some_and(|s| s.pending.closing);
        if notification {
            let released = Outcome::Released { copied: result.cast_unsigned() & COPIED != 0 };
            done.push(Completion::last(token, released));
        } else if result == -libc::EINTR && !more && !closing && may_restart {
            self.queued.push_back(slot);
            return Ok(());
        } else {
            let outcome = self.outcome(raw, closing);
            let is_copy = zero_copy && !self.capabilities.zero_copy;
            let sent_copy = is_copy && matches!(outcome, Outcome::Sent(_));
            done.push(Completion { token, outcome, more: more || sent_copy });
            if sent_copy {
                let released = Outcome::Released { copied: true };
                self.ready.push_back(Completion::last(token, released));
            }
            if !more || zero_copy {
                self.settle(slot);
            }
        }
        if zero_copy
            && (more || notification)
            && let Some(socket) = target.and_then(|(id, _)| self.socket_mut(id))
        {
            if more {
                socket.notifications += 1;
            } else {
                socket.notifications -= 1;
            }
        }
        if !more {
            self.flights.remove(slot);
        }
        match target {
            Some((id, _)) if closing => self.finish_close(id),
            _ => Ok(()),
        }
    }

    #[inline]
    fn outcome(&mut self, raw: RawCompletion, closing: bool) -> Outcome {
        let result = raw.result;
        let op = self.flights.op(raw.slot);
        let Ok(count) = u32::try_from(result) else {
            return match (op, -result) {
                (Op::Cancel { .. }, libc::ENOENT) => Outcome::CancelDone { found: false },
                // It could not be stopped any more, but it was there.
                (Op::Cancel { .. }, libc::EALREADY) => Outcome::CancelDone { found: true },
                (_, libc::EINTR) if closing => Outcome::Failed(OpError::Canceled),
                (op, errno) => Outcome::Failed(OpError::from_errno(op.call(), errno)),
            };
        };
        match op {
            Op::Accept { listener, .. } => self.accepted(*listener, raw.accepted),
            Op::Connect { .. } => Outcome::Connected,
            Op::SendRepeated { data, .. } => {
                Outcome::SentRepeated { sends: u32::from(count == data.len), bytes: count.into() }
            }
            Op::ReceiveMultishot { .. } => Outcome::ReceivedInPool { buffer: raw.pool, len: count },
            Op::ReceiveStamped { .. } => {
                Outcome::ReceivedStamped { len: count, at: self.flights.stamp(raw.slot) }
            }
            Op::ReceiveFrom { .. } => {
                let (addresses, truncated) = self.flights.datagram(raw.slot);
                Outcome::ReceivedFrom { len: count, addresses, truncated }
            }
            Op::Cancel { .. } => Outcome::CancelDone { found: true },
            Op::HalfClose { .. } | Op::Close { .. } => unreachable!("carried out without the ring"),
            op => op.moved(count),
        }
    }

    fn accepted(&mut self, listener: SocketId, descriptor: Option<OwnedFd>) -> Outcome {
        let Some(descriptor) = descriptor else { return Outcome::Failed(OpError::Aborted) };
        // Of its listener's family, which spares the question to the kernel.
        let is_ipv6 = self.socket(listener).is_some_and(|s| s.file.is_ipv6);
        // Only the worker that is lent the listener accepts over the ring, and what it keeps is
        // over after a round trip.
        self.hold(descriptor, is_ipv6, true, true).map_or_else(Outcome::Failed, Outcome::Accepted)
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
