//! One connection of a bulk test: a dialogue, and on it a sender, a receiver, or both.

use super::spec::{BulkSpec, StreamAccount};
use crate::driver::{Completion, Driver, DriverError, OpError, Outcome, SocketId, SocketOption};
use crate::error::Error;
use crate::proto::datagram::DataHeader;
use crate::proto::hello::{Accept, Figures, Transport};
use crate::proto::stream::{SIGNAL_EVERY, SocketOptions, StreamFigures, StreamHeader, StreamKind};
use crate::units::{Instant, Nanos};
use crate::worker::dialogue::{BufferSizes, Dialogue, DialogueSpec, Failure, Heard, News};
use crate::worker::errors::Stage;
use crate::worker::link::Purpose;
use crate::worker::stream::{Receiver, Sender, receive_bytes, send_bytes};

/// After the last datagram was sent, stragglers are given so long to arrive.
const STRAGGLERS: Nanos = Nanos::from_millis(100);

/// One stream.
#[derive(Debug)]
pub(super) struct Slot {
    dialogue: Dialogue,
    spec: DialogueSpec,
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    expected: bool,
    /// It has begun, at this instant.
    began_at: Option<Instant>,
    /// Neither sends nor counts any more.
    stopped: bool,
    /// The dialogue was asked to end.
    ending: bool,
    /// When something last moved.
    moved_at: Instant,
    signalled_at: Instant,
    signals: u64,
    /// Bytes in the kernel's send queue, as last looked at while ending.
    queue: u64,
    account: StreamAccount,
}

impl Slot {
    pub(super) fn new(index: u32, spec: &BulkSpec) -> Self {
        let mut dialogue = spec.dialogue.clone();
        let number = spec.first + index;
        if let Some(ask) = &mut dialogue.hello.stream {
            let streams = u64::from(ask.streams.max(1));
            ask.stream = number;
            ask.bytes = spec.bytes / streams + u64::from(u64::from(number) < spec.bytes % streams);
        }
        let buffers = BufferSizes {
            receive_bytes: receive_bytes(dialogue.transport()),
            send_bytes: if dialogue.hello.direction.is_up() {
                send_bytes(&dialogue.hello)
            } else {
                0
            },
        };
        Self {
            dialogue: Dialogue::new(index, buffers),
            spec: dialogue,
            sender: None,
            receiver: None,
            expected: false,
            began_at: None,
            stopped: false,
            ending: false,
            moved_at: Instant::default(),
            signalled_at: Instant::default(),
            signals: 0,
            queue: 0,
            account: StreamAccount::default(),
        }
    }

    pub(super) const fn is_dead(&self) -> bool {
        self.dialogue.is_dead()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.dialogue.is_quiet()
    }

    /// It is over, or about to be.
    pub(super) const fn is_ending(&self) -> bool {
        self.ending || self.dialogue.is_dead()
    }

