//! One connection of a bulk test: a session, and on it a sender, a receiver, or both.

use std::sync::Arc;

use super::{BulkSpec, StreamAccount};
use crate::worker::Result;
use crate::worker::link::Purpose;
use crate::worker::session::{BufferSizes, ClientSession, Failure, SessionEvent};
use crate::worker::stream::{
    Receiver, STRAGGLERS, Sender, UNSENT_BYTES, receive_bytes, send_bytes, set_options,
};
use crate::worker::tally::Stage;
use tare_driver::{Completion, Driver, OpError, Outcome};
use tare_proto::datagram::{DATA_HEADER_LEN, DataHeader};
use tare_proto::hello::{Accept, Hello, Transport};
use tare_proto::stream::{
    SIGNAL_EVERY, SocketOptions, StreamAsk, StreamFigures, StreamHeader, StreamKind,
};
use tare_units::bounds::{
    BYTES_IN_TIMEOUT_MIN, DRAIN_RATE_MIN, ENDING_MAX, FETCH_MAX, SLOW_TIMEOUTS,
};
use tare_units::error::Error;
use tare_units::{Instant, Nanos};

/// What something that happened means to the client.
type Handled = Result<SessionEvent>;

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) session: ClientSession,
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    pub(super) expected: bool,
    began_at: Option<Instant>,
    /// Neither sends nor counts any more.
    stopped: bool,
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
    sent: u64,
    received: u64,
    trickle: Option<Trickle>,
    pub(super) account: StreamAccount,
}

impl Slot {
    pub(super) fn new(index: u32, spec: &BulkSpec) -> Self {
        let mut session = spec.session.clone();
        let number = spec.first + index;
        if let Some(ask) = &mut session.hello.stream {
            ask.stream = number;
            ask.bytes = spec.share_of(number);
        }
        let is_up = session.hello.direction.is_up();
        let buffers = BufferSizes {
            receive_bytes: receive_bytes(session.transport()),
            send_bytes: if is_up { send_bytes(&session.hello) } else { 0 },
        };
        Self {
            session: ClientSession::new(index, buffers, Arc::new(session)),
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
            sent: 0,
            received: 0,
            trickle: None,
            account: StreamAccount::default(),
        }
    }

    fn hello(&self) -> &Hello {
        &self.session.spec().hello
    }

    fn ask(&self) -> Option<&StreamAsk> {
        self.hello().stream.as_ref()
    }

    fn timeout(&self) -> Nanos {
        self.session.spec().timeout
    }

    pub(super) const fn is_ending(&self) -> bool {
        self.ending || self.session.is_dead()
    }

