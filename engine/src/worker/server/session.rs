//! One session: from its acceptance to its figures.

use hdrhistogram::Histogram;

use super::{SessionLimits, is_departure, residence_histogram};
use crate::driver::{Driver, DriverError, Outcome, SocketId};
use crate::limits::CONTROL_DATAGRAM;
use crate::proto::datagram::{self, ServerDatagram};
use crate::proto::hello::{Accept, Figures, Hello};
use crate::proto::ping_pong;
use crate::result::{CpuUse, ErrorCount, Instrument};
use crate::run::plan::{Transport, WaitMode};
use crate::units::{Instant, Nanos};
use crate::worker::link::{Link, Purpose};

/// After its figures were fetched, a datagram session stays this long for a repeated question.
const LINGER: Nanos = Nanos::from_secs(1);

/// What a session wants of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Nothing.
    Nothing,
    /// [`Session::reply`] is to be called at the next submission, or at the instant.
    Reply { at: Option<Instant> },
    /// [`Session::report`] is to be called.
    Report,
    /// [`Session::close`] is to be called.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Answering requests.
    Exchanging,
    /// The figures are on their way.
    Reporting,
}

#[derive(Debug)]
pub(super) struct Session<P> {
    link: Link,
    transport: Transport,
    hello: Box<Hello>,
    accept: Accept,
    /// Its drop tells the front that the session is over.
    _permit: P,
    stage: Stage,
    since: Instant,
    active_at: Instant,
    /// Bytes of the present request that have come.
    received: u32,
    /// Bytes of the present reply that are gone; equal to the size between replies.
    sent: u32,
    received_at: Instant,
    /// A request came whole while the last reply was not yet reported as sent.
    waiting: bool,
    measured: bool,
    /// Length of the datagram being answered with a control datagram, or of the test datagram.
    completed: u64,
    received_bytes: u64,
    sent_bytes: u64,
    residence: Option<Histogram<u64>>,
    errors: Vec<ErrorCount>,
    figures: Option<Vec<u8>>,
    finished_at: Option<Instant>,
}

impl<P> Session<P> {
    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own, and there is one caller")]
    pub(super) fn new<D: Driver>(
        io: &mut D,
        slot: u32,
        socket: SocketId,
        transport: Transport,
        hello: Box<Hello>,
        accept: Accept,
        permit: P,
        now: Instant,
    ) -> Result<Self, DriverError> {
        let size = hello.size_bytes;
        let (receive_bytes, send_bytes) = match transport {
            Transport::Tcp => (size as usize, size as usize),
            Transport::Udp => {
                let bytes = (size as usize).max(CONTROL_DATAGRAM);
                // One more than the largest that is legal: a longer one shows.
                (bytes + 1, bytes)
            }
        };
        let carries_residence = match transport {
            Transport::Tcp => ping_pong::carries_residence(size),
            Transport::Udp => datagram::carries_residence(size),
        };
        let residence = (!carries_residence && !hello.brief).then(residence_histogram);
        Ok(Self {
            link: Link::new(io, slot, socket, receive_bytes, send_bytes)?,
            transport,
            sent: size,
            hello,
            accept,
            _permit: permit,
            stage: Stage::Exchanging,
            since: now,
            active_at: now,
            received: 0,
            received_at: now,
            waiting: false,
            measured: false,
            completed: 0,
            received_bytes: 0,
            sent_bytes: 0,
            residence,
            errors: Vec::new(),
            figures: None,
            finished_at: None,
        })
    }

    pub(super) const fn is_brief(&self) -> bool {
        self.hello.brief
    }

    pub(super) fn spins(&self) -> bool {
        self.accept.wait == WaitMode::Spin
    }

    pub(super) const fn is_over(&self) -> bool {
        self.link.is_closing() && self.link.is_quiet()
    }

    pub(super) fn is_expired(&self, now: Instant, limits: SessionLimits) -> bool {
        now.since(self.active_at) > limits.idle
            || now.since(self.since) > limits.duration
            || self.finished_at.is_some_and(|at| now.since(at) > LINGER)
    }

