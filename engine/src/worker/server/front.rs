//! The door: takes connections and datagrams off the listening sockets, hears their hello, and hands
//! them to the worker that will serve them.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::driver::{
    BufferId, Completion, Driver, DriverError, Op, OpError, Outcome, Segment, SocketId, SocketKind,
    SocketSpec, Wait,
};
use crate::limits::{CONTROL_DATAGRAM, PENDING_MAX};
use crate::proto::datagram::{DataHeader, FrontAction, NO_SESSION, UdpServerFront};
use crate::proto::handshake::{ServerEvent, ServerHandshake};
use crate::proto::hello::{Hello, Refuse};
use crate::run::plan::{Secret, Transport};
use crate::units::{Instant, Nanos};
use crate::worker::link::{Link, Purpose, slot_of, token};
use crate::worker::{Role, TurnCounters};

/// Bytes read at a time before the hello is complete.
const HELLO_READ: u32 = 4096;
/// A connection that has not said its whole hello by then is closed, even if it has said a part.
const HELLO_TIMEOUT: Nanos = Nanos::from_secs(5);
/// With more connections than that yet to say hello, the older half of them is closed.
const PENDING_CROWD: usize = PENDING_MAX / 4 * 3;
/// How long the front sleeps at most, so that it notices deadlines and a stop.
const NAP: Nanos = Nanos::from_millis(100);

/// A connection, or a verified datagram client, on its way from the front to a session worker.
#[derive(Debug)]
pub struct Arrival<S> {
    /// The connected socket.
    pub socket: S,
    /// What the client asks for.
    pub hello: Box<Hello>,
    /// TCP or UDP.
    pub transport: Transport,
    /// The client's address.
    pub peer: Option<SocketAddr>,
}

/// Decides who serves, and carries sockets there.
pub trait Place<S> {
    /// What was decided for an admitted hello.
    type Ticket;

    /// Admits a session, or says why not.
    ///
    /// # Errors
    /// The refusal that the client is sent.
    fn admit(&mut self, hello: &Hello, peer: Option<SocketAddr>) -> Result<Self::Ticket, Refuse>;

    /// Hands an admitted session over.
    fn hand_over(&mut self, ticket: Self::Ticket, arrival: Arrival<S>);

    /// Something worth a line in the log.
    fn log(&mut self, line: &str);

    /// 32 bytes that nobody can guess: the nonce of a challenge.
    fn nonce(&mut self) -> [u8; 32];

    /// Whether the front is to end.
    fn is_stopping(&self) -> bool;
}

/// A TCP connection that has yet to say its hello, or is being refused.
#[derive(Debug)]
struct Pending {
    link: Link,
    handshake: ServerHandshake,
    since: Instant,
    /// The refusal is on its way: close when it is sent.
    refused: bool,
}

/// A verified datagram client whose own socket is being connected.
#[derive(Debug)]
struct Connecting {
    socket: SocketId,
    hello: Box<Hello>,
    peer: SocketAddr,
}

/// One bound datagram socket.
#[derive(Debug)]
struct Door {
    socket: SocketId,
    local: Option<SocketAddr>,
    receive: BufferId,
    send: BufferId,
    sending: bool,
}

/// The front role; see the [module](self).
#[derive(Debug)]
pub struct Front<P> {
    place: P,
    secret: Option<Secret>,
    listeners: Vec<SocketId>,
    doors: Vec<Door>,
    datagrams: Arc<UdpServerFront>,
    pending: Vec<Option<Pending>>,
    connecting: Vec<Option<Connecting>>,
    checked_at: Instant,
    /// Listeners whose accept has ended and is to be pushed anew.
    disarmed: Vec<u32>,
    /// The last accept found no free descriptor.
    out_of_descriptors: bool,
}

/// Slots of the pending connections start here, above listeners and doors; those of connecting datagram
/// clients at twice that.
const PENDING_BASE: u32 = 1 << 16;
const CONNECTING_BASE: u32 = 2 << 16;
/// Datagram clients whose socket is being connected at once; connecting a datagram socket does not wait.
const CONNECTING_MAX: usize = 64;

