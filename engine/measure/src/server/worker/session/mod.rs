//! One session: from its acceptance to its figures.

mod datagrams;
mod ending;
mod one_go;
mod streaming;

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::{Reading, Result, SessionLimits};
use crate::worker::link::{Link, Purpose};
use crate::worker::stream;
use tare_driver::{Completion, Driver, OpError, Outcome, SocketId};
use tare_proto::datagram;
use tare_proto::datagram::{Fetch, UdpServerFront};
use tare_proto::frame::HEADER_LEN;
use tare_proto::hello::{Accept, HELLO_BODY_MAX, Hello, Test, Transport};
use tare_proto::ping_pong;
use tare_proto::ping_pong::Progress;
use tare_stats::histogram::Distribution;
use tare_stats::result::ErrorCount;
use tare_units::limits::{CONTROL_DATAGRAM, MESSAGE_MAX};
use tare_units::{Instant, Nanos};

use one_go::OneGo;
use streaming::Streaming;

/// What a session takes beside its message buffers: its own state, a control frame; rounded up, bytes.
const OVERHEAD_BYTES: u64 = 4 << 10;
/// What its histogram takes, where it has one; rounded up, bytes.
const HISTOGRAM_BYTES: u64 = 280 << 10;

/// The memory that a session may come to hold, bytes.
pub(crate) fn memory_bytes(hello: &Hello, transport: Transport) -> u64 {
    let histogram = if wants_residence(hello, transport) {
        HISTOGRAM_BYTES
    } else if is_paced(hello) {
        2 * HISTOGRAM_BYTES
    } else {
        0
    };
    let state = if hello.test == Test::Stream { stream::state_bytes(hello) } else { 0 };
    let buffers =
        opening_bytes(hello) + receive_bytes(hello, transport) + send_bytes(hello, transport);
    (buffers + state) as u64 + histogram + OVERHEAD_BYTES
}

/// Whether the session sends on a schedule.
pub(super) fn is_paced(hello: &Hello) -> bool {
    hello.direction.is_down() && hello.stream.as_ref().is_some_and(|ask| ask.rate_bits_per_s > 0)
}

fn message_bytes(hello: &Hello) -> u32 {
    u32::try_from(hello.size_bytes).unwrap_or(MESSAGE_MAX).min(MESSAGE_MAX)
}

/// What may come at once, bytes.
fn receive_bytes(hello: &Hello, transport: Transport) -> usize {
    let size = message_bytes(hello) as usize;
    match transport {
        _ if hello.test == Test::Stream => stream::receive_bytes(transport),
        // One more than the largest that is legal: a longer one shows.
        Transport::Tcp => size + 1,
        Transport::Udp => size.max(CONTROL_DATAGRAM) + 1,
    }
}

/// What is received before a request, where that follows the hello at once, bytes.
const fn opening_bytes(hello: &Hello) -> usize {
    if hello.request_follows { HEADER_LEN + HELLO_BODY_MAX } else { 0 }
}

fn send_bytes(hello: &Hello, transport: Transport) -> usize {
    let size = message_bytes(hello) as usize;
    match (hello.test, transport) {
        (Test::Stream, _) if hello.direction.is_down() => stream::send_bytes(hello),
        (Test::Stream, _) => 0,
        (_, Transport::Tcp) => size,
        (_, Transport::Udp) => size.max(CONTROL_DATAGRAM),
    }
}

/// The replies are too short to carry their residence: it is told at the end, as a histogram.
fn wants_residence(hello: &Hello, transport: Transport) -> bool {
    let least = match transport {
        Transport::Tcp => ping_pong::RESIDENCE_LEN,
        Transport::Udp => datagram::RESIDENCE_END,
    };
    hello.test == Test::PingPong && !hello.brief && (message_bytes(hello) as usize) < least
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Nothing,
    /// [`Session::reply`] is to be called at the next submission, or at the instant.
    Reply {
        at: Option<Instant>,
    },
    /// [`Session::report`] is to be called.
    Report,
    /// The link is to be closed.
    Close,
    /// The connection is none of this session's: the front is to hear it.
    GiveBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Exchanging,
    /// TCP: the figures are on their way.
    Reporting,
    /// TCP: the figures are sent; what the client still sends is read until it closes, since closing over unread
    /// bytes would reset the connection, and the reset would overtake the figures.
    Draining,
}

