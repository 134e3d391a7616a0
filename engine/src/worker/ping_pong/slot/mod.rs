//! One connection of the client: connect, hello, one operation after the other, figures, close.
//!
//! Here is what both transports share; what they do differently is in `stream` and `datagram`. Methods come in
//! three sorts: getters, `handle_*` (something happened; the answer is an [`Event`]), and commands.

mod blame;
mod datagram;
mod stream;

use super::ClientSpec;
use super::tally::Stage;
use crate::driver::{Driver, DriverError, OpError, Outcome, SocketSpec};
use crate::error::Error;
use crate::histogram::Sample;
use crate::limits::CONTROL_DATAGRAM;
use crate::proto::datagram::{DocumentFetch, UdpClientHandshake};
use crate::proto::handshake::{ClientEvent, ClientHandshake, FiguresReader};
use crate::proto::hello::{Accept, Figures, Transport};
use crate::proto::ping_pong::Progress;
use crate::proto::text::Id;
use crate::units::{Instant, Nanos};
use crate::worker::link::{Link, Purpose};

/// Bytes received at a time while control frames are awaited.
const CONTROL_READ: u32 = 16 << 10;

/// An operation that was sent, or whose connection is being opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    /// When it was meant to be sent; open loop only.
    due: Option<Instant>,
    /// When it was begun: the request sent, or with a connection per operation the connect.
    begun_at: Instant,
    /// When the request was sent; until then, when it was begun.
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
            lateness: self.due.map(|due| self.begun_at.since(due)),
            residence: None,
        }
    }

    /// The time since it was begun.
    pub(super) const fn since_begun(&self, now: Instant) -> Nanos {
        now.since(self.begun_at)
    }
}

/// Something went wrong.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) stage: Stage,
    pub(super) cause: &'static str,
    /// In words fit for the user; absent where the count says all.
    pub(super) error: Option<Box<Error>>,
}

/// What a slot tells the client role.
#[derive(Debug)]
pub(super) enum Event {
    Nothing,
    /// The connection stands; it took so long.
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
    /// The server has ended the session by itself.
    Ended {
        figures: Box<Figures>,
        failure: Failure,
    },
    /// The connection has ended as it should.
    Over,
    Failed(Failure),
}

impl Event {
    fn failed(stage: Stage, cause: &'static str, error: Option<Error>) -> Self {
        Self::Failed(Failure {
            stage,
            cause,
            error: error.map(Box::new),
        })
    }
}

#[derive(Debug)]
enum State {
    /// No socket.
    Vacant,
    /// A socket, not connected yet.
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
    Idle,
    /// An operation is under way.
    Awaiting,
    /// The figures are awaited. `early`: the server has ended the session by itself.
    Reporting {
        reader: Box<FiguresReader>,
        deadline: Instant,
        early: bool,
    },
    Closing,
    Dead,
}

/// One connection; see the [module](self).
#[derive(Debug)]
pub(super) struct Slot {
    index: u32,
    transport: Transport,
    link: Option<Link>,
    state: State,
    size: u32,
    operation: Option<Operation>,
    /// What the last connect took.
    connect: Nanos,
    request: Progress,
    reply: Progress,
    /// Hello without environment, figures without histogram: a connection of one operation.
    brief: bool,
    /// It was told to connect before the start.
    expected: bool,
    /// UDP: the server has ended the session.
    ended: bool,
    resting_until: Option<Instant>,
    session: Id,
    sequence: u64,
    /// Sessions asked for over UDP, so that each has a nonce of its own.
    asked: u64,
}

impl Slot {
    pub(super) fn new(index: u32, spec: &ClientSpec) -> Self {
        Self {
            index,
            transport: spec.transport,
            link: None,
            state: State::Vacant,
            size: spec.size_bytes,
            operation: None,
            connect: Nanos::ZERO,
            request: Progress::new(spec.size_bytes as usize),
            reply: Progress::new(spec.size_bytes as usize),
            brief: false,
            expected: false,
            ended: false,
            resting_until: None,
            session: Id(0),
            sequence: 0,
            asked: 0,
        }
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

    /// There is no socket, and nothing is outstanding.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.state, State::Vacant | State::Dead)
            && self.link.as_ref().is_none_or(Link::is_quiet)
    }

    /// It rested long enough after a failure.
    pub(super) fn has_rested(&self, now: Instant) -> bool {
        self.resting_until.is_some_and(|until| now >= until) && self.is_quiet()
    }

