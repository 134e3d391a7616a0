//! The front: takes connections and datagrams off the listening sockets, hears their hello, and
//! hands them to the worker that will serve them.

mod connections;
mod datagrams;
mod lending;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use slab::Slab;

use super::Result;
use super::http::HttpArrival;
use crate::worker::link::{Purpose, slot_of, token};
use crate::worker::{Role, TurnCounters};
use tare_driver::{
    Completion, Driver, Op, OpError, Outcome, SocketId, SocketKind, SocketSpec, Wait,
};
use tare_proto::auth::Secret;
use tare_proto::datagram::UdpServerFront;
use tare_proto::hello::{Hello, Refuse, Transport};
use tare_units::bounds::{HELLO_MAX, NAP};
use tare_units::limits::{CONTROL_DATAGRAM, HTTP_CONNECTIONS_MAX, PENDING_MAX, SOCKETS_MAX};
use tare_units::{Instant, Nanos};

use connections::Pending;
use datagrams::{Connecting, DatagramSocket, HandoffMap};
use lending::Lending;
pub(crate) use lending::{Lease, Listener};

/// With port 0: how many free TCP ports are tried for one that is free for UDP as well.
const PORTS_TRIED: u32 = 16;

/// A connection, or a verified datagram client, on its way from the front to a session worker.
#[derive(Debug)]
pub struct Arrival<S> {
    pub(crate) socket: S,
    pub(crate) hello: Box<Hello>,
    /// TCP or UDP.
    pub transport: Transport,
    pub(crate) peer: Option<SocketAddr>,
    /// UDP: the client's number for the session, by which its repeated hellos are known.
    pub(crate) nonce: Option<u64>,
    /// What has arrived of the request that follows the hello at once.
    pub(crate) early: Vec<u8>,
    /// The listener, lent to the worker of connections of one operation.
    pub(crate) listener: Option<Listener<S>>,
}

/// Decides who serves, and carries sockets there.
pub trait Dispatch<S> {
    /// What was decided for an admitted hello. Dropped, it leaves no trace: the client went away.
    type Admission;

    /// Admits a session, or says why not. Asked once per session.
    ///
    /// # Errors
    /// The refusal that the client is sent.
    fn admit(&mut self, hello: &Hello, peer: Option<SocketAddr>)
    -> Result<Self::Admission, Refuse>;

    /// Hands an admitted session over.
    fn hand_over(&mut self, admission: Self::Admission, arrival: Arrival<S>);

    /// Hands an HTTP connection over. One that is dropped is closed.
    fn hand_over_http(&mut self, arrival: HttpArrival<S>);