impl<P> Front<P> {
    /// A front without sockets yet.
    #[must_use]
    pub fn new(place: P, secret: Option<Secret>, datagrams: Arc<UdpServerFront>) -> Self {
        Self {
            place,
            secret,
            listeners: Vec::new(),
            doors: Vec::new(),
            datagrams,
            pending: Vec::new(),
            connecting: Vec::new(),
            checked_at: Instant::default(),
            disarmed: Vec::new(),
            out_of_descriptors: false,
        }
    }

    /// The placer, when the front has ended.
    pub fn into_place(self) -> P {
        self.place
    }

    /// Opens a TCP listener and a UDP socket on `address` and starts listening. With port 0 both get
    /// the same free port. Returns the address.
    ///
    /// # Errors
    /// As the kernel answers to bind and listen.
    pub fn listen<D: Driver>(
        &mut self,
        io: &mut D,
        address: SocketAddr,
    ) -> Result<SocketAddr, OpError> {
        let listener = io.open(&SocketSpec::listener(address))?;
        let bound = io.local_addr(listener).unwrap_or(address);
        let socket = io.open(&SocketSpec {
            kind: SocketKind::Datagram,
            local: Some(bound),
            reuse_port: true,
            packet_info: true,
            ..SocketSpec::datagram_to(bound)
        })?;
        let no_memory = |_| OpError::NoMemory;
        let receive = io.allocate(CONTROL_DATAGRAM + 1).map_err(no_memory)?;
        let send = io.allocate(CONTROL_DATAGRAM).map_err(no_memory)?;
        let slot = u32::try_from(self.listeners.len()).map_err(|_| OpError::TooManyFiles)?;
        self.listeners.push(listener);
        self.doors.push(Door {
            socket,
            local: Some(bound),
            receive,
            send,
            sending: false,
        });
        let accept = Op::Accept {
            listener,
            multishot: true,
        };
        io.push(token(slot, Purpose::Accept), accept)
            .map_err(no_memory)?;
        self.receive_datagram(io, slot).map_err(no_memory)?;
        Ok(bound)
    }

    fn receive_datagram<D: Driver>(&self, io: &mut D, slot: u32) -> Result<(), DriverError> {
        let door = &self.doors[slot as usize];
        #[expect(clippy::cast_possible_truncation, reason = "a constant of 1201")]
        let into = Segment {
            buffer: door.receive,
            start: 0,
            len: CONTROL_DATAGRAM as u32 + 1,
        };
        let receive = Op::ReceiveFrom {
            socket: door.socket,
            into,
        };
        io.push(token(slot, Purpose::Receive), receive)
    }
}

impl<P> Front<P> {
    fn handle_accepted<D>(
        &mut self,
        io: &mut D,
        socket: SocketId,
        now: Instant,
    ) -> Result<(), DriverError>
    where
        D: Driver,
        P: Place<D::Socket>,
    {
        let index = match self.pending.iter().position(Option::is_none) {
            Some(index) => index,
            None if self.pending.len() < PENDING_MAX => {
                self.pending.push(None);
                self.pending.len() - 1
            }
            None => {
                // More in one turn than there is room kept for.
                io.push(
                    token(CONNECTING_BASE - 1, Purpose::Close),
                    Op::Close { socket },
                )?;
                return Ok(());
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "below PENDING_MAX")]
        let slot = PENDING_BASE + index as u32;
        let mut link = Link::new(io, slot, socket, HELLO_READ as usize, 0)?;
        link.receive(io, 0, HELLO_READ)?;
        let handshake = ServerHandshake::new(self.secret.clone(), self.place.nonce());
        self.pending[index] = Some(Pending {
            link,
            handshake,
            since: now,
            refused: false,
        });
        let open = self.pending.iter().flatten();
        if open.filter(|p| !p.link.is_closing()).count() > PENDING_CROWD {
            // Now, while there still is room: a newcomer is more likely to be a client than they are.
            self.close_older_half(io)?;
        }
        Ok(())
    }

    fn handle_accept_failed<D>(&mut self, io: &mut D, error: OpError) -> Result<(), DriverError>
    where
        D: Driver,
        P: Place<D::Socket>,
    {
        match error {
            OpError::Canceled => Ok(()),
            OpError::TooManyFiles => {
                if !std::mem::replace(&mut self.out_of_descriptors, true) {
                    self.place.log(
                        "no descriptor is left for another client (EMFILE); raise the limit (ulimit -n), or give a \
                         smaller --max-sessions",
                    );
                }
                self.close_older_half(io)
            }
            error => {
                self.place.log(&format!("accept: {error}"));
                Ok(())
            }
        }
    }

