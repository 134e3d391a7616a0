//! TCP connections until they are a session, or turned away.

use std::net::SocketAddr;

use super::super::Result;
use super::super::http::HttpArrival;
use super::{Acceptor, Arrival, Dispatch, PENDING_BASE, close_orphan, crowd};
use crate::worker::link::{Link, Purpose};
use tare_driver::{Driver, OpError, Outcome, SocketId, SocketOption};
use tare_proto::handshake::{ServerEvent, ServerFailure, ServerHandshake};
use tare_proto::hello::Transport;
use tare_units::{Instant, Nanos};

/// Bytes read at a time before the hello is complete.
const HELLO_READ: u32 = 512;
/// Found in the first bytes of a client that asks for the queue, whose replies name arrivals.
const QUEUE: &[u8] = b" /queue";

/// A TCP connection that has yet to say its hello, or is being refused.
#[derive(Debug)]
pub(super) struct Pending {
    link: Link,
    peer: Option<SocketAddr>,
    handshake: ServerHandshake,
    since: Instant,
    silent: bool,
    /// When the last of what it said arrived, by the kernel's clock, where that stamps.
    stamp: Option<Nanos>,
    /// Its number among all that were accepted.
    ordinal: u64,
    /// The refusal is on its way: close when it is sent.
    refused: bool,
}

impl<S, P: Dispatch<S>> Acceptor<P, S> {
    pub(super) fn handle_accepted(
        &mut self,
        io: &mut impl Driver<Socket = S>,
        socket: SocketId,
        bytes: &[u8],
        now: Instant,
    ) -> Result {
        if self.pending.len() >= self.pending_max {
            // More in one turn than there is room kept for.
            return close_orphan(io, socket);
        }
        let index = self.pending.vacant_key();
        #[expect(clippy::cast_possible_truncation, reason = "below SOCKETS_MAX")]
        let slot = PENDING_BASE + index as u32;
        let mut link = Link::new(io, slot, socket, HELLO_READ as usize, 0)?;
        if bytes.is_empty() {
            link.receive_stamped(io, 0, HELLO_READ)?;
        }
        self.accepted += 1;
        let mut handshake = ServerHandshake::new(self.secret.clone(), self.dispatch.nonce());
        handshake.handle_bytes(bytes);
        self.pending.insert(Pending {
            peer: io.peer_addr(socket),
            link,
            handshake,
            since: now,
            silent: bytes.is_empty(),
            stamp: None,
            ordinal: self.accepted,
            refused: false,
        });
        self.open += 1;
        if self.open > crowd(self.pending_max) {
            // While there still is room: a newcomer is more likely to be a client than they are.
            self.close_older_half(io)?;
        }
        if bytes.is_empty() { Ok(()) } else { self.step_handshake(io, index, now) }
    }

    pub(super) fn handle_accept_failed(&mut self, io: &mut impl Driver, error: OpError) -> Result {
        match error {
            OpError::Canceled => Ok(()),
            OpError::TooManyFiles => {
                if !std::mem::replace(&mut self.out_of_descriptors, true) {
                    self.dispatch.log(
                        "descriptors",
                        "no descriptor is left for another client (EMFILE); raise the limit (ulimit -n), or give a \
                         smaller --max-sessions",
                    );
                }
                self.close_older_half(io)
            }
            error => {
                self.dispatch.log("accept", &format!("accept: {error}"));
                Ok(())
            }
        }
    }

    /// Those make room that have been silent longest. One would not be enough: whoever holds many
    /// connections is trying to get more. By their order and not by the clock: in a crowd, a
    /// thousand come at the same instant.
    fn close_older_half(&mut self, io: &mut impl Driver) -> Result {
        let open = |pending: &&mut Pending| !pending.link.is_closing();
        let mut ordinals: Vec<u64> =
            self.pending.iter_mut().map(|(_, p)| p).filter(open).map(|p| p.ordinal).collect();
        ordinals.sort_unstable();
        let Some(&middle) = ordinals.get(ordinals.len() / 2) else {
            return Ok(());
        };
        for pending in self.pending.iter_mut().map(|(_, p)| p).filter(open) {
            if pending.ordinal <= middle {
                self.open -= 1;
                pending.link.close(io)?;
            }
        }
        Ok(())
    }

