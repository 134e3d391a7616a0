//! How requests leave, and what they come to: begun on a connection, sent with what follows them,
//! answered, or sent again on the next connection where the first one ended before it answered
//! them.

use super::connections::{Connection, State};
use super::errors::FailureCause;
use super::{HttpClient, ProgressSink};
use crate::http::plan::Late;
use crate::worker::Result;
use crate::worker::link::{Purpose, token};
use crate::worker::operations::Begun;
use crate::worker::pacer::Action;
use crate::worker::tally::Stage;
use tare_driver::{Driver, Op, OpError, Segment};
use tare_proto::http1::response::{Response, ResponseError};
use tare_stats::histogram::Sample;
use tare_units::Instant;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Request {
    /// When it was meant to be sent; in closed loop the instant at which it was begun.
    due: Instant,
    sent_at: Instant,
    entry: u16,
    pub(super) begun: Begun,
    /// It was sent on a connection that ended before its response, and is sent again, or has been.
    resent: bool,
    /// That connection had not said that it would end: this is not done a second time.
    retried: bool,
}

impl Request {
    /// Its lengths if it ends at `now`.
    pub(super) fn sample(&self, now: Instant, open_loop: bool) -> Sample {
        // In closed loop what was sent again counts from its first send; in open loop that is in
        // its lateness.
        let from = if self.resent && !open_loop { self.due } else { self.sent_at };
        Sample {
            service: now.since(from),
            lateness: open_loop.then(|| self.sent_at.since(self.due)),
            residence: None,
        }
    }
}

/// The requests in flight of all connections: a ring of `depth` for each.
#[derive(Debug)]
pub(super) struct InFlight {
    rings: Vec<Request>,
    depth: usize,
}

impl InFlight {
    pub(super) fn new(connections: u32, depth: u32) -> Self {
        assert!(connections.checked_mul(depth).is_some());
        let depth = depth as usize;
        Self { rings: vec![Request::default(); connections as usize * depth], depth }
    }

    /// Request `nth` in flight of connection `index`, from the oldest on.
    #[inline]
    fn at(&mut self, index: u32, connection: &Connection, nth: u16) -> &mut Request {
        let place = self.place(index, connection, nth);
        &mut self.rings[place as usize]
    }

    /// Where that request stands among those of all connections.
    #[inline]
    fn place(&self, index: u32, connection: &Connection, nth: u16) -> u32 {
        let mut place = usize::from(connection.first) + usize::from(nth);
        if place >= self.depth {
            place -= self.depth;
        }
        (index as usize * self.depth + place) as u32
    }

    pub(super) const fn places(&self, index: u32) -> std::ops::Range<u32> {
        let depth = self.depth as u32;
        index * depth..(index + 1) * depth
    }

    pub(super) const fn owner(&self, place: u32) -> u32 {
        place / self.depth as u32
    }

    #[inline]
    pub(super) fn take_first(&mut self, index: u32, connection: &mut Connection) -> Request {
        let request = *self.at(index, connection, 0);
        connection.first += 1;
        if usize::from(connection.first) == self.depth {
            connection.first = 0;
        }
        connection.in_flight -= 1;
        connection.unsent = connection.unsent.min(connection.in_flight);
        request
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Keep,
    /// It has done its service, or the server is going to close it: another one takes its place.
    Replace,
}

/// Why bytes make a connection useless.
pub(super) type Bad = (Stage, FailureCause);
pub(super) type Found = Result<After, Bad>;

const fn bad_response(error: ResponseError) -> Bad {
    use ResponseError::{CutHead, EarlyClose, ShortBody};
    let is_cut = matches!(error, EarlyClose | CutHead | ShortBody);
    (if is_cut { Stage::Receive } else { Stage::Parse }, FailureCause::Peer(error.cause()))
}

/// Whether bytes that nobody asked for say that a keep-alive has run out, as some load balancers do
/// before they close.
fn is_idle_timeout(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/1.1 408") || bytes.starts_with(b"HTTP/1.0 408")
}

impl<G: ProgressSink> HttpClient<G> {
    /// Offers a connection to the pacer for as many requests as it can take.
    pub(super) fn offer(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if !self.run.phases.is_running() || !connection.takes_requests() {
            return;
        }
        let taken = u32::from(connection.in_flight) + u32::from(connection.offered);
        let mut room = self.spec.run.depth.saturating_sub(taken);
        if let Some(most) = self.spec.requests_per_connection {
            let begun = u64::from(connection.begun) + u64::from(connection.offered);
            room = room.min(most.saturating_sub(begun).try_into().unwrap_or(u32::MAX));
        }
        for _ in 0..room {
            connection.offered += 1;
            // Those that have been offered and not taken are above.
            let depth = self.spec.run.depth - u32::from(connection.offered);
            self.run.pacer.make_available(index, depth as usize);
        }
    }

