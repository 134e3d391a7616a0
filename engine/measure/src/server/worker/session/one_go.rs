//! Sessions of one operation whose request follows right behind its hello: hello and request in, the bare reply out.
//!
//! While its worker has the listener, such a session is kept when its connection is over, and takes the next connection
//! whose first bytes are the same hello, byte for byte. So no connection costs an admission, an allocation or a look at
//! JSON; every other one is given back to the front with what was read of it.

use super::{Result, Session, Want, bytes};
use tare_driver::{Driver, OpError, Outcome, SocketId};
use tare_proto::handshake::hello_in_one_go;
use tare_proto::ping_pong;
use tare_units::{Instant, Nanos};

/// A connection that says less than its hello and its request for so long is given back: the front has the patience.
const OPENING_MAX: Nanos = Nanos::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct OneGo {
    /// The hello of its client, in its frame.
    hello: Vec<u8>,
    /// A connection whose hello and request have not come whole yet, and how much of them has.
    opening: Option<usize>,
    /// It is being given back.
    leaving: bool,
    /// It has no connection, and waits for the next.
    parked: bool,
}

impl OneGo {
    pub(super) const fn is_opening(&self) -> bool {
        self.opening.is_some()
    }
}

impl<P> Session<P> {
    /// A connection's hello and request have not come whole yet.
    pub(crate) fn is_opening(&self) -> bool {
        self.one_go.is_opening() && !self.link.is_closing()
    }

    /// Begins with what has arrived of the request; no accept is sent.
    pub(crate) fn begin_in_one_go(
        &mut self,
        io: &mut impl Driver,
        early: &[u8],
        now: Instant,
    ) -> Result<Want> {
        self.one_go.hello = hello_in_one_go(&self.hello);
        if early.len() > self.size as usize {
            return Ok(Want::Close);
        }
        io.buffer_mut(self.link.receive_buffer())[..early.len()].copy_from_slice(early);
        self.received_bytes += early.len() as u64;
        if self.request.handle_request(early.len()) == Ok(true) {
            self.measured = ping_pong::is_measured(early);
            return Ok(self.handle_request(now));
        }
        let rest = self.request.receive_range();
        self.link.receive(io, bytes(rest.start), bytes(rest.len()))?;
        Ok(Want::Nothing)
    }

    /// Whether it may take another connection when this one is over.
    pub(crate) fn may_be_kept(&self) -> bool {
        self.hello.request_follows
            && self.cut_short.is_none()
            && self.is_over()
            && !self.one_go.leaving
    }

    /// Waits for its next connection. Returns whether it did not already.
    pub(crate) const fn park(&mut self) -> bool {
        !std::mem::replace(&mut self.one_go.parked, true)
    }

    pub(crate) fn renew(&mut self, io: &mut impl Driver, socket: SocketId, now: Instant) -> Result {
        self.link.replace_socket(io, socket);
        (self.since, self.active_at) = (now, now);
        self.request.restart();
        self.measured = false;
        (self.ended_at, self.client_ended) = (None, false);
        (self.one_go.opening, self.one_go.parked) = (Some(0), false);
        let most = self.one_go.hello.len() + self.size as usize + 1;
        self.link.receive(io, 0, bytes(most))
    }

    /// A connection that took its time over its hello is asked back from the driver. Returns whether it is one.
    pub(crate) fn handle_slow_opening(
        &mut self,
        io: &mut impl Driver,
        now: Instant,
        leaving: bool,
    ) -> Result<bool> {
        let late = leaving || now.since(self.since) > OPENING_MAX;
        if !self.one_go.is_opening() || self.link.is_closing() || !late {
            return Ok(false);
        }
        if !std::mem::replace(&mut self.one_go.leaving, true) {
            self.link.cancel_receive(io)?;
        }
        Ok(true)
    }

    /// Something of a connection's hello and request has come, or its receive was cancelled.
    pub(super) fn handle_opening(
        &mut self,
        io: &mut impl Driver,
        outcome: &Outcome,
        now: Instant,
    ) -> Result<Want> {
        let came = match outcome {
            Outcome::Received(n @ 1..) => *n as usize,
            Outcome::CancelDone { .. } => 0,
            Outcome::Failed(OpError::Canceled) if self.one_go.leaving => 0,
            _ => {
                self.one_go.opening = None;
                return Ok(Want::Close);
            }
        };
        let got = self.one_go.opening.unwrap_or_default() + came;
        self.one_go.opening = Some(got);
        if self.one_go.leaving {
            return Ok(if self.link.is_quiet() { Want::GiveBack } else { Want::Nothing });
        }
        let (hello, size) = (&self.one_go.hello, self.size as usize);
        let said = &io.buffer(self.link.receive_buffer())[..got];
        let known = got.min(hello.len());
        if came == 0 || said[..known] != hello[..known] {
            return Ok(Want::GiveBack);
        }
        let whole = hello.len() + size;
        if got < whole {
            self.link.receive(io, bytes(got), bytes(whole + 1 - got))?;
            return Ok(Want::Nothing);
        }
        self.measured = ping_pong::is_measured(&said[hello.len()..]);
        self.one_go.opening = None;
        if got > whole {
            return Ok(Want::Close);
        }
        Ok(self.handle_request(now))
    }

    /// The connection and what was read of it, for the front. The session has none then.
    pub(crate) fn give_back<D: Driver>(&mut self, io: &mut D) -> Option<(D::Socket, Vec<u8>)> {
        let got = self.one_go.opening.take().unwrap_or_default();
        let said = io.buffer(self.link.receive_buffer())[..got].to_vec();
        let socket = io.release(self.link.socket()).ok()?;
        self.one_go.leaving = true;
        self.link.forget_socket();
        Some((socket, said))
    }
}
