//! The client's side of ping-pong: phases, the schedule, and the record. What happens on one connection is in
//! `slot`.
//!
//! Phases: *connect* (all connections up, hellos answered), *ready* (until every worker is), *warm up*,
//! *measure*, *drain* (what is under way may still finish), *finish* (figures fetched, connections
//! closed). An operation belongs to the phase in which it was sent (closed loop) or due (open loop).

mod slot;
pub mod tally;

use std::net::SocketAddr;

use crate::driver::{Completion, Driver, DriverError, Wait};
use crate::histogram::{Recording, Sample};
use crate::limits::HYBRID_SPIN;
use crate::proto::hello::{Accept, Figures, Hello};
use crate::run::observe::{Interrupt, Phase};
use crate::run::plan::{Secret, Transport, WaitMode};
use crate::schedule::Schedule;
use crate::units::{Instant, Nanos};
use crate::worker::link::slot_of;
use crate::worker::{Role, TurnCounters};

use slot::{Event, Slot};
use tally::{Stage, Tally};

/// How long a sleeping worker sleeps at most, so that it notices an interrupt.
const NAP: Nanos = Nanos::from_millis(100);
/// After a failure, `--connect-each` tries again this much later: a refusing server is not hammered.
const BACKOFF: Nanos = Nanos::from_millis(10);
/// When interrupted, replies under way are awaited for at most this long.
const DRAIN_INTERRUPTED: Nanos = Nanos::from_millis(300);

/// What one client worker is to do.
#[derive(Debug, Clone)]
pub struct ClientSpec {
    /// The far end.
    pub to: SocketAddr,
    /// TCP or UDP.
    pub transport: Transport,
    /// What each connection says.
    pub hello: Hello,
    /// The shared secret.
    pub secret: Option<Secret>,
    /// Connections of this worker.
    pub connections: u32,
    /// Message size, bytes.
    pub size_bytes: u32,
    /// Per operation, and for connecting and the handshake.
    pub timeout: Nanos,
    /// Length of the warm-up.
    pub warmup: Nanos,
    /// Length of the measured phase, where it ends by time.
    pub duration: Option<Nanos>,
    /// Operations of this worker, where it ends by count.
    pub count: Option<u64>,
    /// Random: the sessions' nonces are made from it.
    pub nonce: u64,
    /// How to wait once the run has started.
    pub wait: WaitMode,
    /// The 99th percentile of a wake-up here: hybrid waiting stops sleeping that much before a send is due.
    pub wakeup: Nanos,
}

/// Figures that the worker's thread shows while it runs. The real one writes padded atomics.
pub trait Gauge {
    /// The phase has changed.
    fn phase(&mut self, phase: Phase);
    /// Operations completed and failed so far in the measured phase.
    fn counts(&mut self, completed: u64, errors: u64);
    /// The measured phase begins: resource usage counts from here.
    fn measure_begins(&mut self);
    /// The measured phase has ended.
    fn measure_ends(&mut self);
    /// Entry `index` of the series is complete.
    fn entry_ends(&mut self, recording: &Recording, index: usize);
}

/// Where the whole worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Connecting { deadline: Instant },
    Ready,
    WarmingUp,
    Measuring,
    Draining { deadline: Instant },
    Finishing { deadline: Instant },
    Finished,
}

/// The client role; see the [module](self).
#[derive(Debug)]
pub struct Client<G> {
    spec: ClientSpec,
    stand: Stand,
    slots: Vec<Slot>,
    /// Slots to send from at the next submission, and when they were meant to.
    ready: Vec<(u32, Option<Instant>)>,
    /// Open loop: slots with nothing to do.
    free: Vec<u32>,
    /// Open loop: the schedule, and its next arrival.
    arrivals: Option<Schedule>,
    next_due: Option<Instant>,
    backlog_max: u64,
    outstanding: u32,
    /// A reply was among the completions of this turn.
    timed: bool,
    last_sent: Instant,
    warmup_end: Instant,
    measure_end: Instant,
    measured_until: Instant,
    last_report_due: bool,
    /// Entries of the series that were told to be complete.
    entries_told: usize,
    remaining: Option<u64>,
    recording: Recording,
    /// Of the warm-up.
    warmup: Tally,
    /// Of the measured phase, and of what precedes and follows it.
    measured: Tally,
    scanned_at: Instant,
    scan_step: Nanos,
    gauge: G,
    interrupt: Interrupt,
    outcome: Outcome,
}

