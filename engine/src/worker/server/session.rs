//! One session: from its acceptance to its figures.

use super::{SessionLimits, is_departure};
use crate::histogram::Distribution;
use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::driver::{Driver, DriverError, Outcome, SocketId};
use crate::limits::{CONTROL_DATAGRAM, MESSAGE_MAX};
use crate::proto::datagram::{
    self, DataHeader, Document, Fetch, FrontAction, UdpServerFront, serve_document,
};
use crate::proto::hello::{Accept, Figures, Hello};
use crate::proto::ping_pong::{self, Progress};
use crate::result::{CpuUse, ErrorCount, Instrument};
use crate::run::plan::{Transport, WaitMode};
use crate::units::{Instant, Nanos};
use crate::worker::link::{Link, Purpose};

/// After its figures were fetched, a datagram session stays this long for a repeated question.
const LINGER: Nanos = Nanos::from_secs(1);

/// Control datagrams that wait to be sent: as many as a client asks for at once.
const ANSWERS_MAX: usize = 16;

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

/// What a client asks for, and from where.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) hello: Box<Hello>,
    pub(super) transport: Transport,
    pub(super) peer: Option<SocketAddr>,
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
    size: u32,
    peer: Option<SocketAddr>,
    /// Of the present request.
    request: Progress,
    /// Of the present reply; nothing remains of it between replies.
    reply: Progress,
    received_at: Instant,
    measured: bool,
    completed: u64,
    received_bytes: u64,
    sent_bytes: u64,
    residence: Option<Box<Distribution>>,
    errors: Vec<ErrorCount>,
    figures: Option<Vec<u8>>,
    /// UDP: parts of the figures that were asked for.
    fetches: Vec<Fetch>,
    answers: VecDeque<Vec<u8>>,
    finished_at: Option<Instant>,
}

impl<P> Session<P> {
    pub(super) fn new<D: Driver>(
        io: &mut D,
        slot: u32,
        socket: SocketId,
        arrival: Offer,
        accept: Accept,
        permit: P,
        now: Instant,
    ) -> Result<Self, DriverError> {
        let Offer {
            hello,
            transport,
            peer,
        } = arrival;
        let size = u32::try_from(hello.size_bytes)
            .unwrap_or(MESSAGE_MAX)
            .min(MESSAGE_MAX);
        let (receive_bytes, send_bytes) = match transport {
            // One more than a request: a longer one shows.
            Transport::Tcp => (size as usize + 1, size as usize),
            Transport::Udp => {
                let bytes = (size as usize).max(CONTROL_DATAGRAM);
                // One more than the largest that is legal: a longer one shows.
                (bytes + 1, bytes)
            }
        };
        let carries_residence = match transport {
            Transport::Tcp => size as usize >= ping_pong::RESIDENCE_LEN,
            Transport::Udp => size as usize >= datagram::RESIDENCE_END,
        };
        let residence = (!carries_residence && !hello.brief).then(Box::default);
        let mut reply = Progress::new(size as usize);
        reply.handle_sent(size as usize);
        Ok(Self {
            link: Link::new(io, slot, socket, receive_bytes, send_bytes)?,
            transport,
            size,
            peer,
            request: Progress::new(size as usize),
            reply,
            hello,
            accept,
            _permit: permit,
            stage: Stage::Exchanging,
            since: now,
            active_at: now,
            received_at: now,
            measured: false,
            completed: 0,
            received_bytes: 0,
            sent_bytes: 0,
            residence,
            errors: Vec::new(),
            figures: None,
            fetches: Vec::new(),
            answers: VecDeque::new(),
            finished_at: None,
        })
    }

    pub(super) const fn is_brief(&self) -> bool {
        self.hello.brief
    }

    /// The last request belongs to the measured phase.
    pub(super) const fn is_measured(&self) -> bool {
        self.measured
    }

    /// It has begun to give its figures.
    pub(super) fn is_reporting(&self) -> bool {
        self.stage == Stage::Reporting || self.finished_at.is_some()
    }

