//! Bulk streams.
//!
//! A turn that had something to do takes its time here ([`Setup::turn`]): else a path without
//! latency would carry payload without end at one instant.

mod ending;
mod tcp;
mod udp;

use super::*;
use crate::bandwidth::client::{BulkClient, BulkSpec, BulkTally, StreamAccount};
use tare_proto::hello::Figures;
use tare_proto::stream::{Received, Sent, StreamAsk};

const DIRECTIONS: [Direction; 3] = [Direction::Up, Direction::Down, Direction::Both];

type World = super::World<BulkClient<Seen>>;
type Results = super::Results<BulkTally>;

/// What a simulated run is to be. Whatever a test does not set is one TCP stream of 4-KiB messages
/// from the client to the server, a millisecond away, measured for 50 ms after 10.
#[derive(Debug, Clone)]
struct Setup {
    wire: SimConfig,
    transport: Transport,
    direction: Direction,
    streams: u32,
    size_bytes: u32,
    /// Ends the run, where there are any.
    bytes: u64,
    warmup: Nanos,
    duration: Nanos,
    interval: Nanos,
    rate_bits_per_s: u64,
    discard: bool,
    zero_copy: bool,
    zero_copy_auto: bool,
    /// What the server is asked to use.
    congestion: Option<String>,
    timeout: Nanos,
    limits: SessionLimits,
    turn: Nanos,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            wire: SimConfig { latency: MS, ..SimConfig::default() },
            transport: Transport::Tcp,
            direction: Direction::Up,
            streams: 1,
            size_bytes: 4 << 10,
            bytes: 0,
            warmup: ms(10),
            duration: ms(50),
            interval: ms(10),
            rate_bits_per_s: 0,
            discard: false,
            zero_copy: false,
            zero_copy_auto: false,
            congestion: None,
            timeout: secs(2),
            limits: FOR_EVER,
            turn: us(100),
        }
    }
}

impl Setup {
    fn spec(&self) -> BulkSpec {
        let by_time = self.bytes == 0;
        let warmup = if by_time { self.warmup } else { Nanos::ZERO };
        let mut ask = StreamAsk {
            warmup_ns: warmup.0,
            duration_ns: if by_time { self.duration.0 } else { 0 },
            bytes: self.bytes,
            interval_ns: self.interval.0,
            rate_bits_per_s: self.rate_bits_per_s,
            streams: self.streams,
            zero_copy: self.zero_copy,
            zero_copy_auto: self.zero_copy_auto,
            discard: self.discard,
            ..StreamAsk::default()
        };
        ask.socket.congestion.clone_from(&self.congestion);
        let hello = Hello {
            direction: self.direction,
            stream: Some(ask),
            ..hello(Test::Stream, self.transport, self.size_bytes, self.timeout)
        };
        BulkSpec {
            session: SessionSpec::new(listen(), hello, None, self.timeout, 11),
            options: Default::default(),
            streams: self.streams,
            first: 0,
            wakeup: Nanos::ZERO,
        }
    }

    fn started(&self) -> World {
        let mut world = World::new(self.wire, |net, clock| {
            SessionServer::new(net, clock, self.limits, 100, true)
        });
        world.turn = self.turn;
        world.add(|interrupt| BulkClient::new(self.spec(), Seen::default(), interrupt));
        world.started()
    }

    fn run(&self) -> Results {
        self.started().finish()
    }

    /// A run in which nothing goes wrong.
    #[track_caller]
    fn run_clean(&self) -> Results {
        let results = self.run();
        results.check_clean();
        results
    }
}

impl Party for BulkClient<Seen> {
    type Tally = BulkTally;
    // Over UDP a session stays for a second, for a client that has to ask again.
    const WATCHED: Nanos = ms(1_300);

    fn results(self) -> (BulkTally, Outcome, Seen) {
        self.into_results()
    }

    fn merge(all: &mut BulkTally, other: BulkTally) {
        all.merge(other);
    }

    fn check(_: &BulkTally, _: &Seen) {}
}

/// One direction of a stream: what each end says of it.
#[derive(Debug)]
struct Leg<'a> {
    sent: &'a Sent,
    received: &'a Received,
}

fn theirs(stream: &StreamAccount) -> &Figures {
    stream.theirs.as_ref().expect("the server's figures")
}

fn legs(stream: &StreamAccount) -> impl Iterator<Item = Leg<'_>> {
    let theirs = theirs(stream).stream.as_ref().expect("its account");
    let own = &stream.own;
    let pairs = [(&own.sent, &theirs.received), (&theirs.sent, &own.received)];
    pairs.into_iter().filter_map(|(sent, received)| {
        assert_eq!(sent.is_some(), received.is_some(), "both ends or neither");
        Some(Leg { sent: sent.as_ref()?, received: received.as_ref()? })
    })
}

impl Results {
    /// Nothing went wrong, and the server keeps nothing.
    #[track_caller]
    fn check_clean(&self) {
        assert!(self.outcome.failure.is_none(), "{:?}", self.outcome.failure);
        assert_eq!(self.tally.errors.total(), 0, "{:?}", self.tally.errors);
        assert!(!self.outcome.cut_short);
        assert_eq!(self.server.sessions(), 0, "the server keeps sessions");
        for stream in &self.tally.streams {
            assert_eq!(theirs(stream).cut_short, None);
            assert_eq!(theirs(stream).errors, []);
        }
    }

    /// All legs of all streams.
    fn legs(&self) -> Vec<Leg<'_>> {
        self.tally.streams.iter().flat_map(legs).collect()
    }

    /// The client's own accounts are of the ways that it was to send and receive.
    #[track_caller]
    fn assert_own(&self, direction: Direction) {
        for StreamAccount { own, .. } in &self.tally.streams {
            assert_eq!(own.sent.is_some(), direction.is_up(), "{direction:?}");
            assert_eq!(own.received.is_some(), direction.is_down(), "{direction:?}");
        }
    }
}
