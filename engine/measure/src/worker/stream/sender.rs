//! The sending side of a direction.

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::datagrams_per_send;
use super::pace::Pace;
use crate::schedule::{Constant, Share};
use crate::worker::Result;
use crate::worker::link::Link;
use tare_driver::{Driver, OpError, SocketOption, TcpInfo};
use tare_proto::hello::{Hello, Transport};
use tare_proto::stream::{PAYLOAD_BIT, Sent, StreamAsk, StreamHeader, StreamKind, Window};
use tare_stats::result::{TcpFigures, TcpInterval, ZeroCopyUse};
use tare_units::limits::{DATAGRAM_MAX, INTERVALS_MAX};
use tare_units::text::Id;
use tare_units::{Instant, Nanos};

/// Bytes, and sends, that one operation is asked for at most: the worker has more to look at.
const BATCH_BYTES: u32 = 256 << 10;
const BATCH_SENDS: u32 = 128;
/// A sender by time goes on for so long after its measured phase, so that the receiver's, which
/// began a path's delay later, is filled to its end.
const OVERRUN: Nanos = Nanos::from_millis(10);
/// All streams together are let get so far ahead of what their kernel sends, and each at least so
/// far, bytes: what waits for longer has left the caches when it is copied again. Eight streams
/// over loopback, with BBR and the kernel's own 4 MiB each, went at 28 to 30 Gbit/s, and so at 45
/// to 49. A `--sndbuf` of the user's own decides alone.
pub(crate) const UNSENT_BYTES: u32 = 1 << 20;
const UNSENT_LEAST: u32 = 128 << 10;
/// Sends from the buffer itself pay from about here (kernel documentation, `msg_zerocopy`: 10 KB).
const ZERO_COPY_LEAST: u32 = 16 << 10;
/// Notifications that are awaited at once.
const ZERO_COPY_PENDING: u32 = 64;

/// Whether to send from the buffer itself.
#[derive(Debug, Clone, PartialEq)]
enum ZeroCopy {
    Off,
    /// Until the kernel is seen to copy.
    Trying,
    On,
    GivenUp(String),
}

#[derive(Debug)]
pub(crate) struct Sender {
    ask: StreamAsk,
    transport: Transport,
    size: u32,
    session: Id,
    window: Window,
    /// Payload yet to be sent, where bytes end the stream.
    left: Option<u64>,
    pace: Option<Pace>,
    /// Bytes of the present message that are gone.
    cut: u32,
    sequence: u64,
    /// The send under way belongs to the measured phase (UDP).
    sending_measured: bool,
    /// Paced datagrams of the measured phase that the kernel had no room for.
    refused: u64,
    /// Paced sends that were due before the measured phase ended and had not left by then.
    overdue: Option<u64>,
    finished: bool,
    zero_copy: ZeroCopy,
    pending: u32,
    zero_sends: u64,
    released: u64,
    copied: u64,
    /// At the start of the measured phase, and at the end of the last entry of the series.
    info: Option<(TcpInfo, TcpInfo)>,
    info_at: Instant,
    account: Sent,
}

impl Sender {
    pub(crate) fn new(hello: &Hello, session: Id) -> Self {
        let ask = hello.stream.clone().unwrap_or_default();
        let size = u32::try_from(hello.size_bytes).unwrap_or(u32::MAX);
        let by_bytes = ask.bytes > 0;
        let of = |ns| Nanos(if by_bytes { 0 } else { ns });
        let wanted = ask.duration_ns.div_ceil(ask.interval_ns.max(1)).max(1);
        let entries = usize::try_from(wanted).map_or(INTERVALS_MAX, |n| n.min(INTERVALS_MAX));
        Self {
            transport: hello.transport,
            size,
            session,
            window: Window::new(of(ask.warmup_ns), of(ask.duration_ns), Nanos(ask.interval_ns)),
            left: by_bytes.then_some(ask.bytes),
            pace: pace(&ask, size),
            cut: 0,
            sequence: 0,
            sending_measured: false,
            refused: 0,
            overdue: None,
            finished: false,
            zero_copy: zero_copy(&ask, hello.transport, size),
            pending: 0,
            zero_sends: 0,
            released: 0,
            copied: 0,
            info: None,
            info_at: Instant::FAR_FUTURE,
            account: Sent {
                per_send: 1,
                tcp_series: Vec::with_capacity(if by_bytes { INTERVALS_MAX } else { entries }),
                ..Sent::default()
            },
            ask,
        }
    }

