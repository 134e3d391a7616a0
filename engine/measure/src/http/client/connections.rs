//! How connections come and go: opened some at a time, replaced when they fail or are closed, with
//! pauses that grow while they fail.

use std::net::SocketAddr;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::errors::{self, FailureCause};
use super::{HttpClient, ProgressSink};
use crate::worker::Result;
use crate::worker::destination::Destination;
use crate::worker::link::{Purpose, token};
use crate::worker::pacer::Action;
use crate::worker::phases::RunPhase;
use crate::worker::tally::Stage;
use tare_driver::{Driver, Op, OpError, SocketId, SocketSpec, towards};
use tare_proto::http1::response::ResponseReader;
use tare_units::{Instant, Nanos};

/// The first pause after a failure; it doubles with each further one, up to the last.
const BACKOFF_FIRST: Nanos = Nanos::from_millis(10);
const BACKOFF_LAST: Nanos = Nanos::from_secs(1);
/// A Unix listener whose queue is full is asked again after that long.
const FULL_PAUSE: Nanos = Nanos::from_millis(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum State {
    #[default]
    Vacant,
    /// There is no socket until that instant.
    Resting {
        until: Instant,
    },
    Queued,
    Connecting {
        since: Instant,
    },
    Open,
    /// The socket is being closed; `again`: and another one opened in its place.
    Closing {
        again: bool,
    },
}

/// A connection, of which there may be 100,000: what is outstanding on its socket, and the requests
/// that await a response.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) state: State,
    pub(super) socket: SocketId,
    pub(super) operations: u8,
    pub(super) sending: bool,
    /// It takes no more requests, and is replaced when those that were sent are answered.
    pub(super) retiring: bool,
    pub(super) expected: bool,
    established: bool,
    pub(super) answered: bool,
    /// Its requests were left by a connection that was lost, so they are not pipelined before the
    /// first of them is answered (RFC 9112 section 9.3.2).
    pub(super) careful: bool,
    /// Of connects and requests in a row.
    pub(super) failures: u8,
    /// What the kernel has yet to take of the last send: its place in the requests, and its length.
    pub(super) rest: (u32, u32),
    pub(super) reader: ResponseReader,
    /// Its requests are `in_flight` entries of its ring, from `first` on; the last `unsent` of them
    /// have yet to be sent.
    pub(super) first: u16,
    pub(super) in_flight: u16,
    pub(super) unsent: u16,
    /// Times that it was offered to the pacer, and has not been given a request for.
    pub(super) offered: u16,
    /// Requests begun since it was connected.
    pub(super) begun: u32,
}

impl Connection {
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    pub(super) fn takes_requests(&self) -> bool {
        self.is_open() && !self.retiring && !self.careful
    }

    /// There is no socket, and nothing is outstanding.
    pub(super) const fn is_quiet(&self) -> bool {
        self.operations == 0 && matches!(self.state, State::Vacant | State::Resting { .. })
    }

    pub(super) const fn awaited(&self) -> u16 {
        self.in_flight - self.unsent
    }
}

/// The pause after `failures` in a row: up to a half shorter than the doubling says, by how much
/// depends on the connection, so that what failed together does not come back together.
fn backoff(failures: u8, connection: u32) -> Nanos {
    let doublings = u32::from(failures.saturating_sub(1)).min(10);
    let whole = Nanos(BACKOFF_FIRST.0 << doublings).min(BACKOFF_LAST);
    let salt = u64::from(connection) << 8 | u64::from(failures);
    let random = SplitMix64::seed_from_u64(salt).next_u64();
    Nanos(whole.0 - random % (whole.0 / 2))
}

impl<G: ProgressSink> HttpClient<G> {
    /// The connection is to be connected when its turn comes.
    pub(super) fn queue(&mut self, index: u32) {
        self.connections[index as usize].state = State::Queued;
        self.queued.push_back(index);
    }

    /// When the next connect may be begun, if one is to be.
    pub(super) fn next_connect(&self) -> Option<Instant> {
        let phases = &self.run.phases;
        let may = !self.queued.is_empty()
            && self.connecting.len() < self.spec.connects_at_once
            && !phases.is_ending()
            && !matches!(phases.phase, RunPhase::Starting { .. });
        may.then_some(self.next_connect_at)
    }

    /// Begins as many connects as may be; `now` is the instant of the submission. Over a Unix
    /// socket they are done at once, so no more than may be under way are begun in one turn.
    pub(super) fn connect_some<D: Driver>(&mut self, io: &mut D, now: Instant) -> Result {
        for _ in 0..self.spec.connects_at_once {
            if self.next_connect().is_none_or(|at| now < at) {
                return Ok(());
            }
            let is_before_start = self.run.phases.phase == RunPhase::Connecting;
            if is_before_start && self.spec.connect_gap > Nanos::ZERO {
                // From the instant at which it was due: a late look does not slow the rest down.
                let base = self.next_connect_at.max(Instant(now.0.saturating_sub(1_000_000_000)));
                self.next_connect_at = base + self.spec.connect_gap;
            }
            if let Some(index) = self.queued.pop_front() {
                self.open(io, index, now)?;
            }
        }
        Ok(())
    }

