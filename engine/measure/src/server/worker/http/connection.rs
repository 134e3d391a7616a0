//! One HTTP connection: its unread input, its unsent output, and its outstanding operations.
//!
//! An idle one has no buffer: bytes arrive in the driver's pool, and a page to answer from is lent
//! to it for as long as there is something unsent.

use std::collections::VecDeque;
use std::sync::Arc;

use super::response::{Ending, Pending, Reply};
use crate::server::worker::Result;
use crate::worker::link::{Purpose, token};
use tare_driver::{BufferId, Driver, Op, Segment, SocketId, SocketOption};
use tare_proto::http1::incoming::RequestReader;
use tare_units::Instant;
use tare_units::limits::{REQUEST_HEAD_MAX, SEGMENTS_MAX};

/// Room for the heads of responses, and short bodies, bytes.
pub(super) const PAGE: usize = REQUEST_HEAD_MAX + (4 << 10);
/// What long bodies without contents are sent from, bytes.
pub(super) const FILL_BYTES: u32 = 256 << 10;
/// What a connection may have in the kernel and not yet on the wire, bytes. A client that does not
/// read has the rest wait here, where it costs nothing; without a bound the kernel takes megabytes
/// for each. One that reads is served from it at full speed: it holds as much as one send.
const UNSENT_BYTES: u32 = FILL_BYTES;
/// With so much unread while a response is unsent, nothing more is received, bytes.
const INPUT_PAUSE: usize = 16 << 10;
/// What is received with a stamp lands in a buffer of that length, bytes.
const STAMPED_BYTES: u32 = 2 << 10;
/// Arrivals kept of unread input: more than it can hold requests, which may come one by one.
const MARKS_MAX: usize = INPUT_PAUSE / "GET / HTTP/1.0\r\n\r\n".len();
const CUT: usize = 64 << 10;

/// Bytes that arrived and were not yet read, with when they did.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    /// Up to which of all bytes ever kept here came when. Bytes beyond [`MARKS_MAX`] share the
    /// last, which is when the last of them came.
    marks: VecDeque<(u64, Instant)>,
    taken: u64,
}

impl Input {
    pub(super) fn push(&mut self, bytes: &[u8], now: Instant) {
        self.bytes.extend_from_slice(bytes);
        let end = self.taken + self.rest().len() as u64;
        let is_full = self.marks.len() >= MARKS_MAX;
        match self.marks.back_mut() {
            Some(last) if is_full || last.1 == now => *last = (end, now),
            _ => self.marks.push_back((end, now)),
        }
    }

    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        self.taken += bytes as u64;
        while self.marks.front().is_some_and(|(end, _)| *end <= self.taken) {
            self.marks.pop_front();
        }
        if self.start >= CUT {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    fn bytes(&self) -> u64 {
        let marks = self.marks.capacity() * size_of::<(u64, Instant)>();
        (size_of::<Self>() + self.bytes.capacity() + marks) as u64
    }

    /// When the first `bytes` of the rest had all arrived.
    pub(super) fn arrival(&self, bytes: usize) -> Instant {
        let end = self.taken + bytes as u64;
        let mark = self.marks.iter().find(|(last, _)| *last >= end);
        mark.or_else(|| self.marks.back()).map_or_else(Instant::default, |(_, at)| *at)
    }
}

/// Pages that nobody uses now.
type Pages = Vec<BufferId>;

/// Held by a connection from its hand-over to its end; the inbox counts those who hold one.
pub(super) type ConnectionPermit = Arc<()>;

#[derive(Debug)]
pub(super) struct Held {
    pub reply: Reply,
    pub is_queued: bool,
    pub arrival: Instant,
    /// Its time has come, and what was written before it is being sent.
    pub is_due: bool,
}

#[derive(Debug)]
pub(super) enum Tail {
    Fill(u64),
    Own { buffer: BufferId, start: u32, end: u32 },
}

/// Whether what arrives is to be received with the kernel's stamp.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stamping {
    #[default]
    No,
    /// Once what is outstanding has ended.
    Wanted,
    Yes(BufferId),
    /// The kernel does not: the instant of the reaping has to do.
    Denied,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Receiving {
    #[default]
    No,
    Yes,
    /// Until the cancel is carried out.
    Stopping,
}

#[derive(Debug, Default)]
pub(super) struct Connection {
    pub slot: u32,
    /// Tells it from others that had its slot.
    pub serial: u32,
    pub socket: SocketId,
    outstanding: u32,
    receiving: Receiving,
    stamping: Stamping,
    pub sending: bool,
    pub pushed_at: Instant,
    /// Memory that the kernel held for it at the last check, bytes; zero while it reads.
    pub queued_bytes: u64,
    sent_bytes: u64,
    /// The kernel was told how much to take.
    is_bounded: bool,
    /// It stands in the list of those that have something to send.
    pub queued: bool,
    pub ended: bool,
    pub ending: Ending,
    pub reader: RequestReader,
    /// Bytes that are read once the connection takes requests again.
    pub input: Option<Box<Input>>,
    pub pending: Option<Box<Pending>>,
    page: Option<BufferId>,
    start: u32,
    pub end: u32,
    pub tail: Option<Tail>,
    pub held: Option<Box<Held>>,
    pub departed_at: Instant,
    pub active_at: Instant,
    /// A part of a request is there since then.
    pub since: Option<Instant>,
    /// What is unsent lies in memory that was lent to it, since then.
    pub lent_since: Option<Instant>,
    /// Memory that it was charged for, bytes.
    pub charged: u64,
    _permit: ConnectionPermit,
}

impl Connection {
    pub(super) fn new(
        (slot, serial): (u32, u32),
        socket: SocketId,
        permit: ConnectionPermit,
        now: Instant,
    ) -> Self {
        let (pushed_at, active_at) = (now, now);
        Self { slot, serial, socket, pushed_at, active_at, _permit: permit, ..Self::default() }
    }

