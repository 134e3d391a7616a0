//! HTTP/1.1 (RFC 9112) for whoever measures with it: known sizes, delays, a queue, a stall.
//!
//! One [`HttpServer`] serves all HTTP connections of a server, so that its queue is one queue and
//! its stalls stop everything. A request that arrives in one piece is answered from the pool buffer
//! it came in: nothing is copied but the response, into a page that is lent to the connection until
//! it is sent, and all responses of a turn leave together.
//!
//! Responses have no `Date`. Requests of one connection are answered one after the other; while a
//! response is unsent, at most a few more are received.

mod connection;
mod delays;
mod echo;
mod handler;
mod response;

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::{Io, Result};
use crate::limits::HTTP_MEMORY_MAX;
use crate::worker::link::{Purpose, slot_of};
use crate::worker::{Role, TurnCounters};
use tare_driver::{BufferId, Completion, Driver, OpError, Outcome, SocketOption, Wait};
use tare_proto::hello::WaitMode;
use tare_proto::http1::incoming::RequestError;
use tare_units::bounds::{LINGER, NAP, REQUEST_MAX};
use tare_units::limits::{HTTP_TURNED_AWAY_MAX, HYBRID_SPIN};
use tare_units::{Instant, Nanos};

use connection::{Connection, ConnectionPermit, FILL_BYTES, Input, PAGE, Tail};
use handler::{Joining, RequestHandler};
use response::{Body, Ending, FILL, HEAD_BESIDE, SHORT, Timing};

pub use crate::server::plan::HttpSettings;
pub use delays::Stall;

/// A response that is due this soon is waited for spinning: waking up may take as long.
const WAKEUP: Nanos = Nanos::from_micros(300);
const FULL: RequestError = RequestError {
    status: 503,
    reason: "the server has as many connections as --max-connections lets it have",
};
const LATE: RequestError =
    RequestError { status: 408, reason: "the request was not whole in time" };
const QUEUE_FULL: &str = "the queue has work for more than a minute";
/// Connections whose deadlines are checked in one nap.
const CHECKS_PER_NAP: usize = 8192;
/// With a send outstanding for so long, the client does not read, or not fast.
const UNREAD_FOR: Nanos = Nanos::from_millis(100);
/// Where memory runs out, connections are closed down to this, so that the search pays.
const MEMORY_LEFT: u64 = HTTP_MEMORY_MAX / 8 * 7;
const PAGES_KEPT: usize = 2048;
/// Connections that may have something to send in one turn before the list of them grows.
const READY_ROOM: usize = 1024;
/// What is due for connections that are gone is let lie up to that many.
const DUE_KEPT: usize = 1024;
/// Buffers kept for heads that come in pieces.
const SPARE_KEPT: usize = 64;
/// The pool that requests arrive in: buffers, and their length, bytes.
const POOL: (u16, u32) = (1024, 4096);

const _: () = assert!(HEAD_BESIDE + SHORT + tare_units::limits::REQUEST_HEAD_MAX <= PAGE);

/// An HTTP connection on its way from the front.
#[derive(Debug)]
pub struct HttpArrival<S> {
    /// The connected socket.
    pub socket: S,
    /// What it has sent so far.
    pub bytes: Vec<u8>,
    /// When the last of that was reaped.
    pub at: Instant,
    /// When it arrived by the kernel's clock, since the epoch, where that was asked to stamp.
    pub stamp: Option<Nanos>,
}

/// Where connections are handed to the HTTP side.
#[derive(Debug)]
pub struct Inbox<S> {
    to: Sender<(HttpArrival<S>, ConnectionPermit)>,
    permit: ConnectionPermit,
    permits_max: usize,
}

/// Where they come out.
#[derive(Debug)]
pub struct Arrivals<S>(Receiver<(HttpArrival<S>, ConnectionPermit)>);

/// Both ends, for so many connections and a few more that are told that they are too many.
#[must_use]
pub fn inbox<S>(connections_max: u32) -> (Inbox<S>, Arrivals<S>) {
    let (to, from) = unbounded();
    let permits_max = connections_max as usize + HTTP_TURNED_AWAY_MAX;
    (Inbox { to, permit: Arc::default(), permits_max }, Arrivals(from))
}

