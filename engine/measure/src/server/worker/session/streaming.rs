//! Sessions that stream: payload in, payload out, or both.

use super::{Result, Session, Stage, Want};
use crate::worker::stream::{Receiver, Sender, set_options};
use tare_driver::{Driver, OpError};
use tare_proto::hello::{Direction, Hello, Refuse, RefuseCode, Transport};
use tare_proto::stream::StreamFigures;
use tare_units::Instant;
use tare_units::text::Id;

#[derive(Debug)]
pub(super) struct Streaming {
    sender: Option<Sender>,
    pub(super) receiver: Option<Receiver>,
    pub(super) started: bool,
    pub(super) heard_at: Instant,
    /// Payload moved since it was last asked for, bytes.
    pub(super) moved: u64,
    /// UDP: when the client was last told that the session has ended.
    pub(super) ended_told_at: Instant,
    /// What the figures are to say of it; taken by them.
    pub(super) account: Option<StreamFigures>,
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
            ended_told_at: Instant::default(),
            account: None,
            accounted: false,
        }
    }

    pub(super) fn is_measuring(&self, now: Instant) -> bool {
        self.sender.as_ref().is_some_and(|s| s.is_measuring(now))
            || self.receiver.as_ref().is_some_and(|r| r.is_measuring(now))
    }

    pub(super) fn is_sent(&self) -> bool {
        self.sender.as_ref().is_none_or(Sender::is_finished)
    }
}

impl<P> Session<P> {
    /// Prepares the socket of a stream; where it cannot, the refusal answers instead of the accept.
    pub(super) fn prepare_stream(&mut self, io: &mut impl Driver) -> Result<(), Refuse> {
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

    /// Payload that was moved since the last call, bytes.
    #[inline]
    pub(crate) fn take_moved(&mut self) -> u64 {
        self.streaming.as_mut().map_or(0, |s| std::mem::take(&mut s.moved))
    }

    /// When a paced stream wants [`Session::poll_stream`] to be called.
    pub(crate) fn due(&self) -> Option<Instant> {
        let sender = self.streaming.as_ref()?.sender.as_ref()?;
        sender.due(&self.link).filter(|_| !self.link.is_closing())
    }

    /// Sends what is due at `now`, the instant of the submission.
    pub(crate) fn poll_stream(&mut self, io: &mut impl Driver, now: Instant) -> Result {
        match self.streaming.as_mut().and_then(|s| s.sender.as_mut()) {
            Some(sender) if !self.link.is_closing() => sender.poll_submit(io, &mut self.link, now),
            _ => Ok(()),
        }
    }

    /// The kernel is done with a zero-copy send.
    pub(super) fn handle_released(
        &mut self,
        io: &mut impl Driver,
        copied: bool,
        now: Instant,
    ) -> Result<Want> {
        if let Some(sender) = self.streaming.as_mut().and_then(|s| s.sender.as_mut()) {
            sender.handle_released(io, &mut self.link, copied, now)?;
        }
        self.check_stream(io, now)
    }

    /// Whether the kernel refused a send only because it does not cut messages into datagrams.
    pub(super) fn handle_uncut(&mut self, io: &mut impl Driver, error: OpError) -> bool {
        let sender = self.streaming.as_mut().and_then(|s| s.sender.as_mut());
        sender.is_some_and(|sender| sender.handle_uncut(io, &self.link, error))
    }

    /// A control frame has left the socket to payload.
    pub(super) fn resume_stream(
        &mut self,
        io: &mut impl Driver,
        want: Want,
        now: Instant,
    ) -> Result<Want> {
        if want != Want::Nothing || self.stage != Stage::Exchanging {
            return Ok(want);
        }
        if let Some(sender) = self.streaming.as_mut().and_then(|s| s.sender.as_mut()) {
            sender.resume(io, &mut self.link, now)?;
        }
        self.check_stream(io, now)
    }

    pub(super) fn handle_stream_sent(
        &mut self,
        io: &mut impl Driver,
        sends: u32,
        bytes: u64,
        now: Instant,
    ) -> Result<Want> {
        self.sent_bytes += bytes;
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
        self.completed += u64::from(sends);
        self.check_stream(io, now)
    }

    /// TCP: payload, or the byte that starts the test.
    pub(super) fn handle_payload(
        &mut self,
        io: &mut impl Driver,
        n: u32,
        now: Instant,
    ) -> Result<Want> {
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
        self.receive_next(io)?;
        self.check_stream(io, now)
    }

    pub(super) fn start_stream(&mut self, io: &mut impl Driver, now: Instant) -> Result {
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
    pub(crate) fn stop_stream(&mut self, io: &mut impl Driver, now: Instant) -> Result<Want> {
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
    pub(super) fn check_stream(&mut self, io: &mut impl Driver, now: Instant) -> Result<Want> {
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
