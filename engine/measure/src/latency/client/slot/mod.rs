//! One connection of the client: a dialogue, and on it one operation after the other.
//!
//! Here is what both transports share; what they do differently is in `stream` and `datagram`. Methods come in
//! three sorts: getters, `handle_*` (something happened; the answer is an [`Event`]), and commands.

mod datagram;
mod stream;

use super::ClientSpec;
use crate::worker::dialogue::{BufferSizes, ClientSession, Failure, News, SessionEvent};
use crate::worker::errors::Stage;
use crate::worker::link::{Link, Purpose};
use tare_driver::{Completion, Driver, DriverError};
use tare_proto::frame::HEADER_LEN;
use tare_proto::hello::{HELLO_BODY_MAX, Transport};
use tare_proto::ping_pong::Progress;
use tare_stats::histogram::Sample;
use tare_units::{Instant, Nanos};

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
    /// Few others were under way when it was begun.
    pub(super) unloaded: bool,
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

    /// When what its connection does beside it begins, if it ends at `now`: as much of that came before it.
    pub(super) fn rest_begins(&self, now: Instant) -> Instant {
        self.begun_at + self.sample(now).service
    }

    /// The time since it was begun.
    pub(super) const fn since_begun(&self, now: Instant) -> Nanos {
        now.since(self.begun_at)
    }
}

/// What a slot tells the client role.
#[derive(Debug)]
pub(super) enum Event {
    /// What the dialogue has come to.
    News(News),
    /// The reply is whole.
    Replied { residence: Option<Nanos> },
    /// A datagram of an operation that was given up already.
    Stale,
}

impl Event {
    const NOTHING: Self = Self::News(News::Nothing);
}

/// One connection; see the [module](self).
#[derive(Debug)]
pub(super) struct Slot {
    dialogue: ClientSession,
    transport: Transport,
    size: u32,
    operation: Option<Operation>,
    /// The request of the operation was sent, or is being; the reply is awaited.
    awaiting: bool,
    /// What the last connect took.
    connect: Nanos,
    request: Progress,
    reply: Progress,
    /// The length of the hello that stands in the send buffer, to be sent with each request, bytes.
    hello: u32,
    /// It was told to connect before the start.
    expected: bool,
    resting_until: Option<Instant>,
    /// Since when it has been of no use: it is being closed and opened again, or has failed.
    pub(super) useless_since: Instant,
    sequence: u64,
}

impl Slot {
    pub(super) const fn new(index: u32, spec: &ClientSpec) -> Self {
        let size = spec.size_bytes as usize;
        let buffers = BufferSizes {
            receive_bytes: size + 1,
            send_bytes: if spec.dialogue.hello.connect_each {
                HEADER_LEN + HELLO_BODY_MAX + size
            } else {
                size
            },
        };
        Self {
            dialogue: ClientSession::new(index, buffers),
            transport: spec.dialogue.transport(),
            size: spec.size_bytes,
            operation: None,
            awaiting: false,
            connect: Nanos::ZERO,
            request: Progress::new(size),
            reply: Progress::new(size),
            hello: 0,
            expected: false,
            resting_until: None,
            useless_since: Instant(0),
            sequence: 0,
        }
    }

    pub(super) const fn is_dead(&self) -> bool {
        self.dialogue.is_dead()
    }

    pub(super) const fn is_brief(&self) -> bool {
        self.dialogue.is_brief()
    }

    /// Its request goes out with the hello.
    pub(super) const fn is_one_go(&self, spec: &ClientSpec) -> bool {
        self.dialogue.is_one_go(&spec.dialogue)
    }

    /// There is no socket, and nothing is outstanding.
    pub(super) fn is_quiet(&self) -> bool {
        self.dialogue.is_quiet()
    }

    /// A reply is awaited, and may come.
    const fn is_awaiting(&self) -> bool {
        self.awaiting && self.dialogue.is_open()
    }

    pub(super) const fn has_operation(&self) -> bool {
        self.operation.is_some()
    }