    /// A line for the log. Those of one `kind` may come by the thousand, and may be summed up.
    fn log(&mut self, kind: &'static str, line: &str);

    /// 32 bytes that nobody can guess: the nonce of a challenge.
    fn nonce(&mut self) -> [u8; 32];

    /// Whether the front is to end.
    fn is_stopping(&self) -> bool;
}

/// The front role; see the [module](self). `S` are the driver's sockets outside of it.
#[derive(Debug)]
pub struct Acceptor<P: Dispatch<S>, S = OwnedFd> {
    dispatch: P,
    secret: Option<Secret>,
    hello_within: Nanos,
    /// A connection that has not said a word is closed after that.
    silent_within: Nanos,
    /// Connections kept while they have not yet said what they want.
    pending_max: usize,
    listeners: Vec<SocketId>,
    datagram_sockets: Vec<DatagramSocket>,
    udp: Arc<UdpServerFront>,
    pending: Slab<Pending>,
    /// Those of `pending` that are not being closed.
    open: usize,
    accepted: u64,
    connecting: Slab<Connecting<P::Admission>>,
    handed: HandoffMap,
    checked_at: Instant,
    /// Listeners whose accept has ended and is to be pushed again.
    disarmed: Vec<u32>,
    stamps: bool,
    out_of_descriptors: bool,
    lending: Lending<S>,
}

/// Slots of the pending connections start here, above listeners and datagram sockets; those of
/// connecting datagram clients at twice that.
const PENDING_BASE: u32 = 1 << 20;
const CONNECTING_BASE: u32 = 2 << 20;
/// Sockets that belong to nobody any more are closed under this slot.
const ORPHAN: u32 = CONNECTING_BASE - 1;

/// Connections that a front keeps while they have not yet said what they want, where
/// `http_connections` HTTP clients may be silent at once.
#[must_use]
pub const fn pending_room(http_connections: u32) -> usize {
    PENDING_MAX + http_connections.div_ceil(3) as usize * 4
}

/// With more of them than that, the older half is closed: the same share of the room as
/// [`PENDING_CROWD`](tare_units::limits::PENDING_CROWD) is of [`PENDING_MAX`].
const fn crowd(room: usize) -> usize {
    room / 4 * 3
}

const _: () = {
    let most = pending_room(HTTP_CONNECTIONS_MAX);
    assert!(crowd(PENDING_MAX) == tare_units::limits::PENDING_CROWD);
    assert!(crowd(most) >= HTTP_CONNECTIONS_MAX as usize);
    assert!(most < SOCKETS_MAX as usize && SOCKETS_MAX < ORPHAN - PENDING_BASE);
};

impl<S, P: Dispatch<S>> Acceptor<P, S> {
    /// A front without sockets yet. A connection that has not said its whole hello within `idle`
    /// (but 5 s at most) is closed.
    #[must_use]
    pub fn new(dispatch: P, secret: Option<Secret>, udp: Arc<UdpServerFront>, idle: Nanos) -> Self {
        Self {
            dispatch,
            secret,
            hello_within: idle.min(HELLO_MAX),
            silent_within: idle.min(HELLO_MAX),
            pending_max: PENDING_MAX,
            listeners: Vec::new(),
            datagram_sockets: Vec::new(),
            udp,
            pending: Slab::new(),
            open: 0,
            accepted: 0,
            connecting: Slab::new(),
            handed: HandoffMap::default(),
            checked_at: Instant::default(),
            disarmed: Vec::new(),
            stamps: false,
            out_of_descriptors: false,
            lending: Lending::new(),
        }
    }

    /// HTTP clients open their connections before they have anything to say: `connections` of them
    /// may be silent at once, for `idle` each.
    #[must_use]
    pub fn with_http(mut self, connections: u32, idle: Nanos) -> Self {
        self.silent_within = idle;
        self.pending_max = pending_room(connections.min(HTTP_CONNECTIONS_MAX));
        self
    }

    pub(crate) fn into_dispatch(self) -> P {
        self.dispatch
    }

    #[cfg(test)]
    pub(crate) const fn dispatch(&self) -> &P {
        &self.dispatch
    }

    /// Clients that have yet to become a session, or are being turned away.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.pending.len() + self.connecting.len()
    }

    /// Opens a TCP listener and a UDP socket on `address` and starts listening. With port 0 both
    /// get the same free port. Returns the address.
    ///
    /// # Errors
    /// As the kernel answers to bind and listen.
    pub fn listen(
        &mut self,
        io: &mut impl Driver,
        address: SocketAddr,
    ) -> Result<SocketAddr, OpError> {
        let (listener, socket, bound) = open_pair(io, address)?;
        let no_memory = |_| OpError::NoMemory;
        let receive = io.allocate(CONTROL_DATAGRAM + 1).map_err(no_memory)?;
        let send = io.allocate(CONTROL_DATAGRAM).map_err(no_memory)?;
        let slot = u32::try_from(self.listeners.len()).map_err(|_| OpError::TooManyFiles)?;
        self.listeners.push(listener);
        let datagrams = DatagramSocket { socket, local: bound, receive, send, sending: false };
        self.datagram_sockets.push(datagrams);
        accept(io, slot, listener).map_err(no_memory)?;
        self.receive_datagram(io, slot).map_err(no_memory)?;
        Ok(bound)
    }
}

