//! The client's side of an HTTP load: phases and the record. Who sends when is the pacer's business, as for
//! ping-pong; how connections come and go stands in `connect`, what responses come to in `answer`.
//!
//! Phases: *connect* (every connection up, or failed once), *ready* (until every worker is), *warm up*, *measure*,
//! *drain* (what is under way may still finish), *finish* (connections closed). A request belongs to the phase in which
//! it was begun (closed loop) or due (open loop).
//!
//! Nothing here is allocated per request: requests in flight stand in rings, responses are read in the driver's shared
//! pool, and what is sent was written out before the run.

mod answer;
mod blame;
pub mod codes;
mod connect;
mod connection;
mod deadlines;
mod ending;
mod resend;
mod sending;
mod spec;
mod waiting;

pub use codes::Codes;
pub use spec::{HttpSpec, Late};

use std::collections::VecDeque;

use crate::schedule::Schedule;
use crate::worker::course::{Length, RunPhases, Stand};
use crate::worker::errors::Stage;
use crate::worker::gauge::ProgressSink;
use crate::worker::link::{Purpose, slot_of};
use crate::worker::outcome::Outcome;
pub(crate) use crate::worker::pacer::{Action, Pacer};
use crate::worker::tally::Tally;
use crate::worker::{ClientRole, Role, TurnCounters};
use tare_driver::{BufferId, Completion, Driver, DriverError, OpError, Outcome as Came, Wait};
use tare_proto::hello::{Accept, WaitMode};
use tare_proto::http1::response::{Fault, Shared};
use tare_stats::histogram::Recording;
use tare_units::control::{Interrupt, Phase};
use tare_units::limits::HYBRID_SPIN;
use tare_units::{Instant, Nanos};

use connection::{Connection, Requests, State};
use deadlines::Deadlines;

/// How often connections that rest are looked at.
const REST_LOOK: Nanos = Nanos::from_millis(2);
/// Heads that arrive in pieces at the same time without an allocation, and their length.
const SPARES: usize = 64;
const SPARE_BYTES: usize = 2 << 10;
/// A buffer of the receive pool, bytes: most responses come whole, and large ones in few pieces.
const POOL_BUFFER: u32 = 8 << 10;
/// Buffers of the receive pool: one for each connection between these bounds, so that it stays in the cache.
const POOL_MIN: u32 = 16;
const POOL_MAX: u32 = 256;
/// Responses are gathered from so many connections on, this many at a time, within this bound.
pub(crate) const BATCH_CONNECTIONS: u32 = 16;
const BATCH: u32 = 24;
pub(crate) const BATCH_BOUND: Nanos = Nanos::from_micros(50);
/// A gathering that did not bring a quarter of a batch is not tried again for so many turns.
const BATCH_PAUSE: u32 = 256;

/// What a worker of an HTTP step brings back.
#[derive(Debug)]
pub struct HttpTally {
    /// Latencies of the measured phase: of responses as expected, and of requests that had none.
    pub recording: Recording,
    /// All responses of the measured phase by status code.
    pub codes: Codes,
    /// Of the warm-up.
    pub warmup: Tally,
    /// Of the measured phase, and of what precedes and follows it.
    pub measured: Tally,
    /// Bytes sent in the measured phase.
    pub sent_bytes: u64,
    /// Bytes received in the measured phase.
    pub received_bytes: u64,
    /// Bytes of the bodies of its responses.
    pub body_bytes: u64,
    /// Times that a request of the measured phase was sent again, since a connection ended before its response.
    pub resent: u64,
    /// Responses with each fault of [`Fault::ALL`].
    pub faults: [u64; Fault::ALL.len()],
    /// Connections that stand in place of one that failed or was closed, opened in the measured phase: neither those of the
    /// warm-up nor attempts that failed.
    pub reconnects: u64,
}

impl HttpTally {
    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        self.recording.merge(&other.recording);
        self.codes.merge(&other.codes);
        self.warmup.merge(&other.warmup);
        self.measured.merge(&other.measured);
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.body_bytes += other.body_bytes;
        self.resent += other.resent;
        for (mine, theirs) in self.faults.iter_mut().zip(other.faults) {
            *mine += theirs;
        }
        self.reconnects += other.reconnects;
    }
}

