//! From the push to the ring, or to the plain call that stands for it.

use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use socket2::SockRef;

use super::UringDriver;
use crate::io::Direction;
use crate::sys::flight::File;
use crate::sys::socket;
use crate::{Completion, DriverError, Op, OpError, Outcome, Segment, SocketId, Token};
use tare_units::bounds::UNACKED_MAX;
use tare_units::limits::SPIN_ATTEMPTS_MAX;

impl UringDriver {
    /// Notes a pushed operation with its socket, or says why it cannot be.
    #[inline]
    pub(super) fn admit(&mut self, op: &Op) -> Result<Option<File>, OpError> {
        let Some((id, direction)) = op.target() else {
            return Ok(None);
        };
        let lacks_pool = matches!(op, Op::ReceiveMultishot { .. }) && !self.flights.has_pool();
        let socket = self.socket_mut(id).filter(|s| !s.closing);
        let socket = socket.ok_or(OpError::BadSocket)?;
        let Some(direction) = direction else {
            socket.closing = true;
            return Ok(Some(socket.file));
        };
        if socket.outstanding[direction as usize].is_some() {
            return Err(OpError::Busy);
        }
        if direction == Direction::Out
            && let Some(error) = socket.send_error.take()
        {
            return Err(error);
        }
        if lacks_pool {
            return Err(OpError::NoBuffers);
        }
        Ok(Some(socket.file))
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
        match *self.flights.op(slot) {
            Op::Receive { into: Segment { len: 0, .. }, .. } | Op::Discard { len: 0, .. } => {
                self.end(slot, Outcome::Received(0))
            }
            Op::ReceiveStamped { into: Segment { len: 0, .. }, .. } => {
                self.end(slot, Outcome::ReceivedStamped { len: 0, at: None })
            }
            ref op if spin && op.is_single_receive() => self.spinning.push(slot),
            Op::SendRepeated { socket, .. } => return self.send_repeatedly(slot, socket),
            Op::Send { zero_copy: false, .. } | Op::SendTo { .. } if spin => {
                return self.attempt_send(slot);
            }
            Op::Connect { socket, to } if !self.is_stream(socket) => {
                let outcome = self.set_peer(socket, to);
                self.end(slot, outcome);
            }
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
            Ok(sent) => {
                if let (Some(errno), Some(socket)) = (sent.error, self.socket_mut(id)) {
                    socket.send_error = Some(("send", errno).into());
                }
                sent.outcome()
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return self.flights.submit(slot),
            Err(errno) => Outcome::Failed(("send", errno).into()),
        };
        self.end(slot, outcome);
        Ok(())
    }

    fn is_stream(&self, id: SocketId) -> bool {
        self.socket(id).is_none_or(|socket| socket.is_stream)
    }

    fn held_descriptor(&self, id: SocketId) -> BorrowedFd<'_> {
        let descriptor = self.socket(id).and_then(|s| s.descriptor.as_ref());
        descriptor.expect("a socket stays while an operation is pushed on it").as_fd()
    }

    fn set_peer(&self, id: SocketId, to: SocketAddr) -> Outcome {
        let descriptor = self.held_descriptor(id);
        let to = socket::for_family(socket::is_ipv6(descriptor), to);
        match socket::connect(descriptor, to) {
            Ok(()) => Outcome::Connected,
            Err(Errno::EAGAIN) => Outcome::Failed(OpError::AddressNotAvailable),
            Err(errno) => Outcome::Failed(("connect", errno).into()),
        }
    }

    fn half_close(&self, id: SocketId) -> Outcome {
        match SockRef::from(&self.held_descriptor(id)).shutdown(Shutdown::Write) {
            Ok(()) => Outcome::HalfClosed,
            Err(e) => Outcome::Failed(OpError::from(("shutdown", &e))),
        }
    }

    fn start_close(&mut self, slot: u32, id: SocketId) -> Result<(), DriverError> {
        let is_here = |op: &Op| op.target().is_some_and(|(socket, _)| socket == id);
        while let Some(index) = self.spinning.iter().position(|&s| is_here(self.flights.op(s))) {
            let spinning = self.spinning.swap_remove(index);
            self.end(spinning, Outcome::Failed(OpError::Canceled));
        }
        let socket = self.socket_mut(id).expect("a socket stays until it is closed");
        socket.close = Some(slot);
        for target in socket.outstanding.into_iter().flatten() {
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
    pub(super) fn finish_close(&mut self, id: SocketId) -> Result<(), DriverError> {
        let Some(socket) = self.socket_mut(id) else {
            return Ok(());
        };
        let (Some(close), false) = (socket.close, socket.is_busy()) else {
            return Ok(());
        };
        if socket.notifications > 0 {
            if let (false, Some(descriptor)) = (socket.ended, &socket.descriptor) {
                socket::end_within(descriptor.as_fd(), UNACKED_MAX);
            }
            socket.ended = true;
            return Ok(());
        }
        let file = socket.file;
        self.flights.detach(file)?;
        self.sockets[id.0 as usize] = None;
        self.vacant.push(id.0);
        self.end(close, Outcome::Closed);
        Ok(())
    }
}