    /// Open loop: gives what is due to connections that are free.
    pub(super) fn dispatch(&mut self, now: Instant) {
        let connections = &mut self.connections;
        self.run.pacer.dispatch(now, |index| {
            let connection = &mut connections[index as usize];
            // One that cannot take it is offered again when it is open again.
            let usable = connection.takes_requests();
            connection.offered -= u16::from(!usable);
            usable
        });
        if self.late == Late::Drop {
            let (warmup_end, record) = (self.run.phases.warmup_end, &mut self.run.record);
            self.run.pacer.shed(now, |due, overdue| {
                record.count_dropped(due >= warmup_end, overdue, now);
            });
        }
    }

    pub(super) fn begin(&mut self, index: u32, due: Option<Instant>, now: Instant) {
        let connection = &mut self.connections[index as usize];
        connection.offered -= 1;
        if !connection.takes_requests() {
            // It was lost in the turn in which it was chosen.
            if let Some(due) = due {
                self.run.pacer.give_back(due);
            }
            return;
        }
        let Some(begun) = self.run.begin(due, now) else { return };
        let order = self.spec.requests.order();
        let entry = order[self.next_entry];
        self.next_entry += 1;
        if self.next_entry == order.len() {
            self.next_entry = 0;
        }
        let due = due.unwrap_or(now);
        *self.in_flight.at(index, connection, connection.in_flight) =
            Request { due, sent_at: now, entry, begun, resent: false, retried: false };
        connection.in_flight += 1;
        connection.unsent += 1;
        connection.begun = connection.begun.saturating_add(1);
        if connection.unsent == 1 {
            self.unsent.push(index);
        }
    }

    /// Sends what a connection has to send: the same requests in a row go out together.
    pub(super) fn send<D: Driver>(&mut self, io: &mut D, index: u32, now: Instant) -> Result {
        let connection = &mut self.connections[index as usize];
        if connection.sending || connection.unsent == 0 || !connection.is_open() {
            return Ok(());
        }
        let awaited = connection.awaited();
        let careful = connection.careful;
        if careful && awaited > 0 {
            return Ok(());
        }
        let first = self.in_flight.at(index, connection, awaited).entry;
        let most = u16::try_from(self.spec.requests.repeats()).unwrap_or(u16::MAX);
        let most = if careful { 1 } else { most.max(1) };
        let most = connection.unsent.min(most);
        let mut count = 0;
        while count < most {
            let place = self.in_flight.place(index, connection, awaited + count);
            let request = self.in_flight.at(index, connection, awaited + count);
            if request.entry != first {
                break;
            }
            request.sent_at = now;
            self.awaiting.push(place, now);
            let measured = request.begun.measured;
            if request.resent {
                self.traffic.resent += u64::from(measured);
            } else {
                self.run.record.tally(measured).operations.sent += 1;
            }
            count += 1;
        }
        connection.unsent -= count;
        self.run.last_sent = now;
        let entry = self.spec.requests.entries()[usize::from(first)];
        connection.rest = (entry.start, entry.len * u32::from(count));
        self.push_send(io, index)
    }

    fn push_send<D: Driver>(&mut self, io: &mut D, index: u32) -> Result {
        let connection = &mut self.connections[index as usize];
        let Some(buffer) = self.written else { return Ok(()) };
        let (start, len) = connection.rest;
        let (socket, data) = (connection.socket, Segment { buffer, start, len });
        connection.sending = true;
        connection.operations += 1;
        self.sends += 1;
        io.push(token(index, Purpose::Send), Op::Send { socket, data, zero_copy: false })
    }

    pub(super) fn handle_sent<D: Driver>(&mut self, io: &mut D, index: u32, bytes: u32) -> Result {
        if self.is_measuring() {
            self.traffic.sent_bytes += u64::from(bytes);
        }
        let connection = &mut self.connections[index as usize];
        connection.sending = false;
        let (start, len) = connection.rest;
        if bytes < len {
            connection.rest = (start + bytes, len - bytes);
            return self.push_send(io, index);
        }
        if connection.awaited() == 0 {
            // Answered before it was wholly sent, it left its place to the rest of the send.
            let depth = u16::try_from(self.spec.run.depth).unwrap_or(u16::MAX);
            let place = self.in_flight.place(index, connection, depth - 1);
            self.awaiting.remove(place);
        }
        if connection.unsent > 0 {
            self.run.pacer.push(index, Action::Request);
        }
        Ok(())
    }

