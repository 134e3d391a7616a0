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
//! Here is what both transports share; what they do differently is in `stream` and `datagram`.
//! Methods come in three sorts: getters, `handle_*` (something happened; the answer is a
//! [`SessionEvent`]), and commands.

mod datagram;
mod errors;
mod stream;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::worker::Result;
use crate::worker::link::{Link, Purpose};
use crate::worker::tally::Stage;
use tare_driver::{Completion, Driver, OpError, Outcome, SocketId, SocketSpec, towards};
use tare_proto::auth::Secret;
use tare_proto::datagram::{Document, DocumentFetch, UdpClientHandshake};
use tare_proto::handshake::{ClientEvent, ClientHandshake, FiguresReader};
use tare_proto::hello::{Accept, Figures, Hello, Transport};
use tare_units::error::Error;
use tare_units::limits::CONTROL_DATAGRAM;
use tare_units::text::Id;
use tare_units::{Instant, Nanos};

/// Bytes received at a time while control frames are awaited.
const CONTROL_READ: u32 = 16 << 10;
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
    #[must_use]
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
        // One segment holds the hello and such a request, and Nagle's algorithm never holds the
        // first one back.
        socket.nagle = hello.connect_each && hello.size_bytes <= ONE_SEGMENT;
        Self { to, socket, hello, secret, timeout, nonce }
    }

    /// The same over sockets that are bound to `local`, where that is given.
    #[must_use]
    pub fn from_local(mut self, local: Option<SocketAddr>) -> Self {
        self.socket.local = local.map(|local| towards(local, self.to));
        self
    }

    pub(crate) const fn transport(&self) -> Transport {
        self.hello.transport
    }
}

/// Sizes of a link's buffers, bytes. A session makes them larger where its control frames need it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BufferSizes {
    pub(crate) receive_bytes: usize,
    pub(crate) send_bytes: usize,
}

/// What a connection is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// A session of many operations.
    Session,
    /// One operation, after which the server closes: a hello without environment, figures without
    /// histogram.
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
    /// The cause of a timeout.
    pub(crate) const TIMEOUT: &'static str = "timeout";

    pub(crate) fn new(stage: Stage, cause: &'static str, error: Option<Error>) -> Self {
        Self { stage, cause, error: error.map(Box::new) }
    }
}

/// What a completion, or the time, means to the owner.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    Nothing,
    /// The connection stands; it took so long.
    Connected(Nanos),
    /// The session is open, and the exchange the owner's.
    Accepted(Box<Accept>),
    /// The owner's receive brought `len` bytes; over TCP at least one. Only while the session is
    /// open.
    Received {
        len: u32,
    },
    /// Of the owner's send, `bytes` are gone. Also when the session is not open any more.
    Sent {
        bytes: u64,
    },
    /// The buffer of the owner's zero-copy send is free again; `copied`: the kernel copied all the
    /// same.
    Released {
        copied: bool,
    },
    /// The server's figures, as was asked or agreed.
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
}

#[derive(Debug)]
enum State {
    /// There is no socket.
    Vacant,
    Prepared,
    Connecting {
        since: Instant,
    },
    Greeting {
        handshake: Box<ClientHandshake>,
        deadline: Instant,
    },
    GreetingDatagrams {
        handshake: Box<UdpClientHandshake>,
    },
    /// UDP: the environment (then the accept is here), or the figures.
    Fetching {
        accept: Option<Box<Accept>>,
        fetch: Box<DocumentFetch>,
    },
    /// The exchange is the owner's.
    Open,
    /// TCP: the figures are awaited.
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
    /// A session without a socket. `index` is that of its slot: the tokens of its operations carry
    /// it.
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

    /// There is a session, and the exchange is the owner's.
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

