//! HTTP/1.1 (RFC 9112) for whoever measures with it: known sizes, delays, a queue, a stall.
//!
//! One [`HttpServer`] serves all HTTP connections of a server, so that its queue is one queue and its stalls stop
//! everything. A request that arrives in one piece is answered from the pool buffer it came in: nothing is copied but
//! the response, into a page that is lent to the connection until it is sent, and all responses of a turn leave together.
//!
//! Responses have no `Date`. Requests of one connection are answered one after the other; while a response is unsent, at
//! most a few more are received.

mod connection;
mod deadlines;
mod desk;
mod echo;
mod inbox;
mod queue;
mod reply;
mod request;
mod routes;
mod stall;
mod stamps;

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::limits::HTTP_MEMORY_MAX;
use crate::worker::{Role, TurnCounters};
use tare_driver::{
    BufferId, Completion, Driver, DriverError, OpError, Outcome, SocketOption, Wait,
};
use tare_proto::hello::WaitMode;
use tare_proto::http1::incoming::RequestError;
use tare_units::bounds::{LINGER, NAP};
use tare_units::limits::HYBRID_SPIN;
use tare_units::{Instant, Nanos};

use connection::{Connection, Ending, FILL_BYTES, Input, PAGE, Purpose, Tail, slot_of};
use desk::{Joining, RequestHandler};
use inbox::ConnectionPermit;
use reply::{Body, FILL, HEAD_BESIDE, SHORT, Timing};
use routes::Hold;

pub use inbox::{Arrivals, Inbox, inbox};
pub use stall::Stall;
pub use stamps::StampClock;

/// A response that is due this soon is waited for spinning: waking up may take as long.
const WAKEUP: Nanos = Nanos::from_micros(300);
const FULL: RequestError = RequestError {
    status: 503,
    reason: "the server has as many connections as --max-connections lets it have",
};
const QUEUE_FULL: &str = "the queue has work for more than a minute\n";
/// Pages kept for connections to come.
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

/// How HTTP is served.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// How the worker waits; a response that is due within 300 µs is waited for spinning in any case.
    pub wait: WaitMode,
    /// Longest silence of a connection, longest time for which a client may take nothing of what it is sent, and longest
    /// time that a response from memory of its own may take to be read.
    pub idle: Nanos,
    /// Connections at once.
    pub connections_max: u32,
    /// Seeds what `/echo` leaves to chance.
    pub seed: u64,
    /// When nothing is done.
    pub stalls: Vec<Stall>,
}

