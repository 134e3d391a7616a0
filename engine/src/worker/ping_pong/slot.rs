//! One connection of the client: connect, hello, one operation after the other, figures, close.

use std::net::SocketAddr;

use super::ClientSpec;
use super::tally::Stage;
use crate::driver::{Driver, DriverError, OpError, Outcome, SocketSpec};
use crate::error::Error;
use crate::histogram::Sample;
use crate::limits::CONTROL_DATAGRAM;
use crate::proto::datagram::{
    self, DataHeader, Document, DocumentFetch, ENDED, FetchEvent, MEASURED, NO_SESSION,
    UdpClientHandshake,
};
use crate::proto::handshake::{ClientEvent, ClientHandshake, FiguresReader, HandshakeError};
use crate::proto::hello::{Accept, Figures};
use crate::proto::ping_pong::{self, Progress, Received};
use crate::proto::text::Id;
use crate::run::plan::Transport;
use crate::units::{Instant, Nanos};
use crate::worker::link::{Link, Purpose};

/// Bytes received at a time while control frames are awaited.
const CONTROL_READ: u32 = 16 << 10;

/// An operation that was sent, or whose connection is being opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    /// When it was meant to be sent; open loop only.
    intended: Option<Instant>,
    /// When it was begun: the request sent, or with a connection per operation the connect.
    begun_at: Instant,
    /// When the request was sent.
    sent_at: Instant,
    /// What the connect took, with a connection per operation.
    connect: Nanos,
    /// It belongs to the measured phase.
    pub(super) measured: bool,
}

impl Operation {
    /// Its lengths if it ends at `now`, the residence aside.
    pub(super) fn sample(&self, now: Instant) -> Sample {
        Sample {
            service: self.connect + now.since(self.sent_at),
            lateness: self.intended.map(|intended| self.begun_at.since(intended)),
            residence: None,
        }
    }
}

/// What a slot tells the client role.
#[derive(Debug)]
pub(super) enum Event {
    Nothing,
    /// The TCP connection stands; it took so long.
    Connected(Nanos),
    /// There is a session.
    Accepted(Box<Accept>),
    /// The reply is whole.
    Replied {
        residence: Option<Nanos>,
    },
    /// A datagram of an operation that was given up already.
    Stale,
    Figures(Box<Figures>),
    /// The connection has ended as it should.
    Over,
    Failed {
        stage: Stage,
        cause: &'static str,
        error: Option<Box<Error>>,
    },
}

#[derive(Debug)]
enum State {
    /// No socket.
    Vacant,
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
    /// UDP: the accept is here, the environment still to come.
    Fetching {
        accept: Option<Box<Accept>>,
        fetch: Box<DocumentFetch>,
    },
    Idle,
    /// An operation is under way.
    Awaiting,
    /// Half-closed: the figures are awaited.
    Reporting {
        reader: Box<FiguresReader>,
        deadline: Instant,
    },
    Closing,
    Dead,
}

/// One connection; see the [module](self).
#[derive(Debug)]
pub(super) struct Slot {
    link: Option<Link>,
    index: u32,
    state: State,
    to: SocketAddr,
    size: u32,
    operation: Option<Operation>,
    connect: Nanos,
    request: Progress,
    reply: Progress,
    brief: bool,
    /// An operation was cut off in mid-flight: what comes is not in step any more.
    interrupted: bool,
    resting_until: Option<Instant>,
    session: Id,
    sequence: u64,
    /// Sessions asked for over UDP, so that each has a nonce of its own.
    asked: u64,
}