#[derive(Debug)]
pub(super) struct Offer {
    pub(super) hello: Box<Hello>,
    pub(super) transport: Transport,
    pub(super) peer: Option<SocketAddr>,
    pub(super) nonce: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Session<P> {
    pub(super) link: Link,
    transport: Transport,
    pub(super) hello: Box<Hello>,
    pub(super) accept: Accept,
    /// Its drop tells the front that the session is over.
    _permit: P,
    stage: Stage,
    since: Instant,
    active_at: Instant,
    size: u32,
    /// What is received at a time, bytes.
    receive_len: u32,
    peer: Option<SocketAddr>,
    /// UDP: the client's number for the session.
    nonce: Option<u64>,
    /// Of the present request.
    request: Progress,
    /// Of the present reply; nothing remains of it between replies.
    reply: Progress,
    received_at: Instant,
    /// The last request belongs to the measured phase.
    pub(super) measured: bool,
    completed: u64,
    received_bytes: u64,
    sent_bytes: u64,
    residence: Option<Box<Distribution>>,
    streaming: Option<Box<Streaming>>,
    errors: Vec<ErrorCount>,
    figures: Option<Vec<u8>>,
    /// UDP: parts of the figures that were asked for.
    fetches: Vec<Fetch>,
    answers: VecDeque<Vec<u8>>,
    /// No more requests are answered from here on.
    ended_at: Option<Instant>,
    /// The figures were sent, or last asked for.
    told_at: Option<Instant>,
    /// TCP: the client's end of the stream has come.
    client_ended: bool,
    /// Why this end ended the session, where it did.
    cut_short: Option<String>,
    one_go: OneGo,
}

impl<P> Session<P> {
    pub(super) fn new(
        io: &mut impl Driver,
        slot: u32,
        socket: SocketId,
        offer: Offer,
        accept: Accept,
        permit: P,
        now: Instant,
    ) -> Result<Self> {
        let Offer { hello, transport, peer, nonce } = offer;
        let size = message_bytes(&hello);
        let receive = receive_bytes(&hello, transport);
        let session = accept.session.unwrap_or_default();
        let streaming =
            (hello.test == Test::Stream).then(|| Box::new(Streaming::new(&hello, session, now)));
        let mut reply = Progress::new(size as usize);
        reply.handle_sent(size as usize);
        let (most, send) = (opening_bytes(&hello) + receive, send_bytes(&hello, transport));
        Ok(Self {
            link: Link::new(io, slot, socket, most, send)?,
            transport,
            size,
            receive_len: bytes(receive),
            peer,
            nonce,
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
            residence: None,
            streaming,
            errors: Vec::new(),
            figures: None,
            fetches: Vec::new(),
            answers: VecDeque::new(),
            ended_at: None,
            told_at: None,
            client_ended: false,
            cut_short: None,
            one_go: OneGo::default(),
        })
    }

    pub(super) const fn is_ended(&self) -> bool {
        self.ended_at.is_some()
    }

    pub(super) const fn is_over(&self) -> bool {
        self.link.is_closing() && self.link.is_quiet()
    }

    /// Tells the client that it is accepted, and awaits its first request.
    pub(super) fn begin(&mut self, io: &mut impl Driver) -> Result {
        if let Err(refuse) = self.prepare_stream(io) {
            self.stage = Stage::Reporting;
            return self.link.send_control(io, &refuse.encode());
        }
        let accept = match self.transport {
            Transport::Tcp => self.accept.encode(),
            Transport::Udp => self.accept.encode_short(),
        };
        self.link.send_control(io, &accept)?;
        self.receive_next(io)
    }

    /// Receives what comes next, unless that is under way.
    fn receive_next(&mut self, io: &mut impl Driver) -> Result {
        if self.link.is_receiving() {
            return Ok(());
        }
        if let Some(streaming) = &mut self.streaming
            && let Some(receiver) = &mut streaming.receiver
            && self.stage == Stage::Exchanging
            && self.ended_at.is_none()
        {
            return receiver.receive(io, &mut self.link, self.active_at);
        }
        self.link.receive(io, 0, self.receive_len)
    }

    pub(super) fn handle_completion(
        &mut self,
        io: &mut impl Driver,
        purpose: Purpose,
        completion: &Completion,
        now: Instant,
        front: &UdpServerFront,
    ) -> Result<Want> {
        let outcome = &completion.outcome;
        self.link.handle(purpose, outcome, completion.more);
        if self.link.is_closing() {
            return Ok(Want::Nothing);
        }
        if self.one_go.is_opening() {
            return self.handle_opening(io, outcome, now);
        }
        let streams = self.streaming.is_some();
        match (purpose, outcome) {
            (Purpose::Receive, Outcome::Received(n)) => match self.transport {
                Transport::Tcp if *n == 0 => self.handle_end_of_stream(io, now),
                Transport::Tcp if streams => self.handle_payload(io, *n, now),
                Transport::Tcp => self.handle_bytes(io, *n, now),
                Transport::Udp if streams => self.handle_stream_datagrams(io, *n, now, front),
                Transport::Udp => self.handle_datagram(io, *n, now, front),
            },
            (Purpose::Send, Outcome::Sent(n)) if streams => {
                self.handle_stream_sent(io, 1, u64::from(*n), now)
            }
            (Purpose::Send, Outcome::Sent(n)) => self.handle_sent(io, *n, now),
            (Purpose::Send, Outcome::SentRepeated { sends, bytes }) => {
                self.handle_stream_sent(io, *sends, *bytes, now)
            }
            (Purpose::Send, Outcome::Released { copied }) => self.handle_released(io, *copied, now),
            (Purpose::SendControl, Outcome::Sent(n)) => {
                let want = self.handle_control_sent(io, *n, now)?;
                self.resume_stream(io, want, now)
            }
            (_, Outcome::Failed(error)) => self.handle_failure(io, purpose, *error, now),
            _ => Ok(Want::Nothing),
        }
    }

