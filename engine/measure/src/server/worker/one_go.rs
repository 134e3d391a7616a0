//! The listener in the hands of a worker: see [`super::front`]'s side of it.

use super::front::{Listener, Returns};
use super::{Meter, Session, Sessions};
use crate::worker::link::{Purpose, slot_of, token};
use tare_driver::{Completion, Driver, DriverError, Op, Outcome, SocketId};
use tare_units::{Instant, Nanos};

/// The listener goes back when no connection of one operation has come for so long. Until then a worker whose client
/// asked for it spins.
const LEASE: Nanos = Nanos::from_millis(400);
/// Slots that no session has.
pub(super) const ORPHAN: u32 = u32::MAX - 1;
const DOOR: u32 = u32::MAX;

/// The listener, while it is lent to this worker.
#[derive(Debug)]
pub(super) struct Door<S> {
    listener: SocketId,
    returns: Returns<S>,
    /// When it last brought what it is lent for.
    used_at: Instant,
    closing: bool,
    closed: bool,
}

impl<S, P, M: Meter> Sessions<S, P, M> {
    /// Accepts connections itself from here on.
    pub(super) fn take_door<D: Driver<Socket = S>>(
        &mut self,
        io: &mut D,
        listener: Listener<S>,
        now: Instant,
    ) -> Result<(), DriverError> {
        let (socket, returns) = listener.into_parts();
        // Where it cannot be held, the lease ends with `returns`.
        let Ok(listener) = io.adopt(socket) else {
            return Ok(());
        };
        self.door = Some(Door { listener, returns, used_at: now, closing: false, closed: false });
        let multishot = true;
        let accept = Op::Accept { listener, multishot };
        io.push(token(DOOR, Purpose::Accept), accept)
    }

    /// The listener has brought a connection, or is closed.
    pub(super) fn handle_door<D: Driver<Socket = S>>(
        &mut self,
        io: &mut D,
        slot: u32,
        completion: &Completion,
        now: Instant,
    ) -> Result<(), DriverError> {
        let (_, purpose) = slot_of(completion.token);
        if slot == ORPHAN {
            return Ok(());
        }
        match (purpose, &completion.outcome) {
            (Purpose::Accept, Outcome::Accepted(socket)) => self.welcome(io, *socket, now)?,
            (Purpose::Close, _) => {
                if let Some(door) = &mut self.door {
                    door.closed = true;
                }
                self.leave_door(io);
                return Ok(());
            }
            _ => {}
        }
        if !completion.more && purpose == Purpose::Accept {
            // Whatever ended it, the front knows what to do about it.
            self.close_door(io)?;
        }
        Ok(())
    }

    /// A connection goes to a session that waits for one, or to the front.
    fn welcome<D: Driver<Socket = S>>(
        &mut self,
        io: &mut D,
        socket: SocketId,
        now: Instant,
    ) -> Result<(), DriverError> {
        let Some(door) = &mut self.door else {
            return io.push(token(ORPHAN, Purpose::Close), Op::Close { socket });
        };
        while !door.closing
            && let Some(slot) = self.parked.pop()
        {
            // One that ended in this turn is still named.
            if let Some(session) = self.slots[slot as usize].as_mut() {
                return session.renew(io, socket, now);
            }
        }
        match io.release(socket) {
            Ok(socket) => door.returns.give(socket, Vec::new()),
            Err(_) => io.push(token(ORPHAN, Purpose::Close), Op::Close { socket })?,
        }
        Ok(())
    }

    /// Gives the connection of a session back, and ends the session: its place may be needed for whoever it is.
    pub(super) fn give_back<D: Driver<Socket = S>>(
        &mut self,
        io: &mut D,
        slot: u32,
    ) -> Result<(), DriverError> {
        let Some(session) = self.slots[slot as usize].as_mut() else {
            return Ok(());
        };
        let Some((socket, said)) = session.give_back(io) else {
            return session.close(io, false);
        };
        // The place is free before the front is asked for one.
        self.reap(io, slot);
        if let Some(door) = &self.door {
            door.returns.give(socket, said);
        }
        self.leave_door(io);
        Ok(())
    }

    /// Ends the lease, once the listener is closed here and every connection that was not heard out is returned.
    fn leave_door<D: Driver>(&mut self, io: &mut D) {
        let is_closed = self.door.as_ref().is_some_and(|door| door.closed);
        if !is_closed || self.slots.iter().flatten().any(Session::is_opening) {
            return;
        }
        self.door = None;
        while let Some(slot) = self.parked.pop() {
            self.reap(io, slot);
        }
    }

    /// Whether a session is kept for its next connection.
    pub(super) fn keep(&mut self, slot: u32) -> bool {
        let (Some(door), Some(session)) = (&mut self.door, self.slots[slot as usize].as_mut())
        else {
            return false;
        };
        if door.closing || !session.may_be_kept() {
            return false;
        }
        if session.park() {
            door.used_at = self.active_at;
            self.parked.push(slot);
        }
        true
    }

    /// Ends the lease where it is over; returns whether it is ending.
    pub(super) fn check_door<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<bool, DriverError> {
        let Some(door) = &self.door else {
            return Ok(false);
        };
        if self.meter.is_stopping() || now.since(door.used_at) > LEASE {
            self.close_door(io)?;
        }
        self.leave_door(io);
        Ok(self.door.as_ref().is_some_and(|door| door.closing))
    }

    fn close_door<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        let Some(door) = self.door.as_mut().filter(|door| !door.closing) else {
            return Ok(());
        };
        door.closing = true;
        let socket = door.listener;
        io.push(token(DOOR, Purpose::Close), Op::Close { socket })
    }
}