    fn open<D: Driver>(&mut self, io: &mut D, index: u32, now: Instant) -> Result {
        if self.connections[index as usize].state != State::Queued {
            return Ok(());
        }
        let opened = match &self.spec.to {
            Destination::Tcp(to) => io.open(&self.socket_spec(*to, index)),
            Destination::Unix(path) => io.connect_unix(path),
        };
        let socket = match opened {
            Ok(socket) => socket,
            Err(OpError::TryAgain) => return self.handle_full(io, index, now),
            Err(error) => {
                return self.fail(io, index, Stage::Connect, FailureCause::Os(error), now);
            }
        };
        self.full_since = None;
        let measuring = self.is_measuring();
        let connection = &mut self.connections[index as usize];
        if connection.expected || measuring {
            self.run.phases.outcome.sockets += 1;
        }
        connection.state = State::Connecting { since: now };
        connection.socket = socket;
        (connection.sending, connection.retiring, connection.answered) = (false, false, false);
        // What the connection before it left is sent again.
        connection.begun = u32::from(connection.in_flight);
        connection.careful &= connection.in_flight > 0;
        match self.spec.to {
            Destination::Unix(_) => self.handle_open(io, index),
            Destination::Tcp(to) => {
                connection.operations += 1;
                self.connecting.push(index, now);
                io.push(token(index, Purpose::Connect), Op::Connect { socket, to })
            }
        }
    }

    /// The Unix listener's queue is full. That is no failure, unless it stays so: the connection is
    /// the next one to be tried, a moment later.
    fn handle_full<D: Driver>(&mut self, io: &mut D, index: u32, now: Instant) -> Result {
        let since = *self.full_since.get_or_insert(now);
        if now.since(since) >= self.spec.plan.connect_timeout {
            return self.fail(io, index, Stage::Connect, FailureCause::Timeout, now);
        }
        self.queued.push_front(index);
        self.next_connect_at = now + FULL_PAUSE;
        Ok(())
    }

    fn socket_spec(&self, to: SocketAddr, index: u32) -> SocketSpec {
        let turn = u64::from(self.spec.first) + u64::from(index);
        let binds = &self.spec.plan.bind;
        let place = usize::try_from(turn % binds.len().max(1) as u64).unwrap_or(0);
        let local = binds.get(place).map(|local| towards(*local, to));
        SocketSpec { local, ..SocketSpec::stream_to(to) }
    }