    /// It has begun and its end is still to come.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.session.is_dead() && !self.session.is_quiet()
    }

    pub(super) const fn moved(&self) -> u64 {
        self.sent + self.received
    }

    /// Both ends' account; `None` where it never came to a session.
    pub(super) fn into_account(self) -> Option<StreamAccount> {
        let known = self.account.own != StreamFigures::default() || self.account.theirs.is_some();
        known.then_some(self.account)
    }

    pub(super) fn prepare<D: Driver>(
        &mut self,
        io: &mut D,
        options: &SocketOptions,
    ) -> Result<(), Failure> {
        self.session.prepare(io)?;
        let Some(socket) = self.session.socket() else { return Ok(()) };
        set_options(io, socket, options, self.session.transport()).map_err(|refused| {
            let error = Error::environment(refused.message("this kernel")).remedy(refused.remedy());
            Failure::new(Stage::Connect, "option", Some(error))
        })
    }

    pub(super) fn handle_accepted<D: Driver>(&mut self, io: &mut D, accept: &Accept) {
        let spec = self.session.spec();
        let Some(link) = self.session.link() else { return };
        if spec.hello.direction.is_up() {
            let mut sender = Sender::new(&spec.hello, accept.session.unwrap_or_default());
            sender.prepare(io, link, spec.nonce);
            self.sender = Some(sender);
        }
        if spec.hello.direction.is_down() {
            let mut receiver = Receiver::new(&spec.hello);
            receiver.prepare(io, link);
            self.receiver = Some(receiver);
        }
    }

    pub(super) fn begin<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        self.began_at = Some(now);
        (self.sent_at, self.received_at, self.spoke_at) = (now, now, now);
        self.trickle = self.ask().filter(|ask| ask.bytes > 0).map(|_| Trickle::new(now));
        self.receive(io, now)?;
        let transport = self.session.transport();
        if transport == Transport::Udp && self.sender.is_none() {
            self.signal(io, now)?;
        }
        let Some(link) = self.session.link_mut() else { return Ok(()) };
        match &mut self.sender {
            Some(sender) => sender.start(io, link, now),
            None if transport == Transport::Tcp => link.send(io, 0, 1),
            None => Ok(()),
        }
    }

    /// Awaits payload, or where none is to come the server's word.
    fn receive<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        let room = receive_bytes(self.session.transport());
        let Some(link) = self.session.link_mut().filter(|link| !link.is_receiving()) else {
            return Ok(());
        };
        match &mut self.receiver {
            Some(receiver) => receiver.receive(io, link, now),
            None => link.receive(io, 0, u32::try_from(room).unwrap_or(u32::MAX)),
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.sender.as_ref()?.due(self.session.link()?)
    }

    pub(super) fn poll_submit<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        match (&mut self.sender, self.session.link_mut()) {
            (Some(sender), Some(link)) => sender.poll_submit(io, link, now),
            _ => Ok(()),
        }
    }

    pub(super) fn handle_completion<D: Driver>(
        &mut self,
        io: &mut D,
        purpose: Purpose,
        completion: &Completion,
        now: Instant,
    ) -> Handled {
        if purpose == Purpose::Send
            && let Outcome::Failed(error) = completion.outcome
            && self.session.transport() == Transport::Udp
            && let (Some(sender), Some(link)) = (&mut self.sender, self.session.link_mut())
            && (error == OpError::NoBuffers || sender.handle_uncut(io, link, error))
        {
            // The device's queue was full: where nothing is paced, the next datagram takes the
            // place of this one.
            link.handle(Purpose::Send, &completion.outcome, completion.more);
            sender.handle_sent(io, link, 0, now)?;
            return self.check(io, now);
        }
        let event = self.session.handle_completion(io, purpose, completion, now)?;
        match (event, &mut self.sender, self.session.link_mut()) {
            (SessionEvent::Nothing, sender, link) if purpose == Purpose::SendControl => {
                // The socket is free for payload again.
                if let (Some(sender), Some(link)) = (sender, link) {
                    sender.resume(io, link, now)?;
                }
            }
            (SessionEvent::Received { len }, ..) => {
                return match self.session.transport() {
                    Transport::Tcp => self.handle_received(io, len, now),
                    Transport::Udp => self.handle_datagrams(io, len, now),
                };
            }
            (SessionEvent::Sent { bytes }, sender, link) => {
                (self.sent_at, self.spoke_at) = (now, now);
                // Without a sender, it is the byte that starts the server.
                if let (Some(sender), Some(link)) = (sender, link) {
                    self.sent += bytes;
                    sender.handle_sent(io, link, bytes, now)?;
                }
            }
            (SessionEvent::Released { copied }, Some(sender), Some(link)) => {
                sender.handle_released(io, link, copied, now)?;
            }
            (SessionEvent::Released { .. }, ..) => {}
            (event, ..) => return Ok(event),
        }
        self.check(io, now)
    }

    fn handle_received<D: Driver>(&mut self, io: &mut D, len: u32, now: Instant) -> Handled {
        let Some(link) = self.session.link() else { return Ok(SessionEvent::Nothing) };
        let bytes = &io.buffer(link.receive_buffer())[..len as usize];
        // Where no payload is to come, it is the server's word.
        let payload = self.receiver.as_ref().map_or(0, |receiver| receiver.payload_of(bytes));
        let payload = u32::try_from(payload).unwrap_or(len);
        if payload > 0
            && let Some(receiver) = &mut self.receiver
        {
            self.received_at = now;
            self.received += u64::from(payload);
            receiver.handle_received(io, link, payload, now);
        }
        if payload < len {
            self.close_account(io, now);
            return self.session.handle_figures(io, payload..len, now, true);
        }
        let event = self.check(io, now)?;
        if !self.ending && !self.is_through(now) {
            self.receive(io, now)?;
        }
        Ok(event)
    }

    /// Payload came, or the server's word on the session.
    fn handle_datagrams<D: Driver>(&mut self, io: &mut D, len: u32, now: Instant) -> Handled {
        let session = self.session.session();
        let Some(link) = self.session.link() else { return Ok(SessionEvent::Nothing) };
        let bytes = &io.buffer(link.receive_buffer())[..len as usize];
        let mut rest = Some((0, bytes.len()));
        if let Some(receiver) = &mut self.receiver {
            let before = receiver.total();
            rest = receiver.handle_datagrams(bytes, session, now);
            if receiver.total() > before {
                self.received_at = now;
                self.received += receiver.total() - before;
            }
        }
        let header = rest.and_then(|(start, end)| DataHeader::decode(&bytes[start..end]));
        if let Some(header) = header.filter(|h| h.reply && h.session == session && h.flags != 0) {
            self.flags |= header.flags;
            if let Some(sender) = &mut self.sender {
                sender.finish(io, link, now);
            }
        }
        let event = self.check(io, now)?;
        self.receive(io, now)?;
        Ok(event)
    }

    /// UDP: tells the server that this end is there.
    fn signal<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        let session = self.session.session();
        let Some(link) = self.session.link_mut() else { return Ok(()) };
        if link.is_sending_control() || link.is_sending() {
            return Ok(());
        }
        self.spoke_at = now;
        let mut datagram = [0; DATA_HEADER_LEN];
        let (kind, sequence) = (StreamKind::Signal, self.signals);
        let header = StreamHeader { kind, measured: false, sequence, session };
        header.encode_into(&mut datagram, now);
        self.signals += 1;
        if self.sender.is_some() {
            // The send buffer is payload's.
            return link.send_control(io, &datagram);
        }
        io.buffer_mut(link.send_buffer())[..DATA_HEADER_LEN].copy_from_slice(&datagram);
        link.send(io, 0, u32::try_from(DATA_HEADER_LEN).unwrap_or(0))
    }

    /// Ends the session once the stream is through, or the server has ended it.
    fn check<D: Driver>(&mut self, io: &mut D, now: Instant) -> Handled {
        let Some(link) = self.session.link().filter(|_| !self.ending) else {
            return Ok(SessionEvent::Nothing);
        };
        if link.is_sending() || link.is_sending_control() {
            return Ok(SessionEvent::Nothing);
        }
        if self.flags != 0 {
            self.close_account(io, now);
            let flags = std::mem::take(&mut self.flags);
            let event = self.session.handle_flags(io, flags, now)?;
            return Ok(event.unwrap_or(SessionEvent::Nothing));
        }
        if !self.is_through(now) || !self.is_delivered(now) {
            return Ok(SessionEvent::Nothing);
        }
        if let Some(receiver) = &mut self.receiver
            && receiver.is_discarding()
            && link.is_receiving()
        {
            // What is being thrown away is seen by nobody, so the figures must not be among it. It
            // ends with the next byte that comes.
            receiver.finish(io, link);
            return Ok(SessionEvent::Nothing);
        }
        self.ending = true;
        self.ends_by = now + self.timeout() + self.time_to_drain(io, now);
        self.close_account(io, now);
        let skips = self.hello().direction.is_down();
        self.session.end(io, now, skips)?;
        Ok(SessionEvent::Nothing)
    }

    /// Nothing is left to be sent, and nothing more is waited for.
    fn is_through(&self, now: Instant) -> bool {
        let is_sent = self.sender.as_ref().is_none_or(Sender::is_finished);
        self.stopped || (self.began_at.is_some() && is_sent && !self.awaits_payload(now))
    }

    fn awaits_payload(&self, now: Instant) -> bool {
        self.receiver.as_ref().is_some_and(|receiver| !receiver.is_complete(now))
    }

    /// The last datagrams have had time to arrive before the server is asked what came.
    fn is_delivered(&self, now: Instant) -> bool {
        self.stopped
            || self.session.transport() == Transport::Tcp
            || self.sender.is_none()
            || now.since(self.sent_at) >= STRAGGLERS
    }

    pub(super) fn stop<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        if self.ending || self.session.is_dead() {
            return Ok(());
        }
        if self.began_at.is_none() {
            self.ending = true;
            return self.session.end(io, now, false);
        }
        self.stopped = true;
        if let (Some(sender), Some(link)) = (&mut self.sender, self.session.link()) {
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
        let Some(link) = self.session.link() else { return };
        if let Some(mut sender) = self.sender.take() {
            sender.finish(io, link, now);
            self.account.own.sent = Some(sender.figures(io, link, now));
        }
        if let Some(mut receiver) = self.receiver.take() {
            receiver.finish(io, link);
            self.account.own.received = Some(receiver.figures(io, link, now));
        }
    }

    pub(super) fn give_up<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        if self.began_at.is_some() {
            self.close_account(io, now);
        }
        self.session.give_up(io)
    }

    pub(super) fn handle_timers<D: Driver>(&mut self, io: &mut D, now: Instant) -> Handled {
        let event = self.session.handle_timers(io, now)?;
        if !matches!(event, SessionEvent::Nothing) {
            return Ok(event);
        }
        if self.ending {
            self.watch_ending(io, now);
            if now >= self.ends_by && self.is_unfinished() {
                return Ok(SessionEvent::Failed(self.session.silence(io, Stage::Close)));
            }
            return Ok(SessionEvent::Nothing);
        }
        if self.began_at.is_none() || !self.session.is_open() {
            return Ok(SessionEvent::Nothing);
        }
        let is_udp = self.session.transport() == Transport::Udp;
        if is_udp && self.receiver.is_some() && now.since(self.spoke_at) >= SIGNAL_EVERY {
            self.signal(io, now)?;
        }
        let event = self.check(io, now)?;
        if self.ending || !matches!(event, SessionEvent::Nothing) {
            return Ok(event);
        }
        let pauses = self.ask().map(|ask| ask.patience(self.hello().size_bytes));
        let patience = self.timeout().max(pauses.unwrap_or_default());
        if self.session.is_open() && now.since(self.progressed_at(now)) > patience {
            return Ok(SessionEvent::Failed(self.session.silence(io, self.stage())));
        }
        let failure = self.check_trickle(now, patience);
        Ok(failure.map_or(SessionEvent::Nothing, SessionEvent::Failed))
    }

    const fn stage(&self) -> Stage {
        if self.sender.is_some() { Stage::Send } else { Stage::Receive }
    }

    /// Whether a stream that ends by bytes moves so few of them that it would not end.
    fn check_trickle(&mut self, now: Instant, patience: Nanos) -> Option<Failure> {
        let size = self.hello().size_bytes;
        let gap = self.ask().and_then(|ask| ask.gap(size));
        let asked = gap.map(|gap| size.saturating_mul(1_000_000_000) / gap.0.max(1));
        let moved = self.moved();
        let (moved, took) = self.trickle.as_mut()?.look(now, moved, patience, asked)?;
        let error = format!("a stream moved {moved} bytes in {took}, too few to wait for the rest");
        let remedy = "check the path and the server; -d ends a run by time, and a longer --timeout waits for less";
        Some(Failure::new(self.stage(), "slow", Some(Error::peer(error).remedy(remedy))))
    }

    /// When something last showed that the server is there.
    fn progressed_at(&self, now: Instant) -> Instant {
        if self.session.transport() == Transport::Udp && self.awaits_payload(now) {
            // Datagrams can be sent to nobody.
            return self.received_at;
        }
        self.sent_at.max(self.received_at)
    }

    fn send_queue<D: Driver>(&self, io: &D) -> Option<u64> {
        self.session.socket().and_then(|socket| io.send_queue_bytes(socket))
    }

    /// As long as the server takes what was sent, or what it had sent comes, its figures are
    /// awaited.
    fn watch_ending<D: Driver>(&mut self, io: &D, now: Instant) {
        let queue = self.send_queue(io);
        let drains = queue.is_some_and(|queue| std::mem::replace(&mut self.queue, queue) != queue);
        if self.session.take_skipped() > 0 || drains {
            self.session.extend(self.ends_by.min(now + self.timeout()));
        }
    }

    /// How long what is on its way may take, at the rate of this stream: twice what this end has,
    /// and the most that the server may have. One that has but trickled is not waited for.
    fn time_to_drain<D: Driver>(&self, io: &D, now: Instant) -> Nanos {
        if self.session.transport() == Transport::Udp {
            return FETCH_MAX;
        }
        let queue = self.send_queue(io).unwrap_or(0);
        let theirs = self.ask().and_then(|ask| ask.socket.send_buffer_bytes);
        let theirs = u64::from(theirs.unwrap_or(UNSENT_BYTES));
        let lasted = now.since(self.began_at.unwrap_or(now)).0.max(1);
        let time_for = |queue: u64, moved: u64| {
            let rate = u128::from(moved) * 1_000_000_000 / u128::from(lasted);
            if rate < u128::from(DRAIN_RATE_MIN) {
                return Nanos::ZERO;
            }
            let time = u128::from(queue) * 1_000_000_000 / rate;
            // The path may have become slower since.
            Nanos(u64::try_from(time).unwrap_or(u64::MAX)).max(self.timeout())
        };
        let down = u64::from(self.hello().direction.is_down());
        time_for(2 * queue, self.sent.saturating_sub(queue))
            .max(time_for(down * theirs, self.received))
            .min(Nanos(ENDING_MAX.0.saturating_sub(self.timeout().0)))
    }
}