/// What a client worker brings back beside its recording and tallies.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the servers said, one per accepted session that was not brief.
    pub accepts: Vec<Accept>,
    /// The servers' figures.
    pub figures: Vec<Figures>,
    /// Sessions established.
    pub established: u64,
    /// Sockets used.
    pub sockets: u64,
    /// The first failure, in words fit for the user.
    pub failure: Option<crate::error::Error>,
    /// Cut short: interrupted, or every connection was lost.
    pub cut_short: bool,
    /// The deepest the queue of due and unsent operations has been; open loop.
    pub backlog_max: u64,
    /// Length of the warm-up as it was.
    pub warmup: Nanos,
    /// Length of the measured phase as it was.
    pub measured: Nanos,
}

impl Outcome {
    /// Adds another worker's.
    pub fn merge(&mut self, other: Self) {
        self.accepts.extend(other.accepts);
        self.figures.extend(other.figures);
        self.established += other.established;
        self.sockets += other.sockets;
        self.failure = self.failure.take().or(other.failure);
        self.cut_short |= other.cut_short;
        self.backlog_max += other.backlog_max;
        self.warmup = self.warmup.max(other.warmup);
        self.measured = self.measured.max(other.measured);
    }
}

impl<G: Gauge> Client<G> {
    /// A client that has not opened anything yet.
    #[must_use]
    pub fn new(
        spec: ClientSpec,
        recording: Recording,
        arrivals: Option<Schedule>,
        gauge: G,
        interrupt: Interrupt,
    ) -> Self {
        let slots = spec.connections as usize;
        let scan_step = Nanos((spec.timeout.0 / 64).clamp(1_000_000, 50_000_000));
        Self {
            remaining: spec.count,
            stand: Stand::Connecting {
                deadline: Instant::FAR_FUTURE,
            },
            slots: Vec::with_capacity(slots),
            ready: Vec::with_capacity(slots),
            free: Vec::with_capacity(slots),
            arrivals,
            next_due: None,
            backlog_max: 0,
            outstanding: 0,
            timed: false,
            last_sent: Instant::default(),
            warmup_end: Instant::FAR_FUTURE,
            measure_end: Instant::FAR_FUTURE,
            measured_until: Instant::default(),
            last_report_due: false,
            entries_told: 0,
            recording,
            warmup: Tally::default(),
            measured: Tally::default(),
            scanned_at: Instant::default(),
            scan_step,
            gauge,
            interrupt,
            outcome: Outcome::default(),
            spec,
        }
    }