    pub(super) fn handle_bytes(&mut self, index: u32, bytes: &[u8], now: Instant) -> Found {
        const LONG_BODY: Bad = (Stage::Parse, FailureCause::Peer("long-body"));
        if self.is_measuring() {
            self.traffic.received_bytes += bytes.len() as u64;
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
                let is_first = rest.len() == bytes.len();
                let unsolicited = (Stage::Parse, FailureCause::Peer("unsolicited"));
                return Err(if is_first { unsolicited } else { LONG_BODY });
            }
            // Every part of a response has to come in time, also where the deadline itself was not
            // looked at yet.
            let request = self.in_flight.at(index, connection, 0);
            if now.since(request.sent_at) >= self.spec.run.timeout {
                return Err((Stage::Receive, FailureCause::Timeout));
            }
            if self.any_head && connection.reader.is_at_start() {
                let entry = self.spec.requests.entries()[usize::from(request.entry)];
                connection.reader.expect(entry.head);
            }
            let read = connection.reader.handle_bytes(rest, &mut self.shared);
            let (used, response) = read.map_err(bad_response)?;
            rest = &rest[used..];
            let Some(response) = response else { break };
            if self.handle_response(index, response, now) == After::Replace {
                after = After::Replace;
                if !response.keep_alive {
                    // What follows is no response to anything that this connection will answer.
                    return if rest.is_empty() { Ok(after) } else { Err(LONG_BODY) };
                }
            }
        }
        Ok(after)
    }

    fn handle_response(&mut self, index: u32, response: Response, now: Instant) -> After {
        let connection = &mut self.connections[index as usize];
        let place = self.in_flight.place(index, connection, 0);
        let request = self.in_flight.take_first(index, connection);
        if connection.awaited() == 0 && connection.sending {
            // Answered before it was wholly sent: what follows waits for that, so that is given the
            // same time.
            self.awaiting.push(place, now);
        } else {
            self.awaiting.remove(place);
        }
        self.responses += 1;
        connection.failures = 0;
        connection.answered = true;
        if std::mem::take(&mut connection.careful) && connection.unsent > 0 {
            self.run.pacer.push(index, Action::Request);
        }
        let expected = self.spec.plan.expect.contains(response.status);
        let sample = request.sample(now, self.run.pacer.is_open_loop());
        let sample = Sample { residence: response.residence, ..sample };
        self.run.complete(now, request.begun, sample, expected);
        if request.begun.measured {
            let headline = sample.service + sample.lateness.unwrap_or_default();
            let progress = &mut self.run.phases.progress;
            let elsewhere = || progress.responses_elsewhere();
            self.codes.record(response.status, now, headline, elsewhere);
            progress.responses(self.codes.responses());
            self.traffic.body_bytes += response.body_bytes;
            if let Some(fault) = response.fault {
                self.traffic.faults[fault as usize] += 1;
            }
        }
        if !expected && self.spec.plan.reconnect_on_error {
            self.connections[index as usize].retiring = true;
            self.unsend(index);
        }
        let connection = &self.connections[index as usize];
        let most = self.spec.requests_per_connection;
        let served = connection.retiring || most.is_some_and(|m| u64::from(connection.begun) >= m);
        let is_done = !response.keep_alive || (served && connection.in_flight == 0);
        if is_done { After::Replace } else { After::Keep }
    }

