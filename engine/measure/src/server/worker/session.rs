//! One session: from its acceptance to its figures.
//!
//! A session answers requests (ping-pong) or streams, over TCP or over UDP. A session of one
//! operation whose request follows right behind its hello takes both at once and sends the bare
//! reply. While its worker has the listener, such a session is kept when its connection is over,
//! and takes the next connection whose first bytes are the same hello, byte for byte. So no
//! connection costs an admission, an allocation or a look at JSON; every other one is given back to
//! the front with what was read of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use super::{Result, SessionLimits};
use crate::worker::link::{Link, Purpose};
use crate::worker::stream::{self, Receiver, Sender, set_options};
use tare_driver::{Completion, Driver, OpError, Outcome, SocketId};
use tare_proto::datagram::{
    self, DataHeader, Document, ENDED, Fetch, FrontAction, UdpServerFront, serve_document,
};
use tare_proto::frame::HEADER_LEN;
use tare_proto::handshake::hello_in_one_go;
use tare_proto::hello::{
    Accept, Direction, Figures, HELLO_BODY_MAX, Hello, Refuse, RefuseCode, Test, Transport,
};
use tare_proto::ping_pong::{self, Progress};
use tare_proto::stream::{SIGNALS_LOST_AFTER, StreamFigures, StreamHeader, StreamKind};
use tare_stats::histogram::Distribution;
use tare_stats::result::{ErrorCount, Instrument};
use tare_units::bounds::{ENDING_MAX, LINGER, SESSION_ENDING_MAX};
use tare_units::limits::{CONTROL_DATAGRAM, MESSAGE_MAX};
use tare_units::text::Id;
use tare_units::{Instant, Nanos};

/// The state and the control frame of a session, rounded up, bytes.
const OVERHEAD_BYTES: u64 = 4 << 10;
const HISTOGRAM_BYTES: u64 = 280 << 10;
/// Control datagrams that wait to be sent: as many as a client asks for at once.
const ANSWERS_MAX: usize = 16;
/// A client that goes on with an ended stream is answered so often at most.
const ENDED_EVERY: Nanos = Nanos::from_millis(10);
/// A connection whose hello and request take longer is given back to the patient front.
const OPENING_MAX: Nanos = Nanos::from_millis(100);

/// The memory that a session may come to hold, bytes.
pub(crate) fn memory_bytes(hello: &Hello) -> u64 {
    let paced = 2 * u64::from(is_paced(hello));
    let histograms = if wants_residence(hello) { 1 } else { paced };
    let state = if hello.test == Test::Stream { stream::state_bytes(hello) } else { 0 };
    let buffers = opening_bytes(hello) + receive_bytes(hello) + send_bytes(hello);
    (buffers + state) as u64 + histograms * HISTOGRAM_BYTES + OVERHEAD_BYTES
}

/// Whether the session sends on a schedule.
pub(super) fn is_paced(hello: &Hello) -> bool {
    hello.direction.is_down() && hello.stream.as_ref().is_some_and(|ask| ask.rate_bits_per_s > 0)
}

fn message_bytes(hello: &Hello) -> u32 {
    u32::try_from(hello.size_bytes).unwrap_or(MESSAGE_MAX).min(MESSAGE_MAX)
}

fn receive_bytes(hello: &Hello) -> usize {
    let size = message_bytes(hello) as usize;
    match hello.transport {
        transport if hello.test == Test::Stream => stream::receive_bytes(transport),
        // One more than the largest that is legal: a longer one shows.
        Transport::Tcp => size + 1,
        Transport::Udp => size.max(CONTROL_DATAGRAM) + 1,
    }
}

/// What is received before a request, where that follows the hello at once, bytes.
const fn opening_bytes(hello: &Hello) -> usize {
    if hello.request_follows { HEADER_LEN + HELLO_BODY_MAX } else { 0 }
}

fn send_bytes(hello: &Hello) -> usize {
    let size = message_bytes(hello) as usize;
    match (hello.test, hello.transport) {
        (Test::Stream, _) if hello.direction.is_down() => stream::send_bytes(hello),
        (Test::Stream, _) => 0,
        (_, Transport::Tcp) => size,
        (_, Transport::Udp) => size.max(CONTROL_DATAGRAM),
    }
}

/// Whether the replies are too short to carry their residence, which then is reported at the end,
/// as a histogram.
fn wants_residence(hello: &Hello) -> bool {
    let least = match hello.transport {
        Transport::Tcp => ping_pong::RESIDENCE_LEN,
        Transport::Udp => datagram::RESIDENCE_END,
    };
    hello.test == Test::PingPong && !hello.brief && (message_bytes(hello) as usize) < least
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Nothing,
    /// [`Session::reply`] is to be called at the next submission, or at the instant.
    Reply(Option<Instant>),
    /// [`Session::report`] is to be called.
    Report,
    Close,
    /// The connection is none of this session's: the front is to hear it.
    GiveBack,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Exchanging,
    /// TCP: the figures are on their way.
    Reporting,
    /// TCP: the figures are sent; what the client still sends is read until it closes, since
    /// closing over unread bytes would reset the connection, and the reset would overtake the
    /// figures.
    Draining,
}

