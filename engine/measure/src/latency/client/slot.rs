//! One connection of the client: a session, and on it one operation after the other.
//!
//! Methods come in three sorts: getters, `handle_*` (something happened; the answer is an
//! [`Event`]), and commands.

use std::ops::Range;
use std::sync::Arc;

use crate::worker::Result;
use crate::worker::link::{Link, Purpose};
use crate::worker::operations::Begun;
use crate::worker::session::{
    BufferSizes, ClientSession, Failure, Opening, SessionEvent, SessionSpec,
};
use crate::worker::tally::Stage;
use tare_driver::{Completion, Driver};
use tare_proto::datagram::{DataHeader, MEASURED, residence};
use tare_proto::frame::HEADER_LEN;
use tare_proto::handshake::hello_in_one_go;
use tare_proto::hello::{HELLO_BODY_MAX, Hello, Transport};
use tare_proto::ping_pong;
use tare_proto::ping_pong::{Progress, Received};
use tare_stats::histogram::Sample;
use tare_units::error::Error;
use tare_units::{Instant, Nanos};

/// An operation that was sent, or whose connection is being opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    /// When it was meant to be sent; open loop only.
    due: Option<Instant>,
    /// When the request was sent, or with a connection per operation the connect.
    pub(super) begun_at: Instant,
    /// When the request was sent; until then, when it was begun.
    sent_at: Instant,
    /// What the connect took, with a connection per operation.
    connect: Nanos,
    pub(super) begun: Begun,
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

    /// When what its connection does beside it begins, if it ends at `now`: as much of that came
    /// before it.
    pub(super) fn rest_begins(&self, now: Instant) -> Instant {
        self.begun_at + self.sample(now).service
    }
}

#[derive(Debug)]
pub(super) enum Event {
    /// The reply is whole. The server says how long it had the request, where the message is long
    /// enough to hold it.
    Replied {
        residence: Option<Nanos>,
    },
    /// A reply that is no longer awaited.
    Stale,
    Session(SessionEvent),
}

impl Event {
    const NOTHING: Self = Self::Session(SessionEvent::Nothing);
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) session: ClientSession,
    size: u32,
    pub(super) operation: Option<Operation>,
    /// The request of the operation was sent, or is being; the reply is awaited.
    awaiting: bool,
    connect: Nanos,
    request: Progress,
    reply: Progress,
    /// The length of the hello that stands in the send buffer, to be sent with each request, bytes.
    hello: u32,
    pub(super) expected: bool,
    pub(super) resting_until: Option<Instant>,
    /// Since when it has been of no use: it is being closed and opened again, or has failed.
    pub(super) down_since: Instant,
    sequence: u64,
}

impl Slot {
    pub(super) fn new(index: u32, spec: Arc<SessionSpec>) -> Self {
        let size = usize::try_from(spec.hello.size_bytes).unwrap_or(usize::MAX);
        let hello = if spec.hello.connect_each { HEADER_LEN + HELLO_BODY_MAX } else { 0 };
        let buffers = BufferSizes { receive_bytes: size + 1, send_bytes: hello + size };
        Self {
            session: ClientSession::new(index, buffers, spec),
            size: position(size),
            operation: None,
            awaiting: false,
            connect: Nanos::ZERO,
            request: Progress::new(size),
            reply: Progress::new(size),
            hello: 0,
            expected: false,
            resting_until: None,
            down_since: Instant(0),
            sequence: 0,
        }
    }

    const fn is_awaiting(&self) -> bool {
        self.awaiting && self.session.is_open()
    }

    pub(super) fn is_measured(&self) -> bool {
        self.operation.is_some_and(|operation| operation.begun.measured)
    }

    pub(super) fn has_rested(&self, now: Instant) -> bool {
        self.resting_until.is_some_and(|until| now >= until) && self.session.is_quiet()
    }

    pub(super) const fn begin(&mut self, now: Instant, due: Option<Instant>, begun: Begun) {
        let connect = Nanos::ZERO;
        self.operation = Some(Operation { due, begun_at: now, sent_at: now, connect, begun });
    }

