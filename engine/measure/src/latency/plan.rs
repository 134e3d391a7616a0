//! The plan of a latency run.

use std::net::SocketAddr;

use tare_driver::shown;
use tare_driver::sys::option;
use tare_proto::hello::Transport;
use tare_stats::result::Params;
use tare_units::Nanos;
use tare_units::target::Target;

use crate::bandwidth::plan::BwPlan;
use crate::run::plan::Common;
use crate::run::sweep::Step;
use crate::worker::destination::Destination;

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
    /// The server holds each reply that long, spinning.
    pub server_delay: Nanos,
    /// Each step is measured twice: idle, and while this goes over the same path.
    pub under_load: Option<Load>,
    /// The local address to send from, without a port.
    pub bind: Option<SocketAddr>,
    /// What every measuring command has.
    pub common: Common,
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

    /// What goes over the same path beside each step's second measurement.
    pub(super) const fn load(&self) -> Option<&Load> {
        self.under_load.as_ref()
    }

    pub(crate) const fn load_mut(&mut self) -> &mut Option<Load> {
        &mut self.under_load
    }
}

/// A bulk transfer beside a latency measurement.
#[derive(Debug, Clone)]
pub struct Load {
    /// Its options as typed.
    pub options: String,
    /// What they came to. Its target is that of the latency run, and how long it lasts follows from
    /// that.
    pub plan: Box<BwPlan>,
}

pub(super) fn describe(plan: &LatPlan) -> serde_json::Value {
    serde_json::json!({
        "proto": plan.transport.name(),
        "sizes_bytes": plan.sizes,
        "connections": plan.connections,
        "connect_each": plan.connect_each,
        "rate_per_s": plan.rate_per_s,
        "server_delay_ns": plan.server_delay.0,
        "under_load": plan.load().map(|load| load.options.as_str()),
        "bind": plan.bind.map(shown),
    })
}

pub(super) fn params(plan: &LatPlan, step: Step, address: &Destination) -> Params {
    let load = plan.load().filter(|_| step.loaded);
    let path = match address {
        Destination::Tcp(to) if plan.transport == Transport::Udp => option::path_mtu_to(*to),
        _ => None,
    };
    Params {
        proto: plan.transport.name().to_owned(),
        size_bytes: u64::from(step.size),
        connections: step.connections,
        connect_each: Some(plan.connect_each),
        rate_per_s: plan.rate_per_s,
        server_delay_ns: Some(plan.server_delay.0),
        timeout_ns: plan.common.timeout.0,
        target: plan.target.to_string(),
        address: Some(address.to_string()),
        path_mtu_bytes: path.map(|path| path.bytes),
        fragments_per_datagram: path.map(|path| path.fragments(step.size)),
        under_load: load.map(|load| load.options.clone()),
        ..Params::default()
    }
}