#[derive(Debug)]
struct Streaming {
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    started: bool,
    heard_at: Instant,
    /// Payload moved since [`Session::take_moved`] was last called, bytes.
    moved: u64,
    /// UDP: when the client was last answered that the session has ended.
    answered_ended_at: Instant,
}

impl Streaming {
    fn new(hello: &Hello, session: Id, now: Instant) -> Self {
        let (up, down) = (hello.direction.is_up(), hello.direction.is_down());
        Self {
            sender: down.then(|| Sender::new(hello, session)),
            receiver: up.then(|| Receiver::new(hello)),
            started: false,
            heard_at: now,
            moved: 0,
            answered_ended_at: Instant::default(),
        }
    }

    fn is_measuring(&self, now: Instant) -> bool {
        self.sender.as_ref().is_some_and(|s| s.is_measuring(now))
            || self.receiver.as_ref().is_some_and(|r| r.is_measuring(now))
    }

    fn is_sent(&self) -> bool {
        self.sender.as_ref().is_none_or(Sender::is_finished)
    }
}

fn sender(streaming: &mut Option<Box<Streaming>>) -> Option<&mut Sender> {
    streaming.as_mut()?.sender.as_mut()
}

#[derive(Debug, Default)]
struct OneGo {
    /// The hello of its client, in its frame.
    hello: Vec<u8>,
    /// How much has come of a connection's hello and request, until they are whole.
    opening: Option<usize>,
    /// The connection is being given back.
    leaving: bool,
    /// The session has no connection, and waits for the next.
    parked: bool,
}

/// What a client asked for, and what it was answered.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) hello: Box<Hello>,
    pub(super) peer: Option<SocketAddr>,
    /// UDP: the client's number for the session.
    pub(super) nonce: Option<u64>,
    pub(super) accept: Accept,
}

#[derive(Debug)]
pub(super) struct Session<P> {
    pub(super) link: Link,
    pub(super) terms: Terms,
    /// Its drop tells the front that the session is over.
    _permit: P,
    stage: Stage,
    since: Instant,
    active_at: Instant,
    size: u32,
    /// What is received at a time, bytes.
    receive_len: u32,
    front: Arc<UdpServerFront>,
    request: Progress,
    /// Nothing remains of it between replies.
    reply: Progress,
    received_at: Instant,
    /// The last request belongs to the measured phase.
    pub(super) measured: bool,
    /// Those of the worker are missing until the end.
    figures: Figures,
    residence: Option<Box<Distribution>>,
    streaming: Option<Box<Streaming>>,
    /// UDP: the figures, to be fetched, and the parts of them that were asked for.
    document: Option<Vec<u8>>,
    fetches: Vec<Fetch>,
    answers: VecDeque<Vec<u8>>,
    /// No more requests are answered from here on.
    ended_at: Option<Instant>,
    /// The figures were sent, or last asked for.
    reported_at: Option<Instant>,
    /// TCP: the client's end of the stream has come.
    client_ended: bool,
    one_go: OneGo,
}

impl<P> Session<P> {
    pub(super) fn new(
        io: &mut impl Driver,
        (slot, socket): (u32, SocketId),
        terms: Terms,
        front: Arc<UdpServerFront>,
        permit: P,
        now: Instant,
    ) -> Result<Self> {
        let hello = &terms.hello;
        let (size, receive) = (message_bytes(hello), receive_bytes(hello));
        let session = terms.accept.session.unwrap_or_default();
        let streaming =
            (hello.test == Test::Stream).then(|| Box::new(Streaming::new(hello, session, now)));
        let mut reply = Progress::new(size as usize);
        reply.handle_sent(size as usize);
        let most = opening_bytes(hello) + receive;
        Ok(Self {
            link: Link::new(io, slot, socket, most, send_bytes(hello))?,
            terms,
            _permit: permit,
            stage: Stage::Exchanging,
            since: now,
            active_at: now,
            size,
            receive_len: bytes(receive),
            front,
            request: Progress::new(size as usize),
            reply,
            received_at: now,
            measured: false,
            figures: Figures::default(),
            residence: None,
            streaming,
            document: None,
            fetches: Vec::new(),
            answers: VecDeque::new(),
            ended_at: None,
            reported_at: None,
            client_ended: false,
            one_go: OneGo::default(),
        })
    }

