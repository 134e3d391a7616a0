//! The receiving side of a direction.

use super::{COALESCED_BYTES, RECEIVE_BYTES, STRAGGLERS};
use crate::worker::Result;
use crate::worker::link::Link;
use tare_driver::{Driver, SocketOption};
use tare_proto::hello::{Hello, Transport};
use tare_proto::stream::{
    Arrivals, PAYLOAD_BIT, Received, StreamHeader, StreamKind, Window, sent_at,
};
use tare_units::text::Id;
use tare_units::{Instant, Nanos};

/// A receiver is woken for what arrives in this time, not for each segment: over loopback that
/// doubled the bandwidth of 128-KiB sends, and took a thousandth of the CPU time of 1-byte ones.
const WAKE_EVERY: Nanos = Nanos::from_millis(1);
/// How often the low-water mark is thought over.
const MARK_EVERY: Nanos = Nanos::from_millis(10);

/// Where segments are smaller, as they are on every path but a loopback, a receive takes no more
/// than a message, as an application's would: what Nagle's algorithm holds back leaves with the
/// acknowledgement, and that leaves when the receiver reads. Over veth, messages of 4 KiB went at
/// 2.5 to 3.0 Gbit/s so, and at 1.1 to 1.9 where the receiver waited for more.
const LOOPBACK_SEGMENT: u32 = 16 << 10;
/// … but never fewer bytes at a time, for a call costs the receiver as much as a send the sender:
/// over veth, messages of 1 B went at 7 Mbit/s when they were received one by one and at 16 so, of
/// 8 B at 55 and 112, of 64 B at 150 and 280; into gVisor, where a call takes 20 µs, a stream of 1
/// B was not read to its end within seconds.
const RECEIVE_LEAST: u32 = 4 << 10;
const _: () = assert!(RECEIVE_LEAST <= RECEIVE_BYTES);

/// So many bytes of what came last are looked at for the control frame that may end it.
const FRAME_TAIL: usize = 32;

#[derive(Debug)]
pub(crate) struct Receiver {
    transport: Transport,
    size: u32,
    discard: bool,
    discarding: bool,
    window: Window,
    /// All the payload there is to come, where bytes end the stream.
    expected: Option<u64>,
    /// What came of it, each datagram once.
    total: u64,
    /// UDP: how long its sender sends, and how long it may pause where bytes end the stream.
    span: Nanos,
    lull: Nanos,
    /// UDP: when the first payload came, and the last.
    heard: Option<(Instant, Instant)>,
    arrivals: Option<Arrivals>,
    measured_at: Option<Instant>,
    /// UDP: overflows of the receive buffer before the measured phase; asked for once.
    overflows_before: Option<Option<u64>>,
    coalesced: bool,
    /// The socket's low-water mark, and what came since it was last thought over.
    mark: u32,
    mark_max: u32,
    most: u32,
    marked_at: Instant,
    since_mark: u64,
}

impl Receiver {
    pub(crate) fn new(hello: &Hello) -> Self {
        let ask = hello.stream.clone().unwrap_or_default();
        let udp = hello.transport == Transport::Udp;
        let by_time = |ns| Nanos(if udp || ask.bytes > 0 { 0 } else { ns });
        // Over UDP the flag tells what is measured, and when that is over.
        let window =
            Window::new(by_time(ask.warmup_ns), by_time(ask.duration_ns), Nanos(ask.interval_ns));
        let room = ask.socket.receive_buffer_bytes.map_or(RECEIVE_BYTES, |bytes| bytes / 4);
        // Datagrams are whole, the last one too.
        let unit = if udp { hello.size_bytes.max(1) } else { 1 };
        Self {
            transport: hello.transport,
            size: u32::try_from(hello.size_bytes).unwrap_or(u32::MAX).max(1),
            // Of a slow stream, whose end nothing would follow soon, the bytes are looked at.
            discard: ask.discard && !udp && ask.rate_bits_per_s == 0,
            discarding: false,
            window,
            expected: (ask.bytes > 0).then(|| ask.bytes.div_ceil(unit).saturating_mul(unit)),
            total: 0,
            span: Nanos(ask.warmup_ns) + Nanos(ask.duration_ns),
            lull: Nanos(hello.timeout_ns / 4).max(STRAGGLERS).max(ask.patience(hello.size_bytes)),
            heard: None,
            arrivals: udp.then(Arrivals::default),
            measured_at: None,
            overflows_before: None,
            coalesced: false,
            mark: 1,
            mark_max: room.clamp(1, RECEIVE_BYTES),
            most: RECEIVE_BYTES,
            marked_at: Instant::default(),
            since_mark: 0,
        }
    }