impl<S> Inbox<S> {
    /// Hands a connection over. Returns whether it was taken: it is dropped where all permits are,
    /// be they of connections that are served or of those that wait for it, as in a stall; and
    /// where there is no HTTP side any more.
    pub fn send(&self, arrival: HttpArrival<S>) -> bool {
        let taken = Arc::strong_count(&self.permit) - 1;
        taken < self.permits_max && self.to.send((arrival, Arc::clone(&self.permit))).is_ok()
    }
}

/// Maps the kernel's stamps of arrivals, which are of the wall clock, to instants.
pub trait StampClock: std::fmt::Debug {
    /// Compares the clocks again; called every 100 ms.
    fn refresh(&mut self);

    /// The instant of a stamp, which is since the epoch; `None` for one that has none.
    fn to_instant(&self, stamp: Nanos) -> Option<Instant>;
}

/// The HTTP side of a server; see the [module](self).
#[derive(Debug)]
pub struct HttpServer<S> {
    arrivals: Arrivals<S>,
    settings: HttpSettings,
    stopping: Arc<AtomicBool>,
    stamps: Box<dyn StampClock>,
    started_at: Instant,
    handler: RequestHandler,
    slots: Vec<Option<Connection>>,
    vacant: Vec<u32>,
    serials: u32,
    ready: Vec<u32>,
    /// Nothing has been done since the last stall began.
    is_stalled: bool,
    deferred: VecDeque<(Instant, Completion)>,
    pages: Vec<BufferId>,
    fill: Option<BufferId>,
    has_pool: bool,
    memory: u64,
    active_at: Instant,
    checked_at: Instant,
    /// The connection whose deadlines were checked last.
    last_check: usize,
    /// Memory that the kernel holds for those checked in this round that do not read, bytes.
    queued_bytes: u64,
    /// What it may hold for all of them.
    queued_max: u64,
    /// The server is stopping, and what clients have not taken is not left to the kernel.
    has_left: bool,
}

impl<S> HttpServer<S> {
    /// Takes connections from an [`inbox()`], from `now` on.
    #[must_use]
    pub fn new(
        arrivals: Arrivals<S>,
        mut settings: HttpSettings,
        stopping: Arc<AtomicBool>,
        stamps: Box<dyn StampClock>,
        now: Instant,
    ) -> Self {
        let handler = RequestHandler::new(settings.seed, std::mem::take(&mut settings.stalls));
        Self {
            arrivals,
            settings,
            stopping,
            stamps,
            started_at: now,
            handler,
            slots: Vec::new(),
            vacant: Vec::new(),
            serials: 0,
            ready: Vec::with_capacity(READY_ROOM),
            is_stalled: false,
            deferred: VecDeque::new(),
            pages: Vec::with_capacity(PAGES_KEPT),
            fill: None,
            has_pool: false,
            memory: 0,
            active_at: now,
            checked_at: now,
            last_check: 0,
            queued_bytes: 0,
            queued_max: u64::MAX,
            has_left: false,
        }
    }

    /// Bounds what the kernel may hold for clients that do not read, all together, bytes.
    pub const fn bound_queued(&mut self, bytes: u64) {
        self.queued_max = bytes;
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When there is something to do, whatever comes: a stall ends, or else the next response is
    /// due that waits for its time.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let due = || self.handler.due.peek().map(|Reverse((at, ..))| *at);
        self.handler.stalls.until(now).or_else(due)
    }

    /// Memory that connections hold for what they sent and are sent, bytes.
    #[cfg(test)]
    pub(crate) const fn memory_bytes(&self) -> u64 {
        self.memory
    }

    /// What the kernel holds now for those that do not read, bytes.
    #[cfg(test)]
    pub(crate) fn queued(&self, io: &impl Driver) -> u64 {
        let unread = self.slots.iter().flatten().filter(|conn| conn.sending);
        unread.filter_map(|conn| io.kernel_bytes(conn.socket)).sum()
    }

    /// Responses that wait for their time, some of them for connections that are gone.
    #[cfg(test)]
    pub(crate) fn due_len(&self) -> usize {
        self.handler.due.len()
    }

