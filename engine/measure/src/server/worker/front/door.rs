//! Lending the listener to the worker that serves connections of one operation.
//!
//! Such a connection is over after one round trip, so a hand-over between two threads would cost more than the exchange.
//! While a client opens connections whose request follows the hello at once, the worker that serves it accepts them
//! itself. It returns every connection that turns out to be anything else, with what it has read of it, and the
//! listener when no such connection has come for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::{Acceptor, Place};
use crate::worker::link::{Purpose, token};
use tare_driver::{Driver, DriverError, Op, SocketOption, Waker};
use tare_units::Instant;

/// A connection that the front is to hear itself, and what was read of it.
#[derive(Debug)]
pub struct Returned<S> {
    /// The connection.
    pub socket: S,
    /// What its client has said so far.
    pub bytes: Vec<u8>,
}

/// Ends when it is dropped, however its holder ends: then the front listens again.
#[derive(Debug)]
pub struct Lease {
    over: Arc<AtomicBool>,
    waker: Waker,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// The listener, on its way to a worker.
#[derive(Debug)]
pub struct Listener<S> {
    /// A second handle on it; the front keeps the first.
    pub socket: S,
    back: Sender<Returned<S>>,
    lease: Lease,
}

impl<S> Listener<S> {
    /// The handle to be adopted, and what is kept while it is held.
    pub(in super::super) fn into_parts(self) -> (S, Returns<S>) {
        let Self { socket, back, lease } = self;
        (socket, Returns { back, lease })
    }
}

/// The way back to the front.
#[derive(Debug)]
pub struct Returns<S> {
    back: Sender<Returned<S>>,
    lease: Lease,
}

impl<S> Returns<S> {
    /// Gives a connection back.
    pub(in super::super) fn give(&self, socket: S, bytes: Vec<u8>) {
        // A front that has ended takes no more clients.
        let _ = self.back.send(Returned { socket, bytes });
        self.lease.waker.wake();
    }
}

/// Where the listener is.
#[derive(Debug)]
pub(super) struct Lending<S> {
    /// The accept is being cancelled, for the listener to be lent.
    asked: bool,
    /// Connections that await this.
    waiting: Vec<usize>,
    /// The front's own handle, while the listener is lent.
    home: Option<S>,
    /// To be handed over with the next connection of one operation.
    to_hand_over: Option<Listener<S>>,
    over: Arc<AtomicBool>,
    back: Sender<Returned<S>>,
    returned: Receiver<Returned<S>>,
}

impl<S> Lending<S> {
    pub(super) fn new() -> Self {
        let (back, returned) = unbounded();
        Self {
            asked: false,
            waiting: Vec::new(),
            home: None,
            to_hand_over: None,
            over: Arc::default(),
            back,
            returned,
        }
    }

    pub(super) const fn is_asked(&self) -> bool {
        self.asked
    }

    pub(super) const fn take_listener(&mut self) -> Option<Listener<S>> {
        self.to_hand_over.take()
    }
}

impl<P, T, S> Acceptor<P, T, S> {
    /// A connection of one operation has come: whether it is to wait for the listener to go with it. With several
    /// listeners none is lent.
    pub(super) fn awaits_listener<D: Driver>(
        &mut self,
        io: &mut D,
        index: usize,
    ) -> Result<bool, DriverError> {
        let may_ask =
            self.listeners.len() == 1 && self.lending.home.is_none() && self.disarmed.is_empty();
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
    pub(super) fn lend<D>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError>
    where
        D: Driver<Socket = S>,
        P: Place<S, Ticket = T>,
    {
        self.lending.asked = false;
        if let Ok(socket) = io.release(self.listeners[0]) {
            self.lending.over = Arc::default();
            self.lending.to_hand_over = D::share(&socket).map(|shared| Listener {
                socket: shared,
                back: self.lending.back.clone(),
                lease: Lease { over: Arc::clone(&self.lending.over), waker: io.waker() },
            });
            if self.lending.to_hand_over.is_none() {
                self.lending.over.store(true, Ordering::Relaxed);
            }
            self.lending.home = Some(socket);
        } else {
            self.disarmed.push(0);
        }
        self.go_on(io, now)?;
        // Had none of them been admitted, this ends the lease at once.
        self.lending.to_hand_over = None;
        Ok(())
    }

    /// The accept had ended before it could be cancelled, for want of descriptors.
    pub(super) fn lend_nothing<D>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError>
    where
        D: Driver<Socket = S>,
        P: Place<S, Ticket = T>,
    {
        if !std::mem::take(&mut self.lending.asked) {
            return Ok(());
        }
        self.go_on(io, now)
    }

    /// Serves those that waited for the listener.
    fn go_on<D>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError>
    where
        D: Driver<Socket = S>,
        P: Place<S, Ticket = T>,
    {
        for index in std::mem::take(&mut self.lending.waiting) {
            if self.pending[index].is_some() {
                self.step_handshake(io, index, now)?;
            }
        }
        Ok(())
    }

    /// Hears what was returned, and listens again where the lease is over.
    pub(super) fn take_back<D>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError>
    where
        D: Driver<Socket = S>,
        P: Place<S, Ticket = T>,
    {
        while let Ok(Returned { socket, bytes }) = self.lending.returned.try_recv() {
            if let Ok(socket) = io.adopt(socket) {
                self.handle_accepted(io, socket, &bytes, now)?;
            }
        }
        if !self.lending.over.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(home) = self.lending.home.take() else {
            return Ok(());
        };
        let Ok(listener) = io.adopt(home) else {
            let line = "the listening socket is lost: start the server again";
            self.place.log("listener", line);
            return Ok(());
        };
        self.listeners[0] = listener;
        if self.stamps {
            let _ = io.set_option(listener, &SocketOption::ReceiveTimestamps(true));
        }
        let multishot = true;
        let accept = Op::Accept { listener, multishot };
        io.push(token(0, Purpose::Accept), accept)
    }
}