    /// Tells the client that it is accepted, and awaits its first request.
    pub(super) fn begin<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        match self.transport {
            Transport::Tcp => {
                let frame = self.accept.encode();
                self.link.send_control(io, &frame)?;
                self.link.receive(io, 0, self.hello.size_bytes)
            }
            Transport::Udp => {
                let answer = datagram::encode_accept(&self.accept);
                self.link.send_control(io, &answer)?;
                self.receive_datagram(io)
            }
        }
    }

    fn receive_datagram<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        #[expect(clippy::cast_possible_truncation, reason = "bounded by DATAGRAM_MAX")]
        let len = (self.hello.size_bytes as usize).max(CONTROL_DATAGRAM) as u32 + 1;
        self.link.receive(io, 0, len)
    }

    pub(super) fn handle_completion<D: Driver>(
        &mut self,
        io: &mut D,
        purpose: Purpose,
        outcome: &Outcome,
        now: Instant,
    ) -> Result<Want, DriverError> {
        self.link.handle_completed(purpose);
        if self.link.is_closing() {
            return Ok(Want::Nothing);
        }
        match (purpose, outcome) {
            (Purpose::Receive, Outcome::Received(n)) => match self.transport {
                Transport::Tcp => self.handle_stream(io, *n, now),
                Transport::Udp => self.handle_datagram(io, *n, now),
            },
            (Purpose::Send, Outcome::Sent(n)) => self.handle_sent(io, *n, now),
            (Purpose::SendControl, Outcome::Sent(n)) => {
                let gone = self.link.handle_control_sent(io, *n)?;
                Ok(match self.stage {
                    Stage::Reporting if gone && self.transport == Transport::Tcp => Want::Close,
                    _ => Want::Nothing,
                })
            }
            (Purpose::SendControl | Purpose::Send | Purpose::Receive, outcome) => {
                if let Outcome::Failed(error) = outcome
                    && !is_departure(outcome)
                {
                    let phase = if purpose == Purpose::Receive { "receive" } else { "send" };
                    let cause = error.name().to_owned();
                    self.errors.push(ErrorCount { phase: phase.to_owned(), cause, count: 1 });
                }
                Ok(Want::Close)
            }
            _ => Ok(Want::Nothing),
        }
    }

    fn handle_stream<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
    ) -> Result<Want, DriverError> {
        if n == 0 {
            if self.received > 0 {
                let phase = "receive".to_owned();
                self.errors.push(ErrorCount { phase, cause: "short-request".to_owned(), count: 1 });
            }
            self.stage = Stage::Reporting;
            return Ok(Want::Report);
        }
        self.received += n;
        self.received_bytes += u64::from(n);
        if self.received < self.hello.size_bytes {
            self.link.receive(io, self.received, self.hello.size_bytes - self.received)?;
            return Ok(Want::Nothing);
        }
        self.received = 0;
        self.measured = ping_pong::is_measured(io.buffer(self.link.receive_buffer()));
        Ok(self.handle_request(now))
    }

    /// A request is whole.
    fn handle_request(&mut self, now: Instant) -> Want {
        self.active_at = now;
        self.received_at = now;
        if self.sent < self.hello.size_bytes {
            self.waiting = true;
            return Want::Nothing;
        }
        let delay = self.hello.server_delay;
        Want::Reply { at: (delay > Nanos::ZERO).then(|| now + delay) }
    }

    /// Sends the reply; `now` is the instant of its submission.
    pub(super) fn reply<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        if self.link.is_closing() {
            return Ok(());
        }
        let residence = now.since(self.received_at);
        if self.measured
            && let Some(histogram) = &mut self.residence
        {
            histogram.saturating_record(residence.0);
        }
        let size = self.hello.size_bytes;
        let reply = io.buffer_mut(self.link.send_buffer());
        match self.transport {
            Transport::Tcp => ping_pong::write_reply(&mut reply[..size as usize], residence),
            Transport::Udp => datagram::write_residence(&mut reply[..size as usize], residence),
        }
        self.sent = 0;
        self.link.send(io, 0, size)?;
        match self.transport {
            Transport::Tcp => self.link.receive(io, 0, size),
            Transport::Udp => self.receive_datagram(io),
        }
    }

    fn handle_sent<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
    ) -> Result<Want, DriverError> {
        self.sent += n;
        self.sent_bytes += u64::from(n);
        let size = self.hello.size_bytes;
        if self.sent < size {
            self.link.send(io, self.sent, size - self.sent)?;
            return Ok(Want::Nothing);
        }
        self.completed += 1;
        if self.hello.connect_each && self.transport == Transport::Tcp {
            // The server ends first, so that TIME_WAIT stays here and not with the client's ports.
            self.stage = Stage::Reporting;
            return Ok(Want::Report);
        }
        if std::mem::take(&mut self.waiting) {
            return Ok(self.handle_request(now));
        }
        Ok(Want::Nothing)
    }

    fn handle_datagram<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
    ) -> Result<Want, DriverError> {
        self.received_bytes += u64::from(n);
        let bytes = &io.buffer(self.link.receive_buffer())[..n as usize];
        match datagram::decode_for_server(bytes, self.accept.session) {
            ServerDatagram::Request(header) if n == self.hello.size_bytes => {
                self.measured = header.measured;
                if self.sent == self.hello.size_bytes {
                    let send = self.link.send_buffer();
                    header.write_reply(io.buffer_mut(send));
                }
                return Ok(self.handle_request(now));
            }
            ServerDatagram::Hello if !self.link.is_sending_control() => {
                let answer = datagram::encode_accept(&self.accept);
                self.link.send_control(io, &answer)?;
            }
            ServerDatagram::Fetch(fetch) if !self.link.is_sending_control() => {
                self.active_at = now;
                if fetch.wants_figures() && self.figures.is_none() {
                    self.finished_at = Some(now);
                    // Answered when the client asks again: the figures are made in between.
                    self.receive_datagram(io)?;
                    return Ok(Want::Report);
                }
                let document = if fetch.wants_figures() {
                    self.figures.as_deref().unwrap_or_default()
                } else {
                    &self.accept.environment_document
                };
                if let Some(chunk) = fetch.answer(document, bytes.len()) {
                    self.link.send_control(io, &chunk)?;
                }
            }
            _ => {}
        }
        self.receive_datagram(io)?;
        Ok(Want::Nothing)
    }

    /// Sends the figures: over TCP at once, over UDP when fetched.
    pub(super) fn report<D: Driver>(
        &mut self,
        io: &mut D,
        meter: Option<(Instrument, CpuUse)>,
    ) -> Result<Want, DriverError> {
        let (mut instrument, cpu) = meter.unzip();
        if let Some(instrument) = &mut instrument {
            instrument.backend = self.accept.backend.clone();
            instrument.backend_reason.clone_from(&self.accept.backend_reason);
            instrument.wait = self.accept.wait.name().to_owned();
            instrument.wait_reason.clone_from(&self.accept.wait_reason);
        }
        let figures = Figures {
            completed: self.completed,
            received_bytes: self.received_bytes,
            sent_bytes: self.sent_bytes,
            residence: self.residence.take(),
            instrument,
            cpu,
            errors: std::mem::take(&mut self.errors),
        };
        match self.transport {
            Transport::Tcp => {
                let frame = figures.encode();
                if self.link.is_sending_control() {
                    return Ok(Want::Close);
                }
                self.link.send_control(io, &frame)?;
            }
            Transport::Udp => self.figures = Some(figures.document()),
        }
        Ok(Want::Nothing)
    }

    pub(super) fn close<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        self.link.close(io)
    }

    pub(super) fn free<D: Driver>(self, io: &mut D) {
        self.link.free(io);
    }
}