    fn is_udp(&self) -> bool {
        self.terms.hello.transport == Transport::Udp
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
        let accept = match self.terms.hello.transport {
            Transport::Tcp => self.terms.accept.encode(),
            Transport::Udp => self.terms.accept.encode_short(),
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
    ) -> Result<Want> {
        let outcome = &completion.outcome;
        self.link.handle(purpose, outcome, completion.more);
        if self.link.is_closing() {
            return Ok(Want::Nothing);
        }
        if self.one_go.opening.is_some() {
            return self.handle_opening(io, outcome, now);
        }
        let streams = self.streaming.is_some();
        match (purpose, outcome) {
            (Purpose::Receive, Outcome::Received(n)) => match self.terms.hello.transport {
                Transport::Tcp if *n == 0 => self.handle_end_of_stream(io, now),
                Transport::Tcp if streams => self.handle_payload(io, *n, now),
                Transport::Tcp => self.handle_bytes(io, *n, now),
                Transport::Udp if streams => self.handle_datagrams(io, *n, now),
                Transport::Udp => self.handle_datagram(io, *n, now),
            },
            (Purpose::Send, Outcome::Sent(n)) if streams => {
                self.handle_stream_sent(io, 1, u64::from(*n), now)
            }
            (Purpose::Send, Outcome::Sent(n)) => self.handle_sent(io, *n, now),
            (Purpose::Send, Outcome::SentRepeated { sends, bytes }) => {
                self.handle_stream_sent(io, *sends, *bytes, now)
            }
            (Purpose::Send, Outcome::Released { copied }) => {
                if let Some(sender) = sender(&mut self.streaming) {
                    sender.handle_released(io, &mut self.link, *copied, now)?;
                }
                self.check_stream(io, now)
            }
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
        let of_stream = self.streaming.is_some() && purpose == Purpose::Send;
        let is_lost = self.is_udp() && is_loss(error);
        if of_stream && !is_lost && self.handle_uncut(io, error) {
            return self.handle_stream_sent(io, 0, 0, now);
        }
        if is_lost || !is_departure(error) {
            let phase = if purpose == Purpose::Receive { "receive" } else { "send" };
            self.count_error(phase, error.name());
        }
        if !is_lost {
            return Ok(Want::Close);
        }
        // A datagram was lost on this machine, as it might be further on.
        match purpose {
            // The device's queue is full, or the path is away: where nothing is paced, the next
            // datagram takes the place of this one.
            Purpose::Send if of_stream => return self.handle_stream_sent(io, 0, 0, now),
            Purpose::SendControl => {
                self.link.handle_control_sent(io, u32::MAX)?;
                self.answer_next(io)?;
            }
            // Nothing but the end of the socket hides what comes for a stream.
            _ if self.streaming.is_some() => return Ok(Want::Close),
            Purpose::Send => {
                let rest = self.reply.remaining();
                self.reply.handle_sent(rest.len());
            }
            _ => {}
        }
        if !self.is_replying() {
            self.receive_next(io)?;
        }
        self.resume_stream(io, Want::Nothing, now)
    }

    fn handle_control_sent(&mut self, io: &mut impl Driver, n: u32, now: Instant) -> Result<Want> {
        if !self.link.handle_control_sent(io, n)? {
            return Ok(Want::Nothing);
        }
        if self.stage == Stage::Reporting {
            if self.figures.cut_short.is_none() || self.client_ended {
                return Ok(Want::Close);
            }
            self.stage = Stage::Draining;
            self.reported_at = Some(now);
            self.link.half_close(io)?;
            self.receive_next(io)?;
            return Ok(Want::Nothing);
        }
        if self.residence.is_none() && !self.is_ended() && wants_residence(&self.terms.hello) {
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
        self.figures.received_bytes += u64::from(n);
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
        let errors = &mut self.figures.errors;
        match errors.iter_mut().find(|error| error.phase == phase && error.cause == cause) {
            Some(error) => error.count += 1,
            None => {
                let (phase, cause) = (phase.to_owned(), cause.to_owned());
                errors.push(ErrorCount { phase, cause, count: 1 });
            }
        }
    }

    fn is_replying(&self) -> bool {
        !self.reply.remaining().is_empty()
    }

    fn handle_request(&mut self, now: Instant) -> Want {
        self.active_at = now;
        self.received_at = now;
        let delay = Nanos(self.terms.hello.server_delay_ns);
        Want::Reply((delay > Nanos::ZERO).then(|| now + delay))
    }

    /// Sends the reply, which is submitted at `now`. Returns whether there was one to send.
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
        match self.terms.hello.transport {
            Transport::Tcp => ping_pong::put_residence(&mut reply[..size as usize], residence),
            Transport::Udp => datagram::put_residence(&mut reply[..size as usize], residence),
        }
        self.reply.restart();
        self.link.send(io, 0, size)?;
        Ok(true)
    }

    fn handle_sent(&mut self, io: &mut impl Driver, n: u32, now: Instant) -> Result<Want> {
        self.figures.sent_bytes += u64::from(n);
        if !self.reply.handle_sent(n as usize) {
            let rest = self.reply.remaining();
            self.link.send(io, bytes(rest.start), bytes(rest.len()))?;
            return Ok(Want::Nothing);
        }
        self.figures.operations += 1;
        if self.terms.hello.request_follows && !self.is_ended() {
            // The end of the stream says all that its client has yet to hear.
            self.ended_at = Some(now);
            return Ok(Want::Close);
        }
        if !self.is_udp() && (self.is_ended() || self.terms.hello.connect_each) {
            // With a connection per operation the server ends first, so that TIME_WAIT stays here
            // and not with the client's ports.
            self.ended_at.get_or_insert(now);
            return Ok(Want::Report);
        }
        // A receive beside the reply would delay it, and the next request cannot be there yet.
        self.receive_next(io)?;
        Ok(Want::Nothing)
    }

    /// Lets go of what its client has not taken: the kernel would keep it beyond the close.
    pub(super) fn abandon(&self, io: &mut impl Driver, drops_all: bool) {
        if drops_all || self.link.is_sending() || self.link.is_sending_control() {
            self.link.drop_unsent(io);
        }
    }

    // Datagrams.

    fn handle_datagram(&mut self, io: &mut impl Driver, n: u32, now: Instant) -> Result<Want> {
        self.figures.received_bytes += u64::from(n);
        let want = self.handle_control(io, 0..n as usize, now)?;
        if want == Want::Nothing {
            self.receive_next(io)?;
        }
        Ok(want)
    }

    /// A stream: one datagram came, or several at once: payload, and behind it control datagrams.
    fn handle_datagrams(&mut self, io: &mut impl Driver, n: u32, now: Instant) -> Result<Want> {
        self.figures.received_bytes += u64::from(n);
        let Range { mut start, end } = self.take_payload(io, n, now)?;
        let mut want = Want::Nothing;
        // Several control datagrams may have come at once: they all have one length.
        while start < end {
            let until = (start + CONTROL_DATAGRAM).min(end);
            match self.handle_control(io, start..until, now)? {
                Want::Nothing => {}
                Want::Close => return Ok(Want::Close),
                wanted => want = wanted,
            }
            start = until;
        }
        self.receive_next(io)?;
        let checked = self.check_stream(io, now)?;
        Ok(if want == Want::Nothing { checked } else { want })
    }

    /// Counts the payload at the beginning of what came. Returns where the rest lies.
    fn take_payload(&mut self, io: &mut impl Driver, n: u32, now: Instant) -> Result<Range<usize>> {
        let session = self.terms.accept.session.unwrap_or_default();
        let all = &io.buffer(self.link.receive_buffer())[..n as usize];
        let whole = all.len()..all.len();
        let first = StreamHeader::decode(all)
            .filter(|header| header.kind == StreamKind::Payload && header.session == session);
        let (Some(first), Some(streaming)) = (first, &mut self.streaming) else {
            return Ok(0..all.len());
        };
        streaming.moved += u64::from(n);
        if self.ended_at.is_some() {
            // The client has not heard yet that the server has ended the session.
            if self.figures.cut_short.is_some()
                && now.since(streaming.answered_ended_at) >= ENDED_EVERY
            {
                streaming.answered_ended_at = now;
                let StreamHeader { sequence, session, .. } = first;
                self.turn_away(io, DataHeader { reply: false, flags: 0, sequence, session })?;
            }
            return Ok(whole);
        }
        (streaming.heard_at, self.active_at) = (now, now);
        let receiver = streaming.receiver.as_mut();
        let rest = receiver.and_then(|receiver| receiver.handle_datagrams(all, session, now));
        self.measured |= streaming.is_measuring(now);
        self.start_stream(io, now)?;
        Ok(rest.map_or(whole, |(start, end)| start..end))
    }

    /// A datagram that is no payload of a stream.
    fn handle_control(
        &mut self,
        io: &mut impl Driver,
        range: Range<usize>,
        now: Instant,
    ) -> Result<Want> {
        let Some(peer) = self.terms.peer else {
            return Ok(Want::Close);
        };
        let len = range.len();
        let datagram = &io.buffer(self.link.receive_buffer())[range];
        match self.front.handle_datagram(datagram, peer, now) {
            FrontAction::Data(header) if Some(header.session) == self.terms.accept.session => {
                if self.streaming.is_some() {
                    self.handle_signal(io, header, now)?;
                } else if self.is_ended() {
                    self.turn_away(io, header)?;
                } else if len == self.size as usize && !self.is_replying() {
                    let reply = DataHeader { reply: true, ..header };
                    reply.encode_into(io.buffer_mut(self.link.send_buffer()));
                    self.measured = header.flags & datagram::MEASURED != 0;
                    return Ok(self.handle_request(now));
                }
                // One of another size, or one too many, is lost, as a network would lose it.
            }
            // The accept was lost: the same again.
            FrontAction::Session(request) if Some(request.key.nonce) == self.terms.nonce => {
                self.answer(io, self.terms.accept.encode_short())?;
            }
            // A new client on the same port: the front will hear it when this socket is gone.
            FrontAction::Session(_) => return Ok(Want::Close),
            FrontAction::Reply(answer) => self.answer(io, answer)?,
            FrontAction::Fetch(fetch) if Some(fetch.session) == self.terms.accept.session => {
                self.active_at = now;
                if fetch.document == Document::Figures {
                    self.reported_at = Some(now);
                    self.fetches.push(fetch);
                    let want = self.stop_stream(io, now)?;
                    let waits = self.streaming.is_some() && self.link.is_sending();
                    return Ok(if waits { want } else { Want::Report });
                }
                let document = serde_json::to_vec(&self.terms.accept.environment);
                if let Some(chunk) = serve_document(&fetch, &document.unwrap_or_default()) {
                    self.answer(io, chunk)?;
                }
            }
            _ => {}
        }
        Ok(Want::Nothing)
    }

    /// The client of a stream shows that it is there.
    fn handle_signal(&mut self, io: &mut impl Driver, header: DataHeader, now: Instant) -> Result {
        self.active_at = now;
        if self.is_ended() {
            let is_cut_short = self.figures.cut_short.is_some();
            return if is_cut_short { self.turn_away(io, header) } else { Ok(()) };
        }
        if let Some(streaming) = &mut self.streaming {
            streaming.heard_at = now;
        }
        self.start_stream(io, now)
    }

    fn turn_away(&mut self, io: &mut impl Driver, header: DataHeader) -> Result {
        header.turned_away(ENDED).map_or(Ok(()), |answer| self.answer(io, answer.to_vec()))
    }

    /// Sends a control datagram after those that wait. Beyond a bound it is lost, and asked again.
    fn answer(&mut self, io: &mut impl Driver, datagram: Vec<u8>) -> Result {
        let is_streaming = self.streaming.is_some() && self.link.is_sending();
        if !self.link.is_sending_control() && !is_streaming {
            return self.link.send_control(io, &datagram);
        }
        if self.answers.len() < ANSWERS_MAX {
            self.answers.push_back(datagram);
        }
        Ok(())
    }

    fn answer_next(&mut self, io: &mut impl Driver) -> Result {
        self.answers.pop_front().map_or(Ok(()), |next| self.link.send_control(io, &next))
    }

    // Streams.

    /// Prepares the socket of a stream; where it cannot, the refusal answers instead of the accept.
    fn prepare_stream(&mut self, io: &mut impl Driver) -> Result<(), Refuse> {
        let hello = &self.terms.hello;
        let (Some(streaming), Some(ask)) = (&mut self.streaming, &hello.stream) else {
            return Ok(());
        };
        let set = set_options(io, self.link.socket(), &ask.socket, hello.transport);
        set.map_err(|refused| {
            Refuse::new(RefuseCode::Limit, refused.message("the server's kernel"))
                .remedy(format!("there: {}", refused.remedy()))
        })?;
        if let Some(receiver) = &mut streaming.receiver {
            receiver.prepare(io, &self.link);
        }
        if let Some(sender) = &mut streaming.sender {
            sender.prepare(io, &self.link, self.terms.accept.instance.0);
        }
        Ok(())
    }

    /// Payload that was moved since the last call, bytes.
    #[inline]
    pub(super) fn take_moved(&mut self) -> u64 {
        self.streaming.as_mut().map_or(0, |s| std::mem::take(&mut s.moved))
    }

    /// When a paced stream wants [`Session::poll_stream`] to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        let sender = self.streaming.as_ref()?.sender.as_ref()?;
        sender.due(&self.link).filter(|_| !self.link.is_closing())
    }

    /// Sends what is due at `now`, the instant of the submission.
    pub(super) fn poll_stream(&mut self, io: &mut impl Driver, now: Instant) -> Result {
        match sender(&mut self.streaming) {
            Some(sender) if !self.link.is_closing() => sender.poll_submit(io, &mut self.link, now),
            _ => Ok(()),
        }
    }

    /// Whether the kernel refused a send only because it does not cut messages into datagrams.
    fn handle_uncut(&mut self, io: &mut impl Driver, error: OpError) -> bool {
        sender(&mut self.streaming).is_some_and(|s| s.handle_uncut(io, &self.link, error))
    }

    /// A control frame has left the socket to payload.
    fn resume_stream(&mut self, io: &mut impl Driver, want: Want, now: Instant) -> Result<Want> {
        if want != Want::Nothing || self.stage != Stage::Exchanging {
            return Ok(want);
        }
        if let Some(sender) = sender(&mut self.streaming) {
            sender.resume(io, &mut self.link, now)?;
        }
        self.check_stream(io, now)
    }

    fn handle_stream_sent(
        &mut self,
        io: &mut impl Driver,
        sends: u32,
        bytes: u64,
        now: Instant,
    ) -> Result<Want> {
        self.figures.sent_bytes += bytes;
        self.active_at = now;
        // Answers have waited for the socket; payload waits for them in turn.
        self.answer_next(io)?;
        if let Some(streaming) = &mut self.streaming {
            streaming.moved += bytes;
            if let Some(sender) = &mut streaming.sender {
                sender.handle_sent(io, &mut self.link, bytes, now)?;
            }
            self.measured |= streaming.is_measuring(now);
        }
        self.figures.operations += u64::from(sends);
        self.check_stream(io, now)
    }

    /// TCP: payload, or the byte that starts the test.
    fn handle_payload(&mut self, io: &mut impl Driver, n: u32, now: Instant) -> Result<Want> {
        self.figures.received_bytes += u64::from(n);
        self.active_at = now;
        if let Some(streaming) = &mut self.streaming {
            streaming.moved += u64::from(n);
            if let Some(receiver) = &mut streaming.receiver
                && self.ended_at.is_none()
            {
                receiver.handle_received(io, &self.link, n, now);
            }
            self.measured |= streaming.is_measuring(now);
        }
        self.start_stream(io, now)?;
        self.receive_next(io)?;
        self.check_stream(io, now)
    }

    fn start_stream(&mut self, io: &mut impl Driver, now: Instant) -> Result {
        if let Some(streaming) = &mut self.streaming
            && !std::mem::replace(&mut streaming.started, true)
            && self.ended_at.is_none()
            && let Some(sender) = &mut streaming.sender
        {
            sender.start(io, &mut self.link, now)?;
        }
        Ok(())
    }

    /// No more payload counts, and none is sent.
    fn stop_stream(&mut self, io: &mut impl Driver, now: Instant) -> Result<Want> {
        self.ended_at.get_or_insert(now);
        if let Some(sender) = sender(&mut self.streaming) {
            sender.finish(io, &self.link, now);
        }
        self.check_stream(io, now)
    }

    /// Whether it is time for the figures: the client has ended, or all that was asked for is sent;
    /// and nothing is on its way any more that they would have to wait for.
    fn check_stream(&mut self, io: &mut impl Driver, now: Instant) -> Result<Want> {
        let Some(streaming) = &mut self.streaming else {
            return Ok(Want::Nothing);
        };
        let hello = &self.terms.hello;
        let is_udp = hello.transport == Transport::Udp;
        let by_bytes = hello.stream.as_ref().is_some_and(|ask| ask.bytes > 0);
        let is_down = hello.direction == Direction::Down;
        if by_bytes && !is_udp && is_down && streaming.started && streaming.is_sent() {
            self.ended_at.get_or_insert(now);
        }
        let is_busy = self.link.is_sending() || (!is_udp && self.link.is_sending_control());
        if self.ended_at.is_none() || is_busy || self.figures.stream.is_some() {
            return Ok(Want::Nothing);
        }
        let sent = streaming.sender.take().map(|s| s.figures(io, &self.link, now));
        let received = streaming.receiver.take().map(|mut receiver| {
            receiver.finish(io, &self.link);
            receiver.figures(io, &self.link, now)
        });
        self.figures.stream = Some(StreamFigures { sent, received });
        Ok(if is_udp && self.fetches.is_empty() { Want::Nothing } else { Want::Report })
    }

    // One operation, in one go.

    pub(super) fn is_opening(&self) -> bool {
        self.one_go.opening.is_some() && !self.link.is_closing()
    }

    /// Begins with what has arrived of the request; no accept is sent.
    pub(super) fn begin_in_one_go(
        &mut self,
        io: &mut impl Driver,
        early: &[u8],
        now: Instant,
    ) -> Result<Want> {
        self.one_go.hello = hello_in_one_go(&self.terms.hello);
        if early.len() > self.size as usize {
            return Ok(Want::Close);
        }
        io.buffer_mut(self.link.receive_buffer())[..early.len()].copy_from_slice(early);
        self.handle_bytes(io, bytes(early.len()), now)
    }

    /// Whether it may take another connection when this one is over.
    pub(super) fn may_be_kept(&self) -> bool {
        self.terms.hello.request_follows
            && self.figures.cut_short.is_none()
            && self.is_over()
            && !self.one_go.leaving
    }

    /// Waits for its next connection. Returns whether it did not already.
    pub(super) const fn park(&mut self) -> bool {
        !std::mem::replace(&mut self.one_go.parked, true)
    }

    pub(super) fn renew(&mut self, io: &mut impl Driver, socket: SocketId, now: Instant) -> Result {
        self.link.replace_socket(io, socket);
        (self.since, self.active_at) = (now, now);
        self.request.restart();
        self.measured = false;
        (self.ended_at, self.client_ended) = (None, false);
        (self.one_go.opening, self.one_go.parked) = (Some(0), false);
        let most = self.one_go.hello.len() + self.size as usize + 1;
        self.link.receive(io, 0, bytes(most))
    }

    /// Takes a connection whose hello is slow back from the driver. Returns whether it is one.
    pub(super) fn handle_slow_opening(
        &mut self,
        io: &mut impl Driver,
        now: Instant,
        leaving: bool,
    ) -> Result<bool> {
        let is_slow = self.is_opening() && (leaving || now.since(self.since) > OPENING_MAX);
        if is_slow && !std::mem::replace(&mut self.one_go.leaving, true) {
            self.link.cancel_receive(io)?;
        }
        Ok(is_slow)
    }

    /// Something of a connection's hello and request has come, or its receive was cancelled.
    fn handle_opening(
        &mut self,
        io: &mut impl Driver,
        outcome: &Outcome,
        now: Instant,
    ) -> Result<Want> {
        let came = match outcome {
            Outcome::Received(n @ 1..) => *n as usize,
            Outcome::CancelDone { .. } => 0,
            Outcome::Failed(OpError::Canceled) if self.one_go.leaving => 0,
            _ => {
                self.one_go.opening = None;
                return Ok(Want::Close);
            }
        };
        let got = self.one_go.opening.unwrap_or_default() + came;
        self.one_go.opening = Some(got);
        if self.one_go.leaving {
            return Ok(if self.link.is_quiet() { Want::GiveBack } else { Want::Nothing });
        }
        let (hello, size) = (&self.one_go.hello, self.size as usize);
        let said = &io.buffer(self.link.receive_buffer())[..got];
        let known = got.min(hello.len());
        if came == 0 || said[..known] != hello[..known] {
            return Ok(Want::GiveBack);
        }
        let whole = hello.len() + size;
        if got < whole {
            self.link.receive(io, bytes(got), bytes(whole + 1 - got))?;
            return Ok(Want::Nothing);
        }
        self.measured = ping_pong::is_measured(&said[hello.len()..]);
        self.one_go.opening = None;
        Ok(if got > whole { Want::Close } else { self.handle_request(now) })
    }

    /// The connection and what was read of it, for the front. The session has none then.
    pub(super) fn give_back<D: Driver>(&mut self, io: &mut D) -> Option<(D::Socket, Vec<u8>)> {
        let got = self.one_go.opening.take().unwrap_or_default();
        let said = io.buffer(self.link.receive_buffer())[..got].to_vec();
        let socket = io.release(self.link.socket()).ok()?;
        self.one_go.leaving = true;
        self.link.forget_socket();
        Some((socket, said))
    }

    // The end.

    /// What its deadlines want at `now`. A session that has to end by them, or because the server
    /// is `stopping`, says so in its figures; a stream stops at `active_at`.
    pub(super) fn handle_limits(
        &mut self,
        io: &mut impl Driver,
        now: Instant,
        active_at: Instant,
        limits: SessionLimits,
        stopping: bool,
    ) -> Result<Want> {
        if let Some(ended_at) = self.ended_at {
            // An embedded server would else keep its run waiting for a client that has begun to
            // fetch the figures, and mostly has them.
            let is_dispensable = stopping && self.is_udp() && self.figures.cut_short.is_none();
            let over = is_dispensable || self.has_ended(ended_at, now, limits);
            return Ok(if over { Want::Close } else { Want::Nothing });
        }
        let idle = now.since(self.active_at) > limits.idle;
        // The client of a stream over UDP signals that it is there, so that it is sent to.
        let is_unheard = self.is_udp()
            && self.streaming.as_ref().is_some_and(|streaming| {
                let silence = now.since(streaming.heard_at);
                streaming.started && !streaming.is_sent() && silence > SIGNALS_LOST_AFTER
            });
        self.figures.cut_short = Some(if stopping {
            "the server was told to stop".to_owned()
        } else if is_unheard {
            format!("no signal came from the client for {SIGNALS_LOST_AFTER}")
        } else if idle {
            format!("no request came for {} (--idle-timeout)", limits.idle)
        } else if now.since(self.since) > limits.duration {
            format!("the session had lasted {} (--max-duration)", limits.duration)
        } else {
            return Ok(Want::Nothing);
        });
        self.ended_at = Some(now);
        if self.is_udp() {
            // Requests are answered with ENDED from here on; the figures are there to be fetched.
            self.reported_at = Some(now);
        } else if idle && (self.streaming.is_some() || self.is_replying()) {
            // For so long the client has taken nothing, or of a stream sent nothing.
            return Ok(Want::Close);
        }
        if self.streaming.is_some() {
            return self.stop_stream(io, active_at);
        }
        Ok(if self.is_udp() || self.is_replying() { Want::Nothing } else { Want::Report })
    }

    fn has_ended(&self, ended_at: Instant, now: Instant, limits: SessionLimits) -> bool {
        let by_its_client = self.figures.cut_short.is_none();
        // A long document over a lossy path takes longer; each fetch shows that the client is
        // there.
        let most = if self.is_udp() && by_its_client {
            now.since(self.since) > limits.duration
        } else if self.streaming.is_some() {
            // What was still to be sent may be much, and the path slow.
            now.since(ended_at.max(self.active_at)) > SESSION_ENDING_MAX
                || now.since(ended_at) > ENDING_MAX
        } else {
            now.since(ended_at) > SESSION_ENDING_MAX
        };
        most || self.reported_at.is_some_and(|at| now.since(at) > LINGER)
    }

    /// TCP: the client has half-closed, or is gone.
    fn handle_end_of_stream(&mut self, io: &mut impl Driver, now: Instant) -> Result<Want> {
        self.client_ended = true;
        match self.stage {
            Stage::Draining => return Ok(Want::Close),
            Stage::Reporting => return Ok(Want::Nothing),
            Stage::Exchanging if self.streaming.is_some() => return self.stop_stream(io, now),
            Stage::Exchanging => {}
        }
        if self.request.remaining().start > 0 {
            self.count_error("receive", "short-request");
        }
        self.ended_at.get_or_insert(now);
        Ok(match self.terms.hello.request_follows {
            _ if self.is_replying() => Want::Nothing,
            true => Want::Close,
            false => Want::Report,
        })
    }

    /// Sends the figures: over TCP as a frame, over UDP the part that was asked for.
    pub(super) fn report(
        &mut self,
        io: &mut impl Driver,
        of_worker: Option<Figures>,
    ) -> Result<Want> {
        if self.link.is_closing() {
            return Ok(Want::Nothing);
        }
        if !self.is_udp() {
            if self.link.is_sending_control() {
                return Ok(Want::Close);
            }
            self.stage = Stage::Reporting;
            self.complete_figures(of_worker);
            self.link.send_control(io, &self.figures.encode())?;
            return Ok(Want::Nothing);
        }
        if self.document.is_none() {
            self.complete_figures(of_worker);
            self.document = Some(serde_json::to_vec(&self.figures).unwrap_or_default());
        }
        for fetch in std::mem::take(&mut self.fetches) {
            let document = self.document.as_deref().unwrap_or_default();
            if let Some(chunk) = serve_document(&fetch, document) {
                self.answer(io, chunk)?;
            }
        }
        self.receive_next(io)?;
        Ok(Want::Nothing)
    }

    /// Whether [`Session::report`] wants the worker's figures; over UDP they are made once.
    pub(super) const fn needs_reading(&self) -> bool {
        !self.terms.hello.brief && self.document.is_none()
    }

    fn complete_figures(&mut self, of_worker: Option<Figures>) {
        let figures = &mut self.figures;
        if let Some(residence) = self.residence.take() {
            figures.residence_count = residence.count();
            figures.residence_hdr = Some(residence.encode());
        }
        if let Some(Figures { instrument, cpu, cpu_operations, cpu_bytes, .. }) = of_worker {
            let accept = &self.terms.accept;
            figures.instrument = Instrument {
                backend: accept.backend.clone(),
                backend_reason: accept.backend_reason.clone(),
                wait: accept.wait.name().to_owned(),
                wait_reason: accept.wait_reason.clone(),
                ..instrument
            };
            (figures.cpu, figures.cpu_operations, figures.cpu_bytes) =
                (cpu, cpu_operations, cpu_bytes);
        }
    }
}

/// Costs a datagram and not the session: the path may come back, or this end has no room now.
const fn is_loss(error: OpError) -> bool {
    use OpError::{HostUnreachable, NetworkDown, NetworkUnreachable, NoBuffers, NotPermitted};
    matches!(error, HostUnreachable | NetworkUnreachable | NetworkDown | NotPermitted | NoBuffers)
}

/// Whether an error means that the client is simply gone.
const fn is_departure(error: OpError) -> bool {
    matches!(error, OpError::Reset | OpError::BrokenPipe | OpError::Refused | OpError::Canceled)
}

/// A position in a message, which is at most `MESSAGE_MAX` long.
fn bytes(n: usize) -> u32 {
    u32::try_from(n).expect("bounded by MESSAGE_MAX")
}