    fn adopt(
        &mut self,
        io: &mut impl Io<S>,
        arrival: HttpArrival<S>,
        permit: ConnectionPermit,
        now: Instant,
    ) -> Result {
        if !std::mem::replace(&mut self.has_pool, true) {
            io.provide_pool(POOL.0, POOL.1)?;
        }
        let Ok(socket) = io.adopt(arrival.socket) else {
            return Ok(());
        };
        let is_full = self.len() >= self.settings.connections_max as usize;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("bounded by the driver's sockets")
        });
        self.serials = self.serials.wrapping_add(1);
        let mut conn = Connection::new(slot, self.serials, socket, permit, now);
        if is_full {
            self.handler.refuse(&mut conn, FULL, &arrival.bytes);
        } else {
            // The first request has this worker started, and comes before it.
            let at = self.arrived(arrival.stamp, arrival.at);
            self.started_at = self.started_at.min(at);
            self.take(&mut conn, &arrival.bytes, at);
        }
        self.settle(io, conn, now)
    }

    /// When bytes arrived that were reaped at `reaped_at`: as the kernel stamped them, if it did.
    fn arrived(&self, stamp: Option<Nanos>, reaped_at: Instant) -> Instant {
        let at = stamp.and_then(|stamp| self.stamps.to_instant(stamp));
        at.map_or(reaped_at, |at| at.min(reaped_at))
    }

    /// Bytes came at `at`.
    fn take(&mut self, conn: &mut Connection, bytes: &[u8], at: Instant) {
        if conn.is_past_last() {
            return;
        }
        if conn.input.is_some() || !conn.takes_requests() {
            conn.input.get_or_insert_default().push(bytes, at);
            return self.handler.answer(conn);
        }
        let used = self.handler.digest(conn, bytes, |_| at);
        if used < bytes.len() && !conn.is_past_last() {
            let mut input = Input::default();
            input.push(&bytes[used..], at);
            conn.input = Some(Box::new(input));
        }
    }

    /// Does what a connection needs after a change, and puts it back in its place.
    fn settle(&mut self, io: &mut impl Driver, mut conn: Connection, now: Instant) -> Result {
        let slot = conn.slot;
        self.commit(io, &mut conn)?;
        conn.since = conn.is_cut().then(|| conn.since.unwrap_or(now));
        conn.lent_since = conn.is_lent().then(|| conn.lent_since.unwrap_or(now));
        if !conn.is_answering() {
            match conn.ending {
                Ending::No if conn.ended => conn.close(io)?,
                Ending::Last => conn.close(io)?,
                Ending::LastOfMore if conn.ended => conn.close(io)?,
                Ending::LastOfMore => {
                    conn.ending = Ending::Lingering(now + LINGER);
                    conn.half_close(io)?;
                }
                _ => {}
            }
        }
        conn.adjust_receiving(io)?;
        let holds = conn.holds();
        self.memory = self.memory - conn.charged + holds;
        conn.charged = holds;
        if conn.is_over() {
            conn.reader.reset(&mut self.handler.spare);
            conn.free(io, &mut self.pages);
            self.vacant.push(slot);
        } else {
            self.slots[slot as usize] = Some(conn);
        }
        self.handler.spare.trim(SPARE_KEPT);
        if self.pages.len() > PAGES_KEPT {
            for page in self.pages.drain(PAGES_KEPT..) {
                io.free(page);
            }
        }
        if self.memory > HTTP_MEMORY_MAX {
            // Those go that have sat on it for longest, so that others can be served.
            let charged = |conn: &Connection| (conn.stale_since(), conn.charged);
            self.close_longest(io, self.memory, MEMORY_LEFT, charged)?;
        }
        Ok(())
    }

    /// Puts what was written where it is sent from.
    fn commit(&mut self, io: &mut impl Driver, conn: &mut Connection) -> Result {
        if !self.handler.written.is_empty() {
            conn.write(io, &self.handler.written, &mut self.pages)?;
            self.handler.written.clear();
        }
        match self.handler.tail.take() {
            Some(Body::Bytes(bytes)) => {
                let buffer = io.allocate(bytes.len())?;
                io.buffer_mut(buffer).copy_from_slice(&bytes);
                let end = u32::try_from(bytes.len()).expect("a request's body is short");
                let start = 0;
                conn.tail = Some(Tail::Own { buffer, start, end });
            }
            Some(Body::Fill(len)) => {
                if self.fill.is_none() {
                    let fill = io.allocate(FILL_BYTES as usize)?;
                    io.buffer_mut(fill).fill(FILL);
                    self.fill = Some(fill);
                }
                conn.tail = Some(Tail::Fill(len));
            }
            Some(Body::Text(_)) | None => {}
        }
        if conn.is_unsent() && !conn.sending && !std::mem::replace(&mut conn.queued, true) {
            self.ready.push(conn.slot);
        }
        Ok(())
    }

    /// Something completed; it was reaped at `at`, and nothing was done about it until now.
    fn complete(
        &mut self,
        io: &mut impl Driver,
        completion: Completion,
        at: Instant,
        now: Instant,
    ) -> Result {
        let Completion { token, outcome, more } = completion;
        let (slot, purpose) = slot_of(token);
        let Some(mut conn) = self.slots[slot as usize].take() else {
            if let Outcome::ReceivedInPool { buffer: Some(b), .. } = outcome {
                io.recycle(b);
            }
            return Ok(());
        };
        if !more {
            conn.handle_completed(purpose);
        }
        match (purpose, outcome) {
            (Purpose::Receive, Outcome::ReceivedInPool { buffer: Some(b), .. }) => {
                (conn.active_at, self.active_at) = (now, now);
                self.take(&mut conn, io.pool_bytes(&b), at);
                io.recycle(b);
            }
            (Purpose::Receive, Outcome::ReceivedStamped { len: len @ 1.., at: stamp }) => {
                (conn.active_at, self.active_at) = (now, now);
                let at = self.arrived(stamp, at);
                let bytes = conn.stamped(io, len);
                self.take(&mut conn, bytes, at);
            }
            (
                Purpose::Receive,
                Outcome::ReceivedInPool { .. } | Outcome::ReceivedStamped { .. },
            ) => {
                conn.ended = true;
                if matches!(conn.ending, Ending::Lingering(_)) || !conn.is_answering() {
                    conn.close(io)?;
                }
            }
            (Purpose::Send, Outcome::Sent(sent)) => {
                (conn.active_at, self.active_at) = (now, now);
                conn.handle_sent(io, sent, &mut self.pages);
                if conn.held.as_ref().is_some_and(|held| held.is_due) {
                    self.handler.hold_until(now, conn.slot, conn.serial);
                } else if !conn.is_unsent() {
                    self.handler.answer(&mut conn);
                }
            }
            // Out of buffers for now, or stopped: `adjust_receiving` starts again when it is time.
            (Purpose::Receive, Outcome::Failed(OpError::NoBuffers | OpError::Canceled)) => {}
            (Purpose::Receive | Purpose::Send | Purpose::HalfClose, Outcome::Failed(_)) => {
                conn.close(io)?;
            }
            _ => {}
        }
        self.settle(io, conn, now)
    }

    /// Whether there is a stall. Once it is over, what came meanwhile is handled first.
    fn stalls(&mut self, io: &mut impl Driver, now: Instant) -> Result<bool> {
        if self.handler.stalls.until(now).is_some() {
            self.is_stalled = true;
        } else if std::mem::take(&mut self.is_stalled) {
            self.restart_deadlines(now);
            while let Some((at, completion)) = self.deferred.pop_front() {
                self.complete(io, completion, at, now)?;
            }
            self.join_queue();
        }
        Ok(self.is_stalled)
    }

    /// Has the requests that came in this turn join the queue, in the order of their arrival.
    fn join_queue(&mut self) {
        // Stable: what came at the same instant stays in the order of the reaping.
        let mut joining = std::mem::take(&mut self.handler.joining);
        joining.sort_by_key(|joining| joining.arrival);
        for Joining { arrival, slot, serial, service } in joining.drain(..) {
            let conn = self.slots[slot as usize].as_mut();
            let conn = conn.filter(|conn| conn.serial == serial);
            if let Some(held) = conn.and_then(|conn| conn.held.as_mut()) {
                let mut due = arrival;
                if let Some(joined) = self.handler.queue.join(arrival, service) {
                    (held.arrival, due) = joined;
                } else {
                    held.is_queued = false;
                    held.reply.replace(503, QUEUE_FULL);
                }
                self.handler.hold_until(due, slot, serial);
            }
        }
        self.handler.joining = joining;
    }

    /// Drops what was due for closed connections, once it is the most: an open one has one entry.
    fn forget_left(&mut self) {
        if self.handler.due.len() > 2 * self.len() + DUE_KEPT {
            let slots = &self.slots;
            self.handler.due.retain(|Reverse((_, _, slot, serial))| {
                let conn = slots[*slot as usize].as_ref();
                conn.is_some_and(|conn| conn.serial == *serial)
            });
        }
    }

    /// Sends the responses whose time has come.
    fn release_due(&mut self, io: &mut impl Driver, now: Instant) -> Result {
        while let Some(Reverse((at, _, slot, serial))) = self.handler.due.peek().copied()
            && at <= now
        {
            self.handler.due.pop();
            let Some(mut conn) = self.slots[slot as usize].take_if(|conn| conn.serial == serial)
            else {
                continue;
            };
            // The page is the driver's until it is sent; then this one is due again.
            if conn.sending {
                if let Some(held) = &mut conn.held {
                    held.is_due = true;
                }
            } else if let Some(held) = conn.held.take() {
                let arrival = held.is_queued.then(|| held.arrival.since(self.started_at));
                let timing = Timing { residence: now.since(held.arrival), arrival };
                conn.departed_at = now;
                self.handler.write(&mut conn, held.reply, Some(timing));
                self.handler.answer(&mut conn);
            }
            conn.active_at = now;
            self.settle(io, conn, now)?;
        }
        Ok(())
    }

    /// Closes who has been silent for too long, or reads too slowly what lies in memory for it.
    fn check_deadlines(&mut self, io: &mut impl Driver, now: Instant) -> Result {
        let idle = self.settings.idle;
        let request = idle.min(REQUEST_MAX);
        for _ in 0..self.slots.len().min(CHECKS_PER_NAP) {
            self.last_check = (self.last_check + 1) % self.slots.len();
            if self.last_check == 0 {
                let held = std::mem::take(&mut self.queued_bytes);
                if held > self.queued_max {
                    // Those go that have taken nothing for longest, so that the kernel has memory
                    // for others, here and in other processes.
                    let queued = |conn: &Connection| {
                        (conn.pushed_at, if conn.sending { conn.queued_bytes } else { 0 })
                    };
                    self.close_longest(io, held, self.queued_max / 8 * 7, queued)?;
                }
            }
            let Some(conn) = &mut self.slots[self.last_check] else {
                continue;
            };
            let unread_for = if conn.sending { now.since(conn.pushed_at) } else { Nanos::ZERO };
            conn.queued_bytes =
                if unread_for > UNREAD_FOR { io.kernel_bytes(conn.socket).unwrap_or(0) } else { 0 };
            self.queued_bytes += conn.queued_bytes;
            // Who waits for a response may be silent, but has to be there.
            let waits = conn.held.is_some() && !conn.ended;
            let is_silent = now.since(conn.active_at) > idle && !waits;
            let is_slow = conn.lent_since.is_some_and(|at| now.since(at) > idle);
            // Bytes that it sends meanwhile do not count as reading.
            let is_stuck = unread_for > idle;
            let is_over = match conn.ending {
                Ending::Lingering(until) => now > until,
                Ending::Closing => false,
                _ => is_silent || is_slow || is_stuck,
            };
            let is_late = conn.since.is_some_and(|since| now.since(since) > request);
            if (is_over || is_late)
                && let Some(mut conn) = self.slots[self.last_check].take()
            {
                if is_late {
                    conn.input = None;
                    let head = conn.reader.gathered().to_vec();
                    self.handler.refuse(&mut conn, LATE, &head);
                } else {
                    conn.cut_off(io)?;
                }
                self.settle(io, conn, now)?;
            }
        }
        Ok(())
    }

    /// No client could meet its deadlines while nothing was done here: they start again.
    #[cold]
    fn restart_deadlines(&mut self, now: Instant) {
        for conn in self.slots.iter_mut().flatten() {
            conn.active_at = now;
            conn.pushed_at = now;
            conn.since = conn.since.map(|_| now);
            conn.lent_since = conn.lent_since.map(|_| now);
            if let Ending::Lingering(until) = &mut conn.ending {
                *until = now + LINGER;
            }
        }
    }

    /// Closes connections, those first that `holds` gives the earliest instant, until they hold no
    /// more than `most` of the `held` bytes.
    #[cold]
    fn close_longest(
        &mut self,
        io: &mut impl Driver,
        mut held: u64,
        most: u64,
        holds: impl Fn(&Connection) -> (Instant, u64),
    ) -> Result {
        let holders = self.slots.iter().flatten().map(|conn| (holds(conn), conn.slot));
        let mut holders: Vec<_> = holders.filter(|((_, bytes), _)| *bytes > 0).collect();
        holders.sort_unstable_by_key(|((since, _), slot)| (*since, *slot));
        for ((_, bytes), slot) in holders {
            if held <= most {
                break;
            }
            if let Some(conn) = &mut self.slots[slot as usize] {
                held = held.saturating_sub(bytes);
                conn.cut_off(io)?;
                self.memory -= std::mem::take(&mut conn.charged);
            }
        }
        Ok(())
    }
}

