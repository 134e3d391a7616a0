//! The same of bulk streams, whichever end sends.

use std::net::SocketAddr;

use tare_engine::bandwidth::client::{BulkClient, BulkSpec};
use tare_engine::worker::SessionSpec;
use tare_proto::hello::{Direction, Hello, Test};
use tare_proto::hello::{Transport, WaitMode};
use tare_proto::stream::{SocketOptions, StreamAsk};
use tare_units::Nanos;
use tare_units::control::Interrupt;

use super::{CLOSED, Kind, LENGTH, Progress, TIMEOUT, WAKEUP, WARMUP, check, epoll, if_uring};

#[derive(Debug, Clone, Copy)]
struct Bulk {
    transport: Transport,
    direction: Direction,
    size_bytes: u32,
    streams: u32,
    rate_bits_per_s: u64,
    zero_copy: bool,
    discard: bool,
    unit_bytes: u64,
}

const LARGE: Bulk = Bulk {
    transport: Transport::Tcp,
    direction: Direction::Up,
    size_bytes: 128 << 10,
    streams: 2,
    rate_bits_per_s: 0,
    zero_copy: false,
    discard: false,
    unit_bytes: 128 << 10,
};

const SMALL: Bulk = Bulk { size_bytes: 64, unit_bytes: 4 << 10, ..LARGE };

const DATAGRAMS: Bulk =
    Bulk { transport: Transport::Udp, size_bytes: 1200, unit_bytes: 1200, ..LARGE };

const CASES: &[Bulk] = &[
    LARGE,
    SMALL,
    DATAGRAMS,
    Bulk { rate_bits_per_s: 100_000_000, ..DATAGRAMS },
    Bulk { rate_bits_per_s: 100_000_000, size_bytes: 1000, unit_bytes: 1000, ..LARGE },
    Bulk { discard: true, ..LARGE },
];

const ZERO_COPY: Bulk = Bulk { zero_copy: true, ..LARGE };

/// Each of these in each direction.
fn every_way(cases: &[Bulk]) -> Vec<Bulk> {
    let ways = [Direction::Up, Direction::Down, Direction::Both];
    let cases = cases.iter();
    cases.flat_map(|case| ways.map(|direction| Bulk { direction, ..*case })).collect()
}

impl Kind for Bulk {
    type Client = BulkClient<Progress>;

    fn wait(&self) -> WaitMode {
        WaitMode::Block
    }

    /// A thousand of them take long enough for what is done now and then to be done as well.
    fn unit_bytes(&self) -> u64 {
        self.unit_bytes
    }

    fn client(&self, to: SocketAddr, progress: Progress) -> Self::Client {
        let ask = StreamAsk {
            warmup_ns: WARMUP.0,
            duration_ns: LENGTH.0,
            interval_ns: Nanos::from_millis(10).0,
            rate_bits_per_s: self.rate_bits_per_s,
            streams: self.streams,
            zero_copy: self.zero_copy,
            discard: self.discard,
            ..StreamAsk::default()
        };
        let hello = Hello {
            test: Test::Stream,
            transport: self.transport,
            direction: self.direction,
            size_bytes: u64::from(self.size_bytes),
            stream: Some(ask),
            ..CLOSED.hello()
        };
        let spec = BulkSpec {
            session: SessionSpec::new(to, hello, None, TIMEOUT, 1),
            options: SocketOptions::default(),
            streams: self.streams,
            first: 0,
            wakeup: WAKEUP,
        };
        BulkClient::new(spec, progress, Interrupt::default())
    }
}

#[test]
fn nothing_is_allocated_by_streams_on_epoll() {
    check(&every_way(CASES), epoll);
}

#[test]
fn nothing_is_allocated_by_streams_on_uring() {
    if_uring(|uring| check(&every_way(&[CASES, &[ZERO_COPY]].concat()), uring));
}
