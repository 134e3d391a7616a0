//! Lending the listener to the worker that serves connections of one operation.
//!
//! Such a connection is over after one round trip, so a hand-over between two threads would cost
//! more than the exchange. While a client opens connections whose request follows the hello at
//! once, the worker that serves it accepts them itself. It returns every connection that turns out
//! to be anything else, with what it has read of it, and the listener when no such connection has
//! come for a while.

use crossbeam::channel::{Receiver, Sender, TryRecvError, unbounded};

use super::super::Result;
use super::{Acceptor, Dispatch, accept};
use crate::worker::link::{Purpose, token};
use tare_driver::{Driver, Op, SocketOption, Waker};
use tare_units::Instant;

/// A connection, and what its client has said so far.
type Returned<S> = (S, Vec<u8>);

/// The listener, on its way to a worker.
#[derive(Debug)]
pub(crate) struct Listener<S> {
    /// A second handle on it; the front keeps the first.
    pub(crate) socket: S,
    pub(crate) lease: Lease<S>,
}

/// The way back to the front for connections that it is to hear itself. However its holder ends,
/// with the drop of this the front listens again.
#[derive(Debug)]
pub(crate) struct Lease<S> {
    /// Dropped first: it tells the front that the lease is over.
    back: Sender<Returned<S>>,
    front: WakeOnDrop,
}

#[derive(Debug)]
struct WakeOnDrop(Waker);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl<S> Lease<S> {
    /// Gives a connection back.
    pub(crate) fn give(&self, socket: S, bytes: Vec<u8>) {
        // A front that has ended takes no more clients.
        let _ = self.back.send((socket, bytes));
        self.front.0.wake();
    }
}

#[derive(Debug)]
pub(super) struct Lending<S> {
    /// The accept is being cancelled, for the listener to be lent.
    pub(super) asked: bool,
    /// Connections that await this.
    waiting: Vec<usize>,
    /// To be handed over with the next connection of one operation.
    pub(super) to_hand_over: Option<Listener<S>>,
    /// While the listener is lent: the front's own handle on it, and what the worker returns.
    lent: Option<(S, Receiver<Returned<S>>)>,
}

impl<S> Lending<S> {
    pub(super) const fn new() -> Self {
        Self { asked: false, waiting: Vec::new(), to_hand_over: None, lent: None }
    }
}

impl<S, P: Dispatch<S>> Acceptor<P, S> {
    /// A connection of one operation has come: whether it is to wait for the listener to go with
    /// it. With several listeners none is lent.
    pub(super) fn awaits_listener(&mut self, io: &mut impl Driver, index: usize) -> Result<bool> {
        let may_ask =
            self.listeners.len() == 1 && self.lending.lent.is_none() && self.disarmed.is_empty();
        if !self.lending.asked && may_ask {
            let target = token(0, Purpose::Accept);
            io.push(token(0, Purpose::Cancel), Op::Cancel { token: target })?;
            self.lending.asked = true;
        }
        if self.lending.asked {
            self.lending.waiting.push(index);
        }
        Ok(self.lending.asked)
    }

    /// Nothing is accepted any more: the listener goes with the first of those that waited for it.
    pub(super) fn lend<D: Driver<Socket = S>>(&mut self, io: &mut D, now: Instant) -> Result {
        if let Ok(socket) = io.release(self.listeners[0]) {
            let (back, returned) = unbounded();
            let lease = Lease { back, front: WakeOnDrop(io.waker()) };
            self.lending.to_hand_over = D::share(&socket).map(|socket| Listener { socket, lease });
            self.lending.lent = Some((socket, returned));
        } else {
            self.disarmed.push(0);
        }
        self.serve_waiting(io, now)?;
        // Had none of them been admitted, this ends the lease at once.
        self.lending.to_hand_over = None;
        Ok(())
    }

    /// Serves those that waited for the listener, be it lent or not to be had: the accept may have
    /// ended before it could be cancelled, for want of descriptors.
    pub(super) fn serve_waiting(
        &mut self,
        io: &mut impl Driver<Socket = S>,
        now: Instant,
    ) -> Result {
        self.lending.asked = false;
        for index in std::mem::take(&mut self.lending.waiting) {
            if self.pending.contains(index) {
                self.step_handshake(io, index, now)?;
            }
        }
        Ok(())
    }

    /// Hears what was returned, and listens again where the lease is over.
    pub(super) fn take_back(&mut self, io: &mut impl Driver<Socket = S>, now: Instant) -> Result {
        while let Some((_, returned)) = &self.lending.lent {
            match returned.try_recv() {
                Ok((socket, bytes)) => {
                    if let Ok(socket) = io.adopt(socket) {
                        self.handle_accepted(io, socket, &bytes, now)?;
                    }
                }
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => break,
            }
        }
        let Some((home, _)) = self.lending.lent.take() else {
            return Ok(());
        };
        let Ok(listener) = io.adopt(home) else {
            let line = "the listening socket is lost: start the server again";
            self.dispatch.log("listener", line);
            return Ok(());
        };
        self.listeners[0] = listener;
        if self.stamps {
            let _ = io.set_option(listener, &SocketOption::ReceiveTimestamps(true));
        }
        accept(io, 0, listener)
    }
}