/// The client role; see the [module](self).
#[derive(Debug)]
pub struct HttpClient<G> {
    spec: HttpSpec,
    course: RunPhases<G>,
    connections: Vec<Connection>,
    requests: Requests,
    /// What is sent, in the driver's memory.
    written: Option<BufferId>,
    /// The next place in the order of the run's requests.
    next_entry: usize,
    any_head: bool,
    /// Requests that await a response, by their place among all.
    awaiting: Deadlines,
    /// Connections that are being connected.
    connecting: Deadlines,
    /// Connections that wait for their turn to be connected, which does not come before that instant.
    queued: VecDeque<u32>,
    next_connect_at: Instant,
    /// Since when a Unix listener has had no room.
    full_since: Option<Instant>,
    /// Connections that stand, and when one last did.
    open: u32,
    alive_at: Instant,
    /// Connections that the start still waits for.
    unsettled: u32,
    resting: Vec<u32>,
    looked_at: Instant,
    /// Connections with requests to be sent in this submission.
    unsent: Vec<u32>,
    shared: Shared,
    /// Responses among the completions of this turn.
    timed: u64,
    last_sent: Instant,
    /// Sends of this submission, and responses since it.
    sends: u32,
    responses: u32,
    /// Gathering is worth a try when this is zero.
    batch_pause: u32,
    batches: bool,
    tally: HttpTally,
}

impl<G: ProgressSink> HttpClient<G> {
    /// A client that has not opened anything yet. `seed` decides where in the order of the requests it begins.
    #[must_use]
    pub fn new(
        spec: HttpSpec,
        recording: Recording,
        codes: Codes,
        schedule: Option<Schedule>,
        seed: u64,
        gauge: G,
        interrupt: Interrupt,
    ) -> Self {
        let count = spec.connections;
        let depth = spec.pipeline as usize;
        let cycle = spec.requests.order().len().max(1) as u64;
        let pacer = Pacer::new(schedule, spec.count, count as usize, depth);
        let length = Length {
            warmup: spec.warmup,
            duration: spec.duration,
            count: spec.count,
            timeout: spec.timeout,
        };
        let tally = HttpTally {
            recording,
            codes,
            warmup: Tally::default(),
            measured: Tally::default(),
            sent_bytes: 0,
            received_bytes: 0,
            body_bytes: 0,
            resent: 0,
            faults: [0; Fault::ALL.len()],
            reconnects: 0,
        };
        Self {
            course: RunPhases::new(length, pacer, gauge, interrupt),
            connections: (0..count).map(|_| Connection::default()).collect(),
            requests: Requests::new(count, spec.pipeline),
            written: None,
            next_entry: usize::try_from(seed % cycle).unwrap_or(0),
            any_head: spec.requests.entries().iter().any(|entry| entry.head),
            awaiting: Deadlines::new(count * spec.pipeline),
            connecting: Deadlines::new(count),
            queued: VecDeque::with_capacity(count as usize),
            next_connect_at: Instant::default(),
            full_since: None,
            open: 0,
            alive_at: Instant::default(),
            unsettled: count,
            resting: Vec::with_capacity(count as usize),
            looked_at: Instant::default(),
            unsent: Vec::with_capacity(2 * count as usize),
            shared: Shared::new(SPARES, SPARE_BYTES),
            timed: 0,
            last_sent: Instant::default(),
            sends: 0,
            responses: 0,
            batch_pause: 0,
            batches: false,
            tally,
            spec,
        }
    }

    /// What came of it.
    #[must_use]
    pub fn into_results(self) -> (HttpTally, Outcome, G) {
        let (outcome, gauge) = self.course.into_results();
        (self.tally, outcome, gauge)
    }

    /// The tally of a request.
    const fn tally_of(&mut self, measured: bool) -> &mut Tally {
        if measured { &mut self.tally.measured } else { &mut self.tally.warmup }
    }

    /// The tally of what happens outside any request: now, unless the warm-up is under way, the measured phase's.
    const fn present_tally(&mut self) -> &mut Tally {
        let measured = !matches!(self.course.stand, Stand::WarmingUp | Stand::Starting { .. });
        self.tally_of(measured)
    }

    /// Offers a connection to the pacer for as many requests as it can take.
    fn offer(&mut self, index: u32) {
        if !self.course.is_running() {
            return;
        }
        let connection = &mut self.connections[index as usize];
        if !connection.takes_requests() {
            return;
        }
        let taken = u32::from(connection.in_flight) + u32::from(connection.offered);
        let mut room = self.spec.pipeline.saturating_sub(taken);
        if let Some(most) = self.spec.requests_per_connection {
            let begun = u64::from(connection.begun) + u64::from(connection.offered);
            room = room.min(most.saturating_sub(begun).try_into().unwrap_or(u32::MAX));
        }
        for _ in 0..room {
            connection.offered += 1;
            // Those that have been offered and not taken are above.
            let depth = self.spec.pipeline - u32::from(connection.offered);
            self.course.pacer.make_available(index, depth as usize);
        }
    }

