//! How connections come and go: opened some at a time, replaced when they fail or are closed, with pauses that grow
//! while they fail.

use std::net::SocketAddr;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::blame;
use super::connection::{Connection, State};
use super::{Blamed, HttpClient, ProgressSink};
pub(crate) use crate::worker::course::Stand;
use crate::worker::destination::Destination;
use crate::worker::errors::Stage;
use crate::worker::link::{Purpose, token};
pub(crate) use crate::worker::pacer::Action;
use tare_driver::{Driver, DriverError, Op, OpError, SocketSpec, towards};
use tare_proto::http1::response::ResponseError;
use tare_units::{Instant, Nanos};

/// The first pause after a failure; it doubles with each further one, up to the last.
const BACKOFF_FIRST: Nanos = Nanos::from_millis(10);
const BACKOFF_LAST: Nanos = Nanos::from_secs(1);
/// A Unix listener whose queue is full is asked again after that long.
const FULL_PAUSE: Nanos = Nanos::from_millis(1);

/// The pause after `failures` in a row: up to a half shorter than the doubling says, by how much depends on the
/// connection, so that what failed together does not come back together.
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
        let may = !self.queued.is_empty()
            && self.connecting.len() < self.spec.connects_at_once
            && !self.course.is_ending()
            && !matches!(self.course.stand, Stand::Starting { .. });
        may.then_some(self.next_connect_at)
    }

    /// Begins as many connects as may be; `now` is the instant of the submission. Over a Unix socket they are done at
    /// once, so no more than may be under way are begun in one turn.
    pub(super) fn connect_some<D: Driver>(
        &mut self,
        io: &mut D,
        now: Instant,
    ) -> Result<(), DriverError> {
        for _ in 0..self.spec.connects_at_once {
            if self.next_connect().is_none_or(|at| now < at) {
                return Ok(());
            }
            if self.course.stand == Stand::Connecting && self.spec.connect_gap > Nanos::ZERO {
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

    /// Opens a connection's socket and connects it.
    fn open<D: Driver>(&mut self, io: &mut D, index: u32, now: Instant) -> Result<(), DriverError> {
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
            Err(error) => return self.fail(io, index, Stage::Connect, Blamed::Os(error), now),
        };
        self.full_since = None;
        let connection = &mut self.connections[index as usize];
        if connection.expected || self.course.stand == Stand::Measuring {
            self.course.outcome.sockets += 1;
        }
        *connection = Connection {
            state: State::Connecting { since: now },
            socket,
            expected: connection.expected,
            stood: connection.stood,
            failures: connection.failures,
            offered: connection.offered,
            first: connection.first,
            // What the connection before it left to be sent again.
            in_flight: connection.in_flight,
            unsent: connection.unsent,
            begun: u32::from(connection.in_flight),
            careful: connection.careful && connection.in_flight > 0,
            ..Connection::default()
        };
        match self.spec.to {
            Destination::Unix(_) => self.handle_open(io, index),
            Destination::Tcp(to) => {
                connection.operations += 1;
                self.connecting.push(index, now);
                io.push(token(index, Purpose::Connect), Op::Connect { socket, to })
            }
        }
    }

    /// The Unix listener's queue is full. That is no failure, unless it stays so: the connection is the next one to be
    /// tried, a moment later.
    fn handle_full<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        now: Instant,
    ) -> Result<(), DriverError> {
        let since = *self.full_since.get_or_insert(now);
        if now.since(since) >= self.spec.connect_timeout {
            return self.fail(io, index, Stage::Connect, Blamed::Timeout, now);
        }
        self.queued.push_front(index);
        self.next_connect_at = now + FULL_PAUSE;
        Ok(())
    }

    fn socket_spec(&self, to: SocketAddr, index: u32) -> SocketSpec {
        let turn = u64::from(self.spec.first) + u64::from(index);
        let binds = &self.spec.bind;
        let place = usize::try_from(turn % binds.len().max(1) as u64).unwrap_or(0);
        SocketSpec {
            local: binds.get(place).map(|local| towards(*local, to)),
            ..SocketSpec::stream_to(to)
        }
    }

    pub(super) fn handle_connected<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        now: Instant,
    ) -> Result<(), DriverError> {
        self.connecting.remove(index);
        let connection = &self.connections[index as usize];
        // Those that stand from the start on are recorded though they precede the measured phase.
        let measuring = self.course.stand == Stand::Measuring;
        if let State::Connecting { since } = connection.state
            && (connection.expected || measuring)
        {
            self.tally.recording.record_connect(now, now.since(since));
            if measuring {
                let took = now.since(since.max(self.course.warmup_end));
                let all = &mut self.course.outcome.connecting;
                *all = *all + took;
            }
        }
        self.handle_open(io, index)
    }

    /// The connection stands.
    fn handle_open<D: Driver>(&mut self, io: &mut D, index: u32) -> Result<(), DriverError> {
        self.open += 1;
        let connection = &mut self.connections[index as usize];
        connection.state = State::Open;
        if connection.unsent > 0 {
            self.course.pacer.push(index, Action::Request);
        }
        // One that is opened anew does not stand for another that never did.
        let stood = std::mem::replace(&mut connection.stood, true);
        self.course.outcome.established += u64::from(!stood);
        // Those that the start waited for are the first of their place.
        let anew = !connection.expected && self.course.stand == Stand::Measuring;
        self.tally.reconnects += u64::from(anew);
        self.settle(index);
        self.receive(io, index)?;
        self.offer(index);
        Ok(())
    }

    /// Arms the receive.
    pub(super) fn receive<D: Driver>(&mut self, io: &mut D, index: u32) -> Result<(), DriverError> {
        let connection = &mut self.connections[index as usize];
        connection.operations += 1;
        let socket = connection.socket;
        io.push(token(index, Purpose::Receive), Op::ReceiveMultishot { socket })
    }

    /// The first connect of a connection has come to its end, one way or the other.
    fn settle(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if std::mem::replace(&mut connection.expected, false) {
            self.unsettled -= 1;
        }
    }

    pub(super) fn check_ready(&mut self) {
        if self.course.stand == Stand::Connecting && self.unsettled == 0 {
            self.course.stand = Stand::Ready;
        }
    }

    /// Closes a connection; `then` is where it stands when that is done.
    pub(super) fn close<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        again: bool,
    ) -> Result<(), DriverError> {
        for place in self.requests.places(index) {
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

    /// Something completed on a connection that is being closed.
    pub(super) fn handle_while_closing(&mut self, index: u32, now: Instant) {
        let connection = &mut self.connections[index as usize];
        let State::Closing { again } = connection.state else {
            return;
        };
        if connection.operations > 0 {
            return;
        }
        connection.state = State::Vacant;
        match again {
            _ if self.course.is_ending() => {}
            true => self.queue(index),
            false => self.rest(index, now),
        }
    }

    /// Leaves a connection alone for a while.
    fn rest(&mut self, index: u32, now: Instant) {
        let connection = &mut self.connections[index as usize];
        let until = now + backoff(connection.failures, self.spec.first + index);
        connection.state = State::Resting { until };
        self.resting.push(index);
        self.count_down(now, until);
    }

    /// A connection does not stand in that time, since it has failed.
    fn count_down(&mut self, from: Instant, until: Instant) {
        if self.course.is_running() {
            let until = until.min(self.course.pacer.end());
            let all = &mut self.course.outcome.down;
            *all = *all + until.since(from.max(self.course.warmup_end));
        }
    }

    /// Connects those anew that have rested.
    pub(super) fn wake_rested(&mut self, now: Instant) {
        let mut place = 0;
        while place < self.resting.len() {
            let index = self.resting[place];
            match self.connections[index as usize].state {
                State::Resting { until } if now < until => place += 1,
                // Before the start nobody waits for it any more.
                State::Resting { .. } if !self.course.is_running() => place += 1,
                State::Resting { .. } => {
                    self.resting.swap_remove(place);
                    self.queue(index);
                }
                _ => {
                    self.resting.swap_remove(place);
                }
            }
        }
    }

    /// A connection has failed: what was outstanding on it has, too, and another one takes its place after a pause.
    pub(super) fn fail<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        stage: Stage,
        blamed: Blamed,
        now: Instant,
    ) -> Result<(), DriverError> {
        if self.is_race(index, blamed) && self.keeps_requests(index, false) {
            return self.close(io, index, true);
        }
        if self.matters(index) && self.course.outcome.failure.is_none() {
            self.course.outcome.failure = Some(blame::words(&self.spec, stage, blamed));
        }
        self.give_up_requests(index, stage, blamed, now);
        self.settle(index);
        let connection = &mut self.connections[index as usize];
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

    /// Whether a failure of this connection is one of the run's: once that is over, only that of a request is.
    fn matters(&self, index: u32) -> bool {
        !self.course.is_ending() || self.connections[index as usize].in_flight > 0
    }

    /// Requests that a failing connection had are ended: those that were sent have failed, the others are due again.
    fn give_up_requests(&mut self, index: u32, stage: Stage, blamed: Blamed, now: Instant) {
        let cause = match blamed {
            Blamed::Timeout => "timeout",
            Blamed::NoLength => ResponseError::NO_LENGTH,
            Blamed::Os(error) => error.name(),
            Blamed::Peer(cause) => cause,
        };
        self.unsend(index);
        if !self.matters(index) {
            return;
        }
        if self.connections[index as usize].in_flight == 0 {
            self.present_tally().errors.count(stage, cause);
            if stage == Stage::Connect
                && blamed == Blamed::Timeout
                && self.course.stand != Stand::WarmingUp
            {
                let length = self.spec.connect_timeout;
                self.tally.recording.record_connect_censored(now, length);
            }
            return;
        }
        let open_loop = self.course.pacer.is_open_loop();
        while self.connections[index as usize].in_flight > 0 {
            let connection = &mut self.connections[index as usize];
            let request = self.requests.take_first(index, connection);
            self.course.outstanding -= 1;
            let sample = request.sample(now, open_loop);
            // Behind one that timed out, others on the same connection may have waited for less.
            let by_time = matches!(blamed, Blamed::Timeout | Blamed::NoLength);
            let timed_out = by_time && sample.service >= self.spec.timeout;
            let tally = self.tally_of(request.measured);
            tally.errors.count(stage, cause);
            if timed_out {
                tally.operations.timed_out += 1;
            } else {
                tally.operations.failed += 1;
            }
            if request.measured {
                self.course.measured_until = now;
                self.tally.recording.record_error(now);
                if by_time {
                    self.tally.recording.record_censored(now, sample);
                }
            }
        }
        self.course.tell_counts(&self.tally.measured);
    }

    /// Requests that were begun and never sent go back to the pacer.
    pub(super) fn unsend(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let awaited = connection.awaited();
        let open_loop = self.course.pacer.is_open_loop();
        let mut was_spent = false;
        while connection.unsent > 0 {
            let nth = awaited + connection.unsent - 1;
            let request = *self.requests.at(index, connection, nth);
            if request.resent {
                break;
            }
            connection.unsent -= 1;
            connection.in_flight -= 1;
            self.course.outstanding -= 1;
            let tally =
                if request.measured { &mut self.tally.measured } else { &mut self.tally.warmup };
            tally.operations.due -= 1;
            if open_loop {
                self.course.pacer.give_back(request.due);
            } else if request.measured {
                was_spent |= self.course.pacer.take_back();
            }
        }
        // Connections that found nothing left to do have to be asked again.
        if was_spent {
            (0..self.spec.connections).for_each(|other| self.offer(other));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_have_an_end() {
        let whole = [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000].map(|ms| ms * 1_000_000);
        for connection in 0..100 {
            for (failures, whole) in (1..).zip(whole) {
                let pause = backoff(failures, connection).0;
                assert!((whole / 2..=whole).contains(&pause), "{failures}: {pause}");
            }
            assert!(backoff(u8::MAX, connection) <= BACKOFF_LAST);
        }
    }

    #[test]
    fn what_failed_together_does_not_come_back_together() {
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
