//! The client's side of an HTTP load. Who sends when is the pacer's business, as for ping-pong; how
//! connections come and go stands in `connections`, how requests leave and what they come to in
//! `requests`.
//!
//! A request belongs to the phase (`RunPhase`) in which it was begun (closed loop) or due (open
//! loop). The first phase ends when every connection is up, or has failed once.
//!
//! Nothing here is allocated per request: requests in flight stand in rings, responses are read in
//! the driver's shared pool, and what is sent was written out before the run.

mod codes;
mod connections;
mod deadlines;
mod errors;
mod requests;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::http::plan::{HttpPlan, Late};
use crate::schedule::Schedule;
use crate::worker::destination::Destination;
use crate::worker::link::{Purpose, slot_of};
use crate::worker::operations::{LoopPlan, OperationLoop};
use crate::worker::outcome::Outcome;
use crate::worker::pacer::Action;
use crate::worker::phases::RunPhase;
use crate::worker::tally::{Record, Stage};
use crate::worker::{ClientRole, ProgressSink, Result, Role, RunPhases, TurnCounters};
pub(crate) use codes::{Code, Codes};
use connections::{Connection, State};
use deadlines::Deadlines;
use errors::FailureCause;
use requests::InFlight;
use tare_driver::{BufferId, Completion, Driver, OpError, Outcome as Completed, Wait};
use tare_proto::hello::WaitMode;
use tare_proto::http1::request::Requests;
use tare_proto::http1::response::{Fault, Shared};
use tare_units::bounds::NAP;
use tare_units::control::Interrupt;
use tare_units::{Instant, Nanos};

/// How often connections that rest are looked at.
const REST_SCAN: Nanos = Nanos::from_millis(2);
/// Heads that arrive in pieces at the same time without an allocation, and their length.
const SPARES: usize = 64;
const SPARE_BYTES: usize = 2 << 10;
/// A buffer of the receive pool, bytes: most responses come whole, and large ones in few pieces.
const POOL_BUFFER: u32 = 8 << 10;
/// Buffers of the pool: one per connection between these bounds, so that it stays in the cache.
const POOL_MIN: u32 = 16;
const POOL_MAX: u32 = 256;
/// Responses are gathered from so many connections on, this many at a time, within this bound.
pub(crate) const BATCH_CONNECTIONS: u32 = 16;
const BATCH: u32 = 24;
pub(crate) const BATCH_BOUND: Nanos = Nanos::from_micros(50);
/// A gathering that did not bring a quarter of a batch is not tried again for so many turns.
const BATCH_PAUSE: u32 = 256;

/// What one client worker is to do.
#[derive(Debug, Clone)]
pub struct HttpSpec {
    /// What is measured.
    pub plan: Arc<HttpPlan>,
    /// Where connections go.
    pub to: Destination,
    /// Connections of all workers before this one, which took the local addresses in turn.
    pub first: u32,
    /// What is sent.
    pub requests: Arc<Requests>,
    /// A connection is closed and replaced after so many.
    pub requests_per_connection: Option<u64>,
    /// Connects of this worker that may be under way at once; at least one.
    pub connects_at_once: u32,
    /// Between two connects of this worker before the start; zero: as fast as it goes.
    pub connect_gap: Nanos,
    /// How much it is to do; the timeout is for each request, from its actual send.
    pub run: LoopPlan,
}

#[derive(Debug)]
pub(crate) struct HttpTally {
    /// Latencies are those of responses as expected, and of requests that had none.
    pub(crate) record: Record,
    pub(crate) codes: Codes,
    pub(crate) traffic: Traffic,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
    pub(crate) body_bytes: u64,
    /// Times that a request was sent again, since a connection ended before its response.
    pub(crate) resent: u64,
    /// Responses with each fault of [`Fault::ALL`].
    pub(crate) faults: [u64; Fault::ALL.len()],
    /// Connections that stand in place of one that failed or was closed: neither those of the
    /// warm-up nor attempts that failed.
    pub(crate) reconnects: u64,
}

impl HttpTally {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.record.merge(&other.record);
        self.codes.merge(&other.codes);
        let (mine, theirs) = (&mut self.traffic, &other.traffic);
        mine.sent_bytes += theirs.sent_bytes;
        mine.received_bytes += theirs.received_bytes;
        mine.body_bytes += theirs.body_bytes;
        mine.resent += theirs.resent;
        for (mine, theirs) in mine.faults.iter_mut().zip(theirs.faults) {
            *mine += theirs;
        }
        mine.reconnects += theirs.reconnects;
    }
}