    /// Open loop: gives what is due to connections that are free.
    fn dispatch(&mut self, now: Instant) {
        let connections = &mut self.connections;
        self.course.pacer.dispatch(now, |index| {
            let connection = &mut connections[index as usize];
            // One that cannot take it is offered anew when it is open again.
            let usable = connection.takes_requests();
            connection.offered -= u16::from(!usable);
            usable
        });
        if self.spec.late == Late::Drop {
            let (warmup_end, tally) = (self.course.warmup_end, &mut self.tally);
            self.course.pacer.shed(now, |due, overdue| {
                let of = if due >= warmup_end {
                    tally.recording.record_unsent(now, overdue);
                    &mut tally.measured
                } else {
                    &mut tally.warmup
                };
                of.operations.due += overdue.count;
                of.operations.dropped += overdue.count;
            });
        }
    }

    /// Moves through the phases of a running worker.
    fn advance<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
        counters: &mut TurnCounters,
    ) -> Result<(), DriverError> {
        let recording = &self.tally.recording;
        let begins = self.course.advance(now, recording, counters);
        self.dispatch(now);
        if begins {
            self.leave_warmup();
        }
        self.course.outcome.cut_short |= self.is_forsaken(now);
        if self.course.is_over(now) {
            self.drain(io, now)?;
        }
        Ok(())
    }

    /// Requests of the warm-up that were begun behind others in a pipeline and have not been sent leave with its queue.
    fn leave_warmup(&mut self) {
        if self.spec.pipeline == 1 || !self.course.pacer.is_open_loop() {
            return;
        }
        for index in 0..self.spec.connections {
            if self.connections[index as usize].unsent > 0 {
                self.unsend(index);
                self.offer(index);
            }
        }
    }

    /// A run by count whose server is gone would never end: it waits for as long as for an answer. One by time ends by
    /// itself, and the server may come back.
    fn is_forsaken(&mut self, now: Instant) -> bool {
        if self.open > 0 || !matches!(self.course.stand, Stand::WarmingUp | Stand::Measuring) {
            self.alive_at = now;
        }
        let patience = self.spec.timeout.max(self.spec.connect_timeout);
        self.spec.count.is_some() && now.since(self.alive_at) >= patience
    }

    /// Ends requests that have waited for too long, and connects that have.
    fn expire<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        while let Some((place, since)) = self.awaiting.first()
            && now.since(since) >= self.spec.timeout
        {
            let index = self.requests.owner(place);
            let reader = &self.connections[index as usize].reader;
            let blamed =
                if reader.lasts_until_close() { Blamed::NoLength } else { Blamed::Timeout };
            self.fail(io, index, Stage::Receive, blamed, now)?;
        }
        while let Some((index, since)) = self.connecting.first()
            && now.since(since) >= self.spec.connect_timeout
        {
            self.fail(io, index, Stage::Connect, Blamed::Timeout, now)?;
        }
        Ok(())
    }
}

/// What went wrong with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blamed {
    /// Nothing came in time.
    Timeout,
    /// A response has no length, and the connection did not end in time.
    NoLength,
    /// A system call failed.
    Os(OpError),
    /// Something that the far end did, by its name in results.
    Peer(&'static str),
}

impl<G: ProgressSink> ClientRole for HttpClient<G> {
    fn connect<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.course.gauge.phase(Phase::Connect);
        let capabilities = io.capabilities();
        self.batches = capabilities.batch_wait && self.spec.connections >= BATCH_CONNECTIONS;
        let buffers = self.spec.connections.clamp(POOL_MIN, POOL_MAX);
        let buffers = u16::try_from(buffers.next_power_of_two()).unwrap_or(u16::MAX);
        io.provide_pool(buffers, POOL_BUFFER)?;
        let bytes = self.spec.requests.bytes();
        let written = io.allocate(bytes.len())?;
        io.buffer_mut(written).copy_from_slice(bytes);
        self.written = Some(written);
        self.next_connect_at = now;
        for index in 0..self.spec.connections {
            self.connections[index as usize].expected = true;
            self.queue(index);
        }
        self.check_ready();
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.course.stand != Stand::Connecting
    }

    fn is_alive(&self) -> bool {
        self.course.outcome.established > 0
    }

    fn accepts(&self) -> &[Accept] {
        &self.course.outcome.accepts
    }

    fn start(&mut self, t0: Instant, wait: WaitMode) {
        self.spec.wait = wait;
        self.course.start(t0, &mut self.tally.recording);
        self.tally.codes.begin(self.course.warmup_end);
        for index in 0..self.spec.connections {
            self.offer(index);
        }
    }

    fn abandon<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.finish(io, now)
    }

    fn is_finished_now(&self) -> bool {
        self.course.stand == Stand::Finished
    }
}