    /// Acts on what [`Self::handle_bytes`] found; `armed`: the receive goes on.
    pub(super) fn follow<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        found: Found,
        armed: bool,
        now: Instant,
    ) -> Result {
        if !self.connections[index as usize].is_open() {
            return Ok(());
        }
        match found {
            Ok(After::Keep) => {
                self.offer(index);
                if armed { Ok(()) } else { self.receive(io, index) }
            }
            Ok(After::Replace) => self.replace(io, index, now),
            Err((stage, cause)) => self.fail(io, index, stage, cause, now),
        }
    }

    /// Closes a connection that has ended well and opens another one in its place, on which the
    /// requests in its pipeline are sent again: after a response that says so, a server begins no
    /// other (RFC 9112 section 9.6).
    fn replace<D: Driver>(&mut self, io: &mut D, index: u32, now: Instant) -> Result {
        self.unsend(index);
        if !self.keeps_requests(index, true) {
            self.leave_requests(index, now);
        }
        self.close(io, index, true)
    }

    pub(super) fn handle_end<D: Driver>(&mut self, io: &mut D, index: u32, now: Instant) -> Result {
        let connection = &mut self.connections[index as usize];
        debug_assert_eq!(connection.state, State::Open);
        let ended = if connection.awaited() > 0 {
            connection.reader.handle_end(&mut self.shared)
        } else if connection.begun > u32::from(connection.unsent) || self.run.phases.is_ending() {
            // A keep-alive that has run out, or a server that restarts.
            self.unsend(index);
            return self.close(io, index, true);
        } else {
            // A server that closes before the first request would be asked again and again.
            Err(ResponseError::EarlyClose)
        };
        match ended {
            Ok(response) => {
                self.handle_response(index, response, now);
                self.replace(io, index, now)
            }
            Err(error) => {
                let (stage, cause) = bad_response(error);
                self.fail(io, index, stage, cause, now)
            }
        }
    }

    /// Whether a connection that had served before was closed without a byte of a response, as
    /// happens when a server ends a keep-alive while the next request is on its way.
    pub(super) fn is_race(&self, index: u32, cause: FailureCause) -> bool {
        let connection = &self.connections[index as usize];
        let closed = match cause {
            FailureCause::Os(error) => matches!(error, OpError::Reset | OpError::BrokenPipe),
            FailureCause::Peer(cause) => cause == ResponseError::EarlyClose.cause(),
            FailureCause::Timeout | FailureCause::NoLength => false,
        };
        let served = connection.is_open() && connection.answered && connection.awaited() > 0;
        closed && served && connection.reader.is_at_start()
    }

    /// Keeps the requests that were sent on a connection and not answered, to be sent on the next
    /// one; whether it does. They stay in their place's ring, with the instant at which they were
    /// first due, and count as due once and as sent once.
    ///
    /// A server that said that it would close has not begun them, whatever they are: every such
    /// connection has answered one at least, so this comes to an end. Otherwise it is not known
    /// whether they were begun, and all have to be idempotent (RFC 9110 section 9.2.2); it is done
    /// once for each, so that a server that always closes is not asked for ever.
    pub(super) fn keeps_requests(&mut self, index: u32, never_begun: bool) -> bool {
        if self.run.phases.is_ending() {
            return false;
        }
        self.unsend(index);
        let connection = &mut self.connections[index as usize];
        let entries = self.spec.requests.entries();
        let may_retry = (0..connection.awaited()).all(|nth| {
            let request = self.in_flight.at(index, connection, nth);
            !request.retried && entries[usize::from(request.entry)].idempotent
        });
        if !never_begun && !may_retry {
            return false;
        }
        for nth in 0..connection.awaited() {
            let request = self.in_flight.at(index, connection, nth);
            request.resent = true;
            request.retried |= !never_begun;
        }
        connection.careful |= !never_begun;
        connection.unsent = connection.in_flight;
        true
    }

    /// Requests that were begun and never sent go back to the pacer.
    pub(super) fn unsend(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let awaited = connection.awaited();
        let open_loop = self.run.pacer.is_open_loop();
        let mut was_spent = false;
        while connection.unsent > 0 {
            let nth = awaited + connection.unsent - 1;
            let request = *self.in_flight.at(index, connection, nth);
            if request.resent {
                break;
            }
            connection.unsent -= 1;
            connection.in_flight -= 1;
            self.run.outstanding -= 1;
            self.run.record.tally(request.begun.measured).operations.due -= 1;
            if open_loop {
                self.run.pacer.give_back(request.due);
            } else if request.begun.measured {
                was_spent |= self.run.pacer.take_back();
            }
        }
        // Connections that found nothing left to do have to be asked again.
        if was_spent {
            (0..self.spec.run.slots).for_each(|other| self.offer(other));
        }
    }

    /// Requests of a connection that are under way when the run is over.
    pub(super) fn leave_requests(&mut self, index: u32, now: Instant) {
        let open_loop = self.run.pacer.is_open_loop();
        let connection = &mut self.connections[index as usize];
        while connection.in_flight > 0 {
            let request = self.in_flight.take_first(index, connection);
            self.run.leave(now, request.begun.measured, request.sample(now, open_loop));
        }
    }
}