    /// Opens the connections. With a connection per operation, one is opened here, to learn whom we talk to.
    ///
    /// # Errors
    /// What ends the driver.
    pub fn connect<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.gauge.phase(Phase::Connect);
        self.stand = Stand::Connecting {
            deadline: now + self.spec.timeout,
        };
        for index in 0..self.spec.connections {
            self.slots.push(Slot::new(io, index, &self.spec)?);
            if index == 0 || !self.spec.hello.connect_each {
                self.open(io, index, now, false)?;
            }
        }
        Ok(())
    }

    /// Whether every connection stands (or has failed).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !matches!(self.stand, Stand::Connecting { .. })
    }

    /// Whether there is nothing left to do.
    #[must_use]
    pub fn is_finished_now(&self) -> bool {
        self.stand == Stand::Finished
    }

    /// Whether at least one connection can be measured on.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        if self.spec.hello.connect_each {
            return self.outcome.established > 0;
        }
        self.slots.iter().any(|slot| !slot.is_dead())
    }

    /// Starts the warm-up at `t0`, the same instant for all workers. `wait` is what both ends settled on.
    pub fn start(&mut self, t0: Instant, wait: WaitMode) {
        self.spec.wait = wait;
        self.stand = Stand::WarmingUp;
        self.gauge.phase(Phase::WarmUp);
        self.warmup_end = t0 + self.spec.warmup;
        self.outcome.warmup = self.spec.warmup;
        // Not when the measured phase is noticed to have begun: what is sent in it may be answered before that.
        self.recording.begin(self.warmup_end);
        self.measure_end = self
            .spec
            .duration
            .map_or(Instant::FAR_FUTURE, |d| self.warmup_end + d);
        if let Some(arrivals) = &mut self.arrivals {
            self.next_due = Some(t0 + next_offset(arrivals));
        }
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.is_dead() {
                continue;
            }
            let index = u32::try_from(index).expect("bounded by CONNECTIONS_MAX");
            if self.arrivals.is_some() {
                self.free.push(index);
            } else {
                self.ready.push((index, None));
            }
        }
    }

    /// Gives up before the start, because another worker could not connect.
    ///
    /// # Errors
    /// What ends the driver.
    pub fn abandon<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.finish(io, now)
    }

    /// What came of it: the recording, the warm-up's tally, the measured phase's tally, and the rest.
    #[must_use]
    pub fn into_results(mut self) -> (Recording, Tally, Tally, Outcome, G) {
        self.outcome.backlog_max = self.backlog_max;
        (
            self.recording,
            self.warmup,
            self.measured,
            self.outcome,
            self.gauge,
        )
    }

    /// What the servers said so far.
    #[must_use]
    pub fn accepts(&self) -> &[Accept] {
        &self.outcome.accepts
    }

    fn open<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        now: Instant,
        brief: bool,
    ) -> Result<(), DriverError> {
        self.outcome.sockets += 1;
        let slot = &mut self.slots[index as usize];
        if let Err(error) = slot.open(io, &self.spec, now, brief) {
            self.handle_failure(io, index, Stage::Connect, error.name(), now)?;
        }
        Ok(())
    }

    /// The tally that an event outside any operation belongs to.
    fn tally(&mut self) -> &mut Tally {
        if self.stand == Stand::WarmingUp {
            &mut self.warmup
        } else {
            &mut self.measured
        }
    }

    fn handle_event<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        event: Event,
        now: Instant,
    ) -> Result<(), DriverError> {
        match event {
            Event::Nothing => {}
            Event::Connected(length) => {
                let slot = &self.slots[index as usize];
                if slot.is_measured() {
                    self.recording.record_connect(now, length);
                } else if !self.spec.hello.connect_each {
                    self.outcome_connect(now, length);
                }
            }
            Event::Accepted(accept) => self.handle_accepted(io, index, *accept, now)?,
            Event::Replied { residence } => self.handle_reply(io, index, residence, now)?,
            Event::Stale => self.tally().errors.count(Stage::Receive, "late-reply"),
            Event::Figures(figures) => {
                if !self.slots[index as usize].is_brief() {
                    self.outcome.figures.push(*figures);
                }
            }
            Event::Over => self.handle_over(index, now),
            Event::Failed {
                stage,
                cause,
                error,
            } => {
                if let Some(error) = error {
                    self.outcome.failure.get_or_insert(*error);
                }
                self.handle_failure(io, index, stage, cause, now)?;
            }
        }
        Ok(())
    }

    /// Connect times of connections that stand throughout are recorded though they precede the measured phase:
    /// there is no other sample of them.
    fn outcome_connect(&mut self, now: Instant, length: Nanos) {
        if self.spec.transport == Transport::Tcp {
            self.recording.record_connect(now, length);
        }
    }

    fn handle_accepted<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        accept: Accept,
        now: Instant,
    ) -> Result<(), DriverError> {
        let slot = &mut self.slots[index as usize];
        self.outcome.established += 1;
        if !slot.is_brief() {
            self.outcome.accepts.push(accept);
        }
        if slot.has_operation() {
            slot.send(io, now, &self.spec)?;
        } else if self.spec.hello.connect_each {
            slot.end(io, now, &self.spec)?;
        } else {
            self.check_ready();
        }
        Ok(())
    }

    fn check_ready(&mut self) {
        if matches!(self.stand, Stand::Connecting { .. })
            && self
                .slots
                .iter()
                .all(|slot| slot.is_idle() || slot.is_dead())
        {
            self.stand = Stand::Ready;
        }
    }

    fn handle_reply<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        residence: Option<Nanos>,
        now: Instant,
    ) -> Result<(), DriverError> {
        let slot = &mut self.slots[index as usize];
        let Some(operation) = slot.take_operation() else {
            return Ok(());
        };
        self.outstanding -= 1;
        self.timed = true;
        if operation.measured {
            let sample = Sample {
                residence,
                ..operation.sample(now)
            };
            self.recording.record(now, sample);
            self.measured.operations.completed += 1;
            self.measured_until = now;
            let operations = &self.measured.operations;
            self.gauge.counts(
                operations.completed,
                operations.failed + operations.timed_out,
            );
        } else {
            self.warmup.operations.completed += 1;
        }
        if self.spec.hello.connect_each {
            slot.end(io, now, &self.spec)
        } else {
            self.make_available(index, now);
            Ok(())
        }
    }

    /// The slot can take its next operation.
    fn make_available(&mut self, index: u32, now: Instant) {
        if self.arrivals.is_some() {
            self.free.push(index);
            self.dispatch(now);
        } else if self.is_running() {
            self.ready.push((index, None));
        }
    }

    /// Open loop: gives due arrivals to free slots.
    fn dispatch(&mut self, now: Instant) {
        while let Some(due) = self.next_due
            && due <= now
            && self.is_running()
        {
            let Some(index) = self.free.pop() else { return };
            self.ready.push((index, Some(due)));
            self.advance_schedule(due);
        }
    }

    /// Accounts for the arrival at `due` and finds the next one.
    fn advance_schedule(&mut self, due: Instant) {
        if self.is_measured(due)
            && let Some(remaining) = &mut self.remaining
        {
            *remaining -= 1;
            if *remaining == 0 {
                self.measure_end = due + Nanos(1);
            }
        }
        let start = Instant(self.warmup_end.0 - self.spec.warmup.0);
        let next = self
            .arrivals
            .as_mut()
            .map(|arrivals| start + next_offset(arrivals));
        self.next_due = next.filter(|due| *due < self.measure_end);
    }

    fn is_measured(&self, at: Instant) -> bool {
        at >= self.warmup_end
    }

    const fn is_running(&self) -> bool {
        matches!(self.stand, Stand::WarmingUp | Stand::Measuring)
    }

    fn handle_failure<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        stage: Stage,
        cause: &'static str,
        now: Instant,
    ) -> Result<(), DriverError> {
        let slot = &mut self.slots[index as usize];
        let operation = slot.take_operation();
        let timed_out = cause == "timeout";
        let tally = match &operation {
            Some(operation) if operation.measured => &mut self.measured,
            Some(_) => &mut self.warmup,
            None if self.stand == Stand::WarmingUp => &mut self.warmup,
            None => &mut self.measured,
        };
        tally.errors.count(stage, cause);
        if let Some(operation) = operation {
            self.outstanding -= 1;
            if timed_out {
                tally.operations.timed_out += 1;
            } else {
                tally.operations.failed += 1;
            }
            if operation.measured {
                self.recording.record_error(now);
                if timed_out {
                    self.recording.record_censored(now, operation.sample(now));
                }
                let operations = &self.measured.operations;
                self.gauge.counts(
                    operations.completed,
                    operations.failed + operations.timed_out,
                );
            }
        }
        let running = self.is_running();
        let slot = &mut self.slots[index as usize];
        if timed_out && self.spec.transport == Transport::Udp && stage == Stage::Receive {
            // A lost datagram: the next one goes out.
            slot.forgive();
            self.make_available(index, now);
            return Ok(());
        }
        slot.give_up(io, now)?;
        if self.spec.hello.connect_each && running {
            slot.rest_until(now + BACKOFF);
            return Ok(());
        }
        self.check_ready();
        if self.is_running() && !self.is_alive() {
            self.outcome.cut_short = true;
            self.drain(io, now)?;
        }
        Ok(())
    }

    /// A connection has ended as it should.
    fn handle_over(&mut self, index: u32, now: Instant) {
        if self.spec.hello.connect_each && self.is_running() {
            self.make_available(index, now);
        }
        self.check_ready();
    }

    fn drain<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        if self.stand == Stand::Measuring {
            self.gauge.measure_ends();
        } else {
            // It never came to measuring.
            self.outcome.warmup = now
                .since(Instant(self.warmup_end.0 - self.spec.warmup.0))
                .min(self.spec.warmup);
        }
        self.gauge.phase(Phase::Drain);
        let end = if self.outcome.cut_short {
            now
        } else {
            now.min(self.measure_end)
        };
        self.count_unsent(end);
        let end = if self.spec.count.is_some() {
            self.measured_until
        } else {
            end
        };
        self.outcome.measured = end.since(self.warmup_end);
        let patience = if self.outcome.cut_short {
            DRAIN_INTERRUPTED
        } else {
            self.spec.timeout
        };
        self.stand = Stand::Draining {
            deadline: now + patience.min(self.spec.timeout),
        };
        self.check_drained(io, now)
    }

    /// Open loop: what was due before the end and never sent, whether or not a connection was found for it.
    fn count_unsent(&mut self, end: Instant) {
        let mut ready = std::mem::take(&mut self.ready);
        for due in ready.drain(..).filter_map(|(_, intended)| intended) {
            self.count_one_unsent(due, end);
        }
        while let Some(due) = self.next_due
            && due < end
        {
            self.count_one_unsent(due, end);
            self.advance_schedule(due);
        }
        self.next_due = None;
    }

    fn count_one_unsent(&mut self, due: Instant, end: Instant) {
        let tally = if self.is_measured(due) {
            self.recording.record_unsent(end, end.since(due));
            &mut self.measured
        } else {
            &mut self.warmup
        };
        tally.operations.due += 1;
        tally.operations.unsent_at_end += 1;
    }

    fn check_drained<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        let Stand::Draining { deadline } = self.stand else {
            return Ok(());
        };
        if self.outstanding > 0 && now < deadline {
            return Ok(());
        }
        for slot in &mut self.slots {
            let Some(operation) = slot.take_operation() else {
                continue;
            };
            self.outstanding -= 1;
            if operation.measured {
                self.measured.operations.in_flight_at_end += 1;
                self.recording.record_censored(now, operation.sample(now));
            } else {
                self.warmup.operations.in_flight_at_end += 1;
            }
            slot.mark_interrupted();
        }
        // Replies that came while draining stand in the last entry, so it is complete only now.
        if self.outcome.measured > Nanos::ZERO {
            self.gauge.entry_ends(&self.recording, self.entries_told);
        }
        self.finish(io, now)
    }

    fn finish<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        self.stand = Stand::Finishing {
            deadline: now + self.spec.timeout,
        };
        if self.spec.hello.connect_each {
            self.last_report_due = self.is_alive();
        } else {
            for slot in &mut self.slots {
                slot.end(io, now, &self.spec)?;
            }
        }
        self.check_finished(io, now)
    }

    fn check_finished<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        let Stand::Finishing { deadline } = self.stand else {
            return Ok(());
        };
        if now >= deadline {
            self.last_report_due = false;
            for slot in &mut self.slots {
                slot.give_up(io, now)?;
            }
        }
        if self.last_report_due && self.slots[0].is_quiet() {
            // With a connection per operation, one more: for the figures of the worker that served them all.
            self.last_report_due = false;
            self.slots[0].wake();
            return self.open(io, 0, now, false);
        }
        if !self.last_report_due && self.slots.iter().all(Slot::is_quiet) {
            self.stand = Stand::Finished;
        }
        Ok(())
    }

    /// Tells of the entries of the series that are over at `now`.
    fn tell_entries(&mut self, now: Instant) {
        let interval = self.recording.interval();
        while self.entries_told + 1 < self.recording.entries()
            && now >= self.warmup_end + Nanos(interval.0 * (self.entries_told as u64 + 1))
        {
            self.gauge.entry_ends(&self.recording, self.entries_told);
            self.entries_told += 1;
        }
    }

    /// Looks after deadlines of single connections. Every slot is looked at, so this is done seldom: a timeout is
    /// noticed late by at most [`Client::scan_step`], a 64th of it where that is 1 to 50 ms.
    fn scan<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        if now.since(self.scanned_at) < self.scan_step {
            return Ok(());
        }
        self.scanned_at = now;
        for index in 0..self.spec.connections {
            let slot = &mut self.slots[index as usize];
            if slot.has_rested(now) {
                slot.wake();
                self.make_available(index, now);
                continue;
            }
            let event = slot.handle_timers(io, now, &self.spec)?;
            self.handle_event(io, index, event, now)?;
        }
        Ok(())
    }

    fn is_out_of_time(&self, now: Instant) -> bool {
        if self.remaining == Some(0) {
            return self.outstanding == 0 && self.ready.is_empty();
        }
        now >= self.measure_end
    }
}