    /// The link, while the session is open.
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
        let link = self.link.as_ref().filter(|link| !link.is_closing())?;
        Some(link.socket())
    }

    /// The bytes of payload that have preceded the figures since the last call; none unless they
    /// are skipped.
    pub(crate) const fn take_skipped(&mut self) -> u64 {
        std::mem::replace(&mut self.skipped, 0)
    }

    /// Opens a socket, to be connected later, so that a connect takes nothing but the connect.
    /// Everything of the old one must have completed ([`Self::is_quiet`]). Where no socket or no
    /// buffer can be had, the session is dead.
    pub(crate) fn prepare<D: Driver>(&mut self, io: &mut D) -> Result<(), Failure> {
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
                let receive = receive.max(CONTROL_DATAGRAM + 1);
                let send = self.buffers.send_bytes.max(CONTROL_DATAGRAM);
                let link = Link::new(io, self.index, socket, receive, send);
                self.link = Some(link.map_err(|_| refuse(OpError::NoMemory))?);
            }
        }
        self.state = State::Prepared;
        Ok(())
    }

    /// Connects; `now` is the instant of its submission.
    pub(crate) fn connect<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        opening: Opening,
    ) -> Result {
        self.opening = opening;
        self.ended = false;
        self.skipped = 0;
        self.state = State::Connecting { since: now };
        self.link.as_mut().map_or(Ok(()), |link| link.connect(io, self.spec.to))
    }

    /// Ends the session: asks for the figures, then closes. What is not open yet is given up; what
    /// is ending already is left to it.
    ///
    /// The owner's sends must be through: over TCP what follows is the end of the stream. A receive
    /// may be outstanding, if it is one into the beginning of the buffer. With `skips_payload` the
    /// server may still be sending over TCP: bytes with their top bit set, which a frame does not
    /// begin with, are dropped and counted ([`Self::take_skipped`]) until the figures begin.
    pub(crate) fn end<D: Driver>(
        &mut self,
        io: &mut D,
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

    pub(crate) fn give_up<D: Driver>(&mut self, io: &mut D) -> Result {
        if matches!(self.state, State::Vacant) {
            return Ok(());
        }
        let has_sent = matches!(self.state, State::Open | State::Reporting { .. });
        self.state = State::Dead;
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        if has_sent {
            link.drop_unsent(io);
        }
        link.close(io)
    }

    /// The server did not answer within the timeout; why not, where TCP can tell.
    pub(crate) fn silence<D: Driver>(&self, io: &D, stage: Stage) -> Failure {
        let info = self.socket().and_then(|socket| io.tcp_info(socket));
        let black_hole = info.and_then(|info| errors::black_hole(&self.spec, &info));
        let error = black_hole.unwrap_or_else(|| errors::silence(&self.spec));
        Failure::new(stage, Failure::TIMEOUT, Some(error))
    }

    #[inline]
    pub(crate) fn handle_completion<D: Driver>(
        &mut self,
        io: &mut D,
        purpose: Purpose,
        completion: &Completion,
        now: Instant,
    ) -> Result<SessionEvent> {
        let Some(link) = &mut self.link else {
            return Ok(SessionEvent::Nothing);
        };
        let outcome = &completion.outcome;
        link.handle(purpose, outcome, completion.more);
        let is_alive = !self.is_over();
        match (purpose, outcome) {
            (Purpose::Receive, Outcome::Received(n))
                if self.is_open() && (*n > 0 || self.transport() == Transport::Udp) =>
            {
                Ok(SessionEvent::Received { len: *n })
            }
            (Purpose::Send, Outcome::Sent(n)) if is_alive => {
                Ok(SessionEvent::Sent { bytes: u64::from(*n) })
            }
            (Purpose::Send, &Outcome::SentRepeated { bytes, .. }) if is_alive => {
                Ok(SessionEvent::Sent { bytes })
            }
            (Purpose::Send, &Outcome::Released { copied }) if is_alive => {
                Ok(SessionEvent::Released { copied })
            }
            _ => self.handle_own(io, purpose, outcome, now),
        }
    }

    /// What completes now is of no interest to anybody, but for the close.
    #[inline]
    const fn is_over(&self) -> bool {
        matches!(self.state, State::Dead | State::Vacant | State::Closing)
    }

    /// What is no send or receive of the owner's, or one that failed.
    fn handle_own<D: Driver>(
        &mut self,
        io: &mut D,
        purpose: Purpose,
        outcome: &Outcome,
        now: Instant,
    ) -> Result<SessionEvent> {
        match (purpose, outcome) {
            (Purpose::Close, _) if matches!(self.state, State::Closing) => {
                self.state = State::Vacant;
                Ok(SessionEvent::Closed)
            }
            _ if self.is_over() => Ok(SessionEvent::Nothing),
            (Purpose::Connect, Outcome::Connected) => self.handle_connected(io, now),
            (Purpose::SendControl, Outcome::Sent(n)) => {
                let is_gone = match &mut self.link {
                    Some(link) => link.handle_control_sent(io, *n)?,
                    None => false,
                };
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
            // The server has ended the session, so what was under way to it fails. Its figures say
            // why.
            (State::Reporting { early: true, .. }, Purpose::Send) => return SessionEvent::Nothing,
            (State::Connecting { .. }, _) => Stage::Connect,
            (State::Greeting { .. } | State::GreetingDatagrams { .. }, _) => Stage::Handshake,
            (State::Reporting { .. }, _) => Stage::Close,
            (_, Purpose::Send) => Stage::Send,
            _ => Stage::Receive,
        };
        let words = errors::operation(&self.spec, stage, error);
        SessionEvent::failed(stage, error.name(), Some(words))
    }

    pub(crate) fn handle_timers<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<SessionEvent> {
        let stage = match &mut self.state {
            State::Connecting { since } if now.since(*since) >= self.spec.timeout => Stage::Connect,
            State::Greeting { handshake, deadline } if now >= *deadline => {
                handshake.handle_timeout();
                return self.step_control(io, now);
            }
            State::GreetingDatagrams { handshake } => {
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

    fn handle_connected<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<SessionEvent> {
        let State::Connecting { since } = self.state else {
            return Ok(SessionEvent::Nothing);
        };
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
                State::GreetingDatagrams { handshake: Box::new(handshake) }
            }
        };
        match self.step_control(io, now)? {
            SessionEvent::Nothing => Ok(connected),
            failed => Ok(failed),
        }
    }

    /// Sends what a control exchange wants sent, asks for what it wants to hear, and tells what it
    /// has come to.
    fn step_control<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<SessionEvent> {
        let Some(link) = &mut self.link else {
            return Ok(SessionEvent::Nothing);
        };
        let is_sending = link.is_sending_control();
        let (frame, event) = match &mut self.state {
            State::Greeting { handshake, .. } if !is_sending => {
                (handshake.poll_transmit(), handshake.poll_event())
            }
            State::GreetingDatagrams { handshake } if !is_sending => {
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
            Some(ClientEvent::Accepted(accept)) => self.handle_accepted(io, accept, now),
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

    fn handle_accepted<D: Driver>(
        &mut self,
        io: &mut D,
        accept: Box<Accept>,
        now: Instant,
    ) -> Result<SessionEvent> {
        self.session = accept.session.unwrap_or(Id(0));
        if self.transport() == Transport::Udp && !self.is_brief() {
            self.fetch(io, Some(accept), Document::Environment, now)?;
            return Ok(SessionEvent::Nothing);
        }
        self.state = State::Open;
        Ok(SessionEvent::Accepted(accept))
    }
}
