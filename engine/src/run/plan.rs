//! What to do, validated: the command line becomes a plan, and everything after it only reads the plan.

mod compare;
pub(super) mod http;
mod observation;
pub mod secret;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::limits::HTTP_CONNECTIONS_MAX;
use crate::units::Nanos;
pub use crate::worker::server::http::Stall;

pub use super::hooks::HookSpec;
pub use crate::driver::BackendChoice;
use crate::driver::shown;
pub use crate::proto::auth::Secret;
pub use crate::proto::http1::request::{Body, Framing, RequestSpec};
pub use crate::proto::http1::status::StatusSet;
pub use crate::schedule::Arrivals;
pub use crate::worker::http::Late;
pub use compare::{ArmPlan, ComparePlan, Measurement};
pub use http::{HttpPlan, OpenLoop, Stage, Weighted};
pub(super) use observation::check as check_observations;
pub use observation::{Observable, Observation};

pub use crate::proto::hello::{Direction, Transport, WaitMode};
pub use crate::proto::stream::SocketOptions;

/// What to measure against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An embedded server of this process, over loopback, on a CPU of its own.
    Loopback,
    /// An embedded server in a network namespace made for the run, behind a veth pair.
    Veth,
    /// A server elsewhere: `HOST:PORT`, `[v6]:PORT`, or `HOST` with the default port.
    Host {
        /// The name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket; HTTP only.
    Unix(PathBuf),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Veth => f.write_str("veth"),
            Self::Host { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// When a step's measured phase ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// After that long.
    After(Nanos),
    /// After that many operations over all connections.
    Count(u64),
}

/// Options that every measuring command shares.
#[derive(Debug, Clone)]
pub struct Common {
    /// When a step ends.
    pub stop: Stop,
    /// Length of the warm-up.
    pub warmup: Nanos,
    /// Per operation, and for connecting and the handshake.
    pub timeout: Nanos,
    /// Workers asked for; by default one for `lat`.
    pub threads: Option<u32>,
    /// CPUs asked for, in the order given.
    pub cpus: Option<Vec<u32>>,
    /// How to wait; absent: the command's default.
    pub wait: Option<WaitMode>,
    /// The backend, at both ends.
    pub backend: BackendChoice,
    /// Quantiles to print, per cent.
    pub percentiles: Vec<f64>,
    /// The seed of everything random.
    pub seed: u64,
    /// Length of an entry of the time series.
    pub interval: Nanos,
    /// The user's label.
    pub label: Option<String>,
    /// The shared secret's bytes. Never printed.
    pub secret: Option<Secret>,
    /// Hold `/dev/cpu_dma_latency` at zero for the run.
    pub no_idle: bool,
    /// What was typed, for the report alone: secrets redacted already.
    pub command_line: Option<String>,
    /// Processes and control groups of this host to look at in every step.
    pub observe: Vec<Observation>,
}

impl Default for Common {
    /// Five seconds after half a second of warm-up, everything else as the machine allows.
    fn default() -> Self {
        Self {
            stop: Stop::After(Nanos::from_secs(5)),
            warmup: Nanos::from_millis(500),
            timeout: Nanos::from_secs(2),
            threads: None,
            cpus: None,
            wait: None,
            backend: BackendChoice::Auto,
            percentiles: crate::analysis::summary::PERCENTILES.to_vec(),
            seed: 0,
            interval: Nanos::from_secs(1),
            label: None,
            secret: None,
            no_idle: false,
            command_line: None,
            observe: Vec::new(),
        }
    }
}

impl LatPlan {
    /// One connection of 64-byte messages to `target` over TCP, in closed loop.
    #[must_use]
    pub fn to(target: Target) -> Self {
        Self {
            target,
            transport: Transport::Tcp,
            sizes: vec![64],
            connections: vec![1],
            connect_each: false,
            rate_per_s: None,
            server_delay: Nanos::ZERO,
            under_load: None,
            bind: None,
            common: Common::default(),
        }
    }
}

/// A ping-pong latency run.
#[derive(Debug, Clone)]
pub struct LatPlan {
    /// Against what.
    pub target: Target,
    /// Over what.
    pub transport: Transport,
    /// Message sizes, bytes, both ways: one step each.
    pub sizes: Vec<u32>,
    /// Concurrent ping-pongs: one step each (for each size).
    pub connections: Vec<u32>,
    /// A connection per operation (TCP only).
    pub connect_each: bool,
    /// Operations per second over all connections, on an open-loop schedule.
    pub rate_per_s: Option<f64>,
    /// The far end holds each reply that long, spinning.
    pub server_delay: Nanos,
    /// Each step is measured twice: idle, and while this goes over the same path.
    pub under_load: Option<Load>,
    /// The local address to send from, without a port.
    pub bind: Option<SocketAddr>,
    /// What every measuring command has.
    pub common: Common,
}

/// A bulk transfer beside a latency measurement.
#[derive(Debug, Clone)]
pub struct Load {
    /// Its options as typed.
    pub options: String,
    /// What they came to. Its target is that of the latency run, and how long it lasts follows from that.
    pub plan: Box<BwPlan>,
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
    /// Each step ends once so much payload has been moved over all streams, in each direction, bytes; then
    /// [`Common::stop`] and the warm-up do not count. [`Stop::Count`] counts sends, and ends likewise.
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
}

/// A far end.
#[derive(Debug, Clone)]
pub struct ServePlan {
    /// Addresses to listen on, TCP and UDP each.
    pub listen: Vec<SocketAddr>,
    /// `listen` was not given: `[::]` falls back to `0.0.0.0` where IPv6 is off.
    pub listen_is_default: bool,
    /// Stop after the first client's sessions are over.
    pub once: bool,
    /// Sessions at once.
    pub max_sessions: u32,
    /// Longest life of a session.
    pub max_duration: Nanos,
    /// A session, or a connection yet to say hello, without traffic for that long is closed.
    pub idle_timeout: Nanos,
    /// Spin for clients that ask for it even without a CPU to spare.
    pub allow_spin: bool,
    /// CPUs for session workers.
    pub cpus: Option<Vec<u32>>,
    /// Backends that clients may ask for.
    pub backend: BackendChoice,
    /// The shared secret that clients must prove to know.
    pub secret: Option<Secret>,
    /// How HTTP is served; not at all, without.
    pub http: Option<HttpServing>,
}

/// How a far end serves HTTP. None of it asks for the secret.
#[derive(Debug, Clone)]
pub struct HttpServing {
    /// How the HTTP worker waits. Spinning takes what sessions need for it.
    pub wait: WaitMode,
    /// Connections at once.
    pub max_connections: u32,
    /// Seeds what `/echo` leaves to chance.
    pub seed: u64,
    /// When the whole HTTP side does nothing, counted from its first request.
    pub stalls: Vec<Stall>,
}

impl Default for HttpServing {
    /// Blocking, as many connections as can be, no stall.
    fn default() -> Self {
        Self {
            wait: WaitMode::Block,
            max_connections: HTTP_CONNECTIONS_MAX,
            seed: 0,
            stalls: Vec::new(),
        }
    }
}

/// The plan as results carry it: defaults filled in, names resolved, and of a secret only that there is one.
#[must_use]
pub fn describe(plan: &LatPlan, addresses: &[impl ToString]) -> serde_json::Value {
    let mut described = describe_common(&plan.target, &plan.common, addresses);
    let own = serde_json::json!({
        "proto": plan.transport.name(),
        "sizes_bytes": plan.sizes,
        "connections": plan.connections,
        "connect_each": plan.connect_each,
        "rate_per_s": plan.rate_per_s,
        "server_delay_ns": plan.server_delay.0,
        "under_load": plan.under_load.as_ref().map(|load| load.options.as_str()),
        "bind": plan.bind.map(shown),
    });
    if let (Some(described), serde_json::Value::Object(own)) = (described.as_object_mut(), own) {
        described.extend(own);
    }
    described
}

/// What every plan says.
pub(super) fn describe_common(
    target: &Target,
    common: &Common,
    addresses: &[impl ToString],
) -> serde_json::Value {
    let (duration_ns, count) = match common.stop {
        Stop::After(duration) => (Some(duration.0), None),
        Stop::Count(count) => (None, Some(count)),
    };
    let backend = match common.backend {
        BackendChoice::Auto => "auto",
        BackendChoice::Only(backend) => backend.name(),
    };
    let observe = common.observe.iter();
    let observe =
        observe.map(|one| serde_json::json!({"name": one.name, "what": one.what.to_string()}));
    serde_json::json!({
        "command_line": common.command_line,
        "target": target.to_string(),
        "addresses": addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "duration_ns": duration_ns,
        "count": count,
        "warmup_ns": common.warmup.0,
        "timeout_ns": common.timeout.0,
        "threads": common.threads,
        "cpus": common.cpus,
        "wait": common.wait.map(WaitMode::name),
        "backend": backend,
        "percentiles": common.percentiles,
        "interval_ns": common.interval.0,
        "label": common.label,
        "secret": common.secret.is_some(),
        "no_idle": common.no_idle,
        "observe": observe.collect::<Vec<_>>(),
    })
}