    fn handle_failure(
        &mut self,
        io: &mut impl Driver,
        purpose: Purpose,
        error: OpError,
        now: Instant,
    ) -> Result<Want> {
        let streams = self.streaming.is_some();
        let is_lost = self.transport == Transport::Udp && datagrams::is_loss(error);
        if streams && purpose == Purpose::Send {
            if is_lost {
                // The device's queue is full, or the path is away: where nothing is paced, the next datagram takes the
                // place of this one.
                self.count_error("send", error.name());
                return self.handle_stream_sent(io, 0, 0, now);
            }
            if self.handle_uncut(io, error) {
                return self.handle_stream_sent(io, 0, 0, now);
            }
        } else if is_lost && (!streams || purpose == Purpose::SendControl) {
            self.handle_loss(io, purpose, error)?;
            return self.resume_stream(io, Want::Nothing, now);
        }
        if !is_departure(error) {
            self.count_error(phase_of(purpose), error.name());
        }
        Ok(Want::Close)
    }

    fn handle_control_sent(&mut self, io: &mut impl Driver, n: u32, now: Instant) -> Result<Want> {
        if !self.link.handle_control_sent(io, n)? {
            return Ok(Want::Nothing);
        }
        if self.stage == Stage::Reporting {
            return self.handle_told(io, now);
        }
        if self.residence.is_none()
            && !self.is_ended()
            && wants_residence(&self.hello, self.transport)
        {
            // Not before the client has taken its accept: one that never reads costs no histogram.
            self.residence = Some(Box::new(Distribution::uncensored()));
        }
        self.answer_next(io)?;
        Ok(Want::Nothing)
    }

    fn handle_bytes(&mut self, io: &mut impl Driver, n: u32, now: Instant) -> Result<Want> {
        if self.stage != Stage::Exchanging {
            self.receive_next(io)?;
            return Ok(Want::Nothing);
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
                self.link.receive(io, bytes(rest.start), bytes(rest.len()))?;
                Ok(Want::Nothing)
            }
            Err(_) => Ok(Want::Close),
        }
    }

    fn count_error(&mut self, phase: &str, cause: &str) {
        let mut known = self.errors.iter_mut();
        if let Some(error) = known.find(|error| error.phase == phase && error.cause == cause) {
            error.count += 1;
            return;
        }
        self.errors.push(ErrorCount { phase: phase.to_owned(), cause: cause.to_owned(), count: 1 });
    }

    fn is_replying(&self) -> bool {
        !self.reply.remaining().is_empty()
    }

    fn handle_request(&mut self, now: Instant) -> Want {
        self.active_at = now;
        self.received_at = now;
        let delay = Nanos(self.hello.server_delay_ns);
        Want::Reply { at: (delay > Nanos::ZERO).then(|| now + delay) }
    }

    /// Sends the reply; `now` is the instant of its submission. Returns whether there was one to be sent.
    pub(super) fn reply(&mut self, io: &mut impl Driver, now: Instant) -> Result<bool> {
        if self.link.is_closing() || self.stage != Stage::Exchanging {
            return Ok(false);
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
        self.link.send(io, 0, size)?;
        Ok(true)
    }

    fn handle_sent(&mut self, io: &mut impl Driver, n: u32, now: Instant) -> Result<Want> {
        self.sent_bytes += u64::from(n);
        if !self.reply.handle_sent(n as usize) {
            let rest = self.reply.remaining();
            self.link.send(io, bytes(rest.start), bytes(rest.len()))?;
            return Ok(Want::Nothing);
        }
        self.completed += 1;
        if self.hello.request_follows && !self.is_ended() {
            // The end of the stream says all that its client has yet to hear.
            self.ended_at = Some(now);
            return Ok(Want::Close);
        }
        if self.transport == Transport::Tcp && (self.is_ended() || self.hello.connect_each) {
            // With a connection per operation the server ends first, so that TIME_WAIT stays here and not with
            // the client's ports.
            self.ended_at.get_or_insert(now);
            return Ok(Want::Report);
        }
        // Not at the side of the reply: it would delay that, and the next request cannot be there yet.
        self.receive_next(io)?;
        Ok(Want::Nothing)
    }

    /// It is closed by its deadlines, which is not left to the kernel where its client does not take what it is sent.
    pub(super) fn abandon(&self, io: &mut impl Driver, drops_all: bool) {
        if drops_all || self.link.is_sending() || self.link.is_sending_control() {
            self.link.drop_unsent(io);
        }
    }
}

/// Whether an error means that the client is simply gone.
const fn is_departure(error: OpError) -> bool {
    matches!(error, OpError::Reset | OpError::BrokenPipe | OpError::Refused | OpError::Canceled)
}

/// The phase in which an operation for that purpose fails, as results name it.
const fn phase_of(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Receive => "receive",
        _ => "send",
    }
}

/// A position in a message, which is at most `MESSAGE_MAX` long.
fn bytes(n: usize) -> u32 {
    u32::try_from(n).expect("bounded by MESSAGE_MAX")
}
