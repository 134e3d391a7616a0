//! One connection of a client and all that is said on it beside the measured exchange: connect, hello and
//! handshake, then the figures and the close.
//!
//! The owner, a test's client, holds the exchange. Its turn begins with [`News::Accepted`]; from then on it sends and
//! receives over [`ClientSession::link_mut`], one send and one receive at a time, and gets their completions as
//! [`SessionEvent::Sent`] and [`SessionEvent::Received`]. What the bytes mean is its business, with one exception: where they are the
//! server's word on the session, it hands them back ([`ClientSession::handle_early_figures`],
//! [`ClientSession::handle_flags`]). Its turn ends with [`ClientSession::end`] or [`ClientSession::give_up`].
//!
//! Here is what both transports share; what they do differently is in `stream` and `datagram`. Methods come in
//! three sorts: getters, `handle_*` (something happened; the answer is [`SessionEvent`] or [`News`]), and commands.

mod blame;
mod datagram;
mod greeting;
mod spec;
mod stream;
#[cfg(test)]
mod tests;

use crate::worker::errors::Stage;
use crate::worker::link::{Link, Purpose};
use tare_driver::{Completion, Driver, DriverError, OpError, Outcome, SocketId};
use tare_proto::datagram::{DocumentFetch, UdpClientHandshake};
use tare_proto::handshake::{ClientHandshake, FiguresReader};
use tare_proto::hello::{Accept, Transport};
use tare_units::Instant;
use tare_units::limits::CONTROL_DATAGRAM;
use tare_units::text::Id;

pub use spec::{BufferSizes, DialogueSpec, Failure, News, SessionEvent};

/// Bytes received at a time while control frames are awaited.
const CONTROL_READ: u32 = 16 << 10;

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
pub struct ClientSession {
    index: u32,
    buffers: BufferSizes,
    link: Option<Link>,
    state: State,
    /// Hello without environment, figures without histogram: a connection of one operation.
    brief: bool,
    /// UDP: the server has ended the session.
    ended: bool,
    session: Id,
    /// Sessions asked for over UDP, so that each has a nonce of its own.
    asked: u64,
    /// Bytes of payload that preceded the figures, not told to the owner yet.
    skipped: u64,
}

impl ClientSession {
    /// A dialogue without a socket. `index` is that of its slot: the tokens of its operations carry it.
    #[must_use]
    pub const fn new(index: u32, buffers: BufferSizes) -> Self {
        Self {
            index,
            buffers,
            link: None,
            state: State::Vacant,
            brief: false,
            ended: false,
            session: Id(0),
            asked: 0,
            skipped: 0,
        }
    }