    /// The connect that follows is awaited before the start.
    pub(super) const fn expect_accept(&mut self) {
        self.expected = true;
    }

    /// It is not awaited any more. Returns whether it was.
    pub(super) const fn settle(&mut self) -> bool {
        std::mem::replace(&mut self.expected, false)
    }

    pub(super) const fn rest_until(&mut self, until: Instant) {
        self.resting_until = Some(until);
    }

    /// Begins an operation at `now`.
    pub(super) const fn start_operation(
        &mut self,
        now: Instant,
        due: Option<Instant>,
        measured: bool,
    ) {
        let connect = Nanos::ZERO;
        self.operation = Some(Operation {
            due,
            begun_at: now,
            sent_at: now,
            connect,
            measured,
        });
    }

    pub(super) const fn take_operation(&mut self) -> Option<Operation> {
        self.operation.take()
    }

    /// A datagram was lost: the slot is free for the next. Returns false where it cannot be: over TCP, where
    /// nothing is lost, and while the last datagram has not left yet.
    pub(super) fn forgive(&mut self) -> bool {
        let is_free = self.transport == Transport::Udp
            && matches!(self.state, State::Awaiting)
            && self.link.as_ref().is_some_and(|link| !link.is_sending());
        if is_free {
            self.state = State::Idle;
        }
        is_free
    }

    /// Opens a socket, to be connected later.
    pub(super) fn prepare<D: Driver>(
        &mut self,
        io: &mut D,
        spec: &ClientSpec,
    ) -> Result<(), OpError> {
        self.state = State::Dead;
        self.resting_until = None;
        let socket = io.open(&match spec.transport {
            Transport::Tcp => SocketSpec::stream_to(spec.to),
            Transport::Udp => SocketSpec::datagram_to(spec.to),
        })?;
        match &mut self.link {
            Some(link) => link.replace_socket(io, socket),
            None => {
                let size = spec.size_bytes as usize;
                let receive = (size + 1)
                    .max(CONTROL_READ as usize)
                    .max(CONTROL_DATAGRAM + 1);
                let send = size.max(CONTROL_DATAGRAM);
                let link = Link::new(io, self.index, socket, receive, send);
                self.link = Some(link.map_err(|_| OpError::NoMemory)?);
            }
        }
        self.state = State::Prepared;
        Ok(())
    }

