//! How connections come and go: opened some at a time, replaced when they fail or are closed, with pauses that grow
//! while they fail.

use std::net::SocketAddr;

use super::blame;
use super::connection::{Connection, State};
use super::{Blamed, Destination, Gauge, HttpClient, Stand};
use crate::driver::{Driver, DriverError, Op, SocketSpec};
use crate::units::{Instant, Nanos};
use crate::worker::errors::Stage;
use crate::worker::link::{Purpose, token};
use crate::worker::pacer::Action;

/// Connects under way at once before the start: fewer than the shortest queue of a listener that is common (511).
const CONNECTS_AT_ONCE: u32 = 256;
/// The first pause after a failure; it doubles with each further one, up to the last.
const BACKOFF_FIRST: Nanos = Nanos::from_millis(10);
const BACKOFF_LAST: Nanos = Nanos::from_secs(1);

/// The pause after `failures` in a row.
fn backoff(failures: u8) -> Nanos {
    let doublings = u32::from(failures.saturating_sub(1)).min(10);
    Nanos(BACKOFF_FIRST.0 << doublings).min(BACKOFF_LAST)
}

impl<G: Gauge> HttpClient<G> {
    /// Before the start: queues as many connects as may be under way.
    pub(super) fn connect_some(&mut self, now: Instant) {
        while self.next_connect < self.spec.connections && self.connects < CONNECTS_AT_ONCE {
            if self.spec.connect_gap > Nanos::ZERO {
                if now < self.next_connect_at {
                    return;
                }
                // From the instant at which it was due: a late look does not slow the rest down.
                let base = self
                    .next_connect_at
                    .max(Instant(now.0.saturating_sub(1_000_000_000)));
                self.next_connect_at = base + self.spec.connect_gap;
            }
            let index = self.next_connect;
            self.connections[index as usize].expected = true;
            self.queue(index);
            self.connects += 1;
            self.next_connect += 1;
        }
    }

    /// The connection is to be connected at the next submission.
    fn queue(&mut self, index: u32) {
        self.connections[index as usize].state = State::Queued;
        self.pacer.push(index, Action::Connect);
    }

