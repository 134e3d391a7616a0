//! The plan of a bandwidth run.

use std::net::SocketAddr;

use tare_driver::shown;
use tare_proto::hello::{Direction, Transport};
use tare_proto::stream::{SocketOptions, StreamAsk};
use tare_stats::result::{BulkParams, Params};
use tare_units::Nanos;
use tare_units::target::Target;

use crate::run::plan::{Common, Stop};
use crate::run::sweep::Step;
use crate::worker::destination::Destination;

/// A bulk bandwidth run.
#[derive(Debug, Clone)]
pub struct BwPlan {
    /// Against what.
    pub target: Target,
    /// Over what.
    pub transport: Transport,
    /// Bytes per send: one step each. Over UDP the size of a datagram's payload, header included.
    pub sizes: Vec<u32>,
    /// Concurrent streams: one step each (for each size).
    pub streams: Vec<u32>,
    /// Which way.
    pub direction: Direction,
    /// Payload over all streams, in each direction, bits per second; absent: as fast as it goes.
    pub rate_bits_per_s: Option<f64>,
    /// Each step ends once so much payload has been moved over all streams, in each direction,
    /// bytes; then [`Common::stop`] and the warm-up do not count. [`Stop::Count`] counts sends, and
    /// ends likewise.
    pub bytes: Option<u64>,
    /// How to send.
    pub zero_copy: ZeroCopy,
    /// How to receive.
    pub sink: Sink,
    /// Options of the sockets at both ends.
    pub socket: SocketOptions,
    /// The local address to send from, without a port.
    pub bind: Option<SocketAddr>,
    /// What every measuring command has.
    pub common: Common,
}

impl BwPlan {
    /// One TCP stream to `target`, upwards, in sends of 128 KiB.
    #[must_use]
    pub fn to(target: Target) -> Self {
        Self {
            target,
            transport: Transport::Tcp,
            sizes: vec![128 << 10],
            streams: vec![1],
            direction: Direction::Up,
            rate_bits_per_s: None,
            bytes: None,
            zero_copy: ZeroCopy::Auto,
            sink: Sink::Copy,
            socket: SocketOptions::default(),
            bind: None,
            common: Common::default(),
        }
    }

    /// Payload of a step of sends of `size`, where bytes end it, in each direction; else zero.
    pub(super) fn bytes_of(&self, size: u32) -> u64 {
        match (self.bytes, self.common.stop) {
            (Some(bytes), _) => bytes,
            (None, Stop::Count(count)) => count.saturating_mul(u64::from(size)),
            (None, Stop::After(_)) => 0,
        }
    }

    /// The warm-up and the length of the measured phase of a step; without where bytes end it.
    pub(super) fn times_of(&self, size: u32) -> (Nanos, Option<Nanos>) {
        match self.common.stop {
            Stop::After(duration) if self.bytes_of(size) == 0 => {
                (self.common.warmup, Some(duration))
            }
            _ => (Nanos::ZERO, None),
        }
    }

    /// What the streams of a step ask of the server, but for each one's own share.
    pub(super) fn ask(&self, step: Step) -> StreamAsk {
        let (warmup, duration) = self.times_of(step.size);
        StreamAsk {
            warmup_ns: warmup.0,
            duration_ns: duration.map_or(0, |d| d.0),
            bytes: self.bytes_of(step.size),
            interval_ns: self.common.interval.0,
            rate_bits_per_s: self.rate_bits_per_s.map_or(0, |rate| rate as u64),
            stream: 0,
            streams: step.connections,
            zero_copy: self.zero_copy == ZeroCopy::On,
            zero_copy_auto: self.zero_copy == ZeroCopy::Auto,
            discard: self.sink == Sink::Discard,
            socket: self.socket.clone(),
        }
    }
}

pub(super) fn describe(plan: &BwPlan) -> serde_json::Value {
    serde_json::json!({
        "proto": plan.transport.name(),
        "sizes_bytes": plan.sizes,
        "streams": plan.streams,
        "direction": plan.direction.name(),
        "rate_bits_per_s": plan.rate_bits_per_s,
        "bytes": plan.bytes,
        "zero_copy": plan.zero_copy.name(),
        "sink": plan.sink.name(),
        "socket": plan.socket,
        "bind": plan.bind.map(shown),
    })
}

pub(super) fn params(plan: &BwPlan, step: Step, address: &Destination) -> Params {
    let bytes = plan.bytes_of(step.size);
    Params {
        proto: plan.transport.name().to_owned(),
        size_bytes: u64::from(step.size),
        connections: step.connections,
        timeout_ns: plan.common.timeout.0,
        target: plan.target.to_string(),
        address: Some(address.to_string()),
        bulk: Some(BulkParams {
            direction: plan.direction.name().to_owned(),
            rate_bits_per_s: plan.rate_bits_per_s,
            bytes: (bytes > 0).then_some(bytes),
            zero_copy: plan.zero_copy.name().to_owned(),
            sink: plan.sink.name().to_owned(),
            bind: plan.bind.map(shown),
            ..plan.socket.to_params()
        }),
        ..Params::default()
    }
}

/// Whether sends go from the buffer itself (`MSG_ZEROCOPY` by io_uring's `SEND_ZC`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroCopy {
    /// Where it pays: tried during the warm-up, and given up where the kernel copies all the same.
    #[default]
    Auto,
    /// Always, and the share that the kernel copied is told.
    On,
    /// Never.
    Off,
}

impl ZeroCopy {
    /// The name in flags and results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// What receivers of a TCP stream do with the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sink {
    /// Have it copied into a buffer, as any application.
    #[default]
    Copy,
    /// Have the kernel throw it away (`MSG_TRUNC`, tcp(7)): shows what the copy costs.
    Discard,
}

impl Sink {
    /// The name in flags and results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Discard => "discard",
        }
    }
}
