//! Sessions that stream: payload in, payload out, or both.

use super::{Session, Stage, Want, bytes, phase_of};
use crate::driver::{Driver, DriverError, OpError, Outcome, SocketOption};
use crate::limits::CONTROL_DATAGRAM;
use crate::proto::datagram::{
    DATA_HEADER_LEN, DataHeader, Document, ENDED, FrontAction, UdpServerFront, serve_document,
};
use crate::proto::hello::{Direction, Hello, Refuse, RefuseCode, Transport};
use crate::proto::stream::{
    SIGNALS_LOST_AFTER, SocketOptions, StreamAsk, StreamFigures, StreamHeader, StreamKind,
};
use crate::units::Instant;
use crate::worker::link::Purpose;
use crate::worker::server::is_departure;
use crate::worker::stream::{self, Receiver, Sender, receive_bytes};

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
    pub(super) account: Option<StreamFigures>,
}

impl Streaming {
    pub(super) fn new(hello: &Hello, session: crate::proto::text::Id, now: Instant) -> Self {
        let ask = hello.stream.as_ref();
        let expected = ask.and_then(|ask| (ask.bytes > 0).then_some(ask.bytes));
        // Over UDP some of it may never come.
        let expected = expected.filter(|_| hello.transport == Transport::Tcp);
        let (up, down) = (hello.direction.is_up(), hello.direction.is_down());
        Self {
            sender: down.then(|| Sender::new(hello, session)),
            receiver: up.then(|| Receiver::new(hello, expected)),
            started: false,
            heard_at: now,
            moved: 0,
            account: None,
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

/// Sets the options that were asked for on the server's socket.
fn set_options<D: Driver>(
    io: &mut D,
    socket: crate::driver::SocketId,
    asked: &SocketOptions,
    transport: Transport,
) -> Result<(), Refuse> {
    for option in stream::socket_options(asked, transport) {
        io.set_option(socket, &option)
            .map_err(|error| refusal(&option, error))?;
    }
    Ok(())
}

fn refusal(option: &SocketOption, error: OpError) -> Refuse {
    match option {
        SocketOption::Congestion(name) => {
            let message =
                format!("the server's kernel does not offer congestion control '{name}': {error}");
            Refuse::new(RefuseCode::Limit, message)
                .remedy("there: sysctl net.ipv4.tcp_available_congestion_control; modprobe tcp_NAME adds one")
        }
        option => {
            let message = format!("the server's kernel refuses {option:?}: {error}");
            Refuse::new(RefuseCode::Limit, message).remedy("leave that option out")
        }
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
        set_options(io, self.link.socket(), &ask.socket, self.transport)?;
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
        let receiver = self.streaming.as_ref().and_then(|s| s.receiver.as_ref());
        match receiver {
            Some(receiver) if self.stage == Stage::Exchanging && !self.is_ended() => {
                receiver.receive(io, &mut self.link)
            }
            _ => self
                .link
                .receive(io, 0, bytes(receive_bytes(self.transport))),
        }
    }

    /// Payload that was moved since the last call, bytes.
    #[inline]
    pub(in super::super) fn take_moved(&mut self) -> u64 {
        self.streaming
            .as_mut()
            .map_or(0, |s| std::mem::take(&mut s.moved))
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
            (Purpose::Send, Outcome::Sent(n)) => self.handle_stream_sent(io, 0, u64::from(*n), now),
            (Purpose::Send, Outcome::SentRepeated { sends, bytes }) => {
                self.handle_stream_sent(io, *sends, *bytes, now)
            }
            (Purpose::Send, Outcome::Released { copied }) => {
                if let Some(sender) = self.streaming.as_mut().and_then(|s| s.sender.as_mut()) {
                    sender.handle_released(io, &mut self.link, *copied, now)?;
                }
                self.check_stream(io, now)
            }
            (Purpose::SendControl, Outcome::Sent(n)) => self.handle_control_sent(io, *n, now),
            (Purpose::Send, Outcome::Failed(OpError::NoBuffers))
                if self.transport == Transport::Udp =>
            {
                // The device's queue is full: what was not sent is sent again.
                self.count_error("send", OpError::NoBuffers.name());
                self.handle_stream_sent(io, 0, 0, now)
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

    fn handle_stream_sent<D: Driver>(
        &mut self,
        io: &mut D,
        sends: u32,
        bytes: u64,
        now: Instant,
    ) -> Result<Want, DriverError> {
        self.sent_bytes += bytes;
        self.active_at = now;
        if let Some(streaming) = &mut self.streaming {
            streaming.moved += bytes;
            if let Some(sender) = &mut streaming.sender {
                sender.handle_sent(io, &mut self.link, sends, bytes, now)?;
            }
            self.measured |= streaming.is_measuring(now);
        }
        self.completed += u64::from(sends.max(1));
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

    fn handle_stream_datagrams<D: Driver>(
        &mut self,
        io: &mut D,
        n: u32,
        now: Instant,
        front: &UdpServerFront,
    ) -> Result<Want, DriverError> {
        self.received_bytes += u64::from(n);
        let session = self.accept.session.unwrap_or_default();
        let all = &io.buffer(self.link.receive_buffer())[..n as usize];
        let mut rest = Some((0, all.len()));
        if let Some(streaming) = &mut self.streaming {
            streaming.moved += u64::from(n);
            let is_payload = |d: &[u8]| {
                StreamHeader::decode(d)
                    .is_some_and(|h| h.kind == StreamKind::Payload && h.session == session)
            };
            if is_payload(all) {
                streaming.heard_at = now;
                self.active_at = now;
                if let Some(receiver) = &mut streaming.receiver
                    && self.ended_at.is_none()
                {
                    rest = receiver.handle_datagrams(all, session, now);
                } else {
                    rest = None;
                }
            }
            self.measured |= streaming.is_measuring(now);
        }
        if rest.is_none() {
            self.start_stream(io, now)?;
        }
        let mut want = Want::Nothing;
        if let Some((start, end)) = rest {
            let mut control = [0; CONTROL_DATAGRAM + 1];
            // Several of a client's control datagrams may have been taken at once: they all have one length.
            let mut at = start;
            while at < end && want == Want::Nothing {
                let until = (at + CONTROL_DATAGRAM).min(end);
                let length = until - at;
                control[..length]
                    .copy_from_slice(&io.buffer(self.link.receive_buffer())[at..until]);
                want = self.handle_stream_control(io, &control[..length], now, front)?;
                at = until;
            }
        }
        if want != Want::Nothing {
            return Ok(want);
        }
        self.receive_stream(io)?;
        self.check_stream(io, now)
    }

    fn handle_stream_control<D: Driver>(
        &mut self,
        io: &mut D,
        datagram: &[u8],
        now: Instant,
        front: &UdpServerFront,
    ) -> Result<Want, DriverError> {
        let Some(peer) = self.peer else {
            return Ok(Want::Close);
        };
        match front.handle_datagram(datagram, peer, now) {
            // A signal.
            FrontAction::Data(header) if Some(header.session) == self.accept.session => {
                self.handle_signal(io, header, now)?;
            }
            FrontAction::Session(request) if Some(request.key.nonce) == self.nonce => {
                let answer = self.accept.encode_short();
                self.answer(io, &answer)?;
            }
            FrontAction::Session(_) => return Ok(Want::Close),
            FrontAction::Reply(answer) => self.answer(io, &answer)?,
            FrontAction::Fetch(fetch) if Some(fetch.session) == self.accept.session => {
                self.active_at = now;
                if fetch.document == Document::Figures {
                    self.told_at = Some(now);
                    self.fetches.push(fetch);
                    let want = self.stop_stream(io, now)?;
                    self.receive_stream(io)?;
                    return Ok(if self.link.is_sending() {
                        want
                    } else {
                        Want::Report
                    });
                }
                let document = serde_json::to_vec(&self.accept.environment);
                if let Some(chunk) = serve_document(&fetch, &document.unwrap_or_default()) {
                    self.answer(io, &chunk)?;
                }
            }
            _ => {}
        }
        Ok(Want::Nothing)
    }

    fn handle_signal<D: Driver>(
        &mut self,
        io: &mut D,
        header: DataHeader,
        now: Instant,
    ) -> Result<(), DriverError> {
        self.active_at = now;
        if self.is_ended() {
            let answer: Option<[u8; DATA_HEADER_LEN]> = header.turned_away(ENDED);
            return match answer {
                Some(answer) if self.cut_short.is_some() => self.answer(io, &answer),
                _ => Ok(()),
            };
        }
        if let Some(streaming) = &mut self.streaming {
            streaming.heard_at = now;
        }
        self.start_stream(io, now)
    }

    /// Whether the client of a stream over UDP has not been heard of for too long to be sent to.
    pub(super) fn is_unheard(&self, now: Instant) -> bool {
        self.transport == Transport::Udp
            && self.streaming.as_ref().is_some_and(|streaming| {
                streaming.started
                    && !streaming.is_sent()
                    && now.since(streaming.heard_at) > SIGNALS_LOST_AFTER
            })
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
        if self.ended_at.is_none() || self.link.is_sending() || streaming.account.is_some() {
            return Ok(Want::Nothing);
        }
        let sent = streaming
            .sender
            .take()
            .map(|s| s.figures(io, &self.link, now));
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