    pub(super) fn handle_pending(
        &mut self,
        io: &mut impl Driver<Socket = S>,
        index: usize,
        purpose: Purpose,
        outcome: &Outcome,
        now: Instant,
    ) -> Result {
        let Some(pending) = self.pending.get_mut(index) else {
            return Ok(());
        };
        pending.link.handle_completed(purpose);
        if pending.link.is_closing() {
            if pending.link.is_quiet() {
                self.pending.remove(index).link.free(io);
            }
            return Ok(());
        }
        match (purpose, outcome) {
            (Purpose::Receive, Outcome::ReceivedStamped { len: 1.., .. }) if pending.refused => {
                pending.link.receive_stamped(io, 0, HELLO_READ)
            }
            (Purpose::HalfClose, Outcome::HalfClosed) => Ok(()),
            (Purpose::Receive, Outcome::ReceivedStamped { len: len @ 1.., at }) => {
                if std::mem::take(&mut pending.silent) {
                    // A hello's deadline counts from its first byte, that of silence from the
                    // accept.
                    pending.since = now;
                }
                let bytes = &io.buffer(pending.link.receive_buffer())[..*len as usize];
                pending.stamp = *at;
                pending.handshake.handle_bytes(bytes);
                self.step_handshake(io, index, now)
            }
            (Purpose::SendControl, Outcome::Sent(n)) => {
                if pending.link.handle_control_sent(io, *n)? {
                    self.step_handshake(io, index, now)?;
                }
                Ok(())
            }
            _ => self.give_up(io, index, ServerHandshake::handle_closed),
        }
    }

    /// Closes a connection that did not become a session; `tell` tells its handshake why.
    fn give_up(
        &mut self,
        io: &mut impl Driver,
        index: usize,
        tell: fn(&mut ServerHandshake),
    ) -> Result {
        let Some(pending) = self.pending.get_mut(index) else {
            return Ok(());
        };
        tell(&mut pending.handshake);
        // Health checks connect and close without a word, every few seconds: no news.
        if let Some(ServerEvent::Failed(reason)) = pending.handshake.poll_event()
            && reason != ServerFailure::ClosedSilently
        {
            log_failure(&mut self.dispatch, pending.peer, &reason);
        }
        self.open -= usize::from(!pending.link.is_closing());
        pending.link.close(io)
    }

    pub(super) fn handle_hello_deadlines(&mut self, io: &mut impl Driver, now: Instant) -> Result {
        let late = |(_, pending): &(usize, &Pending)| {
            let within = if pending.silent { self.silent_within } else { self.hello_within };
            !pending.link.is_closing() && now.since(pending.since) > within
        };
        let late: Vec<usize> = self.pending.iter().filter(late).map(|(index, _)| index).collect();
        for index in late {
            self.give_up(io, index, ServerHandshake::handle_timeout)?;
        }
        Ok(())
    }

