//! Sessions that stream: payload in, payload out, or both.

mod datagrams;

use super::datagrams::is_loss;
use super::{Session, Stage, Want, bytes, phase_of};
use crate::server::worker::is_departure;
use crate::worker::link::Purpose;
use crate::worker::stream::{Receiver, Sender, receive_bytes, set_options};
use tare_driver::{Driver, DriverError, OpError, Outcome};
use tare_proto::datagram::UdpServerFront;
use tare_proto::hello::{Direction, Hello, Refuse, RefuseCode, Transport};
use tare_proto::stream::{StreamAsk, StreamFigures};
use tare_units::Instant;
use tare_units::text::Id;

/// What a session that streams has beside the others.
#[derive(Debug)]
pub(super) struct Streaming {
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    /// The client's first byte or signal has come.
    started: bool,
    /// When the client was last heard of.
    heard_at: Instant,
    /// Payload moved since it was last asked for, bytes.
    moved: u64,
    /// UDP: when the client was last told that the session has ended.
    told_off_at: Instant,
    /// What the figures are to say of it; taken by them.
    pub(super) account: Option<StreamFigures>,
    /// The account was made.
    accounted: bool,
}

impl Streaming {
    pub(super) fn new(hello: &Hello, session: Id, now: Instant) -> Self {
        let (up, down) = (hello.direction.is_up(), hello.direction.is_down());
        Self {
            sender: down.then(|| Sender::new(hello, session)),
            receiver: up.then(|| Receiver::new(hello)),
            started: false,
            heard_at: now,
            moved: 0,
            told_off_at: Instant::default(),
            account: None,
            accounted: false,
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

impl<P> Session<P> {
    /// Prepares the socket of a stream.
    ///
    /// # Errors
    /// The refusal to answer with instead of the accept.
    pub(super) fn prepare_stream<D: Driver>(&mut self, io: &mut D) -> Result<(), Refuse> {
        let (Some(streaming), Some(ask)) = (&mut self.streaming, &self.hello.stream) else {
            return Ok(());
        };
        set_options(io, self.link.socket(), &ask.socket, self.transport).map_err(|refused| {
            Refuse::new(RefuseCode::Limit, refused.message("the server's kernel"))
                .remedy(format!("there: {}", refused.remedy()))
        })?;
        if let Some(receiver) = &mut streaming.receiver {
            receiver.prepare(io, &self.link);
        }
        if let Some(sender) = &mut streaming.sender {
            sender.prepare(io, &self.link, self.accept.instance.0);
        }
        Ok(())
    }

    /// Pushes the next receive of a stream.
    pub(super) fn receive_stream<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        if self.link.is_receiving() {
            return Ok(());
        }
        let awaits_payload = self.stage == Stage::Exchanging && !self.is_ended();
        let receiver = self.streaming.as_mut().and_then(|s| s.receiver.as_mut());
        match receiver.filter(|_| awaits_payload) {
            Some(receiver) => receiver.receive(io, &mut self.link, self.active_at),
            _ => self.link.receive(io, 0, bytes(receive_bytes(self.transport))),
        }
    }

    /// Payload that was moved since the last call, bytes.
    #[inline]
    pub(in super::super) fn take_moved(&mut self) -> u64 {
        self.streaming.as_mut().map_or(0, |s| std::mem::take(&mut s.moved))
    }

    /// It sends on a schedule.
    pub(in super::super) fn is_paced(&self) -> bool {
        let paced = |ask: &StreamAsk| ask.rate_bits_per_s > 0;
        self.hello.direction.is_down() && self.hello.stream.as_ref().is_some_and(paced)
    }

    /// When a paced stream wants [`Session::poll_stream`] to be called.
    pub(in super::super) fn due(&self) -> Option<Instant> {
        let sender = self.streaming.as_ref()?.sender.as_ref()?;
        sender.due(&self.link).filter(|_| !self.link.is_closing())
    }

    /// Sends what is due at `now`, the instant of the submission.
    pub(in super::super) fn poll_stream<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        match self.streaming.as_mut().and_then(|s| s.sender.as_mut()) {
            Some(sender) if !self.link.is_closing() => sender.poll_submit(io, &mut self.link, now),
            _ => Ok(()),
        }
    }

    pub(super) fn handle_streaming<D: Driver>(
        &mut self,
        io: &mut D,
        purpose: Purpose,
        outcome: &Outcome,
        now: Instant,
        front: &UdpServerFront,
    ) -> Result<Want, DriverError> {
        match (purpose, outcome) {
            (Purpose::Receive, Outcome::Received(n)) => match self.transport {
                Transport::Tcp => self.handle_payload(io, *n, now),
                Transport::Udp => self.handle_stream_datagrams(io, *n, now, front),
            },
            (Purpose::Send, Outcome::Sent(n)) => self.handle_stream_sent(io, 1, u64::from(*n), now),
            (Purpose::Send, Outcome::SentRepeated { sends, bytes }) => {
                self.handle_stream_sent(io, *sends, *bytes, now)
            }
            (Purpose::Send, Outcome::Released { copied }) => {
                if let Some(sender) = self.streaming.as_mut().and_then(|s| s.sender.as_mut()) {
                    sender.handle_released(io, &mut self.link, *copied, now)?;
                }
                self.check_stream(io, now)
            }
            (Purpose::SendControl, Outcome::Sent(n)) => {
                let want = self.handle_control_sent(io, *n, now)?;
                self.resume_stream(io, want, now)
            }
            (Purpose::Send, Outcome::Failed(error))
                if self.transport == Transport::Udp && is_loss(*error) =>
            {
                // The device's queue is full, or the path is away: where nothing is paced, the next datagram takes the
                // place of this one.
                self.count_error("send", error.name());
                self.handle_stream_sent(io, 0, 0, now)
            }
            (Purpose::Send, Outcome::Failed(error)) if self.handle_uncut(io, *error) => {
                self.handle_stream_sent(io, 0, 0, now)
            }
            (Purpose::SendControl, Outcome::Failed(error))
                if self.transport == Transport::Udp && is_loss(*error) =>
            {
                let want = self.handle_loss(io, purpose, *error)?;
                self.resume_stream(io, want, now)
            }
            (_, Outcome::Failed(error)) => {
                if !is_departure(outcome) {
                    self.count_error(phase_of(purpose), error.name());
                }
                Ok(Want::Close)
            }
            _ => Ok(Want::Nothing),
        }
    }

    fn handle_uncut<D: Driver>(&mut self, io: &mut D, error: OpError) -> bool {
        let sender = self.streaming.as_mut().and_then(|s| s.sender.as_mut());
        sender.is_some_and(|sender| sender.handle_uncut(io, &self.link, error))
    }

    /// A control frame has left the socket to payload.
    fn resume_stream<D: Driver>(
        &mut self,
        io: &mut D,
        want: Want,
        now: Instant,
    ) -> Result<Want, DriverError> {
        if want != Want::Nothing || self.stage != Stage::Exchanging {
            return Ok(want);
        }
        if let Some(sender) = self.streaming.as_mut().and_then(|s| s.sender.as_mut()) {
            sender.resume(io, &mut self.link, now)?;
        }
        self.check_stream(io, now)
    }

    fn handle_stream_sent<D: Driver>(
        &mut self,
        io: &mut D,
        sends: u32,
        bytes: u64,
        now: Instant,
    ) -> Result<Want, DriverError> {
        self.sent_bytes += bytes;
        self.active_at = now;
        // Answers have waited for the socket; payload waits for them in turn.
        if let Some(next) = self.answers.pop_front() {
            self.link.send_control(io, &next)?;
        }
        if let Some(streaming) = &mut self.streaming {
            streaming.moved += bytes;
            if let Some(sender) = &mut streaming.sender {
                sender.handle_sent(io, &mut self.link, bytes, now)?;
            }
            self.measured |= streaming.is_measuring(now);
        }
        self.completed += u64::from(sends);
        self.check_stream(io, now)
    }

    /// TCP: payload, or the byte that starts the test, or the client's end.
    fn handle_payload<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
    ) -> Result<Want, DriverError> {
        if n == 0 {
            self.client_ended = true;
            return match self.stage {
                Stage::Draining => Ok(Want::Close),
                Stage::Reporting => Ok(Want::Nothing),
                Stage::Exchanging => self.stop_stream(io, now),
            };
        }
        self.received_bytes += u64::from(n);
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
        self.receive_stream(io)?;
        self.check_stream(io, now)
    }