    /// Those make room that have been silent longest. One would not be enough: whoever holds many connections
    /// is trying to get more.
    fn close_older_half<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        let open = |pending: &&mut Pending| !pending.link.is_closing();
        let mut ages: Vec<Instant> = self
            .pending
            .iter_mut()
            .flatten()
            .filter(open)
            .map(|p| p.since)
            .collect();
        ages.sort_unstable();
        let Some(&median) = ages.get(ages.len() / 2) else {
            return Ok(());
        };
        for pending in self.pending.iter_mut().flatten().filter(open) {
            if pending.since <= median {
                pending.link.close(io)?;
            }
        }
        Ok(())
    }

    fn handle_pending<D>(
        &mut self,
        io: &mut D,
        index: usize,
        purpose: Purpose,
        outcome: &Outcome,
    ) -> Result<(), DriverError>
    where
        D: Driver,
        P: Place<D::Socket>,
    {
        let Some(pending) = self.pending[index].as_mut() else {
            return Ok(());
        };
        pending.link.handle_completed(purpose);
        match (purpose, outcome) {
            (Purpose::Receive, Outcome::Received(n)) if *n > 0 && pending.refused => {
                pending.link.receive(io, 0, HELLO_READ)?;
            }
            (Purpose::HalfClose, Outcome::HalfClosed) => {}
            (Purpose::Receive, Outcome::Received(n)) if *n > 0 => {
                let bytes = &io.buffer(pending.link.receive_buffer())[..*n as usize];
                pending.handshake.handle_bytes(bytes);
                self.step_handshake(io, index)?;
            }
            (Purpose::SendControl, Outcome::Sent(n)) => {
                if pending.link.handle_control_sent(io, *n)? {
                    self.step_handshake(io, index)?;
                }
            }
            (Purpose::Close, _) => {}
            _ => {
                if pending.link.is_sending_control() && purpose == Purpose::SendControl {
                    pending.link.handle_control_sent(io, u32::MAX)?;
                }
                pending.link.close(io)?;
            }
        }
        if let Some(pending) = &self.pending[index]
            && pending.link.is_closing()
            && pending.link.is_quiet()
        {
            let gone = self.pending[index].take();
            if let Some(gone) = gone {
                gone.link.free(io);
            }
        }
        Ok(())
    }

    /// Sends what the handshake wants sent, acts on what it found, and asks for more bytes.
    fn step_handshake<D>(&mut self, io: &mut D, index: usize) -> Result<(), DriverError>
    where
        D: Driver,
        P: Place<D::Socket>,
    {
        let Some(pending) = self.pending[index].as_mut() else {
            return Ok(());
        };
        if pending.link.is_closing() || pending.link.is_sending_control() {
            return Ok(());
        }
        while let Some(event) = pending.handshake.poll_event() {
            match event {
                ServerEvent::Hello(hello) => {
                    let peer = io.peer_addr(pending.link.socket());
                    match self.place.admit(&hello, peer) {
                        Ok(ticket) => return self.hand_over(io, index, ticket, hello),
                        Err(refusal) => {
                            pending.handshake.refuse(refusal);
                            pending.refused = true;
                        }
                    }
                }
                ServerEvent::Http(_) => {
                    self.place
                        .log("an HTTP client connected: HTTP is not served yet");
                    return pending.link.close(io);
                }
                ServerEvent::Failed(reason) => {
                    let peer = io.peer_addr(pending.link.socket());
                    let peer = peer.map_or_else(|| "a client".to_owned(), |p| p.to_string());
                    self.place.log(&format!("{peer}: {reason}"));
                    pending.refused = true;
                }
            }
        }
        if let Some(frame) = pending.handshake.poll_transmit() {
            return pending.link.send_control(io, &frame);
        }
        if pending.refused {
            // What the client still sends is read until it closes: closing over unread bytes would reset the
            // connection, and the reset would overtake the refusal.
            pending.link.half_close(io)?;
        }
        if !pending.link.is_receiving() {
            pending.link.receive(io, 0, HELLO_READ)?;
        }
        Ok(())
    }

    fn hand_over<D>(
        &mut self,
        io: &mut D,
        index: usize,
        ticket: P::Ticket,
        hello: Box<Hello>,
    ) -> Result<(), DriverError>
    where
        D: Driver,
        P: Place<D::Socket>,
    {
        let Some(pending) = self.pending[index].take() else {
            return Ok(());
        };
        let peer = io.peer_addr(pending.link.socket());
        match io.release(pending.link.socket()) {
            Ok(socket) => {
                let arrival = Arrival {
                    socket,
                    hello,
                    transport: Transport::Tcp,
                    peer,
                };
                self.place.hand_over(ticket, arrival);
            }
            Err(error) => self
                .place
                .log(&format!("could not hand a connection over: {error}")),
        }
        pending.link.free(io);
        Ok(())
    }

    fn handle_datagram<D>(
        &mut self,
        io: &mut D,
        slot: u32,
        outcome: &Outcome,
        now: Instant,
    ) -> Result<(), DriverError>
    where
        D: Driver,
        P: Place<D::Socket>,
    {
        if let Outcome::ReceivedFrom {
            len,
            addresses,
            truncated: false,
        } = *outcome
        {
            let door = &self.doors[slot as usize];
            let bytes = &io.buffer(door.receive)[..len as usize];
            match self.datagrams.handle_datagram(bytes, addresses.from, now) {
                FrontAction::Ignore => {}
                FrontAction::Reply(bytes) => {
                    self.reply(io, slot, &bytes, addresses.from, addresses.local)?;
                }
                FrontAction::Session(request) => {
                    match self.place.admit(&request.hello, Some(addresses.from)) {
                        Ok(ticket) => {
                            drop(ticket);
                            self.connect_datagram(io, slot, addresses, Box::new(request.hello))?;
                        }
                        Err(refusal) => {
                            let bytes = refusal.encode();
                            self.reply(io, slot, &bytes, addresses.from, addresses.local)?;
                        }
                    }
                }
                // Sessions have sockets of their own: what comes here belongs to none.
                FrontAction::Data(header) => {
                    if let Some(bytes) = DataHeader::turned_away(&header, NO_SESSION) {
                        self.reply(io, slot, &bytes, addresses.from, addresses.local)?;
                    }
                }
                FrontAction::Fetch(_) => {
                    let bytes = UdpServerFront::unknown_session();
                    self.reply(io, slot, &bytes, addresses.from, addresses.local)?;
                }
            }
        }
        self.receive_datagram(io, slot)
    }

    /// Gives the client a socket of its own: same local address and port, connected to it, so that the
    /// kernel delivers its datagrams there and the session's worker never shares a queue.
    fn connect_datagram<D: Driver>(
        &mut self,
        io: &mut D,
        slot: u32,
        addresses: crate::driver::DatagramFrom,
        hello: Box<Hello>,
    ) -> Result<(), DriverError>
    where
        P: Place<D::Socket>,
    {
        let index = match self.connecting.iter().position(Option::is_none) {
            Some(index) => index,
            None if self.connecting.len() < CONNECTING_MAX => {
                self.connecting.push(None);
                self.connecting.len() - 1
            }
            // The client sends its hello again.
            None => return Ok(()),
        };
        let Some(bound) = self.doors[slot as usize].local else {
            return Ok(());
        };
        let local = addresses
            .local
            .map_or(bound, |ip| SocketAddr::new(ip, bound.port()));
        let spec = SocketSpec {
            local: Some(local),
            reuse_port: true,
            ..SocketSpec::datagram_to(addresses.from)
        };
        match io.open(&spec) {
            Ok(socket) => {
                let peer = addresses.from;
                #[expect(clippy::cast_possible_truncation, reason = "below CONNECTING_MAX")]
                let slot = CONNECTING_BASE + index as u32;
                io.push(
                    token(slot, Purpose::Connect),
                    Op::Connect { socket, to: peer },
                )?;
                self.connecting[index] = Some(Connecting {
                    socket,
                    hello,
                    peer,
                });
            }
            Err(error) => self
                .place
                .log(&format!("{}: no socket for it: {error}", addresses.from)),
        }
        Ok(())
    }

    fn handle_connected<D>(
        &mut self,
        io: &mut D,
        index: usize,
        outcome: &Outcome,
    ) -> Result<(), DriverError>
    where
        D: Driver,
        P: Place<D::Socket>,
    {
        let Some(connecting) = self.connecting[index].take() else {
            return Ok(());
        };
        let Connecting {
            socket,
            hello,
            peer,
        } = connecting;
        if *outcome != Outcome::Connected {
            return io.push(
                token(CONNECTING_BASE - 1, Purpose::Close),
                Op::Close { socket },
            );
        }
        match self.place.admit(&hello, Some(peer)) {
            Ok(ticket) => match io.release(socket) {
                Ok(socket) => {
                    let peer = Some(peer);
                    let arrival = Arrival {
                        socket,
                        hello,
                        transport: Transport::Udp,
                        peer,
                    };
                    self.place.hand_over(ticket, arrival);
                    Ok(())
                }
                Err(error) => {
                    self.place
                        .log(&format!("could not hand a session over: {error}"));
                    Ok(())
                }
            },
            // Between the first look and now the server has filled up: the client asks again and is told.
            Err(_) => io.push(
                token(CONNECTING_BASE - 1, Purpose::Close),
                Op::Close { socket },
            ),
        }
    }

    fn reply<D: Driver>(
        &mut self,
        io: &mut D,
        slot: u32,
        bytes: &[u8],
        to: SocketAddr,
        source: Option<std::net::IpAddr>,
    ) -> Result<(), DriverError> {
        let door = &mut self.doors[slot as usize];
        if door.sending || bytes.len() > CONTROL_DATAGRAM {
            // One answer at a time: a client whose question fell into that moment asks again.
            return Ok(());
        }
        io.buffer_mut(door.send)[..bytes.len()].copy_from_slice(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "at most CONTROL_DATAGRAM")]
        let data = Segment {
            buffer: door.send,
            start: 0,
            len: bytes.len() as u32,
        };
        door.sending = true;
        io.push(
            token(slot, Purpose::Send),
            Op::SendTo {
                socket: door.socket,
                data,
                to,
                source,
            },
        )
    }
}

