//! One connection of a client and all that is said on it beside the measured exchange: connect,
//! hello and handshake, then the figures and the close.
//!
//! The owner, a test's client, holds the exchange. Its turn begins with [`SessionEvent::Accepted`];
//! from then on it sends and receives over [`ClientSession::link_mut`], one send and one receive at
//! a time, and gets their completions as [`SessionEvent::Sent`] and [`SessionEvent::Received`].
//! What the bytes mean is its business, with one exception: where they are the server's word on the
//! session, it hands them back ([`ClientSession::handle_figures`],
//! [`ClientSession::handle_flags`]). Its turn ends with [`ClientSession::end`] or
//! [`ClientSession::give_up`].
//!
//! Methods come in three sorts: getters, `handle_*` (something happened; the answer is a
//! [`SessionEvent`]), and commands.

mod errors;
#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use crate::worker::Result;
use crate::worker::link::{Link, Purpose};
use crate::worker::tally::Stage;
use tare_driver::{Completion, Driver, OpError, Outcome, SocketId, SocketSpec, towards};
use tare_proto::auth::Secret;
use tare_proto::datagram::{
    Document, DocumentFetch, ENDED, FetchEvent, NO_SESSION, UdpClientHandshake,
};
use tare_proto::handshake::{ClientEvent, ClientHandshake, FiguresReader};
use tare_proto::hello::{Accept, Figures, Hello, Transport};
use tare_proto::stream::PAYLOAD_BIT;
use tare_units::error::Error;
use tare_units::limits::CONTROL_DATAGRAM;
use tare_units::text::{Id, read_foreign};
use tare_units::{Instant, Nanos};

/// Bytes received at a time while control frames are awaited.
const CONTROL_READ: u32 = 16 << 10;
const _: () = assert!(CONTROL_READ as usize > CONTROL_DATAGRAM);
/// A request that fits into one segment together with its hello, whatever the path's MTU, bytes.
const ONE_SEGMENT: u64 = 512;

/// With whom the connections of a worker talk, and how.
#[derive(Debug, Clone)]
pub struct SessionSpec {
    /// The server.
    pub to: SocketAddr,
    /// What is opened for each connection.
    pub socket: SocketSpec,
    /// What each connection says, but for `brief` and `request_follows`.
    pub hello: Hello,
    /// The shared secret.
    pub secret: Option<Secret>,
    /// For connecting, for the handshake, and for the figures at the end.
    pub timeout: Nanos,
    /// Random: the sessions' nonces are made from it.
    pub nonce: u64,
}

impl SessionSpec {
    /// Sessions over sockets without options, of the transport that the hello names.
    pub const fn new(
        to: SocketAddr,
        hello: Hello,
        secret: Option<Secret>,
        timeout: Nanos,
        nonce: u64,
    ) -> Self {
        let mut socket = match hello.transport {
            Transport::Tcp => SocketSpec::stream_to(to),
            Transport::Udp => SocketSpec::datagram_to(to),
        };
        socket.brief = hello.connect_each;
        // One segment holds the hello and such a request, which Nagle's algorithm never holds back.
        socket.nagle = hello.connect_each && hello.size_bytes <= ONE_SEGMENT;
        Self { to, socket, hello, secret, timeout, nonce }
    }

    /// The same over sockets that are bound to `local`, where that is given.
    pub fn from_local(mut self, local: Option<SocketAddr>) -> Self {
        self.socket.local = local.map(|local| towards(local, self.to));
        self
    }

    pub(crate) const fn transport(&self) -> Transport {
        self.hello.transport
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct BufferSizes {
    pub(crate) receive_bytes: usize,
    pub(crate) send_bytes: usize,
}

/// What comes of a step, unless the driver has ended.
type Event = Result<SessionEvent>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// A session of many operations.
    Session,
    /// One operation, then the server closes: a hello without environment, no histogram.
    Brief,
    /// The same, and its request goes out behind the hello at once: the owner's turn begins with
    /// [`SessionEvent::Connected`], and it sends both.
    OneGo,
}

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    /// The name in results: an errno's, or a word.
    pub(crate) cause: &'static str,
    /// In words fit for the user; absent where the count says all.
    pub(crate) error: Option<Box<Error>>,
}