impl<D: Driver, G: Gauge> Role<D> for Client<G> {
    fn handle_completion(
        &mut self,
        io: &mut D,
        completion: Completion,
        now: Instant,
    ) -> Result<(), DriverError> {
        let (index, purpose) = slot_of(completion.token);
        let slot = &mut self.slots[index as usize];
        let event = slot.handle_completion(io, purpose, &completion.outcome, now, &self.spec)?;
        self.handle_event(io, index, event, now)
    }

    fn handle_time(
        &mut self,
        io: &mut D,
        now: Instant,
        counters: &mut TurnCounters,
    ) -> Result<(), DriverError> {
        if self.is_running() {
            if self.stand == Stand::WarmingUp && now >= self.warmup_end {
                self.stand = Stand::Measuring;
                self.gauge.phase(Phase::Measure);
                self.gauge.measure_begins();
                counters.reset();
            }
            if self.stand == Stand::Measuring {
                self.tell_entries(now);
            }
            self.dispatch(now);
            if self.interrupt.is_raised() {
                self.outcome.cut_short = true;
                self.drain(io, now)?;
            } else if self.is_out_of_time(now) {
                self.drain(io, now)?;
            }
        } else if self.interrupt.is_raised()
            && matches!(self.stand, Stand::Connecting { .. } | Stand::Ready)
        {
            self.outcome.cut_short = true;
            self.finish(io, now)?;
        }
        self.scan(io, now)?;
        match self.stand {
            Stand::Connecting { deadline } if now >= deadline => self.check_ready(),
            Stand::Draining { .. } => self.check_drained(io, now)?,
            Stand::Finishing { .. } => self.check_finished(io, now)?,
            _ => {}
        }
        Ok(())
    }