    /// The present operation belongs to the measured phase.
    pub(super) fn is_measured(&self) -> bool {
        self.operation.is_some_and(|operation| operation.measured)
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
        unloaded: bool,
    ) {
        let connect = Nanos::ZERO;
        self.operation =
            Some(Operation { due, begun_at: now, sent_at: now, connect, measured, unloaded });
    }

    pub(super) const fn take_operation(&mut self) -> Option<Operation> {
        self.operation.take()
    }

    /// A datagram was lost: the slot is free for the next. Returns false where it cannot be: over TCP, where
    /// nothing is lost, and while the last datagram has not left yet.
    pub(super) fn forgive(&mut self) -> bool {
        let has_left = !self.dialogue.link().is_some_and(Link::is_sending);
        let is_free = self.transport == Transport::Udp && self.is_awaiting() && has_left;
        if is_free {
            self.awaiting = false;
        }
        is_free
    }

    /// Opens a socket, to be connected later.
    pub(super) fn prepare<D: Driver>(
        &mut self,
        io: &mut D,
        spec: &ClientSpec,
    ) -> Result<(), Failure> {
        self.resting_until = None;
        self.dialogue.prepare(io, &spec.dialogue)
    }

    /// Connects; `now` is the instant of its submission.
    pub(super) fn connect<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
        brief: bool,
    ) -> Result<(), DriverError> {
        self.awaiting = false;
        self.dialogue.connect(io, now, &spec.dialogue, brief)
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
        if spec.dialogue.hello.connect_each {
            operation.connect = self.connect;
        }
        self.awaiting = true;
        match self.transport {
            Transport::Tcp => self.send_request(io, spec),
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
        if self.is_awaiting() {
            return self.give_up(io);
        }
        self.dialogue.end(io, now, &spec.dialogue, false)
    }

    /// The operation under way was taken away. Over TCP a reply may still come and would be out of step.
    pub(super) fn interrupt<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        if self.forgive() { Ok(()) } else { self.give_up(io) }
    }

    /// Closes at once, whatever is under way.
    pub(super) fn give_up<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        self.dialogue.give_up(io)
    }

    pub(super) fn handle_completion<D: Driver>(
        &mut self,
        io: &mut D,
        purpose: Purpose,
        completion: &Completion,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<Event, DriverError> {
        let heard =
            self.dialogue.handle_completion(io, purpose, completion, now, &spec.dialogue)?;
        match (heard, self.transport) {
            (SessionEvent::Received { len }, Transport::Tcp) => {
                self.handle_bytes(io, len, now, spec)
            }
            (SessionEvent::Received { len }, Transport::Udp) => {
                self.handle_datagram(io, len, now, spec)
            }
            (SessionEvent::Sent { len }, Transport::Tcp) => {
                self.handle_sent(io, len)?;
                Ok(Event::NOTHING)
            }
            (SessionEvent::Sent { .. }, Transport::Udp) => {
                self.dialogue.receive_datagram(io)?;
                Ok(Event::NOTHING)
            }
            // Not asked for here.
            (SessionEvent::SentRepeated { .. } | SessionEvent::Released { .. }, _) => {
                Ok(Event::NOTHING)
            }
            (SessionEvent::News(news), _) => {
                if let News::Connected(length) = news {
                    self.connect = length;
                }
                Ok(Event::News(news))
            }
        }
    }

    /// Deadlines and retransmissions.
    pub(super) fn handle_timers<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &ClientSpec,
    ) -> Result<News, DriverError> {
        let timeout = spec.dialogue.timeout;
        let is_late = |operation: Operation| now.since(operation.sent_at) >= timeout;
        if !(self.is_awaiting() && self.operation.is_some_and(is_late)) {
            return self.dialogue.handle_timers(io, now, &spec.dialogue);
        }
        // Lost datagrams are counted, and many: no words for each.
        Ok(News::Failed(match self.transport {
            Transport::Tcp => self.dialogue.silence(io, Stage::Receive, &spec.dialogue),
            Transport::Udp => Failure::new(Stage::Receive, Failure::TIMEOUT, None),
        }))
    }
}
