//! What arrives on a connection: responses, bytes that nobody asked for, the end of the stream.

use super::connection::State;
use super::{Blamed, HttpClient, ProgressSink};
pub(crate) use crate::worker::course::Stand;
use crate::worker::errors::Stage;
pub(crate) use crate::worker::pacer::Action;
use tare_driver::{Driver, DriverError};
use tare_proto::http1::response::{Response, ResponseError};
use tare_stats::histogram::Sample;
use tare_units::Instant;

/// What becomes of a connection after some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It goes on.
    Keep,
    /// It has done its service, or the server is going to close it: another one takes its place.
    Replace,
}

/// Why bytes make a connection useless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    Response(ResponseError),
    /// Bytes behind the end of a response, in the same piece.
    LongBody,
    /// Bytes while no response was awaited.
    Unsolicited,
    /// Bytes of a response whose time is over.
    Late,
}

impl Bad {
    const fn blamed(self) -> (Stage, Blamed) {
        use ResponseError::{CutHead, EarlyClose, ShortBody};
        match self {
            Self::Response(error @ (EarlyClose | CutHead | ShortBody)) => {
                (Stage::Receive, Blamed::Peer(error.cause()))
            }
            Self::Response(error) => (Stage::Parse, Blamed::Peer(error.cause())),
            Self::LongBody => (Stage::Parse, Blamed::Peer("long-body")),
            Self::Late => (Stage::Receive, Blamed::Timeout),
            Self::Unsolicited => (Stage::Parse, Blamed::Peer("unsolicited")),
        }
    }
}

/// Whether bytes that nobody asked for say that a keep-alive has run out, as some load balancers do before they close.
fn is_idle_timeout(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/1.1 408") || bytes.starts_with(b"HTTP/1.0 408")
}

impl<G: ProgressSink> HttpClient<G> {
    /// Reads what arrived on a connection.
    pub(super) fn handle_bytes(
        &mut self,
        index: u32,
        bytes: &[u8],
        now: Instant,
    ) -> Result<After, Bad> {
        if self.course.stand == Stand::Measuring {
            self.tally.received_bytes += bytes.len() as u64;
        }
        let mut rest = bytes;
        let mut after = After::Keep;
        while !rest.is_empty() {
            let connection = &mut self.connections[index as usize];
            if connection.awaited() == 0 {
                if connection.reader.passes_over(rest) {
                    break;
                }
                if connection.answered && is_idle_timeout(rest) {
                    return Ok(After::Replace);
                }
                return Err(if rest.len() == bytes.len() {
                    Bad::Unsolicited
                } else {
                    Bad::LongBody
                });
            }
            // Every part of a response has to come in time, also where the deadline itself was not looked at yet.
            let sent_at = self.requests.at(index, connection, 0).sent_at;
            if now.since(sent_at) >= self.spec.timeout {
                return Err(Bad::Late);
            }
            if self.any_head && connection.reader.is_at_start() {
                let entry = self.requests.at(index, connection, 0).entry;
                let entry = self.spec.requests.entries()[usize::from(entry)];
                connection.reader.expect(entry.head);
            }
            let read = connection.reader.handle_bytes(rest, &mut self.shared);
            let (used, response) = read.map_err(Bad::Response)?;
            rest = &rest[used..];
            let Some(response) = response else { break };
            if self.handle_response(index, response, now) == After::Replace {
                after = After::Replace;
                if !response.keep_alive {
                    // What follows is no response to anything that this connection will answer.
                    return if rest.is_empty() { Ok(after) } else { Err(Bad::LongBody) };
                }
            }
        }
        Ok(after)
    }

