//! From the kernel's answer to the completion.

use std::os::fd::{AsFd, OwnedFd};

use super::UringDriver;
use crate::sys::flight::{Event, RawCompletion};
use crate::{Completion, DriverError, Op, OpError, Outcome, SocketId};

/// The kernel's mark in a notification: the data of a zero-copy send was copied
/// (`IORING_NOTIF_USAGE_ZC_COPIED` of `linux/io_uring.h`).
const COPIED: u32 = 1 << 31;

impl UringDriver {
    /// Ends an operation that the kernel does not have, with a completion in this turn.
    pub(super) fn end(&mut self, slot: u32, outcome: Outcome) {
        let completion = Completion { token: self.flights.token(slot), outcome, more: false };
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
            socket.outstanding[direction as usize] = None;
        }
    }

    /// Reaps into `done`, up to `limit` entries of it; returns how many completions there were of
    /// any kind.
    #[inline]
    pub(super) fn reap(
        &mut self,
        done: &mut Vec<Completion>,
        limit: usize,
    ) -> Result<usize, DriverError> {
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
                        self.flights.arm_waker(&self.waker.as_fd())?;
                    }
                }
            }
        }
        self.deliver(done, limit);
        Ok(reaped)
    }

    #[inline]
    pub(super) fn deliver(&mut self, done: &mut Vec<Completion>, limit: usize) {
        while done.len() < limit
            && let Some(completion) = self.ready.pop_front()
        {
            done.push(completion);
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
        let closing = target.is_some_and(|(id, _)| self.socket(id).is_some_and(|s| s.closing));
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
        done.push(Completion {
            token: self.flights.token(slot),
            outcome: Outcome::Released { copied: result.cast_unsigned() & COPIED != 0 },
            more: false,
        });
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
    pub(super) fn outcome(&mut self, raw: RawCompletion, closing: bool) -> Outcome {
        let result = raw.result;
        let Ok(count) = u32::try_from(result) else {
            let op = self.flights.op(raw.slot);
            return match (op, -result) {
                (Op::Cancel { .. }, libc::ENOENT) => Outcome::CancelDone { found: false },
                // It could not be stopped any more, but it was there.
                (Op::Cancel { .. }, libc::EALREADY) => Outcome::CancelDone { found: true },
                (_, libc::EINTR) if closing => Outcome::Failed(OpError::Canceled),
                (op, errno) => Outcome::Failed(OpError::from_errno(call(op), errno)),
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
        match self.hold(descriptor, is_ipv6, true, true) {
            Ok(id) => Outcome::Accepted(id),
            Err(error) => Outcome::Failed(error),
        }
    }
}

/// Whether an operation that a signal interrupted can be started again as if nothing had been.
const fn may_restart(op: &Op) -> bool {
    !matches!(op, Op::Connect { .. } | Op::Cancel { .. })
}

const fn call(op: &Op) -> &'static str {
    match op {
        Op::Accept { .. } => "accept",
        Op::Connect { .. } => "connect",
        Op::Send { .. } | Op::SendRepeated { .. } => "send",
        Op::SendVectored { .. } | Op::SendTo { .. } => "sendmsg",
        Op::Receive { .. } | Op::Discard { .. } | Op::ReceiveMultishot { .. } => "recv",
        Op::ReceiveFrom { .. } | Op::ReceiveStamped { .. } => "recvmsg",
        Op::HalfClose { .. } => "shutdown",
        Op::Close { .. } => "close",
        Op::Cancel { .. } => "io_uring cancel",
    }
}