impl Failure {
    pub(crate) const TIMEOUT: &'static str = "timeout";

    pub(crate) fn new(stage: Stage, cause: &'static str, error: Option<Error>) -> Self {
        Self { stage, cause, error: error.map(Box::new) }
    }
}

#[derive(Debug)]
pub(crate) enum SessionEvent {
    Nothing,
    /// The connection stands; it took so long.
    Connected(Nanos),
    /// The session is open, and the exchange the owner's.
    Accepted(Box<Accept>),
    /// The session is open, and the owner's receive brought `len` bytes; over TCP at least one.
    Received {
        len: u32,
    },
    /// Of the owner's send, `bytes` are gone. Also when the session is not open any more.
    Sent {
        bytes: u64,
    },
    /// The buffer of a zero-copy send is free again; `copied`: the kernel copied all the same.
    Released {
        copied: bool,
    },
    Figures(Box<Figures>),
    /// The server has ended the session by itself, and `failure` tells what that means for the run.
    /// The owner gives the session up.
    Ended {
        figures: Box<Figures>,
        failure: Failure,
    },
    /// The connection has ended as it should, and its socket is closed.
    Closed,
    /// The session stays as it is until its owner gives it up.
    Failed(Failure),
}

impl SessionEvent {
    pub(crate) fn failed(stage: Stage, cause: &'static str, error: Option<Error>) -> Self {
        Self::Failed(Failure::new(stage, cause, error))
    }

    fn figures(figures: Option<Figures>) -> Self {
        figures.map_or(Self::Nothing, |figures| Self::Figures(Box::new(figures)))
    }
}

#[derive(Debug)]
enum State {
    Vacant,
    Prepared,
    Connecting(Instant),
    Greeting {
        handshake: Box<ClientHandshake>,
        deadline: Instant,
    },
    GreetingDatagrams(Box<UdpClientHandshake>),
    /// UDP: the environment (then the accept is here), or the figures.
    Fetching {
        accept: Option<Box<Accept>>,
        fetch: Box<DocumentFetch>,
    },
    Open,
    Reporting {
        /// Made when the first of them come: a connection of one operation gets none.
        reader: Option<Box<FiguresReader>>,
        deadline: Instant,
        /// The server has ended the session by itself.
        early: bool,
        /// Payload may still precede them.
        skips_payload: bool,
    },
    Closing,
    Dead,
}

/// One connection; see the [module](self).
#[derive(Debug)]
pub(crate) struct ClientSession {
    index: u32,
    spec: Arc<SessionSpec>,
    buffers: BufferSizes,
    link: Option<Link>,
    state: State,
    opening: Opening,
    /// UDP: the server has ended the session.
    ended: bool,
    session: Id,
    /// Sessions asked for over UDP, so that each has a nonce of its own.
    asked: u64,
    /// Bytes of payload that preceded the figures, not told to the owner yet.
    skipped: u64,
}

impl ClientSession {
    /// A session without a socket. The tokens of its operations carry `index`, that of its slot.
    pub(crate) const fn new(index: u32, buffers: BufferSizes, spec: Arc<SessionSpec>) -> Self {
        Self {
            index,
            spec,
            buffers,
            link: None,
            state: State::Vacant,
            opening: Opening::Session,
            ended: false,
            session: Id(0),
            asked: 0,
            skipped: 0,
        }
    }

    #[inline]
    pub(crate) fn spec(&self) -> &SessionSpec {
        &self.spec
    }

    #[inline]
    pub(crate) fn transport(&self) -> Transport {
        self.spec.transport()
    }