    /// Fills the send buffer. Before the test begins.
    pub(crate) fn prepare(&mut self, io: &mut impl Driver, link: &Link, seed: u64) {
        fill(io.buffer_mut(link.send_buffer()), seed);
        if !io.capabilities().zero_copy && self.zero_copy != ZeroCopy::Off {
            let backend = io.capabilities().backend.name();
            self.zero_copy = ZeroCopy::GivenUp(format!("{backend} does not offer it"));
        }
        if self.transport == Transport::Tcp && self.ask.socket.send_buffer_bytes.is_none() {
            let share = UNSENT_BYTES / self.ask.streams.max(1);
            let unsent = share.max(UNSENT_LEAST).max(self.size);
            // A kernel that has no such option takes more ahead.
            let _ = io.set_option(link.socket, &SocketOption::UnsentLowWater(unsent));
        }
    }

    /// The first byte leaves at `now`.
    pub(crate) fn start(&mut self, io: &mut impl Driver, link: &mut Link, now: Instant) -> Result {
        self.window.begin(now);
        self.info_at = self.window.start();
        self.segment(io, link);
        if let Some(pace) = &mut self.pace {
            pace.start(now);
            return Ok(());
        }
        self.send_next(io, link, now)
    }

    /// Has the kernel cut several datagrams out of one send, where each fits the path's MTU. Not
    /// before the test begins: control datagrams would be cut as well.
    fn segment(&mut self, io: &mut impl Driver, link: &Link) {
        if self.transport == Transport::Tcp || self.pace.is_some() {
            return;
        }
        let many = datagrams_per_send(self.size, io.path_mtu(link.socket));
        let segment = u16::try_from(self.size).unwrap_or(0);
        if many < 2 {
            self.account.per_send_reason = (self.size > DATAGRAM_MAX / 2)
                .then(|| "two of them do not fit into one send".to_owned());
            return;
        }
        let refusal = io.set_option(link.socket, &SocketOption::Segmentation(segment)).err();
        self.account.per_send = if refusal.is_some() { 1 } else { many };
        self.account.per_send_reason = refusal.map(|error| format!("no UDP_SEGMENT here: {error}"));
    }

    /// A send failed: whether that was since the kernel does not cut it any more, as where the
    /// path's MTU has turned out to be smaller (`EMSGSIZE`, before Linux 6.14 `EINVAL`). From here
    /// on datagrams leave one by one.
    pub(crate) fn handle_uncut(&mut self, io: &mut impl Driver, link: &Link, why: OpError) -> bool {
        let is_refusal = matches!(why, OpError::MessageTooLong | OpError::Invalid);
        if self.account.per_send == 1 || !is_refusal {
            return false;
        }
        let _ = io.set_option(link.socket, &SocketOption::Segmentation(0));
        self.account.per_send = 1;
        self.account.per_send_reason = Some(format!("the kernel ceased to cut sends: {why}"));
        true
    }

    pub(crate) const fn has_started(&self) -> bool {
        self.window.has_begun()
    }

    pub(crate) fn due(&self, link: &Link) -> Option<Instant> {
        let pace = self.pace.as_ref()?;
        // Its end is due as well.
        let is_free = !link.is_sending() && !link.is_sending_control();
        (self.has_started() && !self.finished && is_free).then(|| pace.next.min(self.stop_at()))
    }

    pub(crate) fn poll_submit(
        &mut self,
        io: &mut impl Driver,
        link: &mut Link,
        now: Instant,
    ) -> Result {
        self.leave_phases(now);
        if self.due(link).is_some_and(|due| due <= now) {
            self.send_next(io, link, now)?;
        }
        Ok(())
    }