    /// Has the kernel coalesce datagrams, or over TCP settles how much to receive at once.
    pub(crate) fn prepare(&mut self, io: &mut impl Driver, link: &Link) {
        if self.transport == Transport::Udp {
            let option = SocketOption::Coalescing(true);
            self.coalesced = io.set_option(link.socket, &option).is_ok();
        }
        let info = io.tcp_info(link.socket);
        if info.is_some_and(|info| info.mss_bytes < LOOPBACK_SEGMENT) {
            self.most = self.size.clamp(RECEIVE_LEAST, RECEIVE_BYTES);
        }
    }

    /// Undoes what [`Receiver::prepare`] and the stream have set: what follows is control traffic.
    pub(crate) fn finish(&mut self, io: &mut impl Driver, link: &Link) {
        if self.coalesced {
            let _ = io.set_option(link.socket, &SocketOption::Coalescing(false));
        }
        if self.mark > 1 {
            self.put_mark(io, link, 1);
        }
    }

    /// Payload that is still to come, bytes; no bound where time ends the stream.
    fn left(&self) -> u64 {
        self.expected.map_or(u64::MAX, |expected| expected.saturating_sub(self.total))
    }

    #[inline]
    pub(crate) fn receive(
        &mut self,
        io: &mut impl Driver,
        link: &mut Link,
        now: Instant,
    ) -> Result {
        if self.transport == Transport::Udp {
            if self.measured_at.is_some() && self.overflows_before.is_none() {
                self.overflows_before = Some(io.receive_overflows(link.socket));
            }
            return link.receive(io, 0, COALESCED_BYTES);
        }
        // Never none: what comes behind the payload is the end of the stream, or the server's word.
        let len = u32::try_from(self.left()).unwrap_or(u32::MAX).clamp(1, self.most);
        let is_complete = self.is_complete(now);
        let mark = if is_complete { 1 } else { len };
        if self.mark > mark {
            // Else the last bytes would be waited for with more, which never come.
            self.put_mark(io, link, mark);
        }
        self.discarding = self.discard && !is_complete;
        if self.discarding { link.discard(io, len) } else { link.receive(io, 0, len) }
    }

    #[inline]
    pub(crate) fn handle_received(
        &mut self,
        io: &mut impl Driver,
        link: &Link,
        n: u32,
        now: Instant,
    ) {
        self.total += u64::from(n);
        self.window.add(now, u64::from(n));
        self.since_mark += u64::from(n);
        if self.most == RECEIVE_BYTES && now.since(self.marked_at) >= MARK_EVERY {
            self.set_mark(io, link, now);
        }
    }

    /// Has the kernel gather what comes in [`WAKE_EVERY`] before it wakes the receiver.
    fn set_mark(&mut self, io: &mut impl Driver, link: &Link, now: Instant) {
        let elapsed = now.since(self.marked_at).0.max(1);
        let came = u128::from(self.since_mark) * u128::from(WAKE_EVERY.0) / u128::from(elapsed);
        let most = u64::from(self.mark_max).min(self.left().max(1));
        let wanted = u32::try_from(came.min(u128::from(most))).unwrap_or(1).max(1);
        let first = self.marked_at == Instant::default();
        (self.marked_at, self.since_mark) = (now, 0);
        let is_near = wanted / 2 <= self.mark && self.mark / 2 <= wanted;
        if first || (is_near && wanted != self.mark_max) || wanted == self.mark {
            return;
        }
        self.put_mark(io, link, wanted);
    }

    fn put_mark(&mut self, io: &mut impl Driver, link: &Link, mark: u32) {
        let option = SocketOption::ReceiveLowWater(mark);
        if io.set_option(link.socket, &option).is_ok() {
            self.mark = mark;
        }
    }

    /// Nobody sees what the present receive brings, a control frame neither.
    pub(crate) const fn is_discarding(&self) -> bool {
        self.discarding
    }