/// A listener and a datagram socket of the same port.
fn open_pair(
    io: &mut impl Driver,
    address: SocketAddr,
) -> Result<(SocketId, SocketId, SocketAddr), OpError> {
    let mut tries = 0;
    loop {
        let listener = io.open(&SocketSpec::listener(address))?;
        let bound = io.local_addr(listener).unwrap_or(address);
        let spec = SocketSpec {
            kind: SocketKind::Datagram,
            local: Some(bound),
            reuse_port: true,
            packet_info: true,
            ..SocketSpec::datagram_to(bound)
        };
        let error = match io.open(&spec) {
            Ok(socket) => return Ok((listener, socket, bound)),
            Err(error) => error,
        };
        close_orphan(io, listener).map_err(|_| OpError::NoMemory)?;
        tries += 1;
        // The kernel chose a port that is free for TCP only.
        let again = error == OpError::AddressInUse && address.port() == 0;
        if !again || tries == PORTS_TRIED {
            return Err(error);
        }
    }
}

/// Takes connections off a listener, one after the other.
fn accept(io: &mut impl Driver, slot: u32, listener: SocketId) -> Result {
    io.push(token(slot, Purpose::Accept), Op::Accept { listener, multishot: true })
}

/// Closes a socket that nobody will serve.
fn close_orphan(io: &mut impl Driver, socket: SocketId) -> Result {
    io.push(token(ORPHAN, Purpose::Close), Op::Close { socket })
}

impl<D: Driver, P: Dispatch<D::Socket>> Role<D> for Acceptor<P, D::Socket> {
    fn handle_completion(&mut self, io: &mut D, completion: Completion, now: Instant) -> Result {
        let (slot, purpose) = slot_of(completion.token);
        if slot >= CONNECTING_BASE {
            let index = (slot - CONNECTING_BASE) as usize;
            return self.handle_connected(io, index, &completion.outcome, now);
        }
        if slot == ORPHAN {
            return Ok(());
        }
        if slot >= PENDING_BASE {
            let index = (slot - PENDING_BASE) as usize;
            return self.handle_pending(io, index, purpose, &completion.outcome, now);
        }
        match purpose {
            Purpose::Accept => {
                match completion.outcome {
                    Outcome::Accepted(socket) => {
                        self.out_of_descriptors = false;
                        self.handle_accepted(io, socket, &[], now)?;
                    }
                    Outcome::Failed(OpError::Canceled) if self.lending.asked => {
                        return self.lend(io, now);
                    }
                    Outcome::Failed(error) => self.handle_accept_failed(io, error)?,
                    _ => {}
                }
                if !completion.more && !self.dispatch.is_stopping() {
                    // Not at once: out of descriptors, it would fail again and again.
                    self.disarmed.push(slot);
                }
                Ok(())
            }
            Purpose::Cancel if completion.outcome == (Outcome::CancelDone { found: false }) => {
                self.serve_waiting(io, now)
            }
            Purpose::Receive => self.handle_datagram(io, slot, &completion.outcome, now),
            Purpose::Send => {
                self.datagram_sockets[slot as usize].sending = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn handle_time(&mut self, io: &mut D, now: Instant, _: &mut TurnCounters) -> Result {
        self.take_back(io, now)?;
        if now.since(self.checked_at) < NAP {
            return Ok(());
        }
        self.checked_at = now;
        while let Some(slot) = self.disarmed.pop() {
            accept(io, slot, self.listeners[slot as usize])?;
        }
        self.handle_hello_deadlines(io, now)
    }

    fn poll_submit(&mut self, _: &mut D, _: Instant) -> Result {
        Ok(())
    }

    fn poll_wait(&self, now: Instant) -> Wait {
        Wait::Until(now + NAP)
    }

    fn has_ready(&self) -> bool {
        false
    }

    fn take_timed(&mut self) -> u64 {
        0
    }

    fn is_finished(&self) -> bool {
        self.dispatch.is_stopping()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tare_units::limits::PENDING_CROWD;

    /// As `tare http -c N` opens its connections: all of them before its first request.
    #[test]
    fn as_many_may_be_silent_as_may_be_connected_and_newcomers_too() {
        for connections in 0..=HTTP_CONNECTIONS_MAX {
            let room = pending_room(connections);
            assert!(crowd(room) >= connections as usize + PENDING_CROWD);
        }
        let last = PENDING_BASE as usize + pending_room(HTTP_CONNECTIONS_MAX);
        assert!(last < ORPHAN as usize);
    }
}