    /// It was given up, or its socket could not be opened. [`Self::prepare`] begins anew.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead)
    }

    /// There is no socket, and nothing is outstanding.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        matches!(self.state, State::Vacant | State::Dead)
            && self.link.as_ref().is_none_or(Link::is_quiet)
    }

    /// There is a session, and the exchange is the owner's.
    #[inline]
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// It is a connection of one operation.
    #[must_use]
    pub const fn is_brief(&self) -> bool {
        self.brief
    }

    /// It is a connection of one operation whose request goes out behind the hello at once: the owner's turn begins with
    /// [`News::Connected`], and it sends both.
    #[inline]
    #[must_use]
    pub const fn is_one_go(&self, spec: &DialogueSpec) -> bool {
        self.brief && spec.hello.request_follows
    }

    /// The session that the datagrams of the exchange carry; UDP only.
    #[inline]
    #[must_use]
    pub const fn session(&self) -> Id {
        self.session
    }

    /// The link, while the dialogue is open.
    #[inline]
    #[must_use]
    pub const fn link(&self) -> Option<&Link> {
        match (&self.state, &self.link) {
            (State::Open, Some(link)) => Some(link),
            _ => None,
        }
    }

    /// The link, while the dialogue is open: the owner sends and receives over it.
    #[inline]
    #[must_use]
    pub const fn link_mut(&mut self) -> Option<&mut Link> {
        match (&self.state, &mut self.link) {
            (State::Open, Some(link)) => Some(link),
            _ => None,
        }
    }

    /// The socket, from [`Self::prepare`] until its close is asked for.
    #[must_use]
    pub fn socket(&self) -> Option<SocketId> {
        let link = self.link.as_ref().filter(|link| !link.is_closing())?;
        Some(link.socket())
    }

    /// The bytes of payload that have preceded the figures since the last call; none unless they are skipped.
    pub const fn take_skipped(&mut self) -> u64 {
        std::mem::replace(&mut self.skipped, 0)
    }

    /// Opens a socket, to be connected later, so that a connect takes nothing but the connect. Everything of the old
    /// one must have completed ([`Self::is_quiet`]).
    ///
    /// # Errors
    /// When no socket or no buffer can be had; the dialogue is dead then.
    pub fn prepare<D: Driver>(&mut self, io: &mut D, spec: &DialogueSpec) -> Result<(), Failure> {
        self.state = State::Dead;
        let refuse = |error: OpError| {
            Failure::new(
                Stage::Connect,
                error.name(),
                Some(blame::cannot_open(error, &spec.socket)),
            )
        };
        let socket = io.open(&spec.socket).map_err(refuse)?;
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

    /// Connects; `now` is the instant of its submission. `brief`: for one operation, after which the server closes.
    ///
    /// # Errors
    /// What ends the driver.
    pub fn connect<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &DialogueSpec,
        brief: bool,
    ) -> Result<(), DriverError> {
        self.brief = brief;
        self.ended = false;
        self.skipped = 0;
        self.state = State::Connecting { since: now };
        self.link.as_mut().map_or(Ok(()), |link| link.connect(io, spec.to))
    }

    /// Ends the session: asks for the figures, then closes. What is not open yet is given up; what is ending
    /// already is left to it.
    ///
    /// The owner's sends must be through: over TCP what follows is the end of the stream. A receive may be
    /// outstanding, if it is one into the beginning of the buffer. With `skips_payload` the server may still be
    /// sending over TCP: bytes with their top bit set, which a frame does not begin with, are dropped and
    /// counted ([`Self::take_skipped`]) until the figures begin.
    ///
    /// # Errors
    /// What ends the driver.
    pub fn end<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &DialogueSpec,
        skips_payload: bool,
    ) -> Result<(), DriverError> {
        match self.state {
            State::Vacant | State::Dead | State::Closing | State::Reporting { .. } => Ok(()),
            State::Open => match spec.transport() {
                Transport::Tcp => self.end_stream(io, now, spec, skips_payload),
                Transport::Udp => self.end_datagrams(io, now, spec),
            },
            _ => self.give_up(io),
        }
    }

    /// Waits for the figures until `deadline` and not, as after [`Self::end`], for the timeout: what the owner sent may
    /// take longer to arrive. TCP only; over UDP they are asked for again and again until nothing comes for the timeout.
    pub const fn extend(&mut self, until: Instant) {
        if let State::Reporting { deadline, .. } = &mut self.state {
            *deadline = until;
        }
    }

    /// Closes at once, whatever is under way.
    ///
    /// # Errors
    /// What ends the driver.
    pub fn give_up<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
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

    /// The far end did not answer within the timeout; why not, where TCP can tell.
    #[must_use]
    pub fn silence<D: Driver>(&self, io: &D, stage: Stage, spec: &DialogueSpec) -> Failure {
        let info = self.socket().and_then(|socket| io.tcp_info(socket));
        match info.and_then(|info| blame::black_hole(spec, &info)) {
            Some(error) => Failure::new(stage, Failure::TIMEOUT, Some(error)),
            None => Failure::silence(stage, spec),
        }
    }

    /// An operation of this slot has completed.
    ///
    /// # Errors
    /// What ends the driver.
    #[inline]
    pub fn handle_completion<D: Driver>(
        &mut self,
        io: &mut D,
        purpose: Purpose,
        completion: &Completion,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<SessionEvent, DriverError> {
        let Some(link) = &mut self.link else {
            return Ok(SessionEvent::News(News::Nothing));
        };
        let outcome = &completion.outcome;
        link.handle(purpose, outcome, completion.more);
        match (purpose, outcome) {
            (Purpose::Receive, Outcome::Received(n))
                if self.is_open() && (*n > 0 || spec.transport() == Transport::Udp) =>
            {
                Ok(SessionEvent::Received { len: *n })
            }
            (Purpose::Send, Outcome::Sent(n)) if !self.is_over() => {
                Ok(SessionEvent::Sent { len: *n })
            }
            (Purpose::Send, &Outcome::SentRepeated { sends, bytes }) if !self.is_over() => {
                Ok(SessionEvent::SentRepeated { sends, bytes })
            }
            (Purpose::Send, &Outcome::Released { copied }) if !self.is_over() => {
                Ok(SessionEvent::Released { copied })
            }
            _ => self.handle_own(io, purpose, outcome, now, spec).map(SessionEvent::News),
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
        spec: &DialogueSpec,
    ) -> Result<News, DriverError> {
        match (purpose, outcome) {
            (Purpose::Close, _) => {
                if matches!(self.state, State::Closing) {
                    self.state = State::Vacant;
                    return Ok(News::Over);
                }
                Ok(News::Nothing)
            }
            _ if self.is_over() => Ok(News::Nothing),
            (Purpose::Connect, Outcome::Connected) => self.handle_connected(io, now, spec),
            (Purpose::SendControl, Outcome::Sent(n)) => {
                let is_gone = match &mut self.link {
                    Some(link) => link.handle_control_sent(io, *n)?,
                    None => false,
                };
                if is_gone {
                    return self.step_control(io, now, spec);
                }
                Ok(News::Nothing)
            }
            (Purpose::Receive, Outcome::Received(n)) => match spec.transport() {
                Transport::Tcp => self.handle_bytes(io, *n, now, spec),
                Transport::Udp => self.handle_datagram(io, *n, now, spec),
            },
            (purpose, Outcome::Failed(error)) => Ok(self.handle_failed(purpose, *error, spec)),
            _ => Ok(News::Nothing),
        }
    }

    fn handle_failed(&self, purpose: Purpose, error: OpError, spec: &DialogueSpec) -> News {
        let stage = match (&self.state, purpose) {
            // The server has ended the session, so what was under way to it fails. Its figures say why.
            (State::Reporting { early: true, .. }, Purpose::Send) => return News::Nothing,
            (State::Connecting { .. }, _) => Stage::Connect,
            (State::Greeting { .. } | State::GreetingDatagrams { .. }, _) => Stage::Handshake,
            (State::Reporting { .. }, _) => Stage::Close,
            (_, Purpose::Send) => Stage::Send,
            _ => Stage::Receive,
        };
        let error_in_words = blame::operation(spec.to, spec.socket.local, stage, error);
        News::failed(stage, error.name(), Some(error_in_words))
    }

    /// Deadlines and retransmissions.
    ///
    /// # Errors
    /// What ends the driver.
    pub fn handle_timers<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &DialogueSpec,
    ) -> Result<News, DriverError> {
        let stage = match &mut self.state {
            State::Connecting { since } if now.since(*since) >= spec.timeout => Stage::Connect,
            State::Greeting { handshake, deadline } if now >= *deadline => {
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
            _ => return Ok(News::Nothing),
        };
        Ok(News::Failed(self.silence(io, stage, spec)))
    }
}