    /// Opens a connection's socket and connects it; `now` is the instant of the submission.
    pub(super) fn open<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        now: Instant,
    ) -> Result<(), DriverError> {
        if self.connections[index as usize].state != State::Queued {
            return Ok(());
        }
        if self.is_ending() {
            self.connections[index as usize].state = State::Vacant;
            return Ok(());
        }
        let is_first = self.connections[index as usize].expected;
        if is_first || self.stand == Stand::Measuring {
            self.outcome.sockets += 1;
        }
        if self.stand == Stand::Measuring {
            self.tally.reconnects += 1;
        }
        let opened = match &self.spec.to {
            Destination::Tcp(to) => io.open(&self.socket_spec(*to, index)),
            Destination::Unix(path) => io.connect_unix(path),
        };
        let connection = &mut self.connections[index as usize];
        let socket = match opened {
            Ok(socket) => socket,
            Err(error) => return self.fail(io, index, Stage::Connect, Blamed::Os(error), now),
        };
        *connection = Connection {
            state: State::Connecting { since: now },
            socket,
            expected: connection.expected,
            stood: connection.stood,
            failures: connection.failures,
            offered: connection.offered,
            first: connection.first,
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

    fn socket_spec(&self, to: SocketAddr, index: u32) -> SocketSpec {
        let turn = u64::from(self.spec.first) + u64::from(index);
        let binds = &self.spec.bind;
        let place = usize::try_from(turn % binds.len().max(1) as u64).unwrap_or(0);
        SocketSpec {
            local: binds.get(place).map(|ip| SocketAddr::new(*ip, 0)),
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
        let measuring = self.stand == Stand::Measuring;
        if let State::Connecting { since } = connection.state
            && (connection.expected || measuring)
        {
            self.tally.recording.record_connect(now, now.since(since));
            if measuring {
                let took = now.since(since.max(self.warmup_end));
                self.tally.connecting = self.tally.connecting + took;
            }
        }
        self.handle_open(io, index)
    }

    /// The connection stands.
    fn handle_open<D: Driver>(&mut self, io: &mut D, index: u32) -> Result<(), DriverError> {
        self.open += 1;
        let connection = &mut self.connections[index as usize];
        connection.state = State::Open;
        // One that is opened anew does not stand for another that never did.
        let stood = std::mem::replace(&mut connection.stood, true);
        self.outcome.established += u64::from(!stood);
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
        io.push(
            token(index, Purpose::Receive),
            Op::ReceiveMultishot { socket },
        )
    }

    /// The first connect of a connection has come to its end, one way or the other.
    fn settle(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if std::mem::replace(&mut connection.expected, false) {
            self.connects -= 1;
            self.unsettled -= 1;
        }
    }

    pub(super) fn check_ready(&mut self) {
        if self.stand == Stand::Connecting && self.unsettled == 0 {
            self.stand = Stand::Ready;
        }
    }

    /// Closes a connection; `then` is where it stands when that is done.
    pub(super) fn close<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        again: bool,
    ) -> Result<(), DriverError> {
        self.awaiting.remove(index);
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
            _ if self.is_ending() => {}
            true => self.queue(index),
            false => self.rest(index, now),
        }
    }

    pub(super) const fn is_ending(&self) -> bool {
        matches!(
            self.stand,
            Stand::Draining { .. } | Stand::Finishing { .. } | Stand::Finished
        )
    }

    /// Leaves a connection alone for a while.
    fn rest(&mut self, index: u32, now: Instant) {
        let connection = &mut self.connections[index as usize];
        let until = now + backoff(connection.failures);
        connection.state = State::Resting { until };
        self.resting.push(index);
        self.count_down(now, until);
    }

    /// A connection does not stand in that time, since it has failed.
    fn count_down(&mut self, from: Instant, until: Instant) {
        if self.is_running() {
            let until = until.min(self.pacer.end());
            self.tally.down = self.tally.down + until.since(from.max(self.warmup_end));
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
                State::Resting { .. } if !self.is_running() => place += 1,
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
        let error = blame::words(&self.spec, stage, blamed);
        self.outcome.failure.get_or_insert(error);
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

    /// Requests that a failing connection had are ended: those that were sent have failed, the others are due again.
    fn give_up_requests(&mut self, index: u32, stage: Stage, blamed: Blamed, now: Instant) {
        let cause = match blamed {
            Blamed::Timeout => "timeout",
            Blamed::Os(error) => error.name(),
            Blamed::Peer(cause) => cause,
        };
        self.unsend(index);
        if self.connections[index as usize].in_flight == 0 {
            self.present_tally().errors.count(stage, cause);
            if stage == Stage::Connect
                && blamed == Blamed::Timeout
                && self.stand != Stand::WarmingUp
            {
                let length = self.spec.connect_timeout;
                self.tally.recording.record_connect_censored(now, length);
            }
            return;
        }
        let open_loop = self.pacer.is_open_loop();
        while self.connections[index as usize].in_flight > 0 {
            let connection = &mut self.connections[index as usize];
            let request = self.requests.take_first(index, connection);
            self.outstanding -= 1;
            let sample = request.sample(now, open_loop);
            // Behind one that timed out, others on the same connection may have waited for less.
            let timed_out = blamed == Blamed::Timeout && sample.service >= self.spec.timeout;
            let tally = self.tally_of(request.measured);
            tally.errors.count(stage, cause);
            if timed_out {
                tally.operations.timed_out += 1;
            } else {
                tally.operations.failed += 1;
            }
            if request.measured {
                self.measured_until = now;
                self.tally.recording.record_error(now);
                if blamed == Blamed::Timeout {
                    self.tally.recording.record_censored(now, sample);
                }
            }
        }
        self.tell_counts();
    }

    /// Requests that were begun and not sent go back to the pacer.
    pub(super) fn unsend(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let awaited = connection.awaited();
        let open_loop = self.pacer.is_open_loop();
        while connection.unsent > 0 {
            let nth = awaited + connection.unsent - 1;
            let request = *self.requests.at(index, connection, nth);
            connection.unsent -= 1;
            connection.in_flight -= 1;
            self.outstanding -= 1;
            let tally = if request.measured {
                &mut self.tally.measured
            } else {
                &mut self.tally.warmup
            };
            tally.operations.due -= 1;
            if open_loop {
                self.pacer.give_back(request.due);
            } else if request.measured {
                self.pacer.take_back();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_have_an_end() {
        let pauses: Vec<u64> = (1..=9).map(|n| backoff(n).0 / 1_000_000).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        assert_eq!(backoff(u8::MAX), BACKOFF_LAST);
    }
}
