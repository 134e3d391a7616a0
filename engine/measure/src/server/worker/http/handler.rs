//! Reads the requests of a connection, and writes their responses or holds them until they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng;

use super::connection::{Connection, Held, PAGE};
use super::delays::{Queue, Stall, Stalls};
use super::response::{
    Body, Ending, HEAD_BESIDE, Hold, Method, Pending, Reply, Request, SHORT, Timing, route,
};
use tare_proto::http1::Spare;
use tare_proto::http1::incoming::{Event, RequestError};
use tare_units::{Instant, Nanos};

/// A request on its way into the queue.
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
    /// Responses before they go to a page.
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
            stalls: Stalls::new(stalls),
            spare: Spare::default(),
            written: Vec::with_capacity(PAGE),
            tail: None,
            due: BinaryHeap::new(),
            held: 0,
        }
    }

    /// Answers what is unread, as far as that goes.
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
                if !self.has_room(conn, pending.request().echoes()) {
                    break;
                }
                if let Some(pending) = conn.pending.take() {
                    self.serve(conn, &pending.request(), at);
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
                    let mut pending = Box::new(Pending::new(&request));
                    if head.last {
                        pending.arrival = Some(arrival(used));
                    } else if head.expects_continue && used == bytes.len() {
                        let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
                        self.written.extend_from_slice(go_on);
                    }
                    conn.pending = Some(pending);
                }
                Some(Event::Body { bytes: part, last }) => {
                    if let Some(pending) = &mut conn.pending {
                        pending.body.extend_from_slice(part);
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

    /// Answers a request, or holds its response until it is due.
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

    /// The response that the connection holds is due at `at`.
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
            Some(pending) => pending.method == Method::Head,
            // Line ends may precede it.
            None => head.trim_ascii_start().starts_with(b"HEAD "),
        };
        let mut reply = Reply::refusal(error.status, error.reason);
        reply.head = is_head;
        self.write(conn, reply, None);
    }
}
