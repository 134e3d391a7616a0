//! The front: takes connections and datagrams off the listening sockets, hears their hello, and
//! hands them to the worker that will serve them.
//!
//! It also lends its listener to the worker that serves connections of one operation. Such a
//! connection is over after one round trip, so a hand-over between two threads would cost more than
//! the exchange. While a client opens connections whose request follows the hello at once, the
//! worker that serves it accepts them itself. It returns every connection that turns out to be
//! anything else, with what it has read of it, and the listener when no such connection has come
//! for a while.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, TryRecvError, unbounded};
use slab::Slab;

use super::http::HttpArrival;
use super::{Io, Result};
use crate::worker::link::{Link, Purpose, slot_of, token};
use crate::worker::{Role, TurnCounters};
use tare_driver::{
    BufferId, Completion, DatagramFrom, Driver, Op, OpError, Outcome, Segment, SocketId,
    SocketKind, SocketOption, SocketSpec, Wait, Waker,
};
use tare_proto::auth::Secret;
use tare_proto::datagram::{FrontAction, NO_SESSION, SessionKey, SessionRequest, UdpServerFront};
use tare_proto::handshake::{ServerEvent, ServerFailure, ServerHandshake};
use tare_proto::hello::{Hello, Refuse};
use tare_units::bounds::{HELLO_MAX, NAP};
use tare_units::limits::{CONTROL_DATAGRAM, HTTP_CONNECTIONS_MAX, PENDING_MAX, SOCKETS_MAX};
use tare_units::{Instant, Nanos};

/// With port 0: how many free TCP ports are tried for one that is free for UDP as well.
const PORTS_TRIED: u32 = 16;
/// Bytes read at a time before the hello is complete.
const HELLO_READ: u32 = 512;
/// Found in the first bytes of a client that asks for the queue, whose replies name arrivals.
const QUEUE: &[u8] = b" /queue";
/// Datagram clients whose sockets are connected at once; that does not wait for the network.
const CONNECTING_MAX: usize = 64;
/// For so long after a session was handed over, hellos of it that lie in the front's queue are
/// known: those sent later go to the session's own socket.
const HANDED_FOR: Nanos = Nanos::from_secs(5);
/// So many of them are remembered at most; the oldest are forgotten first.
const HANDED_MAX: usize = 4096;
/// Slots of the pending connections start here, above listeners and datagram sockets; those of
/// connecting datagram clients at twice that.
const PENDING_BASE: u32 = 1 << 20;
const CONNECTING_BASE: u32 = 2 << 20;
/// Sockets that belong to nobody any more are closed under this slot.
const ORPHAN: u32 = CONNECTING_BASE - 1;

/// Connections that a front keeps while they have not yet said what they want, where
/// `http_connections` HTTP clients may be silent at once.
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

/// A connection, or a verified datagram client, on its way from the front to a session worker.
#[derive(Debug)]
pub struct Arrival<S> {
    pub(crate) socket: S,
    /// What the client asked for.
    pub hello: Box<Hello>,
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

    /// Admits a session, or gives the refusal that the client is sent. Asked once per session.
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

/// A connection, and what its client has said so far.
type Returned<S> = (S, Vec<u8>);

/// The listener, on its way to a worker: a second handle on it, the front keeps the first.
#[derive(Debug)]
pub(crate) struct Listener<S> {
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
    pub(crate) fn give(&self, socket: S, bytes: Vec<u8>) {
        // A front that has ended takes no more clients.
        let _ = self.back.send((socket, bytes));
        self.front.0.wake();
    }
}

/// A TCP connection that has yet to say its hello, or is being refused.
#[derive(Debug)]
struct Pending {
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

#[derive(Debug)]
struct DatagramSocket {
    socket: SocketId,
    local: SocketAddr,
    receive: BufferId,
    send: BufferId,
    sending: bool,
}

/// A verified datagram client whose own socket is being connected.
#[derive(Debug)]
struct Connecting<A> {
    socket: SocketId,
    hello: Box<Hello>,
    key: SessionKey,
    admission: A,
}

#[derive(Debug, Default)]
struct HandoffMap {
    order: VecDeque<(Instant, SessionKey)>,
    keys: HashSet<SessionKey>,
}

impl HandoffMap {
    fn note(&mut self, key: SessionKey, now: Instant) {
        if self.order.len() == HANDED_MAX {
            self.forget_oldest();
        }
        if self.keys.insert(key) {
            self.order.push_back((now, key));
        }
    }