    pub(super) fn handle_connected<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        now: Instant,
    ) -> Result {
        self.connecting.remove(index);
        let measuring = self.is_measuring();
        let connection = &self.connections[index as usize];
        // Those that stand from the start on are recorded though they precede the measured phase.
        if let State::Connecting { since } = connection.state
            && (connection.expected || measuring)
        {
            self.run.record.recording.record_connect(now, now.since(since));
            if measuring {
                self.run.phases.count_connecting(since, now);
            }
        }
        self.handle_open(io, index)
    }

    fn handle_open<D: Driver>(&mut self, io: &mut D, index: u32) -> Result {
        self.open += 1;
        let measuring = self.is_measuring();
        let connection = &mut self.connections[index as usize];
        connection.state = State::Open;
        if connection.unsent > 0 {
            self.run.pacer.push(index, Action::Request);
        }
        let phases = &mut self.run.phases;
        phases.outcome.established += u64::from(!connection.established);
        connection.established = true;
        // Those that the start waited for are the first of their place.
        self.traffic.reconnects += u64::from(!connection.expected && measuring);
        phases.settle(&mut connection.expected);
        self.receive(io, index)?;
        self.offer(index);
        Ok(())
    }

    pub(super) fn receive<D: Driver>(&mut self, io: &mut D, index: u32) -> Result {
        let connection = &mut self.connections[index as usize];
        connection.operations += 1;
        let socket = connection.socket;
        io.push(token(index, Purpose::Receive), Op::ReceiveMultishot { socket })
    }

    /// Closes a connection; `again`: another one takes its place at once, and not after a pause.
    pub(super) fn close<D: Driver>(&mut self, io: &mut D, index: u32, again: bool) -> Result {
        for place in self.in_flight.places(index) {
            self.awaiting.remove(place);
        }
        self.connecting.remove(index);
        let connection = &mut self.connections[index as usize];
        connection.reader.reset(&mut self.shared);
        self.open -= u32::from(connection.is_open());
        connection.state = State::Closing { again };
        connection.operations += 1;
        let socket = connection.socket;
        io.push(token(index, Purpose::Close), Op::Close { socket })
    }

    pub(super) fn handle_while_closing(&mut self, index: u32, now: Instant) {
        let connection = &mut self.connections[index as usize];
        let State::Closing { again } = connection.state else { return };
        if connection.operations > 0 {
            return;
        }
        connection.state = State::Vacant;
        if !self.run.phases.is_ending() {
            if again { self.queue(index) } else { self.rest(index, now) }
        }
    }

    fn rest(&mut self, index: u32, now: Instant) {
        let connection = &mut self.connections[index as usize];
        let until = now + backoff(connection.failures, self.spec.first + index);
        connection.state = State::Resting { until };
        self.resting.push(index);
        self.count_down(now, until);
    }

    /// A connection does not stand in that time, since it has failed.
    fn count_down(&mut self, from: Instant, until: Instant) {
        let phases = &mut self.run.phases;
        if phases.is_running() {
            phases.count_down(from, until.min(phases.end));
        }
    }

    pub(super) fn wake_rested(&mut self, now: Instant) {
        let is_running = self.run.phases.is_running();
        let Self { resting, connections, queued, .. } = self;
        resting.retain(|&index| {
            let state = &mut connections[index as usize].state;
            match state {
                // Before the start nobody waits for it any more.
                State::Resting { until } if now < *until || !is_running => return true,
                State::Resting { .. } => {
                    *state = State::Queued;
                    queued.push_back(index);
                }
                _ => {}
            }
            false
        });
    }

    /// A connection has failed: what was outstanding on it has, too, and another one takes its
    /// place after a pause.
    pub(super) fn fail<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        stage: Stage,
        cause: FailureCause,
        now: Instant,
    ) -> Result {
        if self.is_race(index, cause) && self.keeps_requests(index, false) {
            return self.close(io, index, true);
        }
        if self.matters(index) && self.run.phases.outcome.failure.is_none() {
            self.run.phases.outcome.failure = Some(errors::words(&self.spec, stage, cause));
        }
        self.give_up_requests(index, stage, cause, now);
        let connection = &mut self.connections[index as usize];
        self.run.phases.settle(&mut connection.expected);
        connection.failures = connection.failures.saturating_add(1);
        let state = connection.state;
        if let State::Connecting { since } = state {
            self.count_down(since, now);
        }
        if state == State::Queued {
            self.rest(index, now);
            return Ok(());
        }
        self.close(io, index, false)
    }

    /// Whether a failure of this connection is one of the run's: once that is over, only that of a
    /// request is.
    fn matters(&self, index: u32) -> bool {
        !self.run.phases.is_ending() || self.connections[index as usize].in_flight > 0
    }

    /// Requests that a failing connection had are ended: those that were sent have failed, the
    /// others are due again.
    fn give_up_requests(&mut self, index: u32, stage: Stage, cause: FailureCause, now: Instant) {
        self.unsend(index);
        if !self.matters(index) {
            return;
        }
        if self.connections[index as usize].in_flight == 0 {
            // A failure outside any request belongs to the measured phase, or a warm-up under way.
            let phase = self.run.phases.phase;
            let in_warmup = matches!(phase, RunPhase::WarmingUp | RunPhase::Starting { .. });
            self.run.record.tally(!in_warmup).errors.count(stage, cause.name());
            let is_slow = stage == Stage::Connect && cause == FailureCause::Timeout;
            if is_slow && phase != RunPhase::WarmingUp {
                let length = self.spec.plan.connect_timeout;
                self.run.record.recording.record_connect_censored(now, length);
            }
            return;
        }
        let open_loop = self.run.pacer.is_open_loop();
        while self.connections[index as usize].in_flight > 0 {
            let connection = &mut self.connections[index as usize];
            let request = self.in_flight.take_first(index, connection);
            let sample = request.sample(now, open_loop);
            // Behind one that timed out, others on the same connection may have waited for less.
            let by_time = matches!(cause, FailureCause::Timeout | FailureCause::NoLength);
            let timed_out = by_time && sample.service >= self.spec.run.timeout;
            let measured = request.begun.measured;
            self.run.record.tally(measured).errors.count(stage, cause.name());
            if measured {
                self.run.measured_until = now;
            }
            self.run.fail(now, measured, timed_out, by_time.then_some(sample));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_an_end_and_are_spread() {
        let whole = [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000].map(|ms| ms * 1_000_000);
        for connection in 0..100 {
            for (failures, whole) in (1..).zip(whole) {
                let pause = backoff(failures, connection).0;
                assert!((whole / 2..=whole).contains(&pause), "{failures}: {pause}");
            }
            assert!(backoff(u8::MAX, connection) <= BACKOFF_LAST);
        }
        let mut pauses: Vec<u64> = (0..1_000).map(|index| backoff(7, index).0).collect();
        pauses.sort_unstable();
        // 320 ms to spread over: in no 32 ms of them are many more than a tenth.
        let most = pauses.iter().map(|from| {
            let within = |pause: &&u64| (*from..from + 32_000_000).contains(*pause);
            pauses.iter().filter(within).count()
        });
        assert!(most.max() < Some(160));
    }
}
