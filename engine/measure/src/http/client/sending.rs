//! How requests leave: begun on a connection, sent with what follows them, sent on where the kernel took a part.

use super::connection;
use super::{HttpClient, ProgressSink};
pub(crate) use crate::worker::course::Stand;
use crate::worker::link::{Purpose, token};
pub(crate) use crate::worker::pacer::Action;
use tare_driver::{Driver, DriverError, Op, Segment};
use tare_units::Instant;

impl<G: ProgressSink> HttpClient<G> {
    /// Begins a request on a connection.
    pub(super) fn begin(&mut self, index: u32, due: Option<Instant>, now: Instant) {
        let connection = &mut self.connections[index as usize];
        connection.offered -= 1;
        let measured = self.course.pacer.is_measured(due.unwrap_or(now));
        if !connection.takes_requests() {
            // It was lost in the turn in which it was chosen.
            if let Some(due) = due {
                self.course.pacer.give_back(due);
            }
            return;
        }
        if due.is_none() && !self.course.pacer.may_begin(now, measured) {
            return;
        }
        let order = self.spec.requests.order();
        let entry = order[self.next_entry];
        self.next_entry += 1;
        if self.next_entry == order.len() {
            self.next_entry = 0;
        }
        let places = u64::from(self.spec.connections) * u64::from(self.spec.pipeline);
        *self.requests.at(index, connection, connection.in_flight) = connection::Request {
            due: due.unwrap_or(now),
            sent_at: now,
            entry,
            measured,
            unloaded: self.course.outstanding * 4 < places,
            resent: false,
            retried: false,
        };
        connection.in_flight += 1;
        connection.unsent += 1;
        connection.begun = connection.begun.saturating_add(1);
        if connection.unsent == 1 {
            self.unsent.push(index);
        }
        self.course.outstanding += 1;
        self.tally_of(measured).operations.due += 1;
    }

    /// Sends what a connection has to send: requests that are the same and follow each other go out together.
    pub(super) fn send<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        now: Instant,
    ) -> Result<(), DriverError> {
        let connection = &mut self.connections[index as usize];
        if connection.sending || connection.unsent == 0 || !connection.is_open() {
            return Ok(());
        }
        let awaited = connection.awaited();
        let careful = connection.careful;
        if careful && awaited > 0 {
            return Ok(());
        }
        let first = self.requests.at(index, connection, awaited).entry;
        let most = u16::try_from(self.spec.requests.repeats()).unwrap_or(u16::MAX);
        let most = if careful { 1 } else { most.max(1) };
        let most = connection.unsent.min(most);
        let mut count = 0;
        while count < most {
            let place = self.requests.place(index, connection, awaited + count);
            let request = self.requests.at(index, connection, awaited + count);
            if request.entry != first {
                break;
            }
            request.sent_at = now;
            self.awaiting.push(place, now);
            let tally =
                if request.measured { &mut self.tally.measured } else { &mut self.tally.warmup };
            if request.resent {
                self.tally.resent += u64::from(request.measured);
            } else {
                tally.operations.sent += 1;
            }
            count += 1;
        }
        connection.unsent -= count;
        self.last_sent = now;
        let entry = self.spec.requests.entries()[usize::from(first)];
        connection.rest = (entry.start, entry.len * u32::from(count));
        self.push_send(io, index)
    }

    /// Pushes a send of what is left of the requests that are being sent.
    fn push_send<D: Driver>(&mut self, io: &mut D, index: u32) -> Result<(), DriverError> {
        let connection = &mut self.connections[index as usize];
        let Some(buffer) = self.written else {
            return Ok(());
        };
        let (start, len) = connection.rest;
        connection.sending = true;
        connection.operations += 1;
        self.sends += 1;
        io.push(
            token(index, Purpose::Send),
            Op::Send {
                socket: connection.socket,
                data: Segment { buffer, start, len },
                zero_copy: false,
            },
        )
    }

    pub(super) fn handle_sent<D: Driver>(
        &mut self,
        io: &mut D,
        index: u32,
        bytes: u32,
    ) -> Result<(), DriverError> {
        if self.course.stand == Stand::Measuring {
            self.tally.sent_bytes += u64::from(bytes);
        }
        let connection = &mut self.connections[index as usize];
        connection.sending = false;
        let (start, len) = connection.rest;
        if bytes < len {
            connection.rest = (start + bytes, len - bytes);
            return self.push_send(io, index);
        }
        if connection.awaited() == 0 {
            // It was answered before it was wholly sent, and left its place to the rest of the send.
            let depth = u16::try_from(self.spec.pipeline).unwrap_or(u16::MAX);
            let place = self.requests.place(index, connection, depth - 1);
            self.awaiting.remove(place);
        }
        if connection.unsent > 0 {
            self.course.pacer.push(index, Action::Request);
        }
        Ok(())
    }
}