    /// There is more from the client. Returns whether it is behind the last request.
    pub(super) fn is_past_last(&mut self) -> bool {
        if self.ending == Ending::Last {
            self.ending = Ending::LastOfMore;
        }
        self.ending != Ending::No
    }

    /// Whether the next request can be answered: in order, and not into a page that is being sent.
    pub(super) const fn takes_requests(&self) -> bool {
        !self.sending
            && self.tail.is_none()
            && self.held.is_none()
            && matches!(self.ending, Ending::No)
    }

    pub(super) const fn is_answering(&self) -> bool {
        self.held.is_some() || self.is_unsent()
    }

    pub(super) const fn is_unsent(&self) -> bool {
        self.sending || self.start < self.end || self.tail.is_some()
    }

    pub(super) fn is_cut(&self) -> bool {
        let is_coming = self.pending.as_ref().is_some_and(|p| p.arrival.is_none());
        (is_coming || !self.reader.is_at_start()) && self.takes_requests() && !self.is_unsent()
    }

    pub(super) const fn is_lent(&self) -> bool {
        self.page.is_some() || matches!(self.tail, Some(Tail::Own { .. }))
    }

    /// Since when it has made no use of the memory that it holds.
    pub(super) fn stale_since(&self) -> Instant {
        self.lent_since.or(self.since).unwrap_or(self.active_at)
    }

    /// Memory that it holds beyond itself, bytes; nothing once it is being closed.
    pub(super) fn holds(&self) -> u64 {
        if self.ending == Ending::Closing {
            return 0;
        }
        let input = self.input.as_ref().map_or(0, |input| input.bytes());
        let held = self.held.as_ref();
        let held = held.map_or(0, |held| size_of::<Held>() + held.reply.capacity()) as u64;
        let tail = if let Some(Tail::Own { end, .. }) = self.tail { u64::from(end) } else { 0 };
        let page = if self.page.is_some() { PAGE as u64 } else { 0 };
        let pending = self.pending.as_ref().map_or(0, |pending| pending.bytes());
        let is_stamped = matches!(self.stamping, Stamping::Yes(_));
        let stamped = if is_stamped { u64::from(STAMPED_BYTES) } else { 0 };
        input + stamped + self.reader.holds() as u64 + pending + held + tail + page
    }