impl<D: Driver> Role<D> for HttpServer<D::Socket> {
    fn handle_completion(&mut self, io: &mut D, completion: Completion, now: Instant) -> Result {
        if self.is_stalled || self.handler.stalls.until(now).is_some() {
            self.is_stalled = true;
            self.deferred.push_back((now, completion));
            return Ok(());
        }
        self.complete(io, completion, now, now)
    }

    fn handle_time(&mut self, io: &mut D, now: Instant, _counters: &mut TurnCounters) -> Result {
        if self.stopping.load(Ordering::Relaxed) {
            for conn in self.slots.iter().flatten().filter(|conn| conn.sending) {
                let _ = io.set_option(conn.socket, &SocketOption::ResetOnClose);
            }
            self.has_left = true;
            return Ok(());
        }
        if self.stalls(io, now)? {
            return Ok(());
        }
        while !self.arrivals.0.is_empty()
            && let Ok((arrival, permit)) = self.arrivals.0.try_recv()
        {
            self.active_at = now;
            self.adopt(io, arrival, permit, now)?;
        }
        self.join_queue();
        self.forget_left();
        if now.since(self.checked_at) >= NAP {
            self.checked_at = now;
            self.stamps.refresh();
            self.check_deadlines(io, now)?;
        }
        Ok(())
    }