    /// TCP: how many of the bytes that came are payload; a control frame begins behind them. Of
    /// what is discarded nobody has seen any.
    pub(crate) fn payload_of(&self, bytes: &[u8]) -> usize {
        // Where a frame has come, in whole or in part, it stands at the end; and no stretch of it
        // as long as the tail has the top bit set throughout: its header has four letters in eight
        // bytes, the rest is JSON of few words that are not ASCII.
        let tail = &bytes[bytes.len().saturating_sub(FRAME_TAIL)..];
        if self.discarding || tail.iter().all(|byte| *byte >= PAYLOAD_BIT) {
            return bytes.len();
        }
        let frame = bytes.iter().position(|byte| *byte < PAYLOAD_BIT);
        frame.unwrap_or(bytes.len())
    }

    /// UDP: these bytes came in one receive, and hold one datagram or several. Returns what is not
    /// payload of this stream, the beginning and the end of it: the last of several at most.
    pub(crate) fn handle_datagrams(
        &mut self,
        bytes: &[u8],
        session: Id,
        now: Instant,
    ) -> Option<(usize, usize)> {
        let size = self.size as usize;
        let mut start = 0;
        while start < bytes.len() {
            let end = (start + size).min(bytes.len());
            let datagram = &bytes[start..end];
            match StreamHeader::decode(datagram) {
                Some(header) if header.kind == StreamKind::Payload && header.session == session => {
                    if datagram.len() == size {
                        self.handle_datagram(header, datagram, now);
                    }
                }
                // A control datagram may be longer than this stream's: nothing follows it.
                _ => return Some((start, bytes.len())),
            }
            start = end;
        }
        None
    }

    fn handle_datagram(&mut self, header: StreamHeader, datagram: &[u8], now: Instant) {
        let Some(arrivals) = &mut self.arrivals else { return };
        let bytes = datagram.len() as u64;
        let first_at = self.heard.map_or(now, |(first, _)| first);
        self.heard = Some((first_at, now));
        if header.measured && self.measured_at.is_none() {
            self.measured_at = Some(now);
            arrivals.restart_counts();
        }
        if header.measured != self.measured_at.is_some() {
            // A straggler of the warm-up.
            self.total += bytes;
            return;
        }
        let is_new = arrivals.handle(header.sequence);
        if header.measured
            && let Some(sent_at) = sent_at(datagram)
        {
            arrivals.handle_transit(sent_at, now);
        }
        if is_new {
            self.total += bytes;
            if header.measured {
                self.window.add(now, bytes);
            }
        }
    }

    /// Payload received so far, the warm-up's among it, bytes.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn is_measuring(&self, now: Instant) -> bool {
        now >= self.window.start()
    }

    /// All that was to come has come, or the measured phase is over. Over UDP, where nobody says
    /// which datagram is the last: as far as the time since the first, or since the latest, shows.
    pub(crate) fn is_complete(&self, now: Instant) -> bool {
        let has_all = self.expected.is_some_and(|all| self.total >= all);
        match (self.transport, self.expected, self.heard) {
            (Transport::Tcp, Some(_), _) => has_all,
            (Transport::Tcp, None, _) => now >= self.window.end(),
            (Transport::Udp, Some(_), Some((_, last))) => has_all || now.since(last) > self.lull,
            (Transport::Udp, None, Some((first, _))) => now >= first + self.span + STRAGGLERS,
            (Transport::Udp, _, None) => false,
        }
    }

    pub(crate) fn figures(self, io: &impl Driver, link: &Link, now: Instant) -> Received {
        let span = self.window.length(now);
        let buffers = io.socket_buffers(link.socket);
        let bytes = self.window.bytes();
        let arrivals = self.arrivals.as_ref();
        let count =
            arrivals.map_or(0, |a| if self.measured_at.is_some() { a.received() } else { 0 });
        // From the first to the last arrival there is a gap less than datagrams.
        let duration = match (self.transport, count) {
            (Transport::Udp, 2..) => Nanos(span.0 + span.0 / (count - 1)),
            _ => span,
        };
        let known = arrivals.filter(|_| count > 0);
        let (reordered, duplicated) =
            known.map_or((0, 0), |known| (known.reordered(), known.duplicated()));
        let jitter_ns = known.and_then(Arrivals::jitter).map(|jitter| jitter.0);
        let overflows = self.overflows_before.flatten();
        let overflows = overflows.zip(io.receive_overflows(link.socket));
        let (blocks, series) = self.window.into_parts();
        Received {
            duration_ns: duration.0,
            bytes,
            blocks,
            series,
            datagrams: count,
            reordered,
            duplicated,
            jitter_ns,
            coalesced: self.coalesced,
            receive_buffer_bytes: buffers.map(|b| b.1),
            overflows: overflows.map(|(before, now)| now.saturating_sub(before)),
        }
    }
}