impl<D: Driver, P: Place<D::Socket>> Role<D> for Front<P> {
    fn handle_completion(
        &mut self,
        io: &mut D,
        completion: Completion,
        now: Instant,
    ) -> Result<(), DriverError> {
        let (slot, purpose) = slot_of(completion.token);
        if slot >= CONNECTING_BASE {
            return self.handle_connected(
                io,
                (slot - CONNECTING_BASE) as usize,
                &completion.outcome,
            );
        }
        if slot == CONNECTING_BASE - 1 {
            return Ok(());
        }
        if slot >= PENDING_BASE {
            let index = (slot - PENDING_BASE) as usize;
            return self.handle_pending(io, index, purpose, &completion.outcome);
        }
        match purpose {
            Purpose::Accept => {
                match completion.outcome {
                    Outcome::Accepted(socket) => {
                        self.out_of_descriptors = false;
                        self.handle_accepted(io, socket, now)?;
                    }
                    Outcome::Failed(error) => self.handle_accept_failed(io, error)?,
                    _ => {}
                }
                if !completion.more && !self.place.is_stopping() {
                    // Not at once: out of descriptors, it would fail again and again.
                    self.disarmed.push(slot);
                }
                Ok(())
            }
            Purpose::Receive => self.handle_datagram(io, slot, &completion.outcome, now),
            Purpose::Send => {
                self.doors[slot as usize].sending = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn handle_time(
        &mut self,
        io: &mut D,
        now: Instant,
        _counters: &mut TurnCounters,
    ) -> Result<(), DriverError> {
        if now.since(self.checked_at) < NAP {
            return Ok(());
        }
        self.checked_at = now;
        while let Some(slot) = self.disarmed.pop() {
            let listener = self.listeners[slot as usize];
            io.push(
                token(slot, Purpose::Accept),
                Op::Accept {
                    listener,
                    multishot: true,
                },
            )?;
        }
        for pending in self.pending.iter_mut().flatten() {
            if now.since(pending.since) > HELLO_TIMEOUT {
                pending.link.close(io)?;
            }
        }
        Ok(())
    }

    fn poll_submit(&mut self, _io: &mut D, _now: Instant) -> Result<(), DriverError> {
        Ok(())
    }

    fn poll_wait(&self, now: Instant) -> Wait {
        Wait::Until(now + NAP)
    }

    fn has_ready(&self) -> bool {
        false
    }

    fn take_timed(&mut self) -> bool {
        false
    }

    fn is_finished(&self) -> bool {
        self.place.is_stopping()
    }
}