    fn knows(&mut self, key: &SessionKey, now: Instant) -> bool {
        while let Some((at, _)) = self.order.front()
            && now.since(*at) > HANDED_FOR
        {
            self.forget_oldest();
        }
        self.keys.contains(key)
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.keys.remove(&key);
        }
    }
}

/// The address that a client was reached at, with the port that the server has. A link-local one is
/// an address of one interface only: the one that the client's address names.
const fn local_of(ip: IpAddr, port: u16, from: SocketAddr) -> SocketAddr {
    match (ip, from) {
        (IpAddr::V6(ip), SocketAddr::V6(from)) if ip.is_unicast_link_local() => {
            SocketAddr::V6(SocketAddrV6::new(ip, port, 0, from.scope_id()))
        }
        _ => SocketAddr::new(ip, port),
    }
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
    /// The accept is being cancelled, for the listener to be lent, and these await it.
    is_lending: bool,
    awaiting: Vec<usize>,
    /// To be handed over with the next connection of one operation.
    to_hand_over: Option<Listener<S>>,
    /// While the listener is lent: the front's own handle on it, and what the worker returns.
    lent: Option<(S, Receiver<Returned<S>>)>,
}

impl<S, P: Dispatch<S>> Acceptor<P, S> {
    /// A front without sockets yet. A connection that has not said its whole hello within `idle`
    /// (but 5 s at most) is closed.
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
            is_lending: false,
            awaiting: Vec::new(),
            to_hand_over: None,
            lent: None,
        }
    }

    /// HTTP clients open their connections before they have anything to say: `connections` of them
    /// may be silent at once, for `idle` each.
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
    /// get the same free port. Returns the address, or what the kernel answers to bind and listen.
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

    // TCP connections until they are a session, or turned away.

    fn handle_accepted(
        &mut self,
        io: &mut impl Io<S>,
        socket: SocketId,
        bytes: &[u8],
        now: Instant,
    ) -> Result {
        if self.pending.len() >= self.pending_max {
            // More in one turn than there is room kept for.
            return close_orphan(io, socket);
        }
        let index = self.pending.vacant_key();
        let slot = PENDING_BASE + u32::try_from(index).expect("below SOCKETS_MAX");
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

    fn handle_accept_failed(&mut self, io: &mut impl Driver, error: OpError) -> Result {
        if error == OpError::TooManyFiles {
            if !std::mem::replace(&mut self.out_of_descriptors, true) {
                self.dispatch.log(
                    "descriptors",
                    "no descriptor is left for another client (EMFILE); raise the limit (ulimit -n), or give a smaller \
                     --max-sessions",
                );
            }
            return self.close_older_half(io);
        }
        if error != OpError::Canceled {
            self.dispatch.log("accept", &format!("accept: {error}"));
        }
        Ok(())
    }

    /// Those make room that have been silent longest. One would not be enough: whoever holds many
    /// connections is trying to get more. By their order and not by the clock: in a crowd, a
    /// thousand come at the same instant.
    fn close_older_half(&mut self, io: &mut impl Driver) -> Result {
        let pending = self.pending.iter_mut().map(|(_, pending)| pending);
        let mut open: Vec<_> = pending.filter(|pending| !pending.link.is_closing()).collect();
        open.sort_unstable_by_key(|pending| pending.ordinal);
        let older = (open.len() / 2 + 1).min(open.len());
        self.open -= older;
        open[..older].iter_mut().try_for_each(|pending| pending.link.close(io))
    }

    fn handle_pending(
        &mut self,
        io: &mut impl Io<S>,
        (index, purpose): (usize, Purpose),
        outcome: &Outcome,
        now: Instant,
    ) -> Result {
        let Some(pending) = self.pending.get_mut(index) else {
            return Ok(());
        };
        let link = &mut pending.link;
        link.handle_completed(purpose);
        if link.is_closing() {
            if link.is_quiet() {
                self.pending.remove(index).link.free(io);
            }
            return Ok(());
        }
        match (purpose, outcome) {
            (Purpose::Receive, Outcome::ReceivedStamped { len: 1.., .. }) if pending.refused => {
                link.receive_stamped(io, 0, HELLO_READ)
            }
            (Purpose::HalfClose, Outcome::HalfClosed) => Ok(()),
            (Purpose::Receive, Outcome::ReceivedStamped { len: len @ 1.., at }) => {
                if std::mem::take(&mut pending.silent) {
                    // A hello's deadline counts from its first byte, that of silence from the
                    // accept.
                    pending.since = now;
                }
                pending.stamp = *at;
                pending.handshake.handle_bytes(&io.buffer(link.receive_buffer())[..*len as usize]);
                self.step_handshake(io, index, now)
            }
            (Purpose::SendControl, Outcome::Sent(n)) => match link.handle_control_sent(io, *n)? {
                true => self.step_handshake(io, index, now),
                false => Ok(()),
            },
            _ => self.give_up(io, index, ServerHandshake::handle_closed),
        }
    }

    /// Closes a connection that did not become a session, and says `why` to its handshake.
    fn give_up(
        &mut self,
        io: &mut impl Driver,
        at: usize,
        why: fn(&mut ServerHandshake),
    ) -> Result {
        let pending = &mut self.pending[at];
        why(&mut pending.handshake);
        // Health checks connect and close without a word, every few seconds: no news.
        if let Some(ServerEvent::Failed(reason)) = pending.handshake.poll_event()
            && reason != ServerFailure::ClosedSilently
        {
            log_failure(&mut self.dispatch, pending.peer, &reason);
        }
        self.open -= usize::from(!pending.link.is_closing());
        pending.link.close(io)
    }

    fn handle_hello_deadlines(&mut self, io: &mut impl Driver, now: Instant) -> Result {
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
    fn step_handshake(&mut self, io: &mut impl Io<S>, index: usize, now: Instant) -> Result {
        let is_free = |p: &&Pending| !p.link.is_closing() && !p.link.is_sending_control();
        let Some(pending) = self.pending.get(index).filter(is_free) else {
            return Ok(());
        };
        if pending.handshake.request_follows() && self.awaits_listener(io, index)? {
            return Ok(());
        }
        let pending = &mut self.pending[index];
        while let Some(event) = pending.handshake.poll_event() {
            let error = match event {
                ServerEvent::Hello(hello) => match self.dispatch.admit(&hello, pending.peer) {
                    Ok(admission) => return self.hand_over(io, index, hello, admission),
                    Err(refusal) => {
                        pending.handshake.refuse(refusal);
                        pending.refused = true;
                        continue;
                    }
                },
                ServerEvent::Http(bytes) => {
                    let (at, stamp) = (now, pending.stamp);
                    if !self.stamps && bytes.windows(QUEUE.len()).any(|part| part == QUEUE) {
                        self.have_arrivals_stamped(io);
                    }
                    if let Some((socket, ..)) = self.take_pending(io, index)? {
                        self.dispatch.hand_over_http(HttpArrival { socket, bytes, at, stamp });
                    }
                    return Ok(());
                }
                ServerEvent::Failed(error) => error,
            };
            log_failure(&mut self.dispatch, pending.peer, &error);
            pending.refused = true;
        }
        let link = &mut pending.link;
        if let Some(frame) = pending.handshake.poll_transmit() {
            return link.send_control(io, &frame);
        }
        if pending.refused {
            // What the client still sends is read until it closes: closing over unread bytes would
            // reset the connection, and the reset would overtake the refusal.
            link.half_close(io)?;
        }
        if link.is_receiving() { Ok(()) } else { link.receive_stamped(io, 0, HELLO_READ) }
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

    fn hand_over(
        &mut self,
        io: &mut impl Io<S>,
        index: usize,
        hello: Box<Hello>,
        admission: P::Admission,
    ) -> Result {
        if self.stamps {
            // What a session receives goes the kernel's plain way.
            let plain = SocketOption::ReceiveTimestamps(false);
            let _ = io.set_option(self.pending[index].link.socket(), &plain);
        }
        let one_go = hello.request_follows;
        let listener = one_go.then(|| self.to_hand_over.take()).flatten();
        if let Some((socket, peer, early)) = self.take_pending(io, index)? {
            let arrival = Arrival { socket, hello, peer, nonce: None, early, listener };
            self.dispatch.hand_over(admission, arrival);
        }
        Ok(())
    }

    /// Takes a connection off the front's driver: its socket where that can be had, its peer, and
    /// what it said behind its hello.
    fn take_pending(
        &mut self,
        io: &mut impl Io<S>,
        index: usize,
    ) -> Result<Option<(S, Option<SocketAddr>, Vec<u8>)>> {
        let Pending { link, peer, handshake, .. } = self.pending.remove(index);
        self.open -= 1;
        let socket = self.release(io, link.socket(), "connection")?;
        link.free(io);
        Ok(socket.map(|socket| (socket, peer, handshake.into_rest())))
    }

    fn release(&mut self, io: &mut impl Io<S>, socket: SocketId, what: &str) -> Result<Option<S>> {
        match io.release(socket) {
            Ok(socket) => Ok(Some(socket)),
            Err(error) => {
                self.dispatch.log("hand-over", &format!("could not hand a {what} over: {error}"));
                close_orphan(io, socket).map(|()| None)
            }
        }
    }

    // The listener, lent.

    /// A connection of one operation has come: whether it is to wait for the listener to go with
    /// it. With several listeners none is lent.
    fn awaits_listener(&mut self, io: &mut impl Driver, index: usize) -> Result<bool> {
        let may_ask = self.listeners.len() == 1 && self.lent.is_none() && self.disarmed.is_empty();
        if !self.is_lending && may_ask {
            let target = token(0, Purpose::Accept);
            io.push(token(0, Purpose::Cancel), Op::Cancel { token: target })?;
            self.is_lending = true;
        }
        if self.is_lending {
            self.awaiting.push(index);
        }
        Ok(self.is_lending)
    }

    /// Nothing is accepted any more: the listener goes with the first of those that waited for it.
    fn lend<D: Driver<Socket = S>>(&mut self, io: &mut D, now: Instant) -> Result {
        if let Ok(socket) = io.release(self.listeners[0]) {
            let (back, returned) = unbounded();
            let lease = Lease { back, front: WakeOnDrop(io.waker()) };
            self.to_hand_over = D::share(&socket).map(|socket| Listener { socket, lease });
            self.lent = Some((socket, returned));
        } else {
            self.disarmed.push(0);
        }
        self.serve_waiting(io, now)?;
        // Had none of them been admitted, this ends the lease at once.
        self.to_hand_over = None;
        Ok(())
    }

    /// Serves those that waited for the listener, be it lent or not to be had: the accept may have
    /// ended before it could be cancelled, for want of descriptors.
    fn serve_waiting(&mut self, io: &mut impl Io<S>, now: Instant) -> Result {
        self.is_lending = false;
        let mut awaiting = std::mem::take(&mut self.awaiting).into_iter();
        awaiting.try_for_each(|index| self.step_handshake(io, index, now))
    }

    /// Hears what was returned, and listens again where the lease is over.
    fn take_back(&mut self, io: &mut impl Io<S>, now: Instant) -> Result {
        while let Some((_, returned)) = &self.lent {
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
        let Some((home, _)) = self.lent.take() else {
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

    // Datagram clients until they have a session and a socket of their own.

    fn receive_datagram(&self, io: &mut impl Driver, slot: u32) -> Result {
        let DatagramSocket { socket, receive: buffer, .. } = self.datagram_sockets[slot as usize];
        let len = u32::try_from(CONTROL_DATAGRAM + 1).expect("a constant of 1201");
        let into = Segment { buffer, start: 0, len };
        io.push(token(slot, Purpose::Receive), Op::ReceiveFrom { socket, into })
    }

    fn handle_datagram(
        &mut self,
        io: &mut impl Driver,
        slot: u32,
        outcome: &Outcome,
        now: Instant,
    ) -> Result {
        if let Outcome::ReceivedFrom { len, addresses, truncated: false } = *outcome {
            let DatagramSocket { receive, local, .. } = self.datagram_sockets[slot as usize];
            let bytes = &io.buffer(receive)[..len as usize];
            let answer = match self.udp.handle_datagram(bytes, addresses.from, now) {
                FrontAction::Ignore => None,
                FrontAction::Reply(bytes) => Some(bytes),
                FrontAction::Session(request) if self.is_known(&request.key, now) => None,
                FrontAction::Session(request) => {
                    self.handle_request(io, local, addresses, *request)?
                }
                // Sessions have sockets of their own: what comes here belongs to none.
                FrontAction::Data(header) => header.turned_away(NO_SESSION).map(Into::into),
                FrontAction::Fetch(_) => Some(UdpServerFront::unknown_session()),
            };
            if let Some(answer) = answer {
                self.reply(io, slot, &answer, addresses)?;
            }
        }
        self.receive_datagram(io, slot)
    }

    /// Whether a hello is a repeated one, or there are too many others: its client sends it again.
    fn is_known(&mut self, key: &SessionKey, now: Instant) -> bool {
        self.connecting.iter().any(|(_, other)| other.key.from == key.from)
            || self.handed.knows(key, now)
            || self.connecting.len() >= CONNECTING_MAX
    }

    /// A client asks for a session from a verified address. It gets a socket of its own: same local
    /// address and port, connected to it, so that the kernel delivers its datagrams there and the
    /// session's worker never shares a queue. Returns the refusal, if there is one.
    fn handle_request(
        &mut self,
        io: &mut impl Driver,
        bound: SocketAddr,
        DatagramFrom { from, local, .. }: DatagramFrom,
        SessionRequest { key, hello }: SessionRequest,
    ) -> Result<Option<Vec<u8>>> {
        let admission = match self.dispatch.admit(&hello, Some(key.from)) {
            Ok(admission) => admission,
            Err(refusal) => return Ok(Some(refusal.encode())),
        };
        let local = Some(local.map_or(bound, |ip| local_of(ip, bound.port(), from)));
        match io.open(&SocketSpec { local, reuse_port: true, ..SocketSpec::datagram_to(from) }) {
            Ok(socket) => {
                let connecting = Connecting { socket, hello: Box::new(hello), key, admission };
                let index = self.connecting.insert(connecting);
                let index = u32::try_from(index).expect("below CONNECTING_MAX");
                let connect = Op::Connect { socket, to: key.from };
                io.push(token(CONNECTING_BASE + index, Purpose::Connect), connect)?;
            }
            Err(error) => {
                self.dispatch.log("socket", &format!("{from}: no socket for it: {error}"));
            }
        }
        Ok(None)
    }

    fn handle_connected(
        &mut self,
        io: &mut impl Io<S>,
        index: usize,
        outcome: &Outcome,
        now: Instant,
    ) -> Result {
        let Some(connecting) = self.connecting.try_remove(index) else {
            return Ok(());
        };
        let Connecting { socket, hello, key, admission } = connecting;
        if *outcome != Outcome::Connected {
            return close_orphan(io, socket);
        }
        if let Some(socket) = self.release(io, socket, "session")? {
            self.handed.note(key, now);
            let (peer, nonce) = (Some(key.from), Some(key.nonce));
            let arrival = Arrival { socket, hello, peer, nonce, early: Vec::new(), listener: None };
            self.dispatch.hand_over(admission, arrival);
        }
        Ok(())
    }

    fn reply(
        &mut self,
        io: &mut impl Driver,
        slot: u32,
        bytes: &[u8],
        DatagramFrom { from: to, local: source, .. }: DatagramFrom,
    ) -> Result {
        let bound = &mut self.datagram_sockets[slot as usize];
        if bound.sending || bytes.len() > CONTROL_DATAGRAM {
            // One answer at a time: a client whose question fell into that moment asks again.
            return Ok(());
        }
        io.buffer_mut(bound.send)[..bytes.len()].copy_from_slice(bytes);
        let len = u32::try_from(bytes.len()).expect("at most CONTROL_DATAGRAM");
        let (socket, data) = (bound.socket, Segment { buffer: bound.send, start: 0, len });
        bound.sending = true;
        io.push(token(slot, Purpose::Send), Op::SendTo { socket, data, to, source })
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
        if slot >= PENDING_BASE {
            // An orphan's index is none of the slab's.
            let index = (slot - PENDING_BASE) as usize;
            return self.handle_pending(io, (index, purpose), &completion.outcome, now);
        }
        match purpose {
            Purpose::Accept => {
                match completion.outcome {
                    Outcome::Accepted(socket) => {
                        self.out_of_descriptors = false;
                        self.handle_accepted(io, socket, &[], now)?;
                    }
                    Outcome::Failed(OpError::Canceled) if self.is_lending => {
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

fn log_failure<S>(
    dispatch: &mut impl Dispatch<S>,
    peer: Option<SocketAddr>,
    reason: &ServerFailure,
) {
    let name = peer.map_or_else(|| "a client".to_owned(), |peer| peer.to_string());
    dispatch.log(reason.kind(), &format!("{name}: {reason}"));
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

    #[test]
    fn a_link_local_address_keeps_its_interface() {
        let from: SocketAddr = "[fe80::2%3]:5000".parse().unwrap();
        let local = local_of("fe80::1".parse().unwrap(), 7117, from);
        assert_eq!(local, "[fe80::1%3]:7117".parse().unwrap());
        let global = local_of("2001:db8::1".parse().unwrap(), 7117, from);
        assert_eq!(global, "[2001:db8::1]:7117".parse().unwrap());
        let v4 = "192.0.2.1:5000".parse().unwrap();
        let local = local_of("192.0.2.2".parse().unwrap(), 7117, v4);
        assert_eq!(local, "192.0.2.2:7117".parse().unwrap());
    }

    #[test]
    fn sessions_handed_over_are_known_for_a_while_and_are_bounded() {
        let key = |nonce| SessionKey { from: "192.0.2.1:5000".parse().unwrap(), nonce };
        let mut handed = HandoffMap::default();
        handed.note(key(1), Instant(0));
        assert!(handed.knows(&key(1), Instant(0) + HANDED_FOR));
        assert!(!handed.knows(&key(2), Instant(0)));
        assert!(!handed.knows(&key(1), Instant(1) + HANDED_FOR));
        for nonce in 0..2 * HANDED_MAX as u64 {
            handed.note(key(nonce), Instant(0));
        }
        assert_eq!(handed.order.len(), HANDED_MAX);
        assert_eq!(handed.keys.len(), HANDED_MAX);
        assert!(!handed.knows(&key(0), Instant(0)));
    }
}
