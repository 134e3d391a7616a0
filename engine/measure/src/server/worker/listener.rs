//! The listener in the hands of a worker, which [`super::front`] has lent it.

use super::front::{Lease, Listener};
use super::{Io, Meter, Result, Session, Sessions};
use crate::worker::link::{Purpose, slot_of, token};
use tare_driver::{Completion, Driver, Op, Outcome, SocketId};
use tare_units::{Instant, Nanos};

/// The listener goes back when no connection of one operation has come for so long. Until then a
/// worker whose client asked for it spins.
const LEASE: Nanos = Nanos::from_millis(400);
/// Slots that no session has.
pub(super) const ORPHAN: u32 = u32::MAX - 1;
const LISTENER: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct BorrowedListener<S> {
    socket: SocketId,
    lease: Lease<S>,
    /// When it last brought what it is lent for.
    used_at: Instant,
    closing: bool,
    closed: bool,
}

impl<S, P, M: Meter> Sessions<S, P, M> {
    /// Accepts connections itself from here on.
    pub(super) fn borrow_listener(
        &mut self,
        io: &mut impl Io<S>,
        listener: Listener<S>,
        now: Instant,
    ) -> Result {
        let Listener { socket, lease } = listener;
        // Where it cannot be held, the lease ends with its drop.
        let Ok(socket) = io.adopt(socket) else {
            return Ok(());
        };
        self.listener =
            Some(BorrowedListener { socket, lease, used_at: now, closing: false, closed: false });
        let accept = Op::Accept { listener: socket, multishot: true };
        io.push(token(LISTENER, Purpose::Accept), accept)
    }

    /// The listener has brought a connection, or is closed.
    pub(super) fn handle_listener(
        &mut self,
        io: &mut impl Io<S>,
        completion: &Completion,
        now: Instant,
    ) -> Result {
        match (slot_of(completion.token), &completion.outcome) {
            ((LISTENER, Purpose::Close), _) => {
                if let Some(listener) = &mut self.listener {
                    listener.closed = true;
                }
                self.end_lease(io);
            }
            ((LISTENER, Purpose::Accept), outcome) => {
                if let Outcome::Accepted(socket) = outcome {
                    self.take_connection(io, *socket, now)?;
                }
                if !completion.more {
                    // Whatever ended it, the front knows what to do about it.
                    self.close_listener(io)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A connection goes to a session that waits for one, or to the front.
    fn take_connection(&mut self, io: &mut impl Io<S>, socket: SocketId, now: Instant) -> Result {
        let close =
            |io: &mut _| Driver::push(io, token(ORPHAN, Purpose::Close), Op::Close { socket });
        let Some(listener) = &self.listener else {
            return close(io);
        };
        while !listener.closing
            && let Some(slot) = self.parked.pop()
        {
            // One that ended in this turn is still named.
            if let Some(session) = self.slots[slot as usize].as_mut() {
                return session.renew(io, socket, now);
            }
        }
        match io.release(socket) {
            Ok(socket) => listener.lease.give(socket, Vec::new()),
            Err(_) => close(io)?,
        }
        Ok(())
    }

    /// Gives the connection of a session back, and ends the session: its place may be needed.
    pub(super) fn give_back(&mut self, io: &mut impl Io<S>, slot: u32) -> Result {
        let Some(session) = self.slots[slot as usize].as_mut() else {
            return Ok(());
        };
        let Some((socket, said)) = session.give_back(io) else {
            return session.link.close(io);
        };
        // The place is free before the front is asked for one.
        self.reap(io, slot);
        if let Some(listener) = &self.listener {
            listener.lease.give(socket, said);
        }
        self.end_lease(io);
        Ok(())
    }

    /// Ends the lease, once the listener is closed here and every unheard connection is returned.
    fn end_lease(&mut self, io: &mut impl Driver) {
        let is_closed = self.listener.as_ref().is_some_and(|listener| listener.closed);
        if !is_closed || self.slots.iter().flatten().any(Session::is_opening) {
            return;
        }
        self.listener = None;
        while let Some(slot) = self.parked.pop() {
            self.reap(io, slot);
        }
    }

    /// Whether a session is kept for its next connection.
    pub(super) fn keep(&mut self, slot: u32) -> bool {
        let (Some(listener), Some(session)) =
            (&mut self.listener, self.slots[slot as usize].as_mut())
        else {
            return false;
        };
        if listener.closing || !session.may_be_kept() {
            return false;
        }
        if session.park() {
            listener.used_at = self.active_at;
            self.parked.push(slot);
        }
        true
    }

    /// Ends the lease where it is over; returns whether it is ending.
    pub(super) fn check_lease(&mut self, io: &mut impl Driver, now: Instant) -> Result<bool> {
        let Some(listener) = &self.listener else {
            return Ok(false);
        };
        if self.meter.is_stopping() || now.since(listener.used_at) > LEASE {
            self.close_listener(io)?;
        }
        self.end_lease(io);
        Ok(self.listener.as_ref().is_some_and(|listener| listener.closing))
    }

    fn close_listener(&mut self, io: &mut impl Driver) -> Result {
        let Some(listener) = self.listener.as_mut().filter(|listener| !listener.closing) else {
            return Ok(());
        };
        listener.closing = true;
        io.push(token(LISTENER, Purpose::Close), Op::Close { socket: listener.socket })
    }
}