/// The client role; see the [module](self).
#[derive(Debug)]
pub struct HttpClient<G> {
    spec: HttpSpec,
    late: Late,
    run: OperationLoop<G>,
    codes: Codes,
    traffic: Traffic,
    connections: Vec<Connection>,
    in_flight: InFlight,
    written: Option<BufferId>,
    next_entry: usize,
    any_head: bool,
    /// Requests that await a response, by their place among all.
    awaiting: Deadlines,
    connecting: Deadlines,
    /// Connections that wait for their turn to be connected, which does not come before that
    /// instant.
    queued: VecDeque<u32>,
    next_connect_at: Instant,
    /// Since when a Unix listener has had no room.
    full_since: Option<Instant>,
    /// Connections that stand, and when one last did.
    open: u32,
    alive_at: Instant,
    resting: Vec<u32>,
    scanned_at: Instant,
    /// Connections with requests to be sent in this submission.
    unsent: Vec<u32>,
    shared: Shared,
    /// Sends of this submission, and responses since it.
    sends: u32,
    responses: u32,
    batch_pause: u32,
    batches: bool,
}

impl<G: ProgressSink> HttpClient<G> {
    /// A client that has opened nothing yet. `seed` is where in the order of requests it begins.
    #[must_use]
    pub fn new(
        spec: HttpSpec,
        schedule: Option<Schedule>,
        seed: u64,
        progress: G,
        interrupt: Interrupt,
    ) -> Self {
        let (count, depth) = (spec.run.slots, spec.run.depth);
        let cycle = spec.requests.order().len().max(1) as u64;
        let run = OperationLoop::new(spec.run, schedule, progress, interrupt);
        let recording = &run.record.recording;
        Self {
            // One series for both: entries of the codes stand beside those of the latencies.
            codes: Codes::new(recording.interval(), recording.entries()),
            traffic: Traffic::default(),
            run,
            connections: (0..count).map(|_| Connection::default()).collect(),
            in_flight: InFlight::new(count, depth),
            written: None,
            next_entry: usize::try_from(seed % cycle).unwrap_or(0),
            any_head: spec.requests.entries().iter().any(|entry| entry.head),
            awaiting: Deadlines::new(count * depth),
            connecting: Deadlines::new(count),
            queued: VecDeque::with_capacity(count as usize),
            next_connect_at: Instant::default(),
            full_since: None,
            open: 0,
            alive_at: Instant::default(),
            resting: Vec::with_capacity(count as usize),
            scanned_at: Instant::default(),
            unsent: Vec::with_capacity(2 * count as usize),
            shared: Shared::new(SPARES, SPARE_BYTES),
            sends: 0,
            responses: 0,
            batch_pause: 0,
            batches: false,
            late: spec.plan.open.as_ref().map_or(Late::Queue, |open| open.late),
            spec,
        }
    }

    pub(crate) fn into_results(self) -> (HttpTally, Outcome, G) {
        let (record, outcome, progress) = self.run.into_results();
        let tally = HttpTally { record, codes: self.codes, traffic: self.traffic };
        (tally, outcome, progress)
    }

    fn is_measuring(&self) -> bool {
        self.run.phases.phase == RunPhase::Measuring
    }

    /// Requests of the warm-up that were begun behind others in a pipeline and have not been sent
    /// leave with its queue.
    fn leave_warmup(&mut self) {
        if self.spec.run.depth == 1 || !self.run.pacer.is_open_loop() {
            return;
        }
        for index in 0..self.spec.run.slots {
            if self.connections[index as usize].unsent > 0 {
                self.unsend(index);
                self.offer(index);
            }
        }
    }

    /// A run by count whose server is gone would never end: it waits for as long as for an answer.
    /// One by time ends by itself, and the server may come back.
    fn is_server_gone(&mut self, now: Instant) -> bool {
        let phase = self.run.phases.phase;
        if self.open > 0 || !matches!(phase, RunPhase::WarmingUp | RunPhase::Measuring) {
            self.alive_at = now;
        }
        let patience = self.spec.run.timeout.max(self.spec.plan.connect_timeout);
        self.spec.run.count.is_some() && now.since(self.alive_at) >= patience
    }