    fn push(&mut self, io: &mut impl Driver, purpose: Purpose, op: Op) -> Result {
        io.push(token(self.slot, purpose), op)?;
        self.outstanding += 1;
        Ok(())
    }

    pub(super) fn handle_completed(&mut self, purpose: Purpose) {
        self.outstanding -= 1;
        match purpose {
            Purpose::Receive => self.receiving = Receiving::No,
            Purpose::Send => self.sending = false,
            _ => {}
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.ending == Ending::Closing && self.outstanding == 0
    }

    pub(super) fn adjust_receiving(&mut self, io: &mut impl Driver) -> Result {
        if self.ending == Ending::Closing || self.ended {
            return Ok(());
        }
        let unread = self.input.as_ref().map_or(0, |input| input.rest().len());
        let pauses = unread > INPUT_PAUSE && !self.takes_requests() && self.ending == Ending::No;
        let switches = pauses || self.stamping == Stamping::Wanted;
        match self.receiving {
            Receiving::No if !pauses => {
                let op = self.receive(io)?;
                self.receiving = Receiving::Yes;
                self.push(io, Purpose::Receive, op)
            }
            Receiving::Yes if switches => {
                self.receiving = Receiving::Stopping;
                let token = token(self.slot, Purpose::Receive);
                self.push(io, Purpose::Cancel, Op::Cancel { token })
            }
            _ => Ok(()),
        }
    }

    fn receive(&mut self, io: &mut impl Driver) -> Result<Op> {
        let socket = self.socket;
        if self.stamping == Stamping::Wanted {
            let stamps = SocketOption::ReceiveTimestamps(true);
            self.stamping = match io.set_option(socket, &stamps) {
                Ok(()) => Stamping::Yes(io.allocate(STAMPED_BYTES as usize)?),
                Err(_) => Stamping::Denied,
            };
        }
        Ok(match self.stamping {
            Stamping::Yes(buffer) => {
                let into = segment(buffer, 0, STAMPED_BYTES);
                Op::ReceiveStamped { socket, into }
            }
            _ => Op::ReceiveMultishot { socket },
        })
    }

    pub(super) fn want_stamps(&mut self) {
        if self.stamping == Stamping::No {
            self.stamping = Stamping::Wanted;
        }
    }

    pub(super) fn stamped<'a>(&self, io: &'a impl Driver, len: u32) -> &'a [u8] {
        match self.stamping {
            Stamping::Yes(buffer) => &io.buffer(buffer)[..len as usize],
            _ => &[],
        }
    }

    /// Appends to the page, which `pages` have one for.
    pub(super) fn put(&mut self, io: &mut impl Driver, bytes: &[u8], pages: &mut Pages) -> Result {
        let page = match self.page.or_else(|| pages.pop()) {
            Some(page) => page,
            None => io.allocate(PAGE)?,
        };
        self.page = Some(page);
        let start = self.end as usize;
        io.buffer_mut(page)[start..start + bytes.len()].copy_from_slice(bytes);
        self.end += u32::try_from(bytes.len()).expect("a page is short");
        Ok(())
    }