    fn poll_submit(&mut self, io: &mut D, now: Instant) -> Result<(), DriverError> {
        let mut ready = std::mem::take(&mut self.ready);
        for (index, intended) in ready.drain(..) {
            let measured = self.is_measured(intended.unwrap_or(now));
            if intended.is_none() && measured {
                if now >= self.measure_end || self.remaining == Some(0) {
                    continue;
                }
                if let Some(remaining) = &mut self.remaining {
                    *remaining -= 1;
                }
            }
            let tally = if measured {
                &mut self.measured
            } else {
                &mut self.warmup
            };
            tally.operations.due += 1;
            tally.operations.sent += 1;
            self.outstanding += 1;
            self.last_sent = now;
            let slot = &mut self.slots[index as usize];
            slot.start_operation(now, intended, measured);
            if self.spec.hello.connect_each {
                self.open(io, index, now, true)?;
            } else {
                slot.send(io, now, &self.spec)?;
            }
        }
        self.ready = ready;
        Ok(())
    }

    fn poll_wait(&self, now: Instant) -> Wait {
        if self.spec.wait == WaitMode::Spin && self.is_running() {
            return Wait::Poll;
        }
        let due = self.next_due.unwrap_or(Instant::FAR_FUTURE);
        let nap = (now + NAP).min(due).min(match self.stand {
            Stand::WarmingUp => self.warmup_end,
            Stand::Measuring => self.measure_end,
            _ => Instant::FAR_FUTURE,
        });
        let nap = nap.min(now + self.scan_step.max(Nanos::from_millis(5)));
        if !self.is_running() {
            return Wait::Until(nap);
        }
        match self.spec.wait {
            WaitMode::Spin => Wait::Poll,
            WaitMode::Block => Wait::Until(nap),
            WaitMode::Hybrid => {
                let fresh = self.outstanding > 0 && now.since(self.last_sent) < HYBRID_SPIN;
                if fresh || due.since(now) <= self.spec.wakeup {
                    Wait::Poll
                } else {
                    Wait::Until(Instant(nap.0.saturating_sub(self.spec.wakeup.0).max(now.0)))
                }
            }
        }
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn take_timed(&mut self) -> bool {
        std::mem::take(&mut self.timed)
    }

    fn is_finished(&self) -> bool {
        self.stand == Stand::Finished
    }
}

/// The next arrival, as an offset from the start. Schedules do not end.
fn next_offset(arrivals: &mut Schedule) -> Nanos {
    arrivals.next().unwrap_or(Nanos::MAX)
}