    fn expire<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        while let Some((place, since)) = self.awaiting.first()
            && now.since(since) >= self.spec.run.timeout
        {
            let index = self.in_flight.owner(place);
            let has_no_length = self.connections[index as usize].reader.lasts_until_close();
            let cause = if has_no_length { FailureCause::NoLength } else { FailureCause::Timeout };
            self.fail(io, index, Stage::Receive, cause, now)?;
        }
        while let Some((index, since)) = self.connecting.first()
            && now.since(since) >= self.spec.plan.connect_timeout
        {
            self.fail(io, index, Stage::Connect, FailureCause::Timeout, now)?;
        }
        Ok(())
    }

    fn drain<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        self.run.drain(now);
        for index in 0..self.spec.run.slots {
            self.unsend(index);
            // What was to be sent again on a connection that does not stand yet is not awaited.
            if !self.connections[index as usize].is_open() {
                self.leave_requests(index, now);
            }
        }
        self.check_drained(io, now)
    }

    fn check_drained<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        if !self.run.is_drained(now) {
            return Ok(());
        }
        for index in 0..self.spec.run.slots {
            let outcome = &mut self.run.phases.outcome;
            let has_no_length = self.connections[index as usize].reader.lasts_until_close();
            if has_no_length && outcome.failure.is_none() {
                let words = errors::words(&self.spec, Stage::Receive, FailureCause::NoLength);
                outcome.failure = Some(words);
            }
            self.leave_requests(index, now);
        }
        self.run.count_unsent();
        self.finish(io, now)
    }

    fn finish<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        self.run.finish(now);
        for index in 0..self.spec.run.slots {
            let state = &mut self.connections[index as usize].state;
            match state {
                State::Open | State::Connecting { .. } => self.close(io, index, false)?,
                State::Queued | State::Resting { .. } => *state = State::Vacant,
                State::Vacant | State::Closing { .. } => {}
            }
        }
        self.check_finished(now);
        Ok(())
    }

    fn check_finished(&mut self, now: Instant) {
        if let Some(deadline) = self.run.phases.finish_by()
            && (now >= deadline || self.connections.iter().all(Connection::is_quiet))
        {
            self.run.phases.phase = RunPhase::Finished;
        }
    }

    fn gathers(&self) -> bool {
        self.batches
            && self.batch_pause == 0
            && self.run.phases.blocks()
            && self.run.phases.phase != RunPhase::Ready
            && !self.run.pacer.is_open_loop()
    }

    fn judge_batch(&mut self) {
        if self.batch_pause > 0 {
            self.batch_pause -= 1;
        } else if self.gathers() && self.responses < BATCH / 4 {
            self.batch_pause = BATCH_PAUSE;
        }
        (self.responses, self.sends) = (0, 0);
    }

    /// When an arrival is to be seen to: given to a free connection, or dropped because there is
    /// none. Were that seen to later, the connection that is free by then would take what found
    /// none.
    fn wake_at(&self) -> Instant {
        let wake_at = match self.late {
            Late::Queue => self.run.pacer.wake_at(),
            Late::Drop => self.run.pacer.next_arrival(),
        };
        wake_at.unwrap_or(Instant::FAR_FUTURE)
    }

    /// When the worker has something to do by itself, arrivals aside.
    fn next_event(&self, now: Instant) -> Instant {
        let phases = &self.run.phases;
        let answer_by = |first: Option<(u32, Instant)>, timeout| {
            first.map_or(Instant::FAR_FUTURE, |(_, since)| since + timeout)
        };
        let connect_at = match phases.phase {
            // Over a Unix socket the last connect may have been done in the submission, and nothing
            // else completes.
            RunPhase::Ready => now,
            _ => self.next_connect().unwrap_or(Instant::FAR_FUTURE),
        };
        let nap = if self.resting.is_empty() { NAP } else { REST_SCAN };
        (now + nap)
            .min(phases.phase_end())
            .min(answer_by(self.awaiting.first(), self.spec.run.timeout))
            .min(answer_by(self.connecting.first(), self.spec.plan.connect_timeout))
            .min(connect_at)
    }
}

impl<G: ProgressSink> ClientRole for HttpClient<G> {
    type Progress = G;

    fn phases(&self) -> &RunPhases<G> {
        &self.run.phases
    }

