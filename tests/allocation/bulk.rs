//! The same of bulk streams, whichever end sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tare_engine::bandwidth::client::{BulkClient, BulkSpec};
use tare_engine::worker::{ProgressSink, SessionSpec};
use tare_proto::hello::{Direction, Hello, Test};
use tare_proto::hello::{Transport, WaitMode};
use tare_proto::stream::{SocketOptions, StreamAsk};
use tare_units::Nanos;
use tare_units::control::{Interrupt, Phase};

use super::{CLOSED, Kind, Shared, check_on_epoll, check_on_uring};

/// Shows the client's progress to the server's thread, in units of so many bytes: a thousand of
/// them take long enough for what is done now and then to be done as well.
pub(super) struct Moved {
    shared: Arc<Shared>,
    unit_bytes: u64,
}

impl ProgressSink for Moved {
    fn phase(&mut self, _: Phase) {}

    fn counts(&mut self, bytes: u64, _: u64) {
        let units = bytes / self.unit_bytes;
        self.shared.completed.store(units, Ordering::Relaxed);
    }

    fn measure_begins(&mut self) {
        self.shared.measuring.store(true, Ordering::Relaxed);
    }

    fn measure_ends(&mut self) {
        self.shared.measuring.store(false, Ordering::Relaxed);
    }
}

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

const ZERO_COPY: &[Bulk] = &[Bulk { zero_copy: true, ..LARGE }];

/// Each of these in each direction.
fn every_way(cases: &[Bulk]) -> Vec<Bulk> {
    let ways = [Direction::Up, Direction::Down, Direction::Both];
    let cases = cases.iter();
    cases.flat_map(|case| ways.map(|direction| Bulk { direction, ..*case })).collect()
}

impl Kind for Bulk {
    type Client = BulkClient<Moved>;

    fn wait(&self) -> WaitMode {
        WaitMode::Block
    }

    fn client(&self, to: SocketAddr, shared: &Arc<Shared>) -> Self::Client {
        let warmup = Nanos::from_millis(50);
        let duration = Nanos::from_secs(60);
        let ask = StreamAsk {
            warmup_ns: warmup.0,
            duration_ns: duration.0,
            bytes: 0,
            interval_ns: Nanos::from_millis(10).0,
            rate_bits_per_s: self.rate_bits_per_s,
            stream: 0,
            streams: self.streams,
            zero_copy: self.zero_copy,
            zero_copy_auto: false,
            discard: self.discard,
            socket: SocketOptions::default(),
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
            session: SessionSpec::new(to, hello, None, Nanos::from_secs(10), 1),
            options: SocketOptions::default(),
            streams: self.streams,
            first: 0,
            wakeup: Nanos::from_micros(50),
        };
        let gauge = Moved { shared: Arc::clone(shared), unit_bytes: self.unit_bytes };
        BulkClient::new(spec, gauge, Interrupt::default())
    }
}

#[test]
fn nothing_is_allocated_by_streams_on_epoll() {
    check_on_epoll(&every_way(CASES));
}

#[test]
fn nothing_is_allocated_by_streams_on_uring() {
    check_on_uring(&every_way(CASES));
    check_on_uring(&every_way(ZERO_COPY));
}