impl<D: Driver, G: ProgressSink> Role<D> for HttpClient<G> {
    fn handle_completion(
        &mut self,
        io: &mut D,
        completion: Completion,
        now: Instant,
    ) -> Result<(), DriverError> {
        let (index, purpose) = slot_of(completion.token);
        let connection = &mut self.connections[index as usize];
        if !completion.more {
            connection.operations -= 1;
        }
        let closing = !matches!(connection.state, State::Open | State::Connecting { .. });
        match completion.outcome {
            Came::ReceivedInPool { buffer: Some(buffer), len } => {
                if closing {
                    io.recycle(buffer);
                    self.handle_while_closing(index, now);
                    return Ok(());
                }
                let bytes = &io.pool_bytes(&buffer)[..len as usize];
                let found = self.handle_bytes(index, bytes, now);
                io.recycle(buffer);
                self.follow(io, index, found, completion.more, now)
            }
            _ if closing => {
                self.handle_while_closing(index, now);
                Ok(())
            }
            Came::Sent(bytes) => self.handle_sent(io, index, bytes),
            Came::ReceivedInPool { buffer: None, .. } => self.handle_end(io, index, now),
            Came::Connected => self.handle_connected(io, index, now),
            // The pool was empty: there is room again as soon as this turn's buffers are back.
            Came::Failed(OpError::NoBuffers) if purpose == Purpose::Receive => {
                self.receive(io, index)
            }
            Came::Failed(error) => {
                let stage = match purpose {
                    Purpose::Connect => Stage::Connect,
                    Purpose::Send => Stage::Send,
                    _ => Stage::Receive,
                };
                self.fail(io, index, stage, Blamed::Os(error), now)
            }
            _ => Ok(()),
        }
    }

    fn handle_time(
        &mut self,
        io: &mut D,
        now: Instant,
        counters: &mut TurnCounters,
    ) -> Result<(), DriverError> {
        self.judge_batch();
        if self.course.is_running() {
            self.advance(io, now, counters)?;
        } else if self.course.is_called_off() {
            self.finish(io, now)?;
        }
        self.expire(io, now)?;
        if !self.resting.is_empty() && now.since(self.looked_at) >= REST_LOOK {
            self.looked_at = now;
            self.wake_rested(now);
        }
        self.course.hurry(now);
        match self.course.stand {
            Stand::Connecting => self.check_ready(),
            Stand::Draining { .. } => self.check_drained(io, now)?,
            Stand::Finishing { .. } => {
                // What ending costs is no part of what measuring cost.
                counters.freeze();
                self.check_finished(now);
            }
            _ => {}
        }
        Ok(())
    }

    fn poll_submit(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        // Over a Unix socket a connection stands at once, and takes part in this submission.
        self.connect_some(io, now)?;
        let mut ready = self.course.pacer.take_ready();
        for (index, action) in ready.drain(..) {
            match action {
                // Connections have a queue of their own.
                Action::Connect => {}
                Action::Begin { due } => self.begin(index, due, now),
                Action::Request => self.unsent.push(index),
            }
        }
        self.course.pacer.put_back(ready);
        let mut unsent = std::mem::take(&mut self.unsent);
        for index in unsent.drain(..) {
            self.send(io, index, now)?;
        }
        self.unsent = unsent;
        Ok(())
    }

    fn poll_wait(&self, now: Instant) -> Wait {
        if self.spec.wait == WaitMode::Spin && self.course.is_running() {
            return Wait::Poll;
        }
        let until = self.next_event(now);
        let draining =
            matches!(self.course.stand, Stand::Draining { .. }) && self.course.outstanding > 0;
        if !self.course.is_running() && !draining {
            return Wait::Until(until);
        }
        match self.spec.wait {
            WaitMode::Spin => Wait::Poll,
            WaitMode::Block if self.gathers() => Wait::Batch {
                completions: self.sends
                    + BATCH.min(u32::try_from(self.course.outstanding).unwrap_or(BATCH)),
                within: BATCH_BOUND,
                deadline: until,
            },
            WaitMode::Block => Wait::Until(until),
            WaitMode::Hybrid => {
                let fresh = self.course.outstanding > 0 && now.since(self.last_sent) < HYBRID_SPIN;
                let due = self.wake_at();
                if fresh || due.since(now) <= self.spec.wakeup {
                    Wait::Poll
                } else {
                    Wait::Until(Instant(until.0.saturating_sub(self.spec.wakeup.0).max(now.0)))
                }
            }
        }
    }

    fn has_ready(&self) -> bool {
        self.next_connect().is_some() || self.course.has_ready()
    }

    fn take_timed(&mut self) -> u64 {
        std::mem::take(&mut self.timed)
    }

    fn is_finished(&self) -> bool {
        self.course.stand == Stand::Finished
    }
}