/// The HTTP side of a server; see the [module](self).
#[derive(Debug)]
pub struct HttpServer<S> {
    arrivals: Arrivals<S>,
    settings: HttpSettings,
    stopping: Arc<AtomicBool>,
    stamps: Box<dyn StampClock>,
    started_at: Instant,
    desk: RequestHandler,
    slots: Vec<Option<Connection>>,
    vacant: Vec<u32>,
    serials: u32,
    /// Connections with something to send.
    ready: Vec<u32>,
    /// Nothing has been done since the last stall began.
    is_stalled: bool,
    /// What completed in it, and when.
    deferred: VecDeque<(Instant, Completion)>,
    pages: Vec<BufferId>,
    fill: Option<BufferId>,
    has_pool: bool,
    /// Memory that the connections hold, bytes.
    memory: u64,
    active_at: Instant,
    checked_at: Instant,
    /// The connection whose deadlines are looked at next.
    look: usize,
    /// Memory that the kernel holds for those of this round of looks that do not read, bytes.
    queued_bytes: u64,
    /// And may hold for all of them.
    queued_max: u64,
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
        let desk = RequestHandler::new(settings.seed, std::mem::take(&mut settings.stalls));
        Self {
            arrivals,
            settings,
            stopping,
            stamps,
            started_at: now,
            desk,
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
            look: 0,
            queued_bytes: 0,
            queued_max: u64::MAX,
        }
    }

    /// Bounds what the kernel may hold for clients that do not read, all together, bytes.
    pub const fn bound_queued(&mut self, bytes: u64) {
        self.queued_max = bytes;
    }

    /// The server ends: what clients have not taken is not left to the kernel.
    pub fn leave<D: Driver<Socket = S>>(&mut self, io: &mut D) {
        let unread = self.slots.iter().flatten().filter(|conn| conn.sending);
        for conn in unread {
            let _ = io.set_option(conn.socket(), &SocketOption::ResetOnClose);
        }
    }

    /// Connections alive.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    /// Whether there is no connection.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Requests that were answered, or are being so.
    #[must_use]
    pub const fn served(&self) -> u64 {
        self.desk.served
    }

    /// When there is something to do, whatever comes: a stall ends, or else the next response is due that waits for its
    /// time.
    #[must_use]
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let due = || self.desk.due.peek().map(|Reverse((at, ..))| *at);
        self.desk.stalls.until(now).or_else(due)
    }

    /// Memory that connections hold for what they sent and are sent, bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        self.memory
    }

    /// What the kernel holds now for those that do not read, bytes.
    #[cfg(test)]
    pub(crate) fn queued<D: Driver<Socket = S>>(&self, io: &D) -> u64 {
        let unread = self.slots.iter().flatten().filter(|conn| conn.sending);
        unread.filter_map(|conn| io.kernel_bytes(conn.socket())).sum()
    }

    /// Responses that wait for their time, some of them for connections that are gone.
    #[cfg(test)]
    pub(crate) fn due_len(&self) -> usize {
        self.desk.due.len()
    }

    fn adopt<D: Driver<Socket = S>>(
        &mut self,
        io: &mut D,
        arrival: HttpArrival<S>,
        seat: ConnectionPermit,
        now: Instant,
    ) -> Result<(), DriverError> {
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
        let mut conn = Connection::new(slot, self.serials, socket, seat, now);
        if is_full {
            self.desk.refuse(&mut conn, FULL, &arrival.bytes);
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
            return self.desk.answer(conn);
        }
        let used = self.desk.digest(conn, bytes, |_| at);
        if used < bytes.len() && !conn.is_past_last() {
            let mut input = Input::default();
            input.push(&bytes[used..], at);
            conn.input = Some(Box::new(input));
        }
    }

    /// Sees to what a connection wants after something happened to it, and puts it back in its place.
    fn settle<D: Driver>(
        &mut self,
        io: &mut D,
        mut conn: Connection,
        now: Instant,
    ) -> Result<(), DriverError> {
        let slot = conn.slot();
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
            conn.reader.reset(&mut self.desk.spare);
            conn.free(io, &mut self.pages);
            self.vacant.push(slot);
        } else {
            self.slots[slot as usize] = Some(conn);
        }
        self.desk.spare.trim(SPARE_KEPT);
        if self.pages.len() > PAGES_KEPT {
            for page in self.pages.drain(PAGES_KEPT..) {
                io.free(page);
            }
        }
        if self.memory > HTTP_MEMORY_MAX {
            self.make_room(io)?;
        }
        Ok(())
    }

    /// Puts what was written where it is sent from.
    fn commit<D: Driver>(&mut self, io: &mut D, conn: &mut Connection) -> Result<(), DriverError> {
        if !self.desk.written.is_empty() {
            conn.write(io, &self.desk.written, &mut self.pages)?;
            self.desk.written.clear();
        }
        match self.desk.tail.take() {
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
            Some(Body::Text(_) | Body::Line(_)) | None => {}
        }
        if conn.is_unsent() && !conn.sending && !std::mem::replace(&mut conn.queued, true) {
            self.ready.push(conn.slot());
        }
        Ok(())
    }

    /// Something completed; it was reaped at `at`, and nothing was done about it until now.
    fn complete<D: Driver>(
        &mut self,
        io: &mut D,
        completion: Completion,
        at: Instant,
        now: Instant,
    ) -> Result<(), DriverError> {
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
                    self.desk.hold_until(now, conn.slot(), conn.serial);
                } else if !conn.is_unsent() {
                    self.desk.answer(&mut conn);
                }
            }
            // Out of buffers for now; and what was stopped is started anew when it is time.
            (Purpose::Receive, Outcome::Failed(OpError::NoBuffers | OpError::Canceled)) => {}
            (Purpose::Receive | Purpose::Send | Purpose::HalfClose, Outcome::Failed(_)) => {
                conn.close(io)?;
            }
            _ => {}
        }
        self.settle(io, conn, now)
    }

    /// Whether nothing is done now. Once that is over, what came meanwhile is made up for, before anything else.
    fn stalls<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<bool, DriverError> {
        if self.desk.stalls.until(now).is_some() {
            self.is_stalled = true;
        } else if std::mem::take(&mut self.is_stalled) {
            self.begin_deadlines_anew(now);
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
        let mut joining = std::mem::take(&mut self.desk.joining);
        joining.sort_by_key(|joining| joining.arrival);
        for Joining { arrival, slot, serial, service } in joining.drain(..) {
            let conn = self.slots[slot as usize].as_mut();
            let conn = conn.filter(|conn| conn.serial == serial);
            if let Some(held) = conn.and_then(|conn| conn.held.as_mut()) {
                let mut due = arrival;
                if let Some(joined) = self.desk.queue.join(arrival, service) {
                    (held.arrival, due) = joined;
                } else {
                    held.hold = Hold::Not;
                    held.reply.replace(503, QUEUE_FULL);
                }
                self.desk.hold_until(due, slot, serial);
            }
        }
        self.desk.joining = joining;
    }

    /// Drops what was due for connections that are gone, once it is the most of it: a connection has one at most.
    fn forget_left(&mut self) {
        if self.desk.due.len() > 2 * self.len() + DUE_KEPT {
            let slots = &self.slots;
            self.desk.due.retain(|Reverse((_, _, slot, serial))| {
                let conn = slots[*slot as usize].as_ref();
                conn.is_some_and(|conn| conn.serial == *serial)
            });
        }
    }

    /// Sends the responses whose time has come.
    fn release_due<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        while let Some(Reverse((at, _, slot, serial))) = self.desk.due.peek().copied()
            && at <= now
        {
            self.desk.due.pop();
            let Some(mut conn) = self.slots[slot as usize].take_if(|conn| conn.serial == serial)
            else {
                continue;
            };
            // The page is the driver's until it is sent; then this one is due anew.
            if conn.sending {
                if let Some(held) = &mut conn.held {
                    held.is_due = true;
                }
            } else if let Some(held) = conn.held.take() {
                let mut timing = Timing::new(held.arrival, now);
                if matches!(held.hold, Hold::Queue(_)) {
                    timing.arrival = Some(held.arrival.since(self.started_at));
                }
                conn.departed_at = now;
                self.desk.write(&mut conn, held.reply, Some(timing));
                self.desk.answer(&mut conn);
            }
            conn.active_at = now;
            self.settle(io, conn, now)?;
        }
        Ok(())
    }
}

impl<D: Driver> Role<D> for HttpServer<D::Socket> {
    fn handle_completion(
        &mut self,
        io: &mut D,
        completion: Completion,
        now: Instant,
    ) -> Result<(), DriverError> {
        if self.is_stalled || self.desk.stalls.until(now).is_some() {
            self.is_stalled = true;
            self.deferred.push_back((now, completion));
            return Ok(());
        }
        self.complete(io, completion, now, now)
    }

    fn handle_time(
        &mut self,
        io: &mut D,
        now: Instant,
        _counters: &mut TurnCounters,
    ) -> Result<(), DriverError> {
        if self.stalls(io, now)? {
            return Ok(());
        }
        while !self.arrivals.0.is_empty()
            && let Ok((arrival, seat)) = self.arrivals.0.try_recv()
        {
            self.active_at = now;
            self.adopt(io, arrival, seat, now)?;
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

    fn poll_submit(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
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
        let stalled = self.desk.stalls.until(now);
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
        !self.ready.is_empty() || !self.desk.due.is_empty()
    }

    fn take_timed(&mut self) -> u64 {
        0
    }

    fn is_finished(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}
