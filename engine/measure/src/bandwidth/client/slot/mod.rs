//! One connection of a bulk test: a dialogue, and on it a sender, a receiver, or both.

mod datagrams;
mod trickle;

use super::spec::{BulkSpec, StreamAccount};
use crate::worker::dialogue::{
    BufferSizes, ClientSession, DialogueSpec, Failure, News, SessionEvent,
};
use crate::worker::errors::Stage;
use crate::worker::link::Purpose;
use crate::worker::stream::{
    Receiver, STRAGGLERS, Sender, UNSENT_BYTES, receive_bytes, send_bytes, set_options,
};
use tare_driver::{Completion, Driver, DriverError, OpError, Outcome};
use tare_proto::hello::{Accept, Figures, Transport};
use tare_proto::stream::{SIGNAL_EVERY, StreamFigures};
use tare_units::bounds::{DRAIN_RATE_MIN, ENDING_MAX, FETCH_MAX};
use tare_units::error::Error;
use tare_units::{Instant, Nanos};
use trickle::Trickle;

/// One stream.
#[derive(Debug)]
pub(super) struct Slot {
    dialogue: ClientSession,
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
    /// When payload was last sent, and last received.
    sent_at: Instant,
    received_at: Instant,
    /// UDP: when the server last heard of this end, as far as that is this end's doing.
    spoke_at: Instant,
    signals: u64,
    /// UDP: the server's word on the session, which waits for a send to complete.
    flags: u8,
    /// Bytes in the kernel's send queue, as last looked at while ending.
    queue: u64,
    /// The end is awaited no longer than until then, whatever trickles in.
    ends_by: Instant,
    /// Bytes sent and received.
    moved: (u64, u64),
    /// Watches a stream that ends by bytes.
    trickle: Option<Trickle>,
    account: StreamAccount,
}

