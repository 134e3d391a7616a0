//! Reads the requests of a connection, and writes their responses or holds them up: for a delay, a
//! place in the queue, or a planned stall.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::str::FromStr;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;

use super::connection::{Connection, Held, PAGE};
use super::response::{
    Body, Ending, HEAD_BESIDE, Hold, Method, Pending, Reply, Request, SHORT, Timing, route,
};
use tare_proto::http1::Spare;
use tare_proto::http1::incoming::{Event, RequestError};
use tare_units::error::{Error, Result};
use tare_units::limits::QUEUE_WAIT_MAX;
use tare_units::{Instant, Nanos};

/// A planned stall, counted from the first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// When it begins.
    pub at: Nanos,
    /// How long it lasts.
    pub length: Nanos,
}

impl FromStr for Stall {
    type Err = Error;

    /// Parses `2s:500ms`; a stall of no length is refused as well.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once(':').and_then(|(at, length)| {
            let (at, length) = (at.parse().ok()?, length.parse().ok()?);
            (length > Nanos::ZERO).then_some(Self { at, length })
        });
        parsed.ok_or_else(|| {
            let shown = text.escape_debug();
            Error::usage(format!("'{shown}' is no stall"))
                .remedy("write when it begins, and how long it lasts: 2s:500ms")
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct Stalls {
    planned: Vec<Stall>,
    first_request: Option<Instant>,
}

impl Stalls {
    #[inline]
    fn handle_request(&mut self, now: Instant) {
        self.first_request.get_or_insert(now);
    }

    #[inline]
    pub(super) fn until(&self, now: Instant) -> Option<Instant> {
        let first = self.first_request?;
        let mut until = now;
        // One may begin before another has ended.
        loop {
            let covers = |stall: &&Stall| {
                first + stall.at <= until && until < first + stall.at + stall.length
            };
            match self.planned.iter().find(covers) {
                Some(stall) => until = first + stall.at + stall.length,
                None => return (until > now).then_some(until),
            }
        }
    }
}

/// Serves one request at a time, in order of their arrival (Lindley's recursion, in departures).
#[derive(Debug, Default)]
pub(super) struct Queue {
    last_arrival: Instant,
    last_departure: Instant,
}

impl Queue {
    /// A request joins that arrived at `arrival`. Returns when it joins, which is not before any
    /// other that has, and when it departs; `None` where it would have to wait for too long. A
    /// client that leaves is served all the same: this bound alone keeps the queue from filling up.
    pub(super) fn join(&mut self, arrival: Instant, service: Nanos) -> Option<(Instant, Instant)> {
        let arrival = arrival.max(self.last_arrival);
        if self.last_departure.since(arrival) > QUEUE_WAIT_MAX {
            return None;
        }
        self.last_arrival = arrival;
        self.last_departure = arrival.max(self.last_departure) + service;
        Some((arrival, self.last_departure))
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Joining {
    pub arrival: Instant,
    pub slot: u32,
    pub serial: u32,
    pub service: Nanos,
}

#[derive(Debug)]
pub(super) struct RequestHandler {
    dice: Xoshiro256PlusPlus,
    pub queue: Queue,
    /// Requests that join the queue once all of a turn have come.
    pub joining: Vec<Joining>,
    pub stalls: Stalls,
    pub spare: Spare,
    pub written: Vec<u8>,
    pub tail: Option<Body>,
    /// Responses that wait for their time, by slot and serial number of the connection.
    pub due: BinaryHeap<Reverse<(Instant, u64, u32, u32)>>,
    held: u64,
}

impl RequestHandler {
    pub(super) fn new(seed: u64, stalls: Vec<Stall>) -> Self {
        Self {
            dice: Xoshiro256PlusPlus::seed_from_u64(seed),
            queue: Queue::default(),
            joining: Vec::new(),
            stalls: Stalls { planned: stalls, first_request: None },
            spare: Spare::default(),
            written: Vec::with_capacity(PAGE),
            tail: None,
            due: BinaryHeap::new(),
            held: 0,
        }
    }

    pub(super) fn answer(&mut self, conn: &mut Connection) {
        let Some(mut input) = conn.input.take() else {
            self.digest(conn, &[], |_| Instant::default());
            return;
        };
        let used = self.digest(conn, input.rest(), |bytes| input.arrival(bytes));
        input.consume(used);
        if !input.rest().is_empty() && !conn.is_past_last() {
            conn.input = Some(input);
        }
    }

    /// Answers the requests in `bytes`, until one is not whole or its turn has not come. Returns
    /// how many bytes were read; `arrival` tells when so many of them had come.
    pub(super) fn digest(
        &mut self,
        conn: &mut Connection,
        bytes: &[u8],
        arrival: impl Fn(usize) -> Instant,
    ) -> usize {
        let mut reader = std::mem::take(&mut conn.reader);
        let mut used = 0;
        while conn.takes_requests() && self.tail.is_none() && self.has_room(conn, 0) {
            if let Some(pending) = &conn.pending
                && let Some(at) = pending.arrival
            {
                if !self.has_room(conn, pending.request.echoes()) {
                    break;
                }
                if let Some(pending) = conn.pending.take() {
                    self.serve(conn, &pending.request, at);
                }
                continue;
            }
            let (read, event) = match reader.handle_bytes(&bytes[used..], &mut self.spare) {
                Ok(read) => read,
                Err(error) => {
                    let head = match reader.gathered() {
                        [] => &bytes[used..],
                        gathered => gathered,
                    };
                    self.refuse(conn, error, head);
                    return bytes.len();
                }
            };
            used += read;
            match event {
                None => break,
                Some(Event::Head(head)) => {
                    let request = Request::of(&head);
                    if head.last && self.has_room(conn, request.echoes()) {
                        self.serve(conn, &request, arrival(used));
                        continue;
                    }
                    if !head.last && head.expects_continue && used == bytes.len() {
                        let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
                        self.written.extend_from_slice(go_on);
                    }
                    let arrival = head.last.then(|| arrival(used));
                    let request = request.into_owned();
                    conn.pending = Some(Box::new(Pending { request, arrival }));
                }
                Some(Event::Body { bytes: part, last }) => {
                    if let Some(pending) = &mut conn.pending {
                        pending.request.body.extend_from_slice(part);
                        pending.arrival = last.then(|| arrival(used));
                    }
                }
            }
        }
        reader.release(&mut self.spare);
        conn.reader = reader;
        used
    }

    /// Whether one more response fits the page that echoes so many bytes in its head.
    fn has_room(&self, conn: &Connection, echoed: usize) -> bool {
        conn.end as usize + self.written.len() + HEAD_BESIDE + SHORT + echoed <= PAGE
    }

    fn serve(&mut self, conn: &mut Connection, request: &Request<'_>, arrival: Instant) {
        self.stalls.handle_request(arrival);
        let (reply, hold) = route(request, &mut self.dice);
        let (slot, serial) = (conn.slot, conn.serial);
        // Responses of one connection leave one after the other, as in fortio, whose handlers wait
        // for each other: what was sent before the last one had left begins then.
        let begins = arrival.max(conn.departed_at);
        let held = match hold {
            Hold::Not => return self.write(conn, reply, None),
            Hold::Delay(delay) => {
                self.hold_until(begins + delay, slot, serial);
                Held { reply, is_queued: false, arrival, is_due: false }
            }
            Hold::Queue(service) => {
                conn.want_stamps();
                self.joining.push(Joining { arrival: begins, slot, serial, service });
                Held { reply, is_queued: true, arrival: begins, is_due: false }
            }
        };
        conn.held = Some(Box::new(held));
    }

    pub(super) fn hold_until(&mut self, at: Instant, slot: u32, serial: u32) {
        // The count keeps those that are due at the same instant in order.
        self.held += 1;
        self.due.push(Reverse((at, self.held, slot, serial)));
    }

    pub(super) fn write(&mut self, conn: &mut Connection, reply: Reply, timing: Option<Timing>) {
        debug_assert_eq!(conn.ending, Ending::No, "nobody would get it");
        conn.ending = reply.ending;
        self.tail = reply.write(timing, &mut self.written);
    }

    /// The last response of a connection whose requests cannot be followed any further; `head` is
    /// what came of the last one's.
    pub(super) fn refuse(&mut self, conn: &mut Connection, error: RequestError, head: &[u8]) {
        let is_head = match conn.pending.take() {
            Some(pending) => pending.request.method == Method::Head,
            // Line ends may precede it.
            None => head.trim_ascii_start().starts_with(b"HEAD "),
        };
        let mut reply = Reply::refusal(error.status, error.reason);
        reply.head = is_head;
        self.write(conn, reply, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stalls_parse_and_count_from_the_first_request_and_join() {
        let stall = |text: &str| text.parse::<Stall>().unwrap();
        let planned = ["2s:500ms", "2.4s:200ms", "9s:1s"].map(stall).to_vec();
        let mut stalls = Stalls { planned, first_request: None };
        let at = |ms: u64| Instant(1_000_000_000) + Nanos::from_millis(ms);
        assert_eq!(stalls.until(at(2_100)), None, "nobody came yet");
        stalls.handle_request(at(0));
        stalls.handle_request(at(1_000));
        assert_eq!(stalls.until(at(1_999)), None);
        assert_eq!(stalls.until(at(2_000)), Some(at(2_600)));
        assert_eq!(stalls.until(at(2_599)), Some(at(2_600)));
        assert_eq!(stalls.until(at(2_600)), None);
        assert_eq!(stalls.until(at(9_500)), Some(at(10_000)));
        for text in ["", "2s", "2s:", ":1s", "2s:0", "2s:1s:1s", "x:1s"] {
            let error = text.parse::<Stall>().expect_err(text);
            assert!(error.advice().is_some(), "{text}");
        }
    }

    #[test]
    fn who_would_wait_too_long_does_not_join() {
        let (mut queue, service) = (Queue::default(), Nanos::from_secs(10));
        let at = Instant(1_000_000_000);
        let joined = (0..1_000).filter(|_| queue.join(at, service).is_some());
        assert_eq!(joined.count(), 7, "the last of them waits for 60 s");
        assert_eq!(
            queue.join(at + service, service).map(|(_, leaves)| leaves.since(at)),
            Some(Nanos::from_secs(80))
        );
    }

    proptest! {
        #[test]
        fn waiting_times_are_lindleys(gaps in proptest::collection::vec((0_u64..3_000, 0_u64..2_000), 1..200)) {
            let (mut queue, mut arrival, mut waiting) = (Queue::default(), 5_000_u64, 0_u64);
            for (gap, service) in gaps {
                arrival += gap;
                waiting = waiting.saturating_sub(gap);
                let joined = queue.join(Instant(arrival), Nanos(service));
                let departure = Instant(arrival + waiting + service);
                prop_assert_eq!(joined, Some((Instant(arrival), departure)));
                waiting += service;
            }
        }
    }
}