    fn poll_submit(&mut self, io: &mut D, now: Instant) -> Result {
        if self.stalls(io, now)? {
            return Ok(());
        }
        self.release_due(io, now)?;
        self.join_queue();
        let mut ready = std::mem::take(&mut self.ready);
        for slot in ready.drain(..) {
            if let Some(conn) = &mut self.slots[slot as usize] {
                conn.queued = false;
                conn.push_send(io, self.fill, now)?;
            }
        }
        self.ready = ready;
        Ok(())
    }

    fn poll_wait(&self, now: Instant) -> Wait {
        let stalled = self.handler.stalls.until(now);
        let due = self.next_due(now);
        if let Some(due) = due
            && due.since(now) <= WAKEUP
        {
            return Wait::Poll;
        }
        let fresh = now.since(self.active_at) < HYBRID_SPIN;
        let spins = match self.settings.wait {
            WaitMode::Spin => !self.is_empty(),
            WaitMode::Hybrid => fresh,
            WaitMode::Block => false,
        };
        if spins && stalled.is_none() {
            return Wait::Poll;
        }
        let nap = now + NAP;
        Wait::Until(due.map_or(nap, |due| Instant(due.0 - WAKEUP.0).min(nap)))
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.handler.due.is_empty()
    }

    fn take_timed(&mut self) -> u64 {
        0
    }

    fn is_finished(&self) -> bool {
        self.has_left
    }
}