    /// Sends what the handshake wants sent, acts on what it found, and asks for more bytes.
    pub(super) fn step_handshake(
        &mut self,
        io: &mut impl Driver<Socket = S>,
        index: usize,
        now: Instant,
    ) -> Result {
        let Some(pending) = self.pending.get_mut(index) else {
            return Ok(());
        };
        if pending.link.is_closing() || pending.link.is_sending_control() {
            return Ok(());
        }
        if pending.handshake.request_follows() && self.awaits_listener(io, index)? {
            return Ok(());
        }
        let Some(pending) = self.pending.get_mut(index) else {
            return Ok(());
        };
        while let Some(event) = pending.handshake.poll_event() {
            match event {
                ServerEvent::Hello(hello) => match self.dispatch.admit(&hello, pending.peer) {
                    Ok(admission) => {
                        if self.stamps {
                            // What a session receives goes the kernel's plain way.
                            let plain = SocketOption::ReceiveTimestamps(false);
                            let _ = io.set_option(pending.link.socket(), &plain);
                        }
                        let one_go = hello.request_follows;
                        let listener = one_go.then(|| self.lending.to_hand_over.take()).flatten();
                        return self.hand_over(io, index, |dispatch, socket, peer, early| {
                            let arrival = Arrival {
                                socket,
                                hello,
                                transport: Transport::Tcp,
                                peer,
                                nonce: None,
                                early,
                                listener,
                            };
                            dispatch.hand_over(admission, arrival);
                        });
                    }
                    Err(refusal) => {
                        pending.handshake.refuse(refusal);
                        pending.refused = true;
                    }
                },
                ServerEvent::Http(bytes) => {
                    let (at, stamp) = (now, pending.stamp);
                    if !self.stamps && bytes.windows(QUEUE.len()).any(|part| part == QUEUE) {
                        self.have_arrivals_stamped(io);
                    }
                    return self.hand_over(io, index, |dispatch, socket, _, _| {
                        dispatch.hand_over_http(HttpArrival { socket, bytes, at, stamp });
                    });
                }
                ServerEvent::Failed(reason) => {
                    log_failure(&mut self.dispatch, pending.peer, &reason);
                    pending.refused = true;
                }
            }
        }
        if let Some(frame) = pending.handshake.poll_transmit() {
            return pending.link.send_control(io, &frame);
        }
        if pending.refused {
            // What the client still sends is read until it closes: closing over unread bytes would
            // reset the connection, and the reset would overtake the refusal.
            pending.link.half_close(io)?;
        }
        if !pending.link.is_receiving() {
            pending.link.receive_stamped(io, 0, HELLO_READ)?;
        }
        Ok(())
    }

    /// Has the kernel stamp what arrives on connections to come, which inherit it from their
    /// listener, and on those that have yet to say something.
    ///
    /// Not from the start: with a single socket that asks for stamps, the kernel reads the clock
    /// for every packet of the machine, those of ping-pong sessions included.
    fn have_arrivals_stamped(&mut self, io: &mut impl Driver) {
        self.stamps = true;
        let open = self.pending.iter().map(|(_, p)| p).filter(|pending| !pending.link.is_closing());
        let sockets = open.map(|pending| pending.link.socket());
        for socket in self.listeners.iter().copied().chain(sockets) {
            // Where the kernel does not, the instant of the reaping has to do.
            let _ = io.set_option(socket, &SocketOption::ReceiveTimestamps(true));
        }
    }

    /// Takes a connection off the front's driver, and `give`s it away.
    fn hand_over(
        &mut self,
        io: &mut impl Driver<Socket = S>,
        index: usize,
        give: impl FnOnce(&mut P, S, Option<SocketAddr>, Vec<u8>),
    ) -> Result {
        let Some(pending) = self.pending.try_remove(index) else {
            return Ok(());
        };
        self.open -= 1;
        let socket = pending.link.socket();
        match io.release(socket) {
            Ok(socket) => {
                give(&mut self.dispatch, socket, pending.peer, pending.handshake.into_rest());
            }
            Err(error) => {
                let line = format!("could not hand a connection over: {error}");
                self.dispatch.log("hand-over", &line);
                close_orphan(io, socket)?;
            }
        }
        pending.link.free(io);
        Ok(())
    }
}

fn log_failure<S>(
    dispatch: &mut impl Dispatch<S>,
    peer: Option<SocketAddr>,
    reason: &ServerFailure,
) {
    let name = peer.map_or_else(|| "a client".to_owned(), |peer| peer.to_string());
    dispatch.log(reason.kind(), &format!("{name}: {reason}"));
}