    /// It has begun and its end is still to come.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.dialogue.is_dead() && !self.dialogue.is_quiet()
    }

    pub(super) const fn settle(&mut self) -> bool {
        std::mem::replace(&mut self.expected, false)
    }

    /// Both ends' account; `None` where it never came to a session.
    pub(super) fn into_account(self) -> Option<StreamAccount> {
        let known = self.account.own != StreamFigures::default() || self.account.theirs.is_some();
        known.then_some(self.account)
    }

    pub(super) fn handle_figures(&mut self, figures: Figures) {
        self.account.theirs = Some(figures);
    }

    pub(super) fn connect<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &BulkSpec,
    ) -> Result<Result<(), Failure>, DriverError> {
        if let Err(failure) = self.dialogue.prepare(io, &self.spec) {
            return Ok(Err(failure));
        }
        if let Some(socket) = self.dialogue.socket()
            && let Err(error) = set_options(io, socket, &spec.options, self.spec.transport())
        {
            return Ok(Err(Failure::new(Stage::Connect, "option", Some(error))));
        }
        self.expected = true;
        self.dialogue.connect(io, now, &self.spec, false).map(Ok)
    }

    pub(super) fn handle_accepted<D: Driver>(
        &mut self,
        io: &mut D,
        accept: &Accept,
        spec: &BulkSpec,
    ) {
        let hello = &self.spec.hello;
        let bytes = hello.stream.as_ref().map_or(0, |ask| ask.bytes);
        let expected = (bytes > 0 && hello.transport == Transport::Tcp).then_some(bytes);
        let Some(link) = self.dialogue.link() else {
            return;
        };
        if hello.direction.is_up() {
            let mut sender = Sender::new(hello, accept.session.unwrap_or_default());
            sender.prepare(io, link, spec.dialogue.nonce);
            self.sender = Some(sender);
        }
        if hello.direction.is_down() {
            let mut receiver = Receiver::new(hello, expected);
            receiver.prepare(io, link);
            self.receiver = Some(receiver);
        }
    }

    /// The test begins.
    pub(super) fn begin<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        (self.began_at, self.moved_at) = (Some(now), now);
        self.receive(io)?;
        if self.spec.transport() == Transport::Udp && self.sender.is_none() {
            self.signal(io, now)?;
        }
        let Some(link) = self.dialogue.link_mut() else {
            return Ok(());
        };
        match &mut self.sender {
            Some(sender) => sender.start(io, link, now),
            None if self.spec.transport() == Transport::Tcp => link.send(io, 0, 1),
            None => Ok(()),
        }
    }

    /// Tells the server, over UDP, that this end is there.
    fn signal<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        let session = self.dialogue.session();
        let Some(link) = self.dialogue.link_mut() else {
            return Ok(());
        };
        if link.is_sending_control() || link.is_sending() {
            return Ok(());
        }
        self.signalled_at = now;
        let mut datagram = [0; crate::proto::datagram::DATA_HEADER_LEN];
        let header = StreamHeader {
            kind: StreamKind::Signal,
            measured: false,
            sequence: self.signals,
            session,
        };
        header.encode_into(&mut datagram, now);
        self.signals += 1;
        link.send_control(io, &datagram)
    }

    /// Awaits payload, or where none is to come the server's word.
    fn receive<D: Driver>(&mut self, io: &mut D) -> Result<(), DriverError> {
        let transport = self.spec.transport();
        let Some(link) = self.dialogue.link_mut() else {
            return Ok(());
        };
        if link.is_receiving() {
            return Ok(());
        }
        match &self.receiver {
            Some(receiver) => receiver.receive(io, link),
            None => link.receive(
                io,
                0,
                u32::try_from(receive_bytes(transport)).unwrap_or(u32::MAX),
            ),
        }
    }

    /// When [`Slot::poll_submit`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.sender.as_ref()?.due(self.dialogue.link()?)
    }

    pub(super) fn poll_submit<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        if let (Some(sender), Some(link)) = (&mut self.sender, self.dialogue.link_mut()) {
            sender.poll_submit(io, link, now)?;
        }
        Ok(())
    }

    /// Returns what the dialogue came to, and the payload moved, bytes.
    pub(super) fn handle_completion<D: Driver>(
        &mut self,
        io: &mut D,
        purpose: Purpose,
        completion: &Completion,
        now: Instant,
    ) -> Result<(News, u64), DriverError> {
        if purpose == Purpose::Send
            && completion.outcome == Outcome::Failed(OpError::NoBuffers)
            && self.spec.transport() == Transport::Udp
        {
            return self.retry(io, completion, now);
        }
        let heard = self
            .dialogue
            .handle_completion(io, purpose, completion, now, &self.spec)?;
        let moved = match heard {
            Heard::News(news) => return Ok((news, 0)),
            Heard::Received { len } => return self.handle_received(io, len, now),
            Heard::Sent { len } => self.handle_sent(io, 0, u64::from(len), now)?,
            Heard::SentRepeated { sends, bytes } => self.handle_sent(io, sends, bytes, now)?,
            Heard::Released { copied } => {
                if let (Some(sender), Some(link)) = (&mut self.sender, self.dialogue.link_mut()) {
                    sender.handle_released(io, link, copied, now)?;
                }
                0
            }
        };
        self.check(io, now)?;
        Ok((News::Nothing, moved))
    }

    /// The device's queue was full: what was not sent is sent again.
    fn retry<D: Driver>(
        &mut self,
        io: &mut D,
        completion: &Completion,
        now: Instant,
    ) -> Result<(News, u64), DriverError> {
        if let (Some(sender), Some(link)) = (&mut self.sender, self.dialogue.link_mut()) {
            link.handle(Purpose::Send, &completion.outcome, completion.more);
            sender.handle_sent(io, link, 0, 0, now)?;
        }
        Ok((News::Nothing, 0))
    }

    fn handle_sent<D: Driver>(
        &mut self,
        io: &mut D,
        sends: u32,
        bytes: u64,
        now: Instant,
    ) -> Result<u64, DriverError> {
        self.moved_at = now;
        match (&mut self.sender, self.dialogue.link_mut()) {
            (Some(sender), Some(link)) => {
                sender.handle_sent(io, link, sends, bytes, now)?;
                Ok(bytes)
            }
            // The byte that starts the server.
            _ => Ok(0),
        }
    }

    fn handle_received<D: Driver>(
        &mut self,
        io: &mut D,
        len: u32,
        now: Instant,
    ) -> Result<(News, u64), DriverError> {
        let Some(link) = self.dialogue.link() else {
            return Ok((News::Nothing, 0));
        };
        let buffer = link.receive_buffer();
        if self.spec.transport() == Transport::Udp {
            return self.handle_datagrams(io, len, now);
        }
        let bytes = &io.buffer(buffer)[..len as usize];
        let payload = match &self.receiver {
            Some(receiver) => receiver.payload_of(bytes),
            // None is to come: it is the server's word.
            None => 0,
        };
        let payload = u32::try_from(payload).unwrap_or(len);
        if payload > 0
            && let Some(receiver) = &mut self.receiver
        {
            self.moved_at = now;
            receiver.handle_received(io, link, payload, now);
        }
        if payload < len {
            self.close_account(io, now);
            let news = self
                .dialogue
                .handle_early_figures(io, payload..len, now, &self.spec)?;
            return Ok((news, u64::from(payload)));
        }
        self.check(io, now)?;
        if !self.ending && !self.is_through(now) && !self.stopped {
            self.receive(io)?;
        }
        Ok((News::Nothing, u64::from(payload)))
    }

    fn handle_datagrams<D: Driver>(
        &mut self,
        io: &mut D,
        len: u32,
        now: Instant,
    ) -> Result<(News, u64), DriverError> {
        let session = self.dialogue.session();
        let Some(link) = self.dialogue.link() else {
            return Ok((News::Nothing, 0));
        };
        let bytes = &io.buffer(link.receive_buffer())[..len as usize];
        let before = self.receiver.as_ref().map_or(0, Receiver::total);
        let rest = match &mut self.receiver {
            Some(receiver) => receiver.handle_datagrams(bytes, session, now),
            None => Some((0, bytes.len())),
        };
        let told = rest.and_then(|(start, end)| DataHeader::decode(&bytes[start..end]));
        let moved = self.receiver.as_ref().map_or(0, Receiver::total) - before;
        if moved > 0 {
            self.moved_at = now;
        }
        if let Some(header) = told.filter(|h| h.reply && h.session == session)
            && let Some(news) = self
                .dialogue
                .handle_flags(io, header.flags, now, &self.spec)?
        {
            self.close_account(io, now);
            return Ok((news, moved));
        }
        self.check(io, now)?;
        self.receive(io)?;
        Ok((News::Nothing, moved))
    }

    /// Ends the dialogue once the stream is through.
    fn check<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        if self.ending || !self.is_sent(now) {
            return Ok(());
        }
        let Some(link) = self.dialogue.link() else {
            return Ok(());
        };
        // What is being thrown away is seen by nobody, so the figures must not be among it.
        let discards = self
            .spec
            .hello
            .stream
            .as_ref()
            .is_some_and(|ask| ask.discard);
        if link.is_sending()
            || link.is_sending_control()
            || (discards && link.is_receiving() && self.receiver.is_some())
        {
            return Ok(());
        }
        self.ending = true;
        self.close_account(io, now);
        let skips = self.spec.hello.direction.is_down();
        self.dialogue.end(io, now, &self.spec, skips)
    }

    fn is_sent(&self, now: Instant) -> bool {
        let udp = self.spec.transport() == Transport::Udp;
        let through = self.stopped || self.is_through(now);
        // The last ones are given time to arrive before the server is asked what came.
        through
            && (!udp
                || self.sender.is_none()
                || now.since(self.moved_at) >= STRAGGLERS
                || self.stopped)
    }

    /// Nothing is left to be sent, and nothing more is waited for.
    fn is_through(&self, now: Instant) -> bool {
        let ask = self.spec.hello.stream.as_ref();
        let duration = ask.map_or(0, |ask| ask.duration_ns);
        let warmup = ask.map_or(0, |ask| ask.warmup_ns);
        let Some(began_at) = self.began_at else {
            return false;
        };
        if self
            .sender
            .as_ref()
            .is_some_and(|sender| !sender.is_finished())
        {
            return false;
        }
        let Some(receiver) = &self.receiver else {
            return true;
        };
        match (self.spec.transport(), duration) {
            (Transport::Tcp, _) => receiver.is_complete(now),
            // Nobody says which datagram is the last.
            (Transport::Udp, 0) => receiver.total() > 0 && now.since(self.moved_at) > STRAGGLERS,
            (Transport::Udp, ns) => now >= began_at + Nanos(warmup) + Nanos(ns) + STRAGGLERS,
        }
    }

    /// Stops the stream wherever it is.
    pub(super) fn stop<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        if self.ending || self.dialogue.is_dead() {
            return Ok(());
        }
        if self.began_at.is_none() {
            self.ending = true;
            return self.dialogue.end(io, now, &self.spec, false);
        }
        self.stopped = true;
        if let (Some(sender), Some(link)) = (&mut self.sender, self.dialogue.link()) {
            sender.finish(io, link, now);
        }
        self.check(io, now)
    }

    /// Writes down this end's account, while there is a socket to ask.
    fn close_account<D: Driver>(&mut self, io: &mut D, now: Instant) {
        let Some(link) = self.dialogue.link() else {
            return;
        };
        if let Some(mut sender) = self.sender.take() {
            sender.finish(io, link, now);
            self.account.own.sent = Some(sender.figures(io, link, now));
        }
        if let Some(mut receiver) = self.receiver.take() {
            receiver.finish(io, link);
            self.account.own.received = Some(receiver.figures(io, link, now));
        }
    }

    pub(super) fn give_up<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        if self.began_at.is_some() {
            self.close_account(io, now);
        }
        self.dialogue.give_up(io)
    }

    /// Deadlines, signals, and ends that come by time.
    pub(super) fn handle_timers<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        spec: &BulkSpec,
    ) -> Result<News, DriverError> {
        let news = self.dialogue.handle_timers(io, now, &self.spec)?;
        if !matches!(news, News::Nothing) {
            return Ok(news);
        }
        if self.ending {
            self.watch_queue(io, now);
            return Ok(News::Nothing);
        }
        if self.began_at.is_none() || !self.dialogue.is_open() {
            return Ok(News::Nothing);
        }
        let signals = self.spec.transport() == Transport::Udp && self.sender.is_none();
        if signals && now.since(self.signalled_at) >= SIGNAL_EVERY {
            self.signal(io, now)?;
        }
        self.check(io, now)?;
        if !self.ending && now.since(self.moved_at) > self.patience(spec) {
            let stage = if self.sender.is_some() {
                Stage::Send
            } else {
                Stage::Receive
            };
            return Ok(News::Failed(Failure::silence(stage, &self.spec)));
        }
        Ok(News::Nothing)
    }

    /// How long nothing may move.
    fn patience(&self, spec: &BulkSpec) -> Nanos {
        let ask = self.spec.hello.stream.clone().unwrap_or_default();
        let streams = u64::from(ask.streams.max(1));
        let bytes = self.spec.hello.size_bytes.saturating_mul(streams);
        let per_s = ask.rate_bits_per_s / 8;
        let gaps = bytes.saturating_mul(4_000_000_000).checked_div(per_s);
        let gap = gaps.unwrap_or(0);
        Nanos(spec.dialogue.timeout.0.max(gap))
    }

    /// As long as the far end takes what was sent, its figures are awaited.
    fn watch_queue<D: Driver>(&mut self, io: &D, now: Instant) {
        let queue = self
            .dialogue
            .socket()
            .and_then(|socket| io.send_queue_bytes(socket));
        if let Some(queue) = queue
            && queue != self.queue
        {
            self.queue = queue;
            self.dialogue.extend(now + self.spec.timeout);
        }
    }
}

/// Sets the options that were asked for on this end's socket, before it is connected.
fn set_options<D: Driver>(
    io: &mut D,
    socket: SocketId,
    asked: &SocketOptions,
    transport: Transport,
) -> Result<(), Error> {
    for option in crate::worker::stream::socket_options(asked, transport) {
        io.set_option(socket, &option).map_err(|error| match &option {
            SocketOption::Congestion(name) => {
                Error::environment(format!("this kernel does not offer congestion control '{name}': {error}"))
                    .remedy("sysctl net.ipv4.tcp_available_congestion_control names them; modprobe tcp_NAME adds one")
            }
            option => Error::environment(format!("this kernel refuses {option:?}: {error}"))
                .remedy("leave that option out"),
        })?;
    }
    Ok(())
}