/// Watches a stream that ends by bytes and hardly moves, which no silence ends and no clock: looks at
/// what was moved in one stretch of time after the other.
#[derive(Debug)]
struct Trickle {
    began_at: Instant,
    /// Moved by then, bytes.
    moved: u64,
}

impl Trickle {
    const fn new(now: Instant) -> Self {
        Self { began_at: now, moved: 0 }
    }

    /// `moved` bytes in all by `now`. `patience` is how long nothing at all may move; a paced
    /// stream is to send `bytes_per_s`. Returns what a stretch brought that was too slow, and how
    /// long it was.
    fn look(
        &mut self,
        now: Instant,
        moved: u64,
        patience: Nanos,
        bytes_per_s: Option<u64>,
    ) -> Option<(u64, Nanos)> {
        let took = now.since(self.began_at);
        if took.0 < patience.0.saturating_mul(SLOW_TIMEOUTS) {
            return None;
        }
        // Half of what was asked for is slow, and no trickle.
        let asked = bytes_per_s
            .map_or(u128::MAX, |rate| u128::from(rate) * u128::from(took.0) / 2_000_000_000);
        let least = u128::from(BYTES_IN_TIMEOUT_MIN * SLOW_TIMEOUTS).min(asked);
        let moved_now = moved.saturating_sub(self.moved);
        (self.began_at, self.moved) = (now, moved);
        (u128::from(moved_now) < least).then_some((moved_now, took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Nanos = Nanos::from_secs(2);

    const fn s(n: u64) -> Instant {
        Instant(n * 1_000_000_000)
    }

    /// When a stream that moves so many bytes a second is given up, seconds.
    fn given_up(bytes_per_s: u64, asked: Option<u64>) -> Option<u64> {
        let mut trickle = Trickle::new(s(0));
        // What fills the buffers at first counts for the first stretch alone.
        let moved = |at| 1_000_000 + at * bytes_per_s;
        (0..3_600).find(|&at| trickle.look(s(at), moved(at), TIMEOUT, asked).is_some())
    }

    #[test]
    fn a_trickle_ends_and_a_stream_as_slow_as_its_path_or_as_asked_does_not() {
        for (bytes_per_s, asked, ends) in [
            (1, None, Some(20)),
            (500, None, Some(20)),
            (520, None, None),
            (30, Some(30), None),
            (16, Some(30), None),
            (14, Some(30), Some(20)),
        ] {
            assert_eq!(given_up(bytes_per_s, asked), ends, "{bytes_per_s} of {asked:?}");
        }
    }
}