    /// The client has begun.
    fn start_stream<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        let Some(streaming) = &mut self.streaming else {
            return Ok(());
        };
        if std::mem::replace(&mut streaming.started, true) || self.ended_at.is_some() {
            return Ok(());
        }
        match &mut streaming.sender {
            Some(sender) => sender.start(io, &mut self.link, now),
            None => Ok(()),
        }
    }

    /// No more payload counts, and none is sent.
    pub(in super::super) fn stop_stream<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<Want, DriverError> {
        self.ended_at.get_or_insert(now);
        if let Some(streaming) = &mut self.streaming
            && let Some(sender) = &mut streaming.sender
        {
            sender.finish(io, &self.link, now);
        }
        self.check_stream(io, now)
    }

    /// Whether it is time for the figures: the client has ended, or all that was asked for is sent; and nothing is on
    /// its way any more that they would have to wait for.
    fn check_stream<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<Want, DriverError> {
        let Some(streaming) = &mut self.streaming else {
            return Ok(Want::Nothing);
        };
        let by_bytes = self.hello.stream.as_ref().is_some_and(|ask| ask.bytes > 0);
        if by_bytes
            && self.transport == Transport::Tcp
            && self.hello.direction == Direction::Down
            && streaming.started
            && streaming.is_sent()
        {
            self.ended_at.get_or_insert(now);
        }
        let is_busy = self.link.is_sending()
            || (self.transport == Transport::Tcp && self.link.is_sending_control());
        if self.ended_at.is_none() || is_busy || streaming.accounted {
            return Ok(Want::Nothing);
        }
        streaming.accounted = true;
        let sent = streaming.sender.take().map(|s| s.figures(io, &self.link, now));
        let received = streaming.receiver.take().map(|mut receiver| {
            receiver.finish(io, &self.link);
            receiver.figures(io, &self.link, now)
        });
        streaming.account = Some(StreamFigures { sent, received });
        if self.transport == Transport::Udp && self.fetches.is_empty() {
            return Ok(Want::Nothing);
        }
        Ok(Want::Report)
    }
}