    fn connect<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        self.run.phases.connect(self.spec.run.slots);
        let capabilities = io.capabilities();
        self.batches = capabilities.batch_wait && self.spec.run.slots >= BATCH_CONNECTIONS;
        let buffers = self.spec.run.slots.clamp(POOL_MIN, POOL_MAX);
        let buffers = u16::try_from(buffers.next_power_of_two()).unwrap_or(u16::MAX);
        io.provide_pool(buffers, POOL_BUFFER)?;
        let bytes = self.spec.requests.bytes();
        let written = io.allocate(bytes.len())?;
        io.buffer_mut(written).copy_from_slice(bytes);
        self.written = Some(written);
        self.next_connect_at = now;
        for index in 0..self.spec.run.slots {
            self.connections[index as usize].expected = true;
            self.queue(index);
        }
        Ok(())
    }

    fn is_alive(&self) -> bool {
        self.run.phases.outcome.established > 0
    }

    fn start(&mut self, t0: Instant, wait: WaitMode) {
        self.run.start(t0, wait);
        self.codes.begin(self.run.phases.warmup_end);
        (0..self.spec.run.slots).for_each(|index| self.offer(index));
    }

    fn abandon<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        self.finish(io, now)
    }
}

impl<D: Driver, G: ProgressSink> Role<D> for HttpClient<G> {
    fn handle_completion(&mut self, io: &mut D, completion: Completion, now: Instant) -> Result {
        let (index, purpose) = slot_of(completion.token);
        let connection = &mut self.connections[index as usize];
        if !completion.more {
            connection.operations -= 1;
        }
        let closing = !matches!(connection.state, State::Open | State::Connecting { .. });
        match completion.outcome {
            Completed::ReceivedInPool { buffer: Some(buffer), len } => {
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
            Completed::Sent(bytes) => self.handle_sent(io, index, bytes),
            Completed::ReceivedInPool { buffer: None, .. } => self.handle_end(io, index, now),
            Completed::Connected => self.handle_connected(io, index, now),
            // The pool was empty: there is room again as soon as this turn's buffers are back.
            Completed::Failed(OpError::NoBuffers) if purpose == Purpose::Receive => {
                self.receive(io, index)
            }
            Completed::Failed(error) => {
                let stage = match purpose {
                    Purpose::Connect => Stage::Connect,
                    Purpose::Send => Stage::Send,
                    _ => Stage::Receive,
                };
                self.fail(io, index, stage, FailureCause::Os(error), now)
            }
            _ => Ok(()),
        }
    }

    fn handle_time(&mut self, io: &mut D, now: Instant, counters: &mut TurnCounters) -> Result {
        self.judge_batch();
        if self.run.phases.is_running() {
            let begins = self.run.advance(now, counters);
            self.dispatch(now);
            if begins {
                self.leave_warmup();
            }
            self.run.phases.outcome.cut_short |= self.is_server_gone(now);
            if self.run.is_over(now) {
                self.drain(io, now)?;
            }
        } else if self.run.phases.is_called_off() {
            self.finish(io, now)?;
        }
        self.expire(io, now)?;
        if !self.resting.is_empty() && now.since(self.scanned_at) >= REST_SCAN {
            self.scanned_at = now;
            self.wake_rested(now);
        }
        if self.run.phases.is_ending() {
            self.run.phases.hurry(now, counters);
            self.check_drained(io, now)?;
            self.check_finished(now);
        }
        Ok(())
    }

    fn poll_submit(&mut self, io: &mut D, now: Instant) -> Result {
        // Over a Unix socket a connection stands at once, and takes part in this submission.
        self.connect_some(io, now)?;
        let mut ready = self.run.pacer.take_ready();
        for (index, action) in ready.drain(..) {
            match action {
                // Connections have a queue of their own.
                Action::Connect => {}
                Action::Begin { due } => self.begin(index, due, now),
                Action::Request => self.unsent.push(index),
            }
        }
        self.run.pacer.put_back(ready);
        let mut unsent = std::mem::take(&mut self.unsent);
        for index in unsent.drain(..) {
            self.send(io, index, now)?;
        }
        self.unsent = unsent;
        Ok(())
    }

    fn poll_wait(&self, now: Instant) -> Wait {
        let phases = &self.run.phases;
        if phases.is_spinning() {
            return Wait::Poll;
        }
        let wait = self.run.wait(now, self.wake_at(), self.next_event(now));
        let outstanding = self.run.outstanding;
        match wait {
            Wait::Until(deadline) if (phases.is_running() || outstanding > 0) && self.gathers() => {
                let responses = BATCH.min(u32::try_from(outstanding).unwrap_or(BATCH));
                Wait::Batch { completions: self.sends + responses, within: BATCH_BOUND, deadline }
            }
            wait => wait,
        }
    }

    fn has_ready(&self) -> bool {
        self.next_connect().is_some() || self.run.has_ready()
    }

    fn take_timed(&mut self) -> u64 {
        self.run.take_timed()
    }

    fn is_finished(&self) -> bool {
        self.is_finished_now()
    }
}