    /// Connects; `now` is the instant of its submission.
    pub(super) fn connect<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
        brief: bool,
    ) -> Result<(), DriverError> {
        self.brief = brief;
        self.ended = false;
        self.state = State::Connecting { since: now };
        self.link
            .as_mut()
            .map_or(Ok(()), |link| link.connect(io, spec.to))
    }

    /// Sends the request of the present operation; `now` is the instant of its submission.
    pub(super) fn send<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<(), DriverError> {
        let Some(operation) = &mut self.operation else {
            return Ok(());
        };
        operation.sent_at = now;
        if spec.hello.connect_each {
            operation.connect = self.connect;
        }
        self.state = State::Awaiting;
        match spec.transport {
            Transport::Tcp => self.send_request(io),
            Transport::Udp => self.send_datagram(io),
        }
    }

    /// Ends the session: asks for the figures, then closes.
    pub(super) fn end<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<(), DriverError> {
        match self.state {
            State::Vacant | State::Dead | State::Closing | State::Reporting { .. } => Ok(()),
            State::Idle => match spec.transport {
                Transport::Tcp => self.end_stream(io, now, spec),
                Transport::Udp => self.end_datagrams(io, now, spec),
            },
            _ => self.give_up(io),
        }
    }

    /// The operation under way was taken away. Over TCP a reply may still come and would be out of step.
    pub(super) fn interrupt<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        if self.forgive() {
            Ok(())
        } else {
            self.give_up(io)
        }
    }

    /// Closes at once, whatever is under way.
    pub(super) fn give_up<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
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
                match spec.transport {
                    Transport::Tcp => self.handle_sent(io, *n)?,
                    Transport::Udp => self.receive_datagram(io)?,
                }
                Ok(Event::Nothing)
            }
            (Purpose::SendControl, Outcome::Sent(n)) => {
                if link.handle_control_sent(io, *n)? {
                    return self.step_control(io, now, spec);
                }
                Ok(Event::Nothing)
            }
            (Purpose::Receive, Outcome::Received(n)) => match spec.transport {
                Transport::Tcp => self.handle_bytes(io, *n, now, spec),
                Transport::Udp => self.handle_datagram(io, *n, now, spec),
            },
            (purpose, Outcome::Failed(error)) => Ok(self.handle_failed(purpose, *error, spec)),
            _ => Ok(Event::Nothing),
        }
    }

    fn handle_failed(&self, purpose: Purpose, error: OpError, spec: &ClientSpec) -> Event {
        let stage = match (&self.state, purpose) {
            (State::Connecting { .. }, _) => Stage::Connect,
            (State::Greeting { .. } | State::GreetingDatagrams { .. }, _) => Stage::Handshake,
            (State::Reporting { .. }, _) => Stage::Close,
            (_, Purpose::Send) => Stage::Send,
            _ => Stage::Receive,
        };
        Event::failed(
            stage,
            error.name(),
            Some(blame::operation(spec.to, stage, error)),
        )
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
        self.connect = now.since(since);
        let mut hello = spec.hello.clone();
        hello.brief = self.brief;
        match spec.transport {
            Transport::Tcp => {
                let handshake = Box::new(ClientHandshake::new(&hello, spec.secret.clone()));
                self.state = State::Greeting {
                    handshake,
                    deadline: now + spec.timeout,
                };
            }
            Transport::Udp => {
                self.asked += 1;
                let nonce = spec.nonce ^ (u64::from(self.index) << 32 | self.asked);
                let secret = spec.secret.clone();
                let handshake = UdpClientHandshake::new(&hello, nonce, secret, now, spec.timeout);
                self.state = State::GreetingDatagrams {
                    handshake: Box::new(handshake),
                };
            }
        }
        match self.step_control(io, now, spec)? {
            Event::Nothing => Ok(Event::Connected(self.connect)),
            failed => Ok(failed),
        }
    }

    /// Sends what a control exchange wants sent, asks for what it wants to hear, and tells what it has come to.
    fn step_control<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let Some(link) = &mut self.link else {
            return Ok(Event::Nothing);
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
                    Some(fetched) => self.handle_document(io, fetched, spec),
                    None => self.step_fetch(io).map(|()| Event::Nothing),
                };
            }
            _ => return Ok(Event::Nothing),
        };
        if let Some(frame) = frame {
            link.send_control(io, &frame)?;
        }
        match event {
            Some(ClientEvent::Accepted(accept)) => self.handle_accepted(io, accept, now, spec),
            Some(ClientEvent::Failed(error)) => {
                let cause = error.cause();
                Ok(Event::failed(
                    Stage::Handshake,
                    cause,
                    Some(error.into_error(spec.to)),
                ))
            }
            None => {
                match spec.transport {
                    Transport::Tcp if link.is_receiving() => {}
                    Transport::Tcp => link.receive(io, 0, CONTROL_READ)?,
                    Transport::Udp => self.receive_datagram(io)?,
                }
                Ok(Event::Nothing)
            }
        }
    }

    fn handle_accepted<D: Driver>(
        &mut self,
        io: &mut D,
        accept: Box<Accept>,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        self.session = accept.session.unwrap_or(Id(0));
        if spec.transport == Transport::Udp && !self.brief {
            self.fetch_environment(io, accept, now, spec)?;
            return Ok(Event::Nothing);
        }
        self.state = State::Idle;
        Ok(Event::Accepted(accept))
    }

    /// Deadlines and retransmissions.
    pub(super) fn handle_timers<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let stage = match &mut self.state {
            State::Connecting { since } if now.since(*since) >= spec.timeout => Stage::Connect,
            State::Greeting {
                handshake,
                deadline,
            } if now >= *deadline => {
                handshake.handle_timeout();
                return self.step_control(io, now, spec);
            }
            State::GreetingDatagrams { handshake } => {
                handshake.handle_timeout(now);
                return self.step_control(io, now, spec);
            }
            State::Fetching { fetch, .. } => {
                fetch.handle_timeout(now);
                return self.step_control(io, now, spec);
            }
            State::Reporting { deadline, .. } if now >= *deadline => Stage::Close,
            State::Awaiting
                if self
                    .operation
                    .is_some_and(|o| now.since(o.sent_at) >= spec.timeout) =>
            {
                Stage::Receive
            }
            _ => return Ok(Event::Nothing),
        };
        // Lost datagrams are counted, and many: no words for each.
        let in_words = spec.transport == Transport::Tcp || stage != Stage::Receive;
        Ok(Event::failed(
            stage,
            "timeout",
            in_words.then(|| blame::silence(spec.to, spec.timeout)),
        ))
    }
}