    /// What became due in the warm-up and was not begun by its end leaves the queue then; so does,
    /// at its end, what became due in the measured phase, behind which a stream still sends.
    fn leave_phases(&mut self, now: Instant) {
        let (start, end) = (self.window.start(), self.window.end());
        let Some(pace) = self.pace.as_mut().filter(|_| now >= start) else { return };
        pace.leave_warmup(start);
        if now >= end {
            self.overdue.get_or_insert_with(|| pace.count_unsent(end));
        }
    }

    /// The kernel took `bytes`; none: it had no room for a datagram.
    #[inline]
    pub(crate) fn handle_sent(
        &mut self,
        io: &mut impl Driver,
        link: &mut Link,
        bytes: u64,
        now: Instant,
    ) -> Result {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(bytes);
        }
        if self.transport == Transport::Tcp {
            let sends = self.count_messages(bytes);
            if self.window.add(now, bytes) {
                self.account.sends += sends;
            }
        } else if self.sending_measured
            // By the flag that they carry, whenever they left.
            && self.window.add(now.min(Instant(self.window.end().0 - 1)), bytes)
        {
            self.account.sends += u64::from(bytes > 0);
            self.account.datagrams += bytes.div_ceil(u64::from(self.size.max(1)));
            self.refused += u64::from(bytes == 0);
        }
        if now >= self.info_at {
            self.sample(io, link, now);
        }
        if self.pace.is_none() || self.cut > 0 {
            self.send_next(io, link, now)?;
        } else if now >= self.stop_at() || self.left == Some(0) {
            self.finish(io, link, now);
        }
        Ok(())
    }

    /// Messages that ended with these `bytes`; where bytes end the stream, the last is shorter.
    fn count_messages(&mut self, bytes: u64) -> u64 {
        let gone = u64::from(self.cut) + bytes;
        let (whole, rest) = (gone / u64::from(self.size), gone % u64::from(self.size));
        if self.left == Some(0) && rest > 0 {
            self.cut = 0;
            return whole + 1;
        }
        self.cut = u32::try_from(rest).unwrap_or(0);
        whole
    }

    pub(crate) fn handle_released(
        &mut self,
        io: &mut impl Driver,
        link: &mut Link,
        copied: bool,
        now: Instant,
    ) -> Result {
        self.pending -= 1;
        self.released += 1;
        self.copied += u64::from(copied);
        if copied && self.zero_copy == ZeroCopy::Trying {
            let why = "the kernel copied all the same: the path ends on this machine, or its device cannot gather";
            self.zero_copy = ZeroCopy::GivenUp(why.to_owned());
        }
        self.resume(io, link, now)
    }

    /// What kept it from sending may be gone: a control frame, or a buffer that the kernel held.
    pub(crate) fn resume(&mut self, io: &mut impl Driver, link: &mut Link, now: Instant) -> Result {
        if self.has_started() && (self.pace.is_none() || self.cut > 0) {
            self.send_next(io, link, now)?;
        }
        Ok(())
    }

    fn stop_at(&self) -> Instant {
        let is_tcp = self.transport == Transport::Tcp;
        self.window.end() + if is_tcp { OVERRUN } else { Nanos::ZERO }
    }

    fn send_next(&mut self, io: &mut impl Driver, link: &mut Link, now: Instant) -> Result {
        if self.finished || link.is_sending() || link.is_sending_control() {
            return Ok(());
        }
        if now >= self.stop_at() || self.left == Some(0) {
            self.finish(io, link, now);
            return Ok(());
        }
        if self.transport == Transport::Udp {
            return self.send_datagrams(io, link, now);
        }
        let left = u32::try_from(self.left.unwrap_or(u64::MAX)).unwrap_or(u32::MAX);
        if self.cut > 0 || left < self.size {
            let rest = (self.size - self.cut).min(left);
            return link.send(io, self.cut, rest);
        }
        if let Some(pace) = &mut self.pace {
            pace.handle_sent(now, self.window.contains(now));
            return link.send(io, 0, self.size);
        }
        if matches!(self.zero_copy, ZeroCopy::Trying | ZeroCopy::On) {
            if self.pending == ZERO_COPY_PENDING {
                return Ok(());
            }
            self.pending += 1;
            self.zero_sends += u64::from(self.window.contains(now));
            return link.send_zero_copy(io, self.size);
        }
        let most = (BATCH_BYTES / self.size).clamp(1, BATCH_SENDS);
        link.send_repeated(io, self.size, most.min(left / self.size))
    }

    fn send_datagrams(&mut self, io: &mut impl Driver, link: &mut Link, now: Instant) -> Result {
        self.sending_measured = self.window.contains(now) || self.left.is_some();
        let left = self.left.map_or(u64::MAX, |left| left.div_ceil(u64::from(self.size)));
        let count = u32::try_from(left).unwrap_or(u32::MAX).min(self.account.per_send);
        let buffer = io.buffer_mut(link.send_buffer());
        for datagram in buffer.chunks_exact_mut(self.size as usize).take(count as usize) {
            let (measured, sequence) = (self.sending_measured, self.sequence);
            let (kind, session) = (StreamKind::Payload, self.session);
            let header = StreamHeader { kind, measured, sequence, session };
            header.encode_into(datagram, now);
            self.sequence += 1;
        }
        if let Some(pace) = &mut self.pace {
            pace.handle_sent(now, self.sending_measured);
        }
        link.send(io, 0, count * self.size)
    }

    /// Asks the kernel how the connection fares: at the start of the measured phase, at the end of
    /// each entry, and at the end.
    fn sample(&mut self, io: &impl Driver, link: &Link, now: Instant) {
        let entry = self.window.entry(now);
        let interval = Nanos(self.ask.interval_ns.max(1_000_000));
        self.info_at = self.window.start() + Nanos(interval.0.saturating_mul(entry as u64 + 1));
        let Some(info) = io.tcp_info(link.socket).filter(|_| self.transport == Transport::Tcp)
        else {
            return;
        };
        let Some((_, last)) = &mut self.info else {
            self.info = Some((info, info));
            return;
        };
        let mut entry_info = TcpInterval {
            retransmits: info.retransmits.saturating_sub(last.retransmits),
            cwnd_bytes: u64::from(info.cwnd_segments) * u64::from(info.mss_bytes),
            rtt_ns: info.rtt.0,
        };
        *last = info;
        // At least one; several where nothing was sent for longer than an entry lasts.
        let until =
            entry.max(self.account.tcp_series.len() + 1).min(self.account.tcp_series.capacity());
        while self.account.tcp_series.len() < until {
            self.account.tcp_series.push(entry_info);
            entry_info.retransmits = 0;
        }
    }

    /// Sends no more, whatever is left. What is under way still goes.
    pub(crate) fn finish(&mut self, io: &mut impl Driver, link: &Link, now: Instant) {
        if std::mem::replace(&mut self.finished, true) || !self.has_started() {
            return;
        }
        self.sample(io, link, now);
        if self.account.per_send > 1 {
            let _ = io.set_option(link.socket, &SocketOption::Segmentation(0));
        }
    }

    pub(crate) const fn is_finished(&self) -> bool {
        self.finished
    }

    pub(crate) fn is_measuring(&self, now: Instant) -> bool {
        now >= self.window.start()
    }

    pub(crate) fn figures(mut self, io: &impl Driver, link: &Link, now: Instant) -> Sent {
        let duration = self.window.length(now);
        let until = self.window.end().min(now);
        let buffers = io.socket_buffers(link.socket);
        let tcp = self.info.as_ref().map(|(first, last)| TcpFigures {
            congestion_control: io.congestion_control(link.socket),
            send_buffer_bytes: buffers.map(|b| b.0),
            ..tcp_figures(first, last)
        });
        let path = io.path_mtu(link.socket).filter(|_| self.transport == Transport::Udp);
        self.leave_phases(now);
        let unsent = self.count_unsent(until);
        let copied_share = self.copied as f64 / self.released.max(1) as f64;
        let reason = match &self.zero_copy {
            ZeroCopy::GivenUp(why) => Some(why.clone()),
            _ => None,
        };
        let zero_copy = (self.zero_copy != ZeroCopy::Off).then_some(ZeroCopyUse {
            sends: self.zero_sends,
            copied_share,
            reason,
        });
        let is_tcp = self.transport == Transport::Tcp;
        let unacknowledged = io.send_queue_bytes(link.socket).filter(|_| is_tcp);
        Sent {
            duration_ns: duration.0,
            bytes: self.window.bytes(),
            unacknowledged_bytes: unacknowledged,
            path_mtu_bytes: path.map(|path| path.bytes),
            fragments: path.map(|path| path.fragments(self.size)),
            send_buffer_bytes: buffers.filter(|_| path.is_some()).map(|b| b.0),
            unsent,
            gap_ns: self.pace.as_ref().map_or(0, |pace| pace.gap.0),
            gap_deviation_hdr: self.pace.as_ref().map(|pace| pace.deviation.encode()),
            lateness_hdr: self.pace.as_ref().map(|pace| pace.lateness.encode()),
            tcp,
            zero_copy,
            ..self.account
        }
    }

    fn count_unsent(&mut self, until: Instant) -> u64 {
        match (&mut self.pace, self.left) {
            (None, _) => 0,
            (Some(_), Some(left)) => left.div_ceil(u64::from(self.size)),
            // Of the warm-up nothing counts.
            (Some(_), None) if until < self.window.start() => 0,
            (Some(pace), None) => {
                let overdue = self.overdue.unwrap_or_else(|| pace.count_unsent(until));
                overdue + self.refused
            }
        }
    }
}