    /// A response is whole.
    fn handle_response(&mut self, index: u32, response: Response, now: Instant) -> After {
        let open_loop = self.course.pacer.is_open_loop();
        let connection = &mut self.connections[index as usize];
        let place = self.requests.place(index, connection, 0);
        let request = self.requests.take_first(index, connection);
        if connection.awaited() == 0 && connection.sending {
            // Answered before it was wholly sent: what follows waits for that, so that is given the same time.
            self.awaiting.push(place, now);
        } else {
            self.awaiting.remove(place);
        }
        self.course.outstanding -= 1;
        self.responses += 1;
        self.timed += 1;
        connection.failures = 0;
        connection.answered = true;
        if std::mem::take(&mut connection.careful) && connection.unsent > 0 {
            self.course.pacer.push(index, Action::Request);
        }
        let expected = self.spec.expect.contains(response.status);
        let sample = Sample { residence: response.residence, ..request.sample(now, open_loop) };
        if expected {
            self.course.count_answer(now, &mut self.tally.recording);
            if request.unloaded {
                let (count, sum) = &mut self.course.outcome.unloaded;
                (*count, *sum) = (*count + 1, *sum + sample.service);
            }
        }
        if request.measured {
            let headline = sample.service + sample.lateness.unwrap_or_default();
            let elsewhere = || self.course.gauge.responses_elsewhere();
            let codes = &mut self.tally.codes;
            codes.record(response.status, now, headline, elsewhere);
            self.course.gauge.responses(codes.responses());
            self.tally.body_bytes += response.body_bytes;
            if let Some(fault) = response.fault {
                self.tally.faults[fault as usize] += 1;
            }
            self.course.measured_until = now;
            if expected {
                self.tally.recording.record(now, sample);
                self.tally.measured.operations.completed += 1;
            } else {
                self.tally.recording.record_error(now);
                self.tally.measured.operations.failed += 1;
            }
            self.course.tell_counts(&self.tally.measured);
        } else if expected {
            self.tally.warmup.operations.completed += 1;
        } else {
            self.tally.warmup.operations.failed += 1;
        }
        if !expected && self.spec.reconnect_on_error {
            self.connections[index as usize].retiring = true;
            self.unsend(index);
        }
        let connection = &self.connections[index as usize];
        let most = self.spec.requests_per_connection;
        let served = connection.retiring || most.is_some_and(|m| u64::from(connection.begun) >= m);
        if !response.keep_alive || (served && connection.in_flight == 0) {
            After::Replace
        } else {
            After::Keep
        }
    }

    /// Acts on what [`Self::handle_bytes`] found; `armed`: the receive goes on.
    pub(super) fn follow<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        found: Result<After, Bad>,
        armed: bool,
        now: Instant,
    ) -> Result<(), DriverError> {
        if !self.connections[index as usize].is_open() {
            return Ok(());
        }
        match found {
            Ok(After::Keep) => {
                self.offer(index);
                if armed { Ok(()) } else { self.receive(io, index) }
            }
            Ok(After::Replace) => self.replace(io, index, now),
            Err(bad) => {
                let (stage, blamed) = bad.blamed();
                self.fail(io, index, stage, blamed, now)
            }
        }
    }

    /// Closes a connection that has ended well and opens another one in its place, on which the requests in its pipeline
    /// are sent again: after a response that says so, a server begins no other (RFC 9112 section 9.6).
    fn replace<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        now: Instant,
    ) -> Result<(), DriverError> {
        self.unsend(index);
        if !self.keeps_requests(index, true) {
            self.leave_requests(index, now);
        }
        self.close(io, index, true)
    }

    /// The server has closed the connection.
    pub(super) fn handle_end<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        now: Instant,
    ) -> Result<(), DriverError> {
        let connection = &mut self.connections[index as usize];
        debug_assert_eq!(connection.state, State::Open);
        if connection.awaited() == 0 {
            // A keep-alive that has run out, or a server that restarts. One that closes before the first request would be
            // asked again and again.
            if connection.begun > u32::from(connection.unsent) || self.course.is_ending() {
                self.unsend(index);
                return self.close(io, index, true);
            }
            let blamed = Blamed::Peer(ResponseError::EarlyClose.cause());
            return self.fail(io, index, Stage::Receive, blamed, now);
        }
        match connection.reader.handle_end(&mut self.shared) {
            Ok(response) => {
                self.handle_response(index, response, now);
                self.replace(io, index, now)
            }
            Err(error) => {
                let (stage, blamed) = Bad::Response(error).blamed();
                self.fail(io, index, stage, blamed, now)
            }
        }
    }
}
