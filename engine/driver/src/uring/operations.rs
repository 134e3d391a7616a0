//! An operation's way from the push to the ring, or to the plain call that stands for it, and from
//! the kernel's answer to the completion.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};

use super::{Socket, UringDriver};
use crate::sys::flight::{File, RawCompletion};
use crate::sys::socket;
use crate::{Completion, DriverError, Op, OpError, Outcome, SocketId, Token};
use tare_units::bounds::UNACKED_MAX;
use tare_units::limits::SPIN_ATTEMPTS_MAX;

/// The kernel's mark in a notification: the data of a zero-copy send was copied
/// (`IORING_NOTIF_USAGE_ZC_COPIED` of `linux/io_uring.h`).
const COPIED: u32 = 1 << 31;

impl UringDriver {
    /// Notes a pushed operation with its socket, or says why it cannot be.
    #[inline]
    pub(super) fn admit(&mut self, op: &Op) -> Result<Option<File>, OpError> {
        let Some((id, direction)) = op.target() else {
            return Ok(None);
        };
        let lacks_pool = matches!(op, Op::ReceiveMultishot { .. }) && !self.flights.has_pool();
        let socket = self.socket_mut(id).filter(|s| !s.pending.closing);
        let socket = socket.ok_or(OpError::BadSocket)?;
        socket.pending.admit(direction)?;
        if lacks_pool { Err(OpError::NoBuffers) } else { Ok(Some(socket.file)) }
    }

    /// Starts what was pushed, in order, and attempts or arms the receives that spin.
    #[inline]
    pub(super) fn start_queued(&mut self, spin: bool) -> Result<(), DriverError> {
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
    pub(super) fn attempt_receives(
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
        let Some(raw) = self.flights.attempt(slot) else {
            return self.flights.submit(slot);
        };
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
        let Some(socket) = self.socket_mut(id) else {
            return Ok(());
        };
        let (Some(close), false) = (socket.close, socket.pending.is_busy()) else {
            return Ok(());
        };
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
    pub(super) fn complete(
        &mut self,
        raw: RawCompletion,
        done: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        let RawCompletion { slot, result, more, .. } = raw;
        if raw.notification {
            return self.release_zero_copy(slot, result, done);
        }
        let target = self.flights.op(slot).target();
        let closing =
            target.is_some_and(|(id, _)| self.socket(id).is_some_and(|s| s.pending.closing));
        if result == -libc::EINTR && !more && !closing && may_restart(self.flights.op(slot)) {
            self.queued.push_back(slot);
            return Ok(());
        }
        let token = self.flights.token(slot);
        let copied = matches!(self.flights.op(slot), Op::Send { zero_copy, .. } if *zero_copy)
            && !self.capabilities.zero_copy;
        let outcome = self.outcome(raw, closing);
        let sent_copy = copied && matches!(outcome, Outcome::Sent(_));
        done.push(Completion { token, outcome, more: more || sent_copy });
        if sent_copy {
            let released = Outcome::Released { copied: true };
            self.ready.push_back(Completion::last(token, released));
        }
        let zero_copy = more && matches!(self.flights.op(slot), Op::Send { .. });
        if !more || zero_copy {
            self.settle(slot);
        }
        if zero_copy && let Some(socket) = target.and_then(|(id, _)| self.socket_mut(id)) {
            socket.notifications += 1;
        }
        if !more {
            self.flights.remove(slot);
        }
        if closing && let Some((id, _)) = target {
            self.finish_close(id)?;
        }
        Ok(())
    }

    fn release_zero_copy(
        &mut self,
        slot: u32,
        result: i32,
        done: &mut Vec<Completion>,
    ) -> Result<(), DriverError> {
        let target = self.flights.op(slot).target();
        let released = Outcome::Released { copied: result.cast_unsigned() & COPIED != 0 };
        done.push(Completion::last(self.flights.token(slot), released));
        self.flights.remove(slot);
        let Some((id, _)) = target else {
            return Ok(());
        };
        if let Some(socket) = self.socket_mut(id) {
            socket.notifications -= 1;
        }
        self.finish_close(id)
    }

    #[inline]
    fn outcome(&mut self, raw: RawCompletion, closing: bool) -> Outcome {
        let result = raw.result;
        let Ok(count) = u32::try_from(result) else {
            let op = self.flights.op(raw.slot);
            return match (op, -result) {
                (Op::Cancel { .. }, libc::ENOENT) => Outcome::CancelDone { found: false },
                // It could not be stopped any more, but it was there.
                (Op::Cancel { .. }, libc::EALREADY) => Outcome::CancelDone { found: true },
                (_, libc::EINTR) if closing => Outcome::Failed(OpError::Canceled),
                (op, errno) => Outcome::Failed(OpError::from_errno(op.call(), errno)),
            };
        };
        match self.flights.op(raw.slot) {
            Op::Accept { listener, .. } => self.accepted(*listener, raw.accepted),
            Op::Connect { .. } => Outcome::Connected,
            Op::Send { .. } | Op::SendVectored { .. } | Op::SendTo { .. } => Outcome::Sent(count),
            Op::SendRepeated { data, .. } => {
                Outcome::SentRepeated { sends: u32::from(count == data.len), bytes: count.into() }
            }
            Op::Receive { .. } | Op::Discard { .. } => Outcome::Received(count),
            Op::ReceiveMultishot { .. } => Outcome::ReceivedInPool { buffer: raw.pool, len: count },
            Op::ReceiveStamped { .. } => {
                Outcome::ReceivedStamped { len: count, at: self.flights.stamp(raw.slot) }
            }
            Op::ReceiveFrom { .. } => {
                let (addresses, truncated) = self.flights.datagram(raw.slot);
                Outcome::ReceivedFrom { len: count, addresses, truncated }
            }
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
        let is_ipv6 = self.socket(listener).is_some_and(|s| s.file.is_ipv6);
        // Only the worker that is lent the listener accepts over the ring, and what it keeps is
        // over after a round trip.
        self.hold(descriptor, is_ipv6, true, true).map_or_else(Outcome::Failed, Outcome::Accepted)
    }
}

/// Whether an operation that a signal interrupted can be started again as if nothing had been.
const fn may_restart(op: &Op) -> bool {
    !matches!(op, Op::Connect { .. } | Op::Cancel { .. })
}