impl Slot {
    pub(super) fn new<D: Driver>(
        _io: &mut D,
        index: u32,
        spec: &ClientSpec,
    ) -> Result<Self, DriverError> {
        Ok(Self {
            link: None,
            index,
            state: State::Vacant,
            to: spec.to,
            size: spec.size_bytes,
            operation: None,
            connect: Nanos::ZERO,
            request: Progress::new(spec.size_bytes as usize),
            reply: Progress::new(spec.size_bytes as usize),
            brief: false,
            interrupted: false,
            resting_until: None,
            session: Id(0),
            sequence: 0,
            asked: 0,
        })
    }

    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle | State::Vacant)
    }

    pub(super) const fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead)
    }

    pub(super) const fn is_brief(&self) -> bool {
        self.brief
    }

    pub(super) const fn has_operation(&self) -> bool {
        self.operation.is_some()
    }

    /// The present operation belongs to the measured phase.
    pub(super) fn is_measured(&self) -> bool {
        self.operation.is_some_and(|operation| operation.measured)
    }

    /// Nothing is outstanding and the connection is closed.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.state, State::Vacant | State::Dead)
            && self.link.as_ref().is_none_or(Link::is_quiet)
    }

    /// Begins an operation at `now`.
    pub(super) fn start_operation(
        &mut self,
        now: Instant,
        intended: Option<Instant>,
        measured: bool,
    ) {
        let connect = Nanos::ZERO;
        self.operation = Some(Operation {
            intended,
            begun_at: now,
            sent_at: now,
            connect,
            measured,
        });
    }

    pub(super) const fn take_operation(&mut self) -> Option<Operation> {
        self.operation.take()
    }

    pub(super) const fn mark_interrupted(&mut self) {
        self.interrupted = true;
    }

    pub(super) const fn rest_until(&mut self, until: Instant) {
        self.resting_until = Some(until);
    }

    pub(super) fn has_rested(&self, now: Instant) -> bool {
        self.resting_until.is_some_and(|until| now >= until) && self.is_quiet()
    }

    pub(super) fn wake(&mut self) {
        self.resting_until = None;
        self.state = State::Vacant;
    }

    /// A datagram was lost: the slot is free for the next.
    pub(super) fn forgive(&mut self) {
        self.state = State::Idle;
    }

    /// Opens a socket and connects it.
    pub(super) fn open<D: Driver>(
        &mut self,
        io: &mut D,
        spec: &ClientSpec,
        now: Instant,
        brief: bool,
    ) -> Result<(), OpError> {
        let socket = match spec.transport {
            Transport::Tcp => io.open(&SocketSpec::stream_to(self.to))?,
            Transport::Udp => io.open(&SocketSpec::datagram_to(self.to))?,
        };
        let no_memory = |_| OpError::NoMemory;
        match &mut self.link {
            Some(link) => link.replace_socket(socket),
            None => {
                let size = spec.size_bytes as usize;
                let receive = (size + 1)
                    .max(CONTROL_READ as usize)
                    .max(CONTROL_DATAGRAM + 1);
                let send = size.max(CONTROL_DATAGRAM);
                let link = Link::new(io, self.index, socket, receive, send).map_err(no_memory)?;
                self.link = Some(link);
            }
        }
        self.brief = brief;
        self.interrupted = false;
        self.state = State::Connecting { since: now };
        self.link
            .as_mut()
            .map_or(Ok(()), |link| link.connect(io, self.to))
            .map_err(no_memory)
    }

    /// Sends the request of the present operation; `now` is the instant of its submission.
    pub(super) fn send<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<(), DriverError> {
        let (Some(operation), Some(link)) = (&mut self.operation, &mut self.link) else {
            return Ok(());
        };
        operation.sent_at = now;
        if spec.hello.connect_each {
            operation.connect = self.connect;
        }
        self.state = State::Awaiting;
        let request = &mut io.buffer_mut(link.send_buffer())[..self.size as usize];
        match spec.transport {
            Transport::Tcp => {
                ping_pong::put_flags(request, operation.measured);
                self.request.restart();
                self.reply.restart();
                link.send(io, 0, self.size)
            }
            Transport::Udp => {
                self.sequence += 1;
                let flags = if operation.measured { MEASURED } else { 0 };
                let (sequence, session) = (self.sequence, self.session);
                DataHeader {
                    reply: false,
                    flags,
                    sequence,
                    session,
                }
                .encode_into(request);
                link.send(io, 0, self.size)
            }
        }
    }

    /// The receive follows the send, not at its side: pushing it beforehand delays the send, by 25 ns of a spinning
    /// round trip, and the first attempt at it is in vain.
    fn handle_sent<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        spec: &ClientSpec,
    ) -> Result<(), DriverError> {
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        match spec.transport {
            Transport::Tcp if !self.request.handle_sent(n as usize) => {
                let rest = self.request.remaining();
                link.send(io, bytes(rest.start), bytes(rest.len()))
            }
            Transport::Tcp if link.is_receiving() => Ok(()),
            Transport::Tcp => link.receive(io, 0, self.size + 1),
            Transport::Udp => self.receive_datagram(io),
        }
    }

    fn receive_datagram<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        match &mut self.link {
            Some(link) if !link.is_receiving() => {
                let len = self.size.max(CONTROL_READ) + 1;
                let len = len.min(bytes(io.buffer(link.receive_buffer()).len()));
                link.receive(io, 0, len)
            }
            _ => Ok(()),
        }
    }

    /// Ends the session: asks for the figures, then closes.
    pub(super) fn end<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<(), DriverError> {
        let in_step = !self.interrupted || spec.transport == Transport::Udp;
        match self.state {
            State::Vacant | State::Dead | State::Closing | State::Reporting { .. } => return Ok(()),
            State::Idle | State::Awaiting if in_step => {}
            _ => return self.give_up(io, now),
        }
        let deadline = now + spec.timeout;
        let Some(link) = &mut self.link else {
            return Ok(());
        };
        match spec.transport {
            Transport::Tcp => {
                // A connection of one operation is ended by the server, right behind its reply: whoever
                // sends the first FIN keeps the port in TIME_WAIT, and the client's are the scarce ones.
                if !(spec.hello.connect_each && self.brief) {
                    link.half_close(io)?;
                }
                if !link.is_receiving() {
                    link.receive(io, 0, CONTROL_READ)?;
                }
                self.state = State::Reporting {
                    reader: Box::default(),
                    deadline,
                };
            }
            Transport::Udp => {
                let fetch = DocumentFetch::new(self.session, Document::Figures, now, spec.timeout);
                let fetch = Box::new(fetch);
                self.state = State::Fetching {
                    accept: None,
                    fetch,
                };
                self.step_fetch(io)?;
            }
        }
        Ok(())
    }

    /// Closes at once, whatever is under way.
    pub(super) fn give_up<D: Driver>(
        &mut self,
        io: &mut D,
        _now: Instant,
    ) -> Result<(), DriverError> {
        if matches!(self.state, State::Vacant) {
            return Ok(());
        }
        self.state = State::Dead;
        self.link.as_mut().map_or(Ok(()), |link| link.close(io))
    }

    pub(super) fn handle_completion<D: Driver>(
        &mut self,
        io: &mut D,
        purpose: Purpose,
        outcome: &Outcome,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let Some(link) = &mut self.link else {
            return Ok(Event::Nothing);
        };
        link.handle_completed(purpose);
        match (purpose, outcome) {
            (Purpose::Close, _) => {
                if matches!(self.state, State::Closing) {
                    self.state = State::Vacant;
                    return Ok(Event::Over);
                }
                Ok(Event::Nothing)
            }
            _ if matches!(self.state, State::Dead | State::Vacant | State::Closing) => {
                Ok(Event::Nothing)
            }
            (Purpose::Connect, Outcome::Connected) => self.handle_connected(io, now, spec),
            (Purpose::Send, Outcome::Sent(n)) => {
                self.handle_sent(io, *n, spec)?;
                Ok(Event::Nothing)
            }
            (Purpose::SendControl, Outcome::Sent(n)) => {
                if link.handle_control_sent(io, *n)? {
                    return self.step_control(io, now, spec);
                }
                Ok(Event::Nothing)
            }
            (Purpose::Receive, Outcome::Received(n)) => self.handle_received(io, *n, now, spec),
            (Purpose::HalfClose, _) => Ok(Event::Nothing),
            (purpose, Outcome::Failed(error)) => Ok(self.failed(purpose, *error)),
            _ => Ok(Event::Nothing),
        }
    }

    fn failed(&self, purpose: Purpose, error: OpError) -> Event {
        let stage = match (&self.state, purpose) {
            (State::Connecting { .. }, _) => Stage::Connect,
            (State::Greeting { .. } | State::GreetingDatagrams { .. }, _) => Stage::Handshake,
            (State::Reporting { .. }, _) => Stage::Close,
            (_, Purpose::Send) => Stage::Send,
            _ => Stage::Receive,
        };
        Event::Failed {
            stage,
            cause: error.name(),
            error: Some(Box::new(self.explain(stage, error))),
        }
    }

    /// Whose fault a failed operation is, and what to type.
    fn explain(&self, stage: Stage, error: OpError) -> Error {
        let to = self.to;
        match (stage, error) {
            (Stage::Connect, OpError::Refused) => Error::peer(format!("{to} refuses connections"))
                .remedy(format!(
                    "start `tare serve --listen {to}` there, or check the port"
                )),
            (Stage::Handshake, OpError::Refused) => {
                Error::peer(format!("nothing listens on UDP {to}")).remedy(format!(
                    "start `tare serve --listen {to}` there, or check the port"
                ))
            }
            (Stage::Connect, OpError::AddressNotAvailable) => {
                Error::environment(format!("no ephemeral port is left towards {to}"))
                    .remedy("wait a minute, or widen net.ipv4.ip_local_port_range")
            }
            (Stage::Connect, error) => Error::peer(format!("cannot connect to {to}: {error}"))
                .remedy("check the address, the route and the firewall"),
            (Stage::Receive | Stage::Send, OpError::Reset | OpError::BrokenPipe) => Error::peer(
                format!("{to} reset the connection: the server has died or was ended"),
            )
            .remedy("look at the server's log, and start it again"),
            (stage, error) => Error::peer(format!("{} with {to} failed: {error}", stage.name())),
        }
    }

    fn handle_connected<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let State::Connecting { since } = self.state else {
            return Ok(Event::Nothing);
        };
        let deadline = now + spec.timeout;
        self.connect = now.since(since);
        let mut hello = spec.hello.clone();
        hello.brief = self.brief;
        match spec.transport {
            Transport::Tcp => {
                let handshake = Box::new(ClientHandshake::new(&hello, spec.secret.clone()));
                self.state = State::Greeting {
                    handshake,
                    deadline,
                };
                if let Some(link) = &mut self.link {
                    link.receive(io, 0, CONTROL_READ)?;
                }
            }
            Transport::Udp => {
                self.asked += 1;
                let nonce = spec.nonce ^ (u64::from(self.index) << 32 | self.asked);
                let secret = spec.secret.clone();
                let handshake = UdpClientHandshake::new(&hello, nonce, secret, now, spec.timeout);
                self.state = State::GreetingDatagrams {
                    handshake: Box::new(handshake),
                };
                self.receive_datagram(io)?;
            }
        }
        let event = self.step_control(io, now, spec)?;
        debug_assert!(matches!(event, Event::Nothing), "nothing was answered yet");
        Ok(match spec.transport {
            Transport::Tcp => Event::Connected(self.connect),
            Transport::Udp => event,
        })
    }

    fn handle_received<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        if spec.transport == Transport::Udp {
            return self.handle_datagram(io, n, now, spec);
        }
        let Some(link) = &mut self.link else {
            return Ok(Event::Nothing);
        };
        let buffer = io.buffer(link.receive_buffer());
        match &mut self.state {
            State::Awaiting if n > 0 => match self.reply.handle_reply(buffer, n as usize) {
                Ok(Received::Complete) => {
                    let residence = ping_pong::residence(&buffer[..self.size as usize]);
                    self.state = State::Idle;
                    Ok(Event::Replied { residence })
                }
                Ok(Received::Partial) => {
                    let range = self.reply.receive_range();
                    link.receive(io, bytes(range.start), bytes(range.len()))?;
                    Ok(Event::Nothing)
                }
                Ok(Received::Control { at }) if at == self.size as usize && self.brief => {
                    let residence = ping_pong::residence(&buffer[..at]);
                    let end = self.reply.receive_range().start;
                    let mut reader = FiguresReader::default();
                    // What it says is of no use for one operation; that it is whole shows in the close.
                    let _ = reader.handle_bytes(&buffer[at..end]);
                    let deadline = now + spec.timeout;
                    self.state = State::Reporting {
                        reader: Box::new(reader),
                        deadline,
                    };
                    link.receive(io, 0, CONTROL_READ)?;
                    Ok(Event::Replied { residence })
                }
                Ok(Received::Control { .. }) => Ok(closed(Stage::Receive, self.to)),
                Err(error) => Ok(Event::Failed {
                    stage: Stage::Receive,
                    cause: "protocol",
                    error: Some(Box::new(Error::peer(format!("{}: {error}", self.to)))),
                }),
            },
            State::Greeting { handshake, .. } => {
                if n == 0 {
                    handshake.handle_closed();
                } else {
                    handshake.handle_bytes(&buffer[..n as usize]);
                }
                self.step_control(io, now, spec)
            }
            State::Reporting { reader, .. } => {
                if n == 0 {
                    self.state = State::Closing;
                    link.close(io)?;
                    return Ok(Event::Nothing);
                }
                let event = match reader.handle_bytes(&buffer[..n as usize]) {
                    Ok(Some(figures)) => Event::Figures(Box::new(figures)),
                    Ok(None) => Event::Nothing,
                    Err(error) => return Ok(handshake_failed(Stage::Close, error, self.to)),
                };
                link.receive(io, 0, CONTROL_READ)?;
                Ok(event)
            }
            _ if n == 0 => Ok(closed(Stage::Receive, self.to)),
            _ => Ok(Event::Failed {
                stage: Stage::Receive,
                cause: "protocol",
                error: None,
            }),
        }
    }

    /// Sends what a control exchange wants sent, and tells what it has come to.
    fn step_control<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let Some(link) = &mut self.link else {
            return Ok(Event::Nothing);
        };
        let (frame, event) = match &mut self.state {
            State::Greeting { handshake, .. } => {
                if link.is_sending_control() {
                    return Ok(Event::Nothing);
                }
                (handshake.poll_transmit(), handshake.poll_event())
            }
            State::GreetingDatagrams { handshake, .. } => {
                if link.is_sending_control() {
                    return Ok(Event::Nothing);
                }
                (handshake.poll_transmit(), handshake.poll_event())
            }
            State::Fetching { fetch, .. } => {
                if let Some(fetched) = fetch.poll_event() {
                    return self.handle_document(io, fetched);
                }
                self.step_fetch(io)?;
                return Ok(Event::Nothing);
            }
            _ => return Ok(Event::Nothing),
        };
        if let Some(frame) = frame {
            link.send_control(io, &frame)?;
        }
        match event {
            Some(ClientEvent::Accepted(accept)) => {
                self.session = accept.session.unwrap_or_default();
                if spec.transport == Transport::Udp && !self.brief {
                    let fetch =
                        DocumentFetch::new(self.session, Document::Environment, now, spec.timeout);
                    let fetch = Box::new(fetch);
                    self.state = State::Fetching {
                        accept: Some(accept),
                        fetch,
                    };
                    self.receive_datagram(io)?;
                    self.step_fetch(io)?;
                    return Ok(Event::Nothing);
                }
                self.state = State::Idle;
                Ok(Event::Accepted(accept))
            }
            Some(ClientEvent::Failed(error)) => {
                Ok(handshake_failed(Stage::Handshake, error, self.to))
            }
            None => {
                match spec.transport {
                    Transport::Udp => self.receive_datagram(io)?,
                    Transport::Tcp if !link.is_receiving() => link.receive(io, 0, CONTROL_READ)?,
                    Transport::Tcp => {}
                }
                Ok(Event::Nothing)
            }
        }
    }

    fn step_fetch<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        let (Some(link), State::Fetching { fetch, .. }) = (&mut self.link, &mut self.state) else {
            return Ok(());
        };
        if !link.is_sending_control()
            && let Some(question) = fetch.poll_transmit()
        {
            link.send_control(io, &question)?;
        }
        self.receive_datagram(io)
    }

    fn handle_datagram<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let Some(link) = &mut self.link else {
            return Ok(Event::Nothing);
        };
        let datagram = &io.buffer(link.receive_buffer())[..n as usize];
        match &mut self.state {
            State::GreetingDatagrams { handshake, .. } => {
                handshake.handle_datagram(datagram, now);
                self.step_control(io, now, spec)
            }
            State::Fetching { fetch, .. } => {
                fetch.handle_datagram(datagram, now);
                self.step_control(io, now, spec)
            }
            State::Awaiting | State::Idle => {
                let reply =
                    DataHeader::decode(datagram).filter(|h| h.reply && h.session == self.session);
                let residence = datagram::residence(datagram);
                match reply {
                    Some(header) if header.flags & (ENDED | NO_SESSION) != 0 => {
                        Ok(closed(Stage::Receive, self.to))
                    }
                    Some(header)
                        if header.sequence == self.sequence
                            && n == self.size
                            && self.operation.is_some() =>
                    {
                        self.state = State::Idle;
                        Ok(Event::Replied { residence })
                    }
                    reply => {
                        self.receive_datagram(io)?;
                        Ok(if reply.is_some() {
                            Event::Stale
                        } else {
                            Event::Nothing
                        })
                    }
                }
            }
            _ => Ok(Event::Nothing),
        }
    }

    /// What a fetched document was fetched for.
    fn handle_document<D: Driver>(
        &mut self,
        io: &mut D,
        fetched: FetchEvent,
    ) -> Result<Event, DriverError> {
        let State::Fetching { accept, .. } = &mut self.state else {
            return Ok(Event::Nothing);
        };
        let document = match fetched {
            FetchEvent::Done(document) => Some(document),
            FetchEvent::Failed(_) => None,
        };
        if let Some(mut accept) = accept.take() {
            // The environment is worth having, not worth failing for.
            accept.environment = document.and_then(|json| serde_json::from_slice(&json).ok());
            self.state = State::Idle;
            return Ok(Event::Accepted(accept));
        }
        self.state = State::Closing;
        if let Some(link) = &mut self.link {
            link.close(io)?;
        }
        let figures = document.and_then(|json| serde_json::from_slice(&json).ok());
        Ok(figures.map_or(Event::Nothing, |figures| Event::Figures(Box::new(figures))))
    }

    /// Deadlines and retransmissions.
    pub(super) fn handle_timers<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let timed_out = |stage| Event::Failed {
            stage,
            cause: "timeout",
            error: Some(Box::new(
                Error::peer(format!(
                    "{} does not answer within {}",
                    spec.to, spec.timeout
                ))
                .remedy("check the address, the route and the firewall, or raise --timeout"),
            )),
        };
        match &mut self.state {
            State::Connecting { since } if now.since(*since) >= spec.timeout => {
                Ok(timed_out(Stage::Connect))
            }
            State::Greeting {
                handshake,
                deadline,
            } if now >= *deadline => {
                handshake.handle_timeout();
                self.step_control(io, now, spec)
            }
            State::GreetingDatagrams { handshake, .. } => {
                handshake.handle_timeout(now);
                self.step_control(io, now, spec)
            }
            State::Fetching { fetch, .. } => {
                fetch.handle_timeout(now);
                self.step_control(io, now, spec)
            }
            State::Reporting { deadline, .. } if now >= *deadline => Ok(timed_out(Stage::Close)),
            State::Awaiting => match &self.operation {
                Some(operation) if now.since(operation.sent_at) >= spec.timeout => {
                    let mut event = timed_out(Stage::Receive);
                    if spec.transport == Transport::Udp
                        && let Event::Failed { error, .. } = &mut event
                    {
                        *error = None;
                    }
                    Ok(event)
                }
                _ => Ok(Event::Nothing),
            },
            _ => Ok(Event::Nothing),
        }
    }
}

fn closed(stage: Stage, to: SocketAddr) -> Event {
    let error = Error::peer(format!(
        "{to} closed the connection: the server has died or was ended"
    ))
    .remedy("look at the server's log, and start it again");
    Event::Failed {
        stage,
        cause: "closed",
        error: Some(Box::new(error)),
    }
}

fn handshake_failed(stage: Stage, error: HandshakeError, to: SocketAddr) -> Event {
    let cause = error.cause();
    Event::Failed {
        stage,
        cause,
        error: Some(Box::new(error.into_error(to))),
    }
}

/// A position in a message, which is at most `MESSAGE_MAX` long.
fn bytes(n: usize) -> u32 {
    u32::try_from(n).expect("bounded by MESSAGE_MAX")
}