    pub(super) fn push_send(
        &mut self,
        io: &mut impl Driver,
        fill: Option<BufferId>,
        now: Instant,
    ) -> Result {
        if self.sending || self.ending == Ending::Closing {
            return Ok(());
        }
        let page = self.page.filter(|_| self.start < self.end);
        let page = page.map(|buffer| segment(buffer, self.start, self.end));
        let tail = match (&self.tail, fill) {
            (Some(Tail::Fill(left)), Some(buffer)) => {
                let len = u32::try_from(*left).unwrap_or(u32::MAX).min(FILL_BYTES);
                Some(segment(buffer, 0, len))
            }
            (Some(Tail::Own { buffer, start, end }), _) => Some(segment(*buffer, *start, *end)),
            _ => None,
        };
        let socket = self.socket;
        let op = match (page, tail) {
            (Some(_), Some(_)) => {
                let mut data = [None; SEGMENTS_MAX];
                (data[0], data[1]) = (page, tail);
                Op::SendVectored { socket, data }
            }
            (Some(data), None) | (None, Some(data)) => Op::Send { socket, data, zero_copy: false },
            (None, None) => return Ok(()),
        };
        let length = |segment: Option<Segment>| segment.map_or(0, |s| u64::from(s.len));
        let after = self.sent_bytes + length(page) + length(tail);
        if after > u64::from(UNSENT_BYTES / 2) && !std::mem::replace(&mut self.is_bounded, true) {
            // Most connections never come to it. A kernel without the option takes more.
            let _ = io.set_option(socket, &SocketOption::UnsentLowWater(UNSENT_BYTES));
        }
        (self.sending, self.pushed_at) = (true, now);
        self.push(io, Purpose::Send, op)
    }

    pub(super) fn handle_sent(&mut self, io: &mut impl Driver, n: u32, pages: &mut Pages) {
        self.sent_bytes += u64::from(n);
        let of_page = n.min(self.end - self.start);
        self.start += of_page;
        let rest = n - of_page;
        let is_done = match &mut self.tail {
            Some(Tail::Fill(left)) => {
                *left -= u64::from(rest);
                *left == 0
            }
            Some(Tail::Own { start, end, .. }) => {
                *start += rest;
                start == end
            }
            None => false,
        };
        if is_done {
            self.drop_tail(io);
        }
        if self.start == self.end {
            pages.extend(self.page.take());
            (self.start, self.end) = (0, 0);
        }
        if !self.is_lent() {
            self.lent_since = None;
        }
    }

    fn drop_tail(&mut self, io: &mut impl Driver) {
        if let Some(Tail::Own { buffer, .. }) = self.tail.take() {
            io.free(buffer);
        }
    }

    pub(super) fn half_close(&mut self, io: &mut impl Driver) -> Result {
        let socket = self.socket;
        self.push(io, Purpose::HalfClose, Op::HalfClose { socket })
    }

    /// Closes, once; what the client has not taken is thrown away, here and in the kernel.
    pub(super) fn cut_off(&mut self, io: &mut impl Driver) -> Result {
        if self.sending && self.ending != Ending::Closing {
            let _ = io.set_option(self.socket, &SocketOption::ResetOnClose);
        }
        self.close(io)
    }

    pub(super) fn close(&mut self, io: &mut impl Driver) -> Result {
        if self.ending == Ending::Closing {
            return Ok(());
        }
        self.ending = Ending::Closing;
        (self.held, self.since, self.lent_since) = (None, None, None);
        self.queued_bytes = 0;
        let socket = self.socket;
        self.push(io, Purpose::Close, Op::Close { socket })
    }

    pub(super) fn free(mut self, io: &mut impl Driver, pages: &mut Pages) {
        pages.extend(self.page.take());
        self.drop_tail(io);
        if let Stamping::Yes(buffer) = self.stamping {
            io.free(buffer);
        }
    }
}

const fn segment(buffer: BufferId, start: u32, end: u32) -> Segment {
    let len = end - start;
    Segment { buffer, start, len }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_in_many_pieces_takes_few_marks() {
        let mut input = Input::default();
        let count = 20_000;
        for i in 1..=count {
            input.push(b"x", Instant(i));
        }
        assert!(input.bytes() < 128 << 10, "{}", input.bytes());
        assert_eq!(input.arrival(1), Instant(1));
        let exact = MARKS_MAX - 1;
        assert_eq!(input.arrival(exact), Instant(exact as u64));
        // Never earlier than it came.
        assert_eq!(input.arrival(MARKS_MAX + 1), Instant(count));
        input.consume(MARKS_MAX + 1);
        input.push(b"y", Instant(count + 1));
        let rest = input.rest().len();
        assert_eq!(input.arrival(rest), Instant(count + 1));
        assert_eq!(input.arrival(rest - 1), Instant(count));
    }
}