impl Slot {
    pub(super) fn new(index: u32, spec: &BulkSpec) -> Self {
        let mut dialogue = spec.dialogue.clone();
        let number = spec.first + index;
        if let Some(ask) = &mut dialogue.hello.stream {
            ask.stream = number;
            ask.bytes = spec.share_of(number);
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
            dialogue: ClientSession::new(index, buffers),
            spec: dialogue,
            sender: None,
            receiver: None,
            expected: false,
            began_at: None,
            stopped: false,
            ending: false,
            sent_at: Instant::default(),
            received_at: Instant::default(),
            spoke_at: Instant::default(),
            signals: 0,
            flags: 0,
            queue: 0,
            ends_by: Instant::FAR_FUTURE,
            moved: (0, 0),
            trickle: None,
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
            && let Err(refused) = set_options(io, socket, &spec.options, self.spec.transport())
        {
            let error = Error::environment(refused.message("this kernel")).remedy(refused.remedy());
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
        let Some(link) = self.dialogue.link() else {
            return;
        };
        if hello.direction.is_up() {
            let mut sender = Sender::new(hello, accept.session.unwrap_or_default());
            sender.prepare(io, link, spec.dialogue.nonce);
            self.sender = Some(sender);
        }
        if hello.direction.is_down() {
            let mut receiver = Receiver::new(hello);
            receiver.prepare(io, link);
            self.receiver = Some(receiver);
        }
    }

    /// The test begins.
    pub(super) fn begin<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.began_at = Some(now);
        (self.sent_at, self.received_at, self.spoke_at) = (now, now, now);
        let ask = self.spec.hello.stream.as_ref();
        self.trickle = ask.filter(|ask| ask.bytes > 0).map(|_| Trickle::new(now));
        self.receive(io, now)?;
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

    /// Awaits payload, or where none is to come the server's word.
    fn receive<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        let transport = self.spec.transport();
        let Some(link) = self.dialogue.link_mut() else {
            return Ok(());
        };
        if link.is_receiving() {
            return Ok(());
        }
        match &mut self.receiver {
            Some(receiver) => receiver.receive(io, link, now),
            None => {
                link.receive(io, 0, u32::try_from(receive_bytes(transport)).unwrap_or(u32::MAX))
            }
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
            && let Outcome::Failed(error) = completion.outcome
            && self.spec.transport() == Transport::Udp
            && let (Some(sender), Some(link)) = (&mut self.sender, self.dialogue.link())
            && (error == OpError::NoBuffers || sender.handle_uncut(io, link, error))
        {
            return self.handle_no_room(io, completion, now);
        }
        let heard = self.dialogue.handle_completion(io, purpose, completion, now, &self.spec)?;
        let moved = match heard {
            SessionEvent::News(News::Nothing) if purpose == Purpose::SendControl => {
                self.resume(io, now)?;
                return Ok((self.check(io, now)?, 0));
            }
            SessionEvent::News(news) => return Ok((news, 0)),
            SessionEvent::Received { len } => {
                return match self.spec.transport() {
                    Transport::Tcp => self.handle_received(io, len, now),
                    Transport::Udp => self.handle_datagrams(io, len, now),
                };
            }
            SessionEvent::Sent { len } => self.handle_sent(io, u64::from(len), now)?,
            SessionEvent::SentRepeated { bytes, .. } => self.handle_sent(io, bytes, now)?,
            SessionEvent::Released { copied } => {
                if let (Some(sender), Some(link)) = (&mut self.sender, self.dialogue.link_mut()) {
                    sender.handle_released(io, link, copied, now)?;
                }
                0
            }
        };
        Ok((self.check(io, now)?, moved))
    }

    /// Its socket is free for payload again.
    fn resume<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        match (&mut self.sender, self.dialogue.link_mut()) {
            (Some(sender), Some(link)) => sender.resume(io, link, now),
            _ => Ok(()),
        }
    }

    fn handle_sent<D: Driver>(
        &mut self,
        io: &mut D,
        bytes: u64,
        now: Instant,
    ) -> Result<u64, DriverError> {
        (self.sent_at, self.spoke_at) = (now, now);
        self.moved.0 += bytes;
        match (&mut self.sender, self.dialogue.link_mut()) {
            (Some(sender), Some(link)) => {
                sender.handle_sent(io, link, bytes, now)?;
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
        let bytes = &io.buffer(link.receive_buffer())[..len as usize];
        let payload = match &self.receiver {
            Some(receiver) => receiver.payload_of(bytes),
            // None is to come: it is the server's word.
            None => 0,
        };
        let payload = u32::try_from(payload).unwrap_or(len);
        if payload > 0
            && let Some(receiver) = &mut self.receiver
        {
            self.received_at = now;
            self.moved.1 += u64::from(payload);
            receiver.handle_received(io, link, payload, now);
        }
        if payload < len {
            self.close_account(io, now);
            let news = self.dialogue.handle_early_figures(io, payload..len, now, &self.spec)?;
            return Ok((news, u64::from(payload)));
        }
        let news = self.check(io, now)?;
        if !self.ending && !self.is_through(now) {
            self.receive(io, now)?;
        }
        Ok((news, u64::from(payload)))
    }

    /// Ends the dialogue once the stream is through, or the server has ended it.
    fn check<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<News, DriverError> {
        let Some(link) = self.dialogue.link().filter(|_| !self.ending) else {
            return Ok(News::Nothing);
        };
        if link.is_sending() || link.is_sending_control() {
            return Ok(News::Nothing);
        }
        if self.flags != 0 {
            self.close_account(io, now);
            let flags = std::mem::take(&mut self.flags);
            let news = self.dialogue.handle_flags(io, flags, now, &self.spec)?;
            return Ok(news.unwrap_or(News::Nothing));
        }
        if !self.is_through(now) || !self.is_delivered(now) {
            return Ok(News::Nothing);
        }
        if let Some(receiver) = &mut self.receiver
            && receiver.is_discarding()
            && link.is_receiving()
        {
            // What is being thrown away is seen by nobody, so the figures must not be among it. It ends with the next
            // byte that comes.
            receiver.finish(io, link);
            return Ok(News::Nothing);
        }
        self.ending = true;
        self.ends_by = now + self.spec.timeout + self.time_to_drain(io, now);
        self.close_account(io, now);
        let skips = self.spec.hello.direction.is_down();
        self.dialogue.end(io, now, &self.spec, skips)?;
        Ok(News::Nothing)
    }

    /// Nothing is left to be sent, and nothing more is waited for.
    fn is_through(&self, now: Instant) -> bool {
        let is_sent = self.sender.as_ref().is_none_or(Sender::is_finished);
        let received = self.receiver.as_ref();
        self.stopped
            || (self.began_at.is_some()
                && is_sent
                && received.is_none_or(|receiver| receiver.is_complete(now)))
    }

    /// The last datagrams have had time to arrive before the server is asked what came.
    fn is_delivered(&self, now: Instant) -> bool {
        self.stopped
            || self.spec.transport() == Transport::Tcp
            || self.sender.is_none()
            || now.since(self.sent_at) >= STRAGGLERS
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
        // What the server has said stays to be told.
        if self.flags == 0 {
            self.check(io, now)?;
        }
        Ok(())
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
            self.watch_ending(io, now);
            if now >= self.ends_by && self.is_unfinished() {
                return Ok(News::Failed(self.silence(io, Stage::Close)));
            }
            return Ok(News::Nothing);
        }
        if self.began_at.is_none() || !self.dialogue.is_open() {
            return Ok(News::Nothing);
        }
        if self.spec.transport() == Transport::Udp
            && self.receiver.is_some()
            && now.since(self.spoke_at) >= SIGNAL_EVERY
        {
            self.signal(io, now)?;
        }
        let news = self.check(io, now)?;
        if matches!(news, News::Nothing)
            && !self.ending
            && self.dialogue.is_open()
            && now.since(self.progressed_at(now)) > self.patience(spec)
        {
            let stage = match self.sender {
                Some(_) => Stage::Send,
                None => Stage::Receive,
            };
            return Ok(News::Failed(self.silence(io, stage)));
        }
        if matches!(news, News::Nothing)
            && !self.ending
            && let Some(failure) = self.trickles(now, self.patience(spec))
        {
            return Ok(News::Failed(failure));
        }
        Ok(news)
    }

    /// Whether a stream that ends by bytes moves so few of them that it would not end.
    fn trickles(&mut self, now: Instant, patience: Nanos) -> Option<Failure> {
        let size = self.spec.hello.size_bytes;
        let gap = self.spec.hello.stream.as_ref().and_then(|ask| ask.gap(size));
        let asked = gap.map(|gap| size.saturating_mul(1_000_000_000) / gap.0.max(1));
        let moved = self.moved.0 + self.moved.1;
        let slow = self.trickle.as_mut()?.look(now, moved, patience, asked)?;
        let stage = match self.sender {
            Some(_) => Stage::Send,
            None => Stage::Receive,
        };
        let error = Error::peer(format!(
            "a stream moved {} bytes in {}, too few to wait for the rest",
            slow.moved, slow.took
        ));
        let remedy = "check the path and the server; -d ends a run by time, and a longer --timeout waits for less";
        Some(Failure::new(stage, "slow", Some(error.remedy(remedy))))
    }

    pub(super) fn silence<D: Driver>(&self, io: &D, stage: Stage) -> Failure {
        self.dialogue.silence(io, stage, &self.spec)
    }

    /// When something last showed that the far end is there.
    fn progressed_at(&self, now: Instant) -> Instant {
        let awaits = self.receiver.as_ref().is_some_and(|r| !r.is_complete(now));
        if self.spec.transport() == Transport::Udp && awaits {
            // Datagrams can be sent to nobody.
            return self.received_at;
        }
        self.sent_at.max(self.received_at)
    }

    /// How long nothing may move.
    fn patience(&self, spec: &BulkSpec) -> Nanos {
        let ask = self.spec.hello.stream.as_ref();
        let pauses = ask.map_or(Nanos::ZERO, |ask| ask.patience(self.spec.hello.size_bytes));
        spec.dialogue.timeout.max(pauses)
    }

    /// As long as the far end takes what was sent, or what it had sent comes, its figures are awaited.
    fn watch_ending<D: Driver>(&mut self, io: &D, now: Instant) {
        let queue = self.dialogue.socket().and_then(|socket| io.send_queue_bytes(socket));
        let drains = queue.is_some_and(|queue| std::mem::replace(&mut self.queue, queue) != queue);
        if self.dialogue.take_skipped() > 0 || drains {
            self.dialogue.extend(self.ends_by.min(now + self.spec.timeout));
        }
    }

    /// How long what is on its way may take, at the rate of this stream: twice what this end has, and the most that the far
    /// end may have. One that has but trickled is not waited for.
    fn time_to_drain<D: Driver>(&self, io: &D, now: Instant) -> Nanos {
        if self.spec.transport() == Transport::Udp {
            return FETCH_MAX;
        }
        let socket = self.dialogue.socket();
        let queue = socket.and_then(|socket| io.send_queue_bytes(socket));
        let queue = queue.unwrap_or(0);
        let ask = self.spec.hello.stream.as_ref();
        let theirs = ask.and_then(|ask| ask.socket.send_buffer_bytes);
        let theirs = u64::from(theirs.unwrap_or(UNSENT_BYTES));
        let lasted = now.since(self.began_at.unwrap_or(now)).0.max(1);
        let time_for = |queue: u64, moved: u64| {
            let rate = u128::from(moved) * 1_000_000_000 / u128::from(lasted);
            if rate < u128::from(DRAIN_RATE_MIN) {
                return Nanos::ZERO;
            }
            let time = u128::from(queue) * 1_000_000_000 / rate;
            // The path may have become slower since.
            Nanos(u64::try_from(time).unwrap_or(u64::MAX)).max(self.spec.timeout)
        };
        let (sent, received) = self.moved;
        let down = self.spec.hello.direction.is_down();
        time_for(2 * queue, sent.saturating_sub(queue))
            .max(time_for(u64::from(down) * theirs, received))
            .min(Nanos(ENDING_MAX.0.saturating_sub(self.spec.timeout.0)))
    }
}