    /// It was given up, or its socket could not be opened. [`Self::prepare`] begins again.
    pub(crate) const fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead)
    }

    /// There is no socket, and nothing is outstanding.
    pub(crate) fn is_quiet(&self) -> bool {
        matches!(self.state, State::Vacant | State::Dead)
            && self.link.as_ref().is_none_or(Link::is_quiet)
    }

    #[inline]
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    pub(crate) fn is_brief(&self) -> bool {
        self.opening != Opening::Session
    }

    #[inline]
    pub(crate) fn is_one_go(&self) -> bool {
        self.opening == Opening::OneGo
    }

    /// The session that the datagrams of the exchange carry; UDP only.
    #[inline]
    pub(crate) const fn session(&self) -> Id {
        self.session
    }

    #[inline]
    pub(crate) const fn link(&self) -> Option<&Link> {
        match (&self.state, &self.link) {
            (State::Open, Some(link)) => Some(link),
            _ => None,
        }
    }

    /// The link, while the session is open: the owner sends and receives over it.
    #[inline]
    pub(crate) const fn link_mut(&mut self) -> Option<&mut Link> {
        match (&self.state, &mut self.link) {
            (State::Open, Some(link)) => Some(link),
            _ => None,
        }
    }

    /// The socket, from [`Self::prepare`] until its close is asked for.
    pub(crate) fn socket(&self) -> Option<SocketId> {
        let link = self.link.as_ref().filter(|link| !link.closing)?;
        Some(link.socket)
    }

    /// Bytes of payload that were skipped since the last call, ahead of the figures.
    pub(crate) const fn take_skipped(&mut self) -> u64 {
        std::mem::replace(&mut self.skipped, 0)
    }

    /// Opens a socket, to be connected later, so that a connect takes nothing but the connect. The
    /// session must be quiet. Where no socket or no buffer can be had, it is dead.
    pub(crate) fn prepare(&mut self, io: &mut impl Driver) -> Result<(), Failure> {
        self.state = State::Dead;
        let refuse = |error: OpError| {
            let words = errors::cannot_open(error, &self.spec.socket);
            Failure::new(Stage::Connect, error.name(), Some(words))
        };
        let socket = io.open(&self.spec.socket).map_err(refuse)?;
        match &mut self.link {
            Some(link) => link.replace_socket(io, socket),
            None => {
                let receive = self.buffers.receive_bytes.max(CONTROL_READ as usize);
                let send = self.buffers.send_bytes.max(CONTROL_DATAGRAM);
                let link = Link::new(io, (self.index, socket), (receive, send));
                self.link = Some(link.map_err(|_| refuse(OpError::NoMemory))?);
            }
        }
        self.state = State::Prepared;
        Ok(())
    }

    pub(crate) fn connect(&mut self, io: &mut impl Driver, now: Instant, how: Opening) -> Result {
        self.opening = how;
        self.ended = false;
        self.skipped = 0;
        self.state = State::Connecting(now);
        self.link.as_mut().map_or(Ok(()), |link| link.connect(io, self.spec.to))
    }

    /// Ends the session: asks for the figures, then closes. What is not open yet is given up; what
    /// is ending already is left to it.
    ///
    /// The owner's sends must be through: over TCP what follows is the end of the stream. A receive
    /// may be outstanding, if it is one into the beginning of the buffer. With `skips_payload` the
    /// server may still be sending over TCP: bytes with their top bit set, which a frame does not
    /// begin with, are dropped and counted ([`Self::take_skipped`]) until the figures begin.
    pub(crate) fn end(
        &mut self,
        io: &mut impl Driver,
        now: Instant,
        skips_payload: bool,
    ) -> Result {
        match self.state {
            State::Vacant | State::Dead | State::Closing | State::Reporting { .. } => Ok(()),
            State::Open => match self.transport() {
                Transport::Tcp => self.end_stream(io, now, skips_payload),
                Transport::Udp => self.fetch(io, None, Document::Figures, now),
            },
            _ => self.give_up(io),
        }
    }

    /// Waits for the figures until `deadline` and not, as after [`Self::end`], for the timeout:
    /// what the owner sent may take longer to arrive. TCP only; over UDP they are asked for again
    /// and again until nothing comes for the timeout.
    pub(crate) const fn extend(&mut self, until: Instant) {
        if let State::Reporting { deadline, .. } = &mut self.state {
            *deadline = until;
        }
    }

    pub(crate) fn give_up(&mut self, io: &mut impl Driver) -> Result {
        if matches!(self.state, State::Vacant) {
            return Ok(());
        }
        let has_sent = matches!(self.state, State::Open | State::Reporting { .. });
        self.state = State::Dead;
        let Some(link) = &mut self.link else { return Ok(()) };
        if has_sent {
            link.drop_unsent(io);
        }
        link.close(io)
    }

    /// The server did not answer within the timeout; why not, where TCP can tell.
    pub(crate) fn silence(&self, io: &impl Driver, stage: Stage) -> Failure {
        let info = self.socket().and_then(|socket| io.tcp_info(socket));
        let black_hole = info.and_then(|info| errors::black_hole(&self.spec, &info));
        let error = black_hole.unwrap_or_else(|| errors::silence(&self.spec));
        Failure::new(stage, Failure::TIMEOUT, Some(error))
    }

    #[inline]
    pub(crate) fn handle_completion(
        &mut self,
        io: &mut impl Driver,
        purpose: Purpose,
        completion: &Completion,
        now: Instant,
    ) -> Event {
        let Some(link) = &mut self.link else { return Ok(SessionEvent::Nothing) };
        let outcome = &completion.outcome;
        link.handle(purpose, outcome, completion.more);
        let is_over = matches!(self.state, State::Dead | State::Vacant | State::Closing);
        Ok(match (purpose, outcome) {
            (Purpose::Receive, &Outcome::Received(len))
                if self.is_open() && (len > 0 || self.transport() == Transport::Udp) =>
            {
                SessionEvent::Received { len }
            }
            (Purpose::Close, _) if matches!(self.state, State::Closing) => {
                self.state = State::Vacant;
                SessionEvent::Closed
            }
            // What completes now is of no interest to anybody.
            _ if is_over => SessionEvent::Nothing,
            (Purpose::Send, Outcome::Sent(n)) => SessionEvent::Sent { bytes: u64::from(*n) },
            (Purpose::Send, &Outcome::SentRepeated { bytes, .. }) => SessionEvent::Sent { bytes },
            (Purpose::Send, &Outcome::Released { copied }) => SessionEvent::Released { copied },
            _ => return self.handle_own(io, purpose, outcome, now),
        })
    }

    fn handle_own(
        &mut self,
        io: &mut impl Driver,
        purpose: Purpose,
        outcome: &Outcome,
        now: Instant,
    ) -> Event {
        match (purpose, outcome) {
            (Purpose::Connect, Outcome::Connected) => self.handle_connected(io, now),
            (Purpose::SendControl, Outcome::Sent(n)) => {
                let link = self.link.as_mut();
                let is_gone = link.map_or(Ok(false), |link| link.handle_control_sent(io, *n))?;
                if is_gone { self.step_control(io, now) } else { Ok(SessionEvent::Nothing) }
            }
            (Purpose::Receive, Outcome::Received(n)) => match self.transport() {
                Transport::Tcp => self.handle_bytes(io, *n, now),
                Transport::Udp => self.handle_datagram(io, *n, now),
            },
            (purpose, Outcome::Failed(error)) => Ok(self.handle_failed(purpose, *error)),
            _ => Ok(SessionEvent::Nothing),
        }
    }

    fn handle_failed(&self, purpose: Purpose, error: OpError) -> SessionEvent {
        let stage = match (&self.state, purpose) {
            // The server has ended the session, so what was under way fails; its figures say why.
            (State::Reporting { early: true, .. }, Purpose::Send) => return SessionEvent::Nothing,
            (State::Connecting(..), _) => Stage::Connect,
            (State::Greeting { .. } | State::GreetingDatagrams(..), _) => Stage::Handshake,
            (State::Reporting { .. }, _) => Stage::Close,
            (_, Purpose::Send) => Stage::Send,
            _ => Stage::Receive,
        };
        let words = errors::operation(&self.spec, stage, error);
        SessionEvent::failed(stage, error.name(), Some(words))
    }

    pub(crate) fn handle_timers(&mut self, io: &mut impl Driver, now: Instant) -> Event {
        let stage = match &mut self.state {
            State::Connecting(since) if now.since(*since) >= self.spec.timeout => Stage::Connect,
            State::Greeting { handshake, deadline } if now >= *deadline => {
                handshake.handle_timeout();
                return self.step_control(io, now);
            }
            State::GreetingDatagrams(handshake) => {
                handshake.handle_timeout(now);
                return self.step_control(io, now);
            }
            State::Fetching { fetch, .. } => {
                fetch.handle_timeout(now);
                return self.step_control(io, now);
            }
            State::Reporting { deadline, .. } if now >= *deadline => Stage::Close,
            _ => return Ok(SessionEvent::Nothing),
        };
        Ok(SessionEvent::Failed(self.silence(io, stage)))
    }

    fn handle_connected(&mut self, io: &mut impl Driver, now: Instant) -> Event {
        let State::Connecting(since) = self.state else { return Ok(SessionEvent::Nothing) };
        let connected = SessionEvent::Connected(now.since(since));
        if self.is_one_go() {
            // The owner sends the hello, with its request.
            self.state = State::Open;
            return Ok(connected);
        }
        let spec = &self.spec;
        let mut hello = spec.hello.clone();
        (hello.brief, hello.request_follows) = (self.is_brief(), false);
        let secret = spec.secret.clone();
        self.state = match spec.transport() {
            Transport::Tcp => State::Greeting {
                handshake: Box::new(ClientHandshake::new(&hello, secret)),
                deadline: now + spec.timeout,
            },
            Transport::Udp => {
                self.asked += 1;
                let nonce = spec.nonce ^ (u64::from(self.index) << 32 | self.asked);
                let handshake = UdpClientHandshake::new(&hello, nonce, secret, now, spec.timeout);
                State::GreetingDatagrams(Box::new(handshake))
            }
        };
        match self.step_control(io, now)? {
            SessionEvent::Nothing => Ok(connected),
            failed => Ok(failed),
        }
    }

    /// Sends what a control exchange wants sent, receives for it, and says what it has come to.
    fn step_control(&mut self, io: &mut impl Driver, now: Instant) -> Event {
        let Some(link) = &mut self.link else { return Ok(SessionEvent::Nothing) };
        let is_sending = link.is_sending_control();
        let (frame, event) = match &mut self.state {
            State::Greeting { handshake, .. } if !is_sending => {
                (handshake.poll_transmit(), handshake.poll_event())
            }
            State::GreetingDatagrams(handshake) if !is_sending => {
                (handshake.poll_transmit(), handshake.poll_event())
            }
            State::Fetching { fetch, .. } => {
                return match fetch.poll_event() {
                    Some(fetched) => self.handle_document(io, fetched),
                    None => self.step_fetch(io).map(|()| SessionEvent::Nothing),
                };
            }
            _ => return Ok(SessionEvent::Nothing),
        };
        if let Some(frame) = frame {
            link.send_control(io, &frame)?;
        }
        match event {
            Some(ClientEvent::Accepted(accept)) => {
                self.session = accept.session.unwrap_or(Id(0));
                if self.transport() == Transport::Udp && !self.is_brief() {
                    self.fetch(io, Some(accept), Document::Environment, now)?;
                    return Ok(SessionEvent::Nothing);
                }
                self.state = State::Open;
                Ok(SessionEvent::Accepted(accept))
            }
            Some(ClientEvent::Failed(error)) => {
                let cause = error.cause();
                let error = error.into_error(self.spec.to);
                Ok(SessionEvent::failed(Stage::Handshake, cause, Some(error)))
            }
            None => {
                match self.spec.transport() {
                    Transport::Tcp if link.is_receiving() => {}
                    Transport::Tcp => link.receive(io, 0, CONTROL_READ)?,
                    Transport::Udp => self.receive_datagram(io)?,
                }
                Ok(SessionEvent::Nothing)
            }
        }
    }

    // Over TCP.

    /// The server has sent its figures, and ends the session: they begin at `received.start` of the
    /// receive buffer, in what the owner has received up to `received.end`. `early`: nobody asked
    /// for them. A send of the owner's may be outstanding, and fail unnoticed; no receive may.
    pub(crate) fn handle_figures(
        &mut self,
        io: &mut impl Driver,
        received: Range<u32>,
        now: Instant,
        early: bool,
    ) -> Event {
        self.await_figures(now, early, false);
        self.read_figures(io, received)
    }

    fn await_figures(&mut self, now: Instant, early: bool, skips_payload: bool) {
        let deadline = now + self.spec.timeout;
        self.state = State::Reporting { reader: None, deadline, early, skips_payload };
    }

    fn handle_bytes(&mut self, io: &mut impl Driver, n: u32, now: Instant) -> Event {
        let Some(link) = &mut self.link else { return Ok(SessionEvent::Nothing) };
        match &mut self.state {
            State::Greeting { handshake, .. } => {
                if n == 0 {
                    handshake.handle_closed();
                } else {
                    handshake.handle_bytes(&io.buffer(link.receive_buffer())[..n as usize]);
                }
                self.step_control(io, now)
            }
            State::Reporting { .. } => self.read_figures(io, 0..n),
            _ if n == 0 => Ok(self.closed()),
            _ => Ok(SessionEvent::failed(Stage::Receive, "protocol", None)),
        }
    }

    /// Bytes of the server's figures stand in the receive buffer; none: it has closed.
    fn read_figures(&mut self, io: &mut impl Driver, received: Range<u32>) -> Event {
        let (State::Reporting { reader, early, skips_payload, .. }, Some(link)) =
            (&mut self.state, &mut self.link)
        else {
            return Ok(SessionEvent::Nothing);
        };
        if received.is_empty() {
            if *early {
                return Ok(self.closed());
            }
            self.state = State::Closing;
            link.close(io)?;
            return Ok(SessionEvent::Nothing);
        }
        let buffer = io.buffer(link.receive_buffer());
        let mut bytes = &buffer[received.start as usize..received.end as usize];
        let mut room = CONTROL_READ;
        if *skips_payload {
            let frame_at = bytes.iter().position(|byte| byte & PAYLOAD_BIT == 0);
            let skipped = frame_at.unwrap_or(bytes.len());
            self.skipped += skipped as u64;
            *skips_payload = frame_at.is_none();
            bytes = &bytes[skipped..];
            room = u32::try_from(buffer.len()).unwrap_or(CONTROL_READ);
        }
        match reader.get_or_insert_default().handle_bytes(bytes) {
            Ok(Some(figures)) if *early => Ok(errors::ended(&self.spec, figures)),
            Ok(figures) => {
                link.receive(io, 0, room)?;
                Ok(SessionEvent::figures(figures))
            }
            Err(error) => {
                // What comes in place of the reply is the answer to the hello.
                let answers_hello = *early && self.is_one_go();
                let stage = if answers_hello { Stage::Handshake } else { Stage::Close };
                let cause = error.cause();
                Ok(SessionEvent::failed(stage, cause, Some(error.into_error(self.spec.to))))
            }
        }
    }

    fn end_stream(&mut self, io: &mut impl Driver, now: Instant, skips_payload: bool) -> Result {
        let is_brief = self.is_brief();
        let Some(link) = &mut self.link else { return Ok(()) };
        debug_assert!(!link.is_sending(), "the owner's sends are through");
        // A connection of one operation is ended by the server, right behind its reply: whoever
        // sends the first FIN keeps the port in TIME_WAIT, and the client's are the scarce ones.
        if !is_brief {
            link.half_close(io)?;
        }
        if !link.is_receiving() {
            link.receive(io, 0, CONTROL_READ)?;
        }
        self.await_figures(now, false, skips_payload);
        Ok(())
    }

    fn closed(&self) -> SessionEvent {
        SessionEvent::failed(Stage::Receive, "closed", Some(errors::closed(&self.spec)))
    }

    // Over UDP.

    #[inline]
    pub(crate) fn receive_datagram(&mut self, io: &mut impl Driver) -> Result {
        match &mut self.link {
            Some(link) if !link.is_receiving() => {
                let room = io.buffer(link.receive_buffer()).len();
                let room = u32::try_from(room).unwrap_or(CONTROL_READ);
                link.receive(io, 0, room)
            }
            _ => Ok(()),
        }
    }

    /// The flags of a datagram of this session, which may be the server's word on the session
    /// itself: that it has ended it, or does not know it. `None`: the datagram is the owner's.
    #[inline]
    pub(crate) fn handle_flags(
        &mut self,
        io: &mut impl Driver,
        flags: u8,
        now: Instant,
    ) -> Result<Option<SessionEvent>> {
        if flags & ENDED != 0 {
            // The server has ended the session by itself, and its figures say why.
            self.ended = true;
            self.fetch(io, None, Document::Figures, now)?;
            return Ok(Some(SessionEvent::Nothing));
        }
        let why = || Some(errors::unknown(&self.spec));
        let unknown = || SessionEvent::failed(Stage::Receive, "ended", why());
        Ok((flags & NO_SESSION != 0).then(unknown))
    }

    fn handle_datagram(&mut self, io: &mut impl Driver, n: u32, now: Instant) -> Event {
        let Some(link) = &self.link else { return Ok(SessionEvent::Nothing) };
        let datagram = &io.buffer(link.receive_buffer())[..n as usize];
        match &mut self.state {
            State::GreetingDatagrams(handshake) => handshake.handle_datagram(datagram, now),
            State::Fetching { fetch, .. } => fetch.handle_datagram(datagram, now),
            _ => return Ok(SessionEvent::Nothing),
        }
        self.step_control(io, now)
    }

    /// Asks the server for its environment, ahead of the `accept`, or for its figures.
    fn fetch(
        &mut self,
        io: &mut impl Driver,
        accept: Option<Box<Accept>>,
        document: Document,
        now: Instant,
    ) -> Result {
        let fetch = DocumentFetch::new(self.session, document, now, self.spec.timeout);
        self.state = State::Fetching { accept, fetch: Box::new(fetch) };
        self.step_fetch(io)
    }

    fn step_fetch(&mut self, io: &mut impl Driver) -> Result {
        if let (Some(link), State::Fetching { fetch, .. }) = (&mut self.link, &mut self.state)
            && !link.is_sending_control()
            && let Some(question) = fetch.poll_transmit()
        {
            link.send_control(io, &question)?;
        }
        self.receive_datagram(io)
    }

    fn handle_document(&mut self, io: &mut impl Driver, fetched: FetchEvent) -> Event {
        let State::Fetching { accept, .. } = &mut self.state else {
            return Ok(SessionEvent::Nothing);
        };
        if let Some(mut accept) = accept.take() {
            // The environment is worth having, not worth failing for.
            accept.environment = match fetched {
                FetchEvent::Done(json) => read_foreign(&json).ok(),
                FetchEvent::Failed(_) => None,
            };
            self.state = State::Open;
            return Ok(SessionEvent::Accepted(accept));
        }
        let figures: Option<Figures> = match fetched {
            FetchEvent::Done(json) => read_foreign(&json).ok(),
            FetchEvent::Failed(error) => {
                let cause = error.cause();
                let error = error.into_error(self.spec.to);
                return Ok(SessionEvent::failed(Stage::Close, cause, Some(error)));
            }
        };
        if self.ended {
            return Ok(errors::ended(&self.spec, figures.unwrap_or_default()));
        }
        self.state = State::Closing;
        if let Some(link) = &mut self.link {
            link.close(io)?;
        }
        Ok(SessionEvent::figures(figures))
    }
}