fn pace(ask: &StreamAsk, size: u32) -> Option<Pace> {
    let gap = ask.gap(u64::from(size))?;
    let share = Share::new(ask.stream.min(ask.streams.max(1) - 1), ask.streams.max(1));
    let per_s = ask.rate_bits_per_s as f64 / 8.0 / f64::from(size.max(1));
    let schedule = Constant::new(per_s, share).ok()?;
    Some(Pace::new(schedule, gap))
}

fn zero_copy(ask: &StreamAsk, transport: Transport, size: u32) -> ZeroCopy {
    let tries = ask.zero_copy_auto && size >= ZERO_COPY_LEAST && ask.warmup_ns > 0;
    match transport {
        Transport::Tcp if ask.rate_bits_per_s > 0 => ZeroCopy::Off,
        Transport::Tcp if ask.zero_copy => ZeroCopy::On,
        Transport::Tcp if tries => ZeroCopy::Trying,
        _ => ZeroCopy::Off,
    }
}

/// Payload that nothing on the path compresses, and that no frame begins with.
fn fill(buffer: &mut [u8], seed: u64) {
    SplitMix64::seed_from_u64(seed).fill_bytes(buffer);
    for byte in buffer {
        *byte |= PAYLOAD_BIT;
    }
}

fn tcp_figures(first: &TcpInfo, last: &TcpInfo) -> TcpFigures {
    let since = |of: fn(&TcpInfo) -> u64| of(last).saturating_sub(of(first));
    TcpFigures {
        retransmits: since(|i| i.retransmits),
        segments: Some(since(|i| i.data_segments_out)),
        cwnd_bytes: u64::from(last.cwnd_segments) * u64::from(last.mss_bytes),
        rtt_ns: last.rtt.0,
        min_rtt_ns: Some(last.min_rtt.0),
        mss_bytes: last.mss_bytes,
        busy_ns: Some(since(|i| i.busy.0)),
        rwnd_limited_ns: Some(since(|i| i.rwnd_limited.0)),
        sndbuf_limited_ns: Some(since(|i| i.sndbuf_limited.0)),
        ..TcpFigures::default()
    }
}
