//! One connection: its socket, what is outstanding on it, and the requests that await their response.

use tare_driver::SocketId;
use tare_proto::http1::response::ResponseReader;
use tare_stats::histogram::Sample;
use tare_units::Instant;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// No socket, and nothing to be done.
    Vacant,
    /// No socket until that instant.
    Resting {
        until: Instant,
    },
    /// It is to be connected at the next submission.
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

/// A request that was begun and has no response yet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Request {
    /// When it was meant to be sent; in closed loop the instant at which it was begun.
    pub(super) due: Instant,
    /// When it was sent.
    pub(super) sent_at: Instant,
    /// Which of the run's requests it is.
    pub(super) entry: u16,
    /// It belongs to the measured phase.
    pub(super) measured: bool,
    /// It was begun while fewer than a quarter of the places of all connections were taken.
    pub(super) unloaded: bool,
    /// It was sent on a connection that ended before its response, and is sent again, or has been.
    pub(super) resent: bool,
    /// That connection had not said that it would end: this is not done a second time.
    pub(super) retried: bool,
}

impl Request {
    /// Its lengths if it ends at `now`.
    pub(super) fn sample(&self, now: Instant, open_loop: bool) -> Sample {
        // In closed loop what was sent again counts from its first send; in open loop that is in its lateness.
        let from = if self.resent && !open_loop { self.due } else { self.sent_at };
        Sample {
            service: now.since(from),
            lateness: open_loop.then(|| self.sent_at.since(self.due)),
            residence: None,
        }
    }
}

/// One connection; see the [module](self). There may be 100,000 of them.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) state: State,
    pub(super) socket: SocketId,
    /// Operations that have not completed.
    pub(super) operations: u8,
    /// A send has not completed.
    pub(super) sending: bool,
    /// It takes no more requests, and is replaced when those that were sent are answered.
    pub(super) retiring: bool,
    /// The start waits for its first connect.
    pub(super) expected: bool,
    /// It has stood before.
    pub(super) stood: bool,
    /// It has answered since it was connected.
    pub(super) answered: bool,
    /// Its requests were left by a connection that was lost, so they are not pipelined before the first of them is
    /// answered (RFC 9112 section 9.3.2).
    pub(super) careful: bool,
    /// Connects in a row that failed, and requests that did.
    pub(super) failures: u8,
    /// What of the last send has yet to be taken by the kernel: where it begins in the requests' bytes, and its length.
    pub(super) rest: (u32, u32),
    pub(super) reader: ResponseReader,
    /// Its requests are `in_flight` entries of its ring, from `first` on; the last `unsent` of them have yet to be sent.
    pub(super) first: u16,
    pub(super) in_flight: u16,
    pub(super) unsent: u16,
    /// Times that it was offered to the pacer, and has not been given a request for.
    pub(super) offered: u16,
    /// Requests begun since it was connected.
    pub(super) begun: u32,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            state: State::Vacant,
            socket: SocketId(u32::MAX),
            operations: 0,
            sending: false,
            retiring: false,
            expected: false,
            stood: false,
            answered: false,
            careful: false,
            failures: 0,
            rest: (0, 0),
            reader: ResponseReader::default(),
            first: 0,
            in_flight: 0,
            unsent: 0,
            offered: 0,
            begun: 0,
        }
    }
}

impl Connection {
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// It can be given a request.
    pub(super) fn takes_requests(&self) -> bool {
        self.is_open() && !self.retiring && !self.careful
    }

    /// There is no socket, and nothing is outstanding.
    pub(super) const fn is_quiet(&self) -> bool {
        self.operations == 0 && matches!(self.state, State::Vacant | State::Resting { .. })
    }

    /// Requests that were sent and await their response.
    pub(super) const fn awaited(&self) -> u16 {
        self.in_flight - self.unsent
    }
}

/// The requests in flight of all connections: a ring of `depth` for each.
#[derive(Debug)]
pub(super) struct Requests {
    rings: Vec<Request>,
    depth: usize,
}

impl Requests {
    /// # Panics
    /// When there are 2^32 of them.
    pub(super) fn new(connections: u32, depth: u32) -> Self {
        assert!(connections.checked_mul(depth).is_some());
        let depth = depth as usize;
        Self { rings: vec![Request::default(); connections as usize * depth], depth }
    }

    /// Request `nth` in flight of connection `index`, from the oldest on.
    #[inline]
    pub(super) fn at(&mut self, index: u32, connection: &Connection, nth: u16) -> &mut Request {
        let place = self.place(index, connection, nth);
        &mut self.rings[place as usize]
    }

    /// Where that request stands among those of all connections.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "as checked when made")]
    pub(super) fn place(&self, index: u32, connection: &Connection, nth: u16) -> u32 {
        let mut place = usize::from(connection.first) + usize::from(nth);
        if place >= self.depth {
            place -= self.depth;
        }
        (index as usize * self.depth + place) as u32
    }

    /// The places of a connection.
    #[expect(clippy::cast_possible_truncation, reason = "as checked when made")]
    pub(super) const fn places(&self, index: u32) -> std::ops::Range<u32> {
        let depth = self.depth as u32;
        index * depth..(index + 1) * depth
    }

    /// Whose place it is.
    #[expect(clippy::cast_possible_truncation, reason = "as checked when made")]
    pub(super) const fn owner(&self, place: u32) -> u32 {
        place / self.depth as u32
    }

    /// Takes the oldest request of a connection off its ring.
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