    /// A datagram was lost: the slot is free for the next. Returns false where it cannot be: over
    /// TCP, where nothing is lost, and while the last datagram has not left yet.
    pub(super) fn forgive(&mut self) -> bool {
        let has_left = !self.session.link().is_some_and(Link::is_sending);
        let is_free = self.session.transport() == Transport::Udp && self.is_awaiting() && has_left;
        if is_free {
            self.awaiting = false;
        }
        is_free
    }

    pub(super) fn prepare<D: Driver>(&mut self, io: &mut D) -> Result<(), Failure> {
        self.resting_until = None;
        self.session.prepare(io)
    }

    /// Connects; `now` is the instant of its submission.
    pub(super) fn connect<D: Driver>(&mut self, io: &mut D, now: Instant, how: Opening) -> Result {
        self.awaiting = false;
        self.session.connect(io, now, how)
    }

    /// Sends the request of the present operation; `now` is the instant of its submission.
    pub(super) fn send<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        let Some(operation) = &mut self.operation else { return Ok(()) };
        operation.sent_at = now;
        if self.session.spec().hello.connect_each {
            operation.connect = self.connect;
        }
        self.awaiting = true;
        match self.session.transport() {
            Transport::Tcp => self.send_request(io),
            Transport::Udp => self.send_datagram(io),
        }
    }

    /// Ends the session: asks for the figures, then closes.
    pub(super) fn end<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        if self.is_awaiting() { self.session.give_up(io) } else { self.session.end(io, now, false) }
    }

    /// The operation under way was taken away. Over TCP a reply may still come and would be out of
    /// step.
    pub(super) fn interrupt<D: Driver>(&mut self, io: &mut D) -> Result {
        if self.forgive() { Ok(()) } else { self.session.give_up(io) }
    }

    pub(super) fn handle_completion<D: Driver>(
        &mut self,
        io: &mut D,
        purpose: Purpose,
        completion: &Completion,
        now: Instant,
    ) -> Result<Event> {
        let event = self.session.handle_completion(io, purpose, completion, now)?;
        match (event, self.session.transport()) {
            (SessionEvent::Received { len }, Transport::Tcp) => self.handle_bytes(io, len, now),
            (SessionEvent::Received { len }, Transport::Udp) => self.handle_datagram(io, len, now),
            (SessionEvent::Sent { bytes }, Transport::Tcp) => {
                self.handle_sent(io, bytes).map(|()| Event::NOTHING)
            }
            (SessionEvent::Sent { .. }, Transport::Udp) => {
                self.session.receive_datagram(io).map(|()| Event::NOTHING)
            }
            (event, _) => {
                if let SessionEvent::Connected(length) = event {
                    self.connect = length;
                }
                Ok(Event::Session(event))
            }
        }
    }

    pub(super) fn handle_timers<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<SessionEvent> {
        let timeout = self.session.spec().timeout;
        let is_late = |operation: Operation| now.since(operation.sent_at) >= timeout;
        if !(self.is_awaiting() && self.operation.is_some_and(is_late)) {
            return self.session.handle_timers(io, now);
        }
        // Lost datagrams are counted, and many: no words for each.
        Ok(SessionEvent::Failed(match self.session.transport() {
            Transport::Tcp => self.session.silence(io, Stage::Receive),
            Transport::Udp => Failure::new(Stage::Receive, Failure::TIMEOUT, None),
        }))
    }

    fn send_request<D: Driver>(&mut self, io: &mut D) -> Result {
        if self.hello == 0 && self.session.is_one_go() {
            self.write_hello(io);
        }
        let (Some(operation), Some(link)) = (&self.operation, self.session.link_mut()) else {
            return Ok(());
        };
        let request = &mut io.buffer_mut(link.send_buffer())[self.hello as usize..];
        ping_pong::put_flags(request, operation.begun.measured);
        self.request.restart();
        self.reply.restart();
        link.send(io, 0, self.hello + self.size)
    }

    /// Once for all connections of the slot.
    fn write_hello<D: Driver>(&mut self, io: &mut D) {
        let Some(link) = self.session.link() else { return };
        let hello = self.session.spec().hello.clone();
        let frame = hello_in_one_go(&Hello { brief: true, request_follows: true, ..hello });
        io.buffer_mut(link.send_buffer())[..frame.len()].copy_from_slice(&frame);
        self.hello = position(frame.len());
        self.request = Progress::new(frame.len() + self.size as usize);
    }

    /// The receive follows the send, not at its side: pushing it beforehand would delay the send,
    /// which is stamped already, and the first attempt at it would be in vain.
    fn handle_sent<D: Driver>(&mut self, io: &mut D, bytes: u64) -> Result {
        let is_sent = self.request.handle_sent(usize::try_from(bytes).unwrap_or(usize::MAX));
        let Some(link) = self.session.link_mut() else { return Ok(()) };
        if is_sent {
            return link.receive(io, 0, self.size + 1);
        }
        let rest = range(self.request.remaining());
        link.send(io, rest.start, rest.end - rest.start)
    }

    fn handle_bytes<D: Driver>(&mut self, io: &mut D, n: u32, now: Instant) -> Result<Event> {
        if !self.awaiting {
            return Ok(Event::Session(SessionEvent::failed(Stage::Receive, "protocol", None)));
        }
        let Some(link) = self.session.link_mut() else { return Ok(Event::NOTHING) };
        let buffer = io.buffer(link.receive_buffer());
        let size = self.size as usize;
        match self.reply.handle_reply(buffer, n as usize) {
            Ok(Received::Complete) => {
                let residence = ping_pong::residence(&buffer[..size]);
                self.awaiting = false;
                Ok(Event::Replied { residence })
            }
            Ok(Received::Partial) => {
                let range = range(self.reply.receive_range());
                link.receive(io, range.start, range.end - range.start)?;
                Ok(Event::NOTHING)
            }
            Ok(Received::Control { at }) => {
                let residence = (at == size).then(|| ping_pong::residence(&buffer[..size]));
                let received = position(at)..position(self.reply.receive_range().start);
                let early = !(self.session.is_brief() && residence.is_some());
                let event = self.session.handle_figures(io, received, now, early)?;
                Ok(match (residence, event) {
                    (Some(residence), SessionEvent::Nothing | SessionEvent::Figures(_)) => {
                        Event::Replied { residence }
                    }
                    (_, event) => Event::Session(event),
                })
            }
            Err(error) => {
                let error = Error::peer(format!("{}: {error}", self.session.spec().to));
                let event = SessionEvent::failed(Stage::Receive, "protocol", Some(error));
                Ok(Event::Session(event))
            }
        }
    }

    fn send_datagram<D: Driver>(&mut self, io: &mut D) -> Result {
        let session = self.session.session();
        let (Some(operation), Some(link)) = (&self.operation, self.session.link_mut()) else {
            return Ok(());
        };
        self.sequence += 1;
        let flags = if operation.begun.measured { MEASURED } else { 0 };
        let header = DataHeader { reply: false, flags, sequence: self.sequence, session };
        header.encode_into(&mut io.buffer_mut(link.send_buffer())[..self.size as usize]);
        link.send(io, 0, self.size)
    }

    fn handle_datagram<D: Driver>(&mut self, io: &mut D, n: u32, now: Instant) -> Result<Event> {
        let Some(link) = self.session.link() else { return Ok(Event::NOTHING) };
        let datagram = &io.buffer(link.receive_buffer())[..n as usize];
        let session = self.session.session();
        let of_session = |header: &DataHeader| header.reply && header.session == session;
        let Some(header) = DataHeader::decode(datagram).filter(of_session) else {
            self.session.receive_datagram(io)?;
            return Ok(Event::NOTHING);
        };
        let is_awaited = header.sequence == self.sequence && n == self.size;
        let residence = residence(datagram);
        if let Some(event) = self.session.handle_flags(io, header.flags, now)? {
            return Ok(Event::Session(event));
        }
        if is_awaited && self.operation.is_some() {
            self.awaiting = false;
            return Ok(Event::Replied { residence });
        }
        self.session.receive_datagram(io)?;
        Ok(Event::Stale)
    }
}

/// A position in a message, which is at most `MESSAGE_MAX` long.
fn position(n: usize) -> u32 {
    u32::try_from(n).expect("bounded by MESSAGE_MAX")
}

fn range(range: Range<usize>) -> Range<u32> {
    position(range.start)..position(range.end)
}