    pub(super) const fn wait(&self) -> WaitMode {
        self.accept.wait
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
                self.link.receive(io, 0, self.size + 1)
            }
            Transport::Udp => {
                let answer = self.accept.encode_short();
                self.link.send_control(io, &answer)?;
                self.receive_datagram(io)
            }
        }
    }

    fn receive_datagram<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        #[expect(clippy::cast_possible_truncation, reason = "bounded by DATAGRAM_MAX")]
        let len = (self.size as usize).max(CONTROL_DATAGRAM) as u32 + 1;
        self.link.receive(io, 0, len)
    }

    pub(super) fn handle_completion<D: Driver>(
        &mut self,
        io: &mut D,
        purpose: Purpose,
        outcome: &Outcome,
        now: Instant,
        front: &UdpServerFront,
    ) -> Result<Want, DriverError> {
        self.link.handle_completed(purpose);
        if self.link.is_closing() {
            return Ok(Want::Nothing);
        }
        match (purpose, outcome) {
            (Purpose::Receive, Outcome::Received(n)) => match self.transport {
                Transport::Tcp => self.handle_stream(io, *n, now),
                Transport::Udp => self.handle_datagram(io, *n, now, front),
            },
            (Purpose::Send, Outcome::Sent(n)) => self.handle_sent(io, *n),
            (Purpose::SendControl, Outcome::Sent(n)) => {
                let gone = self.link.handle_control_sent(io, *n)?;
                if gone && let Some(next) = self.answers.pop_front() {
                    self.link.send_control(io, &next)?;
                }
                Ok(match self.stage {
                    Stage::Reporting if gone && self.transport == Transport::Tcp => Want::Close,
                    _ => Want::Nothing,
                })
            }
            (Purpose::SendControl | Purpose::Send | Purpose::Receive, outcome) => {
                if let Outcome::Failed(error) = outcome
                    && !is_departure(outcome)
                {
                    let phase = if purpose == Purpose::Receive {
                        "receive"
                    } else {
                        "send"
                    };
                    self.count_error(phase, error.name());
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
            if self.request.remaining().start > 0 {
                self.count_error("receive", "short-request");
            }
            self.stage = Stage::Reporting;
            return Ok(Want::Report);
        }
        self.received_bytes += u64::from(n);
        match self.request.handle_request(n as usize) {
            Ok(true) => {
                self.request.restart();
                self.measured = ping_pong::is_measured(io.buffer(self.link.receive_buffer()));
                Ok(self.handle_request(now))
            }
            Ok(false) => {
                let rest = self.request.receive_range();
                self.link
                    .receive(io, bytes(rest.start), bytes(rest.len()))?;
                Ok(Want::Nothing)
            }
            Err(_) => Ok(Want::Close),
        }
    }

    fn count_error(&mut self, phase: &str, cause: &str) {
        let (phase, cause) = (phase.to_owned(), cause.to_owned());
        self.errors.push(ErrorCount {
            phase,
            cause,
            count: 1,
        });
    }

    /// A request is whole.
    fn handle_request(&mut self, now: Instant) -> Want {
        self.active_at = now;
        self.received_at = now;
        let delay = Nanos(self.hello.server_delay_ns);
        Want::Reply {
            at: (delay > Nanos::ZERO).then(|| now + delay),
        }
    }

    /// Sends the reply; `now` is the instant of its submission.
    pub(super) fn reply<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        if self.link.is_closing() {
            return Ok(());
        }
        let residence = now.since(self.received_at);
        if self.measured
            && let Some(histogram) = &mut self.residence
        {
            histogram.record(residence);
        }
        let size = self.size;
        let reply = io.buffer_mut(self.link.send_buffer());
        match self.transport {
            Transport::Tcp => ping_pong::put_residence(&mut reply[..size as usize], residence),
            Transport::Udp => datagram::put_residence(&mut reply[..size as usize], residence),
        }
        self.reply.restart();
        self.link.send(io, 0, size)
    }

    fn handle_sent<D: Driver>(&mut self, io: &mut D, n: u32) -> Result<Want, DriverError> {
        self.sent_bytes += u64::from(n);
        if !self.reply.handle_sent(n as usize) {
            let rest = self.reply.remaining();
            self.link.send(io, bytes(rest.start), bytes(rest.len()))?;
            return Ok(Want::Nothing);
        }
        self.completed += 1;
        if self.hello.connect_each && self.transport == Transport::Tcp {
            // The server ends first, so that TIME_WAIT stays here and not with the client's ports.
            self.stage = Stage::Reporting;
            return Ok(Want::Report);
        }
        // Not at the side of the reply: it would delay that, and the next request cannot be there yet.
        match self.transport {
            Transport::Tcp => self.link.receive(io, 0, self.size + 1)?,
            Transport::Udp => self.receive_datagram(io)?,
        }
        Ok(Want::Nothing)
    }

    fn handle_datagram<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        front: &UdpServerFront,
    ) -> Result<Want, DriverError> {
        self.received_bytes += u64::from(n);
        let datagram = &io.buffer(self.link.receive_buffer())[..n as usize];
        let Some(peer) = self.peer else {
            return Ok(Want::Close);
        };
        match front.handle_datagram(datagram, peer, now) {
            FrontAction::Data(header) if self.is_answerable(&header, n) => {
                let reply = DataHeader {
                    reply: true,
                    ..header
                };
                reply.encode_into(io.buffer_mut(self.link.send_buffer()));
                self.measured = header.flags & datagram::MEASURED != 0;
                return Ok(self.handle_request(now));
            }
            // The accept was lost: the same again.
            FrontAction::Session(_) => {
                let answer = self.accept.encode_short();
                self.answer(io, &answer)?;
            }
            FrontAction::Reply(answer) => self.answer(io, &answer)?,
            FrontAction::Fetch(fetch) if Some(fetch.session) == self.accept.session => {
                self.active_at = now;
                match fetch.document {
                    Document::Environment => {
                        let document = serde_json::to_vec(&self.accept.environment);
                        if let Some(chunk) = serve_document(&fetch, &document.unwrap_or_default()) {
                            self.answer(io, &chunk)?;
                        }
                    }
                    Document::Figures => {
                        self.finished_at.get_or_insert(now);
                        self.fetches.push(fetch);
                        return Ok(Want::Report);
                    }
                }
            }
            _ => {}
        }
        self.receive_datagram(io)?;
        Ok(Want::Nothing)
    }

    /// A request of this session, of the agreed size.
    fn is_answerable(&self, header: &DataHeader, n: u32) -> bool {
        Some(header.session) == self.accept.session && n == self.size
    }

    /// Sends a control datagram, behind those on their way. Beyond a bound it is lost, and asked for again.
    fn answer<D: Driver>(&mut self, io: &mut D, datagram: &[u8]) -> Result<(), DriverError> {
        if self.link.is_sending_control() {
            if self.answers.len() < ANSWERS_MAX {
                self.answers.push_back(datagram.to_vec());
            }
            return Ok(());
        }
        self.link.send_control(io, datagram)
    }

    /// Sends the figures: over TCP as a frame, over UDP the part that was asked for.
    pub(super) fn report<D: Driver>(
        &mut self,
        io: &mut D,
        meter: Option<(Instrument, CpuUse)>,
    ) -> Result<Want, DriverError> {
        match self.transport {
            Transport::Tcp => {
                if self.link.is_sending_control() {
                    return Ok(Want::Close);
                }
                let frame = self.make_figures(meter).encode();
                self.link.send_control(io, &frame)?;
            }
            Transport::Udp => {
                if self.figures.is_none() {
                    let figures = self.make_figures(meter);
                    self.figures = Some(serde_json::to_vec(&figures).unwrap_or_default());
                }
                let document = self.figures.as_deref().unwrap_or_default();
                if let Some(chunk) = self
                    .fetches
                    .pop()
                    .and_then(|f| serve_document(&f, document))
                {
                    self.answer(io, &chunk)?;
                }
                self.receive_datagram(io)?;
            }
        }
        Ok(Want::Nothing)
    }

    fn make_figures(&mut self, meter: Option<(Instrument, CpuUse)>) -> Figures {
        let (mut instrument, cpu) = meter.unwrap_or_default();
        if !self.hello.brief {
            instrument.backend.clone_from(&self.accept.backend);
            instrument
                .backend_reason
                .clone_from(&self.accept.backend_reason);
            self.accept.wait.name().clone_into(&mut instrument.wait);
            instrument.wait_reason.clone_from(&self.accept.wait_reason);
        }
        Figures {
            operations: self.completed,
            received_bytes: self.received_bytes,
            sent_bytes: self.sent_bytes,
            residence_count: self.residence.as_ref().map_or(0, |r| r.count()),
            residence_hdr: self.residence.take().map(|r| r.encode()),
            instrument,
            cpu,
            errors: std::mem::take(&mut self.errors),
            cut_short: None,
        }
    }

    pub(super) fn close<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        self.link.close(io)
    }

    pub(super) fn free<D: Driver>(self, io: &mut D) {
        self.link.free(io);
    }
}

/// A position in a message, which is at most `MESSAGE_MAX` long.
fn bytes(n: usize) -> u32 {
    u32::try_from(n).expect("bounded by MESSAGE_MAX")
}
